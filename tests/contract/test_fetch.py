"""What a poll brings is the same through the client's own arrays as through the Python client's objects."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from tests.conftest import MakeTopics
from worker.fetched import PlainFetch
from worker.librdkafka import is_known
from worker.native_fetch import NativeFetch, fetch_of
from worker.records import Record

pytestmark = pytest.mark.kafka
WITHIN_S = 30.0
PARTITIONS = 3
RECORDS: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = [
    (b"value", b"key", []),
    (None, b"key", []),
    (b"value", None, []),
    (b"", b"", []),
    (None, None, [("marker", b"17")]),
    (b"v" * 100_000, b"k" * 300, [("a", b"1"), ("a", b"2"), ("", b""), ("none", None), ("ü", b"\x00\xff")]),
]


def now_ms() -> float:
    return time.monotonic() * 1000


@pytest.fixture
def topic(kafka_bootstrap: str, make_topics: MakeTopics) -> str:
    """Every kind of record on every partition, many times."""
    name = make_topics("fetch", PARTITIONS)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "enable.idempotence": True})
    for number in range(20):
        for partition in range(PARTITIONS):
            for value, key, headers in RECORDS:
                producer.produce(
                    name,
                    value,
                    key,
                    partition=partition,
                    timestamp=1_600_000_000_000 + number,
                    headers=headers,
                )
    assert producer.flush(WITHIN_S) == 0
    return name


@pytest.fixture
def consumer(kafka_bootstrap: str, unique_name: str) -> Iterator[Consumer]:
    opened = Consumer(
        {
            "bootstrap.servers": kafka_bootstrap,
            "group.id": unique_name,
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
        }
    )
    yield opened
    opened.close()


@pytest.fixture(params=[PlainFetch, NativeFetch])
def fetch(request: Any, consumer: Consumer, topic: str) -> Iterator[PlainFetch | NativeFetch]:
    """Each way to read, with nothing assigned."""
    opened = request.param(consumer, topic, now_ms)
    yield opened
    opened.close()


def start(
    consumer: Consumer, fetch: PlainFetch | NativeFetch, topic: str, partition: int, offset: int
) -> None:
    """Read a partition from there, as Source does."""
    if partition not in [p.partition for p in consumer.assignment()]:
        consumer.incremental_assign([TopicPartition(topic, partition, 0)])
    consumer.pause([TopicPartition(topic, partition)])

    def seeks() -> bool:
        try:
            consumer.seek(TopicPartition(topic, partition, offset))
        except Exception:
            fetch.poll(1, 10.0, 0.0)
            return False
        return True

    until(seeks)
    fetch.lead(partition)
    consumer.resume([TopicPartition(topic, partition)])


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline_s


def read(fetch: PlainFetch | NativeFetch, counts: dict[int, int]) -> list[Record]:
    """Records in the order in which they come, until each of these partitions has given so many."""
    found: list[Record] = []

    def enough() -> bool:
        fetched = fetch.poll(7, 50.0, 5.0)
        assert fetched.errors == []
        records = fetched.records
        if records is not None:
            found.extend(records[row] for row in range(len(records)))
        given = Counter(record.partition for record in found)
        return all(given[partition] >= count for partition, count in counts.items())

    until(enough)
    return found


def test_every_kind_of_record_comes_whole_and_in_order(
    fetch: PlainFetch | NativeFetch, consumer: Consumer, topic: str
) -> None:
    for partition in range(PARTITIONS):
        start(consumer, fetch, topic, partition, 0)

    found = read(fetch, dict.fromkeys(range(PARTITIONS), 20 * len(RECORDS)))

    for partition in range(PARTITIONS):
        here = [record for record in found if record.partition == partition]
        assert [record.offset for record in here] == list(range(20 * len(RECORDS)))
        for record in here:
            value, key, headers = RECORDS[record.offset % len(RECORDS)]
            assert (record.value, record.key, record.headers) == (value, key, headers)
            assert record.timestamp_ms == 1_600_000_000_000 + record.offset // len(RECORDS)
            assert record.topic == topic


def test_a_partition_that_led_here_too_early_is_led_here_again(
    fetch: PlainFetch | NativeFetch, consumer: Consumer, topic: str
) -> None:
    consumer.incremental_assign([TopicPartition(topic, 0, 0)])
    fetch.lead(0)  # the client undoes it as it begins to read
    found: list[Record] = []
    polls = 0

    def enough() -> bool:
        nonlocal polls
        records = fetch.poll(1000, 50.0, 50.0).records
        if records is not None:
            polls += 1
            found.extend(records[row] for row in range(len(records)))
        return len(found) >= 20 * len(RECORDS)

    until(enough)

    assert [record.offset for record in found] == list(range(20 * len(RECORDS)))
    assert polls < len(RECORDS)


def test_after_a_seek_nothing_of_before_comes(
    fetch: PlainFetch | NativeFetch, consumer: Consumer, topic: str
) -> None:
    start(consumer, fetch, topic, 0, 0)
    read(fetch, {0: 10})

    start(consumer, fetch, topic, 0, 100)

    assert [record.offset for record in read(fetch, {0: 20})] == list(range(100, 120))


def test_a_partition_assigned_anew_is_read_on_and_one_taken_away_is_not(
    fetch: PlainFetch | NativeFetch, consumer: Consumer, topic: str
) -> None:
    for partition in range(PARTITIONS):
        start(consumer, fetch, topic, partition, 0)
    read(fetch, {0: 1, 1: 1, 2: 1})

    consumer.incremental_unassign([TopicPartition(topic, p) for p in (0, 1)])
    fetch.leave([0, 1])
    start(consumer, fetch, topic, 0, 50)
    found = read(fetch, {0: 70})

    assert [r.offset for r in found if r.partition == 0] == list(range(50, 120))
    assert not [r for r in found if r.partition == 1]


def test_an_offset_that_is_not_there_is_an_error_of_its_partition(
    fetch: PlainFetch | NativeFetch, consumer: Consumer, topic: str
) -> None:
    start(consumer, fetch, topic, 1, 10_000)
    errors: list[tuple[KafkaError, int]] = []

    def fails() -> bool:
        errors.extend(fetch.poll(10, 50.0, 0.0).errors)
        return bool(errors)

    until(fails)
    error, partition = errors[0]
    assert (error.code(), partition) == (KafkaError._AUTO_OFFSET_RESET, 1)
    assert error.str()


def test_the_installed_client_is_known_and_its_objects_are_used_only_when_asked_for(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_known()
    fetch = fetch_of(consumer, "t", now_ms)
    assert isinstance(fetch, NativeFetch)
    fetch.close()

    monkeypatch.setenv("PENSTOCK_CLIENT", "plain")
    assert isinstance(fetch_of(consumer, "t", now_ms), PlainFetch)
