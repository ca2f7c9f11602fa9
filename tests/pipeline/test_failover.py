"""A failover of Redis under load changes no score: the worker goes on at the new master, in process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from benchmarks.workers import create_topics, running, topics_of
from tests.pipeline.streams import PARTITIONS, STREAM_EVENTS, Outcomes, Reader, Stream, alone, assert_same
from tests.pipeline.test_recovery import went_on
from tests.services import Service
from tests.services.redis_group import RedisGroup

# Under load the Sentinel looks away (TILT) for as long as the machine stands still.
pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.alone]


@pytest.fixture
def env(kafka_bootstrap: str, redis_url: str) -> dict[str, str]:
    """Where a worker process finds the services; the store of the one under test is another."""
    return {
        "PENSTOCK_KAFKA": kafka_bootstrap,
        "PENSTOCK_STORE": redis_url,
        "PENSTOCK_DELIVERY": "exactly_once",
        "PENSTOCK_DEVICE": "cpu",
        "PENSTOCK_WRITE_INTERVAL": "100ms",
    }


@pytest.fixture
def prefix(kafka_bootstrap: str, topic_prefix: str) -> str:
    """Topics of this test alone."""
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    return topic_prefix


@pytest.fixture
def reader(kafka_bootstrap: str, prefix: str) -> Iterator[Reader]:
    """The outcomes of the pipeline under test."""
    opened = Reader(kafka_bootstrap, prefix)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("kind", "trouble"), [("sentinel", "killed"), ("sentinel", "frozen"), ("cluster", "killed")]
)
def test_a_failover_of_redis_changes_no_score(
    kafka_bootstrap: str,
    env: dict[str, str],
    prefix: str,
    reader: Reader,
    expected: Outcomes,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    kind: str,
    trouble: str,
) -> None:
    """Frozen, the old master comes back as one beside the new: until it is told, there are two."""
    group: RedisGroup = request.getfixturevalue(f"own_{kind}")
    stream = Stream(kafka_bootstrap, prefix, reader)
    # Few rows in memory: what a failover lost is missed at once.
    file = alone(tmp_path, prefix, state={"hot_rows": 64}, batching={"max_rows": 32})

    with running([[file]], tmp_path, {**env, "PENSTOCK_STORE": group.address}) as (worker,):
        stream.send()
        stream.wait()
        stream.send()
        time.sleep(0.3)  # in the middle of it
        master = group.servers[0] if kind == "sentinel" else busiest(group)
        if trouble == "killed":
            master.kill()
        else:
            master.pause()
            time.sleep(5.0)
            master.resume()
        stream.send()
        found = stream.wait()
        went_on(worker)

    assert_same(found, expected, STREAM_EVENTS)


def busiest(group: RedisGroup) -> Service:
    """The master with the most keys."""

    def keys(server: Service) -> int:
        with redis.Redis.from_url(server.address) as client:
            return int(client.dbsize())

    return max(group.servers[: len(group.servers) // 2], key=keys)
