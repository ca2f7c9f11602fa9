"""One entity over time: its newest events, their scores and alerts, and its features as of each of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from feature_cache.store import MemoryStore
from schemas.schema import Schema, load_schema
from schemas.spans import spans_of
from worker.codecs import input_codec, output_codec
from worker.config import LookupFeature, Pipeline, ProfileFeature
from worker.console_letters import hides, shown
from worker.console_records import _config, alert_codec, alert_row, plain
from worker.offline import Offline
from worker.partitioners import partitions
from worker.privacy import hashed, privacy_of

EVENTS_AT_MOST = 500
LOOK_S = 3.0  # how long is looked
DEEP_S = 8.0  # and where more is asked for; an answer has ten seconds
_OF_EVENTS, _OF_SCORES, _OF_ALERTS = 0.6, 0.25, 0.15  # of this time
_CHUNK, _CHUNK_AT_MOST = 500, 32_000  # records read at a time, from the end backwards, more each time
_AT_ONCE = 500
_DUTY = 0.25  # of a core at most: the worker beside us has work to do
_ANSWER_S = 3.0
_FIELDS_AT_MOST = 64


class EntityError(Exception):
    """Nothing can be said of this entity; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Records of one key in one partition, the oldest first, and how far back was looked."""

    messages: list[Any]
    looked_at: int
    since_ms: int  # the oldest record looked at; -1: there was none
    is_whole: bool  # to the partition's beginning, or to where it was asked to


def look_back(
    consumer: Consumer, at: TopicPartition, key: bytes, *, at_most: int, since_ms: int, within_s: float
) -> Found:
    """Read a partition from its end backwards for records of a key.

    Args:
        consumer: of no group; what it was assigned to is replaced.
        at_most: records of the key.
        since_ms: Kafka timestamp to stop at; 0: the beginning.
        within_s: seconds, of which a quarter is spent reading.

    Raises:
        KafkaException: Kafka does not answer, or refuses.
    """
    low, high = consumer.get_watermark_offsets(at, timeout=_ANSWER_S)
    if since_ms > 0:
        asked = TopicPartition(at.topic, at.partition, since_ms)
        since = consumer.offsets_for_times([asked], timeout=_ANSWER_S)[0].offset
        low = max(low, since if since >= 0 else high)
    give_up_s = time.monotonic() + within_s
    found: list[Any] = []
    stop, oldest_ms, looked_at, size = high, -1, 0, _CHUNK
    while stop > low and len(found) < at_most and time.monotonic() < give_up_s:
        begin, size = max(low, stop - size), min(2 * size, _CHUNK_AT_MOST)
        consumer.assign([TopicPartition(at.topic, at.partition, begin)])
        chunk, count, first_ms = _chunk(consumer, stop, key, give_up_s + 1.0)
        if count < 0 and looked_at:
            break  # half of a chunk would leave a gap before what is newer
        looked_at += abs(count)
        found = chunk + found
        oldest_ms = first_ms if first_ms >= 0 else oldest_ms
        stop = begin
    return Found(
        messages=found[-at_most:],
        looked_at=looked_at,
        since_ms=oldest_ms,
        is_whole=stop <= low,
    )


def _chunk(consumer: Consumer, stop: int, key: bytes, give_up_s: float) -> tuple[list[Any], int, int]:
    """Records of the key up to an offset, how many were looked at (negative: not all), the first's time."""
    found, count, first_ms = [], 0, -1
    while time.monotonic() < give_up_s:
        began_s = time.thread_time()
        is_end = False
        for message in consumer.consume(_AT_ONCE, 0.05):
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    is_end = True
                elif not error.retriable():
                    raise KafkaException(error)
                continue
            if message.offset() >= stop:
                is_end = True
                break
            count += 1
            first_ms = message.timestamp()[1] if first_ms < 0 else first_ms
            if message.key() == key:
                found.append(message)
            is_end = message.offset() + 1 >= stop
        if is_end:
            return found, count, first_ms
        time.sleep((time.thread_time() - began_s) * (1 / _DUTY - 1))
    return found, -count, first_ms


