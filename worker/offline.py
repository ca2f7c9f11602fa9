"""The features of stored events, computed by the same code as live: for training sets and backtests."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from prometheus_client import CollectorRegistry

from feature_cache.lanes import Lanes
from feature_cache.rows import HotRows
from feature_cache.store import Store
from schemas.schema import load_schema
from schemas.spans import spans_of, text_spans
from worker.batch import Events, Features
from worker.columns import texts, ticks
from worker.config import Pipeline
from worker.decode import time_unit_us
from worker.features import enrich
from worker.lookups import Lookup
from worker.metrics import Meter
from worker.plan import FeaturePlan, feature_plan
from worker.profiles import Profile
from worker.records import Records

_ONE_LANE = 0


class Offline:
    """One pipeline's features over tables instead of a topic; everything is one lane.

    To feed a lookup, apply the owner's table first: a lookup reads as of each event's time, so an owner that
    is ahead, by no more than its allowed lateness, gives what it gave at that time.
    """

    def __init__(self, pipeline: Pipeline, store: Store) -> None:
        self.plan: FeaturePlan = feature_plan(pipeline)
        self._source = pipeline.source
        schema = load_schema(pipeline.source.schema_ref, pipeline.base)
        self._time_unit_us = time_unit_us(schema.arrow.field(pipeline.source.event_time).type)
        self._lanes = Lanes(
            HotRows(self.plan.layout, pipeline.state.hot_rows),
            store,
            pipeline.kafka.group,
            pipeline.source.topic,
        )
        self._lanes.take(_ONE_LANE, committed=None, start=0, low=0, high=0, now_ms=0)
        self._lookups: tuple[Lookup | Profile, ...] = (
            *(Lookup(lookup, store, 1) for lookup in self.plan.lookups),
            *(Profile(profile, store) for profile in self.plan.profiles),
        )
        self._meter = Meter(pipeline.name, CollectorRegistry())
        self._next_offset = 0

    def apply(self, table: pa.RecordBatch) -> Features:
        """Features of each row as of its event time; rows in the order they would stand in the topic."""
        n = table.num_rows
        nothing = spans_of([None] * n)
        first, self._next_offset = self._next_offset, self._next_offset + n
        events = Events(
            table=table,
            records=Records(
                topic=self._source.topic,
                values=nothing,
                keys=text_spans(texts(table, self._source.key)),
                headers=nothing,
                partition=np.full(n, _ONE_LANE, np.int32),
                offset=np.arange(first, self._next_offset),
                produced_ms=np.full(n, -1, np.int64),
            ),
            event_us=ticks(table.column(self._source.event_time)) * self._time_unit_us,
            next_offsets={_ONE_LANE: self._next_offset},
            complete_us={},
        )
        features = enrich(events, self.plan, self._lanes, self._lookups, self._meter)
        self._lanes.write(_ONE_LANE)
        return features
