"""What the worker counts, by pipeline: children bound once, observed once a batch."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from feature_cache.order import ORDERS
from worker.comparison import GUARDS, Agreement
from worker.degradation import STEPS
from worker.latency_window import LatencyWindow
from worker.tally import (
    Add,
    Stage,
    Tally,
    counts,
    counts_all,
    counts_each,
    first_in,
    observes,
    observes_waits,
    sets,
    waits_s,
)

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
STAGES = (
    "poll",
    "decode",
    "features",
    "infer",
    "decide",
    "reasons",
    "watch",
    "encode",
    "send",
    "commit",
    "write",
)


class Families:
    """The metric families; one set a registry, shared by the pipelines of a process."""

    def __init__(self, registry: CollectorRegistry) -> None:  # noqa: PLR0915 a line a metric
        first_in(registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"penstock_{name}", text, ("pipeline", *labels), registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"penstock_{name}", text, ("pipeline", *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(
                f"penstock_{name}", text, ("pipeline", *labels), buckets=buckets, registry=registry
            )

        self.events = counter("events", "Events decoded and applied to state.")
        self.scores = counter("scores", "Scores published.")
        self.alerts = counter("alerts", "Alerts published.", "severity", "lifecycle")
        self.dead_letters = counter("dead_letters", "Records that could not be scored.", "reason")
        self.batches = counter("batches", "Batches, by what made them leave.", "reason")
        self.batch_rows = histogram("batch_rows", "Events in a batch.", _ROWS)
        self.batch_max_rows = gauge("batch_max_rows", "Events that a batch may hold at present.")
        self.batch_max_wait = gauge(
            "batch_max_wait_seconds", "How long a batch's first event may wait for more at present."
        )
        self.late_share = gauge(
            "latency_slo_late_share", "Share of the last seconds' events beyond the latency objective."
        )
        self.slo_missed = gauge("latency_slo_missed", "1 while the latency objective is out of reach.")
        self.stage_seconds = histogram("stage_seconds", "Time in a stage, per batch.", _SECONDS, "stage")
        self.event_to_score = histogram(
            "event_to_score_seconds",
            "From a record's own timestamp to its score handed to the client.",
            _SECONDS,
        )
        self.lag_records = gauge("lag_records", "Records of a partition not yet polled.", "partition")
        self.lag_seconds = gauge(
            "lag_seconds", "Age of the newest record polled of a partition.", "partition"
        )
        self.rows = counter("rows", "Rows by where they were found: hit, loaded, new.", "result")
        self.hot_rows = gauge("hot_rows", "Rows in process memory.")
        self.time_order = counter(
            "time_order", "Events by how their time stands to their key's newest.", "order"
        )
        self.clock_resets = counter("clock_resets", "Keys whose clock was set back, and their rows with it.")
        self.late = counter("late", "Events too late to count in later windows.")
        self.incomplete = counter("incomplete", "Scores whose windows reach back over something forgotten.")
        self.degraded = counter("degraded", "Scores that something stood in for.", "step")
        self.degradation = gauge(
            "degradation", "Step that scores stand on: 0 the model, 3 its spare, 4 rules."
        )
        self.state_writes = counter("state_writes", "Writes of a lane's rows: ok, unavailable.", "result")
        self.dirty_rows = gauge("dirty_rows", "Rows changed in memory and not yet durable.")
        self.lanes = gauge(
            "lanes", "Partitions assigned, by whether they are read: reading, waiting.", "state"
        )
        self.recoveries = counter(
            "recoveries",
            "Times that all lanes were taken again in process, by what made it necessary.",
            "cause",
        )
        self.skipped = counter(
            "skipped", "Offsets that retention removed before they were read.", "partition"
        )
        self.drift_psi = gauge(
            "drift_psi", "Population stability index of the last window.", "feature", "version"
        )
        self.drift_rank = gauge(
            "drift_mean_rank", "Mean rank among the training rows over the last window.", "feature", "version"
        )
        self.drift_alarm = gauge(
            "drift_alarm", "1 while an alert of the drift watch stands.", "feature", "version", "kind"
        )
        self.quality = counter("quality", "Readings that their sensor cannot mean.", "field", "kind")
        self.truth_records = counter(
            "truth_records", "Scores, alerts and labels by what became of them.", "kind", "result"
        )
        self.truth_read_again = counter("truth_read_again", "Times that the store had lost some of them.")
        of_all, of_threshold = ("version", "segment"), ("version", "segment", "severity")
        self.truth_scored = gauge("truth_scored", "Events of the window with a score.", *of_all)
        self.truth_labelled = gauge("truth_labelled", "Events with a score and a label.", *of_all)
        self.truth_average_precision = gauge("truth_average_precision", "Average precision.", *of_all)
        self.truth_auc = gauge("truth_auc", "Area under the ROC curve.", *of_all)
        self.truth_alert_yield = gauge("truth_alert_yield", "Share of alerts that were right.", *of_all)
        self.truth_calibration_error = gauge(
            "truth_calibration_error", "Mean distance of a score and the share of positives.", *of_all
        )
        self.truth_precision = gauge(
            "truth_precision", "Share of positives among events that reached a threshold.", *of_threshold
        )
        self.truth_recall = gauge(
            "truth_recall", "Share of positives that reached a threshold.", *of_threshold
        )
        self.truth_value_saved = gauge(
            "truth_value_saved", "Value of the positives that reached a threshold.", *of_threshold
        )
        self.truth_value_missed = gauge("truth_value_missed", "Value of the other positives.", *of_threshold)
        self.trace_spans = counter("trace_spans", "Spans by what became of them.", "result")
        self.loop_age = gauge("loop_age_seconds", "Time since the loop last went round.")
        self.clock = gauge("clock_seconds", "The worker's wall clock at the moment of the scrape.")
        self.device = gauge("device", "1 for what gives the scores at present.", "device")
        self.model_serving = gauge(
            "model_serving", "1 for the versions that score at present.", "version", "role"
        )
        self.model_asked = counter(
            "model_asked", "Events that each model of a version made of several was asked for.", "member"
        )
        self.model_refused = gauge("model_refused", "1 while the newest change is not taken up here.")
        self.challenger_events = gauge(
            "challenger_events", "Events that a challenger and the serving version both scored.", "version"
        )
        self.challenger_rank_correlation = gauge(
            "challenger_rank_correlation", "Spearman's rho of their scores, of the newest pairs.", "version"
        )
        self.challenger_flipped_share = gauge(
            "challenger_flipped_share",
            "Share of events on which only one of them raises an alert.",
            "version",
        )
        self.challenger_score_psi = gauge(
            "challenger_score_psi",
            "Population stability index of its scores against the serving version's.",
            "version",
        )
        self.challenger_alert_share = gauge(
            "challenger_alert_share", "Share of the events that it raises an alert on.", "version"
        )
        self.challenger_error_share = gauge(
            "challenger_error_share", "Share of the events that it has no score for.", "version"
        )
        self.guard_trips = counter("guard_trips", "Guards that a challenger broke.", "guard")
        self.http_requests = counter("http_requests", "Requests over HTTP, by answer.", "path", "code")
        self.http_seconds = histogram("http_seconds", "From a request to its answer.", _SECONDS, "path")


_BOUND: WeakKeyDictionary[CollectorRegistry, Families] = WeakKeyDictionary()


def families(registry: CollectorRegistry = REGISTRY) -> Families:
    """The one set of families of this registry."""
    if registry not in _BOUND:
        _BOUND[registry] = Families(registry)
    return _BOUND[registry]


class Meter:
    """The metrics of one pipeline, with every child that is touched per batch bound in advance."""

    def __init__(self, pipeline: str, registry: CollectorRegistry = REGISTRY) -> None:
        self.pipeline = pipeline
        self._families = families(registry)
        f = self._families
        self._tally = tally = Tally(registry)
        self._events = counts(f.events.labels(pipeline))
        self._scores = counts(f.scores.labels(pipeline))
        self._batches: dict[str, Add] = {}  # by reason
        self._batch_rows = observes(f.batch_rows.labels(pipeline))
        pace = (f.batch_max_rows, f.batch_max_wait, f.late_share, f.slo_missed)
        self._pace = [gauge.labels(pipeline) for gauge in pace]
        self._stages = {stage: Stage(f.stage_seconds.labels(pipeline, stage), tally) for stage in STAGES}
        self._event_to_score = observes_waits(f.event_to_score.labels(pipeline))
        self._rows = [counts(f.rows.labels(pipeline, result)) for result in ("hit", "loaded", "new")]
        self._late = counts(f.late.labels(pipeline))
        self._time_order = counts_each([f.time_order.labels(pipeline, order) for order in ORDERS])
        self._clock_resets = counts_all(f.clock_resets.labels(pipeline))
        self._incomplete = counts_all(f.incomplete.labels(pipeline))
        self._degraded = counts_each(
            [f.degraded.labels(pipeline, name) if step else None for step, name in enumerate(STEPS)]
        )
        self._degradation = f.degradation.labels(pipeline)
        self._hot_rows = sets(f.hot_rows.labels(pipeline))
        self._serving: list[tuple[str, str]] = []
        # A rate over the first failure needs the zero before it.
        self._state_writes = {r: f.state_writes.labels(pipeline, r) for r in ("ok", "unavailable")}
        self._drift: list[tuple[Gauge, Gauge]] = []  # of each feature that is watched
        self.latency: LatencyWindow | None = None  # what the console counts; None: nobody looks

    def timed(self, stage: str) -> Stage:
        """What one batch does in here is that stage; one that fails is not counted."""
        return self._stages[stage]

    def rows(self, *, hits: int, loaded: int, new: int) -> None:
        """Where the rows of a chunk's events were found; the rest of a new entity's events are hits."""
        for add, count in zip(self._rows, (hits, loaded, new), strict=True):
            if count:
                self._tally.note(add, count)

    def times(self, time_order: NDArray[np.uint8], clock_reset: NDArray[np.bool_]) -> None:
        """How (n,) events stood in their keys' time."""
        self._tally.note(self._time_order, time_order)
        self._tally.note(self._clock_resets, clock_reset)

    def applied(self, events: int, late: int, hot_rows: int) -> None:
        """A chunk went into state."""
        self._tally.note(self._events, events)
        if late:
            self._tally.note(self._late, late)
        self._tally.note(self._hot_rows, hot_rows)

    def scored(
        self, reason: str, rows: int, incomplete: NDArray[np.bool_], degradation: NDArray[np.uint8]
    ) -> None:
        """A batch left for the model, and why; the columns are those of its (n,) scores."""
        if reason not in self._batches:
            self._batches[reason] = counts(self._families.batches.labels(self.pipeline, reason))
        self._tally.note(self._batches[reason], 1)
        self._tally.note(self._batch_rows, rows)
        self._tally.note(self._incomplete, incomplete)
        self._tally.note(self._degraded, degradation)

    def paced(self, max_rows: int, max_wait_ms: float, late_share: float, is_missed: bool) -> None:
        """What was chosen for the next batch, and how the latency objective stands."""
        for gauge, value in zip(
            self._pace, (max_rows, max_wait_ms / 1000, late_share, is_missed), strict=True
        ):
            gauge.set(value)

    def stands_on(self, step: int) -> None:
        """What gives the scores from now on: a step of worker.degradation."""
        self._degradation.set(step)

    def sent(self, scores: int, at_us: int, produced_ms: NDArray[np.int64]) -> None:
        """Scores were handed to the client; (n,) each record's own timestamp, not positive without one."""
        self._tally.note(self._scores, scores)
        self._tally.note(self._event_to_score, (at_us, produced_ms))
        if self.latency is not None:
            self.latency.add(waits_s([(at_us, produced_ms)]))

    def alert(self, severity: str, lifecycle: str) -> None:
        """An alert was handed to the client."""
        self._families.alerts.labels(self.pipeline, severity, lifecycle).inc()

    def owned(self, *, reading: int, waiting: int) -> None:
        """How many partitions are read, and how many wait for Kafka or the store."""
        self._families.lanes.labels(self.pipeline, "reading").set(reading)
        self._families.lanes.labels(self.pipeline, "waiting").set(waiting)

    def dirty_rows(self, rows: int) -> None:
        """What would have to be replayed if this process died now."""
        self._families.dirty_rows.labels(self.pipeline).set(rows)

    def watch_recoveries(self, causes: Sequence[str]) -> None:
        """What lanes may be taken again for: a rate over the first time needs the zero before it."""
        for cause in causes:
            self._families.recoveries.labels(self.pipeline, cause)

    def recovered(self, cause: str) -> None:
        """All lanes are taken again because of this kind of error."""
        self._families.recoveries.labels(self.pipeline, cause).inc()

    def skipped(self, partition: int, offsets: int) -> None:
        """Records that are gone from the topic got no outcome."""
        self._families.skipped.labels(self.pipeline, str(partition)).inc(offsets)

    def dead_letter(self, reason: str) -> None:
        """A dead letter was handed to the client."""
        self._families.dead_letters.labels(self.pipeline, reason).inc()

    def lag(self, partition: int, records: int, seconds: float) -> None:
        """How far behind a partition is."""
        self._families.lag_records.labels(self.pipeline, str(partition)).set(records)
        self._families.lag_seconds.labels(self.pipeline, str(partition)).set(seconds)

    def forget_partition(self, partition: int) -> None:
        """Somebody else reports this partition from now on."""
        for gauge in (self._families.lag_records, self._families.lag_seconds):
            gauge.remove(self.pipeline, str(partition))

    def state_write(self, result: str) -> None:
        """A lane's rows were written, or could not be."""
        self._state_writes[result].inc()

    def serving(self, champion: str, challenger: str | None, *, is_shadow: bool, is_refused: bool) -> None:
        """Which versions score from now on, and whether a newer change is refused."""
        gauge, role = self._families.model_serving, "shadow" if is_shadow else "canary"
        for labels in self._serving:
            gauge.remove(self.pipeline, *labels)
        self._serving = [(champion, "champion"), *([(challenger, role)] if challenger else [])]
        for labels in self._serving:
            gauge.labels(self.pipeline, *labels).set(1)
        self._families.model_refused.labels(self.pipeline).set(is_refused)

    def asked(self, members: Sequence[str], events: NDArray[np.int64]) -> None:
        """(members,) how many events each model of a composite was asked for."""
        for member, count in zip(members, events.tolist(), strict=True):
            self._families.model_asked.labels(self.pipeline, member).inc(count)

    def challenger(self, version: str, agreement: Agreement) -> None:
        """How a challenger compares with the version that serves."""
        f = self._families
        for gauge, value in (
            (f.challenger_events, agreement.events),
            (f.challenger_rank_correlation, agreement.rank_correlation),
            (f.challenger_flipped_share, agreement.flipped_share),
            (f.challenger_score_psi, agreement.score_psi),
            (f.challenger_alert_share, agreement.alert_share[1]),
            (f.challenger_error_share, agreement.error_share),
        ):
            gauge.labels(self.pipeline, version).set(value)

    def watch_guards(self) -> None:
        """Guards are watched from now on: a rate over their first trip needs the zero before it."""
        for guard in GUARDS:
            self._families.guard_trips.labels(self.pipeline, guard)

    def guard_tripped(self, guard: str) -> None:
        """A challenger broke this guard."""
        self._families.guard_trips.labels(self.pipeline, guard).inc()

    def watch_version(self, version: str, features: tuple[str, ...]) -> None:
        """The model version whose features are watched from now on."""
        psi, rank = self._families.drift_psi, self._families.drift_rank
        self._drift = [
            (psi.labels(self.pipeline, name, version), rank.labels(self.pipeline, name, version))
            for name in features
        ]

    def drift(self, psi: NDArray[np.float64], mean_rank: NDArray[np.float64]) -> None:
        """(k,) statistics of the last window, of the features watched."""
        for gauges, values in zip(
            self._drift, zip(psi.tolist(), mean_rank.tolist(), strict=True), strict=True
        ):
            for gauge, value in zip(gauges, values, strict=True):
                gauge.set(value)

    def drift_alarm(self, version: str, feature: str, kind: str, *, is_raised: bool) -> None:
        """An alert of the drift watch was raised, or cleared."""
        self._families.drift_alarm.labels(self.pipeline, feature, version, kind).set(is_raised)

    def forget_drift(self, version: str) -> None:
        """Nobody looks at this version any more."""
        for gauge in (self._families.drift_psi, self._families.drift_rank, self._families.drift_alarm):
            gauge.remove_by_labels({"pipeline": self.pipeline, "version": version})
        self._drift = []

    def bad_readings(self, field: str, kind: str, count: int) -> None:
        """Readings of a field were found bad."""
        self._families.quality.labels(self.pipeline, field, kind).inc(count)

    def answered(self, path: str, code: int, seconds: float) -> None:
        """A request over HTTP was answered."""
        self._families.http_requests.labels(self.pipeline, path, str(code)).inc()
        self._families.http_seconds.labels(self.pipeline, path).observe(seconds)
