"""What a GPU is worth to a worker: graphs against plain calls, whole workers against ones without a model.

The mock cluster and in-memory stores serve, so a machine without a network will do. A worker gets its
backlog while it is paused; events a second are those between its first and its last score.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from numpy.typing import NDArray

from benchmarks.gpu_models import attention_model, null_model, operations
from benchmarks.machine import write_result
from benchmarks.workers import REPOSITORY, RunningWorker, running
from loadgen.bus import FETCH_WAIT_MS, embedded_bus
from loadgen.events import reading_events, together
from loadgen.turbofan import Fleet, cycles
from schemas.codec import Codec
from schemas.schema import load_schema
from tests.pipeline.streams import fill, transactions
from worker.buckets import plain_options
from worker.buckets import run as run_buckets
from worker.config import load_pipeline
from worker.infer import load_model, settle
from worker.plan import feature_plan

PARTITIONS = 32  # the mock cluster keeps 5 MB of each
TOKEN = "benchmark-of-a-gpu"
SMALL, FULL = 64, 1024  # rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One model, what it is fed with, and the pipeline file around it."""

    name: str
    source: str  # of pipelines/
    folder: Path  # of the model version
    sequence: int | None = None  # length of the readings, when it is not that of the file


def main() -> int:
    """Measure, print the tables, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--device", default="cuda:0", help="cpu shows that the benchmark runs, and nothing else"
    )
    parser.add_argument(
        "--events", type=int, default=400_000, help="of a worker's run; the heavy model: a fourth"
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--processes", default="1,2,4,8", help="how many share the GPU, in turn")
    parser.add_argument("--only", default="fraud,rul,attention", help="some of: default all")
    parser.add_argument("--result", default="gpu", help="name of the result file; empty: write none")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = [job for job in _jobs(folder / "models") if job.name in arguments.only.split(",")]
        result = {"device": arguments.device, "events": arguments.events, "graphs": {}, "workers": {}}
        for job in jobs:
            result["graphs"][job.name] = _say(job.name, graphs(job, arguments.device, folder))
        for job in jobs:
            result["workers"][job.name] = _say(job.name, against_null(job, folder, arguments))
        counts = [int(count) for count in arguments.processes.split(",")]
        result["processes"] = _say("processes", scaling(jobs[0], folder, arguments, counts))
    if arguments.result:
        print(write_result(arguments.result, result))
    return 0


def _say(what: str, found: dict[str, Any]) -> dict[str, Any]:
    print(what, json.dumps(found), flush=True)
    return found


def _jobs(repository: Path) -> list[Job]:
    fields = yaml.safe_load((REPOSITORY / "pipelines" / "maintenance.yaml").read_text())
    names = fields["features"]["readings"]["fields"]
    models = REPOSITORY / "models"
    heavy = attention_model(repository, names)
    return [
        Job(name="fraud", source="fraud", folder=models / "fraud" / "2"),
        Job(name="rul", source="maintenance", folder=models / "rul" / "1"),
        Job(name="attention", source="maintenance", folder=heavy, sequence=64),
    ]


def graphs(job: Job, device: str, folder: Path) -> dict[str, float]:
    """Median time of a small batch with and without fixed buffers, and rows a second of full ones."""
    plan = feature_plan(load_pipeline(_file(job, folder, "plan.", job.folder, device), {}))
    model = settle(load_model(job.folder, plan, device))
    buckets = model.buckets
    rows = {
        name: np.resize(values, (FULL, *values.shape[1:])) for name, values in _golden(job.folder).items()
    }
    small = {name: values[:SMALL] for name, values in rows.items()}
    runtime, output = model.session.runtime, [model.card.output.tensor]

    def plain(tensors: dict[str, NDArray[Any]]) -> None:
        runtime.run(output, tensors, plain_options(model.session))

    def bound(tensors: dict[str, NDArray[Any]]) -> None:
        if buckets is None:  # on the CPU there are none
            plain(tensors)
        else:
            run_buckets(buckets, tensors, len(next(iter(tensors.values()))))

    plain_s, bound_s = _medians_s((plain, bound), small, turns=300)
    _, full_s = _medians_s((plain, bound), rows, turns=30)
    return {
        "has_graphs": model.session.has_graphs,
        "plain_p50_us": round(plain_s * 1e6, 1),
        "buckets_p50_us": round(bound_s * 1e6, 1),
        "ratio": round(bound_s / plain_s, 3),
        "alone_rows_per_s": round(FULL / full_s),
        "operations_per_event": operations(14) if job.name == "attention" else None,
    }


def _medians_s(
    ways: Sequence[Callable[[dict[str, NDArray[Any]]], None]], tensors: dict[str, NDArray[Any]], turns: int
) -> list[float]:
    took_s: list[list[float]] = [[] for _ in ways]
    for _ in range(turns):
        for way, times in zip(ways, took_s, strict=True):
            began_s = time.perf_counter()
            way(tensors)
            times.append(time.perf_counter() - began_s)
    return [statistics.median(times[turns // 6 :]) for times in took_s]


def against_null(job: Job, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Events a second of one worker with the model and with one that does nothing, in turns."""
    events = arguments.events // 4 if job.name == "attention" else arguments.events
    nothing = folder / "null" / job.name
    stand_in = null_model(job.folder, nothing, _golden(job.folder))
    found: dict[str, list[float]] = {"model": [], "null": []}
    for number in range(arguments.repetitions):
        for name, version, device in (("model", job.folder, arguments.device), ("null", stand_in, "cpu")):
            files = folder / f"{job.name}{number}{name}"
            files.mkdir()
            found[name].append(measure(job, files, version, device, events, processes=1))
    rates = {name: statistics.median(values) for name, values in found.items()}
    return {"events_per_s": rates, "ratio": round(rates["model"] / rates["null"], 3), "runs": found}


