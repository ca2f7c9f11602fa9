"""A batch is decided on what the policy names, and on nothing that it does not trust."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from feature_cache.layout import Layout
from feature_cache.rows import HotRows
from tests.builders import events, features
from worker.batch import Batch
from worker.decide import CLEARED, NONE, RAISED, DecisionPolicy
from worker.decision import decide_batch
from worker.decision_rules import parse_decision_rule
from worker.degradation import RULES, WHOLE
from worker.interval import Interval, ends

PLANT = DecisionPolicy(
    severities=("warning", "critical"),
    thresholds=(40.0, 15.0),
    alert_below=True,
    cooldown_us=None,
    clear_margin=10.0,
)
INTERVAL = Interval(coverage=0.9, edges=(), low=(-20.0,), high=(20.0,))


def decided(
    scores: Sequence[float], policy: DecisionPolicy, slots: list[int] | None = None, **flags: Any
) -> tuple[list[int], list[int]]:
    """Lifecycle of each event, and the alert levels left in the rows of three machines."""
    n = len(scores)
    rows = HotRows(Layout(groups=()), 3)
    rows.add([b"a", b"b", b"c"], 0)
    made = features(np.arange(n, dtype=float).reshape(-1, 1), **flags)
    given = np.array(scores, np.float32)
    has_none = np.isin(made.degradation, [RULES])  # what rules gave has no interval
    low, high = (np.where(has_none, np.nan, end).astype(np.float32) for end in ends(INTERVAL, given))
    batch = Batch(
        events=events(time_us=list(range(n))),
        features=replace(made, slots=np.array(slots if slots is not None else range(n), np.int64)),
        ends=(low, high),
    )
    found = decide_batch(batch, given, rows, policy)
    return found.lifecycle.tolist(), rows.alert_level[:3].tolist()


def test_an_alert_is_raised_on_the_end_that_the_policy_names() -> None:
    scores = [70, 50, 15]

    assert decided(scores, PLANT)[1] == [0, 0, 2]
    assert decided(scores, replace(PLANT, on="low"))[1] == [0, 1, 2]
    assert decided(scores, replace(PLANT, on="high"))[1] == [0, 0, 1]


def test_the_margin_is_counted_on_the_same_end() -> None:
    lifecycle, _ = decided([60, 69, 71], replace(PLANT, on="low"), [0, 0, 0])

    assert lifecycle == [RAISED, NONE, CLEARED]


def test_a_score_of_rules_that_stand_in_has_no_interval_and_is_taken_as_it_is() -> None:
    _, levels = decided([50, 50, 30], replace(PLANT, on="low"), degradation=[WHOLE, RULES, RULES])

    assert levels == [1, 0, 1]


def test_incomplete_features_neither_raise_nor_clear_where_the_policy_needs_complete_ones() -> None:
    scores, slots, short = [10, 90, 10, 90, 90], [0, 0, 1, 1, 0], [False, True, True, False, False]

    all_count, _ = decided(scores, PLANT, slots, incomplete=short)
    complete, _ = decided(scores, replace(PLANT, needs_complete=True), slots, incomplete=short)

    assert all_count == [RAISED, CLEARED, RAISED, CLEARED, NONE]
    assert complete == [RAISED, NONE, NONE, NONE, CLEARED]


def test_rules_see_the_features_and_the_score_and_not_the_end_of_its_interval() -> None:
    rule = parse_decision_rule(
        "r", "score < 50 and x > 0", "or", "critical", names=("x",), severities=PLANT.severities
    )

    _, levels = decided([45, 55, 45], replace(PLANT, on="low", thresholds=(5.0, 1.0), rules=(rule,)))

    assert levels == [0, 0, 2]


def test_no_rule_counts_where_nothing_does() -> None:
    rule = parse_decision_rule("r", "x >= 0", "or", "warning", names=("x",), severities=PLANT.severities)
    policy = replace(PLANT, needs_complete=True, rules=(rule,))

    _, levels = decided([90, np.nan, np.inf], policy, incomplete=[True, False, False])

    assert levels == [0, 0, 0]
