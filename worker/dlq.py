"""Dead letters as they lie on their topic."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from worker.config import Pipeline
from worker.exits import Exit, StopWorker
from worker.producer_settings import CONSUMER_ONLY
from worker.refusals import Refusals
from worker.source import _PRODUCER_ONLY

_ANSWER_S = 10.0
_SILENCE_S = 30.0  # without a record or the end of a partition: the broker is gone
_CHUNK = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One record of a dead-letter topic, and what its headers say."""

    partition: int  # of the dead-letter topic
    offset: int
    dead_at_ms: int
    reason: str
    stage: str
    detail: str
    pipeline: str
    source_topic: str
    source_partition: int
    source_offset: int
    source_ms: int
    attempt: int
    message: Any

    @property
    def kind(self) -> str:
        """Reason and attempt; letters of a kind are sent in again in their order."""
        return f"{self.reason}/{self.attempt}"

    @property
    def source(self) -> tuple[str, int, int]:
        """Where the record came from."""
        return self.source_topic, self.source_partition, self.source_offset


def replay_group(pipeline: Pipeline) -> str:
    """The group whose offsets on the dead-letter topic remember what was sent in again."""
    return f"{pipeline.kafka.group}-dlq"


def client_config(pipeline: Pipeline) -> dict[str, Any]:
    """Settings of the file that hold for any client; they may be secret."""
    ours = (*CONSUMER_ONLY, *_PRODUCER_ONLY)
    given = {k: v for k, v in pipeline.kafka.client_properties().items() if not k.startswith(ours)}
    return {"log_level": 0, **given}  # the client's log is not for a terminal: our errors say what failed


def open_letters(pipeline: Pipeline) -> Consumer:
    """A consumer for the dead letters; it joins no group and commits nothing.

    Raises:
        StopWorker: Kafka does not answer.
    """
    refusals = Refusals()
    consumer = Consumer(
        {
            **client_config(pipeline),
            "error_cb": refusals.note,
            "group.id": replay_group(pipeline),
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
        }
    )
    try:
        consumer.list_topics(timeout=_ANSWER_S)
    except KafkaException as error:
        consumer.close()
        why = refusals.reason or error.args[0].str()
        raise StopWorker(Exit.KAFKA, f"no broker answered within {_ANSWER_S:g} s: {why}") from error
    return consumer


def bounds(consumer: Consumer, topic: str) -> dict[int, tuple[int, int]]:
    """Oldest offset held and the next to be written, by partition.

    Raises:
        StopWorker: the topic does not exist.
    """
    found = consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions
    if not found:
        raise StopWorker(Exit.KAFKA, f"topic {topic!r} does not exist: is outputs.dead_letters right?")
    return {
        p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=_ANSWER_S) for p in sorted(found)
    }


def letters(
    consumer: Consumer,
    pipeline: Pipeline,
    ranges: dict[int, tuple[int, int]],
    on_records: Callable[[int], None] = lambda _: None,
) -> Iterator[DeadLetter]:
    """The pipeline's dead letters within these offsets, in order by partition.

    Args:
        ranges: partition of the dead-letter topic to its first offset and the one to end before.
        on_records: told now and then how many records were read since.

    Raises:
        KafkaException, StopWorker: they cannot be read.
    """
    topic = pipeline.outputs.dead_letters
    consumer.assign([TopicPartition(topic, p, first) for p, (first, _) in ranges.items()])
    reading, heard_s = set(ranges), time.monotonic()
    while reading:
        messages = consumer.consume(_CHUNK, 0.2)
        for message in messages:
            heard_s = time.monotonic()
            error, partition = message.error(), message.partition()
            if error is None:
                if message.offset() >= ranges[partition][1]:
                    reading.discard(partition)
                    continue
                found = dead_letter(message)
                if found is not None and found.pipeline == pipeline.name:
                    yield found
            elif error.code() == KafkaError._PARTITION_EOF:
                reading.discard(partition)
            elif not error.retriable():
                raise KafkaException(error)
        on_records(sum(message.error() is None for message in messages))
        if time.monotonic() - heard_s > _SILENCE_S:
            raise StopWorker(Exit.KAFKA, f"{topic}: nothing was heard for {_SILENCE_S:g} s: is Kafka there?")


def dead_letter(message: Any) -> DeadLetter | None:
    """What the headers of a record say; None when it is no dead letter."""
    said = {name: (value or b"").decode("utf-8", "replace") for name, value in message.headers() or ()}

    def text(name: str) -> str:
        return said.get(f"penstock.{name}", "")

    def number(name: str) -> int:
        value = text(name)
        return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else -1

    if not text("reason") or number("source.offset") < 0:
        return None
    return DeadLetter(
        partition=message.partition(),
        offset=message.offset(),
        dead_at_ms=message.timestamp()[1],
        reason=text("reason"),
        stage=text("stage"),
        detail=text("detail"),
        pipeline=text("pipeline"),
        source_topic=text("source.topic"),
        source_partition=number("source.partition"),
        source_offset=number("source.offset"),
        source_ms=number("source.timestamp_ms"),
        attempt=max(1, number("attempt")),
        message=message,
    )
