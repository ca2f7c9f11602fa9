"""What an ONNX file of anybody's takes in and gives out, and which output is the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import onnxruntime as ort

from worker.init_schema import Ask, InitError
from worker.session import first_line

Meaning = Literal["probability", "remaining_life", "anomaly_score"]
FLOATS: Final = {"tensor(float)": "float32", "tensor(double)": "float64"}
MEANINGS: Final[tuple[Meaning, ...]] = ("probability", "remaining_life", "anomaly_score")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output."""

    name: str
    kind: str  # as ONNX Runtime says it, tensor(float)
    shape: tuple[int | None, ...]  # None: varies

    @property
    def width(self) -> int | None:
        """Numbers in a row: of (n,) 1, of (n, k) k; None: not known."""
        return self.shape[-1] if len(self.shape) > 1 else 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inspected:
    """What ONNX Runtime says of a file."""

    path: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    session: Any  # ort.InferenceSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Which number is the score."""

    tensor: str
    column: int | None
    meaning: Meaning | None  # None: nothing says
    is_outlier: bool = False  # of scikit-learn's outlier detectors: below 0 is an outlier
    why: str = ""


def inspect_onnx(path: Path) -> Inspected:
    """Load a file on the CPU and look at it.

    Raises:
        InitError: it is none that ONNX Runtime loads, or an input is not of numbers with a fraction.
    """
    if not path.is_file():
        raise InitError(f"{path}: found no such file, expected an ONNX model")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises kinds of its own
        raise InitError(
            f"{path}: found no model that ONNX Runtime {ort.__version__} loads ({first_line(error)}), "
            "expected an ONNX file"
        ) from error
    inputs = tuple(_tensor(entry) for entry in session.get_inputs())
    for entry in inputs:
        if entry.kind not in FLOATS:
            raise InitError(
                f"{path}: input {entry.name} takes {entry.kind}, expected tensor(float): export the model "
                "with float inputs"
            )
        if len(entry.shape) not in (2, 3):
            raise InitError(
                f"{path}: input {entry.name} has {len(entry.shape)} dimensions, expected [n, features] or "
                "[n, readings, channels]"
            )
        if isinstance(entry.shape[0], int):
            raise InitError(
                f"{path}: input {entry.name} takes exactly {entry.shape[0]} rows, expected any number: "
                "export the model with a dynamic first dimension"
            )
    outputs = tuple(_tensor(entry) for entry in session.get_outputs())
    return Inspected(path=path, inputs=inputs, outputs=outputs, session=session)


def output_of(
    model: Inspected, ask: Ask, *, said: str | None = None, meaning: Meaning | None = None
) -> Output:
    """Find the output that is the score.

    Args:
        model: what to look at.
        ask: where nothing decides.
        said: NAME or NAME:COLUMN, from the command line.
        meaning: likewise.

    Raises:
        InitError: no output can be it, or nothing decides and nobody is there to ask.
    """
    able = [entry for entry in model.outputs if entry.kind in FLOATS and len(entry.shape) in (1, 2)]
    if said is not None:
        return _as_said(model, able, said, meaning)
    if not able:
        raise InitError(_no_output(model))
    labels = [entry for entry in model.outputs if entry.kind in ("tensor(int64)", "tensor(string)")]
    if labels and len(able) == 1 and able[0].width in (1, None) and able[0].name == "scores":
        return Output(
            tensor=able[0].name, column=None, meaning=meaning or "anomaly_score",
            is_outlier=meaning in (None, "anomaly_score"), why="beside a label: an outlier detector",
        )  # fmt: skip
    if labels and len(able) == 1 and able[0].width == 2:
        return Output(
            tensor=able[0].name, column=1, meaning=meaning or "probability", why="a classifier of two classes"
        )
    choices = {
        entry.name if width == 1 else f"{entry.name}:{column}": (entry, column, width)
        for entry in able
        for width in (entry.width or 1,)
        for column in range(min(width, 20))
    }
    if len(choices) == 1:
        name = next(iter(choices))
        return Output(
            tensor=able[0].name, column=None, meaning=meaning or _by_name(name), why="the only output"
        )
    answer = ask("Which output is the score?", list(choices))
    if answer is None:
        raise InitError(f"cannot tell which output is the score: say --output {'|'.join(choices)}")
    return _as_said(model, able, answer, meaning)


def _as_said(model: Inspected, able: Sequence[Tensor], said: str, meaning: Meaning | None) -> Output:
    # A name may hold colons itself: PyTorch's do.
    name, _, column = (said, "", "") if any(each.name == said for each in able) else said.rpartition(":")
    entry = next((each for each in able if each.name == name), None)
    if entry is None or (column and not column.isdecimal()):
        named = ", ".join(each.name for each in able) or _no_output(model)
        raise InitError(f"--output: found {said!r}, expected NAME or NAME:COLUMN of {named}")
    if not column and entry.width not in (1, None):
        raise InitError(
            f"--output: {name} has {entry.width} columns, expected {name}:0 to :{(entry.width or 1) - 1}"
        )
    if column and entry.width is not None and int(column) >= entry.width:
        raise InitError(f"--output: found column {column}, and {name} has {entry.width}")
    return Output(
        tensor=name,
        column=int(column) if column else None,
        meaning=meaning or _by_name(name),
        why="as you said",
    )


def _by_name(name: str) -> Meaning | None:
    said = name.lower()
    if "prob" in said:
        return "probability"
    if any(word in said for word in ("rul", "life", "cycles")):
        return "remaining_life"
    return "anomaly_score" if any(word in said for word in ("anomaly", "outlier", "error")) else None


def _no_output(model: Inspected) -> str:
    found = ", ".join(f"{entry.name} {entry.kind}" for entry in model.outputs)
    if any(entry.kind.startswith("seq(map") for entry in model.outputs):
        return (
            f"{model.path}: outputs {found}: probabilities are dictionaries. Export again with "
            'to_onnx(..., options={"zipmap": False})'
        )
    return f"{model.path}: outputs {found}, expected one of type tensor(float), (n,) or (n, k)"


def _tensor(entry: Any) -> Tensor:
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in entry.shape)
    return Tensor(name=entry.name, kind=entry.type, shape=shape)
