"""A stored dataset is replayed in event time, labels first at ties, with markers that keep their word."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loadgen.__main__ import _parser
from loadgen.events import Events, numbered_names
from loadgen.pace import by_event_time
from loadgen.prepare import Prepared, Route, prepare
from loadgen.replay import ReplayError, dataset_of, stored_readings, stored_transactions
from loadgen.slabs import Slab, first_events, fraud_slabs
from loadgen.sources import stored
from loadgen.transactions import DAY_S, HANDBOOK_START_S
from schemas.codec import Codec
from schemas.schema import load_schema

HOUR_S = 3600


def write_transactions(path: Path, seconds: list[int], amounts: list[float] | None = None) -> Path:
    n = len(seconds)
    at = np.array(seconds, np.int64) + HANDBOOK_START_S
    table = pa.table(
        {
            "TRANSACTION_ID": pa.array(range(100, 100 + n), pa.int32()),
            "TX_DATETIME": pa.array(at * 1000, pa.timestamp("ms")),
            "CUSTOMER_ID": pa.array([i % 3 for i in range(n)], pa.int16()),
            "TERMINAL_ID": pa.array([i % 5 for i in range(n)], pa.int16()),
            "TX_AMOUNT": pa.array(amounts or [10.0 + i for i in range(n)], pa.float64()),
            "TX_FRAUD": pa.array([i % 2 for i in range(n)], pa.int8()),
            "TX_FRAUD_SCENARIO": pa.array([i % 2 * 2 for i in range(n)], pa.int8()),
        }
    )
    pq.write_table(table, path)
    return path


def slabs(path: Path, *, delay_s: int, slab_s: int = DAY_S, all_labels: bool = False) -> list[Slab]:
    names = numbered_names("", 10)
    return list(
        fraud_slabs(
            stored_transactions(path),
            customers=names,
            terminals=names,
            transaction=load_schema("transaction"),
            label=load_schema("label"),
            label_delay_s=delay_s,
            slab_s=slab_s,
            all_labels=all_labels,
        )
    )


def prepared(slab: Slab, mark_every_ms: int | None = None) -> Prepared:
    routes = {
        "transactions": Route(topic="tx", encode=Codec(load_schema("transaction"), "single_object").encode),
        "labels": Route(topic="labels", encode=Codec(load_schema("label"), "single_object").encode),
    }
    return prepare(slab, routes, by_event_time(0), mark_every_ms=mark_every_ms)  # type: ignore[arg-type]


def of(stream: str, found: list[Slab]) -> list[Events]:
    return [events for slab in found for events in slab.streams if events.stream == stream]


def test_a_label_of_the_same_second_goes_before_the_transaction(tmp_path: Path) -> None:
    path = write_transactions(tmp_path / "t.parquet", [10, 50, 110, 110, 150])

    chunk = prepared(slabs(path, delay_s=100)[0])

    #  labels at 110 (of 10) and 150 (of 50)
    assert chunk.topics[:2] == ["tx", "tx"]
    assert chunk.topics[2:5] == ["labels", "tx", "tx"]
    assert chunk.topics[5:7] == ["labels", "tx"]


def test_a_label_is_keyed_by_terminal_and_becomes_known_after_the_delay(tmp_path: Path) -> None:
    path = write_transactions(tmp_path / "t.parquet", list(range(0, 20 * HOUR_S, HOUR_S)))

    labels = of("labels", slabs(path, delay_s=5 * HOUR_S, all_labels=True))
    transactions = of("transactions", slabs(path, delay_s=5 * HOUR_S))

    label_ms = np.concatenate([part.event_time_ms for part in labels])
    paid_ms = np.concatenate([part.event_time_ms for part in transactions])
    assert np.array_equal(label_ms, paid_ms + 5 * HOUR_S * 1000)
    assert labels[0].key[:3] == [b"0", b"1", b"2"]
    assert np.concatenate([part.truth for part in labels]).tolist() == [0.0, 1.0] * 10


def test_labels_known_after_the_last_transaction_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    path = write_transactions(tmp_path / "t.parquet", [0, HOUR_S, 30 * HOUR_S])

    assert sum(map(len, of("labels", slabs(path, delay_s=DAY_S)))) == 2
    assert sum(map(len, of("labels", slabs(path, delay_s=DAY_S, all_labels=True)))) == 3


@pytest.mark.parametrize("slab_s", [600, HOUR_S, DAY_S, 3 * DAY_S])
def test_the_order_of_events_does_not_depend_on_the_size_of_a_slab(tmp_path: Path, slab_s: int) -> None:
    rng = np.random.default_rng(4)
    path = write_transactions(tmp_path / "t.parquet", np.sort(rng.integers(0, 3 * DAY_S, 300)).tolist())

    def order(size: int) -> list[tuple[str, bytes | None]]:
        chunks = [prepared(slab) for slab in slabs(path, delay_s=DAY_S // 3, slab_s=size)]
        return [pair for chunk in chunks for pair in zip(chunk.topics, chunk.values, strict=True)]

    found, reference = order(slab_s), order(DAY_S)
    #  a longer slab reaches further past the last transaction and may hold more labels there
    shared = min(len(found), len(reference))
    assert found[:shared] == reference[:shared]
    assert {topic for topic, _ in found[shared:] + reference[shared:]} <= {"labels"}


@pytest.mark.parametrize("slab_s", [HOUR_S, DAY_S])
def test_no_event_follows_a_marker_that_is_not_later(tmp_path: Path, slab_s: int) -> None:
    rng = np.random.default_rng(5)
    path = write_transactions(tmp_path / "t.parquet", np.sort(rng.integers(0, 3 * DAY_S, 400)).tolist())

    reached_ms = -1
    for slab in slabs(path, delay_s=DAY_S // 2, slab_s=slab_s):
        chunk = prepared(slab, mark_every_ms=900_000)
        times_ms = np.sort(np.concatenate([events.event_time_ms for events in slab.streams]), kind="stable")
        assert np.all(times_ms > reached_ms)
        for position, marker_ms in chunk.marks:
            assert marker_ms > reached_ms
            assert np.all(times_ms[:position] <= marker_ms)
            assert np.all(times_ms[position:] > marker_ms)
            reached_ms = marker_ms
        assert chunk.marks[-1] == (len(chunk.topics), slab.until_ms - 1)


def test_amounts_are_rounded_to_cents(tmp_path: Path) -> None:
    path = write_transactions(tmp_path / "t.parquet", [0, 1], [42.320000000000007, 1.005])

    assert next(stored_transactions(path)).amount.tolist() == [42.32, 1.0]


def test_only_the_asked_days_are_replayed(tmp_path: Path) -> None:
    path = write_transactions(tmp_path / "t.parquet", [0, DAY_S, 2 * DAY_S - 1, 2 * DAY_S])

    found = list(stored_transactions(path, from_date=date(2018, 4, 2), until_date=date(2018, 4, 3)))

    assert [part.number.tolist() for part in found] == [[101, 102]]
    with pytest.raises(ReplayError, match="no transactions from 2019-01-01"):
        next(stored_transactions(path, from_date=date(2019, 1, 1)))


def test_a_replay_stops_after_the_asked_number_of_events_with_the_labels_that_come_before(
    tmp_path: Path,
) -> None:
    path = write_transactions(tmp_path / "t.parquet", [0, 100, 200, 300, 400])
    everything = iter(slabs(path, delay_s=100))

    (short,) = first_events(everything, 3)

    assert [len(events) for events in short.streams] == [2, 3]
    assert short.until_ms == (HANDBOOK_START_S + 200) * 1000 + 1


def write_engines(path: Path, lives: dict[int, int]) -> Path:
    units = np.concatenate([np.full(life, unit) for unit, life in lives.items()])
    cycles = np.concatenate([np.arange(1, life + 1) for life in lives.values()])
    columns: dict[str, pa.Array] = {
        "unit": pa.array(units, pa.int16()),
        "cycle": pa.array(cycles, pa.int16()),
    }
    columns |= {f"setting_{i}": pa.array(np.zeros(len(units))) for i in (1, 2, 3)}
    columns |= {f"s{i:02d}": pa.array(np.full(len(units), float(i))) for i in range(1, 22)}
    pq.write_table(pa.table(columns), path)
    return path


def test_engines_are_replayed_one_after_the_other_with_their_remaining_life(tmp_path: Path) -> None:
    path = write_engines(tmp_path / "engines.parquet", {1: 4, 2: 3})
    pq.write_table(pa.table({"unit": [1, 2], "rul": [10, 0]}), tmp_path / "rul.parquet")

    first, second = stored_readings(path, truth_path=tmp_path / "rul.parquet")

    assert first.remaining.tolist() == [13, 12, 11, 10]
    assert second.remaining.tolist() == [2, 1, 0]
    assert second.number.tolist() == [4, 5, 6]
    assert second.event_time_ms[0] > first.event_time_ms[-1]
    assert second.sensor[0].tolist() == [float(i) for i in range(1, 22)]
    (slab,) = stored(path).slabs
    assert slab.streams[0].key[0] == b"engines-1"


def test_a_truth_that_misses_an_engine_is_refused(tmp_path: Path) -> None:
    path = write_engines(tmp_path / "engines.parquet", {1: 4, 2: 3})
    pq.write_table(pa.table({"unit": [1], "rul": [10]}), tmp_path / "rul.parquet")

    with pytest.raises(ReplayError, match=r"no remaining life for units \[2\]"):
        next(stored_readings(path, truth_path=tmp_path / "rul.parquet"))


def test_the_dataset_is_told_by_its_columns(tmp_path: Path) -> None:
    assert dataset_of(write_transactions(tmp_path / "t.parquet", [0])) == "fraud"
    assert dataset_of(write_engines(tmp_path / "e.parquet", {1: 2})) == "cmapss"
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ReplayError, match="neither card transactions"):
        dataset_of(tmp_path / "x.parquet")
    with pytest.raises(ReplayError, match="cannot be read as Parquet"):
        dataset_of(tmp_path / "missing.parquet")


def test_event_time_is_divided_by_the_speed_and_a_cap_holds(tmp_path: Path) -> None:
    path = write_transactions(tmp_path / "t.parquet", [0, 10, 20, 20, 20, 1000])
    (slab,) = slabs(path, delay_s=DAY_S)

    start_s = int(slab.streams[-1].event_time_ms[0] - slab.from_ms) / 10_000
    assert (by_event_time(10.0)(slab)[-1] - start_s).tolist() == [0, 1, 2, 2, 2, 100]
    assert (by_event_time(10.0, max_per_s=2.0)(slab)[-1] - start_s).tolist() == [0, 1, 2, 2.5, 3, 100]
    assert by_event_time(0.0, max_per_s=2.0)(slab)[-1].tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert by_event_time(0.0)(slab)[-1].tolist() == [0] * 6


def test_a_setting_may_come_from_a_file_so_that_ps_does_not_show_it(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    words = ["simulate", "--property", f"sasl.password=@{tmp_path / 'password'}", "--property", "a=b"]

    assert _parser().parse_args(words).property == [("sasl.password", "hunter2"), ("a", "b")]
    with pytest.raises(SystemExit):
        _parser().parse_args(["simulate", "--property", f"sasl.password=@{tmp_path / 'nothing'}"])
