"""Events out of order through a real worker: one outcome each, the same whenever it is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.workers import create_topics, running, start_worker, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table
from tests.pipeline.streams import Outcomes, Reader, alone, fill

EVENTS = 6000
PARTITIONS = 3
START_MS = 1_760_000_000_000  # 2025-10-09
DAY_MS = 86_400_000
TIME = {
    "late": "dead_letter",
    "out_of_order": "score",
    "equal": "dead_letter",
    "clock_back": "reset",
    "clock_back_by": "100d",
    "clock_back_events": 2,
}


def disordered() -> tuple[list[bytes], list[bytes]]:
    """Transactions of which some are early, equal or late, of one customer in ten with a clock set back."""
    rng = np.random.default_rng(8)
    customer = rng.integers(0, 60, EVENTS)
    time_ms = np.sort(rng.integers(0, 40 * DAY_MS, EVENTS)) + START_MS
    time_ms -= rng.choice([0, DAY_MS, 35 * DAY_MS], EVENTS, p=[0.8, 0.15, 0.05])
    time_ms[(customer % 10 == 0) & (np.arange(EVENTS) > EVENTS // 2)] -= 400 * DAY_MS
    for key in range(60):  # a repetition of each customer's tenth event
        mine = np.flatnonzero(customer == key)
        time_ms[mine[10]] = time_ms[mine[:10]].max()
    names = [f"C{i}" for i in customer.tolist()]
    schema = load_schema("transaction")
    table = to_table(
        schema,
        {
            "transaction_id": [str(i) for i in range(EVENTS)],
            "event_time": time_ms,
            "customer_id": names,
            "terminal_id": ["T1"] * EVENTS,
            "amount": np.round(rng.gamma(2.0, 40.0, EVENTS), 2),
        },
    )
    return [name.encode() for name in names], Codec(schema, "single_object").encode(table)


def outcomes_of(
    kafka: str, env: dict[str, str], folder: Path, prefix: str, *, kill_after: int | None
) -> Outcomes:
    """Every outcome of the log; the worker is killed once when it has given some."""
    folder.mkdir()
    create_topics(kafka, topics_of(prefix, PARTITIONS))
    file = alone(
        folder,
        prefix,
        kafka={"properties": {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}},
        source={"time": TIME},
        delivery={"commit_interval": "20ms", "worker_id": "one"},
        batching={"max_rows": 128},
        state={"write_interval": "50ms"},
        dead_letters={"stop_share": 0.9},
    )
    fill(kafka, f"{prefix}transactions", *disordered())
    reader = Reader(kafka, prefix)
    try:
        if kill_after is not None:
            worker = start_worker([file], folder / "worker.log", env)
            try:
                reader.read_until(lambda found: len(found.times_seen) >= kill_after)
            finally:
                worker.process.kill()
                worker.process.wait(10)
        with running([[file]], folder, env):
            return reader.read_all(EVENTS)
    finally:
        reader.close()


@pytest.mark.kafka
@pytest.mark.redis
def test_events_out_of_order_have_one_outcome_each_whenever_the_worker_is_killed(
    kafka_bootstrap: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    env: dict[str, Any] = {
        "PENSTOCK_KAFKA": kafka_bootstrap,
        "PENSTOCK_STORE": redis_url,
        "PENSTOCK_DELIVERY": "exactly_once",
        "PENSTOCK_DEVICE": "cpu",
    }
    calm = outcomes_of(kafka_bootstrap, env, tmp_path / "calm", f"{topic_prefix}calm.", kill_after=None)
    found = outcomes_of(kafka_bootstrap, env, tmp_path / "killed", f"{topic_prefix}killed.", kill_after=1500)

    assert len(found.times_seen) == EVENTS
    assert found.doubled == []
    assert found.dead_letters == calm.dead_letters
    assert found.scores == calm.scores
    assert found.flags == calm.flags
    assert found.alerts == calm.alerts
    reasons = set(calm.dead_letters.values())
    assert reasons == {"late_event", "equal_event_time"}
    assert len(calm.dead_letters) < EVENTS // 10, "a clock that was set back is not late for ever"
