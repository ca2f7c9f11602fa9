"""The fraud features with their labels, and the published split of them."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.parity.pandas_reference import read_transactions
from training.export import export_fraud_features
from training.fraud_tables import LAST_DAY, WARM_UP
from training.metrics import kept_test_rows
from worker.accuracy import auc, average_precision, card_precision

TRAIN_DAY = 115  # 2018-07-25, counted from 2018-04-01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FraudRows:
    """Transactions as the models see them, in the order they happened."""

    features: NDArray[np.float32]  # (n, 15), columns in the order of pipelines/fraud.yaml
    truth: NDArray[np.int8]  # (n,) 1 is fraud
    day: NDArray[np.int64]  # (n,) days since 2018-04-01
    customer: NDArray[np.int64]  # (n,)

    def take(self, mask: NDArray[np.bool_]) -> "FraudRows":
        """Return the rows where the mask is true."""
        return FraudRows(
            features=self.features[mask],
            truth=self.truth[mask],
            day=self.day[mask],
            customer=self.customer[mask],
        )


def load_features(data: Path, start: str = WARM_UP, end: str = LAST_DAY) -> FraudRows:
    """Return every transaction of the days start..end with its features; windows begin empty at start.

    The features come from the engine that computes them live, over the same pipeline files.
    """
    rows = read_transactions(data, start, end)
    return FraudRows(
        features=export_fraud_features(data, start, end).astype(np.float32),
        truth=rows["TX_FRAUD"].to_numpy(np.int8),
        day=rows["TX_TIME_DAYS"].to_numpy(np.int64),
        customer=rows["CUSTOMER_ID"].to_numpy(np.int64),
    )


def training_week(rows: FraudRows, train_day: int = TRAIN_DAY) -> FraudRows:
    """Return the seven days from train_day on."""
    return rows.take((rows.day >= train_day) & (rows.day < train_day + 7))


def kept_test_week(rows: FraudRows, train_day: int = TRAIN_DAY) -> FraudRows:
    """Return the kept rows of the week that begins 14 days after train_day."""
    return rows.take(kept_test_rows(rows.day, rows.customer, rows.truth, train_day=train_day))


def measure(rows: FraudRows, score: NDArray[np.float32]) -> dict[str, float]:
    """Return the three published measures of these scores, and how many rows and frauds they are over."""
    return {
        "auc": round(auc(rows.truth, score), 4),
        "average_precision": round(average_precision(rows.truth, score), 4),
        "card_precision_100": round(card_precision(rows.day, rows.customer, rows.truth, score), 4),
        "rows": len(rows.truth),
        "frauds": int(rows.truth.sum()),
    }


def data_folder(description: str) -> argparse.ArgumentParser:
    """Return a parser that knows --data, which PENSTOCK_DATA stands in for."""
    parser = argparse.ArgumentParser(description=description)
    known = os.environ.get("PENSTOCK_DATA")
    parser.add_argument("--data", type=Path, default=known, required=known is None, help="or PENSTOCK_DATA")
    return parser
