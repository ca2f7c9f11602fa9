"""What a batch costs a running worker by its size, for the simulation of latency objectives."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.machine import write_result
from benchmarks.workers import create_topics, pipeline_file, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table
from tests.pipeline.streams import PARTITIONS, START_MS, alone, fill, transactions
from tests.services import kafka_address
from worker.assemble import assemble, store_opener
from worker.batcher import Batcher, BatchPolicy
from worker.config import load_pipeline
from worker.logs import configure_logs
from worker.run import Worker
from worker.service import calm_the_collector
from worker.slo import Turn, Window

SIZES = [2**n for n in range(12)]
_WITHIN_S = 300.0
_SETTLE_ROUNDS = 3  # thrown away: the client still fetches, caches are cold


@dataclass(slots=True)
class Recorder:
    """Goes through the sizes again and again, and keeps what a batch of each took."""

    rounds: int
    taken_ms: dict[int, list[float]] = field(default_factory=lambda: {size: [] for size in SIZES})
    at: int = 0
    cpu_s: float = 0.0
    is_full: threading.Event = field(default_factory=threading.Event)

    def turned(self, turn: Turn) -> Window:
        """Note one batch, and ask for one of the next size."""
        size = SIZES[self.at % len(SIZES)]
        cpu_s = time.thread_time()  # of the loop's own thread: others may keep the machine busy meanwhile
        if turn.rows == size and self.at >= _SETTLE_ROUNDS * len(SIZES) and not self.is_full.is_set():
            self.taken_ms[size].append(round((cpu_s - self.cpu_s) * 1000, 3))
        if turn.rows == size:
            self.at += 1
        self.cpu_s = cpu_s
        if self.at >= (self.rounds + _SETTLE_ROUNDS) * len(SIZES):
            self.is_full.set()
        return Window(max_rows=SIZES[self.at % len(SIZES)], max_wait_ms=0.0)


def main() -> int:
    """Record the shipped models and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="batches of each size")
    arguments = parser.parse_args()
    configure_logs(set(), set(), is_terminal=True)
    with kafka_address() as kafka:
        curves = {
            f"{model} {version}": curve(kafka, model, version, arguments.rounds)
            for model, version in (("fraud", "1"), ("fraud", "2"), ("rul", "1"))
        }
    how = (
        "One worker, at_least_once, memory store, model on the CPU, backlog on a real broker, batches of all "
        "sizes in turn: milliseconds of CPU of the loop's thread a turn, from poll to scores handed to the "
        "client, and a commit every 100 ms. CPU and not wall time, as the machine was shared; on a quiet one "
        "they are the same, as ONNX Runtime computes in the calling thread."
    )
    print(write_result("cost-curve", {"how": how, "load_average": os.getloadavg(), "curves": curves}))
    return 0


def curve(kafka: str, model: str, version: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every batch, by size, for one model version."""
    prefix = f"curve{time.time_ns()}."
    create_topics(kafka, topics_of(prefix, PARTITIONS))
    events = (rounds + _SETTLE_ROUNDS + 5) * sum(SIZES)
    keys, values = transactions(events) if model == "fraud" else _readings(events)
    fill(kafka, prefix + ("transactions" if model == "fraud" else "readings"), keys, values)
    sections = {
        "model": {"version": version, "device": "cpu"},
        "state": {"store": "memory://"},
        "delivery": {"mode": "at_least_once"},
    }
    with tempfile.TemporaryDirectory() as folder:
        if model == "fraud":
            file = alone(Path(folder), prefix, **sections)
        else:
            file = pipeline_file(
                "maintenance", Path(folder), prefix, lambda d: [d[s].update(v) for s, v in sections.items()]
            )
        return _record(file, kafka, rounds)


def _record(file: Path, kafka: str, rounds: int) -> dict[str, list[float]]:
    recorder = Recorder(rounds)
    line = assemble(load_pipeline(file, {"PENSTOCK_KAFKA": kafka}), store_opener(), CollectorRegistry())
    policy = BatchPolicy(max_rows=1, max_bytes=1 << 30, max_wait_ms=0.0, eager=False)
    worker = Worker(replace(line, batcher=Batcher(policy, recorder.turned)))
    calm_the_collector()
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    is_full = recorder.is_full.wait(_WITHIN_S)
    stop.set()
    thread.join(60)
    if not is_full:
        raise RuntimeError(f"only {recorder.at // len(SIZES)} rounds in {_WITHIN_S:.0f} s")
    print(
        json.dumps({size: float(np.median(taken)) for size, taken in recorder.taken_ms.items()}),
        file=sys.stderr,
    )
    return {str(size): taken for size, taken in recorder.taken_ms.items()}


def _readings(count: int, machines: int = 500) -> tuple[list[bytes], list[bytes]]:
    rng = np.random.default_rng(0)
    schema = load_schema("sensor_reading")
    machine = [f"M{i % machines}" for i in range(count)]
    columns: dict[str, Any] = {
        "reading_id": [str(i) for i in range(count)],
        "event_time": START_MS + np.arange(count, dtype=np.int64),
        "machine_id": machine,
        "cycle": (np.arange(count) // machines + 1).astype(np.int32),
    }
    others = [name for name in schema.arrow.names if name not in columns]
    columns |= {name: rng.random(count, np.float32) * 100 for name in others}
    values = Codec(schema, "single_object").encode(to_table(schema, columns))
    return [name.encode() for name in machine], values


if __name__ == "__main__":
    sys.exit(main())
