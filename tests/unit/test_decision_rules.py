"""Rules beside the model decide as a slow reference does, event by event, whatever the scores and rules."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.layout import NEVER_US
from tests.unit.test_decide import Event, policies, reached, streams
from worker.decide import LIFECYCLES, DecisionPolicy, decide
from worker.decision_rules import Rule, in_words, names_of, parse_decision_rule, where_rules_hold

NAMES = ("amount", "customer.count_1d")
SEVERITIES = ("warning", "critical")
Kind = Literal["and", "or", "override"]
Said = tuple[str, int, list[str]]  # lifecycle, level, names of the rules that decided


def rule(combine: Kind, severity: str | None, when: str = "amount > 1", name: str = "r") -> Rule:
    """A rule over NAMES and SEVERITIES."""
    return parse_decision_rule(name, when, combine, severity, names=NAMES, severities=SEVERITIES)


def with_rules(policy: DecisionPolicy, *rules: Rule) -> DecisionPolicy:
    """The same policy with these rules."""
    return DecisionPolicy(
        severities=policy.severities,
        thresholds=policy.thresholds,
        alert_below=policy.alert_below,
        cooldown_us=policy.cooldown_us,
        clear_margin=policy.clear_margin,
        rules=rules,
    )


def slow_level(level: int, rules: tuple[Rule, ...], holds: list[bool]) -> tuple[int, list[str]]:
    """What one score's level becomes, and which rules made it so."""
    of_score, both = level, list(zip(rules, holds, strict=True))
    for r, is_so in both:
        if r.combine == "and" and not is_so:
            level = min(level, r.level - 1)
    asked = [(r, is_so) for r, is_so in both if r.combine == "and" and of_score >= r.level]
    if level < of_score:
        decided = [r.name for r, is_so in asked if not is_so and r.level - 1 == level]
    else:
        decided = [r.name for r, _ in asked]
    most = max((r.level for r, is_so in both if r.combine == "or" and is_so), default=0)
    if most > level:
        level = most
        decided = [r.name for r, is_so in both if r.combine == "or" and is_so and r.level == most]
    for r, is_so in both:
        if r.combine == "override" and is_so:
            return r.level, [r.name]
    return level, decided


def slow_stream(events: list[Event], held: list[list[bool]], policy: DecisionPolicy) -> list[Said]:
    """Lifecycle, level and rules of each event, one after the other."""
    state: dict[int, tuple[int, int]] = {}  # slot to level and time of its alert
    said: list[Said] = []
    for (score, time_us, slot), holds in zip(events, held, strict=True):
        if math.isnan(score):
            said.append(("NONE", 0, []))
            continue
        level, decided = slow_level(reached(score, policy), policy.rules, holds)
        was, since_us = state.get(slot, (0, NEVER_US))
        if policy.cooldown_us is not None:
            is_cooling = was > 0 and time_us - since_us < policy.cooldown_us
            if level == 0 or (is_cooling and level <= was):
                said.append(("NONE", 0, decided))
                continue
            said.append(("UPDATED" if is_cooling else "RAISED", level, decided))
            state[slot] = (level, max(time_us, since_us))
            continue
        value, least = float(np.float32(score)), policy.thresholds[0]
        margin = policy.clear_margin or 0.0
        stands = not (value > least + margin if policy.alert_below else value < least - margin)
        for r, is_so in zip(policy.rules, holds, strict=True):
            stands = stands or (r.combine == "or" and is_so)
        for r, is_so in zip(policy.rules, holds, strict=True):
            if r.combine == "override" and is_so:
                stands = r.level > 0
                break
        if level > was:
            said.append(("UPDATED" if was else "RAISED", level, decided))
            state[slot] = (level, time_us)
        elif was and not stands:
            said.append(("CLEARED", was, decided))
            state[slot] = (0, time_us)
        else:
            said.append(("NONE", 0, decided))
    return said


def run(
    events: list[Event], held: list[list[bool]], policy: DecisionPolicy, cuts: tuple[int, ...] = ()
) -> list[Said]:
    """The same by decide(), in batches that end at the cuts."""
    alert_level, alert_us = np.zeros(4, np.uint8), np.full(4, NEVER_US, np.int64)
    said: list[Said] = []
    for begin, end in zip((0, *cuts), (*cuts, len(events)), strict=True):
        part = events[begin:end]
        found = decide(
            np.array([e[0] for e in part], np.float32),
            np.array([e[1] for e in part], np.int64),
            np.array([e[2] for e in part], np.int64),
            np.zeros(len(part), np.bool_),
            alert_level,
            alert_us,
            policy,
            np.array(held[begin:end], np.bool_).reshape(len(part), len(policy.rules)),
        )
        assert found.rules is not None
        said += [
            (LIFECYCLES[c], v, names_of(policy.rules, d))
            for c, v, d in zip(found.lifecycle.tolist(), found.level.tolist(), found.rules, strict=True)
        ]
    return said


