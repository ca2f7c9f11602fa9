"""Flat records between bytes and Arrow columns: which kernel reads and writes what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas import kernels
from schemas.schema import Schema, arrow_type
from schemas.spans import Spans
from schemas.tree import Node, nullable

_KINDS: Final = {
    "boolean": kernels.BOOLEAN,
    "int": kernels.INT,
    "long": kernels.LONG,
    "float": kernels.FLOAT,
    "double": kernels.DOUBLE,
    "bytes": kernels.BYTES,
    "string": kernels.STRING,
    "enum": kernels.ENUM,
}
_TEXT: Final = (kernels.BYTES, kernels.STRING)
_MOST_BYTES: Final = 11  # of a field that is neither bytes nor text: a branch and a number
_OFFSET_LIMIT: Final = 1 << 31  # offsets of Arrow strings have 32 bits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """One field."""

    name: str
    kind: int
    null_index: int  # branch of null in its union; -1: it is never null
    arrow: pa.DataType
    symbols: pa.Array | None  # of an enum


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What the kernels are told about a flat schema."""

    arrow: pa.Schema
    columns: tuple[Column, ...]
    kinds: NDArray[np.int8]  # (f,)
    null_index: NDArray[np.int8]  # (f,)
    symbols: NDArray[np.int64]  # (f,)


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """One field of n records, as the kernels take it."""

    cells: NDArray[np.int64]  # (n,) or (1,) for all of them
    sizes: NDArray[np.int32] | None = None  # of bytes
    valid: NDArray[np.bool_] | None = None  # None: none is null
    data: NDArray[np.uint8] | None = None  # what cells are positions in
    is_constant: bool = False


def plan(schema: Schema) -> Plan | None:
    """How to read and write a schema fast, or None when it is not flat."""
    columns = [_column(field.name, field.node) for field in schema.tree.fields]
    flat = tuple(column for column in columns if column is not None)
    if not flat or len(flat) < len(columns):
        return None
    return Plan(
        arrow=schema.arrow,
        columns=flat,
        kinds=np.array([column.kind for column in flat], np.int8),
        null_index=np.array([column.null_index for column in flat], np.int8),
        symbols=np.array([len(column.symbols or ()) for column in flat], np.int64),
    )


def decode(plan: Plan, payloads: Spans) -> tuple[pa.RecordBatch, NDArray[np.bool_]]:
    """The columns of n records, and which of them (n,) are good: exactly one canonical value each.

    What the columns hold where a record is not good means nothing.

    Raises:
        ValueError: the texts of one field have more than 2 GiB.
    """
    count, fields = len(payloads), len(plan.columns)
    cells, sizes = np.empty((fields, count), np.int64), np.zeros((fields, count), np.int32)
    valid, good = np.empty((fields, count), np.bool_), np.empty(count, np.bool_)
    kernels.read_records(
        payloads.data,
        payloads.starts,
        payloads.ends,
        plan.kinds,
        plan.null_index,
        plan.symbols,
        cells,
        sizes,
        valid,
        good,
    )
    if not good.all():
        cells[:, ~good], sizes[:, ~good] = 0, 0
    arrays = [
        _array(column, cells[f], sizes[f], valid[f], payloads.data) for f, column in enumerate(plan.columns)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=plan.arrow), good


def encode(plan: Plan, columns: Mapping[str, Any], count: int, prefix: bytes = b"") -> Spans:
    """Records from columns: Arrow arrays, numpy arrays (masked: null), or one value for all records.

    Enums may be indices of their symbols.

    Args:
        plan: of the schema.
        columns: every field by name.
        count: n, how many records.
        prefix: what stands in front of each.

    Raises:
        ValueError: a value that the field cannot hold, or another number of them.
    """
    prepared = [_cells(column, columns[column.name], count) for column in plan.columns]
    kinds = np.array(
        [kernels.CONSTANT if p.is_constant else c.kind for p, c in zip(prepared, plan.columns, strict=True)],
        np.int8,
    )
    cells, sizes = np.empty((len(kinds), count), np.int64), np.zeros((len(kinds), count), np.int32)
    valid = np.ones((len(kinds), count), np.bool_)
    data, used = [np.zeros(0, np.uint8)], 0
    for f, part in enumerate(prepared):
        cells[f] = part.cells if part.data is None else part.cells + used
        if part.sizes is not None:
            sizes[f] = part.sizes
        if part.valid is not None:
            valid[f] = part.valid
        if part.data is not None:
            data.append(part.data)
            used += len(part.data)
    room = count * (len(prefix) + _MOST_BYTES * len(kinds)) + int(sizes.sum(dtype=np.int64))
    out, ends = np.empty(room, np.uint8), np.empty(count, np.int64)
    kernels.write_records(
        np.frombuffer(prefix, np.uint8),
        kinds,
        plan.null_index,
        cells,
        sizes,
        valid,
        np.concatenate(data),
        out,
        ends,
    )
    return Spans(out, np.concatenate([[0], ends[:-1]]) if count else ends, ends)


def _column(name: str, node: Node) -> Column | None:
    optional = nullable(node)
    inner, null_index = optional if optional else (node, -1)
    if inner.kind not in _KINDS:
        return None
    return Column(
        name=name,
        kind=_KINDS[inner.kind],
        null_index=null_index,
        arrow=arrow_type(inner),
        symbols=pa.array(inner.symbols, pa.string()) if inner.kind == "enum" else None,
    )


