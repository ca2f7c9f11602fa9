"""Flat records between bytes and Arrow columns by pyruhvro, with the checks it leaves out in numpy."""

import json
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.schema import Schema, arrow_type
from schemas.tree import Json, Node, nullable

try:
    import pyruhvro
except ImportError:  # no wheel for this platform: the slow path does everything
    pyruhvro = None

_FIXED_BYTES: Final = {"boolean": 1, "float": 4, "double": 8}
_VARIABLE: Final = frozenset({"int", "long", "string", "bytes", "enum"})
# a number of ten bytes may carry bits beyond the 64th, which pyruhvro drops without a word
_TEN_BYTES: Final = np.uint64(1 << 63)
_INT_SPAN: Final = np.uint64(1 << 32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """How one field is read, measured and written."""

    kind: str
    optional: bool
    arrow: pa.DataType
    symbols: pa.Array | None  # of an enum
    text: bool  # a string, which must be UTF-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What pyruhvro is told about a flat schema."""

    decode_text: str  # int as long and bytes as string, so that nothing is narrowed or refused unseen
    encode_text: str
    arrow: pa.Schema
    columns: tuple[Column, ...]
    constant_bytes: int  # encoded size of the parts that have the same size in every record


def plan(schema: Schema) -> Plan | None:
    """Return how to read and write a schema fast, or None when it is not flat or pyruhvro is not there."""
    columns = [_column(field.node) for field in schema.tree.fields]
    flat = [column for column in columns if column is not None]
    if pyruhvro is None or not flat or len(flat) < len(columns):
        return None
    fields = [(f.name, f.node) for f in schema.tree.fields]
    decode_text = json.dumps(_flat_json(fields, {"int": "long", "bytes": "string"}))
    try:  # it parses a text once, which takes up to 0.4 s the first time: better now than in a batch
        _guarded(pyruhvro.avro_to_arrow_schema, decode_text)
    except Exception:
        return None
    return Plan(
        decode_text=decode_text,
        encode_text=json.dumps(_flat_json(fields, {"bytes": "string"})),
        arrow=schema.arrow,
        columns=tuple(flat),
        constant_bytes=sum(1 if column.optional else _FIXED_BYTES.get(column.kind, 0) for column in flat),
    )


def decode(
    plan: Plan, payloads: list[bytes], sizes: NDArray[np.int64]
) -> tuple[pa.RecordBatch, NDArray[np.bool_]]:
    """Return the columns, and which rows (n,) may be wrong and need the strict walk.

    A row that is not marked is exactly the canonical encoding of its columns. A marked row whose payload
    passes the walk has right columns too.

    Args:
        plan: of the schema that all payloads were written with.
        payloads: n records.
        sizes: (n,) length of each.

    Raises:
        Exception: of any kind, when one of the payloads cannot be read.
    """
    batch = _guarded(pyruhvro.deserialize_array, payloads, plan.decode_text)
    count = len(payloads)
    measured = np.full(count, plan.constant_bytes, np.int64)
    suspects = np.zeros(count, np.bool_)
    arrays = []
    for column, array in zip(plan.columns, batch.columns, strict=True):
        arrays.append(_measure(column, array, measured, suspects))
    suspects |= measured != sizes
    return pa.RecordBatch.from_arrays(arrays, schema=plan.arrow), suspects


def readable(plan: Plan, payloads: list[bytes]) -> bool:
    """Return whether pyruhvro reads all the payloads; it names none of those that it cannot read."""
    try:
        _guarded(pyruhvro.deserialize_array, payloads, plan.decode_text)
    except Exception:
        return False
    return True


def encode(plan: Plan, table: pa.RecordBatch) -> list[bytes]:
    """Return the payloads of a batch that has exactly the plan's columns and no null where none may be."""
    if table.num_rows == 0:
        return []
    arrays = [
        array.view(pa.string()) if column.kind == "bytes" else array
        for column, array in zip(plan.columns, table.columns, strict=True)
    ]
    batch = pa.RecordBatch.from_arrays(arrays, names=plan.arrow.names)
    parts: list[Any] = _guarded(pyruhvro.serialize_record_batch, batch, plan.encode_text, 1)
    return [payload for part in parts for payload in part.to_pylist()]


def _guarded(function: Any, *arguments: Any) -> Any:
    """Call into pyruhvro; a panic there becomes a RuntimeError (it is a BaseException, like Ctrl-C)."""
    try:
        return function(*arguments)
    except Exception:
        raise
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(f"pyruhvro panicked: {error}") from error


def _column(node: Node) -> Column | None:
    optional = nullable(node)
    inner = optional[0] if optional else node
    if inner.kind not in _VARIABLE and inner.kind not in _FIXED_BYTES:
        return None
    return Column(
        kind=inner.kind,
        optional=optional is not None,
        arrow=arrow_type(inner),
        symbols=pa.array(inner.symbols, pa.string()) if inner.kind == "enum" else None,
        text=inner.kind == "string",
    )


def _flat_json(fields: list[tuple[str, Node]], instead: dict[str, str]) -> Json:
    """Return a record schema with a name of its own for every enum, so that none is declared twice."""
    out = []
    for number, (name, node) in enumerate(fields):
        optional = nullable(node)
        inner, null_index = optional if optional else (node, -1)
        kind: Json = instead.get(inner.kind, inner.kind)
        if inner.kind == "enum":
            kind = {"type": "enum", "name": f"E{number}", "symbols": list(inner.symbols)}
        elif inner.logical:
            kind = {"type": "long", "logicalType": inner.logical}
        union = [kind, "null"] if null_index == 1 else ["null", kind]
        out.append({"name": name, "type": union if optional else kind})
    return {"type": "record", "name": "Flat", "fields": out}


def _measure(
    column: Column, array: pa.Array, sizes: NDArray[np.int64], suspects: NDArray[np.bool_]
) -> pa.Array:
    """Return the array in its final type; add its encoded sizes, mark the rows that need a second look."""
    if column.kind in _FIXED_BYTES and not column.optional:
        return array
    valid = None if array.null_count == 0 else array.is_valid().to_numpy(zero_copy_only=False)
    if column.kind in _FIXED_BYTES:
        _add(sizes, np.int64(_FIXED_BYTES[column.kind]), valid)
        return array
    if column.kind in {"int", "long"}:
        return _measure_number(column, array, valid, sizes, suspects)
    if column.kind == "enum":
        _add(sizes, _enum_bytes(column, array), valid)
        return array
    lengths = np.diff(_offsets(array)).astype(np.int64)
    _add(sizes, lengths + _varint_bytes(lengths.astype(np.uint64) << np.uint64(1)), valid)
    if column.text:
        _mark_bad_text(array, suspects)
        return array
    return array.view(pa.binary())


def _measure_number(
    column: Column,
    array: pa.Array,
    valid: NDArray[np.bool_] | None,
    sizes: NDArray[np.int64],
    suspects: NDArray[np.bool_],
) -> pa.Array:
    values = np.frombuffer(array.buffers()[1], np.int64, len(array), 8 * array.offset)
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    _add(sizes, _varint_bytes(zigzag), valid)
    limit = _INT_SPAN if column.kind == "int" else _TEN_BYTES
    if len(zigzag) and zigzag.max() >= limit:
        suspects |= (zigzag >= limit) if valid is None else (zigzag >= limit) & valid
    if column.kind == "long":
        return array
    return pa.array(values.astype(np.int32), mask=None if valid is None else ~valid)


def _add(
    sizes: NDArray[np.int64], more: NDArray[np.int64] | np.int64, valid: NDArray[np.bool_] | None
) -> None:
    sizes += more if valid is None else more * valid


def _varint_bytes(raw: NDArray[np.uint64]) -> NDArray[np.int64] | np.int64:
    """Return how many bytes each unsigned number takes; one number when all take the same."""
    if len(raw) == 0:
        return np.int64(0)
    least, most = _bytes_of(int(raw.min())), _bytes_of(int(raw.max()))
    if least == most:
        return np.int64(least)
    out = np.full(len(raw), least, np.int64)
    for length in range(least, most):
        out += raw >= np.uint64(1 << (7 * length))
    return out


def _bytes_of(raw: int) -> int:
    return max(1, -(-raw.bit_length() // 7))


def _enum_bytes(column: Column, array: pa.Array) -> NDArray[np.int64] | np.int64:
    if column.symbols is None or len(column.symbols) <= 64:  # indices to 63 take one byte
        return np.int64(1)
    index = pc.index_in(array, value_set=column.symbols).fill_null(0).to_numpy()
    return _varint_bytes(index.astype(np.uint64) << np.uint64(1))


def _offsets(array: pa.Array) -> NDArray[np.int32]:
    return np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset)


def _mark_bad_text(array: pa.Array, suspects: NDArray[np.bool_]) -> None:
    data = array.buffers()[2]
    if data is None or data.size == 0 or np.frombuffer(data, np.uint8).max() < 0x80:
        return  # ASCII throughout
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        for row, value in enumerate(array.view(pa.binary()).to_pylist()):
            suspects[row] |= not _is_utf8(value)


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or value.decode("utf-8") is not None
    except UnicodeDecodeError:
        return False
