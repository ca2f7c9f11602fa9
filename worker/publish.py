"""Scores and alerts of one batch, to the client."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.codec import Codec
from schemas.spans import Spans, spans_of
from worker.batch import Batch, Rejected, is_of
from worker.decide import NONE, Decisions
from worker.encode import alert_rows, score_columns
from worker.guard_alerts import guard_alert
from worker.line import Line
from worker.reasons import Reasons
from worker.router import Shadow


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Ready:
    """A batch that may be published."""

    batch: Batch
    scores: NDArray[np.float32] | None  # None: the pipeline has no model, or the batch no event
    decisions: Decisions | None
    rejected: list[Rejected]  # events without a score
    shadow: Shadow | None = None
    reasons: Reasons = field(default_factory=dict)  # of those of its rows that are alerts


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
    _publish_watched(line, batch, scores, wall_us)
    _publish_trips(line, batch, wall_us)
    rows = np.flatnonzero(np.isfinite(scores) & ~batch.features.is_muted)
    if not len(rows):
        return
    records = batch.events.records if len(rows) == len(batch) else batch.events.records.take(rows)
    with line.meter.timed("encode"):
        columns = score_columns(batch, scores, rows, line.stamp, wall_us)
        encoded = line.score_codec.encode_columns(columns, len(rows))
    with line.meter.timed("send"):
        line.sink.send(line.scores_topic, encoded, records.keys, _headers(batch, rows))
        if made.decisions is not None:
            _publish_alerts(line, batch, scores, made.decisions, made.reasons, rows, wall_us)
        if made.shadow is not None:
            _publish_shadow(line, batch, made.shadow, wall_us)
    line.meter.sent(len(rows), wall_us, records.produced_ms)


def _publish_shadow(line: Line, batch: Batch, shadow: Shadow, wall_us: int) -> None:
    """The scores of a version that decides nothing, to their own topic."""
    assert line.score_codec is not None
    rows = np.flatnonzero(np.isfinite(shadow.scores) & ~batch.features.is_muted)
    if not len(rows):
        return
    columns = score_columns(
        replace(batch, version=shadow.version, ends=shadow.ends), shadow.scores, rows, line.stamp, wall_us
    )
    encoded = line.score_codec.encode_columns(columns, len(rows))
    keys = batch.events.records.keys.take(rows)
    line.sink.send(line.shadow_topic, encoded, keys, _headers(batch, rows))


def _headers(batch: Batch, rows: NDArray[np.int64]) -> Spans | None:
    """What takes the traces of these events on; None: they have none."""
    return None if batch.trace is None else batch.trace.headers(rows)


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
    headers = None if batch.trace is None else batch.trace.headers(rows[decisions.lifecycle[rows] != NONE])
    line.sink.send(line.alerts_topic, spans_of(encoded), spans_of(keys), headers)
    for alert in alerts:
        line.meter.alert(alert["severity"], alert["lifecycle"])


def _publish_trips(line: Line, batch: Batch, wall_us: int) -> None:
    if line.router is None or not line.router.untold or batch.features.is_muted.all():
        return  # of muted events nothing is committed, and a transaction would stay open
    untold, line.router.untold = line.router.untold, []
    if line.watch_codec is None or line.rollout is None:
        return
    alerts = [
        guard_alert(
            trip,
            pipeline=line.name,
            worker=line.rollout.worker,
            model=line.stamp.model,
            version=version,
            event_us=int(batch.events.event_us.max()),
            now_us=wall_us,
        )
        for version, trip in untold
    ]
    _send_watch_alerts(line, line.watch_codec, alerts)


def _send_watch_alerts(line: Line, codec: Codec, alerts: list[dict[str, Any]]) -> None:
    encoded = codec.encode_rows(alerts, trusted=True)
    line.sink.send(line.watch_topic, spans_of(encoded), spans_of([a["alert_id"].encode() for a in alerts]))


def _publish_watched(line: Line, batch: Batch, scores: NDArray[np.float32], wall_us: int) -> None:
    if line.watcher is None or line.router is None:
        return
    card = line.router.card
    with line.meter.timed("watch"):
        # Guards look at a canary's scores; and a batch may have waited for a commit while versions changed.
        alerts = line.watcher.look(card, batch, scores, wall_us, ~is_of(batch, card.version))
    if not alerts:
        return
    assert line.watch_codec is not None
    _send_watch_alerts(line, line.watch_codec, alerts)
