"""`penstock models interval`: the interval around a version's scores, from rows held out of its training."""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from worker.exits import Exit
from worker.infer import scores_of
from worker.interval import Interval, ends, fit_interval
from worker.model_compare import open_on_cpu
from worker.model_file import ModelCard, check_sha256, load_model_card
from worker.model_rows import RowsError, read_rows
from worker.quantize import QuantizeError

EXAMPLE = """example:
  penstock models interval models/rul/1 --rows held-out.npz --within 0 125 >> models/rul/1/model.yaml
"""


def add_interval(commands: Any) -> None:
    """Add the command under `penstock models`."""
    parser = commands.add_parser(
        "interval",
        help="work out the interval for model.yaml",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the version")
    parser.add_argument(
        "--rows",
        type=Path,
        required=True,
        help="rows with their truth that the model was not trained on: .npz, .csv or .parquet",
    )
    parser.add_argument("--label", default="label", help="array or column of the truth, default %(default)s")
    parser.add_argument("--coverage", type=float, default=0.9, help="share inside, default %(default)s")
    parser.add_argument("--bins", type=int, default=10, help="of the score, default %(default)s")
    parser.add_argument(
        "--within", type=float, nargs=2, metavar=("LOW", "HIGH"), help="what the model can say"
    )
    parser.set_defaults(command=_interval)


def _interval(arguments: argparse.Namespace) -> int:
    card = load_model_card(arguments.folder)
    try:
        scores, truth = _scored(card, arguments.rows, arguments.label)
        interval = fitted(scores, truth, arguments)
        # Half of the rows judge what the other half would have given, so the share is no self-praise.
        low, high = ends(fitted(scores[::2], truth[::2], arguments), scores[1::2])
    except (RowsError, QuantizeError, ValueError) as error:
        print(error, file=sys.stderr)
        return Exit.CONFIG
    inside = ((low <= truth[1::2]) & (truth[1::2] <= high)).mean()
    print(
        f"{inside:.1%} of every other row inside, as fitted to the rest; {arguments.coverage:.0%} wanted",
        file=sys.stderr,
    )
    sha256 = hashlib.sha256(arguments.rows.read_bytes()).hexdigest()
    fitted_on = f"{arguments.rows.name}, {len(scores):,} rows, sha256 {sha256}"
    written = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(interval).items()}
    block = {"interval": {**written, "fitted_on": fitted_on}}
    print(yaml.safe_dump(block, sort_keys=False, width=110, default_flow_style=None), end="")
    return Exit.OK


def fitted(
    scores: NDArray[np.float32], truth: NDArray[np.float64], arguments: argparse.Namespace
) -> Interval:
    """The interval with as many rows in each bin as the scores allow.

    Raises:
        ValueError: the arguments make no sense, or a bin has too few rows.
    """
    if not 0 < arguments.coverage < 1:
        raise ValueError(f"--coverage: found {arguments.coverage}, expected more than 0 and less than 1")
    if arguments.bins < 1:
        raise ValueError(f"--bins: found {arguments.bins}, expected at least 1")
    shares = np.linspace(0, 1, arguments.bins + 1)[1:-1]
    edges = np.unique(np.quantile(scores, shares).round(4))  # scores that are equal cannot be told apart
    return fit_interval(
        scores,
        truth,
        coverage=arguments.coverage,
        edges=tuple(edges[edges > scores.min()].tolist()),
        within=None if arguments.within is None else tuple(arguments.within),
    )


def _scored(card: ModelCard, path: Path, label: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    rows = read_rows(path, card, label)
    if rows.truth is None:
        raise RowsError(f"{path}: found no array or column {label!r}, expected the truth of each row")
    scores = scores_of(open_on_cpu(check_sha256(card)), card, rows.tensors)
    if not np.isfinite(scores).all():
        raise RowsError(f"{path}: found rows that the model has no score for")
    return scores, rows.truth
