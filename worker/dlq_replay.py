"""Sends dead letters in again: bytes, key and headers as they came, each once, whatever happens meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from worker.config import Pipeline
from worker.dead_letters import is_theirs
from worker.dlq import DeadLetter, bounds, client_config, letters, open_letters, replay_group
from worker.dlq_memory import Memory, memories
from worker.exits import Exit, StopWorker

_TRANSACTION_MS = 60_000
_CALL_S = 30.0
_ROWS, _BYTES, _OPEN_S = 500, 4 << 20, 0.5  # of a transaction: readers wait for as long as it is open
_ATTEMPT = "penstock.attempt"
Place = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which dead letters to send in again."""

    reasons: frozenset[str] = frozenset()  # of these; empty: see below
    places: frozenset[Place] = frozenset()  # these partitions and offsets of the dead-letter topic
    sources: frozenset[tuple[str, int, int]] = frozenset()  # those of these records
    max_attempts: int = 5  # one that has been a dead letter so often stays one
    again: bool = False  # also those that were sent in again before

    @property
    def is_single(self) -> bool:
        """Whether letters are named one by one."""
        return bool(self.places or self.sources)

    def takes(self, letter: DeadLetter) -> bool:
        """Whether it is one of those; without anything said, all but those that are part of the state."""
        if self.is_single:
            return (letter.partition, letter.offset) in self.places or letter.source in self.sources
        return letter.reason in self.reasons if self.reasons else letter.stage != "score"


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a replay came to."""

    sent: Counter[str] = field(default_factory=Counter)  # by reason
    already: int = 0
    given_up: int = 0  # tried too often
    left: Counter[str] = field(default_factory=Counter)  # not chosen, by reason


def replay(
    pipeline: Pipeline,
    choice: Choice,
    *,
    dry_run: bool = False,
    on_records: Callable[[int, int], None] = lambda _read, _all: None,
) -> Tally:
    """Send the chosen dead letters to the pipeline's input topic, and remember it in the same transactions.

    Args:
        on_records: told how many records of the dead-letter topic were read, and of how many.

    Raises:
        StopWorker, KafkaException: what was committed before stays; run it again for the rest.
    """
    consumer = open_letters(pipeline)
    try:
        # The producer first: it ends the transaction of a replay that died, and fences one that lives.
        producer = None if dry_run else _Producer(pipeline, consumer)
        ends = bounds(consumer, pipeline.outputs.dead_letters)
        memory = memories(consumer, pipeline.outputs.dead_letters, ends)
        total = sum(high - low for low, high in ends.values())
        try:
            return _send(pipeline, choice, consumer, ends, memory, producer, lambda n: on_records(n, total))
        finally:
            if producer is not None:
                producer.close()
    finally:
        consumer.close()


def _send(
    pipeline: Pipeline,
    choice: Choice,
    consumer: Consumer,
    ends: dict[int, tuple[int, int]],
    memory: dict[int, Memory],
    producer: _Producer | None,
    on_records: Callable[[int], None],
) -> Tally:
    tally, seen = Tally(), set[tuple[str, int, int]]()

    def read(count: int) -> None:
        on_records(count)
        if producer is not None:
            producer.commit_in_time(memory)

    # Not beyond what is there now: a letter that comes of this very replay must not be sent in by it again.
    for letter in letters(consumer, pipeline, ends, read):
        known = memory[letter.partition]
        if not choice.takes(letter):
            tally.left[letter.reason] += 1
            continue
        # In at_least_once a crash may have left two dead letters of one record.
        if (known.has(letter) and not choice.again) or letter.source in seen:
            tally.already += 1
        elif letter.attempt >= choice.max_attempts:
            tally.given_up += 1
            continue
        else:
            seen.add(letter.source)
            tally.sent[letter.reason] += 1
            if producer is not None:
                producer.send(letter)
        known.note(letter, single=choice.is_single)
        if producer is not None:
            producer.remember(letter.partition, memory)
    if producer is not None:
        producer.commit(memory)
    return tally


class _Producer:
    """The transactions of a replay."""

    def __init__(self, pipeline: Pipeline, consumer: Consumer) -> None:
        self._pipeline = pipeline
        self._consumer = consumer
        self._rows = self._bytes = 0
        self._opened_s = 0.0
        self._touched: set[int] = set()  # partitions whose memory has changed
        partitioner = "murmur2_random" if pipeline.source.partitioner == "murmur2" else "consistent_random"
        config: dict[str, Any] = {
            **client_config(pipeline),
            "transactional.id": f"{replay_group(pipeline)}-replay",
            "transaction.timeout.ms": _TRANSACTION_MS,
            "partitioner": partitioner,
            "compression.type": "lz4",
            "linger.ms": 5,
        }
        self._producer = Producer(config)
        try:
            self._producer.init_transactions(_CALL_S)
        except KafkaException as error:
            raise StopWorker(
                Exit.KAFKA,
                f"transactions cannot start: {error.args[0].str()}: is the broker reachable, is "
                f"transactional id {config['transactional.id']!r} allowed?",
            ) from error

    def send(self, letter: DeadLetter) -> None:
        """Send one in."""
        if not self._rows:
            self._producer.begin_transaction()
            self._opened_s = time.monotonic()
        message = letter.message
        value, key = message.value(), message.key()
        theirs = [header for header in message.headers() or () if is_theirs(header[0])]
        headers = [*theirs, (_ATTEMPT, str(letter.attempt).encode())]
        topic = self._pipeline.source.topic
        # A key decides the partition as for any producer; without one the record goes back where it was.
        where = {} if key else {"partition": letter.source_partition}
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers, **where)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._rows += 1
        self._bytes += len(value or b"")

    def remember(self, partition: int, memory: dict[int, Memory]) -> None:
        """The memory of this partition has changed; commit when a transaction is full."""
        self._touched.add(partition)
        if self._rows >= _ROWS or self._bytes >= _BYTES:
            self.commit(memory)

    def commit_in_time(self, memory: dict[int, Memory]) -> None:
        """Commit a transaction that has been open for a while, however far away the next letter is."""
        if self._rows and time.monotonic() - self._opened_s > _OPEN_S:
            self.commit(memory)

    def commit(self, memory: dict[int, Memory]) -> None:
        """Make what was sent count, together with the memory of it."""
        if not self._rows:
            return
        topic = self._pipeline.outputs.dead_letters
        offsets = [
            TopicPartition(topic, p, memory[p].end, metadata=memory[p].text()) for p in sorted(self._touched)
        ]
        self._producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata(), _CALL_S)
        self._producer.commit_transaction(_CALL_S)
        self._rows = self._bytes = 0
        self._touched = set()

    def close(self) -> None:
        """Take back what was not committed."""
        if self._rows:
            with suppress(KafkaException):
                self._producer.abort_transaction(_CALL_S)
