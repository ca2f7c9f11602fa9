"""`penstock lag`: how far a group is behind, once for a person, or for Prometheus as long as it runs."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Gauge

from worker.admin import Health, serve_admin
from worker.backlog import Backlog, Waiting
from worker.config import Pipeline, load_pipeline
from worker.exits import Exit, StopWorker
from worker.key_types import parse_duration_us
from worker.logs import configure_logs
from worker.secret import redact

EXAMPLES = """examples:
  penstock lag pipelines/fraud.yaml                   how long records of each partition have waited
  penstock lag pipelines/fraud.yaml --json | jq .seconds
  penstock lag pipelines/*.yaml --serve               the same as metrics, for scaling from and to zero
"""
EVERY_US = 5_000_000


class BacklogMetrics:
    """The metrics of `penstock lag --serve`; a number that is not known is not there."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        of_one, of_each = ("pipeline",), ("pipeline", "partition")
        self.seconds = Gauge(
            "penstock_backlog_seconds",
            "Age of the oldest record that the group has not committed, 0 when none waits.",
            of_each,
            registry=registry,
        )
        self.records = Gauge(
            "penstock_backlog_records",
            "At most so many records are not committed: offsets from the oldest on.",
            of_each,
            registry=registry,
        )
        self.known = Gauge(
            "penstock_backlog_known", "1 when the last measurement succeeded.", of_one, registry=registry
        )

    def set(self, pipeline: str, waiting: Sequence[Waiting]) -> None:
        """What was measured now."""
        for each in waiting:
            self.seconds.labels(pipeline, str(each.partition)).set(each.seconds)
            self.records.labels(pipeline, str(each.partition)).set(each.records)
        self.known.labels(pipeline).set(1)

    def forget(self, pipeline: str) -> None:
        """It could not be measured: nobody may scale by what was true before."""
        for gauge in (self.seconds, self.records):
            gauge.remove_by_labels({"pipeline": pipeline})
        self.known.labels(pipeline).set(0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `penstock lag` its arguments."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="pipeline files")
    parser.add_argument("--json", action="store_true", help="for machines: one JSON object a partition")
    parser.add_argument(
        "--serve",
        action="store_true",
        help="measure until SIGTERM, and serve /metrics, /healthz and /readyz at admin.host and "
        "admin.port of the first file",
    )
    parser.add_argument(
        "--every", type=_duration_us, default=EVERY_US, metavar="TIME", help="with --serve; default 5s"
    )
    parser.set_defaults(command=_lag)


def _duration_us(text: str) -> int:
    try:
        if (duration_us := parse_duration_us(text)) > 0:
            return duration_us
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"found {text!r}, expected a duration such as 5s")


def _lag(arguments: argparse.Namespace) -> int:
    pipelines = [load_pipeline(file) for file in arguments.files]
    secrets = {secret for pipeline in pipelines for secret in pipeline.secrets}
    configure_logs(secrets, set(), is_terminal=sys.stderr.isatty())
    if arguments.serve:
        return serve(pipelines, every_s=arguments.every / 1e6)
    code = Exit.OK
    for pipeline in pipelines:
        backlog = Backlog(pipeline)
        try:
            waiting = backlog.measure(time.time_ns() // 1_000_000)
        except StopWorker as error:
            print(redact(str(error), pipeline.secrets), file=sys.stderr)
            code = error.code
            continue
        finally:
            backlog.close()
        print(as_json(pipeline, waiting) if arguments.json else table(pipeline, waiting))
    return code


def as_json(pipeline: Pipeline, waiting: Sequence[Waiting]) -> str:
    """A line for each partition."""
    return "\n".join(json.dumps({"pipeline": pipeline.name, **asdict(each)}) for each in waiting)


def table(pipeline: Pipeline, waiting: Sequence[Waiting]) -> str:
    """One line that says all, and one for each partition."""
    oldest_s = max((each.seconds for each in waiting), default=0.0)
    state = f"{oldest_s:,.1f} s behind" if oldest_s else "nothing waits"
    lines = [f"{pipeline.name}: {state} (topic {pipeline.source.topic}, group {pipeline.kafka.group})"]
    lines += [f"  {'partition':>9}  {'committed':>13}  {'end':>13}  {'waiting':>11}  {'oldest, s':>10}"]
    for each in waiting:
        committed = "never" if each.committed is None else f"{each.committed:,}"
        counts = f"{committed:>13}  {each.end:>13,}  {each.records:>11,}"
        lines.append(f"  {each.partition:>9}  {counts}  {each.seconds:>10,.1f}")
    return "\n".join(lines)


def serve(pipelines: Sequence[Pipeline], every_s: float) -> Exit:
    """Measure each pipeline over and over, and serve what was measured, until SIGTERM or SIGINT."""
    stop = threading.Event()

    def ask(_: int, __: FrameType | None) -> None:
        stop.set()

    previous = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        return _serve(pipelines, every_s, stop)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _serve(pipelines: Sequence[Pipeline], every_s: float, stop: threading.Event) -> Exit:
    log = structlog.get_logger()
    metrics = BacklogMetrics()
    looped_s = time.monotonic()
    is_known: dict[str, bool | None] = {pipeline.name: None for pipeline in pipelines}

    def health() -> list[Health]:
        age_s = time.monotonic() - looped_s
        return [
            Health(pipeline=name, loop_age_s=max(0.0, age_s - every_s), is_ready=bool(known), device="")
            for name, known in is_known.items()
        ]

    admin = pipelines[0].admin
    try:
        server = serve_admin(str(admin.host), admin.port or 0, health)
    except OSError as error:
        log.error("cannot listen", host=str(admin.host), port=admin.port, why=error.strerror)
        return Exit.CONFIG
    log.info("admin", address=f"http://{server.server_address[0]!s}:{server.server_address[1]}")
    backlogs = [Backlog(pipeline) for pipeline in pipelines]
    while not stop.is_set():
        for backlog in backlogs:
            name = backlog.pipeline.name
            try:
                metrics.set(name, backlog.measure(time.time_ns() // 1_000_000))
            except StopWorker as error:
                metrics.forget(name)
                if is_known[name] is not False:
                    log.warning("the lag is not known", pipeline=name, why=str(error))
                is_known[name] = False
            else:
                if is_known[name] is False:
                    log.info("the lag is known again", pipeline=name)
                is_known[name] = True
            looped_s = time.monotonic()
        stop.wait(every_s)
    server.shutdown()
    for backlog in backlogs:
        backlog.close()
    return Exit.OK
