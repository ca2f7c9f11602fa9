"""Figures of two versions are those of the books; guards stop what is worse and leave alone what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from worker.comparison import Comparison, Trip, is_ratio_beyond, precision_trip, psi, spearman
from worker.rollout_types import Guards

Floats = NDArray[np.float32]
SMALL = hnp.arrays(np.float32, st.integers(2, 40), elements=st.integers(0, 6).map(float))


def slow_ranks(values: Floats) -> list[float]:
    """The mean place of each among all, in order."""
    return [sum((v < x) + (v == x) / 2 for v in values.tolist()) + 0.5 for x in values.tolist()]


@settings(deadline=None)
@given(SMALL, st.randoms(use_true_random=False))
def test_rank_correlation_is_that_of_mean_ranks(a: Floats, chance: object) -> None:
    b = a.copy()
    np.random.default_rng(chance.randrange(2**32)).shuffle(b)  # type: ignore[attr-defined]
    ranks = np.array([slow_ranks(a), slow_ranks(b)])

    found = spearman(a, b)

    if len(set(a.tolist())) < 2:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-9)


def test_psi_of_the_same_is_nothing_and_of_a_shift_what_the_books_say() -> None:
    rng = np.random.default_rng(1)
    same = [rng.normal(size=20_000).astype(np.float32) for _ in range(2)]
    assert psi(*same) < 0.01
    assert psi(same[0], same[1] + np.float32(1)) > 0.25, "beyond 0.25 a population is called another one"
    assert psi(same[0], same[0][:0]) == 0


@settings(deadline=None)
@given(st.integers(0, 80), st.integers(0, 80), st.floats(1.1, 5))
def test_a_ratio_is_surely_beyond_when_the_binomial_tail_says_so(old: int, new: int, most: float) -> None:
    few, total = min(old, new), old + new
    share = 1 / (1 + most)
    tail = sum(math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(few + 1))

    assert is_ratio_beyond(old, new, most) == (few < total * share and tail < 1e-5)


def events(n: int, seed: int) -> Floats:
    """Scores as a fraud model gives them: most near nothing, one in a hundred high."""
    rng = np.random.default_rng(seed)
    low = rng.beta(1, 60, n)
    high = rng.beta(6, 2, n)
    return np.where(rng.random(n) < 0.01, high, low).astype(np.float32)


def told(old: Floats, new: Floats, guards: Guards, times: tuple[float, float] = (1e-3, 1e-3)) -> Trip | None:
    """The first guard that speaks, over batches of a hundred."""
    comparison = Comparison(guards, 0.5, alerts_below=False)
    for start in range(0, len(old), 100):
        part = slice(start, start + 100)
        trip = comparison.add(old[part], new[part], *times)
        if trip is not None:
            return trip
    return None


@pytest.mark.parametrize("seed", range(20))
def test_a_version_as_good_is_left_alone(seed: int) -> None:
    """The same signal, other noise, and as many alerts."""
    old = events(60_000, seed)
    noise = np.random.default_rng(seed + 100).normal(0, 0.005, len(old))
    new = np.clip(old + noise, 0, 1).astype(np.float32)

    assert told(old, new, Guards()) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_version_that_knows_nothing_is_found_within_a_few_thousand_events(seed: int) -> None:
    old = events(10_000, seed)
    new = np.random.default_rng(seed).normal(0.008, 0.001, len(old)).astype(np.float32)

    trip = told(old, new, Guards())

    assert trip is not None
    assert trip.guard == "alert_ratio"


@pytest.mark.parametrize(
    ("guard", "changes"),
    [
        ("alert_ratio", lambda old: np.clip(old * 30, 0, 1)),
        ("rank_correlation", lambda old: np.random.default_rng(5).permutation(old)),
        ("error_share", lambda old: np.where(np.arange(len(old)) % 50 == 0, np.nan, old)),
        ("score_psi", lambda old: old / 2),
    ],
)
def test_each_guard_speaks_for_itself(guard: str, changes: object) -> None:
    old = events(20_000, 3)
    off = dict.fromkeys(("error_share", "slowdown", "alert_ratio", "rank_correlation", "score_psi"))
    limits = {"error_share": 0.001, "alert_ratio": 3.0, "rank_correlation": 0.1, "score_psi": 0.25}
    only = Guards(**{**off, guard: limits[guard]})  # type: ignore[arg-type]
    new = np.asarray(changes(old), np.float32)  # type: ignore[operator]

    trip = told(old, new, only)
    silent = told(old, new, Guards(**off))  # type: ignore[arg-type]

    assert trip is not None
    assert trip.guard == guard
    assert silent is None
    assert guard in str(trip)


def test_precision_is_judged_by_labels_and_only_where_they_leave_no_doubt() -> None:
    good = (400, 320)

    assert precision_trip(good, (0, 0), 1.5) is None
    assert precision_trip((0, 0), (50, 5), 1.5) is None
    assert precision_trip(good, (5, 0), 1.5) is None, "five are too few to tell"
    assert precision_trip(good, (400, 300), 1.5) is None
    trip = precision_trip(good, (100, 20), 1.5)
    assert trip is not None
    assert (trip.guard, trip.found, trip.events) == ("precision", 0.2, 100)


def test_a_version_that_is_much_slower_is_found() -> None:
    old = events(10_000, 1)
    assert told(old, old, Guards(), (1e-3, 4e-3)) is None
    trip = told(old, old, Guards(), (1e-3, 6e-3))
    assert trip is not None
    assert trip.guard == "slowdown"


def test_no_guard_speaks_before_there_is_enough_to_tell_from() -> None:
    old = events(1_900, 1)
    assert told(old, np.zeros_like(old), Guards(min_events=2_000)) is None
