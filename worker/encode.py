"""Scores and alerts to record bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_cache.order import ORDERS
from schemas.schema import load_schema
from worker.batch import Batch
from worker.columns import texts
from worker.decide import LIFECYCLES, NONE, Decisions
from worker.degradation import STEPS, WHOLE
from worker.privacy import Privacy, hide
from worker.reasons import Reasons

SCORE = load_schema("score")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What every output of this worker says of itself."""

    source_topic: str
    model: str
    model_version: str
    policy_version: str
    event_id: str  # event field
    key: str  # event field
    severities: tuple[str, ...]
    feature_names: tuple[str, ...]
    thresholds: tuple[float, ...]
    privacy: Privacy | None = None  # what of an alert is hashed; None: nothing


def score_columns(
    batch: Batch, scores: NDArray[np.float32], rows: NDArray[np.int64], stamp: Stamp, now_us: int
) -> dict[str, Any]:
    """The score records of these rows, as columns of score.avsc; enums are indices of their symbols."""
    events, features = batch.events, batch.features
    ids, keys = (texts(events.table, name) for name in (stamp.event_id, stamp.key))
    here: NDArray[np.int64] | slice = slice(None)  # all of them, nothing is copied
    if len(rows) < len(events):
        ids, keys, here = ids.take(pa.array(rows)), keys.take(pa.array(rows)), rows
    age_ms = features.lookup_age_ms[here]
    return {
        "event_id": ids,
        "key": keys,
        "source_topic": stamp.source_topic,
        "source_partition": events.records.partition[here],
        "source_offset": events.records.offset[here],
        "event_time": events.event_us[here],
        "scored_at": np.full(len(rows), now_us),
        "score": scores[here],
        "model": stamp.model,
        "model_version": stamp.model_version,
        "policy_version": stamp.policy_version,
        "late": features.late[here],
        "incomplete": features.incomplete[here],
        "degraded": features.degradation[here] != WHOLE,
        "lookup_age_ms": np.ma.masked_array(age_ms, age_ms < 0) if age_ms.max(initial=-1) >= 0 else None,
        "degradation": features.degradation[here],
        "time_order": features.time_order[here],
    }


def _rows(columns: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """Columns, and values that stand for all rows, as one dict a row."""
    values = [
        value
        if isinstance(value, list)
        else value.tolist()
        if hasattr(value, "tolist")
        else repeat(value, count)
        for value in columns.values()
    ]
    return (dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True))


def alert_rows(
    batch: Batch,
    scores: NDArray[np.float32],
    decisions: Decisions,
    reasons: Reasons,
    rows: NDArray[np.int64],
    stamp: Stamp,
    now_us: int,
) -> list[dict[str, Any]]:
    """The alert records among these rows; alerts are rare, so they are built one by one."""
    alerting = rows[decisions.lifecycle[rows] != NONE]
    if not len(alerting):
        return []
    columns = score_columns(batch, scores, alerting, stamp, now_us)
    columns["degradation"] = [STEPS[step] for step in columns["degradation"].tolist()]
    columns["time_order"] = [ORDERS[order] for order in columns["time_order"].tolist()]
    names = stamp.feature_names
    alerts = []
    for row, fields in zip(alerting.tolist(), _rows(columns, len(alerting)), strict=True):
        values = batch.features.scalars[row]
        level = int(decisions.level[row])
        lifecycle = LIFECYCLES[int(decisions.lifecycle[row])]
        severity = stamp.severities[level - 1]
        alerts.append(
            {
                **fields,
                "alert_id": f"{stamp.source_topic}-{fields['source_partition']}-{fields['source_offset']}",
                "severity": severity,
                "lifecycle": lifecycle,
                "reason": f"score {fields['score']:.4g} against {severity} threshold "
                f"{stamp.thresholds[level - 1]:.4g}",
                "reasons": reasons.get(row, []),
                "features": dict(zip(names, values.tolist(), strict=True)),
            }
        )
    return [hide(alert, stamp.privacy) for alert in alerts]
