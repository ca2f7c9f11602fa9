"""Stored events once more through the live line's own code, every lookup as of its event."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from feature_cache.layout import NEVER_US
from feature_cache.store import MemoryStore, Store
from worker.batch import Batch, Events, Rejected
from worker.config import Pipeline
from worker.offline import Offline
from worker.plan import FeaturePlan, feature_plan
from worker.refuse import set_refused_apart

ALL_US = 2**61  # later than any event; sums with a time do not overflow
Decoded = tuple[Events, list[Rejected]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFeed:
    """One partition's events, in the order of their offsets."""

    begin: int  # offset of the first
    forgotten_us: (
        int  # nothing at or before this event time is among them, though it may have been; see place
    )
    events: Iterator[Decoded]  # some at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Where one pipeline's events come from."""

    lanes: Mapping[int, LaneFeed]  # by partition; those to be replayed
    lane_count: int  # of the topic


OpenFeed = Callable[[Pipeline, FeaturePlan], Feed]


class Pieces:
    """One lane's events, taken as far as is asked for."""

    def __init__(self, feed: LaneFeed, end_us: int, rejected: Counter[str]) -> None:
        """Read nothing yet.

        Args:
            feed: the lane.
            end_us: the lane ends before its first event that is newer than this.
            rejected: counts by reason what is no event.
        """
        self._source = feed.events
        self._end_us = end_us
        self._rejected = rejected
        self._events: Events | None = None
        self._at = 0
        self._is_over = False
        self.marked_us = NEVER_US  # what time markers have declared complete

    def next_us(self) -> int | None:
        """Time of the next event; None: there are no more."""
        events = self._here()
        return None if events is None else int(events.event_us[self._at])

    def take(self, until_us: int, rows: int) -> Events | None:
        """The next events up to the first that is newer than this, at most so many; None: there are none."""
        events = self._here()
        if events is None:
            return None
        times_us = events.event_us[self._at : self._at + rows]
        newer = np.flatnonzero(times_us > until_us)
        count = int(newer[0]) if len(newer) else len(times_us)
        if not count:
            return None
        first, self._at = self._at, self._at + count
        return _part(events, first, self._at)

    def _here(self) -> Events | None:
        while not self._is_over and (self._events is None or self._at >= len(self._events)):
            found = next(self._source, None)
            if found is None:
                self._is_over = True
                break
            self._events, rejected = found
            self._at = 0
            self._rejected.update(reject.reason for reject in rejected)
            self.marked_us = max(self.marked_us, *self._events.complete_us.values(), NEVER_US)
        if self._is_over or self._events is None:
            return None
        if self._events.event_us[self._at] > self._end_us:
            self._is_over = True
            return None
        return self._events


def _part(events: Events, first: int, last: int) -> Events:
    if first == 0 and last == len(events):
        return events
    rows = np.arange(first, last)
    records = events.records.take(rows)
    next_offsets = {int(records.partition[-1]): int(records.offset[-1]) + 1}
    return Events(
        columns=events.columns.slice(first, last - first),
        records=records,
        event_us=events.event_us[first:last],
        next_offsets=next_offsets if last < len(events) else events.next_offsets,
        complete_us={},
    )


