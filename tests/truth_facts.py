"""Facts about events for the tests of the truth, and the slow, obvious count of them."""

from __future__ import annotations

from collections import Counter
from zlib import crc32

from hypothesis import strategies as st

from feature_cache.cases import Fact

LATER_MS = 4_102_444_800_000  # 2100
EVENTS = ["e", "f", "ö|:} ", "", "g"]


def score(
    event: str,
    *,
    at: int = 1,
    place: tuple[int, int] = (0, 0),
    expires_ms: int = LATER_MS,
    bucket: int = 7,
    version: str = "v1",
    segment: str = "-",
    cell: str = "5.1.3",
    micro: int = 300_000,
) -> Fact:
    """A score."""
    _, level, tenth = cell.split(".")
    whose = f"{bucket} {version} {segment}"
    text = f"s {at} {place[0]} {place[1]} {expires_ms} {whose} {cell} {tenth} {micro} {level}"
    return Fact(event.encode(), text)


def alert(
    event: str,
    *,
    at: int = 1,
    place: tuple[int, int] = (0, 0),
    expires_ms: int = LATER_MS,
    level: int = 1,
    value: int | str = "-",
) -> Fact:
    """An alert."""
    return Fact(event.encode(), f"a {at} {place[0]} {place[1]} {expires_ms} {level} {value}")


def label(
    event: str,
    truth: int,
    *,
    at: int = 1,
    place: tuple[int, int] = (0, 0),
    expires_ms: int = LATER_MS,
    segment: str = "-",
    value: int | str = "-",
) -> Fact:
    """A label."""
    return Fact(event.encode(), f"l {at} {place[0]} {place[1]} {expires_ms} {truth} {segment} {value}")


_TIMES = st.integers(1, 3)
_PLACES = st.tuples(st.integers(0, 1), st.integers(0, 10))
_SEGMENTS = st.sampled_from(["-", "web", "pos"])
_VALUES = st.sampled_from(["-", -5, 12_345, 10**12])
# Two records of one kind never have the same place; where they do here they are the same record.
_DIGITS = st.integers(0, 3)


@st.composite
def _facts(draw: st.DrawFn) -> Fact:
    event, at, place, kind = draw(st.sampled_from(EVENTS)), draw(_TIMES), draw(_PLACES), draw(_DIGITS)
    n = crc32(repr((event, at, place)).encode()) % 97  # what a record says is a function of which it is
    segment, value = ("-", "web", "pos")[n % 3], ("-", -5, 12_345, 10**12)[n % 4]
    if kind == 0:
        return label(event, n % 2, at=at, place=place, segment=segment, value=value)
    if kind == 1:
        return alert(event, at=at, place=place, level=1 + n % 2, value=value)
    cell = ("5.1.3", "-7.0.-1", "900.2.9")[n % 3]
    fact = score(event, at=at, place=place, bucket=n % 4, version=f"v{n % 2}", segment=segment, cell=cell)
    return Fact(fact.event_id, fact.text.replace(" -1 300000", " - 300000"))


FACTS = _facts()


def counts_of(facts: list[Fact]) -> dict[int, dict[str, int]]:
    """What is counted of these facts, by bucket: the newest of each kind for each event, one by one."""
    newest: dict[tuple[bytes, str], list[str]] = {}
    for event, text in facts:
        kind, *words = text.split(" ")
        known = newest.get((event, kind))
        if known is None or tuple(map(int, words[:3])) > tuple(map(int, known[:3])):
            newest[event, kind] = words
    buckets: dict[int, Counter[str]] = {}
    for (event, kind), words in newest.items():
        if kind != "s":
            continue
        bucket, version, segment, cell, tenth, micro, level = words[4:]
        found_label, found_alert = newest.get((event, "l")), newest.get((event, "a"))
        truth, value = "n", "-"
        if found_alert is not None:
            value = found_alert[5]
        if found_label is not None:
            truth = found_label[4]
            segment = found_label[5] if found_label[5] != "-" else segment
            value = found_label[6] if found_label[6] != "-" else value
        cells = buckets.setdefault(int(bucket), Counter())
        cells[f"{version} {segment} n {cell} {truth}"] += 1
        if tenth != "-":
            cells[f"{version} {segment} s {tenth} {truth}"] += int(micro)
        if value != "-":
            cells[f"{version} {segment} v {level} {truth}"] += int(value)
        if found_alert is not None:
            cells[f"{version} {segment} a {found_alert[4]} {truth}"] += 1
    return {
        bucket: kept for bucket, cells in buckets.items() if (kept := {k: n for k, n in cells.items() if n})
    }
