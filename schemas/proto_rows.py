"""One Protobuf message to a row of an Avro schema: strict, and says what is wrong where."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from schemas import slow
from schemas.json_rows import PER_S
from schemas.proto_layout import (
    END_GROUP,
    FIXED32,
    FIXED64,
    LENGTH,
    NANOS,
    NOT_THERE,
    PACKED,
    SHORT_BYTES,
    VARINT,
    WIRES,
    Layout,
    Slot,
    zero_of,
)
from schemas.tree import Node
from schemas.walk import Malformed

_MOST_NUMBER: Final = (1 << 29) - 1
_DEEPEST: Final = 64  # groups within each other, in what nobody asked for
_SPANS: Final = {"int": 1 << 31, "long": 1 << 63}
_WORDS: Final = ("a varint", "8 bytes", "bytes with a length", "a group", "the end of a group", "4 bytes")


def compile_read(layout: Layout) -> Callable[[bytes], slow.Row]:
    """Return a function from a payload to a row; timestamps are integers.

    The function raises Malformed for what is no message of the layout. Further fields are ignored, as far as
    they are fields.
    """
    by_number = _by_number(layout.slots)

    def read(payload: bytes) -> slow.Row:
        return _message(payload, 0, len(payload), layout.slots, by_number)

    return read


def _by_number(slots: tuple[Slot, ...]) -> dict[int, Slot]:
    return {slot.number: slot for slot in slots if slot.number}


def _message(data: bytes, at: int, end: int, slots: tuple[Slot, ...], by_number: dict[int, Slot]) -> slow.Row:
    found: dict[str, Any] = {}
    while at < end:
        number, wire, at = _tag(data, at, end)
        slot = by_number.get(number)
        if slot is None:
            at = _skip(data, at, end, number, wire, 0)
            continue
        try:
            at = _field(data, at, end, slot, wire, found)
        except Malformed as error:
            error.path.insert(0, slot.name)
            raise
    row: slow.Row = {}
    for slot in slots:
        value = found[slot.name] if slot.name in found else _absent(slot)
        if value is NOT_THERE:
            missing = Malformed("missing_field", "found nothing, expected a value (it has no default)")
            missing.path.insert(0, slot.name)
            raise missing
        row[slot.name] = value
    return row


def _absent(slot: Slot) -> Any:
    return slot.absent if slot.has_presence or slot.shape != "one" else zero_of(slot)


def _tag(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    tag, at = _short(data, at, end)
    if not 1 <= tag >> 3 <= _MOST_NUMBER or tag & 7 > FIXED32:
        raise Malformed("bad_tag", f"found tag {tag} in front of byte {at}, expected a field of a message")
    return tag >> 3, tag & 7, at


def _short(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number of a tag or a length: other readers refuse one in more bytes than 32 bits need."""
    number, after = _varint(data, at, end)
    if after - at > SHORT_BYTES:
        raise Malformed("bad_varint", f"found {after - at} bytes, expected at most {SHORT_BYTES}")
    return number, after


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    raw = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise Malformed("truncated", f"found the end after {at} bytes, expected more of a number")
        byte = data[at]
        at += 1
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            if raw >> 64:
                break
            return raw, at
    raise Malformed("bad_varint", "found a number beyond 64 bits, expected at most 64")


def _span(data: bytes, at: int, end: int) -> tuple[int, int]:
    size, at = _short(data, at, end)
    if size > end - at:
        raise Malformed("truncated", f"found {end - at} bytes, expected {size}")
    return at, at + size


def _fixed(at: int, end: int, size: int) -> int:
    if size > end - at:
        raise Malformed("truncated", f"found {end - at} bytes, expected {size}")
    return at + size


def _skip(data: bytes, at: int, end: int, number: int, wire: int, depth: int) -> int:
    """The position behind a field that nobody asked for."""
    if wire == VARINT:
        return _varint(data, at, end)[1]
    if wire == LENGTH:
        return _span(data, at, end)[1]
    if wire in (FIXED32, FIXED64):
        return _fixed(at, end, 4 if wire == FIXED32 else 8)
    if wire == END_GROUP or depth == _DEEPEST:
        raise Malformed("bad_tag", f"found {_WORDS[wire]}, expected a field")
    while True:
        inner, wire, at = _tag(data, at, end)
        if wire == END_GROUP and inner == number:
            return at
        at = _skip(data, at, end, inner, wire, depth + 1)


def _field(data: bytes, at: int, end: int, slot: Slot, wire: int, found: dict[str, Any]) -> int:
    """Put the value of one field into a row, and return the position behind it."""
    if slot.shape == "map":
        return _entry(data, at, end, slot, wire, found.setdefault(slot.name, {}))
    if slot.shape == "many":
        items = found.setdefault(slot.name, [])
        if wire == LENGTH and WIRES[slot.kind] != LENGTH:  # packed
            at, stop = _span(data, at, end)
            while at < stop:
                value, at = _value(data, at, stop, slot)
                items.append(value)
            return stop
        _check_wire(slot, wire)
        value, at = _value(data, at, end, slot)
        items.append(value)
        return at
    _check_wire(slot, wire)
    if slot.name in found:
        raise Malformed("duplicate_field", "found it twice, expected it once")
    found[slot.name], at = _value(data, at, end, slot)
    return at


