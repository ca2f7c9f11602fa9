"""Reads model.yaml, the card that says what feeds a model version and what its output means."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic import WithJsonSchema as Written
from pydantic.dataclasses import dataclass

from worker.interval import Interval
from worker.key_types import NAME, VERSION, FieldName, Int, Number, Text, wrong
from worker.onnx_file import MAX_ONNX_BYTES, OnnxFileError, external_files
from worker.typed_yaml import parse
from worker.yaml_lines import Document, KeyPath, config_error, read_yaml, show

CARD_FILE = "model.yaml"
GOLDEN_FILE = "golden.npz"
MAX_CARD_BYTES = 4 << 20
MAX_GOLDEN_BYTES = 256 << 20
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
    meaning: Literal["probability", "remaining_life", "anomaly_score"]


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Reference:
    """How a feature was distributed over the training rows."""

    mean: Number
    std: Annotated[Number, Field(ge=0)]
    p01: Number
    p50: Number
    p99: Number
    # What drift is measured against; a card of before has neither. Bin j holds edges[j - 1] < x <= edges[j].
    edges: tuple[Number, ...] = ()
    shares: tuple[Annotated[Number, Field(ge=0, le=1)], ...] = ()  # of the rows: one more than edges
    default_share: Annotated[Number, Field(ge=0, le=1)] = 0.0  # of the rows that have the feature's default

    def __post_init__(self) -> None:
        if self.shares and (len(self.shares) != len(self.edges) + 1 or abs(sum(self.shares) - 1) > 0.01):
            raise wrong(f"{len(self.shares)} shares", "one more than edges, with the sum 1", "shares")
        if any(low >= high for low, high in pairwise(self.edges)):
            raise wrong("edges that do not ascend", "each above the one before", "edges")


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class ModelCard:
    """One model version: models/NAME/VERSION/model.yaml, checked."""

    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(pattern=VERSION)]
    description: Text
    file: Text = "model.onnx"
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    external_data: Mapping[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default_factory=dict  # files with weights that the ONNX file names, and the sha256 of each
    )
    inputs: Annotated[tuple[ModelInput, ...], Field(min_length=1)]
    output: ModelOutput
    tf32: bool = False  # a GPU may round what matrix products are made of to 10 bits, which is faster
    reference: Mapping[str, Reference] = Field(default_factory=dict)
    interval: Interval | None = None  # around each score, see docs/models.md
    reference_score: Reference | None = None  # of what the model says of the training rows
    trained_on: Any = None
    made_from: Any = None  # of a lighter version: which one it was made from, and how
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
    named |= {f"{entry.sequence}.{field}" for entry in card.inputs for field in entry.fields}
    checks: tuple[tuple[bool, KeyPath, str, str], ...] = (
        (folder.resolve().name == card.version, ("version",), show(card.version), "the name of its folder"),
        (folder.resolve().parent.name == card.name, ("name",), show(card.name), "the name of its folder"),
        (card.onnx_file.is_file(), ("file",), show(card.file), "a file beside model.yaml"),
        *(
            (name in named, ("reference", name), show(name), "a feature of an input, or SEQUENCE.FIELD")
            for name in card.reference
        ),
    )
    for holds, path, found, expected in checks:
        if not holds:
            raise document.error(path, found, expected)
    return card


def check_sha256(card: ModelCard) -> bytes:
    """Check that the files of a version are those that the card was written for; returns the ONNX file.

    This comes before ONNX Runtime sees them: the ONNX file is the card's, external data lies in the
    version's folder and is the card's too, and the golden vectors do not unpack to more than memory.

    Raises:
        ConfigError: they are not.
    """
    data = _read(card, card.file, MAX_ONNX_BYTES, ("file",))
    _expect(card, ("sha256",), card.file, hashlib.sha256(data).hexdigest(), card.sha256)
    try:
        named = set(external_files(data))
    except OnnxFileError as error:
        raise read_card(card.folder).error(("file",), f"{card.file} ({error})", "an ONNX file") from error
    for name in sorted(named):
        _confined(card, name, ("external_data", name))
    if named != set(card.external_data):
        found = f"{_list(set(card.external_data))}, while {card.file} names {_list(named)}"
        raise read_card(card.folder).error(("external_data",), found, "the same files, each with its sha256")
    for name, sha256 in card.external_data.items():
        found = _hash_of(_confined(card, name, ("external_data", name)))
        _expect(card, ("external_data", name), name, found, sha256)
    _check_golden_size(card)
    return data


def _expect(card: ModelCard, key: KeyPath, file: str, found: str, expected: str) -> None:
    if found != expected:
        raise read_card(card.folder).error(key, f"{found} in {file}", expected)


def _read(card: ModelCard, name: str, at_most: int, key: KeyPath) -> bytes:
    path = _confined(card, name, key)
    size = path.stat().st_size
    if size > at_most:
        raise read_card(card.folder).error(key, f"{name} of {size:,} bytes", f"at most {at_most:,}")
    return path.read_bytes()


def _confined(card: ModelCard, name: str, key: KeyPath) -> Path:
    """Return the file of this name if it really lies in the version's folder, links followed."""
    parts = Path(name).parts
    if name and not Path(name).is_absolute() and ".." not in parts and not set(name) & {"\\", "\0"}:
        path = (card.folder / name).resolve()
        if path.is_relative_to(card.folder.resolve()) and path.is_file():
            return path
    raise read_card(card.folder).error(key, show(name), "a file in the folder of the model version")


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_golden_size(card: ModelCard) -> None:
    path = card.folder / GOLDEN_FILE
    if not path.is_file():
        return  # whoever scores with the version says that it is missing
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # likewise that it is none
    if size > MAX_GOLDEN_BYTES:
        expected = f"at most {MAX_GOLDEN_BYTES:,}, for some thousand rows"
        raise config_error(path, 1, (), f"{size:,} bytes unpacked", expected)


def _list(names: set[str]) -> str:
    return ", ".join(show(name) for name in sorted(names)) or "nothing"


def read_card(folder: Path) -> Document:
    """Return the card as read, for the lines of its keys; `${...}` has no meaning in it.

    Raises:
        ConfigError: there is none, or it is not YAML.
    """
    file = folder / CARD_FILE
    if not file.is_file():
        raise config_error(file, 1, (), "no such file", "the card of a model version")
    if file.stat().st_size > MAX_CARD_BYTES:
        raise config_error(file, 1, (), f"{file.stat().st_size:,} bytes", f"at most {MAX_CARD_BYTES:,}")
    return read_yaml(file, {}, expand=False)


def show_shape(shape: tuple[int | str, ...]) -> str:
    """Return a shape as model.yaml writes it."""
    return f"[{', '.join(map(str, shape))}]"
