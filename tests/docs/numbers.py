"""Writes the tables of speed and model quality in both READMEs from results: python -m tests.docs.numbers"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.plot import LABELS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
JAPANESE = ROOT / "README.ja.md"
RESULTS = ROOT / "benchmarks" / "results"
SPEED = re.compile(r"<!-- speed -->\n.*?<!-- end -->", re.DOTALL)
FIGURE = re.compile(r"\d+(?:[.,]\d+)*")
MARKED = re.compile(r"<!-- numbers -->\n.*?<!-- end -->", re.DOTALL)

# Fraud Detection Handbook (ULB 2022): test week 2018-08-08..14, chapters 3 and 7.
PUBLISHED_FRAUD = {
    "1": ("XGBoost", "0.862", "0.639", "0.273"),
    "2": ("feed-forward network", "0.864", "0.653", "0.286"),
}


def numbers() -> str:
    """Both tables, as Markdown."""
    fraud, engines = _result("fraud-parity"), _result("maintenance-parity")
    return "\n\n".join([_fraud(fraud), _engines(engines)])


def written(readme: str) -> str:
    """The README with its tables as they should be."""
    readme = SPEED.sub(lambda _: f"<!-- speed -->\n{_speed(_result('latest'))}\n<!-- end -->", readme)
    return MARKED.sub(lambda _: f"<!-- numbers -->\n{numbers()}\n<!-- end -->", readme)


def in_step(translated: str, readme: str) -> str:
    """A translated README with the figures of its tables as in this one, which come in the same order.

    Raises:
        ValueError: a table has more or fewer figures than its translation, so a person has to look.
    """
    for part in (SPEED, MARKED):
        theirs, ours = part.search(translated), part.search(readme)
        if theirs is None or ours is None:
            raise ValueError("a marked part is missing")
        figures, count = FIGURE.findall(ours[0]), len(FIGURE.findall(theirs[0]))
        if len(figures) != count:
            raise ValueError(
                f"found {count} figures in the translation, expected {len(figures)}: write its rows anew"
            )
        written = _filled(theirs[0], iter(figures))
        translated = translated.replace(theirs[0], written)
    return translated


def _filled(text: str, figures: Iterator[str]) -> str:
    return FIGURE.sub(lambda _: next(figures), text)


def _result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def _speed(result: dict[str, Any]) -> str:
    cpu, p99_ms = result["cpu_us_per_event"], result["p99_ms"]
    names = sorted(cpu, key=lambda name: float(cpu[name]))
    paced = f"p99 ms at {result['settings']['rate']:,.0f}/s"
    columns = ["events/s", "CPU µs an event", "times passthrough", "peak MB"]
    lines = [
        f"| | {' | '.join([*columns, paced] if p99_ms else columns)} |",
        "| --- |" + " ---: |" * (len(columns) + bool(p99_ms)),
    ]
    for name in names:
        cells = [
            f"{result['events_per_s'][name]:,.0f}",
            f"{cpu[name]:.1f}",
            f"{cpu[name] / cpu['passthrough']:.1f}",
            f"{result['peak_memory_mb'][name]:.0f}",
        ]
        if p99_ms:
            cells.append(f"{p99_ms[name]:.1f}" if name in p99_ms else "")
        lines.append(f"| {LABELS.get(name, name)} | {' | '.join(cells)} |")
    settings, machine = result["settings"], result["machine"]
    lines += [
        "",
        f"Medians of {settings['repetitions']} runs over {settings['events']:,} events, "
        f"{machine['cores']} shared cores ({machine['cpu']}) for broker, Redis and worker together."
        + (f" p99 at {settings['rate']:,.0f} events a second." if p99_ms else ""),
    ]
    return "\n".join(lines)


def _fraud(result: dict[str, Any]) -> str:
    lines = [
        "**Card fraud**: simulated transactions of the *Fraud Detection Handbook*, its test week "
        f"({result['models']['1']['metrics']['kept']:,} transactions), replayed through real Kafka and Redis "
        f"at {result['models']['1']['times_real_time']:,} times real time:",
        "",
        "| model | ROC AUC | average precision | card precision@100 |",
        "| --- | ---: | ---: | ---: |",
    ]
    for version, model in sorted(result["models"].items()):
        name, *published = PUBLISHED_FRAUD[version]
        measured = [f"{model['metrics'][key]:.3f}" for key in ("auc", "ap", "cp100")]
        lines.append(f"| {name}, published | {' | '.join(published)} |")
        lines.append(f"| `fraud` version {version} ({name}), live | {' | '.join(measured)} |")
    week = result["models"]["1"]["features_test_week"]
    lines += [
        "",
        f"All fifteen features of the week's {week['transactions']:,} transactions were compared with a slow "
        f"pandas reference, row by row: {week['unequal_counts']} counts differ, and averages are equal "
        f"{_within(week['largest_difference'])}.",
    ]
    return "\n".join(lines)


def _within(difference: float) -> str:
    """In words, rounded up to a power of ten."""
    return "exactly" if difference == 0 else f"to 1e{math.ceil(math.log10(difference))}"


def _engines(result: dict[str, Any]) -> str:
    lines = [
        f"**Remaining life of engines**: NASA C-MAPSS {result['subset']}, the {result['engines']} test "
        "engines streamed reading by reading; root mean square error in cycles, and the PHM08 score (less is "
        "better):",
        "",
        "| model | RMSE | score |",
        "| --- | ---: | ---: |",
    ]
    for name, published in result["published"].items():
        score = f"{published['score']:,}" if "score" in published else ""
        lines.append(f"| {name}, published | {published['rmse']:.2f} | {score} |")
    lines += [
        f"| `rul` version 1, live, truth capped at 125 | {result['rmse_capped']:.2f} "
        f"| {result['score_capped']:.0f} |",
        f"| `rul` version 1, live, truth as published | {result['rmse_uncapped']:.2f} "
        f"| {result['score_uncapped']:.0f} |",
        "",
        "Papers differ on whether they cap the truth, so both are given. Every streamed prediction equals "
        f"the offline one of the same file {_within(result['largest_difference_to_offline'])}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
    JAPANESE.write_text(in_step(JAPANESE.read_text(), README.read_text()))
