"""Says what a pipeline would do: what it reads, what feeds the model, what goes to which topic."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from schemas.schema import load_schema
from worker.composite_card import CompositeCard, in_words, read_cards
from worker.config import (
    LookupFeature,
    ModelRef,
    Pipeline,
    ProfileFeature,
    SequenceFeature,
    WindowFeature,
)
from worker.feeds import Feed, check_interval, feature_words, model_feeds
from worker.key_types import write_duration, write_size
from worker.model_file import ModelCard, check_sha256, show_shape
from worker.rules import names_in
from worker.secret import shown

PIPELINE: TypeAdapter[Pipeline] = TypeAdapter(Pipeline)
TREES = b"TreeEnsemble"
_MEANING = {
    "probability": "a probability",
    "remaining_life": "a remaining life",
    "anomaly_score": "an anomaly score",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic the pipeline touches."""

    name: str
    use: str  # source, scores, alerts, dead_letters
    holds: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a pipeline would do, as data; `describe` writes it as text, `as_json` as JSON."""

    pipeline: Pipeline
    event: str  # name of the event's record
    composite: CompositeCard | None  # of a version that is made of others
    cards: tuple[ModelCard, ...]  # of the model, or of all that it is made of
    feeds: tuple[tuple[Feed, ...], ...]  # of each card
    features: Mapping[str, str]  # every scalar column the pipeline computes, in words
    topics: tuple[Topic, ...]
    bad_records: tuple[str, ...]
    notes: tuple[str, ...]


def plan(pipeline: Pipeline, env: Mapping[str, str] = os.environ) -> Plan:
    """Work out what a loaded pipeline would do, without reaching for any service.

    Raises:
        ConfigError: the model version is broken, or an input of it has no feature to feed it.
    """
    composite, cards = (None, ()) if pipeline.model is None else read_cards(pipeline.model.fetched())
    for card in cards:
        check_sha256(card)
    if cards:
        check_interval(pipeline, composite or cards[0])
    feeds = tuple(model_feeds(pipeline, card, env) for card in cards)
    features = feature_words(pipeline, env)
    return Plan(
        pipeline=pipeline,
        event=load_schema(pipeline.source.schema_ref, pipeline.base).name,
        composite=composite,
        cards=cards,
        feeds=feeds,
        features=features,
        topics=tuple(_topics(pipeline)),
        bad_records=tuple(_bad_records(pipeline)),
        notes=tuple(_notes(pipeline, cards, feeds, features)),
    )


def describe(pipeline: Pipeline, env: Mapping[str, str] = os.environ) -> str:
    """Return what the pipeline would do, as text for a terminal; secrets are masked.

    Raises:
        ConfigError: as `plan`.
    """
    planned = plan(pipeline, env)
    blocks = [_head(planned), _reads(planned), _keeps(planned), _scores(planned)]
    blocks += [_decides(planned), _writes(planned), _runs(planned)]
    blocks += [_list("bad records", planned.bad_records), _list("notes", planned.notes)]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def as_json(pipeline: Pipeline, env: Mapping[str, str] = os.environ) -> str:
    """Return the same as a JSON object; `settings` holds every key with its value, secrets masked.

    Raises:
        ConfigError: as `plan`.
    """
    planned = plan(pipeline, env)
    models = [_model_json(*each) for each in zip(planned.cards, planned.feeds, strict=True)]
    model: dict[str, Any] | None = models[0] if models else None
    if planned.composite is not None:
        made = planned.composite
        model = {"name": made.name, "version": made.version, "combine": made.combine, "members": models}
    document = {
        "name": pipeline.name,
        "file": str(pipeline.path),
        "event": planned.event,
        "model": model,
        "features": dict(planned.features),
        "topics": [asdict(topic) for topic in planned.topics],
        "bad_records": list(planned.bad_records),
        "notes": list(planned.notes),
        "settings": settings(pipeline),
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def settings(pipeline: Pipeline) -> dict[str, Any]:
    """Return every key of the pipeline file with its effective value, as the file would write it."""
    written: dict[str, Any] = PIPELINE.dump_python(pipeline, mode="json", by_alias=True)
    return written


def _model_json(card: ModelCard, feeds: tuple[Feed, ...]) -> dict[str, Any]:
    inputs = [
        {
            "tensor": model_input.tensor,
            "dtype": model_input.dtype,
            "shape": list(model_input.shape),
            "fed_by": [asdict(feed) for feed in feeds if feed.tensor == model_input.tensor],
        }
        for model_input in card.inputs
    ]
    return {
        "name": card.name,
        "version": card.version,
        "description": card.description,
        "file": str(card.onnx_file),
        "inputs": inputs,
        "output": {
            "tensor": card.output.tensor,
            "column": card.output.column,
            "meaning": card.output.meaning,
        },
    }


def _topics(pipeline: Pipeline) -> Iterator[Topic]:
    outputs = pipeline.outputs
    yield Topic(name=pipeline.source.topic, use="source", holds="events to read")
    if pipeline.model is not None and outputs.scores is not None:
        yield Topic(name=outputs.scores, use="scores", holds="one score for every good event")
    if pipeline.decision is not None and outputs.alerts is not None:
        names = ", ".join(pipeline.decision.severities)
        yield Topic(name=outputs.alerts, use="alerts", holds=f"alerts of severity {names}")
    if (pipeline.watch is not None or pipeline.rollout is not None) and outputs.watch is not None:
        yield Topic(name=outputs.watch, use="watch", holds="alerts of drift, of readings, and of guards")
    if pipeline.rollout is not None:
        yield Topic(name=pipeline.rollout.control, use="control", holds="which model version serves")
        if pipeline.rollout.shadow is not None:
            yield Topic(name=pipeline.rollout.shadow, use="shadow", holds="scores of a shadowed version")
    yield Topic(
        name=outputs.dead_letters, use="dead_letters", holds="records that could not be used, as they came"
    )
    if pipeline.truth is not None:
        yield Topic(name=pipeline.truth.labels.topic, use="labels", holds="the truth about events")
        yield Topic(name=pipeline.truth.topic, use="truth", holds="how good the scores were")


def _bad_records(pipeline: Pipeline) -> Iterator[str]:
    source, policy = pipeline.source, pipeline.dead_letters
    yield (
        f"To {pipeline.outputs.dead_letters}, bytes, key and headers untouched, the reason in headers; "
        "the good records of the same batch go on."
    )
    longest = write_size(source.max_record_bytes)
    name = {"avro": "Avro", "json": "JSON", "protobuf": "Protobuf"}[source.format]
    yield f"Bytes that are not {source.wire} {name} of the schema, or longer than {longest}."
    yield f"A record key that is missing or does not equal the event's {source.key}."
    yield f"A key, or an event id, longer than {write_size(source.max_key_bytes)}."
    yield "A missing, NaN or infinite value in a field that features are computed from."
    refused = [
        name
        for name, check in (pipeline.watch.quality.items() if pipeline.watch else ())
        if check.policy == "refuse"
    ]
    if refused:
        yield f"A reading that its sensor cannot mean: {', '.join(refused)}."
    if source.max_future_us is not None:
        ahead = write_duration(source.max_future_us)
        yield f"An event time more than {ahead} ahead of the record's Kafka timestamp."
    yield (
        f"More than {policy.stop_share:.0%} of a minute's events (from {policy.min_events:,} events on) "
        "stop the worker with an error."
    )


def _open_doors(pipeline: Pipeline) -> Iterator[str]:
    """What a person on the network could read or pretend, by the file's own choice."""
    kafka = pipeline.kafka.client_properties()
    protocol = kafka.get("security.protocol", "plaintext").lower()
    if protocol == "sasl_plaintext":
        yield "WARNING: security.protocol is SASL_PLAINTEXT: login and events cross the network without TLS."
    is_verified = kafka.get("enable.ssl.certificate.verification", "true").lower() != "false"
    if protocol.endswith("ssl") and not is_verified:
        yield "WARNING: the broker's certificate is not verified: anybody can pretend to be the broker."
    elif protocol.endswith("ssl") and kafka.get("ssl.endpoint.identification.algorithm") == "none":
        yield "WARNING: the broker's host name is not verified: any certificate of the authority will do."
    registries = {str(url) for url in (pipeline.source.registry, pipeline.outputs.registry) if url}
    if pipeline.registry.password and any(url.startswith("http:") for url in registries):
        yield "WARNING: the registry's password crosses the network without TLS."


