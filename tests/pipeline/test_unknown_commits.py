"""Whether a commit of which nothing was heard was done or not: no record gets two outcomes, or none."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from prometheus_client import CollectorRegistry

from benchmarks.workers import create_topics, topics_of
from schemas.spans import spans_of
from tests.builders import Message, records
from tests.pipeline.streams import Reader, alone, fill, transactions
from tests.pipeline.test_transaction_errors import joined
from tests.services.lossy_wire import Fate, LossyWire
from worker import scout as scout_module
from worker import sink as sink_module
from worker.assemble import assemble, store_opener
from worker.batch import Rejected
from worker.commits import NotCommittedError
from worker.config import load_pipeline
from worker.producer_settings import producer_config
from worker.run import Worker
from worker.sink import Sink
from worker.succession import Estate

EVENTS = 600
PART = 200
WITHIN_S = 60.0
pytestmark = pytest.mark.kafka


@pytest.fixture
def wire(kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[LossyWire]:
    """The way of the worker to its broker, which believes what a producer says it has added."""
    monkeypatch.setattr(sink_module, "_SLACK_S", 0.5)
    monkeypatch.setattr(scout_module, "_TIMEOUT_S", 1.0)
    checks(kafka_bootstrap, "false")
    with LossyWire(kafka_bootstrap) as opened:
        yield opened
    checks(kafka_bootstrap, "true")


def checks(kafka: str, value: str) -> None:
    """Whether the broker asks the coordinator about each partition of a transaction that it sees first."""
    entry = ConfigEntry(
        "transaction.partition.verification.enable", value, incremental_operation=AlterConfigOpType.SET
    )
    admin = AdminClient({"bootstrap.servers": kafka})
    for broker in admin.list_topics(timeout=30).brokers:
        here = ConfigResource(ResourceType.BROKER, str(broker), incremental_configs=[entry])
        (done,) = admin.incremental_alter_configs([here]).values()
        done.result(30)


@contextmanager
def working(file: Path, kafka: str) -> Iterator[CollectorRegistry]:
    """A worker in this process, and what it counts."""
    env = {"PENSTOCK_KAFKA": kafka, "PENSTOCK_STORE": "memory://", "PENSTOCK_DEVICE": "cpu"}
    registry, stop = CollectorRegistry(), threading.Event()
    worker = Worker(assemble(load_pipeline(file, env), store_opener(), registry))
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        yield registry
    finally:
        stop.set()
        thread.join(WITHIN_S)


def soon_given_up(folder: Path, prefix: str, protocol: str = "classic") -> Path:
    """The pipeline, with a transaction's time-out as short as it may be."""
    delivery = {"transaction_timeout": "1s", "worker_id": "a"}
    return alone(folder, prefix, delivery=delivery, kafka={"protocol": protocol})


def fill_at_once(kafka: str, topic: str, keys: list[bytes], values: list[bytes]) -> None:
    """Records that are seen all together or not at all, and so become one commit."""
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions(WITHIN_S)
    producer.begin_transaction()
    for key, value in zip(keys, values, strict=True):
        producer.produce(topic, value, key)
    producer.commit_transaction(WITHIN_S)


def wait_until_committed(kafka: str, prefix: str, count: int) -> None:
    """Until the group has committed so many records of the topic's only partition."""
    topic, give_up_s = f"{prefix}transactions", time.monotonic() + WITHIN_S
    group = Consumer({"bootstrap.servers": kafka, "group.id": f"{prefix}fraud"})
    try:
        while True:
            (found,) = group.committed([TopicPartition(topic, 0)], timeout=WITHIN_S)
            if found.offset >= count:
                return
            assert time.monotonic() < give_up_s, found
            time.sleep(0.05)
    finally:
        group.close()


