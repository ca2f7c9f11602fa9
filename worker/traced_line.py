"""From the `tracing` section of a pipeline file to a line whose batches are traced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry

from worker.config import Pipeline
from worker.exits import Exit, StopWorker
from worker.line import Line
from worker.plan import worker_name
from worker.trace_context import warm
from worker.trace_metrics import TraceMeter
from worker.traced_parts import TracedSink, trace_stages
from worker.tracing import Tracing


def open_tracing(pipeline: Pipeline, registry: CollectorRegistry = REGISTRY) -> Tracing | None:
    """What the pipeline file asks for; None without its section, or with OTEL_SDK_DISABLED.

    Raises:
        StopWorker: the packages are not installed.
    """
    wanted = pipeline.tracing
    if wanted is None:
        return None
    try:
        from worker.trace_export import is_disabled, open_exporter
    except ImportError as error:
        raise StopWorker(
            Exit.CONFIG, f"{pipeline.path}: tracing: {error}: pip install 'penstock[tracing]'"
        ) from error
    if is_disabled():
        return None
    warm()
    meter = TraceMeter(pipeline.name, registry)
    return Tracing(
        open_exporter(wanted, pipeline.name, worker_name(pipeline), meter),
        attributes={
            "penstock.pipeline": pipeline.name,
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.destination.name": pipeline.source.topic,
            "messaging.consumer.group.name": pipeline.kafka.group,
        },
        sample_ratio=wanted.sample_ratio,
        on_dropped=meter.dropped,
    )


def traced(line: Line, tracing: Tracing | None) -> Line:
    """The same line, whose batches are traced."""
    if tracing is None:
        return line
    trace_stages(line.meter, tracing)
    sink: Any = TracedSink(line.sink, tracing)
    return replace(line, tracing=tracing, sink=sink)
