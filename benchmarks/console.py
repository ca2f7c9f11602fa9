"""A worker under load with the console open and without, in turns; and the memory of an open page."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from benchmarks.machine import write_result
from benchmarks.workers import RunningWorker, create_topics, start_worker, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table
from tests.pipeline.streams import START_MS, alone
from tests.services import kafka_address
from tests.services.browser import Browser, start_browser

PARTITIONS = 6
CUSTOMERS = 2_000  # whose histories are full after a minute: a batch costs the same from then on
WARM_S = 90.0
SETTLE_S = 35.0  # the console goes on for 30 s after the last look
IDLE_SETTLE_S = 10.0
MEASURE_S = 20.0
SAMPLE_S = 10.0
VIEWS = ("overview", "alerts")


def main() -> int:
    """Run it and write the results; the exit code is 3 when the console costs more than 3 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=20_000, help="events a second")
    parser.add_argument(
        "--turns", type=float, default=12.0, help="minutes with the page open and closed in turns; 0: none"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="with one page open; 0: none")
    parser.add_argument("--result", default="console", help="begins the names of files; empty: none")
    arguments = parser.parse_args()
    with kafka_address() as kafka, tempfile.TemporaryDirectory() as folder, start_browser() as browser:
        results = measure(kafka, Path(folder), browser, arguments)
    for part, result in results.items():
        print(json.dumps(result, indent=2))
        if arguments.result:
            print(write_result(f"{arguments.result}-{part}", result))
    return 0 if results.get("turns", {"open_costs_percent": 0})["open_costs_percent"] <= 3 else 3


