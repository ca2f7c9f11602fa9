"""Rows between memory and bytes: fixed little-endian words, only the remembered part of each group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_cache.layout import ROW_VERSION
from feature_cache.stretches import begin_rows

HEADER_WORDS = 4
# Packed together: few enough for their buffer to stay in the heap, as new memory costs more than packing.
_ROWS_AT_ONCE = 256

# One row, in 8-byte little-endian words:
#   [version | alert level << 8 | steps back << 16] [generation] [alert_us] [newest_us]
#   then per group [length] [forgotten_us] [length times] [length * channels values, padded to a whole word]


class CorruptRowError(ValueError):
    """Bytes that are not a row of this layout."""


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pack_group(slots: Any, cursor: Any, words: Any, alias: Any, times: Any, values: Any, held: Any) -> None:
    """Write one group of each row at its cursor (in words) and move the cursor on."""
    channels = values.shape[1]
    flat = values.reshape(-1)
    per_word = 8 // alias.itemsize
    for i in range(slots.shape[0]):
        row = held[slots[i]]
        first, n = row.start + row.begin, np.int64(row.length)
        at = cursor[i]
        words[at] = n
        words[at + 1] = row.forgotten
        at += 2
        words[at : at + n] = times[first : first + n]
        at += n
        to, cells = at * per_word, n * channels
        alias[to : to + cells] = flat[first * channels : first * channels + cells]
        cursor[i] = at + (cells + per_word - 1) // per_word


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _lengths(
    cursor: Any, ends: Any, words: Any, per_word: int, channels: int, capacity: int, lengths: Any
) -> int:
    """Fill lengths with that of each row's group at its cursor; index of the first corrupt row, or -1."""
    for i in range(cursor.shape[0]):
        at = cursor[i]
        if at + 2 > ends[i]:
            return i
        n = words[at]
        if n < 0 or n > capacity or at + 2 + n + (n * channels + per_word - 1) // per_word > ends[i]:
            return i
        lengths[i] = n
    return -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _unpack_group(
    slots: Any, cursor: Any, words: Any, alias: Any, times: Any, values: Any, held: Any
) -> None:
    """Read one group of each row, which has room for it, from its cursor and move the cursor on."""
    channels = values.shape[1]
    flat = values.reshape(-1)
    per_word = 8 // alias.itemsize
    for i in range(slots.shape[0]):
        row = held[slots[i]]
        first, n = row.start + row.begin, np.int64(row.length)
        at = cursor[i]
        row.forgotten = words[at + 1]
        at += 2
        times[first : first + n] = words[at : at + n]
        at += n
        source, cells = at * per_word, n * channels
        flat[first * channels : first * channels + cells] = alias[source : source + cells]
        cursor[i] = at + (cells + per_word - 1) // per_word


def pack(rows: Any, slots: NDArray[np.int64], generation: int) -> list[bytes]:
    """The rows of these slots as bytes, one each, dated with their lane's generation."""
    packed: list[bytes] = []
    for start in range(0, len(slots), _ROWS_AT_ONCE):
        packed += _pack(rows, slots[start : start + _ROWS_AT_ONCE], generation)
    return packed


