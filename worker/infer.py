"""Feature columns to scores through ONNX Runtime, on the device asked for or not at all."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from worker.batch import Features
from worker.model_file import ModelCard, check_sha256, load_model_card
from worker.plan import FeaturePlan

_CPU = "CPUExecutionProvider"
_PROVIDERS = {"cpu": _CPU, "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_WARM_ROWS = (1, 64, 1024)  # the shapes met first; ONNX Runtime plans memory at the first run of a shape
_PART_ROWS = (64, 128, 256, 512, 1024)  # that a CPU may score at a time
_WHOLE = 16  # rows; what vectors of any processor leave over of fewer is computed, and rounded, by other code
_TRIALS = 5
_WORTH = 0.95  # smaller parts must cost less than this share of larger ones


class ModelError(Exception):
    """A model version that must not serve; the message says which check failed."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Feed:
    """What one input tensor of the model is made of."""

    tensor: str
    dtype: np.dtype[Any]
    columns: NDArray[np.int64] | None  # scalar columns in tensor order
    sequence: str | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Model:
    """A loaded, checked and warm model version."""

    card: ModelCard
    session: Any  # ort.InferenceSession
    feeds: tuple[Feed, ...]
    device: str  # where it really runs: cpu, cuda:N, tensorrt:N
    part_rows: int | None = None  # rows that go through together at most; None: all


def infer(model: Model, features: Features) -> NDArray[np.float32]:
    """(n,) scores of the batch; not finite where the model could not say.

    Raises:
        ModelError: the model does not give one score a row.
        Exception: whatever ONNX Runtime raises; worker.scoring tells whose fault it is.
    """
    tensors = {
        feed.tensor: np.ascontiguousarray(
            features.scalars[:, feed.columns] if feed.sequence is None else features.sequences[feed.sequence],
            feed.dtype,
        )
        for feed in model.feeds
    }
    scores = _run_in_parts(model, tensors, len(features.scalars))
    if scores.shape != (len(features.scalars),):
        raise ModelError(
            f"{model.card.name} {model.card.version}: found {scores.shape} scores, expected one for each of "
            f"{len(features.scalars)} rows"
        )
    return scores


def _run_in_parts(model: Model, tensors: dict[str, NDArray[Any]], rows: int) -> NDArray[np.float32]:
    """Scores of all rows, of so many at a time as the model likes best.

    On a CPU the last row is repeated until the rows are a multiple of 16: every row is then computed by the
    same instructions and has the same score, to the last bit, whatever batch it is in.
    """
    if model.device == "cpu" and rows % _WHOLE:
        missing = _WHOLE - rows % _WHOLE
        tensors = {
            name: np.concatenate([each, np.repeat(each[-1:], missing, axis=0)])
            for name, each in tensors.items()
        }
        scores = _run_in_parts(model, tensors, rows + missing)
        return scores[:rows] if scores.shape == (rows + missing,) else scores  # the caller says what is wrong
    size = model.part_rows or rows
    if rows <= size:
        return scores_of(model.session, model.card, tensors)
    parts = [
        scores_of(model.session, model.card, {name: each[at : at + size] for name, each in tensors.items()})
        for at in range(0, rows, size)
    ]
    return np.concatenate(parts)


def scores_of(session: Any, card: ModelCard, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """(n,) scores of these rows, as the card reads them.

    Raises:
        ModelError: the card names a column that the output does not have.
        Exception: whatever ONNX Runtime raises.
    """
    output: NDArray[np.float32] = session.run([card.output.tensor], tensors)[0]
    if output.ndim == 2:
        column = card.output.column or 0
        if column >= output.shape[1]:
            raise ModelError(
                f"{card.name} {card.version}: model.yaml reads column {column} of {card.output.tensor!r}, "
                f"which has {output.shape[1]}"
            )
        output = output[:, column]
    return np.ascontiguousarray(output, np.float32)


def load_model(folder: Path, plan: FeaturePlan, device: str) -> Model:
    """Load a version, prove it on its device, and warm it up.

    Raises:
        ModelError: the file is not the one the card describes, does not run on the device, needs a feature
            that the pipeline does not compute, or misses its golden vectors.
        ConfigError: the card itself is wrong.
    """
    card = load_model_card(folder)
    data = check_sha256(card)  # what was hashed is what runs: the file is not opened a second time
    session, ran_on = _open(folder / card.file, data, device)
    model = Model(card=card, session=session, feeds=_feeds(card, plan, session, folder), device=ran_on)
    check_golden(model)
    _warm(model, plan)
    return replace(model, part_rows=_best_part(model, plan)) if ran_on == "cpu" else model


def _open(path: Path, data: bytes, device: str) -> tuple[Any, str]:
    """A session on the device; `auto` takes CUDA where it works and says what it took."""
    if device != "auto":
        return _session(path, data, device), device
    if _has_nvidia_driver() and not _has_tree_operators(data):
        try:
            return _session(path, data, "cuda:0"), "cuda:0"
        except ModelError:
            pass  # auto means: the CPU will do; the device taken is logged and on /readyz
    return _session(path, data, "cpu"), "cpu"


def _has_nvidia_driver() -> bool:
    # Asking ONNX Runtime for CUDA without a driver is answered with ten lines of errors on stderr.
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version"))


def _has_tree_operators(data: bytes) -> bool:
    # ONNX Runtime has tree ensembles on the CPU only (no such kernel in the CUDA provider).
    return b"TreeEnsemble" in data


def _session(path: Path, data: bytes, device: str) -> Any:
    kind, _, number = device.partition(":")
    options = ort.SessionOptions()
    # One thread, no spinning: the loop is one straight line, and idle cores belong to the other workers.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Where external data lies; given bytes, ONNX Runtime does not know the folder.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.parent.resolve())
    )
    options.log_severity_level = 4  # errors are raised too; logged, they would show feature values
    provider: Any = _PROVIDERS[kind]
    if kind != "cpu":
        # Without these, a missing library or an unsupported node would silently be a CPU session.
        ort.preload_dlls()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        provider = (
            provider,
            {"device_id": number, "use_tf32": "0"} if kind == "cuda" else {"device_id": number},
        )
    try:
        session = ort.InferenceSession(data, options, providers=[provider], enable_fallback=0)
    except Exception as error:
        raise ModelError(
            f"{path}: does not run on {device}: {_first_line(error)}; expected a device "
            f"that can run every node (model.device: auto or cpu runs it on the CPU)"
        ) from error
    if _PROVIDERS[kind] not in session.get_providers():
        raise ModelError(
            f"{path}: asked for {device}, ONNX Runtime gave {session.get_providers()}: are the extra `cuda` "
            f"and the driver installed? (`penstock doctor` shows what is missing)"
        )
    return session


