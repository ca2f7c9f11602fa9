"""Changed rows are written beside the loop, as they were when the commit began that covers them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from feature_cache.lanes import Lanes
from feature_cache.layout import Layout, WindowGroup
from feature_cache.rows import HotRows, RowsFullError
from feature_cache.store import FencedError, LaneMeta, MemoryStore, StoreUnavailableError
from worker import row_writes
from worker.metrics import Meter
from worker.row_writes import RowWrites

LAYOUT = Layout(
    groups=(
        WindowGroup(
            name="w", over="x", windows_us=(10,), window_labels=("10us",), aggregates=("count",), capacity=4
        ),
    )
)
WITHIN_S = 30.0


class Gated(MemoryStore):
    """A store in memory that writes once it may, and can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write = threading.Event()
        self.may_write.set()
        self.away_after = -1  # so many writes
        self.threads: list[threading.Thread] = []

    def write(
        self, lane: str, expected: LaneMeta, new: LaneMeta, keys: Sequence[bytes], rows: Sequence[bytes]
    ) -> bool:
        self.threads.append(threading.current_thread())
        assert self.may_write.wait(WITHIN_S)
        if len(self.threads) - 1 == self.away_after:
            raise StoreUnavailableError("away")
        return super().write(lane, expected, new, keys, rows)


class Rig:
    """A worker's lanes 0 and 1, and what writes their rows."""

    def __init__(self, hot_rows: int = 8) -> None:
        self.store = Gated()
        self.lanes = Lanes(HotRows(LAYOUT, hot_rows), self.store, "g", "t")
        self.registry = CollectorRegistry()
        self.writes = RowWrites(self.lanes, Meter("p", self.registry), interval_ms=1000.0)
        for partition in (0, 1):
            self.take(partition)

    def take(self, partition: int) -> None:
        self.lanes.take(partition, committed=0, start=0, low=0, high=99, now_ms=1)

    def change(self, key: bytes, partition: int, next_offset: int) -> None:
        """One event of an entity, applied."""
        slots, _, _ = self.lanes.load([key], np.array([partition], np.int32))
        self.lanes.changed(slots)
        self.lanes.advance(partition, next_offset, next_offset, next_offset)

    def write(self, now_ms: float) -> None:
        """All of a write, of a commit that is done."""
        self.writes.pack(now_ms)
        self.writes.begin()
        self.writes.end()

    def under_way(self) -> Future[Any]:
        """The write that was begun and not looked at; its thread may not have come as far as the store."""
        assert self.writes._writing is not None
        return self.writes._writing

    def stored(self, partition: int) -> tuple[int, int]:
        """How far the store has come, and how many rows it holds."""
        name = self.lanes[partition].name
        meta = self.store.meta(name)
        assert meta is not None
        return meta.watermark, len(self.store._rows.get(name, {}))

    def counted(self, result: str) -> float:
        labels = {"pipeline": "p", "result": result}
        return self.registry.get_sample_value("penstock_state_writes_total", labels) or 0.0


def test_what_was_packed_is_written_beside_the_loop_once_its_commit_is_done() -> None:
    rig = Rig()
    rig.change(b"a", 0, 3)
    rig.change(b"b", 1, 5)

    rig.writes.pack(now_ms=0.0)
    rig.change(b"a", 0, 4)  # of the next commit
    assert [rig.stored(0), rig.stored(1)] == [(-1, 0), (-1, 0)]
    rig.writes.begin()
    rig.writes.end()

    assert [rig.stored(0), rig.stored(1)] == [(3, 1), (5, 1)]
    assert threading.main_thread() not in rig.store.threads
    assert [len(rig.lanes.rows.dirty(0)), len(rig.lanes.rows.dirty(1))] == [1, 0]
    assert rig.counted("ok") == 2


def test_the_loop_goes_on_while_the_store_writes_and_the_rows_stay_in_memory_until_then() -> None:
    rig = Rig(hot_rows=2)
    rig.change(b"a", 0, 1)
    rig.change(b"b", 0, 2)
    rig.store.may_write.clear()
    rig.writes.pack(now_ms=0.0)
    rig.writes.begin()

    rig.writes.turn()
    rig.lanes.load([b"a", b"b"], np.zeros(2, np.int32))
    with pytest.raises(RowsFullError):  # else the third would be read back as it was before
        rig.lanes.load([b"c"], np.zeros(1, np.int32))
    rig.store.may_write.set()
    rig.writes.end()

    assert rig.lanes.load([b"c"], np.zeros(1, np.int32))[2] == 1
    assert rig.lanes.load([b"a"], np.zeros(1, np.int32))[1:] == (1, 0)


def test_rows_of_a_commit_that_was_not_done_are_packed_anew_for_the_one_that_covers_more() -> None:
    rig = Rig()
    rig.change(b"a", 0, 3)
    rig.writes.pack(now_ms=0.0)

    rig.writes.take_back()
    rig.writes.begin()
    assert rig.stored(0) == (-1, 0)
    rig.change(b"b", 0, 4)
    rig.write(now_ms=1000.0)

    assert rig.stored(0) == (4, 2)


def test_a_write_under_way_is_of_the_commit_before_and_stays_when_the_next_is_not_done() -> None:
    rig = Rig()
    rig.change(b"a", 0, 3)
    rig.writes.pack(now_ms=0.0)
    rig.store.may_write.clear()
    rig.writes.begin()
    rig.change(b"b", 1, 5)

    rig.writes.pack(now_ms=1000.0)  # or the write under way would be of what is not committed
    rig.writes.take_back()
    rig.store.may_write.set()
    rig.writes.end()

    assert [rig.stored(0), rig.stored(1)] == [(3, 1), (0, 0)]
    assert not rig.lanes.rows.is_packed.any()
    assert len(rig.lanes.rows.dirty(1)) == 1


