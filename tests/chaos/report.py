"""The table: fault, times injected, events, lost, doubled, different, longest outage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.chaos.faults import KINDS
from tests.chaos.rounds import Result, as_json


def by_kind(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row a fault; an outcome counts for the fault injected last before it came, or for none."""
    rows: dict[str, dict[str, Any]] = {
        kind: {
            "fault": kind,
            "times": 0,
            "events": 0,
            "lost": 0,
            "doubled": 0,
            "different": 0,
            "outage_s": 0.0,
        }
        for kind in ("none", *KINDS)
    }
    for result in results:
        kind_of = {fault.number: fault.kind for fault in result.faults}
        verdict = result.verdict
        top = max(kind_of, default=0) + 1
        for number in range(max(top, int(verdict.events_by_fault.nonzero()[0].max(initial=0)) + 1)):
            row = rows[kind_of.get(number, "none")]
            row["events"] += int(verdict.events_by_fault[number])
            row["lost"] += int(verdict.lost_by_fault[number])
            row["doubled"] += int(verdict.doubled_by_fault[number])
            row["different"] += int(verdict.different_by_fault[number])
            row["outage_s"] = max(row["outage_s"], round(result.longest_outage_s.get(number, 0.0), 2))
        for fault in result.faults:
            rows[fault.kind]["times"] += 1
    return [row for row in rows.values() if row["times"] or row["events"]]


def table(results: Sequence[Result]) -> str:
    """The rows and their sum, for a terminal."""
    rows = by_kind(results)
    total = {"fault": "all", "outage_s": max((row["outage_s"] for row in rows), default=0.0)}
    for name in ("times", "events", "lost", "doubled", "different"):
        total[name] = sum(row[name] for row in rows)
    names = ("fault", "times", "events", "lost", "doubled", "different", "outage s")
    lines = [f"{names[0]:<14}" + "".join(f"{name:>11}" for name in names[1:])]
    for row in (*rows, total):
        numbers = "".join(f"{row[name]:>11}" for name in names[1:-1])
        lines.append(f"{row['fault']:<14}{numbers}{row['outage_s']:>11.2f}")
    return "\n".join(lines)


def summary(results: Sequence[Result], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything worth keeping, for a file."""
    rounds = [as_json(result) for result in results]
    return {
        **settings,
        "faults": sum(len(result.faults) for result in results),
        **{
            name: sum(one[name] for one in rounds)
            for name in ("events", "alerts", "dead_letters", "lost", "doubled", "different", "out_of_order")
        },
        "seconds_of_faults": round(sum(result.seconds for result in results), 1),
        "by_fault": by_kind(results),
        "rounds": rounds,
    }
