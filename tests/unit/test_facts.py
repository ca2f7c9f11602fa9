"""Scores, alerts and labels say what their fields say, and what says nothing is told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from feature_cache.cases import Fact
from schemas.codec import Codec
from schemas.schema import Schema, load_schema, parse_schema
from worker.facts import FactPlan, alert_facts, label_facts, score_facts
from worker.score_bins import score_bins
from worker.truth_types import TruthLabels, TruthOptions

MADE_MS, HORIZON_MS = 1_000, 86_400_000
EXPIRES_MS = MADE_MS + HORIZON_MS
DAY_US = 86_400_000_000
SCORE = {
    "event_id": "e1", "key": "C1", "source_topic": "t", "source_partition": 3, "source_offset": 44,
    "event_time": 5 * DAY_US + 7, "scored_at": 6 * DAY_US, "score": 0.95, "model": "m", "model_version": "2",
    "policy_version": "1", "late": False, "incomplete": False, "degraded": False,
}  # fmt: skip
ALERT = {
    **SCORE, "alert_id": "t-3-44", "severity": "critical", "lifecycle": "RAISED", "reason": "", "reasons": [],
    "features": {"amount": 12.3456, "night": float("nan")},
}  # fmt: skip
LABEL = {"event_id": "e1", "event_time": 9_000, "customer_id": "C1", "terminal_id": "T1", "fraud": True}
WIDE = parse_schema(
    """{"type": "record", "name": "Wide", "fields": [
    {"name": "id", "type": ["null", "long"]}, {"name": "loss", "type": ["null", "double"]},
    {"name": "channel", "type": ["null", "string"]}, {"name": "known", "type": "long"}]}"""
)


def plan(**truth: Any) -> FactPlan:
    """Two severities, and what the test says of the truth."""
    labels = TruthLabels(
        topic="labels", schema_ref="label", event_id="event_id", label="fraud", time="event_time"
    )
    of = {"topic": "figures", "labels": labels, "horizon_ms": HORIZON_MS, **truth}
    return FactPlan(
        truth=TruthOptions(**of), severities=("warning", "critical"), thresholds=(0.5, 0.9), alert_below=False
    )


def encoded(schema: Schema, *rows: dict[str, Any]) -> list[bytes | None]:
    """Records."""
    return [*Codec(schema, "raw").encode_rows(rows)]


def scores(*rows: dict[str, Any], of: FactPlan | None = None) -> list[Fact]:
    """The facts of scores."""
    schema = load_schema("score")
    found = score_facts(Codec(schema, "raw"), encoded(schema, *rows), [MADE_MS] * len(rows), of or plan())
    assert found.rows == list(range(len(rows)))
    return found.facts


def wide(*rows: dict[str, Any], **truth: Any) -> list[Fact]:
    """The facts of labels with every field nullable."""
    labels = TruthLabels(topic="labels", schema_ref="wide", event_id="id", label="loss", time="known")
    values = encoded(WIDE, *({"id": 1, "loss": 1.0, "channel": None, "known": 9, **row} for row in rows))
    places = [(2, 10 + row) for row in range(len(rows))]
    of = plan(labels=labels, **truth)
    return label_facts(Codec(WIDE, "raw"), values, [MADE_MS] * len(rows), places, of).facts


def test_a_score_says_when_and_where_it_was_made_and_which_cell_it_counts_in() -> None:
    (fact,) = scores(SCORE)

    cell = f"{score_bins(np.array([0.95], np.float32))[0]}.2.9"
    assert fact == Fact(b"e1", f"s {6 * DAY_US} 3 44 {EXPIRES_MS} 5 2 - {cell} 9 950000 2")


def test_a_score_that_is_no_probability_has_no_tenth() -> None:
    (fact,) = scores({**SCORE, "score": 123.0})

    assert fact.text.split(" ")[-3:] == ["-", "1000000", "2"]


@pytest.mark.parametrize("version", ["a b", "a|b", "a\n b"])
def test_a_version_cannot_pass_for_two_words(version: str) -> None:
    (fact,) = scores({**SCORE, "model_version": version})

    assert fact.text.split(" ")[6] == "a_b"


def test_what_is_no_score_is_counted_by_its_reason() -> None:
    schema = load_schema("score")
    values = [*encoded(schema, {**SCORE, "score": float("nan")}, SCORE), b"\x00", None]

    found = score_facts(Codec(schema, "raw"), values, [MADE_MS] * 4, plan())

    assert found.rows == [1]
    assert found.rejected["not_scored"] == 1
    assert sum(found.rejected.values()) == 3


def test_an_alert_says_its_level_and_what_the_event_is_worth() -> None:
    schema = load_schema("alert")
    changed = [
        {},
        {"lifecycle": "UPDATED", "severity": "warning"},
        {"lifecycle": "CLEARED"},
        {"severity": "x"},
    ]
    values = encoded(schema, *({**ALERT, **change} for change in changed))

    found = alert_facts(Codec(schema, "raw"), values, [MADE_MS] * 4, plan(value="alert.amount"))

    place = f"a {6 * DAY_US} 3 44 {EXPIRES_MS}"
    assert found.facts == [Fact(b"e1", f"{place} 2 12346"), Fact(b"e1", f"{place} 1 12346")]
    assert found.rows == [0, 1]
    for value in (None, "label.fraud", "alert.night", "alert.nothing"):
        without = alert_facts(Codec(schema, "raw"), values[:1], [MADE_MS], plan(value=value))
        assert without.facts == [Fact(b"e1", f"{place} 2 -")]


def test_a_label_says_when_the_truth_became_known() -> None:
    schema = load_schema("label")
    values = encoded(schema, LABEL, {**LABEL, "fraud": False})

    found = label_facts(Codec(schema, "raw"), values, [MADE_MS, 2_000], [(1, 7), (2, 8)], plan())

    assert found.facts == [
        Fact(b"e1", f"l 9000000 1 7 {EXPIRES_MS} 1 - -"),
        Fact(b"e1", f"l 9000000 2 8 {EXPIRES_MS + 1_000} 0 - -"),
    ]


def test_without_a_field_for_the_time_the_kafka_timestamp_says_which_label_is_the_later() -> None:
    schema = load_schema("label")
    labels = TruthLabels(topic="labels", schema_ref="label", event_id="event_id", label="fraud")

    found = label_facts(
        Codec(schema, "raw"), encoded(schema, LABEL), [MADE_MS], [(0, 0)], plan(labels=labels)
    )

    assert found.facts[0].text.split(" ")[1] == str(MADE_MS * 1000)


def test_labels_may_have_any_numbers_segments_and_values() -> None:
    rows: list[dict[str, Any]] = [
        {"channel": "web", "loss": 0.5},
        {"channel": "fax", "loss": 0.0},
        {"channel": "all", "loss": -3.0},
        {"loss": 2e9},
    ]

    facts = wide(*rows, segment="label.channel", segments=("web", "pos"), value="label.loss")

    assert [fact.event_id for fact in facts] == [b"1"] * 4
    assert [fact.text.split(" ", 5)[5] for fact in facts] == [
        "1 web 500",
        "0 other 0",
        "0 other -3000",
        "1 - -",
    ]
    assert facts[0].text.split(" ")[1:4] == ["9000", "2", "10"]


def test_a_label_without_an_event_or_a_truth_is_counted_as_such() -> None:
    assert wide({"id": None}, {"loss": None}, {"loss": float("nan")}) == []


def test_a_score_may_say_its_segment() -> None:
    (fact,) = scores(
        {**SCORE, "degradation": "CPU"}, of=plan(segment="score.degradation", segments=("CPU", "RULES"))
    )

    assert fact.text.split(" ")[7] == "CPU"
