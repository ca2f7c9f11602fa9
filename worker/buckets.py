"""Batches of a few fixed sizes for an accelerator: buffers that never move, a CUDA graph for each size."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from worker.session import ModelError, Session

SIZES = (32, 64, 128, 256, 512, 1024, 2048)  # rows; larger batches go through in parts
NO_GRAPH = "-1"
_WARM_RUNS = 3  # ordinary runs of a size allocate its memory; only then can a graph be recorded

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Bucket:
    """One size: its own buffers on the host and on the device, bound once."""

    rows: int
    host: dict[str, NDArray[Any]]  # (rows, ...) views of `staged`
    staged: dict[str, Any]  # ort.OrtValue on the host, page-locked where ONNX Runtime has such memory
    inputs: dict[str, Any]  # ort.OrtValue on the device
    output: Any  # ort.OrtValue on the device
    binding: Any  # ort.IOBinding of inputs and output
    options: Any  # ort.RunOptions that name the graph of this size


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Buckets:
    """All sizes of one session. CUDA keeps graphs by thread: only the one that opened them may use them."""

    session: Session
    each: tuple[Bucket, ...]  # ascending


def plain_options(session: Session) -> Any:
    """How to run a session outside of its graphs; None: as it is."""
    return _run_options(NO_GRAPH) if session.has_graphs else None


def open_buckets(
    session: Session,
    example: Tensors,
    output: str,
    *,
    rtol: float,
    atol: float,
    sizes: tuple[int, ...] = SIZES,
) -> Buckets:
    """Allocate, bind, warm and prove every size, largest first so that its memory serves the others.

    Args:
        session: on any device.
        example: tensors of at least one row that the model can score, such as its golden rows.
        output: the output tensor.
        rtol, atol: how far apart scores of the same rows may be: other sizes round differently.
        sizes: rows of each bucket, ascending.

    Raises:
        ModelError: a size does not give the scores that the session gives without buckets.
        Exception: whatever ONNX Runtime raises.
    """
    each = []
    for graph, rows in reversed([*enumerate(sizes, start=1)]):
        filled = {name: np.resize(values, (rows, *values.shape[1:])) for name, values in example.items()}
        bucket = _open(session, filled, output, rows, graph)
        _prove(session, bucket, filled, output, rtol, atol)
        each.append(bucket)
    return Buckets(session=session, each=tuple(reversed(each)))


def run(buckets: Buckets, tensors: Tensors, rows: int) -> NDArray[Any]:
    """The output for so many rows, at least one, through as few buckets as hold them.

    Raises:
        Exception: whatever ONNX Runtime raises; nothing of the batch has an output then.
    """
    parts = [
        _run(
            buckets.session, bucket, {name: values[at : at + bucket.rows] for name, values in tensors.items()}
        )
        for at, bucket in _cut(rows, buckets.each)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _cut(rows: int, each: tuple[Bucket, ...]) -> Iterator[tuple[int, Bucket]]:
    """First row and bucket of every part: the largest while it is full, then the smallest that fits."""
    at = 0
    while at < rows:
        fitting = next((bucket for bucket in each if bucket.rows >= rows - at), each[-1])
        yield at, fitting
        at += fitting.rows


def _run(session: Session, bucket: Bucket, tensors: Tensors) -> NDArray[Any]:
    n = 0
    for name, values in tensors.items():
        n = len(values)
        host = bucket.host[name]
        host[:n] = values
        host[n:] = host[n - 1]  # a row that the model can score; what it scores is thrown away
        bucket.inputs[name].update_inplace(bucket.staged[name])
    session.runtime.run_with_iobinding(bucket.binding, bucket.options)
    output: NDArray[Any] = bucket.output.numpy()[:n].copy()  # on the CPU it is the buffer itself
    return output


def _open(session: Session, filled: Tensors, output: str, rows: int, graph: int) -> Bucket:
    kind, _, number = session.device.partition(":")
    place = ("cpu", 0) if kind == "cpu" else ("cuda", int(number))
    expected = _plain(session, filled, output)
    if len(expected) != rows:
        raise ModelError(f"output {output!r} has {len(expected)} rows, expected one for each of {rows}")
    staged = {name: _on_host(values, place) for name, values in filled.items()}
    inputs = {
        name: ort.OrtValue.ortvalue_from_shape_and_type(values.shape, values.dtype, *place)
        for name, values in filled.items()
    }
    binding = session.runtime.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    scores = ort.OrtValue.ortvalue_from_shape_and_type(expected.shape, expected.dtype, *place)
    binding.bind_ortvalue_output(output, scores)
    bucket = Bucket(
        rows=rows,
        host={name: _view(value, filled[name]) for name, value in staged.items()},
        staged=staged,
        inputs=inputs,
        output=scores,
        binding=binding,
        options=_run_options(str(graph)) if session.has_graphs else None,
    )
    for _ in range(_WARM_RUNS):
        _run(session, bucket, filled)
    return bucket


def _prove(session: Session, bucket: Bucket, filled: Tensors, output: str, rtol: float, atol: float) -> None:
    """Other rows in the same buffers: a graph that plays back old inputs would show."""
    for turn in (0, 1, bucket.rows // 2):
        turned = {name: np.roll(values, turn, axis=0) for name, values in filled.items()}
        found, expected = _run(session, bucket, turned), _plain(session, turned, output)
        if not np.allclose(found, expected, rtol=rtol, atol=atol, equal_nan=True):
            worst = float(np.nanmax(np.abs(found.astype(np.float64) - expected)))
            raise ModelError(
                f"{bucket.rows} rows through fixed buffers on {session.device} differ by {worst:.3g} from "
                f"the same rows without, allowed {rtol:g} of the score + {atol:g}"
            )


def _plain(session: Session, tensors: Tensors, output: str) -> NDArray[Any]:
    found: NDArray[Any] = session.runtime.run([output], tensors, plain_options(session))[0]
    return found


def _on_host(values: NDArray[Any], place: tuple[str, int]) -> Any:
    """Memory of this shape that the device copies from fastest."""
    if place[0] == "cuda" and (pinned := _page_locked(place[1])) is not None:
        return ort.OrtValue.ortvalue_from_shape_and_type(values.shape, values.dtype, memory_info=pinned)
    return ort.OrtValue.ortvalue_from_shape_and_type(values.shape, values.dtype, "cpu", 0)


def _page_locked(number: int) -> Any:
    """What ONNX Runtime knows of page-locked memory for this GPU; None where it knows nothing."""
    ours = [each for each in ort.get_ep_devices() if each.ep_name == "CUDAExecutionProvider"]
    if number >= len(ours):
        return None
    return ours[number].memory_info(ort.OrtDeviceMemoryType.HOST_ACCESSIBLE)


def _view(value: Any, like: NDArray[Any]) -> NDArray[Any]:
    """The memory of a value on the host as an array; OrtValue.numpy() would copy it."""
    memory = (ctypes.c_byte * like.nbytes).from_address(value.data_ptr())
    return np.frombuffer(memoryview(memory), like.dtype).reshape(like.shape)


def _run_options(graph: str) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options
