"""Decoded columns as whoever reads them wants them: numbers, texts, times, or Arrow's arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas import flat, kernels
from schemas.spans import Spans, text_spans

_NO_TICKS = np.zeros(0, np.int64)


class Columns:
    """The columns of n records, as a kernel left them or as an Arrow batch.

    What a kernel left is read where it lies: to make Arrow's arrays of it, of which most are never looked at,
    costs a small batch more than to decode it.
    """

    __slots__ = ("_batch", "_found", "rows")

    def __init__(self, found: pa.RecordBatch | flat.Found) -> None:
        """What they are made of."""
        self._found: flat.Found | None = None
        self._batch: pa.RecordBatch | None = None
        if isinstance(found, flat.Found):
            self._found, self.rows = found, found.cells.shape[1]
        else:
            self._batch, self.rows = found, int(found.num_rows)

    @property
    def batch(self) -> pa.RecordBatch:
        """All of them for Arrow; made once."""
        if self._batch is None:
            assert self._found is not None
            self._batch = flat.to_batch(self._found)
        return self._batch

    def array(self, name: str) -> pa.Array:
        """(n,) one of them for Arrow."""
        if self._batch is None and self._found is not None:
            return flat.array(self._found, self._found.plan.index[name])
        return self.batch.column(name)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """(n,) an event field as float64; booleans are 0 and 1, nulls NaN."""
        whole = self._whole(name)
        if whole is not None:
            cells, kind = whole[0], whole[2].kind
            if kind == kernels.DOUBLE:
                return cells.view(np.float64)
            if kind == kernels.FLOAT:
                return cells.astype(np.int32).view(np.float32).astype(np.float64)
            if kind in (kernels.LONG, kernels.INT, kernels.BOOLEAN):
                return cells.astype(np.float64)
        return numbers(self.array(name))

    def spans(self, name: str) -> Spans:
        """(n,) an event field as texts; nulls are missing."""
        whole = self._whole(name)
        if whole is not None and whole[2].kind == kernels.STRING:
            starts = whole[0]
            return Spans(self._found.data, starts, starts + whole[1])  # type: ignore[union-attr]
        return text_spans(texts(self.array(name)))

    def ticks(self, name: str) -> NDArray[np.int64]:
        """(n,) times as integers of their own unit, 0 where null."""
        whole = self._whole(name)
        if whole is not None and whole[2].kind == kernels.LONG:
            return whole[0]
        return ticks(self.array(name))

    def kind(self, name: str) -> pa.DataType:
        """Its type."""
        if self._found is not None:
            return self._found.plan.columns[self._found.plan.index[name]].arrow
        return self.batch.schema.field(name).type

    def nulls(self, name: str) -> int:
        """How many are null."""
        if self._found is not None:
            return self._found.nulls[self._found.plan.index[name]]
        return int(self.batch.column(name).null_count)

    def take(self, rows: NDArray[np.int64]) -> Columns:
        """These rows."""
        if self._found is not None:
            return Columns(flat.part(self._found, rows))
        return Columns(self.batch.take(pa.array(rows)))

    def slice(self, begin: int, count: int) -> Columns:
        """Rows that follow each other, on the same buffers."""
        if self._found is not None:
            return Columns(flat.part(self._found, slice(begin, begin + count)))
        return Columns(self.batch.slice(begin, count))

    def _whole(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.int32], flat.Column] | None:
        """Cells and sizes of a column that is still as a kernel left it, and has no null."""
        found = self._found
        if found is None:
            return None
        f = found.plan.index[name]
        if found.nulls[f]:
            return None
        return found.cells[f], found.sizes[f], found.plan.columns[f]


def joined_columns(parts: Sequence[Columns]) -> Columns:
    """All rows of these, which are of one schema, in order."""
    left = [part._found for part in parts]
    if all(each is not None and left[0] is not None and each.plan is left[0].plan for each in left):
        return Columns(flat.join([each for each in left if each is not None]))
    return Columns(pa.concat_batches([part.batch for part in parts]))


def numbers(column: pa.Array) -> NDArray[np.float64]:
    """See Columns."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def texts(column: pa.Array) -> pa.Array:
    """(n,) a field as Arrow strings."""
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def ticks(column: pa.Array) -> NDArray[np.int64]:
    """See Columns."""
    is_int64 = pa.types.is_int64(column.type) or pa.types.is_timestamp(column.type)
    if column.null_count or not is_int64:
        column = column.cast(pa.int64()).fill_null(0)
    if not len(column):
        return _NO_TICKS
    return np.frombuffer(column.buffers()[1], np.int64, len(column), 8 * column.offset)