def entity(pipeline: Pipeline, key: str, *, within_s: float = LOOK_S) -> dict[str, Any]:
    """What is known of one entity, as columns by event, the oldest first.

    Raises:
        EntityError: the topic is not there, or the key is empty.
        KafkaException: Kafka does not answer.
    """
    if not key:
        raise EntityError("expected a key")
    raw, topic = key.encode(), pipeline.source.topic
    with closing(Consumer(_config(pipeline))) as consumer:
        at = _place(consumer, topic, raw, pipeline.source.partitioner)
        events = look_back(
            consumer, at, raw, at_most=EVENTS_AT_MOST, since_ms=0, within_s=within_s * _OF_EVENTS
        )
        oldest_ms = events.messages[0].timestamp()[1] if events.messages else 0
        outputs = pipeline.outputs
        scored, alerted = None, None
        if outputs.scores and events.messages:
            scored = look_back(
                consumer, _place(consumer, outputs.scores, raw, "murmur2"), raw,
                at_most=EVENTS_AT_MOST, since_ms=oldest_ms, within_s=within_s * _OF_SCORES,
            )  # fmt: skip
        if outputs.alerts and events.messages:
            as_alert = _alert_key(pipeline, raw)
            alerted = look_back(
                consumer, _place(consumer, outputs.alerts, as_alert, "murmur2"), as_alert,
                at_most=EVENTS_AT_MOST, since_ms=oldest_ms, within_s=within_s * _OF_ALERTS,
            )  # fmt: skip
    schema = load_schema(pipeline.source.schema_ref, pipeline.base)
    table, offsets = _table(pipeline, schema, events.messages)
    features, incomplete = _features(pipeline, table)
    scores = _by_offset(_scores(pipeline, scored.messages if scored else []))
    alerts = _by_offset(_alerts(pipeline, alerted.messages if alerted else []))
    return {
        "pipeline": pipeline.name,
        "key": key,
        "topic": topic,
        "partition": at.partition,
        "looked_at": events.looked_at,
        "since_ms": events.since_ms,
        "is_whole": events.is_whole,
        "undecodable": len(events.messages) - len(offsets),
        "offsets": offsets,
        "at_ms": _times_ms(table, pipeline),
        "fields": _fields(pipeline, table),
        "scores": [scores.get((at.partition, offset), {}).get("score") for offset in offsets],
        "versions": [scores.get((at.partition, offset), {}).get("model_version") for offset in offsets],
        "flags": [_flags(scores.get((at.partition, offset), {})) for offset in offsets],
        "alerts": [_brief(alerts.get((at.partition, offset))) for offset in offsets],
        "features": features,
        "incomplete": incomplete,
        "thresholds": dict(pipeline.decision.severities) if pipeline.decision else {},
        "hidden": hides(pipeline),
    }


def _place(consumer: Consumer, topic: str, key: bytes, partitioner: str) -> TopicPartition:
    count = len(consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions)
    if not count:
        raise EntityError(f"there is no topic {topic!r}")
    return TopicPartition(topic, int(partitions(spans_of([key]), count, partitioner)[0]))


def _alert_key(pipeline: Pipeline, key: bytes) -> bytes:
    privacy = privacy_of(pipeline, load_schema(pipeline.source.schema_ref, pipeline.base), ())
    if privacy is None or not privacy.in_alerts or not privacy.is_key_personal:
        return key
    return hashed(key, privacy.hash_key).encode()


def _table(pipeline: Pipeline, schema: Schema, messages: Sequence[Any]) -> tuple[pa.RecordBatch, list[int]]:
    """The events that can be decoded, and their offsets."""
    codec = input_codec(pipeline, schema)
    decoded = codec.decode([message.value() for message in messages])
    return decoded.table, [messages[row].offset() for row in decoded.rows.tolist()]


def _times_ms(table: pa.RecordBatch, pipeline: Pipeline) -> list[float]:
    return [plain(value) for value in table.column(pipeline.source.event_time).to_pylist()]


def _fields(pipeline: Pipeline, table: pa.RecordBatch) -> dict[str, list[Any]]:
    source = pipeline.source
    return {
        name: [plain(shown(name, value, pipeline)) for value in table.column(name).to_pylist()]
        for name in table.schema.names[:_FIELDS_AT_MOST]
        if name not in (source.event_time, source.key)
    }


def _features(pipeline: Pipeline, table: pa.RecordBatch) -> tuple[dict[str, list[float | None]], list[bool]]:
    """By the engine that computes them live, from these events alone; looked-up ones are left out.

    A window that reaches back over what was not read is `incomplete` here, whatever it was when scored.
    """
    if not table.num_rows:
        return {}, []
    small = replace(pipeline, state=replace(pipeline.state, hot_rows=16))
    first_us = int(min(_times_ms(table, pipeline)) * 1000)
    engine = Offline(small, MemoryStore(), lanes={0: (0, first_us)}, keeps_only_rows=True)
    try:
        found = engine.apply(table)
    except ValueError:  # one of them was a dead letter, which a check beyond the schema says
        return {}, []
    others = {
        name
        for name, feature in pipeline.features.items()
        if isinstance(feature, LookupFeature | ProfileFeature)
    }
    privacy = privacy_of(pipeline, load_schema(pipeline.source.schema_ref, pipeline.base), engine.plan.names)
    hidden = privacy.personal_columns if privacy else frozenset()
    columns = {
        name: [round(v, 6) if np.isfinite(v) else None for v in found.scalars[:, column].tolist()]
        for column, name in enumerate(engine.plan.names)
        if name.partition(".")[0] not in others and name not in hidden
    }
    return columns, found.incomplete.tolist()


def _scores(pipeline: Pipeline, messages: Sequence[Any]) -> list[dict[str, Any]]:
    if not messages:
        return []
    codec = output_codec(pipeline, "score")
    rows = codec.decode([message.value() for message in messages]).table.to_pylist()
    return [plain(row) for row in rows if row["source_topic"] == pipeline.source.topic]


def _alerts(pipeline: Pipeline, messages: Sequence[Any]) -> list[dict[str, Any]]:
    if not messages:
        return []
    codec = alert_codec(pipeline)
    rows = [alert_row(codec, message) for message in messages]
    return [row for row in rows if row is not None and row["source_topic"] == pipeline.source.topic]


def _by_offset(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], Mapping[str, Any]]:
    return {(row["source_partition"], row["source_offset"]): row for row in rows}


def _flags(row: Mapping[str, Any]) -> str:
    names = ("late", "incomplete", "degraded", "masked")
    return " ".join(name for name in names if row.get(name))


def _brief(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {name: row[name] for name in ("severity", "lifecycle", "reason", "score", "reasons", "features")}
