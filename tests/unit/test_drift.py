"""Counts by bin, PSI, and the sequential test: against their definitions, and their stated false alarms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from worker.drift import Bins, Drift, DriftPolicy, Evidence, bins_of, psi
from worker.references import distribution
from worker.watch_kernels import count_bins

POLICY = DriftPolicy(window_events=1000, psi=0.25, tolerance=0.05, false_alarm_events=1e6)
NO_RATES = np.zeros(0)


def reference(rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Training rows of a continuous, a skewed, a counted and a mostly empty feature."""
    n = 20_000
    return {
        "normal": rng.normal(50, 10, n).astype(np.float32),
        "skewed": rng.lognormal(3, 1, n).astype(np.float32),
        "count": rng.poisson(3, n).astype(np.float32),
        "rare": (rng.random(n) < 0.03).astype(np.float32) * rng.random(n).astype(np.float32),
    }


def bins_for(rows: dict[str, NDArray[np.float32]]) -> Bins:
    """Bins as a card would give them."""
    cards = [distribution(column) for column in rows.values()]
    return bins_of(tuple(rows), [(card["edges"], card["shares"]) for card in cards])


def drift_of(rows: dict[str, NDArray[np.float32]], rates: NDArray[np.float64], policy: DriftPolicy) -> Drift:
    """A watch of these features."""
    return Drift(bins_for(rows), np.full(len(rows), policy.tolerance), rates, policy)


