"""Replays the handbook's transactions through real Kafka and Redis and compares every feature and metric."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from confluent_kafka import Consumer, TopicPartition

from benchmarks.machine import write_result
from benchmarks.workers import create_topics, pipeline_file, running, topics_of
from loadgen.lead import Lead
from loadgen.run import Load, Target
from loadgen.sources import stored
from schemas.codec import Codec
from schemas.schema import load_schema
from tests.parity.pandas_reference import FEATURES, fraud_features, read_transactions
from tests.services import real_services
from training.metrics import kept_test_rows
from worker.accuracy import auc, average_precision, card_precision

_MAX_LEAD = timedelta(days=1)  # inside terminal-risk's allowed lateness of 7 days
_PARTITIONS = 4
_TRAIN_DAY = 115  # 2018-07-25, counted from 2018-04-01


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What came out of a replay."""

    alerts: pd.DataFrame  # one row an event: transaction, score, flags, the fifteen features
    report: dict[str, Any]
    seconds: float
    worker_peak_mb: float
    worker_cpu_us_per_event: float


def replay(
    data: Path,
    kafka: str,
    redis: str,
    *,
    first: date,
    last: date,
    model_version: str,
    rate: float | None = None,
    prefix: str | None = None,
) -> Replay:
    """Stream the transactions and labels of these days through the shipped pipelines.

    Two things differ from the files as shipped: every score raises an alert (an alert carries the features,
    a score does not), and the fraud pipeline waits for terminal-risk instead of using what it has.
    """
    prefix = prefix or f"p{uuid.uuid4().hex[:8]}."

    def fraud(document: dict[str, Any]) -> None:
        every_event_alerts(document, model_version)
        document["features"]["terminal"] |= {"when_behind": "wait", "wait_at_most": "8s"}
        document["batching"]["max_rows"] = 4096

    def terminal_risk(document: dict[str, Any]) -> None:
        document["delivery"] = {"mode": "exactly_once", "commit_interval": "25ms"}
        document["state"] = {"store": redis, "write_interval": "25ms"}

    create_topics(kafka, topics_of(prefix, _PARTITIONS))
    with tempfile.TemporaryDirectory(prefix="penstock-parity-") as name:
        folder = Path(name)
        files = [
            pipeline_file("fraud", folder, prefix, fraud),
            pipeline_file("terminal-risk", folder, prefix, terminal_risk),
        ]
        env = {"PENSTOCK_KAFKA": kafka, "PENSTOCK_STORE": redis, "PENSTOCK_DELIVERY": "exactly_once"}
        with running([[file] for file in files], folder, env) as workers:
            source = stored(
                data / "fraud" / "transactions.parquet",
                from_date=first,
                until_date=last + timedelta(days=1),
                max_per_s=rate,
                slab_s=6 * 3600,
            )
            target = Target(
                bootstrap=kafka,
                topics={"transactions": f"{prefix}transactions", "labels": f"{prefix}labels"},
                outputs={"fraud": f"{prefix}fraud"},
            )
            load = Load(
                target,
                [source],
                gates={
                    "fraud": lambda outbox: _gate(
                        Lead(
                            kafka,
                            group=f"{prefix}fraud",
                            topic=f"{prefix}transactions",
                            outbox=outbox,
                            max_lead_ms=int(_MAX_LEAD.total_seconds() * 1000),
                        )
                    )
                },
            )
            begun_s, cpu_s = time.monotonic(), sum(worker.cpu_s() for worker in workers)
            load.start()
            _show_progress(load, workers)
            report = load.finish(drain_s=60)
            seconds = time.monotonic() - begun_s
            events = report["streams"]["fraud"]["events"]
            cpu_s = sum(worker.cpu_s() for worker in workers) - cpu_s
            peak_mb = max(worker.memory_mb() for worker in workers)
    return Replay(
        alerts=read_alerts(kafka, f"{prefix}fraud.alerts"),
        report=report,
        seconds=seconds,
        worker_peak_mb=peak_mb,
        worker_cpu_us_per_event=cpu_s / events * 1e6,
    )


def every_event_alerts(document: dict[str, Any], model_version: str) -> None:
    """Let every score of the fraud pipeline raise an alert, which carries the features."""
    document["decision"] = {"alert_when": "above", "severities": {"every": -1.0}, "cooldown": "0s"}
    document["model"]["version"] = model_version


def _gate(lead: Lead) -> Any:
    return lambda from_ms: lead.is_open(from_ms, time.monotonic())


def _show_progress(load: Load, workers: Any) -> None:
    shown_s = time.monotonic()
    while load.is_sending():
        time.sleep(0.5)
        for worker in workers:
            if worker.process.poll() is not None:
                load.stop()
                raise RuntimeError(f"worker ended with exit code {worker.process.poll()}:\n{worker.tail()}")
        if time.monotonic() - shown_s > 10:
            shown_s = time.monotonic()
            live = load.live()["fraud"]
            print(f"{live.sent:,} sent, {live.scores:,} scored", file=sys.stderr, flush=True)


