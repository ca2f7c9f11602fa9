"""Scores, alerts and labels as facts about events; see feature_cache.cases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_cache.cases import LARGEST, NONE, Fact
from schemas.codec import Codec
from schemas.columns import numbers, texts, ticks
from worker.decode import time_unit_us
from worker.figures import SCORE_UNITS, VALUE_UNITS
from worker.score_bins import levels, score_bins, tenths
from worker.truth_types import OF_OTHERS, TruthOptions

_TELLING = re.compile(r"[\s|]+")  # what stands between the words of a fact, and between facts


@dataclass(frozen=True, slots=True, kw_only=True)
class FactPlan:
    """What of a record a fact is made of."""

    truth: TruthOptions
    severities: tuple[str, ...]
    thresholds: tuple[float, ...]
    alert_below: bool

    @property
    def horizon_ms(self) -> int:
        """How long a fact is taken after its record was made."""
        return self.truth.horizon_ms

    def from_(self, kind: str, where: str | None) -> str | None:
        """The field that `kind.FIELD` names; None when it is of another kind."""
        found, _, field = (where or "").partition(".")
        return field if found == kind else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The facts of some records."""

    facts: list[Fact]
    rows: list[int]  # index of each fact's record
    rejected: dict[str, int]  # records that say nothing, by reason


