"""What is known of each event (its score, its alert, its label), joined by id and counted; the one in memory.

A case is the three facts of one event. What a case adds to the counts is a function of its facts alone, and a
fact replaces another of its kind only when it is newer. So the counts are a function of the facts that were
given, in whatever order, however often; docs/truth.md says why.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

SHARDS = 16  # the cases of a shard, their counts and its marks are changed together: in a cluster, one slot
KINDS = "sal"  # score, alert, label: the order of the facts in a stored case
NONE = "-"  # a value or segment that is not given
UNKNOWN = "n"  # in a count's name: the label is not known; else 0 or 1
LARGEST = 10**12  # of a value in thousandths: sums of a call stay exact in a float64, which Lua counts in


class Fact(NamedTuple):
    """One record's word on one event: `KIND TIME PARTITION OFFSET EXPIRES_MS` and, by kind,

    - s: `BUCKET VERSION SEGMENT CELL TENTH SCORE_E6 LEVEL`
    - a: `LEVEL VALUE`
    - l: `LABEL SEGMENT VALUE`

    TIME, PARTITION and OFFSET say which of two facts of a kind is newer. From EXPIRES_MS (wall clock) on it
    is not taken any more. LABEL is 0 or 1, VALUE is in thousandths; CELL, TENTH and LEVEL are opaque here.
    """

    event_id: bytes
    text: str


class Mark(NamedTuple):
    """How far a shard has seen a partition."""

    name: str  # of the partition
    known: int  # all before this offset was given to the shard, or so the caller believes
    next_offset: int  # all before this is given, with the facts that come along


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of facts."""

    joined: int = 0  # the event now has a score and a label
    waiting: int = 0  # one of them is still missing
    repeated: int = 0  # no newer than what was known
    expired: int = 0  # too old to be taken


Cells = dict[str, int]  # `VERSION SEGMENT COUNT N LABEL` to a number; see `contribution`


class Cases(Protocol):
    """Cases by event id. Every call may raise StoreUnavailableError or StoreRefusedError."""

    def apply(self, shard: int, marks: Sequence[Mark], facts: Sequence[Fact]) -> Applied | None:
        """Take facts of one shard and move its marks, both or neither.

        Returns:
            None, and nothing has changed: the shard has seen less of a partition than `known` says, so it
            has lost something since.
        """

    def marks(self, names: Sequence[str]) -> list[list[int | None]]:
        """Of each partition (SHARDS,) the next offset that a shard has not seen; None: it knows nothing."""

    def begin(self, name: str, offset: int) -> None:
        """Let the partition begin here in every shard that knows nothing of it."""

    def newest(self) -> int | None:
        """The newest bucket in which anything was counted."""

    def cells(self, buckets: Sequence[int]) -> dict[int, Cells]:
        """What was counted in these buckets, those without anything left out."""


def shard_of(event_id: bytes) -> int:
    """Which shard has an event."""
    return zlib.crc32(event_id) % SHARDS


def contribution(facts: Mapping[str, str]) -> tuple[int, Cells] | None:
    """What a case adds to which bucket; None without a score.

    One to its score's cell (`n`), the score to the sum of its tenth (`s`), its value to that of its score's
    level (`v`), and one to the level of its alert (`a`); each under its version, segment and label.
    """
    if "s" not in facts:
        return None
    bucket, version, segment, cell, tenth, score_e6, level = facts["s"].split(" ")[4:]
    label, of_label, value = facts["l"].split(" ")[4:] if "l" in facts else (UNKNOWN, NONE, NONE)
    alerted, of_alert = facts["a"].split(" ")[4:] if "a" in facts else (NONE, NONE)
    group = f"{version} {of_label if of_label != NONE else segment}"
    added = {f"{group} n {cell} {label}": 1}
    if tenth != NONE:
        added[f"{group} s {tenth} {label}"] = int(score_e6)
    if (value := value if value != NONE else of_alert) != NONE:
        added[f"{group} v {level} {label}"] = int(value)
    if alerted != NONE:
        added[f"{group} a {alerted} {label}"] = 1
    return int(bucket), added


@dataclass(slots=True)
class _Case:
    facts: dict[str, str] = field(default_factory=dict)
    expires_ms: int = 0


def _place(fact: str) -> list[int]:
    return list(map(int, fact.split(" ", 3)[:3]))


class MemoryCases:
    """Cases in this process; gone when it ends, and read again from their topics when it begins."""

    def __init__(self, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._marks: list[dict[str, int]] = [{} for _ in range(SHARDS)]
        self._cases: dict[bytes, _Case] = {}
        self._cells: dict[int, Counter[str]] = {}
        self._swept_ms = now_ms()

    def apply(self, shard: int, marks: Sequence[Mark], facts: Sequence[Fact]) -> Applied | None:
        with self._lock:
            stored = self._marks[shard]
            if any(stored.get(mark.name, -1) < mark.known for mark in marks):
                return None
            self._sweep()
            done = Counter(map(self._take, facts))
            for mark in marks:
                stored[mark.name] = max(stored[mark.name], mark.next_offset)
            return Applied(**done)

    def _take(self, fact: Fact) -> str:
        kind, text = fact.text.split(" ", 1)
        expires_ms = int(text.split(" ", 4)[3])
        if expires_ms <= self._now_ms():
            return "expired"
        case = self._cases.get(fact.event_id)
        if case is None or case.expires_ms <= self._now_ms():
            case = self._cases[fact.event_id] = _Case()
        if kind in case.facts and _place(case.facts[kind]) >= _place(text):
            return "repeated"
        self._count(contribution(case.facts), -1)
        case.facts[kind] = text
        case.expires_ms = max(case.expires_ms, expires_ms)
        self._count(contribution(case.facts), 1)
        return "joined" if {"s", "l"} <= case.facts.keys() else "waiting"

    def _count(self, added: tuple[int, Cells] | None, times: int) -> None:
        if added is not None:
            cells = self._cells.setdefault(added[0], Counter())
            for name, number in added[1].items():
                cells[name] += times * number

    def _sweep(self) -> None:
        """Forget expired cases, once a minute: what they counted stays."""
        now_ms = self._now_ms()
        if now_ms - self._swept_ms > 60_000:
            self._swept_ms = now_ms
            self._cases = {name: case for name, case in self._cases.items() if case.expires_ms > now_ms}

    def marks(self, names: Sequence[str]) -> list[list[int | None]]:
        with self._lock:
            return [[stored.get(name) for stored in self._marks] for name in names]

    def begin(self, name: str, offset: int) -> None:
        with self._lock:
            for stored in self._marks:
                stored.setdefault(name, offset)

    def newest(self) -> int | None:
        with self._lock:
            return max(self._cells, default=None)

    def cells(self, buckets: Sequence[int]) -> dict[int, Cells]:
        with self._lock:
            return {
                bucket: {name: number for name, number in self._cells[bucket].items() if number}
                for bucket in buckets
                if bucket in self._cells
            }
