"""A schema in Protobuf: flat ones by the kernels, the rest record by record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas import flat, kernels, proto_kernels, proto_write_kernels
from schemas.filling import Filled, constant, fill
from schemas.form import Form
from schemas.framing import index_bytes, unframe_index
from schemas.json_rows import PER_S
from schemas.lane import Lane
from schemas.proto_layout import NOT_THERE, WIRES, Layout, Slot, derived, zero_of
from schemas.proto_rows import compile_read
from schemas.proto_text import proto_text
from schemas.proto_write_rows import RANGES, compile_write, put_field, put_tag
from schemas.schema import Schema
from schemas.spans import Spans

_NO_NUMBER: Final = -(1 << 62)  # of a symbol that the message does not have
_ZEROS: Final = {"string": "", "bytes": b"", "bool": False}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """What the kernels are told about a flat schema."""

    columns: flat.Plan
    slots: tuple[Slot, ...]
    numbers: NDArray[np.int64]  # (f,)
    codes: NDArray[np.int8]  # (f,)
    wires: NDArray[np.int8]  # (f,)
    per_s: NDArray[np.int64]  # (f,)
    symbols: NDArray[np.int64]  # the numbers of all enums' symbols
    symbol_at: NDArray[np.int64]  # (f + 1,)
    missing: NDArray[np.int8]  # (f,)
    defaults: Filled  # one record of them
    widened: tuple[int, ...]  # fields that are floats in the message and doubles in the schema
    tags: NDArray[np.uint8]
    tag_at: NDArray[np.int64]  # (f + 1,)


def proto_form(reader: Schema, message: Layout | None, *, framed: bool) -> Form:
    """A schema as a Protobuf message, behind the prefix of a registry or not.

    Args:
        reader: the schema.
        message: which one; None: the derived one, which a registry can be told about.
        framed: whether the path of the message in its file stands in front.

    Raises:
        SchemaError: the schema is nothing that Protobuf can hold.
    """
    layout = derived(reader) if message is None else message
    plan = _plan(reader, layout)
    return Form(
        lane=Lane(
            reader=reader,
            fast=None if plan is None else partial(_decode, plan),
            read=compile_read(layout),
            unframe=partial(unframe_index, path=layout.path) if framed else None,
        ),
        write_columns=None if plan is None else partial(_encode, plan, partial(_constant, plan)),
        write=compile_write(reader, layout),
        write_trusted=compile_write(reader, layout, trusted=True),
        write_typed=compile_write(reader, layout, typed=True),
        registered=("PROTOBUF", proto_text(reader) if message is None else ""),
        frame=index_bytes(layout.path) if framed else b"",
    )


def _plan(schema: Schema, layout: Layout) -> _Plan | None:
    plan = flat.plan(schema)
    if plan is None:
        return None
    slots = layout.slots
    numbers = [_symbol_numbers(slot) for slot in slots]
    tags = [put_tag(slot.number, WIRES[slot.kind]) for slot in slots]
    missing, values = zip(*(_when_missing(slot) for slot in slots), strict=True)
    columns = {c.name: pa.array([v], c.arrow) for c, v in zip(plan.columns, values, strict=True)}
    return _Plan(
        columns=plan,
        slots=slots,
        numbers=np.array([slot.number for slot in slots], np.int64),
        codes=np.array([proto_kernels.CODES[slot.kind] for slot in slots], np.int8),
        wires=np.array([WIRES[slot.kind] for slot in slots], np.int8),
        per_s=np.array([PER_S.get(slot.node.logical, 0) for slot in slots], np.int64),
        symbols=np.array([number for some in numbers for number in some], np.int64),
        symbol_at=np.cumsum([0, *map(len, numbers)]),
        missing=np.array(missing, np.int8),
        defaults=fill(plan, columns, 1, constant),
        widened=tuple(f for f, s in enumerate(slots) if (s.kind, s.node.kind) == ("float", "double")),
        tags=np.frombuffer(b"".join(tags), np.uint8),
        tag_at=np.cumsum([0, *map(len, tags)]),
    )


def _symbol_numbers(slot: Slot) -> list[int]:
    """The number of each symbol of the schema; those that the message does not have get one that none has."""
    known = {symbol: number for number, symbol in slot.symbols.items()}
    return [known.get(symbol, _NO_NUMBER) for symbol in slot.node.symbols]


def _when_missing(slot: Slot) -> tuple[int, Any]:
    """What a field is that a message does not have, and a value for its cell."""
    value = slot.absent if slot.has_presence else zero_of(slot)
    blank = slot.node.symbols[0] if slot.kind == "enum" else _ZEROS.get(slot.kind, 0)
    if value is None:
        return proto_kernels.NULL, blank
    is_widened = (slot.kind, slot.node.kind) == ("float", "double")  # then its cell has the bits of a float
    if value is NOT_THERE or (is_widened and value):
        return proto_kernels.REQUIRED, blank
    return proto_kernels.DEFAULT, value


def _decode(plan: _Plan, payloads: Spans) -> tuple[flat.Found, NDArray[np.bool_] | None]:
    """The columns of n payloads, and which of them are good; None: all of them."""
    count, found = len(payloads), flat.room(plan.columns, len(payloads))
    data, cells = payloads.data, plan.defaults.cells[:, 0]
    if len(plan.defaults.data):  # texts that stand for absent ones
        cells = np.where(
            [kind in flat.TEXT for kind in plan.columns.kinds.tolist()], cells + len(data), cells
        )
        data = np.concatenate([data, plan.defaults.data])
    all_good = proto_kernels.read_messages(
        data,
        payloads.starts,
        payloads.ends,
        plan.columns.kinds,
        plan.numbers,
        plan.codes,
        plan.wires,
        plan.per_s,
        plan.symbols,
        plan.symbol_at,
        plan.missing,
        cells,
        plan.defaults.sizes[:, 0],
        found.cells,
        found.sizes,
        found.valid,
        found.good,
        found.nulls,
        found.text_bytes,
    )
    for f in plan.widened:
        found.cells[f] = found.cells[f].astype(np.int32).view(np.float32).astype(np.float64).view(np.int64)
    return flat.found(plan.columns, found, data), None if all_good == count else found.good


def _encode(
    plan: _Plan,
    encode_constant: Callable[[flat.Column, Any], NDArray[np.uint8]],
    columns: Mapping[str, Any],
    count: int,
    prefix: bytes,
) -> Spans:
    """Records from columns, see `fill`.

    Raises:
        ValueError: also for what the message cannot hold.
    """
    filled = fill(plan.columns, columns, count, encode_constant)
    for f, slot in enumerate(plan.slots):
        if filled.kinds[f] != kernels.CONSTANT:
            _check(slot, filled.valid[f])
            filled.cells[f] = _cells(slot, filled.cells[f], filled.valid[f])
    most = count * (len(prefix) + proto_write_kernels.MOST_BYTES * len(plan.slots))
    most += int(filled.sizes.sum(dtype=np.int64))
    out, offsets = np.empty(most, np.uint8), np.zeros(count + 1, np.int64)
    proto_write_kernels.write_messages(
        np.frombuffer(prefix, np.uint8),
        plan.tags,
        plan.tag_at,
        filled.kinds,
        plan.codes,
        plan.per_s,
        filled.cells,
        filled.sizes,
        filled.valid,
        filled.data,
        out,
        offsets[1:],
    )
    return Spans(out, offsets[:-1], offsets[1:])


def _check(slot: Slot, valid: NDArray[np.bool_]) -> None:
    if not slot.number and (valid.any() or slot.absent is not None):
        raise ValueError(f"{slot.name}: found no such field in the message, expected one to write it to")
    if not slot.has_presence and not valid.all():
        raise ValueError(f"{slot.name}: found null, expected a value: its field has no presence")


def _cells(slot: Slot, cells: NDArray[np.int64], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Cells of the schema's type as those of the message's."""
    if slot.kind == "enum":
        numbers = np.array(_symbol_numbers(slot), np.int64)[cells]
        if (numbers[valid] == _NO_NUMBER).any():
            raise ValueError(f"{slot.name}: found a symbol that the message's enum does not have")
        return numbers
    if (slot.kind, slot.node.kind) == ("float", "double"):
        with np.errstate(over="ignore"):
            return cells.view(np.float64).astype(np.float32).view(np.int32).astype(np.int64)
    lowest, highest = RANGES.get(slot.kind, (-(1 << 63), (1 << 63) - 1))
    if valid.any() and not lowest <= cells[valid].min() <= cells[valid].max() <= highest:
        raise ValueError(f"{slot.name}: found a number that is no {slot.kind}, expected one")
    return cells


@lru_cache(maxsize=1024, typed=True)
def _constant(plan: _Plan, column: flat.Column, value: Any) -> NDArray[np.uint8]:
    """The bytes of one value for all records, with its tag; most stay the same from batch to batch."""
    constant(column, value)  # says what is wrong with a value
    slot = next(slot for slot in plan.slots if slot.name == column.name)
    found = pa.array([value], column.arrow)
    plain = (found.cast(pa.int64()) if pa.types.is_timestamp(column.arrow) else found)[0].as_py()
    return np.frombuffer(put_field(slot, plain), np.uint8)
