"""Makes an ONNX graph lighter: its matrix products in FP16, or in INT8 with the ranges of sample rows."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.model_file import ModelCard, check_sha256

PRECISIONS = ("fp16", "int8")
ROWS_AT_ONCE = 64
# What multiplies matrices. Everything before the first and after the last of them keeps its precision:
# there inputs of any range are scaled and scores get their last digits, at a few operations a row.
_PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN", "Attention", "Einsum"}
_TREES = "TreeEnsemble"


class QuantizeError(Exception):
    """This model has no lighter version; the message says why."""


def read_graph(card: ModelCard) -> Any:
    """The card's onnx.ModelProto, weights in other files included, checked against its sha256 first.

    Raises:
        QuantizeError: the package `onnx` is missing, or nothing in the graph can be lighter.
        ConfigError: the files are not those that the card was written for.
    """
    if find_spec("onnx") is None:
        raise QuantizeError("found no package onnx, which rewrites graphs: pip install 'penstock[models]'")
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    graph = onnx.load_model_from_string(check_sha256(card))
    load_external_data_for_model(graph, str(card.folder))
    for number, node in enumerate(graph.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    operators = {node.op_type for node in graph.graph.node}
    if trees := sorted(name for name in operators if name.startswith(_TREES)):
        raise QuantizeError(
            f"{card.folder}: found {', '.join(trees)}, expected matrix products: a tree compares features "
            f"with thresholds, so fewer bits would send rows to other leaves, and ONNX Runtime has no "
            f"operator for it"
        )
    if not operators & _PRODUCTS:
        raise QuantizeError(
            f"{card.folder}: found {', '.join(sorted(operators))}, expected one of "
            f"{', '.join(sorted(_PRODUCTS))}: nothing else gets faster by fewer bits"
        )
    return graph


def to_fp16(graph: Any) -> bytes:
    """The graph with everything between its first and last matrix product in FP16; inputs and scores stay.

    Raises:
        QuantizeError: a tensor on the way has no known type.
    """
    from onnx import helper, shape_inference
    from onnxruntime.transformers.float16 import convert_float_to_float16

    whole = shape_inference.infer_shapes(graph).graph
    middle = _between_products(whole)
    inner = [node for node in whole.node if node.name in middle]
    outer = [node for node in whole.node if node.name not in middle]
    weights = {tensor.name: tensor for tensor in whole.initializer}
    made, read = {name for node in inner for name in node.output}, _read_by(inner)
    wanted = _read_by(outer) | {output.name for output in whole.output}
    types = {value.name: value for value in (*whole.input, *whole.value_info, *whole.output)}
    borders = (sorted(read - made - set(weights)), sorted(made & wanted))
    if unknown := [name for border in borders for name in border if name not in types]:
        raise QuantizeError(
            f"the type of {', '.join(unknown)} cannot be inferred: an operator of another domain?"
        )
    about = {"opset_imports": graph.opset_import, "ir_version": graph.ir_version}
    part = helper.make_graph(
        inner,
        "between",
        *([types[name] for name in border] for border in borders),
        [weights[name] for name in sorted(read & set(weights))],
    )
    with _quietly():
        # The part alone: converting the whole graph would pass raw inputs through FP16, whose end is 65504.
        half = convert_float_to_float16(
            helper.make_model(part, **about), keep_io_types=True, op_block_list=[], disable_shape_infer=True
        ).graph
    before = _leading_to(outer, set(borders[0]))
    light = helper.make_graph(
        [*before, *half.node, *(node for node in outer if node not in before)],
        whole.name,
        whole.input,
        whole.output,
        [*(weights[name] for name in sorted(set(weights) & wanted)), *half.initializer],
    )
    return bytes(helper.make_model(light, **about).SerializeToString())


def to_int8(graph: Any, rows: Mapping[str, NDArray[Any]]) -> bytes:
    """The graph with its matrix products, and what lies between them, in INT8 (QDQ, a scale per channel).

    Args:
        rows: (n, ...) typical rows of each input tensor; their extremes become the ranges of INT8.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    middle = _between_products(graph.graph)
    with tempfile.TemporaryDirectory() as folder, _quietly():
        shaped, light = Path(folder) / "shaped.onnx", Path(folder) / "light.onnx"
        # Without symbolic shapes, which would need one more package, and without fusing anything.
        quant_pre_process(graph, shaped, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            shaped,
            light,
            _Calibration(rows),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,  # U8S8 saturates on x86 without VNNI, S8S8 does not
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in graph.graph.node if node.name not in middle],
        )
        return light.read_bytes()


class _Calibration:
    """Rows as ONNX Runtime's calibration asks for them."""

    def __init__(self, rows: Mapping[str, NDArray[Any]]) -> None:
        self._parts = _parts(rows)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next few rows; None after the last."""
        return next(self._parts, None)


def _parts(rows: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
    for start in range(0, len(next(iter(rows.values()))), ROWS_AT_ONCE):
        yield {tensor: values[start : start + ROWS_AT_ONCE] for tensor, values in rows.items()}


def _between_products(graph: Any) -> set[str]:
    """Names of the nodes that some matrix product leads to and that lead to one, themselves included."""
    nodes = list(graph.node)  # every node stands behind those that it reads from
    products = {node.name for node in nodes if node.op_type in _PRODUCTS}
    behind: set[str] = set()
    reached: set[str] = set()
    for node in nodes:
        if node.name in products or reached & set(node.input):
            behind.add(node.name)
            reached |= set(node.output)
    needed = {name for node in nodes if node.name in products for name in node.input}
    ahead = {node.name for node in _leading_to(nodes, needed)}
    return products | (behind & ahead)


def _leading_to(nodes: list[Any], wanted: set[str]) -> list[Any]:
    """Those nodes, in order, that any of the wanted tensors depends on."""
    wanted, found = set(wanted), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            found.append(node)
            wanted |= set(node.input)
    return found[::-1]


def _read_by(nodes: list[Any]) -> set[str]:
    return {name for node in nodes for name in node.input if name}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the converters' advice on their own settings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
