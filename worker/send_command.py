"""`penstock send`: events from the command line or stdin to the input topic, as the worker expects them."""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Producer

from schemas.codec import Codec
from schemas.schema import Schema, load_schema
from worker.codecs import input_codec, message_of
from worker.config import Pipeline
from worker.event_text import EventError, assigned, example, now_for, row_of
from worker.exits import Exit, StopWorker
from worker.producer_settings import producer_config
from worker.progress import progress_bar
from worker.replay_arguments import guarded
from worker.rights import unauthorized
from worker.topics_reader import require_topics

EXAMPLES = """examples:
  penstock send examples/logins/logins.yaml --example
  penstock send examples/logins/logins.yaml account=a-0 failed=true new_device=true distance_km=7800
  penstock send examples/logins/logins.yaml < events.jsonl
  jq -c '.[]' events.json | penstock send examples/logins/logins.yaml --json

Without fields every line of stdin is one event, a JSON object. Of an id and a time that are left out it makes
a new id, and now. Times may be ISO 8601. Nothing is sent of a line that is wrong; the lines before it are."""
_FLUSH_S: Final = 30.0
_AT_ONCE: Final = 1000  # lines encoded together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `penstock send` its arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="pipeline file")
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="one event; default: those of stdin")
    parser.add_argument("--example", action="store_true", help="print an event to start from; send nothing")
    parser.add_argument(
        "--keep-going", action="store_true", help="tell of lines that are wrong, send the rest"
    )
    parser.add_argument("--dry-run", action="store_true", help="check and encode, send nothing")
    parser.add_argument(
        "--json", action="store_true", help="a line of JSON for each event sent: where it lies"
    )
    parser.set_defaults(command=guarded(_send))


