"""Records from librdkafka's own arrays, without a Python object for each.

The Python client makes an object of every record, and each of its fields is another call: three quarters of
what reading costs. Here compiled code copies what librdkafka holds into columns (docs/decisions/0021).
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from confluent_kafka import Consumer, KafkaError
from numpy.typing import NDArray

from schemas.spans import Spans
from worker import fetch_kernels as kernels
from worker.fetched import Arrivals, Fetched, PlainFetch
from worker.librdkafka import POINTER, Place, Signatures, addresses, handle_of, is_wanted, library
from worker.records import Records, joined_records

_SIGNATURES: Signatures = {
    "rd_kafka_queue_new": (POINTER, [POINTER]),
    "rd_kafka_queue_destroy": (None, [POINTER]),
    "rd_kafka_queue_get_partition": (POINTER, [POINTER, ctypes.c_char_p, ctypes.c_int32]),
    "rd_kafka_queue_forward": (None, [POINTER, POINTER]),
    "rd_kafka_queue_yield": (None, [POINTER]),
    "rd_kafka_event_error": (ctypes.c_int, [POINTER]),
    "rd_kafka_event_error_string": (ctypes.c_char_p, [POINTER]),
    "rd_kafka_event_topic_partition": (ctypes.POINTER(Place), [POINTER]),
    "rd_kafka_topic_partition_destroy": (None, [ctypes.POINTER(Place)]),
}


# To ask the consumer costs a small batch 15 us, and the group says something once in a while.
_HEAR_EVERY_MS = 5.0
_NOTHING = Fetched(records=None, errors=[], count=0, first_at_ms=0.0)


class NativeFetch:
    """Like PlainFetch; partitions that are read lead to a queue of our own.

    The group's answers stay on the consumer's own queue, whose callbacks need the Python client.
    """

    def __init__(self, consumer: Consumer, topic: str, now_ms: Callable[[], float]) -> None:
        self._consumer = consumer  # keeps the handle alive
        self._plain = PlainFetch(consumer, topic, now_ms)
        self._topic = topic
        self._now_ms = now_ms
        self._arrivals = Arrivals(now_ms)
        self._heard_ms = -math.inf  # when the group was last listened to
        self._lib = library(_SIGNATURES)
        self._calls = addresses(kernels.CALLS)
        self._handle = handle_of(consumer)
        self._queue: int | None = self._lib.rd_kafka_queue_new(self._handle)
        self._led: set[int] = set()
        self._closing = threading.Lock()  # who wakes may not meet a queue that is gone
        self._events, self._messages = np.zeros((2, 1), np.int64)
        none = self._events[:0]
        kernels.collect(self._queue, 0, self._calls, none, none)  # compiles
        kernels.destroy(none, self._calls)
        self._columns(none)

    def poll(self, room: int, wait_ms: float, gather_ms: float) -> Fetched:
        """See PlainFetch. While anything is read, the group's answers wait until a later poll."""
        said, now_ms = _NOTHING, self._now_ms()
        if not self._led or not 0 <= now_ms - self._heard_ms < _HEAR_EVERY_MS:
            said, self._heard_ms = self._plain.poll(1, 0.0 if self._led else wait_ms, 0.0), now_ms
        if not self._led:
            return said
        if said.records is not None:
            return self._led_again(said, room)
        if len(self._events) < room:
            self._events, self._messages = np.zeros((2, room), np.int64)
        taken = 0

        def take_here(count: int, within_ms: float) -> int:
            """What is here once one is."""
            nonlocal taken
            here = slice(taken, taken + count)
            found = int(
                kernels.collect(
                    self._queue, int(within_ms), self._calls, self._events[here], self._messages[here]
                )
            )
            taken += found
            return found

        def take(count: int, within_ms: float) -> int:
            """All that comes meanwhile."""
            first, until_ms = taken, self._now_ms() + within_ms
            while taken - first < count:
                if not take_here(count + first - taken, max(0.0, until_ms - self._now_ms())):
                    break
            return taken - first

        first_at_ms = self._arrivals.gather(
            take_here, take, room, 0.0 if said.count else wait_ms, gather_ms, at_first=room
        )
        if not taken:
            return replace(said, first_at_ms=first_at_ms)
        events, messages = self._events[:taken], self._messages[:taken]
        try:
            errors, good = [], messages
            if not messages.all():
                errors = [self._error(int(event)) for event in events[messages == 0]]
                good = messages[messages != 0]
            records = self._columns(good) if len(good) else None
        finally:
            kernels.destroy(events, self._calls)
        return Fetched(
            records=records,
            errors=said.errors + errors,
            count=said.count + taken,
            first_at_ms=first_at_ms,
        )

    def _led_again(self, said: Fetched, room: int) -> Fetched:
        """All that came past our queue: a partition did not lead here yet, or the client has undone that."""
        parts = [said]
        if room > said.count:
            parts.append(self._plain.poll(room - said.count, 0.0, 0.0))
        records = joined_records([part.records for part in parts if part.records is not None])
        for partition in self._led.intersection(records.partition.tolist()):
            self.lead(partition)
        return Fetched(
            records=records,
            errors=[error for part in parts for error in part.errors],
            count=sum(part.count for part in parts),
            first_at_ms=said.first_at_ms,
        )

    def _error(self, event: int) -> tuple[KafkaError, int]:
        """What an event that is no message says, and of which partition; -1: of none."""
        code, text = self._lib.rd_kafka_event_error(event), self._lib.rd_kafka_event_error_string(event)
        place = self._lib.rd_kafka_event_topic_partition(event)
        partition = -1
        if place:
            partition = place.contents.partition
            self._lib.rd_kafka_topic_partition_destroy(place)
        return KafkaError(code, (text or b"").decode("utf-8", "replace")), partition

    def _columns(self, messages: NDArray[np.int64]) -> Records:
        n = len(messages)
        partition = np.empty(n, np.int32)
        offset, produced_ms = np.empty(n, np.int64), np.empty(n, np.int64)
        starts, ends = np.empty((2, 3, n), np.int64)
        size_bytes = kernels.measure(messages, self._calls, partition, offset, produced_ms, starts, ends)
        data = np.empty(size_bytes, np.uint8)
        kernels.copy(messages, self._calls, starts, ends, data)
        data.flags.writeable = False  # as bytes are that come any other way: one form to compile for
        values, keys, headers = (Spans(data, starts[i], ends[i]) for i in range(3))
        return Records(
            topic=self._topic,
            values=values,
            keys=keys,
            headers=headers,
            partition=partition,
            offset=offset,
            produced_ms=produced_ms,
        )

    def lead(self, partition: int) -> None:
        """See PlainFetch. Called earlier, the client would undo it as it begins to read."""
        own = self._lib.rd_kafka_queue_get_partition(self._handle, self._topic.encode(), partition)
        self._lib.rd_kafka_queue_forward(own, self._queue)
        self._lib.rd_kafka_queue_destroy(own)  # our name of it, not the queue
        self._led.add(partition)

    def leave(self, partitions: Iterable[int]) -> None:
        """See PlainFetch. The client itself no longer leads them here."""
        self._led.difference_update(partitions)

    @property
    def can_wake(self) -> bool:
        """See PlainFetch. Where nothing is read, a poll waits for the group, on another queue."""
        return bool(self._led)

    def wake(self) -> None:
        """See PlainFetch."""
        with self._closing:
            if self._queue is not None:
                self._lib.rd_kafka_queue_yield(self._queue)

    def close(self) -> None:
        """See PlainFetch."""
        self._led.clear()
        with self._closing:
            queue, self._queue = self._queue, None
            if queue is not None:
                self._lib.rd_kafka_queue_destroy(queue)

    def __del__(self) -> None:
        self.close()


def fetch_of(consumer: Consumer, topic: str, now_ms: Callable[[], float]) -> PlainFetch | NativeFetch:
    """How records are read: natively where we know the client, and nobody has asked for its objects."""
    if is_wanted():
        return NativeFetch(consumer, topic, now_ms)
    return PlainFetch(consumer, topic, now_ms)
