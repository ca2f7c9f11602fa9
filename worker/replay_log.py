"""Events of a replay from the log itself: every partition from where its rows are exact."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from feature_cache.layout import NEVER_US
from schemas.schema import load_schema
from worker.codecs import input_codec
from worker.config import Pipeline
from worker.decode import DecodePlan, decode
from worker.dlq import client_config
from worker.exits import Exit, StopWorker
from worker.plan import FeaturePlan, decision_policy, decode_plan
from worker.rebuild import Log, Reach, last_older, place, reach
from worker.rebuild_log import open_log
from worker.records import records_of
from worker.replay import Decoded, Feed, LaneFeed, OpenFeed, Period
from worker.source import partition_count

_ANSWER_S = 10.0
_SILENCE_S = 30.0  # without a record or the end of a partition: the broker is gone
_AT_ONCE = 8192
_NEAR = 2000  # offsets; reading so many is cheaper than another look
_MENDED = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE}


def reader_config(pipeline: Pipeline) -> dict[str, Any]:
    """Settings of a consumer that joins no group, commits nothing and sees what was committed."""
    return {
        **client_config(pipeline),
        "group.id": f"{pipeline.kafka.group}-replay",  # never joined: partitions are assigned by hand
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 20,
        "queued.max.messages.kbytes": 16384,
        "fetch.queue.backoff.ms": 5,
    }


def from_log(
    replayed: Pipeline,
    period: Period,
    partitions: Sequence[int] | None = None,
    ends: dict[int, int] | None = None,
) -> OpenFeed:
    """Feeds of the topics that pipelines read.

    Args:
        replayed: the pipeline that is replayed; others are those that it looks up.
        period: the events of interest; a lane begins as far before them as its rows reach back.
        partitions: of the pipeline that is replayed, all where it is None; of others it is always all.
        ends: of the pipeline that is replayed, the offset before which a partition ends; the present end of
            the log where it is not named.
    """
    # What was looked up for an event long ago matters as long as the alerts that came of it do.
    reaches_back = decision_policy(replayed) is None or replayed.state.rebuild == "windows"

    def open_feed(pipeline: Pipeline, plan: FeaturePlan) -> Feed:
        is_replayed = pipeline.name == replayed.name
        topic = pipeline.source.topic
        with closing(Consumer(reader_config(pipeline))) as client:
            count = partition_count(client, topic)
            wanted = list(range(count)) if partitions is None or not is_replayed else list(partitions)
            if unknown := [p for p in wanted if not 0 <= p < count]:
                raise StopWorker(Exit.USAGE, f"topic {topic} has no partition {unknown[0]}: it has {count}")
            bounds = {
                p: client.get_watermark_offsets(TopicPartition(topic, p), timeout=_ANSWER_S) for p in wanted
            }
        lanes = {}
        from_us = period.from_us if is_replayed or reaches_back else NEVER_US
        for partition, (low, high) in bounds.items():
            end = min((ends or {}).get(partition, high) if is_replayed else high, high)
            lanes[partition] = _lane(pipeline, plan, partition, (low, end), from_us)
        return Feed(lanes=lanes, lane_count=count)

    return open_feed


def _lane(
    pipeline: Pipeline, plan: FeaturePlan, partition: int, bounds: tuple[int, int], from_us: int
) -> LaneFeed:
    """Begin where the rows are exact by the first event of interest, as a rebuild would."""
    low, high = bounds
    schema = load_schema(pipeline.source.schema_ref, pipeline.base)
    how = decode_plan(pipeline, schema, plan.finite)
    back = reach(
        plan.layout,
        decision_policy(pipeline),
        plan.times,
        pipeline.state.rebuild,
        None if how.takes_future else pipeline.source.max_future_us,
    )
    begin, forgotten_us = low, NEVER_US
    if low < high:
        with open_log(
            reader_config(pipeline), input_codec(pipeline, schema), how, pipeline.source.topic, partition
        ) as log:
            first = first_since(log, back, low, high, from_us)
            begin, forgotten_us = place(back, log, first, low)
    return LaneFeed(
        begin=begin,
        forgotten_us=forgotten_us,
        events=_read(pipeline, input_codec(pipeline, schema), how, partition, begin, high),
    )


def first_since(log: Log, back: Reach, low: int, high: int, from_us: int, near: int = _NEAR) -> int:
    """An offset before which no event is of this time or later, as far as their disorder is known."""
    if back.disorder_us is None or from_us == NEVER_US:
        return low

    def event_times_at(offset: int) -> tuple[int, ...] | None:
        found = log.sample(offset, high)
        return None if found is None else found.event_us

    offset, _ = last_older(event_times_at, low, high, from_us - back.disorder_us, near)
    return offset


def _read(
    pipeline: Pipeline, codec: Any, how: DecodePlan, partition: int, begin: int, end: int
) -> Iterator[Decoded]:
    if begin >= end:
        return
    topic = pipeline.source.topic
    consumer = Consumer(reader_config(pipeline))
    try:
        consumer.assign([TopicPartition(topic, partition, begin)])
        for messages in until(consumer, {(topic, partition): end}):
            yield decode(records_of(topic, messages), codec, how, time.time_ns() // 1000)
    finally:
        consumer.close()


def until(
    consumer: Any, ends: dict[tuple[str, int], int], silence_s: float = _SILENCE_S
) -> Iterator[list[Any]]:
    """Messages of the partitions assigned, some at a time, up to these offsets.

    Args:
        ends: by topic and partition, the offset that is not read any more.
        silence_s: nothing for so long, and the broker is gone; whoever asks may take any time in between.

    Raises:
        KafkaException, StopWorker: they cannot be read.
    """
    reading, heard_s = dict(ends), time.monotonic()
    while reading:
        found = consumer.consume(1, 0.2)
        found += consumer.consume(_AT_ONCE - 1, 0.0) if found else []
        messages = []
        for message in found:
            where, error = (message.topic(), message.partition()), message.error()
            heard_s = time.monotonic()
            if error is None:
                if message.offset() < ends.get(where, 0):
                    messages.append(message)
                read_to = message.offset() + 1
            elif (
                error.code() == KafkaError._PARTITION_EOF
            ):  # markers and what was aborted come as no messages
                read_to = message.offset()
            elif error.fatal() or not (error.retriable() or error.code() in _MENDED):
                raise KafkaException(error)
            else:
                continue
            if read_to >= ends.get(where, 0):
                reading.pop(where, None)
        if messages:
            yield messages
            heard_s = time.monotonic()
        elif time.monotonic() - heard_s > silence_s:
            waiting = ", ".join(f"{topic}-{partition}" for topic, partition in reading)
            raise StopWorker(Exit.KAFKA, f"nothing came from {waiting} for {silence_s:g} s")