@pytest.mark.parametrize(
    ("fate", "protocol"),
    [
        (Fate.UNANSWERED, "classic"),
        (Fate.LATE, "classic"),
        (Fate.OUTPUTS_LEFT_OPEN, "classic"),
        (Fate.LEFT_OPEN, "classic"),
        (Fate.LEFT_OPEN, "consumer"),
        (Fate.OFFSETS_LEFT_OPEN, "classic"),
        (Fate.OFFSETS_LEFT_OPEN, "consumer"),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Fate) else value,
)
def test_a_commit_of_which_nothing_was_heard_doubles_nothing_and_loses_nothing(
    kafka_bootstrap: str, wire: LossyWire, topic_prefix: str, tmp_path: Path, fate: Fate, protocol: str
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 2))
    reader, topic = Reader(kafka_bootstrap, topic_prefix), f"{topic_prefix}transactions"
    keys, values = transactions(EVENTS, seed=31)

    with working(soon_given_up(tmp_path, topic_prefix, protocol), wire.bootstrap) as registry:
        for begin in range(0, EVENTS, PART):
            fill(kafka_bootstrap, topic, keys[begin : begin + PART], values[begin : begin + PART])
            found = reader.read_all(begin + PART, WITHIN_S)
            if begin == 0:
                wire.order(fate)
    reader.close()

    assert wire.met.is_set()
    cause = {"pipeline": "fraud", "cause": "NotCommittedError"}
    assert registry.get_sample_value("penstock_recoveries_total", cause)
    assert found.doubled == []
    assert len(found.times_seen) == EVENTS
    assert set(wire.late_codes) <= {KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}
    assert bool(wire.late_codes) == (fate is Fate.LATE)


def test_outputs_are_found_again_by_a_worker_whose_clock_was_set_for_an_hour(
    kafka_bootstrap: str,
    wire: LossyWire,
    topic_prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 2))
    reader, topic = Reader(kafka_bootstrap, topic_prefix), f"{topic_prefix}transactions"
    keys, values = transactions(PART, seed=34)
    real_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + 3600 * 10**9)

    with working(soon_given_up(tmp_path, topic_prefix), wire.bootstrap):
        wire.order(Fate.UNANSWERED)
        fill(kafka_bootstrap, topic, keys, values)
        assert wire.met.wait(WITHIN_S)
        found = reader.read_all(PART, WITHIN_S)
        time.sleep(4.0)  # time enough to follow, and to send everything twice
        while reader.read(0.5):
            pass
    reader.close()

    assert found.doubled == []
    assert len(found.times_seen) == PART