def draw(rows: dict[str, NDArray[np.float32]], n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(n, k) events of the same distributions."""
    return np.column_stack([rng.choice(column, n) for column in rows.values()])


def fed(drift: Drift, x: NDArray[np.float32]) -> list[bool]:
    """For each judgement, whether any column has shifted or is apart."""
    judged = drift.add(x, np.ones(len(x), np.bool_), np.zeros((len(x), 0), np.bool_))
    return [bool(j.has_shifted.any() or j.is_apart.any()) for j in judged]


@given(
    x=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=50),
    edges=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=12, unique=True).map(sorted),
)
def test_a_value_is_counted_in_the_bin_that_ends_at_or_above_it(x: list[float], edges: list[float]) -> None:
    counts, missing = np.zeros((1, len(edges) + 1), np.int64), np.zeros(1, np.int64)

    count_bins(np.array([*x, np.nan], np.float32)[:, None], np.array([edges], np.float32), counts, missing)

    expected = [0] * (len(edges) + 1)
    for value in x:
        expected[sum(value > edge for edge in edges)] += 1
    assert counts[0].tolist() == expected
    assert missing.tolist() == [1]


@given(counts=st.lists(st.integers(0, 1000), min_size=3, max_size=3), seed=st.integers(0, 9))
def test_psi_is_the_definition_over_the_shares_of_the_bins(counts: list[int], seed: int) -> None:
    shares = np.random.default_rng(seed).dirichlet([1, 1, 1]).tolist()
    bins = bins_of(("a", "b"), [([1.0, 2.0], shares), ([0.0], [0.7, 0.3])])

    found = psi(np.array([counts, [7, 3, 0]]), bins)

    live = [(count + 0.5) / (sum(counts) + 1.5) for count in counts]
    known = [max(share, 1e-4) / sum(max(s, 1e-4) for s in shares) for share in shares]
    expected = sum((p - q) * math.log(p / q) for p, q in zip(live, known, strict=True))
    assert found[0] == pytest.approx(expected, rel=1e-9)
    p = 7.5 / 11
    assert found[1] == pytest.approx((p - 0.7) * math.log(p / 0.7) + (0.7 - p) * math.log((1 - p) / 0.3))


def test_the_mean_rank_of_the_training_rows_is_one_half() -> None:
    bins = bins_for(reference(np.random.default_rng(0)))

    assert (bins.shares * bins.ranks).sum(axis=1) == pytest.approx(0.5)


def test_evidence_is_the_product_of_the_bets_on_every_value_summed_over_where_it_began() -> None:
    values = np.array([[0.1, 0.5, 0.9]])
    evidence = Evidence(values, np.array([0.5]), np.array([0.05]), POLICY)
    rng = np.random.default_rng(1)
    blocks = [rng.integers(0, 40, (1, 3)) for _ in range(6)]

    found = [bool(evidence.add(block)[0]) for block in blocks]

    (bet,) = POLICY.bets(np.array([0.05])).tolist()
    up = down = 0.0
    for block, was in zip(blocks, found, strict=True):
        up, down = up + 1, down + 1
        for z, times in zip(values[0], block[0], strict=True):
            up *= (1 + bet * (z - 0.55)) ** times
            down *= (1 + bet * (0.45 - z)) ** times
        assert was == ((up + down) / 2 >= math.exp(POLICY.log_limit))


def _blocks_to_alarm(mean: float, policy: DriftPolicy, runs: int, at_most: int) -> float:
    """Mean number of blocks until the test of a rank with this mean alarms, over many runs at once."""
    rng = np.random.default_rng(5)
    values = np.tile(np.array([0.0, 1.0]), (runs, 1))
    evidence = Evidence(values, np.full(runs, 0.5), np.full(runs, policy.tolerance), policy)
    took = np.full(runs, at_most)
    for block in range(at_most):
        hits = rng.binomial(policy.block_events, mean, runs)
        alarms = evidence.add(np.stack([policy.block_events - hits, hits], axis=1))
        took[alarms & (took == at_most)] = block + 1
    return float(took.mean())


@pytest.mark.parametrize("blocks", [20, 50])
def test_at_the_edge_of_its_tolerance_the_test_alarms_no_more_often_than_stated(blocks: int) -> None:
    policy = DriftPolicy(window_events=1000, psi=1.0, tolerance=0.05, false_alarm_events=100.0 * blocks)

    at_the_edge = _blocks_to_alarm(0.55, policy, runs=400, at_most=40 * blocks)
    beyond = _blocks_to_alarm(0.65, policy, runs=400, at_most=40 * blocks)

    assert at_the_edge >= blocks
    assert at_the_edge <= 20 * blocks  # stated, and not by never alarming
    assert beyond <= 20


def test_a_mean_within_the_tolerance_is_no_drift_for_a_million_events() -> None:
    rng = np.random.default_rng(6)
    rows = reference(rng)
    drift = drift_of(rows, NO_RATES, POLICY)

    alarms = [alarm for _ in range(10) for alarm in fed(drift, draw(rows, 100_000, rng))]

    assert len(alarms) == 10_000
    assert not any(alarms)


@pytest.mark.parametrize("column", range(4))
def test_half_a_standard_deviation_is_found_within_a_window(column: int) -> None:
    rng = np.random.default_rng(7)
    rows = reference(rng)
    policy = DriftPolicy(window_events=10_000, psi=0.25, tolerance=0.05, false_alarm_events=1e7)
    drift = drift_of(rows, NO_RATES, policy)
    assert not any(fed(drift, draw(rows, 30_000, rng)))
    shifted = draw(rows, 10_000, rng)
    shifted[:, column] += np.float32(0.5 * rows[list(rows)[column]].std())

    assert any(fed(drift, shifted))


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 2999), max_size=12, unique=True).map(sorted), seed=st.integers(0, 3))
def test_judgements_do_not_depend_on_how_events_are_cut_into_calls(cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = reference(rng)
    x = draw(rows, 3000, rng)
    x[1500:, 0] += 8
    whole, hits = rng.random(3000) < 0.9, rng.random((3000, 1)) < 0.3
    policy = DriftPolicy(window_events=1000, psi=0.25, tolerance=0.05, false_alarm_events=1e5)

    at_once = drift_of(rows, np.zeros(1), policy).add(x, whole, hits)
    drift = drift_of(rows, np.zeros(1), policy)
    parts = []
    for begin, end in zip([0, *cuts], [*cuts, 3000], strict=True):
        parts += drift.add(x[begin:end], whole[begin:end], hits[begin:end])

    assert len(at_once) == len(parts) == 30
    for one, other in zip(at_once, parts, strict=True):
        for name in ("psi", "mean_rank", "missing", "rates", "is_apart", "has_shifted", "is_frequent"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert at_once[-1].has_shifted[0]
    assert at_once[-1].is_frequent[0]


def test_what_is_over_within_a_window_is_no_shift() -> None:
    rng = np.random.default_rng(10)
    rows = reference(rng)
    policy = DriftPolicy(window_events=10_000, psi=0.25, tolerance=0.05, false_alarm_events=1e7)
    drift = drift_of(rows, NO_RATES, policy)
    x = draw(rows, 100_000, rng)
    for day in range(10):  # at night values are lower by far, by day a little higher
        x[10_000 * day : 10_000 * day + 2_000, 0] -= 14
        x[10_000 * day + 2_000 : 10_000 * (day + 1), 0] += 2

    assert not any(fed(drift, x))


def test_values_that_do_not_come_any_more_are_missing_and_not_a_shift() -> None:
    rng = np.random.default_rng(8)
    rows = reference(rng)
    drift = drift_of(rows, NO_RATES, POLICY)
    x = draw(rows, 3000, rng)
    x[1000:, 1] = np.nan

    judged = drift.add(x, np.ones(3000, np.bool_), np.zeros((3000, 0), np.bool_))

    assert judged[-1].is_missing.tolist() == [False, True, False, False]
    assert not any(judgement.has_shifted.any() for judgement in judged)


def test_a_card_says_shares_that_add_up_and_edges_that_are_the_same_float32() -> None:
    rng = np.random.default_rng(9)
    for column in reference(rng).values():
        card = distribution(column, default=0.0)
        edges = np.array(card["edges"], np.float32)
        assert sum(card["shares"]) == pytest.approx(1, abs=1e-5)
        assert np.isin(edges, column).all()
        assert card["default_share"] == pytest.approx((column == 0).mean(), abs=1e-6)
