"""Several small dense networks trained side by side and averaged in one graph."""

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn


class Members(nn.Module):
    """Independent networks with two hidden layers of one width: (members, n, columns) to (members, n)."""

    def __init__(self, *, members: int, columns: int, hidden: int, dropout: float, spread: float) -> None:
        """Draw the weights evenly from +-spread / sqrt(inputs)."""
        super().__init__()
        widths = (columns, hidden, hidden, 1)
        self.members, self.hidden = members, hidden
        self.weights = nn.ParameterList(
            nn.Parameter((torch.rand(members, a, b) * 2 - 1) * spread / a**0.5) for a, b in pairwise(widths)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, b)) for b in widths[1:])
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            rows = self.dropout(torch.relu(torch.baddbmm(bias, rows, weight)))
        return torch.baddbmm(self.biases[-1], rows, self.weights[-1])[:, :, 0]


def hidden_layers(network: Members) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """Return nodes and constants from `rows` (n, columns) to `hidden` (n, members x width), member by member.

    The second layer is a product per member and not one product of three dimensions: with no rows that one
    divides by zero in ONNX Runtime 1.31 and takes the process with it.
    """
    first, second = (weight.detach().numpy() for weight in network.weights[:2])
    bias_1, bias_2 = (bias.detach().numpy() for bias in network.biases[:2])
    wide = network.members * network.hidden
    constants: dict[str, NDArray[Any]] = {
        # All members read the same row, so their first layers are one product.
        "w1": first.transpose(1, 0, 2).reshape(-1, wide),
        "b1": bias_1.reshape(wide),
    }
    nodes = [
        helper.make_node("Gemm", ["rows", "w1", "b1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["a1"]),
        helper.make_node("Split", ["a1"], [f"a1_{m}" for m in range(network.members)], axis=1),
    ]
    for m in range(network.members):
        constants |= {f"w2_{m}": second[m], f"b2_{m}": bias_2[m, 0]}
        nodes.append(helper.make_node("Gemm", [f"a1_{m}", f"w2_{m}", f"b2_{m}"], [f"h2_{m}"]))
    nodes += [
        helper.make_node("Concat", [f"h2_{m}" for m in range(network.members)], ["h2"], axis=1),
        helper.make_node("Relu", ["h2"], ["hidden"]),
    ]
    return nodes, constants


def graph_of(
    name: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    inputs: onnx.ValueInfoProto,
    outputs: onnx.ValueInfoProto,
) -> onnx.ModelProto:
    """Return the model of one input, one output and these constants."""
    held = [numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, [inputs], [outputs], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
