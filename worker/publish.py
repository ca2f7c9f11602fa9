"""Scores and alerts of one batch, to the client."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.spans import spans_of
from worker.batch import Batch, Rejected
from worker.decide import Decisions
from worker.encode import alert_rows, score_columns
from worker.line import Line
from worker.reasons import Reasons, reasons


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Ready:
    """A batch that may be published."""

    batch: Batch
    scores: NDArray[np.float32] | None  # None: the pipeline has no model, or the batch no event
    decisions: Decisions | None
    rejected: list[Rejected]  # events without a score
    reasons: Reasons  # of those of its rows that are alerts


def prepare(
    line: Line,
    batch: Batch,
    scores: NDArray[np.float32] | None,
    decisions: Decisions | None,
    rejected: list[Rejected],
) -> Ready:
    """The batch with the reasons of its alerts; made while what scored it is at hand."""
    told: Reasons = {}
    if line.reasons is not None and line.scorer is not None and scores is not None and decisions is not None:
        with line.meter.timed("reasons"):
            told = reasons(line.reasons, batch, scores, decisions, line.scorer.model)
    return Ready(batch=batch, scores=scores, decisions=decisions, rejected=rejected, reasons=told)


def publish(line: Line, made: Ready, scores: NDArray[np.float32], wall_us: int) -> None:
    """Send the scores of the events that have one and are not muted, and their alerts.

    Args:
        scores: (n,) of the whole batch.
        wall_us: when they were scored.

    Raises:
        NotCommittedError: the client refuses; see there.
    """
    assert line.score_codec is not None
    batch = made.batch
    rows = np.flatnonzero(np.isfinite(scores) & ~batch.features.is_muted)
    if not len(rows):
        return
    records = batch.events.records if len(rows) == len(batch) else batch.events.records.take(rows)
    with line.meter.timed("encode"):
        columns = score_columns(batch, scores, rows, line.stamp, wall_us)
        encoded = line.score_codec.encode_columns(columns, len(rows))
    with line.meter.timed("send"):
        line.sink.send(line.scores_topic, encoded, records.keys)
        if made.decisions is not None:
            _publish_alerts(line, batch, scores, made.decisions, made.reasons, rows, wall_us)
    produced_ms = records.produced_ms
    line.meter.sent(len(rows), (wall_us / 1000 - produced_ms[produced_ms > 0]) / 1000)


def _publish_alerts(
    line: Line,
    batch: Batch,
    scores: NDArray[np.float32],
    decisions: Decisions,
    reasons: Reasons,
    rows: NDArray[np.int64],
    wall_us: int,
) -> None:
    alerts = alert_rows(batch, scores, decisions, reasons, rows, line.stamp, wall_us)
    if not alerts:
        return
    assert line.alert_codec is not None
    encoded = line.alert_codec.encode_rows(alerts, trusted=True)
    keys = [alert["key"].encode() for alert in alerts]
    line.sink.send(line.alerts_topic, spans_of(encoded), spans_of(keys))
    for alert in alerts:
        line.meter.alert(alert["severity"], alert["lifecycle"])
