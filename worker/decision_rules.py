"""Rules beside the model: what they make of the severities that scores ask for, and which of them did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from worker.rules import rule_of_columns

SCORE = "score"  # what a rule calls the score; no feature may be called so
_KINDS = ("and", "or", "override")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of the decision section."""

    name: str
    holds: Callable[[Sequence[NDArray[Any]], int], NDArray[np.bool_]]  # of the features, then the score
    combine: Literal["and", "or", "override"]
    level: int  # of its severity, 1..; 0: none


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Combined:
    """What thresholds and rules together ask for."""

    level: NDArray[np.uint8]  # (n,) severity 1.. ; 0: no alert
    stands: NDArray[np.bool_]  # (n,) whether an alert that is raised already stays raised
    decided: NDArray[np.bool_]  # (n, r) which rules made the level what it is


def parse_decision_rule(
    name: str,
    when: str,
    combine: Literal["and", "or", "override"],
    severity: str | None,
    *,
    names: Sequence[str],
    severities: Sequence[str],
) -> Rule:
    """A rule over these features and the score.

    Args:
        severity: one of severities; None: the least urgent, or for override none.

    Raises:
        RuleError: `when` is no expression of them.
    """
    levels: Mapping[str | None, int] = {"none": 0, None: 1, **{s: k for k, s in enumerate(severities, 1)}}
    holds = rule_of_columns(when, (*names, SCORE))
    return Rule(name=name, holds=holds, combine=combine, level=levels[severity])


def where_rules_hold(
    rules: tuple[Rule, ...], scalars: NDArray[np.float64], scores: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """(n, r) where each rule holds.

    Args:
        scalars: (n, f) features.
        scores: (n,)
    """
    columns = [*scalars.T, scores]
    held = np.empty((len(scores), len(rules)), np.bool_)
    for at, rule in enumerate(rules):
        held[:, at] = rule.holds(columns, len(scores))
    return held


def combine(
    rules: tuple[Rule, ...], level: NDArray[np.uint8], stands: NDArray[np.bool_], held: NDArray[np.bool_]
) -> Combined:
    """The score's level first, then every `and`, then every `or`, then the first `override` that holds.

    - `and`: where it does not hold, the level stays below the rule's severity. It says what may be raised,
      not what stays raised: a rule has no margin, and an alert would come and go with it.
    - `or`: where it holds, the level is at least the rule's severity, and an alert stands.
    - `override`: where it holds, the level is the rule's, and an alert stands unless that is none.

    Args:
        level: (n,) severity that the score reaches.
        stands: (n,) whether the score alone would keep an alert.
        held: (n, r) where the rules hold.
    """
    decided = np.zeros_like(held)
    of_score, level, stands = level, level.copy(), stands.copy()
    kinds = {kind: [at for at, rule in enumerate(rules) if rule.combine == kind] for kind in _KINDS}
    for at in kinds["and"]:
        decided[:, at] = of_score >= rules[at].level
        np.minimum(level, rules[at].level - 1, out=level, where=~held[:, at])
    if kinds["and"]:  # of those asked, the ones that kept the level down; else all, as all let it through
        kept = level < of_score
        for at in kinds["and"]:
            decided[:, at] &= ~kept | (~held[:, at] & (level == rules[at].level - 1))
    before = level.copy()
    for at in kinds["or"]:
        np.maximum(level, rules[at].level, out=level, where=held[:, at])
        stands |= held[:, at]
    raised = level > before
    decided[raised] = False
    for at in kinds["or"]:
        decided[:, at] = raised & held[:, at] & (level == rules[at].level)
    for at in reversed(kinds["override"]):  # so that the first of the file is the last to write
        here = held[:, at]
        level[here], stands[here] = rules[at].level, rules[at].level > 0
        decided[here] = False
        decided[here, at] = True
    return Combined(level=level, stands=stands, decided=decided)


def names_of(rules: tuple[Rule, ...], decided: NDArray[np.bool_]) -> list[str]:
    """Names of the rules that decided of one event, (r,), in the order of the file."""
    return [rules[at].name for at in np.flatnonzero(decided).tolist()]


def in_words(
    rules: tuple[Rule, ...], decided: NDArray[np.bool_], level: int, severities: Sequence[str]
) -> str:
    """What is to be added to the sentence that gives the reason of an alert; empty without rules.

    Args:
        decided: (r,) of the event.
        level: 1.., severity of the alert.
    """
    words = []
    for at in np.flatnonzero(decided).tolist():
        rule = rules[at]
        severity = severities[rule.level - 1] if rule.level else "none"
        if rule.combine == "and":
            words.append(f"rule {rule.name} " + ("holds" if rule.level <= level else f"withholds {severity}"))
        else:
            words.append(f"rule {rule.name} {'asks for' if rule.combine == 'or' else 'decides'} {severity}")
    return "".join(f"; {part}" for part in words)
