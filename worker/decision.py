"""One scored batch to its decisions: scores or the ends of their intervals, flags and rules, put together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_cache.rows import HotRows
from worker.batch import Batch
from worker.decide import DecisionPolicy, Decisions, decide
from worker.decision_rules import where_rules_hold
from worker.degradation import RULES
from worker.interval import Interval, ends


def decide_batch(
    batch: Batch,
    scores: NDArray[np.float32],
    rows: HotRows,
    policy: DecisionPolicy,
    interval: Interval | None,
) -> Decisions:
    """The decisions of a batch, and the rows' alert state after it.

    Args:
        scores: (n,) not finite where there is no score.
        rows: hold the alert state of the entities, updated in place.
        interval: around scores of the model; needed where the policy decides on an end of it.
    """
    features = batch.features
    counts = np.isfinite(scores)  # what does not count changes no alert state
    if policy.needs_complete:
        counts &= ~features.incomplete
    rules_hold = None
    if policy.rules:
        rules_hold = where_rules_hold(policy.rules, features.scalars, scores)
    return decide(
        np.where(counts, _met(scores, features.degradation, policy, interval), np.float32(np.nan)),
        batch.events.event_us,
        features.slots,
        features.clock_reset,
        rows.alert_level,
        rows.alert_us,
        policy,
        rules_hold,
    )


def _met(
    scores: NDArray[np.float32],
    degradation: NDArray[np.uint8],
    policy: DecisionPolicy,
    interval: Interval | None,
) -> NDArray[np.float32]:
    """(n,) what meets the thresholds: the scores, or an end of their intervals; a rule's score has none."""
    if policy.on == "score" or interval is None:
        return scores
    low, high = ends(interval, scores)
    return np.where(degradation == RULES, scores, low if policy.on == "low" else high)
