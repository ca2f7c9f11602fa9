"""The doctor on a real broker: what it says of a topic's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.pipeline.streams import alone
from worker.config import load_pipeline
from worker.doctor import Finding, examine

MIB = 1 << 20
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


@pytest.mark.kafka
@pytest.mark.parametrize(("dead_bytes", "works"), [(MIB + 12, False), (MIB + (1 << 17), True)])
def test_a_dead_letter_topic_that_is_too_small_for_some_record_is_pointed_out(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path, dead_bytes: int, works: bool
) -> None:
    """A dead letter is its record and some headers; one that does not fit would stop each next worker."""
    given, dead = f"{topic_prefix}transactions", f"{topic_prefix}fraud.dead-letters"
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    sizes = {given: MIB + 12, dead: dead_bytes}
    made = [NewTopic(name, 1, 1, config={"max.message.bytes": str(n)}) for name, n in sizes.items()]
    for done in admin.create_topics(made).values():
        done.result(30)
    try:
        file = alone(tmp_path, topic_prefix)
        found = examine(load_pipeline(file, {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_DEVICE": "cpu"}))
    finally:
        for done in admin.delete_topics(list(sizes)).values():
            done.result(30)

    said: Finding = next(f for f in found if f.what == "sizes")
    assert said.works == works
    assert works or dead in said.do
