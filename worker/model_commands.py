"""`penstock models quantize`: a lighter version of a model, beside what it loses and gains."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from worker.exits import Exit
from worker.interval_command import add_interval
from worker.key_types import VERSION
from worker.model_compare import Comparison, compare
from worker.model_file import ModelCard, load_model_card
from worker.model_rows import Rows, RowsError, golden_rows, read_rows
from worker.model_version import check_is_new, write_version
from worker.quantize import PRECISIONS, QuantizeError, read_graph, to_fp16, to_int8
from worker.rollout_commands import EXAMPLES as ROLLOUT_EXAMPLES
from worker.rollout_commands import add_commands as add_rollout_commands

# How far one row's score may move: thresholds have two digits, and a life is counted in whole cycles.
MAX_LOSS = {"probability": 0.01, "remaining_life": 1.0, "anomaly_score": 0.01}
EXAMPLES = f"""{ROLLOUT_EXAMPLES}
  penstock models quantize models/fraud/2 --to fp16
  penstock models quantize models/fraud/2 --to int8 --calibration rows.parquet --max-loss 0.1
  penstock models quantize models/rul/1 --to int8 --calibration windows.npz --version 1-light --json
"""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands under `penstock models`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    quantize = commands.add_parser("quantize", help="write a version in FP16 or INT8", description=__doc__)
    quantize.add_argument("folder", type=Path, metavar="FOLDER", help="the version to start from")
    quantize.add_argument("--to", choices=PRECISIONS, required=True, help="of the matrix products")
    quantize.add_argument(
        "--calibration",
        type=Path,
        metavar="ROWS",
        help="typical rows: .npz, .npy, .csv or .parquet; needed for int8 (default: the golden rows)",
    )
    quantize.add_argument(
        "--label", default="label", help="array or column of the truth, default %(default)s"
    )
    quantize.add_argument(
        "--max-loss",
        type=float,
        metavar="X",
        help="refuse when one row's score differs by more; default 0.01, of a remaining life 1 cycle",
    )
    quantize.add_argument("--version", metavar="V", help="of the new folder, default OLD-fp16 or OLD-int8")
    quantize.add_argument("--json", action="store_true", help="for machines")
    quantize.set_defaults(command=_quantize)
    add_rollout_commands(commands)
    add_interval(commands)


def _quantize(arguments: argparse.Namespace) -> int:
    card = load_model_card(arguments.folder)
    max_loss = MAX_LOSS[card.output.meaning] if arguments.max_loss is None else arguments.max_loss
    try:
        name = arguments.version or f"{card.version}-{arguments.to}"
        if not re.fullmatch(VERSION, name):
            raise QuantizeError(f"--version: found {name!r}, expected letters, digits, dots, _ and -")
        folder = check_is_new(card, name)
        old = read_graph(card)
        calibration, held_out = _rows(card, arguments)
        light = to_fp16(old) if calibration is None else to_int8(old, calibration.tensors)
        found = compare(old.SerializeToString(), light, card, held_out)
        fits = found.max_difference <= max_loss
        if fits:
            write_version(card, name, light, arguments.to, _origin(arguments.calibration, calibration), found)
    except (QuantizeError, RowsError) as error:
        print(error, file=sys.stderr)
        return Exit.CONFIG
    written = str(folder) if fits else None
    if arguments.json:
        print(json.dumps({"folder": written, "max_loss": max_loss, **found.as_dict()}, indent=2))
    else:
        print(table(found))
    if not fits:
        print(
            f"not written: one row's score differs by {found.max_difference:.3g}, "
            f"allowed {max_loss:g} (--max-loss)",
            file=sys.stderr,
        )
        return Exit.MODEL
    if not arguments.json:
        print(f"written: {written}; no row's score differs by more than {max_loss:g}")
    return Exit.OK


def _rows(card: ModelCard, arguments: argparse.Namespace) -> tuple[Rows | None, Rows]:
    """The rows that give the ranges, if they are needed, and those that versions are compared on."""
    given: Path | None = arguments.calibration
    if given is None:
        if arguments.to == "int8":
            raise QuantizeError(
                "int8 needs typical rows, from whose extremes its ranges come: give them by --calibration"
            )
        return None, golden_rows(card)
    rows = read_rows(given, card, arguments.label)
    if arguments.to == "fp16":
        return None, rows
    return rows.take(slice(0, None, 2)), rows.take(slice(1, None, 2))  # never judged by what it was fitted to


def _origin(path: Path | None, calibration: Rows | None) -> dict[str, Any]:
    if path is None or calibration is None:
        return {}
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"calibration": {"file": path.name, "sha256": sha256, "rows": len(calibration)}}


def table(found: Comparison) -> str:
    """The comparison for a terminal."""
    lines = [
        f"{found.rows:,} rows: scores differ by {found.max_difference:.3g} at most, "
        f"{found.p99_difference:.3g} in 99 of 100 rows, {found.mean_difference:.3g} on average",
        f"{'':<28}{'old':>12}{'new':>12}",
        *(f"{name:<28}{old:>12.4f}{new:>12.4f}" for name, (old, new) in found.accuracy.items()),
        *(
            f"{f'CPU us a row, {rows} a call':<28}{old:>12.2f}{new:>12.2f}"
            for rows, (old, new) in found.cpu_us_per_row.items()
        ),
        f"{'bytes':<28}{found.size_bytes[0]:>12,}{found.size_bytes[1]:>12,}",
    ]
    return "\n".join(lines)
