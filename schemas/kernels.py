"""Flat Avro records between bytes and columns, compiled: one pass over the bytes, as strict as the walk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from schemas import array_types as t

# What a column is, as the kernels know it.
BOOLEAN, INT, LONG, FLOAT, DOUBLE, BYTES, STRING, ENUM, CONSTANT = range(9)
_INT_SPAN = np.uint64(1 << 32)
_ONE = np.uint64(1)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _varint(data: Any, at: int, end: int) -> Any:
    """(raw number, next position); position -1 where it is cut short, too long, or not the shortest form."""
    raw = np.uint64(0)
    for k in range(10):
        if at >= end:
            return raw, -1
        byte = np.uint64(data[at])
        at += 1
        raw |= (byte & np.uint64(0x7F)) << np.uint64(7 * k)
        if byte < 0x80:
            if (byte == 0 and k > 0) or (k == 9 and byte > 1):
                return raw, -1
            return raw, at
    return raw, -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _signed(raw: Any) -> Any:
    """A zigzag number."""
    return np.int64(raw >> _ONE) ^ -np.int64(raw & _ONE)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_utf8(data: Any, at: int, end: int) -> bool:
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


@njit(
    t.INT64(
        t.BYTES,
        t.INT64S,
        t.INT64S,
        t.INT8S,
        t.INT8S,
        t.INT64S,
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
def read_records(  # noqa: PLR0912, PLR0915 one pass serves every kind
    data: Any,
    starts: Any,
    ends: Any,
    kinds: Any,
    null_index: Any,
    symbols: Any,
    cells: Any,
    sizes: Any,
    valid: Any,
    good: Any,
    nulls: Any,
    text_bytes: Any,
) -> Any:
    """Read records of a flat schema; those that are not exactly one canonical value are not good.

    Args:
        data: uint8, the bytes of all records.
        starts, ends: (n,) int64 where each payload begins and ends in data.
        kinds: (f,) int8, one of the kinds above.
        null_index: (f,) int8 branch of null in the field's union; -1: the field is no union.
        symbols: (f,) int64 how many an enum has.
        cells: (f, n) int64, filled: the number, the bits of a float, the index of a symbol, or where bytes
            begin in data.
        sizes: (f, n) int32, filled: how long bytes and strings are; otherwise 0.
        valid: (f, n) bool, filled: False where a value is null; its cell is then 0.
        good: (n,) bool, filled. Where it is False, the record has zeros in all its fields.
        nulls: (f,) int64, filled: how many are null.
        text_bytes: (f,) int64, filled: the sum of sizes.

    Returns:
        How many are good.
    """
    nulls[:], text_bytes[:] = 0, 0
    all_good = 0
    for i in range(starts.shape[0]):
        at, end = starts[i], ends[i]
        good[i] = False
        is_whole = True
        for f in range(kinds.shape[0]):
            kind = kinds[f]
            valid[f, i] = True
            if null_index[f] >= 0:
                raw, at = _varint(data, at, end)
                if at < 0 or raw > 2 or raw == 1:  # branch 0 or 1, which is written as 0 or 2
                    is_whole = False
                    break
                if np.int64(raw >> _ONE) == null_index[f]:
                    valid[f, i] = False
                    cells[f, i] = 0
                    sizes[f, i] = 0
                    continue
            if kind in (FLOAT, DOUBLE):
                width = 4 if kind == FLOAT else 8
                if at + width > end:
                    is_whole = False
                    break
                bits = np.uint64(0)
                for j in range(width):
                    bits |= np.uint64(data[at + j]) << np.uint64(8 * j)
                cells[f, i] = np.int64(bits)
                at += width
                continue
            if kind == BOOLEAN:
                if at >= end or data[at] > 1:
                    is_whole = False
                    break
                cells[f, i] = data[at]
                at += 1
                continue
            raw, at = _varint(data, at, end)
            if at < 0:
                is_whole = False
                break
            number = _signed(raw)
            if kind == LONG:
                cells[f, i] = number
            elif kind == INT:
                cells[f, i] = number
                if raw >= _INT_SPAN:
                    is_whole = False
                    break
            elif kind == ENUM:
                cells[f, i] = number
                if number < 0 or number >= symbols[f]:
                    is_whole = False
                    break
            else:
                if number < 0 or number > end - at:
                    is_whole = False
                    break
                if kind == STRING and not _is_utf8(data, at, at + number):
                    is_whole = False
                    break
                cells[f, i] = at
                sizes[f, i] = number
                at += number
        good[i] = is_whole and at == end
        all_good += good[i]
        for f in range(kinds.shape[0]):
            if not good[i]:
                cells[f, i], sizes[f, i], valid[f, i] = 0, 0, True
            elif not valid[f, i]:
                nulls[f] += 1
            elif kinds[f] in (BYTES, STRING):
                text_bytes[f] += sizes[f, i]
            else:
                sizes[f, i] = 0
    return all_good


@njit((t.BYTES, t.INT64S, t.INT32S, t.OUT_INT32S, t.OUT_BYTES), cache=True, nogil=True)  # type: ignore[untyped-decorator]
def texts(data: Any, starts: Any, sizes: Any, offsets: Any, out: Any) -> None:
    """Copy stretches of data one after the other, as Arrow has texts.

    Args:
        data: uint8.
        starts, sizes: (n,) of each in data.
        offsets: (n + 1,) int32, filled: where each begins, and the last one ends.
        out: uint8, as many as all sizes, filled.
    """
    to = 0
    for i in range(starts.shape[0]):
        offsets[i] = to
        for j in range(sizes[i]):
            out[to + j] = data[starts[i] + j]
        to += sizes[i]
    offsets[starts.shape[0]] = to


@njit(t.INT64(t.INT64S, t.INT64S, t.OUT_INT64S, t.OUT_INT32S), cache=True, nogil=True)  # type: ignore[untyped-decorator]
def put_texts(starts: Any, ends: Any, cells: Any, sizes: Any) -> int:
    """Where (n,) texts begin and how many bytes they have, to their cells; how many have less than none."""
    missing = 0
    for i in range(starts.shape[0]):
        cells[i], sizes[i] = starts[i], ends[i] - starts[i]
        missing += ends[i] < starts[i]
    return missing


@njit((t.BYTES, t.INT64S, t.INT64S, t.OUT_BYTES), cache=True, nogil=True)  # type: ignore[untyped-decorator]
def gather(data: Any, starts: Any, offsets: Any, out: Any) -> None:
    """Copy stretches of data, (n,) starts, one after the other to (n + 1,) offsets of out."""
    for i in range(starts.shape[0]):
        at, to = starts[i], offsets[i]
        for j in range(offsets[i + 1] - to):
            out[to + j] = data[at + j]


@njit(t.BOOL(t.BYTES, t.INT64S, t.INT64S, t.INT64, t.BYTES), cache=True, nogil=True)  # type: ignore[untyped-decorator]
def all_fit(data: Any, starts: Any, ends: Any, most: int, head: Any) -> bool:
    """Whether all of (n,) byte strings are there, have at most so many bytes, and begin with a head."""
    for i in range(starts.shape[0]):
        size = ends[i] - starts[i]
        if size < head.shape[0] or size > most:
            return False
        for j in range(head.shape[0]):
            if data[starts[i] + j] != head[j]:
                return False
    return True


@njit((t.BYTES, t.INT64S, t.INT64S, t.BYTES, t.INT64S, t.INT64S, t.OUT_BOOLS), cache=True, nogil=True)  # type: ignore[untyped-decorator]
def compare(data: Any, starts: Any, ends: Any, other: Any, from_: Any, to: Any, same: Any) -> None:
    """Which of (n,) byte strings are there and the same in both; same is (n,) bool, filled."""
    for i in range(starts.shape[0]):
        size = ends[i] - starts[i]
        same[i] = size >= 0 and size == to[i] - from_[i]
        for j in range(size if same[i] else 0):
            if data[starts[i] + j] != other[from_[i] + j]:
                same[i] = False
                break


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_varint(out: Any, at: int, number: int) -> int:
    raw = (np.uint64(number) << _ONE) ^ np.uint64(number >> 63)
    while raw >= np.uint64(0x80):
        out[at] = np.uint8(raw & np.uint64(0x7F)) | np.uint8(0x80)
        raw >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(raw)
    return at + 1


@njit(
    (
        t.BYTES,
        t.INT8S,
        t.INT8S,
        t.OUT_INT64_TABLE,
        t.OUT_INT32_TABLE,
        t.OUT_BOOL_TABLE,
        t.BYTES,
        t.OUT_BYTES,
        t.OUT_INT64S,
    ),
    cache=True,
    nogil=True,
)  # type: ignore[untyped-decorator]
def write_records(  # noqa: PLR0912 one pass serves every kind
    prefix: Any,
    kinds: Any,
    null_index: Any,
    cells: Any,
    sizes: Any,
    valid: Any,
    data: Any,
    out: Any,
    ends: Any,
) -> None:
    """Write records of a flat schema, one after the other.

    Args:
        prefix: uint8, put in front of every record.
        kinds, null_index: as in `read_records`.
        cells, sizes, valid: (f, n) as `read_records` fills them. A CONSTANT's cell says where its encoded
            bytes, null branch included, begin in data.
        data: uint8 that bytes, strings and constants are taken from.
        out: uint8, large enough, filled.
        ends: (n,) int64, filled: where each record ends in out.
    """
    at = 0
    for i in range(ends.shape[0]):
        for j in range(prefix.shape[0]):
            out[at + j] = prefix[j]
        at += prefix.shape[0]
        for f in range(kinds.shape[0]):
            kind, cell = kinds[f], cells[f, i]
            if kind == CONSTANT:
                for j in range(sizes[f, i]):
                    out[at + j] = data[cell + j]
                at += sizes[f, i]
                continue
            if null_index[f] >= 0:
                branch = null_index[f] if not valid[f, i] else 1 - null_index[f]
                out[at] = 2 * branch
                at += 1
                if not valid[f, i]:
                    continue
            if kind in (FLOAT, DOUBLE):
                bits = np.uint64(cell)
                for j in range(4 if kind == FLOAT else 8):
                    out[at] = np.uint8((bits >> np.uint64(8 * j)) & np.uint64(0xFF))
                    at += 1
            elif kind == BOOLEAN:
                out[at] = cell
                at += 1
            elif kind in (BYTES, STRING):
                at = _put_varint(out, at, sizes[f, i])
                for j in range(sizes[f, i]):
                    out[at + j] = data[cell + j]
                at += sizes[f, i]
            else:
                at = _put_varint(out, at, cell)
        ends[i] = at
