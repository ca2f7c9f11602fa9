"""Sixty days of the handbook's transactions in one `penstock backtest`, and what its report says of them."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.fraud_parity import every_event_alerts, replay
from benchmarks.machine import write_result
from benchmarks.workers import REPOSITORY, pipeline_file
from tests.parity.pandas_reference import FEATURES, fraud_features, read_transactions
from tests.services import real_services
from training.fraud_tables import LAST_DAY, write

PUBLISHED = {"auc": 0.862, "average_precision": 0.639, "card_precision_100": 0.273}
FIRST_DAY = "2018-06-16"  # sixty days, and two more than fill every window of the training week
TEST_WEEK, TRAINING_WEEK = "2018-08-08", "2018-07-25"


def command(files: dict[Any, Path], out: Path, *options: str) -> list[str]:
    """The one command: the test week judged as the book judges it, cards known as defrauded left out."""
    return [
        *(sys.executable, "-m", "worker.cli", "backtest", "pipelines/fraud.yaml", "--model", "fraud/1"),
        *("--input", str(files["transactions"]), "--input", f"terminal-risk={files['labels']}"),
        *("--label", "terminal-risk.fraud", "--quality-from", TEST_WEEK),
        *("--without-known-since", TRAINING_WEEK, "--out", str(out), "--json", *options),
    ]


def features_of(out: Path) -> pd.DataFrame:
    """The features that a backtest has written, by transaction."""
    table = pq.read_table(out / "scores.parquet", columns=["event_id", *FEATURES]).to_pandas()
    return table.set_index(table.pop("event_id").astype(np.int64))


def run(data: Path, first: str, last: str, out: Path) -> dict[str, Any]:
    """Run the command in a process of its own; returns its report and what the process took."""
    files = write(data, first, last, out)
    begun_s = time.monotonic()
    done = subprocess.run(
        command(files, out), cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=600
    )
    seconds = time.monotonic() - begun_s
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "report": json.loads(done.stdout),
        "seconds": round(seconds, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def against_live(data: Path, first: date, last: date) -> dict[str, Any]:
    """Score these days live, through real Kafka and Redis, and again from the log: what differs."""
    prefix = f"b{uuid.uuid4().hex[:8]}."
    with real_services() as services, tempfile.TemporaryDirectory(prefix="penstock-backtest-") as name:
        live = replay(
            data,
            services.kafka_bootstrap,
            services.redis_url,
            first=first,
            last=last,
            model_version="1",
            prefix=prefix,
        )
        file = pipeline_file("fraud", Path(name), prefix, lambda document: every_event_alerts(document, "1"))
        pipeline_file("terminal-risk", Path(name), prefix)
        done = subprocess.run(
            [sys.executable, "-m", "worker.cli", "backtest", str(file), "--out", f"{name}/out", "--json"],
            cwd=REPOSITORY,
            env={**os.environ, "PENSTOCK_KAFKA": services.kafka_bootstrap},
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        )
    report = json.loads(done.stdout)
    published = {name: value for name, value in report["published"].items() if name != "examples"}
    return {
        "first": str(first),
        "last": str(last),
        "live_seconds": round(live.seconds, 1),
        "live_cpu_us_per_event": round(live.worker_cpu_us_per_event, 2),
        "engine": report["engine"],
        **published,
    }


def main() -> int:
    """Run it, compare every feature with the pandas reference, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PENSTOCK_DATA", "data")))
    parser.add_argument("--live-first", type=date.fromisoformat, default=date(2018, 8, 1))
    parser.add_argument("--live-last", type=date.fromisoformat, default=date(2018, 8, 10))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-backtest-") as name:
        found = run(arguments.data, FIRST_DAY, LAST_DAY, Path(name))
        rows = read_transactions(arguments.data, FIRST_DAY, LAST_DAY)
        expected = fraud_features(rows).set_index(rows["TRANSACTION_ID"].to_numpy())
        difference = np.abs(features_of(Path(name)).loc[expected.index] - expected).to_numpy().max()
    report = found.pop("report")
    quality = {key: value for key, value in report["quality"].items() if key != "curve"}
    result = {
        "first": FIRST_DAY,
        "last": LAST_DAY,
        "model": report["model"],
        **found,
        "engine": report["engine"],
        "alerts": report["volume"]["alerts"],
        "quality": quality,
        "published": PUBLISHED,
        "features_largest_difference_to_pandas": float(difference),
        "against_live": against_live(arguments.data, arguments.live_first, arguments.live_last),
    }
    print(json.dumps(result, indent=2))
    print(write_result("backtest", result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
