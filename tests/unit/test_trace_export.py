"""Spans reach a collector as OpenTelemetry says; one that does not take them costs spans and nothing else."""

from __future__ import annotations

import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from tests.builders import pipeline
from tests.services.otlp_receiver import Received, attributes, otlp_receiver
from worker.config import ConfigError
from worker.exits import Exit, StopWorker
from worker.trace_batch import Done, Stage
from worker.trace_context import Parent
from worker.trace_export import SpanQueue, open_exporter, resource, spans_of
from worker.trace_metrics import TraceMeter
from worker.traced_line import open_tracing
from worker.tracing_types import TracingOptions

ROOT = Path(__file__).resolve().parents[2]
FEATURES = "  amount: {kind: field, field: amount}"
WITHIN_S = 30.0
_IMPORT = re.compile(r"^\s*(from|import) opentelemetry", re.MULTILINE)


def done(number: int = 1, *, stages: int = 2, error: str | None = None, links: int = 1) -> Done:
    return Done(
        trace_id=7000 + number,
        span_id=number,
        begun_ns=100,
        ended_ns=900,
        stages=tuple(Stage(f"stage{i}", 100 + i, 200 + i) for i in range(stages)),
        links=tuple(Parent(1000 + i, 2000 + i, 1) for i in range(links)),
        links_left_out=3,
        attributes={
            "penstock.pipeline": "p",
            "penstock.partitions": (0, 3),
            "messaging.batch.message_count": 12,
        },
        error=error,
    )


