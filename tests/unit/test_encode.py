"""Scores and alerts say where they come from and how far they can be trusted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from feature_cache.order import EQUAL, IN_ORDER, LATE, ORDERS
from schemas.codec import Codec
from schemas.schema import load_schema
from tests.builders import Message, event_schema, events, features, records, table_rows
from worker.batch import Batch
from worker.decide import CLEARED, NONE, RAISED, UPDATED, Decisions
from worker.decision_rules import parse_decision_rule
from worker.decode import DecodePlan, decode
from worker.degradation import STALE_LOOKUP, STEPS, WHOLE
from worker.encode import SCORE, Stamp, alert_rows, score_columns
from worker.interval import Interval, ends

NOW_US = 1_700_000_000_000_001
STAMP = Stamp(
    source_topic="transactions",
    model="fraud",
    policy_version="7",
    event_id="id",
    key="card",
    severities=("warning", "critical"),
    feature_names=("amount", "night"),
    thresholds=(0.5, 0.9),
)
BATCH = Batch(
    events=events(
        time_us=[11, 12, 13], keys=[b"a", "é".encode(), b"c"], partition=[0, 1, 0], offset=[5, 6, 7]
    ),
    features=features(
        np.array([[90.0, 1.0], [20.0, 0.0], [50.0, 0.0]]),
        lookup_age_ms=[0, -1, 2**53],
        late=[True, False, False],
        time_order=[LATE, EQUAL, IN_ORDER],
        incomplete=[False, True, False],
        degradation=[WHOLE, WHOLE, STALE_LOOKUP],
    ),
    version="2",
)
SCORES = np.array([0.95, 0.5, 0.25], np.float32)
REASON = {
    "feature": "amount",
    "value": 90.0,
    "usual": 50.0,
    "contribution": 0.25,
    "text": "amount is 90; usually 50",
}
REASONS = {0: [REASON, {**REASON, "usual": None, "contribution": None}]}


def scored(rows: list[int]) -> list[dict[str, Any]]:
    """The score records of these rows, through their real codec and back."""
    codec = Codec(SCORE, "single_object")
    columns = score_columns(BATCH, SCORES, np.array(rows, np.int64), STAMP, NOW_US)
    decoded = codec.decode(codec.encode_columns(columns, len(rows)))
    assert decoded.rejects == ()
    return table_rows(decoded.table)


def micros(value: Any) -> int:
    """A decoded timestamp as microseconds."""
    return int(value.timestamp() * 1_000_000 + 0.5)


def test_a_score_says_what_was_scored_by_what_and_how_far_it_can_be_trusted() -> None:
    first, second, third = scored([0, 1, 2])

    assert micros(first.pop("event_time")) == 11
    assert micros(first.pop("scored_at")) == NOW_US
    assert first == {
        "event_id": "e5",
        "key": "a",
        "source_topic": "transactions",
        "source_partition": 0,
        "source_offset": 5,
        "score": pytest.approx(0.95),
        "model": "fraud",
        "model_version": "2",
        "policy_version": "7",
        "late": True,
        "incomplete": False,
        "degraded": False,
        "lookup_age_ms": 0,
        "degradation": "NONE",
        "time_order": "LATE",
        "low": None,
        "high": None,
        "masked": False,
    }
    assert (second["key"], second["incomplete"], second["lookup_age_ms"]) == ("é", True, None)
    assert (second["time_order"], third["time_order"]) == ("EQUAL", "IN_ORDER")
    assert (third["degraded"], third["degradation"], third["lookup_age_ms"]) == (True, "STALE_LOOKUP", 2**53)


def test_only_the_rows_asked_for_are_written_and_stay_together() -> None:
    third, first = scored([2, 0])

    assert (third["event_id"], third["key"], third["source_offset"]) == ("e7", "c", 7)
    assert (first["event_id"], first["key"], first["source_offset"]) == ("e5", "a", 5)
    assert scored([]) == []


def test_a_whole_number_names_an_event_in_decimal() -> None:
    schema = event_schema(key="long")
    codec = Codec(schema, "raw")
    plan = DecodePlan(key="card", event_time="time", time_unit_us=1000, max_future_us=None, finite=())
    value = codec.encode_rows([{"id": "e", "time": 1, "card": -42, "amount": 1.0}])[0]
    made, _ = decode(records([Message(record_value=value, record_key=b"-42")]), codec, plan, 0)

    columns = score_columns(
        Batch(events=made, features=features(np.zeros((1, 2)))),
        SCORES[:1],
        np.array([0]),
        replace(STAMP, event_id="card"),
        NOW_US,
    )

    assert columns["event_id"].to_list() == columns["key"].to_list() == [b"-42"]


def alerts(lifecycle: list[int], level: list[int], rows: list[int]) -> list[dict[str, Any]]:
    """The alert records among these rows, through their real codec and back."""
    decisions = Decisions(lifecycle=np.array(lifecycle, np.uint8), level=np.array(level, np.uint8))
    made = alert_rows(BATCH, SCORES, decisions, REASONS, np.array(rows, np.int64), STAMP, NOW_US)
    codec = Codec(load_schema("alert"), "single_object")
    decoded = codec.decode(codec.encode_rows(made))
    assert decoded.rejects == ()
    return table_rows(decoded.table)


def test_an_alert_is_its_score_and_why() -> None:
    (alert,) = alerts([RAISED, NONE, NONE], [2, 0, 0], [0, 1, 2])

    assert alert["alert_id"] == "transactions-0-5"
    assert (alert["severity"], alert["lifecycle"]) == ("critical", "RAISED")
    assert alert["reason"] == "score 0.95 against critical threshold 0.9"
    assert dict(alert["features"]) == {"amount": 90.0, "night": 1.0}
    assert [dict(reason) for reason in alert["reasons"]] == REASONS[0]
    assert alert["event_id"] == "e5"
    assert micros(alert["event_time"]) == 11


def test_a_score_has_its_interval_and_nothing_where_it_has_none() -> None:
    interval = Interval(coverage=0.9, edges=(0.5,), low=(-0.25, -0.5), high=(0.25, 0.0625), within=(0, 1))
    low, high = ends(interval, SCORES)
    low[2] = high[2] = np.nan
    columns = score_columns(replace(BATCH, ends=(low, high)), SCORES, np.arange(3), STAMP, NOW_US)
    codec = Codec(SCORE, "single_object")

    first, second, third = table_rows(codec.decode(codec.encode_columns(columns, 3)).table)

    assert (first["low"], first["high"]) == (pytest.approx(0.45), 1)
    assert (second["low"], second["high"]) == (0, 0.5625)
    assert (third["low"], third["high"]) == (None, None)


def test_an_alert_names_the_rule_that_decided_and_the_end_that_met_the_threshold() -> None:
    rule = parse_decision_rule(
        "busy",
        "amount > 1",
        "or",
        "critical",
        names=STAMP.feature_names,
        severities=STAMP.severities,
    )
    stamp = replace(STAMP, rules=(rule,), on="low")
    batch = replace(BATCH, ends=ends(Interval(coverage=0.9, edges=(), low=(-0.25,), high=(0,)), SCORES))
    decisions = Decisions(
        lifecycle=np.array([RAISED, NONE, RAISED], np.uint8),
        level=np.array([2, 0, 1], np.uint8),
        rules=np.array([[True], [True], [False]]),
    )
    codec = Codec(load_schema("alert"), "single_object")

    made = alert_rows(batch, SCORES, decisions, {}, np.arange(3), stamp, NOW_US)
    first, third = table_rows(codec.decode(codec.encode_rows(made)).table)

    assert first["reason"] == (
        "low end 0.7 of score 0.95 against critical threshold 0.9; rule busy asks for critical"
    )
    assert (first["rules"], third["rules"]) == (["busy"], [])
    assert (third["low"], third["high"]) == (0, 0.25)


def test_a_cleared_alert_names_the_severity_it_had() -> None:
    updated, cleared = alerts([NONE, UPDATED, CLEARED], [0, 1, 2], [0, 1, 2])

    assert (updated["severity"], updated["lifecycle"], updated["alert_id"]) == (
        "warning",
        "UPDATED",
        "transactions-1-6",
    )
    assert (cleared["severity"], cleared["lifecycle"]) == ("critical", "CLEARED")


def test_an_event_that_is_replayed_or_not_scored_raises_nothing() -> None:
    assert alerts([RAISED, NONE, RAISED], [1, 0, 1], [1]) == []
    assert alerts([RAISED, RAISED, RAISED], [1, 1, 1], []) == []


def test_enums_of_a_score_are_numbered_as_its_schema_numbers_them() -> None:
    symbols = {field.name: field.node.symbols for field in SCORE.tree.fields if field.node.kind == "enum"}

    assert symbols == {"degradation": STEPS, "time_order": ORDERS}
