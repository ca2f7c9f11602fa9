"""Reads rows of a model's inputs, and what was true of each, from an NPZ, NPY, CSV or Parquet file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from worker.model_file import GOLDEN_FILE, ModelCard, ModelInput, show_shape

MIN_ROWS = 16


class RowsError(ValueError):
    """The file has no rows for this model; the message says what is missing."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Rows:
    """Rows of every input tensor, in step."""

    tensors: dict[str, NDArray[Any]]  # name to (n, ...)
    truth: NDArray[np.float64] | None  # (n,) 0/1 or remaining life; None: not known

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def take(self, rows: slice) -> Rows:
        """Some of the rows."""
        tensors = {name: np.ascontiguousarray(values[rows]) for name, values in self.tensors.items()}
        return Rows(tensors=tensors, truth=None if self.truth is None else self.truth[rows])


def golden_rows(card: ModelCard) -> Rows:
    """The inputs of the version's own golden.npz.

    Raises:
        RowsError: there are none.
    """
    return read_rows(card.folder / GOLDEN_FILE, card, "")


def read_rows(path: Path, card: ModelCard, label: str) -> Rows:
    """Rows for every input of the card.

    Args:
        path: .npz with an array (n, ...) for each input tensor; .npy with the only one; .csv or .parquet with
            a column for each feature.
        label: name of the array or column that holds the truth, where there is one.

    Raises:
        RowsError: it cannot be read, an input is missing or has another shape, or a value is not a number.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                found = {name: archive[name] for name in archive.files}
        elif path.suffix == ".npy":
            found = {card.inputs[0].tensor: np.load(path, allow_pickle=False)}
        else:
            found = _columns(path, card, label)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        if isinstance(error, RowsError):
            raise
        raise RowsError(f"{path}: cannot be read: {error}") from error
    tensors = {entry.tensor: _tensor(path, entry, found) for entry in card.inputs}
    truth = np.asarray(found[label], np.float64) if label in found else None
    lengths = {len(values) for values in tensors.values()} | (set() if truth is None else {len(truth)})
    if len(lengths) > 1 or max(lengths) < MIN_ROWS:
        expected = f"the same number for all, at least {MIN_ROWS}"
        raise RowsError(f"{path}: found {', '.join(map(str, sorted(lengths)))} rows, expected {expected}")
    return Rows(tensors=tensors, truth=truth)


def _columns(path: Path, card: ModelCard, label: str) -> dict[str, NDArray[Any]]:
    table = (pyarrow.csv.read_csv if path.suffix == ".csv" else pyarrow.parquet.read_table)(path)
    names = set(table.column_names)
    if sequences := [entry.tensor for entry in card.inputs if entry.sequence is not None]:
        raise RowsError(
            f"{path}: {', '.join(sequences)} are sequences, expected .npz or .npy with their rows"
        )
    if missing := sorted({name for entry in card.inputs for name in entry.features} - names):
        raise RowsError(f"{path}: found no column {', '.join(missing)}, which the model reads")

    def column(name: str) -> NDArray[np.float64]:
        return np.asarray(table.column(name).cast(pa.float64()).to_numpy(), np.float64)

    found = {entry.tensor: np.column_stack([column(f) for f in entry.features]) for entry in card.inputs}
    return {**found, **({label: column(label)} if label in names else {})}


def _tensor(path: Path, entry: ModelInput, found: dict[str, NDArray[Any]]) -> NDArray[Any]:
    if entry.tensor not in found:
        raise RowsError(f"{path}: found {', '.join(found) or 'nothing'}, expected an array {entry.tensor!r}")
    values = found[entry.tensor]
    wanted = entry.shape[1:]
    fits = values.ndim == len(entry.shape) and all(
        isinstance(size, str) or size == has for size, has in zip(wanted, values.shape[1:], strict=True)
    )
    if not fits or values.dtype.kind not in "fiub":
        shape = f"numbers of shape {show_shape(entry.shape)}"
        raise RowsError(f"{path}: {entry.tensor}: found {values.dtype} {values.shape}, expected {shape}")
    if not np.isfinite(values).all():
        raise RowsError(f"{path}: {entry.tensor}: found null, NaN or infinity, expected numbers")
    return np.ascontiguousarray(values, entry.dtype)
