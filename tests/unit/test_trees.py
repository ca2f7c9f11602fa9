"""Trees are read from ONNX files of any writer, and explain a score only where they alone make it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from tests.parity.shap_trees import tree_attributes
from worker.onnx_file import OnnxFileError
from worker.onnx_nodes import nodes_of
from worker.trees import Trees, UnknownTreesError, proven_trees, read_trees, tree_contributions, tree_scores

FRAUD = Path(__file__).parents[2] / "models" / "fraud" / "1" / "model.onnx"
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
WIDTH = 3
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def forest(seed: int, trees: int, kind: str, classes: int = 1) -> dict[str, Any]:
    """Attributes of random full trees of depth 3; every leaf has a weight for each class."""
    random = np.random.default_rng(seed)
    found: dict[str, Any] = {
        f"nodes_{key}": []
        for key in (
            "treeids",
            "nodeids",
            "featureids",
            "modes",
            "values",
            "truenodeids",
            "falsenodeids",
            "missing_value_tracks_true",
        )
    } | {f"{kind}_{key}": [] for key in ("treeids", "nodeids", "ids", "weights")}
    for tree in range(trees):
        mode = MODES[tree % len(MODES)]
        for node in range(15):
            is_leaf = node > 6
            found["nodes_treeids"].append(tree)
            found["nodes_nodeids"].append(node + 10)  # ids need not begin at 0
            found["nodes_featureids"].append(0 if is_leaf else int(random.integers(WIDTH)))
            found["nodes_modes"].append("LEAF" if is_leaf else mode)
            found["nodes_values"].append(float(random.integers(-2, 3)))
            found["nodes_truenodeids"].append(0 if is_leaf else 2 * node + 11)
            found["nodes_falsenodeids"].append(0 if is_leaf else 2 * node + 12)
            found["nodes_missing_value_tracks_true"].append(int(random.integers(2)))
            for each in range(classes if is_leaf else 0):
                found[f"{kind}_treeids"].append(tree)
                found[f"{kind}_nodeids"].append(node + 10)
                found[f"{kind}_ids"].append(each)
                found[f"{kind}_weights"].append(float(random.normal()))
    return found


def model(operator: str, attributes: dict[str, Any], *, before: str | None = None) -> bytes:
    """An ONNX file of one tree ensemble, with an operator before it where that is asked for."""
    is_classifier = operator == "TreeEnsembleClassifier"
    nodes = [onnx.helper.make_node(before, ["x"], ["in"])] if before else []
    outputs = ["label", "y"] if is_classifier else ["y"]
    node = onnx.helper.make_node(operator, ["in" if before else "x"], outputs, domain="ai.onnx.ml")
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items())
    float_type, n = onnx.TensorProto.FLOAT, ["n", "k"]
    graph = onnx.helper.make_graph(
        [*nodes, node],
        "trees",
        [onnx.helper.make_tensor_value_info("x", float_type, ["n", WIDTH])],
        [onnx.helper.make_tensor_value_info("y", float_type, n)],
    )
    opsets = [onnx.helper.make_opsetid("", 15), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def scores(data: bytes, column: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX Runtime says."""
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    (found,) = session.run(["y"], {"x": x})
    of_column: NDArray[np.float32] = found[:, column]
    return of_column


def rows(count: int = 200) -> NDArray[np.float32]:
    """Rows that often stand exactly at a threshold, or are missing."""
    random = np.random.default_rng(5)
    x = random.integers(-3, 4, (count, WIDTH)).astype(np.float32) + random.choice([0, 0.5], (count, WIDTH))
    x[random.random(x.shape) < 0.05] = np.nan
    return np.asarray(x, np.float32)


