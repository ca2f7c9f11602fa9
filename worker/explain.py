"""`penstock explain`: one event's features, score and reasons again, beside what was published."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, TopicPartition
from numpy.typing import NDArray

from schemas.schema import load_schema
from worker.backtest import Judge, with_changes
from worker.batch import Batch
from worker.codecs import input_codec
from worker.config import Pipeline
from worker.decide import LIFECYCLES, RAISED, Decisions
from worker.decode import decode
from worker.exits import Exit, StopWorker
from worker.plan import decode_plan, feature_plan
from worker.published import event_us, find_score
from worker.records import Record, records_of
from worker.replay import Period, Replay
from worker.replay_arguments import (
    Progress,
    add_inputs,
    files_of,
    guarded,
    profile_store,
    progress,
    shown_time,
)
from worker.replay_log import from_log, reader_config, until

EXAMPLES = """examples:
  penstock explain pipelines/fraud.yaml 2 4711                partition and offset, as alerts name them
  penstock explain pipelines/fraud.yaml transactions 2 4711
  penstock explain pipelines/fraud.yaml 0 17 --input events.parquet --input terminal-risk=labels.parquet

It reads what a rebuild of the partition's rows would read, and writes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One event again."""

    event_id: str
    partition: int
    offset: int
    event_us: int
    model: str  # NAME/VERSION
    score: float | None  # None: the model has none
    lifecycle: str
    severity: str
    reasons: list[dict[str, Any]]
    features: Mapping[str, float]
    incomplete: bool
    late: bool
    degraded: bool
    lookup_age_ms: int | None
    published: dict[str, Any] | None

    @property
    def is_same(self) -> bool | None:
        """Whether the score is the one published, to the last bit; None: none was published."""
        if self.published is None:
            return None
        if self.score is None:
            return False
        return bool(np.float32(self.score) == np.float32(self.published["score"]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `penstock explain` its arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="pipeline file")
    parser.add_argument("place", nargs="+", metavar="[TOPIC] PARTITION OFFSET", help="the event's record")
    add_inputs(parser)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(command=guarded(_explain))


def _explain(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    partition, offset = _place(pipeline, arguments.place)
    with progress() as show:
        if arguments.input:
            found = explain(
                pipeline, Replay(pipeline, files_of(arguments, pipeline), Period()), partition, offset
            )
        else:
            found = explain_published(pipeline, partition, offset, show)
    print(as_json(found) if arguments.json else as_text(found))
    return Exit.UNHEALTHY if found.is_same is False else Exit.OK


def explain_published(
    pipeline: Pipeline, partition: int, offset: int, on_events: Progress = lambda _events, _event_us: None
) -> Explanation:
    """Explain an event of the log as it was scored: by that model version, its lookups as far behind.

    Raises:
        StopWorker: there is no such event.
        ModelError, ConfigError: the version that scored it is not in the repository any more.
    """
    record, time_us = read_event(pipeline, partition, offset)
    published = find_score(pipeline, max(record.timestamp_ms, 0), partition, offset)
    lag_ms = 0
    if published is not None:
        pipeline = with_changes(pipeline, f"{published['model']}/{published['model_version']}", {})
        lag_ms = published["lookup_age_ms"] or 0
    period = Period(from_us=time_us)
    feed = from_log(pipeline, period, [partition], {partition: offset + 1})
    replay = Replay(
        pipeline, feed, period, profiles=profile_store(pipeline), lookup_lag_us=min(lag_ms * 1000, time_us)
    )
    return replace(explain(pipeline, replay, partition, offset, on_events), published=published)


def explain(
    pipeline: Pipeline,
    replay: Replay,
    partition: int,
    offset: int,
    on_events: Progress = lambda _events, _event_us: None,
) -> Explanation:
    """Explain one event of a replay.

    Raises:
        StopWorker: the replay does not have it.
    """
    judge = Judge(pipeline, replay)
    for found in replay.batches():
        batch, scores = judge.score(found)
        decisions = judge.decide(batch, scores)
        records = batch.events.records
        rows = np.flatnonzero((records.partition == partition) & (records.offset == offset))
        on_events(len(batch), int(batch.events.event_us.max(initial=0)))
        if len(rows):
            return _explanation(batch, scores, decisions, int(rows[0]), judge)
    raise StopWorker(Exit.USAGE, f"partition {partition} offset {offset}: the model was never asked about it")


def read_event(pipeline: Pipeline, partition: int, offset: int) -> tuple[Record, int]:
    """A record of the input topic, and its event time.

    Raises:
        StopWorker: there is none, or it is no event.
    """
    topic = pipeline.source.topic
    place = TopicPartition(topic, partition, offset)
    with closing(Consumer(reader_config(pipeline))) as consumer:
        low, high = consumer.get_watermark_offsets(place, timeout=10.0)
        if not low <= offset < high:
            raise StopWorker(Exit.USAGE, f"{topic} partition {partition} holds offsets {low} to {high - 1}")
        consumer.assign([place])
        messages = next(until(consumer, {(topic, partition): offset + 1}), [])
    if not messages:
        raise StopWorker(Exit.USAGE, f"{topic} partition {partition} offset {offset} is no record: it is the "
                         "mark of a transaction, or was aborted")  # fmt: skip
    schema = load_schema(pipeline.source.schema_ref, pipeline.base)
    how = decode_plan(pipeline, schema, feature_plan(pipeline).finite)
    records = records_of(topic, messages[:1])
    events, rejected = decode(records, input_codec(pipeline, schema), how, 0)
    if rejected or not len(events):
        why = f"{rejected[0].reason}: {rejected[0].detail}" if rejected else "it is a time marker"
        raise StopWorker(Exit.USAGE, f"{topic} partition {partition} offset {offset} has no score: {why}")
    return records[0], int(events.event_us[0])


def _explanation(
    batch: Batch, scores: NDArray[np.float32], decisions: Decisions | None, row: int, judge: Judge
) -> Explanation:
    features, events, score = batch.features, batch.events, float(scores[row])
    lifecycle = 0 if decisions is None else int(decisions.lifecycle[row])
    level = 0 if decisions is None else int(decisions.level[row])
    # An alert as it would be, also of an event that raises none: its reasons, and what is personal hidden.
    lifecycles, levels = np.zeros(len(batch), np.uint8), np.ones(len(batch), np.uint8)
    lifecycles[row] = RAISED
    if not judge.stamp.severities:
        judge.stamp = replace(judge.stamp, severities=("none",), thresholds=(math.inf,))
    stamp = judge.stamp
    (alert,) = judge.alerts(batch, scores, Decisions(lifecycle=lifecycles, level=levels), np.array([row]), 0)
    age_ms = int(features.lookup_age_ms[row])
    return Explanation(
        event_id=alert["event_id"],
        partition=int(events.records.partition[row]),
        offset=int(events.records.offset[row]),
        event_us=event_us(alert),
        model=f"{stamp.model}/{batch.version}",
        score=None if math.isnan(score) else score,
        lifecycle=LIFECYCLES[lifecycle],
        severity=stamp.severities[level - 1] if level else "",
        reasons=alert["reasons"],
        features=alert["features"],
        incomplete=bool(features.incomplete[row]),
        late=bool(features.late[row]),
        degraded=bool(features.degradation[row]),
        lookup_age_ms=None if age_ms < 0 else age_ms,
        published=None,
    )


def as_text(found: Explanation) -> str:
    """The explanation for a terminal."""
    score = "none" if found.score is None else f"{found.score:.9g}"
    flags = [name for name in ("late", "incomplete", "degraded") if getattr(found, name)]
    lines = [
        f"event {found.event_id}, partition {found.partition} offset {found.offset}, at "
        f"{shown_time(found.event_us)}{''.join(f', {flag}' for flag in flags)}",
        f"score {score} by {found.model}",
        _published_line(found),
        f"alert: {found.severity} {found.lifecycle}" if found.severity else "alert: none",
        "",
        "reasons",
        *(f"  {reason['text']}" for reason in found.reasons),
        "",
        "features",
        *(f"  {name:<28} {value:.9g}" for name, value in found.features.items()),
    ]
    if found.lookup_age_ms:
        lines.append(f"lookups were {found.lookup_age_ms:,} ms behind the event")
    return "\n".join(lines)


def as_json(found: Explanation) -> str:
    """The explanation for machines."""
    said = {name: getattr(found, name) for name in Explanation.__dataclass_fields__}
    said["event_time"] = shown_time(said.pop("event_us"))
    return json.dumps({**said, "is_same": found.is_same}, default=str)


def _published_line(found: Explanation) -> str:
    if found.published is None:
        return "published: nothing"
    score = f"{np.float32(found.published['score']):.9g}"
    degraded = f", {found.published['degradation']}" if found.published["degraded"] else ""
    verdict = "the same" if found.is_same else "NOT the same"
    return f"published {score} at {found.published['scored_at']:%Y-%m-%dT%H:%M:%S}{degraded}: {verdict}"


def _place(pipeline: Pipeline, words: list[str]) -> tuple[int, int]:
    *topic, partition, offset = words if len(words) in (2, 3) else ["", "", "", ""]
    if len(words) not in (2, 3) or not (partition.isdecimal() and offset.isdecimal()):
        raise StopWorker(Exit.USAGE, f"found {' '.join(words)!r}, expected PARTITION OFFSET")
    if topic and topic[0] != pipeline.source.topic:
        raise StopWorker(
            Exit.USAGE,
            f"found topic {topic[0]!r}, expected {pipeline.source.topic!r}, which {pipeline.name} reads",
        )
    return int(partition), int(offset)
