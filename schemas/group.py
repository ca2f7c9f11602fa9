"""The records of a batch in groups, one for each prefix, because the prefix names the writer's schema."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas import kernels
from schemas.spans import Spans


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Some records of a batch."""

    prefix: bytes
    payloads: Spans  # without the prefix
    rows: NDArray[np.int64]  # (n,) index of each in the batch, ascending


def whole(held: Spans, prefix: bytes, max_bytes: int) -> Group | None:
    """All records as one group, if all begin with this prefix and none is longer than max_bytes."""
    if not kernels.all_fit(held.data, held.starts, held.ends, max_bytes, np.frombuffer(prefix, np.uint8)):
        return None
    return Group(prefix=prefix, payloads=held.without(len(prefix)), rows=np.arange(len(held)))


def split(held: Spans, rows: NDArray[np.int64], prefix_bytes: int) -> list[Group]:
    """Return the groups, with the prefixes taken off; shorter values are a group with all they have.

    Args:
        held: n whole records, none missing.
        rows: (n,) index of each in the batch.
        prefix_bytes: length of a prefix.
    """
    if prefix_bytes == 0:
        return [Group(prefix=b"", payloads=held, rows=rows)]
    members: dict[bytes, list[int]] = {}
    heads = Spans(held.data, held.starts, np.minimum(held.ends, held.starts + prefix_bytes))
    for index, head in enumerate(heads.to_list()):
        members.setdefault(head, []).append(index)
    return [
        Group(prefix=prefix, payloads=held.take(np.array(indices)).without(len(prefix)), rows=rows[indices])
        for prefix, indices in members.items()
    ]
