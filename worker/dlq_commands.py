"""The `penstock dlq` commands: list, show, replay."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import KafkaException, TopicPartition

from worker.config import Pipeline, load_pipeline
from worker.dlq import DeadLetter, bounds, letters, open_letters
from worker.dlq_memory import memories
from worker.dlq_replay import Choice, Tally, replay
from worker.dlq_show import as_json, describe, table, whole_json
from worker.exits import Exit, StopWorker
from worker.key_types import parse_duration_us
from worker.logs import configure_logs
from worker.progress import progress_bar
from worker.secret import redact

_ANSWER_S = 10.0
EXAMPLES = """examples:
  penstock dlq list pipelines/fraud.yaml --since 2h
  penstock dlq list pipelines/fraud.yaml --reason key_mismatch --json | jq .source_offset
  penstock dlq show pipelines/fraud.yaml 0 17                   partition and offset of the dead-letter topic
  penstock dlq show pipelines/fraud.yaml --source transactions-2-4711
  penstock dlq replay pipelines/fraud.yaml --all --dry-run      what would be sent in again
  penstock dlq replay pipelines/fraud.yaml --reason unknown_schema
  penstock dlq replay pipelines/fraud.yaml --offset 0-17 --offset 0-18

A replay sends bytes, key and headers as they came to the input topic, each dead letter once: what was sent
in is remembered as offsets of the group GROUP-dlq, in the same transaction."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `penstock dlq` its commands."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    plain = argparse.RawDescriptionHelpFormatter

    listed = commands.add_parser(
        "list", help="The dead letters, the newest last.", epilog=EXAMPLES, formatter_class=plain
    )
    listed.add_argument("file", type=Path, metavar="FILE", help="pipeline file")
    listed.add_argument("--reason", action="append", default=[], help="only of this reason; may be repeated")
    listed.add_argument("--since", type=since_ms, metavar="TIME", help="2h, 7d, or 2026-01-31T12:00 (UTC)")
    listed.add_argument("--limit", type=_positive, default=100, help="the newest so many (100)")
    listed.add_argument("--json", action="store_true", help="for machines: one JSON object a line")
    listed.set_defaults(command=_guarded(_list))

    shown = commands.add_parser(
        "show", help="All about one dead letter.", epilog=EXAMPLES, formatter_class=plain
    )
    shown.add_argument("file", type=Path, metavar="FILE", help="pipeline file")
    shown.add_argument("place", type=int, nargs="*", metavar="N", help="its partition and offset")
    shown.add_argument(
        "--source", type=_source, metavar="T-P-O", help="topic, partition, offset it came from"
    )
    shown.add_argument("--json", action="store_true", help="for machines: one JSON object a line")
    shown.set_defaults(command=_guarded(_show))

    again = commands.add_parser(
        "replay", help="Send dead letters in again.", epilog=EXAMPLES, formatter_class=plain
    )
    again.add_argument("file", type=Path, metavar="FILE", help="pipeline file")
    which = again.add_mutually_exclusive_group(required=True)
    which.add_argument("--reason", action="append", default=[], help="all of this reason; may be repeated")
    which.add_argument("--offset", action="append", default=[], type=_place, metavar="P-O", help="this one")
    which.add_argument(
        "--source", action="append", default=[], type=_source, metavar="T-P-O", help="its letter"
    )
    which.add_argument(
        "--all", action="store_true", help="all but those of stage score, which changed the state"
    )
    again.add_argument("--dry-run", action="store_true", help="send nothing, say what would be sent")
    again.add_argument(
        "--max-attempts", type=_positive, default=5, help="leave those dead so often already (5)"
    )
    again.add_argument(
        "--again", action="store_true", help="also what was sent in before: it will count twice"
    )
    again.add_argument("--json", action="store_true", help="for machines")
    again.set_defaults(command=_guarded(_replay))


