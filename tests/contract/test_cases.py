"""Cases in memory, in Redis and in a cluster of three are counted alike."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_cache.cases import SHARDS, Applied, Cases, Fact, Mark, MemoryCases, shard_of
from feature_cache.redis_cases import RedisCases
from feature_cache.redis_store import RedisStore
from feature_cache.store import StoreRefusedError
from tests.services import Service
from tests.truth_facts import FACTS, LATER_MS, alert, counts_of, label, score

PATIENT_S = 5.0
KEEP_MS = 3_600_000
OpenCases = Callable[[str], Cases]


@pytest.fixture(
    params=["memory", *(pytest.param(kind, marks=pytest.mark.redis) for kind in ("redis", "cluster"))]
)
def open_cases(request: pytest.FixtureRequest) -> Iterator[OpenCases]:
    """Opens new cases under a name that is added to that of the test."""
    if request.param == "memory":
        yield lambda _: MemoryCases()
        return
    name = request.getfixturevalue("unique_name")
    address = request.getfixturevalue("redis_cluster" if request.param == "cluster" else "redis_url")
    if request.param == "redis":
        request.getfixturevalue("redis_prefix")
    store = RedisStore(address, timeout_s=PATIENT_S)
    yield lambda suffix: RedisCases(store, f"{name}:truth:{suffix}", keep_ms=KEEP_MS)
    store.close()


@pytest.fixture
def cases(open_cases: OpenCases) -> Cases:
    """Cases that no other test has."""
    return open_cases("one")


def give(cases: Cases, facts: list[Fact], at_once: int) -> None:
    """Give facts in their order, some at a time."""
    for start in range(0, len(facts), at_once):
        shards: dict[int, list[Fact]] = {}
        for fact in facts[start : start + at_once]:
            shards.setdefault(shard_of(fact.event_id), []).append(fact)
        for shard, part in shards.items():
            assert cases.apply(shard, [], part) is not None


def test_what_became_of_each_fact_is_told(cases: Cases) -> None:
    shard = shard_of(b"e")
    gone_ms = int(time.time() * 1000) - 1

    assert cases.apply(shard, [], [score("e", at=2)]) == Applied(waiting=1)
    assert cases.apply(shard, [], [score("e", at=2), score("e", at=1)]) == Applied(repeated=2)
    assert cases.apply(shard, [], [label("e", 1), alert("e")]) == Applied(joined=2)
    assert cases.apply(shard, [], [label("e", 0, at=9, expires_ms=gone_ms)]) == Applied(expired=1)
    assert cases.cells([7]) == {7: counts_of([score("e"), label("e", 1), alert("e")])[7]}
    assert cases.cells([8, 6]) == {}
    assert cases.newest() == 7


@pytest.mark.parametrize(
    ("newer", "older"),
    [((2, 0, 0), (1, 9, 9)), ((1, 1, 0), (1, 0, 9)), ((1, 1, 2), (1, 1, 1)), ((10, 0, 0), (9, 0, 0))],
)
def test_the_later_place_is_the_newer_one(
    cases: Cases, newer: tuple[int, int, int], older: tuple[int, int, int]
) -> None:
    shard = shard_of(b"e")
    new, old = (label("e", t, at=p[0], place=p[1:]) for t, p in ((1, newer), (0, older)))

    assert cases.apply(shard, [], [score("e"), old, new]) == Applied(waiting=1, joined=2)
    assert cases.apply(shard, [], [old, new]) == Applied(repeated=2)
    assert cases.cells([7]) == counts_of([score("e"), new])


def test_marks_move_with_the_facts_or_neither_does(cases: Cases) -> None:
    shard, other = shard_of(b"e"), (shard_of(b"e") + 1) % SHARDS

    assert cases.marks(["id:0"])[0] == [None] * SHARDS
    assert cases.apply(shard, [Mark("id:0", 0, 3)], [score("e")]) is None
    cases.begin("id:0", 5)
    cases.begin("id:0", 4)
    assert cases.marks(["id:0"])[0] == [5] * SHARDS
    assert cases.apply(shard, [Mark("id:0", 5, 8), Mark("id:1", 0, 1)], [score("e")]) is None
    cases.begin("id:1", 0)
    assert cases.marks(["id:1", "id:2", "id:0"]) == [[0] * SHARDS, [None] * SHARDS, [5] * SHARDS]
    assert cases.marks([]) == []
    assert cases.newest() is None
    assert cases.apply(shard, [Mark("id:0", 5, 8), Mark("id:1", 0, 1)], [score("e")]) == Applied(waiting=1)
    assert cases.apply(shard, [Mark("id:0", 5, 6)], []) == Applied()
    marks = cases.marks(["id:0"])[0]
    assert (marks[shard], marks[other]) == (8, 5)
    assert cases.apply(shard, [Mark("id:0", 9, 10)], [label("e", 1)]) is None
    assert cases.cells([7]) == counts_of([score("e")])


def test_large_numbers_stay_exact(cases: Cases) -> None:
    late_us, offset = 4_102_444_800_000_001, 2**53 - 1
    names = [name for i in range(5_000) if shard_of((name := f"e{i}").encode()) == 0][:250]
    facts = [
        *(score(name, at=late_us, place=(5, offset), bucket=-3) for name in names),
        *(label(name, 1, at=late_us + i, value=10**12 - i) for i, name in enumerate(names)),
    ]
    give(cases, [*facts, *facts], 500)

    assert cases.cells([-3]) == counts_of(facts)
    assert cases.newest() == -3


def test_members_that_give_the_same_at_the_same_time_count_it_once(cases: Cases) -> None:
    facts = [f for i in range(200) for f in (score(f"e{i}"), label(f"e{i}", i % 2), label(f"e{i}", 1, at=2))]
    threads = [
        threading.Thread(target=give, args=(cases, facts[::step], size))
        for step, size in ((1, 7), (-1, 50), (1, 100))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)

    assert cases.cells([7]) == counts_of(facts)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=st.lists(FACTS, max_size=25), at_once=st.integers(1, 10))
def test_counts_are_those_of_the_newest_facts(open_cases: OpenCases, facts: list[Fact], at_once: int) -> None:
    cases = open_cases(uuid.uuid4().hex)
    give(cases, facts, at_once)
    give(cases, facts[::-1], at_once)

    assert {bucket: cells for bucket, cells in cases.cells(range(4)).items() if cells} == counts_of(facts)


@pytest.mark.redis
def test_a_right_that_is_missing_is_refused_before_anything_is_stored(own_redis: Service) -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    (line,) = re.findall(r"section takes these too: `([^`]+)`", page)
    more = line.split()
    with redis.Redis.from_url(own_redis.address, decode_responses=True) as admin:
        for i, missing in enumerate([None, *more]):
            rights = ["+get", "+set", "+mget", "+eval", "+evalsha", "+ping", "+info", *more]
            rights = [right for right in rights if right != missing]
            admin.execute_command(
                "ACL", "SETUSER", f"u{i}", "on", ">open", "resetkeys", "~ps:*", "-@all", *rights
            )
            address = own_redis.address.replace("redis://", f"redis://u{i}:open@")
            store = RedisStore(address, timeout_s=PATIENT_S)
            cases = RedisCases(store, f"g:{i}", keep_ms=KEEP_MS)
            if missing is None:
                assert cases.marks(["id:0"]) == [[None] * SHARDS]
                cases.begin("id:0", 0)
                assert cases.apply(shard_of(b"e"), [Mark("id:0", 0, 1)], [score("e")]) == Applied(waiting=1)
                assert cases.apply(shard_of(b"e"), [Mark("id:0", 1, 2)], [label("e", 1)]) == Applied(joined=1)
                assert cases.cells([7]) == counts_of([score("e"), label("e", 1)])
            else:
                with pytest.raises(StoreRefusedError, match="does not let us in"):
                    cases.marks(["id:0"])
                assert admin.keys(f"ps:{{g:{i}:*e:*") == []
            store.close()


@pytest.mark.redis
def test_everything_in_redis_ends_by_itself_the_counts_after_their_cases(
    redis_url: str, redis_prefix: str
) -> None:
    store = RedisStore(redis_url, timeout_s=PATIENT_S)
    cases = RedisCases(store, redis_prefix, keep_ms=KEEP_MS)
    now_ms = int(time.time() * 1000)
    shard = shard_of(b"e")
    cases.begin("id:0", 0)
    cases.apply(shard, [Mark("id:0", 0, 1)], [score("e", expires_ms=now_ms + 500_000)])
    cases.apply(shard, [], [label("e", 1, expires_ms=now_ms + 900_000)])

    prefix = f"ps:{{{redis_prefix}:{shard:02}}}:".encode()
    until = [int(store.ask(k, b"PEXPIRETIME", k)) for k in (prefix + b"e:e", prefix + b"b:7")]

    assert until == [now_ms + 900_000, now_ms + 900_000 + KEEP_MS]
    assert 0 < int(store.ask(prefix, b"PTTL", prefix + b"marks")) <= KEEP_MS
    assert cases.apply(shard, [], [score("f", expires_ms=LATER_MS)]) is not None
    store.close()
