"""A training table: every feature as of each event, from the engine that computes them live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_cache.store import Store
from worker.config import Pipeline
from worker.replay import OpenFeed, Period, Replay
from worker.replay_table import (
    EVENT_COLUMNS,
    TRUTH_COLUMNS,
    Label,
    Truth,
    check_names,
    event_columns,
    feature_columns,
    read_truth,
    record_batch,
    truth_columns,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export came to."""

    rows: int
    rejected: Counter[str]  # by reason


def feature_tables(
    pipeline: Pipeline,
    open_feed: OpenFeed,
    period: Period,
    *,
    label: Label | None = None,
    profiles: Store | None = None,
    rejected: Counter[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The events of the period with their features, some at a time.

    Args:
        pipeline: whose features; it needs no model.
        open_feed: gives the events, see `Replay`; twice those that hold the labels.
        label: adds the columns truth and truth_known_at.
        profiles: store of profile rows.
        rejected: counts by reason what is no event.

    Raises:
        ConfigError: a file, a column or a label is wrong.
    """
    replay = Replay(pipeline, open_feed, period, profiles=profiles)
    check_names(replay.plan, (*EVENT_COLUMNS, *TRUTH_COLUMNS), pipeline.path)
    truth: Truth | None = None if label is None else read_truth(label, replay.plan, open_feed)
    for batch in replay.batches():
        event_us = batch.events.event_us
        rows = np.flatnonzero((event_us >= period.from_us) & (event_us < period.to_us))
        if not len(rows):
            continue
        yield record_batch(
            event_columns(batch, rows, pipeline),
            {} if label is None else truth_columns(batch, rows, pipeline, label, truth),
            feature_columns(batch, rows, replay.plan, sequences=True),
        )
    if rejected is not None:
        rejected.update(replay.rejected)


def export(
    pipeline: Pipeline,
    open_feed: OpenFeed,
    period: Period,
    out: Path,
    *,
    label: Label | None = None,
    profiles: Store | None = None,
    on_events: Callable[[int, int], None] = lambda _events, _event_us: None,
) -> Exported:
    """Write the table as one Parquet file; see `feature_tables`."""
    rows, rejected = 0, Counter[str]()
    writer: pq.ParquetWriter | None = None
    try:
        for table in feature_tables(
            pipeline, open_feed, period, label=label, profiles=profiles, rejected=rejected
        ):
            if writer is None:
                writer = pq.ParquetWriter(out, table.schema, compression="zstd")
            writer.write_batch(table)
            rows += table.num_rows
            on_events(table.num_rows, int(table.column("event_time").cast("int64")[-1].as_py()))
    finally:
        if writer is not None:
            writer.close()
    return Exported(rows=rows, rejected=rejected)
