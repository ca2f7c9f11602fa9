"""The Open Inference Protocol, version 2, in JSON: tensors of the model as its ONNX file has them.

https://github.com/kserve/open-inference-protocol; its binary tensor extension is left out.
"""

from __future__ import annotations

import math
from importlib.metadata import version as version_of
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.asks import NotPossibleError, TensorsAsk
from worker.composite import Composite, Version
from worker.router import Serving

# Datatype of the protocol, type of ONNX Runtime, type of numpy.
_TYPES = (
    ("BOOL", "tensor(bool)", np.bool_),
    ("UINT8", "tensor(uint8)", np.uint8),
    ("UINT16", "tensor(uint16)", np.uint16),
    ("UINT32", "tensor(uint32)", np.uint32),
    ("UINT64", "tensor(uint64)", np.uint64),
    ("INT8", "tensor(int8)", np.int8),
    ("INT16", "tensor(int16)", np.int16),
    ("INT32", "tensor(int32)", np.int32),
    ("INT64", "tensor(int64)", np.int64),
    ("FP16", "tensor(float16)", np.float16),
    ("FP32", "tensor(float)", np.float32),
    ("FP64", "tensor(double)", np.float64),
    ("BYTES", "tensor(string)", np.object_),
)
_NAME_OF = {runtime: name for name, runtime, _ in _TYPES}
_NUMPY_OF = {name: numpy for name, _, numpy in _TYPES}


def about_server() -> dict[str, Any]:
    """Server metadata."""
    return {"name": "penstock", "version": version_of("penstock"), "extensions": []}


def serving_version(serving: Serving, name: str, version: str | None) -> Version:
    """A version that is loaded to serve.

    Args:
        version: None: the one that scores what no other does.

    Raises:
        NotPossibleError: 404, there is none of that name.
    """
    scorers = [scorer for scorer in (serving.champion, serving.challenger) if scorer is not None]
    for scorer in scorers:
        if scorer.card.name == name and version in (None, scorer.card.version):
            return scorer.loaded
    known = ", ".join(f"{scorer.card.name} version {scorer.card.version}" for scorer in scorers)
    raise NotPossibleError(f"found no such model, expected {known}", 404)


def about_model(serving: Serving, model: Version) -> dict[str, Any]:
    """Model metadata: its tensors, and the versions that serve."""
    scorers = [scorer for scorer in (serving.champion, serving.challenger) if scorer is not None]
    tensors: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
    if not isinstance(model, Composite):
        runtime = model.session.runtime
        tensors = {"inputs": _about(runtime.get_inputs()), "outputs": _about(runtime.get_outputs())}
    return {
        "name": model.card.name,
        "versions": [scorer.card.version for scorer in scorers if scorer.card.name == model.card.name],
        "platform": "ensemble" if isinstance(model, Composite) else "onnx_onnxruntime",
        **tensors,
    }


def _about(tensors: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": tensor.name,
            "datatype": _NAME_OF[tensor.type],
            "shape": [size if isinstance(size, int) else -1 for size in tensor.shape],
        }
        for tensor in tensors
        if tensor.type in _NAME_OF
    ]


def read_tensors(request: Any, model: Version, version: str | None, max_rows: int) -> TensorsAsk:
    """The tensors of an inference request, checked against the model's.

    Raises:
        NotPossibleError: they are not those of the model.
    """
    if isinstance(model, Composite):
        raise NotPossibleError(f"{model.card.name} is made of several models: ask for scores of events")
    if not isinstance(request, dict):
        raise NotPossibleError("found no object, expected an inference request")
    if not isinstance(request.get("id", ""), str):
        raise NotPossibleError("id: expected a text")
    wanted = {tensor.name: tensor for tensor in model.session.runtime.get_inputs()}
    given = _named(request.get("inputs"), "inputs")
    if given.keys() != wanted.keys():
        raise NotPossibleError(f"inputs: found {sorted(given)}, expected {sorted(wanted)}")
    tensors = {name: _tensor(f"inputs.{name}", given[name], wanted[name]) for name in wanted}
    rows = {len(tensor) for tensor in tensors.values()}
    if len(rows) != 1 or not 0 < max(rows) <= max_rows:
        raise NotPossibleError(
            f"inputs: found {sorted(rows)} rows, expected the same of each, 1 to {max_rows} "
            f"(batching.max_rows)"
        )
    outputs = None
    if request.get("outputs"):
        known = {tensor.name for tensor in model.session.runtime.get_outputs()}
        outputs = list(_named(request["outputs"], "outputs"))
        if not known.issuperset(outputs):
            raise NotPossibleError(f"outputs: found {outputs}, expected some of {sorted(known)}")
    return TensorsAsk(tensors=tensors, version=version, rows=rows.pop(), outputs=outputs)


