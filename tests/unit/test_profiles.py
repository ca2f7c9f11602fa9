"""Profile rows are read as they were loaded, defaults stand in for none, odd rows are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_cache.profiles import ProfileTable, read_profiles, write_profiles
from feature_cache.store import MemoryStore, StoreRefusedError, StoreUnavailableError
from schemas.columns import Columns
from schemas.schema import parse_schema
from tests.builders import Message, records
from worker.batch import Events
from worker.cli import main
from worker.exits import Exit
from worker.join_events import some_events
from worker.plan import ProfilePlan
from worker.profile_commands import ProfileError, read_rows
from worker.profiles import Profile

TABLE = ProfileTable(prefix=b"f:", fields=("a", "b"), dtype=np.dtype("<f4"), default=-1.0)
SCHEMA = parse_schema('{"type": "record", "name": "E", "fields": [{"name": "other", "type": "long"}]}')


def events(keys: list[bytes], other: list[int]) -> Events:
    """Events with a record key, and another field that can be a key."""
    n = len(keys)
    return Events(
        columns=Columns(pa.RecordBatch.from_pydict({"other": other}, schema=SCHEMA.arrow)),
        records=records([Message(record_value=b"v", record_key=key) for key in keys]),
        event_us=np.zeros(n, np.int64),
        next_offsets={0: n},
        complete_us={},
    )


class AwayStore(MemoryStore):
    """A store that does not answer."""

    def get(self, _: object) -> list[bytes | None]:
        raise StoreUnavailableError("away")


NUMBER = st.floats(width=32, allow_nan=False)


@given(st.dictionaries(st.binary(max_size=8), st.tuples(NUMBER, NUMBER)), st.data())
def test_what_was_loaded_is_read_and_the_default_stands_in_for_the_rest(
    rows: dict[bytes, tuple[float, float]], data: st.DataObject
) -> None:
    store = MemoryStore()
    write_profiles(store, TABLE, list(rows), np.array(list(rows.values()), np.float64).reshape(-1, 2))
    asked = data.draw(st.lists(st.sampled_from([*rows, b"never loaded"]) if rows else st.binary(max_size=3)))

    found = read_profiles(store, TABLE, asked)

    assert found.shape == (len(asked), 2)
    assert found.tolist() == [list(rows.get(key, (-1.0, -1.0))) for key in asked]


@pytest.mark.parametrize("row", [b"1234567", b"1" * 16, b""])
def test_a_row_of_another_size_is_refused_even_if_the_sum_fits(row: bytes) -> None:
    store = MemoryStore()
    store.put([b"f:x", b"f:y"], [row, b"1" * (16 - len(row))])

    with pytest.raises(StoreRefusedError, match=r"profile 'f:': found a row of \d+ bytes, expected 8.*a, b"):
        read_profiles(store, TABLE, [b"x", b"y"])


def test_the_row_is_that_of_the_record_key_or_of_the_field_named() -> None:
    store = MemoryStore()
    write_profiles(store, TABLE, [b"k", b"7"], np.array([[1, 2], [3, 4]]))

    by_key = Profile(ProfilePlan(column=3, key=None, table=TABLE), store)
    by_field = Profile(ProfilePlan(column=3, key="other", table=TABLE), store)

    assert by_key.columns == slice(3, 5)
    assert by_key.read(events([b"k", b"?"], [7, 7])).values.tolist() == [[1, 2], [-1, -1]]
    assert by_field.read(events([b"k", b"?"], [7, 8])).values.tolist() == [[3, 4], [-1, -1]]


def test_a_store_that_is_away_is_waited_for_unless_the_file_allows_the_default() -> None:
    plan = ProfilePlan(column=0, key=None, table=TABLE)
    with pytest.raises(StoreUnavailableError):
        Profile(plan, AwayStore()).read(events([b"k"], [7]))

    found = Profile(plan, AwayStore(), may_guess=True).read(events([b"k"], [7]))

    assert found.values.tolist() == [[-1, -1]]
    assert found.is_stale.all(), "the score says so"


class Told:
    """A question whose answer is known, or none."""

    def __init__(self, values: list[bytes | None] | None) -> None:
        self.values, self.ended = values, 0

    def answer(self) -> list[bytes | None] | None:
        self.ended += 1
        return self.values

    def drop(self) -> None:
        self.ended += 1


class AheadStore(MemoryStore):
    """A store that is asked ahead."""

    def __init__(self, *, answers: bool) -> None:
        super().__init__()
        self.answers, self.ahead, self.got = answers, list[Told](), 0

    def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        self.got += 1
        return super().get(names)

    def get_ahead(self, names: Sequence[bytes]) -> Any:
        self.ahead.append(Told(super().get(names) if self.answers else None))
        return self.ahead[-1]


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("are_all_events", [True, False])
def test_rows_asked_for_ahead_are_those_of_the_events(answers: bool, are_all_events: bool) -> None:
    store = AheadStore(answers=answers)
    write_profiles(store, TABLE, [b"k", b"l"], np.array([[1, 2], [3, 4]]))
    profile = Profile(ProfilePlan(column=0, key=None, table=TABLE), store)
    polled = events([b"x", b"l", b"k"], [7, 7, 7])
    scored = polled if are_all_events else some_events(polled, np.array([1, 2]))

    profile.expect(polled.records)
    found = profile.read(scored).values.tolist()
    again = profile.read(scored).values.tolist()

    assert found == again == [[-1, -1], [3, 4], [1, 2]][0 if are_all_events else 1 :]
    assert [told.ended for told in store.ahead] == [1], "answered or dropped, once"
    assert store.got == (1 if answers and are_all_events else 2)


@pytest.mark.parametrize("value_bytes", [1, 1 << 17])
@pytest.mark.parametrize("keys", [[None, b"k"], [b"k", None, b"l"], [None] * 40, [b"k", b""], [b"k" * 2000]])
def test_nothing_is_asked_ahead_for_records_that_will_be_no_events(
    keys: list[bytes | None], value_bytes: int
) -> None:
    store = AheadStore(answers=True)
    profile = Profile(ProfilePlan(column=0, key=None, table=TABLE), store)
    polled = records([Message(record_value=b"v" * value_bytes, record_key=key) for key in keys])

    profile.expect(polled)

    assert store.ahead == []


def test_a_question_whose_events_never_came_is_dropped() -> None:
    store = AheadStore(answers=True)
    profile = Profile(ProfilePlan(column=0, key=None, table=TABLE), store)

    for _ in range(3):
        profile.expect(events([b"k"], [7]).records)

    assert [told.ended for told in store.ahead] == [1, 1, 0]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_come_from_csv_and_parquet(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    table = pa.table({"b": [2.0, 4.5], "customer": ["k", "ü"], "unused": [0, 0], "a": [1, 3]})
    (pyarrow.csv.write_csv if suffix == "csv" else pyarrow.parquet.write_table)(table, path)

    keys, rows = read_rows(path, "customer", TABLE)

    assert keys == [b"k", "ü".encode()]
    assert rows.tolist() == [[1, 2], [3, 4.5]]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"customer": ["k"], "a": [1]}, "found columns customer, a, expected also b"),
        ({"customer": [None], "a": [1], "b": [2]}, "found 1 rows without customer"),
        ({"customer": ["k"], "a": ["x"], "b": [2]}, "a: .*expected numbers"),
        ({"customer": ["k"], "a": [None], "b": [2]}, "a: found null, NaN or infinity"),
    ],
)
def test_a_file_without_such_rows_says_what_is_missing(
    tmp_path: Path, columns: dict[str, list[object]], said: str
) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path)

    with pytest.raises(ProfileError, match=said):
        read_rows(path, "customer", TABLE)


def test_the_command_loads_rows_and_names_what_it_does_not_find(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("pipelines/maintenance.yaml").read_text().split("\nmodel:")[0]
    text += "\n  health: {kind: profile, fields: [age, load], prefix: 'h:'}\nstate: {store: 'memory://'}\n"
    text += "outputs: {dead_letters: d}\n"
    file = tmp_path / "p.yaml"
    file.write_text(text)
    rows = tmp_path / "rows.csv"
    rows.write_text("machine_id,age,load\nm1,1,0.5\nm2,2,0.25\n")

    assert main(["profiles", "load", str(file), "health", str(rows)]) == Exit.OK
    assert "2 rows of 2 fields are at h:<machine_id>" in capsys.readouterr().out

    assert main(["profiles", "load", str(file), "wealth", str(rows)]) == Exit.CONFIG
    assert "found no profile 'wealth', expected health" in capsys.readouterr().err
