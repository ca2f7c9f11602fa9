"""One scored batch to its decisions: scores or the ends of their intervals, flags and rules, put together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_cache.rows import HotRows
from worker.batch import Batch, Ends
from worker.decide import DecisionPolicy, Decisions, decide
from worker.decision_rules import where_rules_hold


def decide_batch(
    batch: Batch,
    scores: NDArray[np.float32],
    rows: HotRows,
    policy: DecisionPolicy,
) -> Decisions:
    """The decisions of a batch, and the rows' alert state after it.

    Args:
        scores: (n,) not finite where there is no score.
        rows: hold the alert state of the entities, updated in place.
    """
    features = batch.features
    counts = np.isfinite(scores)  # what does not count changes no alert state
    if policy.needs_complete:
        counts &= ~features.incomplete
    rules_hold = None
    if policy.rules:
        rules_hold = where_rules_hold(policy.rules, features.scalars, scores)
    return decide(
        np.where(counts, _met(scores, batch.ends, policy), np.float32(np.nan)),
        batch.events.event_us,
        features.slots,
        features.clock_reset,
        rows.alert_level,
        rows.alert_us,
        policy,
        rules_hold,
    )


def _met(scores: NDArray[np.float32], ends: Ends | None, policy: DecisionPolicy) -> NDArray[np.float32]:
    """(n,) what meets the thresholds: the scores, or an end of their intervals where they have one."""
    if policy.on == "score" or ends is None:
        return scores
    end = ends[policy.on == "high"]
    return np.where(np.isnan(end), scores, end)