def _send(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    schema = load_schema(pipeline.source.schema_ref, pipeline.base)
    if arguments.example:
        print(json.dumps(example(schema.tree), ensure_ascii=False))
        return Exit.OK
    if not arguments.fields and sys.stdin.isatty():
        print(
            f"reading events from the terminal, one JSON object a line; Ctrl-D ends. Such as\n"
            f"{json.dumps(example(schema.tree), ensure_ascii=False)}",
            file=sys.stderr,
        )
    sender = Sender(pipeline, schema, dry_run=arguments.dry_run, tells=arguments.json)
    wrong = 0
    is_typed = bool(arguments.fields) or sys.stdin.isatty()
    show = nullcontext(_no_bar) if is_typed else progress_bar("sending", "events")
    with closing(sender), show as advance:
        for where, said in _events(schema, arguments.fields):
            try:
                sender.send(said if isinstance(said, Mapping) else _parsed(said))
                advance(1, None)
            except EventError as error:
                wrong += 1
                print(f"penstock send: {where}{error}", file=sys.stderr)
                if not arguments.keep_going:
                    break
    if not arguments.json and (sender.sent or not wrong):
        print(sender.summary())
    return Exit.CONFIG if wrong else Exit.OK


def _no_bar(_done: int, _total: int | None) -> None:
    """What is typed needs none."""


def _events(schema: Schema, fields: list[str]) -> Iterator[tuple[str, Any]]:
    if fields:
        try:
            yield "", assigned(schema.tree, fields)
        except EventError as error:
            raise StopWorker(Exit.USAGE, f"penstock send: {error}") from error
        return
    for number, line in enumerate(sys.stdin, 1):
        if line.strip():
            yield f"stdin:{number}: ", line


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise EventError(f"found no JSON ({error}), expected one object a line") from error


class Sender:
    """Encodes events and produces them under the key and to the partition that the pipeline expects."""

    def __init__(
        self, pipeline: Pipeline, schema: Schema, *, dry_run: bool = False, tells: bool = False
    ) -> None:
        """Connect.

        Args:
            pipeline: whose input.
            schema: of its events.
            dry_run: reach for nothing and send nothing.
            tells: print a line of JSON for each event that is acknowledged.

        Raises:
            StopWorker: the topic does not exist, or Kafka does not answer.
            RegistryError: the registry did not take the schema.
        """
        source = pipeline.source
        self._topic, self._source = source.topic, source
        self._tells, self._dry_run = tells, dry_run
        self.sent, self._failed, self._last = 0, "", ""
        self._codec = input_writer(pipeline, schema, registers=not dry_run)
        self._record = self._codec.reader.tree
        self._nodes = {field.name: field.node for field in self._record.fields}
        self._producer = None
        if not dry_run:
            partitioner = "murmur2_random" if source.partitioner == "murmur2" else "consistent_random"
            config = producer_config(
                pipeline.kafka.client_properties(), worker_id=None, transaction_timeout_ms=0
            )
            self._producer = Producer({"log_level": 0, **config, "partitioner": partitioner})
            require_topics(self._producer, pipeline, [source.topic])

    def send(self, said: Any) -> None:
        """Send one event, given as a JSON object.

        Raises:
            EventError: it is none of the schema; nothing was sent.
        """
        event = dict(said) if isinstance(said, Mapping) else said
        if isinstance(event, dict):
            self._complete(event)
        row = row_of(self._record, event)
        try:
            (value,) = self._codec.encode_rows([row])
        except ValueError as error:
            raise EventError(" ".join(str(error).split())) from error
        key = str(row[self._source.key]).encode()
        if self._producer is None:
            self.sent += 1
            return
        while True:
            try:
                self._producer.produce(self._topic, value, key, on_delivery=self._noted)
                break
            except BufferError:  # the queue is full: brokers are slower than stdin
                self._producer.poll(0.1)
        self._producer.poll(0)

    def _complete(self, event: dict[str, Any]) -> None:
        """A new id, where it is a text, and the present, where the event says nothing."""
        source = self._source
        if source.event_id not in event and self._nodes[source.event_id].kind == "string":
            event[source.event_id] = uuid.uuid4().hex
        if source.event_time not in event:
            event[source.event_time] = now_for(self._nodes[source.event_time], time.time_ns() // 1000)

    def _noted(self, error: Any, message: Any) -> None:
        if error is not None:
            missing = unauthorized(error, topic=self._topic)
            self._failed = missing or error.str()
            return
        self.sent += 1
        self._last = f"partition {message.partition()} offset {message.offset()}"
        if self._tells:
            said = {
                "topic": message.topic(),
                "partition": message.partition(),
                "offset": message.offset(),
                "key": message.key().decode(errors="replace"),
            }
            print(json.dumps(said, ensure_ascii=False))

    def summary(self) -> str:
        """What was sent, in a line."""
        if self._dry_run:
            return f"{self.sent:,} events are fit for {self._topic}; nothing was sent"
        if self.sent == 1:
            return f"sent to {self._topic} {self._last}"
        return f"sent {self.sent:,} events to {self._topic}"

    def close(self) -> None:
        """Wait until everything is acknowledged.

        Raises:
            StopWorker: something was not.
        """
        if self._producer is None:
            return
        left = self._producer.flush(_FLUSH_S)
        if left or self._failed:
            why = self._failed or f"no broker took them within {_FLUSH_S:g} s"
            raise StopWorker(Exit.KAFKA, f"{self._topic}: sent {self.sent:,}, the rest was not taken: {why}")


def input_writer(pipeline: Pipeline, schema: Schema, *, registers: bool) -> Codec:
    """How events become records of the input topic: as the reader's schema, or as the one that `raw` names.

    Args:
        registers: with a schema registry, tell it the schema; without, the codec encodes as if it knew.
    """
    source = pipeline.source
    if source.wire == "raw" and source.writer_schemas:  # such records name no schema: all are of this one
        return Codec(load_schema(source.writer_schemas[0], pipeline.base), "raw")
    if source.wire == "confluent" and not registers:
        message = message_of(schema, source.protobuf) if source.protobuf else None
        return Codec(schema, "raw", format=source.format, message=message)
    return input_codec(pipeline, schema, writes=registers)
