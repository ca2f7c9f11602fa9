"""What the sink makes of each answer of a broker: commit, abort, a new producer, or an end that says why."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka import KafkaError as Kafka

from schemas.spans import spans_of
from tests.builders import Message, records
from tests.conftest import MakeTopics
from tests.services.mock_cluster import Api, MockCluster
from worker import sink as sink_module
from worker import succession as succession_module
from worker.batch import Rejected
from worker.commits import NotCommittedError
from worker.exits import Exit, StopWorker
from worker.producer_settings import producer_config
from worker.sink import Sink

TRANSACTION_MS = 10_000
WITHIN_S = 30.0
TRANSACTION_ABORTABLE = 120  # the client's Python names do not know it


@pytest.fixture(scope="module")
def cluster() -> MockCluster:
    """A broker that answers as it is told."""
    return MockCluster({"in": 1, "out": 1, "dead": 1})


@pytest.fixture
def broker(cluster: MockCluster) -> Iterator[MockCluster]:
    """The same for one test; what was not answered is forgotten."""
    yield cluster
    cluster.up()
    cluster.answer_well()


@pytest.fixture
def consumer(cluster: MockCluster, unique_name: str) -> Iterator[Consumer]:
    """A member of a group, whose offsets are committed."""
    with joined(cluster.bootstrap, unique_name, "in") as member:
        yield member


@contextmanager
def joined(bootstrap: str, group: str, topic: str, **properties: int) -> Iterator[Consumer]:
    """A consumer with its partitions assigned."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0, **properties})
    consumer.subscribe([topic])
    deadline_s = time.monotonic() + WITHIN_S
    while not consumer.assignment():
        assert time.monotonic() < deadline_s
        consumer.poll(0.05)
    yield consumer
    consumer.close()


def open_sink(
    bootstrap: str,
    name: str,
    mode: str = "exactly_once",
    *,
    transaction_ms: int = TRANSACTION_MS,
    properties: Mapping[str, str] = MappingProxyType({}),
) -> Sink:
    """The sink of a worker; librdkafka says nothing of the errors that are made here."""
    return Sink(
        producer_config(
            {"bootstrap.servers": bootstrap, "log_level": "0", **properties},
            worker_id=name if mode == "exactly_once" else None,
            transaction_timeout_ms=transaction_ms,
        ),
        pipeline="p",
        dead_letters="dead",
    )


def committed(sink: Sink, offsets: list[TopicPartition], consumer: Consumer) -> bool:
    """A whole commit."""
    sink.begin_commit(offsets, consumer)
    return sink.end_commit()


def publish(sink: Sink, consumer: Consumer, offset: int) -> bool:
    """One batch and its commit."""
    sink.send("out", spans_of([b"value"]), spans_of([b"key"]))
    return committed(sink, [TopicPartition("in", 0, offset)], consumer)


def outcome(sink: Sink, consumer: Consumer) -> str:
    """What becomes of one batch."""
    producer: Producer = sink._producer
    try:
        return "committed" if publish(sink, consumer, 2) else "to be committed again"
    except NotCommittedError as error:
        kept = "aborted" if sink._producer is producer else "new producer"
        return kept if error.is_member else f"{kept}, wait for the group"
    except StopWorker as error:
        return f"stopped: {error.code.name}"


def goes_on(sink: Sink, consumer: Consumer) -> None:
    """It becomes ready by itself, and commits again."""
    deadline_s = time.monotonic() + WITHIN_S
    sink.abort()
    while not (sink.is_ready() and consumer.assignment()):
        assert time.monotonic() < deadline_s, "not ready"
        consumer.poll(0.01)
    while not publish(sink, consumer, 3):
        assert time.monotonic() < deadline_s, "not committed"
        consumer.poll(0.05)


