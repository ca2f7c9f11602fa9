"""Latencies in classes: percentiles as exact as promised, and sums of workers as if there were one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.latency_window import LatencyWindow, from_sparse, percentiles_ms, to_sparse

SHARES = (0.5, 0.9, 0.99, 0.999)
SECONDS = st.lists(st.floats(2e-4, 500.0), min_size=1, max_size=400)


def window(*many: list[float]) -> LatencyWindow:
    made = LatencyWindow()
    for values in many:
        made.add(np.array(values))
    return made


@given(SECONDS)
def test_a_percentile_is_told_to_within_two_and_a_half_percent(values: list[float]) -> None:
    told = percentiles_ms(window(values).counts(), SHARES)

    exact = np.percentile(np.array(values) * 1000, [100 * share for share in SHARES], method="inverted_cdf")
    assert told == pytest.approx(exact.tolist(), rel=0.026)


@given(SECONDS, SECONDS)
def test_counts_of_two_workers_add_up_to_those_of_one(ours: list[float], theirs: list[float]) -> None:
    together = window(ours).counts() + window(theirs).counts()

    assert together.tolist() == window(ours, theirs).counts().tolist()


@given(SECONDS)
def test_counts_come_back_as_they_were_written(values: list[float]) -> None:
    counts = window(values).counts()

    assert from_sparse(to_sparse(counts)).tolist() == counts.tolist()


def test_nothing_has_no_percentile() -> None:
    assert percentiles_ms(LatencyWindow().counts(), SHARES) == [None] * 4


def test_what_is_shorter_or_longer_than_any_class_is_counted_at_the_ends() -> None:
    assert int(window([0.0, -1.0, 1e9]).counts().sum()) == 3


def test_classes_that_there_are_not_are_left_out() -> None:
    assert int(from_sparse({"9999": 1, "-1": 1, "x": 1, "400": 1}).sum()) == 0
