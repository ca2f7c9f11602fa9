"""A Redis that dies, hangs, restarts, refuses or is slow is an error or a wait, and never a wrong answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import pytest
import redis

from feature_cache.lane import lane_name
from feature_cache.lanes import Lanes
from feature_cache.redis_store import RedisStore, patience_for
from feature_cache.rows import HotRows
from feature_cache.store import LaneMeta, StoreRefusedError, StoreUnavailableError
from tests.contract.test_store import LAYOUT, new_meta, owner_of, touch
from tests.services import Service, start_redis
from tests.services.redis_group import host_and_port

pytestmark = pytest.mark.redis

ANSWERS_WITHIN_S = 3.0  # ten times what it takes: the machine may be busy
T = TypeVar("T")
BACK_WITHIN_S = 15.0


def within(call: Callable[[], object], says: str | None = None) -> None:
    """The call fails with StoreUnavailableError, and soon."""
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=says):
        call()
    assert time.monotonic() - begun < ANSWERS_WITHIN_S


def sooner_or_later(call: Callable[[], T]) -> T:
    """What the call gives once the store answers again, asked as the worker does."""
    deadline_s = time.monotonic() + BACK_WITHIN_S
    while time.monotonic() < deadline_s:
        with suppress(StoreUnavailableError):
            return call()
        time.sleep(0.05)
    return call()


def test_a_server_that_died_is_an_error_and_one_that_restarted_empty_serves_again(own_redis: Service) -> None:
    store = RedisStore(own_redis.address)
    taken = store.take("g:0", generation=1)
    own_redis.kill()

    for _ in range(3):  # also once the breaker has opened
        within(lambda: store.read([("g:0", [b"a"])])[0])
        within(lambda: store.meta("g:0"))
        within(lambda: store.take("g:0", generation=1))
        within(lambda: store.write("g:0", taken, new_meta(taken, 1), [b"a"], [b"1"]))
        within(store.ping)

    own_redis.start()  # empty, and without our scripts

    assert sooner_or_later(lambda: store.meta("g:0")) is None
    assert not store.write("g:0", taken, new_meta(taken, 1), [b"a"], [b"1"]), "what it was is gone"
    taken = store.take("g:0", generation=2)
    assert taken.epoch == 1
    assert store.write("g:0", taken, new_meta(taken, 1), [b"a"], [b"1"])
    store.close()


def test_a_restart_between_two_calls_goes_unnoticed(own_redis: Service) -> None:
    store = RedisStore(own_redis.address, timeout_s=ANSWERS_WITHIN_S)
    store.take("g:0", generation=1)
    own_redis.kill()
    own_redis.start()

    assert store.take("g:0", generation=2).epoch == 1
    store.close()


def test_values_asked_for_ahead_of_a_restart_are_asked_for_again(own_redis: Service) -> None:
    store = RedisStore(own_redis.address, timeout_s=ANSWERS_WITHIN_S)
    store.put([b"f:a"], [b"1"])
    before = store.get_ahead([b"f:a"])
    unanswered = store.get_ahead([b"f:a"])
    assert before is not None
    assert before.answer() == [b"1"]
    own_redis.kill()
    own_redis.start()

    assert unanswered is None, "one connection, one question"
    ahead = store.get_ahead([b"f:a"])
    assert ahead is None or ahead.answer() is None, "the connection is gone"
    assert store.get([b"f:a"]) == [None]
    store.close()


def test_a_question_ahead_waits_no_longer_than_any_other_for_a_server_that_hangs(own_redis: Service) -> None:
    store = RedisStore(own_redis.address)
    store.put([b"f:a"], [b"1"])
    ahead = store.get_ahead([b"f:a"])
    assert ahead is not None
    assert ahead.answer() == [b"1"]
    own_redis.pause()
    try:
        silent = store.get_ahead([b"f:a"])
        assert silent is not None
        began_s = time.monotonic()
        assert silent.answer() is None
        assert time.monotonic() - began_s < 2.0
        within(lambda: store.get([b"f:a"]))
        assert store.get_ahead([b"f:a"]) is None, "a server in doubt is not asked ahead"
    finally:
        own_redis.resume()
    assert sooner_or_later(lambda: store.get([b"f:a"])) == [b"1"]
    store.close()


def test_a_server_that_hangs_is_an_error_and_after_a_few_calls_nobody_waits_for_it(
    own_redis: Service,
) -> None:
    store = RedisStore(own_redis.address)
    store.take("g:0", generation=1)
    own_redis.pause()
    try:
        for _ in range(3):
            within(lambda: store.read([("g:0", [b"a"])])[0])
        refused = 0
        for _ in range(20):
            with pytest.raises(StoreUnavailableError) as raised:
                store.meta("g:0")
            refused += "asked again" in str(raised.value)
        assert refused >= 10, "calls went on waiting for a server that hangs"
    finally:
        own_redis.resume()
    assert sooner_or_later(lambda: store.meta("g:0")) is not None
    store.close()


def test_even_a_big_write_notices_soon_that_the_server_hangs(own_redis: Service) -> None:
    store = RedisStore(own_redis.address)
    taken = store.take("g:0", generation=1)
    rows = [b"x" * 1000] * 6000
    own_redis.pause()
    try:
        within(lambda: store.write("g:0", taken, new_meta(taken, 1), [b"%d" % i for i in range(6000)], rows))
    finally:
        own_redis.resume()
    store.close()


@contextmanager
def slow_link(service: Service, bytes_a_second: int) -> Iterator[str]:
    """An address behind which this server's answers and our requests come in at this rate."""
    listener = socket.create_server(("127.0.0.1", 0))
    piece = bytes_a_second // 50

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(piece):
                target.sendall(data)
                time.sleep(len(data) / bytes_a_second)

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(host_and_port(service))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    finally:
        listener.close()