SENT_AGAIN = "to be committed again"
MOVED_ON = "aborted, wait for the group"
RENEWED, FENCED = "new producer", "new producer, wait for the group"
ANSWERS = [
    (Api.TXN_OFFSET_COMMIT, [Kafka.ILLEGAL_GENERATION], SENT_AGAIN),
    (Api.TXN_OFFSET_COMMIT, [Kafka.STALE_MEMBER_EPOCH], SENT_AGAIN),
    (Api.TXN_OFFSET_COMMIT, [Kafka.REBALANCE_IN_PROGRESS], SENT_AGAIN),
    (Api.TXN_OFFSET_COMMIT, [Kafka.UNKNOWN_MEMBER_ID], MOVED_ON),
    (Api.TXN_OFFSET_COMMIT, [Kafka.FENCED_INSTANCE_ID], MOVED_ON),
    (Api.TXN_OFFSET_COMMIT, [Kafka.FENCED_MEMBER_EPOCH], MOVED_ON),
    (Api.TXN_OFFSET_COMMIT, [Kafka.COORDINATOR_LOAD_IN_PROGRESS], "committed"),
    (Api.TXN_OFFSET_COMMIT, [Kafka.COORDINATOR_NOT_AVAILABLE], "committed"),
    (Api.TXN_OFFSET_COMMIT, [Kafka.INVALID_PRODUCER_EPOCH], FENCED),
    (Api.TXN_OFFSET_COMMIT, [Kafka.GROUP_AUTHORIZATION_FAILED], "stopped: KAFKA"),
    (Api.ADD_PARTITIONS, [Kafka.CONCURRENT_TRANSACTIONS], "committed"),
    (Api.ADD_PARTITIONS, [Kafka.CONCURRENT_TRANSACTIONS] * 5, "committed"),
    (Api.ADD_PARTITIONS, [Kafka.INVALID_PRODUCER_ID_MAPPING], RENEWED),
    (Api.ADD_PARTITIONS, [Kafka.INVALID_TXN_STATE], RENEWED),
    (Api.ADD_PARTITIONS, [Kafka.PRODUCER_FENCED], FENCED),
    (Api.ADD_PARTITIONS, [Kafka.TRANSACTIONAL_ID_AUTHORIZATION_FAILED], "stopped: KAFKA"),
    (Api.ADD_OFFSETS, [Kafka.CONCURRENT_TRANSACTIONS], "committed"),
    (Api.ADD_OFFSETS, [Kafka.CONCURRENT_TRANSACTIONS] * 5, "committed"),
    (Api.ADD_OFFSETS, [Kafka.INVALID_PRODUCER_ID_MAPPING], RENEWED),
    (Api.ADD_OFFSETS, [Kafka.INVALID_TXN_STATE], RENEWED),
    (Api.ADD_OFFSETS, [Kafka.PRODUCER_FENCED], FENCED),
    (Api.ADD_OFFSETS, [Kafka.TRANSACTIONAL_ID_AUTHORIZATION_FAILED], "stopped: KAFKA"),
    (Api.END_TXN, [Kafka.CONCURRENT_TRANSACTIONS], "committed"),
    (Api.END_TXN, [Kafka.COORDINATOR_NOT_AVAILABLE] * 2, "committed"),
    (Api.END_TXN, [Kafka.REQUEST_TIMED_OUT], RENEWED),
    (Api.END_TXN, [Kafka.INVALID_PRODUCER_ID_MAPPING], RENEWED),
    (Api.END_TXN, [Kafka.INVALID_TXN_STATE], RENEWED),
    (Api.END_TXN, [Kafka.PRODUCER_FENCED], FENCED),
    (Api.END_TXN, [Kafka.INVALID_PRODUCER_EPOCH], FENCED),
    (Api.END_TXN, [Kafka.TRANSACTIONAL_ID_AUTHORIZATION_FAILED], "stopped: KAFKA"),
    (Api.PRODUCE, [Kafka.NOT_ENOUGH_REPLICAS], "committed"),
    (Api.PRODUCE, [Kafka.REQUEST_TIMED_OUT], "committed"),
    (Api.PRODUCE, [Kafka.INVALID_RECORD], RENEWED),
    (Api.PRODUCE, [TRANSACTION_ABORTABLE], RENEWED),
    (Api.PRODUCE, [Kafka.UNKNOWN_PRODUCER_ID], RENEWED),
    (Api.PRODUCE, [Kafka.OUT_OF_ORDER_SEQUENCE_NUMBER], RENEWED),
    (Api.PRODUCE, [Kafka.PRODUCER_FENCED], FENCED),
    (Api.PRODUCE, [Kafka.INVALID_PRODUCER_EPOCH], FENCED),
    (Api.PRODUCE, [Kafka.MSG_SIZE_TOO_LARGE], "stopped: KAFKA"),
    (Api.PRODUCE, [Kafka.RECORD_LIST_TOO_LARGE], "stopped: KAFKA"),
    (Api.PRODUCE, [Kafka.TOPIC_AUTHORIZATION_FAILED], "stopped: KAFKA"),
]


