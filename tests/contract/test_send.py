"""What is sent arrives, or is told of as failed, whichever way it takes through the client."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition, murmur2

from schemas.spans import spans_of
from tests.conftest import MakeTopics
from tests.services.mock_cluster import Api, MockCluster
from worker.commits import Sent
from worker.native_send import NativeSend, send_of
from worker.plain_send import PlainSend
from worker.producer_settings import producer_config
from worker.records import Headers, pack_headers

WITHIN_S = 30.0
PARTITIONS = 3
Send = PlainSend | NativeSend
Open = Callable[..., Send]
RECORDS: list[tuple[bytes | None, bytes | None, Headers]] = [
    (b"value", b"key", []),
    (None, b"key", [("marker", b"17")]),
    (b"value", None, []),
    (b"", b"", []),
    (None, None, []),
    (b"v" * 100_000, b"k" * 300, [("a", b"1"), ("a", b"2"), ("", b""), ("none", None), ("ü", b"\x00\xff")]),
]


@pytest.fixture(params=[PlainSend, NativeSend])
def open_send(request: Any) -> Open:
    """Each way to send."""

    def opened(bootstrap: str, worker_id: str | None = None, **more: Any) -> Send:
        properties = {"bootstrap.servers": bootstrap, "log_level": "0"}
        config = producer_config(properties, worker_id=worker_id, transaction_timeout_ms=10_000)
        send: Send = request.param({**config, **more})
        return send

    return opened


@pytest.fixture
def broker() -> MockCluster:
    return MockCluster({"out": PARTITIONS})


def sent(topic: str, records: list[tuple[bytes | None, bytes | None, Headers]]) -> Sent:
    values, keys, headers = zip(*records, strict=True)
    packed = spans_of([pack_headers(each) if each else None for each in headers]) if any(headers) else None
    return Sent(topic, spans_of(values), spans_of(keys), packed)


def read(bootstrap: str, topic: str, count: int) -> list[Any]:
    """Messages of all partitions, in order in each."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    found: list[Any] = []
    deadline_s = time.monotonic() + WITHIN_S
    while len(found) < count and time.monotonic() < deadline_s:
        found += [message for message in consumer.consume(count, 0.2) if message.error() is None]
    consumer.close()
    return sorted(found, key=lambda message: (message.partition(), message.offset()))


@pytest.mark.kafka
def test_values_keys_and_headers_arrive_as_they_are_missing_ones_as_missing(
    kafka_bootstrap: str, make_topics: MakeTopics, open_send: Open
) -> None:
    topic = make_topics("sent", PARTITIONS)
    send = open_send(kafka_bootstrap)

    send.send(sent(topic, RECORDS), WITHIN_S)
    send.send(sent(topic, [(value, key, []) for value, key, _ in RECORDS]), WITHIN_S)

    assert send.client.flush(WITHIN_S) == 0
    assert send.failed() == []
    found = [(m.value(), m.key(), m.headers() or []) for m in read(kafka_bootstrap, topic, 12)]
    expected = RECORDS + [(value, key, []) for value, key, _ in RECORDS]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


@pytest.mark.kafka
def test_records_of_a_key_keep_their_order_and_lie_where_a_java_client_would_put_them(
    kafka_bootstrap: str, make_topics: MakeTopics, open_send: Open
) -> None:
    topic = make_topics("order", PARTITIONS)
    send = open_send(kafka_bootstrap)
    keys = [b"C%04d" % number for number in range(40)]
    records: list[tuple[bytes | None, bytes | None, Headers]] = [
        (b"%d" % turn, key, []) for turn in range(50) for key in keys
    ]

    for first in range(0, len(records), 300):
        send.send(sent(topic, records[first : first + 300]), WITHIN_S)

    assert send.client.flush(WITHIN_S) == 0
    by_key: dict[bytes, list[bytes]] = {key: [] for key in keys}
    for message in read(kafka_bootstrap, topic, len(records)):
        by_key[message.key()].append(message.value())
        assert message.partition() == murmur2(message.key(), PARTITIONS)
    assert all(values == [b"%d" % turn for turn in range(50)] for values in by_key.values())


@pytest.mark.kafka
def test_a_record_that_the_broker_refuses_is_told_of_with_its_topic(
    kafka_bootstrap: str, make_topics: MakeTopics, open_send: Open
) -> None:
    small, other = make_topics("small", 1), make_topics("other", 1)
    send = open_send(kafka_bootstrap)
    too_large = random.Random(1).randbytes(3_000_000)  # a topic takes 1 MiB, after compression

    send.send(sent(other, RECORDS), WITHIN_S)
    send.send(sent(small, [(b"fits", b"key", []), (too_large, b"key", []), (b"fits", b"key", [])]), WITHIN_S)
    send.send(sent(small, [(too_large, b"key", [("name", b"value")])]), WITHIN_S)

    assert send.client.flush(WITHIN_S) == 0
    failed = send.failed()
    assert {topic for _, topic in failed} == {small}
    assert {error.code() for error, _ in failed} <= {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD}


