"""JSON objects of a flat schema to cells, compiled: one pass, and nothing is taken that is not certain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from schemas import array_types as t
from schemas.decimal_kernels import double_bits, read_number
from schemas.kernels import BOOLEAN, BYTES, DOUBLE, ENUM, FLOAT, INT, STRING, _is_utf8

REQUIRED, NULL, DEFAULT = range(3)  # what a field is that an object does not have
_DEEPEST = 60  # containers within each other, where a field is skipped; the reader of single records goes on
_MOST_NEGATIVE = np.uint64(1 << 63)
_NAN_BITS = np.int64(0x7FF8000000000000)
_INFINITY_BITS = np.int64(0x7FF0000000000000)
_TOO_BIG_BITS = np.float64(3.4028235677973366e38).view(np.int64)  # from here on, 32 bits make it infinite
_SIGN_BIT = np.int64(-(1 << 63))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _byte(data: Any, at: int, end: int) -> Any:
    """The byte there; 0, which nothing in JSON begins with, at the end."""
    return np.int64(data[at]) if at < end else np.int64(0)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _blank(data: Any, at: int, end: int) -> Any:
    """The first position that is not white space."""
    while at < end and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _hex4(data: Any, at: int, end: int) -> Any:
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
def _text(data: Any, at: int, end: int, out: Any, to: int) -> Any:  # noqa: PLR0912 a grammar
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
        byte = _byte(data, at, end)
        at += 1
        if byte == 117:  # u
            code = _hex4(data, at, end)
            at += 4
            if 0xD800 <= code < 0xDC00 and _byte(data, at, end) == 92 and _byte(data, at + 1, end) == 117:
                low = _hex4(data, at + 2, end)
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
def _skip_text(data: Any, at: int, end: int) -> Any:
    """The position behind a text, from behind its first quote; -1 if bad."""
    while at < end:
        byte = data[at]
        at += 1
        if byte == 34:
            return at
        if byte < 32:
            return -1
        if byte == 92:
            byte = _byte(data, at, end)
            at += 1
            if byte == 117:
                if _hex4(data, at, end) < 0:
                    return -1
                at += 4
            elif byte not in (34, 92, 47, 98, 102, 110, 114, 116):
                return -1
    return -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _word(data: Any, at: int, end: int) -> Any:
    """(which of true, false, null; position behind it): 1, 0, 2, or -1 where there is none of them."""
    if at + 4 <= end and data[at + 1] == 114 and data[at + 2] == 117 and data[at + 3] == 101:
        if data[at] == 116:
            return 1, at + 4
    elif at + 4 <= end and data[at + 1] == 117 and data[at + 2] == 108 and data[at + 3] == 108:
        if data[at] == 110:
            return 2, at + 4
    elif at + 5 <= end and data[at] == 102 and data[at + 1] == 97 and data[at + 2] == 108:
        return (0, at + 5) if data[at + 3] == 115 and data[at + 4] == 101 else (-1, -1)
    return -1, -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _skip_scalar(data: Any, at: int, end: int) -> Any:
    first = _byte(data, at, end)
    if first == 34:
        return _skip_text(data, at + 1, end)
    if first == 45 or 48 <= first <= 57:
        return read_number(data, at, end)[4]
    return _word(data, at, end)[1]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _skip(data: Any, at: int, end: int) -> Any:  # noqa: PLR0911, PLR0912 a grammar
    """The position behind any value; -1 if bad, or deeper than is looked at."""
    kinds, depth = np.uint64(0), 0  # a bit for each container that is open: 1 for an object
    while True:
        first = _byte(data, at, end)
        opened = first in (123, 91)
        if opened:
            if depth == _DEEPEST:
                return -1
            depth += 1
            kinds = (kinds << np.uint64(1)) | np.uint64(first == 123)
            at = _blank(data, at + 1, end)
        else:
            at = _skip_scalar(data, at, end)
            if at < 0:
                return -1
        while True:  # close what ends here
            if depth == 0:
                return at
            is_object = kinds & np.uint64(1) == 1
            if not opened:
                at = _blank(data, at, end)
            if _byte(data, at, end) == (125 if is_object else 93):
                at += 1
                depth -= 1
                kinds >>= np.uint64(1)
                opened = False
                continue
            break
        if not opened:
            if _byte(data, at, end) != 44:
                return -1
            at = _blank(data, at + 1, end)
        if is_object:
            if _byte(data, at, end) != 34:
                return -1
            at = _skip_text(data, at + 1, end)
            if at < 0:
                return -1
            at = _blank(data, at, end)
            if _byte(data, at, end) != 58:
                return -1
            at = _blank(data, at + 1, end)


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
def _time(data: Any, at: int, end: int, per_s: int) -> Any:  # noqa: PLR0911 a grammar
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
    zone = _byte(data, at, end)
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
def _base64(out: Any, at: int, end: int) -> Any:
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
def _special(out: Any, at: int, end: int) -> Any:
    """The bits of the double that a text names as NaN, Infinity or -Infinity; 0 where it names none."""
    if end - at == 3 and out[at] == 78 and out[at + 1] == 97 and out[at + 2] == 78:
        return _NAN_BITS
    falls = end > at and out[at] == 45
    at += falls
    if end - at != 8:
        return np.int64(0)
    for j, letter in enumerate((73, 110, 102, 105, 110, 105, 116, 121)):
        if out[at + j] != letter:
            return np.int64(0)
    return _INFINITY_BITS | (_SIGN_BIT if falls else np.int64(0))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find(data: Any, at: int, end: int, names: Any, guess: int) -> Any:
    """Which of the names is written there: the guess first; -1: none."""
    count = names[1].shape[0]
    for k in range(count):
        name = (guess + k) % count
        begin = names[1][name]
        if names[2][name] - begin != end - at:
            continue
        same = True
        for j in range(end - at):
            if data[at + j] != names[0][begin + j]:
                same = False
                break
        if same:
            return name
    return -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _number_cell(kind: int, digits: Any, power: int, falls: bool, is_whole: bool) -> Any:
    """(cell, whether the number is certain to be a value of this kind)."""
    if kind in (FLOAT, DOUBLE):
        bits = np.int64(double_bits(digits, power))
        if bits == _INFINITY_BITS:
            return bits, False
        return bits | (_SIGN_BIT if falls else np.int64(0)), True
    if not is_whole or digits > (_MOST_NEGATIVE if falls else _MOST_NEGATIVE - np.uint64(1)):
        return np.int64(0), False
    number = -np.int64(digits) if falls else np.int64(digits)
    return number, kind != INT or -(1 << 31) <= number < 1 << 31


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _value(  # noqa: PLR0911 a grammar
    data: Any, at: int, end: int, kind: int, per_s: int, symbols: Any, out: Any, to: int
) -> Any:
    """Read one value: (position behind it or -1, cell, size, end of what was copied to out, is null)."""
    byte = _byte(data, at, end)
    if byte == 110:
        word, at = _word(data, at, end)
        return at, np.int64(0), 0, to, True
    if byte == 34:
        at, stop = _text(data, at + 1, end, out, to)
        if at < 0:
            return -1, np.int64(0), 0, to, False
        if kind == STRING:
            return at, to, stop - to, stop, False
        if kind == BYTES:
            stop = _base64(out, to, stop)
            return -1 if stop < 0 else at, to, stop - to, max(stop, to), False
        if kind == ENUM:
            symbol = _find(out, to, stop, symbols, 0)
            return -1 if symbol < 0 else at, symbol, 0, to, False
        if kind in (FLOAT, DOUBLE):
            bits = _special(out, to, stop)
            return at if bits else -1, bits, 0, to, False
        if per_s:
            ticks, is_time = _time(out, to, stop, per_s)
            return at if is_time else -1, ticks, 0, to, False
        return -1, np.int64(0), 0, to, False
    if kind == BOOLEAN:
        word, at = _word(data, at, end)
        return at if 0 <= word <= 1 else -1, word, 0, to, False
    if kind in (STRING, BYTES, ENUM):
        return -1, np.int64(0), 0, to, False
    digits, power, falls, is_whole, at = read_number(data, at, end)
    if at < 0:
        return -1, np.int64(0), 0, to, False
    cell, fits = _number_cell(kind, digits, power, falls, is_whole)
    return at if fits else -1, cell, 0, to, False


@njit(
    t.INT64(
        t.BYTES,
        t.INT64S,
        t.INT64S,
        t.INT8S,
        t.INT64S,
        t.INT8S,
        t.NAMES,
        t.INT64S,
        t.NAMES,
        t.INT64S,
        t.INT8S,
        t.INT64S,
        t.INT32S,
        t.BYTES,
        t.OUT_INT64_TABLE,
        t.OUT_INT32_TABLE,
        t.OUT_BOOL_TABLE,
        t.OUT_BOOLS,
        t.OUT_INT64S,
        t.OUT_INT64S,
        t.OUT_BYTES,
    ),
    cache=True,
    nogil=True,
)  # type: ignore[untyped-decorator]
def read_objects(  # noqa: PLR0912, PLR0915 one pass serves every kind
    data: Any,
    starts: Any,
    ends: Any,
    kinds: Any,
    per_s: Any,
    null_index: Any,
    names: Any,
    field_of: Any,
    symbols: Any,
    symbol_at: Any,
    missing: Any,
    default_cells: Any,
    default_sizes: Any,
    default_data: Any,
    cells: Any,
    sizes: Any,
    valid: Any,
    good: Any,
    nulls: Any,
    text_bytes: Any,
    out: Any,
) -> Any:
    """Read objects of a flat schema; those about which anything is unusual are not good.

    Args:
        data, starts, ends, kinds, null_index, cells, sizes, valid, good, nulls, text_bytes: as in
            `kernels.read_records`, except that bytes and texts begin in out, not in data, and that a float's
            cell has the bits of a double.
        per_s: (f,) int64 ticks a second of a timestamp; 0: it is none.
        names: (bytes, begin, end) of k names, in the order of the fields, aliases after them.
        field_of: (k,) int64 the field of each name.
        symbols: (bytes, begin, end) of the symbols of all enums.
        symbol_at: (f + 1,) int64 where the symbols of each field begin.
        missing: (f,) int8 what a field is that is not there: REQUIRED, NULL or DEFAULT.
        default_cells, default_sizes: (f,) as cells and sizes, positions being in default_data.
        default_data: uint8.
        out: uint8, as many as all payloads have and default_data for each of them, filled.

    Returns:
        How many are good.
    """
    fields, used, all_good = kinds.shape[0], 0, 0
    nulls[:], text_bytes[:] = 0, 0
    seen = np.full(fields, -1, np.int64)
    for i in range(starts.shape[0]):
        at, end, begin, guess = starts[i], ends[i], used, 0
        is_whole = _is_utf8(data, at, end)
        at = _blank(data, at, end)
        is_whole = is_whole and _byte(data, at, end) == 123
        at = _blank(data, at + 1, end)
        closed = is_whole and _byte(data, at, end) == 125
        while is_whole and not closed:
            key = at + 1
            is_whole = _byte(data, at, end) == 34
            at = key
            while is_whole and _byte(data, at, end) != 34:
                is_whole = at < end and data[at] >= 32 and data[at] != 92
                at += 1
            if not is_whole:
                break
            name = _find(data, key, at, names, guess)
            at = _blank(data, at + 1, end)
            is_whole = _byte(data, at, end) == 58
            at = _blank(data, at + 1, end)
            if not is_whole:
                break
            if name < 0:
                at = _skip(data, at, end)
                is_whole = at >= 0
            else:
                f, guess = field_of[name], name + 1
                first, last = symbol_at[f], symbol_at[f + 1]
                known = (symbols[0], symbols[1][first:last], symbols[2][first:last])
                at, cell, size, used, is_null = _value(data, at, end, kinds[f], per_s[f], known, out, used)
                is_whole = at >= 0 and seen[f] != i and not (is_null and null_index[f] < 0)
                if kinds[f] == FLOAT and is_whole:
                    size_bits = cell & ~_SIGN_BIT
                    is_whole = size_bits < _TOO_BIG_BITS or size_bits >= _INFINITY_BITS
                seen[f] = i
                cells[f, i], sizes[f, i], valid[f, i] = cell, size, not is_null
            if not is_whole:
                break
            at = _blank(data, at, end)
            closed = _byte(data, at, end) == 125
            if not closed:
                is_whole = _byte(data, at, end) == 44
                at = _blank(data, at + 1, end)
        is_whole = is_whole and _blank(data, at + 1, end) == end
        for f in range(fields):
            if not is_whole or seen[f] == i:
                continue
            is_whole = missing[f] != REQUIRED
            cells[f, i], sizes[f, i], valid[f, i] = default_cells[f], default_sizes[f], missing[f] != NULL
            if kinds[f] in (BYTES, STRING):
                cells[f, i] = used
                for j in range(default_sizes[f]):
                    out[used + j] = default_data[default_cells[f] + j]
                used += default_sizes[f]
        good[i] = is_whole
        all_good += is_whole
        if not is_whole:
            used = begin
        for f in range(fields):
            if not is_whole:
                cells[f, i], sizes[f, i], valid[f, i] = 0, 0, True
            elif not valid[f, i]:
                cells[f, i], sizes[f, i] = 0, 0
                nulls[f] += 1
            elif kinds[f] in (BYTES, STRING):
                text_bytes[f] += sizes[f, i]
    return all_good
