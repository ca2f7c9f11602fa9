"""Records from Kafka, and which partitions they may come from."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from worker.batch import Records
from worker.exits import Exit, StopWorker
from worker.refusals import Refusals
from worker.rights import unauthorized

_METADATA_S = 10.0
_ASK_AGAIN_S = 1.0  # how soon a refused login ends the wait for metadata
# The file gives one set of properties for both clients; librdkafka warns of those that are not a consumer's.
_PRODUCER_ONLY = (
    "acks",
    "batch.",
    "compression.",
    "delivery.",
    "linger.",
    "message.timeout.",
    "queue.buffering.",
)
Assigned = Callable[[list[int]], None]
# Errors that librdkafka goes on repairing by itself; they are counted by its log, not by us.
_TRANSIENT = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._PARTITION_EOF,
    KafkaError._RESOLVE,
}


def consumer_config(properties: dict[str, str], *, group: str, protocol: str, start: str) -> dict[str, Any]:
    """Settings of the input consumer."""
    config: dict[str, Any] = {
        "group.id": group,
        "group.protocol": protocol,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": start,
        # Also on plain topics: it is what makes the client wait for a predecessor's pending offsets.
        "isolation.level": "read_committed",
        "queued.max.messages.kbytes": 16384,
        "queued.min.messages": 20000,
        "fetch.queue.backoff.ms": 5,  # default 1000: a fast reader starves for a second
        "fetch.wait.max.ms": 50,
        "enable.partition.eof": False,
        **{name: value for name, value in properties.items() if not name.startswith(_PRODUCER_ONLY)},
    }
    if protocol == "classic":
        config["partition.assignment.strategy"] = "cooperative-sticky"
    return config


class Source:
    """The consumer; one thread uses it."""

    def __init__(
        self,
        config: dict[str, Any],
        topic: str,
        now_ms: Callable[[], float] = lambda: time.monotonic() * 1000,
    ) -> None:
        self.refusals = Refusals()
        self.consumer = Consumer({**config, "error_cb": self.refusals.note})
        self._topic = topic
        self._group = str(config["group.id"])
        self._now_ms = now_ms
        self.first_at_ms = now_ms()  # when the first record of the last poll was here
        self.is_drained = True  # the last poll took all that was here

    def partition_count(self) -> int:
        """Partitions of the input topic; StopWorker when it does not exist."""
        return partition_count(self.consumer, self._topic, self.refusals)

    def subscribe(
        self, on_assign: Callable[[list[int]], dict[int, int]], on_revoke: Assigned, on_lost: Assigned
    ) -> None:
        """Join the group. The callbacks run inside poll().

        Args:
            on_assign: partitions to the offset to read each from.
            on_revoke: called while the partitions are still ours; commit before returning.
            on_lost: called when they already belong to somebody else; commit nothing.
        """

        def assign(consumer: Any, partitions: list[TopicPartition]) -> None:
            starts = on_assign([p.partition for p in partitions])
            consumer.incremental_assign(
                [TopicPartition(self._topic, p, start) for p, start in starts.items()]
            )

        def revoke(consumer: Any, partitions: list[TopicPartition]) -> None:
            on_revoke([p.partition for p in partitions])
            consumer.incremental_unassign(partitions)

        def lost(consumer: Any, partitions: list[TopicPartition]) -> None:
            on_lost([p.partition for p in partitions])
            consumer.incremental_unassign(partitions)

        self.consumer.subscribe([self._topic], on_assign=assign, on_revoke=revoke, on_lost=lost)

    def committed(self, partitions: list[int]) -> dict[int, int | None]:
        """Next offset of the group by partition; None where it never committed."""
        asked = [TopicPartition(self._topic, p) for p in partitions]
        found = self.consumer.committed(asked, timeout=_METADATA_S)
        return {tp.partition: tp.offset if tp.offset >= 0 else None for tp in found}

    def bounds(self, partition: int) -> tuple[int, int]:
        """Oldest offset still held and the next one to be written."""
        low, high = self.consumer.get_watermark_offsets(
            TopicPartition(self._topic, partition), timeout=_METADATA_S
        )
        return low, high

    def high_offset(self, partition: int) -> int:
        """The next offset to be written, as the last fetch told; -1 when not known yet."""
        _, high = self.consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        return int(high) if high != OFFSET_INVALID else -1

    def poll(self, room: int, wait_ms: float, gather_ms: float) -> Records | None:
        """What is here, at most room records.

        Args:
            room: how many are wanted at most.
            wait_ms: how long to wait for the first.
            gather_ms: how long to wait for more once the first is here; 0 takes what is here already.
        """
        # consume(n, t) waits all of t unless n records arrive: so first wait for one, then gather.
        messages = self.consumer.consume(1, wait_ms / 1000)
        self.first_at_ms = self._now_ms()
        if messages and room > 1:
            messages += self.consumer.consume(room - 1, gather_ms / 1000)
        self.is_drained = len(messages) < room
        good = [m for m in messages if m.error() is None]
        if len(good) < len(messages):
            self._raise_unless_transient([m.error() for m in messages if m.error() is not None])
        if not good:
            return None
        n = len(good)
        return Records(
            values=[m.value() for m in good],
            keys=[m.key() for m in good],
            partition=np.fromiter([m.partition() for m in good], np.int32, n),
            offset=np.fromiter([m.offset() for m in good], np.int64, n),
            produced_ms=np.fromiter([m.timestamp()[1] for m in good], np.int64, n),
            messages=good,
        )

    def close(self) -> None:
        """Leave the group; runs on_revoke for what is still assigned."""
        self.consumer.close()

    def _raise_unless_transient(self, errors: list[Any]) -> None:
        for error in errors:
            missing = unauthorized(error, topic=self._topic, group=self._group)
            if missing is not None:
                raise StopWorker(Exit.KAFKA, missing)
            if error.code() not in _TRANSIENT and not error.retriable():
                raise StopWorker(Exit.KAFKA, f"reading failed: {error.str()}")


def partition_count(client: Any, topic: str, refusals: Refusals | None = None) -> int:
    """Partitions of a topic.

    Args:
        client: any client.
        topic: which topic.
        refusals: what the client's error_cb has noted.

    Raises:
        StopWorker: Kafka cannot be reached or does not let us in, or the topic does not exist.
    """
    found = _metadata(client, topic, refusals or Refusals())
    if found.error is not None and (missing := unauthorized(found.error, topic=topic)) is not None:
        raise StopWorker(Exit.KAFKA, missing)
    if not found.partitions:
        raise StopWorker(
            Exit.KAFKA, f"topic {topic!r} does not exist: create it, or mend the name in the file"
        )
    return len(found.partitions)


def _metadata(client: Any, topic: str, refusals: Refusals) -> Any:
    give_up_s = time.monotonic() + _METADATA_S
    while True:
        try:
            return client.list_topics(topic, timeout=_ASK_AGAIN_S).topics[topic]
        except KafkaException as error:
            client.poll(0)  # runs error_cb
            if refusals.is_definite or time.monotonic() >= give_up_s:
                why = refusals.reason or error.args[0].str()
                raise StopWorker(Exit.KAFKA, _no_broker(why, refusals.is_definite)) from error


def _no_broker(why: str, is_refusal: bool) -> str:
    if is_refusal:
        return f"Kafka does not let this worker in: {why}"
    return (
        f"no broker answered within {_METADATA_S:g} s ({why}): are kafka.bootstrap and, in kafka.properties, "
        f"security.protocol right?"
    )
