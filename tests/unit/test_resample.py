"""A resampled sequence is what a slow reference says of the readings that were known at the event's time."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feature_cache.layout import NEVER_US, SequenceGroup
from feature_cache.sequences import apply_sequences
from feature_cache.stretches import GroupArrays, empty_group

STEPS, EVERY_US = 5, 10
Fill = Literal["last", "linear", "mean"]
Reading = tuple[int, int, float]  # slot, time, value
FILLS: list[Fill] = ["last", "linear", "mean"]


def group_of(fill: Fill = "last", *, capacity: int = 100, **options: Any) -> SequenceGroup:
    """A group of two channels on a grid."""
    return SequenceGroup(
        name="s",
        fields=("a", "b"),
        length=STEPS,
        capacity=capacity,
        fill=fill,
        **{"every_us": EVERY_US, **options},
    )


def run(
    readings: list[Reading],
    group: SequenceGroup,
    *,
    cuts: tuple[int, ...] = (),
    forgotten_us: int = NEVER_US,
    resets: tuple[int, ...] = (),
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Sequences and flags; the second channel is the first with its sign turned. Cuts split into batches."""
    n = len(readings)
    out = np.full((n, STEPS, 2), np.inf, np.float32)
    late, incomplete = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    rows: GroupArrays = empty_group(group, 2)
    values = np.array([[v, -v] for _, _, v in readings], np.float32).reshape(n, 2)
    for begin, end in zip((0, *cuts), (*cuts, n), strict=True):
        part = readings[begin:end]
        apply_sequences(
            rows,
            np.array([slot for slot, _, _ in part], np.int64),
            np.array([t for _, t, _ in part], np.int64),
            values[begin:end],
            np.array([i in resets for i in range(begin, end)], np.bool_),
            np.full(len(part), forgotten_us, np.int64),
            out[begin:end],
            late[begin:end],
            incomplete[begin:end],
        )
    return out, incomplete


def slow_grid(known: list[tuple[int, float]], t: int, fill: Fill) -> list[float | None]:
    """The value at each point, oldest first; None before the first reading.

    known: times and values up to the event, itself last, by time and then by their place in the log.
    """
    grid: list[float | None] = []
    for j in range(STEPS):
        at = t - (STEPS - 1 - j) * EVERY_US
        before = [(u, v) for u, v in known if u <= at]
        after = [(u, v) for u, v in known if u > at]
        step = [v for u, v in known if at - EVERY_US < u <= at]
        if not before:
            grid.append(None)
        elif fill == "mean" and step:
            grid.append(sum(step) / len(step))
        elif fill == "linear" and after:
            (u0, v0), (u1, v1) = before[-1], after[0]
            grid.append(v0 + (v1 - v0) * (at - u0) / (u1 - u0))
        else:
            grid.append(before[-1][1])
    return grid


def known_at(readings: list[Reading], i: int) -> list[tuple[int, float]]:
    """What is known of the entity as of event i, itself last."""
    slot, t, value = readings[i]
    before = [(u, v) for s, u, v in readings[:i] if s == slot and u <= t]
    return [*sorted(before, key=lambda reading: reading[0]), (t, value)]


READINGS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 120), st.integers(-64, 64).map(float)),
    min_size=1,
    max_size=60,
)


@settings(deadline=None)
@given(READINGS, st.sampled_from(FILLS), st.data())
@example([(0, 0, 1.0), (0, 0, 2.0), (0, 25, 3.0), (0, 40, 4.0)], "linear", None)  # two at one time
def test_a_grid_equals_the_reference_wherever_batches_end(
    readings: list[Reading], fill: Fill, data: st.DataObject | None
) -> None:
    cut = data.draw(st.integers(0, len(readings))) if data is not None else 2

    out, incomplete = run(readings, group_of(fill), cuts=(cut,))

    for i in range(len(readings)):
        grid = slow_grid(known_at(readings, i), readings[i][1], fill)
        oldest = next(v for v in grid if v is not None)
        expected = [oldest if v is None else v for v in grid]
        np.testing.assert_allclose(out[i, :, 0], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(out[i, :, 1], -out[i, :, 0])
        assert incomplete[i] == (None in grid)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32 - 1), st.sampled_from(FILLS), st.integers(1, 30), st.integers(0, 30))
