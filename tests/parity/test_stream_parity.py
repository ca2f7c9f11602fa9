"""On real data, through real Kafka and Redis, every feature equals the slow reference."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from benchmarks import fraud_parity, maintenance_parity
from benchmarks.workers import REPOSITORY
from tests.parity.pandas_reference import fraud_features, read_transactions
from training.export import export_fraud_features


@pytest.mark.kafka
@pytest.mark.redis
def test_every_feature_of_every_transaction_equals_the_reference(
    data: Path, kafka_bootstrap: str, redis_url: str
) -> None:
    """Nine days, so that labels, a week behind, reach the terminal windows; the full run is a benchmark."""
    first, last = date(2018, 8, 1), date(2018, 8, 9)
    rows = read_transactions(data, str(first), str(last))
    expected = fraud_features(rows).set_index(rows["TRANSACTION_ID"].to_numpy())

    run = fraud_parity.replay(data, kafka_bootstrap, redis_url, first=first, last=last, model_version="1")
    found = run.alerts.set_index("transaction")
    result = fraud_parity.compare(found, expected)

    assert found.index.is_unique
    assert result["transactions"] == len(found)
    assert result["missing"] == 0
    assert result["flagged"] == 0
    assert result["unequal_counts"] == 0
    assert result["largest_difference"] < 1e-6


@pytest.mark.kafka
@pytest.mark.redis
def test_the_last_prediction_of_every_engine_equals_the_offline_run(
    data: Path, kafka_bootstrap: str, redis_url: str
) -> None:
    offline = maintenance_parity.offline_predictions(
        data, "FD001", REPOSITORY / "models" / "rul" / "1" / "model.onnx"
    )

    streamed = maintenance_parity.stream(data, "FD001", kafka_bootstrap, redis_url)
    result = maintenance_parity.compare(streamed, offline, maintenance_parity.true_remaining(data, "FD001"))

    assert result["engines"] == 100
    assert result["unaccounted"] == 0
    assert result["duplicates"] == 0
    assert result["largest_difference_to_offline"] < 1e-5
    assert result["rmse_capped"] <= 13.0


def test_the_training_export_is_the_same_engine_and_equals_the_reference(data: Path) -> None:
    first, last = "2018-07-25", "2018-08-02"
    rows = read_transactions(data, first, last)

    exported = export_fraud_features(data, first, last)

    assert exported == pytest.approx(fraud_features(rows).to_numpy(), abs=1e-9)