def test_rows_are_read_while_a_write_that_was_done_has_not_been_looked_at() -> None:
    rig = Rig()
    rig.change(b"a", 0, 3)
    rig.writes.pack(now_ms=0.0)
    rig.writes.begin()
    rig.under_way().result(WITHIN_S)
    assert rig.stored(0) == (3, 1)

    assert rig.lanes.load([b"never seen"], np.zeros(1, np.int32))[1:] == (0, 1)
    rig.lanes.check([0])


def test_whoever_turns_notes_that_a_write_has_ended_and_more_can_be_packed() -> None:
    rig = Rig()
    rig.change(b"a", 0, 3)
    rig.writes.pack(now_ms=0.0)
    rig.writes.begin()
    give_up_s = time.monotonic() + WITHIN_S
    while rig.lanes.rows.is_packed.any() and time.monotonic() < give_up_s:
        rig.writes.turn()
        time.sleep(0.001)

    rig.change(b"a", 0, 4)
    rig.write(now_ms=1000.0)

    assert rig.stored(0) == (4, 1)


def test_rows_of_a_commit_that_was_not_done_are_due_with_the_next() -> None:
    rig = Rig()
    rig.change(b"a", 0, 3)
    rig.writes.pack(now_ms=0.0)
    rig.writes.take_back()

    rig.write(now_ms=1.0)

    assert rig.stored(0) == (3, 1)


@pytest.mark.parametrize("is_fenced", [True, False])
def test_what_becomes_of_a_write_is_nothing_to_a_lane_that_was_taken_again_since(is_fenced: bool) -> None:
    rig = Rig()
    rig.change(b"a", 0, 3)
    rig.change(b"b", 1, 5)
    rig.writes.pack(now_ms=0.0)
    if is_fenced:
        rig.store.may_write.clear()
    rig.writes.begin()
    if not is_fenced:
        rig.under_way().result(WITHIN_S)
    rig.lanes.drop(0)
    rig.lanes.take(0, committed=3, start=0, low=0, high=99, now_ms=2)
    rig.change(b"c", 0, 4)
    (slot,) = rig.lanes.rows.find([b"c"]).tolist()

    rig.store.may_write.set()
    rig.writes.end()

    assert rig.stored(1) == (5, 1)
    assert rig.lanes.rows.is_dirty[slot]
    assert rig.lanes[0].durable == rig.store.meta(rig.lanes[0].name)
    assert rig.lanes[0].uncertain is None


def test_a_write_that_keeps_the_store_silent_for_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    rig.change(b"a", 0, 3)
    monkeypatch.setattr(row_writes, "patience_for", lambda rows, size_bytes: 20 if rows and size_bytes else 1)
    rig.writes.pack(now_ms=0.0)

    rig.writes.begin()

    assert not rig.lanes.rows.is_packed.any()
    assert rig.stored(0) == (3, 1)


def test_a_lane_that_has_guessed_packs_nothing_and_lets_its_rows_go() -> None:
    rig = Rig()
    rig.change(b"a", 0, 3)
    rig.lanes[0].is_guessing = True

    rig.write(now_ms=0.0)

    assert rig.stored(0) == (-1, 0)
    assert not rig.lanes.rows.is_dirty.any()


def test_nothing_is_packed_before_it_is_due() -> None:
    rig = Rig()
    rig.write(now_ms=0.0)
    rig.change(b"a", 0, 3)

    rig.write(now_ms=999.0)

    assert rig.stored(0) == (0, 0)


def test_where_the_store_goes_away_between_two_lanes_the_others_rows_are_written_later() -> None:
    rig = Rig()
    rig.change(b"a", 0, 3)
    rig.change(b"b", 1, 5)
    rig.store.away_after = 1
    rig.write(now_ms=0.0)
    assert [rig.stored(0), rig.stored(1)] == [(3, 1), (-1, 0)]
    assert rig.counted("unavailable") == 1

    rig.write(now_ms=1000.0)

    assert rig.stored(1) == (5, 1)


def test_a_new_owner_is_noticed_when_the_write_ends() -> None:
    rig = Rig()
    rig.change(b"a", 0, 3)
    rig.writes.pack(now_ms=0.0)
    rig.store.take(rig.lanes[0].name, generation=2)
    rig.writes.begin()

    with pytest.raises(FencedError):
        rig.writes.end()


def test_a_write_that_ends_after_its_lane_was_taken_again_changes_nothing_of_the_new_one() -> None:
    rig = Rig()
    rig.change(b"a", 0, 3)
    rig.writes.pack(now_ms=0.0)
    rig.store.may_write.clear()
    rig.writes.begin()
    forgotten = rig.under_way()
    rig.writes.forget()
    rig.take(0)
    rig.change(b"a", 0, 2)
    (slot,) = rig.lanes.rows.find([b"a"]).tolist()

    rig.store.may_write.set()
    forgotten.result(WITHIN_S)

    rig.writes.turn()
    assert rig.stored(0) == (-1, 0)
    assert rig.lanes.rows.is_dirty[slot]
    assert rig.lanes[0].durable == rig.store.meta(rig.lanes[0].name)
    rig.write(now_ms=1000.0)
    assert rig.stored(0) == (2, 1)
