"""Figures as records of a compacted topic: written, and read back."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.codec import Codec
from schemas.schema import load_schema
from worker.codecs import output_codec
from worker.decide import DecisionPolicy
from worker.dlq import client_config
from worker.exits import Exit, StopWorker
from worker.figures import Figures
from worker.pipeline_types import Pipeline
from worker.producer_settings import producer_config
from worker.score_bins import TENTHS

FIGURES = load_schema("truth")
_ANSWER_S = 10.0
_FLUSH_S = 8.0  # what is not acknowledged by then is published again; a stop waits no longer
_SILENCE_S = 15.0
Row = dict[str, Any]  # by the fields of truth.avsc


def key_of(row: Row) -> str:
    """The record key of a row of figures."""
    return f"{row['pipeline']}/{row['model_version']}/{row['segment']}"


def row_of(figures: Figures, policy: DecisionPolicy | None, **of: Any) -> Row:
    """Figures by the fields of truth.avsc; `of`: the fields that say whose they are, and of when."""
    names = zip(policy.severities, policy.thresholds, strict=True) if policy else ()
    return {
        **of,
        "scored": figures.scored,
        "labelled": figures.labelled,
        "positives": figures.positives,
        **asdict(figures.ranking),
        "thresholds": [
            {"severity": severity, "threshold": threshold, **asdict(at)}
            for (severity, threshold), at in zip(names, figures.thresholds, strict=True)
        ],
        "alerts": figures.alerts,
        "alerts_labelled": figures.alerts_labelled,
        "alerts_right": figures.alerts_right,
        "alert_yield": figures.alert_yield,
        "calibration": [
            {"score_from": i / TENTHS, **(asdict(tenth) if tenth else {"events": 0})}
            for i, tenth in enumerate(figures.tenths)
        ],
        "calibration_error": figures.calibration_error,
    }


class FiguresTopic:
    """The topic, as the member writes it that publishes the figures."""

    def __init__(self, pipeline: Pipeline, codec: Codec) -> None:
        assert pipeline.truth is not None
        self._pipeline, self._topic, self._codec = pipeline, pipeline.truth.topic, codec
        self._producer = Producer(
            producer_config(pipeline.kafka.client_properties(), worker_id=None, transaction_timeout_ms=0)
            | {"message.timeout.ms": 20_000}
        )

    def publish(self, rows: Sequence[Row], gone: Iterable[str]) -> bool:
        """Write rows, and tombstones of keys; False: not all of them are acknowledged, publish again."""
        failed: list[str] = []

        def noted(error: Any, _: Any) -> None:
            if error is not None:
                failed.append(error.str())

        for row, value in zip(rows, self._codec.encode_rows(rows), strict=True):
            self._producer.produce(self._topic, value, key_of(row), on_delivery=noted)
        for key in gone:
            self._producer.produce(self._topic, None, key, on_delivery=noted)
        return self._producer.flush(_FLUSH_S) == 0 and not failed

    def keys(self) -> set[str]:
        """Keys of this pipeline that the topic holds."""
        return set(read_figures(self._pipeline, self._codec))

    def close(self) -> None:
        """Let go of the connection."""
        self._producer.purge()
        self._producer.flush(1)


def figures_codec(pipeline: Pipeline, *, writes: bool) -> Codec:
    """The codec of the figures' topic, framed as the other outputs."""
    return output_codec(pipeline, "truth", pipeline.truth.topic if pipeline.truth and writes else None)


def read_figures(pipeline: Pipeline, codec: Codec) -> dict[str, Row]:
    """The current rows of this pipeline, by key; times are datetimes.

    Raises:
        StopWorker: Kafka does not answer, or there is no such topic.
        KafkaException: reading failed.
    """
    assert pipeline.truth is not None
    topic = pipeline.truth.topic
    config = {
        **client_config(pipeline),
        "group.id": f"{pipeline.kafka.group}-truth",  # never joined
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 20,
    }
    with closing(Consumer(config)) as consumer:
        try:
            partitions = list(consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions)
        except KafkaException as error:
            raise StopWorker(Exit.KAFKA, f"no broker answered within {_ANSWER_S:g} s: {error}") from error
        if not partitions:
            raise StopWorker(Exit.KAFKA, f"topic {topic!r} does not exist: is truth.topic right?")
        newest = _newest(consumer, topic, partitions)
    written = codec.decode(list(newest.values())).table.to_pylist()
    return {key_of(row): _dated(row) for row in written if row["pipeline"] == pipeline.name}


def _dated(row: Row) -> Row:
    """Times as those of UTC, which Avro's columns do not say of themselves."""
    return {
        name: value.replace(tzinfo=UTC) if isinstance(value, datetime) else value
        for name, value in row.items()
    }


def _newest(consumer: Any, topic: str, partitions: Sequence[int]) -> dict[bytes, bytes]:
    """The last value of each key, without the keys that ended with a tombstone."""
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    newest: dict[bytes, bytes] = {}
    reading, heard_s = set(partitions), time.monotonic()
    while reading:
        for message in consumer.consume(500, 0.2):
            heard_s, error = time.monotonic(), message.error()
            if error is None:
                newest.pop(message.key(), None)
                if message.value() is not None:
                    newest[message.key()] = message.value()
            elif error.code() == KafkaError._PARTITION_EOF:
                reading.discard(message.partition())
            elif not error.retriable():
                raise KafkaException(error)
        if time.monotonic() - heard_s > _SILENCE_S:
            raise StopWorker(Exit.KAFKA, f"{topic}: nothing was heard for {_SILENCE_S:g} s: is Kafka there?")
    return newest
