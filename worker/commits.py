"""What a commit makes count together, kept until it surely does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.records import Headers

_QUEUE_FULL_WAIT_S = 0.1
_RETRIES = 3

# Topic, key, value and headers. Outcomes of different records differ in their source. Those that two workers
# made of one record differ too, or one would take what the other did for its own: scores and alerts say when
# they were scored, dead letters in which commit.
Identity = tuple[str, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]


class Sent(NamedTuple):
    """Records of one call."""

    topic: str
    values: Sequence[bytes | None]
    keys: Sequence[bytes | None]
    headers: Sequence[Headers] | None

    def identities(self) -> Iterator[Identity]:
        """What tells each of them from all others."""
        for at, (value, key) in enumerate(zip(self.values, self.keys, strict=True)):
            yield self.topic, key, value, tuple(self.headers[at]) if self.headers else ()

    def without(self, seen: set[Identity]) -> Sent:
        """Those that are not among these."""
        left = [at for at, identity in enumerate(self.identities()) if identity not in seen]
        headers = [self.headers[at] for at in left] if self.headers else None
        return Sent(self.topic, [self.values[at] for at in left], [self.keys[at] for at in left], headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Outputs and the offsets of their sources, in one transaction."""

    offsets: list[TopicPartition]  # in their metadata the commit's name
    sent: tuple[Sent, ...]
    since_ms: int  # wall clock before anything was sent


def named(offsets: list[TopicPartition], name: str) -> list[TopicPartition]:
    """The same offsets; where the group shows the name, this very commit was done."""
    return [
        TopicPartition(tp.topic, tp.partition, tp.offset, f"{tp.metadata or ''} commit={name}".strip())
        for tp in offsets
    ]


def hand_over(producer: Any, records: Sent, within_s: float) -> None:
    """Give records to the client, in order, as fast as it takes them.

    Raises:
        KafkaException: the client refuses, or had no room for one of them for so long.
    """
    topic, values, keys, headers = records
    produce = producer.produce
    if headers is None:
        for value, key in zip(values, keys, strict=True):
            try:
                produce(topic, value, key)
            except BufferError:
                _when_there_is_room(producer, topic, value, key, None, within_s)
    else:
        for value, key, said in zip(values, keys, headers, strict=True):
            try:
                produce(topic, value, key, headers=said)
            except BufferError:
                _when_there_is_room(producer, topic, value, key, said, within_s)
    producer.poll(0)


def _when_there_is_room(
    producer: Any, topic: str, value: Any, key: Any, headers: Any, within_s: float
) -> None:
    give_up_s = time.monotonic() + within_s
    while time.monotonic() < give_up_s:
        producer.poll(_QUEUE_FULL_WAIT_S)
        try:
            producer.produce(topic, value, key, headers=headers)
        except BufferError:
            continue
        return
    raise KafkaException(
        KafkaError(KafkaError._QUEUE_FULL, f"the broker has taken nothing for {within_s:g} s")
    )


def end_transaction(producer: Any, offsets: list[TopicPartition], member: Any, give_up_s: float) -> None:
    """Send the offsets and commit. Calls have no time-out of their own, as librdkafka asks.

    Args:
        give_up_s: of the monotonic clock; nothing is committed later.

    Raises:
        KafkaException: one of the calls failed, and may not be repeated.
        TimeoutError: it was too late to commit, and nothing is committed.
    """
    _retried(lambda: producer.send_offsets_to_transaction(offsets, member))
    if time.monotonic() >= give_up_s:  # nobody waits for it any more, or the whole process stood still
        raise TimeoutError("too late to commit: a successor decides")
    _retried(producer.commit_transaction)


def _retried(call: Callable[[], Any]) -> None:
    """Repeat a call that may be; with the same arguments, as it must be."""
    for left in reversed(range(_RETRIES)):
        try:
            call()
            return
        except KafkaException as error:
            said = error.args[0]
            if not left or said.fatal() or said.txn_requires_abort() or not said.retriable():
                raise
