"""Where remembered events lie: every row has a stretch of one arena, as large as what it holds needs.

Sizes are powers of two, cut from blocks of the largest size and joined again when both halves are free (a
buddy allocator), so stretches of rows that grew are those of rows that will: no room is lost between sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_cache.layout import NEVER_US, Group
from feature_cache.prefetch import AHEAD, prefetch

LEAST = 4  # events in the smallest stretch: 64 bytes of a window group

# One cache line has two of these, so an event waits for one line to learn where its row is.
HELD = np.dtype(
    [
        ("start", np.int64),  # of the stretch, an index into times and values
        ("forgotten", np.int64),  # newest time ever dropped or refused
        ("begin", np.int32),  # first remembered event, counted from the start
        ("length", np.int32),  # how many are remembered
        ("room", np.int32),  # size of the stretch; 0: none
        ("coming", np.int32),  # see make_room; 0 outside of it
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class GroupArrays:
    """One group of all rows."""

    spec: Group
    times: NDArray[np.int64]  # (cells,) event time; in a row ascending, ties in offset order
    values: NDArray[Any]  # (cells, channels)
    held: NDArray[Any]  # (rows,) of HELD
    free: NDArray[
        np.int8
    ]  # (cells / LEAST,) 1 + log2 of the size in LEASTs of the free stretch that begins here
    heads: NDArray[
        np.int64
    ]  # (sizes + 1,) first free stretch of each size, or -1; then the first cell never used

    @property
    def length(self) -> NDArray[np.int32]:
        """(rows,) how many events are remembered."""
        return self.held["length"]

    @property
    def forgotten(self) -> NDArray[np.int64]:
        """(rows,) newest time ever dropped or refused."""
        return self.held["forgotten"]

    def events(self, slot: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """One row's (length,) times and (length, channels) values, to be read or written in place."""
        row = self.held[slot]
        first = int(row["start"]) + int(row["begin"])
        here = slice(first, first + int(row["length"]))
        return self.times[here], self.values[here]


def empty_group(spec: Group, rows: int) -> GroupArrays:
    """A group of so many rows without events."""
    sizes = 1
    while LEAST << (sizes - 1) < spec.capacity:
        sizes += 1
    # One largest stretch more than rows: all rows together can touch all but one, so one is always whole.
    # np.zeros of this size is mapped, not touched: memory is used as rows fill up.
    cells = (rows + 1) * (LEAST << (sizes - 1))
    heads = np.full(sizes + 1, -1, np.int64)
    heads[-1] = 0
    held = np.zeros(rows, HELD)
    held["forgotten"] = NEVER_US
    return GroupArrays(
        spec=spec,
        times=np.zeros(cells, np.int64),
        values=np.zeros((cells, spec.channels), spec.dtype),
        held=held,
        free=np.zeros(cells // LEAST, np.int8),
        heads=heads,
    )


def make_room(group: GroupArrays, slots: NDArray[np.int64]) -> None:
    """Let each row have room for the events at hand, as many as its slot is named; -1 names none."""
    _make_room(group.times, group.values, group.held, group.free, group.heads, slots, group.spec.capacity)


def begin_rows(group: GroupArrays, slots: NDArray[np.int64], length: NDArray[np.int64]) -> None:
    """Give distinct rows room for so many events and one more; those it has now are undefined."""
    _begin_rows(group.times, group.held, group.free, group.heads, slots, length, group.spec.capacity)


def drop_rows(group: GroupArrays, slots: NDArray[np.int64]) -> None:
    """Forget the events of distinct rows and give their stretches back."""
    _drop_rows(group.times, group.held, group.free, group.heads, slots)
    group.held["forgotten"][slots] = NEVER_US


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _link(times: Any, free: Any, heads: Any, cell: int, size: int) -> None:
    """Put a free stretch first in the list of its size; its first cells hold the next and the one before."""
    times[cell] = heads[size]
    times[cell + 1] = -1
    if heads[size] >= 0:
        times[heads[size] + 1] = cell
    heads[size] = cell
    free[cell // LEAST] = size + 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _unlink(times: Any, free: Any, heads: Any, cell: int, size: int) -> None:
    after, before = times[cell], times[cell + 1]
    if before >= 0:
        times[before] = after
    else:
        heads[size] = after
    if after >= 0:
        times[after + 1] = before
    free[cell // LEAST] = 0


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _take(times: Any, free: Any, heads: Any, size: int) -> Any:
    """A free stretch, cut from the next larger one that there is."""
    sizes = heads.shape[0] - 1
    k = size
    while k < sizes and heads[k] < 0:
        k += 1
    if k < sizes:
        cell = heads[k]
        _unlink(times, free, heads, cell, k)
    else:
        k = sizes - 1
        cell = heads[sizes]
        heads[sizes] += LEAST << k
    while k > size:
        k -= 1
        _link(times, free, heads, cell + (LEAST << k), k)
    return cell


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _give(times: Any, free: Any, heads: Any, cell: int, room: int) -> None:
    """Take a stretch back, joined with its other half for as long as that is free."""
    k = _size_for(room)
    while k < heads.shape[0] - 2:
        other = cell ^ (LEAST << k)
        if free[other // LEAST] != k + 1:
            break
        _unlink(times, free, heads, other, k)
        cell = min(cell, other)
        k += 1
    _link(times, free, heads, cell, k)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _size_for(events: int) -> int:
    size = 0
    while LEAST << size < events:
        size += 1
    return size


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _make_room(times: Any, values: Any, held: Any, free: Any, heads: Any, slots: Any, capacity: int) -> None:
    for i in range(slots.shape[0]):
        if slots[i] >= 0:
            held[slots[i]].coming += 1
    for i in range(slots.shape[0]):
        if slots[i] < 0 or held[slots[i]].coming == 0:
            continue
        row = held[slots[i]]
        wanted = min(row.length + row.coming, capacity)
        row.coming = 0
        room = row.room
        # Smaller again at a quarter, or a row on the edge would move with every event.
        if wanted <= room and (wanted > room // 4 or room == LEAST):
            continue
        size = _size_for(wanted)
        start = _take(times, free, heads, size)
        first = row.start + row.begin
        for j in range(row.length):
            times[start + j] = times[first + j]
            values[start + j] = values[first + j]
        if room > 0:
            _give(times, free, heads, row.start, room)
        row.start = start
        row.begin = 0
        row.room = LEAST << size


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _begin_rows(times: Any, held: Any, free: Any, heads: Any, slots: Any, length: Any, capacity: int) -> None:
    for i in range(slots.shape[0]):
        if i + AHEAD < slots.shape[0]:
            prefetch(held, slots[i + AHEAD])
        row = held[slots[i]]
        size = _size_for(min(length[i] + 1, capacity))
        if row.room != LEAST << size:
            if row.room > 0:
                _give(times, free, heads, row.start, row.room)
            row.start = _take(times, free, heads, size)
            row.room = LEAST << size
        row.begin = 0
        row.length = length[i]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _drop_rows(times: Any, held: Any, free: Any, heads: Any, slots: Any) -> None:
    for i in range(slots.shape[0]):
        if i + 2 * AHEAD < slots.shape[0]:
            prefetch(held, slots[i + 2 * AHEAD])
        if i + AHEAD < slots.shape[0]:
            later = held[slots[i + AHEAD]]
            prefetch(times, later.start)
            prefetch(free, later.start // LEAST)
        row = held[slots[i]]
        if row.room > 0:
            _give(times, free, heads, row.start, row.room)
        row.begin = 0
        row.length = 0
        row.room = 0
