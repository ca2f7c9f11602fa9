"""Where the values of the fields are in JSON objects, compiled: the whole grammar, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from schemas import array_types as t

_DEEPEST = 60  # containers within each other, where a value is skipped; the reader of single records goes on


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _json_byte(data: Any, at: int, end: int) -> Any:
    """The byte there; 0, which nothing in JSON begins with, at the end."""
    return np.int64(data[at]) if at < end else np.int64(0)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _json_blank(data: Any, at: int, end: int) -> Any:
    """The first position that is not white space."""
    while at < end and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_json_utf8(data: Any, at: int, end: int) -> bool:
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
def _json_hex4(data: Any, at: int, end: int) -> Any:
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
def _skip_json_text(data: Any, at: int, end: int) -> Any:
    """The position behind a text, from behind its first quote; -1 if bad."""
    while at < end:
        byte = data[at]
        at += 1
        if byte == 34:
            return at
        if byte < 32:
            return -1
        if byte == 92:
            byte = _json_byte(data, at, end)
            at += 1
            if byte == 117:
                if _json_hex4(data, at, end) < 0:
                    return -1
                at += 4
            elif byte not in (34, 92, 47, 98, 102, 110, 114, 116):
                return -1
    return -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _skip_word(data: Any, at: int, end: int) -> Any:
    """The position behind true, false or null; -1 where there is none of them."""
    if at + 4 <= end and data[at + 1] == 114 and data[at + 2] == 117 and data[at + 3] == 101:
        return at + 4 if data[at] == 116 else -1
    if at + 4 <= end and data[at + 1] == 117 and data[at + 2] == 108 and data[at + 3] == 108:
        return at + 4 if data[at] == 110 else -1
    if at + 5 <= end and data[at] == 102 and data[at + 1] == 97 and data[at + 2] == 108:
        return at + 5 if data[at + 3] == 115 and data[at + 4] == 101 else -1
    return -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _skip_digits(data: Any, at: int, end: int) -> Any:
    while at < end and 48 <= data[at] <= 57:
        at += 1
    return at


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _skip_number(data: Any, at: int, end: int) -> Any:
    """The position behind a number; -1 where there is none."""
    at += data[at] == 45
    begin = at
    at = _skip_digits(data, at, end)
    if at == begin or (at - begin > 1 and data[begin] == 48):
        return -1
    if _json_byte(data, at, end) == 46:
        begin = at + 1
        at = _skip_digits(data, begin, end)
        if at == begin:
            return -1
    if _json_byte(data, at, end) in (101, 69):
        at += 1
        at += _json_byte(data, at, end) in (43, 45)
        begin = at
        at = _skip_digits(data, at, end)
        if at == begin:
            return -1
    return at


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _skip_scalar(data: Any, at: int, end: int) -> Any:
    first = _json_byte(data, at, end)
    if first == 34:
        return _skip_json_text(data, at + 1, end)
    if first == 45 or 48 <= first <= 57:
        return _skip_number(data, at, end)
    return _skip_word(data, at, end)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _skip_value(data: Any, at: int, end: int) -> Any:  # noqa: PLR0911, PLR0912 a grammar
    """The position behind any value; -1 if bad, or deeper than is looked at."""
    kinds, depth = np.uint64(0), 0  # a bit for each container that is open: 1 for an object
    while True:
        first = _json_byte(data, at, end)
        opened = first in (123, 91)
        if opened:
            if depth == _DEEPEST:
                return -1
            depth += 1
            kinds = (kinds << np.uint64(1)) | np.uint64(first == 123)
            at = _json_blank(data, at + 1, end)
        else:
            at = _skip_scalar(data, at, end)
            if at < 0:
                return -1
        while True:  # close what ends here
            if depth == 0:
                return at
            is_object = kinds & np.uint64(1) == 1
            if not opened:
                at = _json_blank(data, at, end)
            if _json_byte(data, at, end) == (125 if is_object else 93):
                at += 1
                depth -= 1
                kinds >>= np.uint64(1)
                opened = False
                continue
            break
        if not opened:
            if _json_byte(data, at, end) != 44:
                return -1
            at = _json_blank(data, at + 1, end)
        if is_object:
            if _json_byte(data, at, end) != 34:
                return -1
            at = _skip_json_text(data, at + 1, end)
            if at < 0:
                return -1
            at = _json_blank(data, at, end)
            if _json_byte(data, at, end) != 58:
                return -1
            at = _json_blank(data, at + 1, end)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _find_name(data: Any, at: int, end: int, names: Any, guess: int) -> Any:
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


@njit(
    t.INT64(
        t.BYTES,
        t.INT64S,
        t.INT64S,
        t.NAMES,
        t.INT64S,
        t.OUT_INT64_TABLE,
        t.OUT_INT64_TABLE,
        t.OUT_BOOLS,
    ),
    cache=True,
    nogil=True,
)  # type: ignore[untyped-decorator]
def find_values(
    data: Any, starts: Any, ends: Any, names: Any, field_of: Any, begins: Any, stops: Any, good: Any
) -> Any:
    """Find the values of the fields in objects; those about which anything is unusual are not good.

    Args:
        data: uint8, the bytes of all records.
        starts, ends: (n,) int64 where each payload begins and ends in data.
        names: (bytes, begin, end) of k names, in the order of the fields, aliases after them.
        field_of: (k,) int64 the field of each name.
        begins, stops: (f, n) int64, filled: where the value is in data; -1: the object has no such field.
        good: (n,) bool, filled: an object of UTF-8, whole, without a field that comes twice.

    Returns:
        How many are good.
    """
    all_good = 0
    begins[:] = -1
    for i in range(starts.shape[0]):
        at, end, guess = starts[i], ends[i], 0
        is_whole = _is_json_utf8(data, at, end)
        at = _json_blank(data, at, end)
        is_whole = is_whole and _json_byte(data, at, end) == 123
        at = _json_blank(data, at + 1, end)
        closed = is_whole and _json_byte(data, at, end) == 125
        while is_whole and not closed:
            key = at + 1
            is_whole = _json_byte(data, at, end) == 34
            at = key
            while is_whole and _json_byte(data, at, end) != 34:
                is_whole = at < end and data[at] >= 32 and data[at] != 92
                at += 1
            if not is_whole:
                break
            name = _find_name(data, key, at, names, guess)
            at = _json_blank(data, at + 1, end)
            is_whole = _json_byte(data, at, end) == 58
            begin = _json_blank(data, at + 1, end)
            at = _skip_value(data, begin, end) if is_whole else -1
            is_whole = at >= 0
            if is_whole and name >= 0:
                f, guess = field_of[name], name + 1
                is_whole = begins[f, i] < 0
                begins[f, i], stops[f, i] = begin, at
            if not is_whole:
                break
            at = _json_blank(data, at, end)
            closed = _json_byte(data, at, end) == 125
            if not closed:
                is_whole = _json_byte(data, at, end) == 44
                at = _json_blank(data, at + 1, end)
        good[i] = is_whole and _json_blank(data, at + 1, end) == end
        all_good += good[i]
    return all_good
