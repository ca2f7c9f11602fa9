"""Streams FD001 engine by engine through real Kafka and Redis; compares with the same model run offline."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pandas as pd
from numpy.typing import NDArray

from benchmarks.machine import write_result
from benchmarks.workers import REPOSITORY, create_topics, pipeline_file, running, topics_of
from loadgen.run import Load, Target
from loadgen.sources import stored
from tests.pipeline.streams import Reader
from tests.services import real_services
from training.metrics import cmapss_score
from worker.accuracy import rmse

FIELDS = [f"s{number:02d}" for number in (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21)]
STEPS = 30
CAP = 125.0
_PUBLISHED = {
    "CNN (Sateesh Babu 2016)": {"rmse": 18.45, "score": 1290},
    "LSTM (Zheng 2017)": {"rmse": 16.14, "score": 338},
    "BiLSTM (2018)": {"rmse": 13.65},
    "DCNN (Li, Ding, Sun 2018)": {"rmse": 12.61, "score": 273.7},
    "STAR (Fan 2024)": {"rmse": 10.61},
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Streamed:
    """What came out of the stream."""

    last: NDArray[np.float64]  # (engines,) prediction at the last cycle, by unit
    stream: dict[str, Any]
    seconds: float
    worker_peak_mb: float
    worker_cpu_us_per_event: float


def offline_predictions(data: Path, subset: str, model: Path) -> NDArray[np.float32]:
    """(engines,) the model on each engine's last 30 readings, straight from the file."""
    rows = pd.read_parquet(data / "cmapss" / f"test_{subset}.parquet").sort_values(["unit", "cycle"])
    windows = np.stack([unit[FIELDS].to_numpy(np.float32)[-STEPS:] for _, unit in rows.groupby("unit")])
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    predicted: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: windows})[0]
    return predicted.reshape(-1)


def true_remaining(data: Path, subset: str) -> NDArray[np.float64]:
    """(engines,) remaining cycles after each engine's last reading."""
    rows = pd.read_parquet(data / "cmapss" / f"RUL_{subset}.parquet").sort_values("unit")
    column = next(name for name in rows.columns if name.lower() == "rul")
    remaining: NDArray[np.float64] = rows[column].to_numpy(np.float64)
    return remaining


def stream(data: Path, subset: str, kafka: str, redis: str) -> Streamed:
    """Send every reading of the test engines and take the last score of each."""
    prefix = f"m{uuid.uuid4().hex[:8]}."
    create_topics(kafka, topics_of(prefix, 4))
    name = f"test_{subset}"
    with tempfile.TemporaryDirectory(prefix="penstock-parity-") as folder:
        file = pipeline_file("maintenance", Path(folder), prefix)
        env = {"PENSTOCK_KAFKA": kafka, "PENSTOCK_STORE": redis, "PENSTOCK_DELIVERY": "exactly_once"}
        with running([[file]], Path(folder), env) as (worker,):
            source = stored(
                data / "cmapss" / f"{name}.parquet", truth_path=data / "cmapss" / f"RUL_{subset}.parquet"
            )
            target = Target(
                bootstrap=kafka,
                topics={"readings": f"{prefix}readings"},
                outputs={"maintenance": f"{prefix}maintenance"},
            )
            load = Load(target, [source])
            begun_s, cpu_s = time.monotonic(), worker.cpu_s()
            load.start()
            report = load.finish(drain_s=60)["streams"]["maintenance"]
            seconds, cpu_s, peak_mb = time.monotonic() - begun_s, worker.cpu_s() - cpu_s, worker.memory_mb()
    reader = Reader(kafka, prefix, "maintenance")
    newest: dict[str, tuple[Any, float]] = {}
    for score in reader.scores(report["scores"]):
        if score["key"] not in newest or newest[score["key"]][0] < score["event_time"]:
            newest[score["key"]] = (score["event_time"], score["score"])
    reader.close()
    units = sorted(newest, key=lambda key: int(key.rsplit("-", 1)[1]))
    return Streamed(
        last=np.array([newest[unit][1] for unit in units]),
        stream=report,
        seconds=seconds,
        worker_peak_mb=peak_mb,
        worker_cpu_us_per_event=cpu_s / report["events"] * 1e6,
    )


def compare(streamed: Streamed, offline: NDArray[np.float32], truth: NDArray[np.float64]) -> dict[str, Any]:
    """Agreement with the offline run, and the quality figures beside the published ones."""
    capped = np.minimum(truth, CAP)
    return {
        "engines": len(truth),
        "readings": streamed.stream["events"],
        "unaccounted": streamed.stream["unaccounted"],
        "duplicates": streamed.stream["duplicates"],
        "largest_difference_to_offline": float(np.abs(streamed.last - offline).max()),
        "rmse_capped": rmse(capped, streamed.last),
        "score_capped": cmapss_score(capped, streamed.last),
        "rmse_uncapped": rmse(truth, streamed.last),
        "score_uncapped": cmapss_score(truth, streamed.last),
        "seconds": round(streamed.seconds, 1),
        "worker_peak_mb": round(streamed.worker_peak_mb, 1),
        "worker_cpu_us_per_event": round(streamed.worker_cpu_us_per_event, 2),
    }


def main() -> int:
    """Stream the test engines and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PENSTOCK_DATA", "data")))
    parser.add_argument("--subset", default="FD001")
    arguments = parser.parse_args()
    offline = offline_predictions(
        arguments.data, arguments.subset, REPOSITORY / "models" / "rul" / "1" / "model.onnx"
    )
    with real_services() as services:
        streamed = stream(arguments.data, arguments.subset, services.kafka_bootstrap, services.redis_url)
    result = compare(streamed, offline, true_remaining(arguments.data, arguments.subset))
    print(json.dumps(result, indent=2))
    print(write_result("maintenance-parity", {"subset": arguments.subset, **result, "published": _PUBLISHED}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
