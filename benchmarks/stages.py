"""What each stage of the fraud pipeline costs its own thread, and what consume and produce alone would."""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer
from prometheus_client import CollectorRegistry

from benchmarks.jobs import fraud_job, fraud_traffic
from benchmarks.workers import pipeline_file, topics_of
from loadgen.bus import FETCH_WAIT_MS, embedded_bus
from tests.pipeline.streams import fill
from worker.assemble import OpenStore, assemble, store_opener
from worker.config import load_pipeline
from worker.metrics import Meter
from worker.run import Worker

PASSTHROUGH = "passthrough"
PARTITIONS = 4  # the embedded bus keeps some 5 MB of each
_ROWS = 1024
_TIMEOUT_S = 120.0
_MEDIAN_ERROR = (
    1.253 / 1.349
)  # of the median of n normal values, times √n, by what lies between their quartiles
_QUIET = {"log_level": 0}  # the bus ends before its clients, and they would tell
_LARGE = {"batching": {"max_rows": _ROWS}, "kafka": {"properties": _QUIET}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One stage over all rounds."""

    us: float  # CPU time an event, median
    x: float  # as a multiple of the passthrough of the same round, median
    spread: float  # standard error of x, from what lies between the quartiles of the rounds


class Stopwatch:
    """A meter that also adds up the CPU time of the calling thread between the ends of stages.

    What stands between two stages counts to the second one. Waiting costs nothing, and neither do the
    client's own threads, so neither a busy machine nor a slow broker shows.
    """

    def __init__(self, meter: Meter, stop: threading.Event, events: int) -> None:
        self._meter, self._stop, self._left = meter, stop, events
        self._cpu_ns: dict[int, int] = {}  # by thread
        self.stages_ns: dict[str, int] = {}
        self.events = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._meter, name)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """A stage of this thread."""
        with self._meter.timed(name):
            yield
            now_ns, thread = time.thread_time_ns(), threading.get_ident()
            self.stages_ns[name] = self.stages_ns.get(name, 0) + now_ns - self._cpu_ns.get(thread, now_ns)
        self._cpu_ns[thread] = time.thread_time_ns()

    def applied(self, events: int, late: int, hot_rows: int) -> None:
        """Events have become part of the state; the first of them only end the warming up."""
        self._meter.applied(events, late, hot_rows)
        is_first, self._left = not self.stages_ns.get("features"), self._left - events
        if is_first:
            self.stages_ns = {"features": 1}
        else:
            self.events += events
        if self._left <= 0:
            self._stop.set()


def measure(
    events: int,
    rounds: int,
    say: Callable[[str], None] = lambda _: None,
    more: dict[str, Any] | None = None,
) -> dict[str, Cost]:
    """Cost an event by stage, `passthrough` and `total` included, over rounds that alternate with it.

    The whole worker runs in this process, on the embedded bus and a store in memory.

    Args:
        more: keys laid over sections of the pipeline file.

    Raises:
        RuntimeError: a round did not get through its events in time.
    """
    topics = {name: PARTITIONS for name in topics_of("", PARTITIONS)} | {"passed": PARTITIONS}
    taken: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as temporary, embedded_bus(topics) as bus:
        # A looked-up pipeline's file is read with the environment of the process.
        os.environ |= {
            "PENSTOCK_KAFKA": bus,
            "PENSTOCK_STORE": "memory://",
            "PENSTOCK_DELIVERY": "at_least_once",
            "PENSTOCK_FETCH_WAIT_MS": str(FETCH_WAIT_MS),
        }
        folder, traffic, open_store = Path(temporary), fraud_traffic(events), store_opener()
        for topic, (keys, values) in traffic.items():
            fill(bus, topic, keys, values)
        count = len(traffic["transactions"][0])
        labels = pipeline_file("terminal-risk", folder, "", _quiet)
        _run(labels, open_store, len(traffic["labels"][0]))
        for number in range(rounds + 1):
            outputs = {
                "scores": "fraud.scores",
                "alerts": "fraud.alerts",
                "dead_letters": "fraud.dead-letters",
            }
            file = fraud_job(
                folder,
                f"round{number}",
                prefix="",
                outputs=outputs,
                group=f"round{number}",
                more={**_LARGE, **(more or {})},
            )
            before_us = _passthrough(bus, f"before{number}", count)
            stages_us = _run(file, open_store, count)
            passed_us = (before_us + _passthrough(bus, f"after{number}", count)) / 2
            if number:  # the first one compiles
                taken.append({PASSTHROUGH: passed_us, **stages_us, "total": sum(stages_us.values())})
                say(f"round {number}: {taken[-1]['total']:.2f} us, passthrough {passed_us:.2f} us")
    return summarize(taken)


def summarize(rounds: list[dict[str, float]]) -> dict[str, Cost]:
    """Medians over rounds of us an event by stage; what a round did not have cost nothing in it."""
    names = list(dict.fromkeys(name for each in rounds for name in each))
    return {name: _cost([(each.get(name, 0.0), each[PASSTHROUGH]) for each in rounds]) for name in names}


def _cost(pairs: list[tuple[float, float]]) -> Cost:
    times = [us / passed_us for us, passed_us in pairs]
    low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return Cost(
        us=round(statistics.median(us for us, _ in pairs), 3),
        x=round(statistics.median(times), 4),
        spread=round(_MEDIAN_ERROR * (high - low) / len(times) ** 0.5, 4),
    )


def _quiet(document: dict[str, Any]) -> None:
    document["kafka"]["properties"] |= _QUIET


def _run(file: Path, open_store: OpenStore, events: int) -> dict[str, float]:
    """One worker from the beginning of its topic to its last event: us an event by stage."""
    line = assemble(load_pipeline(file), open_store, CollectorRegistry())
    stop = threading.Event()
    watch = Stopwatch(line.meter, stop, events)
    late = threading.Timer(_TIMEOUT_S, stop.set)
    late.start()
    gc.collect()
    gc.freeze()
    try:
        Worker(replace(line, meter=watch)).run(stop)  # type: ignore[arg-type]
    finally:
        late.cancel()
        gc.unfreeze()
    if watch._left > 0:
        raise RuntimeError(f"{file.name}: {watch._left} of {events} events left after {_TIMEOUT_S:.0f} s")
    return {name: ns / watch.events / 1000 for name, ns in watch.stages_ns.items()}


def _passthrough(bus: str, group: str, events: int) -> float:
    """Consume and produce the same bytes, and nothing else: us an event on this thread."""
    config = {"bootstrap.servers": bus, "group.id": group, "auto.offset.reset": "earliest"}
    consumer = Consumer({**config, "enable.auto.commit": False, **_QUIET, "fetch.wait.max.ms": FETCH_WAIT_MS})
    producer = Producer(
        {**_QUIET, "bootstrap.servers": bus, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000}
    )
    consumer.subscribe(["transactions"])
    counted, begun_ns = -1, 0
    for size in _chunks(consumer, producer, events):
        if counted < 0:  # the first ones are the warming up, as in a worker
            counted, begun_ns = 0, time.thread_time_ns()
        else:
            counted += size
    taken_ns = time.thread_time_ns() - begun_ns
    producer.flush(30)
    consumer.close()
    return taken_ns / counted / 1000


def _chunks(consumer: Consumer, producer: Producer, events: int) -> Iterator[int]:
    deadline_s = time.monotonic() + _TIMEOUT_S
    while events > 0:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"passthrough: {events} events left after {_TIMEOUT_S:.0f} s")
        messages = consumer.consume(_ROWS, 0.05)
        for message in messages:
            producer.produce("passed", message.value(), message.key())
        producer.poll(0)
        events -= len(messages)
        if messages:
            yield len(messages)
