"""Scores to alerts: thresholds, rules, cool-down and hysteresis; the alert's state is in the entity's row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from feature_cache.layout import NEVER_US
from worker.decision_rules import Rule, combine

NONE, RAISED, UPDATED, CLEARED = range(4)
LIFECYCLES = ("NONE", "RAISED", "UPDATED", "CLEARED")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionPolicy:
    """When a score becomes an alert."""

    severities: tuple[str, ...]  # by rising urgency
    thresholds: tuple[float, ...]  # one each
    alert_below: bool  # alert when the score is at or below the threshold instead of at or above
    cooldown_us: int | None  # one alert per entity and cool-down, unless it gets worse
    clear_margin: float | None  # raised until the score is this far back on the good side
    on: Literal["score", "low", "high"] = "score"  # what meets the thresholds
    needs_complete: bool = False  # incomplete features neither raise nor clear
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Decisions:
    """What each score asks for."""

    lifecycle: NDArray[np.uint8]  # (n,) NONE | RAISED | UPDATED | CLEARED
    level: NDArray[np.uint8]  # (n,) severity 1.. of the alert; of a cleared one, the severity it had
    rules: NDArray[np.bool_] | None = None  # (n, r) which rules decided; None: there are none


def decide(
    scores: NDArray[np.float32],
    event_us: NDArray[np.int64],
    slots: NDArray[np.int64],
    clock_reset: NDArray[np.bool_],
    alert_level: NDArray[np.uint8],
    alert_us: NDArray[np.int64],
    policy: DecisionPolicy,
    rules_hold: NDArray[np.bool_] | None = None,
) -> Decisions:
    """Decide in offset order, each entity after its own earlier events.

    Args:
        scores: (n,) what meets the thresholds; NaN means "not scored": no rule applies, no alert changes.
        event_us: (n,) event time, the clock of the cool-down.
        slots: (n,) row of each event's entity.
        clock_reset: (n,) the entity's clock was set back: no cool-down of before counts any more.
        alert_level, alert_us: (rows,) the rows' alert state, updated in place.
        rules_hold: (n, r) where the policy's rules hold.

    Returns:
        (n,) lifecycle and severity, and which rules made the severity what it is.

    Raises:
        ValueError: the policy has rules, and nobody says where they hold; `decision.decide_batch` does.
    """
    if policy.rules and rules_hold is None:
        raise ValueError("found rules and not where they hold. This is a bug.")
    sign = -1.0 if policy.alert_below else 1.0
    lifecycle = np.zeros(len(scores), np.uint8)
    level = np.zeros(len(scores), np.uint8)
    # Scores are float32: a score of 0.9 reaches a threshold of 0.9 only when both are rounded alike.
    thresholds = np.array(policy.thresholds, np.float32).astype(np.float64) * sign
    urgency = scores.astype(np.float64) * sign
    now = np.zeros(len(scores), np.uint8)
    _severities(urgency, thresholds, now)
    stands = ~(urgency < thresholds[0] - (policy.clear_margin or 0.0))  # without a score, as it was
    decided = None
    if rules_hold is not None:
        asked = combine(policy.rules, now, stands, rules_hold)
        is_scored = ~np.isnan(scores)
        now, stands = np.where(is_scored, asked.level, 0).astype(np.uint8), asked.stands | ~is_scored
        decided = asked.decided & is_scored[:, None]
    if policy.cooldown_us is not None:
        _with_cooldown(
            now, event_us, slots, clock_reset, alert_level, alert_us, policy.cooldown_us, lifecycle, level
        )
    else:
        _with_hysteresis(now, stands, event_us, slots, alert_level, alert_us, lifecycle, level)
    return Decisions(lifecycle=lifecycle, level=level, rules=decided)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _severities(urgency: Any, thresholds: Any, out: Any) -> None:
    """How many thresholds are reached; NaN reaches none."""
    for i in range(urgency.shape[0]):
        for k in range(thresholds.shape[0]):
            if urgency[i] >= thresholds[k]:
                out[i] = k + 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _with_cooldown(
    severity: Any,
    event_us: Any,
    slots: Any,
    clock_reset: Any,
    alert_level: Any,
    alert_us: Any,
    cooldown_us: int,
    lifecycle: Any,
    level: Any,
) -> None:
    """One alert per entity and cool-down; a worse one is an update of it."""
    for i in range(severity.shape[0]):
        s = slots[i]
        if clock_reset[i]:
            alert_us[s] = NEVER_US
        now = severity[i]
        if now == 0:
            continue
        is_cooling = alert_level[s] > 0 and event_us[i] - alert_us[s] < cooldown_us
        if is_cooling and now <= alert_level[s]:
            continue
        lifecycle[i] = UPDATED if is_cooling else RAISED
        level[i] = now
        alert_level[s] = now
        alert_us[s] = max(alert_us[s], event_us[i])  # a late event does not shorten the cool-down


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _with_hysteresis(
    severity: Any,
    stands: Any,
    event_us: Any,
    slots: Any,
    alert_level: Any,
    alert_us: Any,
    lifecycle: Any,
    level: Any,
) -> None:
    """Raised at a severity, updated when it gets worse, cleared only where nothing lets it stand."""
    for i in range(severity.shape[0]):
        s = slots[i]
        was = alert_level[s]
        now = severity[i]
        if now > was:
            lifecycle[i] = UPDATED if was > 0 else RAISED
            level[i] = now
        elif was > 0 and not stands[i]:
            lifecycle[i] = CLEARED
            level[i] = was
            now = 0
        else:
            continue
        alert_level[s] = now
        alert_us[s] = event_us[i]
