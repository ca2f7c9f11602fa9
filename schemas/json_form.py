"""A schema in JSON: flat ones by the kernels, the rest record by record."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas import flat, json_text_kernels, json_write_kernels, kernels
from schemas.filling import constant, fill, fill_cells
from schemas.form import Form
from schemas.framing import unframe_id
from schemas.json_kernels import find_values
from schemas.json_number_kernels import DEFAULT, NULL, REQUIRED, read_numbers
from schemas.json_rows import PER_S, compile_read, compile_write, plain_float
from schemas.json_schema import json_schema
from schemas.lane import Lane
from schemas.resolve import default_value
from schemas.schema import Schema
from schemas.spans import Spans, spans_of, text_spans
from schemas.tree import NO_DEFAULT, Field, nullable

_Texts = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
_NOTHING: Final = np.zeros(0, np.uint8)
_FLOATS: Final = (kernels.FLOAT, kernels.DOUBLE)
_READS_AS: Final = {
    kernels.STRING: json_text_kernels.AS_TEXT,
    kernels.BYTES: json_text_kernels.AS_BYTES,
    kernels.ENUM: json_text_kernels.AS_SYMBOL,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Field:
    """What the kernels are told about one field."""

    kind: int
    reads_as: int  # how a text is read; -1: never
    per_s: int  # ticks a second of a timestamp; 0: it is none
    is_nullable: bool
    missing: int  # what it is where an object does not have it
    default: int  # its cell then; of bytes and texts:
    default_text: NDArray[np.uint8]
    symbols: _Texts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """What the kernels are told about a flat schema."""

    columns: flat.Plan
    fields: tuple[_Field, ...]
    names: _Texts
    field_of: NDArray[np.int64]  # of each name
    keys: NDArray[np.uint8]
    key_at: NDArray[np.int64]  # (f + 1,)


def json_form(reader: Schema, *, framed: bool) -> Form:
    """A schema in JSON, behind the prefix of a registry or not."""
    plan = _plan(reader)
    return Form(
        lane=Lane(
            reader=reader,
            fast=None if plan is None else partial(_decode, plan),
            read=compile_read(reader),
            unframe=unframe_id if framed else None,
        ),
        write_columns=None if plan is None else partial(_encode, plan),
        write=compile_write(reader),
        write_trusted=compile_write(reader, trusted=True),
        write_typed=compile_write(reader, typed=True),
        registered=("JSON", json.dumps(json_schema(reader), separators=(",", ":"), ensure_ascii=False)),
    )


def _plan(schema: Schema) -> _Plan | None:
    plan = flat.plan(schema)
    if plan is None:
        return None
    fields = schema.tree.fields
    names = [(field.name, f) for f, field in enumerate(fields)]
    names += [(alias, f) for f, field in enumerate(fields) for alias in field.aliases]
    keys = [f"{',' if f else '{'}{json.dumps(field.name)}:".encode() for f, field in enumerate(fields)]
    return _Plan(
        columns=plan,
        fields=tuple(_field(field, column) for field, column in zip(fields, plan.columns, strict=True)),
        names=_texts([name.encode() for name, _ in names]),
        field_of=np.array([f for _, f in names], np.int64),
        keys=np.frombuffer(b"".join(keys), np.uint8),
        key_at=np.cumsum([0, *map(len, keys)]),
    )


def _field(field: Field, column: flat.Column) -> _Field:
    missing, value = _when_missing(field)
    per_s = _per_s(field)
    cells, sizes = np.zeros(1, np.int64), np.zeros(1, np.int32)
    text = fill_cells(column, pa.array([value], column.arrow), cells, sizes, np.ones(1, np.bool_))
    if column.kind == kernels.FLOAT:  # the kernel leaves doubles, here as where it reads them
        cells = np.array([value], np.float64).view(np.int64)
    return _Field(
        kind=column.kind,
        reads_as=_READS_AS.get(column.kind, json_text_kernels.AS_TIME if per_s else -1),
        per_s=per_s,
        is_nullable=column.null_index >= 0,
        missing=missing,
        default=int(cells[0]),
        default_text=_NOTHING if text is None else text,
        symbols=_texts([] if column.symbols is None else column.symbols.to_list()),
    )


def _texts(values: list[bytes]) -> _Texts:
    held = spans_of(values)
    return held.data, held.starts, held.ends


def _per_s(field: Field) -> int:
    optional = nullable(field.node)
    return PER_S.get((optional[0] if optional else field.node).logical, 0)


def _when_missing(field: Field) -> tuple[int, Any]:
    """What a field is that an object does not have, and a value for its cell."""
    optional = nullable(field.node)
    value = None if field.default is NO_DEFAULT else default_value(field.node, field.default)
    if value is not None:
        return DEFAULT, value
    if optional:
        return NULL, _blank(optional[0].kind, optional[0].symbols)
    return REQUIRED, _blank(field.node.kind, field.node.symbols)


def _blank(kind: str, symbols: tuple[str, ...]) -> Any:
    return symbols[0] if kind == "enum" else {"string": "", "bytes": b"", "boolean": False}.get(kind, 0)


def _decode(plan: _Plan, payloads: Spans) -> tuple[flat.Found, NDArray[np.bool_] | None]:
    """The columns of n payloads, and which of them are good; None: all of them."""
    count, found = len(payloads), flat.room(plan.columns, len(payloads))
    begins, stops = np.empty((2, len(plan.fields), count), np.int64)
    data, good = payloads.data, found.good
    find_values(data, payloads.starts, payloads.ends, plan.names, plan.field_of, begins, stops, good)
    found.sizes[:] = 0
    defaults = count * sum(len(field.default_text) for field in plan.fields)
    out, used = np.empty(int(payloads.sizes.sum()) + defaults, np.uint8), 0
    for f, field in enumerate(plan.fields):
        used = _read(field, data, begins[f], stops[f], found, f, out, used)
    all_good = bool(good.all())
    if not all_good:
        found.cells[:, ~good], found.sizes[:, ~good], found.valid[:, ~good] = 0, 0, True
    np.sum(~found.valid, axis=1, out=found.nulls)
    np.sum(found.sizes, axis=1, out=found.text_bytes)
    return flat.found(plan.columns, found, out), None if all_good else good


def _read(
    field: _Field,
    data: NDArray[np.uint8],
    begins: NDArray[np.int64],
    stops: NDArray[np.int64],
    found: flat.Cells,
    f: int,
    out: NDArray[np.uint8],
    used: int,
) -> int:
    """Put one field of all objects into its cells, and return how much of out is taken afterwards."""
    cells, valid = found.cells[f], found.valid[f]
    if field.kind not in _READS_AS:
        read_numbers(
            data,
            begins,
            stops,
            field.kind,
            field.missing,
            field.default,
            field.is_nullable,
            field.per_s > 0,
            cells,
            valid,
            found.good,
        )
    if field.kind == kernels.FLOAT:
        cells[:] = cells.view(np.float64).astype(np.float32).view(np.int32)
    if field.reads_as < 0:
        return used
    return int(
        json_text_kernels.read_texts(
            data,
            begins,
            stops,
            field.reads_as,
            field.per_s,
            field.symbols,
            field.missing,
            field.default,
            field.default_text,
            field.is_nullable,
            out,
            used,
            cells,
            found.sizes[f],
            valid,
            found.good,
        )
    )


def _encode(plan: _Plan, columns: Mapping[str, Any], count: int, prefix: bytes) -> Spans:
    """Records from columns, see `fill`."""
    filled = fill(plan.columns, columns, count, _json_constant)
    data, used, most = [filled.data], len(filled.data), 0
    for f, column in enumerate(plan.columns.columns):
        kind, sizes = filled.kinds[f], filled.sizes[f]
        if kind in _FLOATS or kind == kernels.ENUM:
            texts = (
                _symbols(column, filled.cells[f]) if kind == kernels.ENUM else _numbers(filled.cells[f], kind)
            )
            filled.kinds[f] = kernels.CONSTANT  # bytes that are JSON already
            filled.cells[f] = texts.starts + used
            sizes[:] = texts.sizes
            data.append(texts.data)
            used += len(texts.data)
        width = json_write_kernels.MOST_TEXT_BYTES if kind == kernels.STRING else 2
        most += int(sizes.sum(dtype=np.int64)) * width
    each = len(prefix) + len(plan.keys) + 1 + (json_write_kernels.MOST_NUMBER_BYTES + 4) * len(filled.kinds)
    out, offsets = np.empty(most + count * each, np.uint8), np.zeros(count + 1, np.int64)
    json_write_kernels.write_objects(
        np.frombuffer(prefix, np.uint8),
        plan.keys,
        plan.key_at,
        filled.kinds,
        filled.cells,
        filled.sizes,
        filled.valid,
        np.concatenate(data),
        out,
        offsets[1:],
    )
    return Spans(out, offsets[:-1], offsets[1:])


def _symbols(column: flat.Column, cells: NDArray[np.int64]) -> Spans:
    """The symbols with their quotes, which need no escapes."""
    assert column.symbols is not None
    quoted = spans_of([b'"' + symbol + b'"' for symbol in column.symbols.to_list()])
    return quoted.take(cells)


def _numbers(cells: NDArray[np.int64], kind: int) -> Spans:
    """Numbers by the fewest digits that are only theirs; JSON has no others than finite ones, so: text."""
    bits = cells.astype(np.int32).view(np.float32) if kind == kernels.FLOAT else cells.view(np.float64)
    texts = pa.array(bits).cast(pa.string())
    finite = np.isfinite(bits)
    if not finite.all():
        special = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}
        texts = pa.array([special.get(text, text) for text in texts.to_pylist()], pa.string())
    return text_spans(texts)


@lru_cache(maxsize=1024, typed=True)
def _json_constant(column: flat.Column, value: Any) -> NDArray[np.uint8]:
    """The bytes of one value for all records; most stay the same from batch to batch."""
    if value is None:
        if column.null_index < 0:
            raise ValueError(f"{column.name}: found null, expected a value")
        return np.frombuffer(b"null", np.uint8)
    constant(column, value)  # says what is wrong with a value
    found = pa.array([value], column.arrow)
    plain = (found.cast(pa.int64()) if pa.types.is_timestamp(column.arrow) else found)[0].as_py()
    if column.kind == kernels.BYTES:
        plain = base64.b64encode(plain).decode()
    elif column.kind in _FLOATS:
        plain = plain_float("float" if column.kind == kernels.FLOAT else "double", plain)
    return np.frombuffer(json.dumps(plain, ensure_ascii=False).encode(), np.uint8)
