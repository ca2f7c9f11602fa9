"""How far a replay may run ahead of the consumer group that scores it, in event time."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from loadgen.produce import Outbox

_LOOK_EVERY_S = 0.1
_TIMEOUT_S = 10.0
_PATIENCE_S = 60.0
# A broker that is busy with itself says so, and knows the group again in a moment.
_PASSING = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
}


class Lead:
    """A gate that opens when the group has committed everything older than the permitted lead."""

    def __init__(
        self,
        bootstrap: str,
        *,
        group: str,
        topic: str,
        outbox: Outbox,
        max_lead_ms: int,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        """Watch a group's committed offsets without joining it."""
        self._consumer = Consumer(
            {
                **(properties or {}),
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "enable.auto.commit": False,
            }
        )
        self._outbox = outbox
        self._max_lead_ms = max_lead_ms
        self._partitions = [TopicPartition(topic, p) for p in range(outbox.partitions(topic))]
        self._behind: deque[tuple[int, list[int]]] = (
            deque()
        )  # event time, end of each partition when sent so far
        self._last_ms: int | None = None
        self._looked_s = self._answered_s = float("-inf")

    def is_open(self, from_ms: int, now_s: float) -> bool:
        """Tell whether the chunk that starts at this event time may be sent.

        Args:
            from_ms: event time of the chunk.
            now_s: any clock in seconds; the group is asked at most ten times a second.
        """
        if from_ms != self._last_ms:
            self._answered_s = now_s
            self._note(from_ms)
        if self._is_near(from_ms):
            return True
        if now_s - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now_s
            self._look_or_wait(now_s)
        return self._is_near(from_ms)

    def close(self) -> None:
        """Leave Kafka."""
        self._consumer.close()

    def _note(self, from_ms: int) -> None:
        # Everything before this chunk is sent: once written, the partitions' ends stand for this event time.
        self._outbox.flush()
        ends = [self._consumer.get_watermark_offsets(p, timeout=_TIMEOUT_S)[1] for p in self._partitions]
        self._behind.append((from_ms, ends))
        self._last_ms = from_ms

    def _is_near(self, from_ms: int) -> bool:
        # The first entry is what the group has not been seen to pass.
        return not self._behind or from_ms - self._behind[0][0] <= self._max_lead_ms

    def _look_or_wait(self, now_s: float) -> None:
        """Look; what passes by itself leaves the gate as it is, for a minute."""
        try:
            self._look()
            self._answered_s = now_s
        except KafkaException as error:
            if error.args[0].code() not in _PASSING or now_s - self._answered_s > _PATIENCE_S:
                raise

    def _look(self) -> None:
        found = self._consumer.committed(self._partitions, timeout=_TIMEOUT_S)
        committed = [partition.offset for partition in found]
        while self._behind and all(
            done >= end or end == 0 for done, end in zip(committed, self._behind[0][1], strict=True)
        ):
            self._behind.popleft()