class Counts:
    """A meter and what it has counted."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.meter = TraceMeter("p", self._registry)

    def __call__(self) -> dict[str, float]:
        found = {}
        for result in ("exported", "dropped", "failed"):
            labels = {"pipeline": "p", "result": result}
            found[result] = self._registry.get_sample_value("penstock_trace_spans_total", labels) or 0.0
        return found


def test_a_batch_is_one_span_with_links_and_its_stages_are_below_it() -> None:
    exporter, counts = InMemorySpanExporter(), Counts()
    queue = SpanQueue(exporter, resource("s", "w"), counts.meter, delay_s=0.01)
    queue.offer(done(error="not committed"))
    queue.close()

    whole, *stages = exporter.get_finished_spans()
    assert (whole.name, whole.kind, whole.parent) == ("penstock.batch", SpanKind.CONSUMER, None)
    assert (whole.context.trace_id, whole.context.span_id) == (7001, 1)
    assert (whole.start_time, whole.end_time) == (100, 900)
    assert (whole.status.status_code, whole.status.description) == (StatusCode.ERROR, "not committed")
    assert [(link.context.trace_id, link.context.span_id) for link in whole.links] == [(1000, 2000)]
    assert whole.dropped_links == 3
    assert [(s.name, s.start_time, s.end_time) for s in stages] == [
        ("penstock.stage0", 100, 200),
        ("penstock.stage1", 101, 201),
    ]
    assert {s.parent.span_id for s in stages if s.parent} == {1}
    assert {s.context.trace_id for s in stages} == {7001}
    assert len({s.context.span_id for s in (whole, *stages)}) == 3
    assert counts() == {"exported": 3, "dropped": 0, "failed": 0}


def test_a_collector_over_http_is_given_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    counts = Counts()
    with otlp_receiver() as received:
        wanted = TracingOptions(endpoint=received.address, service_name="risk")
        exporter = open_exporter(wanted, "p", "worker-1", counts.meter)
        exporter.offer(done(links=2))
        received.wait(lambda found: len(found.spans) == 3)
        exporter.close()

    assert received.paths == {"/v1/traces"}
    whole = received.named("penstock.batch")[0]
    assert attributes(whole) == {
        "penstock.pipeline": "p",
        "penstock.partitions": [0, 3],
        "messaging.batch.message_count": 12,
    }
    assert [int.from_bytes(link.span_id) for link in whole.links] == [2000, 2001]
    assert whole.dropped_links_count == 3
    assert whole.trace_id == (7001).to_bytes(16)
    (stage,) = received.named("penstock.stage0")
    assert stage.parent_span_id == whole.span_id
    said = received.resources[0]
    assert said["service.name"] == "risk"
    assert said["service.instance.id"] == "worker-1"
    assert said["deployment.environment.name"] == "test"
    assert counts() == {"exported": 3, "dropped": 0, "failed": 0}


@pytest.mark.parametrize(
    ("said", "file", "expected"),
    [
        ({}, None, "penstock"),
        ({"OTEL_SERVICE_NAME": "env"}, None, "env"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=attribute"}, None, "attribute"),
        ({"OTEL_SERVICE_NAME": "env"}, "file", "file"),
    ],
)
def test_the_file_says_whose_spans_they_are_and_the_environment_where_it_is_silent(
    said: dict[str, str], file: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)

    assert resource(file, "w").attributes["service.name"] == expected


def test_the_environment_says_where_to_when_the_file_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.address)
        exporter = open_exporter(TracingOptions(), "p", "w", Counts().meter)
        exporter.offer(done())
        exporter.close()

    assert received.paths == {"/v1/traces"}
    assert len(received.spans) == 3


def test_a_collector_that_hangs_fills_the_queue_and_nobody_waits_for_it() -> None:
    counts, answers = Counts(), threading.Event()
    with otlp_receiver(hangs=answers) as received:
        queue = SpanQueue(
            _exporter(received),
            resource("s", "w"),
            counts.meter,
            at_most=30,
            at_once=3,
            delay_s=0.01,
            close_s=0.05,
        )
        queue.offer(done())
        _wait(lambda: queue._spans == 0)  # three are on their way, and stay there
        for number in range(20):
            queue.offer(done(number))
        assert counts() == {"exported": 0, "dropped": 30, "failed": 0}
        queue.close()  # does not wait for the collector either
        assert counts()["dropped"] == 60
        queue.offer(done())
        assert counts()["dropped"] == 63
        answers.set()
        assert queue.thread is not None
        queue.thread.join(WITHIN_S)
        assert counts() == {"exported": 3, "dropped": 63, "failed": 0}


def test_spans_that_a_collector_refuses_or_that_find_none_are_counted_and_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts = Counts()
    with otlp_receiver(400) as received:
        wanted = TracingOptions(endpoint=received.address)
    # The receiver is gone: connections are refused from here on.
    exporter = open_exporter(wanted, "p", "w", counts.meter)
    for _ in range(3):
        exporter.offer(done())
    exporter.close()
    with otlp_receiver(400) as received:
        queue = SpanQueue(_exporter(received), resource("s", "w"), counts.meter, delay_s=0.01, at_once=1)
        for number in range(3):
            queue.offer(done(number))
        queue.close()

    said = capsys.readouterr()
    assert counts()["exported"] == 0
    assert counts()["failed"] >= 9
    assert said.out.count("spans are lost") + said.err.count("spans are lost") <= 2
    assert "Traceback" not in said.out + said.err


def _exporter(received: Received) -> Any:
    return OTLPSpanExporter(endpoint=f"{received.address}/v1/traces", timeout=WITHIN_S)


def _wait(is_so: Any) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_a_collector_that_comes_back_is_given_spans_again() -> None:
    exporter, counts = InMemorySpanExporter(), Counts()
    queue = SpanQueue(exporter, resource("s", "w"), counts.meter, delay_s=0.005)
    exporter.shutdown()  # it refuses from now on
    queue.offer(done())
    _wait(lambda: counts()["failed"] == 3)
    exporter._stopped = False
    queue.offer(done(2))
    _wait(lambda: counts()["exported"] == 3)
    queue.close()

    assert [span.context.trace_id for span in exporter.get_finished_spans()] == [7002] * 3


def test_a_batch_larger_than_one_call_is_sent_all_the_same() -> None:
    exporter, counts = InMemorySpanExporter(), Counts()
    queue = SpanQueue(exporter, resource("s", "w"), counts.meter, at_most=100, at_once=2, delay_s=0.005)
    for number in range(5):
        queue.offer(done(number, stages=7))
    queue.close()

    assert len(exporter.get_finished_spans()) == 40
    assert counts() == {"exported": 40, "dropped": 0, "failed": 0}


def test_spans_are_made_of_a_batch_without_stages_or_links() -> None:
    (whole,) = spans_of(done(stages=0, links=0), resource("s", "w"), lambda: 5)

    assert (list(whole.links), whole.dropped_links) == ([], 3)
    assert whole.status.status_code is StatusCode.UNSET


def test_without_its_section_nothing_is_traced_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")

    assert open_tracing(pipeline(tmp_path, FEATURES), CollectorRegistry()) is None


def test_the_environment_can_turn_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pipeline(tmp_path, FEATURES, rest="tracing: {}")
    assert open_tracing(asked, CollectorRegistry()) is not None

    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")

    assert open_tracing(asked, CollectorRegistry()) is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "{endpoint: 'collector:4317'}",
            "tracing.endpoint: found another kind of address, expected http://HOST:PORT",
        ),
        ("{sample_ratio: 1.5}", "tracing.sample_ratio: found 1.5, expected"),
        ("{exporter: grpc}", "tracing.exporter: found an unknown key, expected"),
    ],
)
def test_a_section_that_cannot_work_is_refused_where_it_stands(
    tmp_path: Path, section: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=r"p\.yaml:6: ") as refused:
        pipeline(tmp_path, FEATURES, rest=f"tracing: {section}")

    assert message in str(refused.value)


def test_without_the_packages_all_works_but_tracing_which_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "worker.trace_export")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    asked = pipeline(tmp_path, FEATURES, rest="tracing: {}")

    assert open_tracing(pipeline(tmp_path, FEATURES), CollectorRegistry()) is None
    with pytest.raises(
        StopWorker, match=r"p\.yaml: tracing: .*: pip install 'penstock\[tracing\]'$"
    ) as refused:
        open_tracing(asked, CollectorRegistry())

    assert refused.value.code is Exit.CONFIG


def test_what_needs_the_packages_is_imported_only_where_a_pipeline_is_traced() -> None:
    importing = [path.name for path in (ROOT / "worker").glob("*.py") if _IMPORT.search(path.read_text())]

    assert importing == ["trace_export.py"]
    assert not re.search(r"^from worker.trace_export import", _sources(), re.MULTILINE)


def _sources() -> str:
    return "\n".join(path.read_text() for path in (ROOT / "worker").glob("*.py"))