@pytest.mark.kafka
def test_records_for_a_topic_that_is_not_there_are_told_of(
    kafka_bootstrap: str, unique_name: str, open_send: Open
) -> None:
    send = open_send(
        kafka_bootstrap,
        **{"allow.auto.create.topics": False, "topic.metadata.propagation.max.ms": 500},
    )

    try:
        send.send(sent(unique_name, RECORDS), WITHIN_S)
        send.client.flush(WITHIN_S)
        codes = {error.code() for error, topic in send.failed() if topic == unique_name}
    except KafkaException as error:  # by then the client may know that it is not there
        codes = {error.args[0].code()}

    assert codes <= {KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART}
    assert codes


def test_a_client_without_room_is_waited_for(broker: MockCluster, open_send: Open) -> None:
    send = open_send(broker.bootstrap, **{"queue.buffering.max.messages": 100})
    records: list[tuple[bytes | None, bytes | None, Headers]] = [
        (b"%d" % number, b"key", []) for number in range(1000)
    ]

    send.send(sent("out", records), WITHIN_S)

    assert send.client.flush(WITHIN_S) == 0
    found = [message.value() for message in read(broker.bootstrap, "out", 1000)]
    assert sorted(found, key=int) == [value for value, _, _ in records]


def test_a_client_that_gets_no_room_is_an_error_in_time(open_send: Open) -> None:
    send = open_send("127.0.0.1:9", **{"queue.buffering.max.messages": 10})
    began_s = time.monotonic()

    with pytest.raises(KafkaException, match=r"the broker takes nothing any more"):
        send.send(sent("out", RECORDS * 10), 0.5)

    assert time.monotonic() - began_s < WITHIN_S
    send.client.purge()


def test_outside_of_a_transaction_nothing_is_taken(
    broker: MockCluster, unique_name: str, open_send: Open
) -> None:
    send = open_send(broker.bootstrap, unique_name)
    send.client.init_transactions(WITHIN_S)

    for records in (RECORDS[:1], RECORDS[-1:]):  # without headers, and with
        with pytest.raises(KafkaException) as refused:
            send.send(sent("out", records), WITHIN_S)

        assert refused.value.args[0].code() == KafkaError._STATE


def test_a_record_that_fails_makes_its_transaction_fail(
    broker: MockCluster, unique_name: str, open_send: Open
) -> None:
    send = open_send(broker.bootstrap, unique_name)
    send.client.init_transactions(WITHIN_S)
    send.client.begin_transaction()
    broker.answer(Api.PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE)

    send.send(sent("out", RECORDS[:1]), WITHIN_S)

    with pytest.raises(KafkaException):
        send.client.commit_transaction(WITHIN_S)
    send.client.poll(0)
    assert [(error.code(), topic) for error, topic in send.failed()] == [
        (KafkaError.MSG_SIZE_TOO_LARGE, "out")
    ]


def test_what_is_under_way_before_a_mark_is_counted_apart_from_what_is_sent_after_it(
    broker: MockCluster, open_send: Open
) -> None:
    send = open_send(broker.bootstrap, **{"linger.ms": 60_000})  # nothing leaves before it is flushed
    assert send.under_way() == 0

    send.send(sent("out", RECORDS), WITHIN_S)
    send.send(sent("out", RECORDS[:1]), WITHIN_S)
    send.mark()
    assert send.under_way() == len(RECORDS) + 1
    send.send(sent("out", RECORDS[:2]), WITHIN_S)
    assert send.under_way() == len(RECORDS) + 1

    assert send.client.flush(WITHIN_S) == 0
    assert send.under_way() == 0
    send.send(sent("out", RECORDS[:3]), WITHIN_S)
    send.mark()
    assert send.under_way() == 3
    send.client.purge()
    send.client.flush(WITHIN_S)
    assert send.under_way() == 0
    assert {topic for _, topic in send.failed()} == {"out"}


def test_pipelines_of_one_process_count_each_its_own(open_send: Open) -> None:
    topics = [f"out-{number}" for number in range(50)]
    start = threading.Barrier(8)

    def run() -> int:
        send = open_send("127.0.0.1:9")
        start.wait(WITHIN_S)
        for topic in topics:
            send.send(sent(topic, RECORDS[:1]), WITHIN_S)
        send.mark()
        count = send.under_way()
        send.client.purge()
        return count

    with ThreadPoolExecutor(start.parties) as pool:
        counts = [future.result(WITHIN_S) for future in [pool.submit(run) for _ in range(start.parties)]]

    assert counts == [len(topics)] * start.parties


def test_an_unknown_client_is_used_as_it_is_meant_to_be(
    monkeypatch: pytest.MonkeyPatch, broker: MockCluster
) -> None:
    config = {"bootstrap.servers": broker.bootstrap}
    assert isinstance(send_of(config), NativeSend)

    with monkeypatch.context() as patched:
        patched.setattr(confluent_kafka, "__version__", "2.99.0")
        assert isinstance(send_of(config), PlainSend)

    monkeypatch.setenv("PENSTOCK_CLIENT", "plain")
    assert isinstance(send_of(config), PlainSend)
