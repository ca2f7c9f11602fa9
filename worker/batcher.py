"""When a batch leaves for the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from worker.batch import Batch, join
from worker.slo import Turn, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """A batch leaves when the first of these holds."""

    max_rows: int
    max_bytes: int
    max_wait_ms: float  # added latency at low traffic
    eager: bool  # leave as soon as nothing more is waiting


class Batcher:
    """Parts of a batch not yet full; time comes in as an argument."""

    def __init__(self, policy: BatchPolicy, choose: Callable[[Turn], Window] | None = None) -> None:
        """Begin with nothing.

        Args:
            policy: when a batch leaves.
            choose: gives max_rows and max_wait_ms anew after each batch; without it they stay.
        """
        self._policy = policy
        self._choose = choose
        self._taken = (0, 0.0, True)  # of the last batch: rows, when its first event came, is_idle
        self._parts: list[Batch] = []
        self._rows = 0
        self._size_bytes = 0
        self._first_at_ms = 0.0
        self._is_idle = False

    def __len__(self) -> int:
        return self._rows

    @property
    def is_waiting(self) -> bool:
        """Whether anything was added since the last take, be it only offsets of rejected records."""
        return bool(self._parts)

    @property
    def room(self) -> int:
        """How many rows still fit."""
        return max(1, self._policy.max_rows - self._rows)

    def wait_ms(self, now_ms: float, at_most_ms: float) -> float:
        """How long a poll may wait for more before this batch is due."""
        if not self._parts:
            return at_most_ms
        return min(at_most_ms, max(0.0, self._first_at_ms + self._policy.max_wait_ms - now_ms))

    def gather_ms(self, now_ms: float) -> float:
        """How long a poll may go on gathering once it has a record: decoding once a batch is cheaper."""
        if self._policy.eager:
            return 0.0
        return self.wait_ms(now_ms, self._policy.max_wait_ms)

    def add(self, batch: Batch, size_bytes: int, first_at_ms: float, *, is_idle: bool) -> None:
        """Append rows; the wait is counted from the first of them.

        Args:
            size_bytes: bytes of the records that these rows came from.
            first_at_ms: when the first of these records was here, at the earliest.
            is_idle: nothing more was waiting when these were polled.
        """
        if not self._parts:
            self._first_at_ms = first_at_ms
        self._parts.append(batch)
        self._rows += len(batch)
        self._size_bytes += size_bytes
        self._is_idle = is_idle

    def reason(self, now_ms: float) -> str | None:
        """Why the batch leaves now (rows, bytes, idle, wait); None while it may still wait."""
        if not self._parts:
            return None
        if self._rows >= self._policy.max_rows:
            return "rows"
        if self._size_bytes >= self._policy.max_bytes:
            return "bytes"
        if self._policy.eager and self._is_idle:
            return "idle"
        return "wait" if now_ms >= self._first_at_ms + self._policy.max_wait_ms else None

    def take(self) -> Batch:
        """Everything added since the last take, as one batch; there must be something."""
        batch = join(self._parts)
        self._taken = (self._rows, self._first_at_ms, self._is_idle)
        self.clear()
        return batch

    def done(self, asked_ms: float, polled_ms: float, done_ms: float) -> None:
        """The batch taken last was scored: choose what the next one may be, where there is an objective.

        Args:
            asked_ms: when the poll that completed it began.
            polled_ms: when that poll ended.
            done_ms: when its scores had been handed to the client.
        """
        if self._choose is None:
            return
        rows, came_ms, is_drained = self._taken
        window = self._choose(
            Turn(
                rows=rows,
                asked_ms=asked_ms,
                came_ms=came_ms,
                polled_ms=polled_ms,
                done_ms=done_ms,
                is_drained=is_drained,
            )
        )
        self._policy = replace(self._policy, max_rows=window.max_rows, max_wait_ms=window.max_wait_ms)

    def clear(self) -> None:
        """Forget everything added since the last take; it will be read again."""
        self._parts, self._rows, self._size_bytes = [], 0, 0
