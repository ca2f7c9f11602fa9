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
    """Return nodes and constants from `rows` (n, columns) to `hidden_0` ... (n, width), one for each member.

    A member is a branch of its own down to its second layer: what it has between two layers is small enough
    for a processor's nearest caches, where one product for the first layers of all is not, and has to be
    split again. Nor is the second layer one product of three dimensions: with no rows that one divides by
    zero in ONNX Runtime 1.31 and takes the process with it.
    """
    first, second = (weight.detach().numpy() for weight in network.weights[:2])
    bias_1, bias_2 = (bias.detach().numpy() for bias in network.biases[:2])
    constants: dict[str, NDArray[Any]] = {}
    nodes: list[onnx.NodeProto] = []
    for m in range(network.members):
        constants |= {
            f"w1_{m}": first[m],
            f"b1_{m}": bias_1[m, 0],
            f"w2_{m}": second[m],
            f"b2_{m}": bias_2[m, 0],
        }
        nodes += [
            helper.make_node("Gemm", ["rows", f"w1_{m}", f"b1_{m}"], [f"h1_{m}"]),
            helper.make_node("Relu", [f"h1_{m}"], [f"a1_{m}"]),
            helper.make_node("Gemm", [f"a1_{m}", f"w2_{m}", f"b2_{m}"], [f"h2_{m}"]),
            helper.make_node("Relu", [f"h2_{m}"], [f"hidden_{m}"]),
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
