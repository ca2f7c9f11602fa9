"""How long a batch may wait, and how large it may be, so that 99 of 100 events keep a latency objective."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import structlog

LATE_SHARE_MAX = 0.01  # what p99 within the objective means
_LATE_SHARE_AIM = 0.005  # what is planned: plans err
_LEARN_COST = 0.1  # weight of the newest batch of a size
_SLIPS = 512  # batches whose deviation from the plan is remembered
_FIRST_SLIP, _FIRST_SLIPS = 0.1, 64  # in objectives, taken for the first so many until they are seen
_LEARN_SHARE = 0.3  # a batch of usual size, late to its last event, takes a quarter off the wait
_LEAST_SHARE = 0.1
_WAITS = np.linspace(1.0, 0.0, 65)  # in objectives, the longest first
_PLAN_EVERY = 8  # batches
_RATE_SPANS = (1.0, 20.0)  # in objectives: a burst is believed at once, and its end after a while
_BURST_ROOM = 1.25  # more events than expected still leave in time
_GROUPED = 2.0  # times as many events at one time as if they came evenly
_SAME_MS = 1.0  # clocks are read one after the other
_BACKLOG = 2.0  # in objectives
_JUDGE_OVER_MS = 1_000.0
_MISSED_AFTER_MS = 8_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a batch may be at most."""

    max_rows: int
    max_wait_ms: float  # of its first event


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One batch's way through the worker; times in milliseconds of one monotonic clock."""

    rows: int
    asked_ms: float  # the poll that completed it began
    came_ms: float  # its first event was here, at the earliest
    polled_ms: float  # the poll ended
    done_ms: float  # its scores were handed to the client
    is_drained: bool  # nothing more was waiting when the poll ended


class Costs:
    """What a batch costs by its size, from the batches seen so far: one smoothed point a power of two."""

    def __init__(self) -> None:
        self._points: dict[int, tuple[float, float]] = {}  # bit length of the size to rows and milliseconds
        self._rows: list[float] = []
        self._ms: list[float] = []

    def learn(self, rows: int, cost_ms: float) -> None:
        """A batch of this size took this long."""
        size = rows.bit_length()
        old_rows, old_ms = self._points.get(size, (float(rows), cost_ms))
        self._points[size] = (
            old_rows + _LEARN_COST * (rows - old_rows),
            old_ms + _LEARN_COST * (cost_ms - old_ms),
        )
        points = [self._points[known] for known in sorted(self._points)]
        self._rows = [point[0] for point in points]
        # Fewer rows never cost more; where they seem to, they have not been seen for long.
        self._ms = list(accumulate((point[1] for point in reversed(points)), min))[::-1]

    def of(self, rows: float) -> float:
        """Milliseconds that a batch of this size is expected to take; 0 before anything was seen.

        Beyond the largest size seen a row is taken to add what it adds on the way from the smallest to it.
        """
        if not self._rows:
            return 0.0
        at = bisect_left(self._rows, rows)
        if at == 0:
            return self._ms[0]
        low, high = (at - 1, at) if at < len(self._rows) else (0, at - 1)
        if low == high:
            return self._ms[0]
        slope = (self._ms[high] - self._ms[low]) / (self._rows[high] - self._rows[low])
        return self._ms[low] + slope * (rows - self._rows[low])

    def most_rows(self, cost_ms: float, at_most: int) -> int:
        """The largest batch that is expected to take no longer than this: between 1 and `at_most`."""
        low, high = 1, at_most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.of(middle) <= cost_ms else (low, middle - 1)
        return low


