"""A fault of each kind of the chaos suite, watched in Prometheus and on the console: who says what, and when.

Two workers, three brokers and a Redis run under load; a real Prometheus asks them each second. The rules are
the shipped ones in a shorter time: every duration in them, and every limit that is an age, is divided by a
factor, so that a quarter of an hour is enough. What does not shrink is the second between two looks, and what
the parts need themselves, such as the session timeout of the group (6 s here, 15 s by default). The console
is a page in a real browser; its limits are the shipped ones.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.alert_console import Page, kind_of, open_page
from benchmarks.alert_faults import HELD
from benchmarks.machine import write_result
from tests.chaos.arena import BROKERS, Arena, Services, arena, services
from tests.chaos.rounds import TRICKLE_PER_S, start_workers
from tests.chaos.world import Variation, create
from tests.services.prometheus_server import start_prometheus, start_redis_exporter

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "deploy" / "rules" / "penstock.yml"
WORKERS = ("w1", "w2")
CONSOLE_TOPIC = "alerts.console"
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LEAST_RANGE_S = 4  # a rate needs two looks, and one may be late
DURATION = re.compile(r"(?<![\w.])(\d+)([smhd])(?!\w)")
_RANGE, _OFFSET = re.compile(r"\[[^\]]*\]"), re.compile(r"offset \w+")
AGES = re.compile(r"(penstock_(?:lag|loop_age)_seconds\) > )(\d+)")
LOOK_EVERY_S = 0.5
WARM_S = 75.0  # as long as the rules look back, before the first fault
MORE_S = 4.0  # after the first alert, for those that follow it
QUIET_WITHIN_S = 25.0
SLOW = {"PenstockLatencyBudgetBurnsSlowly"}  # looks back for hours: it is not waited for
Say = Callable[[str], None]


def scaled(rules: str, factor: float) -> str:
    """The rules, with every duration, and every limit that is an age, divided by the factor."""
    document = yaml.safe_load(rules)
    for group in document["groups"]:
        for rule in group["rules"]:
            expression = _RANGE.sub(lambda found: _window(found[0], factor), rule["expr"])
            expression = _OFFSET.sub(lambda found: _shorter(found[0], factor, 1), expression)
            rule["expr"] = AGES.sub(lambda age: f"{age[1]}{int(age[2]) / factor:g}", expression)
            if "for" in rule:
                rule["for"] = _shorter(rule["for"], factor, 1)
    return str(yaml.safe_dump(document, sort_keys=False))


def _window(text: str, factor: float) -> str:
    """A range such as [5m] or [30m:15s]."""
    length, colon, step = text.partition(":")
    return _shorter(length, factor, LEAST_RANGE_S) + colon + _shorter(step, factor, 1)


def _shorter(text: str, factor: float, least_s: int) -> str:
    """Every duration in a text divided by the factor, in whole seconds."""
    return DURATION.sub(
        lambda found: f"{max(least_s, round(int(found[1]) * UNITS_S[found[2]] / factor))}s", text
    )


@dataclass(slots=True, kw_only=True)
class Watched:
    """What Prometheus said of one fault; seconds since it began."""

    kind: str
    pending_s: dict[str, float] = field(default_factory=dict)  # by alert
    firing_s: dict[str, float] = field(default_factory=dict)
    severities: dict[str, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)  # that were still there from the fault before
    said_s: dict[str, float] = field(default_factory=dict)  # by sentence of the console
    held_s: float = 0.0
    quiet_after_s: float | None = None  # of its end

    def as_json(self) -> dict[str, Any]:
        """As it is written down, alerts in the order in which they fired."""
        alerts = [
            {
                "alert": name,
                "severity": self.severities[name],
                "true_after_s": round(self.pending_s.get(name, fired_s), 1),
                "fired_after_s": round(fired_s, 1),
            }
            for name, fired_s in sorted(self.firing_s.items(), key=lambda item: item[1])
        ]
        return {
            "kind": self.kind,
            "what": HELD[self.kind].what,
            "is_of_chaos": HELD[self.kind].is_of_chaos,
            "held_s": round(self.held_s, 1),
            "alerts": alerts,
            "only_pending": sorted(self.pending_s.keys() - self.firing_s.keys()),
            "still_from_before": self.before,
            "console": [
                {"sentence": sentence, "after_s": round(at_s, 1)} for sentence, at_s in self.said_s.items()
            ],
            "quiet_after_s": None if self.quiet_after_s is None else round(self.quiet_after_s, 1),
        }


def alerts(address: str) -> dict[str, tuple[str, str]]:
    """State and severity of every alert there is now; of several of a name, firing counts."""
    with urllib.request.urlopen(f"{address}/api/v1/alerts", timeout=20) as answer:
        found = json.load(answer)["data"]["alerts"]
    states: dict[str, tuple[str, str]] = {}
    for alert in sorted(found, key=lambda alert: alert["state"] == "firing"):
        states[alert["labels"]["alertname"]] = (alert["state"], alert["labels"]["severity"])
    return states


def watch(made: Arena, prometheus: str, page: Page, kind: str, hold_s: float, usual: set[str]) -> Watched:
    """Hold one fault until an alert has fired, or for so long; then wait for no more than the usual ones."""
    seen = Watched(kind=kind, before=sorted(alerts(prometheus).keys() - usual))
    known = set(map(kind_of, page.findings()))
    begun_s = time.monotonic()
    first_s: float | None = None
    with HELD[kind].begin(made):
        while True:
            at_s = time.monotonic() - begun_s
            for name, (state, severity) in alerts(prometheus).items():
                if name in seen.before or name in usual:
                    continue
                seen.severities[name] = severity
                seen.pending_s.setdefault(name, at_s)
                if state == "firing":
                    seen.firing_s.setdefault(name, at_s)
                    first_s = first_s or at_s
            for sentence in page.findings():
                if kind_of(sentence) not in known:
                    known.add(kind_of(sentence))
                    seen.said_s[sentence] = time.monotonic() - begun_s
            if at_s > hold_s or (first_s is not None and at_s > first_s + MORE_S):
                break
            time.sleep(LOOK_EVERY_S)
        seen.held_s = time.monotonic() - begun_s
    healed_s = time.monotonic()
    while time.monotonic() - healed_s < QUIET_WITHIN_S:
        if alerts(prometheus).keys() <= usual | SLOW:
            seen.quiet_after_s = time.monotonic() - healed_s
            break
        time.sleep(LOOK_EVERY_S)
    return seen


def run(running: Services, kinds: list[str], arguments: argparse.Namespace, say: Say) -> dict[str, Any]:
    """All of these faults, one after another, as far as there is time."""
    until_s = time.monotonic() + arguments.minutes * 60
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        rules = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "rules.yml"
        rules.write_text(scaled(RULES.read_text(), arguments.factor))
        exporter = stack.enter_context(start_redis_exporter(running.redis.address))
        variation = Variation(console_topic=CONSOLE_TOPIC)
        made = stack.enter_context(arena(running, "alerts", mode="exactly_once", seed=1, variation=variation))
        create(running.cluster.bootstrap, {CONSOLE_TOPIC: 1}, BROKERS)
        targets = [f"127.0.0.1:{running.admin[name]}" for name in WORKERS]
        scraped = {"penstock": targets, "redis": [exporter.address]}
        prometheus = stack.enter_context(start_prometheus(scraped, [rules])).address
        made.feed.start(TRICKLE_PER_S)
        start_workers(made, set(WORKERS))
        made.feed.start(arguments.rate)
        page = stack.enter_context(open_page(made, running.folder / "alerts" / "chaos.yaml"))
        say(f"workers score; {WARM_S:g} s before the first fault")
        time.sleep(WARM_S)
        usual = set(alerts(prometheus))
        say(f"there without any fault: {sorted(usual)}")
        for kind in kinds:
            if time.monotonic() > until_s:
                break
            running.cluster.make_whole()
            seen = watch(made, prometheus, page, kind, arguments.hold, usual).as_json()
            found.append(seen)
            fired = ", ".join(f"{a['alert']} {a['fired_after_s']:g} s" for a in seen["alerts"])
            say(f"{kind:<14} held {seen['held_s']:g} s: {fired or 'nothing'}  {seen['still_from_before']}")
            for said in seen["console"]:
                say(f"{'':<14} {said['after_s']:g} s: {said['sentence']}")
        made.feed.stop()
    return {
        "factor": arguments.factor,
        "hold_s": arguments.hold,
        "more_s": MORE_S,
        "events_per_s": arguments.rate,
        "workers": len(WORKERS),
        "usual": sorted(usual),
        "faults": sorted(found, key=lambda seen: list(HELD).index(seen["kind"])),
        "not_run": [kind for kind in kinds if kind not in {seen["kind"] for seen in found}],
    }


def main() -> int:
    """Run it and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alerts", description=__doc__)
    parser.add_argument("--faults", default="", help=f"some of {','.join(HELD)}; default all")
    parser.add_argument("--factor", type=float, default=10.0, help="durations of the rules are divided by it")
    parser.add_argument("--hold", type=float, default=40.0, help="seconds that a fault lasts at most")
    parser.add_argument("--rate", type=float, default=1_000.0, help="events a second")
    parser.add_argument("--minutes", type=float, default=15.0, help="no fault begins later")
    parser.add_argument("--result", default="alerts", help="name of the result file; empty: write none")
    arguments = parser.parse_args()
    kinds = [kind for kind in arguments.faults.split(",") if kind] or list(HELD)
    if unknown := set(kinds) - HELD.keys():
        parser.error(f"unknown faults {sorted(unknown)}, expected some of {', '.join(HELD)}")
    with services() as running:
        result = run(running, kinds, arguments, lambda text: print(text, file=sys.stderr, flush=True))
    if arguments.result:
        print(write_result(arguments.result, result))
    else:
        print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
