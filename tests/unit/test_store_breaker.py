"""A server that does not answer is asked rarely, and found again soon after it is back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feature_cache.breaker import Breaker

OPENS_AFTER = 3
LONGEST_S = 1.0


def opened(chance: float = 1.0) -> Breaker:
    """A breaker that has just seen enough calls go unanswered, at second 0."""
    breaker = Breaker(opens_after=OPENS_AFTER, longest_pause_s=LONGEST_S, chance=lambda: chance)
    for _ in range(OPENS_AFTER):
        assert breaker.lets_through(0.0)
        breaker.unanswered(0.0)
    return breaker


def test_a_few_lost_answers_stop_nothing() -> None:
    breaker = Breaker(opens_after=OPENS_AFTER)
    assert not breaker.doubts

    for _ in range(20):
        for _ in range(OPENS_AFTER - 1):
            breaker.unanswered(0.0)
            assert breaker.lets_through(0.0)
            assert breaker.doubts
        breaker.answered()
        assert not breaker.doubts


def test_several_in_a_row_do_and_one_call_a_pause_finds_out() -> None:
    breaker = opened()

    assert not breaker.lets_through(0.09)
    assert breaker.lets_through(0.1)
    assert not breaker.lets_through(0.1), "a second one beside the one that finds out"


def test_pauses_grow_up_to_the_longest() -> None:
    breaker, now_s, pauses = opened(), 0.0, []

    for _ in range(8):
        asked_s = now_s
        while not breaker.lets_through(now_s):
            now_s += 0.01
        pauses.append(round(now_s - asked_s, 2))
        breaker.unanswered(now_s)

    assert pauses == sorted(pauses)
    assert pauses[0] < 0.2
    assert pauses[-1] <= LONGEST_S + 0.02


def test_one_answer_lets_everything_through_again() -> None:
    breaker = opened()
    assert breaker.lets_through(5.0)

    breaker.answered()

    assert all(breaker.lets_through(5.0) for _ in range(10))


def test_a_call_that_never_says_how_it_went_blocks_nobody_for_long() -> None:
    breaker = opened()
    assert breaker.lets_through(1.0)

    assert breaker.lets_through(1.0 + LONGEST_S)


@given(st.floats(0, 1), st.integers(0, 50))
def test_chance_makes_a_pause_shorter_by_half_at_most(chance: float, more: int) -> None:
    breaker = opened(chance)
    for _ in range(more):
        breaker.unanswered(0.0)
    longest_s = min(LONGEST_S, 0.1 * 2**more)

    assert not breaker.lets_through(longest_s * 0.49)
    assert breaker.lets_through(longest_s)
