"""What the worker counts, by pipeline: children bound once, observed once a batch."""

from __future__ import annotations

import time
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from feature_cache.order import ORDERS
from worker.degradation import STEPS

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
STAGES = ("poll", "decode", "features", "infer", "decide", "reasons", "encode", "send", "commit", "write")


class Families:
    """The metric families; one set a registry, shared by the pipelines of a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
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
        self.loop_age = gauge("loop_age_seconds", "Time since the loop last went round.")


_BOUND: WeakKeyDictionary[CollectorRegistry, Families] = WeakKeyDictionary()


def families(registry: CollectorRegistry = REGISTRY) -> Families:
    """The one set of families of this registry."""
    if registry not in _BOUND:
        _BOUND[registry] = Families(registry)
    return _BOUND[registry]


class _Stage:
    """Times one stage at a time; a generator in its place would cost a batch 20 us."""

    def __init__(self, seconds: Histogram) -> None:
        self._seconds = seconds
        self._begun = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._seconds.observe(time.perf_counter() - self._begun)


class Meter:
    """The metrics of one pipeline, with every child that is touched per batch bound in advance."""

    def __init__(self, pipeline: str, registry: CollectorRegistry = REGISTRY) -> None:
        self.pipeline = pipeline
        self._families = families(registry)
        f = self._families
        self._events = f.events.labels(pipeline)
        self._scores = f.scores.labels(pipeline)
        self._batch_rows = f.batch_rows.labels(pipeline)
        pace = (f.batch_max_rows, f.batch_max_wait, f.late_share, f.slo_missed)
        self._pace = [gauge.labels(pipeline) for gauge in pace]
        self._stages = {stage: _Stage(f.stage_seconds.labels(pipeline, stage)) for stage in STAGES}
        self._event_to_score = f.event_to_score.labels(pipeline)
        self._rows = {result: f.rows.labels(pipeline, result) for result in ("hit", "loaded", "new")}
        self._late = f.late.labels(pipeline)
        self._time_order = [f.time_order.labels(pipeline, order) for order in ORDERS]
        self._clock_resets = f.clock_resets.labels(pipeline)
        self._incomplete = f.incomplete.labels(pipeline)
        self._degraded = {step: f.degraded.labels(pipeline, name) for step, name in enumerate(STEPS) if step}
        self._degradation = f.degradation.labels(pipeline)
        self._hot_rows = f.hot_rows.labels(pipeline)

    def timed(self, stage: str) -> _Stage:
        """What one batch does in here is that stage; one that fails is not counted."""
        return self._stages[stage]

    def rows(self, *, hits: int, loaded: int, new: int) -> None:
        """Where the rows of a chunk's events were found; the rest of a new entity's events are hits."""
        self._rows["hit"].inc(hits)
        self._rows["loaded"].inc(loaded)
        self._rows["new"].inc(new)

    def times(self, time_order: NDArray[np.uint8], clock_reset: NDArray[np.bool_]) -> None:
        """How (n,) events stood in their keys' time."""
        counts = np.bincount(time_order, minlength=len(ORDERS)).tolist()
        for counter, count in zip(self._time_order, counts, strict=True):
            if count:
                counter.inc(count)
        self._clock_resets.inc(int(clock_reset.sum()))

    def applied(self, events: int, late: int, hot_rows: int) -> None:
        """A chunk went into state."""
        self._events.inc(events)
        self._late.inc(late)
        self._hot_rows.set(hot_rows)

    def scored(
        self, reason: str, rows: int, incomplete: NDArray[np.bool_], degradation: NDArray[np.uint8]
    ) -> None:
        """A batch left for the model, and why; the columns are those of its (n,) scores."""
        self._families.batches.labels(self.pipeline, reason).inc()
        self._batch_rows.observe(rows)
        self._incomplete.inc(int(incomplete.sum()))
        counts = np.bincount(degradation, minlength=len(STEPS)).tolist()
        for step, counter in self._degraded.items():
            counter.inc(counts[step])

    def paced(self, max_rows: int, max_wait_ms: float, late_share: float, is_missed: bool) -> None:
        """What was chosen for the next batch, and how the latency objective stands."""
        for gauge, value in zip(
            self._pace, (max_rows, max_wait_ms / 1000, late_share, is_missed), strict=True
        ):
            gauge.set(value)

    def stands_on(self, step: int) -> None:
        """What gives the scores from now on: a step of worker.degradation."""
        self._degradation.set(step)

    def sent(self, scores: int, waits_s: NDArray[np.float64]) -> None:
        """Scores were handed to the client; waits_s is (n,) since each record's own timestamp."""
        self._scores.inc(scores)
        if not len(waits_s):
            return
        # One observation a bucket instead of one a record: 10 us a batch instead of 1 us a record.
        counts = np.bincount(np.searchsorted(_SECONDS, waits_s), minlength=len(_SECONDS) + 1)
        for bucket, count in zip(self._event_to_score._buckets, counts.tolist(), strict=True):
            if count:
                bucket.inc(count)
        self._event_to_score._sum.inc(float(waits_s.sum()))

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
        self._families.state_writes.labels(self.pipeline, result).inc()

    def loop_age(self, seconds: float) -> None:
        """Time since the loop last went round."""
        self._families.loop_age.labels(self.pipeline).set(seconds)
