"""Sends records that somebody else made, by an open-loop plan, and says what became of them."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from loadgen.arrivals import arrivals
from loadgen.collect import CollectError, Collector, Output, OutputKind
from loadgen.ledger import Ledger
from loadgen.outcomes import Outcomes
from loadgen.prepare import Plan, Prepared
from loadgen.produce import Outbox, SendError
from loadgen.report import report
from loadgen.send import Feed, send_all
from schemas.codec import Codec
from schemas.form import Format
from schemas.schema import Schema, load_schema, parse_schema

_CHUNK_ROWS = 20_000
_READ_WAIT_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to send where, and what to read back."""

    name: str  # of the pipeline
    bootstrap: str
    records: str  # Arrow file with the binary columns `key` and `value`
    topic: str
    first_number: int  # the id of the first record; those of the others follow it
    per_s: float | None = None  # None: as fast as possible, and nothing is read back
    seed: int = 0
    partitioner: str = "murmur2"
    scores: str | None = None  # topics
    alerts: str | None = None
    dead_letters: str | None = None
    schema: str = ""  # of the values, Avro as JSON
    format: Format = "avro"  # of the values; avro is framed as single objects, others not at all
    output_format: Format = "avro"
    id_field: str = ""  # with the number, as text or as an integer
    drain_s: float = 10.0  # for outcomes that are missing at the end
    properties: Mapping[str, Any] = field(default_factory=dict)  # further librdkafka settings


def main() -> int:
    """Read an order from standard input, carry it out, print the report; 1 when Kafka did not take part.

    A line `begun` goes before it when the first record is about to be sent, and a line `ended` when nothing
    is sent or waited for any more.
    """
    try:
        order = Order(**json.load(sys.stdin))
        print(json.dumps(measure(order, lambda said: print(said, flush=True))))
    except (SendError, CollectError, ValueError, OSError) as error:
        print(f"loadgen: {error}", file=sys.stderr)
        return 1
    return 0


def measure(order: Order, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Send every record when it is due; return what loadgen.report says of it.

    Args:
        order: what to do.
        say: called with `begun` and `ended`, see main.

    Raises:
        SendError, CollectError: records could not be written, or outcomes not be read.
    """
    with pa.memory_map(order.records) as file:
        table = pa.ipc.open_file(file).read_all()
    outcomes = Outcomes(Ledger(order.name))
    settings = {**order.properties, "partitioner": _PARTITIONERS[order.partitioner]}
    outbox = Outbox(order.bootstrap, properties=settings)
    feed = Feed(_prepared(table, order), outbox, outcomes.ledger)
    collector = None if order.per_s is None else _collector(order, outcomes)
    stop, errors = threading.Event(), list[BaseException]()

    def collect() -> None:
        assert collector is not None
        try:
            while not stop.is_set():
                collector.read(_READ_WAIT_S)
            collector.digest(final=True)
        except BaseException as error:  # raised again in the thread that asked
            errors.append(error)
        finally:
            collector.close()

    def pause(wait_s: float) -> bool:
        time.sleep(wait_s)
        return bool(errors)

    reading = threading.Thread(target=collect, name="measure-read")
    if collector is not None:
        reading.start()
    try:
        feed.prepare()
        say("begun")
        origin_s = outcomes.ledger.origin_s = time.monotonic()
        send_all(
            [feed],
            outbox,
            now_s=lambda: time.monotonic() - origin_s,
            wait=pause,
        )
        outbox.flush(60.0)
        deadline_s = time.monotonic() + order.drain_s
        while collector is not None and time.monotonic() < deadline_s and not errors:
            if outcomes.accounted >= outcomes.ledger.sent:
                break
            time.sleep(0.02)
        say("ended")
    finally:
        stop.set()
        if collector is not None:
            reading.join()
    if errors:
        raise errors[0]
    return report(outcomes)


_PARTITIONERS = {"murmur2": "murmur2_random", "crc32": "consistent_random"}


def _prepared(table: pa.Table, order: Order) -> Iterator[Prepared]:
    pace = None if order.per_s is None else arrivals("poisson", order.per_s, seed=order.seed)
    for start in range(0, table.num_rows, _CHUNK_ROWS):
        chunk = table.slice(start, _CHUNK_ROWS)
        n = chunk.num_rows
        due_s = np.zeros(n) if pace is None else pace.take(n)
        yield Prepared(
            topics=[order.topic] * n,
            keys=chunk.column("key").to_pylist(),
            values=chunk.column("value").to_pylist(),
            due_s=due_s,
            scored_before=np.arange(n + 1),
            marks=(),
            plan=Plan(
                first_number=order.first_number + start,
                due_s=due_s,
                truth=np.full(n, np.nan),
                mutation=np.zeros(n, np.int8),
            ),
            from_ms=0,
            until_ms=0,
        )


def _collector(order: Order, outcomes: Outcomes) -> Collector:
    def codec(schema: Schema, format: Format) -> Codec:
        return Codec(schema, "single_object" if format == "avro" else "raw", format=format)

    made: list[tuple[str | None, OutputKind, Codec, str]] = [
        (order.scores, "scores", codec(load_schema("score"), order.output_format), "event_id"),
        (order.alerts, "alerts", codec(load_schema("alert"), order.output_format), "event_id"),
        (order.dead_letters, "dead_letters", codec(parse_schema(order.schema), order.format), order.id_field),
    ]
    outputs = {
        topic: Output(kind=kind, outcomes=outcomes, codec=codec, id_field=id_field)
        for topic, kind, codec, id_field in made
        if topic is not None
    }
    return Collector(order.bootstrap, outputs, properties=order.properties, fetch_wait_ms=20)


if __name__ == "__main__":
    sys.exit(main())
