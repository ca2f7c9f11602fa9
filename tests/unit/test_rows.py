"""Rows survive packing, and leave memory only when nothing is lost by it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.layout import Layout, SequenceGroup, WindowGroup
from feature_cache.packing import CorruptRowError, pack, unpack, unpack_generation
from feature_cache.rows import HotRows, RowsFullError, WrongLaneError
from feature_cache.stretches import begin_rows

LAYOUT = Layout(
    groups=(
        WindowGroup(
            name="w", over="x", windows_us=(10,), window_labels=("w",), aggregates=("count",), capacity=5
        ),
        SequenceGroup(name="s", fields=("a", "b", "c"), length=2, capacity=4),
    )
)


def filled(rows: HotRows, count: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Add `count` rows of random content."""
    rng = np.random.default_rng(seed)
    slots = rows.add([b"entity-%d" % i for i in range(count)], 0)
    for group in rows.groups:
        begin_rows(group, slots, rng.integers(0, group.spec.capacity + 1, count))
        group.forgotten[slots] = rng.integers(-(2**62), 2**62, count)
        for slot in slots.tolist():
            times, values = group.events(slot)
            times[:] = rng.integers(-(2**62), 2**62, len(times))
            values[:] = rng.normal(size=values.shape)
    rows.alert_level[slots] = rng.integers(0, 255, count)
    rows.alert_us[slots] = rng.integers(-(2**62), 2**62, count)
    rows.newest_us[slots] = rng.integers(-(2**62), 2**62, count)
    rows.steps_back[slots] = rng.integers(0, 255, count)
    return slots


@settings(deadline=None)
@given(st.integers(0, 20), st.integers(0, 2**32), st.integers(0, 2**62))
def test_a_row_unpacks_to_what_was_packed(count: int, seed: int, generation: int) -> None:
    rows, copies = HotRows(LAYOUT, 32), HotRows(LAYOUT, 32)
    slots = filled(rows, count, seed)

    packed = pack(rows, slots, generation)
    copied = copies.add(rows.keys(slots), 0)
    unpack(copies, copied, packed)

    assert pack(copies, copied, generation) == packed
    for group, copy in zip(rows.groups, copies.groups, strict=True):
        for slot, twin in zip(slots.tolist(), copied.tolist(), strict=True):
            for unpacked, filled_in in zip(copy.events(twin), group.events(slot), strict=True):
                np.testing.assert_array_equal(unpacked, filled_in)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["kept", "older", "none", "cut", "short", "version"]), max_size=10))
def test_only_whole_rows_of_the_generation_asked_for_are_unpacked(kinds: list[str]) -> None:
    rows, copies = HotRows(LAYOUT, 16), HotRows(LAYOUT, 16)
    slots = filled(rows, len(kinds), 3)
    packed: list[bytes | None] = []
    for kind, row, older in zip(kinds, pack(rows, slots, 7), pack(rows, slots, 6), strict=True):
        choices = {
            "older": older,
            "none": None,
            "cut": row[:-1],
            "short": row[:16],
            "version": b"\0" + row[1:],
        }
        packed.append(choices.get(kind, row))
    copied = copies.add(rows.keys(slots), 0)

    is_kept = unpack_generation(copies, copied, packed, 7)

    assert is_kept.tolist() == [kind == "kept" for kind in kinds]
    assert pack(copies, copied[is_kept], 7) == [
        row for row, kept in zip(packed, is_kept, strict=True) if kept
    ]
    assert (copies.groups[0].length[copied[~is_kept]] == 0).all()


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**32), st.data())
def test_damaged_bytes_are_refused_or_fit_the_layout(count: int, seed: int, data: st.DataObject) -> None:
    rows = HotRows(LAYOUT, 16)
    packed = pack(rows, filled(rows, count, seed), 1)
    damaged = bytearray(packed[0])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    copies = HotRows(LAYOUT, 16)
    slots = copies.add([b"x"], 0)

    for bad in (bytes(damaged), bytes(damaged[:cut])):
        try:
            unpack(copies, slots, [bad])
        except CorruptRowError:
            continue
        assert all(0 <= group.length[slots[0]] <= group.spec.capacity for group in copies.groups)


def test_rows_used_longest_ago_leave_first_and_changed_rows_stay() -> None:
    rows = HotRows(LAYOUT, 10)
    rows.find([])
    slots = rows.add([b"%d" % i for i in range(10)], 0)
    rows.is_dirty[slots[0]] = True
    rows.find([b"%d" % i for i in range(2, 10)])
    rows.find([])

    rows.add([b"new"], 0)

    assert rows.find([b"0", b"1", b"2"]).tolist()[1] == -1
    assert len(rows) == 10


def test_when_every_row_is_changed_there_is_no_room_until_they_are_written() -> None:
    rows = HotRows(LAYOUT, 2)
    rows.is_dirty[rows.add([b"a", b"b"], 0)] = True
    rows.find([])

    with pytest.raises(RowsFullError, match=r"state\.hot_rows"):
        rows.add([b"c"], 0)


def test_an_entity_on_two_partitions_stops_with_the_setting_to_mend() -> None:
    rows = HotRows(LAYOUT, 2)
    slots = rows.add([b"a"], 0)

    with pytest.raises(WrongLaneError, match=r"source\.partitioner"):
        rows.check_lane(slots, np.array([1], np.int32))


def test_a_dropped_lane_leaves_no_trace_of_its_rows() -> None:
    rows = HotRows(LAYOUT, 4)
    filled(rows, 3, 1)

    rows.drop_lane(0)
    again = rows.add([b"entity-1"], 0)

    assert all(group.length[again[0]] == 0 for group in rows.groups)
    assert rows.alert_level[again[0]] == 0
    assert len(rows) == 1
