"""What was sent in again is remembered, and a damaged record is shown as far as it goes."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.partial import spell
from schemas.schema import Schema, load_schema, parse_schema
from tests.builders import EVENT_AVSC, Message, pipeline
from worker.dead_letters import is_theirs
from worker.dlq import DeadLetter, dead_letter
from worker.dlq_commands import _place, _source, since_ms
from worker.dlq_memory import Memory, remembered
from worker.dlq_replay import Choice
from worker.dlq_show import as_json, describe, table
from worker.exits import StopWorker

SAID = {
    "reason": "truncated", "detail": "amount: found 3 bytes, expected 8", "stage": "decode", "pipeline": "p",
    "source.topic": "in", "source.partition": "2", "source.offset": "4711",
    "source.timestamp_ms": "1700000000000", "attempt": "2",
}  # fmt: skip
EVENT = parse_schema(json.dumps(EVENT_AVSC))
ROW = {"id": "e1", "time": 1_700_000_000_000_000, "card": "C1", "terminal": "T", "amount": 2.5, "speed": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """A record of the dead-letter topic as the client hands it out."""

    message: Message

    def value(self) -> bytes | None:
        """The value, untouched."""
        return self.message.record_value

    def key(self) -> bytes | None:
        """The key, untouched."""
        return self.message.record_key

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        """The headers in their order."""
        return self.message.record_headers

    def partition(self) -> int:
        """Where it lies."""
        return self.message.record_partition

    def offset(self) -> int:
        """Where it lies there."""
        return self.message.record_offset

    def topic(self) -> str:
        """The dead-letter topic."""
        return "p.dead"

    def timestamp(self) -> tuple[int, int]:
        """When it was written."""
        return 1, 1_700_000_001_000


def letter(offset: int = 17, value: bytes | None = b"\xc3\x01", **said: str) -> DeadLetter:
    """A dead letter; what is said replaces its headers."""
    headers: list[tuple[str, bytes | None]] = [("trace", b"\xff")]
    headers += [(f"penstock.{k}", v.encode()) for k, v in {**SAID, **said}.items()]
    found = dead_letter(
        Dead(
            message=Message(
                record_value=value, record_key=b"C1", record_headers=headers, record_offset=offset
            )
        )
    )
    assert found is not None
    return found


def test_a_dead_letter_is_what_its_headers_say() -> None:
    found = letter()

    assert (found.partition, found.offset, found.reason, found.attempt) == (0, 17, "truncated", 2)
    assert found.source == ("in", 2, 4711)


@pytest.mark.parametrize(
    "headers", [None, [], [("penstock.reason", b"x")], [("penstock.source.offset", b"3")]]
)
def test_a_record_that_is_no_dead_letter_is_none(headers: list[tuple[str, bytes | None]] | None) -> None:
    assert dead_letter(Dead(message=Message(record_value=b"v", record_headers=headers))) is None


def test_headers_of_the_producer_stay_and_those_of_a_dead_letter_go() -> None:
    """A time marker that was refused must still be one when it is sent in again."""
    names = ("trace", "penstock.time-marker", "penstock.reason", "penstock.attempt")

    assert [is_theirs(name) for name in names] == [True, True, False, False]


# What was sent in again.


def test_a_kind_is_remembered_up_to_where_it_came_and_single_ones_by_themselves() -> None:
    memory = Memory()
    memory.note(letter(5), single=False)
    memory.note(letter(9), single=True)

    kept = remembered(memory.text())

    assert [kept.has(letter(offset)) for offset in (4, 5, 6, 9, 10)] == [True, True, False, True, False]
    assert not kept.has(letter(5, reason="oversize")), "another reason is another kind"
    assert not kept.has(letter(5, attempt="3")), "so is another attempt"
    assert kept.end == 10


def test_single_ones_are_forgotten_when_their_kind_has_come_past_them() -> None:
    memory = Memory()
    memory.note(letter(9), single=True)
    memory.note(letter(9), single=False)

    assert memory.text() == "truncated/2=10"


def test_more_than_can_be_remembered_is_an_error_before_anything_is_sent() -> None:
    memory = Memory()
    for offset in range(1000, 2000):
        memory.note(letter(offset), single=True)

    with pytest.raises(StopWorker, match="replay by --reason"):
        memory.text()


@given(st.text(max_size=200))
def test_any_text_beside_an_offset_can_be_read(text: str) -> None:
    assert remembered(remembered(text).text()) == remembered(text)


def test_everything_is_all_but_what_is_part_of_the_state_already() -> None:
    failed = letter(reason="model_failed", stage="score")

    assert Choice().takes(letter())
    assert not Choice().takes(failed)
    assert Choice(reasons=frozenset({"model_failed"})).takes(failed)
    assert Choice(places=frozenset({(0, 17)})).takes(failed)
    assert Choice(sources=frozenset({("in", 2, 4711)})).takes(failed)
    assert not Choice(places=frozenset({(0, 18)})).takes(failed)


# Words.


def test_times_and_places_are_read_as_they_are_written() -> None:
    assert since_ms("2026-01-31T12:00") == since_ms("2026-01-31T14:00+02:00") == 1_769_860_800_000
    assert since_ms("1h") - since_ms("2h") == pytest.approx(3_600_000, abs=1000)
    assert _source("my-topic.v-1-2-4711") == ("my-topic.v-1", 2, 4711)
    assert _place("0-17") == (0, 17)
    for read, text in ((since_ms, "yesterday"), (_source, "2-4711"), (_place, "17"), (_place, "0--1")):
        with pytest.raises(argparse.ArgumentTypeError, match="expected"):
            read(text)


def test_a_line_of_the_table_fits_the_terminal() -> None:
    text = table([(letter(), True)], 60)

    assert all(len(line) <= 60 for line in text.splitlines())
    assert text.splitlines()[1].startswith("0-17   in-2-4711  truncated")


def test_json_has_what_the_headers_say_and_not_the_record() -> None:
    found = json.loads(as_json(letter(value=b"secret"), False))

    assert found["reason"] == "truncated"
    assert found["replayed"] is False
    assert "secret" not in str(found)


# A record as far as it goes.


def test_a_record_is_shown_up_to_where_it_breaks(tmp_path: Path) -> None:
    made = pipeline(tmp_path, "  amount: {kind: field, field: amount}")
    (value,) = Codec(load_schema("event.avsc", tmp_path), "single_object").encode_rows([ROW])

    whole, cut = describe(letter(value=value), made, False), describe(letter(value=value[:-11]), made, False)

    assert "speed     1.0" in whole
    assert "the bytes are a good record" in whole
    assert "key       C1" in cut
    assert "header    trace: hex ff" in cut
    assert "card      'C1'" in cut
    assert "here decoding stops: truncated: amount: found 5 bytes, expected 8" in cut
    assert "amount    " not in cut.replace("amount: ", "")


@pytest.mark.parametrize("value", [None, b"", b"\xc3", b"junk" * 5000])
def test_anything_can_be_shown(tmp_path: Path, value: bytes | None) -> None:
    made = pipeline(tmp_path, "  amount: {kind: field, field: amount}")

    assert "reason    truncated" in describe(letter(value=value), made, True)


def all_kinds() -> Schema:
    """A schema with every shape of field."""
    inner = {"type": "record", "name": "I", "fields": [{"name": "x", "type": "int"}]}
    fields = [
        {"name": "r", "type": inner},
        {"name": "t", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "m", "type": {"type": "map", "values": "string"}},
        {"name": "u", "type": ["null", "double"]},
        {"name": "again", "type": "I"},
    ]
    return parse_schema(json.dumps({"type": "record", "name": "R", "fields": fields}))


@given(st.binary(max_size=60))
def test_any_bytes_are_spelled_without_an_error(data: bytes) -> None:
    spelled = spell(all_kinds(), data)

    assert spelled.stop <= len(data)
    assert (spelled.problem is None) == (len(spelled.fields) == 5 and spelled.stop == len(data))
