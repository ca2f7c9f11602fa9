"""Model versions that only benchmarks need: one that does nothing, and a heavy network over a sequence."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from worker.model_file import load_model_card
from worker.pack import pack

READINGS = 64  # the sequence of the heavy network
LAYERS, WIDTH, HIDDEN = 3, 64, 256
GOLDEN_ROWS = 32
_OPSET = [helper.make_opsetid("", 17)]


def null_model(folder: Path, repository: Path, golden: dict[str, NDArray[Any]]) -> Path:
    """A version with the inputs of another one whose scores are 0; the repository folder gets it as `null 1`.

    Args:
        folder: the version to stand in for.
        repository: where to write it.
        golden: rows of every input.
    """
    card = yaml.safe_load((folder / "model.yaml").read_text())
    inputs = [_value(entry["tensor"], entry["shape"]) for entry in card["inputs"]]
    rank = len(card["inputs"][0]["shape"])
    nodes = [
        helper.make_node("ReduceMean", [inputs[0].name], ["mean"], axes=list(range(1, rank)), keepdims=0),
        helper.make_node("Sub", ["mean", "mean"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "null", inputs, [_value("y", ["n"])])
    return _written(
        repository / "null" / "1",
        graph,
        {
            "name": "null",
            "version": "1",
            "description": "Nothing: what a worker costs without its model.",
            "inputs": card["inputs"],
            "output": {"tensor": "y", "column": None, "meaning": card["output"]["meaning"]},
        },
        golden,
    )


def attention_model(repository: Path, fields: list[str]) -> Path:
    """A transformer of three layers over 64 readings: about 22 million operations an event."""
    rng = np.random.default_rng(0)
    weights: list[TensorProto] = []
    nodes: list[Any] = []

    def weight(name: str, *shape: int) -> str:
        values = rng.normal(0.0, shape[0] ** -0.5, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(values, name))
        return name

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    weights.append(numpy_helper.from_array(np.float32(WIDTH**-0.5), "scale"))
    weights.append(numpy_helper.from_array(np.float32(1e-3), "small"))
    x = node("Mul", ["readings", "small"], "scaled")
    x = node("MatMul", [x, weight("embed", len(fields), WIDTH)], "embedded")
    for layer in range(LAYERS):
        at = f"l{layer}."
        q, k, v = (node("MatMul", [x, weight(at + n, WIDTH, WIDTH)], at + n + "x") for n in "qkv")
        k = node("Transpose", [k], at + "kt", perm=[0, 2, 1])
        looks = node("Mul", [node("MatMul", [q, k], at + "qk"), "scale"], at + "qks")
        looks = node("Softmax", [looks], at + "p", axis=-1)
        seen = node("MatMul", [looks, v], at + "pv")
        x = node("Add", [x, node("MatMul", [seen, weight(at + "o", WIDTH, WIDTH)], at + "ox")], at + "a")
        hidden = node("Tanh", [node("MatMul", [x, weight(at + "f", WIDTH, HIDDEN)], at + "fx")], at + "h")
        x = node("Add", [x, node("MatMul", [hidden, weight(at + "g", HIDDEN, WIDTH)], at + "gx")], at + "b")
    mean = node("ReduceMean", [x], "mean", axes=[1], keepdims=0)
    node("Sigmoid", [node("MatMul", [mean, weight("head", WIDTH, 1)], "logit")], "y")
    shape: list[int | str] = ["n", READINGS, len(fields)]
    graph = helper.make_graph(
        nodes, "attention", [_value("readings", shape)], [_value("y", ["n", 1])], initializer=weights
    )
    golden = rng.normal(500.0, 50.0, (GOLDEN_ROWS, READINGS, len(fields))).astype(np.float32)
    about = {
        "name": "attention",
        "version": "1",
        "description": "Attention over 64 readings, untrained: a heavy model for benchmarks.",
        "inputs": [
            {
                "tensor": "readings",
                "dtype": "float32",
                "shape": shape,
                "sequence": "readings",
                "fields": list(fields),
            }
        ],
        "output": {"tensor": "y", "column": None, "meaning": "probability"},
    }
    return _written(repository / "attention" / "1", graph, about, {"readings": golden})


def operations(fields: int) -> int:
    """Multiplications and additions of one event of the heavy network."""
    a_layer = 4 * WIDTH * WIDTH + 2 * READINGS * WIDTH + 2 * WIDTH * HIDDEN
    return 2 * READINGS * (fields * WIDTH + LAYERS * a_layer)


def _value(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _written(folder: Path, graph: Any, about: dict[str, Any], golden: dict[str, NDArray[Any]]) -> Path:
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=_OPSET, ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    card = {**about, "file": "model.onnx", "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "model.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    pack(folder, golden)
    load_model_card(folder)
    return folder
