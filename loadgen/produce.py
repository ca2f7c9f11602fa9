"""The producer: records, time markers and, where asked for, a receipt of each record."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

TIME_MARKER = "penstock.time-marker"
# A tick's events arrive together: two milliseconds of lingering make one message set of them.
_SETTINGS: dict[str, Any] = {
    "partitioner": "murmur2_random",
    "linger.ms": 2,
    "enable.idempotence": True,
    "queue.buffering.max.messages": 200_000,
    "delivery.report.only.error": True,
}
_ROOM_WAIT_S = 0.01

Receive = Callable[[int, int, int], None]  # event number, partition, offset


class SendError(Exception):
    """Records could not be written; the message says how many and why."""


class Outbox:
    """Owns the producer; sends in the order of the calls."""

    def __init__(
        self, bootstrap: str, *, properties: Mapping[str, Any] | None = None, receipts: bool = False
    ) -> None:
        """Connect lazily.

        Args:
            bootstrap: Kafka's address.
            properties: further librdkafka settings.
            receipts: tell where each record was written; costs about 1 us a record.
        """
        settings = {**_SETTINGS, **(properties or {}), "bootstrap.servers": bootstrap}
        settings["delivery.report.only.error"] = not receipts
        settings["on_delivery"] = self._note_failure
        self._producer = Producer(settings)
        self._partitions: dict[str, int] = {}
        self._failure: KafkaError | None = None
        self.failed = 0  # records given up by the client

    def send(
        self, topics: Sequence[str], keys: Sequence[bytes | None], values: Sequence[bytes | None]
    ) -> None:
        """Queue records; waits only while the local queue is full."""
        produce = self._producer.produce
        for topic, key, value in zip(topics, keys, values, strict=True):
            try:
                produce(topic, value, key)
            except BufferError:
                self._until_room(lambda t=topic, k=key, v=value: produce(t, v, k))  # type: ignore[misc]

    def send_with_receipts(
        self,
        topics: Sequence[str],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        numbers: Sequence[int | None],
        receive: Receive,
    ) -> None:
        """Queue records and tell `receive` where each one that has a number was written."""
        produce = self._producer.produce
        for topic, key, value, number in zip(topics, keys, values, numbers, strict=True):
            report = self._note_failure if number is None else partial(self._received, number, receive)
            self._until_room(partial(produce, topic, value, key, on_delivery=report))

    def mark(self, topic: str, event_time_ms: int) -> None:
        """Tell every partition that no event with an earlier or equal event time will follow on it."""
        for partition in range(self.partitions(topic)):
            self._until_room(
                partial(
                    self._producer.produce,
                    topic,
                    None,
                    None,
                    partition,
                    headers=[(TIME_MARKER, str(event_time_ms).encode())],
                )
            )

    def partitions(self, topic: str, timeout_s: float = 10.0) -> int:
        """Return how many partitions the topic has.

        Raises:
            SendError: the topic is not there.
        """
        if topic not in self._partitions:
            found = self._producer.list_topics(topic, timeout=timeout_s).topics[topic]
            if found.error is not None or not found.partitions:
                raise SendError(f"topic {topic}: {found.error or 'has no partitions'}")
            self._partitions[topic] = len(found.partitions)
        return self._partitions[topic]

    def serve(self) -> None:
        """Let the client deliver its reports.

        Raises:
            SendError: a fatal error, after which nothing can be sent.
        """
        self._producer.poll(0)
        if self._failure is not None and self._failure.fatal():
            raise SendError(f"the producer gave up: {self._failure.str()}")

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until everything is written.

        Raises:
            SendError: something was not.
        """
        waiting = self._producer.flush(timeout_s)
        if waiting or self.failed:
            reason = self._failure.str() if self._failure else f"not written within {timeout_s:.0f} s"
            raise SendError(f"{waiting + self.failed} records could not be written: {reason}")

    def close(self) -> None:
        """Leave Kafka; what is not written by now is lost."""
        self._producer.close()

    def _until_room(self, produce: Callable[[], Any]) -> None:
        while True:
            try:
                produce()
            except BufferError:
                # The clock of the plan runs on: the delay counts as latency of the events that wait here.
                self._producer.poll(_ROOM_WAIT_S)
                if self._failure is not None and self._failure.fatal():
                    raise SendError(f"the producer gave up: {self._failure.str()}") from None
            except KafkaException as error:
                raise SendError(str(error)) from error
            else:
                return

    def _note_failure(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self.failed += 1
            self._failure = error

    def _received(self, number: int, receive: Receive, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._note_failure(error, message)
            return
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        receive(number, partition, offset)