def test_what_another_worker_did_again_is_no_proof_that_a_lost_commit_was_done(
    kafka_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, scores, dead = (f"{topic_prefix}{name}" for name in ("in", "scores", "dead"))
    create_topics(kafka_bootstrap, {source: 1, scores: 1, dead: 1})
    group = {"bootstrap.servers": kafka_bootstrap, "group.id": topic_prefix}

    def sink(worker_id: str) -> Sink:
        settings = {"bootstrap.servers": kafka_bootstrap}
        return Sink(
            producer_config(settings, worker_id=f"{topic_prefix}{worker_id}", transaction_timeout_ms=10_000),
            pipeline="p",
            dead_letters=dead,
            estate=Estate(consumer=group, source=source, topics=(scores, dead)),
        )

    def batch_of(worker: Sink, scored_at: bytes) -> None:
        worker.send(scores, spans_of([b"event 0 " + scored_at]), spans_of([b"key"]))
        poison = records([Message(record_value=b"not avro", record_key=b"key", record_offset=1)])[0]
        worker.send_rejects([Rejected(record=poison, stage="decode", reason="bad_magic", detail="")])
        worker.begin_commit([TopicPartition(source, 0, 2)], member)

    def stand_still(*_: object) -> None:
        raise TimeoutError("too late to commit")

    paused, other = sink("paused"), sink("other")
    with joined(kafka_bootstrap, topic_prefix, source) as member:
        with monkeypatch.context() as patched:
            patched.setattr(sink_module, "end_transaction", stand_still)
            batch_of(paused, b"at 12:00")
        batch_of(other, b"at 12:01")
        assert other.end_commit()
        with pytest.raises(NotCommittedError):
            paused.end_commit()
        give_up_s = time.monotonic() + WITHIN_S
        while not paused.is_ready():
            assert time.monotonic() < give_up_s
            time.sleep(0.05)
    paused.close()
    other.close()

    assert values_of(kafka_bootstrap, scores) == [b"event 0 at 12:01"]
    assert values_of(kafka_bootstrap, dead) == [b"not avro"]


def values_of(kafka: str, topic: str) -> list[bytes]:
    """Everything that counts in the topic's only partition."""
    reader = Consumer({"bootstrap.servers": kafka, "group.id": "values", "enable.partition.eof": True})
    reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    values: list[bytes] = []
    give_up_s = time.monotonic() + WITHIN_S
    while True:
        assert time.monotonic() < give_up_s
        for message in reader.consume(1, 1.0):
            if message.error() is not None and message.error().code() == KafkaError._PARTITION_EOF:
                reader.close()
                return values
            values.append(message.value())


def test_offsets_that_a_dead_worker_left_undecided_for_ever_hold_nobody_up(
    kafka_bootstrap: str, wire: LossyWire, topic_prefix: str, tmp_path: Path
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 2))
    group, topic = f"{topic_prefix}fraud", f"{topic_prefix}transactions"
    fill(kafka_bootstrap, topic, *transactions(EVENTS, seed=32))
    wire.order(Fate.LEFT_OPEN)
    dead = Producer({"bootstrap.servers": wire.bootstrap, "transactional.id": f"{group}-a"})
    nobody = Consumer({"bootstrap.servers": kafka_bootstrap, "group.id": group})
    dead.init_transactions(WITHIN_S)
    dead.begin_transaction()
    dead.produce(f"{topic_prefix}fraud.scores", b"never seen", partition=0)
    dead.flush(WITHIN_S)
    dead.send_offsets_to_transaction([TopicPartition(topic, 0, 10)], nobody.consumer_group_metadata())
    nobody.close()
    del dead

    reader = Reader(kafka_bootstrap, topic_prefix)
    with working(soon_given_up(tmp_path, topic_prefix), wire.bootstrap):
        found = reader.read_all(EVENTS, WITHIN_S)
    reader.close()

    assert found.doubled == []
    assert len(found.times_seen) == EVENTS


@pytest.mark.parametrize("then", ["the next one is lost", "the broker is away", "the broker is away, twice"])
def test_acknowledged_outputs_that_a_broker_forgot_to_commit_are_neither_lost_nor_doubled(
    kafka_bootstrap: str, wire: LossyWire, topic_prefix: str, tmp_path: Path, then: str
) -> None:
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 1))
    reader, topic = Reader(kafka_bootstrap, topic_prefix), f"{topic_prefix}transactions"
    keys, values = transactions(EVENTS, seed=33)

    with working(soon_given_up(tmp_path, topic_prefix), wire.bootstrap):
        fill_at_once(kafka_bootstrap, topic, keys[:PART], values[:PART])
        reader.read_all(PART, WITHIN_S)
        wire.order(Fate.COMMITTED_LEFT_OPEN)
        fill_at_once(kafka_bootstrap, topic, keys[PART : 2 * PART], values[PART : 2 * PART])
        wait_until_committed(kafka_bootstrap, topic_prefix, 2 * PART)
        while reader.read(0.5):
            pass
        assert len(reader.outcomes.times_seen) == PART  # what is acknowledged cannot be read
        for _ in range(then.count("away") + then.count("twice")):
            wire.cut()
            time.sleep(1.0)
            wire.mend()
        if then != "the next one is lost":
            reader.read_all(2 * PART, WITHIN_S)  # without anything that follows
        fill_at_once(kafka_bootstrap, topic, keys[2 * PART :], values[2 * PART :])
        found = reader.read_all(EVENTS, WITHIN_S)
    reader.close()

    assert wire.met.is_set()
    assert found.doubled == []
    assert len(found.times_seen) == EVENTS
