"""Versions swapped under traffic: no score missing, no batch of two versions, latency, memory."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from numpy.typing import NDArray

from benchmarks.machine import write_result
from benchmarks.workers import REPOSITORY, RunningWorker, create_topics, start_worker, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from tests.pipeline.streams import alone, transactions
from tests.services import kafka_address
from worker.control import ControlLog, ControlWriter, next_change

PARTITIONS = 6
FIRST_S = 30.0  # not looked at: a new broker compiles itself meanwhile
EVERY_S = 8.0  # a swap
BEFORE_S = 5.0  # each swap: before
AROUND_S = 2.0  # and during
WITHIN_S = 30.0
BEGIN = "2"  # the version of the pipeline file
MANY = (10, 100)  # swaps after which memory is compared


def main() -> int:
    """Run it and write the result; the exit code is 3 when a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=20_000.0, help="events a second")
    parser.add_argument("--swaps", type=int, default=5, help="to versions that were never loaded before")
    parser.add_argument("--result", default="swap", help="name of the result file; empty: write none")
    arguments = parser.parse_args()
    with kafka_address() as kafka, tempfile.TemporaryDirectory() as folder:
        result = swap(kafka, Path(folder), arguments.rate, arguments.swaps)
    print(json.dumps(result, indent=2))
    if arguments.result:
        print(write_result(arguments.result, result))
    return 0 if result["missing"] == result["doubled"] == result["mixed_batches"] == 0 else 3


def swap(kafka: str, folder: Path, rate: float, swaps: int) -> dict[str, Any]:
    """One worker, steady traffic, some swaps in it, then a hundred without traffic to wait for."""
    prefix = f"swap{time.time_ns()}."
    create_topics(kafka, topics_of(prefix, PARTITIONS))
    control = f"{prefix}control"
    new = [str(number) for number in range(11, 11 + swaps)]
    file = alone(
        folder,
        prefix,
        kafka={"bootstrap": kafka},
        state={"store": "memory://"},
        delivery={"mode": "at_least_once"},
        model={"repository": str(_repository(folder / "models", new))},
        decision={"severities": {"warning": 0.995, "critical": 0.999}},  # of made-up events: few alerts
        rollout={"control": control},
    )
    name = yaml.safe_load(file.read_text())["name"]
    worker = start_worker([file], folder / "worker.log", {"PENSTOCK_DEVICE": "cpu"})
    try:
        worker.wait_until_ready()
        properties = {"bootstrap.servers": kafka}
        log, writer = ControlLog(properties, control), ControlWriter(properties, control)
        records = transactions(int(rate * (FIRST_S + EVERY_S * swaps)), customers=20_000)
        sending = threading.Thread(target=_send, args=(kafka, f"{prefix}transactions", records, rate))
        sending.start()
        time.sleep(FIRST_S)
        promoted_ms, took_s = [], []
        for version in new:
            promoted_ms.append(time.time() * 1000)
            _change(log, writer, name, "promote", version=version)
            took_s.append(round(time.time() - promoted_ms[-1] / 1000, 2))
            time.sleep(max(0.0, promoted_ms[-1] / 1000 + EVERY_S - time.time()))
        sending.join()
        worker.wait_until_applied(len(records[0]))
        found = _scores(kafka, f"{prefix}fraud.scores", len(records[0]))
        back_s = time.monotonic()
        _change(log, writer, name, "rollback")
        back_s = time.monotonic() - back_s
        memory_mb = _many_swaps(log, writer, name, worker)
        log.close()
    finally:
        worker.stop(30.0)
    return {
        "rate": rate,
        "swap_took_s": took_s,
        "rollback_took_s": round(back_s, 2),
        **_judged(found, len(records[0]), promoted_ms),
        "memory_mb_after_swaps": memory_mb,
    }


def _repository(folder: Path, new: list[str]) -> Path:
    """The shipped versions, and copies of them under new numbers, each a file that was never loaded."""
    for number, version in enumerate(["1", "2", *new]):
        of = "12"[number % 2]
        copy = folder / "fraud" / version
        shutil.copytree(REPOSITORY / "models" / "fraud" / of, copy)
        card = copy / "model.yaml"
        card.write_text(card.read_text().replace(f"version: '{of}'", f"version: '{version}'", 1))
    return folder


