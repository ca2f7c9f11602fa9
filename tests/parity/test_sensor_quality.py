"""Real series of sensors: their gaps are found, and nothing is found where nothing is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from feature_cache.readings import KINDS
from feature_cache.store import MemoryStore
from schemas.table import to_table
from tests.builders import pipeline
from tests.parity.test_skab import FILE, pump_events
from tests.unit.test_order import SCHEMA
from training.skab_data import CHANNELS, read_experiments
from worker.config import load_pipeline
from worker.offline import Offline

GAP, JUMP, RANGE = (1 << KINDS.index(kind) for kind in ("GAP", "JUMP", "RANGE"))


def _ambient(data: Path) -> pd.DataFrame:
    file = data / "nab" / "ambient_temperature_system_failure.parquet"
    if not file.exists():
        pytest.skip("NAB is not here (see training/README.md)")
    return pd.read_parquet(file)


def _table(rows: pd.DataFrame) -> pa.RecordBatch:
    n = len(rows)
    return to_table(
        SCHEMA,
        {
            "id": [str(i) for i in range(n)],
            "time": rows["timestamp"].to_numpy().astype("datetime64[us]").astype(np.int64),
            "card": ["office"] * n,
            "terminal": [""] * n,
            "amount": rows["value"].to_numpy(np.float64),
            "speed": np.zeros(n),
        },
        rows=n,
    )


@pytest.mark.parametrize("at_once", [10_000, 100])
def test_the_gaps_of_the_ambient_temperature_are_those_of_the_series(
    data: Path, tmp_path: Path, at_once: int
) -> None:
    rows = _ambient(data)
    offline = Offline(
        pipeline(
            tmp_path,
            "  s: {kind: sequence, fields: [amount], length: 2}",
            rest="watch: {quality: {amount: {min: 40, max: 100, max_gap: 1h, stuck_events: 3, max_jump: 9}}}",
        ),
        MemoryStore(),
    )

    flags = []
    for begin in range(0, len(rows), at_once):
        found = offline.apply(_table(rows[begin : begin + at_once])).quality
        assert found is not None
        flags.append(found[:, 0])

    is_gap = rows["timestamp"].diff() > pd.Timedelta("1h")
    assert is_gap.sum() == 10
    is_jump = (rows["value"].astype(np.float32).diff().abs() > 9) & ~is_gap
    expected = np.where(is_gap, GAP, 0) + np.where(is_jump, JUMP, 0)
    np.testing.assert_array_equal(np.concatenate(flags), expected)


def test_the_pumps_say_nothing_impossible_but_for_gaps_and_a_changed_unit_is_a_jump(data: Path) -> None:
    if not (data / "skab" / "skab.parquet").exists():
        pytest.skip("SKAB is not here (see training/README.md)")
    pump = load_pipeline(FILE, {})
    assert pump.watch is not None
    fields = list(pump.watch.quality)
    thermocouple = fields.index("thermocouple")
    gaps = 0
    for number, experiment in enumerate(read_experiments(data)):
        is_gap = np.diff(experiment.time_ms, prepend=experiment.time_ms[0]) > 10_000
        gaps += int(is_gap.sum())
        flags = Offline(pump, MemoryStore()).apply(pump_events(experiment, pump)).quality
        assert flags is not None
        np.testing.assert_array_equal(flags[:, thermocouple], np.where(is_gap, GAP, 0))
        assert not np.delete(flags, thermocouple, axis=1).any()

        if number % 8 == 0:  # degrees Fahrenheit from here on
            place = list(CHANNELS).index("thermocouple")
            readings = experiment.readings.copy()
            readings[600:, place] = readings[600:, place] * 1.8 + 32
            changed = replace(experiment, readings=readings)
            flags = Offline(pump, MemoryStore()).apply(pump_events(changed, pump)).quality
            assert flags is not None
            assert np.flatnonzero(flags[:, thermocouple] & JUMP).tolist() == [600]
            assert not (flags & RANGE).any()
    assert gaps == 9
