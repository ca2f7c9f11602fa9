"""Reading rows that another pipeline keeps: as of each event's time, with their age known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_cache.lanes import lane_name
from feature_cache.layout import NEVER_US, Layout, WindowGroup
from feature_cache.packing import generation_of, unpack
from feature_cache.recent import aggregate_codes, read_windows
from feature_cache.rows import HotRows
from feature_cache.store import NOTHING, LaneMeta, Store


@dataclass(frozen=True, slots=True, eq=False)
class LookedUp:
    """What was known of each event's entity in the other pipeline."""

    values: NDArray[np.float64]  # (n, windows * aggregates)
    complete_us: NDArray[np.int64]  # (n,) the owner had applied everything up to this event time
    incomplete: NDArray[np.bool_]  # (n,) the window reaches back over something forgotten


def read_lookup(
    store: Store,
    owner: tuple[str, str],
    scratch: HotRows,
    group: WindowGroup,
    keys: Sequence[bytes],
    lanes: NDArray[np.int32],
    key_index: NDArray[np.int64],
    event_us: NDArray[np.int64],
) -> LookedUp:
    """Read-only windows over the rows of another consumer group; one read per lane touched.

    Args:
        store: where that group keeps its rows.
        owner: that consumer group and the topic it reads.
        scratch: room for a row of each key in that group's layout; whatever was in it is gone afterwards.
        group: the window group asked for.
        keys: (k,) distinct entities.
        lanes: (k,) int32 the partition each entity belongs to there.
        key_index: (n,) int64 which of the keys each event asks about.
        event_us: (n,) int64 as-of time of each event.

    Raises:
        StoreUnavailableError: the store did not answer.
    """
    layout, used = scratch.layout, 0
    slot_of_key = np.full(len(keys), -1, np.int64)
    complete_of_key = np.full(len(keys), NEVER_US, np.int64)
    forgotten_of_key = np.full(len(keys), NEVER_US, np.int64)
    for lane in np.unique(lanes).tolist():
        here = np.flatnonzero(lanes == lane)
        wanted = [keys[i] for i in here.tolist()]
        meta, packed = store.read(lane_name(*owner, lane), wanted)
        if not _readable(meta, layout):
            continue
        assert meta is not None
        complete_of_key[here] = meta.complete_us
        forgotten_of_key[here] = meta.forgotten_us
        kept = [
            i for i, row in enumerate(packed) if row is not None and generation_of(row) == meta.generation
        ]
        slots = np.arange(used, used + len(kept))
        used += len(kept)
        unpack(scratch, slots, [row for i in kept if (row := packed[i]) is not None])
        slot_of_key[here[kept]] = slots
    arrays = scratch.groups[layout.groups.index(group)]
    out = np.zeros((len(event_us), len(group.columns)))
    incomplete = np.zeros(len(event_us), np.bool_)
    read_windows(
        slot_of_key[key_index],
        event_us,
        arrays.times,
        arrays.values.reshape(arrays.times.shape),
        arrays.length,
        arrays.forgotten,
        forgotten_of_key[key_index],
        np.array(group.windows_us, np.int64),
        aggregate_codes(group.aggregates),
        out,
        incomplete,
    )
    return LookedUp(values=out, complete_us=complete_of_key[key_index], incomplete=incomplete)


def _readable(meta: LaneMeta | None, layout: Layout) -> bool:
    return meta is not None and meta.watermark != NOTHING and meta.layout == layout.fingerprint
