"""The join reads on from what the cases have seen, whatever becomes of its topics."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.workers import create_topics
from feature_cache.cases import SHARDS, MemoryCases
from feature_cache.store import StoreUnavailableError
from tests.conftest import MakeTopics
from tests.pipeline.streams import fill
from tests.services.mock_cluster import MockCluster
from worker.source import consumer_config
from worker.truth_reader import Reader

TIMEOUT_S = 60.0
DAY_MS = 86_400_000


@contextmanager
def reading(
    kafka: str, group: str, topic: str, cases: MemoryCases, protocol: str = "classic"
) -> Iterator[Reader]:
    """A reader of one topic, which remembers in its marks what it was given."""
    properties = {"bootstrap.servers": kafka, "topic.metadata.refresh.interval.ms": "500"}
    config = consumer_config(properties, group=group, protocol=protocol)
    reader = Reader(config, [topic], properties, cases, DAY_MS, threading.Event())
    reader.subscribe()
    yield reader
    reader.close()


def read(reader: Reader, cases: MemoryCases, count: int) -> list[bytes]:
    """So many records, given to every shard."""
    values: list[bytes] = []
    deadline_s = time.monotonic() + TIMEOUT_S
    while len(values) < count:
        assert time.monotonic() < deadline_s, values
        for message in reader.poll(100, 0.2):
            partition = message.topic(), message.partition()
            for shard in range(SHARDS):
                cases._marks[shard][reader.name(partition)] = message.offset() + 1
                reader.marks[partition][shard] = message.offset() + 1
            reader.next_offset[partition] = message.offset() + 1
            values.append(message.value())
    return values


def send(kafka: str, topic: str, *values: bytes) -> None:
    """Records of partition 0, which is all there is."""
    fill(kafka, topic, [b"k"] * len(values), list(values))


@pytest.mark.kafka
def test_the_reader_goes_on_after_records_were_removed_and_after_the_topic_was_made_anew(
    kafka_bootstrap: str, make_topics: MakeTopics, unique_name: str
) -> None:
    topic, cases = make_topics("labels", 1), MemoryCases()
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    send(kafka_bootstrap, topic, b"0", b"1")
    with reading(kafka_bootstrap, unique_name, topic, cases) as reader:
        assert read(reader, cases, 2) == [b"0", b"1"]

    send(kafka_bootstrap, topic, *(b"%d" % i for i in range(2, 10)))
    admin.delete_records([TopicPartition(topic, 0, 7)])[TopicPartition(topic, 0)].result(TIMEOUT_S)
    with reading(kafka_bootstrap, unique_name, topic, cases) as reader:
        assert read(reader, cases, 3) == [b"7", b"8", b"9"]

    admin.delete_topics([topic])[topic].result(TIMEOUT_S)
    time.sleep(1)
    create_topics(kafka_bootstrap, {topic: 1})
    send(kafka_bootstrap, topic, *(b"new %d" % i for i in range(12)))  # more than the old one had
    with reading(kafka_bootstrap, unique_name, topic, cases) as reader:
        assert read(reader, cases, 12)[0] == b"new 0"


@pytest.mark.kafka
def test_offsets_that_are_removed_while_the_reader_is_at_them_are_passed_over(
    kafka_bootstrap: str, make_topics: MakeTopics, unique_name: str
) -> None:
    topic, cases = make_topics("labels", 1), MemoryCases()
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    send(kafka_bootstrap, topic, b"0")
    with reading(kafka_bootstrap, unique_name, topic, cases) as reader:
        assert read(reader, cases, 1) == [b"0"]
        reader.consumer.pause([TopicPartition(topic, 0)])
        send(kafka_bootstrap, topic, *(b"%d" % i for i in range(1, 6)))
        admin.delete_records([TopicPartition(topic, 0, 4)])[TopicPartition(topic, 0)].result(TIMEOUT_S)
        reader.consumer.resume([TopicPartition(topic, 0)])
        assert read(reader, cases, 2) == [b"4", b"5"]


@pytest.mark.kafka
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_what_some_shard_has_not_seen_is_read_again_and_a_shard_that_knows_nothing_begins_a_horizon_back(
    kafka_bootstrap: str, make_topics: MakeTopics, unique_name: str, protocol: str
) -> None:
    topic, cases = make_topics("labels", 1), MemoryCases()
    send(kafka_bootstrap, topic, *(b"%d" % i for i in range(6)))
    with reading(kafka_bootstrap, unique_name, topic, cases, protocol) as reader:
        assert len(read(reader, cases, 6)) == 6
        name = reader.name((topic, 0))
        assert reader.is_whole()
        cases._marks[3][name] = 4
        assert not reader.is_whole()
        reader.read_again()
        assert read(reader, cases, 2) == [b"4", b"5"]
        cases._marks[3].clear()
        reader.read_again()
        assert read(reader, cases, 6)[0] == b"0"
        assert reader.is_whole()


class AwayAtFirst:
    """Cases in a store that does not answer yet."""

    def __init__(self) -> None:
        self.times = 2
        self.cases = MemoryCases()

    def marks(self, names: Sequence[str]) -> list[list[int | None]]:
        if self.times:
            self.times -= 1
            raise StoreUnavailableError("away")
        return self.cases.marks(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cases, name)


def test_on_the_embedded_bus_and_before_the_store_answers_nothing_is_passed_over(unique_name: str) -> None:
    cluster, store = MockCluster({unique_name: 1}), AwayAtFirst()
    cases: Any = store
    send(cluster.bootstrap, unique_name, *(b"%d" % i for i in range(6)))

    with reading(cluster.bootstrap, unique_name, unique_name, cases) as reader:
        assert len(read(reader, cases, 6)) == 6
        cluster.down()
        assert reader.poll(1, 0.5) == []
        cluster.up()
        send(cluster.bootstrap, unique_name, b"later")
        assert read(reader, cases, 1) == [b"later"]
    assert store.times == 0
