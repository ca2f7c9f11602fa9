"""Ten times the traffic for a minute: memory, how long the backlog lasts, whether all is accounted for."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from benchmarks.machine import write_result
from benchmarks.workers import RunningWorker, create_topics, start_worker, topics_of
from tests.pipeline.streams import Reader, alone, transactions
from tests.services import kafka_address, redis_address

PARTITIONS = 6
QUIET_S = 20.0


def main() -> int:
    """Run it and write the result; the exit code is 3 when a record has no outcome or two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=500.0, help="events a second before and after")
    parser.add_argument("--times", type=float, default=10.0, help="how many times as many in the spike")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the spike lasts")
    arguments = parser.parse_args()
    with kafka_address() as kafka, redis_address() as url:
        result = spike(kafka, url, arguments.rate, arguments.times, arguments.seconds)
    print(json.dumps(result, indent=2))
    print(write_result("spike", result))
    return 0 if result["lost"] == result["doubled"] == 0 else 3


def spike(kafka: str, url: str, rate: float, times: float, seconds: float) -> dict[str, Any]:
    """Steady traffic, a spike, steady traffic; one worker."""
    prefix = f"spike{time.time_ns()}."
    create_topics(kafka, topics_of(prefix, PARTITIONS))
    plan = [(QUIET_S, rate), (seconds, rate * times), (QUIET_S, rate)]
    keys, values = transactions(int(sum(s * r for s, r in plan)), customers=20_000)
    with tempfile.TemporaryDirectory() as name:
        file = alone(Path(name), prefix)
        environment = {"PENSTOCK_KAFKA": kafka, "PENSTOCK_STORE": url, "PENSTOCK_DEVICE": "cpu"}
        worker = start_worker([file], Path(name) / "worker.log", environment)
        reader = Reader(kafka, prefix)
        try:
            worker.wait_until_ready()
            return _measure(kafka, f"{prefix}transactions", (keys, values), plan, worker, reader)
        finally:
            reader.close()
            worker.stop()


def _measure(
    kafka: str,
    topic: str,
    records: tuple[list[bytes], list[bytes]],
    plan: list[tuple[float, float]],
    worker: RunningWorker,
    reader: Reader,
) -> dict[str, Any]:
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
                    producer.produce(topic, values[i], keys[i])
                sent[0] = due
                producer.poll(0.005)
            memory_mb.append(worker.memory_mb())
        producer.flush(30)

    sending = threading.Thread(target=send)
    begun_s = time.monotonic()
    sending.start()
    behind_at_most, caught_up_s = 0, 0.0
    spike_ends_s = plan[0][0] + plan[1][0]
    while sending.is_alive():
        reader.read(0.1)
        behind = sent[0] - len(reader.outcomes.times_seen)
        behind_at_most = max(behind_at_most, behind)
        passed_s = time.monotonic() - begun_s
        if passed_s > spike_ends_s and not caught_up_s and behind < plan[2][1]:
            caught_up_s = passed_s - spike_ends_s
    sending.join()
    found = reader.read_all(sent[0], timeout_s=120.0)
    return {
        "events": sent[0],
        "rates": [rate for _, rate in plan],
        "seconds": [seconds for seconds, _ in plan],
        "lost": sent[0] - len(found.times_seen),
        "doubled": len(found.doubled),
        "behind_at_most": behind_at_most,
        "caught_up_s_after_the_spike": round(caught_up_s, 1),
        "peak_memory_mb": dict(zip(("before", "in the spike", "after"), map(round, memory_mb), strict=True)),
    }


if __name__ == "__main__":
    sys.exit(main())
