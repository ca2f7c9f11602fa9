"""Makes the example's model.onnx and model.yaml: a logistic regression on made-up logins."""

from pathlib import Path

import numpy as np
import onnx  # type: ignore[import-not-found, unused-ignore]  # pip install onnx; running the model needs none of it
from numpy.typing import NDArray
from onnx import TensorProto, helper  # type: ignore[import-not-found, unused-ignore]

FEATURES = ("distance_km", "new_device", "account.count_1h", "account.mean_1h")
FOLDER = Path(__file__).parent / "models" / "login-risk" / "1"


def made_up_logins(rows: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(rows, 4) features and (rows,) whether the login was a takeover."""
    rng = np.random.default_rng(1)
    takeover = rng.random(rows) < 0.05
    distance_km = rng.lognormal(np.where(takeover, 6.5, 2.0), 1.0)
    new_device = rng.random(rows) < np.where(takeover, 0.8, 0.05)
    attempts = 1 + rng.poisson(np.where(takeover, 8, 0.5))
    failed = rng.binomial(attempts, np.where(takeover, 0.8, 0.1)) / attempts
    return np.column_stack([distance_km, new_device, attempts, failed]), takeover


def logistic_regression(x: NDArray[np.float64], y: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """(f,) weights and the bias for features as they come: the scaling is folded into them."""
    mean, std = x.mean(0), x.std(0)
    scaled = np.column_stack([(x - mean) / std, np.ones(len(x))])
    w = np.zeros(scaled.shape[1])
    for _ in range(2000):
        p = 1 / (1 + np.exp(-scaled @ w))
        w -= scaled.T @ (p - y) / len(y) + 1e-3 * w
    return w[:-1] / std, float(w[-1] - (w[:-1] * mean / std).sum())


def graph(weights: NDArray[np.float64], bias: float) -> onnx.ModelProto:
    """features (n, 4) float32 to probability (n, 1) float32."""
    nodes = [
        helper.make_node("Gemm", ["features", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    constants = [
        helper.make_tensor("weights", TensorProto.FLOAT, [len(weights), 1], weights.tolist()),
        helper.make_tensor("bias", TensorProto.FLOAT, [1], [bias]),
    ]
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", len(weights)])]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])]
    body = helper.make_graph(nodes, "login-risk", inputs, outputs, constants)
    made = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def card(x: NDArray[np.float64]) -> str:
    """model.yaml; pack_model.py adds the checksum."""
    lines = [
        "name: login-risk",
        'version: "1"',
        "description: Logistic regression on the place, the device and the last hour of an account.",
        "file: model.onnx",
        "inputs:",
        "  - tensor: features",
        "    dtype: float32",
        "    shape: [n, 4]",
        f"    features: [{', '.join(FEATURES)}]",
        "output: {tensor: probability, column: null, meaning: probability}",
        "reference:                       # of the training rows; alerts say what is unusual against it",
    ]
    for name, column in zip(FEATURES, x.T, strict=True):
        p01, p50, p99 = np.percentile(column, [1, 50, 99])
        lines.append(
            f"  {name}: {{mean: {column.mean():.6g}, std: {column.std():.6g}, "
            f"p01: {p01:.6g}, p50: {p50:.6g}, p99: {p99:.6g}}}"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    logins, is_takeover = made_up_logins(50_000)
    FOLDER.mkdir(parents=True, exist_ok=True)
    onnx.save(graph(*logistic_regression(logins, is_takeover)), str(FOLDER / "model.onnx"))
    (FOLDER / "model.yaml").write_text(card(logins))
    print(f"wrote {FOLDER}; now: python examples/pack_model.py {FOLDER}")
