"""Many byte strings as one: a buffer, and where each of them begins and ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas import kernels


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Byte strings in one buffer; what ends before it begins is missing."""

    data: NDArray[np.uint8]  # (bytes,)
    starts: NDArray[np.int64]  # (n,)
    ends: NDArray[np.int64]  # (n,)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) bytes of each, -1 where it is missing."""
        return self.ends - self.starts

    def __getitem__(self, row: int) -> bytes:
        """One of them, empty where it is missing."""
        return self.data[self.starts[row] : max(self.starts[row], self.ends[row])].tobytes()

    def get(self, row: int) -> bytes | None:
        """One of them, None where it is missing."""
        return self[row] if self.ends[row] >= self.starts[row] else None

    def are_some_missing(self) -> bool:
        """Whether any is."""
        return bool((self.ends < self.starts).any())

    def take(self, rows: Any) -> Spans:
        """Some of them, in the same buffer; rows is whatever indexes an array."""
        return Spans(self.data, self.starts[rows], self.ends[rows])

    def without(self, head_bytes: int) -> Spans:
        """Each without its first bytes; all must be that long."""
        return Spans(self.data, self.starts + head_bytes, self.ends)

    def apart(self) -> Spans:
        """The same in a buffer of their own, so that the one they share can go."""
        is_whole = (self.sizes >= 0).all() and (self.starts[1:] == self.ends[:-1]).all()
        if len(self) and is_whole:  # one after the other already, as an encoder leaves them
            first = self.starts[0]
            return Spans(self.data[first : self.ends[-1]].copy(), self.starts - first, self.ends - first)
        ends = np.cumsum(np.maximum(self.sizes, 0))
        offsets = np.concatenate([[0], ends])
        data = np.empty(int(offsets[-1]), np.uint8)
        kernels.gather(self.data, self.starts, offsets, data)
        return Spans(data, offsets[:-1], offsets[:-1] + self.sizes)

    def to_list(self) -> list[bytes]:
        """Each as an object of its own, empty where it is missing."""
        whole = self.data.tobytes()
        return [whole[a : max(a, b)] for a, b in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]


def spans_of(values: Sequence[bytes | None]) -> Spans:
    """Byte strings, missing ones as None, in a buffer of their own."""
    try:
        sizes = np.fromiter(map(len, cast("Sequence[bytes]", values)), np.int64, len(values))
        whole = b"".join(cast("Sequence[bytes]", values))
        missing: Any = 0
    except TypeError:  # one of them is None
        sizes = np.array([0 if value is None else len(value) for value in values], np.int64)
        whole = b"".join(value for value in values if value is not None)
        missing = np.array([value is None for value in values], np.int64)
    ends = np.cumsum(sizes)
    return Spans(np.frombuffer(whole, np.uint8), ends - sizes, ends - missing)


def joined(parts: Sequence[Spans]) -> Spans:
    """All byte strings of these, in order, in one buffer; parts that share theirs go on sharing it."""
    if all(part.data is parts[0].data for part in parts):
        starts, ends = ([getattr(part, side) for part in parts] for side in ("starts", "ends"))
        return Spans(parts[0].data, np.concatenate(starts), np.concatenate(ends))
    begins = np.cumsum([0, *(len(part.data) for part in parts[:-1])]).tolist()
    return Spans(
        np.concatenate([part.data for part in parts]),
        np.concatenate([part.starts + begin for part, begin in zip(parts, begins, strict=True)]),
        np.concatenate([part.ends + begin for part, begin in zip(parts, begins, strict=True)]),
    )


def text_spans(text: pa.Array) -> Spans:
    """The strings of an Arrow array as they are in its buffers; nulls are missing."""
    if not len(text):
        return spans_of([])
    offsets = np.frombuffer(text.buffers()[1], np.int32, len(text) + 1, 4 * text.offset).astype(np.int64)
    data = text.buffers()[2]
    ends = offsets[1:]
    if text.null_count:
        ends = np.where(text.is_null().to_numpy(zero_copy_only=False), offsets[:-1] - 1, ends)
    return Spans(np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8), offsets[:-1], ends)


def equal(some: Spans, others: Spans) -> NDArray[np.bool_]:
    """(n,) whether both are there, and the same."""
    same = np.empty(len(some), np.bool_)
    kernels.compare(some.data, some.starts, some.ends, others.data, others.starts, others.ends, same)
    return same
