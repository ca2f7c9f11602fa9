"""Reads what a group has put out, as far as it is committed, in a thread of its own."""

from __future__ import annotations

import threading

from confluent_kafka import Consumer, TopicPartition

from tests.chaos.outcomes import Outcomes
from tests.chaos.world import PARTITIONS, Topics

AT_ONCE = 5_000


class Collector:
    """The thread and its connection; `outcomes` grows while it runs."""

    def __init__(self, bootstrap: str, named: Topics) -> None:
        self.outcomes = Outcomes(named, PARTITIONS)
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"{named.group}.checker",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 100,
                "queued.max.messages.kbytes": 16384,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._consumer.assign(
            [TopicPartition(t, p, 0) for t, n in named.partitions.items() for p in range(n)]
        )
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise RuntimeError when the outputs could not be read."""
        if self._error is not None:
            raise RuntimeError(f"the outputs could not be read: {self._error}") from self._error

    def close(self) -> None:
        """Stop reading; calling it again does nothing."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join(30)
            self._consumer.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                messages = self._consumer.consume(1, 0.1)
                messages += self._consumer.consume(AT_ONCE, 0.0) if messages else []
                self.outcomes.note([m for m in messages if m.error() is None])
        except Exception as error:
            self._error = error