def test_a_grid_without_all_of_its_readings_says_so(seed: int, fill: Fill, capacity: int, begin: int) -> None:
    """A full row forgets its oldest readings, and a lane read from the middle never had them."""
    random = np.random.default_rng(seed)
    times = np.arange(80) * int(random.integers(1, 8)) + random.integers(-15, 15, 80)
    readings = [(int(random.integers(2)), int(t), float(v)) for v, t in enumerate(times)]
    whole, _ = run(readings, group_of(fill))

    full, is_full = run(readings, group_of(fill, capacity=capacity))
    missing = [t for _, t, _ in readings[:begin]]
    part, is_part = run(readings[begin:], group_of(fill), forgotten_us=max(missing) if missing else NEVER_US)

    np.testing.assert_allclose(full[~is_full], whole[~is_full], rtol=1e-6)
    np.testing.assert_allclose(part[~is_part], whole[begin:][~is_part], rtol=1e-6)


@settings(deadline=None)
@given(READINGS, st.sampled_from(FILLS), st.integers(1, STEPS), st.integers(1, 6))
def test_a_history_counts_from_as_many_points_as_the_file_says(
    readings: list[Reading], fill: Fill, complete_from: int, capacity: int
) -> None:
    whole, _ = run(readings, group_of(fill))

    out, incomplete = run(readings, group_of(fill, complete_from=complete_from))
    full, is_full = run(readings, group_of(fill, complete_from=complete_from, capacity=capacity))

    np.testing.assert_array_equal(out, whole)
    np.testing.assert_array_equal(full[~is_full], whole[~is_full])
    for i in range(len(readings)):
        grid = slow_grid(known_at(readings, i), readings[i][1], fill)
        assert incomplete[i] == (STEPS - grid.count(None) < complete_from)


@pytest.mark.parametrize("fill", FILLS)
def test_a_grid_equals_that_of_pandas(fill: Fill) -> None:
    """Irregular readings of one machine, no two at one time."""
    random = np.random.default_rng(3)
    times = np.cumsum(random.integers(1, 25, 200))
    values = random.normal(size=200).astype(np.float32)
    out, _ = run([(0, int(t), float(v)) for t, v in zip(times, values, strict=True)], group_of(fill))

    for i in range(40, 200):
        known = pd.Series(values[: i + 1].astype(float), index=times[: i + 1])
        grid = times[i] - EVERY_US * np.arange(STEPS)[::-1]
        if fill == "last":
            expected = known.reindex(grid, method="ffill").to_numpy()
        elif fill == "linear":
            expected = known.reindex(known.index.union(grid)).interpolate(method="index")[grid].to_numpy()
        else:
            edges = [*(grid - EVERY_US)[:1], *grid]
            means = known.groupby(pd.cut(known.index, edges), observed=False).mean().to_numpy()
            expected = np.where(np.isnan(means), known.reindex(grid, method="ffill").to_numpy(), means)
        np.testing.assert_allclose(out[i, :, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("every_us", [None, EVERY_US])
@pytest.mark.parametrize(("warm_up", "expected"), [("pad", 1.0), ("zero", 0.0), ("nan", np.nan)])
def test_what_a_short_history_lacks_is_what_the_file_says(
    every_us: int | None, warm_up: str, expected: float
) -> None:
    out, incomplete = run(
        [(0, 0, 1.0), (0, 10, 2.0)], group_of(every_us=every_us, warm_up=warm_up, complete_from=2)
    )

    np.testing.assert_array_equal(out[1, :, 0], np.array([expected] * 3 + [1, 2], np.float32))
    assert incomplete.tolist() == [True, False]


def test_a_clock_that_was_set_back_begins_a_new_history() -> None:
    readings = [(0, 1000 + 10 * i, 1.0) for i in range(STEPS)] + [(0, 5, 7.0), (0, 15, 8.0)]

    out, incomplete = run(readings, group_of(), resets=(STEPS,))

    assert out[-1, :, 0].tolist() == [7, 7, 7, 7, 8]
    assert incomplete.tolist() == [True] * (STEPS - 1) + [False, True, True]
