"""Each row has a stretch of its own, no larger than what it holds needs, and gives back what it leaves."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.layout import NEVER_US, SequenceGroup, WindowGroup
from feature_cache.recent import apply_windows
from feature_cache.stretches import LEAST, GroupArrays, begin_rows, drop_rows, empty_group, make_room

ROWS, CAPACITY = 6, 50
GROUP = WindowGroup(
    name="w", over="x", windows_us=(100,), window_labels=("w",), aggregates=("count",), capacity=CAPACITY
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("room"), st.lists(st.integers(-1, ROWS - 1), max_size=60)),
        st.tuples(st.just("begin"), st.lists(st.integers(0, ROWS - 1), unique=True)),
        st.tuples(st.just("drop"), st.lists(st.integers(0, ROWS - 1), unique=True)),
    ),
    max_size=60,
)


def stretches_do_not_overlap(group: GroupArrays) -> None:
    """Rows' stretches and free ones together are all that was ever used, each cell once."""
    spans = [(int(r["start"]), int(r["room"])) for r in group.held if r["room"]]
    spans += [(int(i) * LEAST, LEAST << (int(group.free[i]) - 1)) for i in np.flatnonzero(group.free)]
    at = 0
    for start, room in sorted(spans):
        assert start == at
        at += room
    assert at == group.heads[-1] <= len(group.times)


@settings(deadline=None)
@given(STEPS)
def test_rows_keep_their_events_however_stretches_move(steps: list[tuple[str, list[int]]]) -> None:
    group, held = empty_group(GROUP, ROWS), [list[int]() for _ in range(ROWS)]
    stamp = 0
    for what, which in steps:
        slots = np.array(which, np.int64)
        if what == "room":
            make_room(group, slots)
        elif what == "begin":
            lengths = [(7 * slot + stamp) % (CAPACITY + 1) for slot in which]
            begin_rows(group, slots, np.array(lengths, np.int64))
            for slot, length in zip(which, lengths, strict=True):
                stamp += 1
                held[slot] = list(range(stamp, stamp + length))
                times, values = group.events(slot)
                times[:], values[:, 0] = held[slot], held[slot]
        else:
            drop_rows(group, slots)
            for slot in which:
                held[slot] = []
        stretches_do_not_overlap(group)
        for slot in range(ROWS):
            times, values = group.events(slot)
            assert times.tolist() == values[:, 0].tolist() == held[slot]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, 30)), max_size=200), st.integers(1, 30))
def test_a_stretch_is_as_large_as_what_its_row_holds_needs(events: list[tuple[int, int]], cut: int) -> None:
    group, now = empty_group(GROUP, ROWS), 0
    for start in range(0, len(events), cut):
        part = events[start : start + cut]
        n = len(part)
        before = group.length.copy()
        steps = np.cumsum([step for _, step in part])
        slots = np.array([slot for slot, _ in part], np.int64)
        apply_windows(
            group,
            slots,
            now + steps,
            np.ones(n),
            np.zeros(n, np.bool_),
            np.full(n, NEVER_US, np.int64),
            np.empty((n, 1)),
            np.zeros(n, np.bool_),
            np.zeros(n, np.bool_),
        )
        now += int(steps[-1])
        stretches_do_not_overlap(group)
        most = np.minimum(before + np.bincount(slots, minlength=ROWS), CAPACITY)
        touched = np.unique(slots)
        assert (group.held["room"][touched] <= np.maximum(4 * most[touched], LEAST)).all()
        assert (group.length <= group.held["room"]).all()


def test_rows_that_grow_together_use_the_room_that_they_leave() -> None:
    """Only the sizes in use cost memory: what rows have grown out of is joined for those that still grow."""
    rows = 1000
    group = empty_group(GROUP, rows)
    chance = np.random.default_rng(1)
    for length in range(1, 33):
        slots = chance.permutation(rows)
        make_room(group, slots)
        group.held["length"][slots] = length
    assert group.heads[-1] <= 1.1 * rows * 32


def test_rows_that_are_dropped_leave_the_arena_as_it_was() -> None:
    group = empty_group(SequenceGroup(name="s", fields=("a", "b"), length=3, capacity=20), 100)
    for turn in range(5):
        slots = np.random.default_rng(turn).permutation(100)
        begin_rows(group, slots, slots % 21)
        drop_rows(group, slots[:50])
        drop_rows(group, slots[50:])
    assert group.heads[-1] <= 100 * 32
    assert (group.heads[:-2] == -1).all(), "everything is joined to stretches of the largest size"
