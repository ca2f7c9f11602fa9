"""Columns to flat records: what a kernel is given to write them from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas import kernels
from schemas.flat import TEXT, Column, Plan
from schemas.spans import Spans

_MOST_BYTES: Final = 11  # of a field that is neither bytes nor text: a branch and a number
_NOTHING: Final = np.zeros(0, np.uint8)
_LARGE_BYTES: Final = 1 << 16
_SPARSE: Final = 16  # times as large as the texts taken from it
_UINT8: Final = np.dtype(np.uint8)
_ARRAYS: Final = (np.ndarray, Spans, pa.Array)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Filled:
    """What a kernel writes n records of f fields from."""

    kinds: NDArray[np.int8]  # (f,), CONSTANT where all records have the same bytes
    cells: NDArray[np.int64]  # (f, n)
    sizes: NDArray[np.int32]  # (f, n)
    valid: NDArray[np.bool_]  # (f, n)
    data: NDArray[np.uint8]  # what the cells of texts and constants are positions in


def fill(
    plan: Plan,
    columns: Mapping[str, Any],
    count: int,
    encode_constant: Callable[[Column, Any], NDArray[np.uint8]],
) -> Filled:
    """Columns as a kernel takes them: Arrow or numpy arrays (masked: null), or one value for all records.

    Enums may be indices of their symbols.

    Args:
        plan: of the schema.
        columns: every field by name.
        count: n, how many records.
        encode_constant: the encoded bytes of a value that all records have; the same function each time.

    Raises:
        ValueError: a value that the field cannot hold, or another number of them.
    """
    fields = len(plan.columns)
    cells, sizes = np.empty((fields, count), np.int64), np.zeros((fields, count), np.int32)
    valid = np.ones((fields, count), np.bool_)
    data, used, begins = [_NOTHING], 0, dict[int, int]()  # begins: where each buffer does
    which, constants = list[int](), list[Any]()
    for f, column in enumerate(plan.columns):
        value = columns[column.name]
        if type(value) is np.ndarray and value.dtype is column.plain and len(value) == count:
            cells[f] = value if column.bits is None else value.view(column.bits)
        elif column.symbols is not None and _are_indices(value, len(column.symbols), count):
            cells[f] = value
        elif type(value) is int and column.kind == kernels.LONG:
            cells[f] = _checked(column, value)
        elif isinstance(value, _ARRAYS):
            part = fill_cells(column, value, cells[f], sizes[f], valid[f])
            if part is None:
                continue
            begin = begins.get(id(part))
            if begin is None:
                begin = begins[id(part)] = used
                data.append(part)
                used += len(part)
            if begin:
                cells[f] += begin
        else:
            which.append(f)
            constants.append(value)
    same = _same(plan, which, constants, encode_constant)
    cells[same.fields], sizes[same.fields] = same.starts + used, same.sizes
    data.append(same.data)
    return Filled(kinds=same.kinds.copy(), cells=cells, sizes=sizes, valid=valid, data=np.concatenate(data))


def _are_indices(value: Any, symbols: int, count: int) -> bool:
    """Whether these are indices of so many symbols, as the line has them."""
    is_array = type(value) is np.ndarray and value.dtype is _UINT8 and len(value) == count > 0
    return is_array and bool(np.maximum.reduce(value) < symbols)


def _checked(column: Column, value: int) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{column.name}: found {value}, expected a number of 64 bits")
    return value


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Constants:
    """Those of n records' fields that all have the same value."""

    kinds: NDArray[np.int8]  # (f,) of all fields
    fields: NDArray[np.int64]  # (c,) which
    starts: NDArray[np.int64]  # (c, 1) where the bytes of each begin in data
    sizes: NDArray[np.int32]  # (c, 1)
    data: NDArray[np.uint8]


def _same(
    plan: Plan,
    which: list[int],
    values: list[Any],
    encode_constant: Callable[[Column, Any], NDArray[np.uint8]],
) -> _Constants:
    try:
        return _constants(plan, tuple(which), tuple(values), tuple(map(type, values)), encode_constant)
    except TypeError as error:
        raise ValueError(f"found what is neither an array nor the value of a field: {error}") from error


