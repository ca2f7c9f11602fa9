"""A backtest: stored events scored and decided as a live worker would, written to files and nowhere else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from feature_cache.store import Store
from schemas.schema import load_schema
from worker.assemble import reasons_of, stamp_of
from worker.batch import Batch
from worker.config import ConfigError, Pipeline
from worker.decide import LIFECYCLES, Decisions
from worker.decision import decide_batch
from worker.encode import Stamp, alert_rows
from worker.plan import decision_policy
from worker.privacy import privacy_of
from worker.published import ALERTS_FILE, SCORES_FILE
from worker.reasons import reasons
from worker.replay import OpenFeed, Period, Replay
from worker.replay_table import (
    EVENT_COLUMNS,
    SCORE_COLUMNS,
    TRUTH_COLUMNS,
    Label,
    check_names,
    event_columns,
    feature_columns,
    named,
    read_truth,
    record_batch,
    truth_columns,
)
from worker.scoring import Scorer
from worker.versions import open_scorer

STAGES = ("read", "lookups", "features", "infer", "decide", "write")
_ALERT = load_schema("alert").arrow


@dataclass(slots=True, kw_only=True)
class Ran:
    """What a backtest did; its outcomes are in the files."""

    model: str = ""  # NAME/VERSION
    meaning: str = ""  # of the score
    device: str = ""
    read: int = 0  # events that were computed, those before the period too
    scored: int = 0  # of the period
    failed: int = 0  # of the period, that the model chokes on
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    looked_up: dict[str, int] = field(default_factory=dict)  # events of pipelines that are looked up
    wall_s: float = 0.0
    took_s: dict[str, float] = field(default_factory=dict)  # by stage
    batch_rows: list[int] = field(default_factory=list)
    batch_s: list[float] = field(default_factory=list)  # features, infer and decide of each batch
    oldest_produced_ms: int = -1  # of the events of the period; -1: not known


def with_changes(pipeline: Pipeline, model: str | None, thresholds: Mapping[str, float]) -> Pipeline:
    """The pipeline with another model version, or other thresholds.

    Args:
        model: NAME/VERSION in the pipeline's repository.
        thresholds: by severity.

    Raises:
        ConfigError: there is no model or decision, or the thresholds are not in order.
    """
    if pipeline.model is None:
        raise ConfigError(f"{pipeline.path}: found no model, expected one: this pipeline only keeps features")
    if model is not None:
        name, _, version = model.partition("/")
        try:
            pipeline = replace(pipeline, model=replace(pipeline.model, name=name, version=version))
        except ValidationError as error:
            raise ConfigError(f"--model: found {model!r}, expected NAME/VERSION") from error
    if thresholds:
        decision = pipeline.decision
        unknown = sorted(set(thresholds) - set(decision.severities if decision else ()))
        if decision is None or unknown:
            known = ", ".join(decision.severities) if decision else "a pipeline with a decision"
            raise ConfigError(f"--threshold: found {', '.join(unknown)!r}, expected one of {known}")
        try:
            changed = replace(decision, severities={**decision.severities, **thresholds})
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            raise ConfigError(f"--threshold: {said}") from error
        pipeline = replace(pipeline, decision=changed)
    return pipeline


class Judge:
    """Scores batches of a replay, and decides them in the rows that they came from."""

    def __init__(self, pipeline: Pipeline, replay: Replay) -> None:
        """Load the model.

        Raises:
            ModelError, ConfigError: it does not prove itself.
        """
        schema = load_schema(pipeline.source.schema_ref, pipeline.base)
        assert pipeline.model is not None  # with_changes has checked it
        scorer = open_scorer(pipeline, replay.plan, pipeline.model.version)
        scorer.settle()
        self.scorer: Scorer = scorer
        self.decision = decision_policy(pipeline)
        self.stamp: Stamp = stamp_of(
            pipeline, replay.plan, scorer.card, self.decision, privacy_of(pipeline, schema, replay.plan.names)
        )
        self._rows = replay.offline.lanes.rows
        plan_reasons = reasons_of(pipeline, replay.plan, schema)
        self._reasons = plan_reasons(scorer.card) if plan_reasons else None

    def score(self, batch: Batch) -> tuple[Batch, NDArray[np.float32]]:
        """The batch as far as its scores can be trusted, and (n,) scores; NaN where the model has none."""
        scored = self.scorer.score(batch.features, time.monotonic() * 1000)
        features = replace(batch.features, degradation=scored.degradation)
        scores = np.where(np.isfinite(scored.scores), scored.scores, np.float32(np.nan))
        version = self.scorer.card.version
        return replace(batch, features=features, version=version, ends=scored.ends), scores

    def decide(self, batch: Batch, scores: NDArray[np.float32]) -> Decisions | None:
        """What the scores ask for; their rows note it."""
        if self.decision is None:
            return None
        return decide_batch(batch, scores, self._rows, self.decision)

    def alerts(
        self,
        batch: Batch,
        scores: NDArray[np.float32],
        decisions: Decisions,
        rows: NDArray[np.int64],
        now_us: int,
    ) -> list[dict[str, Any]]:
        """The alerts among these rows, with their reasons."""
        told = reasons(self._reasons, batch, scores, decisions, self.scorer.model) if self._reasons else {}
        return alert_rows(batch, scores, decisions, told, rows, self.stamp, now_us)


def backtest(
    pipeline: Pipeline,
    open_feed: OpenFeed,
    period: Period,
    out: Path,
    *,
    label: Label | None = None,
    profiles: Store | None = None,
    rows: int = 8192,
    on_events: Callable[[int, int], None] = lambda _events, _time_us: None,
) -> Ran:
    """Write scores.parquet, every event of the period with features and score, and alerts.parquet.

    Nothing that is live is written: rows are kept in memory, outputs go to files.

    Args:
        pipeline: see `with_changes`.
        open_feed: gives the events, see `Replay`; twice those that hold the labels.
        period: which events are of interest.
        out: a folder.
        label: adds the columns truth and truth_known_at.
        profiles: store of profile rows.
        rows: events that are computed together at most.
        on_events: told how many events were computed since, and the event time reached.

    Raises:
        ConfigError, ModelError: a file, a column, a label or the model is wrong.
        KafkaException, StopWorker: the log cannot be read, or nothing scores that the file allows.
    """
    replay = Replay(pipeline, open_feed, period, rows=rows, profiles=profiles)
    check_names(replay.plan, (*EVENT_COLUMNS, *SCORE_COLUMNS, *TRUTH_COLUMNS), pipeline.path)
    judge = Judge(pipeline, replay)
    truth = None if label is None else read_truth(label, replay.plan, open_feed)
    card = judge.scorer.card
    ran = Ran(model=f"{card.name}/{card.version}", meaning=card.output.meaning, device=judge.scorer.device)
    writer = _Writer(out)
    infer_s = decide_s = write_s = 0.0
    judge.decide(replay.offline.warm(), np.zeros(0, np.float32))
    begun_s = time.perf_counter()
    try:
        features_s = 0.0
        for found in replay.batches():
            at_s = time.perf_counter()
            batch, scores = judge.score(found)
            scored_s = time.perf_counter()
            decisions = judge.decide(batch, scores)
            decided_s = time.perf_counter()
            event_us = batch.events.event_us
            inside = np.flatnonzero((event_us >= period.from_us) & (event_us < period.to_us))
            if len(inside):
                columns = record_batch(
                    event_columns(batch, inside, pipeline),
                    score_columns(scores, decisions, inside, judge.stamp, batch.version),
                    {} if label is None else truth_columns(batch, inside, pipeline, label, truth),
                    feature_columns(batch, inside, replay.plan, sequences=False),
                )
                alerting = inside[np.isfinite(scores[inside])]
                alerts = []
                if decisions is not None:
                    now_us = time.time_ns() // 1000
                    alerts = judge.alerts(batch, scores, decisions, alerting, now_us)
                writer.write(columns, alerts)
                ran.scored += len(alerting)
                ran.failed += len(inside) - len(alerting)
                _note_age(ran, batch.events.records.produced_ms[inside])
            infer_s, decide_s = infer_s + scored_s - at_s, decide_s + decided_s - scored_s
            write_s += time.perf_counter() - decided_s
            ran.read += len(batch)
            ran.batch_rows.append(len(batch))
            ran.batch_s.append(decided_s - at_s + replay.took_s["features"] - features_s)
            features_s = replay.took_s["features"]
            on_events(len(batch), int(event_us.max()) if len(batch) else 0)
    finally:
        writer.close()
    ran.wall_s = time.perf_counter() - begun_s
    ran.took_s = {**replay.took_s, "infer": infer_s, "decide": decide_s, "write": write_s}
    ran.rejected = replay.rejected
    ran.looked_up = {owner.name: owner.events for owner in replay.owners}
    return ran


def score_columns(
    scores: NDArray[np.float32],
    decisions: Decisions | None,
    rows: NDArray[np.int64],
    stamp: Stamp,
    version: str,
) -> dict[str, Any]:
    """Score and decision of these rows; a score that is missing is null."""
    chosen = scores[rows]
    lifecycle = np.zeros(len(rows), np.uint8) if decisions is None else decisions.lifecycle[rows]
    level = np.zeros(len(rows), np.uint8) if decisions is None else decisions.level[rows]
    return {
        "score": pa.array(chosen, pa.float32(), mask=np.isnan(chosen)),
        "model": named(np.zeros(len(rows), np.uint8), (stamp.model,)),
        "model_version": named(np.zeros(len(rows), np.uint8), (version,)),
        "lifecycle": named(lifecycle, LIFECYCLES),
        "severity": named(level, ("", *stamp.severities)),
    }


def _note_age(ran: Ran, produced_ms: NDArray[np.int64]) -> None:
    known = produced_ms[produced_ms >= 0]
    if len(known):
        oldest = int(known.min())
        ran.oldest_produced_ms = oldest if ran.oldest_produced_ms < 0 else min(ran.oldest_produced_ms, oldest)


class _Writer:
    """The two files, each opened with the first that it holds."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._out = out
        self._scores: pq.ParquetWriter | None = None
        self._alerts: pq.ParquetWriter | None = None
        for name in (SCORES_FILE, ALERTS_FILE):
            (out / name).unlink(missing_ok=True)

    def write(self, columns: pa.RecordBatch, alerts: list[dict[str, Any]]) -> None:
        if self._scores is None:
            self._scores = pq.ParquetWriter(self._out / SCORES_FILE, columns.schema, compression="zstd")
        self._scores.write_batch(columns)
        if alerts:
            if self._alerts is None:
                self._alerts = pq.ParquetWriter(self._out / ALERTS_FILE, _ALERT, compression="zstd")
            rows = [{**alert, "features": list(alert["features"].items())} for alert in alerts]
            self._alerts.write_batch(pa.RecordBatch.from_pylist(rows, _ALERT))

    def close(self) -> None:
        for writer in (self._scores, self._alerts):
            if writer is not None:
                writer.close()
