"""The figures of one pipeline as metrics, by the one member that publishes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry

from feature_cache.cases import Applied
from worker.metrics import families
from worker.truth_topic import Row

_OF_ALL = ("average_precision", "auc", "alert_yield", "calibration_error", "scored", "labelled")
_OF_THRESHOLDS = ("precision", "recall", "value_saved", "value_missed")


class TruthMeter:
    """What is counted of the join, and the figures that are shown at present."""

    def __init__(self, pipeline: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._pipeline = pipeline
        self._families = families(registry)
        self._families.truth_read_again.labels(pipeline)  # an increase needs the zero before it
        self._shown: set[tuple[Any, tuple[str, ...]]] = set()  # gauges and their labels

    def applied(self, kind: str, done: Applied) -> None:
        """Facts of a kind were taken."""
        for result in ("joined", "waiting", "repeated", "expired"):
            if count := getattr(done, result):
                self._families.truth_records.labels(self._pipeline, kind, result).inc(count)

    def rejected(self, kind: str, count: int) -> None:
        """Records that say nothing."""
        self._families.truth_records.labels(self._pipeline, kind, "rejected").inc(count)

    def read_again(self) -> None:
        """The store had lost something."""
        self._families.truth_read_again.labels(self._pipeline).inc()

    def show(self, rows: Sequence[Row]) -> None:
        """Show these figures and no others; what is not known is not shown."""
        shown = set()
        for row in rows:
            of = (self._pipeline, row["model_version"], row["segment"])
            for name in _OF_ALL:
                shown.add(self._set(name, of, row[name]))
            for at in row["thresholds"]:
                for name in _OF_THRESHOLDS:
                    shown.add(self._set(name, (*of, at["severity"]), at[name]))
        shown.discard(None)
        for gauge, labels in self._shown - shown:
            gauge.remove(*labels)
        self._shown = shown  # type: ignore[assignment]  # None is discarded

    def _set(
        self, name: str, labels: tuple[str, ...], value: float | None
    ) -> tuple[Any, tuple[str, ...]] | None:
        if value is None:
            return None
        gauge = getattr(self._families, f"truth_{name}")
        gauge.labels(*labels).set(value)
        return gauge, labels