@lru_cache(maxsize=256)
def _constants(
    plan: Plan,
    which: tuple[int, ...],
    values: tuple[Any, ...],
    _types: tuple[type, ...],  # 1 and True are equal, and not the same
    encode_constant: Callable[[Column, Any], NDArray[np.uint8]],
) -> _Constants:
    """They stay the same from batch to batch."""
    parts = [encode_constant(plan.columns[f], value) for f, value in zip(which, values, strict=True)]
    ends = np.cumsum([0, *map(len, parts)])
    kinds = plan.kinds.copy()
    kinds[list(which)] = kernels.CONSTANT
    return _Constants(
        kinds=kinds,
        fields=np.array(which, np.int64),
        starts=ends[:-1, None],
        sizes=np.diff(ends)[:, None].astype(np.int32),
        data=np.concatenate([_NOTHING, *parts]),
    )


def encode(plan: Plan, columns: Mapping[str, Any], count: int, prefix: bytes = b"") -> Spans:
    """Records from columns as `fill` takes them, each behind this prefix; see there for errors."""
    filled = fill(plan, columns, count, constant)
    most = count * (len(prefix) + _MOST_BYTES * len(plan.columns)) + int(filled.sizes.sum(dtype=np.int64))
    out, offsets = np.empty(most, np.uint8), np.zeros(count + 1, np.int64)
    kernels.write_records(
        np.frombuffer(prefix, np.uint8),
        filled.kinds,
        plan.null_index,
        filled.cells,
        filled.sizes,
        filled.valid,
        filled.data,
        out,
        offsets[1:],
    )
    return Spans(out, offsets[:-1], offsets[1:])


@lru_cache(maxsize=1024, typed=True)
def constant(column: Column, value: Any) -> NDArray[np.uint8]:
    """The bytes of one value for all records; most stay the same from batch to batch."""
    if value is None and column.null_index < 0:
        raise ValueError(f"{column.name}: found null, expected a value")
    cells, sizes, valid = np.empty((1, 1), np.int64), np.zeros((1, 1), np.int32), np.ones((1, 1), np.bool_)
    data = fill_cells(column, pa.array([value], column.arrow), cells[0], sizes[0], valid[0])
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


def fill_cells(
    column: Column,
    value: pa.Array | NDArray[Any] | Spans,
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
    if isinstance(value, Spans):
        # A few texts of a large buffer: that would be copied as a whole.
        if len(value.data) > _LARGE_BYTES and len(value.data) > _SPARSE * int(value.sizes.sum()):
            value = value.apart()
        return _fill_texts(column, value, cells, sizes, valid)
    if isinstance(value, np.ma.MaskedArray):
        _fill_valid(column, ~np.ma.getmaskarray(value), valid)
        value = value.filled(0)
    if isinstance(value, np.ndarray):
        is_float = column.kind in (kernels.FLOAT, kernels.DOUBLE)
        if column.kind not in TEXT and value.dtype.kind in ("biuf" if is_float else "biu"):
            _fill_numbers(column, value, cells)
            return None
        value = pa.array(value, column.arrow, mask=~valid)
    return _fill_array(column, value, cells, sizes, valid)


def _fill_texts(
    column: Column,
    value: Spans,
    cells: NDArray[np.int64],
    sizes: NDArray[np.int32],
    valid: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    if column.kind not in TEXT:
        raise ValueError(f"{column.name}: found texts, expected numbers")
    if kernels.put_texts(value.starts, value.ends, cells, sizes):  # some are missing
        _fill_valid(column, sizes >= 0, valid)
        sizes[~valid] = 0
    return value.data


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
            _check_range(column, cells, is_unsigned=value.dtype.kind == "u" and value.itemsize < 8)


def _check_range(column: Column, cells: NDArray[np.int64], *, is_unsigned: bool) -> None:
    """Raise ValueError where an int or the index of a symbol is out of range."""
    if column.symbols is not None:
        low, high = 0, len(column.symbols) - 1
    elif column.kind == kernels.INT:
        low, high = -(1 << 31), (1 << 31) - 1
    elif column.kind == kernels.BOOLEAN:
        low, high = 0, 1
    else:
        return  # whatever the array can hold
    if is_unsigned and cells.max(initial=0) <= high:
        return
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
    if column.kind in TEXT:
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