@pytest.mark.parametrize(
    ("api", "codes", "expected"),
    ANSWERS,
    ids=[f"{api.name}-{Kafka(codes[0]).name()}-{len(codes)}" for api, codes, _ in ANSWERS],
)
def test_each_answer_has_its_way_on_and_the_next_batch_is_committed(
    broker: MockCluster, consumer: Consumer, unique_name: str, api: Api, codes: list[int], expected: str
) -> None:
    sink = open_sink(broker.bootstrap, unique_name)
    assert publish(sink, consumer, 1)

    broker.answer(api, *codes)
    found = outcome(sink, consumer)

    assert found == expected
    if not expected.startswith("stopped"):
        goes_on(sink, consumer)
    sink.close()


def test_who_has_left_the_group_commits_nothing(broker: MockCluster, unique_name: str) -> None:
    """A broker takes offsets of a client without a member id, whoever has the partitions by then."""
    soon = {"session.timeout.ms": 1000, "max.poll.interval.ms": 1000, "heartbeat.interval.ms": 200}
    sink = open_sink(broker.bootstrap, unique_name)
    with joined(broker.bootstrap, unique_name, "in", **soon) as away:
        assert publish(sink, away, 1)
        deadline_s = time.monotonic() + WITHIN_S
        while away.memberid():  # and nobody polls
            assert time.monotonic() < deadline_s
            time.sleep(0.05)

        assert outcome(sink, away) == MOVED_ON

    sink.close()


def test_a_transaction_given_up_half_way_leaves_nothing_behind(
    broker: MockCluster, consumer: Consumer, unique_name: str
) -> None:
    sink = open_sink(broker.bootstrap, unique_name)
    sink.send("out", spans_of([b"value"]), spans_of([b"key"]))
    sink._producer.flush(WITHIN_S)  # or the broker would not know of it, and nothing were to be aborted
    broker.answer(Api.END_TXN, Kafka.INVALID_TXN_STATE)

    sink.abort()

    goes_on(sink, consumer)
    sink.close()


@pytest.mark.parametrize("code", [Kafka.PRODUCER_FENCED, Kafka.INVALID_PRODUCER_EPOCH])
def test_producers_that_are_fenced_as_they_begin_are_not_made_for_ever(
    broker: MockCluster, consumer: Consumer, unique_name: str, code: int
) -> None:
    sink = open_sink(broker.bootstrap, unique_name)
    broker.answer(Api.END_TXN, Kafka.PRODUCER_FENCED)
    broker.answer(Api.INIT_PRODUCER_ID, *[code] * 50)
    assert outcome(sink, consumer) == FENCED

    with pytest.raises(StopWorker, match=r"give each its own delivery\.worker_id") as stopped:
        goes_on(sink, consumer)

    assert stopped.value.code == Exit.FENCED


