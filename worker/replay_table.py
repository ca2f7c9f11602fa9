"""Replayed events, their features and the truth about them as columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_cache.key_index import KeyIndex, distinct
from feature_cache.order import ORDERS
from schemas.columns import texts
from schemas.spans import text_spans
from worker.batch import Batch
from worker.config import ConfigError, Pipeline
from worker.degradation import STEPS
from worker.plan import FeaturePlan, feature_plan
from worker.records import index_keys
from worker.replay import OpenFeed

UNKNOWN_US = 2**62  # when a truth becomes known that never did
EVENT_COLUMNS = (
    "event_id",
    "key",
    "source_partition",
    "source_offset",
    "event_time",
    "late",
    "incomplete",
    "degradation",
    "time_order",
    "lookup_age_ms",
)
SCORE_COLUMNS = ("score", "lifecycle", "severity")
TRUTH_COLUMNS = ("truth", "truth_known_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Which field holds the truth about an event."""

    owner: str | None  # a pipeline that is looked up, whose events have the same id; None: the event itself
    field: str
    delay_us: int  # until an event's own field is known

    @staticmethod
    def parse(text: str, plan: FeaturePlan, delay_us: int) -> Label:
        """`FIELD`, or `PIPELINE.FIELD` of a pipeline that is looked up.

        Raises:
            ConfigError: there is no such pipeline.
        """
        owner, _, field = text.rpartition(".")
        owners = {lookup.owner.name for lookup in plan.lookups}
        if owner and owner not in owners:
            known = ", ".join(f"{name}.FIELD" for name in sorted(owners))
            raise ConfigError(f"--label: found {text!r}, expected FIELD{f' or {known}' if known else ''}")
        return Label(owner=owner or None, field=field, delay_us=delay_us)


class Truth:
    """What is known of each event by its id."""

    def __init__(self, ids: pa.Array, values: NDArray[np.float64], known_us: NDArray[np.int64]) -> None:
        """Of several with one id the first counts.

        Args:
            ids: (n,) texts, none null.
            values: (n,) the truth as a number.
            known_us: (n,) event time from which it is known.
        """
        keys = index_keys(text_spans(ids))
        self._values, self._known_us = values, known_us
        self._index = KeyIndex(max(len(ids), 1))
        fresh, _ = distinct(keys)
        self._index.add(keys.take(fresh), fresh)

    def of(self, ids: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(n,) truth of these events, NaN where it is not known, and since when it is."""
        slots = self._index.find(index_keys(text_spans(ids)))
        if not len(self._values):
            return np.full(len(slots), np.nan), np.full(len(slots), UNKNOWN_US)
        return (
            np.where(slots >= 0, self._values[slots], np.nan),
            np.where(slots >= 0, self._known_us[slots], UNKNOWN_US),
        )


def read_truth(label: Label, plan: FeaturePlan, open_feed: OpenFeed) -> Truth | None:
    """The truth that another pipeline's events hold, all of it; None where events hold their own.

    Raises:
        ConfigError: the field is not one of that pipeline's events.
    """
    if label.owner is None:
        return None
    owner = next(lookup.owner for lookup in plan.lookups if lookup.owner.name == label.owner)
    ids, values, known_us = [], [], []
    for lane in open_feed(owner, feature_plan(owner)).lanes.values():
        for events, _ in lane.events:
            check_field(events.table, label.field, owner)
            ids.append(texts(events.table.column(owner.source.event_id)))
            values.append(events.columns.numbers(label.field))
            known_us.append(events.event_us)
    if not ids:
        return Truth(pa.array([], pa.string()), np.zeros(0), np.zeros(0, np.int64))
    return Truth(pa.chunked_array(ids).combine_chunks(), np.concatenate(values), np.concatenate(known_us))


def check_field(table: pa.RecordBatch, field: str, pipeline: Pipeline) -> None:
    """Stop where the events do not have the field.

    Raises:
        ConfigError: they have not.
    """
    if field not in table.schema.names:
        raise ConfigError(
            f"{pipeline.path}: --label: found no field {field!r} in its events, "
            f"expected one of {', '.join(table.schema.names)}"
        )


def truth_columns(
    batch: Batch, rows: NDArray[np.int64], pipeline: Pipeline, label: Label, truth: Truth | None
) -> dict[str, Any]:
    """The truth about these rows, as columns."""
    events = batch.events
    if truth is not None:
        values, known_us = truth.of(texts(events.table.column(pipeline.source.event_id)).take(pa.array(rows)))
    else:
        check_field(events.table, label.field, pipeline)
        values = events.columns.numbers(label.field)[rows]
        known_us = np.where(np.isnan(values), UNKNOWN_US, events.event_us[rows] + label.delay_us)
    is_unknown = np.isnan(values)
    return {
        "truth": pa.array(values, pa.float64(), mask=is_unknown),
        "truth_known_at": pa.array(known_us, pa.int64(), mask=is_unknown).cast(pa.timestamp("us")),
    }


def event_columns(batch: Batch, rows: NDArray[np.int64], pipeline: Pipeline) -> dict[str, Any]:
    """What identifies these events, and how far their features can be trusted."""
    events, features, chosen = batch.events, batch.features, pa.array(rows)
    age_ms = features.lookup_age_ms[rows]
    return {
        "event_id": texts(events.table.column(pipeline.source.event_id)).take(chosen),
        "key": texts(events.table.column(pipeline.source.key)).take(chosen),
        "source_partition": events.records.partition[rows],
        "source_offset": events.records.offset[rows],
        "event_time": pa.array(events.event_us[rows]).cast(pa.timestamp("us")),
        "late": features.late[rows],
        "incomplete": features.incomplete[rows],
        "degradation": named(features.degradation[rows], STEPS),
        "time_order": named(features.time_order[rows], ORDERS),
        "lookup_age_ms": pa.array(age_ms, pa.int64(), mask=age_ms < 0),
    }


def feature_columns(
    batch: Batch, rows: NDArray[np.int64], plan: FeaturePlan, *, sequences: bool
) -> dict[str, Any]:
    """Each feature under its name; a sequence is a list of length x channels numbers, oldest first."""
    features = batch.features
    columns: dict[str, Any] = {
        name: np.ascontiguousarray(features.scalars[rows, column]) for column, name in enumerate(plan.names)
    }
    for group in plan.sequences if sequences else ():
        flat = pa.array(features.sequences[group.name][rows].reshape(-1))
        columns[group.name] = pa.FixedSizeListArray.from_arrays(flat, group.length * group.channels)
    return columns


def named(codes: NDArray[np.uint8], names: tuple[str, ...]) -> pa.Array:
    """Codes as texts, each stored once."""
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), pa.array(names))


def check_names(plan: FeaturePlan, columns: tuple[str, ...], path: object) -> None:
    """Stop where a feature has the name of another column.

    Raises:
        ConfigError: one has.
    """
    both = sorted({*plan.names, *(group.name for group in plan.sequences)} & set(columns))
    if both:
        raise ConfigError(
            f"{path}: features.{both[0]}: found a name that the table needs for itself, expected another"
        )


def record_batch(*parts: Mapping[str, Any]) -> pa.RecordBatch:
    """Columns side by side."""
    return pa.RecordBatch.from_pydict({name: column for part in parts for name, column in part.items()})
