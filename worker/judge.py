"""One batch through the model and the decision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worker.batch import Batch
from worker.decide import Decisions
from worker.decision import decide_batch
from worker.line import Line
from worker.publish import Ready
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
    scored = routed.scored
    features = replace(batch.features, degradation=scored.degradation)
    batch = replace(batch, features=features, version=routed.version, ends=scored.ends)
    line.meter.scored(reason, len(batch), features.incomplete, features.degradation)
    return Ready(
        batch=batch,
        scores=scored.scores,
        decisions=_decide(line, batch, scored.scores),
        rejected=unscored(batch.events, scored),
        shadow=routed.shadow,
    )


def _decide(line: Line, batch: Batch, scores: NDArray[np.float32]) -> Decisions | None:
    if line.decision is None:
        return None
    with line.meter.timed("decide"):
        return decide_batch(batch, scores, line.lanes.rows, line.decision)