def _pack(rows: Any, slots: NDArray[np.int64], generation: int) -> list[bytes]:
    sizes = np.full(len(slots), HEADER_WORDS, np.int64)
    for group in rows.groups:
        n = group.length[slots].astype(np.int64)
        per_word = 8 // group.values.itemsize
        sizes += 2 + n + -(-n * group.values.shape[1] // per_word)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    words: NDArray[Any] = np.zeros(int(ends[-1]), "<i8")
    levels, steps_back = (x[slots].astype(np.int64) for x in (rows.alert_level, rows.steps_back))
    words[starts] = ROW_VERSION | (levels << 8) | (steps_back << 16)
    words[starts + 1] = generation
    words[starts + 2] = rows.alert_us[slots]
    words[starts + 3] = rows.newest_us[slots]
    cursor = starts + HEADER_WORDS
    for group in rows.groups:
        alias = words.view(group.values.dtype)
        _pack_group(slots, cursor, words, alias, group.times, group.values, group.held)
    whole = words.tobytes()
    return [whole[a:b] for a, b in zip((starts * 8).tolist(), (ends * 8).tolist(), strict=True)]


def unpack(rows: Any, slots: NDArray[np.int64], packed: Sequence[bytes]) -> None:
    """Fill these slots from packed rows.

    Raises:
        CorruptRowError: the bytes do not fit the layout; the slots are then undefined.
    """
    sizes = _sizes(packed)
    if not _are_whole(sizes).all():
        raise CorruptRowError(
            f"found rows of {sizes.min()} to {sizes.max()} bytes, expected whole 8-byte words"
        )
    words, starts, ends = _words(packed, sizes)
    if (words[starts] & 0xFF != ROW_VERSION).any():
        raise CorruptRowError(f"found a row of another version, expected version {ROW_VERSION}")
    _fill(rows, slots, words, starts, ends)


def unpack_generation(
    rows: Any, slots: NDArray[np.int64], packed: Sequence[bytes | None], generation: int | NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Fill slots from those rows that were written under this generation, in this version.

    Args:
        slots: (n,) int64.
        packed: (n,) the row of each; None: there is none.
        generation: of all, or (n,) of each.

    Returns:
        (n,) which were filled; the others are as they were.

    Raises:
        CorruptRowError: the bytes do not fit the layout; the slots are then undefined.
    """
    is_kept = np.array([row is not None for row in packed], np.bool_)
    found = [row for row in packed if row is not None]
    sizes = _sizes(found)
    is_whole = _are_whole(sizes)
    if not is_whole.all():
        is_kept[is_kept] = is_whole
        found, sizes = list(compress(found, is_whole.tolist())), sizes[is_whole]
    words, starts, ends = _words(found, sizes)
    ours = generation[is_kept] if isinstance(generation, np.ndarray) else generation
    is_ours = (words[starts] & 0xFF == ROW_VERSION) & (words[starts + 1] == ours)
    is_kept[is_kept] = is_ours
    _fill(rows, slots[is_kept], words, starts[is_ours], ends[is_ours])
    return is_kept


def _sizes(packed: Sequence[bytes]) -> NDArray[np.int64]:
    return np.fromiter(map(len, packed), np.int64, len(packed))


def _are_whole(sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    is_whole: NDArray[np.bool_] = (sizes % 8 == 0) & (sizes >= HEADER_WORDS * 8)
    return is_whole


def _words(
    packed: Sequence[bytes], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All rows as one array of words, and where each begins and ends in it."""
    ends = np.cumsum(sizes // 8)
    return np.frombuffer(b"".join(packed), "<i8"), ends - sizes // 8, ends


def _fill(
    rows: Any,
    slots: NDArray[np.int64],
    words: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> None:
    if not len(slots):
        return
    rows.alert_level[slots] = (words[starts] >> 8) & 0xFF
    rows.steps_back[slots] = (words[starts] >> 16) & 0xFF
    rows.alert_us[slots] = words[starts + 2]
    rows.newest_us[slots] = words[starts + 3]
    cursor = starts + HEADER_WORDS
    lengths = np.empty(len(slots), np.int64)
    for group in rows.groups:
        alias, channels = words.view(group.values.dtype), group.values.shape[1]
        bad = _lengths(cursor, ends, words, 8 // alias.itemsize, channels, group.spec.capacity, lengths)
        if bad >= 0:
            raise CorruptRowError(f"row {bad} of {len(slots)} does not fit group {group.spec.name!r}")
        begin_rows(group, slots, lengths)
        _unpack_group(slots, cursor, words, alias, group.times, group.values, group.held)
    if (cursor != ends).any():
        raise CorruptRowError(f"row {int(np.argmax(cursor != ends))} of {len(slots)} has bytes left over")
