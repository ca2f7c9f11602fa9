"""One entity on the console: features as the engine makes them, nobody named where the file hides it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from benchmarks.workers import pipeline_file
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table
from worker.config import Pipeline, load_pipeline
from worker.console_entity import _alert_key, _features, _fields
from worker.privacy import hashed

HASH_KEY = "0123456789abcdef"
HOUR_MS = 3_600_000
AMOUNTS = [10.0, 20.0, 60.0]


def pipeline(folder: Path, **sections: Any) -> Pipeline:
    def change(document: dict[str, Any]) -> None:
        document.update(sections)

    pipeline_file("terminal-risk", folder, "")
    return load_pipeline(pipeline_file("fraud", folder, "", change), {"HASH_KEY": HASH_KEY})


@pytest.fixture(scope="module")
def table() -> pa.RecordBatch:
    """Three transactions of one customer, an hour apart."""
    columns = {
        "transaction_id": ["a", "b", "c"],
        "event_time": [1_760_000_000_000 + i * HOUR_MS for i in range(3)],
        "customer_id": ["C7"] * 3,
        "terminal_id": ["T1"] * 3,
        "amount": AMOUNTS,
    }
    schema = load_schema("transaction")
    codec = Codec(schema, "single_object")
    return codec.decode(codec.encode(to_table(schema, columns))).table


def test_features_are_those_of_the_events_so_far_and_looked_up_ones_are_left_out(
    tmp_path: Path, table: pa.RecordBatch
) -> None:
    features, _ = _features(pipeline(tmp_path), table)

    assert features["customer.count_1d"] == [1, 2, 3]
    assert features["customer.mean_1d"] == [10, 15, 30]
    assert [name for name in features if name.startswith("terminal")] == []


def test_without_events_there_are_no_features(tmp_path: Path, table: pa.RecordBatch) -> None:
    assert _features(pipeline(tmp_path), table.slice(0, 0)) == ({}, [])


def test_the_key_and_the_time_stand_over_the_plots_and_are_no_fields(
    tmp_path: Path, table: pa.RecordBatch
) -> None:
    fields = _fields(pipeline(tmp_path), table)

    assert set(fields) == {"transaction_id", "terminal_id", "amount", "channel"}
    assert fields["amount"] == AMOUNTS


def test_where_personal_fields_are_hidden_they_are_hashes_and_alerts_are_found_by_theirs(
    tmp_path: Path, table: pa.RecordBatch
) -> None:
    schema = (Path(__file__).parents[2] / "schemas" / "transaction.avsc").read_text()
    marked = schema.replace('"terminal_id", "type": "string"', '"terminal_id", "type": "string", "pii": true')
    (tmp_path / "marked.avsc").write_text(marked)
    plain = pipeline(tmp_path)
    assert _alert_key(plain, b"C7") == b"C7"
    assert _fields(plain, table)["terminal_id"] == ["T1"] * 3

    source = yaml.safe_load((tmp_path / "fraud.yaml").read_text())["source"]
    hiding = pipeline(
        tmp_path, privacy={"hash_key": "${HASH_KEY}"}, source={**source, "schema": "marked.avsc"}
    )

    assert _alert_key(hiding, b"C7") == hashed(b"C7", HASH_KEY.encode()).encode()
    assert _fields(hiding, table)["terminal_id"] == [hashed(b"T1", HASH_KEY.encode())] * 3
    assert _fields(hiding, table)["amount"] == AMOUNTS
