"""What became of spans, counted."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry

from worker.metrics import families


class TraceMeter:
    """Spans of one pipeline; every child is there from the start, since a rate needs the zero."""

    def __init__(self, pipeline: str, registry: CollectorRegistry = REGISTRY) -> None:
        spans = families(registry).trace_spans
        self._exported, self._dropped, self._failed = (
            spans.labels(pipeline, result) for result in ("exported", "dropped", "failed")
        )

    def exported(self, spans: int) -> None:
        """A collector has taken them."""
        self._exported.inc(spans)

    def dropped(self, spans: int) -> None:
        """There was no room for them."""
        self._dropped.inc(spans)

    def failed(self, spans: int) -> None:
        """No collector took them in time, or it refused."""
        self._failed.inc(spans)