@pytest.mark.parametrize("code", [Kafka.NOT_COORDINATOR, Kafka.CONCURRENT_TRANSACTIONS])
def test_a_producer_that_goes_on_asking_to_begin_is_not_fenced_by_one_of_our_own(
    broker: MockCluster,
    consumer: Consumer,
    unique_name: str,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    monkeypatch.setattr(succession_module, "INIT_S", 0.8)
    sink = open_sink(broker.bootstrap, unique_name)
    assert publish(sink, consumer, 1)
    broker.answer(Api.INIT_PRODUCER_ID, code, code, code)
    broker.answer(Api.END_TXN, Kafka.INVALID_TXN_STATE)
    assert outcome(sink, consumer) == RENEWED
    producer: Producer = sink._producer

    goes_on(sink, consumer)

    assert sink._producer is producer
    sink.close()


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_a_broker_away_for_longer_than_a_transaction_is_no_hang_and_is_waited_for(
    broker: MockCluster,
    consumer: Consumer,
    unique_name: str,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sink_module, "_FLUSH_S", 2.0)
    monkeypatch.setattr(sink_module, "_SLACK_S", 1.0)
    sink = open_sink(broker.bootstrap, unique_name, mode, transaction_ms=1500)
    assert publish(sink, consumer, 1)

    broker.down()
    assert outcome(sink, consumer) == RENEWED
    broker.up()

    goes_on(sink, consumer)
    sink.close()


def test_an_output_that_is_never_acknowledged_is_not_committed(
    broker: MockCluster, consumer: Consumer, unique_name: str
) -> None:
    sink = open_sink(broker.bootstrap, unique_name, "at_least_once")
    broker.answer(Api.PRODUCE, Kafka.INVALID_RECORD)

    assert outcome(sink, consumer) == RENEWED

    goes_on(sink, consumer)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (Kafka.REBALANCE_IN_PROGRESS, SENT_AGAIN),
        (Kafka.ILLEGAL_GENERATION, SENT_AGAIN),
        (Kafka.UNKNOWN_MEMBER_ID, MOVED_ON),
    ],
)
def test_at_least_once_goes_on_when_the_group_refuses_offsets(
    broker: MockCluster, consumer: Consumer, unique_name: str, code: int, expected: str
) -> None:
    sink = open_sink(broker.bootstrap, unique_name, "at_least_once")
    broker.answer(Api.OFFSET_COMMIT, code)

    assert outcome(sink, consumer) == expected
    assert sink.is_ready()


def dead_letter(size_bytes: int) -> Rejected:
    """A record of this size that cannot be scored."""
    value = random.Random(0).randbytes(size_bytes)  # nothing that lz4 makes smaller
    record = records([Message(record_value=value, record_key=b"k")])[0]
    return Rejected(record=record, stage="decode", reason="r", detail="d")


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_an_output_that_the_client_may_not_send_stops_the_worker_and_names_the_topic(
    broker: MockCluster, unique_name: str, mode: str
) -> None:
    sink = open_sink(broker.bootstrap, unique_name, mode, properties={"message.max.bytes": "1000"})

    with pytest.raises(StopWorker, match=r"'dead' is larger than Kafka takes.*max\.message\.bytes"):
        sink.send_rejects([dead_letter(2000)])


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_at_its_largest_a_dead_letter_fits_the_client(
    broker: MockCluster, consumer: Consumer, unique_name: str, mode: str
) -> None:
    sink = open_sink(broker.bootstrap, unique_name, mode)

    sink.send_rejects([dead_letter(3_000_000)])

    assert committed(sink, [TopicPartition("in", 0, 1)], consumer)


def test_an_output_refused_while_the_commit_looks_for_its_coordinator_still_says_why(
    broker: MockCluster, consumer: Consumer, unique_name: str
) -> None:
    """The commit then ends in "erroneous state"; only the record's own report names the reason."""
    sink = open_sink(broker.bootstrap, unique_name)
    broker.answer(Api.PRODUCE, Kafka.MSG_SIZE_TOO_LARGE)
    broker.answer_late(Api.FIND_COORDINATOR, 500)

    with pytest.raises(StopWorker, match=r"'?out'? .*larger than Kafka takes|larger than Kafka takes.* out "):
        publish(sink, consumer, 1)


@pytest.mark.kafka
@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_an_output_too_large_for_its_topic_stops_the_worker_and_names_topic_and_setting(
    kafka_bootstrap: str, make_topics: MakeTopics, unique_name: str, mode: str
) -> None:
    """The default of a topic is 1 MiB; it takes a record of that size, and refuses a larger one."""
    out, source = make_topics("out", 1), make_topics("in", 1)

    def publish(value: bytes) -> bool:
        sink.send(out, spans_of([value]), spans_of([b"k"]))
        return committed(sink, [TopicPartition(source, 0, 1)], consumer)

    sink = open_sink(kafka_bootstrap, unique_name, mode)
    largest = dead_letter(1_040_000).record.value or b""
    with joined(kafka_bootstrap, unique_name, source) as consumer:
        assert publish(largest)

        with pytest.raises(StopWorker, match=rf"{out}.*max\.message\.bytes") as stopped:
            publish(largest + largest)

    assert stopped.value.code == Exit.KAFKA
