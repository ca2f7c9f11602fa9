"""peers/mlp.onnx as a model version without the input that is always 0 (needs the extra `training`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from worker.pack import pack

HERE = Path(__file__).parent
FOLDER = HERE / "models" / "peers" / "1"
FEATURES = [*(f"row.f{i}" for i in range(12)), "amount", "hour", "mcc"]


def main() -> None:
    """Write models/peers/1."""
    model = onnx.load(HERE / "peers" / "mlp.onnx")
    weights = next(w for w in model.graph.initializer if numpy_helper.to_array(w).shape == (16, 128))
    smaller = numpy_helper.to_array(weights)[: len(FEATURES)]
    weights.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(smaller), weights.name))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = len(FEATURES)
    onnx.checker.check_model(model)
    FOLDER.mkdir(parents=True, exist_ok=True)
    onnx.save(model, FOLDER / "model.onnx")
    (FOLDER / "model.yaml").write_text(
        f"""# The model of benchmarks/peers: 16-128-64-1, random weights, made by benchmarks/peer_model.py.
name: peers
version: "1"
description: Random weights, for side-by-side runs.
inputs:
  - tensor: {model.graph.input[0].name}
    dtype: float32
    shape: [n, {len(FEATURES)}]
    features: [{", ".join(FEATURES)}]
output: {{tensor: {model.graph.output[0].name}, column: 0, meaning: probability}}
"""
    )
    rng = np.random.default_rng(0)
    rows = rng.random((64, len(FEATURES))).astype(np.float32)
    print(pack(FOLDER, {model.graph.input[0].name: rows})[:5])


if __name__ == "__main__":
    main()
