"""What a topic holds as lines: coloured by severity for people, whole for machines, harmless for both."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from worker.config import Decision, load_pipeline
from worker.dlq import DeadLetter
from worker.exits import StopWorker
from worker.tail_command import topic_of
from worker.tail_lines import (
    alert_line,
    letter_json,
    letter_line,
    row_json,
    score_line,
    severity_at,
    style_of,
    watch_line,
)
from worker.terminal import plain

ROOT = Path(__file__).resolve().parents[2]
WHEN = datetime(2026, 1, 31, 12, 0, 0, 123456)
ABOVE = Decision(severities={"warning": 0.5, "serious": 0.7, "critical": 0.9}, cooldown_us=1)
BELOW = Decision(alert_when="below", severities={"warning": 0.0, "critical": -0.1}, cooldown_us=1)
SCORE = {
    "event_id": "e-1", "key": "C7", "score": 0.75, "model": "fraud", "model_version": "2", "scored_at": WHEN,
    "low": None, "high": None, "late": False, "incomplete": False, "masked": False, "degraded": False,
    "degradation": "NONE",
}  # fmt: skip
ALERT = {
    **SCORE, "severity": "critical", "lifecycle": "RAISED", "reason": "score 0.75 against ...",
    "reasons": [{"text": "amount is 900; usually 20"}, {"text": "3 payments"}],
    "features": [("amount", 900.0)],
}  # fmt: skip
STEERING = "\x1b]0;mine\x07\x1b[2J\n\x9b2J\u202e"


class Message:
    """As much of a record as a dead letter shows."""

    def __init__(self, key: bytes | None) -> None:
        self._key = key

    def key(self) -> bytes | None:
        return self._key


def letter(key: bytes | None = b"C7", **changes: Any) -> DeadLetter:
    """A dead letter."""
    return dataclasses.replace(
        DeadLetter(
            partition=0, offset=17, dead_at_ms=1_769_860_800_000, reason="key_mismatch", stage="decode",
            detail="the record key is not the value of customer_id", pipeline="fraud",
            source_topic="transactions", source_partition=2, source_offset=4711,
            source_ms=1_769_860_800_000, attempt=1, message=Message(key),
        ),
        **changes,
    )  # fmt: skip


def marked(text: str, style: str) -> str:
    """Text with its style in words."""
    return f"<{style}>{text.strip()}</>"


@pytest.mark.parametrize(
    ("decision", "score", "severity", "style"),
    [
        (ABOVE, 0.4, None, "dim"),
        (ABOVE, 0.5, "warning", "yellow"),
        (ABOVE, 0.7, "serious", "red"),
        (ABOVE, 0.95, "critical", "alarm"),
        (ABOVE, float("nan"), None, "dim"),
        (BELOW, 0.1, None, "dim"),
        (BELOW, 0.0, "warning", "yellow"),
        (BELOW, -0.2, "critical", "alarm"),
        (None, 0.95, None, "bold"),
    ],
)
def test_a_score_has_the_colour_of_the_severity_that_it_alone_would_have(
    decision: Decision | None, score: float, severity: str | None, style: str
) -> None:
    assert severity_at(decision, score) == severity
    assert style_of(decision, severity) == style
    assert f"<{style}>{score:.4g}</>" in score_line({**SCORE, "score": score}, decision, marked)


def test_an_alert_says_who_how_urgent_and_why() -> None:
    line = alert_line(ALERT, ABOVE, marked)

    assert "<alarm>critical</> raised" in line
    assert "C7" in line
    assert "amount is 900; usually 20 | 3 payments" in line
    assert "<green>critical</> cleared" in alert_line({**ALERT, "lifecycle": "CLEARED"}, ABOVE, marked)
    assert "<red>gone</>" in alert_line({**ALERT, "severity": "gone"}, ABOVE, marked)  # of an older policy
    assert "score 0.75 against" in alert_line({**ALERT, "reasons": []}, ABOVE, plain)


def test_a_line_is_as_long_as_the_terminal_is_wide() -> None:
    long = {**ALERT, "reasons": [{"text": "because " * 50}]}
    watch = {
        "scored_at": WHEN, "kind": "JUMP", "lifecycle": "RAISED", "subject": "s", "key": None,
        "reason": "r" * 300,
    }  # fmt: skip
    lines = [
        alert_line(long, ABOVE, plain, 100),
        watch_line(watch, plain, 100),
        letter_line(letter(detail="d" * 300), plain, 100 + 20),
    ]

    assert [len(line) for line in lines] == [100, 100, 120]


def test_a_score_says_its_interval_and_what_it_stands_on() -> None:
    row = {**SCORE, "low": 0.5, "high": 0.875, "late": True, "degraded": True, "degradation": "CPU"}

    assert score_line(row, ABOVE, plain).endswith("fraud/2 [0.5, 0.875]  late, cpu")


def test_a_dead_letter_says_why_and_where_it_came_from() -> None:
    line = letter_line(letter(), plain)

    assert line.split()[:3] == ["2026-01-31", "12:00:00Z", "key_mismatch"]
    assert "transactions-2-4711" in line
    assert line.endswith("the record key is not the value of customer_id")
    assert letter_line(letter(None), plain)


def test_a_watch_alert_says_what_of_whom() -> None:
    row = {
        "scored_at": WHEN, "kind": "JUMP", "lifecycle": "RAISED", "subject": "pressure", "key": "P-1",
        "reason": "pressure jumped",
    }  # fmt: skip

    assert "<alarm>jump</> raised   pressure P-1" in watch_line(row, marked)
    assert "drift" in watch_line({**row, "key": None, "subject": "drift"}, plain)


def test_json_has_every_field_and_times_with_their_zone() -> None:
    said = json.loads(row_json(ALERT))

    assert said.keys() == ALERT.keys()
    assert said["scored_at"] == "2026-01-31T12:00:00.123456Z"
    assert said["features"] == {"amount": 900.0}
    dead = json.loads(letter_json(letter(), {"amount": 3.0, "at": WHEN.replace(tzinfo=UTC)}))
    assert dead["fields"] == {"amount": 3.0, "at": "2026-01-31T12:00:00.123456Z"}
    assert (dead["key"], dead["reason"], dead["source_offset"]) == ("C7", "key_mismatch", 4711)


def test_no_record_can_steer_the_terminal() -> None:
    evil = {
        **ALERT,
        "key": STEERING,
        "severity": STEERING,
        "reasons": [{"text": STEERING}],
        "event_id": STEERING,
    }
    lines = [
        score_line(evil, ABOVE, plain),
        alert_line(evil, ABOVE, plain),
        letter_line(letter(STEERING.encode(), detail=STEERING, reason=STEERING), plain),
        row_json(evil),
        letter_json(letter(STEERING.encode()), {STEERING: STEERING}),
    ]

    assert [line for line in lines if not line.isprintable()] == []
    assert json.loads(lines[-1])["key"] == json.loads(lines[-2])["key"] == STEERING


def test_a_topic_that_the_file_does_not_name_is_told_by_its_key() -> None:
    fraud = load_pipeline(ROOT / "pipelines" / "fraud.yaml", {})

    assert topic_of(fraud, "dlq") == "fraud.dead-letters"
    for kind, key in (("watch", "outputs.watch"), ("shadow", "rollout.shadow")):
        with pytest.raises(StopWorker, match=key):
            topic_of(fraud, kind)
