"""An interval holds the truth of new rows as often as it says, in each bin, and costs no loop over rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from worker.interval import Interval, ends, fit_interval

INTERVAL = Interval(
    coverage=0.9, edges=(10.0, 50.0), low=(-2.0, -8.0, -20.0), high=(4.0, 10.0, 20.0), within=(0.0, 60.0)
)


def slow_ends(interval: Interval, score: float) -> tuple[float, float]:
    """Both ends around one score."""
    bin_ = sum(score >= edge for edge in interval.edges)
    low, high = score + interval.low[bin_], score + interval.high[bin_]
    if interval.within is not None:
        low, high = max(low, interval.within[0]), min(high, interval.within[1])
    return min(low, score), max(high, score)


@given(arrays.arrays(np.float32, st.integers(0, 20), elements=st.floats(-10, 90, width=32)))
def test_ends_equal_the_reference_and_enclose_the_score(scores: NDArray[np.float32]) -> None:
    low, high = ends(INTERVAL, scores)

    expected = np.array([slow_ends(INTERVAL, float(s)) for s in scores]).reshape(-1, 2)
    np.testing.assert_allclose(np.stack([low, high], axis=1), expected, rtol=1e-6, atol=1e-5)
    assert (low <= scores).all()
    assert (scores <= high).all()
    assert low.dtype == high.dtype == np.float32


def test_what_is_no_score_has_no_interval() -> None:
    low, high = ends(INTERVAL, np.array([np.nan, np.inf, 20], np.float32))

    assert np.isnan([low[:2], high[:2]]).all()
    assert (low[2], high[2]) == (12, 30)


def test_a_score_on_an_edge_belongs_to_the_bin_above() -> None:
    low, _ = ends(INTERVAL, np.array([9.999, 10], np.float32))

    assert low.tolist() == [pytest.approx(7.999), 2]


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_new_rows_lie_inside_as_often_as_stated_in_every_bin(coverage: float) -> None:
    """Errors are skewed and grow with the score; the ends follow them bin by bin."""
    random = np.random.default_rng(7)

    def rows(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scores = random.uniform(0, 100, n)
        return scores, scores + random.gumbel(0, 1 + scores / 10)

    edges = (20.0, 40.0, 60.0, 80.0)
    interval = fit_interval(*rows(20_000), coverage=coverage, edges=edges)
    scores, truth = rows(40_000)
    low, high = ends(interval, scores.astype(np.float32))
    inside = (low <= truth) & (truth <= high)

    for at in range(5):
        share = inside[np.searchsorted(edges, scores, side="right") == at].mean()
        assert share == pytest.approx(coverage, abs=0.03)


def test_an_end_is_the_rank_that_new_rows_need() -> None:
    """With 19 rows and 80 % the ends leave out a tenth each: the second largest and smallest of 19."""
    interval = fit_interval(np.zeros(19), np.arange(19.0), coverage=0.8, edges=())

    assert (interval.low, interval.high) == ((1.0,), (17.0,))


def test_a_bin_with_too_few_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="found 8 rows in bin 0, expected at least 9"):
        fit_interval(np.zeros(8), np.zeros(8), coverage=0.8, edges=())
