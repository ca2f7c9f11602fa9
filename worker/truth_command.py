"""`penstock truth`: the current figures of a pipeline, as its topic has them."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from worker.config import load_pipeline
from worker.exits import Exit, StopWorker
from worker.secret import redact
from worker.truth_topic import Row, figures_codec, read_figures

EXAMPLES = """examples:
  penstock truth pipelines/fraud.yaml
  penstock truth pipelines/fraud.yaml --json | jq '.average_precision'
"""
_HEAD = ("version", "segment", "severity", "scored", "labelled", "positives", "precision", "recall")
_MORE = ("AP", "AUC", "yield", "ECE", "saved", "missed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `penstock truth` its arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="pipeline file")
    parser.add_argument("--json", action="store_true", help="for machines: one JSON object a line")
    parser.set_defaults(command=_show)


def _show(arguments: argparse.Namespace) -> int:
    pipeline = load_pipeline(arguments.file)
    if pipeline.truth is None:
        print(f"{pipeline.path}: truth: found nothing, expected where labels come from", file=sys.stderr)
        return Exit.CONFIG
    try:
        rows = list(read_figures(pipeline, figures_codec(pipeline, writes=False)).values())
    except StopWorker as error:
        print(redact(str(error), pipeline.secrets), file=sys.stderr)
        return error.code
    except KafkaException as error:
        print(redact(error.args[0].str(), pipeline.secrets), file=sys.stderr)
        return Exit.KAFKA
    rows.sort(key=lambda row: (row["model_version"], row["segment"] != "all", row["segment"]))
    print("\n".join(map(as_json, rows)) if arguments.json else table(rows))
    return Exit.OK


def as_json(row: Row) -> str:
    """One row in one line; times in ISO 8601."""
    return json.dumps({name: _plain(value) for name, value in row.items()})


def table(rows: list[Row]) -> str:
    """The figures of all rows, a line for each severity."""
    if not rows:
        return "no figures yet"
    lines: list[tuple[str, ...]] = [(*_HEAD, *_MORE)]
    for row in rows:
        lines += [_line(row, at) for at in row["thresholds"] or [{}]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "  ".join(
            word.ljust(width) if i < 3 else word.rjust(width)
            for i, (word, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    newest = max(row["computed_at"] for row in rows)
    first, last = (min(row["window_start"] for row in rows), max(row["window_end"] for row in rows))
    return "\n".join(
        [*shown, "", f"events of {_time(first)} to {_time(last)}, as of {_time(newest)}; times are UTC"]
    )


def _line(row: Row, at: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["model_version"],
        row["segment"],
        at.get("severity", "-"),
        *(f"{row[name]:,}" for name in ("scored", "labelled", "positives")),
        *(_share(at.get(name)) for name in ("precision", "recall")),
        *(_share(row[name]) for name in ("average_precision", "auc", "alert_yield", "calibration_error")),
        *(f"{at[name]:,.2f}" if at else "-" for name in ("value_saved", "value_missed")),
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _time(value: datetime) -> str:
    return value.strftime("%Y-%m-%d %H:%M")


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
