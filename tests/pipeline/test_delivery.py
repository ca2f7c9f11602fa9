"""One outcome for every record, and the score of an undisturbed worker, on real Kafka and Redis."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, TopicPartition

from benchmarks.workers import RunningWorker, create_topics, running, start_worker, topics_of
from tests.pipeline.streams import (
    PARTITIONS,
    SOON_MISSED,
    Reader,
    alone,
    assert_same,
    fill,
    transactions,
    undisturbed,
)
from worker.exits import Exit

EVENTS = 12_000


@pytest.fixture
def env(kafka_bootstrap: str, redis_url: str) -> dict[str, str]:
    """Where a worker process finds the services."""
    return {
        "PENSTOCK_KAFKA": kafka_bootstrap,
        "PENSTOCK_STORE": redis_url,
        "PENSTOCK_DELIVERY": "exactly_once",
        "PENSTOCK_DEVICE": "cpu",
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


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_three_members_share_the_partitions_and_one_may_leave(
    kafka_bootstrap: str, env: dict[str, str], prefix: str, reader: Reader, tmp_path: Path, protocol: str
) -> None:
    records = transactions(EVENTS)
    expected = undisturbed(kafka_bootstrap, env, tmp_path, records)
    file = alone(tmp_path, prefix, kafka={"protocol": protocol})
    third = EVENTS // 3

    with running([[file], [file], [file]], tmp_path, env) as workers:
        fill(kafka_bootstrap, f"{prefix}transactions", *(part[:third] for part in records))
        reader.read_until(lambda found: len(found.times_seen) >= third // 2)
        fill(kafka_bootstrap, f"{prefix}transactions", *(part[third : 2 * third] for part in records))
        assert workers[1].stop(10.0) == Exit.OK
        fill(kafka_bootstrap, f"{prefix}transactions", *(part[2 * third :] for part in records))
        found = reader.read_all(EVENTS)
        took_part = [worker for worker in workers if '"lane taken"' in worker.log.read_text()]

    assert len(took_part) == 3, "every member had lanes of its own"
    assert_same(found, expected, EVENTS)


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.parametrize("write_interval", ["50ms", "1h"])
def test_a_killed_worker_changes_no_score_and_loses_none(
    kafka_bootstrap: str,
    env: dict[str, str],
    prefix: str,
    reader: Reader,
    tmp_path: Path,
    write_interval: str,
) -> None:
    """With 1h nothing is ever written before the kill: all state comes back from the topic."""
    records = transactions(EVENTS, seed=1)
    expected = undisturbed(kafka_bootstrap, env, tmp_path, records)
    file = alone(
        tmp_path,
        prefix,
        kafka=SOON_MISSED,
        state={"write_interval": write_interval},
        delivery={"commit_interval": "20ms", "worker_id": "one"},
        batching={"max_rows": 256},
    )
    fill(kafka_bootstrap, f"{prefix}transactions", *records)

    for kill_at in (EVENTS // 5, EVENTS // 2):
        worker = start_worker([file], tmp_path / "worker.log", env)
        try:
            reader.read_until(lambda found, n=kill_at: len(found.times_seen) >= n)  # type: ignore[misc]
        finally:
            worker.process.kill()
            worker.process.wait(10)
    with running([[file]], tmp_path, env):
        found = reader.read_all(EVENTS)

    assert_same(found, expected, EVENTS)


@pytest.mark.kafka
@pytest.mark.redis
def test_state_lost_by_redis_is_made_again_from_the_topic(
    kafka_bootstrap: str, env: dict[str, str], prefix: str, reader: Reader, tmp_path: Path, redis_url: str
) -> None:
    records = transactions(EVENTS, seed=2)
    expected = undisturbed(kafka_bootstrap, env, tmp_path, records)
    file = alone(tmp_path, prefix)
    half = EVENTS // 2
    client = redis.Redis.from_url(redis_url)

    fill(kafka_bootstrap, f"{prefix}transactions", *(part[:half] for part in records))
    with running([[file]], tmp_path, env):
        reader.read_until(lambda found: len(found.times_seen) >= half)
    keys = list(client.scan_iter(match=f"ps:{{{prefix}fraud:*", count=10_000))
    assert len(keys) > PARTITIONS, "the first worker had written rows"
    client.delete(*keys)
    fill(kafka_bootstrap, f"{prefix}transactions", *(part[half:] for part in records))
    with running([[file]], tmp_path, env):
        found = reader.read_all(EVENTS)

    assert_same(found, expected, EVENTS)


@pytest.mark.kafka
@pytest.mark.redis
def test_sigterm_drains_commits_and_leaves_within_ten_seconds(
    kafka_bootstrap: str, env: dict[str, str], prefix: str, reader: Reader, tmp_path: Path
) -> None:
    records = transactions(EVENTS, seed=3)
    file = alone(tmp_path, prefix, delivery={"commit_interval": "5s"})
    fill(kafka_bootstrap, f"{prefix}transactions", *records)

    with running([[file]], tmp_path, env) as (worker,):
        time.sleep(1.0)
        begun_s = time.monotonic()
        code = worker.stop(15.0)
        took_s = time.monotonic() - begun_s
        reader.read(1.0)
        before = len(reader.outcomes.times_seen)
    with running([[file]], tmp_path, env):
        found = reader.read_all(EVENTS)

    assert code == Exit.OK
    assert took_s < 10.0
    assert before > 0, "what was scored is committed at the end"
    assert found.doubled == []


@pytest.mark.kafka
@pytest.mark.redis
def test_at_least_once_loses_nothing_and_repeats_only_what_was_in_flight_with_the_same_id_and_score(
    kafka_bootstrap: str, env: dict[str, str], prefix: str, reader: Reader, tmp_path: Path
) -> None:
    records = transactions(EVENTS, seed=4)
    expected = undisturbed(kafka_bootstrap, env, tmp_path, records)
    file = alone(
        tmp_path,
        prefix,
        kafka=SOON_MISSED,
        batching={"max_rows": 16},
        delivery={"commit_interval": "200ms"},
    )
    fill(kafka_bootstrap, f"{prefix}transactions", *records)
    alo = {**env, "PENSTOCK_DELIVERY": "at_least_once"}

    worker = start_worker([file], tmp_path / "worker.log", alo)
    try:
        _stop_between_two_commits(worker, reader, kafka_bootstrap, prefix)
    finally:
        worker.process.kill()
        worker.process.wait(10)
    while reader.read(1.0):
        pass
    published, committed = dict(reader.outcomes.times_seen), _committed(kafka_bootstrap, prefix)
    with running([[file]], tmp_path, alo):
        found = reader.read_all(EVENTS)

    assert len(found.times_seen) == EVENTS
    assert found.scores == expected.scores
    assert found.changed == []
    in_flight = {place for place in published if place[1] >= committed[place[0]]}
    assert 0 < len(in_flight) < len(published)
    assert in_flight <= set(found.doubled)
    assert all(offset >= committed[partition] for partition, offset in found.doubled)
    assert max(found.times_seen.values()) == 2


def _committed(kafka: str, prefix: str) -> list[int]:
    """The offset committed of each lane."""
    group = Consumer({"bootstrap.servers": kafka, "group.id": f"{prefix}fraud"})
    try:
        lanes = [TopicPartition(f"{prefix}transactions", p) for p in range(PARTITIONS)]
        return [max(0, place.offset) for place in group.committed(lanes, timeout=10)]
    finally:
        group.close()


def _stop_between_two_commits(worker: RunningWorker, reader: Reader, kafka: str, prefix: str) -> None:
    """Stop a worker when it has published more than it has committed."""
    while len(reader.outcomes.times_seen) < EVENTS:
        reader.read()
        os.kill(worker.process.pid, signal.SIGSTOP)
        while reader.read(0.5):  # what was on its way
            pass
        committed = _committed(kafka, prefix)
        done = sum(place[1] < committed[place[0]] for place in reader.outcomes.times_seen)
        if 0 < done < len(reader.outcomes.times_seen):
            return
        os.kill(worker.process.pid, signal.SIGCONT)
    raise AssertionError("the worker was never seen between two commits")


@pytest.mark.kafka
@pytest.mark.redis
def test_a_topic_of_another_schema_stops_the_worker_before_it_is_poured_away(
    kafka_bootstrap: str, env: dict[str, str], prefix: str, tmp_path: Path
) -> None:
    keys, values = transactions(4000, seed=5)
    fill(kafka_bootstrap, f"{prefix}transactions", keys, [b"not avro " + value[10:] for value in values])
    file = alone(tmp_path, prefix)

    worker = start_worker([file], tmp_path / "worker.log", env)
    try:
        code = worker.process.wait(60)
    finally:
        worker.process.kill()
        worker.process.wait(10)

    assert code == Exit.DEAD_LETTERS, worker.tail()
    assert "dead_letters.stop_share" in worker.tail()