def read_alerts(kafka: str, topic: str) -> pd.DataFrame:
    """Every alert of a topic as one row, features as columns."""
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": "parity-reader", "enable.auto.commit": False}
    )
    codec = Codec(load_schema("alert"), "single_object")
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in partitions}
    consumer.assign([TopicPartition(topic, p, 0) for p in ends])
    rows: list[dict[str, Any]] = []
    deadline_s = time.monotonic() + 300
    while time.monotonic() < deadline_s:
        messages = [m for m in consumer.consume(20_000, 0.5) if m.error() is None]
        for alert in codec.decode([m.value() for m in messages]).table.to_pylist():
            features = dict(alert["features"])
            rows.append(
                {
                    "transaction": int(alert["event_id"]),
                    "score": alert["score"],
                    "flagged": alert["late"] or alert["incomplete"] or alert["degraded"],
                    **{name: features[name] for name in FEATURES},
                }
            )
        # Positions pass the transaction markers at the end of a partition.
        if not messages and all(
            p.offset >= ends[p.partition] for p in consumer.position(consumer.assignment())
        ):
            break
    consumer.close()
    return pd.DataFrame(rows)


def compare(found: pd.DataFrame, expected: pd.DataFrame) -> dict[str, Any]:
    """Row by row: counts exactly, everything else as the largest difference; both indexed by transaction."""
    found = found.reindex(expected.index)
    counts = [name for name in FEATURES if ".count_" in name or name in ("weekend", "night")]
    others = [name for name in FEATURES if name not in counts]
    return {
        "transactions": len(expected),
        "missing": int(found["score"].isna().sum()),
        "flagged": int(found["flagged"].fillna(value=True).astype(bool).sum()),
        "unequal_counts": int((found[counts].to_numpy() != expected[counts].to_numpy()).sum()),
        "largest_difference": float(np.abs(found[others].to_numpy() - expected[others].to_numpy()).max()),
    }


def table_metrics(transactions: pd.DataFrame, scores: pd.Series) -> dict[str, float]:
    """The published table's three metrics over the kept test rows."""
    day = transactions["TX_TIME_DAYS"].to_numpy(np.int64)
    customer = transactions["CUSTOMER_ID"].to_numpy(np.int64)
    truth = transactions["TX_FRAUD"].to_numpy(np.int64)
    kept = kept_test_rows(day, customer, truth, train_day=_TRAIN_DAY)
    score = scores.reindex(transactions["TRANSACTION_ID"][kept]).to_numpy(np.float64)
    return {
        "kept": int(kept.sum()),
        "auc": auc(truth[kept], score),
        "ap": average_precision(truth[kept], score),
        "cp100": card_precision(day[kept], customer[kept], truth[kept], score),
    }


def main() -> int:
    """Run the whole replay for one or both model versions and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PENSTOCK_DATA", "data")))
    parser.add_argument("--models", nargs="+", default=["1", "2"])
    parser.add_argument("--first", type=date.fromisoformat, default=date(2018, 6, 18))
    parser.add_argument("--last", type=date.fromisoformat, default=date(2018, 8, 14))
    arguments = parser.parse_args()
    result: dict[str, Any] = {"first": str(arguments.first), "last": str(arguments.last), "models": {}}
    transactions = read_transactions(arguments.data, str(arguments.first), str(arguments.last))
    features = fraud_features(transactions).set_index(transactions["TRANSACTION_ID"].to_numpy())
    week = transactions[transactions["TX_DATETIME"] >= pd.Timestamp("2018-08-08")]["TRANSACTION_ID"]
    with real_services() as services:
        for version in arguments.models:
            run = replay(
                arguments.data,
                services.kafka_bootstrap,
                services.redis_url,
                first=arguments.first,
                last=arguments.last,
                model_version=version,
            )
            alerts = run.alerts.drop_duplicates("transaction").set_index("transaction")
            event_s = (arguments.last - arguments.first + timedelta(days=1)).total_seconds()
            stream = run.report["streams"]["fraud"]
            result["models"][version] = {
                "features_test_week": compare(alerts, features.loc[week]),
                "features_all": compare(alerts, features),
                "metrics": table_metrics(transactions, alerts["score"]),
                "events": stream["events"],
                "unaccounted": stream["unaccounted"],
                "duplicates": stream["duplicates"],
                "seconds": round(run.seconds, 1),
                "times_real_time": round(event_s / run.seconds),
                "worker_peak_mb": round(run.worker_peak_mb, 1),
                "worker_cpu_us_per_event": round(run.worker_cpu_us_per_event, 2),
            }
            print(json.dumps(result["models"][version], indent=2), flush=True)
    print(write_result("fraud-parity", result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
