"""What came out: every score, alert and dead letter by its place in the input, in columns that stay small."""

from __future__ import annotations

import struct
from collections import Counter
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.codec import Codec
from schemas.schema import load_schema
from tests.chaos.world import Topics

Place = tuple[int, int]  # partition and offset of the input record
NEVER_SAME = {"source_topic", "source_partition", "source_offset", "scored_at", "score"}
_IDENTITY = ("event_id", "key", "event_time")
_BITS = 6  # a small column of a score has fewer than 64 different values


class Lane:
    """The outcomes of one input partition: arrays by offset, grown as they are needed."""

    def __init__(self) -> None:
        self.times_seen: NDArray[np.uint8] = np.zeros(0, np.uint8)  # scores and dead letters
        self.score: NDArray[np.float32] = np.zeros(0, np.float32)
        self.identity: NDArray[np.uint32] = np.zeros(0, np.uint32)  # checksum of event id, key and time
        self.rest: NDArray[np.int64] = np.zeros(0, np.int64)  # every other field, as a code
        self.during: NDArray[np.uint16] = np.zeros(0, np.uint16)  # number of the fault it came after
        self.done = 0  # offsets with an outcome
        self.newest = -1
        self.out_of_order = 0
        self.changed: list[int] = []  # offsets whose repeated score was another one

    def reserve(self, size: int) -> None:
        """Make room for offsets below size."""
        if size <= len(self.times_seen):
            return
        room = max(size, 2 * len(self.times_seen), 4096)
        for name in ("times_seen", "score", "identity", "rest", "during"):
            old = getattr(self, name)
            grown = np.zeros(room, old.dtype)
            grown[: len(old)] = old
            setattr(self, name, grown)

    def note(
        self,
        offsets: NDArray[np.int64],
        fault: int,
        score: NDArray[np.float32],
        identity: NDArray[np.uint32],
        rest: NDArray[np.int64],
    ) -> None:
        """Add outcomes in the order in which they stand in the topic."""
        self.reserve(int(offsets.max()) + 1)
        _, first = np.unique(offsets, return_index=True)
        is_first = np.zeros(len(offsets), np.bool_)
        is_first[first] = True
        is_new = is_first & (self.times_seen[offsets] == 0)
        new = offsets[is_new]
        if len(new):
            self.out_of_order += int((np.diff(new) < 0).sum()) + int(new[0] < self.newest)
            self.newest = max(self.newest, int(new.max()))
            self.done += len(new)
            self.score[new], self.identity[new] = score[is_new], identity[is_new]
            self.rest[new], self.during[new] = rest[is_new], fault
        again = ~is_new
        if again.any():
            at = offsets[again]
            same = np.isclose(self.score[at], score[again], rtol=1e-6, atol=1e-6, equal_nan=True)
            same &= (self.identity[at] == identity[again]) & (self.rest[at] == rest[again])
            self.changed += at[~same].tolist()
        np.add.at(self.times_seen, offsets, 1)


