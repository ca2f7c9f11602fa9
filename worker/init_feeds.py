"""Which event fields feed which input of a model, and typical rows of these."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from worker.init_onnx import FLOATS, Inspected, Tensor
from worker.init_schema import Ask, InitError, Roles
from worker.key_types import FEATURE_NAME
from worker.pack import GOLDEN_ROWS

SEQUENCE: Final = "readings"  # name of the feature that a three-dimensional input eats


@dataclass(frozen=True, slots=True, kw_only=True)
class Fed:
    """One input and the event fields that fill it, in its order."""

    tensor: Tensor
    fields: tuple[str, ...]
    length: int | None = None  # readings of a sequence; None: scalar features
    why: str = ""

    @property
    def dtype(self) -> str:
        """As model.yaml names it."""
        return FLOATS[self.tensor.kind]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Typical:
    """Rows that the model was trained on, or such as it will see."""

    file: str
    columns: tuple[str, ...]  # numeric ones; of an array: none
    table: Mapping[str, NDArray[np.float64]]  # (n,) by column
    arrays: Mapping[str, NDArray[Any]]  # (n, ...) by input tensor


def read_typical(path: Path) -> Typical:
    """Rows from a .csv or .parquet with a column a field, or a .npz with an array an input.

    Raises:
        InitError: they cannot be read.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return Typical(
                    file=path.name, columns=(), table={}, arrays={k: archive[k] for k in archive.files}
                )
        read = pyarrow.csv.read_csv if path.suffix == ".csv" else pyarrow.parquet.read_table
        table = read(path)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise InitError(
            f"--rows: {path}: cannot be read: {error}; expected .csv, .parquet or .npz"
        ) from error
    columns = {
        field.name: np.asarray(table.column(field.name).cast(pa.float64()).to_numpy(), np.float64)
        for field in table.schema
        if pa.types.is_integer(field.type)
        or pa.types.is_floating(field.type)
        or pa.types.is_boolean(field.type)
    }
    return Typical(file=path.name, columns=tuple(columns), table=columns, arrays={})


def feeds_of(
    model: Inspected,
    roles: Roles,
    ask: Ask,
    *,
    features: Sequence[str] | None = None,
    typical: Typical | None = None,
    length: int | None = None,
) -> tuple[Fed, ...]:
    """Say what fills each input: by names where there are any, else by number and order.

    Args:
        model: what is to be fed.
        roles: which fields are numbers.
        ask: where nothing decides.
        features: fields in the order of the input, from the command line.
        typical: rows, whose columns may say the order.
        length: readings of a sequence, where the model takes any number.

    Raises:
        InitError: the fields do not fit, or nothing decides and nobody is there to ask.
    """
    inputs = model.inputs
    by_name = {_plain(name): name for name in roles.numbers}
    if len(inputs) > 1 or (inputs[0].width == 1 and _plain(inputs[0].name) in by_name):
        unknown = [each.name for each in inputs if each.width != 1 or _plain(each.name) not in by_name]
        if unknown:
            raise InitError(
                f"{model.path}: found no number field for input {', '.join(unknown)}, expected fields "
                f"of these names, or one input for all; the event has {', '.join(roles.numbers)}"
            )
        return tuple(Fed(tensor=each, fields=(by_name[_plain(each.name)],), why="by name") for each in inputs)
    tensor = inputs[0]
    fields, why = _ordered(tensor, roles, ask, features, typical)
    if len(tensor.shape) == 2:
        return (Fed(tensor=tensor, fields=fields, why=why),)
    steps = tensor.shape[1] or length
    if steps is None:
        raise InitError(
            f"{model.path}: input {tensor.name} takes any number of readings: say how many, --length 30"
        )
    return (Fed(tensor=tensor, fields=fields, length=steps, why=why),)


def _ordered(
    tensor: Tensor, roles: Roles, ask: Ask, features: Sequence[str] | None, typical: Typical | None
) -> tuple[tuple[str, ...], str]:
    width, numbers = tensor.width, roles.numbers
    if features is not None:
        _check_fields(features, numbers, width)
        return tuple(features), "as you said"
    if not numbers:
        raise InitError("found no number among the event's fields, expected what the model reads")
    if typical is not None:
        columns = tuple(name for name in typical.columns if name in numbers)
        if len(columns) == (width or len(columns)) and columns:
            return columns, f"the columns of {typical.file}, in its order"
    if width is None or len(numbers) == width:
        return numbers, "the numbers of the event, in the order of the schema"
    answer = ask(
        f"The model eats {width} numbers and the event has {len(numbers)}. Which, in the model's order, with "
        f"commas between? ({', '.join(numbers)})",
        (),
    )
    if answer is None:
        raise InitError(
            f"the model eats {width} numbers and the event has {len(numbers)}: say which in the model's "
            f"order, --features {','.join(numbers[: width or 0])}"
        )
    said = tuple(name.strip() for name in answer.split(","))
    _check_fields(said, numbers, width)
    return said, "as you said"


def _check_fields(features: Sequence[str], numbers: Sequence[str], width: int | None) -> None:
    if unknown := [name for name in features if name not in numbers]:
        raise InitError(
            f"--features: found {', '.join(unknown)}, expected numbers of the event: {', '.join(numbers)}"
        )
    if len(set(features)) < len(features):
        raise InitError("--features: found the same field twice, expected different ones")
    if width is not None and len(features) != width:
        raise InitError(
            f"--features: found {len(features)} fields, expected {width}, as the model eats so many"
        )


def feature_name(field: str) -> str:
    """What a field is called as a feature: itself, where that is a name for one."""
    name = field.lstrip("_") or "field"
    return name if re.fullmatch(FEATURE_NAME, name) else f"f_{name}"[:63]


def rows_of(fed: Sequence[Fed], typical: Typical | None) -> dict[str, NDArray[Any]] | None:
    """(n, ...) typical rows of every input; None where there are none.

    Raises:
        InitError: an input's are missing, or not numbers.
    """
    if typical is None:
        return None
    found: dict[str, NDArray[Any]] = {}
    for each in fed:
        name = each.tensor.name
        if name in typical.arrays:
            found[name] = np.ascontiguousarray(typical.arrays[name], each.dtype)
        elif missing := [field for field in each.fields if field not in typical.table]:
            known = ", ".join((*typical.columns, *typical.arrays)) or "nothing"
            raise InitError(f"--rows: {typical.file}: found {known}, expected also {', '.join(missing)}")
        elif each.length is not None:
            return (
                None  # single readings are no stretches; the card describes the channels by them all the same
            )
        else:
            columns = [typical.table[field] for field in each.fields]
            found[name] = np.column_stack(columns).astype(each.dtype)
        if not len(found[name]) or not np.isfinite(found[name]).all():
            raise InitError(f"--rows: {typical.file}: {name}: found null, NaN or no rows, expected numbers")
    return found


def some(rows: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """As many of the rows, spread over all of them, as are kept beside the model."""
    count = min(len(values) for values in rows.values())
    chosen = np.unique(np.linspace(0, count - 1, GOLDEN_ROWS).round().astype(np.int64))
    return {name: values[chosen] for name, values in rows.items()}


def made_up(fed: Sequence[Fed]) -> dict[str, NDArray[Any]]:
    """Rows of nothing in particular: what they show is only that the model says the same everywhere."""
    rng = np.random.default_rng(0)
    return {
        each.tensor.name: rng.standard_normal(
            (GOLDEN_ROWS, *((each.length,) if each.length else ()), len(each.fields))
        ).astype(each.dtype)
        for each in fed
    }


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
