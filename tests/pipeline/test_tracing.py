"""The trace of a record goes through a worker: linked by the span of its batch, taken on by its outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client import CollectorRegistry

from benchmarks.workers import create_topics, topics_of
from schemas.codec import Codec
from schemas.schema import load_schema
from tests.pipeline.streams import PARTITIONS, alone, transactions
from tests.services.otlp_receiver import Received, attributes, otlp_receiver
from worker.assemble import assemble, store_opener
from worker.config import load_pipeline
from worker.run import Worker
from worker.trace_context import parse

EVENTS = 600
WITHIN_S = 90.0
OUTPUTS = ("scores", "alerts", "dead-letters")
STAGES = {"decode", "features", "infer", "decide", "encode", "send", "commit"}
Place = tuple[int, int]


def traceparent(number: int, flags: str = "01") -> bytes:
    return f"00-{number + 1_000_000:032x}-{number + 1:016x}-{flags}".encode()


def produce(kafka: str, topic: str) -> dict[Place, int]:
    """Events, every third with a sampled trace, every fifth of the others with one that is not.

    Returns:
        By place, the number of each sampled one.
    """
    keys, values = transactions(EVENTS, seed=91)
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random"})
    numbers: dict[Place, int] = {}

    def note(number: int) -> Any:
        def noted(error: Any, message: Any) -> None:
            assert error is None
            numbers[message.partition(), message.offset()] = number

        return noted

    for number, (key, value) in enumerate(zip(keys, values, strict=True)):
        headers: list[tuple[str, bytes]] = [("mine", b"1")]
        is_sampled = number % 3 == 0
        if is_sampled or number % 5 == 0:
            headers.append(("traceparent", traceparent(number, "01" if is_sampled else "00")))
            headers.append(("tracestate", b"vendor=%d" % number))
        broken = value if number % 50 else b"\x01not an event"
        producer.produce(topic, broken, key, headers=headers, on_delivery=note(number))
    assert producer.flush(30) == 0
    return {place: number for place, number in numbers.items() if number % 3 == 0}


@contextmanager
def working(file: Path, env: dict[str, str], registry: CollectorRegistry) -> Iterator[None]:
    """A worker that runs as long as the block lasts, and then has to stop in time."""
    worker = Worker(assemble(load_pipeline(file, env), store_opener(), registry))
    stop = threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(WITHIN_S)
    assert not thread.is_alive()


def outcomes(kafka: str, prefix: str) -> dict[str, list[Any]]:
    """The messages of each output, once every event has a score or is a dead letter."""
    found: dict[str, list[Any]] = {kind: [] for kind in OUTPUTS}
    topics = {f"{prefix}fraud.{kind}": kind for kind in OUTPUTS}
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": f"{prefix}outcomes", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, p, 0) for topic in topics for p in range(PARTITIONS)])
    deadline_s, is_more = time.monotonic() + WITHIN_S, True
    with closing(consumer):
        while is_more or len(found["scores"]) + len(found["dead-letters"]) < EVENTS:
            assert time.monotonic() < deadline_s, {kind: len(messages) for kind, messages in found.items()}
            messages = [m for m in consumer.consume(1000, 0.5) if m.error() is None]
            is_more = bool(messages)
            for message in messages:
                found[topics[message.topic()]].append(message)
    return found


def places(kind: str, messages: list[Any]) -> list[Place]:
    """Where the record stood that each of these is of."""
    if kind == "dead-letters":
        said = [dict(message.headers()) for message in messages]
        return [(int(h["penstock.source.partition"]), int(h["penstock.source.offset"])) for h in said]
    table = Codec(load_schema(kind[:-1]), "single_object").decode([m.value() for m in messages]).table
    return list(zip(*(table.column(f"source_{x}").to_pylist() for x in ("partition", "offset")), strict=True))


@pytest.mark.kafka
def test_a_trace_goes_from_the_records_header_over_links_and_stages_into_the_outputs_headers(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": "memory://", "PENSTOCK_DEVICE": "cpu"}
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    sampled = produce(kafka_bootstrap, f"{topic_prefix}transactions")
    registry = CollectorRegistry()
    with otlp_receiver() as received:
        tracing = {"endpoint": received.address, "sample_ratio": 0.0}
        file = alone(tmp_path, topic_prefix, tracing=tracing, batching={"max_rows": 100})
        with working(file, env, registry):
            found = outcomes(kafka_bootstrap, topic_prefix)
    batches = {span.span_id: span for span in received.named("penstock.batch")}

    _headers_are_right(found, sampled, set(batches))
    linked = [int.from_bytes(link.span_id) - 1 for span in batches.values() for link in span.links]
    assert sorted(linked) == sorted(sampled.values())
    _spans_are_right(received, batches, topic_prefix)
    exported = registry.get_sample_value(
        "penstock_trace_spans_total", {"pipeline": "fraud", "result": "exported"}
    )
    assert exported == len(received.spans)


def _headers_are_right(found: dict[str, list[Any]], sampled: dict[Place, int], batches: set[bytes]) -> None:
    for kind, messages in found.items():
        assert messages, kind
        for place, message in zip(places(kind, messages), messages, strict=True):
            headers = dict(message.headers() or ())
            number = sampled.get(place)
            if number is None and kind == "dead-letters":  # whose headers are those of the record
                assert headers.get("traceparent", b"-00").endswith(b"-00")
                continue
            if number is None:
                assert headers == {}
                continue
            parent = parse(headers["traceparent"])
            assert parent is not None
            assert parent.trace_id == number + 1_000_000
            assert parent.span_id.to_bytes(8) in batches
            assert headers["tracestate"] == b"vendor=%d" % number
    assert all(dict(m.headers()).get("mine") == b"1" for m in found["dead-letters"])


def _spans_are_right(received: Received, batches: dict[bytes, Any], prefix: str) -> None:
    children: dict[bytes, set[str]] = {span_id: set() for span_id in batches}
    for span in received.spans:
        if span.span_id in batches:
            continue
        whole = batches[span.parent_span_id]
        assert span.trace_id == whole.trace_id
        assert whole.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= whole.end_time_unix_nano
        assert not span.attributes  # what a stage is called says all of it
        children[whole.span_id].add(span.name.removeprefix("penstock."))
    assert set.union(*children.values()) >= STAGES
    assert all("commit" in stages for stages in children.values())
    events = 0
    for whole in batches.values():
        said = attributes(whole)
        events += said["messaging.batch.message_count"] + said["penstock.dead_letters"]
        assert said["penstock.batch.reason"] in {"rows", "bytes", "wait", "idle", "stop"}
        assert said["messaging.destination.name"] == f"{prefix}transactions"
        assert said["penstock.model.version"] == "2"
        # Nothing else: no keys, no values.
        assert said.keys() <= {
            "penstock.pipeline",
            "penstock.batch.reason",
            "penstock.partitions",
            "penstock.model.version",
            "penstock.dead_letters",
            "penstock.links_left_out",
            "messaging.system",
            "messaging.operation.type",
            "messaging.destination.name",
            "messaging.consumer.group.name",
            "messaging.batch.message_count",
        }
    assert events <= EVENTS


@pytest.mark.kafka
def test_a_collector_that_hangs_neither_slows_nor_stops_a_worker(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")  # two batches
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": "memory://", "PENSTOCK_DEVICE": "cpu"}
    create_topics(kafka_bootstrap, topics_of(topic_prefix, PARTITIONS))
    sampled = produce(kafka_bootstrap, f"{topic_prefix}transactions")
    registry, never = CollectorRegistry(), threading.Event()
    with otlp_receiver(hangs=never) as received:
        tracing = {"endpoint": received.address}
        file = alone(tmp_path, topic_prefix, tracing=tracing, batching={"max_rows": 20})
        with working(file, env, registry):
            found = outcomes(kafka_bootstrap, topic_prefix)
        taken = len(received.spans)

    all_places = [place for kind in ("scores", "dead-letters") for place in places(kind, found[kind])]
    assert len(all_places) == len(set(all_places)) == EVENTS
    assert sampled.keys() <= set(all_places)
    assert taken == 0
    dropped = registry.get_sample_value(
        "penstock_trace_spans_total", {"pipeline": "fraud", "result": "dropped"}
    )
    assert dropped