def test_rows_that_take_longer_than_the_timeout_to_arrive_are_no_dead_server(own_redis: Service) -> None:
    """1,000 rows of 8 KB at 8 MB/s: a second each way, where silence may last a quarter of that."""
    keys, row = [b"%d" % i for i in range(1000)], b"x" * 8000
    with slow_link(own_redis, 8_000_000) as address:
        store = RedisStore(address)
        taken = store.take("g:0", generation=1)

        assert store.write("g:0", taken, new_meta(taken, 1), keys, [row] * 1000)
        assert store.read([("g:0", keys)])[0][1] == [row] * 1000
        store.close()


def test_a_script_of_very_many_rows_is_no_dead_server(own_redis: Service) -> None:
    """100,000 rows keep the server silent for longer than it may be over a few."""
    store = RedisStore(own_redis.address)
    taken = store.take("g:0", generation=1)
    keys = [b"%d" % i for i in range(100_000)]

    assert store.write("g:0", taken, new_meta(taken, 1), keys, [b"x" * 100] * len(keys))
    store.close()


def test_a_write_whose_answer_got_lost_on_the_way_is_not_taken_for_a_new_owner(own_redis: Service) -> None:
    """The server hangs while the write is under way, and does it when it wakes up."""
    store = RedisStore(own_redis.address)
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


def test_a_lane_starts_over_when_the_server_lost_its_data(own_redis: Service) -> None:
    store = RedisStore(own_redis.address)
    lanes = owner_of(store, "g")
    touch(lanes, [b"a"], 5)
    lanes.write(0)
    with redis.Redis.from_url(own_redis.address) as client:
        client.flushall()
    touch(lanes, [b"a"], 6)

    with pytest.raises(RuntimeError, match="found None"):
        lanes.write(0)
    again = Lanes(HotRows(LAYOUT, 8), store, "g", "t")

    assert again.take(0, committed=6, start=0, low=0, high=2**40, now_ms=5) == 0
    assert again[0].mute_until == 6
    store.close()


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [("maxmemory", "1", "maxmemory"), ("min-replicas-to-write", "1", "NOREPLICAS")],
)
def test_a_server_that_refuses_writes_is_away_for_writes_only(
    own_redis: Service, setting: str, value: str, says: str
) -> None:
    store = RedisStore(own_redis.address)
    taken = store.take("g:0", generation=1)
    with redis.Redis.from_url(own_redis.address) as client:
        client.config_set(setting, value)

        for _ in range(5):  # it answers at once, so nothing stops asking it
            within(lambda: store.write("g:0", taken, new_meta(taken, 1), [b"a"], [b"1"]), says)
        assert store.meta("g:0") == taken

        client.config_set(setting, "0")
    assert store.write("g:0", taken, new_meta(taken, 1), [b"a"], [b"1"])
    store.close()


def test_a_replica_and_a_busy_server_are_away_and_no_bug_of_ours(own_redis: Service) -> None:
    store = RedisStore(own_redis.address)
    taken = store.take("g:0", generation=1)
    with redis.Redis.from_url(own_redis.address) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        within(lambda: store.take("g:0", generation=2), "ReadOnlyError|read only")
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.config_set("busy-reply-threshold", "50")
        endless = threading.Thread(target=_run_for_ever, args=(own_redis.address,))
        endless.start()
        time.sleep(0.3)
        within(lambda: store.meta("g:0"), "BUSY|did not answer")
        client.script_kill()
        endless.join(10)
    assert sooner_or_later(lambda: store.meta("g:0")) == taken
    store.close()


