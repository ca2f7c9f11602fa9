"""Record bytes to event columns; whatever cannot be scored leaves here with a reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.codec import Codec
from schemas.columns import Columns
from schemas.spans import Spans, equal, spans_of
from worker.batch import Events, Rejected
from worker.by_lane import next_offsets
from worker.records import Records
from worker.sound import are_finite, are_sound

TIME_MARKER = "penstock.time-marker"  # header of a record without value; see docs/time.md
_MARKER_DIGITS = 15  # milliseconds for another 30,000 years
_NO_SPANS = np.zeros(0, np.int64)
_LATEST_US = 2**61  # beyond this, microseconds would overflow in sums with a window


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePlan:
    """What makes a record an event of this pipeline."""

    key: str  # event field that must equal the record key
    event_time: str  # event field
    time_unit_us: int  # microseconds per unit of that field
    max_future_us: int | None
    takes_future: bool = False  # events beyond max_future too; time markers never
    finite: tuple[str, ...]  # numeric fields that features read: neither null, NaN nor infinite
    event_id: str | None = None  # event field; None: events without one
    max_key_bytes: int = 1 << 10  # of the key, and of the id


def time_unit_us(kind: pa.DataType) -> int:
    """Microseconds per unit of an event-time column; plain integers are milliseconds."""
    return 1 if pa.types.is_timestamp(kind) and kind.unit == "us" else 1000


@dataclass(slots=True)
class _Verdict:
    """Which rows of a decoded table are kept, and why the others are not."""

    keep: NDArray[np.bool_]
    why: dict[int, tuple[str, str]] = field(default_factory=dict)

    def reject(self, rows: NDArray[np.bool_], reason: str, detail: str) -> None:
        if not rows.any():
            return
        for row in np.flatnonzero(rows & self.keep).tolist():
            self.why[row] = (reason, detail)
        self.keep &= ~rows


_SOUND = _Verdict(keep=np.ones(0, np.bool_))  # says nothing against any row


def decode(records: Records, codec: Codec, plan: DecodePlan, now_us: int) -> tuple[Events, list[Rejected]]:
    """Turn records into events.

    What becomes of a record depends on the record alone, or reading it again would give another state: an
    event time in the future is one ahead of the record's own Kafka timestamp, not of the wall clock.

    Args:
        now_us: wall clock, only for records that have no Kafka timestamp.

    Returns:
        The events in the order of their records, and every other record with its reason; together they
        account for all records but time markers. Never raises on bad input.
    """
    latest_us = _latest_us(records, plan, now_us)
    complete_us, markers, rejected = dict[int, int](), set[int](), list[Rejected]()
    if records.values.are_some_missing():
        complete_us, markers, rejected = _time_markers(records, latest_us)
    decoded = codec.decode(records.values)
    rejected += [
        _rejected(records, reject.row, "decode", reject.reason, reject.detail)
        for reject in decoded.rejects
        if reject.row not in markers
    ]
    columns, rows = decoded.columns, decoded.rows
    kept = records if len(rows) == len(records) else records.take(rows)
    event_latest_us = latest_us if kept is records else latest_us[rows]
    if plan.takes_future:
        event_latest_us = np.full(len(rows), _LATEST_US)
    event_us, verdict = _validate(columns, kept.keys, plan, event_latest_us)
    if verdict.why:
        for row, (reason, detail) in sorted(verdict.why.items()):
            rejected.append(_rejected(records, int(rows[row]), "validate", reason, detail))
        good = np.flatnonzero(verdict.keep)
        columns, kept, event_us = columns.take(good), kept.take(good), event_us[good]
    return Events(
        columns=columns,
        records=kept,
        event_us=event_us,
        next_offsets=next_offsets(records.partition, records.offset),
        complete_us=complete_us,
    ), rejected


def decode_table(
    table: pa.RecordBatch, topic: str, first_offset: int, plan: DecodePlan
) -> tuple[Events, list[Rejected]]:
    """Events that were stored as columns, as if each row were a record of partition 0.

    Args:
        table: (n rows) with the columns of the reader's schema, and perhaps more.
        first_offset: of its first row.

    Returns:
        See `decode`; what would be wrong with a record is wrong with a row. Rows have no Kafka timestamp, so
        none is too far in the future.
    """
    n, columns = table.num_rows, Columns(table)
    nothing = spans_of([None] * n)
    records = Records(
        topic=topic,
        values=nothing,
        keys=columns.spans(plan.key),
        headers=nothing,
        partition=np.zeros(n, np.int32),
        offset=np.arange(first_offset, first_offset + n),
        produced_ms=np.full(n, -1, np.int64),
    )
    event_us, verdict = _validate(columns, records.keys, plan, np.full(n, _LATEST_US))
    rejected = [
        _rejected(records, row, "validate", reason, detail)
        for row, (reason, detail) in sorted(verdict.why.items())
    ]
    if rejected:
        good = np.flatnonzero(verdict.keep)
        columns, records, event_us = columns.take(good), records.take(good), event_us[good]
    return Events(
        columns=columns,
        records=records,
        event_us=event_us,
        next_offsets={0: first_offset + n},
        complete_us={},
    ), rejected


def _rejected(records: Records, row: int, stage: str, reason: str, detail: str) -> Rejected:
    return Rejected(
        record=records[row],
        stage=stage,
        reason=reason,
        detail=detail,
    )


def _time_markers(
    records: Records, latest_us: NDArray[np.int64]
) -> tuple[dict[int, int], set[int], list[Rejected]]:
    """Event time declared complete by partition, the rows that are markers, and markers that are none."""
    complete_us: dict[int, int] = {}
    rows: set[int] = set()
    rejected: list[Rejected] = []
    for row in np.flatnonzero(records.values.sizes < 0).tolist():
        text = next((text for name, text in records[row].headers if name == TIME_MARKER), None)
        if text is None or not text.isdigit():
            continue  # a record without a value, whatever its headers say
        rows.add(row)
        if len(text) > _MARKER_DIGITS or int(text) > latest_us[row] // 1000:
            detail = f"{TIME_MARKER} is not a time in milliseconds that source.max_future allows"
            rejected.append(_rejected(records, row, "validate", "event_time_in_future", detail))
            continue
        partition = int(records.partition[row])
        complete_us[partition] = max(complete_us.get(partition, 0), int(text) * 1000)
    return complete_us, rows, rejected


def _latest_us(records: Records, plan: DecodePlan, now_us: int) -> NDArray[np.int64]:
    """(n,) the newest event time that is taken from each record."""
    if plan.max_future_us is None:
        return np.full(len(records), _LATEST_US, np.int64)
    return np.where(
        records.produced_ms >= 0,
        future_from_us(records.produced_ms, plan.max_future_us),
        min(now_us + plan.max_future_us, _LATEST_US),
    )


def future_from_us(produced_ms: NDArray[np.int64], max_future_us: int) -> NDArray[np.int64]:
    """(n,) the newest event time that records of these Kafka timestamps may have."""
    known_us = np.minimum(produced_ms, _LATEST_US // 1000) * 1000  # a producer may claim any timestamp
    latest_us: NDArray[np.int64] = np.minimum(known_us + max_future_us, _LATEST_US)
    return latest_us


def _validate(
    columns: Columns, keys: Spans, plan: DecodePlan, latest_us: NDArray[np.int64]
) -> tuple[NDArray[np.int64], _Verdict]:
    """(n,) event time in microseconds, and which rows may be scored."""
    ticks = columns.ticks(plan.event_time)
    if not columns.nulls(plan.event_time) and _are_sound(columns, keys, plan, ticks, latest_us):
        return ticks * plan.time_unit_us, _SOUND
    verdict = _Verdict(keep=np.ones(columns.rows, np.bool_))
    return _judge(columns, keys, plan, ticks, latest_us, verdict), verdict


def _are_sound(
    columns: Columns,
    keys: Spans,
    plan: DecodePlan,
    ticks: NDArray[np.int64],
    latest_us: NDArray[np.int64],
) -> bool:
    """Whether all may be scored, as nearly always; `_judge` finds out which may not, and why."""
    for name in plan.finite:
        if columns.nulls(name):
            return False
        if pa.types.is_floating(columns.kind(name)) and not are_finite(columns.numbers(name)):
            return False
    if columns.nulls(plan.key):
        return False
    said, ids = columns.spans(plan.key), None
    if plan.event_id is not None and pa.types.is_string(columns.kind(plan.event_id)):
        ids = columns.spans(plan.event_id)
    return bool(
        are_sound(
            ticks,
            latest_us,
            plan.time_unit_us,
            keys.data,
            keys.starts,
            keys.ends,
            said.data,
            said.starts,
            said.ends,
            _NO_SPANS if ids is None else ids.starts,
            _NO_SPANS if ids is None else ids.ends,
            plan.max_key_bytes,
        )
    )


def _judge(
    columns: Columns,
    keys: Spans,
    plan: DecodePlan,
    ticks: NDArray[np.int64],
    latest_us: NDArray[np.int64],
    verdict: _Verdict,
) -> NDArray[np.int64]:
    """(n,) event time in microseconds; the verdict says what is wrong with which row."""
    table = columns.batch
    time = table.column(plan.event_time)
    if time.null_count:
        verdict.reject(_nulls(time), "null_event_time", f"{plan.event_time} is null, expected a time")
    verdict.reject(ticks < 0, "event_time_too_old", f"{plan.event_time} is before 1970-01-01")
    verdict.reject(
        ticks > latest_us // plan.time_unit_us,
        "event_time_in_future",
        f"{plan.event_time} is further ahead of the record's timestamp than source.max_future allows",
    )
    for name in plan.finite:
        column = table.column(name)
        if column.null_count:
            verdict.reject(_nulls(column), "null_value", f"{name} is null, expected a number")
        if pa.types.is_floating(column.type):
            finite = np.isfinite(column.to_numpy(zero_copy_only=False))
            if not finite.all():
                verdict.reject(~finite & ~_nulls(column), "not_finite", f"{name} is NaN or infinite")
    _check_keys(columns.spans(plan.key), keys, plan.key, verdict)
    _check_lengths(columns, keys, plan, verdict)
    kept_us: NDArray[np.int64] = np.where(verdict.keep, ticks, 0) * plan.time_unit_us
    return kept_us


def _check_keys(said: Spans, keys: Spans, name: str, verdict: _Verdict) -> None:
    """The record key names the entity, and the event must say the same."""
    missing = keys.sizes <= 0
    verdict.reject(missing, "missing_key", f"the record has no key, expected the value of {name}")
    verdict.reject(~equal(keys, said), "key_mismatch", f"the record key is not the value of {name}")


def _check_lengths(columns: Columns, keys: Spans, plan: DecodePlan, verdict: _Verdict) -> None:
    """Keys are held in memory as long as they are, and outputs carry them, and the id, beside each other."""
    longest = plan.max_key_bytes
    verdict.reject(
        keys.sizes > longest, "key_too_long", f"{plan.key} is longer than source.max_key_bytes, {longest}"
    )
    if plan.event_id is not None and pa.types.is_string(columns.kind(plan.event_id)):
        verdict.reject(
            columns.spans(plan.event_id).sizes > longest,
            "event_id_too_long",
            f"{plan.event_id} is longer than source.max_key_bytes, {longest}",
        )


def _nulls(column: pa.Array) -> NDArray[np.bool_]:
    nulls: NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return nulls
