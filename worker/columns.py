"""Event fields as the line's own code takes them: numbers, texts and times."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_NOTHING, _NO_TEXTS, _NO_TICKS = np.zeros(0, np.uint8), np.zeros(1, np.int32), np.zeros(0, np.int64)


def numbers(table: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    """(n,) an event field as float64; booleans are 0 and 1."""
    column = table.column(name)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def texts(table: pa.RecordBatch, name: str) -> pa.Array:
    """(n,) an event field as texts."""
    column = table.column(name)
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def ticks(column: pa.Array) -> NDArray[np.int64]:
    """(n,) times as integers of their own unit, 0 where null."""
    if column.null_count or not _is_int64(column.type):
        column = column.cast(pa.int64()).fill_null(0)
    if not len(column):
        return _NO_TICKS
    return np.frombuffer(column.buffers()[1], np.int64, len(column), 8 * column.offset)


def text_offsets(text: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The bytes of (n,) texts, and the (n + 1,) places where each begins and the last one ends."""
    _, offsets, data = text.buffers()
    begins = np.frombuffer(offsets, np.int32, len(text) + 1, 4 * text.offset) if len(text) else _NO_TEXTS
    return _NOTHING if data is None else np.frombuffer(data, np.uint8), begins


def _is_int64(kind: pa.DataType) -> bool:
    return bool(pa.types.is_int64(kind) or pa.types.is_timestamp(kind))
