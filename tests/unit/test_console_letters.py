"""A dead letter on the console: its fields as far as they go, and nothing of a person who is hidden."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.workers import pipeline_file
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table
from worker.config import Pipeline, load_pipeline
from worker.console_letters import letter_row
from worker.console_records import Newest, plain
from worker.dlq import dead_letter
from worker.privacy import hashed

HASH_KEY = "0123456789abcdef"
CUSTOMER = "Ms Customer 4711"


@dataclass(frozen=True, slots=True)
class Message:
    """A record as the client gives it."""

    data: bytes | None
    name: bytes | None = CUSTOMER.encode()

    def value(self) -> bytes | None:
        return self.data

    def key(self) -> bytes | None:
        return self.name

    def headers(self) -> list[tuple[str, bytes]]:
        said = {"reason": "truncated", "detail": "amount: found 3 bytes", "stage": "decode"}
        said |= {"pipeline": "fraud", "source.offset": "7", "source.partition": "1", "source.topic": "t"}
        return [("who", CUSTOMER.encode()), *((f"penstock.{k}", v.encode()) for k, v in said.items())]

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 3

    def timestamp(self) -> tuple[int, int]:
        return 1, 1000


def record() -> bytes:
    columns = {
        "transaction_id": ["t-1"],
        "event_time": [1_760_000_000_000],
        "customer_id": [CUSTOMER],
        "terminal_id": ["T1"],
        "amount": [12.5],
    }
    schema = load_schema("transaction")
    return Codec(schema, "single_object").encode(to_table(schema, columns))[0]


def pipeline(folder: Path, *, hides: bool = False) -> Pipeline:
    def change(document: dict[str, Any]) -> None:
        if hides:
            document["privacy"] = {"hash_key": "${HASH_KEY}"}

    return load_pipeline(pipeline_file("fraud", folder, "", change), {"HASH_KEY": HASH_KEY})


@pytest.fixture(autouse=True)
def _lookups(tmp_path: Path) -> None:
    pipeline_file("terminal-risk", tmp_path, "")


def row(data: bytes | None, of: Pipeline, key: bytes | None = CUSTOMER.encode()) -> dict[str, Any]:
    letter = dead_letter(Message(data, key))
    assert letter is not None
    shown = letter_row(letter, of)
    json.dumps(shown, allow_nan=False)  # as it is answered
    return shown


def test_fields_are_shown_with_their_places_up_to_where_reading_stops(tmp_path: Path) -> None:
    whole = record()

    shown = row(whole[:-5], pipeline(tmp_path))

    names = [name for name, *_ in shown["fields"]]
    assert names == ["transaction_id", "event_time", "customer_id", "terminal_id"]
    for before, after in zip(shown["fields"], shown["fields"][1:], strict=False):
        assert before[2] == after[1]
    assert shown["stop"] == shown["fields"][-1][2]
    assert shown["problem"].startswith("truncated")
    assert bytes.fromhex(shown["hex"]) == whole[:-5]


@pytest.mark.parametrize("data", [None, b"", b"\x00", b"\xff" * 5000, record()[:10], b"<script>"])
def test_whatever_the_bytes_are_something_is_said_of_them(tmp_path: Path, data: bytes | None) -> None:
    shown = row(data, pipeline(tmp_path))

    assert shown["problem"]
    assert len(shown["hex"]) <= 2048
    assert shown["size"] == (None if data is None else len(data))


@pytest.mark.parametrize("data", [record(), record()[:-5], CUSTOMER.encode() * 3, None])
@pytest.mark.parametrize("key", [CUSTOMER.encode(), CUSTOMER.encode() + b"\xff", None])
def test_where_personal_fields_are_hidden_nothing_tells_who_it_is(
    tmp_path: Path, data: bytes | None, key: bytes | None
) -> None:
    shown = row(data, pipeline(tmp_path, hides=True), key)

    text = json.dumps(shown)
    for part in (CUSTOMER, "Customer", CUSTOMER.encode().hex(), CUSTOMER.encode().hex(" ")):
        assert part not in text
    assert shown["hex"] is None


def test_a_hidden_key_is_the_hash_that_alerts_carry(tmp_path: Path) -> None:
    shown = row(record(), pipeline(tmp_path, hides=True))

    expected = hashed(CUSTOMER.encode(), HASH_KEY.encode())
    assert shown["key"] == expected
    assert ["customer_id", expected] in [[name, value] for name, _, _, value in shown["fields"]]


def test_only_the_newest_are_kept_and_each_is_given_once() -> None:
    newest = Newest(at_most=3)
    for number in range(5):
        newest.add({"pipeline": "ab"[number % 2], "value": number})

    assert [each["value"] for each in newest.after(0, "", 10)] == [4, 3, 2]
    assert [each["value"] for each in newest.after(4, "", 10)] == [4]
    assert [each["value"] for each in newest.after(0, "a", 10)] == [4, 2]
    assert [each["value"] for each in newest.after(0, "", 2)] == [4, 3]


def test_what_json_cannot_say_is_said_as_text() -> None:
    said = plain({"a": [float("nan"), float("inf"), 1.5], "m": [("x", 1.0)], "b": b"\x01", "n": None})

    assert said == {"a": ["nan", "inf", 1.5], "m": {"x": 1.0}, "b": "01", "n": None}
