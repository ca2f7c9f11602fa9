"""Stored datasets as slabs: the handbook's transactions with delayed labels, and C-MAPSS engine by engine."""

import itertools
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loadgen.slabs import rows
from loadgen.transactions import DAY_S, HANDBOOK_START_S, Transactions
from loadgen.turbofan import SENSORS, SETTINGS, Readings

Dataset = Literal["fraud", "cmapss"]
_FRAUD = {
    "TRANSACTION_ID",
    "TX_DATETIME",
    "CUSTOMER_ID",
    "TERMINAL_ID",
    "TX_AMOUNT",
    "TX_FRAUD",
    "TX_FRAUD_SCENARIO",
}
_CMAPSS = {"unit", "cycle", "setting_1", "s01", "s21"}


class ReplayError(Exception):
    """The file cannot be replayed; the message says what was found and expected."""


def dataset_of(path: Path) -> Dataset:
    """Tell the dataset by its column names.

    Raises:
        ReplayError: not a Parquet file, or neither dataset.
    """
    try:
        columns = set(pq.read_schema(path).names)
    except (OSError, pa.ArrowInvalid) as error:
        raise ReplayError(f"{path}: cannot be read as Parquet: {error}") from error
    if columns >= _FRAUD:
        return "fraud"
    if columns >= _CMAPSS:
        return "cmapss"
    missing = ", ".join(sorted(_FRAUD - columns))
    raise ReplayError(
        f"{path}: neither card transactions (without {missing}) nor engine readings (unit, cycle, s01..)"
    )


def stored_transactions(
    path: Path, *, from_date: date | None = None, until_date: date | None = None
) -> Iterator[Transactions]:
    """Yield the handbook's transactions day by day, amounts rounded to cents.

    Args:
        path: Parquet with the handbook's columns, sorted by (TX_TIME_SECONDS, TRANSACTION_ID).
        from_date: first day; the whole file when None.
        until_date: the day after the last one.

    Raises:
        ReplayError: no transaction in these days.
    """
    table = pq.read_table(path, columns=sorted(_FRAUD), filters=_between(from_date, until_date))
    if table.num_rows == 0:
        raise ReplayError(f"{path}: no transactions from {from_date} until {until_date}")
    second = pc.cast(pc.cast(table["TX_DATETIME"], pa.timestamp("s")), pa.int64()).to_numpy()
    everything = Transactions(
        number=table["TRANSACTION_ID"].to_numpy().astype(np.int64),
        event_time_s=second,
        customer=table["CUSTOMER_ID"].to_numpy().astype(np.int64),
        terminal=table["TERMINAL_ID"].to_numpy().astype(np.int64),
        amount=np.round(table["TX_AMOUNT"].to_numpy(), 2),
        # The label is TX_FRAUD; the scenario only names it and would miss frauds of other sources.
        scenario=np.where(
            table["TX_FRAUD"].to_numpy() > 0, np.maximum(table["TX_FRAUD_SCENARIO"].to_numpy(), 1), 0
        ).astype(np.int8),
    )
    day = second // DAY_S
    bounds = [0, *(np.flatnonzero(np.diff(day)) + 1).tolist(), len(day)]
    for low, high in itertools.pairwise(bounds):
        yield rows(everything, slice(low, high))


def stored_readings(path: Path, *, truth_path: Path | None = None, step_s: int = 60) -> Iterator[Readings]:
    """Yield C-MAPSS readings engine by engine, each engine's in order of cycles.

    Args:
        path: Parquet with unit, cycle, setting_1..3, s01..s21.
        truth_path: remaining cycles after the last cycle of each unit (columns unit, RUL); without it every
            engine is taken to fail at its last cycle.
        step_s: event time from one reading to the next, over all engines.

    Raises:
        ReplayError: the truth misses a unit.
    """
    table = pq.read_table(path)
    unit, cycle = (table[name].to_numpy().astype(np.int64) for name in ("unit", "cycle"))
    order = np.lexsort((cycle, unit))
    unit, cycle = unit[order], cycle[order]

    def matrix(names: list[str]) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
        return np.column_stack([table[name].to_numpy().astype(np.float32)[order] for name in names])

    setting = matrix([f"setting_{i + 1}" for i in range(SETTINGS)])
    sensor = matrix([f"s{i + 1:02d}" for i in range(SENSORS)])
    units, first, count = np.unique(unit, return_index=True, return_counts=True)
    after = _remaining_after(truth_path, units.tolist())
    for low, n, more in zip(first.tolist(), count.tolist(), after, strict=True):
        number = low + np.arange(n)
        part = slice(low, low + n)
        yield Readings(
            number=number,
            event_time_ms=(HANDBOOK_START_S + number * step_s) * 1000,
            machine=unit[part],
            cycle=cycle[part].astype(np.int32),
            setting=setting[part],
            sensor=sensor[part],
            remaining=(more + cycle[low + n - 1] - cycle[part]).astype(np.int32),
        )


def _remaining_after(truth_path: Path | None, units: list[int]) -> list[int]:
    if truth_path is None:
        return [0] * len(units)
    table = pq.read_table(truth_path)
    remaining = next(name for name in table.column_names if name.lower() != "unit")
    known = dict(zip(table["unit"].to_pylist(), table[remaining].to_pylist(), strict=True))
    if not known.keys() >= set(units):
        raise ReplayError(
            f"{truth_path}: no remaining life for units {sorted(set(units) - known.keys())[:5]}"
        )
    return [int(known[unit]) for unit in units]


def _between(from_date: date | None, until_date: date | None) -> list[tuple[str, str, datetime]] | None:
    start = datetime.combine(from_date or date.min, datetime.min.time())
    end = datetime.combine(until_date or date.max - timedelta(days=1), datetime.min.time())
    limits = [("TX_DATETIME", ">=", start)] if from_date else []
    limits += [("TX_DATETIME", "<", end)] if until_date else []
    return limits or None


def parse_date(text: str) -> date:
    """Read YYYY-MM-DD.

    Raises:
        ValueError: not a date.
    """
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
