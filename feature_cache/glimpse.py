"""Rows as they are now, copied: what an event would find if it came next, without a trace in the lanes.

Invariants (docs/http.md):
- Nothing of the lanes changes, not even which row was used last.
- A row of a lane that is owned is copied from memory, or is what the store held when the lane's meta was the
  one that the lane holds now: it is as of the lane's watermark. Any other row is as of the meta read with it.
- Copies are apart: what one group of events does to its copy, no other group sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_cache.key_index import Keys, distinct, keys_of
from feature_cache.lane import Lane, Offsets
from feature_cache.lanes import Lanes
from feature_cache.layout import FOREVER_US, NEVER_US
from feature_cache.packing import pack, unpack_generation
from feature_cache.rows import HotRows
from feature_cache.store import NOTHING, LaneMeta, MemoryStore

_NOWHERE = LaneMeta(epoch=0, generation=0, watermark=NOTHING)


@dataclass(frozen=True, slots=True, eq=False)
class StoredRows:
    """What the store has of a lane, as of one moment."""

    meta: LaneMeta | None
    rows: Mapping[bytes, bytes | None]
    is_away: bool = False  # the store did not answer, and nothing is known


class NotCaughtUpError(Exception):
    """The rows of this partition are still being brought up to date."""

    def __init__(self, partition: int) -> None:
        super().__init__(partition)
        self.partition = partition


class NotKnownError(Exception):
    """Nobody has stored rows of this partition, or the store does not say."""

    def __init__(self, partition: int, *, is_away: bool) -> None:
        super().__init__(partition)
        self.partition = partition
        self.is_away = is_away


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The rows of one lane that one group of events needs, and as of when."""

    partition: int
    next_offset: int  # everything before it is in the rows; -1: not known
    is_owner: bool
    forgotten_us: int  # as Lane.forgotten_us; FOREVER_US: as of the first event of the group
    is_guess: bool  # rows that are not in memory begin from nothing
    stored: StoredRows | None  # where rows come from that are not in memory; None: there are none


def see(
    lanes: Lanes, partition: int, keys: Sequence[bytes], stored: StoredRows | None, *, may_guess: bool
) -> Seen | None:
    """How one lane is seen; None: the store has to be asked first, or again.

    Args:
        partition: the lane.
        keys: entities of it that are not in memory.
        stored: what the store has said of them.
        may_guess: see Lanes.

    Raises:
        NotCaughtUpError, NotKnownError: it cannot be told.
    """
    if partition in lanes:
        return _see_own(lanes[partition], partition, keys, stored, may_guess=may_guess)
    if stored is None or not all(key in stored.rows for key in keys):
        return None
    meta = stored.meta
    if meta is None or meta.watermark == NOTHING or meta.layout != lanes.rows.layout.fingerprint:
        if not may_guess:
            raise NotKnownError(partition, is_away=stored.is_away)
        return Seen(partition, -1, False, NEVER_US, True, None)
    return Seen(partition, meta.watermark, False, meta.forgotten_us, False, stored)


def _see_own(
    lane: Lane, partition: int, keys: Sequence[bytes], stored: StoredRows | None, *, may_guess: bool
) -> Seen | None:
    if lane.watermark < lane.mute_until:
        raise NotCaughtUpError(partition)
    forgotten_us = FOREVER_US if lane.starts_blind else lane.forgotten_us
    if not keys or not lane.has_rows or lane.is_guessing:
        is_guess = lane.is_guessing
        return Seen(partition, lane.watermark, True, forgotten_us, is_guess, None)
    if stored is None or not all(key in stored.rows for key in keys):
        return None
    if stored.is_away:
        if not may_guess:
            raise NotKnownError(partition, is_away=True)
        return Seen(partition, lane.watermark, True, forgotten_us, True, None)
    if stored.meta not in (lane.durable, lane.uncertain):
        return None
    return Seen(partition, lane.watermark, True, forgotten_us, False, stored)


def likely_missing(lanes: Lanes, keys: Keys, partition: NDArray[np.int32]) -> dict[int, list[bytes]]:
    """Entities that `see` will most likely have the store asked for, by partition; any thread may call.

    A guess, as rows and lanes come and go meanwhile: `see` says what is wanted then.

    Args:
        keys: (n,) entities.
        partition: (n,) where each belongs.
    """
    is_missing = ~lanes.rows.may_hold(keys)
    found: dict[int, list[bytes]] = {}
    for each in set(partition[is_missing].tolist()):
        lane = lanes.get(each)
        if lane is None or (lane.has_rows and not lane.is_guessing and lane.watermark >= lane.mute_until):
            found[each] = keys.take(np.flatnonzero(is_missing & (partition == each))).to_list()
    return found


def see_nothing(lanes: Lanes, partition: int) -> Seen:
    """How a lane is seen where nothing is remembered of its entities."""
    is_owner = partition in lanes
    next_offset = lanes[partition].watermark if is_owner else -1
    return Seen(partition, next_offset, is_owner, NEVER_US, False, None)


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Lanes of copied rows, one for each group of events, and the keys by which their events find them."""

    lanes: Lanes
    keys: Keys  # (n,)
    lane: NDArray[np.int32]  # (n,)


def copy_rows(
    lanes: Lanes,
    keys: Keys,
    slots: NDArray[np.int64],
    seen: Sequence[Seen],
    lane: NDArray[np.int32],
) -> Copies:
    """Copies of the rows that events need, apart by group.

    Args:
        lanes: whose rows are copied.
        keys: (n,) entity of each event.
        slots: (n,) its row in memory, -1 where there is none.
        seen: (g,) each group's lane.
        lane: (n,) the group of each event.
    """
    n = len(keys)
    apart = keys_of([b"%d/%b" % (group, keys[row]) for row, group in enumerate(lane.tolist())])
    firsts, _ = distinct(apart)
    rows = HotRows(lanes.rows.layout, max(1, len(firsts)))
    copies = Lanes(rows, MemoryStore(), "", "")
    for group, each in enumerate(seen):
        here = Offsets(committed=None, start=0, low=0, high=n)
        copies.begin(group, _NOWHERE, here, 0, (0, each.forgotten_us))
    new = rows.add(apart.take(firsts), lane[firsts])
    _fill(lanes, rows, new, keys.take(firsts), slots[firsts], [seen[g] for g in lane[firsts].tolist()])
    return Copies(copies, apart, lane)


def _fill(
    lanes: Lanes,
    rows: HotRows,
    new: NDArray[np.int64],
    keys: Keys,
    slots: NDArray[np.int64],
    seen: Sequence[Seen],
) -> None:
    in_memory = slots >= 0
    held = slots[in_memory]
    packed_held = iter(pack(lanes.rows, held, 0))
    packed: list[bytes | None] = []
    generation = np.zeros(len(new), np.int64)
    for at, is_held in enumerate(in_memory.tolist()):
        stored = seen[at].stored
        if is_held:
            packed.append(next(packed_held))
        elif stored is not None and stored.meta is not None:
            packed.append(stored.rows[keys[at]])
            generation[at] = stored.meta.generation
        else:
            packed.append(None)
            rows.is_guess[new[at]] = seen[at].is_guess
    unpack_generation(rows, new, packed, generation)
    rows.is_guess[new[in_memory]] = lanes.rows.is_guess[held]
