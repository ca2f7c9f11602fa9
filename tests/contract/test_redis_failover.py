"""When a master dies its replica goes on: the store finds it, and a lane that lost writes by it notices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import pytest
import redis

from feature_cache.lanes import Lanes
from feature_cache.redis_store import RedisStore
from feature_cache.rows import HotRows
from feature_cache.store import FencedError, StoreUnavailableError
from tests.contract.test_store import LAYOUT, owner_of, touch
from tests.services import Service
from tests.services.redis_group import RedisGroup, host_and_port, until

pytestmark = pytest.mark.redis

BACK_WITHIN_S = 60.0
Answer = TypeVar("Answer")


def sooner_or_later(call: Callable[[], Answer]) -> Answer:
    """What the call gives once the store answers again, asked as the worker does."""
    deadline_s = time.monotonic() + BACK_WITHIN_S
    while time.monotonic() < deadline_s:
        with suppress(StoreUnavailableError):
            return call()
        time.sleep(0.1)
    return call()


def master_of(group: RedisGroup, key: str) -> tuple[Service, Service]:
    """The server of a cluster that has this key, and its replica."""
    masters = len(group.servers) // 2
    for number, server in enumerate(group.servers[:masters]):
        with redis.Redis.from_url(server.address) as client, suppress(redis.ResponseError):
            client.get(key)  # the others say MOVED
            return server, group.servers[masters + number]
    raise AssertionError("no master has it")


@contextmanager
def deaf(master: Service, replica: Service) -> Iterator[None]:
    """The replica hears nothing of what the master writes: a failover now loses it."""
    with redis.Redis.from_url(replica.address) as behind, redis.Redis.from_url(master.address) as ahead:
        behind.config_set("masteruser", "nobody")
        behind.config_set("masterauth", "wrong")
        ahead.execute_command("CLIENT", "KILL", "TYPE", "replica")
        until(lambda: behind.info("replication")["master_link_status"] == "down", "the link to break")
        yield


def retaken(store: RedisStore, group: str, committed: int) -> tuple[Lanes, int]:
    """A worker that has taken partition 0 again, and where it reads from."""
    lanes = Lanes(HotRows(LAYOUT, 8), store, group, "t")
    begin = sooner_or_later(
        lambda: lanes.take(
            0, committed=committed, start=0, low=0, high=2**40, now_ms=time.time_ns() // 1_000_000
        )
    )
    return lanes, begin


def goes_on_after(store: RedisStore, master: Service) -> None:
    """A lane that a healthy replica has goes on where it was, without a restart of the worker."""
    lanes = owner_of(store, "g")
    touch(lanes, [b"a", b"b"], 1)
    lanes.write(0)
    with redis.Redis.from_url(master.address) as client:
        client.wait(1, 5000)
    master.kill()
    touch(lanes, [b"a"], 2)

    assert sooner_or_later(lambda: lanes.write(0)) == 1

    meta, rows = store.read([("g:t:0", [b"a", b"b"])])[0]
    assert meta == lanes[0].durable
    assert meta.watermark == 2
    assert None not in rows


def notices_what_is_lost(store: RedisStore, master: Service, replica: Service) -> None:
    """Writes that were acknowledged and lost are not built upon; rows and watermark went back together."""
    lanes = owner_of(store, "g")
    touch(lanes, [b"a"], 1)
    lanes.write(0)
    with redis.Redis.from_url(master.address) as client:
        client.wait(1, 5000)
    with deaf(master, replica):
        touch(lanes, [b"a", b"b"], 2)
        lanes.write(0)  # acknowledged by the master alone
        master.kill()
    with pytest.raises(FencedError):
        sooner_or_later(lambda: lanes.load([b"not in memory"], lanes.rows.lane[lanes.rows.find([b"a"])]))

    again, begin = retaken(store, "g", committed=2)

    assert (begin, again[0].mute_until) == (1, 2)
    assert store.read([("g:t:0", [b"b"])])[0][1] == [None]


def forgets_no_owner(store: RedisStore, master: Service, replica: Service) -> None:
    """A take that was lost lets nobody write who was fenced, or was not."""
    former = owner_of(store, "g")
    touch(former, [b"a"], 1)
    former.write(0)
    with redis.Redis.from_url(master.address) as client:
        client.wait(1, 5000)
    with deaf(master, replica):
        lost, _ = retaken(store, "g", committed=1)
        touch(lost, [b"a"], 2)
        master.kill()
    owner, begin = retaken(store, "g", committed=1)
    assert begin == 1
    assert owner[0].durable.epoch == lost[0].durable.epoch

    touch(former, [b"a"], 3)
    for member in (lost, former):
        with pytest.raises(FencedError):
            member.write(0)

    touch(owner, [b"a"], 2)
    assert owner.write(0) == 1


def test_under_sentinel_the_store_goes_on_at_the_new_master(own_sentinel: RedisGroup) -> None:
    store = RedisStore(own_sentinel.address)
    goes_on_after(store, own_sentinel.servers[0])
    store.close()


def test_under_sentinel_writes_that_a_failover_lost_are_noticed(own_sentinel: RedisGroup) -> None:
    store = RedisStore(own_sentinel.address)
    notices_what_is_lost(store, *own_sentinel.servers[:2])
    store.close()


def test_under_sentinel_a_take_that_a_failover_lost_fences_still(own_sentinel: RedisGroup) -> None:
    store = RedisStore(own_sentinel.address)
    forgets_no_owner(store, *own_sentinel.servers[:2])
    store.close()


def test_in_a_cluster_the_store_goes_on_at_the_new_master(own_cluster: RedisGroup) -> None:
    store = RedisStore(own_cluster.address)
    store.take("g:t:0", generation=1)  # meets the cluster while it is whole
    goes_on_after(store, master_of(own_cluster, "ps:{g:t:0}")[0])
    store.close()


def test_in_a_cluster_other_shards_go_on_while_one_is_away(own_cluster: RedisGroup) -> None:
    store = RedisStore(own_cluster.address)
    lanes = [f"g:t:{number}" for number in range(12)]
    for lane in lanes:
        store.take(lane, generation=1)
    lost, replica = master_of(own_cluster, "ps:{g:t:0}")
    there = [lane for lane in lanes if master_of(own_cluster, f"ps:{{{lane}}}")[0] is not lost]
    assert 0 < len(there) < len(lanes)
    replica.kill()
    lost.pause()
    try:
        for _ in range(4):
            with pytest.raises(StoreUnavailableError):
                store.meta("g:t:0")
        for lane in there:
            assert sooner_or_later(lambda lane=lane: store.meta(lane)) is not None  # type: ignore[misc]
    finally:
        lost.resume()
    assert sooner_or_later(lambda: store.meta("g:t:0")) is not None
    store.close()


def test_in_a_cluster_a_slot_may_move_under_a_running_store(own_cluster: RedisGroup) -> None:
    """While its keys are on the way the lane is away; then it is found where it is."""
    store = RedisStore(own_cluster.address)
    lanes = owner_of(store, "g")
    touch(lanes, [b"a", b"b"], 1)
    lanes.write(0)
    source, _ = master_of(own_cluster, "ps:{g:t:0}")
    target = next(server for server in own_cluster.servers[:3] if server is not source)
    with redis.Redis.from_url(source.address) as old, redis.Redis.from_url(target.address) as new:
        slot = old.execute_command("CLUSTER", "KEYSLOT", "ps:{g:t:0}")
        ids = {client: client.execute_command("CLUSTER", "MYID").decode() for client in (old, new)}
        new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[old])
        old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[new])
        host, port = host_and_port(target)
        old.execute_command("MIGRATE", host, port, "ps:{g:t:0}:a", 0, 5000)
        touch(lanes, [b"a", b"b"], 2)
        with pytest.raises(StoreUnavailableError):
            lanes.write(0)
        for key in old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            old.execute_command("MIGRATE", host, port, key, 0, 5000)
        for client in (new, old):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[new])

    assert sooner_or_later(lambda: lanes.write(0)) == 2
    meta, rows = store.read([("g:t:0", [b"a", b"b"])])[0]
    assert meta == lanes[0].durable
    assert None not in rows
    store.close()
