"""Texts of JSON as the cells of a column, compiled: unescaped, and as bytes, symbols or times."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from schemas import array_types as t

AS_TEXT, AS_BYTES, AS_SYMBOL, AS_TIME = range(4)
REQUIRED, NULL, DEFAULT = range(3)  # as in `json_number_kernels`


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _byte_at(data: Any, at: int, end: int) -> Any:
    """The byte there; 0, which nothing in JSON begins with, at the end."""
    return np.int64(data[at]) if at < end else np.int64(0)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _hex_of_4(data: Any, at: int, end: int) -> Any:
    """The number of four hexadecimal digits; -1 where there are no four."""
    if at + 4 > end:
        return -1
    number = np.int64(0)
    for j in range(4):
        byte = np.int64(data[at + j])
        if 48 <= byte <= 57:
            number = number * 16 + byte - 48
        elif 97 <= byte | 32 <= 102:
            number = number * 16 + (byte | 32) - 87
        else:
            return -1
    return number


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_utf8(out: Any, to: int, code: int) -> Any:
    if code < 0x80:
        out[to] = code
        return to + 1
    if code < 0x800:
        out[to] = 0xC0 | (code >> 6)
        out[to + 1] = 0x80 | (code & 0x3F)
        return to + 2
    if code < 0x10000:
        out[to] = 0xE0 | (code >> 12)
        out[to + 1] = 0x80 | ((code >> 6) & 0x3F)
        out[to + 2] = 0x80 | (code & 0x3F)
        return to + 3
    out[to] = 0xF0 | (code >> 18)
    out[to + 1] = 0x80 | ((code >> 12) & 0x3F)
    out[to + 2] = 0x80 | ((code >> 6) & 0x3F)
    out[to + 3] = 0x80 | (code & 0x3F)
    return to + 4


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _unescape(data: Any, at: int, end: int, out: Any, to: int) -> Any:  # noqa: PLR0912 a grammar
    """Copy a text from behind its first quote: (position behind its last one, end of the copy); -1 if bad."""
    while at < end:
        byte = np.int64(data[at])
        at += 1
        if byte == 34:
            return at, to
        if byte < 32:
            return -1, to
        if byte != 92:
            out[to] = byte
            to += 1
            continue
        byte = _byte_at(data, at, end)
        at += 1
        if byte == 117:  # u
            code = _hex_of_4(data, at, end)
            at += 4
            if (
                0xD800 <= code < 0xDC00
                and _byte_at(data, at, end) == 92
                and _byte_at(data, at + 1, end) == 117
            ):
                low = _hex_of_4(data, at + 2, end)
                if not 0xDC00 <= low < 0xE000:
                    return -1, to
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                at += 6
            if code < 0 or 0xD800 <= code < 0xE000:
                return -1, to
            to = _put_utf8(out, to, code)
            continue
        if byte in (34, 92, 47):
            out[to] = byte
        elif byte == 110:
            out[to] = 10
        elif byte == 116:
            out[to] = 9
        elif byte == 114:
            out[to] = 13
        elif byte == 98:
            out[to] = 8
        elif byte == 102:
            out[to] = 12
        else:
            return -1, to
        to += 1
    return -1, to


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _two(data: Any, at: int) -> Any:
    """A number of two digits; -1000 where there are none."""
    high, low = np.int64(data[at]) - 48, np.int64(data[at + 1]) - 48
    return high * 10 + low if 0 <= high <= 9 and 0 <= low <= 9 else np.int64(-1000)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _days(year: int, month: int, day: int) -> Any:
    """Days since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms")."""
    year -= month <= 2
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _time_of(data: Any, at: int, end: int, per_s: int) -> Any:  # noqa: PLR0911 a grammar
    """(ticks since 1970, whether it is one) of a time as RFC 3339 writes it; finer digits are cut off."""
    if (
        end - at < 20
        or data[at + 4] != 45
        or data[at + 7] != 45
        or data[at + 13] != 58
        or data[at + 16] != 58
    ):
        return np.int64(0), False
    if data[at + 10] not in (84, 116, 32):
        return np.int64(0), False
    year = _two(data, at) * 100 + _two(data, at + 2)
    month, day = _two(data, at + 5), _two(data, at + 8)
    hour, minute, second = _two(data, at + 11), _two(data, at + 14), _two(data, at + 17)
    if year < 1 or not 1 <= month <= 12 or day < 1:
        return np.int64(0), False
    if not 0 <= hour <= 23 or not 0 <= minute <= 59 or not 0 <= second <= 59:
        return np.int64(0), False
    first = _days(year, month, 1)
    following = _days(year, month + 1, 1) if month < 12 else _days(year + 1, 1, 1)
    if day > following - first:
        return np.int64(0), False
    at += 19
    ticks, unit = np.int64(0), per_s
    if data[at] == 46:
        at += 1
        begin = at
        while at < end and 48 <= data[at] <= 57:
            unit //= 10
            ticks += (np.int64(data[at]) - 48) * unit
            at += 1
        if at == begin:
            return np.int64(0), False
    east_minutes = np.int64(0)
    zone = _byte_at(data, at, end)
    if zone in (90, 122):
        at += 1
    elif zone in (43, 45) and at + 6 <= end and data[at + 3] == 58:
        hours, minutes = _two(data, at + 1), _two(data, at + 4)
        if not 0 <= hours <= 23 or not 0 <= minutes <= 59:
            return np.int64(0), False
        east_minutes = (hours * 60 + minutes) * (1 if zone == 43 else -1)
        at += 6
    else:
        return np.int64(0), False
    seconds = (first + day - 1) * 86400 + hour * 3600 + (minute - east_minutes) * 60 + second
    return seconds * per_s + ticks, at == end


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sextet(byte: int) -> Any:
    """What a letter of base64 stands for; -1 where it is none."""
    if 65 <= byte <= 90:
        return byte - 65
    if 97 <= byte <= 122:
        return byte - 71
    if 48 <= byte <= 57:
        return byte + 4
    if byte == 43:
        return 62
    return 63 if byte == 47 else -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _from_base64(out: Any, at: int, end: int) -> Any:
    """Decode padded base64 in place, and return the end; -1 where it is none."""
    if (end - at) % 4:
        return -1
    to = at
    while at < end:
        pads = 0
        if at + 4 == end:
            pads = (out[end - 1] == 61) + (out[end - 1] == 61 and out[end - 2] == 61)
        bits = np.int64(0)
        for j in range(4 - pads):
            part = _sextet(np.int64(out[at + j]))
            if part < 0:
                return -1
            bits |= part << (18 - 6 * j)
        if (pads == 1 and bits & 0xFF) or (pads == 2 and bits & 0xFFFF):
            return -1  # bits that no byte has room for
        for j in range(3 - pads):
            out[to] = (bits >> (16 - 8 * j)) & 0xFF
            to += 1
        at += 4
    return to


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _symbol_of(out: Any, at: int, end: int, symbols: Any) -> Any:
    """Which of the symbols is written there; -1: none."""
    for k in range(symbols[1].shape[0]):
        begin = symbols[1][k]
        same = symbols[2][k] - begin == end - at
        j = 0
        while same and j < end - at:
            same = out[at + j] == symbols[0][begin + j]
            j += 1
        if same:
            return k
    return -1