def scaling(job: Job, folder: Path, arguments: argparse.Namespace, counts: Sequence[int]) -> dict[str, Any]:
    """Events a second of so many processes on one device."""
    found: dict[str, float] = {}
    for count in counts:
        files = folder / f"processes{count}"
        files.mkdir()
        found[str(count)] = measure(
            job, files, job.folder, arguments.device, arguments.events, processes=count
        )
    return {"job": job.name, "events_per_s": found}


def measure(job: Job, folder: Path, version: Path, device: str, events: int, *, processes: int) -> float:
    """Events a second of a group of worker processes that find a backlog."""
    keys, values = _traffic(job, events)
    prefix = "gpu."
    file = _file(job, folder, prefix, version, device)
    document = yaml.safe_load(file.read_text())
    topic, scores = document["source"]["topic"], document["outputs"]["scores"]
    with embedded_bus({topic: PARTITIONS, scores: PARTITIONS}) as bootstrap:
        env = {"PENSTOCK_KAFKA": bootstrap, "PENSTOCK_STORE": "memory://"}
        env |= {"PENSTOCK_DELIVERY": "at_least_once", "PENSTOCK_ADMIN_TOKEN": TOKEN}
        env |= {"PENSTOCK_FETCH_WAIT_MS": str(FETCH_WAIT_MS)}
        with running([[file]] * processes, folder, env) as workers:
            time.sleep(3.0)  # every member has its lanes
            _tell(workers, "pause")
            fill(bootstrap, topic, keys, values)
            _tell(workers, "resume")
            scored_ms = _scored_ms(bootstrap, scores, events)
    # Of the first batch nobody knows when it began.
    scored_ms = scored_ms[scored_ms > scored_ms.min()]
    if len(np.unique(scored_ms)) < 2:
        raise RuntimeError(
            f"{events} events were two batches or fewer, which have no rate: give more --events"
        )
    return round(len(scored_ms) / float(np.ptp(scored_ms)) * 1000)


def _scored_ms(bootstrap: str, topic: str, events: int) -> NDArray[np.int64]:
    """(events,) when each was scored."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "benchmark", "fetch.wait.max.ms": 5})
    reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
    codec, parts, seen = Codec(load_schema("score"), "single_object"), [], 0
    deadline_s = time.monotonic() + 300
    while seen < events:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{seen} of {events} scores came within five minutes")
        values = [record.value() for record in reader.consume(10_000, 0.2) if record.error() is None]
        if values:
            scored_at = codec.decode(values).table.column("scored_at").to_numpy(zero_copy_only=False)
            parts.append(scored_at.astype("datetime64[ms]").astype(np.int64))
            seen += len(values)
    reader.close()
    return np.concatenate(parts)


def _traffic(job: Job, events: int) -> tuple[list[bytes], list[bytes]]:
    if job.source == "fraud":
        return transactions(events, customers=20_000)
    schema = load_schema("sensor_reading")
    chunks, count = [], 0
    for chunk in cycles(Fleet(machines=2000)):
        chunks.append(reading_events(chunk, "M", schema))
        count += len(chunk)
        if count >= events:
            break
    readings = together(chunks)
    return readings.key[:events], Codec(schema, "single_object").encode(readings.table)[:events]


def _file(job: Job, folder: Path, prefix: str, version: Path, device: str) -> Path:
    document = yaml.safe_load((REPOSITORY / "pipelines" / f"{job.source}.yaml").read_text())
    document["kafka"]["group"] = f"{prefix}{job.name}"
    document["source"]["topic"] = f"{prefix}input"
    document["outputs"] |= {"scores": f"{prefix}scores", "alerts": f"{prefix}alerts"}
    document["outputs"]["dead_letters"] = f"{prefix}dead"
    document["model"] = {
        "name": version.parent.name,
        "version": version.name,
        "repository": str(version.parents[1]),
        "device": device,
    }
    if job.source == "fraud":  # no second pipeline: the terminal's windows are the customer's own
        document["features"]["terminal"] = dict(document["features"]["customer"])
    if job.sequence is not None:
        document["features"]["readings"] |= {"length": job.sequence, "capacity": job.sequence + 10}
    # Scores alone are measured, of batches as large as they get.
    document["decision"] = {"alert_when": "above", "severities": {"never": 1e9}, "cooldown": "1h"}
    document["batching"] = {"max_rows": FULL, "max_wait": "20ms", "eager": False}
    document["admin"] = {"token": TOKEN, "port": 0}
    path = folder / f"{prefix}{job.name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _golden(folder: Path) -> dict[str, NDArray[Any]]:
    with np.load(folder / "golden.npz") as golden:
        return {name: golden[name] for name in golden.files if name not in ("expected", "rtol", "atol")}


def _tell(workers: Sequence[RunningWorker], what: str) -> None:
    for worker in workers:
        header = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{worker.address()}/{what}", method="POST", headers=header)
        urllib.request.urlopen(request, timeout=10).close()


if __name__ == "__main__":
    sys.exit(main())
