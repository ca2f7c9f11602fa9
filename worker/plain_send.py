"""Records to Kafka through the Python client's own calls."""

from __future__ import annotations

from functools import partial
from typing import Any

from confluent_kafka import KafkaError, Producer

from worker.commits import Sent, hand_over
from worker.patience import ENDLESS, Patience


class PlainSend:
    """A producer, what of its records is under way, and what it could not deliver."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._failed: list[tuple[KafkaError, str]] = []
        self._under_way = [0, 0]  # on either side of the last mark
        self._side = 0
        self.client = Producer(config)

    def send(self, records: Sent, within_s: float, patience: Patience = ENDLESS) -> None:
        """Give records to the client, in order, as fast as it takes them.

        Raises:
            KafkaException: the client refuses, or had no room for one of them for so long.
        """
        # All at once: should the client refuse some, it and these numbers are given up together.
        self._under_way[self._side] += len(records.values)
        hand_over(self.client, records, within_s, patience, partial(self._note, self._side))

    def _note(self, side: int, error: KafkaError | None, message: Any) -> None:
        self._under_way[side] -= 1
        if error is not None:
            self._failed.append((error, message.topic()))

    def failed(self) -> list[tuple[KafkaError, str]]:
        """What was given and not delivered: why, and to which topic."""
        return self._failed

    def mark(self) -> None:
        """Draw a line behind what was sent: the next commit is of what is before it."""
        self._side = 1 - self._side

    def under_way(self) -> int:
        """How many records before the mark are not acknowledged, as of the client's last poll.

        A transaction's are not counted: its commit waits for them.
        """
        return self._under_way[1 - self._side]
