"""Every event has its outcomes counted once, and its latency counted from when it was due."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from loadgen.growing import Growing
from loadgen.ledger import Ledger
from loadgen.outcomes import Outcomes
from loadgen.report import latency_histogram, latency_summary, per_second, quality, report, roc_auc


def sent(n: int, *, name: str = "fraud", first_number: int = 50, gap_s: float = 0.01) -> Outcomes:
    ledger = Ledger(name)
    ledger.origin_s = 1000.0
    due_s: NDArray[np.float64] = np.arange(n, dtype=np.float64)
    ledger.plan(first_number, gap_s * due_s, due_s % 2, np.zeros(n, np.int8))
    ledger.sent = n
    return Outcomes(ledger)


def scored(outcomes: Outcomes, numbers: list[int], read_s: float | list[float], score: float = 0.5) -> None:
    at_s = np.broadcast_to(np.array(read_s, float), (len(numbers),))
    index = outcomes.ledger.index_of(np.array(numbers, np.int64))
    outcomes.add_scores(index, np.full(len(numbers), score, np.float32), at_s)


def test_an_event_without_outcome_is_unaccounted() -> None:
    outcomes = sent(10)
    scored(outcomes, [50, 51, 52], 1001.0)
    outcomes.add_dead_letters(np.array([3]), np.array([1001.0]), ["truncated"])

    found = report(outcomes)

    assert (found["scores"], found["dead_letters"], found["unaccounted"]) == (3, 1, 6)
    assert found["dead_letter_reasons"] == {"truncated": 1}
    assert outcomes.live(1001.0).in_flight == 6


def test_a_second_score_is_a_duplicate_and_changes_neither_latency_nor_score() -> None:
    outcomes = sent(2)
    scored(outcomes, [50, 50, 51], [1000.5, 1000.7, 1000.6], score=0.25)
    scored(outcomes, [50], 1002.0, score=0.75)

    found = report(outcomes)

    assert (found["scores"], found["duplicates"], found["unaccounted"]) == (2, 2, 0)
    assert found["latency_ms"]["max"] == pytest.approx(590, rel=1e-3)
    assert outcomes.score.values.tolist() == [0.25, 0.25]


def test_an_event_with_a_score_and_a_dead_letter_is_reported() -> None:
    outcomes = sent(1)
    scored(outcomes, [50], 1000.5)
    outcomes.add_dead_letters(np.array([0]), np.array([1000.6]), ["x"])

    found = report(outcomes)

    assert (found["scored_and_dead"], found["duplicates"], found["unaccounted"]) == (1, 1, 0)


def test_outcomes_of_somebody_elses_events_are_foreign() -> None:
    outcomes = sent(3)
    scored(outcomes, [49, 53, 50], 1000.5)

    found = report(outcomes)

    assert (found["foreign"], found["scores"], found["unaccounted"]) == (2, 1, 2)


def test_latency_counts_from_the_intended_time_of_each_event() -> None:
    outcomes = sent(100, gap_s=0.01)
    scored(outcomes, list(range(50, 150)), 1001.0)  # everything comes at once, after a stall

    latency = report(outcomes)["latency_ms"]

    assert latency["max"] == pytest.approx(1000, rel=1e-3)
    assert latency["p50"] == pytest.approx(505, abs=10)


def test_a_source_offset_finds_its_event() -> None:
    ledger = Ledger("fraud", by_source=True)
    ledger.plan(7, np.zeros(4), np.zeros(4), np.zeros(4, np.int8))
    for number, partition, offset in [(7, 0, 900), (8, 1, 5), (9, 0, 901), (10, 0, 903)]:
        ledger.receive(number, partition, offset)

    found = ledger.index_at(np.array([0, 1, 0, 0, 0, 0, 1, 2]), np.array([900, 5, 901, 902, 903, 904, 4, 0]))

    assert found.tolist() == [0, 1, 2, -1, 3, -1, -1, -1]


def test_event_numbers_with_a_gap_are_refused() -> None:
    ledger = Ledger("fraud")
    ledger.plan(7, np.zeros(4), np.zeros(4), np.zeros(4, np.int8))
    with pytest.raises(ValueError, match="found 12, expected 11"):
        ledger.plan(12, np.zeros(1), np.zeros(1), np.zeros(1, np.int8))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 10_000_000), min_size=1, max_size=300))
def test_percentiles_equal_the_slow_reference_to_three_digits(latencies_us: list[int]) -> None:
    found = latency_summary(latency_histogram(np.array(latencies_us) / 1e6))

    ordered = sorted(latencies_us)
    for p in (50.0, 90.0, 99.0, 99.9):
        rank = min(len(ordered), max(1, int(p / 100 * len(ordered) + 0.5)))
        value = found[f"p{p:g}"]
        assert value is not None
        assert value == pytest.approx(ordered[rank - 1] / 1000, rel=2e-3, abs=2e-3)
    assert found["max"] == pytest.approx(ordered[-1] / 1000, rel=2e-3, abs=2e-3)


def test_a_run_without_any_score_has_no_latency() -> None:
    found = report(sent(3))

    assert found["latency_ms"]["p99"] is None
    assert found["latency_curve_ms"] == []
    assert found["unaccounted"] == 3


def test_a_run_without_any_event_can_be_reported() -> None:
    assert report(Outcomes(Ledger("fraud")))["events"] == 0


def test_seconds_hold_the_events_due_then() -> None:
    due_s = np.array([0.1, 0.9, 1.5, 3.2])
    latency_s = np.array([0.1, 0.3, np.nan, 0.5])

    found = per_second(due_s, latency_s, due_s + latency_s)

    assert found["events"] == [2, 1, 0, 1]
    assert found["outcomes"] == [1, 1, 0, 1]
    assert found["p50_ms"] == [pytest.approx(200), None, None, pytest.approx(500)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60))
def test_the_area_under_the_curve_equals_counting_pairs(rows: list[tuple[int, bool]]) -> None:
    score = np.array([float(value) for value, _ in rows])
    positive = np.array([is_positive for _, is_positive in rows])

    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]

    assert roc_auc(score, positive) == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_remaining_life_is_judged_with_the_truth_capped() -> None:
    found = quality("maintenance", np.array([125, 20], np.float32), np.array([200, 23], np.float32))

    assert found["rmse"] == pytest.approx(np.sqrt(9 / 2))
    assert found["rmse_uncapped"] == pytest.approx(np.sqrt((75**2 + 9) / 2))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 50)), max_size=20))
def test_a_growing_column_keeps_what_was_written(writes: list[tuple[int, int]]) -> None:
    column, reference = Growing("i8", -1), np.full(20_050, -1)
    for n, (at, length) in enumerate(writes):
        column.put(at, np.full(length, n))
        reference[at : at + length] = n

    assert np.array_equal(column.values, reference[: len(column.values)])
    assert len(column.values) == max((at + length for at, length in writes), default=0)


def test_the_live_view_shows_the_recent_past_only() -> None:
    outcomes = sent(1000, gap_s=0.01)
    scored(outcomes, list(range(50, 450)), 1004.0)
    scored(outcomes, list(range(450, 1050)), 1010.0)

    live = outcomes.live(1010.5, over_s=2.0)

    assert (live.sent, live.scores, live.in_flight) == (1000, 1000, 0)
    assert live.scores_per_s == 300
    assert live.sent_per_s == pytest.approx(75, abs=1)
    assert live.p99_ms == pytest.approx(5940, rel=0.01)
