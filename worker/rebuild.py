"""Where a lane whose rows were lost is read again from: as far back as they reach, and what lies before that.

Event time is in the payload, so the place is found by looking: at the broker's index of record timestamps,
which bound event times (`source.max_future`), or by bisection over the events themselves.
See docs/decisions/0015-where-a-rebuild-begins.md for why the answer is never silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from feature_cache.layout import FOREVER_US, NEVER_US, Layout, SequenceGroup, WindowGroup
from feature_cache.order import TimePolicy
from worker.decide import DecisionPolicy

_NEAR = 2000  # offsets; reading so many is cheaper than another look
_AROUND = 64  # offsets before the committed one that tell the time there


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The first events found from an offset on; how many depends on how the broker answers."""

    event_us: tuple[int, ...]  # (n,) n >= 1
    produced_ms: int  # newest of their Kafka timestamps, -1 where none has one
    lag_us: int  # how far the event nearest to its Kafka timestamp is behind it


class Log(Protocol):
    """One partition, as far as one may look into it."""

    def sample(self, offset: int, end: int | None) -> Sample | None:
        """Some events from this offset on, before end (None: wherever the log ends); None: there are none."""

    def first_since(self, produced_ms: int) -> int | None:
        """The first offset whose Kafka timestamp is this or later; None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far back in event time what a lane remembers may depend on its events."""

    reach_us: int | None  # None: on the first one ever
    lateness_us: int  # the longest that events may be late and still count
    max_future_us: int | None  # no event is further ahead of its record's Kafka timestamp; None: any may be

    @property
    def disorder_us(self) -> int | None:
        """How much newer than an event one that stands before it is taken to be at most."""
        return None if self.max_future_us is None else self.lateness_us + self.max_future_us


def reach_us(layout: Layout, decision: DecisionPolicy | None, times: TimePolicy) -> int | None:
    """How far back rows reach exactly; None: to the first event ever.

    A window forgets. A sequence keeps a key's last readings whatever their age; whether an alert is raised
    depends on the alert before it, and so on back; whether a very late event is refused depends on its key's
    newest event, however old that is.
    """
    has_sequences = any(isinstance(group, SequenceGroup) for group in layout.groups)
    if decision is not None or has_sequences or any(times.refuses) or times.clock_back_events:
        return None
    return windows_reach_us(layout, decision)


def windows_reach_us(layout: Layout, decision: DecisionPolicy | None) -> int | None:
    """How far back windows reach, and one cool-down more; None where nothing is forgotten by its age."""
    histories_us = [group.history_us for group in layout.groups if isinstance(group, WindowGroup)]
    if not histories_us:
        return None if layout.groups or decision is not None else 0
    cooldown_us = 0 if decision is None or decision.cooldown_us is None else decision.cooldown_us
    return max(histories_us) + cooldown_us


def reach(
    layout: Layout,
    decision: DecisionPolicy | None,
    times: TimePolicy,
    rebuild: Literal["auto", "windows", "beginning"],
    max_future_us: int | None,
) -> Reach:
    """What `state.rebuild` of the pipeline file means for these rows."""
    back_us = {
        "auto": reach_us(layout, decision, times),
        "windows": windows_reach_us(layout, decision),
        "beginning": None,
    }
    windows = [group for group in layout.groups if isinstance(group, WindowGroup)]
    return Reach(
        reach_us=back_us[rebuild],
        lateness_us=max((group.allowed_lateness_us for group in windows), default=0),
        max_future_us=max_future_us,
    )


def place(reach: Reach, log: Log, committed: int, low: int, near: int = _NEAR) -> tuple[int, int]:
    """Where to read a lane again from, and the event time at or before which events may then be missing.

    Args:
        reach: how far back rows reach.
        log: the lane's partition.
        committed: next offset of the consumer group; rows are to be right from there on.
        low: oldest offset that the topic still holds.
        near: offsets that are read rather than searched.

    Returns:
        The offset to begin at, low <= begin <= max(low, committed); and the event time as
        LaneMeta.forgotten_us has it: NEVER_US when nothing is missing, FOREVER_US when the first event that
        is read must tell.
    """
    oldest, latest = log.sample(low, None), _around(log, committed, low, near)
    if oldest is None or latest is None:
        return low, NEVER_US if low == 0 else FOREVER_US
    from_low = low, _forgotten_before_low(reach, oldest, latest, low)
    if reach.reach_us is None or reach.disorder_us is None:
        return from_low
    target_us = min(latest.event_us) - reach.reach_us
    if max(oldest.event_us) > target_us:
        return from_low
    assert reach.max_future_us is not None
    # No event is more than max_future ahead of its record's timestamp, so this place needs no assumption
    # about the order of events. It may be the oldest one: the topic is that young, or its events are replayed
    # from the past and their timestamps are all too new.
    since_ms = (target_us - reach.max_future_us) // 1000
    begin = log.first_since(since_ms)
    if begin is not None and begin > low:
        return min(begin, committed), since_ms * 1000 + reach.max_future_us
    seen = [oldest, latest]

    def event_times_at(offset: int) -> tuple[int, ...] | None:
        found = log.sample(offset, committed)
        if found is None:
            return None
        seen.append(found)
        return found.event_us

    begin, newest_us = last_older(event_times_at, low, committed, target_us - reach.disorder_us, near)
    # A late event of a young topic looks as old as a replayed one, and newer ones may stand before it.
    if begin == low or any(_is_live(sample, reach.disorder_us) for sample in seen):
        return from_low
    return begin, newest_us + reach.disorder_us


def last_older(
    event_times_at: Callable[[int], tuple[int, ...] | None],
    low: int,
    high: int,
    target_us: int,
    near: int = _NEAR,
) -> tuple[int, int]:
    """Bisect for an offset late in [low, high) whose events are all at or before the target.

    Args:
        event_times_at: event times (us) of some records from an offset on and before high; None: no more.

    Returns:
        The offset, and the newest of the event times seen there; low and NEVER_US when none was found.
        With times in disorder it need not be the last such offset; its own events are as promised.
    """
    newest_us = NEVER_US
    while high - low > near:
        middle = (low + high) // 2
        times_us = event_times_at(middle)
        if times_us is not None and max(times_us) <= target_us:
            low, newest_us = middle, max(times_us)
        else:
            high = middle
    return low, newest_us


def _is_live(sample: Sample, disorder_us: int) -> bool:
    """Whether an event is so near to its Kafka timestamp that it is not replayed from the past."""
    return sample.produced_ms >= 0 and sample.lag_us <= disorder_us


def _around(log: Log, committed: int, low: int, near: int) -> Sample | None:
    """Some events near the committed offset; None: there are none."""
    back = min(_AROUND, near)
    while True:
        found = log.sample(max(low, committed - back), None)
        if found is not None or committed - back <= low:
            return found
        back *= 8


def _forgotten_before_low(reach: Reach, oldest: Sample, latest: Sample, low: int) -> int:
    """The event time up to which events may have been cut off by retention."""
    if low == 0:
        return NEVER_US
    if reach.disorder_us is None or reach.max_future_us is None:
        return FOREVER_US
    # Where even the newest events are far behind their timestamps they are replayed, and these say nothing.
    if oldest.produced_ms < 0 or min(oldest.lag_us, latest.lag_us) > reach.disorder_us:
        return max(oldest.event_us) + reach.disorder_us
    return oldest.produced_ms * 1000 + reach.max_future_us
