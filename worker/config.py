"""Reads a pipeline file into frozen dataclasses, or stops with one line that says what is wrong where."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from worker.access_types import Admin
from worker.cross_checks import check_decision_rules, check_rules, cross_check
from worker.feature_types import (
    Aggregate,
    CalendarFeature,
    Feature,
    FieldFeature,
    LookupFeature,
    ProfileFeature,
    SequenceFeature,
    WindowFeature,
)
from worker.format_types import Wire
from worker.key_types import parse_duration_us
from worker.model_types import Decision, ModelRef
from worker.pipeline_types import (
    Batching,
    DeadLetterPolicy,
    Delivery,
    Kafka,
    Outputs,
    Pipeline,
    Source,
    State,
)
from worker.secret import redact
from worker.truth_checks import check_truth
from worker.typed_yaml import parse
from worker.yaml_lines import ConfigError, Document, KeyPath, read_yaml, show

__all__ = [
    "Admin",
    "Aggregate",
    "Batching",
    "CalendarFeature",
    "ConfigError",
    "DeadLetterPolicy",
    "Decision",
    "Delivery",
    "Feature",
    "FieldFeature",
    "Kafka",
    "LookupFeature",
    "ModelRef",
    "Outputs",
    "Pipeline",
    "ProfileFeature",
    "SequenceFeature",
    "Source",
    "State",
    "WindowFeature",
    "Wire",
    "feature_names",
    "load_pipeline",
    "profile_names",
    "sequence_names",
]

PIPELINE: TypeAdapter[Pipeline] = TypeAdapter(Pipeline)


def load_pipeline(path: Path, env: Mapping[str, str] = os.environ) -> Pipeline:
    """Read, expand and check one pipeline file, and the files it looks things up in.

    Raises:
        ConfigError: one line, `FILE:LINE: key.path: found X, expected Y`; the first mistake by line.
    """
    return _load(Path(path), env, ())


def _load(path: Path, env: Mapping[str, str], readers: tuple[Path, ...]) -> Pipeline:
    document = read_yaml(path, env)
    try:
        return _checked(path, document, env, readers)
    except ConfigError as error:
        # A secret in the wrong place, such as a path, is no less secret. One of three letters is none, and
        # would be found in every word.
        secrets = frozenset(secret for secret in document.secrets if len(secret) > 3)
        raise ConfigError(redact(str(error), secrets)) from None


def _checked(path: Path, document: Document, env: Mapping[str, str], readers: tuple[Path, ...]) -> Pipeline:
    pipeline = parse(
        document,
        PIPELINE,
        path=path,
        secrets=document.secrets,
    )
    for at in sorted(document.literal_secrets, key=document.line):
        raise document.error(at, "a secret written in the file", "${file:PATH} or ${VAR}")
    others = {
        name: _lookup(document, name, feature, env, (*readers, path.resolve()))
        for name, feature in pipeline.features.items()
        if isinstance(feature, LookupFeature)
    }
    cross_check(pipeline, document, others)
    if pipeline.model is not None and pipeline.model.rules is not None:
        check_rules(str(pipeline.model.rules), document, feature_names(pipeline, env))
    if pipeline.decision is not None and pipeline.decision.rules:
        check_decision_rules(pipeline.decision.rules, document, feature_names(pipeline, env))
    if pipeline.truth is not None:
        check_truth(pipeline, document, feature_names(pipeline, env))
    return pipeline


def _lookup(
    document: Document, name: str, feature: LookupFeature, env: Mapping[str, str], readers: tuple[Path, ...]
) -> Pipeline:
    at: KeyPath = ("features", name, "pipeline")
    if not feature.pipeline.is_file():
        raise document.error(at, show(str(feature.pipeline)), "a pipeline file")
    if feature.pipeline.resolve() in readers:
        raise document.error(at, show(str(feature.pipeline)), "a pipeline that does not look things up here")
    return _load(feature.pipeline, env, readers)


def feature_names(pipeline: Pipeline, env: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of all scalar feature columns the pipeline can produce, in the order of the file.

    Event features by name, windows `GROUP.AGGREGATE_WINDOW`, lookups `NAME.AGGREGATE_WINDOW` with the
    aggregates and windows of the other file.

    Raises:
        ConfigError: the file of a lookup does not load.
    """
    return [name for key, feature in pipeline.features.items() for name in _names(key, feature, env)]


def _names(name: str, feature: Feature, env: Mapping[str, str]) -> Iterator[str]:
    if isinstance(feature, FieldFeature | CalendarFeature):
        yield name
    elif isinstance(feature, WindowFeature):
        yield from window_names(name, feature)
    elif isinstance(feature, ProfileFeature):
        yield from profile_names(name, feature)
    elif isinstance(feature, LookupFeature):
        group = load_pipeline(feature.pipeline, env).features[feature.group]
        assert isinstance(group, WindowFeature)  # load_pipeline checked it
        yield from window_names(name, group)


def window_names(name: str, feature: WindowFeature) -> list[str]:
    """Return the columns of a window group, the shortest window first: `customer.count_1d`, ..."""
    labels = sorted(feature.windows, key=parse_duration_us)
    return [f"{name}.{aggregate}_{label}" for label in labels for aggregate in feature.aggregates]


def profile_names(name: str, feature: ProfileFeature) -> list[str]:
    """Return the columns of a profile, in the order of its rows: `profile.income`, ..."""
    return [f"{name}.{field}" for field in feature.fields]


def sequence_names(pipeline: Pipeline) -> list[str]:
    """Return the names of the sequences the pipeline can produce, in the order of the file."""
    return [name for name, feature in pipeline.features.items() if isinstance(feature, SequenceFeature)]
