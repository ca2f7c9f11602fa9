"""One pass over a batch says the same of its lanes as asking for each of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feature_cache.layout import NEVER_US
from feature_cache.order import FUTURE, IN_ORDER
from worker.by_lane import next_offsets, sum_up

LANES = 4
EVENTS = st.lists(
    st.tuples(
        st.integers(0, LANES - 1),
        st.integers(0, 50),
        st.integers(0, 1000),
        st.sampled_from([IN_ORDER, FUTURE]),
    ),
    max_size=40,
)


@given(EVENTS)
def test_the_next_offset_of_a_partition_is_behind_its_largest(
    events: list[tuple[int, int, int, int]],
) -> None:
    partition = np.array([event[0] for event in events], np.int32)
    offset = np.array([event[1] for event in events], np.int64)

    found = next_offsets(partition, offset)

    assert found == {
        lane: max(event[1] for event in events if event[0] == lane) + 1
        for lane in {event[0] for event in events}
    }
    assert list(found) == sorted(found)


@given(EVENTS, st.lists(st.integers(0, 50), min_size=LANES, max_size=LANES))
def test_what_a_lane_has_come_to_is_what_its_own_events_say(
    events: list[tuple[int, int, int, int]], mute_until: list[int]
) -> None:
    columns = np.array(events, np.int64).reshape(-1, 4).T
    is_muted = np.empty(len(events), np.bool_)
    first_us, newest_us = np.empty((2, LANES), np.int64)

    sum_up(
        columns[0].astype(np.int32),
        columns[1].copy(),
        columns[2].copy(),
        columns[3].astype(np.uint8),
        np.array(mute_until),
        is_muted,
        first_us,
        newest_us,
    )

    assert is_muted.tolist() == [offset < mute_until[lane] for lane, offset, _, _ in events]
    for lane in range(LANES):
        times = [(us, code) for at, _, us, code in events if at == lane]
        assert first_us[lane] == (times[0][0] if times else NEVER_US)
        assert newest_us[lane] == max((us for us, code in times if code != FUTURE), default=NEVER_US)
