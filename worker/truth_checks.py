"""Checks that the truth section of a pipeline file fits its labels, its outputs and its features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from schemas.schema import load_schema
from schemas.tree import SchemaError
from worker.cross_checks import KEY_TYPES, NUMERIC, TIME_TYPES, Problem, avro_kind
from worker.format_checks import label_problems
from worker.pipeline_types import Pipeline
from worker.truth_types import TruthOptions
from worker.yaml_lines import Document, KeyPath, show

_TEXT = frozenset({"string", "enum", "boolean", "int"})
_SCORE = "score"


def check_truth(pipeline: Pipeline, document: Document, names: Sequence[str]) -> None:
    """Check what no single key of `truth` can tell.

    Args:
        pipeline: the file as typed.
        document: the file as read, for line numbers.
        names: the scalar features of the pipeline.

    Raises:
        ConfigError: the first problem by line.
    """
    truth = pipeline.truth
    if truth is None:
        return
    problems = [*_topics(pipeline, truth), *_sources(pipeline, truth, names), *_fields(pipeline, truth)]
    if problems:
        path, found, expected = min(problems, key=lambda problem: document.line(problem[0]))
        raise document.error(path, found, expected)


def hides_event_ids(pipeline: Pipeline) -> bool:
    """Whether alerts name their events by a hash: they cannot be joined then."""
    if pipeline.privacy is None or "alerts" not in pipeline.privacy.in_:
        return False
    personal = load_schema(pipeline.source.schema_ref, pipeline.base).personal_fields
    return pipeline.source.event_id in personal


def _topics(pipeline: Pipeline, truth: TruthOptions) -> Iterator[Problem]:
    outputs = pipeline.outputs
    if outputs.scores is None:
        yield ("truth",), "no scores to find the truth about", "outputs.scores, and a model"
    taken = {"source.topic": pipeline.source.topic, "truth.labels.topic": truth.labels.topic}
    taken |= {
        f"outputs.{name}": getattr(outputs, name) for name in ("scores", "alerts", "dead_letters", "watch")
    }
    if pipeline.rollout is not None:
        taken |= {f"rollout.{name}": getattr(pipeline.rollout, name) for name in ("shadow", "control")}
    for name, topic in taken.items():
        if topic == truth.topic:
            yield ("truth", "topic"), show(topic), f"a topic other than that of {name}"
    if truth.labels.topic in (outputs.scores, outputs.alerts):
        yield ("truth", "labels", "topic"), show(truth.labels.topic), "a topic that we do not write to"
    yield from label_problems(truth.labels, pipeline.base)


def _sources(pipeline: Pipeline, truth: TruthOptions, names: Sequence[str]) -> Iterator[Problem]:
    kind, _, name = (truth.value or "").partition(".")
    if kind != "alert":
        return
    if pipeline.decision is None:
        yield ("truth", "value"), show(truth.value), "label.FIELD, as there is no decision and no alert"
    if hides_event_ids(pipeline):
        yield ("truth", "value"), show(truth.value), "label.FIELD, as privacy hashes the event ids of alerts"
    if name not in names:
        yield ("truth", "value"), show(truth.value), f"alert. and one of {', '.join(names)}"


def _fields(pipeline: Pipeline, truth: TruthOptions) -> Iterator[Problem]:
    labels = truth.labels
    at: KeyPath = ("truth", "labels")
    try:
        of_label = _types(load_schema(labels.schema_ref, pipeline.base).json)
    except (SchemaError, OSError) as error:
        found = f"{show(labels.schema_ref)} ({error})"
        yield (*at, "schema"), found, "a bundled schema or a readable .avsc file"
        return
    of_score = _types(load_schema(_SCORE).json)
    wanted: list[tuple[KeyPath, str, str, frozenset[str], str]] = [
        ((*at, "event_id"), "label", labels.event_id, KEY_TYPES, "a field of type string, int or long"),
        ((*at, "label"), "label", labels.label, NUMERIC, "a field of type boolean or a number"),
    ]
    if labels.time is not None:
        timestamps = "a field of type timestamp-millis, timestamp-micros or long (milliseconds)"
        wanted.append(((*at, "time"), "label", labels.time, TIME_TYPES, timestamps))
    for key, allowed, expected in (("value", NUMERIC, "a number"), ("segment", _TEXT, "a text")):
        kind, _, name = (getattr(truth, key) or "").partition(".")
        if kind in ("label", "score"):
            wanted.append((("truth", key), kind, name, allowed, expected))
    for path, kind, name, allowed, expected in wanted:
        types = of_label if kind == "label" else of_score
        if name not in types:
            choices = f"one of the fields of a {kind}: {', '.join(types)}"
            yield path, f"{show(name)}, which a {kind} does not have", choices
        elif (found := avro_kind(types[name])) not in allowed:
            yield path, f"{show(name)} of type {found}", expected


def _types(record: Mapping[str, Any]) -> dict[str, Any]:
    return {field["name"]: field["type"] for field in record.get("fields", [])}
