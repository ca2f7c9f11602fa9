"""A registry that is away while records of a schema not met before come, on real Kafka and Redis."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.workers import create_topics, running, topics_of
from schemas.schema import load_schema
from tests.pipeline.streams import Reader, alone, fill, transactions
from tests.services.tiny_registry import TinyRegistry

EVENTS = 600


@pytest.mark.kafka
@pytest.mark.redis
def test_a_worker_waits_for_a_registry_that_is_away_and_goes_on_without_a_restart(
    kafka_bootstrap: str, redis_url: str, unique_name: str, tmp_path: Path
) -> None:
    keys, values = transactions(2 * EVENTS, seed=3)
    known, new = (  # the same schema under another id, as after a change of its documentation
        [b"\0" + number.to_bytes(4, "big") + value[10:] for value in values] for number in (1, 2)
    )
    prefix = f"{unique_name}."
    create_topics(kafka_bootstrap, topics_of(prefix, 3))
    registry = TinyRegistry()
    registry.schemas |= {number: {"schema": load_schema("transaction").text} for number in (1, 2)}
    source = {"wire": "confluent", "registry": registry.url}
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": redis_url, "PENSTOCK_DEVICE": "cpu"}
    reader = Reader(kafka_bootstrap, prefix)
    try:
        with running([[alone(tmp_path, prefix, source=source)]], tmp_path, env) as [worker]:
            fill(kafka_bootstrap, f"{prefix}transactions", keys[:EVENTS], known[:EVENTS])
            reader.read_all(EVENTS)
            registry.failures = [503] * 10_000
            asked = len(registry.requests)
            fill(kafka_bootstrap, f"{prefix}transactions", keys[EVENTS:], new[EVENTS:])
            deadline_s = time.monotonic() + 60
            while len(registry.requests) < asked + 6:  # three tries
                assert time.monotonic() < deadline_s, worker.tail()
                assert worker.process.poll() is None, worker.tail()
                time.sleep(0.1)
            registry.failures = []
            outcomes = reader.read_all(2 * EVENTS)
    finally:
        reader.close()
        registry.close()

    assert "waiting for the registry" in worker.log.read_text()
    assert outcomes.doubled == []
    assert len(outcomes.scores) == 2 * EVENTS
