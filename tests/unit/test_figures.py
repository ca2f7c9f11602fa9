"""Figures of what was counted equal those of the scores themselves, or say how far they may be off."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from worker.accuracy import auc, average_precision
from worker.figures import SCORE_UNITS, VALUE_UNITS, Figures, figures, groups, together
from worker.score_bins import levels, score_bins, tenths

THRESHOLDS = (0.2, 0.9)
PROBABILITIES = st.one_of(
    st.floats(0, 1, width=32),
    st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0, 0.1]).map(lambda x: float(np.float32(x))),
    st.integers(0, 5).map(lambda i: float(np.float32(0.3 + i * 1e-6))),  # of one bin
    st.floats(-12, 12).map(lambda x: float(np.float32(1 / (1 + np.exp(-x))))),
)
ANY_SCORES = st.floats(allow_nan=False, allow_infinity=False, width=32)
LABELS = st.sampled_from([0, 0, 1, None])


def counted(
    scores: NDArray[np.float32],
    labels: list[int | None],
    values: list[int] | None = None,
    *,
    thresholds: tuple[float, ...] = THRESHOLDS,
    alert_below: bool = False,
) -> Counter[str]:
    """The counts of these events, one by one."""
    cells: Counter[str] = Counter()
    level = levels(scores, thresholds, alert_below=alert_below)
    for row, (score_bin, tenth) in enumerate(zip(score_bins(scores), tenths(scores), strict=True)):
        label = "n" if labels[row] is None else labels[row]
        cells[f"n {score_bin}.{level[row]}.{tenth} {label}"] += 1
        if tenth >= 0:
            cells[f"s {tenth} {label}"] += round(float(scores[row]) * SCORE_UNITS)
        if values is not None:
            cells[f"v {level[row]} {label}"] += values[row] * VALUE_UNITS
    return cells


def of(scores: list[float], labels: list[int | None], **more: Any) -> Figures:
    """Figures of events."""
    below = more.get("alert_below", False)
    return figures(
        counted(np.array(scores, np.float32), labels, **more),
        len(more.get("thresholds", THRESHOLDS)),
        alert_below=below,
    )


@given(st.lists(ANY_SCORES, min_size=2, max_size=50))
def test_the_greater_of_two_scores_is_never_in_the_lower_bin(scores: list[float]) -> None:
    ordered = np.sort(np.array(scores, np.float32))

    assert (np.diff(score_bins(ordered)) >= 0).all()


def test_bins_are_narrow_at_both_ends_of_a_probability_and_few() -> None:
    every = np.arange(0, np.float32(1).view(np.int32) + 1, 997, dtype=np.int32).view(np.float32)
    bins = score_bins(every)

    assert len(np.unique(bins)) <= 1474
    for near, of_all in ((every, every), (1 - every, (1 - every)[every > 0.5])):
        inside = (near > 2**-23) & (near <= 0.5) & np.isin(near, of_all)
        lows = np.full(bins.max() + 1, np.inf)
        highs = np.zeros(bins.max() + 1)
        np.minimum.at(lows, bins[inside], near[inside])
        np.maximum.at(highs, bins[inside], near[inside])
        used = np.isfinite(lows)
        assert (highs[used] <= lows[used] * (1 + 1 / 32)).all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scores", [PROBABILITIES, ANY_SCORES], ids=["probabilities", "anything"])
@given(data=st.data())
def test_exact_average_precision_and_auc_lie_between_the_bounds(
    scores: st.SearchStrategy[float], sign: int, data: st.DataObject
) -> None:
    events = data.draw(st.lists(st.tuples(scores, LABELS), min_size=2, max_size=40))
    score = np.array([s for s, label in events if label is not None], np.float32)
    truth = np.array([label for _, label in events if label is not None], np.int64)

    found = of([s for s, _ in events], [label for _, label in events], alert_below=sign < 0).ranking

    if not truth.sum() or truth.all():
        assert found.average_precision is found.auc is None
        return
    exact, exact_auc = average_precision(truth, sign * score), auc(truth, sign * score)
    slack = 1e-9
    assert found.average_precision_low is not None
    assert found.average_precision_high is not None
    assert found.average_precision is not None
    assert found.auc_low is not None
    assert found.auc_high is not None
    assert found.average_precision_low - slack <= exact <= found.average_precision_high + slack
    assert found.auc_low - slack <= exact_auc <= found.auc_high + slack
    low, high = found.average_precision_low, found.average_precision_high
    assert low - slack <= found.average_precision <= high + slack


def test_the_bounds_of_a_usual_model_are_close_together() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random(50_000) < 0.01
    score = (1 / (1 + np.exp(-rng.normal(np.where(truth, 2.0, -4.0), 2.0)))).astype(np.float32)

    known = truth.astype(np.int64)

    found = of(score.tolist(), known.tolist()).ranking

    assert found.average_precision == pytest.approx(average_precision(known, score), abs=0.01)
    assert found.auc == pytest.approx(auc(known, score), abs=0.001)
    assert found.average_precision_high is not None
    assert found.average_precision_low is not None
    assert found.average_precision_high - found.average_precision_low < 0.1


@given(
    st.lists(st.tuples(PROBABILITIES, LABELS, st.integers(-5, 1000)), min_size=1, max_size=40), st.booleans()
)
def test_counts_and_values_at_thresholds_are_exact(
    events: list[tuple[float, int | None, int]], alert_below: bool
) -> None:
    thresholds = THRESHOLDS[::-1] if alert_below else THRESHOLDS
    scores, labels, values = (list(column) for column in zip(*events, strict=True))
    found = of(scores, labels, values=values, thresholds=thresholds, alert_below=alert_below)

    assert found.scored == len(events)
    assert found.labelled == sum(label is not None for label in labels)
    assert found.positives == labels.count(1)
    for threshold, at in zip(thresholds, found.thresholds, strict=True):
        limit = np.float32(threshold)
        hits = [
            (label, value)
            for score, label, value in events
            if label is not None and (score <= limit if alert_below else score >= limit)
        ]
        right = [value for label, value in hits if label == 1]
        assert (at.flagged, at.right) == (len(hits), len(right))
        assert at.precision == (len(right) / len(hits) if hits else None)
        assert at.recall == (len(right) / labels.count(1) if 1 in labels else None)
        assert at.value_saved == sum(right)
        assert at.value_missed == sum(v for _, label, v in events if label == 1) - sum(right)
        assert at.value_stopped == sum(v for label, v in hits if label == 0)


@given(arrays(np.float32, st.integers(1, 60), elements=PROBABILITIES), st.randoms())
def test_calibration_is_that_of_ten_equal_bins(scores: NDArray[np.float32], random: Any) -> None:
    labels = [random.choice([0, 1, None]) for _ in scores]
    found = of(scores.tolist(), labels)
    known = np.array([label is not None for label in labels])
    truth = np.array([label or 0 for label in labels])
    tenth = np.minimum(scores.astype(np.float64) * 10, 9).astype(int)

    error = 0.0
    for i, bin_ in enumerate(found.tenths):
        inside = known & (tenth == i)
        if not inside.any():
            assert bin_ is None
            continue
        assert bin_ is not None
        assert bin_.events == inside.sum()
        assert bin_.mean_score == pytest.approx(scores[inside].astype(np.float64).mean(), abs=1e-6)
        assert bin_.positive_share == truth[inside].mean()
        apart = abs(scores[inside].astype(np.float64).mean() - truth[inside].mean())
        error += inside.sum() / known.sum() * apart
    if known.any():
        assert found.calibration_error == pytest.approx(error, abs=2e-6)
    else:
        assert found.calibration_error is None


def test_scores_that_are_no_probabilities_have_no_calibration() -> None:
    assert of([0.5, 12.0], [1, 0]).tenths == ()
    assert of([0.5, 0.7], [1, 0], thresholds=(), alert_below=True).calibration_error is None


def test_the_yield_of_alerts_is_the_share_of_the_labelled_ones_that_were_right() -> None:
    cells = {"n 1.1.0 1": 5, "n 1.1.0 0": 5, "a 1 1": 2, "a 2 1": 1, "a 1 0": 1, "a 1 n": 7}

    found = figures(cells, 2, alert_below=False)

    assert (found.alerts, found.alerts_labelled, found.alerts_right) == (11, 4, 3)
    assert found.alert_yield == 0.75


def test_events_without_a_label_become_negatives_in_buckets_that_are_over() -> None:
    buckets = {1: {"v s n 9.1.0 n": 4, "v s a 1 n": 1}, 2: {"v s n 9.1.0 n": 3, "v s n 9.1.0 1": 2}}

    kept, judged = groups(buckets, None)["v", "s"], groups(buckets, 2)["v", "s"]

    assert kept == {"n 9.1.0 n": 7, "a 1 n": 1, "n 9.1.0 1": 2}
    assert judged == {"n 9.1.0 0": 4, "n 9.1.0 n": 3, "a 1 0": 1, "n 9.1.0 1": 2}
    assert together([kept, judged])["n 9.1.0 n"] == 10