def _check_wire(slot: Slot, wire: int) -> None:
    if wire != WIRES[slot.kind]:
        expected = f"{_WORDS[WIRES[slot.kind]]} ({slot.kind})"
        raise Malformed("wrong_type", f"found {_WORDS[wire]}, expected {expected}")


def _entry(data: bytes, at: int, end: int, slot: Slot, wire: int, out: dict[str, Any]) -> int:
    """Put one entry of a map into it."""
    if wire != LENGTH:
        raise Malformed("wrong_type", f"found {_WORDS[wire]}, expected {_WORDS[LENGTH]} (map entry)")
    at, stop = _span(data, at, end)
    key, value = "", NOT_THERE
    while at < stop:
        number, wire, at = _tag(data, at, stop)
        if number == 1 and wire == LENGTH:
            first, at = _span(data, at, stop)
            key = _text(data[first:at])
        elif number == 2:
            _check_wire(slot, wire)
            value, at = _value(data, at, stop, slot)
        else:
            at = _skip(data, at, stop, number, wire, 0)
    if value is NOT_THERE:
        value = _nothing(slot)
    if key in out:
        raise Malformed("duplicate_field", "found a key twice, expected it once")
    out[key] = value
    return stop


def _nothing(slot: Slot) -> Any:
    if slot.kind == "message":
        return _message(b"", 0, 0, slot.slots, {})
    value = zero_of(slot)
    if value is NOT_THERE:
        raise Malformed("bad_enum", "found number 0, expected a symbol of the schema")
    return value


def _value(data: bytes, at: int, end: int, slot: Slot) -> tuple[Any, int]:
    """(value, position behind it)."""
    wire = WIRES[slot.kind]
    if wire == VARINT:
        raw, at = _varint(data, at, end)
        return _from_varint(raw, slot), at
    if wire == LENGTH:
        first, stop = _span(data, at, end)
        return _from_bytes(data, first, stop, slot), stop
    stop = _fixed(at, end, struct.calcsize(PACKED[slot.kind]))
    value = struct.unpack(PACKED[slot.kind], data[at:stop])[0]
    return (value if isinstance(value, float) else _whole(value, slot)), stop


def _from_varint(raw: int, slot: Slot) -> Any:
    if slot.kind == "bool":
        if raw > 1:
            raise Malformed("bad_boolean", f"found {raw}, expected 0 or 1")
        return bool(raw)
    if slot.kind in {"sint32", "sint64"}:
        return _whole((raw >> 1) ^ -(raw & 1), slot)
    if slot.kind in {"uint32", "uint64"}:
        return _whole(raw, slot)
    number = raw - (1 << 64) if raw >> 63 else raw
    return _symbol(number, slot) if slot.kind == "enum" else _whole(number, slot)


def _whole(number: int, slot: Slot) -> int:
    narrow = 1 << 32 if slot.kind in {"uint32", "fixed32"} else 1 << (31 if slot.kind.endswith("32") else 63)
    limit = min(narrow, _SPANS[slot.node.kind])
    if not -limit <= number < limit:
        raise Malformed("out_of_range", f"found a number beyond {slot.node.kind}, expected one of it")
    return number


def _symbol(number: int, slot: Slot) -> str | None:
    if number in slot.symbols:
        return slot.symbols[number]
    if slot.node.default_symbol:
        return slot.node.default_symbol
    if number == 0 and slot.is_nullable:  # ..._UNSPECIFIED
        return None
    known = ", ".join(f"{symbol} ({at})" for at, symbol in slot.symbols.items())
    raise Malformed("bad_enum", f"found number {number}, expected one of {known}")


def _from_bytes(data: bytes, at: int, end: int, slot: Slot) -> Any:
    if slot.kind == "message":
        return _message(data, at, end, slot.slots, _by_number(slot.slots))
    if slot.kind == "timestamp":
        return _ticks(data, at, end, PER_S[slot.node.logical])
    if slot.kind == "string":
        return _text(data[at:end])
    if slot.node.kind == "fixed" and end - at != slot.node.size:
        raise Malformed("out_of_range", f"found {end - at} bytes, expected {slot.node.size}")
    return data[at:end]


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"found {error.reason} at byte {error.start}, expected UTF-8"
        raise Malformed("invalid_utf8", detail) from error


_LONG: Final = Node(kind="long", least_bytes=1)
_TIME_SLOTS: Final = tuple(
    Slot(name=name, number=number, kind=kind, node=_LONG, has_presence=False)
    for number, (name, kind) in enumerate((("seconds", "int64"), ("nanos", "int32")), 1)
)


def _ticks(data: bytes, at: int, end: int, per_s: int) -> int:
    """Ticks since 1970 of a google.protobuf.Timestamp; finer ones are cut off."""
    time = _message(data, at, end, _TIME_SLOTS, _by_number(_TIME_SLOTS))
    if not 0 <= time["nanos"] < NANOS:
        raise Malformed("bad_timestamp", f"found {time['nanos']} nanoseconds, expected 0 to {NANOS - 1}")
    ticks = time["seconds"] * per_s + time["nanos"] * per_s // NANOS
    if not -(1 << 63) <= ticks < 1 << 63:
        raise Malformed("out_of_range", "found a time beyond 64 bits, expected at most 64")
    return int(ticks)
