"""One pipeline's features over events that are given to it: the code of the live line, on rows of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
from prometheus_client import CollectorRegistry

from feature_cache.lane import Offsets
from feature_cache.lanes import Lanes
from feature_cache.layout import NEVER_US
from feature_cache.rows import HotRows
from feature_cache.store import Store
from schemas.schema import load_schema
from worker.batch import Batch, Events, Features
from worker.config import Pipeline
from worker.decode import decode_table
from worker.features import enrich
from worker.lookups import Lookup
from worker.metrics import Meter
from worker.plan import FeaturePlan, decode_plan, feature_plan
from worker.profiles import Profile

_ONE_LANE = {0: (0, NEVER_US)}


class Offline:
    """One pipeline's features over events instead of a topic; no store but the one given is touched.

    To feed a lookup, apply the owner's events first, to the same store: a lookup reads as of each event's
    time, so an owner that is ahead, by no more than its allowed lateness, gives what it gave at that time.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store,
        *,
        lanes: Mapping[int, tuple[int, int]] = _ONE_LANE,
        lane_counts: Mapping[str, int] | None = None,
        profiles: Store | None = None,
        rows_at_once: int = 0,
        keeps_only_rows: bool = False,
    ) -> None:
        """Own these lanes; nothing has been applied yet.

        Args:
            pipeline: whose features.
            store: where its rows, and those that it looks up, are kept.
            lanes: by partition, the offset of its first event, and the event time before which it then knows
                nothing (see `rebuild.place`).
            lane_counts: partitions by the name of a pipeline that is looked up; 1 where it is not named.
            profiles: where profile rows are read from; the store where it is None.
            rows_at_once: events that one call will bring at most, where that is more than `state.hot_rows`.
            keeps_only_rows: it is only looked up: what it looks up itself is left out.
        """
        self.plan: FeaturePlan = feature_plan(pipeline)
        source = pipeline.source
        self._schema = load_schema(source.schema_ref, pipeline.base)
        self._decode_plan = decode_plan(pipeline, self._schema, self.plan.finite)
        self._topic = source.topic
        hot_rows = max(pipeline.state.hot_rows, rows_at_once)
        self.lanes = Lanes(HotRows(self.plan.layout, hot_rows), store, pipeline.kafka.group, source.topic)
        for partition, (begin, forgotten_us) in lanes.items():
            offsets = Offsets(committed=begin, start=begin, low=0, high=begin)
            claimed = self.lanes.claim(partition, 0)
            self.lanes.begin(partition, claimed, offsets, 0, (begin, forgotten_us))
        counts = lane_counts or {}
        self._lookups: tuple[Lookup | Profile, ...] = ()
        if not keeps_only_rows:
            self._lookups = (
                *(Lookup(each, store, counts.get(each.owner.name, 1)) for each in self.plan.lookups),
                *(Profile(profile, profiles or store) for profile in self.plan.profiles),
            )
        self._meter = Meter(pipeline.name, CollectorRegistry())
        self._next_offset = 0

    def enrich(self, events: Events) -> Features:
        """Features of each event as of its event time; its rows are durable, and may leave, after `write`."""
        return enrich(events, self.plan, self.lanes, self._lookups, self._meter)

    def warm(self) -> Batch:
        """Compile what the first events would wait for; the batch has none."""
        nothing = pa.RecordBatch.from_pylist([], schema=self._schema.arrow)
        events, _ = decode_table(nothing, self._topic, 0, self._decode_plan)
        events = replace(events, next_offsets={})
        return Batch(events=events, features=self.enrich(events))

    def write(self, partition: int = 0) -> None:
        """Let lookups see what was applied, and rows leave memory."""
        self.lanes.write(partition)

    def completed(self, partition: int, until_us: int) -> None:
        """No event at or before this event time is to come: a lookup may rely on that after `write`."""
        self.lanes.advance(partition, 0, until_us, NEVER_US)

    def apply(self, table: pa.RecordBatch) -> Features:
        """Features of each row as of its event time; rows in the order they would stand in the topic.

        Raises:
            ValueError: a row would be a dead letter.
        """
        first, self._next_offset = self._next_offset, self._next_offset + table.num_rows
        events, rejected = decode_table(table, self._topic, first, self._decode_plan)
        if rejected:
            raise ValueError(f"row {rejected[0].record.offset - first}: {rejected[0].detail}")
        features = self.enrich(events)
        self.write()
        return features
