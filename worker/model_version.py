"""Writes a lighter version of a model beside the one it was made from, whole or not at all."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import yaml

from worker.infer import scores_of
from worker.model_compare import Comparison, open_on_cpu
from worker.model_file import CARD_FILE, GOLDEN_FILE, ModelCard, check_sha256, load_model_card
from worker.quantize import QuantizeError

_ONNX_FILE = "model.onnx"


def check_is_new(card: ModelCard, name: str) -> Path:
    """The folder that this version will have.

    Raises:
        QuantizeError: there is one of that name.
    """
    folder = card.folder.resolve().parent / name
    if folder.exists():
        raise QuantizeError(f"{folder}: exists, and versions never change: give another name by --version")
    return folder


def write_version(
    card: ModelCard,
    name: str,
    light: bytes,
    precision: str,
    calibration: Mapping[str, Any],
    found: Comparison,
) -> Path:
    """Write models/NAME/VERSION: the graph, its card, and golden rows scored by the graph itself.

    The folder appears under its name once it is complete and has been read back.

    Args:
        calibration: what the card is to say of the rows that gave the ranges.

    Raises:
        QuantizeError: a version of that name exists, or the old one has no golden rows.
        ConfigError: the folder as written is not one that a worker would take.
    """
    final = check_is_new(card, name)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".quantize-") as temporary:
        folder = Path(temporary) / card.name / name  # named as it will be, since cards are checked for that
        folder.mkdir(parents=True)
        (folder / _ONNX_FILE).write_bytes(light)
        (folder / CARD_FILE).write_text(_card_text(card, name, light, precision, calibration, found))
        _write_golden(card, light, folder / GOLDEN_FILE)
        check_sha256(load_model_card(folder))
        try:
            folder.rename(final)
        except OSError as error:
            raise QuantizeError(f"{final}: cannot be written: {error}") from error
    return final


def _card_text(
    card: ModelCard,
    name: str,
    light: bytes,
    precision: str,
    calibration: Mapping[str, Any],
    found: Comparison,
) -> str:
    old = yaml.safe_load((card.folder / CARD_FILE).read_text())
    made_from = {
        "version": card.version,
        "sha256": card.sha256,
        "precision": precision,
        **calibration,
        "tools": f"onnxruntime {ort.__version__}, onnx {version('onnx')}",
    }
    new = {
        "version": name,
        "description": f"{card.description.rstrip('.')}; matrix products in {precision.upper()}.",
        "file": _ONNX_FILE,
        "sha256": hashlib.sha256(light).hexdigest(),
        "made_from": made_from,
        "metrics": found.as_dict(),
    }
    kept = {key: value for key, value in old.items() if key != "external_data"}
    return str(
        yaml.safe_dump(kept | new, sort_keys=False, width=110, default_flow_style=None, allow_unicode=True)
    )


def _write_golden(card: ModelCard, light: bytes, path: Path) -> None:
    golden = card.folder / GOLDEN_FILE
    try:
        with np.load(golden, allow_pickle=False) as old:
            tensors = {entry.tensor: old[entry.tensor].astype(entry.dtype) for entry in card.inputs}
            before, rtol, atol = old["expected"], float(old["rtol"]), float(old["atol"])
    except (OSError, KeyError, ValueError) as error:
        raise QuantizeError(f"{golden}: cannot be read: {error}; expected inputs and their scores") from error
    expected = scores_of(open_on_cpu(light), card, tensors)
    # Other devices round elsewhere on the way, by steps of the size of those that made this version differ.
    atol = max(atol, float(np.max(np.abs(expected - before))))
    np.savez(path, **tensors, expected=expected, rtol=np.float64(rtol), atol=np.float64(atol))
