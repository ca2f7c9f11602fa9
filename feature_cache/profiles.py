"""Profiles: rows of numbers that a batch job keeps in the store, read as they are now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_cache.ahead import Ahead
from feature_cache.key_index import Keys, distinct, keys_of
from feature_cache.store import Store, StoreRefusedError

_FEW = 32  # keys; of so few, those that are the same are asked for twice sooner than found


@dataclass(frozen=True, slots=True, eq=False)
class ProfileTable:
    """Where the rows of one profile are, and what they look like."""

    prefix: bytes  # of their names in the store; the key follows
    fields: tuple[str, ...]
    dtype: np.dtype[Any]  # little-endian
    default: float  # of every field of a key without a row

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return len(self.fields) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Rows of some keys, asked for ahead where that was possible."""

    names: list[bytes]  # in the store
    which: NDArray[np.int64] | None  # (k,) which of these each key has; None: in the order of the keys
    ahead: Ahead | None

    def drop(self) -> None:
        """Nobody wants them any more."""
        if self.ahead is not None:
            self.ahead.drop()


def ask_profiles(
    store: Store, table: ProfileTable, keys: Keys | Sequence[bytes], *, ahead: bool = False
) -> Asked:
    """Ask for the row of each key; end it with `told_profiles`, or drop it.

    Args:
        ahead: send the question now. One that cannot be sent is asked later.
    """
    asked, which = keys_of(keys), None
    if len(asked) > _FEW:
        firsts, which = distinct(asked)
        asked = asked.take(firsts)
    names = [table.prefix + key for key in asked.to_list()]
    return Asked(names, which, store.get_ahead(names) if ahead else None)


def read_profiles(store: Store, table: ProfileTable, keys: Keys | Sequence[bytes]) -> NDArray[Any]:
    """(k, fields) the row of each key, one read for all of them; see `told_profiles` for errors."""
    return told_profiles(store, table, ask_profiles(store, table, keys))


def told_profiles(store: Store, table: ProfileTable, asked: Asked) -> NDArray[Any]:
    """(k, fields) the rows that were asked for.

    Raises:
        StoreUnavailableError: the store did not answer.
        StoreRefusedError: a row has another size; whoever loads them and the pipeline file disagree.
    """
    told = None if asked.ahead is None else asked.ahead.answer()
    rows = store.get(asked.names) if told is None else told
    if None in rows:
        without = np.full(len(table.fields), table.default, table.dtype).tobytes()
        rows = [without if row is None else row for row in rows]
    if set(map(len, rows)) - {table.row_bytes}:  # type: ignore[arg-type]  # none is left
        raise _wrong_size(table, rows)
    packed = b"".join(rows)  # type: ignore[arg-type]
    found = np.frombuffer(packed, table.dtype).reshape(len(rows), len(table.fields))
    return found if asked.which is None else found[asked.which]


def write_profiles(store: Store, table: ProfileTable, keys: Sequence[bytes], rows: NDArray[Any]) -> None:
    """Store (k, fields) rows, for `read_profiles`.

    Raises:
        StoreUnavailableError: the store did not answer; write all of them again.
    """
    packed = np.ascontiguousarray(rows, table.dtype)
    store.put([table.prefix + key for key in keys], [row.tobytes() for row in packed])


def _wrong_size(table: ProfileTable, rows: Sequence[bytes | None]) -> StoreRefusedError:
    found = next(len(row) for row in rows if row is not None and len(row) != table.row_bytes)
    return StoreRefusedError(
        f"profile {table.prefix.decode()!r}: found a row of {found} bytes, expected {table.row_bytes}: "
        f"{len(table.fields)} little-endian {table.dtype.name} ({', '.join(table.fields)})"
    )
