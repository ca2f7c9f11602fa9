"""Cells to JSON objects of a flat schema, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from schemas import array_types as t
from schemas.kernels import BOOLEAN, BYTES, CONSTANT, STRING

MOST_NUMBER_BYTES = 20  # of a 64-bit integer
MOST_TEXT_BYTES = 6  # for a byte of text: a control character is written \u00XX
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8).copy()
_LETTERS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8).copy()
_WORDS = np.frombuffer(b"nulltruefalse", np.uint8).copy()


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_bytes(out: Any, to: int, data: Any, at: int, size: int) -> Any:
    for j in range(size):
        out[to + j] = data[at + j]
    return to + size


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_decimal(out: Any, to: int, number: int) -> Any:
    if number < 0:
        out[to] = 45
        to += 1
    rest = np.uint64(-number) if number < 0 else np.uint64(number)  # -2^63 is its own negative: 2^63
    first = to
    while True:
        tens = rest // np.uint64(10)
        out[to] = np.uint8(rest - tens * np.uint64(10)) + np.uint8(48)
        to += 1
        rest = tens
        if rest == 0:
            break
    left, right = first, to - 1
    while left < right:
        out[left], out[right] = out[right], out[left]
        left += 1
        right -= 1
    return to


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_quoted(out: Any, to: int, data: Any, at: int, size: int) -> Any:
    out[to] = 34
    to += 1
    for j in range(size):
        byte = data[at + j]
        if byte >= 32 and byte not in (34, 92):
            out[to] = byte
            to += 1
            continue
        out[to] = 92
        if byte in (34, 92):
            out[to + 1] = byte
            to += 2
            continue
        out[to + 1], out[to + 2], out[to + 3] = 117, 48, 48
        out[to + 4], out[to + 5] = _HEX[byte >> 4], _HEX[byte & 15]
        to += 6
    out[to] = 34
    return to + 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_base64(out: Any, to: int, data: Any, at: int, size: int) -> Any:
    out[to] = 34
    to += 1
    for j in range(0, size, 3):
        some = min(3, size - j)
        bits = np.int64(0)
        for k in range(some):
            bits |= np.int64(data[at + j + k]) << (16 - 8 * k)
        for k in range(4):
            out[to + k] = _LETTERS[(bits >> (18 - 6 * k)) & 63] if k <= some else 61
        to += 4
    out[to] = 34
    return to + 1


@njit(
    (
        t.BYTES,
        t.BYTES,
        t.INT64S,
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
def write_objects(
    prefix: Any,
    keys: Any,
    key_at: Any,
    kinds: Any,
    cells: Any,
    sizes: Any,
    valid: Any,
    data: Any,
    out: Any,
    ends: Any,
) -> None:
    """Write objects of a flat schema, one after the other.

    Args:
        prefix: uint8, put in front of every record.
        keys: uint8, what stands in front of each value: a brace or a comma, the name, a colon.
        key_at: (f + 1,) int64 where each begins in it.
        kinds, cells, sizes, valid: as in `kernels.write_records`. CONSTANT: bytes that are JSON already.
        data: uint8 that bytes, texts and constants are taken from.
        out: uint8, large enough, filled.
        ends: (n,) int64, filled: where each record ends in out.
    """
    to = 0
    for i in range(ends.shape[0]):
        to = _put_bytes(out, to, prefix, 0, prefix.shape[0])
        for f in range(kinds.shape[0]):
            kind, cell = kinds[f], cells[f, i]
            to = _put_bytes(out, to, keys, key_at[f], key_at[f + 1] - key_at[f])
            if not valid[f, i]:
                to = _put_bytes(out, to, _WORDS, 0, 4)
            elif kind == CONSTANT:
                to = _put_bytes(out, to, data, cell, sizes[f, i])
            elif kind == STRING:
                to = _put_quoted(out, to, data, cell, sizes[f, i])
            elif kind == BYTES:
                to = _put_base64(out, to, data, cell, sizes[f, i])
            elif kind == BOOLEAN:
                to = _put_bytes(out, to, _WORDS, 4, 4) if cell else _put_bytes(out, to, _WORDS, 8, 5)
            else:
                to = _put_decimal(out, to, cell)
        out[to] = 125
        to += 1
        ends[i] = to
