"""Columns from anywhere become the Arrow batch of a schema, or are refused by name."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas import load_schema, to_table

SCORE = load_schema("score")
COLUMNS: dict[str, Any] = {
    "event_id": ["a", "b"],
    "key": np.array(["k", "l"]),
    "source_topic": "t",
    "source_partition": np.array([1, 2], np.int64),
    "source_offset": np.array([3, 4], np.int32),
    "event_time": np.array([5, 6], "datetime64[us]"),
    "scored_at": 7,
    "score": np.array([0.25, 0.5]),
    "model": pa.array(["m", "n"]),
    "model_version": np.array(["1", "2"], object),
    "policy_version": "1",
    "late": np.array([True, False]),
    "incomplete": False,
    "degraded": np.bool_(True),
}


def test_arrays_constants_and_defaults_become_one_batch() -> None:
    table = to_table(SCORE, COLUMNS)

    assert table.schema.equals(SCORE.arrow)
    assert table.column("source_topic").to_pylist() == ["t", "t"]
    assert table.column("source_partition").to_pylist() == [1, 2]
    assert table.column("event_time").cast(pa.int64()).to_pylist() == [5, 6]
    assert table.column("scored_at").cast(pa.int64()).to_pylist() == [7, 7]
    assert table.column("score").to_pylist() == [0.25, 0.5]
    assert table.column("degraded").to_pylist() == [True, True]
    assert table.column("lookup_age_ms").to_pylist() == [None, None]


def test_masked_values_are_nulls() -> None:
    ages = np.ma.masked_array([1, 2], [True, False])

    assert to_table(SCORE, COLUMNS | {"lookup_age_ms": ages}).column("lookup_age_ms").to_pylist() == [None, 2]
    assert to_table(SCORE, COLUMNS | {"lookup_age_ms": [3, None]}).column("lookup_age_ms").to_pylist() == [
        3,
        None,
    ]


def test_constants_alone_need_the_number_of_rows() -> None:
    constants = {name: value[0] if hasattr(value, "__len__") and len(value) == 2 else value
                 for name, value in COLUMNS.items()}  # fmt: skip

    assert to_table(SCORE, constants, rows=3).num_rows == 3
    assert to_table(SCORE, constants, rows=0).num_rows == 0
    with pytest.raises(ValueError, match="found only constants"):
        to_table(SCORE, constants)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"source_partition": np.array([1, 1 << 40])}, "source_partition: found a value that is no int32"),
        ({"source_partition": 1 << 40}, "source_partition: found a value that is no int32"),
        ({"score": ["a", "b"]}, "score: found a value that is no float"),
        ({"score": None}, "score: found 2 nulls, expected none"),
        ({"late": [None, True]}, "late: found 1 nulls, expected none"),
        ({"key": ["a"]}, "key: found 1 values, expected 2"),
        ({"key": 5}, "key: found a value that is no string"),
        ({"event_time": np.array([1.5, 2.0])}, "event_time: found a value that is no timestamp"),
        ({"nonsense": 1}, r"found columns \['nonsense'\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        to_table(SCORE, COLUMNS | change)


def test_a_missing_column_without_a_default_is_refused() -> None:
    with pytest.raises(ValueError, match="found no column key"):
        to_table(SCORE, {name: value for name, value in COLUMNS.items() if name != "key"})
