"""Protobuf messages of a flat schema to cells, compiled: one pass over the bytes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from schemas import array_types as t
from schemas.proto_layout import SHORT_BYTES

NULL, DEFAULT, REQUIRED = range(3)  # what a field is that a message does not have
_KINDS: Final = (
    *("bool", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "enum"),  # varints
    *("fixed32", "fixed64", "sfixed32", "sfixed64", "float", "double"),
    *("string", "bytes", "timestamp"),  # with a length
)
CODES: Final = {kind: code for code, kind in enumerate(_KINDS)}
_BOOL, _INT32, _INT64, _UINT32, _UINT64, _SINT32, _SINT64, _ENUM = range(8)
_FIXED32, _FIXED64, _SFIXED32, _SFIXED64, _FLOAT, _DOUBLE, _STRING, _BYTES, _TIMESTAMP = range(8, 17)
_1 = np.uint64(1)
_7 = np.uint64(7)
_LOW_32 = np.uint64(0xFFFFFFFF)
INT = 1  # as in `kernels`
_NANOS = np.int64(1_000_000_000)
_FARTHEST_S = np.int64(9_000_000_000_000)  # times a million, this fits 64 bits


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_proto_utf8(data: Any, at: int, end: int) -> bool:
    """Whether the bytes are UTF-8: shortest forms, no surrogates, nothing past U+10FFFF."""
    while at < end:
        first = data[at]
        if first < 0x80:
            at += 1
            continue
        if first < 0xC2 or first > 0xF4:
            return False
        more = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
        if at + more >= end:
            return False
        low, high = 0x80, 0xBF
        if first == 0xE0:
            low = 0xA0
        elif first == 0xED:
            high = 0x9F
        elif first == 0xF0:
            low = 0x90
        elif first == 0xF4:
            high = 0x8F
        if data[at + 1] < low or data[at + 1] > high:
            return False
        for j in range(2, more + 1):
            if data[at + j] < 0x80 or data[at + j] > 0xBF:
                return False
        at += more + 1
    return True


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _read_varint(data: Any, at: int, end: int) -> Any:
    """(raw number, next position); position -1 where it is cut short or beyond 64 bits."""
    raw = np.uint64(0)
    for k in range(10):
        if at >= end:
            return raw, -1
        byte = np.uint64(data[at])
        at += 1
        raw |= (byte & np.uint64(0x7F)) << np.uint64(7 * k)
        if byte < 0x80:
            return raw, -1 if k == 9 and byte > 1 else at
    return raw, -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _read_short(data: Any, at: int, end: int) -> Any:
    """The same of a tag or a length, whose varint must not be longer than 32 bits need."""
    raw, after = _read_varint(data, at, end)
    return raw, -1 if after - at > SHORT_BYTES else after


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _read_little(data: Any, at: int, width: int) -> Any:
    bits = np.uint64(0)
    for j in range(width):
        bits |= np.uint64(data[at + j]) << np.uint64(8 * j)
    return bits


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _read_time(data: Any, at: int, end: int, per_s: int) -> Any:
    """(ticks since 1970, whether it is certain) of a google.protobuf.Timestamp."""
    seconds, nanos, last = np.int64(0), np.int64(0), 0
    while at < end:
        tag = data[at]
        if tag not in (8, 16) or tag <= last:  # in order, each once
            return np.int64(0), False
        last = tag
        raw, at = _read_varint(data, at + 1, end)
        if at < 0:
            return np.int64(0), False
        if tag == 8:
            seconds = np.int64(raw)
        else:
            nanos = np.int64(raw)
    if not -_FARTHEST_S < seconds < _FARTHEST_S or not 0 <= nanos < _NANOS:
        return np.int64(0), False
    return seconds * per_s + nanos // (_NANOS // per_s), True


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _whole_of(raw: Any, code: int, kind: int) -> Any:
    """(number, whether it fits) of a varint or of fixed bytes."""
    if code in (_SINT32, _SINT64):
        number = np.int64(raw >> _1) ^ -np.int64(raw & _1)
    elif code == _SFIXED32:
        number = np.int64(raw) - (np.int64(1 << 32) if raw >> np.uint64(31) else np.int64(0))
    else:
        number = np.int64(raw)
    fits: Any = True
    if code in (_INT32, _SINT32) or kind == INT:
        fits = -(1 << 31) <= number < 1 << 31
    elif code == _UINT32:
        fits = raw <= _LOW_32
    elif code in (_UINT64, _FIXED64):
        fits = number >= 0
    return number, fits


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _skip_field(data: Any, at: int, end: int, wire: int) -> Any:
    """The position behind a field that nobody asked for; -1 if bad, or a group."""
    if wire == 0:
        return _read_varint(data, at, end)[1]
    if wire == 2:
        size, at = _read_short(data, at, end)
        return -1 if at < 0 or size > np.uint64(end - at) else at + np.int64(size)
    if wire in (1, 5):
        at += 8 if wire == 1 else 4
        return at if at <= end else -1
    return -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find_slot(numbers: Any, number: int, guess: int) -> Any:
    count = numbers.shape[0]
    for k in range(count):
        f = guess + k
        f -= count if f >= count else 0
        if numbers[f] == number:
            return f
    return -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _read_value(  # noqa: PLR0911 one for each kind
    data: Any, at: int, end: int, code: int, kind: int, per_s: int, symbols: Any
) -> Any:
    """(position behind it or -1, cell, size)."""
    if code <= _ENUM:
        raw, at = _read_varint(data, at, end)
        if at < 0:
            return -1, np.int64(0), 0
        if code == _BOOL:
            return at if raw <= _1 else -1, np.int64(raw), 0
        if code == _ENUM:
            for k in range(symbols.shape[0]):
                if symbols[k] == np.int64(raw):
                    return at, np.int64(k), 0
            return -1, np.int64(0), 0
        number, fits = _whole_of(raw, code, kind)
        return at if fits else -1, number, 0
    if code >= _STRING:
        size, at = _read_short(data, at, end)
        if at < 0 or size > np.uint64(end - at):
            return -1, np.int64(0), 0
        stop = at + np.int64(size)
        if code == _TIMESTAMP:
            ticks, is_time = _read_time(data, at, stop, per_s)
            return stop if is_time else -1, ticks, 0
        if code == _STRING and not _is_proto_utf8(data, at, stop):
            return -1, np.int64(0), 0
        return stop, np.int64(at), np.int64(size)
    width = 8 if code in (_FIXED64, _SFIXED64, _DOUBLE) else 4
    if at + width > end:
        return -1, np.int64(0), 0
    raw = _read_little(data, at, width)
    if code in (_FLOAT, _DOUBLE):
        return at + width, np.int64(raw), 0
    number, fits = _whole_of(raw, code, kind)
    return at + width if fits else -1, number, 0


@njit(
    t.INT64(
        t.BYTES,
        t.INT64S,
        t.INT64S,
        t.INT8S,
        t.INT64S,
        t.INT8S,
        t.INT8S,
        t.INT64S,
        t.INT64S,
        t.INT64S,
        t.INT8S,
        t.INT64S,
        t.INT32S,
        t.OUT_INT64_TABLE,
        t.OUT_INT32_TABLE,
        t.OUT_BOOL_TABLE,
        t.OUT_BOOLS,
        t.OUT_INT64S,
        t.OUT_INT64S,
    ),
    cache=True,
    nogil=True,
)  # type: ignore[untyped-decorator]
def read_messages(
    data: Any,
    starts: Any,
    ends: Any,
    kinds: Any,
    numbers: Any,
    codes: Any,
    wires: Any,
    per_s: Any,
    symbols: Any,
    symbol_at: Any,
    missing: Any,
    default_cells: Any,
    default_sizes: Any,
    cells: Any,
    sizes: Any,
    valid: Any,
    good: Any,
    nulls: Any,
    text_bytes: Any,
) -> Any:
    """Read messages of a flat schema; those about which anything is unusual are not good.

    Args:
        data, starts, ends, kinds, cells, sizes, valid, good, nulls, text_bytes: as in `kernels.read_records`.
        numbers: (f,) int64 of the fields in the message; 0: it has none.
        codes, wires: (f,) int8 of CODES, and the wire type.
        per_s: (f,) int64 ticks a second of a timestamp.
        symbols: int64, the numbers of the symbols of all enums.
        symbol_at: (f + 1,) int64 where the symbols of each field begin.
        missing: (f,) int8 what a field is that is not there: REQUIRED, NULL or DEFAULT.
        default_cells, default_sizes: (f,) as cells and sizes, positions being in data.

    Returns:
        How many are good.
    """
    fields, all_good = kinds.shape[0], 0
    nulls[:], text_bytes[:] = 0, 0
    seen = np.full(fields, -1, np.int64)
    for i in range(starts.shape[0]):
        at, end, guess = starts[i], ends[i], 0
        while 0 <= at < end:
            tag, at = _read_short(data, at, end)
            number, wire = tag >> np.uint64(3), np.int64(tag & _7)
            if at < 0 or number < 1 or number > np.uint64((1 << 29) - 1):
                at = -1
                break
            f = _find_slot(numbers, np.int64(number), guess)
            if f < 0:
                at = _skip_field(data, at, end, wire)
                continue
            if wire != wires[f] or seen[f] == i:
                at = -1
                break
            at, cell, size = _read_value(
                data, at, end, codes[f], kinds[f], per_s[f], symbols[symbol_at[f] : symbol_at[f + 1]]
            )
            seen[f], guess = i, f + 1
            cells[f, i], sizes[f, i], valid[f, i] = cell, size, True
        is_whole = at == end
        for f in range(fields):
            if is_whole and seen[f] != i:
                is_whole = missing[f] != REQUIRED
                cells[f, i], sizes[f, i], valid[f, i] = default_cells[f], default_sizes[f], missing[f] != NULL
        good[i] = is_whole
        all_good += is_whole
        for f in range(fields):
            if not is_whole:
                cells[f, i], sizes[f, i], valid[f, i] = 0, 0, True
            elif not valid[f, i]:
                cells[f, i], sizes[f, i] = 0, 0
                nulls[f] += 1
            else:
                text_bytes[f] += sizes[f, i]
    return all_good
