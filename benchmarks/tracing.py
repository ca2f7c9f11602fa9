"""What tracing costs a worker, by how many of its records have a sampled trace, and what it costs when off.

python -m benchmarks.tracing                    # writes benchmarks/results/tracing.json
python -m benchmarks.tracing --before FOLDER    # and compares "off" with a checkout of the commit before
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from benchmarks.machine import write_result
from benchmarks.stages import Stopwatch
from benchmarks.workers import topics_of
from loadgen.bus import FETCH_WAIT_MS, embedded_bus
from tests.builders import Message, batch, records
from tests.pipeline.streams import alone, transactions
from worker.assemble import assemble, store_opener
from worker.config import load_pipeline
from worker.run import Worker
from worker.tracing import Exporter, Tracing

_ROWS = 1024
PARTITIONS = 4
SHARES = {"1 %": 100, "all": 1}  # one of so many records has a sampled trace
_SEVERITIES = {"warning": 0.9, "critical": 0.99}  # alerts are rare, as they should be
_TIMEOUT_S = 120.0
# In a process of its own, of whichever checkout is its working directory: CPU us an event of the loop's
# thread, and the bytecode of all that the change has touched on a batch's way.
_OFF = """
import dis, json, sys
from benchmarks.stages import measure
from worker import publish
from worker.batch import Batch
from worker.run import Worker
from worker.sink import Sink
touched = [Batch.__init__, Worker._score, Worker._publish_held, Sink.send, publish.publish]
touched += [publish._publish_alerts, publish._publish_shadow]
touched += [publish._headers] * 2 if hasattr(publish, "_headers") else []  # scores and shadow scores
bytecode = sum(len(list(dis.get_instructions(each))) for each in touched)
print(json.dumps([measure(int(sys.argv[1]), 1)["total"].us, bytecode]))
"""


def main() -> int:
    """Write benchmarks/results/tracing.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=40_000, help="a round, default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--before", type=Path, help="checkout to compare with, off")
    parser.add_argument("--collector", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.collector:
        return _collect()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    result = {
        "events": arguments.events,
        "rounds": arguments.rounds,
        "loop us a batch, by itself": {share: _by_itself(every) for share, every in SHARES.items()},
        "sampled": {share: _on_and_off(arguments, every) for share, every in SHARES.items()},
    }
    write_result("tracing", result)
    if arguments.before is not None:
        result["off, against the commit before"] = _against(arguments)
    print(json.dumps(result, indent=2))
    print(write_result("tracing", result))
    return 0


def _by_itself(every: int) -> float:
    """CPU us that tracing adds to the loop for a batch of 1024 events with an output each, median of 5."""
    came = [Message(record_value=b"", record_headers=_headers(n, every)) for n in range(_ROWS)]
    headers, made = records(came).headers, batch(list(range(_ROWS)))
    made = replace(made, events=replace(made.events, records=replace(made.events.records, headers=headers)))
    nowhere = Exporter(offer=lambda _: None, close=lambda: None)
    tracing, rows = Tracing(nowhere, attributes={}, sample_ratio=0.0), np.arange(_ROWS)

    def once() -> None:
        taken = tracing.taken(made, "rows")
        for stage in ("decode", "features", "infer", "decide", "encode", "send"):
            tracing.note(stage, tracing.now_ns())
        tracing.publishing(taken)
        assert taken.trace is not None
        taken.trace.headers(rows)
        tracing.commit_begun()
        tracing.commit_ended(is_done=True)

    once()  # compiles
    found = []
    for _ in range(5):
        begun_ns = time.thread_time_ns()
        for _ in range(200):
            once()
        found.append((time.thread_time_ns() - begun_ns) / 200 / 1000)
    return round(statistics.median(found), 1)


def _headers(number: int, every: int) -> list[tuple[str, bytes | None]] | None:
    return None if number % every else [("traceparent", b"00-%032x-%016x-01" % (number + 1, number + 1))]


def _on_and_off(arguments: argparse.Namespace, every: int) -> dict[str, Any]:
    """Rounds that alternate on the same records; the first of each only warms up."""
    rounds: dict[str, list[dict[str, float]]] = {"off": [], "on": []}
    topics = {name: PARTITIONS for name in topics_of("", PARTITIONS)}
    with tempfile.TemporaryDirectory() as temporary, embedded_bus(topics) as bus, _collector() as endpoint:
        _fill(bus, arguments.events, every)
        for number in range(arguments.rounds + 1):
            for name, tracing in (("off", None), ("on", {"endpoint": endpoint, "sample_ratio": 0.0})):
                folder = Path(temporary) / f"{name}{number}"
                folder.mkdir()
                found = _run(bus, folder, tracing, arguments.events)
                if number:
                    rounds[name].append(found)
                    print(name, found, file=sys.stderr)
    said: dict[str, Any] = {
        name: {
            figure: round(statistics.median(each[figure] for each in found), 3)
            for figure in ("loop_us", "process_us", "spans_us")
        }
        for name, found in rounds.items()
    }
    for figure in ("loop_us", "process_us"):
        pairs = zip(rounds["on"], rounds["off"], strict=True)
        said[f"ratio {figure}"] = round(statistics.median(on[figure] / off[figure] for on, off in pairs), 3)
    spans = [each["spans"] for each in rounds["on"]]
    return {
        **said,
        "spans": statistics.median(spans),
        "dropped": sum(each["dropped"] for each in rounds["on"]),
    }


def _run(bus: str, folder: Path, tracing: dict[str, Any] | None, events: int) -> dict[str, float]:
    """CPU us an event: of the loop's thread, of the whole process, and of the thread that sends spans."""
    kafka = {"group": folder.name, "properties": {"log_level": 0, "compression.type": "none"}}
    more: dict[str, Any] = {} if tracing is None else {"tracing": tracing}
    file = alone(
        folder, "", kafka=kafka, batching={"max_rows": _ROWS}, decision={"severities": _SEVERITIES}, **more
    )
    env = {
        "PENSTOCK_KAFKA": bus,
        "PENSTOCK_STORE": "memory://",
        "PENSTOCK_DELIVERY": "at_least_once",
        "PENSTOCK_DEVICE": "cpu",
        "PENSTOCK_FETCH_WAIT_MS": str(FETCH_WAIT_MS),
    }
    registry, stop = CollectorRegistry(), threading.Event()
    with _spans_timed() as spans_ns:
        line = assemble(load_pipeline(file, env), store_opener(), registry)
        watch = Stopwatch(line.meter, stop, events)
        late = threading.Timer(_TIMEOUT_S, stop.set)
        late.start()
        begun_ns = time.process_time_ns()
        Worker(replace(line, meter=watch)).run(stop)  # type: ignore[arg-type]
        process_ns = time.process_time_ns() - begun_ns
        late.cancel()

    def counted(result: str) -> float:
        labels = {"pipeline": "fraud", "result": result}
        return registry.get_sample_value("penstock_trace_spans_total", labels) or 0.0

    return {
        "loop_us": sum(watch.stages_ns.values()) / watch.events / 1000,
        "process_us": process_ns / events / 1000,
        "spans_us": sum(spans_ns) / events / 1000,
        "spans": counted("exported"),
        "dropped": counted("dropped") + counted("failed"),
    }


@contextmanager
def _spans_timed() -> Iterator[list[int]]:
    """CPU time of the threads that send spans, known once they have ended."""
    from worker.trace_export import SpanQueue

    spent_ns: list[int] = []
    run = SpanQueue._run

    def timed(self: SpanQueue) -> None:
        run(self)
        spent_ns.append(time.thread_time_ns())

    SpanQueue._run = timed  # type: ignore[method-assign]
    try:
        yield spent_ns
    finally:
        SpanQueue._run = run  # type: ignore[method-assign]


def _fill(bus: str, events: int, every: int) -> None:
    producer = Producer({"bootstrap.servers": bus, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
    keys, values = transactions(events, seed=1)
    for number, (key, value) in enumerate(zip(keys, values, strict=True)):
        producer.produce("transactions", value, key, headers=_headers(number, every))
    if producer.flush(60):
        raise RuntimeError("records were not taken")


def _collect() -> int:
    """Take whatever is posted, until the input ends: a collector costs somebody else."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    return 0


@contextmanager
def _collector() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.tracing", "--collector"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def _against(arguments: argparse.Namespace) -> dict[str, float]:
    """The loop's CPU us an event without tracing, here and in the other checkout, alternating."""
    here = Path(__file__).resolve().parents[1]
    pairs = []
    for _ in range(arguments.rounds):
        (now, more), (before, fewer) = (_off(folder, arguments.events) for folder in (here, arguments.before))
        pairs.append((now, before))
        print("off: now, before", now, before, file=sys.stderr)
    return {
        "bytecode instructions more a batch, at most": more - fewer,
        "now_us": round(statistics.median(now for now, _ in pairs), 3),
        "before_us": round(statistics.median(before for _, before in pairs), 3),
        "ratio": round(statistics.median(now / before for now, before in pairs), 3),
    }


def _off(folder: Path, events: int) -> tuple[float, int]:
    said = subprocess.run(
        [sys.executable, "-c", _OFF, str(events)],
        cwd=folder, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    us, bytecode = json.loads(said.stdout.splitlines()[-1])
    return us, bytecode


if __name__ == "__main__":
    raise SystemExit(main())
