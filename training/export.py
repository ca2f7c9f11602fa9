"""Exports the fraud features of stored transactions from the engine that computes them live."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_cache.store import MemoryStore
from loadgen.sources import stored
from worker.config import load_pipeline
from worker.offline import Offline

_PIPELINES = Path(__file__).resolve().parents[1] / "pipelines"


def export_fraud_features(data: Path, start: str, end: str) -> NDArray[np.float64]:
    """(n, 15) features of every transaction of the days start..end, in the order they happened.

    Columns are in the order of pipelines/fraud.yaml, which is the model's. Windows begin empty at start.
    """
    store = MemoryStore()
    fraud = Offline(load_pipeline(_PIPELINES / "fraud.yaml"), store)
    labels = Offline(load_pipeline(_PIPELINES / "terminal-risk.yaml"), store)
    source = stored(
        data / "fraud" / "transactions.parquet",
        from_date=date.fromisoformat(start),
        until_date=date.fromisoformat(end) + timedelta(days=1),
    )
    rows = []
    for slab in source.slabs:
        # A day's labels first: a lookup reads nothing newer than its event anyway.
        for events in sorted(slab.streams, key=lambda events: events.stream != "labels"):
            if not len(events):
                continue
            if events.stream == "labels":
                labels.apply(events.table)
            else:
                rows.append(fraud.apply(events.table).scalars)
    return np.concatenate(rows)
