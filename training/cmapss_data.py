"""NASA's turbofan runs as the windows that the maintenance model sees."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FIELDS = tuple(f"s{number:02d}" for number in (2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21))
LENGTH = 30
LONGEST_LIFE = 125  # cycles; a healthy engine does not say how much longer it lives


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """Raw readings with what remained after the last of them."""

    readings: NDArray[np.float32]  # (n, 30, 14), oldest first
    life: NDArray[np.float64]  # (n,) remaining cycles, not capped
    unit: NDArray[np.int64]  # (n,)


def pad(readings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the last 30 readings (30, 14); a shorter history repeats its oldest reading in front."""
    missing = max(0, LENGTH - len(readings))
    return np.concatenate([np.repeat(readings[:1], missing, axis=0), readings])[-LENGTH:]


def training_windows(data: Path, subset: str = "FD001") -> Windows:
    """Return a window for every cycle of every engine, from its first, which the worker will score too."""
    runs = pd.read_parquet(data / "cmapss" / f"train_{subset}.parquet").sort_values(["unit", "cycle"])
    readings, life, unit = [], [], []
    for number, run in runs.groupby("unit"):
        values = run[list(FIELDS)].to_numpy(np.float32)
        for cycle in range(1, len(values) + 1):
            readings.append(pad(values[:cycle]))
            life.append(len(values) - cycle)
            unit.append(number)
    return Windows(readings=np.stack(readings), life=np.array(life, float), unit=np.array(unit))


def last_windows(data: Path, subset: str = "FD001") -> Windows:
    """Return the last window of every test engine, in the order of their numbers."""
    runs = pd.read_parquet(data / "cmapss" / f"test_{subset}.parquet").sort_values(["unit", "cycle"])
    truth = pd.read_parquet(data / "cmapss" / f"RUL_{subset}.parquet").sort_values("unit")
    readings = [pad(run[list(FIELDS)].to_numpy(np.float32)) for _, run in runs.groupby("unit")]
    return Windows(
        readings=np.stack(readings), life=truth["rul"].to_numpy(float), unit=truth["unit"].to_numpy(int)
    )
