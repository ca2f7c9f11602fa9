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

from feature_cache.layout import FOREVER_US, NEVER_US
from feature_cache.packing import CorruptRowError, generation_of, pack, unpack
from feature_cache.rows import HotRows
from feature_cache.store import NOTHING, FencedError, LaneMeta, Store


def lane_name(group: str, topic: str, partition: int) -> str:
    """The lane's name in the store: the unit of ownership is one partition as one consumer group reads it."""
    return f"{group}:{topic}:{partition}"


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

    def __init__(self, rows: HotRows, store: Store, group: str, topic: str) -> None:
        self.rows = rows
        self._store = store
        self._group = group
        self._topic = topic
        self._fingerprint = rows.layout.fingerprint
        self._owned: dict[int, Lane] = {}

    def __getitem__(self, partition: int) -> Lane:
        return self._owned[partition]

    def __contains__(self, partition: int) -> bool:
        return partition in self._owned

    def partitions(self) -> list[int]:
        """The partitions owned now."""
        return sorted(self._owned)

    def take(
        self, partition: int, *, committed: int | None, start: int, low: int, high: int, now_ms: int
    ) -> int:
        """Own a lane; from here on no former owner can write it.

        Args:
            partition: the partition assigned.
            committed: next offset of the consumer group; None when it never committed.
            start: where a group without a committed offset begins.
            low, high: the oldest offset that the topic still holds, and the next one to be written.
            now_ms: wall clock, dates the rows of a rebuild.

        Returns:
            The offset to read from. Events below `Lane.mute_until` only bring the rows up to date.
        """
        name = lane_name(self._group, self._topic, partition)
        self.rows.drop_lane(partition)
        durable = self._store.take(name, generation=now_ms)
        # A topic made anew is shorter than what was stored or committed of the old one: both say nothing.
        has_state = durable.watermark != NOTHING and durable.watermark <= high
        if committed is not None and committed > high:
            committed = None
        if committed is None and has_state:
            committed = durable.watermark  # the group's offsets expired: rows are never ahead of a commit
        mute_until = start if committed is None else committed
        usable = has_state and durable.layout == self._fingerprint and low <= durable.watermark <= mute_until
        # Otherwise (nothing stored, another layout, a gap cut by retention, offsets set back) the topic is
        # the truth, and the rows are made again from what it still holds.
        begin = durable.watermark if usable else start if committed is None else low
        is_blind = durable.forgotten_us == FOREVER_US if usable else begin > 0
        self._owned[partition] = Lane(
            name=name,
            durable=durable,
            # Rows of an abandoned state must never be read again, even if the clock has stepped back.
            generation=durable.generation if usable else max(now_ms, durable.generation + 1),
            watermark=begin,
            mute_until=mute_until,
            complete_us=durable.complete_us if usable else NEVER_US,
            forgotten_us=durable.forgotten_us if usable and not is_blind else NEVER_US,
            starts_blind=is_blind,
        )
        return begin

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
            if meta is None or meta not in (lane.durable, lane.uncertain):
                raise FencedError(f"lane {lane.name}: found {meta}, expected {lane.durable}")
        slots = self.rows.add(wanted, partition)
        kept = [
            i for i, row in enumerate(packed) if row is not None and generation_of(row) == lane.generation
        ]
        try:
            unpack(self.rows, slots[kept], [row for i in kept if (row := packed[i]) is not None])
        except CorruptRowError as error:
            # Give up what is stored, or every restart would meet the same row: the topic makes it again.
            self._store.write(lane.name, lane.durable, replace(lane.durable, watermark=NOTHING), [], [])
            raise CorruptRowError(
                f"lane {lane.name}: {error}; the lane is made again from the topic at the next start"
            ) from error
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
            forgotten_us=FOREVER_US if lane.starts_blind else lane.forgotten_us,
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