def _feeds(card: ModelCard, plan: FeaturePlan, session: Any, folder: Path) -> tuple[Feed, ...]:
    """Match the card's inputs with the model's tensors and the pipeline's features."""
    tensors = {tensor.name for tensor in session.get_inputs()}
    if tensors != {feed.tensor for feed in card.inputs}:
        raise ModelError(
            f"{folder}: model.yaml names the inputs {sorted(feed.tensor for feed in card.inputs)}, "
            f"{card.file} has {sorted(tensors)}"
        )
    outputs = {tensor.name for tensor in session.get_outputs()}
    if card.output.tensor not in outputs:
        raise ModelError(
            f"{folder}: model.yaml reads output {card.output.tensor!r}, {card.file} has {sorted(outputs)}"
        )
    feeds = []
    sequences = {sequence.name for sequence in plan.sequences}
    for entry in card.inputs:
        wanted = {entry.sequence} if entry.sequence is not None else set(entry.features)
        have = sequences if entry.sequence is not None else set(plan.names)
        if missing := sorted(wanted - have):
            raise ModelError(
                f"{folder}: input {entry.tensor!r} needs {missing}, which the pipeline does not compute; "
                f"it computes {sorted(have)}"
            )
        columns = None
        if entry.sequence is None:
            columns = np.array([plan.names.index(name) for name in entry.features], np.int64)
        feeds.append(
            Feed(tensor=entry.tensor, dtype=np.dtype(entry.dtype), columns=columns, sequence=entry.sequence)
        )
    return tuple(feeds)


def check_golden(model: Model) -> None:
    """Score the recorded rows and compare: a wrong build, device or file shows here and not in production.

    Raises:
        ModelError: the scores are not those expected, or there are none.
    """
    path = model.card.folder / "golden.npz"
    if not path.exists():
        raise ModelError(f"{path}: not found, expected inputs and their expected scores")
    try:
        with np.load(path, allow_pickle=False) as golden:
            tensors = {feed.tensor: golden[feed.tensor].astype(feed.dtype) for feed in model.feeds}
            expected, rtol, atol = golden["expected"], float(golden["rtol"]), float(golden["atol"])
        scores = scores_of(model.session, model.card, tensors)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{path}: the golden rows do not run: {_first_line(error)}; expected one array for each input of "
            f"model.yaml, `expected`, `rtol` and `atol`"
        ) from error
    if scores.shape != expected.shape or not len(expected):
        raise ModelError(f"{path}: found {expected.shape} expected scores, the model gives {scores.shape}")
    worst = float(np.max(np.abs(scores - expected) - rtol * np.abs(expected)))
    if not worst <= atol:
        raise ModelError(
            f"{path}: scores on {model.device} differ by {worst:.3g} from the expected, allowed {atol:.3g}"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _warm(model: Model, plan: FeaturePlan) -> None:
    """Run the shapes met first, so that the first event does not pay for them."""
    for rows in _WARM_ROWS:
        try:
            scores_of(model.session, model.card, _zeros(model, plan, rows))
        except Exception as error:
            raise ModelError(
                f"{model.card.name} {model.card.version}: does not run on {rows} rows: {_first_line(error)}"
            ) from error


def _best_part(model: Model, plan: FeaturePlan) -> int:
    """How many rows a CPU scores at a time for the least time each: what fits its caches, as measured here.

    Between 64 and 1,024 rows the shipped networks differ by half in cost; trees want as many as there are.
    """
    whole = _PART_ROWS[-1]
    tensors = _zeros(model, plan, whole)
    best, least_s = whole, math.inf
    for size in reversed(_PART_ROWS):
        part = replace(model, part_rows=size)
        took_s = []
        for _ in range(_TRIALS):
            began_s = time.perf_counter()
            _run_in_parts(part, tensors, whole)
            took_s.append(time.perf_counter() - began_s)
        if min(took_s) < least_s * _WORTH:
            best, least_s = size, min(took_s)
    return best


def _zeros(model: Model, plan: FeaturePlan, rows: int) -> dict[str, NDArray[Any]]:
    """So many rows of every input."""
    shapes = {s.name: (s.length, len(s.fields)) for s in plan.sequences}
    return {feed.tensor: np.zeros((rows, *_shape(feed, shapes)), feed.dtype) for feed in model.feeds}


def _shape(feed: Feed, sequences: dict[str, tuple[int, int]]) -> tuple[int, ...]:
    """Shape of one row of an input."""
    if feed.sequence is not None:
        return sequences[feed.sequence]
    assert feed.columns is not None
    return (len(feed.columns),)
