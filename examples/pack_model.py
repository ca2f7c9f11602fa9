"""Completes a model folder: sha256 into model.yaml, and golden.npz, which workers check at their start."""

import argparse
from pathlib import Path

import numpy as np

from worker.pack import PackError, pack

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="models/NAME/VERSION, with model.onnx and model.yaml")
    parser.add_argument("--rows", type=Path, help=".npz with one array of rows for each input tensor")
    arguments = parser.parse_args()
    given = None if arguments.rows is None else dict(np.load(arguments.rows))
    try:
        scores = pack(arguments.folder, given)
    except PackError as error:
        raise SystemExit(str(error)) from error
    print(f"{arguments.folder}: {len(scores)} golden rows, scores {scores.min():.4g} to {scores.max():.4g}")