def _array(
    column: Column,
    cells: NDArray[np.int64],
    sizes: NDArray[np.int32],
    valid: NDArray[np.bool_],
    data: NDArray[np.uint8],
) -> pa.Array:
    """One decoded field as Arrow has it."""
    count = len(cells)
    validity = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    if column.symbols is not None:
        mask = None if validity is None else ~valid
        return column.symbols.take(pa.array(cells, mask=mask))
    if column.kind in _TEXT:
        offsets = np.zeros(count + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        if offsets[-1] >= _OFFSET_LIMIT:
            raise ValueError(f"{column.name}: found {offsets[-1]} bytes of text, expected less than 2 GiB")
        text = np.empty(int(offsets[-1]), np.uint8)
        kernels.gather(data, cells, offsets, text)
        buffers = [validity, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(text)]
        return pa.Array.from_buffers(column.arrow, count, buffers)
    if column.kind == kernels.BOOLEAN:
        values: NDArray[Any] = np.packbits(cells.astype(np.bool_), bitorder="little")
    elif column.kind in (kernels.INT, kernels.FLOAT):
        values = cells.astype(np.int32)
    else:
        values = cells
    return pa.Array.from_buffers(column.arrow, count, [validity, pa.py_buffer(values)])


def _cells(column: Column, value: Any, count: int) -> _Cells:
    """One field to be encoded."""
    if not isinstance(value, pa.Array | np.ndarray):
        return _constant(column, value)
    if len(value) != count:
        raise ValueError(f"{column.name}: found {len(value)} values, expected {count}")
    found = _of_array(column, value) if isinstance(value, pa.Array) else _of_numpy(column, value)
    if found.valid is not None and column.null_index < 0:
        raise ValueError(f"{column.name}: found {int((~found.valid).sum())} nulls, expected none")
    return found


@lru_cache(maxsize=1024, typed=True)
def _constant(column: Column, value: Any) -> _Cells:
    """One value for all records, as the bytes it becomes; most stay the same from batch to batch."""
    array = pa.array([value], column.arrow)
    if value is None and column.null_index < 0:
        raise ValueError(f"{column.name}: found null, expected a value")
    alone = _cells(column, array, 1)
    out, ends = np.empty(_MOST_BYTES + int(np.sum(alone.sizes or 0)), np.uint8), np.empty(1, np.int64)
    kernels.write_records(
        np.zeros(0, np.uint8),
        np.array([column.kind], np.int8),
        np.array([column.null_index], np.int8),
        alone.cells.reshape(1, 1),
        np.zeros((1, 1), np.int32) if alone.sizes is None else alone.sizes.reshape(1, 1),
        np.ones((1, 1), np.bool_) if alone.valid is None else alone.valid.reshape(1, 1),
        np.zeros(0, np.uint8) if alone.data is None else alone.data,
        out,
        ends,
    )
    encoded = out[: ends[0]]
    return _Cells(np.zeros(1, np.int64), np.array([len(encoded)], np.int32), None, encoded, is_constant=True)


def _of_numpy(column: Column, value: NDArray[Any]) -> _Cells:
    valid = None
    if isinstance(value, np.ma.MaskedArray):
        valid = ~np.ma.getmaskarray(value)
        value = value.filled(0)
        valid = None if valid.all() else valid
    if column.kind == kernels.FLOAT:
        return _Cells(value.astype(np.float32).view(np.int32).astype(np.int64), None, valid)
    if column.kind == kernels.DOUBLE:
        return _Cells(np.ascontiguousarray(value, np.float64).view(np.int64), None, valid)
    if column.kind in _TEXT or value.dtype.kind not in "biu":
        return _of_array(column, pa.array(value, column.arrow, mask=None if valid is None else ~valid))
    cells = value.astype(np.int64)
    if value.dtype.kind != "b":
        _check_range(column, cells)
    return _Cells(cells, None, valid)


def _check_range(column: Column, cells: NDArray[np.int64]) -> None:
    """Raise ValueError where an int or the index of a symbol is out of range."""
    if column.symbols is not None:
        low, high = 0, len(column.symbols) - 1
    elif column.kind == kernels.INT:
        low, high = -(1 << 31), (1 << 31) - 1
    elif column.kind == kernels.BOOLEAN:
        low, high = 0, 1
    else:
        return  # whatever the array can hold
    if len(cells) and not low <= cells.min() <= cells.max() <= high:
        raise ValueError(f"{column.name}: found {cells.min()} to {cells.max()}, expected {low} to {high}")


def _of_array(column: Column, array: pa.Array) -> _Cells:
    valid = None if array.null_count == 0 else array.is_valid().to_numpy(zero_copy_only=False)
    if column.symbols is not None:
        return _of_symbols(column, array, valid)
    if array.type != column.arrow:
        array = array.cast(column.arrow)
    if column.kind in _TEXT:
        offsets = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset)
        text = array.buffers()[2]
        data = np.zeros(0, np.uint8) if text is None else np.frombuffer(text, np.uint8)
        sizes = np.diff(offsets)
        if valid is not None:
            sizes = np.where(valid, sizes, 0).astype(np.int32)
        return _Cells(offsets[:-1].astype(np.int64), sizes, valid, data)
    if column.kind == kernels.BOOLEAN:
        whole = array if valid is None else array.fill_null(False)
        return _Cells(whole.to_numpy(zero_copy_only=False).astype(np.int64), None, valid)
    width = np.int32 if column.kind in (kernels.INT, kernels.FLOAT) else np.int64
    numbers = np.frombuffer(array.buffers()[1], width, len(array), np.dtype(width).itemsize * array.offset)
    return _Cells(numbers.astype(np.int64), None, valid)


def _of_symbols(column: Column, array: pa.Array, valid: NDArray[np.bool_] | None) -> _Cells:
    assert column.symbols is not None
    index = pc.index_in(array.cast(pa.string()), value_set=column.symbols)
    if index.null_count != array.null_count:
        known = ", ".join(column.symbols.to_pylist())
        raise ValueError(f"{column.name}: found an unknown symbol, expected one of {known}")
    return _Cells(index.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64), None, valid)