class Owner:
    """A pipeline that is looked up: applied as far as the events that look it up have come."""

    def __init__(self, pipeline: Pipeline, feed: Feed, store: Store, rows: int, end_us: int = ALL_US) -> None:
        """Apply nothing yet; see `Replay`."""
        self.name = pipeline.name
        self.lane_count = feed.lane_count
        self.rejected: Counter[str] = Counter()
        self.events = 0
        self._rows = rows
        self._pieces = {lane: Pieces(each, end_us, self.rejected) for lane, each in feed.lanes.items()}
        self._offline = Offline(
            pipeline,
            store,
            lanes={lane: (each.begin, each.forgotten_us) for lane, each in feed.lanes.items()},
            rows_at_once=rows,
            keeps_only_rows=True,
        )

    def catch_up(self, until_us: int) -> None:
        """Apply each lane up to its first event that is newer than this.

        Such an event, or a time marker, says that the time is complete; the end of a lane says nothing, as
        nobody knows what would have come.
        """
        for lane, pieces in self._pieces.items():
            while (events := pieces.take(until_us, self._rows)) is not None:
                self._offline.enrich(events)
                self._offline.write(lane)
                self.events += len(events)
            is_behind = pieces.next_us() is None
            self._offline.completed(lane, pieces.marked_us if is_behind else until_us)
            self._offline.write(lane)


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Which events are of interest, by event time; those before only bring the rows up to date."""

    from_us: int = NEVER_US
    to_us: int = ALL_US  # exclusive


class Replay:
    """One pipeline's events again, with the features that a live worker gave them."""

    def __init__(
        self,
        pipeline: Pipeline,
        open_feed: OpenFeed,
        period: Period,
        *,
        rows: int = 8192,
        profiles: Store | None = None,
        lookup_lag_us: int = 0,
    ) -> None:
        """Open every feed; nothing is read yet, and nothing that is live is written.

        Args:
            pipeline: with the model and the decision to use.
            open_feed: gives the events of this pipeline, and of those that it looks up.
            period: which events are of interest.
            rows: events that are computed together at most.
            profiles: store of profile rows, read only; they are as they are now.
            lookup_lag_us: how far behind each event its lookups are to be, as in a live run that lagged.
        """
        self.plan = feature_plan(pipeline)
        self.rejected: Counter[str] = Counter()
        self.took_s = dict.fromkeys(("read", "lookups", "features"), 0.0)
        self._rows = rows
        self._lag_us = lookup_lag_us
        store = MemoryStore()
        late_us = max((group.allowed_lateness_us for _, group, _ in self.plan.windows), default=0)
        feed = open_feed(pipeline, self.plan)
        end_us = min(ALL_US, period.to_us - 1 + late_us)
        self._pieces = {lane: Pieces(each, end_us, self.rejected) for lane, each in feed.lanes.items()}
        owners = {lookup.owner.name: lookup.owner for lookup in self.plan.lookups}
        self.owners = tuple(
            Owner(owner, open_feed(owner, feature_plan(owner)), store, rows) for owner in owners.values()
        )
        # An owner that is ahead by more than its rows remember beyond their windows has forgotten something.
        self._span_us = min(
            (lookup.group.allowed_lateness_us for lookup in self.plan.lookups), default=ALL_US
        )
        self.offline = Offline(
            pipeline,
            store,
            lanes={lane: (each.begin, each.forgotten_us) for lane, each in feed.lanes.items()},
            lane_counts={owner.name: owner.lane_count for owner in self.owners},
            profiles=profiles,
            rows_at_once=rows,
        )

    def batches(self) -> Iterator[Batch]:
        """Every event with its features, some at a time; within a lane in order, the oldest lane first.

        Slots of a batch are valid until the next is asked for: decide before that.
        """
        while True:
            begun_s = time.perf_counter()
            waiting = {
                lane: us for lane, pieces in self._pieces.items() if (us := pieces.next_us()) is not None
            }
            if not waiting:
                return
            lane = min(waiting, key=lambda lane: waiting[lane])
            events = self._pieces[lane].take(waiting[lane] + self._span_us, self._rows)
            assert events is not None  # the first is in reach of itself
            read_s = time.perf_counter()
            for owner in self.owners:
                owner.catch_up(int(events.event_us.max()) - self._lag_us)
            looked_s = time.perf_counter()
            batch, refused = set_refused_apart(Batch(events=events, features=self.offline.enrich(events)))
            self.rejected.update(reject.reason for reject in refused)
            self.took_s["read"] += read_s - begun_s
            self.took_s["lookups"] += looked_s - read_s
            self.took_s["features"] += time.perf_counter() - looked_s
            yield batch
            self.offline.write(lane)
