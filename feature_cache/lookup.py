"""Windows over rows that another pipeline keeps: as of each event's time, with their age known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_cache.key_index import Keys
from feature_cache.layout import WindowGroup
from feature_cache.mirror import Mirror
from feature_cache.recent import read_windows


@dataclass(frozen=True, slots=True, eq=False)
class LookedUp:
    """What was known of each event's entity in the other pipeline."""

    values: NDArray[np.float64]  # (n, windows * aggregates)
    complete_us: NDArray[np.int64]  # (n,) the owner had applied everything up to this event time
    incomplete: NDArray[np.bool_]  # (n,) the window reaches back over something forgotten


def read_lookup(
    mirror: Mirror,
    group: WindowGroup,
    keys: Keys | Sequence[bytes],
    lanes: NDArray[np.int32],
    key_index: NDArray[np.int64],
    event_us: NDArray[np.int64],
) -> LookedUp:
    """Read-only windows over the rows of another consumer group.

    Args:
        mirror: of that group's rows.
        group: the window group asked for.
        keys: (k,) distinct entities.
        lanes: (k,) int32 the partition each entity belongs to there.
        key_index: (n,) int64 which of the keys each event asks about.
        event_us: (n,) int64 as-of time of each event.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    slots, complete_us, forgotten_us = mirror.read(keys, lanes)
    arrays = mirror.rows.groups[mirror.rows.layout.groups.index(group)]
    out = np.zeros((len(event_us), len(group.columns)))
    incomplete = np.zeros(len(event_us), np.bool_)
    read_windows(arrays, slots[key_index], event_us, forgotten_us[key_index], out, incomplete)
    return LookedUp(values=out, complete_us=complete_us[key_index], incomplete=incomplete)
