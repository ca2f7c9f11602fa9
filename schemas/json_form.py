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

from schemas import flat, json_kernels, json_write_kernels, kernels
from schemas.form import Form
from schemas.framing import unframe_id
from schemas.json_rows import PER_S, compile_read, compile_write, plain_float
from schemas.json_schema import json_schema
from schemas.lane import Lane
from schemas.resolve import default_value
from schemas.schema import Schema
from schemas.spans import Spans, spans_of, text_spans
from schemas.tree import NO_DEFAULT, Field, nullable

_Texts = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
_FLOATS: Final = (kernels.FLOAT, kernels.DOUBLE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """What the kernels are told about a flat schema."""

    columns: flat.Plan
    per_s: NDArray[np.int64]  # (f,)
    names: _Texts
    field_of: NDArray[np.int64]  # of each name
    symbols: _Texts
    symbol_at: NDArray[np.int64]  # (f + 1,)
    missing: NDArray[np.int8]  # (f,)
    defaults: flat.Filled  # one record of them
    default_bytes: int
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
    symbols = [column.symbols.to_list() if column.symbols is not None else [] for column in plan.columns]
    missing, values = zip(*(_when_missing(field) for field in fields), strict=True)
    defaults = flat.fill(
        plan,
        {c.name: pa.array([v], c.arrow) for c, v in zip(plan.columns, values, strict=True)},
        1,
        _json_constant,
    )
    for f, value in enumerate(values):
        if plan.kinds[f] == kernels.FLOAT:  # the kernel leaves doubles, here as where it reads them
            defaults.cells[f] = np.array([value], np.float64).view(np.int64)
    keys = [f"{',' if f else '{'}{json.dumps(field.name)}:".encode() for f, field in enumerate(fields)]
    return _Plan(
        columns=plan,
        per_s=np.array([_per_s(field) for field in fields], np.int64),
        names=_texts([name.encode() for name, _ in names]),
        field_of=np.array([f for _, f in names], np.int64),
        symbols=_texts([symbol for some in symbols for symbol in some]),
        symbol_at=np.cumsum([0, *map(len, symbols)]),
        missing=np.array(missing, np.int8),
        defaults=defaults,
        default_bytes=int(defaults.sizes.sum()),
        keys=np.frombuffer(b"".join(keys), np.uint8),
        key_at=np.cumsum([0, *map(len, keys)]),
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
        return json_kernels.DEFAULT, value
    if optional:
        return json_kernels.NULL, _blank(optional[0].kind, optional[0].symbols)
    return json_kernels.REQUIRED, _blank(field.node.kind, field.node.symbols)


def _blank(kind: str, symbols: tuple[str, ...]) -> Any:
    return symbols[0] if kind == "enum" else {"string": "", "bytes": b"", "boolean": False}.get(kind, 0)


def _decode(plan: _Plan, payloads: Spans) -> tuple[pa.RecordBatch, NDArray[np.bool_] | None]:
    """The columns of n payloads, and which of them are good; None: all of them."""
    count, found = len(payloads), flat.room(plan.columns, len(payloads))
    most = int(payloads.sizes.sum()) + count * plan.default_bytes
    out = np.empty(most, np.uint8)
    all_good = json_kernels.read_objects(
        payloads.data,
        payloads.starts,
        payloads.ends,
        plan.columns.kinds,
        plan.per_s,
        plan.columns.null_index,
        plan.names,
        plan.field_of,
        plan.symbols,
        plan.symbol_at,
        plan.missing,
        plan.defaults.cells[:, 0],
        plan.defaults.sizes[:, 0],
        plan.defaults.data,
        found.cells,
        found.sizes,
        found.valid,
        found.good,
        found.nulls,
        found.text_bytes,
        out,
    )
    for f, kind in enumerate(plan.columns.kinds.tolist()):
        if kind == kernels.FLOAT:
            found.cells[f] = found.cells[f].view(np.float64).astype(np.float32).view(np.int32)
    return flat.to_batch(plan.columns, found, out), None if all_good == count else found.good


def _encode(plan: _Plan, columns: Mapping[str, Any], count: int, prefix: bytes) -> Spans:
    """Records from columns, see `flat.fill`."""
    filled = flat.fill(plan.columns, columns, count, _json_constant)
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
    flat.constant(column, value)  # says what is wrong with a value
    found = pa.array([value], column.arrow)
    plain = (found.cast(pa.int64()) if pa.types.is_timestamp(column.arrow) else found)[0].as_py()
    if column.kind == kernels.BYTES:
        plain = base64.b64encode(plain).decode()
    elif column.kind in _FLOATS:
        plain = plain_float("float" if column.kind == kernels.FLOAT else "double", plain)
    return np.frombuffer(json.dumps(plain, ensure_ascii=False).encode(), np.uint8)
