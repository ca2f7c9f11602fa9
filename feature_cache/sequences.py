"""The last readings of each event's entity, as they came or resampled, as of the event's own time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_cache.layout import FILLS, SequenceGroup
from feature_cache.recent import apply_sequences_kernel
from feature_cache.stretches import GroupArrays, make_room

_PADDING = {"pad": np.inf, "zero": 0.0, "nan": np.nan}  # infinity stands for the oldest reading


def apply_sequences(
    group: GroupArrays,
    slots: NDArray[np.int64],
    event_us: NDArray[np.int64],
    x: NDArray[np.float32],
    clock_reset: NDArray[np.bool_],
    lane_forgotten_us: NDArray[np.int64],
    out: NDArray[np.float32],
    late: NDArray[np.bool_],
    incomplete: NDArray[np.bool_],
) -> None:
    """Give each event its last readings, itself last, then remember it; in offset order.

    With `every_us` these are the values at t, t - every, ..., t - (L - 1) * every, computed from the raw
    readings that the row holds, of which those newer than the event do not count.

    Args:
        group: of a SequenceGroup.
        slots, event_us: (n,) int64; a slot of -1: the event gets zeros and is not remembered.
        x: (n, channels) float32 readings.
        clock_reset: (n,) bool, see `apply_order`: the row forgets everything before the event.
        lane_forgotten_us: (n,) int64; the lane may lack readings at or before this time.
        out: (n, L, channels) float32, filled, oldest first; what a history too short for it lacks in front is
            what `warm_up` says.
        late, incomplete: (n,) bool, set where the event came too late to be kept, or where fewer than
            `complete_from` of the L are known, or where forgotten readings may have been among them.
    """
    spec = group.spec
    assert isinstance(spec, SequenceGroup)
    make_room(group, slots)
    apply_sequences_kernel(
        slots,
        event_us,
        x,
        clock_reset,
        group.times,
        group.values,
        group.held,
        spec.capacity,
        lane_forgotten_us,
        spec.history_us,
        spec.every_us or 0,
        FILLS.index(spec.fill),
        _PADDING[spec.warm_up],
        spec.complete_from or spec.length,
        out,
        late,
        incomplete,
    )
