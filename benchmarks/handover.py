"""What handing lanes over costs: latency while members come and go, and taking a lane of many entities."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.machine import write_result
from benchmarks.workers import RunningWorker, create_topics, start_worker, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from tests.pipeline.streams import alone, fill, transactions
from tests.services import kafka_address, redis_address

PARTITIONS = 6
PHASE_S = 12.0
BRIEF_SESSION = {"properties": {"session.timeout.ms": 6000}}


def main() -> int:
    """Measure both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rate", type=float, default=1000.0, help="events a second while members come and go"
    )
    parser.add_argument("--repetitions", type=int, default=3, help="of the members coming and going")
    parser.add_argument("--entities", type=int, default=1_000_000, help="rows of the lane that is taken")
    arguments = parser.parse_args()
    with kafka_address() as kafka, redis_address() as url:
        # A broker that has just started compiles itself, on one and a half cores, while it serves.
        scaling(kafka, url, arguments.rate, "classic")
        result = {
            "scaling": {
                protocol: [
                    scaling(kafka, url, arguments.rate, protocol) for _ in range(arguments.repetitions)
                ]
                for protocol in ("classic", "consumer")
            },
            "large_lane": large_lane(kafka, url, arguments.entities),
        }
    print(json.dumps(result, indent=2))
    print(write_result("handover", result))
    return 0


def scaling(kafka: str, url: str, rate: float, protocol: str) -> dict[str, Any]:
    """One member, then three, then two, under a steady load; latency of the lanes that did not move."""
    prefix = f"handover{time.time_ns()}."
    create_topics(kafka, topics_of(prefix, PARTITIONS))
    with tempfile.TemporaryDirectory() as name, _latencies(kafka, prefix) as seen:
        folder = Path(name)
        section = {"protocol": protocol, **(BRIEF_SESSION if protocol == "classic" else {})}
        file = alone(folder, prefix, kafka=section)
        workers = [_member(kafka, url, file, folder / "0.log")]
        workers[0].wait_until_ready()
        stop = threading.Event()
        load = threading.Thread(target=_load, args=(kafka, f"{prefix}transactions", rate, stop), daemon=True)
        load.start()
        phases = {}
        try:
            time.sleep(PHASE_S)
            begun_s = time.time()
            workers += [_member(kafka, url, file, folder / f"{n}.log") for n in (1, 2)]
            for worker in workers:
                worker.wait_until_ready()
            time.sleep(PHASE_S)
            phases["one to three"] = (begun_s, time.time())
            begun_s = time.time()
            workers.pop(1).stop()
            time.sleep(PHASE_S)
            phases["three to two"] = (begun_s, time.time())
        finally:
            stop.set()
            load.join()
            for worker in workers:
                worker.stop()
        time.sleep(2.0)
        moves = [move for log in sorted(folder.glob("*.log")) for move in _moves(log.read_text())]
        return {name: _phase(seen, moves, *bounds) for name, bounds in phases.items()}


def _member(kafka: str, url: str, file: Path, log: Path) -> RunningWorker:
    return start_worker(
        [file], log, {"PENSTOCK_KAFKA": kafka, "PENSTOCK_STORE": url, "PENSTOCK_DEVICE": "cpu"}
    )


