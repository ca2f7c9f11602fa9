"""Each feature of a pipeline as a sentence about its value, planned once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pyarrow as pa

from feature_cache.layout import WindowGroup
from schemas.schema import Schema, load_schema
from worker.config import CalendarFeature
from worker.key_types import UNITS_US
from worker.plan import FeaturePlan

Sentence = Callable[[float, float], str]  # of a value, and of what it is compared with where that varies
Said = Callable[[float], str]
Phrases = tuple[Said, Said]  # of the event's value, and of the usual one

_UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day"}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def sentences(plan: FeaturePlan, schema: Schema, usual: Mapping[str, float]) -> dict[str, Sentence]:
    """One for every scalar column by name, and for every channel of a sequence as `SEQUENCE.FIELD`.

    Args:
        schema: of the pipeline's events.
        usual: what is usual, by the same names; without it a sentence says the value alone.
    """
    return {
        name: _sentence(said, of_usual, usual.get(name))
        for name, (said, of_usual) in _phrases(plan, schema).items()
    }


def _sentence(said: Said, of_usual: Said, usual: float | None) -> Sentence:
    end = "" if usual is None else f"; usually {of_usual(usual)}"
    return lambda value, _: said(value) + end


def _phrases(plan: FeaturePlan, schema: Schema) -> dict[str, Phrases]:
    found: dict[str, Phrases] = {}
    for column, field in plan.fields:
        name = plan.names[column]
        found[name] = _yes_no(name) if _is_boolean(schema, field) else _is(name)
    for column, calendar in plan.calendars:
        found[plan.names[column]] = _calendar(plan.names[column], calendar)
    for _, group, over in plan.windows:
        found |= _windows(group.name, "", group, noun(schema.name), over, _is_boolean(schema, over))
    for lookup in plan.lookups:
        owner = load_schema(lookup.owner.source.schema_ref, lookup.owner.base)
        prefix = plan.names[lookup.column].partition(".")[0]
        over = lookup.group.over
        found |= _windows(
            prefix, f"{prefix}: ", lookup.group, noun(owner.name), over, _is_boolean(owner, over)
        )
    for sequence in plan.sequences:
        found |= {f"{sequence.name}.{field}": _is(field) for field in sequence.fields}
    for name in plan.names:
        found.setdefault(name, _is(name.replace(".", " ")))  # profiles
    return found


def in_sequence(field: str, length: int) -> Sentence:
    """Of a channel that is compared with how the same sequence began."""

    def sentence(value: float, first: float) -> str:
        before, now = number(first), number(value)
        if before == now:  # engines turn at 2388.06 instead of 2388.01
            before, now = f"{first:.8g}", f"{value:.8g}"
        return f"{field} went from {before} to {now} within {length} readings"

    return sentence


def noun(record_name: str) -> str:
    """What to call one event: `penstock.CardPayment` is a card payment."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", record_name.rpartition(".")[2])
    return " ".join(words).lower() or "event"


def plural(word: str) -> str:
    """Return the word for several: transactions, batches, entries."""
    if word.endswith(("s", "x", "ch", "sh")):
        return f"{word}es"
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return f"{word[:-1]}ies"
    return f"{word}s"


def number(value: float) -> str:
    """Four digits, or all before the point."""
    if 1e4 <= abs(value) < 1e12:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _last(label: str) -> str:
    """`7d` is the last 7 days."""
    count, unit = label[:-1], _UNITS.get(label[-1])
    if unit is None or not count.isdigit():
        return f"the last {label}"
    return f"the last {unit}" if int(count) == 1 else f"the last {count} {unit}s"


def _duration(seconds: float) -> str:
    for unit in ("d", "h", "m"):
        in_unit = seconds * UNITS_US["s"] / UNITS_US[unit]
        if abs(in_unit) >= 1:
            return f"{in_unit:.3g} {'min' if unit == 'm' else unit}"
    return f"{seconds:.3g} s"


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


def _is(name: str) -> Phrases:
    return (lambda value: f"{name} is {number(value)}", number)


def _yes_no(name: str) -> Phrases:
    def word(value: float) -> str:
        return "true" if value else "false"

    return (lambda value: f"{name} is {word(value)}", word)


def _calendar(name: str, feature: CalendarFeature) -> Phrases:
    if feature.number == "weekday":

        def day(value: float) -> str:
            return f"on a {_DAYS[int(value) % 7]}"

        return (day, day)
    if feature.number == "hour":

        def hour(value: float) -> str:
            return f"in the hour from {int(value):02}:00 UTC"

        return (hour, hour)
    when = "at the weekend (UTC)"
    if feature.hours is not None:
        when = f"between {feature.hours[0]:02}:00 and {feature.hours[1]:02}:00 UTC"
        when = f"at night, {when}" if name == "night" else when

    def part(value: float) -> str:
        return when if value else f"not {when}"

    def usually(value: float) -> str:
        return "then" if value else "not"

    return (part, usually)


def _windows(
    name: str, prefix: str, group: WindowGroup, one: str, over: str, is_boolean: bool
) -> dict[str, Phrases]:
    found = {}
    for label in group.window_labels:
        for aggregate in group.aggregates:
            sentence = _window(aggregate, prefix, one, over, _last(label), is_boolean)
            found[f"{name}.{aggregate}_{label}"] = sentence
    return found


def _window(aggregate: str, prefix: str, one: str, over: str, last: str, is_boolean: bool) -> Phrases:
    several = plural(one)
    if aggregate == "count":
        return (lambda value: f"{prefix}{number(value)} {one if value == 1 else several} in {last}", number)
    if aggregate == "since_last":
        return (lambda value: f"{prefix}{_duration(value)} since the {one} before", _duration)
    if aggregate == "mean" and is_boolean:
        return (lambda value: f"{prefix}{over} in {_share(value)} of the {several} in {last}", _share)
    if aggregate == "distinct":
        return (lambda value: f"{prefix}{number(value)} different values of {over} in {last}", number)
    what = {
        "sum": f"total {over} in {last}",
        "mean": f"mean {over} in {last}",
        "min": f"lowest {over} in {last}",
        "max": f"highest {over} in {last}",
        "std": f"standard deviation of {over} in {last}",
        "last": f"{over} of the {one} before",
    }[aggregate]
    return (lambda value: f"{prefix}{what} is {number(value)}", number)


def _is_boolean(schema: Schema, field: str) -> bool:
    at = schema.arrow.get_field_index(field)
    return at >= 0 and bool(pa.types.is_boolean(schema.arrow.field(at).type))
