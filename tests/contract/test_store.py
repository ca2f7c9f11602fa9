"""Both stores keep the same promises: the one in memory and the one in a real Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import redis

from feature_cache.lanes import Lanes, lane_name
from feature_cache.layout import NEVER_US, Layout, WindowGroup
from feature_cache.redis_store import RedisStore
from feature_cache.rows import HotRows
from feature_cache.store import NOTHING, FencedError, LaneMeta, MemoryStore, Store, StoreUnavailableError
from tests.services import Service

ANSWERS_WITHIN_S = 3.0
LAYOUT = Layout(
    groups=(
        WindowGroup(
            name="w", over="x", windows_us=(10,), window_labels=("w",), aggregates=("count",), capacity=4
        ),
    )
)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """One store after the other."""
    opened: Store
    if request.param == "memory":
        opened = MemoryStore()
    else:
        opened = RedisStore(request.getfixturevalue("redis_url"))
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
    assert store.read(lane, [b"a"]) == (None, [None])
    assert store.read(lane, []) == (None, [])


def test_each_take_raises_the_epoch_and_keeps_the_rest(store: Store, lane: str) -> None:
    first = store.take(lane, generation=7)
    second = store.take(lane, generation=8)

    assert first == LaneMeta(epoch=1, generation=7, watermark=NOTHING)
    assert second == replace(first, epoch=2)
    assert store.meta(lane) == second


def test_what_is_taken_is_what_was_written(store: Store, lane: str) -> None:
    taken = store.take(lane, generation=7)
    new = replace(new_meta(taken, 2**53), complete_us=2**61, forgotten_us=NEVER_US, generation=2**52)

    assert store.write(lane, taken, new, [], [])

    assert store.take(lane, generation=9) == replace(new, epoch=2)


def test_rows_and_meta_are_written_together(store: Store, lane: str) -> None:
    taken = store.take(lane, generation=7)
    new = new_meta(taken, 5)

    assert store.write(lane, taken, new, [b"a", b"\x00:} \xff"], [b"row of a", b"\x00\xff" * 40])

    assert store.read(lane, [b"\x00:} \xff", b"b", b"a", b"a"]) == (
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

    assert store.read(lane, [b"a", b"b"]) == (held, [b"1", None])


def test_a_write_to_a_lane_that_is_gone_changes_nothing(store: Store, lane: str) -> None:
    never = LaneMeta(epoch=1, generation=1, watermark=NOTHING)

    assert not store.write(lane, never, new_meta(never, 1), [b"a"], [b"1"])

    assert store.read(lane, [b"a"]) == (None, [None])


def test_a_former_owner_cannot_write(store: Store, lane: str) -> None:
    former = store.take(lane, generation=1)
    now = store.take(lane, generation=2)

    assert not store.write(lane, former, new_meta(former, 3), [b"a"], [b"former"])
    assert store.write(lane, now, new_meta(now, 3), [b"a"], [b"now"])

    assert store.read(lane, [b"a"])[1] == [b"now"]


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
        meta, rows = store.read(name, [b"1", b"", b"1:1"])
        assert meta is not None
        assert meta.watermark == number
        assert rows == [b"%d" % number, b"empty", None]


def test_thousands_of_rows_go_in_and_come_out_in_order(store: Store, lane: str) -> None:
    keys = [b"%d" % i for i in range(4321)]
    taken = store.take(lane, generation=1)
    new = new_meta(taken, 1)

    assert store.write(lane, taken, new, keys, [key * 50 for key in keys])

    meta, rows = store.read(lane, [*reversed(keys), b"none"])
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
        seen, rows = store.read(lane, keys)
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


# What only a server can do.


def within(seconds: float, call: Callable[[], object]) -> None:
    """The call fails with StoreUnavailableError, and soon."""
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        call()
    assert time.monotonic() - begun < seconds


@pytest.mark.redis
def test_a_server_that_died_is_an_error_and_not_a_stall(own_redis: Service) -> None:
    store = RedisStore(own_redis.address)
    taken = store.take("g:0", generation=1)
    own_redis.kill()

    within(ANSWERS_WITHIN_S, lambda: store.read("g:0", [b"a"]))
    within(ANSWERS_WITHIN_S, lambda: store.meta("g:0"))
    within(ANSWERS_WITHIN_S, lambda: store.take("g:0", generation=1))
    within(ANSWERS_WITHIN_S, lambda: store.write("g:0", taken, new_meta(taken, 1), [b"a"], [b"1"]))
    within(ANSWERS_WITHIN_S, store.ping)

    own_redis.start()  # empty, and without our scripts

    assert store.meta("g:0") is None
    taken = store.take("g:0", generation=2)
    assert taken.epoch == 1
    assert store.write("g:0", taken, new_meta(taken, 1), [b"a"], [b"1"])
    store.close()


@pytest.mark.redis
def test_a_server_that_hangs_is_an_error_and_not_a_stall(own_redis: Service) -> None:
    store = RedisStore(own_redis.address)
    store.take("g:0", generation=1)
    own_redis.pause()
    try:
        within(ANSWERS_WITHIN_S, lambda: store.read("g:0", [b"a"]))
    finally:
        own_redis.resume()
    assert store.meta("g:0") is not None
    store.close()


@pytest.mark.redis
def test_a_write_whose_answer_got_lost_on_the_way_is_not_taken_for_a_new_owner(own_redis: Service) -> None:
    """The server hangs while the write is under way, and does it when it wakes up."""
    store = RedisStore(own_redis.address, timeout_s=0.3)
    lanes = owner_of(store, "g")
    touch(lanes, [b"a"], 1)
    lanes.write(0)
    touch(lanes, [b"a", b"b"], 2)
    own_redis.pause()
    try:
        with pytest.raises(StoreUnavailableError):
            lanes.write(0)
    finally:
        own_redis.resume()
    with redis.Redis.from_url(own_redis.address) as client:
        deadline_s = time.monotonic() + 10
        while b" 2 " not in client.get("ps:{g:t:0}") and time.monotonic() < deadline_s:
            time.sleep(0.01)

    touch(lanes, [b"c"], 3)
    lanes.write(0)

    meta = store.meta(lane_name("g", "t", 0))
    assert meta is not None
    assert meta.watermark == 3
    store.close()


@pytest.mark.redis
def test_a_lane_starts_over_when_the_server_lost_its_data(own_redis: Service) -> None:
    store = RedisStore(own_redis.address)
    lanes = owner_of(store, "g")
    touch(lanes, [b"a"], 5)
    lanes.write(0)
    with redis.Redis.from_url(own_redis.address) as client:
        client.flushall()
    touch(lanes, [b"a"], 6)

    with pytest.raises(FencedError):
        lanes.write(0)
    again = Lanes(HotRows(LAYOUT, 8), store, "g", "t")

    assert again.take(0, committed=6, start=0, low=0, high=2**40, now_ms=5) == 0
    assert again[0].mute_until == 6
    store.close()


@pytest.mark.redis
def test_a_server_that_refuses_writes_is_away_and_not_a_bug_of_ours(own_redis: Service) -> None:
    store = RedisStore(own_redis.address)
    taken = store.take("g:0", generation=1)
    with redis.Redis.from_url(own_redis.address) as client:
        client.config_set("maxmemory", "1")

    with pytest.raises(StoreUnavailableError, match="maxmemory"):
        store.write("g:0", taken, new_meta(taken, 1), [b"a"], [b"1"])
