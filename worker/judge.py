"""One batch through the model and the decision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.batch import Batch, is_of
from worker.composite import Composite
from worker.decide import NONE, Decisions
from worker.decision import decide_batch
from worker.line import Line
from worker.publish import Ready
from worker.reasons import Reasons, reasons
from worker.router import Serving
from worker.scoring import unscored


def judge(line: Line, batch: Batch, reason: str, now_ms: float) -> Ready:
    """Score and decide a batch; without a model or events there is nothing to say.

    Args:
        reason: what made the batch leave, see Batcher.reason.

    Raises:
        StopWorker: see Scorer.score.
    """
    if line.router is None or not len(batch):
        return Ready(batch=batch, scores=None, decisions=None, rejected=[])
    with line.meter.timed("infer"):
        routed = line.router.score(batch, now_ms)
    scored, model = routed.scored, line.router.serving.champion.model
    if isinstance(model, Composite):
        line.meter.asked([member.model for member in model.card.members], model.asked)
    features = batch.features
    if scored.degradation is not features.degradation:
        features = replace(features, degradation=scored.degradation)
    batch = replace(batch, features=features, version=routed.version, ends=scored.ends)
    line.meter.scored(reason, len(batch), features.incomplete, features.degradation)
    decisions = _decide(line, batch, scored.scores)
    told = explained(line, line.router.serving, batch, scored.scores, decisions)
    if isinstance(model, Composite):
        model.asked[:] = 0  # what reasons have asked for is no event
    return Ready(
        batch=batch,
        scores=scored.scores,
        decisions=decisions,
        reasons=told,
        rejected=unscored(batch.events, scored),
        shadow=routed.shadow,
    )


def _decide(line: Line, batch: Batch, scores: NDArray[np.float32]) -> Decisions | None:
    if line.decision is None:
        return None
    with line.meter.timed("decide"):
        return decide_batch(batch, scores, line.lanes.rows, line.decision)


def explained(
    line: Line, serving: Serving, batch: Batch, scores: NDArray[np.float32], decisions: Decisions | None
) -> Reasons:
    """Why each alert of the batch, as the version sees it that gave the score."""
    if line.reasons is None or decisions is None or not decisions.lifecycle.any():
        return {}
    with line.meter.timed("reasons"):
        told: dict[int, list[dict[str, Any]]] = {}
        for scorer in filter(None, (serving.champion, serving.challenger)):
            is_its = is_of(batch, scorer.card.version)
            mine = replace(decisions, lifecycle=np.where(is_its, decisions.lifecycle, np.uint8(NONE)))
            if mine.lifecycle.any():
                told |= reasons(line.reasons(scorer.card), batch, scores, mine, scorer.model)
        return told
