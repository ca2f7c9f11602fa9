"""What one poll of the consumer brings: records as columns, and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError

from worker.records import Records, records_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What was here."""

    records: Records | None  # in order by partition
    errors: list[tuple[KafkaError, int]]  # and the partition of each
    count: int  # of both
    first_at_ms: float  # when the first of them was here


class PlainFetch:
    """Through the Python client's objects."""

    def __init__(self, consumer: Consumer, topic: str, now_ms: Callable[[], float]) -> None:
        self._consumer = consumer
        self._topic = topic
        self._now_ms = now_ms

    def poll(self, room: int, wait_ms: float, gather_ms: float) -> Fetched:
        """What is here, at most room records; the consumer's callbacks run in here.

        Args:
            room: how many are wanted at most.
            wait_ms: how long to wait for the first.
            gather_ms: how long to wait for more once the first is here.
        """
        # consume(n, t) waits all of t unless n records arrive: so first wait for one, then gather.
        messages = self._consumer.consume(1, wait_ms / 1000)
        first_at_ms = self._now_ms()
        if messages and room > 1:
            messages += self._consumer.consume(room - 1, gather_ms / 1000)
        good = [message for message in messages if message.error() is None]
        return Fetched(
            records=records_of(self._topic, good) if good else None,
            errors=[(m.error(), m.partition()) for m in messages if m.error() is not None],
            count=len(messages),
            first_at_ms=first_at_ms,
        )

    def lead(self, partition: int) -> None:
        """Note that a partition is read from now on; the client must have taken its place in it already."""

    def leave(self, partitions: Iterable[int]) -> None:
        """Note that these are read no more."""

    def close(self) -> None:
        """Let go of what the consumer would wait for; call it before closing that."""
