"""Ownership of lanes: taking them, loading their rows, and making changed rows durable after each commit.

Invariants (docs/state.md):
- An offset is applied to a lane's rows once or not at all: rows and watermark are stored in one write.
- What is stored never runs ahead of what is committed: rows are written after the commit that covers them.
- A row that is not in memory is in the store as of the lane's present: only clean rows leave memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from feature_cache.layout import NEVER_US
from feature_cache.packing import generation_of, pack, unpack
from feature_cache.rows import HotRows
from feature_cache.store import NOTHING, FencedError, LaneMeta, Store, StoreUnavailableError


def lane_name(group: str, partition: int) -> str:
    """The lane's name in the store: the unit of ownership is one partition of one consumer group."""
    return f"{group}:{partition}"


@dataclass(slots=True)
class Lane:
    """One owned partition."""

    name: str
    durable: LaneMeta  # what the store holds, as far as we know
    generation: int  # rows of another generation are from before a rebuild
    watermark: int  # next offset not yet applied to the rows in memory
    mute_until: int  # offsets below have their outcome already: replayed into state without output
    complete_us: int
    forgotten_us: int
    starts_blind: bool  # reading starts after records nobody remembers; the first event tells since when
    uncertain: LaneMeta | None = None  # a write whose answer was lost

    @property
    def has_rows(self) -> bool:
        """Whether the store holds rows of this lane that may be read."""
        return self.durable.watermark != NOTHING and self.durable.generation == self.generation


