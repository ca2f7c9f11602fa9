"""Exports the fraud features of stored transactions: what `penstock features export` writes, as an array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.fraud_tables import tables
from worker.config import load_pipeline
from worker.export import feature_tables
from worker.plan import feature_plan
from worker.replay import Period
from worker.replay_files import from_tables

_PIPELINES = Path(__file__).resolve().parents[1] / "pipelines"


def export_fraud_features(data: Path, start: str, end: str) -> NDArray[np.float64]:
    """(n, 15) features of every transaction of the days start..end, in the order they happened.

    Columns are in the order of pipelines/fraud.yaml, which is the model's. Windows begin empty at start.
    """
    pipeline = load_pipeline(_PIPELINES / "fraud.yaml")
    names = feature_plan(pipeline).names
    feed = from_tables(
        {
            "fraud": tables(data, start, end, "transactions"),
            "terminal-risk": tables(data, start, end, "labels"),
        }
    )
    return np.concatenate(
        [
            np.column_stack([table.column(name).to_numpy() for name in names])
            for table in feature_tables(pipeline, feed, Period())
        ]
    )
