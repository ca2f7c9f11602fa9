"""Two versions of a model side by side: how far their scores lie apart, how right and how fast each is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from worker.accuracy import auc, average_precision, rmse
from worker.infer import scores_of
from worker.model_file import ModelCard
from worker.model_rows import Rows
from worker.quantize import QuantizeError

SPEED_ROWS = (1, 64, 1024)
_SAMPLES = 5
_SAMPLE_S = 0.01  # at least, each
Tensors = dict[str, NDArray[Any]]
Measure = Callable[[NDArray[np.float64], NDArray[np.float64]], float]  # of the truth and the scores


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Comparison:
    """A lighter version beside the one that it was made from; pairs are (old, new)."""

    rows: int
    max_difference: float  # of one row's two scores, in the unit of the score
    p99_difference: float
    mean_difference: float
    accuracy: dict[str, tuple[float, float]]  # auc and average_precision, or rmse; empty without truth
    cpu_us_per_row: dict[int, tuple[float, float]]  # by rows a call
    size_bytes: tuple[int, int]

    def as_dict(self) -> dict[str, Any]:
        """As model.yaml and --json write it."""
        return {
            "rows": self.rows,
            "difference": {
                "max": _round(self.max_difference),
                "p99": _round(self.p99_difference),
                "mean": _round(self.mean_difference),
            },
            **{name: _pair(pair) for name, pair in self.accuracy.items()},
            "cpu_us_per_row": {str(rows): _pair(pair) for rows, pair in self.cpu_us_per_row.items()},
            "size_bytes": {"old": self.size_bytes[0], "new": self.size_bytes[1]},
        }


def open_on_cpu(data: bytes) -> Any:
    """An ort.InferenceSession of one thread on the CPU, where every version can be compared.

    Raises:
        QuantizeError: ONNX Runtime does not take it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise QuantizeError(f"does not run on the CPU: {str(error).strip().splitlines()[0]}") from error


def compare(old: bytes, new: bytes, card: ModelCard, rows: Rows) -> Comparison:
    """Score the same rows with both, then time both in turns.

    Raises:
        QuantizeError: one of them does not run, the new one has no score where the old one has, or the truth
            is not one that this kind of score can be measured by.
    """
    sessions = open_on_cpu(old), open_on_cpu(new)
    before, after = (scores_of(session, card, rows.tensors).astype(np.float64) for session in sessions)
    if not np.isfinite(after[np.isfinite(before)]).all():
        raise QuantizeError("found scores that are NaN or infinite where the old version has numbers")
    scored = np.isfinite(before)
    apart = np.abs(after - before)[scored]
    truth = None if rows.truth is None else rows.truth[scored]
    return Comparison(
        rows=len(apart),
        max_difference=float(apart.max()),
        p99_difference=float(np.quantile(apart, 0.99)),
        mean_difference=float(apart.mean()),
        accuracy={} if truth is None else _accuracy(card, truth, before[scored], after[scored]),
        cpu_us_per_row={n: _cpu_us_per_row(sessions, card, rows.tensors, n) for n in SPEED_ROWS},
        size_bytes=(len(old), len(new)),
    )


def _accuracy(
    card: ModelCard, truth: NDArray[np.float64], *scores: NDArray[np.float64]
) -> dict[str, tuple[float, float]]:
    if card.output.meaning == "remaining_life":
        measures: dict[str, Measure] = {"rmse": rmse}
    elif 0 < np.count_nonzero(truth) < len(truth) and np.isin(truth, (0, 1)).all():
        measures = {"auc": auc, "average_precision": average_precision}
    else:
        raise QuantizeError("found a truth that is not both 0 and 1, expected it for a probability")
    old, new = scores
    return {name: (measure(truth, old), measure(truth, new)) for name, measure in measures.items()}


def _cpu_us_per_row(
    sessions: tuple[Any, Any], card: ModelCard, tensors: Tensors, rows: int
) -> tuple[float, float]:
    """Medians of the process time, taken in turns: a busy machine is then busy for both."""
    batch = {name: np.resize(values, (rows, *values.shape[1:])) for name, values in tensors.items()}

    def sample(session: Any, calls: int) -> float:
        begun = time.process_time()
        for _ in range(calls):
            session.run([card.output.tensor], batch)
        return (time.process_time() - begun) / calls

    calls = max(1, int(_SAMPLE_S / max(sample(sessions[0], 2), 1e-6)))
    taken = [[sample(session, calls) for session in sessions] for _ in range(_SAMPLES)]
    old, new = (statistics.median(column) / rows * 1e6 for column in zip(*taken, strict=True))
    return old, new


def _pair(pair: tuple[float, float]) -> dict[str, float]:
    return {"old": _round(pair[0]), "new": _round(pair[1])}


def _round(value: float) -> float:
    return float(f"{value:.4g}")
