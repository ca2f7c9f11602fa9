"""Scores, alerts and dead letters to Kafka, and the commit that makes them count."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from worker.batch import Rejected
from worker.exits import Exit, StopWorker
from worker.refusals import Refusals
from worker.rights import unauthorized

# The file gives one set of properties for both clients; librdkafka warns of those that are not a producer's.
_CONSUMER_ONLY = ("auto.", "fetch.", "group.", "heartbeat.", "isolation.", "max.poll.", "queued.", "session.")
_QUEUE_FULL_WAIT_S = 0.1
_OURS = "penstock."  # every header that we add to a dead letter starts so
_FLUSH_S = 30.0
_INIT_S = 30.0


def _attempts(message: Any) -> int:
    """How often this record was a dead letter before, if it was sent in again."""
    said = dict(message.headers() or ()).get(f"{_OURS}attempt", b"0")
    return int(said) if said and said.isdigit() and len(said) < 10 else 0


class DeliveryError(Exception):
    """An output was not acknowledged; nothing may be committed past it."""


def producer_config(
    properties: dict[str, str], *, worker_id: str | None, transaction_timeout_ms: int
) -> dict[str, Any]:
    """Settings of the output producer; a worker id makes it transactional."""
    config: dict[str, Any] = {
        "linger.ms": 2,
        "compression.type": "lz4",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",  # as Java clients do, so outputs are co-partitioned with theirs
        "retry.backoff.ms": 10,
        "retry.backoff.max.ms": 100,  # five rejects of a fast commit cost 167 ms instead of 2.5 s
        # Callbacks for failures only: a callback a message costs 0.9 us.
        "delivery.report.only.error": True,
        **{name: value for name, value in properties.items() if not name.startswith(_CONSUMER_ONLY)},
    }
    if worker_id is not None:
        config["transactional.id"] = worker_id
        config["transaction.timeout.ms"] = transaction_timeout_ms
    return config


class Sink:
    """The producer, and whether its transaction is open."""

    def __init__(self, config: dict[str, Any], *, pipeline: str, dead_letters: str) -> None:
        self._failed: list[str] = []
        self.refusals = Refusals()
        self._producer = Producer(
            {**config, "on_delivery": self._on_delivery, "error_cb": self.refusals.note}
        )
        self._is_transactional = "transactional.id" in config
        self._is_open = False
        self._pipeline = pipeline
        self._dead_letters = dead_letters
        if self._is_transactional:
            try:
                self._producer.init_transactions(_INIT_S)
            except KafkaException as error:
                name = config["transactional.id"]
                why = self.refusals.reason or error.args[0].str()
                missing = unauthorized(error.args[0], transactional_id=name)
                raise StopWorker(
                    Exit.KAFKA, missing or f"transactions of {name!r} cannot start: {why}"
                ) from error

    def _on_delivery(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failed.append(f"{message.topic()}: {error.str()}")

    def send(self, topic: str, values: list[bytes], keys: list[bytes]) -> None:
        """Hand records to the client, in order; they count only after commit()."""
        self._begin()
        produce = self._producer.produce
        for value, key in zip(values, keys, strict=True):
            try:
                produce(topic, value, key)
            except BufferError:
                self._produce_when_there_is_room(topic, value, key, None)
        self._producer.poll(0)

    def send_rejects(self, rejected: list[Rejected]) -> None:
        """Dead letters: the record's own bytes, key and headers, and why."""
        if not rejected:
            return
        self._begin()
        for reject in rejected:
            message = reject.message
            theirs = [header for header in message.headers() or () if not header[0].startswith(_OURS)]
            headers = [*theirs, *self._headers(reject)]
            try:
                self._producer.produce(self._dead_letters, message.value(), message.key(), headers=headers)
            except BufferError:
                self._produce_when_there_is_room(self._dead_letters, message.value(), message.key(), headers)
        self._producer.poll(0)

    def _headers(self, reject: Rejected) -> list[tuple[str, bytes]]:
        message = reject.message
        said = {
            "reason": reject.reason,
            "detail": reject.detail,
            "stage": reject.stage,
            "pipeline": self._pipeline,
            "source.topic": message.topic(),
            "source.partition": reject.partition,
            "source.offset": reject.offset,
            "source.timestamp_ms": message.timestamp()[1],
            "attempt": _attempts(message) + 1,
        }
        return [(f"{_OURS}{name}", str(value).encode()) for name, value in said.items()]

    def _produce_when_there_is_room(self, topic: str, value: Any, key: Any, headers: Any) -> None:
        while True:
            self._producer.poll(_QUEUE_FULL_WAIT_S)
            try:
                self._producer.produce(topic, value, key, headers=headers)
            except BufferError:
                continue
            return

    def _begin(self) -> None:
        if self._is_transactional and not self._is_open:
            self._producer.begin_transaction()
            self._is_open = True

    def commit(self, next_offsets: dict[int, int], topic: str, consumer: Any) -> None:
        """Make everything sent count, together with the offsets it came from.

        Raises:
            DeliveryError: an output was not acknowledged; no offset was committed.
            KafkaException: the commit failed or its outcome is unknown; the committed offset decides.
        """
        offsets = [TopicPartition(topic, partition, offset) for partition, offset in next_offsets.items()]
        if self._is_transactional:
            if not offsets and not self._is_open:
                return
            self._begin()
            self._producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
            self._producer.commit_transaction()
            self._is_open = False
            return
        left = self._producer.flush(_FLUSH_S)
        if left or self._failed:
            raise DeliveryError(
                f"{left} outputs not acknowledged within {_FLUSH_S:g} s"
                if left
                else "; ".join(self._failed[:3])
            )
        if offsets:
            consumer.commit(offsets=offsets, asynchronous=False)

    def close(self) -> None:
        """Drop what was not committed, and let go of connections."""
        if self._is_open:
            self._producer.abort_transaction(5.0)
            self._is_open = False
        self._producer.flush(5.0)
