"""Whether somebody else, alive, works under our transactional id."""

from __future__ import annotations

import time

from confluent_kafka import KafkaError

from worker.exits import Exit, StopWorker

_OFTEN = 3  # times within _WITHIN_S: not an old self of ours but a living twin
_WITHIN_S = 60.0


class Twin:
    """Known by how often it fences us."""

    def __init__(self, transactional_id: str) -> None:
        self._id = transactional_id
        self._at_s: list[float] = []

    def note(self, said: KafkaError) -> None:
        """We were fenced once more.

        Raises:
            StopWorker: too often to be the end of an old self.
        """
        now_s = time.monotonic()
        self._at_s = [at_s for at_s in self._at_s if now_s - at_s < _WITHIN_S] + [now_s]
        if len(self._at_s) >= _OFTEN:
            raise StopWorker(
                Exit.FENCED,
                f"fenced {_OFTEN} times within {_WITHIN_S:g} s ({said.str()}): another live worker uses "
                f"transactional id {self._id!r}: give each its own delivery.worker_id",
            )
