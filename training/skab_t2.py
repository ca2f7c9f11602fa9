"""Makes pump v1: Hotelling's T-squared over the limit of each of SKAB's 34 experiments, in one ONNX graph.

    python -m training.skab_t2 --data DIR                  # fit, write models/pump/1, print the measures

The published protocol fits a detector on the first 400 rows of each experiment. The graph holds all 34: what
a reading is compared with is chosen by its `run`, which is the last channel of the sequence.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy import stats  # type: ignore[import-untyped]

from training import model_folder
from training.fraud_data import data_folder
from training.skab_data import CHANNELS, FITTED_ROWS, Experiment, pooled_f1, read_experiments

QUANTILE = 0.999
MEDIAN = 5  # readings
SENSORS = len(CHANNELS)
OUTPUT = {"tensor": "t2_over_limit", "column": None, "meaning": "anomaly_score"}
LIMITS = {"own": 1.0, "published": 2.0}  # the published detector alarms at twice the limit


def fit(readings: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (8,) of healthy rows (n, 8), and the matrix (8, 8) after which a squared length is T2 / limit."""
    n, m = readings.shape
    covariance = np.cov(readings.T)
    limit = stats.f.ppf(QUANTILE, m, n - m) * m * (n + 1) * (n - 1) / (n * (n - m))
    return readings.mean(axis=0), np.linalg.cholesky(np.linalg.inv(covariance)) / np.sqrt(limit)


def windows_of(experiment: Experiment) -> NDArray[np.float32]:
    """Each reading with the four before it, (n, 5, 9), oldest first; the first ones repeat the oldest."""
    rows = np.column_stack([experiment.readings, np.full(len(experiment.readings), experiment.run)])
    at = np.maximum(np.arange(len(rows))[:, None] + np.arange(-MEDIAN + 1, 1), 0)
    windows: NDArray[np.float32] = rows[at].astype(np.float32)
    return windows


def to_onnx(means: NDArray[np.float64], whitening: NDArray[np.float64]) -> onnx.ModelProto:
    """Return the graph from (n, 5, 9) raw readings and run to the median of T2 / limit, (n, 1).

    Args:
        means: (34, 8) by run.
        whitening: (34, 8, 8) by run.
    """
    nodes = [
        helper.make_node("Slice", ["readings", "first", "sensors", "channels"], ["raw"]),
        helper.make_node("Slice", ["readings", "sensors", "all", "channels"], ["runs"]),
        helper.make_node("Slice", ["runs", "newest", "steps", "time"], ["last_run"]),
        helper.make_node("Reshape", ["last_run", "flat"], ["run_float"]),
        helper.make_node("Cast", ["run_float"], ["run"], to=TensorProto.INT64),
        helper.make_node("Gather", ["means", "run"], ["mean"], axis=0),
        helper.make_node("Gather", ["whitening", "run"], ["matrix"], axis=0),
        helper.make_node("Cast", ["raw"], ["raw_double"], to=TensorProto.DOUBLE),
        helper.make_node("Sub", ["raw_double", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "matrix"], ["white"]),
        helper.make_node("ReduceSumSquare", ["white"], ["ratio"], axes=[2], keepdims=0),
        helper.make_node("TopK", ["ratio", "half"], ["upper", "places"], axis=1),
        helper.make_node("ReduceMin", ["upper"], ["median"], axes=[1], keepdims=1),
        helper.make_node("Cast", ["median"], [OUTPUT["tensor"]], to=TensorProto.FLOAT),
    ]
    constants = {
        "first": np.array([0]),
        "sensors": np.array([SENSORS]),
        "all": np.array([SENSORS + 1]),
        "channels": np.array([2]),
        "newest": np.array([MEDIAN - 1]),
        "steps": np.array([MEDIAN]),
        "time": np.array([1]),
        "flat": np.array([-1]),
        "half": np.array([MEDIAN // 2 + 1]),
        "means": means[:, None, :],
        "whitening": whitening,
    }
    held = [numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in constants.items()]
    readings = helper.make_tensor_value_info("readings", TensorProto.FLOAT, ["n", MEDIAN, SENSORS + 1])
    score = helper.make_tensor_value_info(OUTPUT["tensor"], TensorProto.FLOAT, ["n", 1])
    graph = helper.make_graph(nodes, "pump", [readings], [score], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def golden_rows(means: NDArray[np.float64], whitening: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return (34, 5, 9) made-up readings, one of each run, from well within its limit to far beyond."""
    random = np.random.default_rng(5)
    reach = np.linspace(0.2, 3, len(means))[:, None, None]
    directions = random.normal(size=(len(means), MEDIAN, SENSORS))
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    readings = means[:, None, :] + reach * (directions @ np.linalg.inv(whitening))
    runs = np.broadcast_to(np.arange(len(means))[:, None, None], (len(means), MEDIAN, 1))
    return np.concatenate([readings, runs], axis=2).astype(np.float32)


def measure(
    experiments: list[Experiment], scores: list[NDArray[np.float32]], limit: float
) -> dict[str, float]:
    """Return the published measures where a score beyond the limit is an alarm."""
    return pooled_f1(
        [
            (score[FITTED_ROWS:] >= limit, experiment.is_anomaly[FITTED_ROWS:])
            for experiment, score in zip(experiments, scores, strict=True)
        ]
    )


def main() -> None:
    """Fit, write models/pump/1 and print the measures at both limits."""
    options = data_folder("pump v1").parse_args()
    experiments = read_experiments(options.data)
    fitted = [fit(experiment.readings[:FITTED_ROWS]) for experiment in experiments]
    means, whitening = (np.stack(part) for part in zip(*fitted, strict=True))
    graph = to_onnx(means, whitening)
    scores = [model_folder.score(graph, windows_of(experiment), OUTPUT) for experiment in experiments]
    batches = model_folder.worst_batch_effect(graph, windows_of(experiments[0])[:400], OUTPUT, (1, 7, 64))
    if batches > 1e-5:
        raise ValueError(f"a score depends on its batch by {batches:.2g}")
    metrics = {name: measure(experiments, scores, limit) for name, limit in LIMITS.items()}
    about = {
        "name": "pump",
        "version": "1",
        "description": "Hotelling's T-squared of the last five readings, as a multiple of its 99.9% limit.",
        "inputs": [
            {
                "tensor": "readings",
                "dtype": "float32",
                "shape": ["n", MEDIAN, SENSORS + 1],
                "sequence": "readings",
                "fields": [*CHANNELS, "run"],
            }
        ],
        "output": OUTPUT,
        "trained_on": (
            f"SKAB 0.9, the first {FITTED_ROWS} rows of each of 34 experiments; the limit of each is that of "
            "the F distribution, no setting was tuned. The published detector alarms at 2, twice the limit."
        ),
        "metrics": {
            "measured_on": f"the rows after the first {FITTED_ROWS} of the 34 experiments, pooled",
            "at_limit": metrics["own"],
            "at_twice_the_limit": metrics["published"],
        },
    }
    folder = model_folder.write(graph, about, golden_rows(means, whitening), atol=1e-3)
    print(f"{folder}: {metrics}; batch size {batches:.1e}")


if __name__ == "__main__":
    main()