@st.composite
def decisions(draw: st.DrawFn, *, cooldown: bool) -> tuple[list[Event], list[list[bool]], DecisionPolicy]:
    """Events of three entities, up to four rules, and where each of them holds."""
    policy = draw(policies(cooldown=cooldown))
    levels = st.integers(1, len(policy.severities))
    kinds: list[Kind] = draw(st.lists(st.sampled_from(["and", "or", "override"]), max_size=4))
    rules = tuple(
        Rule(
            name=f"r{at}",
            holds=lambda columns, n: np.zeros(n, np.bool_),  # noqa: ARG005 where they hold is given
            combine=kind,
            level=draw(st.integers(0, len(policy.severities)) if kind == "override" else levels),
        )
        for at, kind in enumerate(kinds)
    )
    events = draw(streams(ordered=cooldown))
    one = st.lists(st.booleans(), min_size=len(rules), max_size=len(rules))
    held = draw(st.lists(one, min_size=len(events), max_size=len(events)))
    return events, held, with_rules(policy, *rules)


@settings(deadline=None)
@given(decisions(cooldown=True), st.data())
def test_rules_with_a_cooldown_equal_the_reference(
    made: tuple[list[Event], list[list[bool]], DecisionPolicy], data: st.DataObject
) -> None:
    events, held, policy = made
    cut = data.draw(st.integers(0, len(events)))

    assert run(events, held, policy, (cut,)) == slow_stream(events, held, policy)


@settings(deadline=None)
@given(decisions(cooldown=False), st.data())
def test_rules_with_hysteresis_equal_the_reference(
    made: tuple[list[Event], list[list[bool]], DecisionPolicy], data: st.DataObject
) -> None:
    events, held, policy = made
    cut = data.draw(st.integers(0, len(events)))

    assert run(events, held, policy, (cut,)) == slow_stream(events, held, policy)


PLANT = DecisionPolicy(
    severities=SEVERITIES, thresholds=(40.0, 15.0), alert_below=True, cooldown_us=None, clear_margin=10.0
)


@pytest.mark.parametrize(
    ("rules", "scores", "amounts", "said"),
    [
        ([("and", None)], [10, 10], [0, 2], ["NONE", "RAISED 2 by r0"]),
        ([("and", "critical")], [10, 10], [0, 2], ["RAISED 1 by r0", "UPDATED 2 by r0"]),
        ([("and", None)], [10, 30, 60], [2, 0, 0], ["RAISED 2 by r0", "NONE", "CLEARED 2 by "]),
        ([("or", "warning")], [90, 90, 90], [2, 2, 0], ["RAISED 1 by r0", "NONE", "CLEARED 1 by "]),
        ([("or", "warning")], [10], [2], ["RAISED 2 by "]),
        (
            [("override", "none")],
            [10, 10, 10],
            [0, 2, 0],
            ["RAISED 2 by ", "CLEARED 2 by r0", "RAISED 2 by "],
        ),
        ([("override", "critical"), ("override", "none")], [90], [2], ["RAISED 2 by r0"]),
        ([("or", "critical"), ("override", "none")], [10], [2], ["NONE"]),
    ],
)
def test_and_withholds_or_raises_and_override_has_the_last_word(
    rules: list[tuple[Kind, str | None]], scores: list[float], amounts: list[float], said: list[str]
) -> None:
    policy = with_rules(PLANT, *(rule(kind, what, name=f"r{k}") for k, (kind, what) in enumerate(rules)))
    scalars = np.array([[amount, 0.0] for amount in amounts])
    held = where_rules_hold(policy.rules, scalars, np.array(scores, np.float32))

    found = run([(s, i, 0) for i, s in enumerate(scores)], held.tolist(), policy)

    assert [f"{what} {v} by {'+'.join(by)}" if v else what for what, v, by in found] == said


def test_a_rule_reads_the_score_beside_the_features_and_rounds_alike() -> None:
    """A float32 score of 0.9 is published as 0.9, and a rule that asks for 0.9 holds."""
    rules = (
        rule("or", "warning", "score >= 0.9 and amount > 1"),
        rule("or", "warning", "score > 1 / 10"),
        rule("or", "warning", "score * customer.count_1d > 2"),
        rule("or", "warning", "score <= 9 / 10"),
    )
    scalars = np.array([[2.0, 3.0], [0.0, 3.0], [2.0, 1.0]])

    held = where_rules_hold(rules, scalars, np.array([0.9, 0.95, 0.1], np.float32))

    assert held.T.tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, False],
        [True, False, True],
    ]


def test_an_event_without_a_score_is_left_to_no_rule() -> None:
    policy = with_rules(PLANT, rule("or", "critical"))

    assert run([(math.nan, 0, 0), (90, 1, 0), (math.nan, 2, 0)], [[True]] * 3, policy) == [
        ("NONE", 0, []),
        ("RAISED", 2, ["r"]),
        ("NONE", 0, []),
    ]


@pytest.mark.parametrize(
    ("made", "level", "words"),
    [
        (rule("and", "warning"), 2, "; rule r holds"),
        (rule("and", "critical"), 1, "; rule r withholds critical"),
        (rule("or", "critical"), 2, "; rule r asks for critical"),
        (rule("override", "none"), 1, "; rule r decides none"),
    ],
)
def test_the_reason_names_the_rule_that_decided(made: Rule, level: int, words: str) -> None:
    assert in_words((made,), np.array([True]), level, SEVERITIES) == words
    assert in_words((made,), np.array([False]), level, SEVERITIES) == ""


def test_rules_are_never_left_out_by_a_caller_that_forgets_them() -> None:
    none = np.zeros(0, np.int64)

    with pytest.raises(ValueError, match="found rules and not where they hold"):
        decide(
            np.zeros(0, np.float32),
            none,
            none,
            np.zeros(0, np.bool_),
            np.zeros(1, np.uint8),
            none,
            with_rules(PLANT, rule("or", "critical")),
        )
