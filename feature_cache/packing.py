"""Rows between memory and bytes: fixed little-endian words, only the remembered part of each group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_cache.layout import ROW_VERSION

HEADER_WORDS = 4

# One row, in 8-byte little-endian words:
#   [version | alert level << 8 | steps back << 16] [generation] [alert_us] [newest_us]
#   then per group [length] [forgotten_us] [length times] [length * channels values, padded to a whole word]


class CorruptRowError(ValueError):
    """Bytes that are not a row of this layout."""


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pack_group(
    slots: Any, cursor: Any, words: Any, alias: Any, times: Any, values: Any, length: Any, forgotten: Any
) -> None:
    """Write one group of each row at its cursor (in words) and move the cursor on."""
    channels = values.shape[2]
    per_word = 8 // alias.itemsize
    for i in range(slots.shape[0]):
        s = slots[i]
        n = length[s]
        at = cursor[i]
        words[at] = n
        words[at + 1] = forgotten[s]
        at += 2
        for j in range(n):
            words[at + j] = times[s, j]
        at += n
        to = at * per_word
        for j in range(n):
            for c in range(channels):
                alias[to] = values[s, j, c]
                to += 1
        cursor[i] = at + (n * channels + per_word - 1) // per_word


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _unpack_group(
    slots: Any,
    cursor: Any,
    ends: Any,
    words: Any,
    alias: Any,
    times: Any,
    values: Any,
    length: Any,
    forgotten: Any,
) -> int:
    """Read one group of each row from its cursor; index of the first corrupt row, or -1."""
    capacity, channels = values.shape[1], values.shape[2]
    per_word = 8 // alias.itemsize
    for i in range(slots.shape[0]):
        s = slots[i]
        at = cursor[i]
        if at + 2 > ends[i]:
            return i
        n = words[at]
        size = 2 + n + (n * channels + per_word - 1) // per_word
        if n < 0 or n > capacity or at + size > ends[i]:
            return i
        length[s] = n
        forgotten[s] = words[at + 1]
        for j in range(n):
            times[s, j] = words[at + 2 + j]
        source = (at + 2 + n) * per_word
        for j in range(n):
            for c in range(channels):
                values[s, j, c] = alias[source]
                source += 1
        cursor[i] = at + size
    return -1


def pack(rows: Any, slots: NDArray[np.int64], generation: int) -> list[bytes]:
    """The rows of these slots as bytes, one each, dated with their lane's generation."""
    sizes = np.full(len(slots), HEADER_WORDS, np.int64)
    for group in rows.groups:
        n = group.length[slots]
        per_word = 8 // group.values.itemsize
        sizes += 2 + n + -(-n * group.values.shape[2] // per_word)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    words = np.zeros(int(ends[-1]) if len(slots) else 0, "<i8")
    levels, steps_back = (x[slots].astype(np.int64) for x in (rows.alert_level, rows.steps_back))
    words[starts] = ROW_VERSION | (levels << 8) | (steps_back << 16)
    words[starts + 1] = generation
    words[starts + 2] = rows.alert_us[slots]
    words[starts + 3] = rows.newest_us[slots]
    cursor = starts + HEADER_WORDS
    for group in rows.groups:
        alias = words.view(group.values.dtype)
        _pack_group(slots, cursor, words, alias, group.times, group.values, group.length, group.forgotten)
    whole = words.tobytes()
    return [whole[a:b] for a, b in zip((starts * 8).tolist(), (ends * 8).tolist(), strict=True)]


def generation_of(packed: bytes) -> int:
    """The generation that a packed row was written under; -1 when it is not a row of this version."""
    if len(packed) < HEADER_WORDS * 8 or len(packed) % 8 or packed[0] != ROW_VERSION:
        return -1
    return int.from_bytes(packed[8:16], "little", signed=True)


def unpack(rows: Any, slots: NDArray[np.int64], packed: list[bytes]) -> None:
    """Fill these slots from packed rows.

    Raises:
        CorruptRowError: the bytes do not fit the layout; the slots are then undefined.
    """
    if not packed:
        return
    sizes = np.fromiter(map(len, packed), np.int64, len(packed))
    if (sizes % 8).any() or (sizes < HEADER_WORDS * 8).any():
        raise CorruptRowError(
            f"found rows of {sizes.min()} to {sizes.max()} bytes, expected whole 8-byte words"
        )
    words = np.frombuffer(b"".join(packed), "<i8")
    ends = np.cumsum(sizes // 8)
    starts = ends - sizes // 8
    if ((words[starts] & 0xFF) != ROW_VERSION).any():
        raise CorruptRowError(f"found a row of another version, expected version {ROW_VERSION}")
    rows.alert_level[slots] = (words[starts] >> 8) & 0xFF
    rows.steps_back[slots] = (words[starts] >> 16) & 0xFF
    rows.alert_us[slots] = words[starts + 2]
    rows.newest_us[slots] = words[starts + 3]
    cursor = starts + HEADER_WORDS
    for group in rows.groups:
        alias = words.view(group.values.dtype)
        bad = _unpack_group(
            slots, cursor, ends, words, alias, group.times, group.values, group.length, group.forgotten
        )
        if bad >= 0:
            raise CorruptRowError(f"row {bad} of {len(packed)} does not fit group {group.spec.name!r}")
    if (cursor != ends).any():
        raise CorruptRowError(f"row {int(np.argmax(cursor != ends))} of {len(packed)} has bytes left over")
