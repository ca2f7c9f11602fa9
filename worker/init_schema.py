"""What the fields of an event are for: its key, its id, its time, and the numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from schemas.schema import Schema
from worker.cross_checks import KEY_TYPES, NUMERIC, TIME_TYPES, avro_kind

Ask = Callable[[str, Sequence[str]], str | None]  # question and choices to one of them; None: nobody is there

_TIME_NAMES: Final = ("event_time", "timestamp", "time", "ts", "at", "datetime", "occurred_at", "created_at")
_ID_NAMES: Final = ("event_id", "id", "uuid", "message_id", "record_id")
_KEY_NAMES: Final = (
    "key",
    "entity_id",
    "entity",
    "account",
    "customer",
    "machine",
    "device",
    "sensor",
    "unit",
)


class InitError(ValueError):
    """What cannot be written, and which argument says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which field is what, each with the reason in a few words."""

    key: str
    event_id: str
    event_time: str
    numbers: tuple[str, ...]  # the other fields that features can be, in the order of the schema
    nullable: frozenset[str]  # of these, those that may be null
    why: Mapping[str, str]  # key, event_id, event_time


def roles_of(
    schema: Schema,
    ask: Ask,
    *,
    key: str | None = None,
    event_id: str | None = None,
    event_time: str | None = None,
) -> Roles:
    """Find out what each field is for, by type first and by name where several have the type.

    Args:
        schema: of the event.
        ask: where nothing decides.
        key, event_id, event_time: what somebody has said.

    Raises:
        InitError: nothing decides and nobody is there to ask, or no field can be it.
    """
    declared = {field["name"]: field["type"] for field in schema.json["fields"]}
    kinds = {name: avro_kind(avro) for name, avro in declared.items()}
    nullable = {name for name, avro in declared.items() if isinstance(avro, list)}
    firm = {name: kind for name, kind in kinds.items() if name not in nullable}

    times = [name for name, kind in firm.items() if kind in TIME_TYPES]
    stamps = [name for name in times if firm[name] != "long"]
    likely = [name for name in times if name.lower() in _TIME_NAMES]
    time = _chosen(
        "event_time", "the event's time", event_time, times,
        ((stamps, "its only timestamp"), (_best(stamps or times, likely, _TIME_NAMES), "its name")), ask,
    )  # fmt: skip

    names = [name for name, kind in firm.items() if kind in KEY_TYPES and name != time[0]]
    words = _words(schema.name.rpartition(".")[2])
    own = [
        name for name in names if re.fullmatch(r"(.+)_(id|uuid|number)", _snake(name)) and _is_of(name, words)
    ]
    # Without a name that says so, nothing tells an id from a key.
    event = _chosen(
        "event_id", "the event's own id, never the same twice", event_id,
        [name for name in names if name != key],
        ((_best(names, names, _ID_NAMES), "its name"), (own, "it is named like the record")), ask,
    )  # fmt: skip

    left = [name for name in names if name != event[0]]
    texts = [name for name in left if firm[name] == "string"]
    ids = [name for name in left if _snake(name).endswith(("_id", "_key"))]
    entity = _chosen(
        "key", "the record key, whose past counts", key, left,
        (
            (texts, "the only other text"), (ids, "the only other id"),
            (_best(left, left, _KEY_NAMES), "its name"),
            ([name for name in texts if name in ids], "the only text that is an id"),
        ), ask,
    )  # fmt: skip
    taken = {entity[0], event[0], time[0]}
    numbers = tuple(name for name, kind in kinds.items() if kind in NUMERIC and name not in taken)
    return Roles(
        key=entity[0],
        event_id=event[0],
        event_time=time[0],
        numbers=numbers,
        nullable=frozenset(nullable & set(numbers)),
        why={"key": entity[1], "event_id": event[1], "event_time": time[1]},
    )


def _chosen(
    role: str,
    meaning: str,
    said: str | None,
    able: Sequence[str],
    rules: Sequence[tuple[Sequence[str], str]],
    ask: Ask,
) -> tuple[str, str]:
    """The field of a role and why: what was said, what a rule leaves as the only one, or what is answered."""
    option = f"--{role.replace('_', '-')}"
    if said is not None:
        if said not in able:
            raise InitError(f"{option}: found {said!r}, expected {_one_of(able)}")
        return said, "as you said"
    for found, why in rules:
        if len(found) == 1:
            return found[0], why
    if len(able) > 1 or (able and role != "event_id"):  # one field alone is the key
        answer = ask(f"Which field is {meaning}?", able)
        if answer is not None:
            return answer, "as you said"
        raise InitError(f"cannot tell which field is {meaning}: say {option} {'|'.join(able)}")
    if able:
        raise InitError(
            f"found no field that is {meaning}, but {able[0]}: {_MISSING[role]}; or say {option} {able[0]}"
        )
    raise InitError(f"found no field that can be {meaning}: {_MISSING[role]}")


_MISSING: Final = {
    "key": "add one of type string, int or long that is never null, such as "
    '{"name": "machine", "type": "string"}',
    "event_id": "add one of type string, int or long that is never null and never the same twice, such as "
    '{"name": "event_id", "type": "string"}',
    "event_time": 'add one, such as {"name": "event_time", "type": {"type": "long", "logicalType": '
    '"timestamp-millis"}}',
}  # fmt: skip


def _best(names: Sequence[str], among: Sequence[str], order: Sequence[str]) -> list[str]:
    """The name that comes first in an order of preference."""
    found = [name for wanted in order for name in names if name in among and _snake(name) == wanted]
    return found[:1]


def _one_of(able: Sequence[str]) -> str:
    return f"one of {', '.join(able)}" if able else "nothing: no field has a type for it"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _words(name: str) -> list[str]:
    return _snake(name).split("_")


def _is_of(field: str, record: Sequence[str]) -> bool:
    """Whether `reading_id` is an id of a `PumpReading`: the words before `id` end the record's name."""
    stem = _snake(field).split("_")[:-1]
    return list(record[-len(stem) :]) == stem
