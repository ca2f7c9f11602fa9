"""Columns from anywhere (numpy, lists, constants) as the Arrow batch of a schema."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.resolve import default_value
from schemas.schema import Schema
from schemas.tree import NO_DEFAULT, Field


def to_table(schema: Schema, columns: Mapping[str, Any], *, rows: int | None = None) -> pa.RecordBatch:
    """Return a batch with the columns of the schema.

    Args:
        schema: every field without a default must have a column.
        columns: by field name; each an array of n values (numpy, Arrow, list or tuple) or one constant (str,
            bytes, number, bool, None, dict) that stands for n equal values. Timestamps are integers in the
            unit of the field, or numpy datetimes. Nulls are None, or masked values of a numpy masked array.
        rows: n, needed when every column is a constant.

    Raises:
        ValueError: unknown or missing column, unequal lengths, a null where the schema has none, or a value
            that the type cannot hold.
    """
    unknown = columns.keys() - set(schema.arrow.names)
    if unknown:
        raise ValueError(f"{schema.name}: found columns {sorted(unknown)}, expected {schema.arrow.names}")
    count = _count(schema, columns, rows)
    arrays = []
    for index, field in enumerate(schema.tree.fields):
        kind = schema.arrow.field(index)
        array = _array(_value(schema, field, columns), kind.type, count, field.name)
        if len(array) != count:
            raise ValueError(f"{field.name}: found {len(array)} values, expected {count}")
        if array.null_count and not kind.nullable:
            raise ValueError(f"{field.name}: found {array.null_count} nulls, expected none")
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema.arrow)


def _count(schema: Schema, columns: Mapping[str, Any], rows: int | None) -> int:
    if rows is not None:
        return rows
    for value in columns.values():
        if _is_array(value):
            return len(value)
    raise ValueError(f"{schema.name}: found only constants, expected an array or the number of rows")


def _value(schema: Schema, field: Field, columns: Mapping[str, Any]) -> Any:
    if field.name in columns:
        return columns[field.name]
    if field.default is NO_DEFAULT:
        raise ValueError(f"{schema.name}: found no column {field.name}, expected it (it has no default)")
    value = default_value(field.node, field.default)
    return pa.scalar(value, schema.arrow.field(field.name).type)


def _is_array(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, pa.Array | pa.ChunkedArray | list | tuple)


def _array(value: Any, kind: pa.DataType, count: int, name: str) -> pa.Array:
    try:
        if isinstance(value, pa.Scalar):
            return pa.repeat(value, count)
        if not _is_array(value):
            return pa.repeat(pa.scalar(value.item() if isinstance(value, np.generic) else value, kind), count)
        if isinstance(value, pa.ChunkedArray):
            value = value.combine_chunks()
        if isinstance(value, pa.Array):
            return value if value.type == kind else value.cast(kind)
        if isinstance(value, np.ndarray) and kind == pa.float32():
            return pa.array(value.astype(np.float32, copy=False))
        return pa.array(value, kind)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise ValueError(f"{name}: found a value that is no {kind} ({error})") from error
