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
    shorter, shipped = _result("alerts"), _result("alerts-as-shipped")
    machine = shorter["machine"]
    is_on_console = "console" in shorter["faults"][0]  # a result of before it was watched there has none
    rate, hold_s, more_s = (shorter[name] for name in ("events_per_s", "hold_s", "more_s"))
    lines = [
        f"Factor {shorter['factor']:g}, {shorter['workers']} workers, {rate:,.0f} events a second, a fault "
        f"held until {more_s:g} s after its first alert, at most {hold_s:g} s; {machine['cores']} cores "
        f"({machine['cpu']}) for all of it, and for other work beside it. Names without their `Penstock`; "
        "*began* is what was true, and not for long enough; *from before* what was still there from an "
        "earlier fault, and is not counted:",
        "",
        f"| fault | what was done | fired after |{' the console said, after |' if is_on_console else ''} "
        "began | from before |",
        f"| --- | --- | --- |{' --- |' if is_on_console else ''} --- | --- |",
    ]
    for fault in shorter["faults"]:
        name = fault["kind"] if fault["is_of_chaos"] else f"{fault['kind']} (not of the suite)"
        fired = _fired(fault) or f"none in {fault['held_s']:.0f} s"
        cells = (
            name,
            fault["what"],
            fired,
            *([_said(fault)] if is_on_console else []),
            _short(fault["only_pending"]),
            _short(fault["still_from_before"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    if shorter["usual"]:
        lines += ["", f"There before the first fault, and not counted: {_short(shorter['usual'])}."]
    if shorter["not_run"]:
        lines += ["", f"Not run, for want of time: {', '.join(shorter['not_run'])}."]
    told = "; ".join(f"{fault['kind']}: {_fired(fault) or 'none'}" for fault in shipped["faults"])
    return "\n".join(
        [*lines, "", f"With the rules as they are shipped (factor {shipped['factor']:g}): {told}."]
    )


def _result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def _fired(fault: dict[str, Any]) -> str:
    return ", ".join(f"{_short([a['alert']])} {a['fired_after_s']:.1f} s" for a in fault["alerts"])


def _said(fault: dict[str, Any]) -> str:
    return (
        "<br>".join(f"{each['sentence']} ({each['after_s']:.1f} s)" for each in fault["console"]) or "nothing"
    )


def _short(alerts: list[str]) -> str:
    return ", ".join(alert.removeprefix("Penstock") for alert in alerts)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
