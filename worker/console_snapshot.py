"""How one worker's pipeline is, in one small record: what it counts, read from the metrics that exist."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import field
from typing import Annotated

from prometheus_client import REGISTRY, CollectorRegistry
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from worker.admin import STUCK_S
from worker.latency_window import Counts, LatencyWindow, to_sparse
from worker.metrics import families
from worker.run import Worker
from worker.tally import add_up

WINDOW_S = 10  # over which reasons, sizes, stages and latencies are told
_DRIFT_AT_MOST = 40  # features told of, the worst first
_RATES = {
    "events": "penstock_events_total",
    "scores": "penstock_scores_total",
    "alerts": "penstock_alerts_total",
    "dead_letters": "penstock_dead_letters_total",
}
_FAMILIES = (
    "events", "scores", "alerts", "dead_letters", "batches", "batch_rows", "batch_max_rows", "batch_max_wait",
    "late_share", "slo_missed", "lag_records", "lag_seconds", "degraded", "degradation", "state_writes",
    "dirty_rows", "hot_rows", "lanes", "recoveries", "skipped", "late", "incomplete", "drift_psi",
    "drift_rank", "drift_alarm", "model_refused", "stage_seconds",
)  # fmt: skip

# Whoever may write the topic can write anything: what is read is checked, and numbers are numbers.
Count = Annotated[int, Field(ge=0, le=1 << 53)]
_CHECKED = ConfigDict(allow_inf_nan=False, extra="ignore")
Key = tuple[str, tuple[str, ...]]  # sample, and its labels but the pipeline
Values = dict[Key, float]


@dataclass(frozen=True, slots=True, kw_only=True, config=_CHECKED)
class Snapshot:
    """What one worker says of one pipeline; rates are of the last second, windows of the last ten."""

    pipeline: str
    worker: str
    started_ms: Count  # of the process: another one counts from zero
    seq: Count
    at_ms: Count  # by the worker's clock
    topic: str = ""
    lanes_total: Count = 0  # partitions of the topic, as far as this worker knows
    device: str = ""
    loop_age_s: float = 0.0
    is_alive: bool = True
    is_ready: bool = False
    is_paused: bool = False
    per_s: dict[str, float] = field(default_factory=dict)
    totals: dict[str, Count] = field(default_factory=dict)
    latency: dict[str, Count] = field(default_factory=dict)  # see latency_window.to_sparse
    lag: dict[str, tuple[Count, float]] = field(default_factory=dict)  # partition to records and seconds
    lanes: dict[str, Count] = field(default_factory=dict)
    batches: dict[str, Count] = field(default_factory=dict)  # by reason
    batch_events: Count = 0
    batch_max_rows: Count = 0
    batch_max_wait_ms: float = 0.0
    stages_us: dict[str, float] = field(default_factory=dict)  # an event
    dead_letters: dict[str, Count] = field(default_factory=dict)  # by reason
    alerts: dict[str, Count] = field(default_factory=dict)  # by severity
    degraded: dict[str, Count] = field(default_factory=dict)  # by step
    degradation: Count = 0
    recoveries: dict[str, Count] = field(default_factory=dict)  # by cause
    writes_failed: Count = 0
    hot_rows: Count = 0
    dirty_rows: Count = 0
    slo_missed: bool = False
    late_share: float = 0.0
    model: str = ""
    champion: str = ""
    challenger: str = ""
    is_shadow: bool = False
    share: float = 0.0
    revision: Count = 0
    is_refused: bool = False
    drift: tuple[tuple[str, float, float, str], ...] = ()  # feature, PSI, mean rank, alerts that stand
    drift_alarms: tuple[str, ...] = ()  # `feature kind`, of all features

    def encode(self) -> bytes:
        """As JSON."""
        return _ADAPTER.dump_json(self)  # json.dumps of asdict takes twenty times as long


_ADAPTER = TypeAdapter(Snapshot)


def decode(value: bytes) -> Snapshot:
    """A snapshot from its record; what a newer version has added is left out.

    Raises:
        ValueError: it is none.
    """
    try:
        return _ADAPTER.validate_json(value)
    except ValidationError as error:
        raise ValueError(f"no snapshot: {error.errors()[0]['msg']}") from error


class Sampler:
    """Takes a snapshot of one worker's pipeline a second; one thread calls, which is not the loop's."""

    def __init__(self, worker: Worker, name: str, registry: CollectorRegistry = REGISTRY) -> None:
        """Count from now on.

        Args:
            name: what the worker is called within its group.
        """
        self._worker, self._name = worker, name
        self._registry = registry
        self._started_ms = time.time_ns() // 1_000_000
        self._seq = 0
        self._latency = LatencyWindow()
        worker.line.meter.latency = self._latency
        self._past: deque[tuple[float, Values, Counts]] = deque(maxlen=WINDOW_S + 1)
        self._past.append((time.monotonic(), self._read(), self._latency.counts()))

    @property
    def pipeline(self) -> str:
        """Whose snapshots they are."""
        return self._worker.line.name

    def take(self, now_s: float) -> Snapshot:
        """How it is now.

        Args:
            now_s: of the monotonic clock.
        """
        now, counts = self._read(), self._latency.counts()
        last_s, last, _ = self._past[-1]
        _, first, first_counts = self._past[0]
        self._past.append((now_s, now, counts))
        self._seq += 1
        passed_s = max(now_s - last_s, 1e-3)
        events = _grown(now, first, "penstock_events_total")
        line, serving = self._worker.line, self._worker.line.router and self._worker.line.router.serving
        age_s = max(0.0, now_s - self._worker.looped_at_ms / 1000)
        return Snapshot(
            pipeline=line.name,
            worker=self._name,
            started_ms=self._started_ms,
            seq=self._seq,
            at_ms=time.time_ns() // 1_000_000,
            topic=line.topic,
            lanes_total=line.owned.topic_partitions,
            device=line.router.device if line.router else "",
            loop_age_s=round(age_s, 3),
            is_alive=age_s < STUCK_S,
            is_ready=self._worker.is_ready,
            is_paused=self._worker.is_paused,
            per_s={name: round(_grown(now, last, family) / passed_s, 2) for name, family in _RATES.items()},
            totals={name: int(_total(now, family)) for name, family in _RATES.items()},
            latency=to_sparse(counts - first_counts),
            lag=_lag(now),
            lanes={state: int(value) for (state,), value in _of(now, "penstock_lanes")},
            batches=_grown_by(now, first, "penstock_batches_total"),
            batch_events=int(_grown(now, first, "penstock_batch_rows_sum")),
            batch_max_rows=int(_total(now, "penstock_batch_max_rows")),
            batch_max_wait_ms=1000 * _total(now, "penstock_batch_max_wait_seconds"),
            stages_us=_stages_us(now, first, events),
            dead_letters=_grown_by(now, first, "penstock_dead_letters_total"),
            alerts=_grown_by(now, first, "penstock_alerts_total"),
            degraded=_grown_by(now, first, "penstock_degraded_total"),
            degradation=int(_total(now, "penstock_degradation")),
            recoveries=_grown_by(now, first, "penstock_recoveries_total"),
            writes_failed=_grown_by(now, first, "penstock_state_writes_total").get("unavailable", 0),
            hot_rows=int(_total(now, "penstock_hot_rows")),
            dirty_rows=int(_total(now, "penstock_dirty_rows")),
            slo_missed=_total(now, "penstock_latency_slo_missed") > 0,
            late_share=_total(now, "penstock_latency_slo_late_share"),
            model=line.stamp.model if serving else "",
            champion=serving.champion.card.version if serving else "",
            challenger=serving.challenger.card.version if serving and serving.challenger else "",
            is_shadow=bool(serving and serving.is_shadow),
            share=serving.share if serving else 0.0,
            revision=serving.revision if serving else 0,
            is_refused=_total(now, "penstock_model_refused") > 0,
            drift=_drift(now, serving.champion.card.version if serving else ""),
            drift_alarms=tuple(
                f"{feature} {kind}" for (feature, _, kind), on in _of(now, "penstock_drift_alarm") if on
            ),
        )

    def _read(self) -> Values:
        """Every sample of this pipeline in the families that are told of."""
        add_up(self._registry)
        bound, values = families(self._registry), Values()
        for name in _FAMILIES:
            for metric in getattr(bound, name).collect():
                for sample in metric.samples:
                    labels = dict(sample.labels)
                    if (
                        sample.name.endswith(("_bucket", "_created"))
                        or labels.pop("pipeline") != self.pipeline
                    ):
                        continue
                    values[sample.name, tuple(labels.values())] = sample.value
        return values


def _of(values: Values, sample: str) -> Iterable[tuple[tuple[str, ...], float]]:
    return [(labels, value) for (name, labels), value in values.items() if name == sample]


def _total(values: Values, sample: str) -> float:
    return sum(value for _, value in _of(values, sample))


def _grown(now: Values, before: Values, sample: str) -> float:
    return _total(now, sample) - _total(before, sample)


def _grown_by(now: Values, before: Values, sample: str) -> dict[str, int]:
    """By the first label, what came since."""
    grown: dict[str, int] = {}
    for labels, value in _of(now, sample):
        more = int(value - before.get((sample, labels), 0.0))
        if more:
            grown[labels[0]] = grown.get(labels[0], 0) + more
    return grown


def _lag(now: Values) -> dict[str, tuple[int, float]]:
    seconds = dict(_of(now, "penstock_lag_seconds"))
    return {
        labels[0]: (int(records), round(seconds.get(labels, 0.0), 2))
        for labels, records in _of(now, "penstock_lag_records")
    }


def _stages_us(now: Values, before: Values, events: float) -> dict[str, float]:
    if events <= 0:
        return {}
    sample = "penstock_stage_seconds_sum"
    took = {labels[0]: value - before.get((sample, labels), 0.0) for labels, value in _of(now, sample)}
    return {stage: round(seconds / events * 1e6, 3) for stage, seconds in took.items() if seconds > 0}


def _drift(now: Values, version: str) -> tuple[tuple[str, float, float, str], ...]:
    """Of the version that serves, the features furthest from the training rows first."""
    ranks = dict(_of(now, "penstock_drift_mean_rank"))
    standing: dict[str, list[str]] = {}
    for (feature, of, kind), on in _of(now, "penstock_drift_alarm"):
        if on and of == version:
            standing.setdefault(feature, []).append(kind)
    told = [
        (labels[0], _finite(psi), _finite(ranks.get(labels, 0.5)), " ".join(standing.get(labels[0], ())))
        for labels, psi in _of(now, "penstock_drift_psi")
        if labels[1] == version
    ]
    told.sort(key=lambda row: (not row[3], -row[1]))
    return tuple(told[:_DRIFT_AT_MOST])


def _finite(value: float) -> float:
    """JSON has no infinity; a feature that was never apart has none either."""
    return round(value, 4) if math.isfinite(value) else 0.0
