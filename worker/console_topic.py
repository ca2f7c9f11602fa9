"""The small topic on which workers tell each other how they are: made, written and read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from worker.console_snapshot import Snapshot, decode
from worker.producer_settings import CONSUMER_ONLY
from worker.source import _PRODUCER_ONLY

_PARTITION = 0
_ANSWER_S = 5.0
_LOOK_S = 0.2
_AGAIN_S = 2.0
BACK_MS = 300_000  # as far back a console that is opened shows how it was
BACK_AT_MOST = 3000  # snapshots: more are not read at once
_RETENTION_MS = 3_600_000
_TOPIC = {
    # Nobody needs the last word of a worker that is gone: what is old is removed, and nothing is compacted.
    "cleanup.policy": "delete",
    "retention.ms": str(_RETENTION_MS),
    "segment.ms": str(_RETENTION_MS // 4),
    "retention.bytes": str(256 << 20),
}
OnSnapshot = Callable[[Snapshot, int, bool], None]  # snapshot, milliseconds since it was made, is it old news
OnLeft = Callable[[str, str], None]  # pipeline and worker


def _any_client(properties: Mapping[str, str]) -> dict[str, Any]:
    ours = (*CONSUMER_ONLY, *_PRODUCER_ONLY)
    given = {name: value for name, value in properties.items() if not name.startswith(ours)}
    # What a broker says is told by the worker's own clients, and once is enough.
    return {**given, "log_level": 0, "error_cb": lambda _: None}


def create_console_topic(properties: Mapping[str, str], topic: str) -> str:
    """Make the topic where it is not there; returns why that failed, empty when it is there now."""
    admin = AdminClient(_any_client(properties))
    try:
        if topic in admin.list_topics(timeout=_ANSWER_S).topics:
            return ""
        new = NewTopic(topic, 1, -1, config=_TOPIC)
        admin.create_topics([new], request_timeout=_ANSWER_S)[topic].result(_ANSWER_S + 1)
    except TimeoutError:
        return f"no answer within {_ANSWER_S:g} s"
    except KafkaException as error:
        known = error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
        return "" if known else str(error.args[0].str())
    return ""


class SnapshotWriter:
    """Writes snapshots as well as it can: what does not go out within seconds is dropped; nobody waits."""

    def __init__(self, properties: Mapping[str, str], topic: str) -> None:
        self._topic = topic
        self._failed = ""  # why the last one did not arrive
        self._producer = Producer(
            {
                **_any_client(properties),
                "acks": 1,
                "linger.ms": 0,
                "message.timeout.ms": 5000,
                "queue.buffering.max.messages": 1000,
                "topic.metadata.refresh.sparse": True,
                "on_delivery": self._delivered,
            }
        )

    @property
    def trouble(self) -> str:
        """Why others do not hear of us; empty: they do."""
        return self._failed

    def write(self, snapshot: Snapshot) -> None:
        """Say how it is."""
        self._send(f"{snapshot.pipeline} {snapshot.worker}", snapshot.encode())

    def leave(self, pipeline: str, worker: str) -> None:
        """Say that a worker ends; not waited for for long."""
        self._send(f"{pipeline} {worker}", None)
        self._producer.flush(0.5)

    def _send(self, key: str, value: bytes | None) -> None:
        try:
            self._producer.produce(self._topic, value, key, partition=_PARTITION)
            self._producer.poll(0)
        except (KafkaException, BufferError) as error:
            self._failed = str(error)

    def _delivered(self, error: Any, _: Any) -> None:
        self._failed = error.str() if error is not None else ""


class SnapshotReader:
    """Follows the topic in a thread of its own from a little way back, until it is closed."""

    def __init__(
        self, properties: Mapping[str, str], topic: str, on_snapshot: OnSnapshot, on_left: OnLeft
    ) -> None:
        self._topic, self._on_snapshot, self._on_left = topic, on_snapshot, on_left
        self._config = {
            **_any_client(properties),
            "error_cb": self._note,
            "group.id": "penstock-console",  # never joined: the partition is assigned by hand
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "latest",
            "fetch.wait.max.ms": 250,  # a broker answers as soon as there is something; the demo's does not
            "queued.max.messages.kbytes": 4096,
        }
        self.heard_s = 0.0  # monotonic: when the end of the topic, or a record, was last seen
        self.trouble = "not read yet"
        self.is_caught_up = False  # with what was there when it began
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="console-reader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Read no further; the thread ends in its own time."""
        self._stop.set()

    def _note(self, error: Any) -> None:
        # Until something is heard again; without how often it was so, which would change all the time.
        self.trouble = error.str().partition(" (after ")[0]

    def _run(self) -> None:
        log = structlog.get_logger(topic=self._topic)
        while not self._stop.is_set():
            try:
                self._follow()
            except KafkaException as error:
                self.trouble = error.args[0].str() if error.args else str(error)
            except Exception as error:  # the console is no reason to stop a worker
                self.trouble = str(error) or type(error).__name__
                log.warning("the console cannot read its topic", error=self.trouble)
            self._stop.wait(_AGAIN_S)

    def _follow(self) -> None:
        consumer = Consumer(self._config)
        try:
            first, end = _begin(consumer, self._topic)
            consumer.assign([TopicPartition(self._topic, _PARTITION, first)])
            while not self._stop.is_set():
                for message in consumer.consume(500, _LOOK_S):
                    error = message.error()
                    if error is None:
                        self._take(message, is_old=message.offset() < end)
                        self.is_caught_up |= message.offset() + 1 >= end
                    elif error.code() != KafkaError._PARTITION_EOF:
                        if not error.retriable():
                            raise KafkaException(error)
                        self.trouble = error.str()
                        continue
                    else:
                        self.is_caught_up = True
                    self.heard_s, self.trouble = time.monotonic(), ""
        finally:
            consumer.close()

    def _take(self, message: Any, *, is_old: bool) -> None:
        key, value = message.key() or b"", message.value()
        if value is None:
            pipeline, _, worker = key.decode(errors="replace").partition(" ")
            self._on_left(pipeline, worker)
            return
        try:
            snapshot = decode(value)
        except ValueError:
            return  # somebody else's record: who may write here is for Kafka to say
        # What comes live was made just now; whose clock is right is no question then.
        age_ms = max(0, time.time_ns() // 1_000_000 - snapshot.at_ms) if is_old else 0
        if age_ms > BACK_MS:
            return
        self._on_snapshot(snapshot, age_ms, is_old)


def _begin(consumer: Consumer, topic: str) -> tuple[int, int]:
    """Where to begin, and the offset from which on snapshots are news."""
    since_ms = time.time_ns() // 1_000_000 - BACK_MS
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, _PARTITION), timeout=_ANSWER_S)
    found = consumer.offsets_for_times([TopicPartition(topic, _PARTITION, since_ms)], timeout=_ANSWER_S)[0]
    # Brokers that cannot look up a time, as that of the demo, say nothing: then it is the number that counts.
    first = found.offset if found.error is None and found.offset >= 0 else low
    return max(first, low, high - BACK_AT_MOST), high