def _named(entries: Any, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise NotPossibleError(f"{where}: expected an array of objects, each with its name")
    named = {entry["name"]: entry for entry in entries}
    if len(named) < len(entries):
        raise NotPossibleError(f"{where}: found a name twice, expected each once")
    return named


def _tensor(where: str, entry: dict[str, Any], wanted: Any) -> NDArray[Any]:
    datatype, expected = entry.get("datatype"), _NAME_OF.get(wanted.type)
    if expected is None:
        raise NotPossibleError(f"{where}: the model wants a {wanted.type}, which this protocol does not have")
    if datatype != expected:
        raise NotPossibleError(f"{where}.datatype: found {datatype!r}, expected {expected!r}")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise NotPossibleError(f"{where}.shape: expected an array of whole numbers")
    sizes = [size if isinstance(size, int) else -1 for size in wanted.shape]
    if len(shape) != len(sizes) or any(
        have not in (size, -1) for have, size in zip(sizes, shape, strict=True)
    ):
        raise NotPossibleError(f"{where}.shape: found {shape}, expected {sizes}, where -1 is any")
    if not shape:
        raise NotPossibleError(f"{where}: the model takes a single value, expected one of rows")
    data = entry.get("data")
    if not isinstance(data, list):
        raise NotPossibleError(f"{where}.data: expected an array")
    flat = _flat(data, where)
    if len(flat) != math.prod(shape):
        raise NotPossibleError(f"{where}.data: found {len(flat)} values, expected {math.prod(shape)}")
    return _typed(flat, expected, where).reshape(shape)


def _flat(data: list[Any], where: str) -> list[Any]:
    """Row by row, whether it was nested or not."""
    level = data
    while level and isinstance(level[0], list):
        if not all(isinstance(each, list) for each in level) or len({len(each) for each in level}) > 1:
            raise NotPossibleError(f"{where}.data: found rows of different lengths, expected a tensor")
        level = [value for each in level for value in each]
    return level


def _typed(flat: list[Any], datatype: str, where: str) -> NDArray[Any]:
    """The values as that type, if they are of it."""
    kind = np.dtype(_NUMPY_OF[datatype])
    allowed = {"b": (bool,), "O": (str,), "f": (int, float)}.get(kind.kind, (int,))
    if not set(map(type, flat)) <= set(allowed):
        found = next(type(value).__name__ for value in flat if type(value) not in allowed)
        raise NotPossibleError(f"{where}.data: found a value of type {found}, expected {datatype}")
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, kind)  # of whole numbers beyond the type, numpy says so itself
    except OverflowError as error:
        raise NotPossibleError(f"{where}.data: found a number beyond {datatype}") from error


def say_tensors(
    request: dict[str, Any], name: str, version: str, outputs: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """The inference response."""
    datatypes = {np.dtype(numpy): datatype for datatype, _, numpy in _TYPES}
    said: dict[str, Any] = {"model_name": name, "model_version": version}
    if "id" in request:
        said["id"] = request["id"]
    said["outputs"] = [
        {
            "name": tensor,
            "shape": list(values.shape),
            "datatype": datatypes[values.dtype],
            "data": values.ravel().tolist(),
        }
        for tensor, values in outputs.items()
    ]
    return said
