"""Bytes at hand are bounded: a backlog of ten times the usual is worked off, not swallowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.workers import create_topics, running, topics_of
from tests.pipeline.streams import PARTITIONS, Reader, alone, fill, transactions

QUIET = 20_000
SPIKE = 10 * QUIET
WITHIN_S = 300.0


@pytest.mark.kafka
@pytest.mark.redis
def test_a_spike_of_ten_times_the_usual_is_worked_off_in_the_memory_of_every_day(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    """Commits are rare, so that whatever waits for one piles up."""
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    file = alone(tmp_path, topic_prefix, delivery={"commit_interval": "2s"})
    env = {
        "PENSTOCK_KAFKA": kafka_bootstrap,
        "PENSTOCK_STORE": redis_url,
        "PENSTOCK_DELIVERY": "exactly_once",
        "PENSTOCK_DEVICE": "cpu",
    }
    topic = f"{topic_prefix}transactions"
    keys, values = transactions(QUIET + SPIKE, seed=31)
    reader = Reader(kafka_bootstrap, topic_prefix)

    with running([[file]], tmp_path, env) as (worker,):
        fill(kafka_bootstrap, topic, keys[:QUIET], values[:QUIET])
        reader.read_all(QUIET, WITHIN_S)
        quiet_mb = worker.memory_mb()
        fill(kafka_bootstrap, topic, keys[QUIET:], values[QUIET:])
        found = reader.read_all(QUIET + SPIKE, WITHIN_S)
        spike_mb = worker.memory_mb()
        assert worker.process.poll() is None, worker.tail()
    reader.close()

    print(f"peak {quiet_mb:.0f} MB, in the spike {spike_mb:.0f} MB")
    assert len(found.times_seen) == QUIET + SPIKE
    assert found.doubled == []
    assert spike_mb < 1.5 * quiet_mb
