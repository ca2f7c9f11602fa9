"""What is remembered of a partition is what reading it again would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.backlog import Known, recall

# A partition: at each offset a record (its timestamp), or something that no reader is given.
Log = list[int | None]


def read(log: Log, start: int) -> Known:
    """The slow way: look at every offset."""
    found = next((at for at in range(start, len(log)) if log[at] is not None), None)
    if found is None:
        return Known(start=start, offset=max(start, len(log)), at_ms=None)
    return Known(start=start, offset=found, at_ms=log[found])


@given(
    log=st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=12),
    steps=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=8),
)
def test_what_is_recalled_is_what_reading_everything_again_would_find(
    log: Log, steps: list[tuple[int, int]]
) -> None:
    before, end = None, 0
    for start, more in steps:
        end = min(len(log), max(end, more))  # a log only grows; the group may go back as well as forth
        here = log[:end]
        recalled = recall(before, start, end)
        known = read(here, recalled) if isinstance(recalled, int) else recalled
        expected = read(here, start)

        assert known.at_ms == expected.at_ms
        assert known.at_ms is None or known.offset == expected.offset
        before = Known(start=start, offset=known.offset, at_ms=known.at_ms)
        if isinstance(recalled, Known):
            before = recalled


def test_a_record_that_waits_is_read_once() -> None:
    waits = Known(start=3, offset=7, at_ms=1)

    assert recall(waits, 3, 8) is waits
    assert recall(waits, 7, 1000) is waits
    assert recall(waits, 8, 1000) == 8


def test_an_idle_end_is_not_read_again_and_what_comes_is_read_from_there() -> None:
    idle = Known(start=5, offset=9, at_ms=None)  # from 5 on nothing but markers

    assert recall(idle, 5, 9) is idle
    assert recall(idle, 5, 12) == 9


def test_nothing_is_recalled_of_a_topic_that_was_made_anew() -> None:
    assert recall(Known(start=5, offset=9, at_ms=4), 0, 3) == 0
