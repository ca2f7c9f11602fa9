"""Damage records on purpose, in the ways that real producers, networks and deploys do."""

from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Kind = Literal[
    "bit_flip",
    "truncated",
    "trailing_bytes",
    "wrong_magic",
    "random_bytes",
    "empty",
    "null_value",
    "missing_key",
    "other_key",
    "invalid_utf8",
    "bad_enum",
    "not_a_number",
    "infinite",
    "far_future",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
FAR_FUTURE_MS = 4_102_444_800_000  # 2100-01-01T00:00:00Z
_IN_COLUMNS = ("not_a_number", "infinite", "far_future")


class Mutator:
    """Chooses records and damages them; holds the random state, so that a seed gives the same damage."""

    def __init__(
        self, share: float, *, prefix_bytes: int, kinds: tuple[Kind, ...] = KINDS, seed: int = 0
    ) -> None:
        """Set what to do.

        Args:
            share: of the records that are damaged, 0 to 1.
            prefix_bytes: of the wire format before the Avro body.
            kinds: to choose from with equal chances; those that a schema cannot have are left out.
            seed: of the choice and of the damage.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share of mutated records must be between 0 and 1, got {share}")
        self._share = share
        self._prefix = prefix_bytes
        self._kinds = kinds
        self._rng = np.random.default_rng(seed)

    def choose(self, table: pa.RecordBatch) -> NDArray[np.int8]:
        """Return the kind for each row, (n,): 0 for none, else 1 + index into KINDS."""
        possible = [k for k in self._kinds if _is_possible(k, table.schema, self._prefix)]
        codes = np.array([1 + KINDS.index(kind) for kind in possible], np.int8)
        hit = self._rng.random(table.num_rows) < self._share
        return np.where(hit, self._rng.choice(codes, table.num_rows), 0).astype(np.int8)

    def in_columns(self, table: pa.RecordBatch, kind: NDArray[np.int8]) -> pa.RecordBatch:
        """Return the table with impossible values in the rows whose kind is about values."""
        number = _number_column(table.schema)
        for name, column, value in (
            ("not_a_number", number, float("nan")),
            ("infinite", number, float("inf")),
            ("far_future", "event_time", FAR_FUTURE_MS),
        ):
            rows = kind == 1 + KINDS.index(name)
            if rows.any():
                table = _with_value(table, column, rows, value)
        return table

    def in_records(
        self, values: list[bytes], keys: list[bytes], kind: NDArray[np.int8]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Return values and keys with the damage that is about bytes."""
        out_values: list[bytes | None] = list(values)
        out_keys: list[bytes | None] = list(keys)
        for row in np.flatnonzero(kind).tolist():
            name = KINDS[kind[row] - 1]
            if name in _IN_COLUMNS:
                continue
            if name == "missing_key":
                out_keys[row] = None
            elif name == "other_key":
                out_keys[row] = b"nobody"
            elif name == "null_value":
                out_values[row] = None
            else:
                out_values[row] = self._damaged(values[row], name)
        return out_values, out_keys

    def _damaged(self, value: bytes, kind: Kind) -> bytes:
        rng, at = self._rng, self._prefix
        match kind:
            case "bit_flip":
                where, bit = int(rng.integers(len(value))), 1 << int(rng.integers(8))
                damaged = value[:where] + bytes([value[where] ^ bit]) + value[where + 1 :]
            case "truncated":
                damaged = value[: int(rng.integers(1, len(value)))]
            case "trailing_bytes":
                damaged = value + rng.bytes(int(rng.integers(1, 16)))
            case "wrong_magic":
                damaged = bytes([value[0] ^ 0xFF]) + value[1:]
            case "random_bytes":
                damaged = rng.bytes(len(value))
            case "empty":
                damaged = b""
            case "invalid_utf8":  # the body opens with the id: its length, then its characters
                damaged = value[: at + 1] + b"\xff" + value[at + 2 :]
            case "bad_enum":  # the body ends with the optional channel: 00, or 02 and the symbol's index
                is_null = value[-1] == 0 and value[-2] != 2
                damaged = value[: -1 if is_null else -2] + b"\x02\xc6\x01"
            case _:
                raise ValueError(f"{kind} is not a damage of bytes. This is a bug.")
        return damaged


def _is_possible(kind: Kind, schema: pa.Schema, prefix_bytes: int) -> bool:
    if kind == "bad_enum":
        return "channel" in schema.names
    return kind != "wrong_magic" or prefix_bytes > 0


def _number_column(schema: pa.Schema) -> str:
    return "amount" if "amount" in schema.names else "s11"  # s11 is one that the shipped model reads


def _with_value(table: pa.RecordBatch, name: str, rows: NDArray[np.bool_], value: Any) -> pa.RecordBatch:
    at = table.schema.get_field_index(name)
    field = table.schema.field(at)
    column = table.column(at)
    if pa.types.is_timestamp(field.type):
        numbers = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
        scale = 1000 if field.type.unit == "us" else 1
        changed = pa.array(np.where(rows, value * scale, numbers)).cast(field.type)
    else:
        numbers = column.to_numpy(zero_copy_only=False)
        # from_pandas=False: a NaN stays a NaN and does not turn into null.
        changed = pa.array(
            np.where(rows, value, numbers).astype(numbers.dtype), field.type, from_pandas=False
        )
    return table.set_column(at, field, changed)