def score_facts(codec: Codec, values: Sequence[bytes | None], made_ms: list[int], plan: FactPlan) -> Taken:
    """What scores say; a score that is NaN says nothing.

    Args:
        codec: of the scores.
        values: (n,) records.
        made_ms: (n,) Kafka timestamps.
    """
    decoded = codec.decode(values)
    table, rejected = decoded.table, _reasons(decoded.rejects)
    scores = numbers(table.column("score")).astype(np.float32)
    kept = np.flatnonzero(np.isfinite(scores))
    if len(kept) < len(scores):
        rejected["not_scored"] = len(scores) - len(kept)
    rows, scores, table = decoded.rows[kept], scores[kept], table.take(pa.array(kept))
    tenth, segment = tenths(scores), plan.from_("score", plan.truth.segment)
    level = levels(scores, plan.thresholds, alert_below=plan.alert_below)
    cells = zip(score_bins(scores).tolist(), level.tolist(), tenth.tolist(), strict=True)
    columns = zip(
        texts(table.column("event_id")).to_pylist(),
        ticks(table.column("scored_at")).tolist(),
        table.column("source_partition").to_pylist(),
        table.column("source_offset").to_pylist(),
        _expire_ms(rows, made_ms, plan),
        (ticks(table.column("event_time")) // plan.truth.bucket_us).tolist(),
        texts(table.column("model_version")).to_pylist(),
        _segments(table, segment, plan),
        cells,
        np.rint(np.clip(scores, 0, 1).astype(np.float64) * SCORE_UNITS).astype(np.int64).tolist(),
        strict=True,
    )
    facts = [
        Fact(
            name.encode(),
            f"s {at} {p} {o} {expire} {bucket} {_TELLING.sub('_', version) or NONE} {where} "
            f"{cell[0]}.{cell[1]}.{cell[2]} {cell[2] if cell[2] >= 0 else NONE} {micro} {cell[1]}",
        )
        for name, at, p, o, expire, bucket, version, where, cell, micro in columns
    ]
    return Taken(facts=facts, rows=rows.tolist(), rejected=rejected)


def alert_facts(codec: Codec, values: Sequence[bytes | None], made_ms: list[int], plan: FactPlan) -> Taken:
    """What alerts say that were raised or made worse; of a severity that there is not any more, nothing."""
    decoded = codec.decode(values)
    feature = plan.from_("alert", plan.truth.value)
    found = decoded.table.select(
        ["event_id", "scored_at", "source_partition", "source_offset", "severity", "lifecycle", "features"]
    ).to_pylist()
    expire = _expire_ms(decoded.rows, made_ms, plan)
    facts, rows = [], []
    rank = {severity: level for level, severity in enumerate(plan.severities, 1)}
    for row, alert, expires_ms, at_us in zip(
        decoded.rows.tolist(), found, expire, ticks(decoded.table.column("scored_at")).tolist(), strict=True
    ):
        if alert["lifecycle"] == "CLEARED" or alert["severity"] not in rank:
            continue
        worth = dict(alert["features"]).get(feature) if feature else None
        facts.append(
            Fact(
                alert["event_id"].encode(),
                f"a {at_us} {alert['source_partition']} {alert['source_offset']} {expires_ms} "
                f"{rank[alert['severity']]} {_value(worth)}",
            )
        )
        rows.append(row)
    return Taken(facts=facts, rows=rows, rejected=_reasons(decoded.rejects))


def label_facts(
    codec: Codec,
    values: Sequence[bytes | None],
    made_ms: list[int],
    places: Sequence[tuple[int, int]],
    plan: FactPlan,
) -> Taken:
    """What labels say; one that has no event id or no truth says nothing.

    Args:
        codec: of the labels.
        values: (n,) records.
        made_ms: (n,) Kafka timestamps.
        places: (n,) partition and offset.
    """
    decoded = codec.decode(values)
    labels, table, rejected = plan.truth.labels, decoded.table, _reasons(decoded.rejects)
    truths = numbers(table.column(labels.label))  # NaN where null
    named = table.column(labels.event_id).is_valid().to_numpy(zero_copy_only=False)
    kept = np.flatnonzero(named & ~np.isnan(truths))
    if len(kept) < len(table):
        rejected["null_label"] = len(table) - len(kept)
    rows, table, truths = decoded.rows[kept], table.take(pa.array(kept)), truths[kept]
    value = plan.from_("label", plan.truth.value)
    facts = [
        Fact(
            name.encode(),
            f"l {known_us} {places[row][0]} {places[row][1]} {expire} {truth} {segment} {_value(worth)}",
        )
        for name, row, known_us, expire, truth, segment, worth in zip(
            texts(table.column(labels.event_id)).to_pylist(),
            rows.tolist(),
            _known_us(table, labels.time, rows, made_ms),
            _expire_ms(rows, made_ms, plan),
            (truths > 0).astype(np.int8).tolist(),
            _segments(table, plan.from_("label", plan.truth.segment), plan),
            table.column(value).to_pylist() if value else [None] * len(table),
            strict=True,
        )
    ]
    return Taken(facts=facts, rows=rows.tolist(), rejected=rejected)


def _known_us(
    table: pa.RecordBatch, field: str | None, rows: NDArray[np.int64], made_ms: list[int]
) -> list[int]:
    if field is None:
        return [made_ms[row] * 1000 for row in rows.tolist()]
    column = table.column(field)
    return [int(tick) for tick in (ticks(column) * time_unit_us(column.type)).tolist()]


def _expire_ms(rows: NDArray[np.int64], made_ms: list[int], plan: FactPlan) -> list[int]:
    return [made_ms[row] + plan.horizon_ms for row in rows.tolist()]


def _segments(table: pa.RecordBatch, field: str | None, plan: FactPlan) -> list[str]:
    """A segment of each row: one of those to tell apart, another, or none where the field is not given."""
    if field is None:
        return [NONE] * len(table)
    known = {segment: segment for segment in plan.truth.segments}
    found = texts(table.column(field)).to_pylist()
    return [NONE if segment is None else known.get(segment, OF_OTHERS) for segment in found]


def _value(worth: Any) -> str:
    """In thousandths; what is no number, or beyond a thousand million, is no value."""
    units = float(worth) * VALUE_UNITS if worth is not None else float("nan")
    return str(round(units)) if abs(units) <= LARGEST else NONE


def _reasons(rejects: Sequence[Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for reject in rejects:
        found[reject.reason] = found.get(reject.reason, 0) + 1
    return found
