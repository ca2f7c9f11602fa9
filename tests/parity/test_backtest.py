"""The published figures of the handbook's XGBoost model come out of one backtest command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.backtest import PUBLISHED, features_of, run
from benchmarks.workers import REPOSITORY
from feature_cache.store import MemoryStore
from tests.parity.pandas_reference import FEATURES
from training.fraud_tables import LAST_DAY, WARM_UP, tables
from worker.config import load_pipeline
from worker.offline import Offline


def test_one_command_gives_the_published_row_and_the_features_of_the_engine(
    data: Path, tmp_path: Path
) -> None:
    report = run(data, WARM_UP, LAST_DAY, tmp_path)["report"]

    quality = report["quality"]
    assert (quality["events"], quality["positives"]) == (58_264, 385)
    assert {name: round(quality[name], 3) for name in PUBLISHED} == pytest.approx(PUBLISHED)
    assert report["rejected"] == {}
    # The same engine fed by hand, a day at a time and labels first: not one bit differs.
    store = MemoryStore()
    fraud = Offline(load_pipeline(REPOSITORY / "pipelines" / "fraud.yaml"), store)
    labels = Offline(load_pipeline(REPOSITORY / "pipelines" / "terminal-risk.yaml"), store)
    days = {
        table["event_time"][0].value // 86_400_000: table
        for table in tables(data, WARM_UP, LAST_DAY, "labels")
    }
    rows = []
    for table in tables(data, WARM_UP, LAST_DAY, "transactions"):
        told = days.get(table["event_time"][0].value // 86_400_000)
        if told is not None:
            labels.apply(told)
        rows.append(fraud.apply(table).scalars)
    found = features_of(tmp_path)
    assert pq.read_metadata(tmp_path / "scores.parquet").num_rows == len(found)
    np.testing.assert_array_equal(found[list(FEATURES)].to_numpy(), np.concatenate(rows))
