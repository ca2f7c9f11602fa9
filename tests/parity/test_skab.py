"""The pump test bed through its pipeline file: windows, model and threshold as a worker has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from feature_cache.store import MemoryStore
from schemas.schema import load_schema
from schemas.table import to_table
from training.skab_data import CHANNELS, FITTED_ROWS, Experiment, pooled_f1, read_experiments
from worker.config import Pipeline, load_pipeline
from worker.infer import infer, load_model
from worker.offline import Offline
from worker.plan import decision_policy

_F_8_392 = 3.35053  # 99.9% quantile of the F distribution with 8 and 392 degrees of freedom
FILE = Path(__file__).parents[2] / "pipelines" / "skab" / "pump.yaml"


@pytest.fixture(scope="module")
def experiments(data: Path) -> list[Experiment]:
    """The 34 experiments."""
    if not (data / "skab" / "skab.parquet").exists():
        pytest.skip("SKAB is not here (see training/README.md)")
    return read_experiments(data)


@pytest.fixture(scope="module")
def pump() -> Pipeline:
    """The shipped file."""
    return load_pipeline(FILE, {})


@pytest.fixture(scope="module")
def scores(experiments: list[Experiment], pump: Pipeline) -> list[NDArray[np.float32]]:
    """What the pipeline says of every reading, by experiment."""
    offline = Offline(pump, MemoryStore())
    assert pump.model is not None
    model = load_model(pump.model.folder, offline.plan, "cpu")
    return [infer(model, offline.apply(pump_events(experiment, pump))) for experiment in experiments]


def pump_events(experiment: Experiment, pump: Pipeline) -> pa.RecordBatch:
    """An experiment as events of the pipeline."""
    n = len(experiment.time_ms)
    return to_table(
        load_schema(pump.source.schema_ref, pump.base),
        {
            "reading_id": [f"{experiment.name}-{i}" for i in range(n)],
            "event_time": experiment.time_ms,
            "pump_id": [experiment.name] * n,
            "run": np.full(n, experiment.run, np.int32),
            **dict(zip(CHANNELS, experiment.readings.astype(np.float32).T, strict=True)),
        },
        rows=n,
    )


def test_the_pump_pipeline_finds_at_least_what_the_published_t_squared_finds(
    experiments: list[Experiment], scores: list[NDArray[np.float32]], pump: Pipeline
) -> None:
    policy = decision_policy(pump)
    assert policy is not None

    found = _measures(experiments, scores, policy.thresholds[0])
    at_published_limit = _measures(experiments, scores, policy.thresholds[1])

    assert found["rows"] == 23_801
    assert found["f1"] >= 0.66
    assert round(at_published_limit["f1"], 2) == 0.66
    assert at_published_limit["false_alarms_percent"] == pytest.approx(19.2, abs=0.05)
    assert at_published_limit["missed_percent"] == pytest.approx(42.6, abs=0.05)


def test_the_pump_pipeline_scores_as_the_definition_in_double_does(
    experiments: list[Experiment], scores: list[NDArray[np.float32]]
) -> None:
    for experiment, score in zip(experiments[::8], scores[::8], strict=True):
        healthy = experiment.readings[:FITTED_ROWS]
        n, m = healthy.shape
        limit = _F_8_392 * m * (n + 1) * (n - 1) / (n * (n - m))
        away = experiment.readings - healthy.mean(axis=0)
        t2 = np.einsum("ni,ij,nj->n", away, np.linalg.inv(np.cov(healthy.T)), away) / limit
        median = np.array([np.median(t2[i - 4 : i + 1]) for i in range(4, len(t2))])
        np.testing.assert_allclose(score[4:], median, rtol=1e-3)


def _measures(
    experiments: list[Experiment], scores: list[NDArray[np.float32]], threshold: float
) -> dict[str, float]:
    return pooled_f1(
        [
            (score[FITTED_ROWS:] >= threshold, experiment.is_anomaly[FITTED_ROWS:])
            for experiment, score in zip(experiments, scores, strict=True)
        ]
    )
