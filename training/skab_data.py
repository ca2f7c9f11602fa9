"""The Skoltech pump test bed: its experiments as the anomaly model and the pipeline see them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FITTED_ROWS = 400  # the published protocol: each experiment begins healthy, its first rows are learned from
CHANNELS = {
    "acceleration_1": "Accelerometer1RMS",
    "acceleration_2": "Accelerometer2RMS",
    "current": "Current",
    "pressure": "Pressure",
    "temperature": "Temperature",
    "thermocouple": "Thermocouple",
    "voltage": "Voltage",
    "flow": "VolumeFlowRateRMS",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Experiment:
    """One run of the pump, about 20 minutes at one reading a second."""

    name: str
    run: int  # its number, which the model knows it by
    time_ms: NDArray[np.int64]  # (n,)
    readings: NDArray[np.float64]  # (n, 8) in the order of CHANNELS
    is_anomaly: NDArray[np.bool_]  # (n,)


def read_experiments(data: Path) -> list[Experiment]:
    """The 34 experiments with an anomaly, in the order of the file; numbers count from 0."""
    rows = pd.read_parquet(data / "skab" / "skab.parquet")
    rows = rows[~rows["experiment"].str.startswith("anomaly-free")]
    return [
        Experiment(
            name=str(name),
            run=run,
            time_ms=part["datetime"].to_numpy().astype("datetime64[ms]").astype(np.int64),
            readings=part[list(CHANNELS.values())].to_numpy(np.float64),
            is_anomaly=part["anomaly"].to_numpy() == 1,
        )
        for run, (name, part) in enumerate(rows.groupby("experiment", sort=False))
    ]


def pooled_f1(judged: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> dict[str, float]:
    """F1, false-alarm and missed-alarm rate in percent over all rows together.

    Args:
        judged: for each experiment, what was found and what is true of the rows after the fitted ones.
    """
    found, truth = (np.concatenate(column) for column in zip(*judged, strict=True))
    hits = int((found & truth).sum())
    false, missed = int((found & ~truth).sum()), int((~found & truth).sum())
    return {
        "f1": round(2 * hits / (2 * hits + false + missed), 4),
        "false_alarms_percent": round(100 * false / int((~truth).sum()), 2),
        "missed_percent": round(100 * missed / int(truth.sum()), 2),
        "rows": len(truth),
        "anomalous": int(truth.sum()),
    }
