"""Completes a model folder: sha256 into model.yaml, and golden.npz, which workers check at their start."""

import argparse
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import yaml
from numpy.typing import NDArray

ROWS = 32


def pack(folder: Path, rows: dict[str, NDArray[Any]] | None = None) -> NDArray[np.float32]:
    """Write sha256 and golden.npz into a folder that has model.onnx and model.yaml.

    Args:
        rows: (n, ...) rows of each input tensor; without them they are made up from the card's reference.

    Returns:
        (n,) the scores of these rows on the CPU, which other devices must then repeat.

    Raises:
        SystemExit: an input can neither be found in rows nor be made up.
    """
    text = (folder / "model.yaml").read_text()
    card = yaml.safe_load(text)
    data = (folder / card.get("file", "model.onnx")).read_bytes()
    tensors = {entry["tensor"]: _rows(entry, card, rows) for entry in card["inputs"]}
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    output = session.run([card["output"]["tensor"]], tensors)[0]
    column = card["output"].get("column") or 0
    expected: NDArray[np.float32] = output.reshape(len(output), -1)[:, column].astype(np.float32)
    np.savez(folder / "golden.npz", **tensors, expected=expected, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]
    (folder / "model.yaml").write_text(_with_sha256(text, hashlib.sha256(data).hexdigest()))
    return expected


def _rows(entry: dict[str, Any], card: dict[str, Any], rows: dict[str, NDArray[Any]] | None) -> NDArray[Any]:
    if rows is not None:
        return rows[entry["tensor"]].astype(entry["dtype"])
    reference = card.get("reference", {})
    if not entry.get("features") or set(entry["features"]) - set(reference):
        raise SystemExit(f"{entry['tensor']}: not every feature has a reference: give typical rows by --rows")
    rng = np.random.default_rng(0)
    columns = []
    for name in entry["features"]:
        known = reference[name]
        at = rng.random(ROWS)
        columns.append(np.interp(at, [0.0, 0.5, 1.0], [known["p01"], known["p50"], known["p99"]]))
    return np.column_stack(columns).astype(entry["dtype"])


def _with_sha256(text: str, digest: str) -> str:
    found, count = re.subn(r"(?m)^sha256:.*$", f"sha256: {digest}", text)
    return found if count else f"{text}sha256: {digest}\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="models/NAME/VERSION, with model.onnx and model.yaml")
    parser.add_argument("--rows", type=Path, help=".npz with one array of rows for each input tensor")
    arguments = parser.parse_args()
    given = None if arguments.rows is None else dict(np.load(arguments.rows))
    scores = pack(arguments.folder, given)
    print(f"{arguments.folder}: {len(scores)} golden rows, scores {scores.min():.4g} to {scores.max():.4g}")
