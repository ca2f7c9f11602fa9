"""What one poll of the consumer brings: records as columns, and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError

from worker.records import Records, records_of

# A client that has records gives them sooner: at most so long, and so long for each.
_WAITED_MS, _TAKEN_MS = 1.0, 0.01


Take = Callable[[int, float], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What was here."""

    records: Records | None  # in order by partition
    errors: list[tuple[KafkaError, int]]  # and the partition of each
    count: int  # of both
    first_at_ms: float  # when the first of them was here, at the earliest


class Arrivals:
    """When what is taken from a client can have come to it."""

    def __init__(self, now_ms: Callable[[], float]) -> None:
        self._now_ms = now_ms
        self._empty_ms = now_ms()  # when nothing was waiting the last time

    def gather(
        self,
        take_first: Take,
        take_more: Take,
        room: int,
        wait_ms: float,
        gather_ms: float,
        *,
        at_first: int = 1,
    ) -> float:
        """Wait for a first one, and then for more.

        Args:
            take_first: takes so many at most, waits so long for one, and says how many there were.
            take_more: the same, but it waits for all.
            room, wait_ms, gather_ms: see PlainFetch.poll.
            at_first: how many `take_first` is asked for; it must not wait for the second.

        Returns:
            When the first of them was here, at the earliest.
        """
        asked_ms = self._now_ms()
        count = take_first(at_first, wait_ms)
        seen_ms = self._now_ms()
        # One that was here before we asked may have come at any time since there was none.
        first_at_ms = seen_ms if seen_ms - asked_ms > _WAITED_MS else self._empty_ms
        left_ms = max(0.0, gather_ms - (seen_ms - first_at_ms))
        if 0 < count < room and (left_ms or at_first < room):
            count += take_more(room - count, left_ms)
        now_ms = self._now_ms()
        if count < room or now_ms - seen_ms > _WAITED_MS + _TAKEN_MS * count:
            self._empty_ms = now_ms
        return first_at_ms


class PlainFetch:
    """Through the Python client's objects."""

    def __init__(self, consumer: Consumer, topic: str, now_ms: Callable[[], float]) -> None:
        self._consumer = consumer
        self._topic = topic
        self._arrivals = Arrivals(now_ms)

    def poll(self, room: int, wait_ms: float, gather_ms: float) -> Fetched:
        """What is here, at most room records; the consumer's callbacks run in here.

        Args:
            room: how many are wanted at most.
            wait_ms: how long to wait for the first.
            gather_ms: how long after the first was here to wait for more; 0 takes what is here already.
        """
        messages: list[Any] = []

        def take(count: int, within_ms: float) -> int:
            found = self._consumer.consume(count, within_ms / 1000)
            messages.extend(found)
            return len(found)

        # The client waits all the time it is given unless so many arrive: so first for one, then for more.
        first_at_ms = self._arrivals.gather(take, take, room, wait_ms, gather_ms)
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

    @property
    def can_wake(self) -> bool:
        """Whether `wake` does anything."""
        return False

    def wake(self) -> None:
        """End the poll that waits for a first record, or else the next one that would; any thread may."""

    def close(self) -> None:
        """Let go of what the consumer would wait for; call it before closing that."""