BINARY = {"classlabels_int64s": [0, 1], "post_transform": "LOGISTIC"}
CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("TreeEnsembleRegressor", 1, {}),
    ("TreeEnsembleRegressor", 1, {"post_transform": "LOGISTIC", "base_values": [0.25]}),
    ("TreeEnsembleRegressor", 1, {"aggregate_function": "AVERAGE", "base_values": [3.0]}),
    ("TreeEnsembleRegressor", 2, {}),
    ("TreeEnsembleClassifier", 1, BINARY),
    ("TreeEnsembleClassifier", 1, {**BINARY, "base_values": [-0.5]}),
    ("TreeEnsembleClassifier", 3, {"classlabels_int64s": [0, 1, 2]}),
]


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize(("operator", "classes", "more"), CASES)
def test_trees_read_from_a_file_give_the_scores_of_onnx_runtime(
    operator: str, classes: int, more: dict[str, Any], column: int
) -> None:
    is_classifier = operator == "TreeEnsembleClassifier"
    if column and classes == 1 and not is_classifier:
        pytest.skip("there is one column")
    targets = {} if is_classifier else {"n_targets": classes}
    attributes = forest(1, 6, "class" if is_classifier else "target", classes)
    data, x = model(operator, {**attributes, **targets, **more}), rows()

    trees = proven_trees(data, column, x, scores(data, column, x), **TOLERANCE)

    assert trees is not None
    found, expected = tree_scores(trees, x.astype(np.float64)), scores(data, column, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    usual = np.zeros(WIDTH)
    moved = tree_contributions(trees, x.astype(np.float64), usual).sum(axis=1)
    expected = scores(data, column, x) - scores(data, column, usual[None].astype(np.float32))
    np.testing.assert_allclose(moved, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "before"),
    [
        ({}, "Neg"),
        ({"post_transform": "PROBIT"}, None),
        ({"aggregate_function": "MAX"}, None),
        ({"nodes_featureids": [9] * 90}, None),
    ],
)
def test_trees_that_are_not_all_there_is_to_a_score_explain_nothing(
    change: dict[str, Any], before: str | None
) -> None:
    attributes = {**forest(1, 6, "target"), "n_targets": 1}
    x = rows()
    plain = model("TreeEnsembleRegressor", attributes, before=before)

    with pytest.raises(UnknownTreesError):
        proven_trees(
            model("TreeEnsembleRegressor", {**attributes, **change}, before=before),
            0,
            x,
            scores(plain, 0, x) if "aggregate_function" not in change else scores(plain, 0, x) + 1,
            **TOLERANCE,
        )


@pytest.mark.parametrize("to", [10, 11, 12, 99])
def test_nodes_that_lead_back_or_nowhere_are_refused_and_never_walked(to: int) -> None:
    attributes = {**forest(1, 1, "target"), "n_targets": 1}
    attributes["nodes_truenodeids"][2] = to

    with pytest.raises(UnknownTreesError):
        read_trees(model("TreeEnsembleRegressor", attributes), 0, WIDTH)


def test_a_model_without_trees_has_none() -> None:
    data = model("TreeEnsembleRegressor", {**forest(1, 1, "target"), "n_targets": 1})
    network = data.replace(b"TreeEnsembleRegressor", b"NoSuchOperatorAtAll__")

    assert isinstance(read_trees(data, 0, WIDTH), Trees)
    assert read_trees(network, 0, WIDTH) is None


def test_attributes_are_what_the_onnx_package_reads() -> None:
    ((operator, found),) = nodes_of(FRAUD.read_bytes(), "TreeEnsemble")

    expected = tree_attributes(FRAUD)
    assert operator == "TreeEnsembleClassifier"
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = found[name] == value if isinstance(value, bytes) else list(found[name]) == list(value)
        assert same, name


def test_lists_may_be_packed_as_other_writers_do() -> None:
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    ints = field(1, b"i") + field(8, b"\x01\x96\x01" + b"\xff" * 9 + b"\x01")
    floats = field(1, b"f") + field(7, np.array([1.5, -2.0], "<f4").tobytes())
    node = field(4, b"TreeEnsembleX") + field(5, ints) + field(5, floats)

    ((_, found),) = nodes_of(field(7, field(1, node)), "TreeEnsemble")

    assert found["i"].tolist() == [1, 150, -1]
    assert found["f"].tolist() == [1.5, -2.0]
    with pytest.raises(OnnxFileError):
        nodes_of(field(7, field(1, node))[:-3], "TreeEnsemble")
