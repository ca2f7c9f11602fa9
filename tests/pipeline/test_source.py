"""Partitions are held, started and lost as told, whatever the client makes of its errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, Producer

from tests.services.mock_cluster import MockCluster
from worker.source import OffsetsGoneError, Source, consumer_config

WITHIN_S = 30.0
RECORDS = 100


@pytest.fixture(scope="module")
def cluster() -> MockCluster:
    """A broker whose records can be removed."""
    return MockCluster({})


@pytest.fixture
def topic(cluster: MockCluster, unique_name: str) -> str:
    """A topic with records in its first partition."""
    producer = Producer({"bootstrap.servers": cluster.bootstrap})
    for number in range(RECORDS):
        producer.produce(unique_name, b"%d" % number, partition=0)
        assert producer.flush(WITHIN_S) == 0  # one by one, or the mock keeps and removes them together
    return unique_name


@pytest.fixture
def source(cluster: MockCluster, topic: str) -> Iterator[Source]:
    """A member with every partition, none of them started."""
    opened = Source(
        consumer_config({"bootstrap.servers": cluster.bootstrap}, group=topic, protocol="classic"), topic
    )
    assigned: list[int] = []
    opened.subscribe(assigned.extend, lambda _: None, lambda _: None)
    until(lambda: 0 in assigned, opened)
    yield opened
    opened.close()


def test_a_stuck_worker_gives_its_lanes_up_sooner_than_after_five_minutes() -> None:
    def silent_ms(properties: dict[str, str], waits_ms: int = 0) -> int:
        config = consumer_config(properties, group="g", protocol="classic", waits_at_most_ms=waits_ms)
        Consumer({"bootstrap.servers": "localhost:1", **config}).close()  # the client takes it
        return int(config["max.poll.interval.ms"])

    assert silent_ms({}) == 45_000
    assert silent_ms({}, waits_ms=30_000) == 75_000, "a lookup may wait for its owner"
    assert silent_ms({"session.timeout.ms": "120000"}) == 120_000, "the client takes no less"
    assert silent_ms({"max.poll.interval.ms": "60000"}) == 60_000


def until(is_so: Callable[[], bool], source: Source) -> None:
    """Poll until something is so; what is read meanwhile is thrown away."""
    deadline_s = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline_s
        source.poll(10, 20.0, 0.0)


def read(source: Source, count: int) -> list[int]:
    """The next offsets of the first partition."""
    offsets: list[int] = []
    deadline_s = time.monotonic() + WITHIN_S
    while len(offsets) < count:
        assert time.monotonic() < deadline_s, offsets
        records = source.poll(count - len(offsets), 20.0, 0.0)
        offsets += records.offset.tolist() if records else []
    return offsets


def test_a_held_partition_gives_nothing_and_goes_on_from_where_it_is_told(source: Source) -> None:
    until(lambda: source.start(0, 0), source)
    assert read(source, RECORDS) == list(range(RECORDS))

    source.hold([0])
    assert source.poll(10, 100.0, 0.0) is None
    until(lambda: source.start(0, 40), source)

    assert read(source, RECORDS - 40) == list(range(40, RECORDS))


def test_a_partition_whose_offset_was_gone_can_be_read_again(
    cluster: MockCluster, topic: str, source: Source
) -> None:
    """The client then refuses to seek in it for ever."""
    cluster.delete_records(topic, 0, 50)
    until(lambda: source.start(0, 10), source)
    with pytest.raises(OffsetsGoneError):
        until(lambda: False, source)

    source.hold([0])
    until(lambda: source.start(0, 50), source)

    assert read(source, RECORDS - 50) == list(range(50, RECORDS))


def test_it_can_even_when_the_error_itself_was_lost(cluster: MockCluster, topic: str, source: Source) -> None:
    """Holding a partition throws away what was fetched of it, errors too."""
    cluster.delete_records(topic, 0, 50)
    until(lambda: source.start(0, 10), source)
    time.sleep(0.5)  # the error is here, and nobody polls
    source.hold([0])

    until(lambda: source.start(0, 50), source)

    assert read(source, RECORDS - 50) == list(range(50, RECORDS))
