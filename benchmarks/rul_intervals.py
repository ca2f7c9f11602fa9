"""Measures how often the intervals in the remaining-life cards hold the truth of the test engines."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import write_result
from benchmarks.maintenance_parity import CAP, offline_predictions, true_remaining
from benchmarks.workers import REPOSITORY
from worker.interval import ends
from worker.model_file import load_model_card

MODELS = {"FD001": "rul", "FD003": "rul-fd003"}


def measure(data: Path, subset: str) -> dict[str, Any]:
    """Coverage and width over the last window of each test engine, none of which the interval was fitted on.

    An end at 125 cycles, the most that the model says, means 125 or more; so capping the truth at 125 changes
    nothing about who is inside.
    """
    card = load_model_card(REPOSITORY / "models" / MODELS[subset] / "1")
    assert card.interval is not None
    low, high = ends(card.interval, offline_predictions(data, subset, card.onnx_file))
    truth = np.minimum(true_remaining(data, subset), CAP)
    width = high - low
    is_near = truth <= 50
    inside = (low <= truth) & (truth <= high)
    return {
        "engines": len(truth),
        "stated": card.interval.coverage,
        "inside": round(float(inside.mean()), 3),
        "truth_below_low": int((truth < low).sum()),
        "truth_above_high": int((truth > high).sum()),
        "mean_width_cycles": round(float(width.mean()), 1),
        "at_most_50_cycles_left": {
            "engines": int(is_near.sum()),
            "inside": round(float(inside[is_near].mean()), 3),
            "mean_width_cycles": round(float(width[is_near].mean()), 1),
        },
    }


def main() -> int:
    """Measure both sets of engines and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PENSTOCK_DATA", "data")))
    arguments = parser.parse_args()
    result = {subset: measure(arguments.data, subset) for subset in MODELS}
    print(json.dumps(result, indent=2))
    print(write_result("rul-intervals", result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
