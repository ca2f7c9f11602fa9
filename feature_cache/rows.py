"""Rows in process memory: one array per remembered thing, least recently used out first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feature_cache.key_index import KeyIndex, Keys, keys_of
from feature_cache.layout import NEVER_US, Layout
from feature_cache.stretches import drop_rows, empty_group


class RowsFullError(RuntimeError):
    """Every hot row holds changes that are not durable yet: write them, then ask again."""


class WrongLaneError(RuntimeError):
    """One entity arrived on two partitions, so its row would have two owners."""

    def __init__(self, said: str, row: int) -> None:
        super().__init__(said)
        self.row = row  # of the batch: the event on the wrong one


class HotRows:
    """Packed state of up to `capacity` entities; a row's slot stays its own until it is dropped."""

    def __init__(self, layout: Layout, capacity: int) -> None:
        self.layout = layout
        self.capacity = capacity
        self.groups = tuple(empty_group(spec, capacity) for spec in layout.groups)
        self.alert_level = np.zeros(capacity, np.uint8)  # 0 none, else severity 1..
        self.alert_us = np.full(capacity, NEVER_US, np.int64)  # event time of the last alert raised
        self.newest_us = np.full(capacity, NEVER_US, np.int64)  # event time of the newest event remembered
        self.steps_back = np.zeros(capacity, np.uint8)  # see order.py
        self.lane = np.full(capacity, -1, np.int32)
        self.is_dirty = np.zeros(capacity, np.bool_)
        self.is_packed = np.zeros(capacity, np.bool_)  # as it was then, on its way to the store
        self.is_guess = np.zeros(capacity, np.bool_)  # began from nothing while the store was away
        self._used_at = np.zeros(capacity, np.int64)
        self._index = KeyIndex(capacity)
        self._free = np.arange(capacity - 1, -1, -1)  # its first ones, as many as have no row
        self._clock = 0

    def __len__(self) -> int:
        return len(self._index)

    def find(self, keys: Keys | Sequence[bytes]) -> NDArray[np.int64]:
        """(n,) slot of each entity, -1 where it is not in memory; touches what it finds."""
        slots = self._index.find(keys_of(keys))
        self._clock += 1
        self._used_at[slots[slots >= 0]] = self._clock
        return slots

    def peek(self, keys: Keys) -> NDArray[np.int64]:
        """(n,) slot of each entity, -1 where it is not in memory; leaves no trace of having looked."""
        return self._index.find(keys)

    def may_hold(self, keys: Keys) -> NDArray[np.bool_]:
        """(n,) whether each entity most likely is in memory; any thread may ask."""
        return self._index.may_find(keys)

    def add(self, keys: Keys | Sequence[bytes], lane: int | NDArray[np.int32]) -> NDArray[np.int64]:
        """Empty rows for distinct entities not in memory, of one lane, or each of its own.

        Clean rows make room, oldest use first.

        Raises:
            RowsFullError: no clean row is left to make room with.
        """
        free = self.capacity - len(self)
        if free < len(keys):
            self._evict(len(keys) - free)
            free = self.capacity - len(self)
        slots = self._free[free - len(keys) : free][::-1].copy()
        self._index.add(keys_of(keys), slots)
        self.lane[slots] = lane
        self._used_at[slots] = self._clock
        return slots

    def dirty(self, lane: int) -> NDArray[np.int64]:
        """Slots of a lane's rows that changed since they were last durable, or packed to become so."""
        return np.flatnonzero(self.is_dirty & (self.lane == lane))

    def keys(self, slots: NDArray[np.int64]) -> list[bytes]:
        """The entities in these slots."""
        return self._index.keys(slots).to_list()

    def drop_lane(self, lane: int) -> None:
        """Forget a lane's rows, changed ones too."""
        self._drop(np.flatnonzero(self.lane == lane))

    def _evict(self, wanted: int) -> None:
        """Drop the clean rows used longest ago; a tenth more than wanted, so that this stays rare."""
        is_clean = ~(self.is_dirty | self.is_packed)
        # Rows of the batch at hand carry the current clock and must stay.
        clean = np.flatnonzero((self.lane >= 0) & is_clean & (self._used_at < self._clock))
        if len(clean) < wanted:
            raise RowsFullError(
                f"{len(self)} hot rows, {len(clean)} clean, {wanted} more needed: raise state.hot_rows"
            )
        count = min(len(clean), max(wanted, self.capacity // 10))
        oldest = np.argpartition(self._used_at[clean], count - 1)[:count]
        self._drop(clean[oldest])

    def _drop(self, slots: NDArray[np.int64]) -> None:
        if not len(slots):
            return
        free = self.capacity - len(self)
        self._index.remove(slots)
        self._free[free : free + len(slots)] = slots
        self.lane[slots] = -1
        self.is_dirty[slots] = False
        self.is_packed[slots] = False
        self.is_guess[slots] = False
        self.alert_level[slots] = 0
        self.alert_us[slots] = NEVER_US
        self.newest_us[slots] = NEVER_US
        self.steps_back[slots] = 0
        for group in self.groups:
            drop_rows(group, slots)

    def check_lane(self, slots: NDArray[np.int64], lanes: NDArray[np.int32]) -> None:
        """Raise WrongLaneError where an entity's row belongs to another lane than its event came from."""
        wrong = np.flatnonzero(self.lane[slots] != lanes)
        if len(wrong):
            i = int(wrong[0])
            raise WrongLaneError(
                f"found an event of an entity of partition {int(self.lane[slots[i]])}, expected one of "
                f"partition {int(lanes[i])}: producers must partition by key (see source.partitioner)",
                i,
            )