class Outcomes:
    """The outcomes of one group, lane by lane."""

    def __init__(self, named: Topics, partitions: int) -> None:
        self.lanes = [Lane() for _ in range(partitions)]
        self.alerts: dict[Place, tuple[str, str, int]] = {}  # severity, lifecycle, features' bits
        self.dead: dict[Place, tuple[str, str, int]] = {}  # reason, stage, checksum of the original
        self.alerts_seen: Counter[Place] = Counter()
        self.elsewhere = 0  # scores on another partition than their event's
        self.fault = 0  # number of the fault injected last
        self._kinds = {topic: kind for kind, topic in named.outputs.items()}
        self._codecs = {kind: Codec(load_schema(kind[:-1]), "single_object") for kind in ("scores", "alerts")}
        self._rest = small_fields()

    @property
    def done(self) -> int:
        """How many input records have an outcome."""
        return sum(lane.done for lane in self.lanes)

    def note(self, messages: list[Any]) -> None:
        """Add records of the output topics."""
        by_kind: dict[str, list[Any]] = {"scores": [], "alerts": [], "dead_letters": []}
        for message in messages:
            by_kind[self._kinds[message.topic()]].append(message)
        if by_kind["scores"]:
            self._note_scores(by_kind["scores"])
        if by_kind["alerts"]:
            self._note_alerts([message.value() for message in by_kind["alerts"]])
        for message in by_kind["dead_letters"]:
            self._note_dead(message)

    def _note_scores(self, messages: list[Any]) -> None:
        decoded = self._codecs["scores"].decode([message.value() for message in messages])
        if decoded.rejects:
            raise ValueError(f"{len(decoded.rejects)} scores cannot be read: {decoded.rejects[0]}")
        table = decoded.table
        partition = _numbers(table, "source_partition")
        written_to = np.fromiter((message.partition() for message in messages), np.int64, len(messages))
        self.elsewhere += int((written_to != partition).sum())
        identity = _checksums(table)
        rest = self._code(table)
        offsets, score = _numbers(table, "source_offset"), table.column("score").to_numpy()
        for lane in np.unique(partition).tolist():
            here = partition == lane
            self.lanes[lane].note(offsets[here], self.fault, score[here], identity[here], rest[here])

    def _code(self, table: pa.RecordBatch) -> NDArray[np.int64]:
        """(n,) one number for all the small fields of a score; equal numbers, equal fields."""
        code = np.zeros(table.num_rows, np.int64)
        for name in self._rest:
            column = table.column(name).dictionary_encode(null_encoding="encode")
            known = np.array([_symbol(name, v) for v in column.dictionary.to_pylist()], np.int64)
            code = (code << _BITS) + known[column.indices.to_numpy(zero_copy_only=False)]
        return code

    def _note_alerts(self, values: list[bytes]) -> None:
        for row in self._codecs["alerts"].decode(values).table.to_pylist():
            place = (row["source_partition"], row["source_offset"])
            features = sorted(dict(row["features"]).items())
            exact = struct.pack(f"<{len(features)}d", *(value for _, value in features))
            self.alerts_seen[place] += 1
            self.alerts[place] = (row["severity"], row["lifecycle"], crc32(exact))

    def _note_dead(self, message: Any) -> None:
        said = dict(message.headers())
        lane, offset = int(said["penstock.source.partition"]), int(said["penstock.source.offset"])
        original = crc32(message.value() or b"", crc32(message.key() or b""))
        self.dead[lane, offset] = (
            said["penstock.reason"].decode(),
            said["penstock.stage"].decode(),
            original,
        )
        # It has no place in the order of the scores: it is on a topic of its own.
        kept = self.lanes[lane]
        kept.reserve(offset + 1)
        kept.done += int(kept.times_seen[offset] == 0)
        kept.times_seen[offset] += 1
        kept.during[offset] = self.fault
        kept.score[offset] = np.nan


_SYMBOLS: dict[tuple[str, Any], int] = {}
_SYMBOLS_OF: Counter[str] = Counter()


def _symbol(name: str, value: Any) -> int:
    """A number below 64 for each value of a field, the same wherever it is met in this process."""
    if (name, value) not in _SYMBOLS:
        if _SYMBOLS_OF[name] == 1 << _BITS:
            raise ValueError(f"field {name} of the scores has more than {1 << _BITS} values")
        _SYMBOLS[name, value] = _SYMBOLS_OF[name]
        _SYMBOLS_OF[name] += 1
    return _SYMBOLS[name, value]


def meaning(code: int, names: list[str]) -> dict[str, Any]:
    """The fields behind a code, for a message."""
    values: dict[str, Any] = {}
    by_number = {(name, number): value for (name, value), number in _SYMBOLS.items()}
    for name in reversed(names):
        values[name] = by_number.get((name, code & ((1 << _BITS) - 1)))
        code >>= _BITS
    return values


def small_fields() -> list[str]:
    """The fields of a score that go into its code."""
    names = load_schema("score").arrow.names
    return [name for name in names if name not in NEVER_SAME and name not in _IDENTITY]


def _numbers(table: pa.RecordBatch, name: str) -> NDArray[np.int64]:
    column: NDArray[np.int64] = table.column(name).to_numpy(zero_copy_only=False).astype(np.int64)
    return column


def _checksums(table: pa.RecordBatch) -> NDArray[np.uint32]:
    ids, keys = table.column("event_id").to_pylist(), table.column("key").to_pylist()
    times = table.column("event_time").cast(pa.int64()).to_pylist()
    texts = (f"{i}|{k}|{t}".encode() for i, k, t in zip(ids, keys, times, strict=True))
    return np.fromiter(map(crc32, texts), np.uint32, table.num_rows)