def _run_for_ever(address: str) -> None:
    with redis.Redis.from_url(address, socket_timeout=20) as client, suppress(redis.RedisError):
        client.eval("while true do end", 0)


def test_a_server_that_still_loads_its_data_is_away_until_it_has(own_redis: Service) -> None:
    store = RedisStore(own_redis.address)
    taken = store.take("g:0", generation=1)
    held = new_meta(taken, 1)
    store.write("g:0", taken, held, [b"%d" % i for i in range(3000)], [b"1"] * 3000)
    with redis.Redis.from_url(own_redis.address) as client:
        client.save()
    store.close()
    file = own_redis.directory / "dump.rdb"
    slow = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    own_redis.kill()
    own_redis._command += [*slow]
    starting = threading.Thread(target=own_redis.start)  # returns once it answers
    assert file.exists()

    starting.start()
    says = set()
    store = RedisStore(own_redis.address)
    deadline_s = time.monotonic() + 20
    found = None
    while found is None and time.monotonic() < deadline_s:
        try:
            found = store.meta("g:0")
        except StoreUnavailableError as error:
            says.add("loading" in str(error).lower())
            time.sleep(0.02)
    starting.join(20)

    assert True in says, "it never said that it was loading"
    assert found == held
    store.close()


def test_a_wrong_kind_of_address_is_told_as_such(own_redis: Service, redis_cluster: str) -> None:
    with pytest.raises(StoreRefusedError, match="write redis://"):
        RedisStore(own_redis.address.replace("redis://", "redis+cluster://")).meta("g:0")
    one_node = redis_cluster.replace("+cluster", "").partition(",")[0]

    def ask_lanes() -> None:
        for number in range(40):  # one of them is at another node
            RedisStore(one_node).meta(f"g:{number}")

    with pytest.raises(StoreRefusedError, match=r"redis\+cluster://"):
        ask_lanes()


def test_a_second_server_of_the_same_data_says_when_it_goes_back(own_redis: Service) -> None:
    """A snapshot restored under a running worker: the lane is fenced, and replayed from there."""
    store = RedisStore(own_redis.address)
    lanes = owner_of(store, "g")
    touch(lanes, [b"a"], 1)
    lanes.write(0)
    with redis.Redis.from_url(own_redis.address) as client:
        client.save()
    touch(lanes, [b"a"], 2)
    lanes.write(0)
    own_redis.kill()
    own_redis.start()  # as of the snapshot
    touch(lanes, [b"a"], 3)

    with pytest.raises(RuntimeError, match="expected"):
        lanes.write(0)
    again = Lanes(HotRows(LAYOUT, 8), store, "g", "t")
    assert again.take(0, committed=3, start=0, low=0, high=2**40, now_ms=9) == 1
    assert again[0].mute_until == 3
    store.close()


def test_reads_of_one_store_from_many_threads_do_not_mix(own_redis: Service) -> None:
    store = RedisStore(own_redis.address, timeout_s=ANSWERS_WITHIN_S)
    for number in range(8):
        taken = store.take(f"g:{number}", generation=1)
        store.write(f"g:{number}", taken, replace(taken, watermark=number), [b"k"], [b"%d" % number])
    wrong: list[int] = []

    def read(number: int) -> None:
        for _ in range(50):
            meta, rows = store.read([(f"g:{number}", [b"k"])])[0]
            if meta is None or meta.watermark != number or rows != [b"%d" % number]:
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert not wrong
    store.close()


def test_a_server_with_data_of_an_older_version_can_be_taken_over() -> None:
    with start_redis() as service, redis.Redis.from_url(service.address) as client:
        client.set("ps:{g:0}", "4 7 5 10 -20 abc")  # six values: without the owner
        store = RedisStore(service.address)
        assert store.meta("g:0") == LaneMeta(
            epoch=4, generation=7, watermark=5, complete_us=10, forgotten_us=-20, layout="abc"
        )

        taken = store.take("g:0", generation=9)

        assert taken == LaneMeta(
            epoch=5,
            generation=7,
            watermark=5,
            complete_us=10,
            forgotten_us=-20,
            layout="abc",
            owner=taken.owner,
        )
        assert store.write("g:0", taken, replace(taken, watermark=6), [], [])
        store.close()


@pytest.mark.parametrize(
    ("rows", "size_bytes", "times"),
    [
        (5_000, 1 << 20, 1),
        (5_001, 1, 20),
        (10, 5 << 20, 20),
        (100_000, 1, 20),
        (100_001, 1, 40),
        (300_000, 1, 80),
        (1_000_000, 500 << 20, 320),
    ],
)
def test_a_larger_write_may_take_longer(rows: int, size_bytes: int, times: int) -> None:
    """Half a second for each hundred thousand rows was seen; five are given."""
    assert patience_for(rows, size_bytes) == times
