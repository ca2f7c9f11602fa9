"""Records to Kafka through the Python client's own calls."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, Producer

from worker.commits import Sent, hand_over


class PlainSend:
    """A producer, and what it could not deliver."""

    def __init__(self, config: dict[str, Any]) -> None:
        failed: list[tuple[KafkaError, str]] = []

        def on_delivery(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                failed.append((error, message.topic()))

        self._failed = failed
        self.client = Producer({**config, "on_delivery": on_delivery})

    def send(self, records: Sent, within_s: float) -> None:
        """Give records to the client, in order, as fast as it takes them.

        Raises:
            KafkaException: the client refuses, or had no room for one of them for so long.
        """
        hand_over(self.client, records, within_s)

    def failed(self) -> list[tuple[KafkaError, str]]:
        """What was given and not delivered: why, and to which topic."""
        return self._failed
