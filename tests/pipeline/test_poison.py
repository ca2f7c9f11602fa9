"""Events that only the model chokes on, on real Kafka and Redis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.workers import create_topics, running, topics_of
from tests.builders import model_folder, table_model
from tests.pipeline.streams import Outcomes, Reader, alone, fill, transactions

PARTITIONS = 3
EVENTS = 6_000
POISON = 5_000.0  # an amount beyond the table of the model that chokes
INPUTS = "  - {tensor: x, dtype: float32, shape: [n, 2], features: [customer.count_7d, amount]}"


def table(length: int) -> NDArray[np.float32]:
    """What the model makes of an amount; nothing from 1,000 on, so that poison never alerts."""
    entries = np.random.default_rng(0).random(1_000).astype(np.float32) / 20
    return np.concatenate([entries, np.zeros(length - 1_000, np.float32)])


def run(kafka: str, env: dict[str, str], folder: Path, length: int) -> Outcomes:
    """The outcomes of a run whose model knows amounts below this length."""
    folder.mkdir()
    prefix = f"{folder.name}-{folder.parent.name}."
    rows = np.array([[1, 10], [2, 20]], np.float32)
    expected = table(length)[[10, 20]] * np.array([1, 2], np.float32)
    model_folder(
        folder,
        table_model(table(length), 2),
        inputs=INPUTS,
        output="{tensor: y, meaning: remaining_life}",
        golden={"x": rows, "expected": expected},
    )
    create_topics(kafka, topics_of(prefix, PARTITIONS))
    fill(kafka, f"{prefix}transactions", *transactions(EVENTS, seed=5, odd_share=0.01, odd_amount=POISON))
    reader = Reader(kafka, prefix)
    model = {"name": "tiny", "version": "1", "repository": str(folder)}
    with running([[alone(folder, prefix, model=model)]], folder, env):
        outcomes = reader.read_all(EVENTS)
    reader.close()
    return outcomes


@pytest.mark.kafka
@pytest.mark.redis
def test_poisoned_events_are_one_dead_letter_each_and_change_no_other_score(
    kafka_bootstrap: str, redis_url: str, unique_name: str, tmp_path: Path
) -> None:
    """The calm run has a model that knows every amount, so that state is the same in both."""
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": redis_url, "PENSTOCK_DEVICE": "cpu"}
    folder = tmp_path / unique_name
    folder.mkdir()
    calm = run(kafka_bootstrap, env, folder / "calm", 6_000)
    found = run(kafka_bootstrap, env, folder / "poisoned", 1_000)

    poisoned = set(found.dead_letters)
    assert found.doubled == []
    assert len(found.times_seen) == EVENTS
    assert len(poisoned) > EVENTS // 200
    assert set(found.dead_letters.values()) == {"model_failed"}
    assert poisoned == {place for place, score in calm.scores.items() if score == 0.0}
    assert found.scores == {place: s for place, s in calm.scores.items() if place not in poisoned}
    assert found.alerts == calm.alerts
    assert len(found.alerts) > 100
