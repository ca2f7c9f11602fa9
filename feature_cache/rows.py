"""Rows in process memory: entity to slot, one array per remembered thing, least recently used out first."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_cache.layout import NEVER_US, Group, Layout


class RowsFullError(RuntimeError):
    """Every hot row holds changes that are not durable yet: write them, then ask again."""


class WrongLaneError(RuntimeError):
    """One entity arrived on two partitions, so its row would have two owners."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupArrays:
    """One group of all rows."""

    spec: Group
    times: NDArray[np.int64]  # (rows, capacity) event time, ascending, ties in offset order
    values: NDArray[Any]  # (rows, capacity, channels)
    length: NDArray[np.int64]  # (rows,) how many are remembered
    forgotten: NDArray[np.int64]  # (rows,) newest time ever dropped or refused


def _empty_group(spec: Group, rows: int) -> GroupArrays:
    # np.zeros of this size is mapped, not touched: memory is used as rows fill up.
    return GroupArrays(
        spec=spec,
        times=np.zeros((rows, spec.capacity), np.int64),
        values=np.zeros((rows, spec.capacity, spec.channels), spec.dtype),
        length=np.zeros(rows, np.int64),
        forgotten=np.full(rows, NEVER_US, np.int64),
    )


class HotRows:
    """Packed state of up to `capacity` entities; a row's slot stays its own until it is dropped."""

    def __init__(self, layout: Layout, capacity: int) -> None:
        self.layout = layout
        self.capacity = capacity
        self.groups = tuple(_empty_group(spec, capacity) for spec in layout.groups)
        self.alert_level = np.zeros(capacity, np.uint8)  # 0 none, else severity 1..
        self.alert_us = np.full(capacity, NEVER_US, np.int64)  # event time of the last alert raised
        self.newest_us = np.full(capacity, NEVER_US, np.int64)  # event time of the newest event remembered
        self.steps_back = np.zeros(capacity, np.uint8)  # see order.py
        self.lane = np.full(capacity, -1, np.int32)
        self.is_dirty = np.zeros(capacity, np.bool_)
        self.is_guess = np.zeros(capacity, np.bool_)  # began from nothing while the store was away
        self._used_at = np.zeros(capacity, np.int64)
        self._key: list[bytes | None] = [None] * capacity
        self._slot: dict[bytes, int] = {}
        self._free = list(range(capacity - 1, -1, -1))
        self._clock = 0

    def __len__(self) -> int:
        return len(self._slot)

    def find(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """(n,) slot of each entity, -1 where it is not in memory; touches what it finds."""
        slots = np.fromiter(map(self._slot.get, keys, repeat(-1)), np.int64, len(keys))
        self._clock += 1
        self._used_at[slots[slots >= 0]] = self._clock
        return slots

    def add(self, keys: Sequence[bytes], lane: int) -> NDArray[np.int64]:
        """Empty rows for entities not in memory; clean rows make room, oldest use first.

        Raises:
            RowsFullError: no clean row is left to make room with.
        """
        if len(self._free) < len(keys):
            self._evict(len(keys) - len(self._free))
        slots = np.array([self._free.pop() for _ in keys], np.int64)
        for key, slot in zip(keys, slots.tolist(), strict=True):
            self._slot[key] = slot
            self._key[slot] = key
        self.lane[slots] = lane
        self._used_at[slots] = self._clock
        return slots

    def dirty(self, lane: int) -> NDArray[np.int64]:
        """Slots of a lane's rows that changed since they were last durable."""
        return np.flatnonzero(self.is_dirty & (self.lane == lane))

    def keys(self, slots: NDArray[np.int64]) -> list[bytes]:
        """The entities in these slots."""
        return [key for slot in slots.tolist() if (key := self._key[slot]) is not None]

    def drop_lane(self, lane: int) -> None:
        """Forget a lane's rows, changed ones too."""
        self._drop(np.flatnonzero(self.lane == lane))

    def _evict(self, wanted: int) -> None:
        """Drop the clean rows used longest ago; a tenth more than wanted, so that this stays rare."""
        # Rows of the batch at hand carry the current clock and must stay.
        clean = np.flatnonzero((self.lane >= 0) & ~self.is_dirty & (self._used_at < self._clock))
        if len(clean) < wanted:
            raise RowsFullError(
                f"{len(self)} hot rows, {len(clean)} clean, {wanted} more needed: raise state.hot_rows"
            )
        count = min(len(clean), max(wanted, self.capacity // 10))
        oldest = np.argpartition(self._used_at[clean], count - 1)[:count]
        self._drop(clean[oldest])

    def _drop(self, slots: NDArray[np.int64]) -> None:
        for slot in slots.tolist():
            key = self._key[slot]
            if key is not None:
                del self._slot[key]
            self._key[slot] = None
        self._free.extend(slots.tolist())
        self.lane[slots] = -1
        self.is_dirty[slots] = False
        self.is_guess[slots] = False
        self.alert_level[slots] = 0
        self.alert_us[slots] = NEVER_US
        self.newest_us[slots] = NEVER_US
        self.steps_back[slots] = 0
        for group in self.groups:
            group.length[slots] = 0
            group.forgotten[slots] = NEVER_US

    def check_lane(self, slots: NDArray[np.int64], lanes: NDArray[np.int32], keys: Sequence[bytes]) -> None:
        """Raise WrongLaneError where an entity's row belongs to another lane than its event came from."""
        wrong = np.flatnonzero(self.lane[slots] != lanes)
        if len(wrong):
            i = int(wrong[0])
            raise WrongLaneError(
                f"one entity (sha256 {hashlib.sha256(keys[i]).hexdigest()[:12]}) arrived on partitions "
                f"{int(lanes[i])} and {int(self.lane[slots[i]])}: producers must partition by key "
                f"(see source.partitioner)"
            )
