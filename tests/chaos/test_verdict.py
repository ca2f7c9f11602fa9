"""The checker sees what it is there for: each wrong outcome on made-up topics, without any service."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.table import to_table
from tests.chaos.outcomes import Outcomes
from tests.chaos.verdict import Verdict, judge
from tests.chaos.world import topics

NAMED = topics("t.", "chaos")
SCORES = Codec(load_schema("score"), "single_object")
ALERTS = Codec(load_schema("alert"), "single_object")
EVENTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An output record as the client hands it out."""

    on_topic: str
    on_partition: int
    record_value: bytes
    record_headers: list[tuple[str, bytes]] = field(default_factory=list)

    def topic(self) -> str:
        return self.on_topic

    def partition(self) -> int:
        return self.on_partition

    def value(self) -> bytes:
        return self.record_value

    def key(self) -> bytes:
        return b"k"

    def headers(self) -> list[tuple[str, bytes]]:
        return self.record_headers


def fields(offset: int, **other: Any) -> dict[str, Any]:
    same = {
        "event_id": str(offset),
        "key": "C1",
        "source_topic": NAMED.events,
        "source_partition": 0,
        "source_offset": offset,
        "event_time": offset,
        "scored_at": 1,
        "score": offset / 7,
        "model": "tiny",
        "model_version": "1",
        "policy_version": "1",
        "late": False,
        "incomplete": False,
        "degraded": False,
    }
    return same | other


def score(offset: int, on_partition: int = 0, **other: Any) -> Record:
    table = to_table(load_schema("score"), {k: [v] for k, v in fields(offset, **other).items()})
    return Record(on_topic=NAMED.scores, on_partition=on_partition, record_value=SCORES.encode(table)[0])


def alert(offset: int, **features: float) -> Record:
    row = fields(offset) | {
        "alert_id": "a",
        "severity": "warning",
        "lifecycle": "RAISED",
        "reason": "",
        "reasons": [],
        "features": features,
    }
    return Record(on_topic=NAMED.alerts, on_partition=0, record_value=ALERTS.encode_rows([row])[0])


def dead_letter(offset: int, reason: str) -> Record:
    headers = {"source.partition": "0", "source.offset": str(offset), "reason": reason, "stage": "decode"}
    return Record(
        on_topic=NAMED.dead_letters,
        on_partition=0,
        record_value=b"x",
        record_headers=[(f"penstock.{name}", value.encode()) for name, value in headers.items()],
    )


def right() -> list[Record]:
    """What an undisturbed worker gives: the tenth record is damaged, the twentieth alerts."""
    return [score(o) if o != 10 else dead_letter(10, "truncated") for o in range(EVENTS)] + [alert(20, a=0.1)]


def outcomes(records: list[Record], at_once: int = 7) -> Outcomes:
    made = Outcomes(NAMED, 1)
    for first in range(0, len(records), at_once):
        made.note(records[first : first + at_once])
    return made


def verdict(records: list[Record]) -> Verdict:
    return judge(outcomes(records), outcomes(right()), np.array([EVENTS], np.int64))


def test_equal_outcomes_are_right_however_they_arrive() -> None:
    for at_once in (1, 3, 1000):
        found = judge(outcomes(right(), at_once), outcomes(right()), np.array([EVENTS], np.int64))
        assert found.holds("exactly_once"), found.examples


@pytest.mark.parametrize("at", [0, 10, 50, EVENTS - 1])
def test_a_record_without_outcome_is_lost(at: int) -> None:
    found = verdict([record for i, record in enumerate(right()) if i != at])

    assert (found.lost, found.doubled) == (1, 0)
    assert not found.holds("at_least_once")


@pytest.mark.parametrize("at", [5, 10])
def test_a_second_outcome_is_doubled_and_allowed_only_at_least_once(at: int) -> None:
    found = verdict([*right(), right()[at]])

    assert (found.lost, found.doubled, found.different) == (0, 1, 0)
    assert not found.holds("exactly_once")
    assert found.holds("at_least_once")


def test_a_repeated_score_must_be_the_same() -> None:
    found = verdict([*right(), score(5, score=0.5)])

    assert found.different == 1
    assert not found.holds("at_least_once")


@pytest.mark.parametrize(
    "wrong",
    [{"score": 5 / 7 + 1e-4}, {"late": True}, {"incomplete": True}, {"event_id": "6"}, {"key": "C2"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_another_value_of_any_field_is_different(wrong: dict[str, Any]) -> None:
    records = right()
    records[5] = score(5, **wrong)

    assert verdict(records).different == 1


def test_the_clock_of_scoring_is_not_compared() -> None:
    records = right()
    records[5] = score(5, scored_at=99)

    assert verdict(records).holds("exactly_once")


def test_a_score_in_place_of_a_dead_letter_is_different() -> None:
    records = right()
    records[10] = score(10)

    assert verdict(records).different > 0


def test_a_dead_letter_for_another_reason_is_different() -> None:
    records = right()
    records[10] = dead_letter(10, "bad_magic")

    assert verdict(records).different == 1


def test_features_of_an_alert_are_compared_bit_for_bit() -> None:
    assert verdict([*right()[:-1], alert(20, a=np.nextafter(0.1, 1.0))]).different == 1
    assert verdict(right()[:-1]).different == 1, "an alert that is missing"
    assert verdict([*right(), alert(20, a=0.1)]).doubled == 1


def test_scores_out_of_the_order_of_their_lane_are_seen() -> None:
    records = right()
    records[30], records[31] = records[31], records[30]

    assert verdict(records).disordered == 1
    assert judge(outcomes(records, 1), outcomes(right()), np.array([EVENTS], np.int64)).disordered == 1


def test_a_score_on_another_partition_than_its_event_is_seen() -> None:
    records = right()
    records[30] = score(30, on_partition=1)

    assert not verdict(records).holds("exactly_once")


def test_an_outcome_for_a_record_that_does_not_exist_is_seen() -> None:
    assert verdict([*right(), score(EVENTS + 5)]).different == 1