def measure(
    kafka: str, folder: Path, browser: Browser, arguments: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """One worker at a steady rate: first with the page opened and left in turns, then with it open."""
    prefix = f"console{time.time_ns()}."
    create_topics(kafka, topics_of(prefix, PARTITIONS))
    file = alone(
        folder,
        prefix,
        kafka={"bootstrap": kafka},
        state={"store": "memory://"},
        delivery={"mode": "at_least_once"},
        decision={"severities": {"warning": 0.99, "critical": 0.999}},
        console={"topic": f"{prefix}console"},
    )
    worker = start_worker([file], folder / "worker.log", {"PENSTOCK_DEVICE": "cpu"})
    stop = threading.Event()
    sending = threading.Thread(target=_send, args=(kafka, f"{prefix}transactions", arguments.rate, stop))
    results: dict[str, dict[str, Any]] = {}
    try:
        worker.wait_until_ready()
        idle = _idle(worker, browser) if arguments.turns else {}
        sending.start()
        time.sleep(WARM_S)
        if arguments.turns:
            turns = _alternate(worker, browser, arguments.turns * 60)
            results["turns"] = {"rate": arguments.rate, "idle_cpu_ms_a_second": idle, **_compared(turns)}
        if arguments.minutes:
            samples = _stay(worker, browser, arguments.minutes * 60)
            results["page"] = {"rate": arguments.rate, "minutes": arguments.minutes, **samples}
    finally:
        stop.set()
        if sending.is_alive():
            sending.join()
        worker.stop(60.0)
    return results


def _compared(turns: list[dict[str, Any]]) -> dict[str, Any]:
    us = {state: [turn["cpu_us"] for turn in turns if turn["state"] == state] for state in ("open", "closed")}
    # Neighbours in time are compared, so that what else the machine does weighs on both.
    pairs = [100 * (o / c - 1) for o, c in zip(us["open"], us["closed"], strict=True)]
    return {
        "turns": turns,
        "cpu_us_an_event": {state: round(statistics.median(values), 3) for state, values in us.items()},
        "open_costs_percent": round(statistics.median(pairs), 2),
        "open_costs_percent_of_pairs": [round(pair, 2) for pair in pairs],
    }


def _idle(worker: RunningWorker, browser: Browser) -> dict[str, float]:
    """CPU of a worker that has nothing to do: what the page asks for does not depend on the events."""
    found = {}
    for state, url in (("closed", "about:blank"), ("open", f"{worker.address()}/")):
        browser.open(url)
        time.sleep(IDLE_SETTLE_S)
        cpu_s = worker.cpu_s()
        time.sleep(MEASURE_S)
        found[state] = round((worker.cpu_s() - cpu_s) / MEASURE_S * 1000, 2)
    print(found, flush=True)
    return found


def _alternate(worker: RunningWorker, browser: Browser, seconds: float) -> list[dict[str, Any]]:
    """Turns of equal length; a turn is measured after what was before it has settled."""
    turns: list[dict[str, Any]] = []
    give_up_s = time.monotonic() + seconds
    while len(turns) < 2 or len(turns) % 2 or time.monotonic() < give_up_s:
        # Open first, then closed, then closed, then open: a drift of the machine cancels out.
        state = ("open", "closed", "closed", "open")[len(turns) % 4]
        browser.open(f"{worker.address()}/" if state == "open" else "about:blank")
        time.sleep(SETTLE_S)
        events, cpu_s = _events(worker), worker.cpu_s()
        time.sleep(MEASURE_S)
        done, used_s = _events(worker) - events, worker.cpu_s() - cpu_s
        turns.append(
            {
                "state": state,
                "events_per_s": round(done / MEASURE_S),
                "cpu_ms_a_second": round(used_s / MEASURE_S * 1000, 1),
                "cpu_us": round(used_s / done * 1e6, 3),
            }
        )
        print(turns[-1], flush=True)
    return turns


def _stay(worker: RunningWorker, browser: Browser, seconds: float) -> dict[str, Any]:
    """One page that stays open, half of the time on each view: its memory after collecting garbage."""
    samples: list[dict[str, Any]] = []
    browser.open("about:blank")
    time.sleep(1.0)
    browser.open(f"{worker.address()}/")
    browser.wait("document.querySelector('#live')?.textContent === 'live'", 60)
    for view in VIEWS:
        browser.get(f"location.hash = '#/{view}'")
        give_up_s = time.monotonic() + seconds / len(VIEWS)
        while time.monotonic() < give_up_s:
            time.sleep(SAMPLE_S)
            samples.append(
                {
                    "view": view,
                    "heap_mb": round(browser.heap_mb(), 2),
                    "nodes": browser.nodes(),
                    "rows": browser.get("document.querySelectorAll('details').length"),
                }
            )
    return {"samples": samples}


def _events(worker: RunningWorker) -> float:
    lines = worker.metrics().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("penstock_events_total{"))


def _send(kafka: str, topic: str, rate: int, stop: threading.Event) -> None:
    """Transactions whose event time goes on with the clock, a tenth of a second at a time."""
    codec = Codec(load_schema("transaction"), "single_object")
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "linger.ms": 5})
    rng, begun_s, sent = np.random.default_rng(1), time.monotonic(), 0
    while not stop.is_set():
        count = int((time.monotonic() - begun_s) * rate) - sent
        if count < rate // 10:
            producer.poll(0.01)
            continue
        customers = [f"C{i}" for i in rng.integers(0, CUSTOMERS, count).tolist()]
        columns = {
            "transaction_id": [str(sent + i) for i in range(count)],
            "event_time": START_MS + (sent + np.arange(count)) * 1000 // rate,
            "customer_id": customers,
            "terminal_id": [f"T{i}" for i in rng.integers(0, 10_000, count).tolist()],
            "amount": np.round(rng.gamma(2.0, 40.0, count), 2),
        }
        values = codec.encode(to_table(load_schema("transaction"), columns))
        for key, value in zip(customers, values, strict=True):
            while True:
                try:
                    producer.produce(topic, value, key)
                    break
                except BufferError:  # too slow for the rate: the result says how fast it was
                    producer.poll(0.1)
        producer.poll(0)
        sent += count
    producer.flush(30)


if __name__ == "__main__":
    sys.exit(main())
