"""Scores over HTTP beside a stream: an open loop of requests, timed from when each was due."""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer
from numpy.typing import NDArray

from benchmarks.machine import write_result
from benchmarks.workers import RunningWorker, create_topics, start_worker, topics_of
from tests.pipeline.streams import START_MS, alone, transactions
from tests.services import kafka_address, redis_address

PARTITIONS = 6
CUSTOMERS = 20_000
CONNECTIONS = 64  # a request that is due while none is free waits for one, and that counts
WARM_S = 20.0  # of the stream, not looked at: a fresh broker's first seconds are its compiler's
STARTS_WITHIN_S = 60.0
ANSWER_S = 30.0
_QUANTILES = {"p50": 50, "p99": 99, "p99.9": 99.9, "max": 100}


def main() -> int:
    """Run it and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=float, default=500.0, help="requests a second")
    parser.add_argument("--rate", type=float, default=5_000.0, help="events a second in the stream")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each of the two runs")
    parser.add_argument("--result", default="http", help="name of the result file; empty: write none")
    arguments = parser.parse_args()
    with kafka_address() as kafka, redis_address() as redis, tempfile.TemporaryDirectory() as folder:
        env = {"PENSTOCK_KAFKA": kafka, "PENSTOCK_STORE": redis, "PENSTOCK_DEVICE": "cpu"}
        quiet, asked = (
            beside(kafka, env, Path(folder), arguments.rate, each, arguments.seconds)
            for each in (0.0, arguments.requests)
        )
    result = {
        "stream_events_per_s": arguments.rate,
        "requests_per_s": arguments.requests,
        "seconds": arguments.seconds,
        "http": asked.pop("http"),
        "stream_beside_http": asked,
        "stream_alone": quiet,
    }
    print(json.dumps(result, indent=2))
    if arguments.result:
        print(write_result(arguments.result, result))
    return 0


def beside(
    kafka: str, env: dict[str, str], folder: Path, rate: float, requests_per_s: float, seconds: float
) -> dict[str, Any]:
    """One worker, a steady stream from another process, and requests, if any, from this one."""
    prefix = f"http{time.time_ns()}."
    create_topics(kafka, topics_of(prefix, PARTITIONS))
    home = folder / prefix
    home.mkdir()
    file = alone(
        home,
        prefix,
        delivery={"mode": "exactly_once"},
        decision={"severities": {"warning": 0.995, "critical": 0.999}},  # of made-up events: few alerts
        http={"port": 0, "timeout": f"{ANSWER_S:g}s"},
    )
    worker = start_worker([file], home / "worker.log", env)
    sender = multiprocessing.get_context("spawn").Process(
        target=_send, args=(kafka, f"{prefix}transactions", rate, seconds + 2 * WARM_S)
    )
    try:
        worker.wait_until_ready()
        sender.start()
        _wait_until_warm(worker, rate * WARM_S)
        if requests_per_s:
            asyncio.run(_ask(http_port(worker), requests_per_s, WARM_S / 4))
        before, cpu_s, stolen_s, began_s = worker.metrics(), worker.cpu_s(), _stolen_s(), time.monotonic()
        found: dict[str, Any] = {}
        if requests_per_s:
            found["http"] = asyncio.run(_ask(http_port(worker), requests_per_s, seconds))
        time.sleep(max(0.0, began_s + seconds - time.monotonic()))
        took_s = time.monotonic() - began_s
        found |= _stream(before, worker.metrics(), took_s)
        found["worker_cpu_share"] = round((worker.cpu_s() - cpu_s) / took_s, 3)
        found["load_average"] = round(os.getloadavg()[0], 1)
        found["stolen_share"] = round((_stolen_s() - stolen_s) / took_s / (os.cpu_count() or 1), 3)
        return found
    finally:
        sender.terminate()
        sender.join()
        worker.stop(30.0)


def _wait_until_warm(worker: RunningWorker, scores: float) -> None:
    give_up_s = time.monotonic() + STARTS_WITHIN_S
    while _scored(worker.metrics()) < scores:
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"{scores:.0f} scores did not come within {STARTS_WITHIN_S:g} s")
        time.sleep(0.2)


def _scored(page: str) -> float:
    return sum(map(float, re.findall(r"event_to_score_seconds_count{[^}]*} (\S+)", page)))


def http_port(worker: RunningWorker) -> int:
    """Where its scores over HTTP are; of the first pipeline that has them."""
    at = re.search(r'"at": ?"http://[^"]*:(\d+)"', worker.log.read_text())
    assert at is not None
    return int(at[1])


def _send(kafka: str, topic: str, rate: float, seconds: float) -> None:
    keys, values = transactions(int(rate * seconds), seed=7, customers=CUSTOMERS)
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "linger.ms": 2})
    begun_s, sent = time.monotonic(), 0
    while sent < len(keys):
        due = min(int((time.monotonic() - begun_s) * rate), len(keys))
        for i in range(sent, due):
            producer.produce(topic, values[i], keys[i])
        sent = due
        producer.poll(0.005)
    producer.flush(30)


class _Caller(asyncio.Protocol):
    """One connection, kept open, with little work a request: the caller is not what is measured."""

    def __init__(self, answered: Callable[[_Caller, bytes], None]) -> None:
        self._answered = answered
        self._heard = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, request: bytes) -> None:
        """Ask; nothing else is under way here."""
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        end = self._heard.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._heard[:end]).lower()
        size = int(head[head.index(b"content-length:") + 15 :].partition(b"\r\n")[0])
        if len(self._heard) >= end + 4 + size:
            self._heard.clear()
            self._answered(self, head)

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


async def _ask(port: int, per_s: float, seconds: float) -> dict[str, Any]:
    """Requests at random moments, each sent when it is due, however late others are answered."""
    rng = np.random.default_rng(3)
    due_s = np.cumsum(rng.exponential(1 / per_s, int(per_s * seconds)))
    customers = rng.integers(0, CUSTOMERS, len(due_s)).tolist()
    requests = [_request(number, customer) for number, customer in enumerate(customers)]
    took_ms = np.full(len(due_s), np.nan)
    statuses: Counter[str] = Counter()
    loop, is_done = asyncio.get_running_loop(), asyncio.Event()
    asked: dict[_Caller, int] = {}
    waiting: deque[int] = deque()  # due, and no connection is free
    most = 0

    def answered(caller: _Caller, head: bytes) -> None:
        number = asked.pop(caller)
        took_ms[number] = (loop.time() - begun_s - due_s[number]) * 1000
        statuses[head[9:12].decode()] += 1
        if statuses.total() == len(due_s):
            is_done.set()
        if waiting:
            ask(caller, waiting.popleft())
        else:
            free.append(caller)

    def ask(caller: _Caller, number: int) -> None:
        asked[caller] = number
        caller.send(requests[number])

    async def connect(number: int) -> None:
        _, caller = await loop.create_connection(lambda: _Caller(answered), "127.0.0.1", port)
        callers.append(caller)
        ask(caller, number)

    free: list[_Caller] = []
    callers: list[_Caller] = []
    connecting: set[asyncio.Task[None]] = set()
    begun_s, cpu_s = loop.time(), time.process_time()
    for number, due in enumerate(due_s.tolist()):
        wait_s = begun_s + due - loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        most = max(most, len(asked) + len(waiting) + 1)
        if free:
            ask(free.pop(), number)
        elif len(connecting) < CONNECTIONS:  # opened when needed: an idle one is closed by the server
            connecting.add(loop.create_task(connect(number)))
        else:
            waiting.append(number)
    with suppress(TimeoutError):
        await asyncio.wait_for(is_done.wait(), ANSWER_S)
    took_s = loop.time() - begun_s
    for caller in callers:
        caller.close()
    return {
        "requests": len(due_s),
        "answers": dict(statuses),
        "per_s": round(len(due_s) / took_s, 1),
        "most_at_a_time": most,
        "caller_cpu_share": round((time.process_time() - cpu_s) / took_s, 3),
        "ms": _quantiles(took_ms),
    }


def _request(number: int, customer: int) -> bytes:
    event = {
        "transaction_id": f"asked-{number}",
        "event_time": START_MS + 41 * 86_400_000 + number,
        "customer_id": f"C{customer}",
        "terminal_id": "T1",
        "amount": 50.0,
    }
    body = json.dumps(event).encode()
    head = f"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _quantiles(took_ms: NDArray[np.float64]) -> dict[str, float]:
    answered = took_ms[np.isfinite(took_ms)]
    return {name: round(float(np.percentile(answered, q)), 2) for name, q in _QUANTILES.items()}


def _stream(before: str, after: str, took_s: float) -> dict[str, Any]:
    """What the worker did between two looks at its metrics."""

    def buckets(page: str) -> dict[float, float]:
        found = re.findall(r'event_to_score_seconds_bucket{le="([^"]+)"[^}]*} (\S+)', page)
        return {float(bound): float(count) for bound, count in found}

    first, last = buckets(before), buckets(after)
    counts = {bound: last[bound] - first.get(bound, 0.0) for bound in last}
    total = counts[float("inf")]

    def within_ms(share: float) -> float:
        return 1000 * next(bound for bound, count in sorted(counts.items()) if count >= share * total)

    return {
        "scores_per_s": round(total / took_s),
        "event_to_score_at_most_ms": {name: within_ms(q / 100) for name, q in _QUANTILES.items() if q < 100},
    }


def _stolen_s() -> float:
    """CPU seconds that the machine under this one gave to others."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    raise SystemExit(main())
