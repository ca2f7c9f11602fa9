"""What a consumer group has committed, asked until its coordinator is there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

_AGAIN_S = 0.1
# A coordinator that moves, or begins; librdkafka does not ask again by itself.
_SOON = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}


def committed_marks(
    client: Any, topic: str, partitions: Iterable[int], within_s: float
) -> list[TopicPartition]:
    """Next offset and metadata of the client's group for each partition; negative where it never committed.

    Raises:
        KafkaException: no answer in time, or an error of any partition.
    """
    asked = [TopicPartition(topic, partition) for partition in partitions]
    give_up_s = time.monotonic() + within_s
    while True:
        try:
            found: list[TopicPartition] = client.committed(asked, timeout=within_s)
            break
        except KafkaException as error:
            if error.args[0].code() not in _SOON or time.monotonic() > give_up_s:
                raise
        time.sleep(_AGAIN_S)
    for mark in found:
        if mark.error is not None:
            raise KafkaException(mark.error)
    return found
