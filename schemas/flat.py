"""Flat records to columns: what a kernel finds in them, and that for Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
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
_PLAIN: Final[dict[str, np.dtype[Any]]] = {
    "boolean": np.dtype(np.bool_),
    "int": np.dtype(np.int32),
    "long": np.dtype(np.int64),
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
}
_BITS: Final[dict[str, np.dtype[Any]]] = {"float": np.dtype(np.int32), "double": np.dtype(np.int64)}
TEXT: Final = (kernels.BYTES, kernels.STRING)
_OFFSET_LIMIT: Final = 1 << 31  # offsets of Arrow strings have 32 bits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """One field."""

    name: str
    kind: int
    null_index: int  # branch of null in its union; -1: it is never null
    arrow: pa.DataType
    symbols: Spans | None  # of an enum
    plain: np.dtype[Any] | None  # numbers of this type are cells, once looked at as bits
    bits: np.dtype[Any] | None  # None: as they are


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What the kernels are told about a flat schema."""

    arrow: pa.Schema
    columns: tuple[Column, ...]
    index: dict[str, int]  # which column a name is
    texts: list[int]  # which columns' cells are positions
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
        index={column.name: f for f, column in enumerate(flat)},
        texts=[f for f, column in enumerate(flat) if column.kind in TEXT],
        kinds=np.array([column.kind for column in flat], np.int8),
        null_index=np.array([column.null_index for column in flat], np.int8),
        symbols=np.array([len(column.symbols or ()) for column in flat], np.int64),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """What a kernel finds in n records of f fields, or writes them from; see `kernels.read_records`."""

    cells: NDArray[np.int64]  # (f, n)
    sizes: NDArray[np.int32]  # (f, n)
    valid: NDArray[np.bool_]  # (f, n)
    good: NDArray[np.bool_]  # (n,)
    nulls: NDArray[np.int64]  # (f,)
    text_bytes: NDArray[np.int64]  # (f,)


def room(plan: Plan, count: int) -> Cells:
    """Where a kernel puts what it finds in so many records."""
    fields = len(plan.columns)
    nulls, text_bytes = np.empty((2, fields), np.int64)
    return Cells(
        cells=np.empty((fields, count), np.int64),
        sizes=np.empty((fields, count), np.int32),
        valid=np.empty((fields, count), np.bool_),
        good=np.empty(count, np.bool_),
        nulls=nulls,
        text_bytes=text_bytes,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a kernel has found in n records; texts begin where their cells say in data."""

    plan: Plan
    cells: NDArray[np.int64]  # (f, n)
    sizes: NDArray[np.int32]  # (f, n)
    valid: NDArray[np.bool_]  # (f, n)
    data: NDArray[np.uint8]
    nulls: list[int]  # (f,)


def found(plan: Plan, cells: Cells, data: NDArray[np.uint8]) -> Found:
    """What a kernel left in these cells.

    Raises:
        ValueError: the texts of one field have more than 2 GiB.
    """
    most = max(has_bytes := cells.text_bytes.tolist())
    if most >= _OFFSET_LIMIT:
        name = plan.columns[has_bytes.index(most)].name
        raise ValueError(f"{name}: found {most} bytes of text, expected less than 2 GiB")
    return Found(plan, cells.cells, cells.sizes, cells.valid, data, cells.nulls.tolist())


def part(found: Found, rows: slice | NDArray[np.int64]) -> Found:
    """Some of the records, on the same data."""

    def some(table: NDArray[Any]) -> NDArray[Any]:
        # A column's cells must stay next to each other, which indexing by an array does not see to.
        return table[:, rows] if isinstance(rows, slice) else np.take(table, rows, axis=1)

    valid, nulls = some(found.valid), found.nulls
    if any(nulls):
        nulls = (~valid).sum(axis=1).tolist()
    return Found(found.plan, some(found.cells), some(found.sizes), valid, found.data, nulls)


def join(parts: Sequence[Found]) -> Found:
    """All records of these, which have the same plan, in order."""
    plan, data = parts[0].plan, parts[0].data
    cells = np.concatenate([part.cells for part in parts], axis=1)
    if any(part.data is not data for part in parts):
        begin, row = 0, 0
        for each in parts:
            count = each.cells.shape[1]
            cells[plan.texts, row : row + count] += begin
            begin, row = begin + len(each.data), row + count
        data = np.concatenate([part.data for part in parts])
    sizes = np.concatenate([part.sizes for part in parts], axis=1)
    valid = np.concatenate([part.valid for part in parts], axis=1)
    nulls = [sum(each) for each in zip(*(part.nulls for part in parts), strict=True)]
    return Found(plan, cells, sizes, valid, data, nulls)


def to_batch(found: Found) -> pa.RecordBatch:
    """All columns for Arrow."""
    return pa.RecordBatch.from_arrays(
        [array(found, f) for f in range(len(found.plan.columns))], schema=found.plan.arrow
    )


def decode(plan: Plan, payloads: Spans) -> tuple[Found, NDArray[np.bool_] | None]:
    """The columns of n records, and which of them (n,) are good; None: all of them.

    Good is exactly one canonical value. What the columns hold where a record is not good means nothing.

    Raises:
        ValueError: the texts of one field have more than 2 GiB.
    """
    cells = room(plan, len(payloads))
    all_good = kernels.read_records(
        payloads.data,
        payloads.starts,
        payloads.ends,
        plan.kinds,
        plan.null_index,
        plan.symbols,
        cells.cells,
        cells.sizes,
        cells.valid,
        cells.good,
        cells.nulls,
        cells.text_bytes,
    )
    return found(plan, cells, payloads.data), None if all_good == len(payloads) else cells.good


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
        plain=_PLAIN.get(inner.kind),
        bits=_BITS.get(inner.kind),
    )


def array(found: Found, f: int) -> pa.Array:
    """One decoded field for Arrow."""
    column, data, cells, sizes = found.plan.columns[f], found.data, found.cells[f], found.sizes[f]
    valid = found.valid[f] if found.nulls[f] else None
    count = len(cells)
    validity = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    if column.symbols is not None:
        symbols = column.symbols
        data, sizes = symbols.data, symbols.sizes[cells].astype(np.int32)
        cells = symbols.starts[cells]
        if valid is not None:
            sizes[~valid] = 0
    if column.symbols is not None or column.kind in TEXT:
        text_bytes = int(sizes.sum(dtype=np.int64))
        if text_bytes >= _OFFSET_LIMIT:  # of several batches together
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
