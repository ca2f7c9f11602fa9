"""Offsets that become what the group goes on from, while the loop that asked for it polls on.

The Python client (confluent-kafka 2.16) lets one call of a consumer in at a time. A commit that waits in
another thread shuts out the loop's polls until Kafka answers; and one that is wanted while a poll serves the
group's answers, as when a partition is to be given up, waits for that poll, which waits for it
(docs/decisions/0054).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.librdkafka import POINTER, Place, Signatures, handle_of, is_wanted, library


class _Places(ctypes.Structure):
    """librdkafka's rd_kafka_topic_partition_list_t."""

    _fields_ = [
        ("cnt", ctypes.c_int),
        ("size", ctypes.c_int),
        ("elems", ctypes.POINTER(Place)),
    ]


_LIST = ctypes.POINTER(_Places)
_SIGNATURES: Signatures = {
    "rd_kafka_topic_partition_list_new": (_LIST, [ctypes.c_int]),
    "rd_kafka_topic_partition_list_add": (
        ctypes.POINTER(Place),
        [_LIST, ctypes.c_char_p, ctypes.c_int32],
    ),
    "rd_kafka_topic_partition_list_destroy": (None, [_LIST]),
    "rd_kafka_mem_malloc": (POINTER, [POINTER, ctypes.c_size_t]),
    "rd_kafka_queue_new": (POINTER, [POINTER]),
    "rd_kafka_queue_destroy": (None, [POINTER]),
    "rd_kafka_commit_queue": (ctypes.c_int, [POINTER, _LIST, POINTER, POINTER, POINTER]),
    "rd_kafka_queue_poll": (POINTER, [POINTER, ctypes.c_int]),
    "rd_kafka_event_error": (ctypes.c_int, [POINTER]),
    "rd_kafka_event_topic_partition_list": (_LIST, [POINTER]),
    "rd_kafka_event_destroy": (None, [POINTER]),
}


@cache
def _functions() -> Any:
    """Looked up once: commits come ten times a second."""
    return library(_SIGNATURES)


class NativeCommit:
    """Under way; of the thread that polls the consumer. Let go of it before the consumer is closed."""

    def __init__(self, consumer: Any, offsets: Sequence[TopicPartition]) -> None:
        """Begin; at least one offset.

        Raises:
            KafkaException: the client does not even begin.
        """
        self._consumer = consumer  # keeps the handle alive
        self._error = KafkaError.NO_ERROR
        self._lib = _functions()
        handle = handle_of(consumer)
        self._queue: int | None = self._lib.rd_kafka_queue_new(handle)
        places = self._lib.rd_kafka_topic_partition_list_new(len(offsets))
        try:
            for each in offsets:
                place = self._lib.rd_kafka_topic_partition_list_add(
                    places, each.topic.encode(), each.partition
                ).contents
                place.offset = each.offset
                if each.metadata:
                    # With a zero at its end, as the Python client writes and reads it. The list frees it.
                    metadata = each.metadata.encode() + b"\0"
                    place.metadata = self._lib.rd_kafka_mem_malloc(handle, len(metadata))
                    place.metadata_size = len(metadata)
                    ctypes.memmove(place.metadata, metadata, len(metadata))
            code = self._lib.rd_kafka_commit_queue(handle, places, self._queue, None, None)
        finally:
            self._lib.rd_kafka_topic_partition_list_destroy(places)
        if code:
            self._let_go()
            raise KafkaException(KafkaError(code))

    def done(self) -> bool:
        """Whether Kafka has answered."""
        self._hear(0.0)
        return self._queue is None

    def result(self, timeout: float) -> None:
        """Wait for the answer, so many seconds.

        Raises:
            KafkaException: not all of the offsets are committed.
            TimeoutError: no answer yet.
        """
        self._hear(timeout)
        if self._queue is not None:
            raise TimeoutError
        if self._error:
            raise KafkaException(KafkaError(self._error))

    def _hear(self, within_s: float) -> None:
        if self._queue is None:
            return
        event = self._lib.rd_kafka_queue_poll(self._queue, int(within_s * 1000))
        if not event:
            return
        codes = [self._lib.rd_kafka_event_error(event)]
        places = self._lib.rd_kafka_event_topic_partition_list(event)
        if places:
            codes += [places.contents.elems[i].err for i in range(places.contents.cnt)]
        self._error = next(filter(None, codes), KafkaError.NO_ERROR)
        self._lib.rd_kafka_event_destroy(event)
        self._let_go()

    def _let_go(self) -> None:
        queue, self._queue = self._queue, None
        if queue is not None:
            self._lib.rd_kafka_queue_destroy(queue)

    def __del__(self) -> None:
        self._let_go()


class PlainCommit:
    """The same through the Python client's own call: the loop waits for it at once."""

    def __init__(self, consumer: Any, offsets: list[TopicPartition]) -> None:
        """Commit."""
        self._error: KafkaError | None = None
        if not offsets:
            return
        try:
            done = consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            self._error = error.args[0]
        else:  # the client raises only what concerns all of them
            self._error = next((each.error for each in done if each.error is not None), None)

    def done(self) -> bool:
        """See NativeCommit."""
        return True

    def result(self, timeout: float) -> None:
        """See NativeCommit."""
        del timeout
        if self._error is not None:
            raise KafkaException(self._error)


def commit_of(consumer: Any, offsets: list[TopicPartition]) -> NativeCommit | PlainCommit:
    """Begin to commit: natively where we know the client, and nobody has asked for its own calls."""
    return NativeCommit(consumer, offsets) if offsets and is_wanted() else PlainCommit(consumer, offsets)
