"""Any record between bytes and Arrow columns by fastavro, one at a time, after the strict walk."""

import io
from collections.abc import Callable
from typing import Any, Final

import fastavro
import fastavro.schema
import fastavro.validation
import numpy as np
import pyarrow as pa
from fastavro.read import SchemaResolutionError

from schemas.resolve import default_value
from schemas.schema import Schema
from schemas.tree import NO_DEFAULT, Json, Node, nullable, to_json
from schemas.walk import Malformed, compile_walk

Row = dict[str, Any]
_TIMES: Final = (pa.timestamp("ms"), pa.timestamp("us"))


def compile_read(writer: Schema, reader: Schema) -> Callable[[bytes], Row]:
    """Return a function from a payload of the writer to a row of the reader.

    Timestamps stay integers. The function raises Malformed for a payload that is not one whole value of the
    writer, or that the reader cannot take (`incompatible_schema`).
    """
    walk = compile_walk(writer.tree)
    writer_json = _parsed(writer.tree)
    reader_json = None if writer is reader else _with_bytes(_parsed(reader.tree), reader.tree)

    def read(payload: bytes) -> Row:
        walk(payload)
        stream = io.BytesIO(payload)
        try:
            row: Row = fastavro.schemaless_reader(stream, writer_json, reader_json)
        except Exception as error:  # after the walk, only what resolution finds
            raise _unreadable(error) from error
        if stream.tell() != len(payload):
            raise Malformed(
                "undecodable", f"found the end after {stream.tell()}, expected {len(payload)} bytes"
            )
        return row

    return read


def _unreadable(error: Exception) -> Malformed:
    if isinstance(error, SchemaResolutionError):  # its message repeats the schemas, not the value
        return Malformed("incompatible_schema", f"found a value that the reader cannot take ({error})")
    if isinstance(error, UnicodeDecodeError):  # bytes of the writer that are a string of the reader
        return Malformed("invalid_utf8", f"found {error.reason} in a field of bytes, expected UTF-8")
    return Malformed("undecodable", f"found {type(error).__name__}, expected a value that fastavro can read")


def to_batch(schema: Schema, rows: list[Row]) -> pa.RecordBatch:
    """Return rows as columns of the schema."""
    arrays = [
        _array([row[field.name] for row in rows], schema.arrow.field(i).type)
        for i, field in enumerate(schema.tree.fields)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema.arrow)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == pa.float32():
        # a double beyond the range of float becomes infinite, as everywhere else in numpy
        with np.errstate(over="ignore"):
            return pa.array([None if value is None else np.float32(value) for value in values], kind)
    return pa.array(values, kind)


def compile_write(schema: Schema, *, typed: bool = False, trusted: bool = False) -> Callable[[Row], bytes]:
    """Return a function from a row to a payload.

    Missing fields take their default; timestamps are integers or datetimes that know their zone. The
    function raises ValueError for a row that is not a value of the schema. Rows whose values come from
    columns have the right types already, and are not asked again; of trusted rows nothing is checked.
    """
    parsed = fastavro.schema.parse_schema(to_json(schema.tree, logical=True))
    walk = compile_walk(schema.tree)

    def write(row: Row) -> bytes:
        stream = io.BytesIO()
        try:
            if not (typed or trusted):  # fastavro would write "no" as the boolean true
                fastavro.validation.validate(row, parsed)
            fastavro.schemaless_writer(stream, parsed, row, strict_allow_default=True)
            if not trusted:
                walk(stream.getvalue())  # fastavro writes an int beyond 32 bits without a word
        except Malformed as error:
            raise ValueError(f"{schema.name}: {error.detail}") from error
        except Exception as error:
            raise ValueError(f"{schema.name}: found no value of the schema ({error})") from error
        return stream.getvalue()

    return write


def to_rows(schema: Schema, table: pa.RecordBatch) -> list[Row]:
    """Return the columns as rows for `compile_write`, timestamps as integers."""
    columns = [
        _plain(column.cast(untimed(column.type)).to_pylist(), field.node)
        for column, field in zip(table.columns, schema.tree.fields, strict=True)
    ]
    names = [field.name for field in schema.tree.fields]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def untimed(kind: pa.DataType) -> pa.DataType:
    """Return the type with integers for timestamps: naive datetimes would be taken as local time."""
    if kind in _TIMES:
        return pa.int64()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(untimed(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, kind.item_field.with_type(untimed(kind.item_type)))
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([field.with_type(untimed(field.type)) for field in fields])
    return kind


def _plain(values: list[Any], node: Node) -> list[Any]:
    return [_plain_value(value, node) for value in values] if _has_map(node) else values


def _plain_value(value: Any, node: Node) -> Any:
    """Return the value with maps as dicts; Arrow gives them as lists of pairs."""
    optional = nullable(node)
    node = optional[0] if optional else node
    if value is None:
        return None
    if node.kind == "map":
        return {key: _plain_value(item, node.inner) for key, item in value}
    if node.kind == "array":
        return [_plain_value(item, node.inner) for item in value]
    if node.kind == "record":
        return {field.name: _plain_value(value[field.name], field.node) for field in node.fields}
    return value


def _has_map(node: Node) -> bool:
    below = [*node.branches, *(field.node for field in node.fields), *([node.items] if node.items else [])]
    return node.kind == "map" or any(_has_map(child) for child in below)


def _parsed(node: Node) -> Json:
    return fastavro.schema.parse_schema(to_json(node, logical=False))


def _with_bytes(parsed: Json, node: Node) -> Json:
    """Replace the defaults by the values they stand for: fastavro hands them out as they are written."""
    if node.kind == "union":
        for document, branch in zip(parsed, node.branches, strict=True):
            _with_bytes(document, branch)
    elif isinstance(parsed, dict) and node.kind in {"array", "map"}:
        _with_bytes(parsed["items" if node.kind == "array" else "values"], node.inner)
    elif isinstance(parsed, dict) and node.kind == "record":
        for document, field in zip(parsed["fields"], node.fields, strict=True):
            if field.default is not NO_DEFAULT:
                document["default"] = default_value(field.node, field.default)
            _with_bytes(document["type"], field.node)
    return parsed
