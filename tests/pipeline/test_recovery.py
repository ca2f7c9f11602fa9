"""What goes wrong with Redis or with a member is mended in process, and no score shows it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from benchmarks.workers import RunningWorker, create_topics, running, topics_of
from tests.pipeline.streams import (
    PARTITIONS,
    SOON_MISSED,
    STREAM_EVENTS,
    STREAM_PARTS,
    Outcomes,
    Reader,
    Stream,
    alone,
    assert_same,
)
from tests.services import Service

# Alone: a broker that a busy machine holds up costs the lanes, and without Redis none can be taken again.
pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.alone]


@pytest.fixture
def env(kafka_bootstrap: str, own_redis: Service) -> dict[str, str]:
    """Where a worker process finds the services; its Redis is this test's own, to break."""
    return {
        "PENSTOCK_KAFKA": kafka_bootstrap,
        "PENSTOCK_STORE": own_redis.address,
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


@pytest.fixture
def stream(kafka_bootstrap: str, prefix: str, reader: Reader) -> Stream:
    """A third is sent at a time."""
    return Stream(kafka_bootstrap, prefix, reader)


def went_on(worker: RunningWorker) -> None:
    """The process that was there is still there."""
    assert worker.process.poll() is None, worker.tail()


def test_a_redis_that_loses_everything_under_load_is_filled_again_from_the_topic(
    env: dict[str, str], prefix: str, stream: Stream, expected: Outcomes, tmp_path: Path, own_redis: Service
) -> None:
    # Few rows in memory: what Redis lost is missed at once.
    file = alone(tmp_path, prefix, state={"hot_rows": 64}, batching={"max_rows": 32})

    with running([[file]], tmp_path, env) as (worker,), redis.Redis.from_url(own_redis.address) as client:
        stream.send()
        stream.wait()
        client.flushall()
        stream.send()
        time.sleep(0.3)
        client.flushall()
        stream.send()
        found = stream.wait()
        went_on(worker)
        assert "lanes are taken again" in worker.log.read_text()

    assert_same(found, expected, STREAM_EVENTS)


@pytest.mark.parametrize("trouble", ["frozen", "killed"])
def test_while_redis_is_away_the_worker_waits_and_then_goes_on(
    env: dict[str, str],
    prefix: str,
    stream: Stream,
    reader: Reader,
    expected: Outcomes,
    tmp_path: Path,
    own_redis: Service,
    trouble: str,
) -> None:
    file = alone(tmp_path, prefix, state={"hot_rows": 64}, batching={"max_rows": 32})

    with running([[file]], tmp_path, env) as (worker,):
        stream.send()
        stream.wait()
        own_redis.pause() if trouble == "frozen" else own_redis.kill()
        stream.send()
        time.sleep(5.0)
        before = len(reader.outcomes.times_seen)
        own_redis.resume() if trouble == "frozen" else own_redis.start()
        stream.send()
        found = stream.wait()
        went_on(worker)

    assert before < STREAM_EVENTS * 2 // STREAM_PARTS, (
        "without Redis, rows that are not in memory must be waited for"
    )
    assert_same(found, expected, STREAM_EVENTS)


def test_told_to_score_without_rows_it_says_so_and_is_exact_again_when_redis_is_back(
    env: dict[str, str], prefix: str, stream: Stream, expected: Outcomes, tmp_path: Path, own_redis: Service
) -> None:
    file = alone(
        tmp_path, prefix, state={"hot_rows": 64, "when_away": "score_without"}, batching={"max_rows": 32}
    )

    with running([[file]], tmp_path, env) as (worker,):
        stream.send()
        stream.wait()
        own_redis.pause()
        stream.send()
        without = dict(stream.wait().flags)
        own_redis.resume()
        deadline_s = time.monotonic() + 30
        while '"the store is back' not in worker.log.read_text() and time.monotonic() < deadline_s:
            time.sleep(0.1)
        stream.send()
        found = stream.wait()
        went_on(worker)

    assert found.doubled == []
    assert len(found.times_seen) == STREAM_EVENTS
    degraded = {place for place, (_, _, is_degraded) in found.flags.items() if is_degraded}
    assert degraded, "rows that were not in memory could not be read"
    assert degraded <= without.keys()
    exact = found.scores.keys() - degraded
    assert {p: found.scores[p] for p in exact} == {p: expected.scores[p] for p in exact}


def test_a_member_away_for_longer_than_its_session_comes_back_without_a_restart(
    env: dict[str, str], prefix: str, stream: Stream, expected: Outcomes, tmp_path: Path
) -> None:
    file = alone(
        tmp_path,
        prefix,
        kafka=SOON_MISSED,
        delivery={"commit_interval": "50ms", "transaction_timeout": "3s"},
    )

    with running([[file], [file]], tmp_path, env) as (away, other):
        stream.send()
        stream.wait()
        stream.send()
        os.kill(away.process.pid, signal.SIGSTOP)
        stream.wait()
        stream.send()
        time.sleep(1.0)
        os.kill(away.process.pid, signal.SIGCONT)
        found = stream.wait()
        went_on(away)
        went_on(other)

    assert_same(found, expected, STREAM_EVENTS)
