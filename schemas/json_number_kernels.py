"""Numbers and booleans of JSON as the cells of a column, compiled: exact, or correctly rounded."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from schemas import array_types as t

BOOLEAN, INT, LONG, FLOAT, DOUBLE = range(5)  # as in `kernels`
REQUIRED, NULL, DEFAULT = range(3)  # what a field is that an object does not have
# 5^q by the 128 bits that count, for every q a double can need (Lemire, "Number Parsing at a Gigabyte per
# Second", 2021, and Mushtak and Lemire, "Fast Number Parsing Without Fallback", 2022).
_LEAST_POWER: Final = -342
_MOST_POWER: Final = 308
MOST_DIGITS: Final = 19  # what always fits 64 bits


def _powers() -> tuple[np.ndarray[Any, np.dtype[np.uint64]], np.ndarray[Any, np.dtype[np.uint64]]]:
    high, low = [], []
    for q in range(_LEAST_POWER, _MOST_POWER + 1):
        if q < 0:
            power = 5**-q
            width = power.bit_length()
            number = (1 << (2 * width + 128)) // power + 1 if q < -27 else (1 << (width + 127)) // power + 1
            number >>= max(0, number.bit_length() - 128)
        else:
            number = 5**q
            spare = number.bit_length() - 128
            number = number >> spare if spare > 0 else number << -spare
        high.append(number >> 64)
        low.append(number & ((1 << 64) - 1))
    return np.array(high, np.uint64), np.array(low, np.uint64)


_HIGH, _LOW = _powers()
_HALF = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_1 = np.uint64(1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_HIDDEN = np.uint64(1 << 52)
_INFINITY = np.uint64(0x7FF << 52)
_INFINITY_BITS = np.int64(0x7FF << 52)
_TOO_BIG_BITS = np.float64(3.4028235677973366e38).view(np.int64)  # from here on, 32 bits make it infinite
_SIGN_BIT = np.int64(-(1 << 63))
_MOST_NEGATIVE = np.uint64(1 << 63)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _json_product(a: Any, b: Any) -> Any:
    """(high, low) 64 bits of a 128-bit product."""
    a_low, a_high, b_low, b_high = a & _HALF, a >> _32, b & _HALF, b >> _32
    low, middle = a_low * b_low, a_high * b_low
    middle += low >> _32
    other = a_low * b_high + (middle & _HALF)
    return a_high * b_high + (middle >> _32) + (other >> _32), (other << _32) | (low & _HALF)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def double_bits(digits: Any, power: Any) -> Any:
    """The bits of the double nearest to digits * 10^power; ties go to the even one, too much is infinite.

    Args:
        digits: uint64, exact.
        power: int64.
    """
    if digits == 0 or power < _LEAST_POWER:
        return np.uint64(0)
    if power > _MOST_POWER:
        return _INFINITY
    zeros = 0
    while digits >> np.uint64(63) == 0:
        digits <<= _1
        zeros += 1
    at = power - _LEAST_POWER
    high, low = _json_product(digits, _HIGH[at])
    if high & np.uint64(0x1FF) == np.uint64(0x1FF):  # the second half of the power may matter
        more, _ = _json_product(digits, _LOW[at])
        low += more
        if low < more:
            high += _1
    upper = np.int64(high >> np.uint64(63))
    mantissa = high >> np.uint64(upper + 9)
    exponent = ((217706 * power) >> 16) + 63 + upper - zeros + 1023
    if exponent <= 0:  # a subnormal number
        if 1 - exponent >= 64:
            return np.uint64(0)
        mantissa >>= np.uint64(1 - exponent)
        mantissa += mantissa & _1
        return mantissa >> _1  # when it grew to a normal one, its hidden bit is the exponent
    is_tie = low <= _1 and -4 <= power <= 23 and mantissa & np.uint64(3) == _1
    if is_tie and mantissa << np.uint64(upper + 9) == high:
        mantissa &= _ALL ^ _1
    mantissa += mantissa & _1
    mantissa >>= _1
    if mantissa >= _HIDDEN << _1:
        mantissa = _HIDDEN
        exponent += 1
    if exponent >= 0x7FF:
        return _INFINITY
    return (mantissa & (_HIDDEN - _1)) | (np.uint64(exponent) << np.uint64(52))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def read_number(data: Any, at: int, end: int) -> Any:
    """A number of JSON: (digits, power, is_negative, is_whole, next position).

    The number is digits * 10^power; is_whole says that it was written without a point or an exponent. The
    position is -1 where there is no number, or one of more digits than 64 bits are sure to hold.
    """
    is_negative = at < end and data[at] == 45
    at += is_negative
    digits, power, count, begin = np.uint64(0), np.int64(0), 0, at  # count: from the first that is not 0
    while at < end and 48 <= data[at] <= 57:
        digits = digits * np.uint64(10) + np.uint64(data[at] - 48)
        count += count > 0 or data[at] > 48
        at += 1
    if at == begin or (at - begin > 1 and data[begin] == 48) or count > MOST_DIGITS:
        return digits, power, is_negative, False, -1
    is_whole = True
    if at < end and data[at] == 46:
        is_whole = False
        at += 1
        begin = at
        while at < end and 48 <= data[at] <= 57:
            digits = digits * np.uint64(10) + np.uint64(data[at] - 48)
            count += count > 0 or data[at] > 48
            at += 1
        power = np.int64(begin - at)
        if at == begin or count > MOST_DIGITS:
            return digits, power, is_negative, False, -1
    if at < end and (data[at] == 101 or data[at] == 69):
        is_whole = False
        at += 1
        falls = at < end and data[at] == 45
        if at < end and (data[at] == 43 or data[at] == 45):
            at += 1
        begin, exponent = at, np.int64(0)
        while at < end and 48 <= data[at] <= 57:
            exponent = min(exponent * 10 + np.int64(data[at] - 48), np.int64(100_000))
            at += 1
        if at == begin:
            return digits, power, is_negative, False, -1
        power += -exponent if falls else exponent
    return digits, power, is_negative, is_whole, at


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _number_cell(kind: int, digits: Any, power: int, falls: bool, is_whole: bool) -> Any:
    """(cell, whether the number is certain to be a value of this kind)."""
    if kind in (FLOAT, DOUBLE):
        bits = np.int64(double_bits(digits, power))
        limit = _TOO_BIG_BITS if kind == FLOAT else _INFINITY_BITS
        return bits | (_SIGN_BIT if falls else np.int64(0)), bits < limit
    if not is_whole or digits > (_MOST_NEGATIVE if falls else _MOST_NEGATIVE - np.uint64(1)):
        return np.int64(0), False
    number = -np.int64(digits) if falls else np.int64(digits)
    return number, kind != INT or -(1 << 31) <= number < 1 << 31


@njit(
    (
        t.BYTES,
        t.INT64S,
        t.INT64S,
        t.INT64,
        t.INT64,
        t.INT64,
        t.BOOL,
        t.BOOL,
        t.OUT_INT64S,
        t.OUT_BOOLS,
        t.OUT_BOOLS,
    ),
    cache=True,
    nogil=True,
)  # type: ignore[untyped-decorator]
def read_numbers(
    data: Any,
    begins: Any,
    stops: Any,
    kind: int,
    missing: int,
    default: int,
    is_nullable: bool,
    skips_texts: bool,
    cells: Any,
    valid: Any,
    good: Any,
) -> None:
    """Read the numbers, or booleans, of one field; records without a certain one are no longer good.

    Args:
        data: uint8.
        begins, stops: (n,) int64, see `json_kernels.find_values`.
        kind: one of the kinds above.
        missing: what the field is where it is not there: REQUIRED, NULL or DEFAULT.
        default: its cell then.
        is_nullable: whether it may be null.
        skips_texts: leave records alone that have a text there, such as a time.
        cells: (n,) int64, filled: the number, or the bits of a double, for floats too.
        valid: (n,) bool, filled: False where it is null.
        good: (n,) bool, only ever set to False.
    """
    for i in range(begins.shape[0]):
        cells[i], valid[i] = 0, True
        if not good[i]:
            continue
        if begins[i] < 0:
            cells[i], valid[i], good[i] = default, missing != NULL, missing != REQUIRED
            continue
        first = data[begins[i]]
        if first == 34 and skips_texts:
            continue
        if first == 110:
            valid[i], good[i] = False, is_nullable
        elif kind == BOOLEAN:
            cells[i], good[i] = first == 116, first in (116, 102)
        else:
            digits, power, falls, is_whole, at = read_number(data, begins[i], stops[i])
            good[i] = at == stops[i]
            if good[i]:
                cells[i], good[i] = _number_cell(kind, digits, power, falls, is_whole)
            if not good[i]:
                cells[i] = 0
