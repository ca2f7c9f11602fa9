"""The slow, obvious form of the fifteen fraud features, against which the streaming engine is compared.

Nothing here is shared with the engine: every window is a table of "does row j count for row i", so a wrong
edge, a missing tie or a drifting running sum in the engine cannot be repeated here.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DAY_S = 86_400
DELAY_DAYS = 7  # a transaction's label is known this long after it
WINDOW_DAYS = (1, 7, 30)

FEATURES = (
    "amount",
    "weekend",
    "night",
    *(f"customer.{of}_{days}d" for days in WINDOW_DAYS for of in ("count", "mean")),
    *(f"terminal.{of}_{days}d" for days in WINDOW_DAYS for of in ("count", "mean")),
)


def read_transactions(data: Path, start: str | None = None, end: str | None = None) -> pd.DataFrame:
    """Return the transactions of the days start..end (both included), in the order they happened.

    Args:
        data: folder that holds fraud/transactions.parquet.
        start, end: ISO dates; None takes everything on that side.
    """
    rows = pd.read_parquet(data / "fraud" / "transactions.parquet")
    day = rows["TX_DATETIME"].dt.normalize()
    if start is not None:
        rows, day = rows[day >= pd.Timestamp(start)], day[day >= pd.Timestamp(start)]
    if end is not None:
        rows = rows[day <= pd.Timestamp(end)]
    return rows.sort_values(["TX_TIME_SECONDS", "TRANSACTION_ID"]).reset_index(drop=True)


def _in_window(time_s: NDArray[np.int64], days: int, delay_days: int) -> NDArray[np.bool_]:
    """Return (n, n): does row j of one group count for row i? Window: (t - delay - days, t - delay]."""
    t_i = time_s[:, None] - delay_days * DAY_S
    t_j = time_s[None, :]
    inside: NDArray[np.bool_] = (t_j > t_i - days * DAY_S) & (t_j <= t_i)
    if delay_days == 0:
        # Of several rows in the same second, those up to and including the current one, in row order.
        order = np.arange(len(time_s))
        inside &= order[None, :] <= order[:, None]
    return inside


def _windows(
    rows: pd.DataFrame, *, group: str, value: str, prefix: str, delay_days: int
) -> dict[str, NDArray[np.float64]]:
    """Return count and mean of `value` per window, (n,) each in the order of `rows`; mean 0 when empty."""
    found = {
        f"{prefix}.{of}_{days}d": np.zeros(len(rows)) for days in WINDOW_DAYS for of in ("count", "mean")
    }
    times = rows["TX_TIME_SECONDS"].to_numpy(np.int64)
    values = rows[value].to_numpy(np.float64)
    for at in rows.groupby(group).indices.values():
        for days in WINDOW_DAYS:
            inside = _in_window(times[at], days, delay_days)
            count = inside.sum(axis=1)
            total = inside @ values[at]
            found[f"{prefix}.count_{days}d"][at] = count
            found[f"{prefix}.mean_{days}d"][at] = np.where(count > 0, total / np.maximum(count, 1), 0.0)
    return found


def fraud_features(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the fifteen features of every row, float64, columns FEATURES in the order of the model.

    Args:
        rows: as read_transactions returns them. Only these rows are counted: begin 30 days before the first
            row whose customer windows must be full, 37 before the first whose terminal windows must be.
    """
    when = rows["TX_DATETIME"]
    columns: dict[str, NDArray[np.float64]] = {
        "amount": rows["TX_AMOUNT"].to_numpy(np.float64),
        "weekend": (when.dt.day_of_week >= 5).to_numpy(np.float64),
        "night": (when.dt.hour <= 6).to_numpy(np.float64),
        **_windows(rows, group="CUSTOMER_ID", value="TX_AMOUNT", prefix="customer", delay_days=0),
        **_windows(rows, group="TERMINAL_ID", value="TX_FRAUD", prefix="terminal", delay_days=DELAY_DAYS),
    }
    return pd.DataFrame(columns, index=rows.index)[list(FEATURES)]
