"""Trace contexts in packed headers (worker/records.py), found and written by compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
PARENT_BYTES = 55  # VERSION-TRACE-SPAN-FLAGS of version 00
STATE_BYTES = 512  # as much of tracestate as the standard asks to be passed on; a longer one is left out
_PARENT_NAME = np.frombuffer(TRACEPARENT, np.uint8)
_STATE_NAME = np.frombuffer(TRACESTATE, np.uint8)
_TRACE, _SPAN, _FLAGS = 3, 36, 53  # where each begins
_DASH, _ZERO, _NINE, _A, _F = 45, 48, 57, 97, 102
_KNOWN_FLAGS = 3  # sampled, and random trace id


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _word(data: Any, at: int) -> Any:
    size: Any = np.int64(0)
    for j in range(4):
        size |= np.int64(data[at + j]) << (8 * j)
    return np.int64(np.int32(size))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put_word(data: Any, at: int, size: int) -> Any:
    for j in range(4):
        data[at + j] = np.uint8((size >> (8 * j)) & 0xFF)
    return at + 4


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is(data: Any, at: int, size: int, name: Any) -> bool:
    if size != len(name):
        return False
    same = 0
    while same < size and data[at + same] == name[same]:
        same += 1
    return bool(same == size)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _nibble(byte: int) -> int:
    """What a lower-case hexadecimal digit stands for; -1: it is none."""
    if _ZERO <= byte <= _NINE:
        return byte - _ZERO
    return byte - _A + 10 if _A <= byte <= _F else -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_hex(data: Any, first: int, end: int, may_be_zero: bool) -> bool:
    is_zero = True
    for j in range(first, end):
        digit = _nibble(data[j])
        if digit < 0:
            return False
        is_zero = is_zero and digit == 0
    return may_be_zero or not is_zero


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_sampled(data: Any, at: int, size: int) -> bool:
    """Whether this is a traceparent as W3C Trace Context says, of a trace that is recorded."""
    if size < PARENT_BYTES or data[at + 2] != _DASH or data[at + 35] != _DASH or data[at + 52] != _DASH:
        return False
    if not _is_hex(data, at, at + 2, True) or (data[at] == _F and data[at + 1] == _F):
        return False
    is_first_version = data[at] == _ZERO and data[at + 1] == _ZERO
    if size > PARENT_BYTES and (is_first_version or data[at + PARENT_BYTES] != _DASH):
        return False
    return bool(
        _is_hex(data, at + _TRACE, at + _SPAN - 1, False)
        and _is_hex(data, at + _SPAN, at + _FLAGS - 1, False)
        and _is_hex(data, at + _FLAGS, at + PARENT_BYTES, True)
        and _nibble(data[at + _FLAGS + 1]) & 1 == 1
    )


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def find(data: Any, starts: Any, ends: Any, parent: Any, state: Any, state_size: Any) -> Any:
    """Where the trace context of each of n records is; of a header that is there twice the last one counts.

    Args:
        data, starts, ends: packed headers, missing where it ends before it begins.
        parent: (n,) int64, filled: where its traceparent begins; -1: it has none that is sampled.
        state: (n,) int64, filled: where its tracestate begins.
        state_size: (n,) int64, filled: bytes of that; 0 where it has none, or one that is not passed on.

    Returns:
        How many have one.
    """
    count = 0
    for i in range(starts.shape[0]):
        parent[i], state[i], state_size[i] = -1, 0, 0
        at = starts[i]
        while at < ends[i]:
            name_size = _word(data, at)
            name = at + 4
            size = _word(data, name + name_size)
            value = name + name_size + 4
            if _is(data, name, name_size, _PARENT_NAME):
                parent[i] = value if _is_sampled(data, value, size) else -1
            elif _is(data, name, name_size, _STATE_NAME):
                state[i], state_size[i] = value, size if 0 < size <= STATE_BYTES else 0
            at = value + max(size, 0)
        if parent[i] >= 0:
            count += 1
    return count


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _put(data: Any, at: int, name: Any, source: Any, value: int, size: int) -> Any:
    """One packed header."""
    at = _put_word(data, at, len(name))
    for j in range(len(name)):
        data[at + j] = name[j]
    at = _put_word(data, at + len(name), size)
    for j in range(size):
        data[at + j] = source[value + j]
    return at + size


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def write(source: Any, parent: Any, state: Any, state_size: Any, span: Any, starts: Any, out: Any) -> None:
    """Packed headers that take n traces on from another span.

    Args:
        source, parent, state, state_size: as `find` has them.
        span: (16,) uint8, hexadecimal digits of the new span's id.
        starts: (n,) int64, where those of each begin in out; nothing is written where it has no parent.
        out: uint8, filled.
    """
    for i in range(parent.shape[0]):
        if parent[i] < 0:
            continue
        at = _put(out, starts[i], _PARENT_NAME, source, parent[i], PARENT_BYTES)
        value = at - PARENT_BYTES
        out[value] = out[value + 1] = _ZERO  # we speak version 00, whatever the producer does
        for j in range(16):
            out[value + _SPAN + j] = span[j]
        out[value + _FLAGS] = _ZERO
        out[value + _FLAGS + 1] = _ZERO + (_nibble(source[parent[i] + _FLAGS + 1]) & _KNOWN_FLAGS)
        if state_size[i] > 0:
            _put(out, at, _STATE_NAME, source, state[i], state_size[i])
