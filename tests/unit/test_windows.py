"""Windows are exact, and say so when they are not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feature_cache.layout import AGGREGATES, NEVER_US, WindowGroup
from feature_cache.recent import apply_windows, read_windows
from feature_cache.stretches import GroupArrays, empty_group

WINDOWS_US = (10, 30, 100)


def group_of(capacity: int, lateness_us: int, aggregates: tuple[str, ...]) -> WindowGroup:
    return WindowGroup(
        name="w",
        over="x",
        windows_us=WINDOWS_US,
        window_labels=tuple(map(str, WINDOWS_US)),
        aggregates=aggregates,
        capacity=capacity,
        allowed_lateness_us=lateness_us,
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Run:
    """What apply_windows gave, and the row it left behind."""

    out: NDArray[np.float64]
    late: NDArray[np.bool_]
    incomplete: NDArray[np.bool_]
    overflow: int
    group: GroupArrays


def run(
    events: list[tuple[int, int, float]],
    *,
    capacity: int = 64,
    lateness_us: int = 0,
    aggregates: tuple[str, ...] = AGGREGATES,
    lane_forgotten_us: int = NEVER_US,
    clock_reset: NDArray[np.bool_] | None = None,
) -> Run:
    """Apply (slot, event_us, value) events to three empty rows."""
    n = len(events)
    group = empty_group(group_of(capacity, lateness_us, aggregates), 3)
    out = np.full((n, len(WINDOWS_US) * len(aggregates)), np.nan)
    late, incomplete = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    overflow = apply_windows(
        group,
        np.array([e[0] for e in events], np.int64),
        np.array([e[1] for e in events], np.int64),
        np.array([e[2] for e in events], np.float64),
        np.zeros(n, np.bool_) if clock_reset is None else clock_reset,
        np.full(n, lane_forgotten_us, np.int64),
        out,
        late,
        incomplete,
    )
    return Run(
        out=out,
        late=late,
        incomplete=incomplete,
        overflow=overflow,
        group=group,
    )


def slow(events: list[tuple[int, int, float]], index: int, window_us: int) -> dict[str, float]:
    """The definition: values in (t - w, t] of the same entity among the events so far, this one included."""
    slot, t, value = events[index]
    earlier = [
        (u, j, v) for j, (s, u, v) in enumerate(events[:index]) if s == slot and t - window_us < u <= t
    ]
    earlier.sort(key=lambda e: (e[0], e[1]))
    inside = [v for _, _, v in earlier] + [value]
    mean = math.fsum(inside) / len(inside)
    return {
        "count": len(inside),
        "sum": math.fsum(inside),
        "mean": mean,
        "min": min(inside),
        "max": max(inside),
        "std": math.sqrt(math.fsum((v - mean) ** 2 for v in inside) / len(inside)),
        "last": earlier[-1][2] if earlier else 0.0,
        "since_last": ((t - earlier[-1][0]) if earlier else window_us) / 1e6,
        "distinct": len(set(inside)),
    }


EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 250), st.integers(-5, 5).map(float)), min_size=1, max_size=80
)


@settings(deadline=None)
@given(EVENTS)
def test_windows_of_ordered_events_equal_the_definition_for_every_aggregate(
    events: list[tuple[int, int, float]],
) -> None:
    events = sorted(events, key=lambda e: e[1])

    result = run(events, capacity=80)

    for i in range(len(events)):
        expected = [slow(events, i, w)[a] for w in WINDOWS_US for a in AGGREGATES]
        np.testing.assert_allclose(result.out[i], expected, rtol=0, atol=1e-9)
    assert not result.late.any()
    assert not result.incomplete.any()


@settings(deadline=None)
@given(EVENTS, st.integers(0, 100), st.integers(1, 80))
def test_windows_in_any_order_equal_the_definition_unless_the_score_says_otherwise(
    events: list[tuple[int, int, float]], lateness_us: int, capacity: int
) -> None:
    """Late, early and duplicate times, and rows too small: exact or flagged, nothing in between."""
    result = run(events, capacity=capacity, lateness_us=lateness_us)

    for i in range(len(events)):
        if not result.incomplete[i]:
            expected = [slow(events, i, w)[a] for w in WINDOWS_US for a in AGGREGATES]
            np.testing.assert_allclose(result.out[i], expected, rtol=0, atol=1e-9)


def test_an_event_exactly_one_window_old_is_outside_and_a_tie_is_inside() -> None:
    result = run([(0, 0, 1.0), (0, 10, 1.0), (0, 10, 1.0)], aggregates=("count",))

    assert result.out[:, 0].tolist() == [1, 1, 2]


def test_an_event_older_than_the_history_changes_nothing_and_is_late() -> None:
    in_time = run([(0, 1000, 1.0), (0, 1001, 2.0)], lateness_us=5)
    with_late = run([(0, 1000, 1.0), (0, 895, 9.0), (0, 1001, 2.0)], lateness_us=5)

    assert with_late.late.tolist() == [False, True, False]
    assert with_late.out[2].tolist() == in_time.out[1].tolist()
    assert with_late.group.length[0] == 2


def test_a_row_too_small_says_so_for_as_long_as_it_matters() -> None:
    result = run([(0, 1, 1.0), (0, 2, 1.0), (0, 3, 1.0), (0, 4, 1.0), (0, 250, 1.0)], capacity=2)

    assert result.overflow == 2
    assert result.incomplete.tolist() == [False, False, False, True, False]


def test_a_lane_that_starts_blind_marks_scores_until_the_longest_window_has_filled() -> None:
    result = run([(0, 1000, 1.0), (0, 1099, 1.0), (0, 1100, 1.0)], lane_forgotten_us=1000)

    assert result.incomplete.tolist() == [True, True, False]


@settings(deadline=None)
@given(EVENTS, st.lists(st.integers(0, 300), min_size=1, max_size=20))
def test_reading_as_of_a_time_sees_nothing_newer(
    events: list[tuple[int, int, float]], times: list[int]
) -> None:
    """A lookup of a row that has moved on equals the row as it was then, unless it says otherwise."""
    events = sorted(events, key=lambda e: e[1])
    kept = run(events, capacity=80, lateness_us=150, aggregates=("count", "mean"))
    asked = [(slot, t) for t in times for slot in (0, 1, 2, -1)]
    out = np.full((len(asked), 6), np.nan)
    incomplete = np.zeros(len(asked), np.bool_)

    read_windows(
        kept.group,
        np.array([slot for slot, _ in asked], np.int64),
        np.array([t for _, t in asked], np.int64),
        np.full(len(asked), NEVER_US, np.int64),
        out,
        incomplete,
    )

    for (slot, t), row, is_incomplete in zip(asked, out, incomplete, strict=True):
        if is_incomplete:
            continue
        for w, window_us in enumerate(WINDOWS_US):
            inside = [v for s, u, v in events if s == slot and t - window_us < u <= t]
            assert row[2 * w] == len(inside)
            assert row[2 * w + 1] == (math.fsum(inside) / len(inside) if inside else 0.0)
