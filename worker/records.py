"""Records as columns, as the bus gave them: bytes in one buffer, and numbers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_cache.key_index import Keys
from schemas.spans import Spans, joined, spans_of

Headers = list[tuple[str, bytes | None]]
_SIZE = struct.Struct("<i")  # in front of a header's name, and of its value; -1: it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record, untouched."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int  # -1 where it has none
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Records:
    """Some records of one topic, in the order in which they came."""

    topic: str
    values: Spans
    keys: Spans
    headers: Spans  # packed by `pack_headers`; missing where there are none
    partition: NDArray[np.int32]  # (n,)
    offset: NDArray[np.int64]  # (n,)
    produced_ms: NDArray[np.int64]  # (n,) the producer's clock; -1 where it gave none

    def __len__(self) -> int:
        return len(self.partition)

    def __getitem__(self, row: int) -> Record:
        """One of them."""
        packed = self.headers.get(row)
        return Record(
            topic=self.topic,
            partition=int(self.partition[row]),
            offset=int(self.offset[row]),
            timestamp_ms=int(self.produced_ms[row]),
            key=self.keys.get(row),
            value=self.values.get(row),
            headers=unpack_headers(packed) if packed is not None else [],
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of all values, less one for each that is missing."""
        return int(np.add.reduce(self.values.sizes)) if len(self) else 0

    def take(self, rows: Any) -> Records:
        """Some of them, on the same buffer; rows is whatever indexes an array."""
        return Records(
            topic=self.topic,
            values=self.values.take(rows),
            keys=self.keys.take(rows),
            headers=self.headers.take(rows),
            partition=self.partition[rows],
            offset=self.offset[rows],
            produced_ms=self.produced_ms[rows],
        )


def index_keys(keys: Spans) -> Keys:
    """The same byte strings, as the feature cache takes them."""
    return Keys(keys.data, keys.starts, keys.ends)


def joined_records(parts: Sequence[Records]) -> Records:
    """All records of some polls of one topic, in order."""
    if len(parts) == 1:
        return parts[0]
    return Records(
        topic=parts[0].topic,
        values=joined([part.values for part in parts]),
        keys=joined([part.keys for part in parts]),
        headers=joined([part.headers for part in parts]),
        partition=np.concatenate([part.partition for part in parts]),
        offset=np.concatenate([part.offset for part in parts]),
        produced_ms=np.concatenate([part.produced_ms for part in parts]),
    )


def records_of(topic: str, messages: Sequence[Any]) -> Records:
    """The client's messages, none of them an error."""
    n = len(messages)
    return Records(
        topic=topic,
        values=spans_of([m.value() for m in messages]),
        keys=spans_of([m.key() for m in messages]),
        headers=spans_of([pack_headers(said) if (said := m.headers()) else None for m in messages]),
        partition=np.fromiter([m.partition() for m in messages], np.int32, n),
        offset=np.fromiter([m.offset() for m in messages], np.int64, n),
        produced_ms=np.fromiter([m.timestamp()[1] for m in messages], np.int64, n),
    )


def pack_headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """Headers as bytes: size and bytes of each name, size and bytes of each value."""
    packed = bytearray()
    for name, value in headers:
        for part in (name.encode("utf-8", "surrogateescape"), value):
            packed += _SIZE.pack(-1 if part is None else len(part))
            packed += part or b""
    return bytes(packed)


def unpack_headers(packed: bytes) -> Headers:
    """What `pack_headers` packed."""
    parts: list[bytes | None] = []
    at = 0
    while at < len(packed):
        (size,) = _SIZE.unpack_from(packed, at)
        at += _SIZE.size
        parts.append(packed[at : at + size] if size >= 0 else None)
        at += max(size, 0)
    return [
        ((name or b"").decode("utf-8", "surrogateescape"), value)
        for name, value in zip(parts[::2], parts[1::2], strict=True)
    ]
