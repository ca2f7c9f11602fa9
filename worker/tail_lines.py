"""Scores, alerts, dead letters and watch alerts as lines: for a person, or as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from worker.config import Decision
from worker.dlq import DeadLetter
from worker.dlq_show import utc
from worker.terminal import Paint, cut, printable_json

Row = Mapping[str, Any]
_KEY, _ID = 20, 24  # characters at most
_BEFORE = {"alerts": 68, "watch": 56, "dlq": 89}  # characters in front of the reason
HEADS: Final[Mapping[str, str]] = {
    "scores": f"{'scored at':<12}  {'score':>10}  {'key':<{_KEY}}  {'event':<{_ID}}  model",
    "alerts": f"{'scored at':<12}  {'severity':<10} {'':<8} {'score':>10}  {'key':<{_KEY}}  reasons",
    "watch": f"{'scored at':<12}  {'kind':<10} {'':<8} {'subject':<{_KEY}}  reason",
    "dlq": f"{'when':<20}  {'reason':<18} {'key':<{_KEY}}  {'came from':<{_ID}}  detail",
}


def score_line(row: Row, decision: Decision | None, paint: Paint) -> str:
    """A score, coloured as the severity that it alone would have."""
    score = paint(f"{row['score']:>10.4g}", style_of(decision, severity_at(decision, row["score"])))
    ends = "" if row["low"] is None else f" [{row['low']:.4g}, {row['high']:.4g}]"
    flags = [name for name in ("late", "incomplete", "masked") if row[name]]
    flags += [row["degradation"].lower()] if row["degraded"] else []
    said = (
        f"{_column(row['key'], _KEY)}  {_column(row['event_id'], _ID)}  {row['model']}/{row['model_version']}"
    )
    marks = f"  {paint(', '.join(flags), 'yellow')}" if flags else ""
    return f"{_clock(row['scored_at'], paint)}  {score}  {said}{ends}{marks}"


def alert_line(row: Row, decision: Decision | None, paint: Paint, columns: int = 1000) -> str:
    """An alert, coloured by its severity; green where it ended."""
    lifecycle = row["lifecycle"].lower()
    style = "green" if lifecycle == "cleared" else style_of(decision, row["severity"])
    severity = paint(f"{cut(row['severity'], 10):<10}", style)
    why = " | ".join(reason["text"] for reason in row["reasons"]) or row["reason"]
    score = paint(f"{row['score']:>10.4g}", style)
    said = f"{_column(row['key'], _KEY)}  {cut(why, _room('alerts', columns))}"
    return f"{_clock(row['scored_at'], paint)}  {severity} {lifecycle:<8} {score}  {said}"


def watch_line(row: Row, paint: Paint, columns: int = 1000) -> str:
    """An alert of drift, of a reading or of a guard."""
    lifecycle = row["lifecycle"].lower()
    kind = paint(f"{row['kind'].lower():<10}", "green" if lifecycle == "cleared" else "alarm")
    whose = row["subject"] if row["key"] is None else f"{row['subject']} {row['key']}"
    said = f"{_column(whose, _KEY)}  {cut(row['reason'], _room('watch', columns))}"
    return f"{_clock(row['scored_at'], paint)}  {kind} {lifecycle:<8} {said}"


def letter_line(letter: DeadLetter, paint: Paint, columns: int = 1000) -> str:
    """A dead letter: when, why, whose, and where it came from."""
    source = f"{letter.source_topic}-{letter.source_partition}-{letter.source_offset}"
    key = (letter.message.key() or b"").decode("utf-8", "replace")
    reason = paint(f"{cut(letter.reason, 18):<18}", "red")
    said = (
        f"{reason} {_column(key, _KEY)}  {_column(source, _ID)}  {cut(letter.detail, _room('dlq', columns))}"
    )
    return f"{paint(f'{utc(letter.dead_at_ms):<20}', 'dim')}  {said}"


def row_json(row: Row) -> str:
    """An output as one line of JSON, its fields as in the schema; times in ISO 8601."""
    said = {**row, **({"features": dict(row["features"])} if "features" in row else {})}
    return printable_json({name: _plain(value) for name, value in said.items()})


def letter_json(letter: DeadLetter, fields: Mapping[str, Any]) -> str:
    """A dead letter as one line of JSON; `fields` is what of its event can be read."""
    said = {name: getattr(letter, name) for name in DeadLetter.__slots__ if name != "message"}
    key = letter.message.key()
    said["key"] = None if key is None else key.decode("utf-8", "replace")
    said["fields"] = {name: _plain(value) for name, value in fields.items()}
    return printable_json(said)


def severity_at(decision: Decision | None, score: float) -> str | None:
    """The most urgent severity whose threshold a score meets; None: it meets none."""
    found = None
    for name, threshold in decision.severities.items() if decision is not None else ():
        if (
            score >= threshold
            if decision is not None and decision.alert_when == "above"
            else score <= threshold
        ):
            found = name
    return found


def style_of(decision: Decision | None, severity: str | None) -> str:
    """Yellow for the least urgent severity, red for the rest, bold for the most urgent of several."""
    known = list(decision.severities) if decision is not None else []
    if severity is None:
        return "dim" if known else "bold"
    if severity not in known:  # an alert of another policy version
        return "red"
    at = known.index(severity)
    return "yellow" if at == 0 else "alarm" if at == len(known) - 1 else "red"


def _room(kind: str, columns: int) -> int:
    """What a line of so many columns has left for its reason; some, where it is narrow."""
    return max(columns - _BEFORE[kind], 24)


def _column(text: str, width: int) -> str:
    return f"{cut(text, width):<{width}}"


def _clock(when: Any, paint: Paint) -> str:
    said = when.strftime("%H:%M:%S.%f")[:-3] if isinstance(when, datetime) else str(when)
    return paint(f"{said:<12}", "dim")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value
