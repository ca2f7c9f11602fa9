"""A mirror says what the store says, whatever the owner does meanwhile, and reads nothing twice in vain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache import mirror as mirror_module
from feature_cache.lane import lane_name
from feature_cache.lanes import Lanes
from feature_cache.layout import NEVER_US, Layout, WindowGroup
from feature_cache.mirror import Mirror
from feature_cache.packing import CorruptRowError
from feature_cache.rows import HotRows
from feature_cache.store import MemoryStore, Stored
from feature_cache.stretches import begin_rows

GROUP = WindowGroup(
    name="w", over="x", windows_us=(1000,), window_labels=("w",), aggregates=("count",), capacity=4
)
LAYOUT = Layout(groups=(GROUP,))
LANES = 2
KEYS = [f"k{i}".encode() for i in range(6)]
LANE_OF = {key: i % LANES for i, key in enumerate(KEYS)}


class CountingStore(MemoryStore):
    """A store in memory that counts the rows it was asked for, and to which things happen between reads."""

    asked = 0
    reads = 0
    afterwards: list[Callable[[], None]] = []  # noqa: RUF012 what happens after each of the next reads

    def read(self, wanted: Sequence[tuple[str, Sequence[bytes]]]) -> list[Stored]:
        self.asked += sum(len(keys) for _, keys in wanted)
        self.reads += 1
        answer = super().read(wanted)
        happens, self.afterwards = self.afterwards, []  # it may read, too
        for each in happens[:1]:
            each()
        self.afterwards = happens[1:]
        return answer


class Owner:
    """Keeps rows in a store; a row's only event has the time last written."""

    def __init__(self, store: MemoryStore, layout: Layout = LAYOUT) -> None:
        self.rows = HotRows(layout, 100)
        self.lanes = Lanes(self.rows, store, "g", "t")
        self.offset = [0] * LANES
        for lane in range(LANES):
            self.take(lane, committed=None)

    def take(self, lane: int, committed: int | None) -> None:
        self.lanes.take(lane, committed=committed, start=0, low=0, high=1 << 40, now_ms=1)

    def write(self, key: bytes, time_us: int) -> None:
        lane = LANE_OF[key]
        slots, *_ = self.lanes.load([key], np.array([lane], np.int32))
        group = self.rows.groups[0]
        begin_rows(group, slots, np.ones(1, np.int64))
        group.events(int(slots[0]))[0][:] = time_us
        self.offset[lane] += 1
        self.lanes.changed(slots)
        self.lanes.advance(lane, self.offset[lane], time_us, time_us)
        self.lanes.write(lane)


def read(mirror: Mirror, keys: list[bytes]) -> list[tuple[int, int]]:
    """For each key the time in its row (0 without one), and up to when its lane is complete."""
    lanes = np.array([LANE_OF[key] for key in keys], np.int32)
    slots, complete_us, _ = mirror.read(keys, lanes)
    group = mirror.rows.groups[0]
    return [
        (int(group.events(slot)[0][0]) if slot >= 0 else 0, complete)
        for slot, complete in zip(slots.tolist(), complete_us.tolist(), strict=True)
    ]


STEPS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(KEYS)),
    st.tuples(st.just("read"), st.lists(st.sampled_from(KEYS), unique=True)),
    st.tuples(st.just("lose"), st.integers(0, LANES - 1)),
    st.tuples(st.just("rebuild"), st.integers(0, LANES - 1)),
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_what_is_read_is_what_is_stored_now(steps: list[tuple[str, object]]) -> None:
    store = MemoryStore()
    owner, kept = Owner(store), Mirror(store, ("g", "t"), LAYOUT)
    for now, (what, which) in enumerate(steps, start=1):
        match what, which:
            case "write", bytes(key):
                owner.write(key, now)
            case "lose", int(lane):  # as FLUSHALL does; the owner takes its lane again
                store._meta.pop(lane_name("g", "t", lane), None)
                store._rows.pop(lane_name("g", "t", lane), None)
                owner.take(lane, committed=None)
            case "rebuild", int(lane):  # rows of the generation before must not be read
                name = lane_name("g", "t", lane)
                stored = store.meta(name)
                assert stored is not None
                store._meta[name] = replace(stored, generation=stored.generation + 1)
                owner.take(lane, committed=0)
            case "read", list(keys):
                assert read(kept, keys) == read(Mirror(store, ("g", "t"), LAYOUT), keys)


def test_while_a_lane_stays_as_it_is_no_row_is_read_twice() -> None:
    store = CountingStore()
    owner, kept = Owner(store), Mirror(store, ("g", "t"), LAYOUT)
    for key in KEYS[:4]:
        owner.write(key, 5)

    store.reads = 0
    first = read(kept, KEYS)
    asked, reads = store.asked, store.reads
    again = read(kept, KEYS)

    assert first == again == [(5, 5)] * 4 + [(0, 5)] * 2
    assert store.asked == asked, "keys without a row are remembered too"
    assert (reads, store.reads) == (1, 2), "one command for all lanes, with what is missing of them"
    owner.write(KEYS[0], 9)
    assert read(kept, KEYS)[:3] == [(9, 9), (5, 5), (5, 9)]


def test_a_lane_that_is_written_between_two_reads_is_read_as_of_one_moment() -> None:
    store = CountingStore()
    owner, kept = Owner(store), Mirror(store, ("g", "t"), LAYOUT)
    for key in KEYS:
        owner.write(key, 5)
    read(kept, KEYS[:4])
    owner.write(KEYS[0], 7)  # the rows held are old, which the first read shows
    store.afterwards = [lambda: owner.write(KEYS[0], 9), lambda: owner.write(KEYS[0], 11)]

    assert read(kept, KEYS)[:3] == [(9, 9), (5, 5), (5, 9)]
    assert read(kept, KEYS)[:3] == [(11, 11), (5, 5), (5, 11)]


def test_a_row_that_cannot_be_read_is_read_again_and_not_taken_from_memory() -> None:
    store = MemoryStore()
    owner, kept = Owner(store), Mirror(store, ("g", "t"), LAYOUT)
    owner.write(KEYS[0], 5)
    rows = store._rows[lane_name("g", "t", LANE_OF[KEYS[0]])]
    whole, rows[KEYS[0]] = rows[KEYS[0]], rows[KEYS[0]][:-8]

    for _ in range(2):
        with pytest.raises(CorruptRowError):
            read(kept, KEYS[:1])

    rows[KEYS[0]] = whole
    assert read(kept, KEYS[:1]) == [(5, 5)]


def test_rows_of_another_layout_or_of_nobody_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "_ROOM", 2)
    store = MemoryStore()
    assert read(Mirror(store, ("g", "t"), LAYOUT), KEYS) == [(0, NEVER_US)] * 6

    Owner(store, Layout(groups=(replace(GROUP, capacity=5),))).write(KEYS[0], 5)

    assert read(Mirror(store, ("g", "t"), LAYOUT), KEYS) == [(0, NEVER_US)] * 6


def test_more_keys_than_it_has_room_for_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "_ROOM", 4)
    store = MemoryStore()
    owner, kept = Owner(store), Mirror(store, ("g", "t"), LAYOUT)
    for key in KEYS:
        owner.write(key, 5)

    for asked in (KEYS[:2], KEYS[2:4], KEYS[4:], KEYS[:2], KEYS, KEYS[3:]):
        assert read(kept, asked) == [(5, 5)] * len(asked)
