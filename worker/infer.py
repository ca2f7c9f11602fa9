"""Feature columns to scores through ONNX Runtime, on the device asked for or not at all."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from worker.batch import Features
from worker.buckets import Buckets, open_buckets, plain_options
from worker.buckets import run as run_buckets
from worker.model_file import GOLDEN_FILE, ModelCard, check_sha256, load_model_card
from worker.onnx_file import OnnxFileError
from worker.plan import FeaturePlan
from worker.session import (
    ModelError,
    Session,
    first_line,
    has_nvidia_driver,
    has_tree_operators,
    open_session,
)
from worker.trees import Trees, UnknownTreesError, proven_trees

_WARM_ROWS = (1, 64, 1024)  # the shapes met first; ONNX Runtime plans memory at the first run of a shape
_PART_ROWS = (64, 128, 256, 512, 1024)  # that a CPU may score at a time
_WHOLE = 16  # rows; what vectors of any processor leave over of fewer is computed, and rounded, by other code
_TRIALS = 5
_WORTH = 0.95  # smaller parts must cost less than this share of larger ones


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
    session: Session
    feeds: tuple[Feed, ...]
    part_rows: int | None = None  # rows that go through together at most; None: all
    buckets: Buckets | None = None  # of an accelerator, see `settle`
    trees: Trees | None = None  # what explains its scores exactly; None: it is not made of trees alone

    @property
    def device(self) -> str:
        """Where it really runs: cpu, cuda:N, tensorrt:N."""
        return self.session.device


def infer(model: Model, features: Features) -> NDArray[np.float32]:
    """(n,) scores of the batch; not finite where the model could not say.

    Raises:
        ModelError: the model does not give one score a row.
        Exception: whatever ONNX Runtime raises; worker.scoring tells whose fault it is.
    """
    rows = len(features.scalars)
    whole = rows + _missing(model, rows)
    scores = _run_in_parts(
        model, {feed.tensor: _tensor(feed, features, whole) for feed in model.feeds}, whole
    )
    if scores.shape != (whole,):
        raise ModelError(
            f"{model.card.name} {model.card.version}: found {scores.shape} scores, expected one for each of "
            f"{whole} rows"
        )
    return scores[:rows]


def _tensor(feed: Feed, features: Features, whole: int) -> NDArray[Any]:
    """One input tensor of so many rows, the last of which is repeated where there are fewer."""
    values: NDArray[Any] = features.scalars if feed.sequence is None else features.sequences[feed.sequence]
    if feed.columns is not None:
        values = values[:, feed.columns]
    return _filled_up(values, whole, feed.dtype)


def _filled_up(values: NDArray[Any], whole: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    rows = len(values)
    if rows == whole:
        return np.ascontiguousarray(values, dtype)
    tensor = np.empty((whole, *values.shape[1:]), dtype)
    tensor[:rows], tensor[rows:] = values, values[-1]
    return tensor


def _run_in_parts(model: Model, tensors: dict[str, NDArray[Any]], rows: int) -> NDArray[np.float32]:
    """Scores of all rows, of so many at a time as the model likes best."""
    if model.buckets is not None and rows:
        return _score_column(model.card, run_buckets(model.buckets, tensors, rows))
    size = model.part_rows or rows
    if rows <= size:
        return _scores_at_once(model, tensors)
    parts = [
        _scores_at_once(model, {name: each[at : at + size] for name, each in tensors.items()})
        for at in range(0, rows, size)
    ]
    return np.concatenate(parts)


def _missing(model: Model, rows: int) -> int:
    """How many rows to add so that each scores the same in any batch.

    On a CPU their number must be a multiple of 16: every row is then computed by the same instructions and
    has the same score, to the last bit, whatever batch it is in.
    """
    return -rows % _WHOLE if model.device == "cpu" else 0


def whole_rows(model: Model, tensors: Mapping[str, NDArray[Any]], rows: int) -> dict[str, NDArray[Any]]:
    """The tensors with the last row repeated until each scores the same in any batch."""
    whole = rows + _missing(model, rows)
    return {name: _filled_up(each, whole, each.dtype) for name, each in tensors.items()}


def _scores_at_once(model: Model, tensors: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    return scores_of(model.session.runtime, model.card, tensors, plain_options(model.session))


def scores_of(
    runtime: Any, card: ModelCard, tensors: dict[str, NDArray[Any]], options: Any = None
) -> NDArray[np.float32]:
    """(n,) scores of these rows, as the card reads them.

    Args:
        runtime: ort.InferenceSession.
        card: names the output.
        tensors: (n, ...) each input.
        options: ort.RunOptions.

    Raises:
        ModelError: the card names a column that the output does not have.
        Exception: whatever ONNX Runtime raises.
    """
    return _score_column(card, runtime.run([card.output.tensor], tensors, options)[0])


def _score_column(card: ModelCard, output: NDArray[Any]) -> NDArray[np.float32]:
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
    return _load(card, data, plan, _faster(card, data, plan) if device == "auto" else device)


def _load(card: ModelCard, data: bytes, plan: FeaturePlan, device: str) -> Model:
    session = open_session(card.onnx_file, data, device, use_tf32=card.tf32)
    model = Model(card=card, session=session, feeds=_feeds(card, plan, session.runtime, card.folder))
    check_golden(model)
    _warm(model, plan)
    if device != "cpu":
        return model
    return replace(model, part_rows=_best_part(model, plan), trees=_trees(model, data))


def _trees(model: Model, data: bytes) -> Trees | None:
    if not has_tree_operators(data) or len(model.feeds) > 1 or model.feeds[0].columns is None:
        return None
    golden, column = _golden(model), model.card.output.column or 0
    x = golden.tensors[model.feeds[0].tensor]
    try:
        return proven_trees(data, column, x, golden.expected, rtol=golden.rtol, atol=golden.atol)
    except (UnknownTreesError, OnnxFileError) as error:
        log = structlog.get_logger(model=f"{model.card.name} {model.card.version}")
        log.info("alerts are explained by asking the model, not from its trees", why=str(error))
        return None


def settle(model: Model) -> Model:
    """The model with what belongs to the thread that calls: an accelerator's fixed buffers and graphs.

    Raises:
        ModelError: through them it gives other scores than without.
        Exception: whatever ONNX Runtime raises.
    """
    if model.device == "cpu":
        return model
    golden = _golden(model)
    buckets = open_buckets(
        model.session, golden.tensors, model.card.output.tensor, rtol=golden.rtol, atol=golden.atol
    )
    return replace(model, buckets=buckets)


def _faster(card: ModelCard, data: bytes, plan: FeaturePlan) -> str:
    """The device that `auto` takes: the first GPU where it works and scores a full batch sooner."""
    if not has_nvidia_driver() or has_tree_operators(data):
        return "cpu"
    log = structlog.get_logger(model=f"{card.name} {card.version}")
    try:
        gpu = settle(_load(card, data, plan, "cuda:0"))
    except Exception as error:  # auto means: the CPU will do
        log.warning("the GPU is not used", why=first_line(error))
        return "cpu"
    cpu = _load(card, data, plan, "cpu")
    took_s = {rows: (seconds_for(cpu, plan, rows), seconds_for(gpu, plan, rows)) for rows in _PART_ROWS}
    crossing = crossover(took_s)
    log.info(
        "measured CPU against GPU",
        gpu_is_faster_from_rows=crossing,
        us_cpu_gpu={rows: [round(s * 1e6) for s in both] for rows, both in took_s.items()},
    )
    return "cpu" if crossing is None else "cuda:0"


def crossover(took_s: Mapping[int, tuple[float, float]]) -> int | None:
    """From how many rows on the GPU is faster for good; None: not even for the most rows measured.

    Args:
        took_s: for each number of rows, how long the CPU and the GPU take.
    """
    crossing = None
    for rows, (cpu_s, gpu_s) in sorted(took_s.items(), reverse=True):
        if gpu_s >= cpu_s:
            break
        crossing = rows
    return crossing


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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Golden:
    """Recorded rows, and how far from the expected scores another device may be."""

    tensors: dict[str, NDArray[Any]]
    expected: NDArray[np.float32]
    rtol: float
    atol: float


def _golden(model: Model) -> _Golden:
    path = model.card.folder / GOLDEN_FILE
    if not path.exists():
        raise ModelError(f"{path}: not found, expected inputs and their expected scores")
    try:
        with np.load(path, allow_pickle=False) as golden:
            return _Golden(
                tensors={feed.tensor: golden[feed.tensor].astype(feed.dtype) for feed in model.feeds},
                expected=golden["expected"],
                rtol=float(golden["rtol"]),
                atol=float(golden["atol"]),
            )
    except Exception as error:
        raise _unusable(path, error) from error


def check_golden(model: Model) -> None:
    """Score the recorded rows and compare: a wrong build, device or file shows here and not in production.

    Raises:
        ModelError: the scores are not those expected, or there are none.
    """
    path, golden = model.card.folder / GOLDEN_FILE, _golden(model)
    try:
        scores = _scores_at_once(model, golden.tensors)
    except ModelError:
        raise
    except Exception as error:
        raise _unusable(path, error) from error
    expected = golden.expected
    if scores.shape != expected.shape or not len(expected):
        raise ModelError(f"{path}: found {expected.shape} expected scores, the model gives {scores.shape}")
    worst = float(np.max(np.abs(scores - expected) - golden.rtol * np.abs(expected)))
    if not worst <= golden.atol:
        raise ModelError(
            f"{path}: scores on {model.device} differ by {worst:.3g} from the expected, "
            f"allowed {golden.atol:.3g}"
        )


def _unusable(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path}: the golden rows do not run: {first_line(error)}; expected one array for each input of "
        f"model.yaml, `expected`, `rtol` and `atol`"
    )


def _warm(model: Model, plan: FeaturePlan) -> None:
    """Run the shapes met first, so that the first event does not pay for them."""
    for rows in _WARM_ROWS:
        try:
            _scores_at_once(model, _zeros(model, plan, rows))
        except Exception as error:
            raise ModelError(
                f"{model.card.name} {model.card.version}: does not run on {rows} rows: {first_line(error)}"
            ) from error


def _best_part(model: Model, plan: FeaturePlan) -> int:
    """How many rows a CPU scores at a time for the least time each: what fits its caches, as measured here.

    Between 64 and 1,024 rows the shipped networks differ by half in cost; trees want as many as there are.
    """
    best, least_s = _PART_ROWS[-1], math.inf
    for size in reversed(_PART_ROWS):
        took_s = seconds_for(replace(model, part_rows=size), plan, _PART_ROWS[-1])
        if took_s < least_s * _WORTH:
            best, least_s = size, took_s
    return best


def seconds_for(model: Model, plan: FeaturePlan, rows: int) -> float:
    """How long a call of so many rows takes when nothing disturbs."""
    tensors, took_s = _zeros(model, plan, rows), []
    for _ in range(_TRIALS):
        began_s = time.perf_counter()
        _run_in_parts(model, tensors, rows)
        took_s.append(time.perf_counter() - began_s)
    return min(took_s)


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
