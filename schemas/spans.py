"""Many byte strings as one: a buffer, and where each of them begins and ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray


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

    def take(self, rows: Any) -> Spans:
        """Some of them, in the same buffer; rows is whatever indexes an array."""
        return Spans(self.data, self.starts[rows], self.ends[rows])

    def without(self, head_bytes: int) -> Spans:
        """Each without its first bytes; all must be that long."""
        return Spans(self.data, self.starts + head_bytes, self.ends)

    def to_list(self) -> list[bytes]:
        """Each as an object of its own."""
        whole = self.data.tobytes()
        return [whole[a:b] for a, b in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]


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
