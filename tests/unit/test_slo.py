"""What is learned from batches, and what follows from it for the next one."""

from __future__ import annotations

import pytest

from tests.builders import batch
from worker.batcher import Batcher, BatchPolicy
from worker.slo import Costs, Pace, Turn, Window, late_part


def turn(
    *, came: float = 0.0, waited: float = 0.0, took: float = 1.0, rows: int = 1, is_drained: bool = True
) -> Turn:
    """A batch of events that began to come at a time, waited, and were scored."""
    return Turn(
        rows=rows,
        asked_ms=came,
        came_ms=came,
        polled_ms=came + waited,
        done_ms=came + waited + took,
        is_drained=is_drained,
    )


def test_costs_lie_on_straight_lines_between_the_sizes_seen_and_beyond() -> None:
    costs = Costs()
    assert costs.of(10) == 0.0

    costs.learn(1, 2.0)
    assert costs.of(1000) == 2.0
    costs.learn(101, 12.0)

    assert [costs.of(rows) for rows in (1, 51, 101, 201)] == pytest.approx([2.0, 7.0, 12.0, 22.0])
    assert costs.most_rows(7.0, 1024) == 51
    assert costs.most_rows(1.0, 1024) == 1
    assert costs.most_rows(1e9, 1024) == 1024


def test_a_small_batch_that_once_took_long_does_not_stand_against_larger_ones() -> None:
    costs = Costs()
    costs.learn(1, 50.0)
    costs.learn(100, 5.0)

    assert costs.of(1) == 5.0


def test_the_first_that_came_are_those_that_are_late() -> None:
    assert late_part(turn(waited=40.0, took=10.0), 50.0) == 0.0
    assert 0.0 < late_part(turn(waited=40.0, took=11.0), 50.0) < 0.1
    assert late_part(turn(waited=0.0, took=51.0), 50.0) == 1.0


def test_nobody_waits_where_nobody_else_is_expected() -> None:
    pace = Pace(50.0, 1024)
    for number in range(100):
        pace.turned(turn(came=number * 1000.0))

    assert pace.window.max_wait_ms == 0.0


def test_a_batch_waits_as_long_as_its_cost_leaves_of_the_objective() -> None:
    pace = Pace(50.0, 1024)
    came = 0.0
    for _ in range(1000):
        pace.turned(turn(came=came, waited=pace.window.max_wait_ms, took=5.0, rows=100))
        came += pace.window.max_wait_ms + 5.0

    assert 40.0 < pace.window.max_wait_ms <= 45.0
    assert pace.window.max_rows == 1024


def test_max_rows_of_the_file_is_the_upper_limit() -> None:
    pace = Pace(1000.0, 64)
    pace.turned(turn(rows=64))

    assert pace.window.max_rows == 64


def test_a_batcher_takes_the_window_that_is_chosen_after_each_batch() -> None:
    seen: list[Turn] = []

    def choose(turn: Turn) -> Window:
        seen.append(turn)
        return Window(max_rows=2, max_wait_ms=7.0)

    policy = BatchPolicy(max_rows=10, max_bytes=1000, max_wait_ms=0.0, eager=False)
    waiting = Batcher(policy, choose)
    waiting.add(batch([1]), 1, 100.0, is_idle=True)
    assert waiting.reason(100.0) == "wait"
    waiting.take()
    waiting.done(99.0, 101.0, 103.0)
    waiting.add(batch([2]), 1, 200.0, is_idle=True)

    assert seen == [
        Turn(rows=1, asked_ms=99.0, came_ms=100.0, polled_ms=101.0, done_ms=103.0, is_drained=True)
    ]
    assert waiting.reason(206.0) is None
    assert waiting.reason(207.0) == "wait"
    assert waiting.room == 1
