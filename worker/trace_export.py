"""Spans to an OpenTelemetry collector, in a thread of their own; imported only where a pipeline is traced."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from worker import __version__
from worker.trace_batch import Done
from worker.trace_metrics import TraceMeter
from worker.tracing import Exporter
from worker.tracing_types import TracingOptions

_QUEUE_SPANS, _AT_ONCE_SPANS, _DELAY_MS = 2048, 512, 5000  # as OTEL_BSP_* say by default
_CLOSE_S = 2.0  # well within what an orderly stop may take
_PATH = "/v1/traces"
_SCOPE = InstrumentationScope("penstock", __version__)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_DESCRIPTION_CHARS = 200
# What the exporter of this thread said last: its result is only that it failed.
_said = threading.local()


def is_disabled() -> bool:
    """Whether the environment turns OpenTelemetry off for everything in it."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def open_exporter(wanted: TracingOptions, pipeline: str, worker: str, meter: TraceMeter) -> Exporter:
    """An exporter over HTTP, by the pipeline file and, where that is silent, OTEL_EXPORTER_OTLP_*."""
    endpoint = None if wanted.endpoint is None else _with_path(str(wanted.endpoint))
    logging.getLogger(OTLPSpanExporter.__module__).addFilter(_overheard)
    queue = SpanQueue(
        OTLPSpanExporter(endpoint=endpoint),
        resource(None if wanted.service_name is None else str(wanted.service_name), worker),
        meter,
        pipeline,
        at_most=_environment("OTEL_BSP_MAX_QUEUE_SIZE", _QUEUE_SPANS),
        at_once=_environment("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _AT_ONCE_SPANS),
        delay_s=_environment("OTEL_BSP_SCHEDULE_DELAY", _DELAY_MS) / 1000,
    )
    return Exporter(offer=queue.offer, close=queue.close)


def resource(service_name: str | None, worker: str) -> Resource:
    """What sends the spans; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES count where the file is silent."""
    said, told = Resource.create({}), os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    ours = {"service.version": __version__, "service.instance.id": worker}
    if service_name is None and str(said.attributes[SERVICE_NAME]).startswith("unknown_service"):
        service_name = "penstock"
    missing = {name: value for name, value in ours.items() if f"{name}=" not in told}
    return said.merge(Resource({**missing, **({SERVICE_NAME: service_name} if service_name else {})}))


class SpanQueue:
    """Spans that wait for a collector: at most so many, and never anybody for them."""

    def __init__(
        self,
        exporter: SpanExporter,
        resource: Resource,
        meter: TraceMeter,
        pipeline: str = "",
        *,
        at_most: int = _QUEUE_SPANS,
        at_once: int = _AT_ONCE_SPANS,
        delay_s: float = _DELAY_MS / 1000,
        close_s: float = _CLOSE_S,
    ) -> None:
        """Begin with nothing; the thread begins with the first spans.

        Args:
            exporter: takes spans, and may take its time.
            at_most: spans that may wait.
            at_once: spans that are sent as soon as they are there, and in one call.
            delay_s: how long fewer of them may wait.
            close_s: how long the end may take.
        """
        self._exporter, self._resource, self._meter = exporter, resource, meter
        self._at_most, self._at_once = at_most, min(at_once, at_most)
        self._delay_s, self._close_s = delay_s, close_s
        self._log = structlog.get_logger(pipeline=pipeline)
        self._lock = threading.Lock()
        self._waiting: deque[Done] = deque()
        self._spans = 0  # that they become
        self._is_due = threading.Event()
        self._is_closed = False
        self._is_refused = False
        self._chance = random.Random()
        self.thread: threading.Thread | None = None

    def offer(self, done: Done) -> None:
        """Take the spans of a batch, or count them as dropped where there is no room. Never waits."""
        with self._lock:
            is_room = self._spans + done.spans <= self._at_most and not self._is_closed
            if is_room:
                self._waiting.append(done)
                self._spans += done.spans
            is_due = self._spans >= self._at_once
        if not is_room:
            self._meter.dropped(done.spans)
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, name="spans", daemon=True)
            self.thread.start()
        if is_due:
            self._is_due.set()

    def close(self) -> None:
        """Send what waits, for a moment; what a collector has not taken by then is dropped."""
        self._is_closed = True
        self._is_due.set()
        if self.thread is not None:
            self.thread.join(self._close_s)
        with self._lock:
            left, self._spans = self._spans, 0
            self._waiting.clear()
        if left:
            self._meter.dropped(left)

    def _run(self) -> None:
        while True:
            self._is_due.wait(self._delay_s)
            self._is_due.clear()
            while part := self._next():
                self._export(part)
            if self._is_closed:
                self._exporter.shutdown()
                return

    def _next(self) -> list[Done]:
        """Batches of about `at_once` spans, at least one batch if any waits."""
        taken: list[Done] = []
        spans = 0
        with self._lock:
            while self._waiting and (not taken or spans + self._waiting[0].spans <= self._at_once):
                taken.append(self._waiting.popleft())
                spans += taken[-1].spans
            self._spans -= spans
        return taken

    def _export(self, part: list[Done]) -> None:
        spans = [span for done in part for span in spans_of(done, self._resource, self._span_id)]
        _said.text = ""
        try:
            is_taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception as error:  # whatever it is, spans are not worth a worker
            is_taken, _said.text = False, f"{type(error).__name__}: {error}"
        if is_taken:
            self._meter.exported(len(spans))
        else:
            self._meter.failed(len(spans))
        if is_taken == self._is_refused:  # a line when it begins, and one when it is over
            self._is_refused = not is_taken
            if is_taken:
                self._log.info("the collector takes spans again")
            else:
                self._log.warning("spans are lost: the collector does not take them", error=_said.text)

    def _span_id(self) -> int:
        return self._chance.getrandbits(64) or 1


def spans_of(done: Done, resource: Resource, span_id: Callable[[], int]) -> list[ReadableSpan]:
    """The span of a batch, with links to where its records came from, and those of its stages below it."""
    batch = SpanContext(done.trace_id, done.span_id, is_remote=False, trace_flags=_SAMPLED)
    links = BoundedList.from_seq(
        max(1, len(done.links)),
        [
            Link(SpanContext(link.trace_id, link.span_id, is_remote=True, trace_flags=TraceFlags(link.flags)))
            for link in done.links
        ],
    )
    links.dropped = done.links_left_out
    made = partial(ReadableSpan, resource=resource, instrumentation_scope=_SCOPE)
    whole = made(
        "penstock.batch",
        batch,
        attributes=done.attributes,
        links=links,
        kind=SpanKind.CONSUMER,
        status=Status(StatusCode.UNSET) if done.error is None else Status(StatusCode.ERROR, done.error),
        start_time=done.begun_ns,
        end_time=done.ended_ns,
    )
    return [
        whole,
        *(
            made(
                f"penstock.{stage.name}",
                SpanContext(done.trace_id, span_id(), is_remote=False, trace_flags=_SAMPLED),
                parent=batch,
                start_time=stage.begun_ns,
                end_time=max(stage.begun_ns, stage.ended_ns),
            )
            for stage in done.stages
        ),
    ]


def _with_path(endpoint: str) -> str:
    return endpoint if endpoint.endswith(_PATH) else endpoint.rstrip("/") + _PATH


def _environment(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    return int(text) if text.isdecimal() and int(text) > 0 else default


def _overheard(record: logging.LogRecord) -> bool:
    """Keep what the exporter says for our own line, and show it nowhere else."""
    _said.text = record.getMessage()[:_DESCRIPTION_CHARS]
    return False
