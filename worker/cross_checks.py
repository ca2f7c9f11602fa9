"""Checks that the parts of a pipeline file fit each other, its event schema and the files it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from schemas.schema import load_schema
from schemas.tree import SchemaError
from worker.decision_rules import SCORE
from worker.feature_types import (
    FieldFeature,
    LookupFeature,
    ProfileFeature,
    SequenceFeature,
    WindowFeature,
)
from worker.format_checks import format_problems
from worker.key_types import write_duration
from worker.model_types import DecisionRule
from worker.pipeline_types import Pipeline
from worker.rules import RuleError, parse_rule
from worker.timeouts import session_timeout_ms, transaction_timeout_ms
from worker.watch_checks import watch_problems
from worker.yaml_lines import Document, KeyPath, show

NUMERIC = frozenset({"boolean", "int", "long", "float", "double"})
KEY_TYPES = frozenset({"string", "int", "long"})
TIME_TYPES = frozenset({"timestamp-millis", "timestamp-micros", "long"})

Problem = tuple[KeyPath, str, str]  # where, what was found, what was expected


def cross_check(pipeline: Pipeline, document: Document, others: Mapping[str, Pipeline]) -> None:
    """Check what no single key can tell.

    Args:
        pipeline: the file as typed.
        document: the file as read, for line numbers.
        others: for each lookup feature by name, the pipeline it reads from.

    Raises:
        ConfigError: the first problem by line.
    """
    problems = [
        *_sections(pipeline),
        *watch_problems(pipeline),
        *_schema_files(pipeline),
        *_lookups(pipeline, others),
    ]
    if problems:
        path, found, expected = min(problems, key=lambda problem: document.line(problem[0]))
        raise document.error(path, found, expected)


def check_rules(text: str, document: Document, names: Sequence[str]) -> None:
    """Check that model.rules is an expression of these features.

    Raises:
        ConfigError: it is not.
    """
    try:
        parse_rule(text, names)
    except RuleError as error:
        raise document.error(("model", "rules"), error.found, error.expected) from error


def _model(pipeline: Pipeline) -> Iterator[Problem]:
    ref = pipeline.model
    if ref is None:
        if pipeline.rollout is not None:
            yield ("rollout",), "a rollout without a model", "a model section"
    elif isinstance(ref.repository, Path) and not (ref.folder / "model.yaml").is_file():
        yield ("model",), f"no {ref.folder / 'model.yaml'}", "a model version in that folder"


def check_decision_rules(rules: Mapping[str, DecisionRule], document: Document, names: Sequence[str]) -> None:
    """Check that each of decision.rules is an expression of these features and the score.

    Raises:
        ConfigError: the first one by line that is not.
    """
    if rules and SCORE in names:
        raise document.error(("features", SCORE), show(SCORE), "another name: rules call the score so")
    for name, rule in rules.items():
        try:
            parse_rule(str(rule.when), (*names, SCORE))
        except RuleError as error:
            raise document.error(("decision", "rules", name, "when"), error.found, error.expected) from error


def _sections(pipeline: Pipeline) -> Iterator[Problem]:
    outputs = pipeline.outputs
    yield from format_problems(pipeline)
    if pipeline.decision is not None and pipeline.model is None:
        yield ("decision",), "a decision without a model", "a model section"
    if pipeline.http is not None and pipeline.model is None:
        yield ("http",), "http without a model", "a model section"
    if pipeline.model is not None and outputs.scores is None:
        yield ("outputs", "scores"), "nothing", "a topic, as there is a model"
    if pipeline.decision is not None and outputs.alerts is None:
        yield ("outputs", "alerts"), "nothing", "a topic, as there is a decision"
    yield from _model(pipeline)
    yield from _rules_score(pipeline)
    timeout_ms, session_ms = pipeline.delivery.transaction_timeout_ms, session_timeout_ms(pipeline.kafka)
    if timeout_ms is not None and timeout_ms >= session_ms:
        found, most = write_duration(timeout_ms * 1000), write_duration(session_ms * 1000)
        yield ("delivery", "transaction_timeout"), found, f"less than the session time-out, {most}"
    interval_ms, timeout_ms = pipeline.delivery.commit_interval_ms, transaction_timeout_ms(pipeline)
    if interval_ms >= timeout_ms:
        found, most = write_duration(interval_ms * 1000), write_duration(timeout_ms * 1000)
        yield ("delivery", "commit_interval"), found, f"less than the time-out of a transaction, {most}"
    if pipeline.kafka.static_membership and pipeline.delivery.worker_id is None:
        yield ("kafka", "static_membership"), "true", "false, or a stable delivery.worker_id beside it"
    yield from _topics(pipeline)


def _topics(pipeline: Pipeline) -> Iterator[Problem]:
    outputs = pipeline.outputs
    topics = {"source.topic": pipeline.source.topic}
    for name in ("scores", "alerts", "dead_letters", "watch"):
        topic = getattr(outputs, name)
        if topic is not None and topic in topics.values():
            other = next(key for key, value in topics.items() if value == topic)
            yield ("outputs", name), show(topic), f"a topic other than that of {other}"
        elif topic is not None:
            topics[f"outputs.{name}"] = topic
    for name in ("shadow", "control") if pipeline.rollout is not None else ():
        topic = getattr(pipeline.rollout, name)
        if topic is not None and topic in topics.values():
            other = next(key for key, value in topics.items() if value == topic)
            yield ("rollout", name), show(topic), f"a topic other than that of {other}"
        elif topic is not None:
            topics[f"rollout.{name}"] = topic


def _rules_score(pipeline: Pipeline) -> Iterator[Problem]:
    model, decision = pipeline.model, pipeline.decision
    if model is None or model.when_model_fails != "rules" or decision is None:
        return
    least = next(iter(decision.severities.values()))
    sign = 1 if decision.alert_when == "above" else -1
    calm = (least - model.rules_score[0]) * sign > (decision.clear_margin or 0)
    if not calm or (model.rules_score[1] - least) * sign < 0:
        margin = f" by more than {decision.clear_margin:g}" if decision.clear_margin else ""
        opposite = "below" if sign == 1 else "above"
        yield (
            ("model", "rules_score"),
            f"[{model.rules_score[0]:g}, {model.rules_score[1]:g}]",
            f"[no alert, alert]: {opposite} {least:g}{margin}, and at or {decision.alert_when} {least:g}",
        )


def _schema_files(pipeline: Pipeline) -> Iterator[Problem]:
    source = pipeline.source
    references: list[tuple[KeyPath, str]] = [(("source", "schema"), source.schema_ref)]
    references += [(("source", "writer_schemas", i), ref) for i, ref in enumerate(source.writer_schemas)]
    for path, reference in references:
        try:
            schema = load_schema(reference, pipeline.base)
        except (SchemaError, OSError) as error:
            yield path, f"{show(reference)} ({error})", "a bundled schema or a readable .avsc file"
            continue
        if path == ("source", "schema") and pipeline.privacy is not None and not schema.personal_fields:
            found = 'no field marked "pii": true in the schema'
            yield ("privacy",), found, "a personal field to hash, or no privacy section"
        if path == ("source", "schema"):
            yield from _fields(pipeline, schema.json)


def _fields(pipeline: Pipeline, record: Mapping[str, Any]) -> Iterator[Problem]:
    types = {field["name"]: field["type"] for field in record.get("fields", [])}
    nullable = {name for name, avro in types.items() if isinstance(avro, list)}
    for path, name, allowed, expected in _wanted(pipeline):
        if name not in types:
            near = get_close_matches(name, types, n=1)
            choices = near[0] if near else f"one of the event's fields {', '.join(types)}"
            yield path, f"{show(name)}, which the schema does not have", choices
        elif (kind := avro_kind(types[name])) not in allowed:
            yield path, f"{show(name)} of type {kind}", expected
        elif name in nullable and path[0] == "source":
            yield path, f"{show(name)}, which may be null", f"{expected} that is never null"


def _wanted(pipeline: Pipeline) -> Iterator[tuple[KeyPath, str, frozenset[str], str]]:
    """Yield every event field the file names: where, which, the types allowed, and those in words."""
    source = pipeline.source
    yield ("source", "key"), source.key, KEY_TYPES, "a field of type string, int or long"
    yield ("source", "event_id"), source.event_id, KEY_TYPES, "a field of type string, int or long"
    timestamps = "a field of type timestamp-millis, timestamp-micros or long (milliseconds)"
    yield ("source", "event_time"), source.event_time, TIME_TYPES, timestamps
    number = "a numeric field (boolean, int, long, float, double)"
    for name, feature in pipeline.features.items():
        at: KeyPath = ("features", name)
        if isinstance(feature, FieldFeature):
            yield (*at, "field"), feature.field, NUMERIC, number
        elif isinstance(feature, WindowFeature):
            yield (*at, "over"), feature.over, NUMERIC, number
        elif isinstance(feature, SequenceFeature):
            for i, field in enumerate(feature.fields):
                yield (*at, "fields", i), field, NUMERIC, number
        elif isinstance(feature, LookupFeature | ProfileFeature) and feature.key is not None:
            yield (*at, "key"), feature.key, KEY_TYPES, "a field of type string, int or long"


def avro_kind(avro: Any) -> str:
    """Return the type of a field in one word: its logical type, else its Avro type, null left out."""
    if isinstance(avro, list):
        rest = [member for member in avro if member != "null"]
        return avro_kind(rest[0]) if len(rest) == 1 else "union"
    if isinstance(avro, Mapping):
        return str(avro.get("logicalType") or avro_kind(avro["type"]))
    return str(avro)


def _lookups(pipeline: Pipeline, others: Mapping[str, Pipeline]) -> Iterator[Problem]:
    for name, other in others.items():
        feature = pipeline.features[name]
        if not isinstance(feature, LookupFeature):
            continue
        windows = [key for key, value in other.features.items() if isinstance(value, WindowFeature)]
        if feature.group not in windows:
            expected = f"a window feature of {other.path.name}: {', '.join(windows) or 'it has none'}"
            yield ("features", name, "group"), show(feature.group), expected