def _send(kafka: str, topic: str, records: tuple[list[bytes], list[bytes]], rate: float) -> None:
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "linger.ms": 2})
    keys, values = records
    begun_s, sent = time.monotonic(), 0
    while sent < len(keys):
        due = min(int((time.monotonic() - begun_s) * rate), len(keys))
        for i in range(sent, due):
            producer.produce(topic, values[i], keys[i])
        sent = due
        producer.poll(0.002)
    producer.flush(30)


def _change(log: ControlLog, writer: ControlWriter, pipeline: str, action: str, **new: str) -> None:
    """Until the worker says that it has taken the change up."""
    change = next_change(log.read_to_end(), pipeline, BEGIN, action, by="benchmark", why="", **new)
    writer.change(change)
    give_up_s = time.monotonic() + WITHIN_S
    while time.monotonic() < give_up_s:
        log.poll(0.05)
        if any(status.revision >= change.revision for status in log.decided.statuses.values()):
            return
    raise RuntimeError(f"{action}: not taken up after {WITHIN_S:g} s")


def _many_swaps(
    log: ControlLog, writer: ControlWriter, pipeline: str, worker: RunningWorker
) -> dict[str, float]:
    """Resident memory after some swaps, and after many."""
    found = {}
    for number in range(1, MANY[-1] + 1):
        _change(log, writer, pipeline, "promote", version="21"[number % 2])
        if number in MANY:
            status = Path(f"/proc/{worker.process.pid}/status").read_text()
            resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
            found[str(number)] = round(int(resident.split()[1]) / 1024, 1)
    return found


def _scores(kafka: str, topic: str, count: int) -> dict[str, NDArray[Any]]:
    """What is on the scores topic, as columns, with the time at which each event was sent."""
    codec = Codec(load_schema("score"), "single_object")
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "swap", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    rows: list[dict[str, Any]] = []
    ends = 0
    while ends < PARTITIONS:
        messages = consumer.consume(2000, 1.0)
        ends += sum(m.error() is not None and m.error().code() == KafkaError._PARTITION_EOF for m in messages)
        values = [m.value() for m in messages if m.error() is None]
        if values:
            rows += codec.decode(values).table.to_pylist()
    consumer.close()
    sent_ms = _sent_ms(kafka, topic.replace("fraud.scores", "transactions"))
    place = [(row["source_partition"], row["source_offset"]) for row in rows]
    return {
        "place": np.array([p * 1_000_000_000 + offset for p, offset in place]),
        "version": np.array([row["model_version"] for row in rows]),
        "scored_ms": np.array([row["scored_at"].timestamp() * 1000 for row in rows]),
        "sent_ms": np.array([sent_ms[each] for each in place]),
        "expected": np.array([count]),
    }


def _sent_ms(kafka: str, topic: str) -> dict[tuple[int, int], int]:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "swap-in", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    found: dict[tuple[int, int], int] = {}
    ends = 0
    while ends < PARTITIONS:
        for message in consumer.consume(2000, 1.0):
            if message.error() is None:
                found[message.partition(), message.offset()] = message.timestamp()[1]
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ends += 1
    consumer.close()
    return found


def _judged(found: dict[str, NDArray[Any]], count: int, promoted_ms: list[float]) -> dict[str, Any]:
    wait_ms, sent_ms = found["scored_ms"] - found["sent_ms"], found["sent_ms"]

    def p99(from_ms: float, until_ms: float) -> float:
        return round(float(np.percentile(wait_ms[(sent_ms >= from_ms) & (sent_ms < until_ms)], 99)), 1)

    versions_of_batch: dict[float, set[str]] = {}
    for scored_ms, version in zip(found["scored_ms"].tolist(), found["version"].tolist(), strict=True):
        versions_of_batch.setdefault(scored_ms, set()).add(version)
    distinct = len(np.unique(found["place"]))
    before = [p99(at_ms - BEFORE_S * 1000, at_ms) for at_ms in promoted_ms]
    during = [p99(at_ms, at_ms + AROUND_S * 1000) for at_ms in promoted_ms]
    return {
        "events": count,
        "missing": count - distinct,
        "doubled": len(found["place"]) - distinct,
        "mixed_batches": sum(len(versions) > 1 for versions in versions_of_batch.values()),
        "versions": dict(sorted(Counter(found["version"].tolist()).items())),
        "p99_ms": {"before": before, "during": during},
        "p99_ratio": round(float(np.median(np.array(during) / np.array(before))), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
