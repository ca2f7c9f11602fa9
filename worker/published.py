"""What was published about a stretch of the log: scores and alerts, by the place of their event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Consumer, TopicPartition
from numpy.typing import NDArray

from worker.codecs import output_codec
from worker.config import Pipeline
from worker.replay import Period
from worker.replay_log import reader_config, until

SCORES_FILE, ALERTS_FILE = "scores.parquet", "alerts.parquet"
_ANSWER_S = 10.0
_CLOCKS_DIFFER_MS = 10_000  # where the broker's clock makes the records' timestamps
_OFFSETS = 1 << 44  # of a partition; places of more than that many records would be taken for each other


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Published:
    """Scores and alerts; of several for one event the first counts."""

    place: NDArray[np.int64]  # (n,) of the scored event, ascending, see `places`
    event_us: NDArray[np.int64]  # (n,)
    score: NDArray[np.float32]  # (n,)
    models: tuple[str, ...]  # NAME/VERSION that gave them
    alerts: dict[int, dict[str, Any]]  # by place; as in alert.avsc

    def within(self, period: Period, partitions: Sequence[int] | None) -> Published:
        """Only what is about events of this period, and of these partitions; None: of all."""
        times_us, inside = self.event_us, set(partitions or ())
        rows = (times_us >= period.from_us) & (times_us < period.to_us)
        if partitions is not None:
            rows &= np.isin(self.place // _OFFSETS, partitions)
        return Published(
            place=self.place[rows],
            event_us=times_us[rows],
            score=self.score[rows],
            models=self.models,
            alerts={
                place: alert
                for place, alert in self.alerts.items()
                if period.from_us <= event_us(alert) < period.to_us
                and (partitions is None or alert["source_partition"] in inside)
            },
        )


def places(partition: NDArray[Any], offset: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) one number for each partition and offset."""
    return partition.astype(np.int64) * _OFFSETS + offset.astype(np.int64)


def place_of(alert: dict[str, Any]) -> int:
    """The place of an alert's event."""
    return int(alert["source_partition"]) * _OFFSETS + int(alert["source_offset"])


def event_us(alert: dict[str, Any]) -> int:
    """The event time of an alert."""
    when = alert["event_time"]
    if not isinstance(when, datetime):
        return int(when)
    since = when.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1)


def earliest_ms(pipeline: Pipeline, from_us: int) -> int:
    """Before when nothing can have been published about events from this time on."""
    if pipeline.source.max_future_us is None or pipeline.source.time.future == "score":
        return 0
    return max(0, (from_us - pipeline.source.max_future_us) // 1000)


def read_published(pipeline: Pipeline, since_ms: int, *, alerts_only: bool = False) -> Published:
    """Everything committed to the output topics since then about events of the input topic.

    Args:
        since_ms: wall clock; nothing was published about an event before it was produced.
        alerts_only: leave the scores out.

    Raises:
        KafkaException, StopWorker: Kafka did not answer in time, or refused.
    """
    tables = [] if alerts_only else list(_records(pipeline, "score", since_ms))
    alerts = [alert for table in _records(pipeline, "alert", since_ms) for alert in table.to_pylist()]
    return published(pa.Table.from_batches(tables) if tables else None, alerts, pipeline.source.topic)


def read_backtest(folder: Path, topic: str) -> Published:
    """What another backtest of the same events wrote."""
    columns = ["source_partition", "source_offset", "event_time", "score", "model", "model_version"]
    table = pq.read_table(folder / SCORES_FILE, columns=columns)
    alerts = folder / ALERTS_FILE
    found = pq.read_table(alerts).to_pylist() if alerts.exists() else []
    return published(table, [alert for alert in found if alert["source_topic"] == topic], topic)


def published(table: pa.Table | None, alerts: list[dict[str, Any]], topic: str) -> Published:
    """Scores of one input topic, and its alerts."""
    by_place: dict[int, dict[str, Any]] = {}
    for alert in alerts:
        if alert["source_topic"] == topic:
            by_place.setdefault(place_of(alert), {**alert, "features": dict(alert["features"])})
    if table is None:
        none = np.zeros(0, np.int64)
        return Published(place=none, event_us=none, score=np.zeros(0, np.float32), models=(), alerts=by_place)
    if "source_topic" in table.column_names:
        table = table.filter(pa.compute.equal(table["source_topic"], topic))
    place, first = np.unique(
        places(table["source_partition"].to_numpy(), table["source_offset"].to_numpy()), return_index=True
    )
    names = table.select(["model", "model_version"]).cast(
        pa.schema([("model", pa.string()), ("model_version", pa.string())])
    )
    versions = names.group_by(["model", "model_version"]).aggregate([]).to_pylist()
    return Published(
        place=place,
        event_us=table["event_time"].cast(pa.int64()).to_numpy()[first],
        score=table["score"].to_numpy().astype(np.float32)[first],
        models=tuple(sorted(f"{each['model']}/{each['model_version']}" for each in versions)),
        alerts=by_place,
    )


def find_score(pipeline: Pipeline, since_ms: int, partition: int, offset: int) -> dict[str, Any] | None:
    """The score published about one event; None: there is none."""

    def is_it(table: pa.RecordBatch) -> NDArray[np.int64]:
        here = table.column("source_partition").to_numpy() == partition
        here &= table.column("source_offset").to_numpy() == offset
        topics = table.column("source_topic").to_pylist() if here.any() else []
        return np.array(
            [row for row in np.flatnonzero(here) if topics[row] == pipeline.source.topic], np.int64
        )

    for table in _records(pipeline, "score", since_ms):
        rows = is_it(table)
        if len(rows):
            found: dict[str, Any] = table.take(pa.array(rows)).to_pylist()[0]
            return found
    return None


def _records(pipeline: Pipeline, kind: str, since_ms: int) -> Iterator[pa.RecordBatch]:
    """Decoded outputs of one kind, some at a time."""
    outputs = pipeline.outputs
    topic = outputs.scores if kind == "score" else outputs.alerts
    if topic is None:
        return
    codec = output_codec(pipeline, kind)
    with closing(Consumer(reader_config(pipeline))) as consumer:
        asked = [
            TopicPartition(topic, partition, max(since_ms - _CLOCKS_DIFFER_MS, 0))
            for partition in consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions
        ]
        starts, ends = [], {}
        for found in consumer.offsets_for_times(asked, timeout=_ANSWER_S) if asked else []:
            _, high = consumer.get_watermark_offsets(found, timeout=_ANSWER_S)
            if 0 <= found.offset < high:
                starts.append(found)
                ends[topic, found.partition] = high
        consumer.assign(starts)
        for messages in until(consumer, ends):
            yield codec.decode([message.value() for message in messages]).table