def _guarded(command: Callable[[Pipeline, argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The command on a loaded file; an error of Kafka is one line."""

    def run(arguments: argparse.Namespace) -> int:
        pipeline = load_pipeline(arguments.file)
        configure_logs(pipeline.secrets, (), is_terminal=sys.stderr.isatty())
        try:
            return command(pipeline, arguments)
        except StopWorker as error:
            print(redact(str(error), pipeline.secrets), file=sys.stderr)
            return error.code
        except KafkaException as error:
            print(redact(f"Kafka: {error.args[0].str()}", pipeline.secrets), file=sys.stderr)
            return Exit.KAFKA

    return run


def _list(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    found: deque[DeadLetter] = deque(maxlen=arguments.limit)
    total: Counter[str] = Counter()
    consumer = open_letters(pipeline)
    try:
        topic = pipeline.outputs.dead_letters
        ends = bounds(consumer, topic)
        memory = memories(consumer, topic, ends)
        ranges = dict(ends)
        if arguments.since is not None:
            asked = [TopicPartition(topic, p, arguments.since) for p in ends]
            found_at = consumer.offsets_for_times(asked, timeout=_ANSWER_S)
            ranges = {tp.partition: (tp.offset, ends[tp.partition][1]) for tp in found_at}
        for letter in letters(consumer, pipeline, ranges):
            if not arguments.reason or letter.reason in arguments.reason:
                found.append(letter)
                total[letter.reason] += 1
    finally:
        consumer.close()
    rows = [(x, memory[x.partition].has(x)) for x in sorted(found, key=lambda x: (x.dead_at_ms, x.offset))]
    if arguments.json:
        for letter, replayed in rows:
            print(as_json(letter, replayed))
        return Exit.OK
    if rows:
        print(table(rows, shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000))
    shown = f" (the newest {len(rows):,} are shown)" if len(rows) < total.total() else ""
    print(f"{total.total():,} dead letters{shown}{_by_reason(total)}", file=sys.stderr)
    return Exit.OK


def _show(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    place = tuple(arguments.place)
    if (len(place) != 2) == (arguments.source is None):
        print(
            "penstock dlq show: name one: PARTITION OFFSET, or --source TOPIC-PARTITION-OFFSET",
            file=sys.stderr,
        )
        return Exit.USAGE
    consumer = open_letters(pipeline)
    try:
        topic = pipeline.outputs.dead_letters
        ends = bounds(consumer, topic)
        memory = memories(consumer, topic, ends)
        ranges = dict(ends)
        if place:
            low, high = ends.get(place[0], (0, 0))
            ranges = {place[0]: (place[1], high)} if low <= place[1] < high else {}
        found = 0
        for letter in letters(consumer, pipeline, ranges):
            if (letter.partition, letter.offset) == place or letter.source == arguments.source:
                replayed = memory[letter.partition].has(letter)
                say = whole_json if arguments.json else describe
                print(say(letter, pipeline, replayed), end="\n" if arguments.json else "\n\n")
                found += 1
            if place:
                break
    finally:
        consumer.close()
    if not found:
        print(f"{topic}: no such dead letter of pipeline {pipeline.name}", file=sys.stderr)
    return Exit.OK if found else Exit.USAGE


def _replay(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    choice = Choice(
        reasons=frozenset(arguments.reason),
        places=frozenset(arguments.offset),
        sources=frozenset(arguments.source),
        max_attempts=arguments.max_attempts,
        again=arguments.again,
    )
    with progress_bar("reading", "records") as advance:
        tally = replay(pipeline, choice, dry_run=arguments.dry_run, on_records=advance)
    if arguments.json:
        print(json.dumps({"topic": pipeline.source.topic, "dry_run": arguments.dry_run, **asdict(tally)}))
    else:
        print(summary(tally, pipeline.source.topic, dry_run=arguments.dry_run))
    return Exit.OK


def summary(tally: Tally, topic: str, *, dry_run: bool) -> str:
    """What a replay came to, in a few lines."""
    said = "would send" if dry_run else "sent"
    lines = [f"{said} {tally.sent.total():,} to {topic}{_by_reason(tally.sent)}"]
    if tally.already:
        lines.append(f"left {tally.already:,} that were sent in before")
    if tally.given_up:
        lines.append(f"left {tally.given_up:,} that were tried too often (--max-attempts)")
    if tally.left:
        lines.append(f"left {tally.left.total():,} that were not chosen{_by_reason(tally.left)}")
    return "\n".join(lines)


def _by_reason(counts: Counter[str]) -> str:
    said = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
    return f": {said}" if said else ""


def since_ms(text: str) -> int:
    """A time as milliseconds since 1970: so long ago, or a date and time, in UTC unless it says otherwise."""
    try:
        return int(time.time() * 1000) - parse_duration_us(text) // 1000
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected 2h, 7d or 2026-01-31T12:00") from error
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return int(text)


def _place(text: str) -> tuple[int, int]:
    partition, _, offset = text.partition("-")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected PARTITION-OFFSET, such as 0-17")
    return int(partition), int(offset)


def _source(text: str) -> tuple[str, int, int]:
    topic, _, place = text.rpartition("-")
    topic, _, partition = topic.rpartition("-")
    if not topic or not (partition.isdecimal() and place.isdecimal()):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected TOPIC-PARTITION-OFFSET")
    return topic, int(partition), int(place)
