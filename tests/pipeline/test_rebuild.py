"""Rows lost with Redis are made again from one longest window back, and no score differs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.workers import create_topics, pipeline_file, running, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table
from tests.pipeline.streams import Outcomes, Reader

EVENTS = 12_000
DAYS = 100
DAY_MS = 86_400_000


def scores_only(folder: Path, prefix: str) -> Path:
    """The fraud pipeline without its lookup and without alerts: nothing but windows is kept."""

    def change(document: dict[str, Any]) -> None:
        document["features"]["terminal"] = dict(document["features"]["customer"])
        del document["decision"], document["outputs"]["alerts"]

    return pipeline_file("fraud", folder, prefix, change)


def log(begin_ms: int) -> tuple[list[bytes], list[bytes], list[int]]:
    """Keys, values and event times (ms) of transactions over a hundred days, now and then out of order."""
    rng = np.random.default_rng(11)
    time_ms = np.sort(rng.integers(0, DAYS * DAY_MS, EVENTS)) + begin_ms
    time_ms -= rng.choice([0, 1_800_000], EVENTS, p=[0.9, 0.1])
    customer = [f"C{i}" for i in rng.integers(0, 200, EVENTS).tolist()]
    schema = load_schema("transaction")
    table = to_table(
        schema,
        {
            "transaction_id": [str(i) for i in range(EVENTS)],
            "event_time": time_ms,
            "customer_id": customer,
            "terminal_id": ["T1"] * EVENTS,
            "amount": np.round(rng.gamma(2.0, 40.0, EVENTS), 2),
        },
    )
    return [c.encode() for c in customer], Codec(schema, "single_object").encode(table), time_ms.tolist()


def fill(kafka: str, topic: str, part: slice, begin_ms: int, *, is_live: bool) -> None:
    """Produce a part of the log, with Kafka timestamps of its events or of today."""
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True, "linger.ms": 5})
    for key, value, time_ms in zip(*(column[part] for column in log(begin_ms)), strict=True):
        producer.produce(topic, value, key, partition=0, timestamp=time_ms if is_live else 0)
        producer.poll(0)
    assert producer.flush(60) == 0


def outcomes_of(
    services: tuple[str, str], folder: Path, prefix: str, begin_ms: int, *, is_live: bool, loses: bool
) -> tuple[Outcomes, list[int]]:
    """Every outcome of the log, and where lanes were read from; all rows are lost half way, if told so."""
    kafka, store = services
    folder.mkdir()
    inputs = f"{prefix}transactions"
    create_topics(kafka, {name: 1 for name in topics_of(prefix, 1) if name != inputs})
    # Records dated a hundred days back would be removed as soon as the broker looks.
    topic = NewTopic(inputs, 1, 1, config={"retention.ms": "-1"})
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([topic])[inputs].result(30)
    env = {"PENSTOCK_KAFKA": kafka, "PENSTOCK_STORE": store, "PENSTOCK_DEVICE": "cpu"}
    file = scores_only(folder, prefix)
    reader = Reader(kafka, prefix)
    starts = []
    try:
        for part in (slice(0, EVENTS // 2), slice(EVENTS // 2, EVENTS)):
            fill(kafka, inputs, part, begin_ms, is_live=is_live)
            with running([[file]], folder, env) as (worker,):
                reader.read_all(part.stop)
                taken = [line for line in worker.log.read_text().splitlines() if '"lane taken"' in line]
            starts.append(json.loads(taken[-1])["reads_from"])
            if loses:
                client = redis.Redis.from_url(store)
                keys = list(client.scan_iter(match=f"ps:{{{prefix}fraud:*", count=10_000))
                assert len(keys) > 100, "the worker had written rows"
                client.delete(*keys)
    finally:
        reader.close()
    return reader.outcomes, starts


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.parametrize("is_live", [True, False])
def test_rows_lost_by_redis_are_made_again_from_one_longest_window_back(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path, is_live: bool
) -> None:
    services = (kafka_bootstrap, redis_url)
    begin_ms = time.time_ns() // 1_000_000 - (DAYS + 1) * DAY_MS
    calm, _ = outcomes_of(
        services, tmp_path / "calm", f"{topic_prefix}calm.", begin_ms, is_live=is_live, loses=False
    )
    found, starts = outcomes_of(
        services, tmp_path / "lost", f"{topic_prefix}lost.", begin_ms, is_live=is_live, loses=True
    )

    per_day = EVENTS / DAYS
    assert starts[0] == 0
    # Thirty days of windows; looking for the place costs a day here, or two thousand events.
    assert EVENTS / 2 - 32 * per_day - (0 if is_live else 2000) < starts[1] < EVENTS / 2 - 30 * per_day
    assert len(found.times_seen) == EVENTS
    assert found.doubled == []
    assert found.scores == calm.scores
    assert found.flags == calm.flags
    assert not any(incomplete for _, incomplete, _ in found.flags.values())
