"""A replay of files gives each event the features of its own time, however it is cut; bad input is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_cache.layout import NEVER_US
from schemas.columns import Columns
from schemas.schema import load_schema
from schemas.table import to_table
from tests.builders import Message
from worker.batch import Events
from worker.config import ConfigError, Pipeline, load_pipeline
from worker.decode import decode_table
from worker.exits import StopWorker
from worker.export import export, feature_tables
from worker.plan import FeaturePlan, decode_plan, feature_plan
from worker.rebuild import Reach, Sample
from worker.replay import Feed, LaneFeed, OpenFeed, Period, Replay
from worker.replay_files import InputError, from_files, from_tables, read_tables
from worker.replay_log import first_since, until
from worker.replay_table import Label

PIPELINES = Path(__file__).parents[2] / "pipelines"
DAY_MS, START_MS = 86_400_000, 1_530_000_000_000
TRANSACTION, LABEL = load_schema("transaction"), load_schema("label")


@pytest.fixture(scope="module")
def fraud() -> Pipeline:
    """The shipped pipeline, which looks terminal-risk up."""
    return load_pipeline(PIPELINES / "fraud.yaml")


def transactions(
    times_ms: Sequence[int], customers: Sequence[int], terminals: Sequence[int]
) -> pa.RecordBatch:
    """Transactions 0, 1, ...; the amount of each is its number and one."""
    return to_table(
        TRANSACTION,
        {
            "transaction_id": [str(i) for i in range(len(times_ms))],
            "event_time": np.array(times_ms, np.int64) + START_MS,
            "customer_id": [f"C{i}" for i in customers],
            "terminal_id": [f"T{i}" for i in terminals],
            "amount": np.arange(len(times_ms)) + 1.0,
        },
        rows=len(times_ms),
    )


def labels(times_ms: Sequence[int], terminals: Sequence[int], fraud: Sequence[bool]) -> pa.RecordBatch:
    """Labels of transactions 0, 1, ..."""
    return to_table(
        LABEL,
        {
            "event_id": [str(i) for i in range(len(times_ms))],
            "event_time": np.array(times_ms, np.int64) + START_MS,
            "customer_id": "C",
            "terminal_id": [f"T{i}" for i in terminals],
            "fraud": np.array(fraud, np.bool_),
        },
        rows=len(times_ms),
    )


def pieces(table: pa.RecordBatch, sizes: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """A table cut into parts of these sizes, the last one as long as it is."""
    at = 0
    for size in sizes:
        yield table.slice(at, size)
        at += size
    yield table.slice(at)


def features(fraud: Pipeline, feed: OpenFeed, rows: int, period: Period = Period()) -> np.ndarray[Any, Any]:  # noqa: B008
    """All scalars in the order in which they come."""
    found = [batch.features.scalars for batch in Replay(fraud, feed, period, rows=rows).batches()]
    return np.concatenate(found) if found else np.zeros((0, 15))


def window_mean(times: Sequence[int], values: Sequence[float], t: int, length: int) -> tuple[float, float]:
    """Count and mean over (t - length, t], the slow way."""
    inside = [v for u, v in zip(times, values, strict=True) if t - length < u <= t]
    return float(len(inside)), float(np.mean(inside)) if inside else 0.0


STREAM = st.lists(
    st.tuples(st.integers(0, 60 * DAY_MS), st.integers(0, 3), st.booleans()), min_size=1, max_size=40
)


@given(paid=STREAM, told=STREAM, cuts=st.lists(st.integers(0, 9), max_size=8), rows=st.integers(1, 50))
def test_lookups_are_as_of_each_event_however_the_streams_are_cut(
    fraud: Pipeline,
    paid: list[tuple[int, int, bool]],
    told: list[tuple[int, int, bool]],
    cuts: list[int],
    rows: int,
) -> None:
    paid, told = sorted(paid), sorted(told)
    times = [t for t, _, _ in paid]
    events = transactions(times, [k for _, k, _ in paid], [k for _, k, _ in paid])
    truth = labels([t for t, _, _ in told], [k for _, k, _ in told], [f for *_, f in told])
    feed = from_tables({"fraud": pieces(events, cuts), "terminal-risk": pieces(truth, cuts[::-1])})
    columns = {name: i for i, name in enumerate(feature_plan(fraud).names)}

    found = features(fraud, feed, rows)

    last_told = told[-1][0]
    for row, (t, terminal, _) in enumerate(paid):
        here = [(u, float(f)) for u, k, f in told if k == terminal]
        is_stale = t - last_told >= DAY_MS  # the file has ended, and nobody knows what would have followed
        for label, length in (("1d", DAY_MS), ("7d", 7 * DAY_MS), ("30d", 30 * DAY_MS)):
            count, mean = window_mean([u for u, _ in here], [f for _, f in here], t, length)
            expected = (0.0, 0.0) if is_stale else (count, mean)
            got = (
                found[row, columns[f"terminal.count_{label}"]],
                found[row, columns[f"terminal.mean_{label}"]],
            )
            assert got == pytest.approx(expected)


def test_events_before_the_period_count_in_its_windows_and_those_after_are_left_out(
    fraud: Pipeline,
) -> None:
    times = [i * DAY_MS for i in range(10)]

    def feed() -> OpenFeed:
        table = transactions(times, [1] * 10, [1] * 10)
        return from_tables({"fraud": iter([table]), "terminal-risk": iter([labels([0], [1], [True])])})

    from_us, to_us = ((START_MS + day * DAY_MS) * 1000 for day in (4, 7))
    period = Period(from_us=from_us, to_us=to_us)
    found = pa.Table.from_batches(list(feature_tables(fraud, feed(), period)))
    whole = pa.Table.from_batches(list(feature_tables(fraud, feed(), Period())))

    assert found["event_id"].to_pylist() == ["4", "5", "6"]
    assert found.equals(whole.slice(4, 3))
    assert found["customer.count_7d"].to_pylist() == [5.0, 6.0, 7.0]


def test_partitions_are_replayed_side_by_side_in_event_time_so_that_an_owner_serves_all(
    fraud: Pipeline,
) -> None:
    plan = feature_plan(fraud)
    how = decode_plan(fraud, TRANSACTION, plan.finite)
    times = [i * DAY_MS // 2 for i in range(80)]
    one = transactions(times, [1] * 80, [1] * 80)
    other = transactions(times, [2] * 80, [1] * 80)
    truth = [i * DAY_MS // 4 for i in range(160)]

    def lane(table: pa.RecordBatch, partition: int) -> LaneFeed:
        events, _ = decode_table(table, "transactions", 0, how)
        records = events.records
        records.partition[:] = partition
        moved = Events(
            columns=Columns(table),
            records=records,
            event_us=events.event_us,
            next_offsets={partition: 80},
            complete_us={},
        )
        return LaneFeed(begin=0, forgotten_us=NEVER_US, events=iter([(moved, [])]))

    def open_feed(pipeline: Pipeline, _: object) -> Feed:
        if pipeline.name == "fraud":
            return Feed(lanes={0: lane(one, 0), 1: lane(other, 1)}, lane_count=2)
        return from_tables({"terminal-risk": iter([labels(truth, [1] * 160, [True] * 160)])})(
            pipeline, feature_plan(pipeline)
        )

    seen: dict[int, list[Any]] = {0: [], 1: []}
    for batch in Replay(fraud, open_feed, Period(), rows=7).batches():
        assert not batch.features.incomplete.any()
        seen[int(batch.events.records.partition[0])] += batch.features.scalars[:, 9:].tolist()

    assert seen[0] == seen[1]
    assert seen[0][-1][::2] == [4, 28, 120]


def test_a_lookup_can_be_made_to_lag_as_it_did_live(fraud: Pipeline) -> None:
    def feed() -> OpenFeed:
        told = labels([0, 1000, 2000, 9000], [1] * 4, [True] * 4)
        return from_tables({"fraud": iter([transactions([5000], [1], [1])]), "terminal-risk": iter([told])})

    counts = {}
    for lag_ms in (0, 3000, 4500, DAY_MS * 2):
        (batch,) = Replay(fraud, feed(), Period(), lookup_lag_us=lag_ms * 1000).batches()
        counts[lag_ms] = batch.features.scalars[0, 9], int(batch.features.lookup_age_ms[0])

    assert counts == {0: (3, 0), 3000: (3, 3000), 4500: (1, 4500), 2 * DAY_MS: (0, 2 * DAY_MS)}


def test_parquet_and_avro_files_hold_the_same_events_and_a_missing_optional_column_is_its_default(
    tmp_path: Path,
) -> None:
    table = transactions([0, 1], [1, 2], [3, 4])
    pq.write_table(pa.Table.from_batches([table]).drop_columns(["channel"]), tmp_path / "t.parquet")
    with (tmp_path / "t.avro").open("wb") as file:
        rows = [{**row, "event_time": START_MS + i} for i, row in enumerate(table.to_pylist())]
        fastavro.writer(file, fastavro.parse_schema(TRANSACTION.json), rows)

    from_parquet = list(read_tables(tmp_path / "t.parquet", TRANSACTION))
    from_avro = list(read_tables(tmp_path / "t.avro", TRANSACTION))

    assert from_parquet == from_avro == [table]


def test_a_file_that_does_not_fit_is_named_with_what_is_wrong(fraud: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    whole = pa.Table.from_batches([transactions([0], [1], [1])])

    def said(table: pa.Table) -> str:
        pq.write_table(table, path)
        with pytest.raises(InputError) as error:
            list(read_tables(path, TRANSACTION))
        return str(error.value)

    assert "amount" in said(whole.drop_columns(["amount"]))
    words = whole.set_column(whole.schema.get_field_index("amount"), "amount", [["much"]])
    assert "amount" in said(words)
    (tmp_path / "no.avro").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no\.avro: cannot be read as Avro"):
        list(read_tables(tmp_path / "no.avro", TRANSACTION))
    with pytest.raises(InputError, match="terminal-risk=FILE"):
        Replay(fraud, from_files({"fraud": [path]}), Period())


def test_rows_that_cannot_be_scored_are_counted_as_a_worker_would_reject_them(
    fraud: Pipeline, tmp_path: Path
) -> None:
    table = transactions([0, 1, 2], [1, 1, 1], [1, 1, 1])
    table = table.set_column(
        table.schema.get_field_index("amount"), table.schema.field("amount"), pa.array([1.0, np.nan, 3.0])
    )
    feed = from_tables({"fraud": iter([table]), "terminal-risk": iter([labels([0], [1], [True])])})

    done = export(fraud, feed, Period(), tmp_path / "f.parquet")

    assert (done.rows, dict(done.rejected)) == (2, {"not_finite": 1})
    assert pq.read_table(tmp_path / "f.parquet")["customer.count_1d"].to_pylist() == [1.0, 2.0]


def test_the_truth_is_joined_by_the_id_of_the_event_with_when_it_is_known(fraud: Pipeline) -> None:
    def feed() -> OpenFeed:
        told = labels([7 * DAY_MS, 8 * DAY_MS], [1, 1], [True, False])
        tables = {"fraud": transactions([0, 5, 10], [1, 1, 1], [1, 1, 1]), "terminal-risk": told}

        def open_again(pipeline: Pipeline, plan: FeaturePlan) -> Feed:
            return from_tables({name: iter([table]) for name, table in tables.items()})(pipeline, plan)

        return open_again

    label = Label.parse("terminal-risk.fraud", feature_plan(fraud), 0)
    table = pa.Table.from_batches(list(feature_tables(fraud, feed(), Period(), label=label)))
    assert table["truth"].to_pylist() == [1.0, 0.0, None]
    known = table["truth_known_at"].cast(pa.int64()).to_pylist()
    assert known == [(START_MS + 7 * DAY_MS) * 1000, (START_MS + 8 * DAY_MS) * 1000, None]

    own = Label.parse("amount", feature_plan(fraud), 60_000_000)
    table = pa.Table.from_batches(list(feature_tables(fraud, feed(), Period(), label=own)))
    assert table["truth"].to_pylist() == [1.0, 2.0, 3.0]
    assert table["truth_known_at"].cast(pa.int64()).to_pylist()[0] == START_MS * 1000 + 60_000_000

    with pytest.raises(ConfigError, match=r"expected FIELD or terminal-risk\.FIELD"):
        Label.parse("elsewhere.fraud", feature_plan(fraud), 0)
    with pytest.raises(ConfigError, match="found no field 'nothing'"):
        list(feature_tables(fraud, feed(), Period(), label=Label.parse("nothing", feature_plan(fraud), 0)))


class Trickle:
    """A client that gives one record at a time, and then nothing."""

    def __init__(self, count: int) -> None:
        self._left = [Message(record_value=b"v", record_offset=offset) for offset in range(count - 1, -1, -1)]

    def consume(self, _: int, wait_s: float) -> list[Any]:
        """The next one, to whoever waits for it."""
        return [self._left.pop()] if self._left and wait_s else []


def test_a_broker_is_gone_when_nothing_comes_and_not_when_nobody_asks() -> None:
    ends = {("in", 0): 3}

    found = [message.offset() for part in until(Trickle(5), ends, silence_s=0) for message in part]

    assert found == [0, 1, 2]
    with pytest.raises(StopWorker, match="nothing came from in-0"):
        list(until(Trickle(2), ends, silence_s=0))


@given(st.data())
def test_no_event_of_the_period_stands_before_the_place_where_it_is_looked_for(data: st.DataObject) -> None:
    disorder_us = data.draw(st.integers(0, 50))
    steps = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=200))
    times = np.cumsum(steps) - np.array([data.draw(st.integers(0, disorder_us)) for _ in steps])
    from_us = data.draw(st.integers(int(times.min()) - 5, int(times.max()) + 5))

    class Log:
        """The times, one offset each."""

        def sample(self, offset: int, end: int | None) -> Sample | None:
            some = times[offset : min(offset + 4, end if end is not None else len(times))]
            return Sample(event_us=tuple(some.tolist()), produced_ms=-1, lag_us=0) if len(some) else None

        def first_since(self, _: int) -> int | None:
            return None

    reach = Reach(reach_us=10, lateness_us=disorder_us, max_future_us=0)
    first = first_since(Log(), reach, 0, len(times), from_us, near=4)

    assert not (times[:first] >= from_us).any()
    unbounded = Reach(reach_us=10, lateness_us=0, max_future_us=None)
    assert first_since(Log(), unbounded, 3, len(times), from_us) == 3
