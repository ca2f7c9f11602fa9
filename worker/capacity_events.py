"""The events that a capacity run sends: a stretch of real or generated ones, repeated as long as need be."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, TopicPartition
from numpy.typing import NDArray

from schemas.codec import Codec
from schemas.columns import texts
from schemas.schema import Schema, load_schema
from schemas.spans import Spans, text_spans
from worker.capacity_values import generated
from worker.codecs import input_codec
from worker.config import ConfigError, Pipeline
from worker.decode import decode_table, time_unit_us
from worker.plan import decode_plan, feature_plan
from worker.replay_files import read_tables
from worker.replay_log import reader_config, until

SAMPLE_EVENTS = 50_000
_ANSWER_S = 10.0
_SAMPLE_S = 20.0  # more is not waited for
_LONGEST_US = 40 * 365 * 86_400_000_000  # what all repetitions together may span, by event time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """A stretch of events in the order of their time, from which any number can be made.

    Event number i is row i % n of the stretch, as much later as the stretch is long for each repetition: keys
    come back, ids never do, and time goes on as it went.
    """

    table: pa.RecordBatch  # (n,) columns of the schema, ascending by event time
    schema: Schema
    source: str  # where the stretch came from, in words
    id_field: str
    time_field: str
    key_field: str
    offset_us: NDArray[np.int64]  # (n,) since the first event
    span_us: int  # of one repetition
    begin_us: int  # event time of event 0: so that the last one that may be asked for is now

    @property
    def keys(self) -> Spans:
        """The (k,) different record keys."""
        return text_spans(pc.unique(texts(self.table.column(self.key_field))))

    def take(self, first: int, count: int) -> pa.RecordBatch:
        """Events first, first + 1, ... as columns of the schema."""
        number = np.arange(first, first + count)
        turn, row = np.divmod(number, self.table.num_rows)
        time_us = self.begin_us + turn * self.span_us + self.offset_us[row]
        found = self.table.take(pa.array(row))
        at_time = self.schema.arrow.field(self.time_field)
        ticks = pa.array(time_us // time_unit_us(at_time.type))
        id_type = self.schema.arrow.field(self.id_field).type
        changed = {
            self.time_field: ticks.cast(at_time.type),
            self.id_field: pa.array(number).cast(id_type),
        }
        arrays = [changed.get(name, found.column(name)) for name in found.schema.names]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema.arrow)

    def write(self, path: Path, codec: Codec, first: int, count: int) -> int:
        """Write events to an Arrow file with the binary columns `key` and `value`; return their bytes."""
        table = self.take(first, count)
        values = pa.array(codec.encode(table), pa.binary())
        keys = texts(table.column(self.key_field)).cast(pa.binary())
        records = pa.table({"key": keys, "value": values})
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, records.schema) as writer:
            writer.write_table(records)
        return int(values.nbytes + keys.nbytes)


def open_pool(pipeline: Pipeline, files: Sequence[Path], at_most: int, keys: int) -> Pool:
    """The events of these files; else the newest of the pipeline's topic; else generated ones.

    Args:
        files: Parquet or Avro, one after the other.
        at_most: how many events will be asked for over the whole run.
        keys: how many different ones are generated.

    Raises:
        ConfigError: a file holds none that the pipeline could score.
        KafkaException, StopWorker: the topic is there and cannot be read.
    """
    schema = load_schema(pipeline.source.schema_ref, pipeline.base)
    if files:
        tables = [table for path in files for table in read_tables(path, schema)]
        pool = pool_of(pipeline, schema, tables, f"of {', '.join(map(str, files))}", at_most)
        if pool is None:
            raise ConfigError(f"--events: found no event that {pipeline.name} could score, expected some")
        return pool
    topic = pipeline.source.topic
    sampled = pool_of(pipeline, schema, _newest(pipeline, schema), f"sampled from topic {topic}", at_most)
    if sampled is not None:
        return sampled
    made = generated(pipeline, schema, keys)
    pool = pool_of(pipeline, schema, [made], f"generated from schema {schema.name}", at_most)
    if pool is None:
        raise ConfigError(
            f"{pipeline.path}: source.schema: found no way to generate events that the pipeline takes, "
            f"expected some with --events FILE"
        )
    return pool


def pool_of(
    pipeline: Pipeline, schema: Schema, tables: Sequence[pa.RecordBatch], source: str, at_most: int
) -> Pool | None:
    """The good ones among these rows, in the order of their times; None without any."""
    plan = decode_plan(pipeline, schema, feature_plan(pipeline).finite)
    kept = [decode_table(table, pipeline.source.topic, 0, plan)[0] for table in tables if table.num_rows]
    if not sum(len(events) for events in kept):
        return None
    time_us = np.concatenate([events.event_us for events in kept])
    order = np.argsort(time_us, kind="stable")[-SAMPLE_EVENTS:]
    table = pa.concat_batches([events.table for events in kept]).take(pa.array(order))
    time_us = time_us[order]
    unit_us = time_unit_us(schema.arrow.field(pipeline.source.event_time).type)
    offset_us = time_us - time_us[0]
    n = len(order)
    span_us = int(offset_us[-1]) + max(unit_us, int(offset_us[-1]) // max(1, n - 1))
    turns = at_most // n + 1
    if turns * span_us > _LONGEST_US:  # a stretch of years, repeated: closer together, or time would be over
        shrink = _LONGEST_US / (turns * span_us)
        offset_us, span_us = (offset_us * shrink).astype(np.int64), max(1, int(span_us * shrink))
    now_us = time.time_ns() // 1000
    return Pool(
        table=table,
        schema=schema,
        source=f"{n:,} events {source}",
        id_field=pipeline.source.event_id,
        time_field=pipeline.source.event_time,
        key_field=pipeline.source.key,
        offset_us=offset_us,
        span_us=span_us,
        begin_us=now_us - turns * span_us,
    )


def _newest(pipeline: Pipeline, schema: Schema) -> list[pa.RecordBatch]:
    """The newest events of the input topic, read without a group; none where the topic is not there."""
    topic = pipeline.source.topic
    with closing(Consumer(reader_config(pipeline))) as client:
        known = client.list_topics(topic, timeout=_ANSWER_S).topics[topic]
        if known.error is not None or not known.partitions:
            return []
        share = -(-SAMPLE_EVENTS // len(known.partitions))
        begins, ends = [], {}
        for partition in known.partitions:
            low, high = client.get_watermark_offsets(TopicPartition(topic, partition), timeout=_ANSWER_S)
            if low < high:
                begins.append(TopicPartition(topic, partition, max(low, high - share)))
                ends[topic, partition] = high
        if not begins:
            return []
        client.assign(begins)
        codec, deadline_s = input_codec(pipeline, schema), time.monotonic() + _SAMPLE_S
        tables: list[pa.RecordBatch] = []
        for messages in until(client, ends):
            values: list[Any] = [message.value() for message in messages]
            tables.append(codec.decode(values).table)
            if time.monotonic() > deadline_s:
                break
        return tables