def _moves(log: str) -> Iterator[tuple[float, int]]:
    """When which partition began to be read by a member."""
    for line in log.splitlines():
        if '"lane taken"' in line:
            said = json.loads(line)
            at = time.mktime(time.strptime(said["timestamp"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
            yield at, said["partition"]


def _phase(
    seen: list[tuple[float, int, float]], moves: list[tuple[float, int]], begun_s: float, ended_s: float
) -> dict[str, Any]:
    moved = {partition for at_s, partition in moves if begun_s - 1 <= at_s <= ended_s}
    here = [(p, ms) for at_s, p, ms in seen if begun_s <= at_s <= ended_s]
    stayed = np.array([ms for p, ms in here if p not in moved])
    other = np.array([ms for p, ms in here if p in moved])
    return {
        "lanes_that_stayed": PARTITIONS - len(moved),
        "stayed_p50_ms": _percentile(stayed, 50),
        "stayed_p99_ms": _percentile(stayed, 99),
        "stayed_max_ms": _percentile(stayed, 100),
        "moved_p99_ms": _percentile(other, 99),
        "scores": len(here),
    }


def _percentile(values: Any, q: float) -> float | None:
    return round(float(np.percentile(values, q)), 1) if len(values) else None


def _load(kafka: str, topic: str, rate: float, stop: threading.Event) -> None:
    keys, values = transactions(200_000, customers=2000)
    producer = Producer(
        {"bootstrap.servers": kafka, "partitioner": "murmur2_random", "linger.ms": 2, "log_level": 0}
    )
    begun_s, sent = time.monotonic(), 0
    while not stop.is_set() and sent < len(keys):
        due = int((time.monotonic() - begun_s) * rate)
        for i in range(sent, min(due, len(keys))):
            producer.produce(topic, values[i], keys[i])
        sent = max(sent, due)
        producer.poll(0.002)
    producer.flush(30)


@contextmanager
def _latencies(kafka: str, prefix: str) -> Iterator[list[tuple[float, int, float]]]:
    """Read scores as a user does: when each could be read, its source partition, and ms since its record."""
    seen: list[tuple[float, int, float]] = []
    stop = threading.Event()
    topic = f"{prefix}fraud.scores"
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": f"{prefix}reader", "fetch.wait.max.ms": 10, "log_level": 0}
    )
    consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    records = Consumer({"bootstrap.servers": kafka, "group.id": f"{prefix}input", "log_level": 0})
    records.assign([TopicPartition(f"{prefix}transactions", p, 0) for p in range(PARTITIONS)])
    codec = Codec(load_schema("score"), "single_object")
    sent_ms: dict[tuple[int, int], int] = {}

    def read() -> None:
        while not stop.is_set():
            for message in records.consume(5000, 0.0):
                if message.error() is None:
                    sent_ms[message.partition(), message.offset()] = message.timestamp()[1]
            got = [m.value() for m in consumer.consume(5000, 0.01) if m.error() is None]
            if not got:
                continue
            now_s = time.time()
            table = codec.decode(got).table
            partitions, offsets = table["source_partition"].to_pylist(), table["source_offset"].to_pylist()
            for place in zip(partitions, offsets, strict=True):
                if place in sent_ms:
                    seen.append((now_s, place[0], now_s * 1000 - sent_ms.pop(place)))

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    yield seen
    stop.set()
    reading.join()
    consumer.close()
    records.close()


def large_lane(kafka: str, url: str, entities: int) -> dict[str, Any]:
    """How long after being given a lane with so many rows in Redis a member scores the first event of it."""
    prefix = f"large{time.time_ns()}."
    create_topics(kafka, topics_of(prefix, 1))
    topic = f"{prefix}transactions"
    environment = {"PENSTOCK_KAFKA": kafka, "PENSTOCK_STORE": url, "PENSTOCK_DEVICE": "cpu"}
    with tempfile.TemporaryDirectory() as name:
        file = alone(Path(name), prefix)
        keys, values = transactions(1000, customers=200)
        fill(kafka, topic, keys, values)
        first = start_worker([file], Path(name) / "first.log", environment)
        first.wait_until_ready()
        time.sleep(5.0)
        first.stop()
        lane = f"ps:{{{prefix}fraud:{topic}:0}}:"
        with redis.Redis.from_url(url) as client:
            row = client.get(f"{lane}{keys[0].decode()}")
            for start in range(0, entities, 20_000):
                client.mset({f"{lane}E{i}": row for i in range(start, min(start + 20_000, entities))})
            stored = client.dbsize()
        fill(kafka, topic, keys, values)
        second = start_worker([file], Path(name) / "second.log", environment)
        second.wait_until_ready()
        time.sleep(3.0)
        second.stop()
        text = (Path(name) / "second.log").read_text()
        with redis.Redis.from_url(url) as client:
            for start in range(0, entities, 20_000):
                client.delete(*(f"{lane}E{i}" for i in range(start, min(start + 20_000, entities))))
    at = {event: _stamp(text, event) for event in ("pipeline starts", "lane taken")}
    taken_s = at["lane taken"] - at["pipeline starts"]  # joining the group included
    return {"rows_in_redis": stored, "from_joining_to_lane_taken_s": round(taken_s, 3)}


def _stamp(log: str, event: str) -> float:
    (line, *_) = [line for line in log.splitlines() if f'"{event}"' in line]
    found = re.search(r'"timestamp": ?"[^T]+T(\d+):(\d+):([\d.]+)Z"', line)
    assert found is not None
    hours, minutes, seconds = found.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


if __name__ == "__main__":
    sys.exit(main())
