"""Ownership of lanes: taking them, loading their rows, and making changed rows durable after each commit.

Invariants (docs/state.md):
- An offset is applied to a lane's rows once or not at all: rows and watermark are stored in one write.
- What is stored never runs ahead of what is committed: rows are written after the commit that covers them.
- A row that is not in memory is in the store as of the lane's present: only clean rows leave memory, and one
  that is on its way to the store is not clean before it is there.
- A lane that has guessed a row (see `Lanes.load`) packs nothing and reads nothing until it is taken again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from feature_cache.key_index import Keys, distinct, keys_of
from feature_cache.lane import Lane, Offsets, Packed, committed_offset, has_state, lane_name
from feature_cache.layout import FOREVER_US, NEVER_US
from feature_cache.packing import CorruptRowError, pack, unpack_generation
from feature_cache.rows import HotRows
from feature_cache.store import NOTHING, FencedError, LaneMeta, Store, StoreUnavailableError


class Lanes:
    """The lanes that this worker owns, and their rows in memory."""

    def __init__(
        self, rows: HotRows, store: Store, group: str, topic: str, *, may_guess: bool = False
    ) -> None:
        """Own no lanes yet.

        Args:
            may_guess: when the store is away, begin rows that are not in memory from nothing instead of
                raising StoreUnavailableError.
        """
        self.rows = rows
        self._store = store
        self._group = group
        self._topic = topic
        self._may_guess = may_guess
        self._fingerprint = rows.layout.fingerprint
        self._owned: dict[int, Lane] = {}

    def __getitem__(self, partition: int) -> Lane:
        return self._owned[partition]

    def __contains__(self, partition: int) -> bool:
        return partition in self._owned

    def get(self, partition: int) -> Lane | None:
        """The lane, if it is owned; any thread may ask, and what it sees may be over."""
        return self._owned.get(partition)

    def partitions(self) -> list[int]:
        """The partitions owned now."""
        return sorted(self._owned)

    def guessing(self) -> list[int]:
        """The partitions whose rows are partly guessed: take them again once the store answers."""
        return [partition for partition, lane in sorted(self._owned.items()) if lane.is_guessing]

    def take(
        self, partition: int, *, committed: int | None, start: int, low: int, high: int, now_ms: int
    ) -> int:
        """Own a lane: `claim` it and `begin` it in one step."""
        offsets = Offsets(committed=committed, start=start, low=low, high=high)
        return self.begin(partition, self.claim(partition, now_ms), offsets, now_ms)

    def claim(self, partition: int, now_ms: int) -> LaneMeta:
        """Raise the lane's epoch, so that no former owner can write it; returns what is stored.

        Changes nothing here, so any thread may call it.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        return self._store.take(lane_name(self._group, self._topic, partition), generation=now_ms)

    def is_usable(self, durable: LaneMeta, offsets: Offsets) -> bool:
        """Whether the stored rows can be gone on with; otherwise they are built anew from the topic.

        They cannot when nothing is stored, in another layout, when retention has cut a gap between them and
        the topic, or when the group's offsets were set back to before them.
        """
        return (
            has_state(durable, offsets)
            and durable.layout == self._fingerprint
            and offsets.low <= durable.watermark
            # Never None here: there is state.
            and durable.watermark <= (committed_offset(durable, offsets) or 0)
        )

    def begin(
        self,
        partition: int,
        durable: LaneMeta,
        offsets: Offsets,
        now_ms: int,
        rebuild_from: tuple[int, int] | None = None,
    ) -> int:
        """Own a lane that was claimed.

        Args:
            partition: the partition assigned.
            durable: what `claim` gave.
            offsets: what Kafka knows of the partition.
            now_ms: wall clock, dates the rows of a rebuild.
            rebuild_from: where rows that are not usable are built from, and the event time at or before
                which they then know nothing (FOREVER_US: before the first event); None: from the oldest.

        Returns:
            The offset to read from. Events below `Lane.mute_until` only bring the rows up to date.
        """
        self.rows.drop_lane(partition)
        committed = committed_offset(durable, offsets)
        mute_until = offsets.start if committed is None else committed
        usable = self.is_usable(durable, offsets)
        forgotten_us, is_blind = NEVER_US, False
        if usable:
            begin = durable.watermark
            forgotten_us = durable.forgotten_us
            is_blind = forgotten_us == FOREVER_US
        elif rebuild_from is not None:
            begin, forgotten_us = rebuild_from
            is_blind = forgotten_us == FOREVER_US
        else:
            begin = offsets.start if committed is None else offsets.low
            is_blind = begin > 0
        self._owned[partition] = Lane(
            name=lane_name(self._group, self._topic, partition),
            durable=durable,
            # Rows of an abandoned state must never be read again, even if the clock has stepped back.
            generation=durable.generation if usable else max(now_ms, durable.generation + 1),
            watermark=begin,
            mute_until=mute_until,
            complete_us=durable.complete_us if usable else NEVER_US,
            forgotten_us=NEVER_US if is_blind else forgotten_us,
            starts_blind=is_blind,
            topic_id=offsets.topic_id or (durable.topic_id if usable else ""),
        )
        return begin

    def drop(self, partition: int) -> None:
        """Give up a lane and its rows in memory."""
        self._owned.pop(partition, None)
        self.rows.drop_lane(partition)

    def load(
        self, keys: Keys | Sequence[bytes], partitions: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], int, int]:
        """Bring the rows of these entities into memory.

        A store that is away is an error, or, with `may_guess`, makes rows that begin from nothing: they are
        marked in `HotRows.is_guess`, and their lane is `guessing` until it is taken again.

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
        keys = keys_of(keys)
        slots = self.rows.find(keys)
        missing = np.flatnonzero(slots < 0)
        loaded = new = 0
        if len(missing):
            asked = keys.take(missing)
            firsts, which = distinct(asked)
            added, loaded = self._load(asked.take(firsts), partitions[missing[firsts]])
            new = len(firsts) - loaded
            slots[missing] = added[which]
        self.rows.check_lane(slots, partitions)
        return slots, loaded, new

    def _load(self, wanted: Keys, partitions: NDArray[np.int32]) -> tuple[NDArray[np.int64], int]:
        """Rows of distinct entities that are not in memory, and how many of them were stored."""
        order = np.argsort(partitions, kind="stable")
        wanted, lane_of = wanted.take(order), partitions[order]
        found, firsts = np.unique(lane_of, return_index=True)
        ends = np.append(firsts[1:], len(lane_of))
        parts = {int(lane): slice(a, b) for lane, a, b in zip(found, firsts, ends, strict=True)}
        keys = wanted.to_list()
        stored = self._read({partition: keys[part] for partition, part in parts.items()})
        packed: list[bytes | None] = []
        generation = np.empty(len(lane_of), np.int64)
        for partition, part in parts.items():
            packed += stored[partition]
            generation[part] = self._owned[partition].generation
        slots = self.rows.add(wanted, lane_of)
        for partition in filter(lambda partition: self._owned[partition].is_guessing, parts):
            self.rows.is_guess[slots[parts[partition]]] = True
        try:
            loaded = int(unpack_generation(self.rows, slots, packed, generation).sum())
        except CorruptRowError:
            for partition, part in parts.items():
                self._give_up_if_corrupt(partition, slots[part], packed[part])
            raise
        unordered = np.empty_like(slots)
        unordered[order] = slots
        return unordered, loaded

    def _read(self, wanted: dict[int, list[bytes]]) -> dict[int, list[bytes | None]]:
        """Packed rows by lane: none where it has none, or where they have to be guessed."""
        found: dict[int, list[bytes | None]] = {lane: [None] * len(keys) for lane, keys in wanted.items()}
        asked = [lane for lane in wanted if self._owned[lane].has_rows and not self._owned[lane].is_guessing]
        try:
            return found | self._stored(asked, wanted)
        except StoreUnavailableError:
            if not self._may_guess:
                raise
            # One shard of a cluster may be away alone.
            for lane in asked:
                try:
                    found |= self._stored([lane], wanted)
                except StoreUnavailableError:
                    # Not even when the store is back: a row stored may lack events that a guess has seen.
                    self._owned[lane].is_guessing = True
        return found

    def _stored(self, asked: list[int], wanted: dict[int, list[bytes]]) -> dict[int, list[bytes | None]]:
        """What the store has, of lanes that still are ours."""
        if not asked:
            return {}
        answers = self._store.read([(self._owned[partition].name, wanted[partition]) for partition in asked])
        for partition, (meta, _) in zip(asked, answers, strict=True):
            lane = self._owned[partition]
            if meta is None or meta not in (lane.durable, lane.uncertain):
                raise FencedError(f"lane {lane.name}: found {meta}, expected {lane.durable}")
        return {partition: packed for partition, (_, packed) in zip(asked, answers, strict=True)}

    def _give_up_if_corrupt(
        self, partition: int, slots: NDArray[np.int64], packed: Sequence[bytes | None]
    ) -> None:
        """Give up what is stored of a lane, where these rows of it are corrupt, and say so."""
        lane = self._owned[partition]
        try:
            unpack_generation(self.rows, slots, packed, lane.generation)
        except CorruptRowError as error:
            # Else every restart would meet the same row: the topic makes it again. A store that goes away
            # just now is no reason to go on: these rows are in memory, and undefined.
            with suppress(StoreUnavailableError):
                self._store.write(lane.name, lane.durable, replace(lane.durable, watermark=NOTHING), [], [])
            raise CorruptRowError(
                f"lane {lane.name}: {error}; the lane is made again from the topic at the next start"
            ) from error

    def changed(self, slots: NDArray[np.int64]) -> None:
        """Note that these rows have changed: they stay in memory until they are written, or released."""
        self.rows.is_dirty[slots] = True

    def release(self) -> None:
        """Let rows of guessing lanes leave memory: what is durable and what was committed make them again.

        Call it when every batch is scored: until then its slots must not become another entity's.
        """
        for partition in self.guessing():
            self.rows.is_dirty[self.rows.lane == partition] = False

    def check(self, partitions: Iterable[int]) -> None:
        """Ask the store whether these lanes still are ours; any thread may. A lane given up since is.

        Raises:
            FencedError: one is not, or the store has lost it.
            StoreUnavailableError: the store did not answer.
        """
        for lane in filter(None, map(self._owned.get, partitions)):
            known = (lane.durable, lane.uncertain)
            found = self._store.meta(lane.name)
            # A write may have ended meanwhile, and been noted.
            if found is None or found not in (*known, lane.durable, lane.uncertain):
                raise FencedError(f"lane {lane.name}: found {found}, expected {lane.durable}")

    def advance(self, partition: int, next_offset: int, complete_us: int, first_event_us: int) -> None:
        """Note that the rows in memory have seen all below next_offset, up to event time complete_us."""
        lane = self._owned[partition]
        if lane.starts_blind and first_event_us > NEVER_US:
            lane.forgotten_us = first_event_us
            lane.starts_blind = False
        lane.watermark = max(lane.watermark, next_offset)
        lane.complete_us = max(lane.complete_us, complete_us)

    def write(self, partition: int) -> int:
        """Make a lane's changed rows durable at once; call it only when everything applied is committed.

        Returns:
            How many rows were written; none of a lane that is guessing.

        Raises:
            FencedError: the lane has another owner by now.
            StoreUnavailableError: the rows stay changed in memory; write again later.
        """
        packed = self.pack(partition)
        if packed is None:
            return 0
        packed.lane.uncertain = packed.new
        try:
            self.store(packed)
        except BaseException:
            self.not_written(packed)
            raise
        self.written(packed)
        return len(packed.slots)

    def pack(self, partition: int) -> Packed | None:
        """A lane's changed rows, and how far it has come, as of now; None: there is nothing to write.

        `store` may write them once everything applied until now is committed. They stay in memory until
        `written` or `not_written` is told, and nothing else may be packed of the lane before.

        Raises:
            FencedError: the lane has another owner by now.
            StoreUnavailableError: whether an earlier write was done cannot be asked.
        """
        lane = self._owned[partition]
        if lane.is_guessing:
            return None
        self._settle(lane)
        slots = self.rows.dirty(partition)
        new = replace(
            lane.durable,
            generation=lane.generation,
            watermark=lane.watermark,
            complete_us=lane.complete_us,
            forgotten_us=FOREVER_US if lane.starts_blind else lane.forgotten_us,
            layout=self._fingerprint,
            topic_id=lane.topic_id,
        )
        if not len(slots) and new == lane.durable:
            return None
        keys, rows = self.rows.keys(slots), pack(self.rows, slots, lane.generation)
        self.rows.is_dirty[slots], self.rows.is_packed[slots] = False, True
        return Packed(partition, lane, lane.durable, new, slots, keys, rows)

    def store(self, packed: Packed) -> None:
        """Write what was packed. Changes nothing here, so any thread may; first note it as `uncertain`.

        Raises:
            FencedError: the lane has another owner by now.
            StoreUnavailableError: nobody knows whether it was written.
        """
        name, new = packed.lane.name, packed.new
        if not self._store.write(name, packed.durable, new, packed.keys, packed.rows):
            found = self._store.meta(name)
            if found != new:  # equal: our own write, sent again after its answer was lost
                raise FencedError(f"lane {name}: found {found}, expected {packed.durable}")

    def holds(self, packed: Packed) -> bool:
        """Whether its lane is the one that it was packed of, and was not dropped or taken again since."""
        return self._owned.get(packed.partition) is packed.lane

    def written(self, packed: Packed) -> None:
        """Note that what was packed is durable, unless its lane was dropped since."""
        if self.holds(packed):
            packed.lane.durable, packed.lane.uncertain = packed.new, None
            self.rows.is_packed[packed.slots] = False

    def not_written(self, packed: Packed) -> None:
        """Note that it is not, or not for sure: its rows have changed still, unless its lane was dropped."""
        if self.holds(packed):
            self.rows.is_packed[packed.slots] = False
            self.rows.is_dirty[packed.slots] = True

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
