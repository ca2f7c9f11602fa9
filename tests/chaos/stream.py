"""The events: seeded, late and early and equal in time, hot and cold keys, and a producer that sends them."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import Producer
from numpy.typing import NDArray

from loadgen.mutate import KINDS, Mutator
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table

SCHEMA = load_schema("transaction")
START_MS = 1_760_000_000_000  # 2025-10-09: a clock that steps by a day makes none of it the future
BLOCK = 250  # events made at once
BLOCK_MS = 250  # event time from one block to the next: a thousand events a second of event time
HOT_KEYS, COLD_KEYS = 800, 20_000
COLD_SHARE = 0.15
SHUFFLED_SHARE = 0.04  # events out of order: half of them by less than the allowed lateness
DAMAGED_SHARE = 0.001  # all the time; a flood has its own
SINGLE_OBJECT_BYTES = 10


def block(seed: int, number: int) -> tuple[pa.RecordBatch, list[bytes]]:
    """The events of one block and their keys; the same for the same seed and number, whatever was before."""
    rng = np.random.default_rng((seed, number))
    cold = rng.random(BLOCK) < COLD_SHARE
    # A few hot keys have several times the events of the others.
    hot = np.floor(HOT_KEYS * rng.random(BLOCK) ** 1.3).astype(np.int64)
    key = np.where(cold, HOT_KEYS + rng.integers(0, COLD_KEYS, BLOCK), hot)
    late_ms = np.where(rng.random(BLOCK) < SHUFFLED_SHARE, rng.exponential(4_000, BLOCK), 0).astype(np.int64)
    times = START_MS + number * BLOCK_MS + np.sort(rng.integers(0, BLOCK_MS, BLOCK)) - late_ms
    customers = [f"C{k}" for k in key.tolist()]
    first = number * BLOCK
    columns = {
        "transaction_id": [str(first + i) for i in range(BLOCK)],
        "event_time": times // 10 * 10,  # equal times are common
        "customer_id": customers,
        "terminal_id": "T",
        "amount": np.round(rng.gamma(2.0, 25.0, BLOCK), 2),
    }
    return to_table(SCHEMA, columns), [customer.encode() for customer in customers]


class Feed:
    """Sends events at a rate from its own thread, through whatever the brokers do."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, *, seed: int) -> None:
        self.acknowledged: NDArray[np.int64] = np.zeros(partitions, np.int64)  # next offset of each partition
        self.sent = 0
        self.flood_share = 0.0  # of damaged records; a fault sets it
        self.events_per_s = 0.0
        self._topic = topic
        self._seed = seed
        self._number = 0
        self._codec = Codec(SCHEMA, "single_object")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 20,
                "delivery.timeout.ms": 120_000,
                "reconnect.backoff.max.ms": 500,
                "on_delivery": self._note,
                "compression.type": "lz4",
                "log_level": 0,  # brokers that are away are what this is about
            }
        )

    def prefill(self, events: int) -> None:
        """Send so many at once and wait until they are acknowledged."""
        while self.sent < events:
            self._send_block()
        self._finish()

    def start(self, events_per_s: float) -> None:
        """Send at this rate from now on; calling it again changes the rate."""
        self.events_per_s = events_per_s
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop sending; every event sent is acknowledged afterwards.

        Raises:
            RuntimeError: one was not.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)
        self._finish()

    def _run(self) -> None:
        due, then_s = float(self.sent), time.monotonic()
        while not self._stop.is_set():
            now_s = time.monotonic()
            due, then_s = due + (now_s - then_s) * self.events_per_s, now_s
            while self.sent < due and not self._stop.is_set():
                self._send_block()
            self._producer.poll(0.02)

    def _send_block(self) -> None:
        table, keys = block(self._seed, self._number)
        share = self.flood_share or DAMAGED_SHARE
        mutator = Mutator(
            share, prefix_bytes=SINGLE_OBJECT_BYTES, kinds=KINDS, seed=self._seed + self._number
        )
        kind = mutator.choose(table)
        values = self._codec.encode(mutator.in_columns(table, kind))
        damaged, other_keys = mutator.in_records(values, keys, kind)
        for value, key in zip(damaged, other_keys, strict=True):
            while True:
                try:
                    self._producer.produce(self._topic, value, key)
                    break
                except BufferError:
                    self._producer.poll(0.05)
        self._producer.poll(0)
        self.sent += BLOCK
        self._number += 1

    def _note(self, error: Any, message: Any) -> None:
        if error is not None:
            self._failed.append(str(error))
        else:
            self.acknowledged[message.partition()] = message.offset() + 1

    def _finish(self) -> None:
        left = self._producer.flush(120)
        if left or self._failed:
            raise RuntimeError(f"{left} events not acknowledged; {self._failed[:3]}")
