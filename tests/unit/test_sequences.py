"""Sequences are the last readings in event time, padded with the oldest one known."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feature_cache.layout import NEVER_US, SequenceGroup
from feature_cache.sequences import apply_sequences
from feature_cache.stretches import empty_group

STEPS, CHANNELS = 4, 2


def group_of(capacity: int) -> SequenceGroup:
    return SequenceGroup(name="s", fields=("a", "b"), length=STEPS, capacity=capacity)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 60)), min_size=1, max_size=60),
    st.integers(STEPS, 12),
)
@example([(0, 0)] * 7, STEPS)  # equal times, and more of them than the row holds
def test_a_sequence_is_the_last_readings_as_of_the_event(
    events: list[tuple[int, int]], capacity: int
) -> None:
    n = len(events)
    out = np.full((n, STEPS, CHANNELS), np.nan, np.float32)
    late, incomplete = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    readings = np.arange(n * CHANNELS, dtype=np.float32).reshape(n, CHANNELS)

    apply_sequences(
        empty_group(group_of(capacity), 2),
        np.array([e[0] for e in events], np.int64),
        np.array([e[1] for e in events], np.int64),
        readings,
        np.zeros(n, np.bool_),
        np.full(n, NEVER_US, np.int64),
        out,
        late,
        incomplete,
    )

    for i, (slot, t) in enumerate(events):
        if incomplete[i] and sum(s == slot for s, _ in events[:i]) >= STEPS:
            continue  # the row had forgotten what a late reading asks for, and says so
        before = sorted((u, j) for j, (s, u) in enumerate(events[:i]) if s == slot and u <= t)
        kept = [*[readings[j] for _, j in before][-(STEPS - 1) :], readings[i]]
        expected = [kept[0]] * (STEPS - len(kept)) + kept
        np.testing.assert_array_equal(out[i], np.array(expected))
        assert incomplete[i] == (len(kept) < STEPS)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_a_sequence_of_a_lane_read_from_the_middle_is_the_whole_ones_or_says_otherwise(
    seed: int, begin: int
) -> None:
    """Readings up to a known time may be missing; one of them may belong between two that are there."""
    rng = np.random.default_rng(seed)
    times = (np.arange(60) + rng.integers(-10, 10, 60)).tolist()
    events = list(zip(rng.integers(0, 2, 60).tolist(), times, strict=True))
    missing = events[:begin]
    forgotten_us = max((t for _, t in missing), default=NEVER_US)

    whole, _ = run(events, NEVER_US)
    part, incomplete = run(events[begin:], forgotten_us, first=begin)

    for i in range(len(part)):
        if not incomplete[i]:
            np.testing.assert_array_equal(part[i], whole[begin + i])


def run(
    events: list[tuple[int, int]], forgotten_us: int, first: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Sequences and flags of (slot, time); a reading is its place in the log, counted from first."""
    n = len(events)
    out = np.full((n, STEPS, CHANNELS), np.nan, np.float32)
    late, incomplete = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    places = np.arange(first, first + n, dtype=np.float32)
    apply_sequences(
        empty_group(group_of(64), 2),
        np.array([slot for slot, _ in events], np.int64),
        np.array([t for _, t in events], np.int64),
        np.stack([places, -places], axis=1),
        np.zeros(n, np.bool_),
        np.full(n, forgotten_us, np.int64),
        out,
        late,
        incomplete,
    )
    return out, incomplete
