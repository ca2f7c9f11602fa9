"""The doctor on a real broker: what it says of a topic's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.pipeline.streams import alone
from worker.config import load_pipeline
from worker.doctor import Finding, examine

FOREVER_MS = "9223372036854775807"


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("settings", "works", "said"),
    [
        ({}, True, "at most 3600 s ahead"),
        ({"message.timestamp.type": "LogAppendTime"}, True, "dated by the broker"),
        ({"message.timestamp.after.max.ms": FOREVER_MS}, False, "as far ahead as they like"),
    ],
)
def test_a_topic_whose_records_may_be_dated_at_will_is_pointed_out(
    kafka_bootstrap: str,
    topic_prefix: str,
    tmp_path: Path,
    settings: dict[str, str],
    works: bool,
    said: str,
) -> None:
    """An event time is judged by its record's timestamp, so somebody must judge the timestamp."""
    topic = f"{topic_prefix}transactions"
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1, config=settings)])[topic].result(30)
    try:
        file = alone(tmp_path, topic_prefix)
        found = examine(load_pipeline(file, {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_DEVICE": "cpu"}))
    finally:
        admin.delete_topics([topic])[topic].result(30)

    timestamps: Finding = next(f for f in found if f.what == "timestamps")
    assert timestamps.works == works
    assert said in timestamps.found
    assert works or topic in timestamps.do
