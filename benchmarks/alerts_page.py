"""Writes what alerts fired over which fault into docs/runbook.md: python -m benchmarks.alerts_page"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "runbook.md"
RESULTS = ROOT / "benchmarks" / "results"
MEASURED = re.compile(r"<!-- alerts -->\n.*?<!-- end -->", re.DOTALL)


def written(page: str) -> str:
    """The page with the table as it should be."""
    return MEASURED.sub(lambda _: f"<!-- alerts -->\n{_measured()}\n<!-- end -->", page)


def _measured() -> str:
    result = json.loads((RESULTS / "alerts.json").read_text())
    machine = result["machine"]
    lines = [
        f"Durations divided by {result['factor']:g}, {result['workers']} workers, "
        f"{result['events_per_s']:,.0f} events a second, each fault held until {result['more_s']:g} s after "
        f"its first alert, at most {result['hold_s']:g} s; commit {machine['commit']}, "
        f"{machine['cores']} cores ({machine['cpu']}) for all of it, and for other work beside it:",
        "",
        "| fault | what was done | alert fired after | still there from before |",
        "| --- | --- | --- | --- |",
    ]
    for fault in result["faults"]:
        name = fault["kind"] if fault["is_of_chaos"] else f"{fault['kind']} (not of the suite)"
        before = ", ".join(fault["still_from_before"])
        lines.append(f"| {name} | {fault['what']} | {_fired(fault)} | {before} |")
    if result["usual"]:
        lines += ["", f"Firing before the first fault, and not counted: {', '.join(result['usual'])}."]
    if result["not_run"]:
        lines += ["", f"Not run, for want of time: {', '.join(result['not_run'])}."]
    return "\n".join(lines)


def _fired(fault: dict[str, Any]) -> str:
    fired = [
        f"{alert['alert'].removeprefix('Penstock')} {alert['fired_after_s']:.1f} s"
        for alert in fault["alerts"]
    ]
    pending = [
        f"{alert.removeprefix('Penstock')} (true, not for long enough)" for alert in fault["only_pending"]
    ]
    return ", ".join([*fired, *pending]) or f"none in {fault['held_s']:.0f} s"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
