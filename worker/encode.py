"""Scores and alerts to record bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_cache.order import ORDERS
from schemas.schema import load_schema
from schemas.spans import Spans
from worker.batch import Batch, Ends
from worker.decide import LIFECYCLES, NONE, Decisions
from worker.decision_rules import Rule, in_words, names_of
from worker.degradation import STEPS, WHOLE
from worker.privacy import Privacy, hide
from worker.quality import are_masked
from worker.reasons import Reasons

SCORE = load_schema("score")
NO_RULES = np.zeros(0, np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What every output of this worker says of itself."""

    source_topic: str
    model: str
    policy_version: str
    event_id: str  # event field
    key: str  # event field
    severities: tuple[str, ...]
    feature_names: tuple[str, ...]
    thresholds: tuple[float, ...]
    privacy: Privacy | None = None  # what of an alert is hashed; None: nothing
    rules: tuple[Rule, ...] = ()
    on: str = "score"  # what of it met the thresholds: score, low or high


def score_columns(
    batch: Batch, scores: NDArray[np.float32], rows: NDArray[np.int64], stamp: Stamp, now_us: int
) -> dict[str, Any]:
    """The score records of these rows, as columns of score.avsc; enums are indices of their symbols."""
    events, features, versions = batch.events, batch.features, batch.version
    ids, keys = events.columns.spans(stamp.event_id), events.columns.spans(stamp.key)
    here: NDArray[np.int64] | slice = slice(None)  # all of them, nothing is copied
    if len(rows) < len(events):
        ids, keys, here = ids.take(rows), keys.take(rows), rows
    age_ms = features.lookup_age_ms[here]
    return {
        "event_id": ids,
        "key": keys,
        "source_topic": stamp.source_topic,
        "source_partition": events.records.partition[here],
        "source_offset": events.records.offset[here],
        "event_time": events.event_us[here],
        "scored_at": now_us,
        "score": scores[here],
        "model": stamp.model,
        "model_version": versions if isinstance(versions, str) else versions.take(pa.array(rows)),
        "policy_version": stamp.policy_version,
        "late": features.late[here],
        "incomplete": features.incomplete[here],
        "degraded": features.degradation[here] != WHOLE,
        "lookup_age_ms": np.ma.masked_array(age_ms, age_ms < 0) if age_ms.max(initial=-1) >= 0 else None,
        "degradation": features.degradation[here],
        "time_order": features.time_order[here],
        **_interval_columns(batch.ends, here),
        "masked": False if features.quality is None else are_masked(features.quality, len(events))[here],
    }


def _interval_columns(ends: Ends | None, here: NDArray[np.int64] | slice) -> dict[str, Any]:
    """The ends of each score's interval; null where there is none."""
    if ends is None:
        return {"low": None, "high": None}
    low, high = (end[here] for end in ends)
    missing = np.isnan(low)
    if missing.any():
        return {"low": np.ma.masked_array(low, missing), "high": np.ma.masked_array(high, missing)}
    return {"low": low, "high": high}


def listed(column: Any, count: int) -> list[Any]:
    """A column of `score_columns`, or a value that stands for all rows, as plain values."""
    if isinstance(column, list):
        return column
    if isinstance(column, Spans):
        is_there = (column.ends >= column.starts).tolist()
        texts = [text.decode() for text in column.to_list()]
        return [text if known else None for text, known in zip(texts, is_there, strict=True)]
    return list(column.tolist()) if hasattr(column, "tolist") else [column] * count


def _rows(columns: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """Columns, and values that stand for all rows, as one dict a row."""
    values = [listed(value, count) for value in columns.values()]
    return (dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True))


def _met(fields: dict[str, Any], on: str) -> str:
    score = f"score {fields['score']:.4g}"
    return score if fields[on] is None or on == "score" else f"{on} end {fields[on]:.4g} of {score}"


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
        decided = NO_RULES if decisions.rules is None else decisions.rules[row]
        alerts.append(
            {
                **fields,
                "alert_id": f"{stamp.source_topic}-{fields['source_partition']}-{fields['source_offset']}",
                "severity": severity,
                "lifecycle": lifecycle,
                "reason": f"{_met(fields, stamp.on)} against {severity} threshold "
                f"{stamp.thresholds[level - 1]:.4g}"
                + in_words(stamp.rules, decided, level, stamp.severities),
                "reasons": reasons.get(row, []),
                "features": dict(zip(names, values.tolist(), strict=True)),
                "rules": names_of(stamp.rules, decided),
            }
        )
    return [hide(alert, stamp.privacy) for alert in alerts]