def _notes(
    pipeline: Pipeline,
    cards: tuple[ModelCard, ...],
    feeds: tuple[tuple[Feed, ...], ...],
    features: Mapping[str, str],
) -> Iterator[str]:
    if any(TREES in card.onnx_file.read_bytes() for card in cards):
        yield "The model has TreeEnsemble operators: they run on the CPU whatever device is asked."
    decision = pipeline.decision
    if cards and decision is not None:
        card = cards[0]
        values = decision.severities.values()
        if card.output.meaning == "probability" and not all(0 <= value <= 1 for value in values):
            yield "A severity lies outside 0..1, but the model's output is a probability."
        if card.output.meaning == "remaining_life" and decision.alert_when == "above":
            yield "alert_when is above, but the model's output is remaining life: long life would alert."
    fed = {feed.feature for of_card in feeds for feed in of_card}
    for rule in decision.rules.values() if decision is not None else ():
        fed |= names_in(str(rule.when), list(features))
    unused = [name for name in features if name not in fed]
    if cards and unused:
        yield f"Computed, but no input of the model takes it: {', '.join(unused)}."
    if pipeline.model is not None and decision is None:
        yield "There is no decision section: scores are written, alerts are not."
    yield from _open_doors(pipeline)
    if pipeline.state.store.startswith("memory:"):
        yield "The store is memory: features are lost when the worker stops, and are rebuilt from the topic."
    if pipeline.source.start == "latest":
        yield "A new group begins at the latest event: windows are incomplete until they have filled."
    if pipeline.delivery.mode == "at_least_once":
        yield "After a crash some scores are written again, with the same id."


