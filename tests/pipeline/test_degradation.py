"""A running worker goes down the ladder and up again, on real Kafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from benchmarks.workers import create_topics, topics_of
from tests.builders import model_folder, table_model
from tests.pipeline.streams import Reader, alone, fill, transactions
from worker import scoring
from worker.assemble import assemble, store_opener
from worker.config import load_pipeline
from worker.run import Worker

EVENTS = 100
BEYOND = 5_000.0  # an amount that the model chokes on
ROWS = np.array([[1, 10], [2, 20]], np.float32)
TABLE = (np.arange(1_000) / 10_000).astype(np.float32)


def wait_until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for it; fails when it takes too long."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.kafka
def test_rules_stand_in_for_the_model_and_it_comes_back_without_a_restart(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "TRY_AGAIN_MS", 100.0)
    create_topics(kafka_bootstrap, topics_of(topic_prefix, 1))
    version = model_folder(
        tmp_path,
        table_model(TABLE, 2),
        inputs="  - {tensor: x, dtype: float32, shape: [n, 2], features: [customer.count_7d, amount]}",
        output="{tensor: y, meaning: probability}",
        golden={"x": ROWS, "expected": TABLE[[10, 20]] * ROWS[:, 0]},
    )
    model = {"name": "tiny", "version": "1", "repository": str(tmp_path), "when_model_fails": "rules"}
    file = alone(tmp_path, topic_prefix, model=model)
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": "memory://", "PENSTOCK_DEVICE": "cpu"}
    registry = CollectorRegistry()
    worker = Worker(assemble(load_pipeline(file, env), store_opener(), registry))
    reader, stop = Reader(kafka_bootstrap, topic_prefix), threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()

    def scores_of(seed: int, amount: float | None = None) -> list[dict[str, Any]]:
        share = 0.0 if amount is None else 1.0
        records = transactions(EVENTS, seed=seed, odd_share=share, odd_amount=amount or 0.0)
        fill(kafka_bootstrap, f"{topic_prefix}transactions", *records)
        return reader.scores(EVENTS)

    def step() -> float | None:
        return registry.get_sample_value("penstock_degradation", {"pipeline": "fraud"})

    try:
        before = scores_of(1)
        was = step()
        golden = (version / "golden.npz").read_bytes()
        np.savez(version / "golden.npz", x=ROWS, expected=ROWS[:, 0], rtol=0.0, atol=0.0)
        during = scores_of(2, BEYOND)
        stood_on = step()
        (version / "golden.npz").write_bytes(golden)
        wait_until(lambda: scores_of(3)[-1]["degradation"] == "NONE")
        after = step()
    finally:
        stop.set()
        thread.join(30)
        reader.close()

    assert {(row["degradation"], row["degraded"]) for row in before} == {("NONE", False)}
    assert {(row["degradation"], row["degraded"]) for row in during} == {("RULES", True)}
    assert {row["score"] for row in during} == {1.0}
    assert (was, stood_on, after) == (0.0, 4.0, 0.0)
    degraded = {"pipeline": "fraud", "step": "RULES"}
    assert (registry.get_sample_value("penstock_degraded_total", degraded) or 0) >= EVENTS
