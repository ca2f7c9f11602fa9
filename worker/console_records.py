"""The newest alerts and dead letters, read from their topics while somebody looks, and no longer."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.codec import Codec
from schemas.registry import RegistryError
from schemas.tree import SchemaError
from worker.codecs import output_codec
from worker.config import Pipeline
from worker.console_letters import letter_row
from worker.dlq import client_config, dead_letter

KEPT = 1000  # of each kind
_BACK = 1000  # records that are read from before, over all partitions of a topic
_AT_ONCE = 200
_PAUSE_S = 0.25  # so at most 800 records a second are decoded, whatever comes
_BEHIND = 2000  # further behind than this, what lies between is passed over, and counted
_LOOK_S = 0.1
_ANSWER_S = 5.0
_CHECK_S = 2.0
_AGAIN_S = 2.0

Row = dict[str, Any]


class Newest:
    """The newest records of a kind, numbered as they came; any thread may call."""

    def __init__(self, at_most: int = KEPT) -> None:
        self._rows: deque[Row] = deque(maxlen=at_most)
        self._lock = threading.Lock()
        self.last = 0  # number of the newest
        self.skipped = 0

    def add(self, row: Row) -> None:
        """One more; the oldest may leave."""
        with self._lock:
            self.last += 1
            self._rows.append({**row, "n": self.last})

    def after(self, number: int, pipeline: str, at_most: int) -> list[Row]:
        """Those of a pipeline that came after this number, the newest first; "": of all pipelines."""
        with self._lock:
            found: list[Row] = []
            for row in reversed(self._rows):
                if row["n"] <= number or len(found) >= at_most:
                    break
                if pipeline in ("", row["pipeline"]):
                    found.append(row)
            return found


class Tail:
    """Follows the alert and dead-letter topics of these pipelines in a thread, as a member of no group.

    Invariant: it decodes at most `_AT_ONCE` records in `_PAUSE_S`, and keeps at most KEPT of a kind.
    """

    def __init__(self, pipelines: Mapping[str, Pipeline]) -> None:
        """Begin to read; pipelines of several clusters are read one thread a cluster."""
        self.alerts, self.letters = Newest(), Newest()
        self.trouble: dict[str, str] = {}  # by pipeline, why nothing is read
        self._stop = threading.Event()
        clusters: dict[tuple[tuple[str, str], ...], list[Pipeline]] = {}
        for pipeline in pipelines.values():
            clusters.setdefault(tuple(sorted(pipeline.kafka.client_properties().items())), []).append(
                pipeline
            )
        self._behind = len(clusters)
        for members in clusters.values():
            threading.Thread(target=self._run, args=(members,), name="console-tail", daemon=True).start()

    @property
    def is_caught_up(self) -> bool:
        """Whether all that was there at first has been read."""
        return self._behind <= 0

    def close(self) -> None:
        """Read no further; threads end in their own time."""
        self._stop.set()

    def _run(self, pipelines: list[Pipeline]) -> None:
        while not self._stop.is_set():
            why = ""
            try:
                self._follow(pipelines)
            except KafkaException as error:
                why = error.args[0].str() if error.args else str(error)
            except Exception as error:  # the console is no reason to stop a worker
                why = str(error) or type(error).__name__
                structlog.get_logger().warning("the console cannot read outputs", error=why)
            self.trouble.update({pipeline.name: why for pipeline in pipelines})
            self._stop.wait(_AGAIN_S)

    def _follow(self, pipelines: list[Pipeline]) -> None:
        readers: dict[str, list[tuple[str, Pipeline, Codec | None]]] = {}
        for pipeline in pipelines:
            readers.setdefault(pipeline.outputs.dead_letters, []).append(("letter", pipeline, None))
            if pipeline.outputs.alerts:
                readers.setdefault(pipeline.outputs.alerts, []).append(
                    ("alert", pipeline, alert_codec(pipeline))
                )
        consumer = Consumer(_config(pipelines[0]))
        try:
            ends = _assign(consumer, list(readers))
            checked_s, is_caught_up = time.monotonic(), False
            while not self._stop.is_set():
                for message in consumer.consume(_AT_ONCE, _LOOK_S):
                    error = message.error()
                    at = message.topic(), message.partition()
                    if error is None:
                        self._take(readers[message.topic()], message)
                        if message.offset() + 1 >= ends.get(at, 0):
                            ends.pop(at, None)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        ends.pop(at, None)
                    elif not error.retriable():
                        raise KafkaException(error)
                if not ends and not is_caught_up:
                    is_caught_up = True
                    self._behind -= 1
                self.trouble = {}
                if time.monotonic() - checked_s > _CHECK_S:
                    checked_s = time.monotonic()
                    self._leap(consumer)
                self._stop.wait(_PAUSE_S)
        finally:
            consumer.close()

    def _leap(self, consumer: Consumer) -> None:
        """Where more comes than a person can read, go on at the end."""
        for at in consumer.position(consumer.assignment()):
            low, high = consumer.get_watermark_offsets(at, cached=True)
            if at.offset >= low and high - at.offset > _BEHIND:
                self.alerts.skipped += high - at.offset - _AT_ONCE
                consumer.seek(TopicPartition(at.topic, at.partition, high - _AT_ONCE))

    def _take(self, readers: list[tuple[str, Pipeline, Codec | None]], message: Any) -> None:
        for kind, pipeline, codec in readers:
            if kind == "letter":
                letter = dead_letter(message)
                if letter is not None and letter.pipeline == pipeline.name:
                    self.letters.add(letter_row(letter, pipeline))
            elif codec is not None:
                row = alert_row(codec, message)
                if row is not None and row["source_topic"] == pipeline.source.topic:
                    self.alerts.add({"pipeline": pipeline.name, **row})


def alert_codec(pipeline: Pipeline) -> Codec:
    """How alerts become rows.

    Raises:
        SchemaError, RegistryError: they cannot.
    """
    return output_codec(pipeline, "alert")


def alert_row(codec: Codec, message: Any) -> Row | None:
    """One alert as JSON can have it; None when it is none."""
    try:
        decoded = codec.decode([message.value()])
    except (SchemaError, RegistryError):
        return None
    rows = decoded.table.to_pylist()
    if not rows:
        return None
    return dict(plain(rows[0]))


def plain(value: Any) -> Any:
    """As JSON can have it: times as milliseconds, maps as objects, no infinities."""
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(each, tuple) and len(each) == 2 for each in value):
            return {str(name): plain(each) for name, each in value}
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if hasattr(value, "timestamp"):
        return round(value.timestamp() * 1000, 3)
    return value.hex() if isinstance(value, bytes) else value


def _config(pipeline: Pipeline) -> dict[str, Any]:
    return {
        **client_config(pipeline),
        "error_cb": lambda _: None,
        "group.id": f"{pipeline.kafka.group}-console",  # never joined: partitions are assigned by hand
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "fetch.wait.max.ms": min(int(pipeline.kafka.properties.get("fetch.wait.max.ms", 250)), 250),
        "fetch.queue.backoff.ms": 10,  # default 1000: a reader that looks back would wait for a second
        "queued.min.messages": 2000,
        "queued.max.messages.kbytes": 4096,
        "fetch.message.max.bytes": 1 << 20,
    }


def _assign(consumer: Consumer, topics: list[str]) -> dict[tuple[str, int], int]:
    """Begin a little before the end of each partition; returns the ends.

    Raises:
        KafkaException: Kafka does not answer.
    """
    ends: dict[tuple[str, int], int] = {}
    starts = list(_starts(consumer, topics, ends))
    consumer.assign(starts)
    return ends


def _starts(
    consumer: Consumer, topics: list[str], ends: dict[tuple[str, int], int]
) -> Iterator[TopicPartition]:
    for topic in topics:
        found = consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions
        for partition in sorted(found):
            at = TopicPartition(topic, partition)
            low, high = consumer.get_watermark_offsets(at, timeout=_ANSWER_S)
            first = max(low, high - max(50, _BACK // len(found)))
            if first < high:
                ends[topic, partition] = high
            yield TopicPartition(topic, partition, first)
