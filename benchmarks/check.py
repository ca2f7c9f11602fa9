"""Has the hot path become slower since the last release, and which stage of it."""

from __future__ import annotations

import argparse
import json
import logging
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from benchmarks.machine import machine
from benchmarks.stages import PASSTHROUGH, Cost, measure

HISTORY = Path(__file__).parent / "history.jsonl"
NOTICED = 0.05  # of the total: less than this between two quiet runs of the same commit is noise
Line = dict[str, Any]


def main() -> int:
    """Measure this commit, keep it, and say how it stands to the last release; fails only if it could not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=40_000, help="a round, default %(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="default %(default)s")
    parser.add_argument(
        "--release", action="store_true", help="mark this commit as what later ones compare with"
    )
    parser.add_argument("--no-store", action="store_true", help="leave benchmarks/history.jsonl as it is")
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    costs = measure(arguments.events, arguments.rounds, lambda text: print(text, file=sys.stderr))
    now = line_of(costs, arguments.events, arguments.rounds, is_release=arguments.release)
    known = [json.loads(text) for text in HISTORY.read_text().splitlines()] if HISTORY.exists() else []
    then = baseline(known, now, tagged_commits())
    if not arguments.no_store:
        with HISTORY.open("a") as file:
            file.write(json.dumps(now) + "\n")
    print(json.dumps({"now": now, "then": then}) if arguments.json else explain(now, then))
    return 0


def line_of(costs: dict[str, Cost], events: int, rounds: int, *, is_release: bool) -> Line:
    """One line of the history."""
    where = machine()
    return {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "release": is_release,
        "machine": {key: where[key] for key in ("cpu", "cores", "python", "packages")},
        "events": events,
        "rounds": rounds,
        "stages": {name: asdict(cost) for name, cost in costs.items() if name not in (PASSTHROUGH, "total")},
        "passthrough": {"us": costs[PASSTHROUGH].us},
        "total": asdict(costs["total"]),
    }


def commit() -> str:
    """The commit checked out, with a + behind it when files of it are changed."""
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", ":/", f":!/benchmarks/{HISTORY.name}"
    )
    return _git("rev-parse", "HEAD") + ("+" if changed else "")


def tagged_commits() -> list[str]:
    """Commits with a tag, the newest tag first."""
    format_ = "%(if)%(*objectname)%(then)%(*objectname)%(else)%(objectname)%(end)"
    return _git("for-each-ref", "refs/tags", "--sort=-creatordate", f"--format={format_}").split()


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=HISTORY.parent, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def baseline(known: Sequence[Line], now: Line, tagged: Sequence[str]) -> Line | None:
    """The line to compare with: of the newest tag, else the newest marked as release, else the newest.

    Lines of this very commit never count. Where the same processor has lines of its own, others do not count.

    Args:
        known: lines of the history, oldest first.
        tagged: commits with a tag, the newest tag first.
    """
    others = [line for line in known if line["commit"] != now["commit"]]
    here = [line for line in others if line["machine"]["cpu"] == now["machine"]["cpu"]]
    newest_first = (here or others)[::-1]
    by_commit = {line["commit"]: line for line in reversed(newest_first)}
    for name in tagged:
        if name in by_commit:
            return by_commit[name]
    return next((line for line in newest_first if line["release"]), next(iter(newest_first), None))


def changes(now: Line, then: Line) -> dict[str, float]:
    """By how much of the former total each stage has grown, the most grown first; a new stage grew whole."""
    names = {**then["stages"], **now["stages"]}
    grown = {name: (_x(now, name) - _x(then, name)) / then["total"]["x"] for name in names}
    return dict(sorted(grown.items(), key=lambda each: -each[1]))


def noticed(now: Line, then: Line) -> dict[str, float]:
    """Those changes that are larger than what the measurements themselves vary by."""
    found = {}
    for name, share in changes(now, then).items():
        spread = math.hypot(*(line["stages"].get(name, {}).get("spread", 0.0) for line in (now, then)))
        if abs(share) > max(NOTICED / 2, 2 * spread / then["total"]["x"]):
            found[name] = share
    return found


def explain(now: Line, then: Line | None) -> str:
    """The stages side by side, and a sentence that says what became slower or faster."""
    head = f"{'':<14}{'us an event':>12}{'x pass':>9}{'before':>9}{'change':>9}"
    rows = [head]
    for name in (*sorted(now["stages"], key=lambda each: -_x(now, each)), "total"):
        at = now["total"] if name == "total" else now["stages"][name]
        before = None if then is None else _x(then, name)
        change = "-" if not before else f"{at['x'] / before - 1:+.0%}"
        was = "-" if before is None else f"{before:.2f}"
        rows.append(f"{name:<14}{at['us']:>12.2f}{at['x']:>9.2f}{was:>9}{change:>9}")
    rows.append(f"{PASSTHROUGH:<14}{now['passthrough']['us']:>12.2f}{1:>9.2f}")
    return "\n".join([*rows, _verdict(now, then)])


def _verdict(now: Line, then: Line | None) -> str:
    if then is None:
        return "nothing to compare with yet: this is the first commit measured"
    total, spread = (
        now["total"]["x"] / then["total"]["x"] - 1,
        math.hypot(now["total"]["spread"], then["total"]["spread"]),
    )
    against = f"{then['commit'][:10]} ({then['date'][:10]}{', release' if then['release'] else ''})"
    if then["machine"]["cpu"] != now["machine"]["cpu"]:
        against += ", measured on another processor"
    stages = noticed(now, then)
    grown = [f"{name} by {share:.0%}" for name, share in stages.items() if share > 0]
    shrunk = [f"{name} by {-share:.0%}" for name, share in reversed(stages.items()) if share < 0]
    parts = [f"grew: {', '.join(grown)}"] if grown else []
    parts += [f"shrank: {', '.join(shrunk)}"] if shrunk else []
    why = f"{'; '.join(parts)} (of the whole before)" if parts else "no stage stands out"
    if abs(total) <= max(NOTICED, 2 * spread / then["total"]["x"]):
        return f"{total:+.1%} against {against}, which is within what runs vary by; {why}"
    return f"{abs(total):.0%} {'slower' if total > 0 else 'faster'} than {against}; {why}"


def _x(line: Line, name: str) -> float:
    found = line["total"] if name == "total" else line["stages"].get(name, {"x": 0.0})
    return float(found["x"])


if __name__ == "__main__":
    sys.exit(main())
