"""Looking into a real partition finds what the log in memory finds, past everything that is no event."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from confluent_kafka import Producer

from schemas.codec import Codec
from tests.builders import event_schema
from tests.unit.test_rebuild import ListedLog, Record
from worker.decode import TIME_MARKER, DecodePlan
from worker.rebuild import Reach, place
from worker.rebuild_log import open_log, rebuild_start

CODEC = Codec(event_schema("timestamp-micros"), "single_object")
PLAN = DecodePlan(
    key="card", event_time="time", time_unit_us=1, max_future_us=3_600_000_000, finite=("amount",)
)
REACH = Reach(reach_us=300_000_000, lateness_us=10_000_000, max_future_us=60_000_000)
BEGIN_MS = 1_700_000_000_000
EVENTS = 6000


def config(kafka: str) -> dict[str, object]:
    """As of the input consumer."""
    return {
        "bootstrap.servers": kafka,
        "group.id": "never-joined",
        "group.protocol": "consumer",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "fetch.wait.max.ms": 50,
    }


def value(event_us: int) -> bytes:
    """An event of this time."""
    return CODEC.encode_rows([{"id": "e", "time": event_us, "card": "c", "amount": 1.0}])[0]


def fill(kafka: str, topic: str, *, is_live: bool) -> list[Record]:
    """A second between events; one record in ten is none: damaged, empty or a time marker.

    Replayed events come in transactions, of which one in four is aborted. (Live ones do not: the broker dates
    the markers that end transactions with today, and these would be the only records of today.)

    Returns:
        What stands at each offset, those of transaction markers too.
    """
    producer = Producer(
        {"bootstrap.servers": kafka, "linger.ms": 5, **({} if is_live else {"transactional.id": topic})}
    )
    log: list[Record] = []
    if not is_live:
        producer.init_transactions(30)
    for first in range(0, EVENTS, 500):
        is_aborted = not is_live and first % 2000 == 500
        if not is_live:
            producer.begin_transaction()
        for i in range(first, first + 500):
            produced_ms = BEGIN_MS + i * 1000 if is_live else BEGIN_MS + 10**9 + i
            is_event = i % 10 != 3
            record = value((BEGIN_MS + i * 1000) * 1000) if is_event else [b"junk", None, None][i % 3]
            headers = [(TIME_MARKER, b"%d" % (BEGIN_MS + i))] if not is_event and i % 3 == 1 else None
            producer.produce(topic, record, b"c", partition=0, timestamp=produced_ms, headers=headers)
            event_us = (BEGIN_MS + i * 1000) * 1000 if is_event and not is_aborted else None
            log.append(Record(event_us, produced_ms))
        assert producer.flush(30) == 0
        if not is_live:
            (producer.abort_transaction if is_aborted else producer.commit_transaction)(30)
            log.append(Record(None, time.time_ns() // 1_000_000))
    return log


@pytest.mark.kafka
@pytest.mark.parametrize("is_live", [True, False])
def test_a_real_partition_is_looked_into_like_one_in_memory(
    kafka_bootstrap: str, make_topics: Callable[[str, int], str], is_live: bool
) -> None:
    topic = make_topics("in", 1)
    listed = ListedLog(fill(kafka_bootstrap, topic, is_live=is_live), at_once=1)
    high = len(listed.records)

    with open_log(config(kafka_bootstrap), CODEC, PLAN, topic, 0) as log:
        for offset in (0, 3, 499, 500, 501, 700, 1001, 5000, high - 1, high):
            found = log.sample(offset, None)
            at_once = 1 if found is None else len(found.event_us)  # the broker's choice
            assert found == replace(listed, at_once=at_once).sample(offset, None), offset
        assert is_live or log.sample(501, 1001) is None, "an aborted transaction and nothing else"
        for produced_ms in (0, BEGIN_MS, BEGIN_MS + 10_000, BEGIN_MS + 10**9 + 300, BEGIN_MS + 10**10):
            assert log.first_since(produced_ms) == listed.first_since(produced_ms)
        looked = place(REACH, log, 5000, 0)
    started = rebuild_start(config(kafka_bootstrap), CODEC, PLAN, REACH, topic, 0, 5000, 0)

    committed_us = (BEGIN_MS + 4990 * 1000) * 1000
    for begin, forgotten_us in (looked, started):
        assert 1000 < begin < 5000 - 300
        assert forgotten_us <= committed_us - 300_000_000
        before = [r.event_us for r in listed.records[:begin] if r.event_us is not None]
        assert max(before) <= forgotten_us
