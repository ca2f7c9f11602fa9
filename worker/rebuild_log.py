"""Looking into a partition without reading it: events at an offset, and offsets by Kafka timestamp."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from numpy.typing import NDArray

from schemas.codec import Codec
from worker.decode import DecodePlan, decode
from worker.rebuild import Reach, Sample, place
from worker.records import records_of

_SAMPLE = 64  # records that one look brings at least, where there are so many
_LOOK_AT_MOST = 10_000  # records without one event among them; then there is none as far as we are concerned
_ANSWER_WITHIN_S = 20.0
_TRANSIENT = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE}


def rebuild_start(
    config: dict[str, Any],
    codec: Codec,
    plan: DecodePlan,
    reach: Reach,
    topic: str,
    partition: int,
    committed: int,
    low: int,
) -> tuple[int, int]:
    """Where to read a lane again from; see `place`.

    Args:
        config: settings of the input consumer; the one used here is no member of its group.
        codec, plan: how records become events.

    Raises:
        KafkaException: Kafka did not answer in time, or refused.
    """
    with open_log(config, codec, plan, topic, partition) as log:
        return place(reach, log, committed, low)


@contextmanager
def open_log(
    config: dict[str, Any], codec: Codec, plan: DecodePlan, topic: str, partition: int
) -> Iterator[KafkaLog]:
    """A look into one partition, closed at the end."""
    consumer = Consumer(
        {
            **{name: value for name, value in config.items() if not name.startswith("group.")},
            "group.id": config["group.id"],  # never joined: partitions are assigned by hand
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "queued.min.messages": _SAMPLE,
            "fetch.message.max.bytes": 1 << 18,
        }
    )
    try:
        yield KafkaLog(consumer, codec, plan, TopicPartition(topic, partition))
    finally:
        consumer.close()


class KafkaLog:
    """One partition of a real topic."""

    def __init__(self, consumer: Consumer, codec: Codec, plan: DecodePlan, place: TopicPartition) -> None:
        self._consumer = consumer
        self._codec = codec
        self._plan = plan
        self._topic, self._partition = place.topic, place.partition

    def sample(self, offset: int, end: int | None) -> Sample | None:
        """See `Log`; whatever is no event is passed over: damaged records, markers, what was aborted."""
        self._consumer.assign([TopicPartition(self._topic, self._partition, offset)])
        give_up_s = time.monotonic() + _ANSWER_WITHIN_S
        seen = 0
        while seen < _LOOK_AT_MOST:
            messages, is_end = self._read(end)
            seen += len(messages)
            events, _ = decode(
                records_of(self._topic, messages), self._codec, self._plan, time.time_ns() // 1000
            )
            if len(events):
                return _sample(events.event_us, events.records.produced_ms)
            if is_end:
                return None
            if time.monotonic() > give_up_s:
                raise KafkaException(
                    KafkaError(
                        KafkaError._TIMED_OUT,
                        f"no record of {self._topic}-{self._partition} at {offset} came within "
                        f"{_ANSWER_WITHIN_S:g} s",
                    )
                )
        return None

    def first_since(self, produced_ms: int) -> int | None:
        """See `Log`."""
        if produced_ms <= 0:
            return 0
        asked = TopicPartition(self._topic, self._partition, produced_ms)
        (found,) = self._consumer.offsets_for_times([asked], timeout=_ANSWER_WITHIN_S)
        if found.error is not None:
            raise KafkaException(found.error)
        return int(found.offset) if found.offset >= 0 else None

    def _read(self, end: int | None) -> tuple[list[Any], bool]:
        """Some messages before end, and whether there are no more of them."""
        found = self._consumer.consume(1, 0.2)
        if found and found[0].error() is None:
            found += self._consumer.consume(_SAMPLE - 1, 0.0)
        messages: list[Any] = []
        for message in found:
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                return messages, True
            if error is not None:
                if error.code() not in _TRANSIENT and not error.retriable():
                    raise KafkaException(error)
            elif end is not None and message.offset() >= end:
                return messages, True
            else:
                messages.append(message)
        return messages, False


def _sample(event_us: NDArray[np.int64], produced_ms: NDArray[np.int64]) -> Sample:
    return Sample(
        event_us=tuple(event_us.tolist()),
        produced_ms=int(produced_ms.max()),
        lag_us=int((produced_ms * 1000 - event_us).min()),
    )