class Pace:
    """Chooses the window of the next batch from what the batches before it went through.

    An event waits at most for the batch that is running when it comes, for its own batch to fill, and for
    that batch to be scored. The first is known when the batch is polled and counts as waiting; the last is
    learned. What they leave of the objective is the window.
    """

    def __init__(
        self,
        objective_ms: float,
        max_rows: int,
        tell: Callable[[int, float, float, bool], None] = lambda *_: None,
        pipeline: str = "",
    ) -> None:
        """Begin with batches that do not wait.

        Args:
            objective_ms: within which 99 of 100 events have their score handed to the client.
            max_rows: the largest batch allowed.
            tell: called after every batch with the new max_rows and max_wait_ms, the share of late events
                over the last seconds, and whether the objective is out of reach.
            pipeline: for the log.
        """
        self.window = Window(max_rows=max_rows, max_wait_ms=0.0)
        self.late_share = 0.0
        self.is_missed = False
        self._objective_ms = objective_ms
        self._max_rows = max_rows
        self._tell = tell
        self._log = structlog.get_logger(pipeline=pipeline)
        self._costs = Costs()
        self._rates = [0.0 for _ in _RATE_SPANS]  # events a millisecond
        self._slips_ms = np.full(_SLIPS, _FIRST_SLIP * objective_ms)  # by how much a batch was done later
        self._slipped_rows = np.ones(_SLIPS)  # how many events it concerned
        self._turns = 0
        self._wait_ms = 0.0  # as planned last
        self._share = 1.0  # of the planned wait that is granted
        self._mean_rows = 1.0
        self._planned_ms = 0.0  # what a batch that waits is planned to cost
        self._seen = self._late = 0.0  # events, the older ones counting less and less
        self._turned_ms: float | None = None
        self._over_since_ms: float | None = None

    def turned(self, turn: Turn) -> Window:
        """Learn from a batch, and choose what the next one may be."""
        before_ms = turn.came_ms if self._turned_ms is None else self._turned_ms
        self._turned_ms, span_ms = turn.polled_ms, turn.polled_ms - before_ms
        self._learn(turn)
        self._learn_rate(turn.rows, max(span_ms, 0.01))
        if turn.came_ms >= before_ms - _SAME_MS:
            late = late_part(turn, self._objective_ms)
            self._learn_share(turn.rows, late)
        else:
            # The poll before left some waiting, since when is not known: surely late after a while only.
            late = float(turn.polled_ms - turn.came_ms > _BACKLOG * self._objective_ms)
        self._judge(turn, late, span_ms)
        if self._turns % _PLAN_EVERY == 0:
            self._plan()
        self._turns += 1
        self.window = self._choose(turn)
        self._tell(self.window.max_rows, self.window.max_wait_ms, self.late_share, self.is_missed)
        return self.window

    def _learn(self, turn: Turn) -> None:
        rows, due_ms = max(1, turn.rows), turn.came_ms + self.window.max_wait_ms
        self._costs.learn(rows, turn.done_ms - turn.polled_ms)
        has_waited = turn.is_drained and self.window.max_wait_ms > 0.0 and turn.asked_ms < due_ms
        planned_ms = self._planned_ms if has_waited else self._costs.of(rows)
        left_ms = min(turn.polled_ms, due_ms) if has_waited else turn.polled_ms
        self._slips_ms[self._turns % _SLIPS] = turn.done_ms - left_ms - planned_ms
        self._slipped_rows[self._turns % _SLIPS] = rows

    def _plan(self) -> None:
        """The longest wait with which few enough events would have been late, had the last batches waited so.

        Had they, those that came in the first part of the wait would be late by as much as the batch slipped.
        """
        objective_ms, rate = self._objective_ms, max(self._rates)
        expected = 1.0 + _BURST_ROOM * rate * min(objective_ms, self._wait_ms + 2 * self._planned_ms)
        self._planned_ms = self._costs.of(min(expected, float(self._max_rows)))
        waits_ms = _WAITS[:-1, None] * objective_ms
        known = slice(max(_FIRST_SLIPS, self._turns))
        over_ms = waits_ms + self._planned_ms + self._slips_ms[known] - objective_ms
        rows = self._slipped_rows[known]
        late = np.clip(_GROUPED * over_ms / waits_ms, 0.0, 1.0) @ rows / rows.sum()
        self._wait_ms = float(_WAITS[np.argmax(np.append(late, 0.0) <= _LATE_SHARE_AIM)]) * objective_ms
        if rate * self._wait_ms < 1.0:
            self._wait_ms = 0.0  # nobody is expected: waiting would only delay the one that is here

    def _choose(self, turn: Turn) -> Window:
        if not turn.is_drained and turn.polled_ms - turn.came_ms > self._objective_ms:
            return Window(max_rows=self._max_rows, max_wait_ms=0.0)  # behind: what drains fastest is best
        # What comes while the largest batch runs must still be in time with the next. Batches that cost
        # little more than a single event are never too large: without them a backlog would grow.
        largest_ms = max(self._objective_ms / 2, 2 * self._costs.of(1))
        most_rows = self._costs.most_rows(largest_ms, self._max_rows)
        return Window(max_rows=most_rows, max_wait_ms=self._wait_ms * self._share)

    def _learn_rate(self, rows: int, span_ms: float) -> None:
        for at, spans in enumerate(_RATE_SPANS):
            weight = 1.0 - math.exp(-span_ms / (spans * self._objective_ms))
            self._rates[at] += weight * (rows / span_ms - self._rates[at])

    def _learn_share(self, rows: int, late: float) -> None:
        """Wait less while more are late than planned, whatever the plan overlooks; grant it again slowly."""
        self._mean_rows += _LEARN_COST * (rows - self._mean_rows)
        late_batches = late * rows / max(self._mean_rows, 1.0)
        self._share *= math.exp(max(-1.0, _LEARN_SHARE * (_LATE_SHARE_AIM - late_batches)))
        self._share = min(1.0, max(_LEAST_SHARE, self._share))

    def _judge(self, turn: Turn, late: float, span_ms: float) -> None:
        """Whether the objective is out of reach: too many were late for seconds, and not only once."""
        fade = math.exp(-span_ms / _JUDGE_OVER_MS)
        self._seen = self._seen * fade + turn.rows
        self._late = self._late * fade + turn.rows * late
        self.late_share = self._late / self._seen if self._seen else 0.0
        if self.late_share <= LATE_SHARE_MAX:
            self._over_since_ms = None
            if self.is_missed and self.late_share <= LATE_SHARE_MAX / 2:
                self.is_missed = False
                self._log.info("the latency objective is kept again", objective_ms=self._objective_ms)
        elif self._over_since_ms is None:
            self._over_since_ms = turn.polled_ms
        elif not self.is_missed and turn.polled_ms - self._over_since_ms > _MISSED_AFTER_MS:
            self.is_missed = True
            self._log.warning(
                "the latency objective is out of reach",
                objective_ms=self._objective_ms,
                late_share=round(self.late_share, 3),
                one_event_takes_ms=round(self._costs.of(1), 2),
            )


def late_part(turn: Turn, objective_ms: float) -> float:
    """Share of a batch's events that missed the objective, as far as the times of the batch tell."""
    over_ms = turn.done_ms - turn.came_ms - objective_ms
    if over_ms <= 0.0:
        return 0.0
    came_over_ms = turn.polled_ms - turn.came_ms
    return min(1.0, _GROUPED * over_ms / came_over_ms) if came_over_ms > 0.0 else 1.0
