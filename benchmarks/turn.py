"""What a turn of the loop costs its thread where traffic is thin: the peers' job on small batches."""

from __future__ import annotations

import argparse
import gc
import json
import os
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
from prometheus_client import CollectorRegistry

from benchmarks.bench import AT_LEAST_ONCE, HERE, NO_WINDOW
from benchmarks.jobs import peers_job, registry
from benchmarks.machine import write_result
from loadgen.bus import embedded_bus
from schemas.codec import Codec
from schemas.registry import Registry, RegistrySettings
from schemas.schema import load_schema
from schemas.spans import spans_of
from tests.services import redis_address
from worker.assemble import assemble, store_opener
from worker.config import load_pipeline
from worker.fetched import Fetched
from worker.records import Records
from worker.run import Worker

PARTITIONS, CUSTOMERS, FIELDS = 4, 5000, 12
WARM = 300  # turns that are not counted
_TOPICS = ("transactions", "scores", "dead")


def main() -> int:
    """Measure each size of batch, print the medians, write benchmarks/results/turn.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1,2,4,16,64", help="events of a batch; one size after the other")
    parser.add_argument("--turns", type=int, default=4000)
    parser.add_argument("--result", default="turn", help="name of the result file; empty: write none")
    arguments = parser.parse_args()
    took = {rows: cost_us(int(rows), arguments.turns) for rows in arguments.rows.split(",")}
    print(json.dumps(took, indent=2))
    if arguments.result:
        print(write_result(arguments.result, {"turns": arguments.turns, "us_by_rows": took}), file=sys.stderr)
    return 0


@contextmanager
def _line(folder: Path) -> Iterator[tuple[Any, Codec]]:
    """The job's line on the embedded bus and a real Redis, and the codec of its input."""
    with redis_address() as url, registry() as known, embedded_bus(dict.fromkeys(_TOPICS, PARTITIONS)) as bus:
        os.environ |= {"BOOTSTRAP": bus, "REDIS_URL": url}  # the file is read with these
        rows = np.random.default_rng(7).random((CUSTOMERS, FIELDS), dtype=np.float32)
        redis.Redis.from_url(url).mset({f"f:c{who:06d}": row.tobytes() for who, row in enumerate(rows)})
        outputs = {"scores": "scores", "alerts": "scores", "dead_letters": "dead"}
        more = {**AT_LEAST_ONCE, **NO_WINDOW}
        file = peers_job(
            folder, "turn", topic=_TOPICS[0], outputs=outputs, group="turn", registry=known, more=more
        )
        schema = load_schema(str(HERE / "peers" / "transaction.avsc"), folder)
        codec = Codec(schema, "confluent", registry=Registry(RegistrySettings(url=known)), topic=_TOPICS[0])
        yield assemble(load_pipeline(file), store_opener(), CollectorRegistry()), codec


def cost_us(rows: int, turns: int) -> dict[str, float]:
    """CPU time of a turn with so many events: all of it but what the client takes to receive them."""
    with tempfile.TemporaryDirectory() as folder, _line(Path(folder)) as (line, codec):
        worker, stop = Worker(line), threading.Event()
        given, next_offset = _batches(codec, rows, turns + WARM), np.zeros(PARTITIONS, np.int64)
        receive, took_ns = line.source.fetch.poll, list[int]()
        begun_ns = 0

        def poll(room: int, wait_ms: float, gather_ms: float) -> Fetched:
            nonlocal begun_ns
            if not worker.is_ready:
                return receive(room, wait_ms, gather_ms)
            if begun_ns:
                took_ns.append(time.thread_time_ns() - begun_ns)
            batch = next(given, None)
            if batch is None:
                stop.set()
                return Fetched(records=None, errors=[], count=0, first_at_ms=0.0)
            found = _records(*batch, next_offset)
            begun_ns = time.thread_time_ns()
            return Fetched(records=found, errors=[], count=rows, first_at_ms=time.monotonic() * 1000)

        line.source.fetch.poll = poll  # in place of the client
        gc.collect()
        gc.freeze()
        worker.run(stop)
    us = np.array(took_ns[WARM:]) / 1000
    return {"median": round(float(np.median(us)), 1), "p90": round(float(np.quantile(us, 0.9)), 1)}


def _batches(codec: Codec, rows: int, turns: int) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Values and keys of each turn."""
    chance = np.random.default_rng(0)
    for turn in range(turns):
        keys = [f"c{who:06d}" for who in chance.integers(0, CUSTOMERS, rows).tolist()]
        events = [
            {
                "transaction_id": f"tx-{turn * rows + at:09d}",
                "event_time": 1_790_000_000_000 + turn,
                "customer_id": key,
                "terminal_id": "t000001",
                "amount": float(chance.gamma(2, 40)),
                "currency": "EUR",
                "channel": "POS",
                "mcc": 5411,
                "country": "BE",
            }
            for at, key in enumerate(keys)
        ]
        yield codec.encode_rows(events), [key.encode() for key in keys]


def _records(values: list[bytes], keys: list[bytes], next_offset: np.ndarray[Any, Any]) -> Records:
    """As a poll would give them; offsets go on from those before."""
    n = len(values)
    partition = np.sort(np.arange(n, dtype=np.int32) % PARTITIONS)
    offset = np.empty(n, np.int64)
    for at, lane in enumerate(partition.tolist()):
        offset[at] = next_offset[lane]
        next_offset[lane] += 1
    return Records(
        topic=_TOPICS[0],
        values=spans_of(values),
        keys=spans_of(keys),
        headers=spans_of([None] * n),
        partition=partition,
        offset=offset,
        produced_ms=np.full(n, time.time_ns() // 1_000_000),
    )


if __name__ == "__main__":
    sys.exit(main())
