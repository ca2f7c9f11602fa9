"""Writes `interval` into the cards of the remaining-life models, from errors on engines left out of training.

    python -m training.rul_intervals --data DIR           # FD001: models/rul/1, FD003: models/rul-fd003/1

Cross-conformal: the engines run to failure are dealt into five folds, and each window is predicted by
networks that never saw its engine. The shipped graph saw all of them, so its errors there would be too small.
The test engines take no part; `python -m benchmarks.rul_intervals` measures what the intervals cover of them.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml

from training.cmapss_data import LONGEST_LIFE, training_windows
from training.fraud_data import data_folder
from training.model_folder import REPOSITORY
from training.rul_network import NAMES, left_out
from worker.interval import Interval, fit_interval

FOLDS = 5
COVERAGE = 0.9
EDGES = tuple(float(edge) for edge in np.linspace(0, LONGEST_LIFE, 11)[1:-1])  # ten bins of 12.5 cycles


def calibrate(data: Path, subset: str) -> Interval:
    """The interval around predictions for this set of runs, of min(remaining cycles, 125)."""
    windows = training_windows(data, subset)
    predicted = np.empty(len(windows.life))
    for out, said in left_out(windows, FOLDS):
        predicted[out] = said
    truth = np.minimum(windows.life, LONGEST_LIFE)
    return fit_interval(predicted, truth, coverage=COVERAGE, edges=EDGES, within=(0.0, float(LONGEST_LIFE)))


def write(folder: Path, interval: Interval, fitted_on: str) -> None:
    """Replace the card's `interval`; the graph stays as it is."""
    file = folder / "model.yaml"
    card = yaml.safe_load(file.read_text())
    card["interval"] = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(interval).items()}
    card["interval"]["fitted_on"] = fitted_on
    file.write_text(yaml.safe_dump(card, sort_keys=False, width=110, default_flow_style=None))


def main() -> None:
    """Fit and write the intervals of every subset, or of the one that is named."""
    parser = data_folder(__doc__ or "")
    parser.add_argument("--subset", choices=NAMES, action="append", help="default: all of them")
    options = parser.parse_args()
    for subset in options.subset or NAMES:
        interval = calibrate(options.data, subset)
        fitted_on = (
            f"C-MAPSS {subset}, every window of the 100 engines run to failure, each predicted by networks "
            f"that never saw its engine ({FOLDS} folds of engines); no test engine"
        )
        write(REPOSITORY / NAMES[subset] / "1", interval, fitted_on)
        print(subset, interval)


if __name__ == "__main__":
    main()
