"""Completes a model folder: sha256 into model.yaml, and golden.npz, which workers check at their start."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import yaml
from numpy.typing import NDArray

from worker.model_file import CARD_FILE, GOLDEN_FILE

GOLDEN_ROWS: Final = 32
_RTOL, _ATOL = 1e-4, 1e-5  # how far another device may be from what the CPU says


class PackError(ValueError):
    """A folder that cannot be completed; the message says what is missing."""


def pack(folder: Path, rows: Mapping[str, NDArray[Any]] | None = None) -> NDArray[np.float32]:
    """Write sha256 and golden.npz into a folder that has model.onnx and model.yaml.

    Args:
        folder: models/NAME/VERSION.
        rows: (n, ...) rows of each input tensor; without them they are made up from the card's reference.

    Returns:
        (n,) the scores of these rows on the CPU, which other devices must then repeat.

    Raises:
        PackError: an input can neither be found in rows nor be made up.
    """
    text = (folder / CARD_FILE).read_text()
    card = yaml.safe_load(text)
    file = folder / card.get("file", "model.onnx")
    tensors = {entry["tensor"]: _rows(entry, card, rows) for entry in card["inputs"]}
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    output = session.run([card["output"]["tensor"]], tensors)[0]
    column = card["output"].get("column") or 0
    expected: NDArray[np.float32] = output.reshape(len(output), -1)[:, column].astype(np.float32)
    golden: dict[str, Any] = {**tensors, "expected": expected, "rtol": _RTOL, "atol": _ATOL}
    np.savez(folder / GOLDEN_FILE, **golden)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / CARD_FILE).write_text(_with_sha256(text, digest))
    return expected


def _rows(
    entry: Mapping[str, Any], card: Mapping[str, Any], rows: Mapping[str, NDArray[Any]] | None
) -> NDArray[Any]:
    if rows is not None:
        if entry["tensor"] not in rows:
            raise PackError(f"found rows of {', '.join(rows)}, expected also of {entry['tensor']}")
        return rows[entry["tensor"]].astype(entry["dtype"])
    reference = card.get("reference", {})
    if not entry.get("features") or set(entry["features"]) - set(reference):
        raise PackError(f"{entry['tensor']}: not every feature has a reference: give typical rows by --rows")
    rng = np.random.default_rng(0)
    columns = []
    for name in entry["features"]:
        known = reference[name]
        at = rng.random(GOLDEN_ROWS)
        columns.append(np.interp(at, [0.0, 0.5, 1.0], [known["p01"], known["p50"], known["p99"]]))
    return np.column_stack(columns).astype(entry["dtype"])


def _with_sha256(text: str, digest: str) -> str:
    found, count = re.subn(r"(?m)^sha256:.*$", f"sha256: {digest}", text)
    return found if count else f"{text}sha256: {digest}\n"
