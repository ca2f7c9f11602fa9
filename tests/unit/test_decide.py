"""Alerts: every decision equals that of a slow, obvious reference, whatever the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.layout import NEVER_US
from worker.decide import CLEARED, LIFECYCLES, NONE, RAISED, UPDATED, DecisionPolicy, Decisions, decide

NAN = float("nan")
FRAUD = DecisionPolicy(
    severities=("warning", "critical"),
    thresholds=(0.5, 0.875),
    alert_below=False,
    cooldown_us=100,
    clear_margin=None,
)
PLANT = DecisionPolicy(
    severities=("warning", "critical"),
    thresholds=(40.0, 15.0),
    alert_below=True,
    cooldown_us=None,
    clear_margin=10.0,
)
Event = tuple[float, int, int]  # score, event time, slot


def run(
    events: list[Event], policy: DecisionPolicy, *, cuts: tuple[int, ...] = (), resets: tuple[int, ...] = ()
) -> tuple[list[tuple[str, int]], list[int]]:
    """(lifecycle, level) of each event, and the levels left in the rows; cuts split it into batches."""
    alert_level, alert_us = np.zeros(4, np.uint8), np.full(4, NEVER_US, np.int64)
    said: list[tuple[str, int]] = []
    for begin, end in zip((0, *cuts), (*cuts, len(events)), strict=True):
        part = events[begin:end]
        found: Decisions = decide(
            np.array([e[0] for e in part], np.float32),
            np.array([e[1] for e in part], np.int64),
            np.array([e[2] for e in part], np.int64),
            np.array([begin + i in resets for i in range(len(part))], np.bool_),
            alert_level,
            alert_us,
            policy,
        )
        said += [
            (LIFECYCLES[c], v) for c, v in zip(found.lifecycle.tolist(), found.level.tolist(), strict=True)
        ]
    return said, alert_level.tolist()


def reached(score: float, policy: DecisionPolicy) -> int:
    """How many thresholds the score is at or beyond."""
    score = float(np.float32(score))
    if policy.alert_below:
        return sum(score <= t for t in policy.thresholds)
    return sum(score >= t for t in policy.thresholds)


def slow_cooldown(events: list[Event], policy: DecisionPolicy) -> list[tuple[str, int]]:
    """One alert per entity and cool-down, unless the severity rises."""
    assert policy.cooldown_us is not None
    last: dict[int, tuple[int, int]] = {}
    said = []
    for score, time_us, slot in events:
        level = 0 if math.isnan(score) else reached(score, policy)
        before = last.get(slot)
        cooling = before is not None and time_us - before[1] < policy.cooldown_us
        if level == 0 or (cooling and before is not None and level <= before[0]):
            said.append(("NONE", 0))
            continue
        said.append(("UPDATED" if cooling else "RAISED", level))
        last[slot] = (level, time_us)
    return said


def slow_hysteresis(events: list[Event], policy: DecisionPolicy) -> list[tuple[str, int]]:
    """Raised at a threshold, updated when worse, cleared only beyond the first threshold and its margin."""
    assert policy.clear_margin is not None
    standing: dict[int, int] = {}
    said = []
    for score, _, slot in events:
        was = standing.get(slot, 0)
        if math.isnan(score):
            said.append(("NONE", 0))
            continue
        level = reached(score, policy)
        first, value = policy.thresholds[0], float(np.float32(score))
        is_well = (
            value > first + policy.clear_margin if policy.alert_below else value < first - policy.clear_margin
        )
        if level > was:
            said.append(("UPDATED" if was else "RAISED", level))
            standing[slot] = level
        elif was and is_well:
            said.append(("CLEARED", was))
            standing[slot] = 0
        else:
            said.append(("NONE", 0))
    return said


def policies(*, cooldown: bool) -> st.SearchStrategy[DecisionPolicy]:
    """Any policy: both directions, one to four severities, thresholds that scores hit exactly."""

    def make(values: list[int], below: bool, extra: int) -> DecisionPolicy:
        thresholds = sorted((v / 4 for v in values), reverse=below)
        return DecisionPolicy(
            severities=tuple(f"s{i}" for i in range(len(thresholds))),
            thresholds=tuple(thresholds),
            alert_below=below,
            cooldown_us=extra * 10 if cooldown else None,
            clear_margin=None if cooldown else extra / 8,
        )

    return st.builds(
        make,
        st.lists(st.integers(-8, 8), min_size=1, max_size=4, unique=True),
        st.booleans(),
        st.integers(0, 5),
    )


def streams(*, ordered: bool) -> st.SearchStrategy[list[Event]]:
    """Events of three entities; scores on, around and far off the thresholds."""
    score = st.one_of(
        st.integers(-20, 20).map(lambda v: v / 8),
        st.floats(width=32),
        st.sampled_from([NAN, math.inf, -math.inf]),
    )
    one = st.tuples(score, st.integers(0, 200), st.integers(0, 2))
    many = st.lists(one, max_size=40)
    return many.map(lambda events: sorted(events, key=lambda e: e[1])) if ordered else many


@settings(deadline=None)
@given(streams(ordered=True), policies(cooldown=True), st.data())
def test_alerts_with_a_cooldown_equal_the_reference(
    events: list[Event], policy: DecisionPolicy, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(events)))

    said, _ = run(events, policy, cuts=(cut,))

    assert said == slow_cooldown(events, policy)


@settings(deadline=None)
@given(streams(ordered=False), policies(cooldown=False), st.data())
def test_alerts_with_hysteresis_equal_the_reference(
    events: list[Event], policy: DecisionPolicy, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(events)))

    said, _ = run(events, policy, cuts=(cut,))

    assert said == slow_hysteresis(events, policy)


def test_a_score_at_the_threshold_alerts_and_one_below_does_not() -> None:
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))

    assert run([(0.5, 0, 0), (below, 0, 1)], FRAUD)[0] == [("RAISED", 1), ("NONE", 0)]
    assert run([(40.0, 0, 0), (40.1, 0, 1)], PLANT)[0] == [("RAISED", 1), ("NONE", 0)]


def test_one_alert_an_entity_and_cooldown_unless_it_gets_worse() -> None:
    said, _ = run(
        [(0.6, 0, 0), (0.7, 50, 0), (0.9, 60, 0), (0.95, 99, 0), (0.6, 159, 0), (0.6, 160, 0)], FRAUD
    )

    assert said == [("RAISED", 1), ("NONE", 0), ("UPDATED", 2), ("NONE", 0), ("NONE", 0), ("RAISED", 1)]


def test_a_new_critical_alert_may_be_followed_by_a_warning_only_after_the_cooldown() -> None:
    said, levels = run([(0.9, 0, 0), (0.6, 99, 0), (0.6, 100, 0)], FRAUD)

    assert said == [("RAISED", 2), ("NONE", 0), ("RAISED", 1)]
    assert levels[0] == 1


def test_entities_do_not_share_a_cooldown() -> None:
    assert run([(0.6, 0, 0), (0.6, 1, 1)], FRAUD)[0] == [("RAISED", 1), ("RAISED", 1)]


def test_an_event_older_than_the_alert_does_not_raise_another_one() -> None:
    assert run([(0.6, 1000, 0), (0.6, 990, 0), (0.6, 0, 0)], FRAUD)[0] == [
        ("RAISED", 1),
        ("NONE", 0),
        ("NONE", 0),
    ]


def test_a_late_event_does_not_shorten_the_cooldown() -> None:
    said, _ = run([(0.6, 100, 0), (0.9, 50, 0), (0.9, 160, 0)], FRAUD)

    assert said == [("RAISED", 1), ("UPDATED", 2), ("NONE", 0)]


def test_raised_updated_and_cleared_only_when_well_back() -> None:
    scores = [60.0, 39.0, 41.0, 50.0, 14.0, 39.0, 50.5, 39.0]

    said, levels = run([(s, i, 0) for i, s in enumerate(scores)], PLANT)

    assert said == [
        ("NONE", 0),
        ("RAISED", 1),
        ("NONE", 0),
        ("NONE", 0),
        ("UPDATED", 2),
        ("NONE", 0),
        ("CLEARED", 2),
        ("RAISED", 1),
    ]
    assert levels[0] == 1


@pytest.mark.parametrize("policy", [FRAUD, PLANT])
def test_an_event_without_a_score_neither_alerts_nor_clears(policy: DecisionPolicy) -> None:
    alert = 0.9 if policy is FRAUD else 10.0

    said, levels = run([(NAN, 0, 0), (alert, 1, 0), (NAN, 2, 0)], policy)

    assert [s[0] for s in said] == ["NONE", "RAISED", "NONE"]
    assert levels[0] == 2


def test_rows_of_other_entities_stay_as_they_are() -> None:
    alert_level, alert_us = np.array([0, 7], np.uint8), np.array([NEVER_US, 42], np.int64)

    decide(
        np.array([0.9], np.float32),
        np.array([5], np.int64),
        np.array([0], np.int64),
        np.zeros(1, np.bool_),
        alert_level,
        alert_us,
        FRAUD,
    )

    assert alert_level.tolist() == [2, 7]
    assert alert_us.tolist() == [5, 42]


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (1, 2, 3)])
def test_a_cool_down_ends_when_the_clock_of_its_entity_is_set_back(cuts: tuple[int, ...]) -> None:
    """Else the entity would be silent for years: until its clock has passed the last alert again."""
    year_us = 365 * 86_400_000_000
    events = [(0.6, year_us, 0), (0.1, 5, 0), (0.6, 7, 0), (0.6, 8, 0), (0.6, 107, 0)]

    kept, _ = run(events, FRAUD, cuts=cuts)
    said, _ = run(events, FRAUD, cuts=cuts, resets=(1,))

    assert [s[0] for s in kept] == ["RAISED", "NONE", "NONE", "NONE", "NONE"]
    assert [s[0] for s in said] == ["RAISED", "NONE", "RAISED", "NONE", "RAISED"]


def test_no_scores_are_no_decisions() -> None:
    assert run([], FRAUD)[0] == []


def test_lifecycles_are_named_in_their_order() -> None:
    assert [LIFECYCLES[k] for k in (NONE, RAISED, UPDATED, CLEARED)] == [
        "NONE",
        "RAISED",
        "UPDATED",
        "CLEARED",
    ]


def test_a_published_score_that_equals_the_threshold_alerts() -> None:
    """The score of a float32 model that says 0.9 is published as 0.9."""
    said, _ = run(
        [(0.9, 0, 0)],
        DecisionPolicy(
            severities=("w",), thresholds=(0.9,), alert_below=False, cooldown_us=1, clear_margin=None
        ),
    )

    assert said == [("RAISED", 1)]
