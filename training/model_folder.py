"""Writes one folder of the model repository: model.onnx, model.yaml, golden.npz."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import yaml
from numpy.typing import NDArray

from worker.references import distribution

REPOSITORY = Path(__file__).resolve().parent.parent / "models"
LARGEST_BYTES = 3_000_000


def score(
    model: onnx.ModelProto | bytes | Path, rows: NDArray[np.float32], output: dict[str, Any]
) -> NDArray[np.float32]:
    """Return the scores (n,) of ONNX Runtime on the CPU for a model with one input.

    Args:
        model: the graph, its bytes or its file.
        rows: (n, ...) float32, the input tensor.
        output: `tensor` and `column` (None for (n,) or (n, 1)), as in model.yaml.
    """
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    (found,) = session.run([output["tensor"]], {session.get_inputs()[0].name: rows})
    column = 0 if output["column"] is None else output["column"]
    scores: NDArray[np.float32] = found if found.ndim == 1 else found[:, column]
    return scores


def worst_batch_effect(
    model: onnx.ModelProto, rows: NDArray[np.float32], output: dict[str, Any], sizes: tuple[int, ...]
) -> float:
    """Return the largest difference a row's score shows between one big batch and batches of `sizes`."""
    whole = score(model, rows, output)
    worst = 0.0
    for size in sizes:
        for begin in range(0, len(rows), size):
            part = score(model, rows[begin : begin + size], output)
            worst = max(worst, float(np.abs(part - whole[begin : begin + size]).max()))
    return worst


def reference_of(
    features: tuple[str, ...], rows: NDArray[np.floating[Any]], defaults: Mapping[str, float] | None = None
) -> dict[str, dict[str, Any]]:
    """Return how each column of the training rows (n, len(features)) is distributed, as a card says it.

    Args:
        features: names of the columns.
        rows: NaN is not allowed.
        defaults: by feature, the value that stands in where there is none; its share of the rows is written.
    """
    return {
        name: distribution(column, (defaults or {}).get(name))
        for name, column in zip(features, rows.T, strict=True)
    }


def write_reference(
    folder: Path, reference: dict[str, dict[str, Any]], score: NDArray[np.floating[Any]]
) -> None:
    """Write into the card of an existing version how its training rows, and their scores (n,), are spread."""
    card = folder / "model.yaml"
    about = yaml.safe_load(card.read_text())
    rest = ("reference", "reference_score", "trained_on", "made_from", "metrics")
    head = {key: value for key, value in about.items() if key not in rest}
    tail = {key: about[key] for key in rest[2:] if key in about}
    known = {"reference": reference, "reference_score": distribution(score)}
    card.write_text(_as_yaml({**head, **known, **tail}))


def _as_yaml(about: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(about, sort_keys=False, width=110, default_flow_style=None)
    return text


def write(
    model: onnx.ModelProto,
    about: dict[str, Any],
    golden: NDArray[np.float32],
    *,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> Path:
    """Write the folder NAME/VERSION of the repository and return it.

    Args:
        model: a checked graph with one input.
        about: model.yaml without `file` and `sha256`, keys in the order they are to be written.
        golden: (16..64, ...) synthetic input rows; what the graph says of them on the CPU is kept beside.
        rtol, atol: how far another device may be from that.
    """
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"{about['name']} is {len(data):,} bytes, more than {LARGEST_BYTES:,}")
    if len(score(data, golden[:0], about["output"])):  # a batch of which nothing is left must not fail
        raise ValueError(f"{about['name']} makes scores for no rows")
    folder: Path = REPOSITORY / about["name"] / about["version"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(data)
    head = {key: about[key] for key in ("name", "version", "description")}
    file = {"file": "model.onnx", "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "model.yaml").write_text(_as_yaml(head | file | about))
    inputs: dict[str, Any] = {about["inputs"][0]["tensor"]: golden}
    np.savez(
        folder / "golden.npz",
        **inputs,
        expected=score(data, golden, about["output"]),
        rtol=np.float64(rtol),
        atol=np.float64(atol),
    )
    return folder


def golden_from(
    features: tuple[str, ...],
    reference: dict[str, dict[str, float]],
    *,
    whole: tuple[str, ...],
    rows: int,
    seed: int,
) -> NDArray[np.float32]:
    """Return (rows, features) made-up rows that spread over p01..p99 of each column and a little beyond.

    The data may not be redistributed, so no golden row is taken from it: each column is drawn by itself
    from a line through its three percentiles, and one row in four sits at an extreme.

    Args:
        whole: columns that hold counts or flags, rounded to whole numbers.
    """
    random = np.random.default_rng(seed)
    made = np.empty((rows, len(features)))
    for at, name in enumerate(features):
        column = reference[name]
        place = random.random(rows)
        place[::4] = random.choice([0.0, 1.0], len(place[::4]))
        made[:, at] = np.interp(place, [0, 0.5, 1], [column["p01"], column["p50"], column["p99"]])
        made[:, at] *= random.uniform(0.8, 1.25, rows)
        if name in whole:
            made[:, at] = np.round(made[:, at])
    return made.astype(np.float32)
