"""Reads model.yaml, the card that says what feeds a model version and what its output means."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic import WithJsonSchema as Written
from pydantic.dataclasses import dataclass

from worker.key_types import NAME, VERSION, FieldName, Int, Number, Text, wrong
from worker.typed_yaml import parse
from worker.yaml_lines import Document, KeyPath, config_error, read_yaml, show

CARD_FILE = "model.yaml"
SECTION = ConfigDict(extra="forbid")


def _dimension(value: Any) -> Any:
    if isinstance(value, bool) or not (isinstance(value, str) or (isinstance(value, int) and value > 0)):
        raise wrong("", "a whole number of at least 1, or a letter for a size that varies")
    return value


Dimension = Annotated[int | str, BeforeValidator(_dimension), Written({"type": ["integer", "string"]})]


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class ModelInput:
    """One input tensor and what feeds it: scalar features by column, or one sequence."""

    tensor: Text
    dtype: Literal["float32", "float64"]
    shape: tuple[Dimension, ...]  # (n, columns) for features, (n, length, fields) for a sequence
    features: tuple[Text, ...] = ()
    sequence: Text | None = None
    fields: tuple[FieldName, ...] = ()  # of the sequence, when the card wants to hold their order

    def __post_init__(self) -> None:
        if bool(self.features) == (self.sequence is not None):
            raise wrong("both" if self.features else "neither", "exactly one of features, sequence")
        if self.fields and self.sequence is None:
            raise wrong("fields without a sequence", "fields only beside sequence", "fields")
        rank = 2 if self.features else 3
        if len(self.shape) != rank or isinstance(self.shape[0], int):
            expected = "[n, columns]" if self.features else "[n, length, fields]"
            raise wrong(show_shape(self.shape), expected, "shape")
        width = len(self.features) or len(self.fields)
        if width and self.shape[-1] not in (width, str(self.shape[-1])):
            what = "features" if self.features else "fields"
            raise wrong(show_shape(self.shape), f"{width} at the end, as there are {width} {what}", "shape")
        if len(set(self.features)) < len(self.features):
            raise wrong("the same feature twice", "different features", "features")


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class ModelOutput:
    """Which output tensor is the score, and what it means."""

    tensor: Text
    column: Annotated[Int, Field(ge=0)] | None = None  # None: the output is (n,) or (n, 1)
    meaning: Literal["probability", "remaining_life"]


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Reference:
    """How a feature was distributed over the training rows."""

    mean: Number
    std: Annotated[Number, Field(ge=0)]
    p01: Number
    p50: Number
    p99: Number


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class ModelCard:
    """One model version: models/NAME/VERSION/model.yaml, checked."""

    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(pattern=VERSION)]
    description: Text
    file: Text = "model.onnx"
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    inputs: Annotated[tuple[ModelInput, ...], Field(min_length=1)]
    output: ModelOutput
    reference: Mapping[str, Reference] = Field(default_factory=dict)
    trained_on: Any = None
    metrics: Any = None
    folder: Path

    @property
    def onnx_file(self) -> Path:
        """The ONNX file of this version."""
        return self.folder / self.file


CARD: TypeAdapter[ModelCard] = TypeAdapter(ModelCard)


def load_model_card(folder: Path) -> ModelCard:
    """Read and check the card in a version's folder; the ONNX file is neither read nor hashed.

    Raises:
        ConfigError: one line, `FOLDER/model.yaml:LINE: key.path: found X, expected Y`.
    """
    document = read_card(folder)
    card = parse(document, CARD, folder=folder)
    named = {name for model_input in card.inputs for name in model_input.features}
    checks: tuple[tuple[bool, KeyPath, str, str], ...] = (
        (folder.resolve().name == card.version, ("version",), show(card.version), "the name of its folder"),
        (folder.resolve().parent.name == card.name, ("name",), show(card.name), "the name of its folder"),
        (card.onnx_file.is_file(), ("file",), show(card.file), "a file beside model.yaml"),
        *((name in named, ("reference", name), show(name), "one of the features") for name in card.reference),
    )
    for holds, path, found, expected in checks:
        if not holds:
            raise document.error(path, found, expected)
    return card


def check_sha256(card: ModelCard) -> None:
    """Check that the ONNX file is the one the card was written for.

    Raises:
        ConfigError: it is not.
    """
    found = hashlib.sha256(card.onnx_file.read_bytes()).hexdigest()
    if found != card.sha256:
        raise read_card(card.folder).error(("sha256",), f"{found} in {card.file}", card.sha256)


def read_card(folder: Path) -> Document:
    """Return the card as read, for the lines of its keys; `${...}` has no meaning in it.

    Raises:
        ConfigError: there is none, or it is not YAML.
    """
    file = folder / CARD_FILE
    if not file.is_file():
        raise config_error(file, 1, (), "no such file", "the card of a model version")
    return read_yaml(file, {}, expand=False)


def show_shape(shape: tuple[int | str, ...]) -> str:
    """Return a shape as model.yaml writes it."""
    return f"[{', '.join(map(str, shape))}]"