def _head(planned: Plan) -> list[str]:
    pipeline = planned.pipeline
    return [f"{pipeline.name}  ({pipeline.path}), policy version {shown(pipeline.policy_version)}"]


def _reads(planned: Plan) -> list[str]:
    source, kafka = planned.pipeline.source, planned.pipeline.kafka
    group = f"as group {kafka.group} (protocol {kafka.protocol})"
    return [
        "reads",
        f"  topic {source.topic} at {shown(kafka.bootstrap)}, {group}",
        f"  {planned.event} by {source.schema_ref}, {source.format}, wire {source.wire}; "
        f"a new group begins at {source.start}",
        f"  key {source.key} (partitioner {source.partitioner})",
        f"  event id {source.event_id}, event time {source.event_time}",
    ]


def _keeps(planned: Plan) -> list[str]:
    pipeline = planned.pipeline
    key, lines = pipeline.source.key, []
    for name, feature in pipeline.features.items():
        if isinstance(feature, WindowFeature):
            late = write_duration(feature.allowed_lateness_us)
            lines.append(f"  {name}: last {feature.capacity} events per {key}, at most {late} late")
        elif isinstance(feature, SequenceFeature):
            lines.append(f"  {name}: last {feature.capacity} readings per {key}")
        elif isinstance(feature, ProfileFeature):
            lines.append(
                f"  {name}: {len(feature.fields)} numbers of {feature.prefix}<{feature.key or key}>, "
                "loaded by others"
            )
        elif isinstance(feature, LookupFeature):
            behind = f"; when behind: {feature.when_behind}"
            lines.append(
                f"  {name}: read from {feature.group} of {Path(feature.pipeline).name} by {feature.key}, "
                f"at most {write_duration(feature.max_age_us)} old{behind}"
            )
    state = f"  rows in {shown(pipeline.state.store)}, {pipeline.state.hot_rows:,} of them in memory"
    return ["keeps", *lines, state] if lines else []


