"""Stops the worker when too large a share of a minute's records cannot be scored."""

from __future__ import annotations

from collections import deque

from worker.exits import Exit, StopWorker

_MINUTE_MS = 60_000.0


class DeadLetterBreaker:
    """Counts of the last minute; a bad deploy must not pour a topic away."""

    def __init__(self, stop_share: float, min_events: int) -> None:
        self._stop_share = stop_share
        self._min_events = min_events
        self._chunks: deque[tuple[float, int, int]] = deque()
        self._records = 0
        self._dead = 0

    def add(self, now_ms: float, records: int, dead: int) -> None:
        """Count a chunk before its dead letters are sent.

        Raises:
            StopWorker: more than stop_share of at least min_events records within a minute are dead.
        """
        self._chunks.append((now_ms, records, dead))
        self._records += records
        self._dead += dead
        while self._chunks[0][0] <= now_ms - _MINUTE_MS:
            _, old_records, old_dead = self._chunks.popleft()
            self._records -= old_records
            self._dead -= old_dead
        if dead and self._records >= self._min_events and self._dead > self._stop_share * self._records:
            raise StopWorker(
                Exit.DEAD_LETTERS,
                f"{self._dead} of the last minute's {self._records} records are dead letters, more than "
                f"dead_letters.stop_share {self._stop_share:g} allows: is source.schema theirs? "
                f"Nothing of this chunk was committed.",
            )
