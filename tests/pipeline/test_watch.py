"""A running worker publishes what its watch finds, with the scores that it was found in, on real Kafka."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from benchmarks.workers import create_topics, running, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from tests.pipeline.streams import PARTITIONS, Reader, alone, fill, transactions

EVENTS = 6_000
ODD = 5_000.0


def watch_alerts(kafka: str, topic: str, *, timeout_s: float = 30.0) -> list[dict[str, Any]]:
    """Everything committed on the watch topic, each with its record key."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": f"{topic}.reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    codec, found = Codec(load_schema("watch_alert"), "single_object"), []
    consumer.assign([TopicPartition(topic, 0, 0)])
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        messages = [m for m in consumer.consume(1000, 1.0) if m.error() is None]
        rows = codec.decode([m.value() for m in messages]).table.to_pylist()
        found += [{**row, "record_key": m.key()} for row, m in zip(rows, messages, strict=True)]
        if found and not messages:
            break
    consumer.close()
    return found


@pytest.mark.kafka
def test_drift_and_bad_readings_are_told_of_and_a_refused_one_is_a_dead_letter(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    topics = topics_of(topic_prefix, PARTITIONS)
    create_topics(kafka_bootstrap, {**topics, f"{topic_prefix}watch": 1})
    file = alone(
        tmp_path,
        topic_prefix,
        outputs={"watch": f"{topic_prefix}watch"},
        watch={
            "drift": {"window_events": 2_000, "features": ["amount"]},
            "quality": {"amount": {"max": 1_000.0, "policy": "refuse"}},
        },
        delivery={"worker_id": "w1"},
    )
    keys, values = transactions(EVENTS, odd_share=0.01, odd_amount=ODD)
    fill(kafka_bootstrap, f"{topic_prefix}transactions", keys, values)
    env = {
        "PENSTOCK_KAFKA": kafka_bootstrap,
        "PENSTOCK_STORE": "memory://",
        "PENSTOCK_DELIVERY": "exactly_once",
        "PENSTOCK_DEVICE": "cpu",
    }
    reader = Reader(kafka_bootstrap, topic_prefix)

    with running([[file]], tmp_path, env):
        outcomes = reader.read_all(EVENTS)
    alerts = watch_alerts(kafka_bootstrap, f"{topic_prefix}watch")
    reader.close()

    assert len(outcomes.dead_letters) + len(outcomes.scores) == EVENTS
    assert set(outcomes.dead_letters.values()) == {"bad_reading"}
    assert 20 < len(outcomes.dead_letters) < 120
    # The amounts are not the handbook's: their middle is 68, not 45.
    (shift,) = [a for a in alerts if (a["kind"], a["subject"]) == ("SHIFT", "amount")]
    assert (shift["lifecycle"], shift["worker"], shift["usual"]) == ("RAISED", f"{topic_prefix}fraud-w1", 0.5)
    assert shift["observed"] > 0.55
    assert all(alert["record_key"] == alert["alert_id"].encode() for alert in alerts)
    assert {a["lifecycle"] for a in alerts if a["kind"] == "MISSING"} == {"CLEARED"}
