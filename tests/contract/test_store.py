"""All stores keep the same promises: the one in memory, one real Redis, and a real cluster of three."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from feature_cache.lanes import Lanes
from feature_cache.layout import NEVER_US, Layout, WindowGroup
from feature_cache.redis_store import RedisStore
from feature_cache.rows import HotRows
from feature_cache.store import NOTHING, FencedError, LaneMeta, MemoryStore, Store

PATIENT_S = 5.0  # promises about answers, not about time: the machine may be busy
LAYOUT = Layout(
    groups=(
        WindowGroup(
            name="w", over="x", windows_us=(10,), window_labels=("w",), aggregates=("count",), capacity=4
        ),
    )
)


@pytest.fixture(
    params=["memory", *(pytest.param(kind, marks=pytest.mark.redis) for kind in ("redis", "cluster"))]
)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """One store after the other."""
    opened: Store
    if request.param == "memory":
        opened = MemoryStore()
    elif request.param == "cluster":
        opened = RedisStore(request.getfixturevalue("redis_cluster"), timeout_s=PATIENT_S)
    else:
        opened = RedisStore(request.getfixturevalue("redis_url"), timeout_s=PATIENT_S)
        request.getfixturevalue("redis_prefix")
    yield opened
    opened.close()


@pytest.fixture
def lane(unique_name: str) -> str:
    """The name of a lane that no other test has."""
    return f"{unique_name}:0"


def new_meta(taken: LaneMeta, watermark: int) -> LaneMeta:
    """What an owner writes."""
    return replace(taken, watermark=watermark, complete_us=watermark * 10, layout="abc")


def test_a_lane_never_taken_has_nothing(store: Store, lane: str) -> None:
    assert store.meta(lane) is None
    assert store.read([(lane, [b"a"])])[0] == (None, [None])
    assert store.read([(lane, [])])[0] == (None, [])


def test_the_metas_of_many_lanes_are_those_of_each(store: Store, lane: str) -> None:
    lanes = [f"{lane}{i}" for i in range(5)]
    for each in lanes[::2]:
        store.take(each, generation=3)

    metas = [meta for meta, _ in store.read([(each, []) for each in lanes])]
    assert metas == [store.meta(each) for each in lanes]
    assert [meta is None for meta in metas] == [False, True, False, True, False]
    assert store.read([]) == []


def test_each_take_raises_the_epoch_and_keeps_the_rest(store: Store, lane: str) -> None:
    first = store.take(lane, generation=7)
    second = store.take(lane, generation=8)

    assert first == LaneMeta(epoch=1, generation=7, watermark=NOTHING, owner=first.owner)
    assert second == replace(first, epoch=2, owner=second.owner)
    assert first.owner != second.owner
    assert store.meta(lane) == second


def test_what_is_taken_is_what_was_written(store: Store, lane: str) -> None:
    taken = store.take(lane, generation=7)
    new = replace(new_meta(taken, 2**53), complete_us=2**61, forgotten_us=NEVER_US, generation=2**52)

    assert store.write(lane, taken, new, [], [])

    again = store.take(lane, generation=9)
    assert again == replace(new, epoch=2, owner=again.owner)


def test_rows_and_meta_are_written_together(store: Store, lane: str) -> None:
    taken = store.take(lane, generation=7)
    new = new_meta(taken, 5)

    assert store.write(lane, taken, new, [b"a", b"\x00:} \xff"], [b"row of a", b"\x00\xff" * 40])

    assert store.read([(lane, [b"\x00:} \xff", b"b", b"a", b"a"])])[0] == (
        new,
        [b"\x00\xff" * 40, None, b"row of a", b"row of a"],
    )


@pytest.mark.parametrize("stale", ["epoch", "watermark", "layout"])
def test_a_write_that_expects_something_else_changes_nothing(store: Store, lane: str, stale: str) -> None:
    taken = store.take(lane, generation=7)
    held = new_meta(taken, 5)
    store.write(lane, taken, held, [b"a"], [b"1"])
    expected = {
        "epoch": replace(held, epoch=held.epoch + 1),
        "watermark": replace(held, watermark=4),
        "layout": replace(held, layout="other"),
    }[stale]

    assert not store.write(lane, expected, new_meta(taken, 6), [b"a", b"b"], [b"2", b"2"])

    assert store.read([(lane, [b"a", b"b"])])[0] == (held, [b"1", None])


def test_two_takes_never_leave_the_same_behind(store: Store, lane: str, unique_name: str) -> None:
    """Else a write of before a failover could compare equal after it, where the take between was lost."""
    taken = [store.take(lane, generation=1), store.take(f"{unique_name}:1", generation=1)]

    assert [meta.epoch for meta in taken] == [1, 1]
    assert taken[0] != taken[1]


def test_a_write_to_a_lane_that_is_gone_changes_nothing(store: Store, lane: str) -> None:
    never = LaneMeta(epoch=1, generation=1, watermark=NOTHING)

    assert not store.write(lane, never, new_meta(never, 1), [b"a"], [b"1"])

    assert store.read([(lane, [b"a"])])[0] == (None, [None])


def test_a_former_owner_cannot_write(store: Store, lane: str) -> None:
    former = store.take(lane, generation=1)
    now = store.take(lane, generation=2)

    assert not store.write(lane, former, new_meta(former, 3), [b"a"], [b"former"])
    assert store.write(lane, now, new_meta(now, 3), [b"a"], [b"now"])

    assert store.read([(lane, [b"a"])])[0][1] == [b"now"]


def test_the_same_write_done_twice_is_done_once_and_says_so(store: Store, lane: str) -> None:
    taken = store.take(lane, generation=1)
    new = new_meta(taken, 3)

    assert store.write(lane, taken, new, [b"a"], [b"1"])
    assert not store.write(lane, taken, new, [b"a"], [b"1"])

    assert store.meta(lane) == new


def test_lanes_and_groups_with_like_names_share_nothing(store: Store, unique_name: str) -> None:
    names = [f"{unique_name}:1", f"{unique_name}:11", f"{unique_name}:1:1", f"{unique_name}1:1"]
    for number, name in enumerate(names):
        taken = store.take(name, generation=1)
        store.write(name, taken, new_meta(taken, number), [b"1", b""], [b"%d" % number, b"empty"])

    for number, name in enumerate(names):
        meta, rows = store.read([(name, [b"1", b"", b"1:1"])])[0]
        assert meta is not None
        assert meta.watermark == number
        assert rows == [b"%d" % number, b"empty", None]


def test_rows_of_many_lanes_are_read_together_each_with_the_meta_of_its_own(
    store: Store, unique_name: str
) -> None:
    counts = [0, 1, 999, 2001, 3, 0, 500]
    lanes, wanted = {}, []
    for number, count in enumerate(counts):
        name = f"{unique_name}:{number}"
        taken = store.take(name, generation=1)
        lanes[name] = new_meta(taken, number)
        keys = [b"%d" % i for i in range(count)]
        store.write(name, taken, lanes[name], keys, [b"%d of %d" % (i, number) for i in range(count)])
        wanted.append((name, [*keys, b"none"] if number % 2 else keys))
    wanted.append((f"{unique_name}:of nobody", [b"1"]))

    found = store.read(wanted)

    assert [meta for meta, _ in found] == [*lanes.values(), None]
    assert [len(rows) for _, rows in found] == [len(keys) for _, keys in wanted]
    for number, (count, (_, rows)) in enumerate(zip(counts, found, strict=False)):
        assert rows[:count] == [b"%d of %d" % (i, number) for i in range(count)]
        assert set(rows[count:]) <= {None}
    assert store.read([]) == []


def test_thousands_of_rows_go_in_and_come_out_in_order(store: Store, lane: str) -> None:
    keys = [b"%d" % i for i in range(4321)]
    taken = store.take(lane, generation=1)
    new = new_meta(taken, 1)

    assert store.write(lane, taken, new, keys, [key * 50 for key in keys])

    meta, rows = store.read([(lane, [*reversed(keys), b"none"])])[0]
    assert meta == new
    assert rows == [*(key * 50 for key in reversed(keys)), None]


def test_a_read_is_of_one_instant_however_many_rows_it_asks_for(store: Store, lane: str) -> None:
    """A writer changes all rows at once, again and again; a reader never sees two writes mixed."""
    keys = [b"%d" % i for i in range(2500)]
    meta = store.take(lane, generation=1)
    done = threading.Event()

    def write_again_and_again() -> None:
        held = meta
        for number in range(12):
            new = new_meta(held, number)
            assert store.write(lane, held, new, keys, [b"%d" % number] * len(keys))
            held = new
        done.set()

    writer = threading.Thread(target=write_again_and_again)
    writer.start()
    while not done.is_set() and writer.is_alive():
        seen, rows = store.read([(lane, keys)])[0]
        assert seen is not None
        expected = None if seen.watermark == NOTHING else b"%d" % seen.watermark
        assert set(rows) == {expected}
    writer.join(30)
    assert done.is_set()


def test_a_store_says_what_it_is(store: Store) -> None:
    assert store.ping()


# Lanes on either store.


def owner_of(store: Store, group: str, *, committed: int = 0, hot_rows: int = 8) -> Lanes:
    """A worker that has taken partition 0."""
    lanes = Lanes(HotRows(LAYOUT, hot_rows), store, group, "t")
    lanes.take(0, committed=committed, start=0, low=0, high=2**40, now_ms=time.time_ns() // 1_000_000)
    return lanes


def touch(lanes: Lanes, keys: list[bytes], next_offset: int) -> None:
    """Change these rows, as events up to this offset would."""
    slots, _, _ = lanes.load(keys, np.zeros(len(keys), np.int32))
    lanes.rows.alert_us[slots] = next_offset
    lanes.rows.is_dirty[slots] = True
    lanes.advance(0, next_offset, next_offset, next_offset)


def test_rows_come_back_after_they_left_memory_and_after_a_restart(store: Store, unique_name: str) -> None:
    lanes = owner_of(store, unique_name, hot_rows=4)
    for number in range(6):
        touch(lanes, [b"%d" % number], number + 1)
        lanes.write(0)

    lanes.rows.find([])
    slots, loaded, _ = lanes.load([b"0", b"1"], np.zeros(2, np.int32))
    assert loaded == 2
    assert lanes.rows.alert_us[slots].tolist() == [1, 2]

    again = owner_of(store, unique_name, committed=6)
    slots, loaded, new = again.load([b"5", b"6"], np.zeros(2, np.int32))
    assert (loaded, new) == (1, 1)
    assert again.rows.alert_us[slots].tolist() == [6, NEVER_US]


def test_a_paused_owner_that_wakes_up_is_fenced(store: Store, unique_name: str) -> None:
    former = owner_of(store, unique_name)
    touch(former, [b"a"], 1)
    now = owner_of(store, unique_name)
    touch(now, [b"a"], 2)
    now.write(0)

    with pytest.raises(FencedError):
        former.write(0)

    assert now.write(0) == 0


def test_values_of_no_lane_are_read_as_they_were_put_in_the_order_asked(
    store: Store, unique_name: str
) -> None:
    names = [f"{unique_name}:{i}".encode() for i in range(2500)]
    store.put(names, [b"%d" % i for i in range(2500)])
    store.put(names[:1], [b"\0\xff"])

    found = store.get([names[7], b"never put", *names, names[7]])

    assert found == [b"7", None, b"\0\xff", *(b"%d" % i for i in range(1, 2500)), b"7"]
    assert store.get([]) == []


def test_values_asked_for_ahead_are_those_asked_for_whatever_is_done_meanwhile(
    store: Store, lane: str, unique_name: str
) -> None:
    names = [f"{unique_name}:{i}".encode() for i in range(50)]
    store.put(names, [b"%d" % i for i in range(50)])
    store.get(names)  # connects

    ahead = store.get_ahead([*names, b"never put"])
    dropped = store.get_ahead(names[:1])
    taken = store.take(lane, generation=1)
    found = None if ahead is None else ahead.answer()
    if dropped is not None:
        dropped.drop()

    assert found in (None, [*(b"%d" % i for i in range(50)), None])
    assert store.meta(lane) == taken, "no command has read the answer of another"
    assert store.get(names[3:5]) == [b"3", b"4"]


def test_a_single_server_is_asked_ahead(redis_url: str, redis_prefix: str) -> None:
    store = RedisStore(redis_url, timeout_s=PATIENT_S)
    name = f"{redis_prefix}:a".encode()
    assert store.get_ahead([name]) is None, "nobody has connected yet"
    store.put([name], [b"1"])

    for _ in range(3):
        ahead = store.get_ahead([name])
        assert ahead is not None
        assert ahead.answer() == [b"1"]
    dropped = store.get_ahead([name])
    assert dropped is not None
    dropped.drop()
    assert store.get([b"never put", name]) == [None, b"1"], "its answer is not taken for that of the next"
    store.close()
