"""Ten times the traffic for a while: memory, how long the backlog lasts, latency, one outcome for all."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from numpy.typing import NDArray

from benchmarks.machine import write_result
from benchmarks.workers import RunningWorker, create_topics, start_worker, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from tests.pipeline.streams import alone, transactions
from tests.services import kafka_address, redis_address

PARTITIONS = 6
QUIET_S = 20.0
WARM_S = 5.0  # of the quiet before, not looked at
GIVE_UP_S = 180.0
AS_SHIPPED = {"severities": {"warning": 0.5, "critical": 0.9}}


def main() -> int:
    """Run it and write the result; the exit code is 3 when a record has no outcome or two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=500.0, help="events a second before and after")
    parser.add_argument("--times", type=float, default=10.0, help="how many times as many in the spike")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the spike lasts")
    parser.add_argument("--delivery", default="exactly_once", choices=["exactly_once", "at_least_once"])
    parser.add_argument("--result", default="spike", help="name of the result file; empty: write none")
    arguments = parser.parse_args()
    with kafka_address() as kafka, redis_address() as url:
        result = spike(
            kafka, url, arguments.rate, arguments.times, arguments.seconds, delivery=arguments.delivery
        )
    print(json.dumps(result, indent=2))
    if arguments.result:
        print(write_result(arguments.result, result))
    return 0 if result["lost"] == result["doubled"] == 0 else 3


def spike(
    kafka: str, url: str, rate: float, times: float, seconds: float, *, delivery: str
) -> dict[str, Any]:
    """Steady traffic, a spike, steady traffic; one worker."""
    prefix = f"spike{time.time_ns()}."
    create_topics(kafka, topics_of(prefix, PARTITIONS))
    plan = [(QUIET_S, rate), (seconds, rate * times), (QUIET_S + seconds, rate)]
    records = transactions(int(sum(s * r for s, r in plan)), customers=20_000)
    with tempfile.TemporaryDirectory() as name:
        file = alone(Path(name), prefix, delivery={"mode": delivery}, decision=AS_SHIPPED)
        environment = {"PENSTOCK_KAFKA": kafka, "PENSTOCK_STORE": url, "PENSTOCK_DEVICE": "cpu"}
        worker = start_worker([file], Path(name) / "worker.log", environment)
        try:
            worker.wait_until_ready()
            found = _measure(kafka, prefix, records, plan, worker)
        finally:
            worker.stop(30.0)
    return {
        "delivery": delivery,
        "rates": [rate for _, rate in plan],
        "seconds": [seconds for seconds, _ in plan],
        **found,
        **_judged(kafka, prefix, found["events"], plan),
    }


def _measure(
    kafka: str,
    prefix: str,
    records: tuple[list[bytes], list[bytes]],
    plan: list[tuple[float, float]],
    worker: RunningWorker,
) -> dict[str, Any]:
    """Send as planned, and watch the worker's memory and how far it is behind."""
    memory_mb: list[float] = []
    sent = [0]

    def send() -> None:
        producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "linger.ms": 2})
        keys, values = records
        for seconds, rate in plan:
            begun_s, first = time.monotonic(), sent[0]
            while (passed_s := time.monotonic() - begun_s) < seconds:
                due = min(first + int(passed_s * rate), len(keys))
                for i in range(sent[0], due):
                    producer.produce(f"{prefix}transactions", values[i], keys[i])
                sent[0] = due
                producer.poll(0.005)
            memory_mb.append(worker.memory_mb())
        producer.flush(30)

    sending, begun_s = threading.Thread(target=send), time.monotonic()
    sending.start()
    group = Consumer({"bootstrap.servers": kafka, "group.id": f"{prefix}fraud"})
    places = [TopicPartition(f"{prefix}transactions", p) for p in range(PARTITIONS)]
    spike_ends_s = plan[0][0] + plan[1][0]
    behind_at_most, caught_up_s, behind = 0, 0.0, 1
    while sending.is_alive() or behind:
        if time.monotonic() - begun_s > sum(s for s, _ in plan) + GIVE_UP_S:
            raise RuntimeError(f"still {behind} records behind:\n{worker.tail()}")
        time.sleep(0.1)
        so_far = sent[0]
        behind = so_far - sum(max(tp.offset, 0) for tp in group.committed(places, timeout=30))
        behind_at_most = max(behind_at_most, behind)
        passed_s = time.monotonic() - begun_s
        # As far behind as with a second of quiet traffic: what a commit interval and a batch take.
        if passed_s > spike_ends_s and not caught_up_s and behind < plan[2][1]:
            caught_up_s = passed_s - spike_ends_s
    group.close()
    return {
        "events": sent[0],
        "behind_at_most": behind_at_most,
        "caught_up_s_after_the_spike": round(caught_up_s, 1),
        "peak_memory_mb": dict(zip(("before", "in the spike", "after"), map(round, memory_mb), strict=True)),
    }


def _judged(kafka: str, prefix: str, events: int, plan: list[tuple[float, float]]) -> dict[str, Any]:
    """What became of every record, and how long it took until its score was handed to Kafka."""
    produced_ms = {
        (message.partition(), message.offset()): message.timestamp()[1]
        for part in _whole_topic(kafka, f"{prefix}transactions")
        for message in part
    }
    codec, places, scored_ms = Codec(load_schema("score"), "single_object"), [], []
    for part in _whole_topic(kafka, f"{prefix}fraud.scores"):
        table = codec.decode([message.value() for message in part]).table
        columns = (table.column(f"source_{name}").to_pylist() for name in ("partition", "offset"))
        places += list(zip(*columns, strict=True))
        scored_ms += [message.timestamp()[1] for message in part]
    at_ms = np.array([produced_ms[place] for place in places])
    took_ms = np.array(scored_ms) - at_ms
    since_s = (at_ms - min(produced_ms.values())) / 1000
    ends_s = np.cumsum([seconds for seconds, _ in plan])
    return {
        "lost": events - len(set(places)),
        "doubled": len(places) - len(set(places)),
        "p99_ms": {
            "before": _p99(took_ms[(since_s > WARM_S) & (since_s < ends_s[0])]),
            "in the spike": _p99(took_ms[(since_s >= ends_s[0]) & (since_s < ends_s[1])]),
            "the last ten seconds": _p99(took_ms[since_s > ends_s[2] - 10]),
        },
    }


def _p99(took_ms: NDArray[np.int64]) -> float:
    return round(float(np.quantile(took_ms, 0.99)), 1)


def _whole_topic(kafka: str, topic: str) -> Iterator[list[Any]]:
    """Every record of a topic that counts, some at a time."""
    reader = Consumer(
        {"bootstrap.servers": kafka, "group.id": f"{topic}.whole", "enable.partition.eof": True}
    )
    reader.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    open_partitions, give_up_s = set(range(PARTITIONS)), time.monotonic() + GIVE_UP_S
    while open_partitions:
        if time.monotonic() > give_up_s:
            raise RuntimeError(f"{topic} could not be read to its end")
        messages = reader.consume(10_000, 0.5)
        ended = {
            m.partition() for m in messages if m.error() and m.error().code() == KafkaError._PARTITION_EOF
        }
        open_partitions -= ended
        if records := [m for m in messages if m.error() is None]:
            yield records
    reader.close()


if __name__ == "__main__":
    sys.exit(main())