def _scores(planned: Plan) -> list[str]:
    model = planned.pipeline.model
    if not planned.cards or model is None:
        return ["computes (no model: for other pipelines to look up)", *_table(planned.features.items())]
    lines = ["scores"]
    if planned.composite is not None:
        lines += [f"  {in_words(planned.composite)}, on device {model.device}"]
    for card, feeds in zip(planned.cards, planned.feeds, strict=True):
        lines += _scores_of(card, feeds, model.device)
    return [*lines, *_stands_in(model)]


def _scores_of(card: ModelCard, feeds: tuple[Feed, ...], device: str) -> list[str]:
    lines = [f"  {card.name} version {card.version} on device {device}: {card.description}"]
    for model_input in card.inputs:
        lines += [
            "",
            f"  model input {model_input.tensor}, {model_input.dtype} {show_shape(model_input.shape)}",
        ]
        rows = [feed for feed in feeds if feed.tensor == model_input.tensor]
        lines += _table((f"{feed.column:>3}  {feed.feature}", feed.source) for feed in rows)
    column = "" if card.output.column is None else f", column {card.output.column}"
    return [
        *lines,
        "",
        f"  score: output {card.output.tensor}{column}, {_MEANING[card.output.meaning]}",
    ]


def _stands_in(model: ModelRef) -> list[str]:
    lines = []
    if model.when_device_fails == "cpu":
        lines.append("  when the device fails: the same model on the CPU")
    if model.when_model_fails == "rules":
        no, yes = model.rules_score
        lines.append(f"  when the model fails: {yes:g} where {shown(model.rules or '')}, else {no:g}")
    return lines


def _decides(planned: Plan) -> list[str]:
    decision = planned.pipeline.decision
    if decision is None:
        return []
    what = "score" if decision.on == "score" else f"{decision.on} end of the score's interval"
    lines = [
        f"  {name}: {what} at or {decision.alert_when} {value:g}"
        for name, value in decision.severities.items()
    ]
    for name, rule in decision.rules.items():
        severity = f" {rule.severity}" if rule.severity else ""
        lines.append(f"  rule {name}: {rule.combine}{severity} where {shown(rule.when)}")
    if decision.needs_complete:
        lines.append("  none raised or cleared by incomplete features")
    if decision.cooldown_us is not None:
        lines.append(
            f"  one alert per {planned.pipeline.source.key} and {write_duration(decision.cooldown_us)}, "
            "unless the severity rises"
        )
    if decision.clear_margin is not None:
        lines.append(f"  raised once, cleared when the score is back by {decision.clear_margin:g}")
    return ["alerts", *lines]


def _writes(planned: Plan) -> list[str]:
    rows = [(topic.name, topic.holds) for topic in planned.topics if topic.use != "source"]
    outputs = planned.pipeline.outputs
    return [f"writes ({outputs.format}, wire {outputs.wire})", *_table(rows)]


def _runs(planned: Plan) -> list[str]:
    pipeline = planned.pipeline
    batching, delivery, admin = pipeline.batching, pipeline.delivery, pipeline.admin
    wait = f"{write_duration(round(batching.max_wait_ms * 1000))} after its first event"
    eager = ", or when the model is idle" if batching.eager else ""
    if batching.latency_slo_ms is not None:
        objective = write_duration(round(batching.latency_slo_ms * 1000))
        wait, eager = f"as late as lets 99 of 100 events have their score within {objective}", ""
    every = write_duration(delivery.commit_interval_ms * 1000)
    port = "not served" if admin.port is None else f"http://{shown(admin.host)}:{admin.port}"
    size = write_size(batching.max_bytes)
    return [
        "runs",
        f"  a batch leaves at {batching.max_rows:,} events, {size}, or {wait}{eager}",
        f"  delivery {delivery.mode}, a commit every {every}",
        f"  metrics and health: {port}",
    ]


def _list(title: str, items: tuple[str, ...]) -> list[str]:
    return [title, *(f"  - {item}" for item in items)] if items else []


def _table(rows: Any) -> list[str]:
    pairs = list(rows)
    width = max((len(left) for left, _ in pairs), default=0)
    return [f"  {left:<{width}}  {right}" for left, right in pairs]
