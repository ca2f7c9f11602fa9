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
from schemas.spans import Spans, spans_of
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
_NOTHING: Final = np.zeros(0, np.uint8)
_OFFSET_LIMIT: Final = 1 << 31  # offsets of Arrow strings have 32 bits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """One field."""

    name: str
    kind: int
    null_index: int  # branch of null in its union; -1: it is never null
    arrow: pa.DataType
    symbols: Spans | None  # of an enum


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What the kernels are told about a flat schema."""

    arrow: pa.Schema
    columns: tuple[Column, ...]
    kinds: NDArray[np.int8]  # (f,)
    null_index: NDArray[np.int8]  # (f,)
    symbols: NDArray[np.int64]  # (f,)


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


def decode(plan: Plan, payloads: Spans) -> tuple[pa.RecordBatch, NDArray[np.bool_] | None]:
    """The columns of n records, and which of them (n,) are good; None: all of them.

    Good is exactly one canonical value. What the columns hold where a record is not good means nothing.

    Raises:
        ValueError: the texts of one field have more than 2 GiB.
    """
    count, fields = len(payloads), len(plan.columns)
    cells, sizes = np.empty((fields, count), np.int64), np.empty((fields, count), np.int32)
    valid, good = np.empty((fields, count), np.bool_), np.empty(count, np.bool_)
    nulls, text_bytes = np.empty((2, fields), np.int64)
    all_good = kernels.read_records(
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
        nulls,
        text_bytes,
    )
    is_null, has_bytes = nulls.tolist(), text_bytes.tolist()
    arrays = [
        _array(column, cells[f], sizes[f], valid[f] if is_null[f] else None, payloads.data, has_bytes[f])
        for f, column in enumerate(plan.columns)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=plan.arrow), None if all_good == count else good


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
    fields = len(plan.columns)
    kinds = plan.kinds.copy()
    cells, sizes = np.empty((fields, count), np.int64), np.zeros((fields, count), np.int32)
    valid = np.ones((fields, count), np.bool_)
    data, used = [_NOTHING], 0
    for f, column in enumerate(plan.columns):
        value = columns[column.name]
        if isinstance(value, pa.Array | np.ndarray):
            part = _fill(column, value, cells[f], sizes[f], valid[f])
        else:
            part = _constant(column, value)
            kinds[f], cells[f], sizes[f] = kernels.CONSTANT, 0, len(part)
        if part is not None:
            cells[f] += used
            data.append(part)
            used += len(part)
    room = count * (len(prefix) + _MOST_BYTES * fields) + int(sizes.sum(dtype=np.int64))
    out, offsets = np.empty(room, np.uint8), np.zeros(count + 1, np.int64)
    kernels.write_records(
        np.frombuffer(prefix, np.uint8),
        kinds,
        plan.null_index,
        cells,
        sizes,
        valid,
        np.concatenate(data),
        out,
        offsets[1:],
    )
    return Spans(out, offsets[:-1], offsets[1:])


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
        symbols=spans_of([symbol.encode() for symbol in inner.symbols]) if inner.kind == "enum" else None,
    )


def _array(
    column: Column,
    cells: NDArray[np.int64],
    sizes: NDArray[np.int32],
    valid: NDArray[np.bool_] | None,
    data: NDArray[np.uint8],
    text_bytes: int,
) -> pa.Array:
    """One decoded field as Arrow has it; valid None: none is null."""
    count = len(cells)
    validity = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    if column.symbols is not None:
        symbols = column.symbols
        data, sizes = symbols.data, symbols.sizes[cells].astype(np.int32)
        cells = symbols.starts[cells]
        if valid is not None:
            sizes[~valid] = 0
        text_bytes = int(sizes.sum(dtype=np.int64))
    if column.symbols is not None or column.kind in _TEXT:
        if text_bytes >= _OFFSET_LIMIT:
            raise ValueError(f"{column.name}: found {text_bytes} bytes of text, expected less than 2 GiB")
        offsets, text = np.empty(count + 1, np.int32), np.empty(text_bytes, np.uint8)
        kernels.texts(data, cells, sizes, offsets, text)
        buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(text)]
        return pa.Array.from_buffers(column.arrow, count, buffers)
    if column.kind == kernels.BOOLEAN:
        values: NDArray[Any] = np.packbits(cells.astype(np.bool_), bitorder="little")
    elif column.kind in (kernels.INT, kernels.FLOAT):
        values = cells.astype(np.int32)
    else:
        values = cells
    return pa.Array.from_buffers(column.arrow, count, [validity, pa.py_buffer(values)])


@lru_cache(maxsize=1024, typed=True)
def _constant(column: Column, value: Any) -> NDArray[np.uint8]:
    """The bytes of one value for all records; most stay the same from batch to batch."""
    if value is None and column.null_index < 0:
        raise ValueError(f"{column.name}: found null, expected a value")
    cells, sizes, valid = np.empty((1, 1), np.int64), np.zeros((1, 1), np.int32), np.ones((1, 1), np.bool_)
    data = _fill(column, pa.array([value], column.arrow), cells[0], sizes[0], valid[0])
    out, ends = np.empty(_MOST_BYTES + int(sizes[0, 0]), np.uint8), np.empty(1, np.int64)
    kernels.write_records(
        _NOTHING,
        np.array([column.kind], np.int8),
        np.array([column.null_index], np.int8),
        cells,
        sizes,
        valid,
        _NOTHING if data is None else data,
        out,
        ends,
    )
    return out[: ends[0]]


def _fill(
    column: Column,
    value: pa.Array | NDArray[Any],
    cells: NDArray[np.int64],
    sizes: NDArray[np.int32],
    valid: NDArray[np.bool_],
) -> NDArray[np.uint8] | None:
    """Put one field to be encoded into its cells, sizes (all 0) and valid (all True), (n,) each.

    Returns:
        What cells are positions in, where they are.
    """
    if len(value) != len(cells):
        raise ValueError(f"{column.name}: found {len(value)} values, expected {len(cells)}")
    if isinstance(value, np.ma.MaskedArray):
        _fill_valid(column, ~np.ma.getmaskarray(value), valid)
        value = value.filled(0)
    if isinstance(value, np.ndarray):
        is_float = column.kind in (kernels.FLOAT, kernels.DOUBLE)
        if column.kind not in _TEXT and value.dtype.kind in ("biuf" if is_float else "biu"):
            _fill_numbers(column, value, cells)
            return None
        value = pa.array(value, column.arrow, mask=~valid)
    return _fill_array(column, value, cells, sizes, valid)


def _fill_valid(column: Column, found: NDArray[np.bool_], valid: NDArray[np.bool_]) -> None:
    if column.null_index < 0 and not found.all():
        raise ValueError(f"{column.name}: found {int((~found).sum())} nulls, expected none")
    valid[:] = found


def _fill_numbers(column: Column, value: NDArray[Any], cells: NDArray[np.int64]) -> None:
    if column.kind == kernels.FLOAT:
        cells[:] = np.ascontiguousarray(value, np.float32).view(np.int32)
    elif column.kind == kernels.DOUBLE:
        cells[:] = np.ascontiguousarray(value, np.float64).view(np.int64)
    else:
        cells[:] = value
        if not (column.kind == kernels.INT and value.dtype == np.int32) and value.dtype.kind != "b":
            _check_range(column, cells)


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


def _fill_array(
    column: Column,
    array: pa.Array,
    cells: NDArray[np.int64],
    sizes: NDArray[np.int32],
    valid: NDArray[np.bool_],
) -> NDArray[np.uint8] | None:
    has_nulls = array.null_count > 0
    if has_nulls:
        _fill_valid(column, array.is_valid().to_numpy(zero_copy_only=False), valid)
    if column.symbols is not None:
        cells[:] = _symbol_indices(column, array)
        return None
    if array.type != column.arrow:
        array = array.cast(column.arrow)
    if column.kind in _TEXT:
        offsets = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset)
        cells[:] = offsets[:-1]
        np.subtract(offsets[1:], offsets[:-1], out=sizes)
        if has_nulls:
            sizes[~valid] = 0
        text = array.buffers()[2]
        return _NOTHING if text is None else np.frombuffer(text, np.uint8)
    if column.kind == kernels.BOOLEAN:
        cells[:] = (array.fill_null(False) if has_nulls else array).to_numpy(zero_copy_only=False)
    else:
        width = np.int32 if column.kind in (kernels.INT, kernels.FLOAT) else np.int64
        cells[:] = np.frombuffer(
            array.buffers()[1], width, len(array), np.dtype(width).itemsize * array.offset
        )
    return None


def _symbol_indices(column: Column, array: pa.Array) -> NDArray[np.int64]:
    """(n,) which symbol of the enum each is, 0 where null."""
    assert column.symbols is not None
    known = [symbol.decode() for symbol in column.symbols.to_list()]
    index = pc.index_in(array.cast(pa.string()), value_set=pa.array(known, pa.string()))
    if index.null_count != array.null_count:
        raise ValueError(f"{column.name}: found an unknown symbol, expected one of {', '.join(known)}")
    found: NDArray[np.int64] = index.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found
