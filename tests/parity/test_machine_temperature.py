"""A real series whose clock went back: the machine temperatures of the Numenta Anomaly Benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from feature_cache.order import EQUAL, IN_ORDER, OUT_OF_ORDER
from feature_cache.store import MemoryStore
from schemas.table import to_table
from tests.builders import pipeline
from tests.unit.test_order import SCHEMA
from worker.offline import Offline

FEATURES = """
  w:
    kind: window
    over: amount
    windows: [1h, 1d]
    aggregates: [count, mean, max, since_last]
    capacity: 400
  s: {kind: sequence, fields: [amount, speed], length: 5, capacity: 400}
"""


def read_series(data: Path) -> pd.DataFrame:
    """The readings in the order of the file: a step back of 55 minutes, so that an hour comes twice."""
    return pd.read_parquet(data / "nab" / "machine_temperature_system_failure.parquet")


def series_table(rows: pd.DataFrame) -> pa.RecordBatch:
    """The readings as events of one machine."""
    n = len(rows)
    return to_table(
        SCHEMA,
        {
            "id": [str(i) for i in range(n)],
            "time": rows["timestamp"].to_numpy().astype("datetime64[us]").astype(np.int64),
            "card": ["machine"] * n,
            "terminal": [""] * n,
            "amount": rows["value"].to_numpy(np.float64),
            "speed": np.arange(n, dtype=np.float64),
        },
        rows=n,
    )


def test_the_machine_whose_clock_went_back_an_hour_is_counted_right(data: Path, tmp_path: Path) -> None:
    rows = read_series(data)
    times = rows["timestamp"].to_numpy().astype("datetime64[s]").astype(np.int64)
    values = rows["value"].to_numpy(np.float64)
    offline = Offline(pipeline(tmp_path, FEATURES), MemoryStore())

    found = offline.apply(series_table(rows))

    step = int(np.flatnonzero(np.diff(times) < 0)[0]) + 1
    orders = np.full(len(rows), IN_ORDER)
    orders[step : step + 11] = OUT_OF_ORDER
    orders[step + 11] = EQUAL
    np.testing.assert_array_equal(found.time_order, orders)
    assert not found.late.any()
    assert not found.incomplete[5:].any()
    # The definition, around the step and for as long as the day after it remembers the step.
    for i in [*range(0, 300), *range(step - 50, step + 350), *range(0, len(rows), 997)]:
        t = times[i]
        for column, window in ((0, 3600), (4, 86_400)):
            inside = [j for j in range(max(0, i - 400), i + 1) if t - window < times[j] <= t]
            earlier = sorted((times[j], j) for j in inside if j != i)
            expected = [
                len(inside),
                np.mean(values[inside]),
                values[inside].max(),
                t - earlier[-1][0] if earlier else window,
            ]
            np.testing.assert_allclose(found.scalars[i, column : column + 4], expected, rtol=1e-12)
        before = sorted((times[j], j) for j in range(max(0, i - 400), i) if times[j] <= t)[-4:]
        sequence = [j for _, j in before] + [i]
        assert found.sequences["s"][i, -len(sequence) :, 1].tolist() == sequence
