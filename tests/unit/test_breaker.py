"""The breaker stops a bad deploy and forgives single bad records."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.breaker import DeadLetterBreaker
from worker.exits import Exit, StopWorker

MINUTE_MS = 60_000.0


def test_more_than_the_share_of_enough_records_stops_the_worker_and_says_which_setting() -> None:
    breaker = DeadLetterBreaker(0.5, 10)

    breaker.add(0.0, 10, 5)
    with pytest.raises(StopWorker, match=r"stop_share") as stopped:
        breaker.add(1.0, 1, 1)

    assert stopped.value.code is Exit.DEAD_LETTERS


def test_too_few_records_never_stop_the_worker() -> None:
    breaker = DeadLetterBreaker(0.5, 10)

    breaker.add(0.0, 9, 9)
    with pytest.raises(StopWorker):
        breaker.add(0.0, 1, 1)


def test_what_is_older_than_a_minute_is_forgotten() -> None:
    breaker = DeadLetterBreaker(0.5, 10)

    breaker.add(0.0, 8, 8)
    breaker.add(MINUTE_MS, 8, 1)
    breaker.add(MINUTE_MS + 1, 8, 4)


def test_good_records_after_the_bad_ones_do_not_stop_it_late() -> None:
    breaker = DeadLetterBreaker(0.5, 10)

    breaker.add(0.0, 9, 9)
    breaker.add(1.0, 5, 0)


def test_a_share_of_one_never_stops_and_of_nothing_stops_at_the_first() -> None:
    DeadLetterBreaker(1.0, 1).add(0.0, 100, 100)
    with pytest.raises(StopWorker):
        DeadLetterBreaker(0.0, 100).add(0.0, 100, 1)


def test_records_that_fail_after_they_were_counted_add_to_the_dead_only() -> None:
    breaker = DeadLetterBreaker(0.5, 10)

    breaker.add(0.0, 10, 0)
    with pytest.raises(StopWorker):
        breaker.add(1.0, 0, 6)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 20), st.integers(0, 20)), max_size=30),
    st.sampled_from([0.0, 0.25, 0.5, 0.9]),
)
def test_it_stops_exactly_when_the_last_minute_says_so(
    chunks: list[tuple[int, int, int]], share: float
) -> None:
    breaker, now_ms = DeadLetterBreaker(share, 20), 0.0
    past: list[tuple[float, int, int]] = []
    for gap_ms, good, dead in chunks:
        now_ms += gap_ms
        past.append((now_ms, good + dead, dead))
        minute = [(r, d) for t, r, d in past if t > now_ms - MINUTE_MS]
        records, bad = sum(r for r, _ in minute), sum(d for _, d in minute)
        if dead and records >= 20 and bad > share * records:
            with pytest.raises(StopWorker):
                breaker.add(now_ms, good + dead, dead)
            return
        breaker.add(now_ms, good + dead, dead)