@njit(
    t.INT64(
        t.BYTES,
        t.INT64S,
        t.INT64S,
        t.INT64,
        t.INT64,
        t.NAMES,
        t.INT64,
        t.INT64,
        t.BYTES,
        t.BOOL,
        t.OUT_BYTES,
        t.INT64,
        t.OUT_INT64S,
        t.OUT_INT32S,
        t.OUT_BOOLS,
        t.OUT_BOOLS,
    ),
    cache=True,
    nogil=True,
)  # type: ignore[untyped-decorator]
def read_texts(  # noqa: PLR0912 one pass serves every kind
    data: Any,
    begins: Any,
    stops: Any,
    what: int,
    per_s: int,
    symbols: Any,
    missing: int,
    default: int,
    default_text: Any,
    is_nullable: bool,
    out: Any,
    used: int,
    cells: Any,
    sizes: Any,
    valid: Any,
    good: Any,
) -> Any:
    """Read the texts of one field; records without a certain one are no longer good.

    Args:
        data: uint8.
        begins, stops: (n,) int64, see `json_kernels.find_values`.
        what: AS_TEXT, AS_BYTES (base64), AS_SYMBOL, or AS_TIME, which leaves records without a text alone.
        per_s: ticks a second of a time.
        symbols: (bytes, begin, end) of an enum's.
        missing: what the field is where it is not there: REQUIRED, NULL or DEFAULT.
        default: its cell then; of texts and bytes it is default_text.
        default_text: uint8.
        is_nullable: whether it may be null.
        out: uint8, filled from `used` on with texts and bytes.
        used: how much of out is taken.
        cells: (n,) int64, filled: where bytes and texts begin in out, the index of a symbol, or ticks.
        sizes: (n,) int32, filled: how long they are; 0 for others.
        valid: (n,) bool, filled: False where it is null.
        good: (n,) bool, only ever set to False.

    Returns:
        How much of out is taken afterwards.
    """
    for i in range(begins.shape[0]):
        if what == AS_TIME and (not good[i] or begins[i] < 0 or data[begins[i]] != 34):
            continue
        cells[i], sizes[i], valid[i] = 0, 0, True
        if not good[i]:
            continue
        if begins[i] < 0:
            cells[i], valid[i], good[i] = default, missing != NULL, missing != REQUIRED
            if what <= AS_BYTES and missing == DEFAULT:
                cells[i], sizes[i] = used, default_text.shape[0]
                for j in range(default_text.shape[0]):
                    out[used + j] = default_text[j]
                used += default_text.shape[0]
            continue
        first = data[begins[i]]
        if first != 34:
            valid[i], good[i] = False, is_nullable and first == 110
            continue
        at, stop = _unescape(data, begins[i] + 1, stops[i], out, used)
        good[i] = at == stops[i]
        if not good[i]:
            continue
        if what == AS_SYMBOL:
            cells[i] = _symbol_of(out, used, stop, symbols)
            good[i] = cells[i] >= 0
        elif what == AS_TIME:
            cells[i], good[i] = _time_of(out, used, stop, per_s)
        else:
            if what == AS_BYTES:
                stop = _from_base64(out, used, stop)
            good[i] = stop >= 0
            if good[i]:
                cells[i], sizes[i] = used, stop - used
                used = stop
    return used
