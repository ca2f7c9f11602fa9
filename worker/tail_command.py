"""`penstock tail`: what a pipeline publishes, decoded, as it comes."""

from __future__ import annotations

import argparse
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from worker.codecs import output_codec
from worker.config import Pipeline
from worker.dlq import dead_letter
from worker.dlq_commands import since_ms
from worker.dlq_show import fields_of
from worker.exits import Exit, StopWorker
from worker.replay_arguments import guarded, positive
from worker.replay_log import reader_config
from worker.tail_lines import (
    HEADS,
    alert_line,
    letter_json,
    letter_line,
    row_json,
    score_line,
    watch_line,
)
from worker.terminal import Paint, painter
from worker.topics_reader import require_topics

EXAMPLES = """examples:
  penstock tail alerts pipelines/fraud.yaml                      from now on, until Ctrl-C
  penstock tail scores pipelines/fraud.yaml --from 10m --key C7  of one key, the last ten minutes first
  penstock tail alerts pipelines/fraud.yaml --from beginning --json | jq .reasons
  penstock tail dlq pipelines/fraud.yaml --count 1               wait for the next dead letter
"""
SCHEMAS: Final = {"scores": "score", "shadow": "score", "alerts": "alert", "watch": "watch_alert"}
KINDS: Final = ("scores", "alerts", "dlq", "shadow", "watch")
_ANSWER_S = 10.0
_AT_ONCE = 500
_MENDED = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE}
_NEW = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError._UNKNOWN_PARTITION,
}
Lines = Callable[[list[Any]], Iterator[str]]  # messages to lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `penstock tail` its arguments."""
    parser.add_argument("kind", choices=KINDS, help="which of the pipeline's topics")
    parser.add_argument("file", type=Path, metavar="FILE", help="pipeline file")
    parser.add_argument("--key", help="only records of this key")
    parser.add_argument(
        "--from", dest="since", type=_since, default="end", metavar="WHEN",
        help="end (default), beginning, 10m, 7d, or 2026-01-31T12:00 (UTC)",
    )  # fmt: skip
    parser.add_argument("--count", type=positive, metavar="N", help="end after so many")
    parser.add_argument("--json", action="store_true", help="for machines: one JSON object a line")
    parser.set_defaults(command=guarded(_tail))


def _since(text: str) -> str | int:
    return text if text in ("end", "beginning") else since_ms(text)


def _tail(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    topic = topic_of(pipeline, arguments.kind)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    lines = lines_of(pipeline, arguments.kind, painter(sys.stdout), columns, as_json=arguments.json)
    left = arguments.count
    with closing(Consumer({**reader_config(pipeline), "enable.partition.eof": False})) as consumer:
        starts = _starts(consumer, pipeline, topic, arguments.since)
        consumer.assign(starts)
        if sys.stdout.isatty() and not arguments.json:
            paint = painter(sys.stderr)
            print(paint(f"{topic}, {len(starts)} partitions; Ctrl-C ends", "dim"), file=sys.stderr)
            print(paint(HEADS[_like(arguments.kind)], "dim"), file=sys.stderr)
        for messages in _messages(consumer):
            wanted = [m for m in messages if arguments.key is None or m.key() == arguments.key.encode()]
            for line in lines(wanted[:left]):
                print(line)
                left = None if left is None else left - 1
            sys.stdout.flush()
            if left == 0:
                return Exit.OK
    return Exit.OK


def topic_of(pipeline: Pipeline, kind: str) -> str:
    """The topic of a kind of output.

    Raises:
        StopWorker: the file names none.
    """
    outputs, rollout = pipeline.outputs, pipeline.rollout
    topics = {
        "scores": outputs.scores,
        "alerts": outputs.alerts,
        "dlq": outputs.dead_letters,
        "watch": outputs.watch,
        "shadow": rollout.shadow if rollout is not None else None,
    }
    topic = topics[kind]
    if topic is None:
        key = "rollout.shadow" if kind == "shadow" else f"outputs.{kind}"
        raise StopWorker(Exit.CONFIG, f"{pipeline.path}: {key}: found nothing, expected the topic to show")
    return topic


def lines_of(pipeline: Pipeline, kind: str, paint: Paint, columns: int, *, as_json: bool) -> Lines:
    """How records of a kind become lines; one that cannot be decoded is told of on stderr."""
    if kind == "dlq":
        return lambda messages: _letters(messages, pipeline, paint, columns, as_json=as_json)
    codec = output_codec(pipeline, SCHEMAS[kind])
    decision = pipeline.decision

    def shown(row: Any) -> str:
        if as_json:
            return row_json(row)
        if kind == "alerts":
            return alert_line(row, decision, paint, columns)
        return watch_line(row, paint, columns) if kind == "watch" else score_line(row, decision, paint)

    def lines(messages: list[Any]) -> Iterator[str]:
        decoded = codec.decode([message.value() for message in messages])
        for reject in decoded.rejects:
            message = messages[reject.row]
            place = f"{message.topic()} partition {message.partition()} offset {message.offset()}"
            print(f"{place} cannot be decoded: {reject.reason}: {reject.detail}", file=sys.stderr)
        yield from map(shown, decoded.table.to_pylist())

    return lines


def _letters(
    messages: list[Any], pipeline: Pipeline, paint: Paint, columns: int, *, as_json: bool
) -> Iterator[str]:
    for message in messages:
        letter = dead_letter(message)
        if letter is None:
            continue  # somebody else's record
        if as_json:
            yield letter_json(letter, fields_of(letter, pipeline))
        else:
            yield letter_line(letter, paint, columns)


def _starts(consumer: Any, pipeline: Pipeline, topic: str, since: str | int) -> list[TopicPartition]:
    count = require_topics(consumer, pipeline, [topic])[topic]
    if isinstance(since, int):
        asked = [TopicPartition(topic, partition, since) for partition in range(count)]
        return list(_patiently(lambda: consumer.offsets_for_times(asked, timeout=_ANSWER_S)))
    starts = []
    for partition in range(count):
        # Fixed now: an end that is looked up later would leave out what is sent meanwhile.
        place = TopicPartition(topic, partition)
        low, high = _patiently(lambda at=place: consumer.get_watermark_offsets(at, timeout=_ANSWER_S))
        starts.append(TopicPartition(topic, partition, low if since == "beginning" else high))
    return starts


def _patiently(ask: Callable[..., Any]) -> Any:
    """The answer; asked again for a while where a topic is so new that not every broker knows its leader."""
    give_up_s = time.monotonic() + _ANSWER_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _NEW or time.monotonic() > give_up_s:
                raise
            time.sleep(0.1)


def _messages(consumer: Any) -> Iterator[list[Any]]:
    """What has come, the oldest first, for as long as somebody reads our lines."""
    told = ""
    while not _reader_has_gone():
        found = consumer.consume(1, 0.2)
        found += consumer.consume(_AT_ONCE - 1, 0.0) if found else []
        messages = [message for message in found if message.error() is None]
        for error in (message.error() for message in found if message.error() is not None):
            if error.fatal() or not (error.retriable() or error.code() in _MENDED):
                raise KafkaException(error)
            if error.str() != told:
                told = error.str()
                print(f"Kafka is in trouble, going on: {told}", file=sys.stderr)
        if messages:
            yield sorted(messages, key=lambda message: (message.timestamp()[1], message.partition()))


def _reader_has_gone() -> bool:
    """Whether the other end of the pipe that we write to is closed, which a write would tell too late."""
    try:
        if os.isatty(sys.stdout.fileno()):
            return False
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # no real file, as in tests
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _like(kind: str) -> str:
    return "scores" if kind == "shadow" else kind
