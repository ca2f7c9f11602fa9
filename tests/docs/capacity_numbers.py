"""Writes the parts of docs/capacity.md that come from results: python -m tests.docs.capacity_numbers"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.docs.pages import ROOT
from worker.capacity_commands import summary
from worker.capacity_plan import HEAD_ROOM, need

PAGE = ROOT / "docs" / "capacity.md"
RESULTS = ROOT / "benchmarks" / "results"
TRAFFIC = (100, 1_000, 10_000, 100_000, 1_000_000)
WORKER = "penstock-fraud-exactly-once"
MANY_KEYS = "1M zipf / 10k zipf"
EVENTS_PER_KEY_30D = 78  # transactions of a card in thirty days, as the simulator makes them
DAY_S = 86_400
FIELDS, CAPACITY = 14, 40  # of the sequence in pipelines/maintenance.yaml
LEAST_PARTITIONS = 6


def result(name: str) -> dict[str, Any]:
    """A committed result."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def own_bytes(capacity: dict[str, Any]) -> float:
    """What Redis adds to a row: its key, and what it knows of it."""
    store = capacity["store"]
    return float(store["bytes_per_key"] - store["value_bytes_per_key"])


def card_gb(traffic: float, own: float) -> tuple[float, float]:
    """Cards, and what their rows take: one window group over thirty days."""
    keys = traffic * 30 * DAY_S / EVENTS_PER_KEY_30D
    return keys, (keys * (own + 32 + 16) + 16 * traffic * 30 * DAY_S) / 1e9


def machine_gb(traffic: float, own: float) -> tuple[float, float]:
    """Machines of one reading a second each, and what their rows take."""
    return traffic, traffic * (own + 32 + 16 + (8 + 4 * FIELDS) * CAPACITY) / 1e9


def numbers() -> str:
    """The table, and what it is worked out from."""
    latest, scale, capacity = result("latest"), result("scale"), result("capacity")
    slower = scale["ratios"][MANY_KEYS]["ratio"]
    limit = latest["events_per_s"][WORKER] / slower
    cpu_us, peak_mb = latest["cpu_us_per_event"][WORKER] * slower, latest["peak_memory_mb"][WORKER]
    written = scale["cases"]["1M zipf"]["written_per_event"]
    own, record_bytes = own_bytes(capacity), capacity["saturation"]["bytes_per_event"]
    head = (
        "events/s",
        "workers",
        "partitions",
        "worker cores",
        "worker memory",
        "input",
        "rows written",
        "cards: Redis",
        "machines: Redis",
    )
    lines = [f"| {' | '.join(head)} |", "|" + " ---: |" * len(head)]
    for traffic in TRAFFIC:
        found = need(traffic, limit)
        cards, cards_gb = card_gb(traffic, own)
        machines, machines_gb = machine_gb(traffic, own)
        cells = (
            f"{traffic:,}",
            f"{found.members}",
            f"{max(LEAST_PARTITIONS, 2 * found.partitions)}",
            _short(traffic * cpu_us / 1e6 / (1 - HEAD_ROOM)),
            _size(found.members * peak_mb / 1000),
            f"{_size(traffic * record_bytes / 1e9)}/s",
            f"{traffic * written:,.0f}/s",
            f"{_count(cards)}: {_size(cards_gb)}",
            f"{_count(machines)}: {_size(machines_gb)}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    machine = latest["machine"]
    return "\n".join(
        [
            *lines,
            "",
            "Worked out from:",
            "",
            f"- **workers**: {latest['events_per_s'][WORKER]:,.0f} events a second at saturation with few "
            f"keys (`latest.json`), divided by {slower:g} for a million keys of usual popularity "
            f"(`scale.json`): {limit:,.0f}, of which {1 - HEAD_ROOM:.0%} are planned. That is without a "
            "latency objective: with one, take the limit that `penstock capacity` finds.",
            "- **partitions**: twice the workers, so that their number can double; at least "
            f"{LEAST_PARTITIONS}.",
            f"- **worker cores**: {latest['cpu_us_per_event'][WORKER]:g} µs an event, times {slower:g}, by "
            f"{1 - HEAD_ROOM:g}. Brokers and Redis take theirs beside it.",
            f"- **worker memory**: {peak_mb:,.0f} MB for each worker at its peak.",
            f"- **input**: {record_bytes:.0f} bytes a record with its key (`capacity.json`), before "
            "replication.",
            f"- **rows written** to Redis: {written:g} an event (`scale.json`).",
            f"- **Redis**: the formulas below, with {own:.0f} bytes of Redis' own a key (`capacity.json`). "
            f"Cards: {EVENTS_PER_KEY_30D} transactions in 30 days each, and a window of 30 days; machines: a "
            f"reading a second each, the last {CAPACITY} of {FIELDS} fields kept.",
            f"- Measured on {machine['cpu']}, {machine['cores']} cores, with broker and Redis on the same.",
        ]
    )


def _short(value: float) -> str:
    """Two digits that count, or all before the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _size(gigabytes: float) -> str:
    for limit, unit in ((1e3, "TB"), (1.0, "GB"), (1e-3, "MB")):
        if gigabytes >= limit:
            return f"{_short(gigabytes / limit)} {unit}"
    return f"{_short(gigabytes * 1e6)} kB"


def _count(value: float) -> str:
    for limit, unit in ((1e9, " billion"), (1e6, " million")):
        if value >= limit:
            return f"{_short(value / limit)}{unit}"
    return f"{value:,.0f}"


def written(page: str) -> str:
    """The page with its parts as they should be."""
    parts = {"summary": f"```\n{summary(result('capacity'))}\n```", "numbers": numbers()}
    for name, text in parts.items():
        marked = re.compile(rf"<!-- {name} -->\n.*?<!-- end -->", re.DOTALL)
        page = marked.sub(lambda _, n=name, t=text: f"<!-- {n} -->\n{t}\n<!-- end -->", page)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
