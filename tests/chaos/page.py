"""Writes the last results into docs/chaos.md from the committed files: python -m tests.chaos.page"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "chaos.md"
RESULTS = ROOT / "benchmarks" / "results"
LAST = re.compile(r"<!-- last run -->\n.*?<!-- end -->", re.DOTALL)
PLANTED = re.compile(r"<!-- planted -->\n.*?<!-- end -->", re.DOTALL)
COLUMNS = ("times", "events", "lost", "doubled", "different", "outage_s")


def written(page: str) -> str:
    """The page with the results as they should be."""
    page = LAST.sub(lambda _: f"<!-- last run -->\n{_last(_result('chaos'))}\n<!-- end -->", page)
    return PLANTED.sub(
        lambda _: f"<!-- planted -->\n{_planted(_result('chaos-planted'))}\n<!-- end -->", page
    )


def _result(name: str) -> dict[str, Any] | None:
    file = RESULTS / f"{name}.json"
    found: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
    return found


def _last(result: dict[str, Any] | None) -> str:
    if result is None:
        return "No run has been committed."
    machine, total = result["machine"], {"fault": "all", "times": result["faults"], **result}
    total["outage_s"] = max((row["outage_s"] for row in result["by_fault"]), default=0.0)
    lines = [
        f"{result['seconds_of_faults'] / 60:.0f} minutes of faults in {len(result['rounds'])} rounds, "
        f"`{result['mode']}`, first seed {result['seed']}, {result['alerts']:,} alerts and "
        f"{result['dead_letters']:,} dead letters compared, commit {machine['commit']}, "
        f"{machine['cores']} cores ({machine['cpu']}) for all of it:",
        "",
        "| fault | times | events | lost | doubled | different | longest outage, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in (*result["by_fault"], total):
        lines.append(f"| {row['fault']} | " + " | ".join(f"{row[name]:,}" for name in COLUMNS) + " |")
    lines += ["", "An event counts for the fault injected last before its outcome came."]
    measured = result["measured"]
    if measured:
        kill, flush = measured["kill_one_of_two"], measured["flushall"]
        lines += [
            "",
            f"**SIGKILL of one of two workers**: every lane scored again after {_list(kill['outage_s'])} s "
            f"(session timeout {kill['session_timeout_s']:g} s).",
            "",
            f"**FLUSHALL** with {', '.join(f'{n:,}' for n in flush['events_in_topic'])} events in the topic, "
            f"longest window {flush['longest_window']} and a sequence, which is rebuilt from the beginning: "
            f"scores again after {_list(flush['outage_s'])} s, all correct; caught up after "
            f"{_list(flush['caught_up_s'])} s.",
        ]
    return "\n".join(lines)


def _list(seconds: list[float]) -> str:
    return ", ".join(f"{s:.1f}" for s in seconds)


def _planted(result: dict[str, Any] | None) -> str:
    if result is None:
        return "No proof has been committed."
    lines = [
        "| planted | found | faults | events | lost | doubled | different |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for proof in result["plants"]:
        one = proof["round"]
        numbers = (one[name] for name in ("faults", "events", "lost", "doubled", "different"))
        found = "yes" if proof["found"] else "NO"
        lines.append(f"| `{proof['plant']}` | {found} | " + " | ".join(f"{n:,}" for n in numbers) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
