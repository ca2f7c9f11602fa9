"""One row of an Avro schema to a Protobuf message."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from schemas import slow
from schemas.json_rows import PER_S, ticks_of
from schemas.proto_layout import LENGTH, NANOS, NOT_THERE, PACKED, VARINT, WIRES, Layout, Slot
from schemas.resolve import default_value
from schemas.schema import Schema
from schemas.tree import NO_DEFAULT

_INT_RANGE: Final = (-(1 << 31), (1 << 31) - 1)
RANGES: Final = {  # of what a message holds less of than 64 bits with a sign
    **dict.fromkeys(("int32", "sint32", "sfixed32"), _INT_RANGE),
    **dict.fromkeys(("uint32", "fixed32"), (0, (1 << 32) - 1)),
    **dict.fromkeys(("uint64", "fixed64"), (0, (1 << 63) - 1)),
}


def compile_write(
    schema: Schema, layout: Layout, *, typed: bool = False, trusted: bool = False
) -> Callable[[slow.Row], bytes]:
    """Return a function from a row to a payload; which rows it takes is said at `slow.compile_write`.

    The function also raises ValueError for a value that the message cannot hold: a null of a field without
    presence, a symbol that its enum does not have, a field that it does not have.
    """
    check = None if trusted else slow.compile_write(schema, typed=typed)
    defaults = {field.name: field for field in schema.tree.fields}

    def write(row: slow.Row) -> bytes:
        if check is not None:
            check(row)
        whole = {
            name: row[name] if name in row else default_value(field.node, field.default)
            for name, field in defaults.items()
            if name in row or field.default is not NO_DEFAULT
        }
        return _put_message(layout.slots, whole)

    return write


def _put_message(slots: tuple[Slot, ...], row: slow.Row) -> bytes:
    return b"".join(
        put_field(slot, row[slot.name] if slot.name in row else _of_record(slot)) for slot in slots
    )


def _of_record(slot: Slot) -> Any:
    if slot.absent is NOT_THERE:
        raise ValueError(f"{slot.name}: found nothing, expected a value (it has no default)")
    return slot.absent


def put_field(slot: Slot, value: Any) -> bytes:
    """One field with its tag; nothing where it is null.

    Raises:
        ValueError: the message cannot hold it.
    """
    if not slot.number and value == slot.absent:
        return b""
    if not slot.number:
        raise ValueError(f"{slot.name}: found no such field in the message, expected one to write it to")
    if slot.shape == "map":
        return b"".join(_put_entry(slot, key, item) for key, item in value.items())
    if slot.shape == "many":
        if WIRES[slot.kind] == LENGTH:
            return b"".join(put_tag(slot.number, LENGTH) + _put(slot, item) for item in value)
        packed = b"".join(_put(slot, item) for item in value)
        return put_tag(slot.number, LENGTH) + _sized(packed) if value else b""
    if value is None:
        if not slot.has_presence:
            raise ValueError(f"{slot.name}: found null, expected a value: its field has no presence")
        return b""
    return put_tag(slot.number, WIRES[slot.kind]) + _put(slot, value)


def _put_entry(slot: Slot, key: str, item: Any) -> bytes:
    entry = put_tag(1, LENGTH) + _sized(key.encode()) + put_tag(2, WIRES[slot.kind]) + _put(slot, item)
    return put_tag(slot.number, LENGTH) + _sized(entry)


def put_tag(number: int, wire: int) -> bytes:
    """What stands in front of a field."""
    return put_varint(number << 3 | wire)


def put_varint(raw: int) -> bytes:
    """A number of 64 bits without a sign."""
    out = bytearray()
    while raw >= 0x80:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    return bytes([*out, raw])


def _sized(data: bytes) -> bytes:
    return put_varint(len(data)) + data


def _put(slot: Slot, value: Any) -> bytes:  # noqa: PLR0911 one for each kind
    """One value, without its tag."""
    kind = slot.kind
    if kind in PACKED:
        return _put_fixed(slot, value)
    if kind == "message":
        return _sized(_put_message(slot.slots, value))
    if kind == "timestamp":
        return _sized(_put_time(ticks_of(value, PER_S[slot.node.logical]), PER_S[slot.node.logical]))
    if kind in {"string", "bytes"}:
        return _sized(value.encode() if kind == "string" else value)
    if kind == "enum":
        return put_varint(number_of(slot, value) & (1 << 64) - 1)
    number = ticks_of(value, PER_S[slot.node.logical]) if slot.node.logical else int(value)
    lowest, highest = RANGES.get(kind, (number, number))
    if not lowest <= number <= highest:
        raise ValueError(f"{slot.name}: found a number that is no {kind}, expected one")
    if kind in {"sint32", "sint64"}:
        return put_varint((number << 1 ^ number >> 63) & (1 << 64) - 1)
    return put_varint(number & (1 << 64) - 1)


def _put_fixed(slot: Slot, value: Any) -> bytes:
    if slot.kind == "float":
        with np.errstate(over="ignore"):  # beyond float it becomes infinite, as everywhere else in numpy
            value = np.float32(value)
    elif slot.kind != "double" and slot.node.logical:
        value = ticks_of(value, PER_S[slot.node.logical])
    try:
        return struct.pack(PACKED[slot.kind], value)
    except struct.error as error:
        raise ValueError(f"{slot.name}: found a number that is no {slot.kind}, expected one") from error


def number_of(slot: Slot, symbol: str) -> int:
    """The number of an enum's value in the message.

    Raises:
        ValueError: it has none.
    """
    for number, known in slot.symbols.items():
        if known == symbol:
            return number
    raise ValueError(f"{slot.name}: found a symbol that the message's enum does not have, expected another")


def _put_time(ticks: int, per_s: int) -> bytes:
    seconds, rest = divmod(ticks, per_s)
    out = put_tag(1, VARINT) + put_varint(seconds & (1 << 64) - 1) if seconds else b""
    return out + (put_tag(2, VARINT) + put_varint(rest * (NANOS // per_s)) if rest else b"")