class Lanes:
    """The lanes that this worker owns, and their rows in memory."""

    def __init__(self, rows: HotRows, store: Store, group: str) -> None:
        self.rows = rows
        self._store = store
        self._group = group
        self._fingerprint = rows.layout.fingerprint
        self._owned: dict[int, Lane] = {}

    def __getitem__(self, partition: int) -> Lane:
        return self._owned[partition]

    def __contains__(self, partition: int) -> bool:
        return partition in self._owned

    def partitions(self) -> list[int]:
        """The partitions owned now."""
        return sorted(self._owned)

    def take(self, partition: int, *, committed: int | None, start: int, low: int, now_ms: int) -> int:
        """Own a lane; from here on no former owner can write it.

        Args:
            partition: the partition assigned.
            committed: next offset of the consumer group; None when it never committed.
            start: where a group without a committed offset begins.
            low: the oldest offset that the topic still holds.
            now_ms: wall clock, dates the rows of a rebuild.

        Returns:
            The offset to read from. Events below `Lane.mute_until` only bring the rows up to date.
        """
        name = lane_name(self._group, partition)
        durable = self._store.take(name, generation=now_ms)
        outcome_until = start if committed is None else committed
        if committed is None and durable.watermark != NOTHING:
            outcome_until = durable.watermark  # offsets expired: rows are never ahead of a commit
        usable = durable.layout == self._fingerprint and low <= durable.watermark <= outcome_until
        if usable:
            lane = Lane(
                name=name,
                durable=durable,
                generation=durable.generation,
                watermark=durable.watermark,
                mute_until=outcome_until,
                complete_us=durable.complete_us,
                forgotten_us=durable.forgotten_us,
                starts_blind=False,
            )
        else:
            # Nothing stored, another layout, a gap cut by retention, or offsets reset to before the rows:
            # the topic is the truth, so the rows are made again from what it still holds.
            begin = low if committed is not None else start
            lane = Lane(
                name=name,
                durable=durable,
                generation=durable.generation if durable.watermark == NOTHING else now_ms,
                watermark=begin,
                mute_until=outcome_until,
                complete_us=NEVER_US,
                forgotten_us=NEVER_US,
                starts_blind=begin > 0,
            )
        self._owned[partition] = lane
        return lane.watermark

    def drop(self, partition: int) -> None:
        """Give up a lane and its rows in memory."""
        self._owned.pop(partition, None)
        self.rows.drop_lane(partition)

    def load(
        self, keys: Sequence[bytes], partitions: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], int, int]:
        """Bring the rows of these entities into memory.

        Args:
            keys: (n,) entity of each event.
            partitions: (n,) int32 lane of each event.

        Returns:
            (n,) slots, how many rows were read from the store, and how many are new.

        Raises:
            FencedError: the lane has another owner by now.
            StoreUnavailableError: the store did not answer; nothing has changed.
            RowsFullError: see HotRows.add.
            WrongLaneError: an entity came from two partitions.
        """
        slots = self.rows.find(keys)
        missing = np.flatnonzero(slots < 0)
        loaded = new = 0
        if len(missing):
            for partition in np.unique(partitions[missing]).tolist():
                here = missing[partitions[missing] == partition].tolist()
                wanted = list(dict.fromkeys(keys[i] for i in here))
                found = self._load(partition, wanted)
                loaded += found
                new += len(wanted) - found
            slots[missing] = self.rows.find([keys[i] for i in missing.tolist()])
        self.rows.check_lane(slots, partitions, keys)
        return slots, loaded, new

    def _load(self, partition: int, wanted: list[bytes]) -> int:
        lane = self._owned[partition]
        packed: list[bytes | None] = [None] * len(wanted)
        if lane.has_rows:
            meta, packed = self._store.read(lane.name, wanted)
            if meta not in (lane.durable, lane.uncertain):
                raise FencedError(f"lane {lane.name}: found {meta}, expected {lane.durable}")
        slots = self.rows.add(wanted, partition)
        kept = [
            i for i, row in enumerate(packed) if row is not None and generation_of(row) == lane.generation
        ]
        unpack(self.rows, slots[kept], [row for i in kept if (row := packed[i]) is not None])
        return len(kept)

    def advance(self, partition: int, next_offset: int, complete_us: int, first_event_us: int) -> None:
        """Note that the rows in memory have seen all below next_offset, up to event time complete_us."""
        lane = self._owned[partition]
        if lane.starts_blind and first_event_us > NEVER_US:
            lane.forgotten_us = first_event_us
            lane.starts_blind = False
        lane.watermark = max(lane.watermark, next_offset)
        lane.complete_us = max(lane.complete_us, complete_us)

    def write(self, partition: int) -> int:
        """Make a lane's changed rows durable; call it only when everything applied is committed.

        Returns:
            How many rows were written.

        Raises:
            FencedError: the lane has another owner by now.
            StoreUnavailableError: the rows stay changed in memory; write again later.
        """
        lane = self._owned[partition]
        self._settle(lane)
        slots = self.rows.dirty(partition)
        new = replace(
            lane.durable,
            generation=lane.generation,
            watermark=lane.watermark,
            complete_us=lane.complete_us,
            forgotten_us=lane.forgotten_us,
            layout=self._fingerprint,
        )
        if not len(slots) and new == lane.durable:
            return 0
        keys, packed = self.rows.keys(slots), pack(self.rows, slots, lane.generation)
        lane.uncertain = new
        if not self._store.write(lane.name, lane.durable, new, keys, packed):
            found = self._store.meta(lane.name)
            if found != new:  # equal: our own write, sent again after its answer was lost
                raise FencedError(f"lane {lane.name}: found {found}, expected {lane.durable}")
        lane.durable, lane.uncertain = new, None
        self.rows.is_dirty[slots] = False
        return len(slots)

    def _settle(self, lane: Lane) -> None:
        """Find out whether a write whose answer was lost was done."""
        if lane.uncertain is None:
            return
        found = self._store.meta(lane.name)
        if found == lane.uncertain:
            lane.durable = lane.uncertain
        elif found != lane.durable:
            raise FencedError(f"lane {lane.name}: found {found}, expected {lane.durable} or {lane.uncertain}")
        lane.uncertain = None


__all__ = ["FencedError", "Lane", "Lanes", "StoreUnavailableError", "lane_name"]
