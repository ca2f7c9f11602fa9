"""Says which feature feeds which column of which model input."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from worker.composite_card import CompositeCard
from worker.config import (
    CalendarFeature,
    FieldFeature,
    LookupFeature,
    Pipeline,
    ProfileFeature,
    SequenceFeature,
    WindowFeature,
    feature_names,
    load_pipeline,
    profile_names,
    sequence_names,
)
from worker.key_types import write_duration
from worker.model_file import ModelCard, ModelInput, read_card, show_shape
from worker.yaml_lines import ConfigError, KeyPath, show

AGGREGATE_WORDS: Mapping[str, str] = {
    "count": "number of events",
    "sum": "sum of {over}",
    "mean": "mean of {over}",
    "min": "least {over}",
    "max": "greatest {over}",
    "std": "standard deviation of {over}",
    "last": "last {over}",
    "since_last": "time since the last event",
    "distinct": "number of different {over}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """One column of a model input, and the feature that fills it."""

    tensor: str
    column: int  # along the last axis
    feature: str  # customer.count_1d, or readings.s02 for a field of a sequence
    source: str  # in words


def model_feeds(pipeline: Pipeline, card: ModelCard, env: Mapping[str, str] = os.environ) -> tuple[Feed, ...]:
    """Return what fills each column of each model input, in the order of the card.

    Raises:
        ConfigError: an input asks for a feature that the pipeline does not have, or for another shape;
            the line is that of model.yaml.
    """
    words = feature_words(pipeline, env)
    feeds: list[Feed] = []
    for i, model_input in enumerate(card.inputs):
        if model_input.sequence is None:
            feeds += _columns(pipeline, card, ("inputs", i), model_input, words)
        else:
            feeds += _sequence(pipeline, card, ("inputs", i), model_input, model_input.sequence)
    return tuple(feeds)


def check_interval(pipeline: Pipeline, card: ModelCard | CompositeCard) -> None:
    """Check that the card has the interval whose end the pipeline decides on.

    Raises:
        ConfigError: it has none; the line is that of model.yaml.
    """
    decision = pipeline.decision
    if decision is not None and decision.on != "score" and card.interval is None:
        expected = f"an interval, as decision.on is {decision.on} in {pipeline.path}"
        raise read_card(card.folder).error(("interval",), "nothing", expected)


def _columns(
    pipeline: Pipeline, card: ModelCard, at: KeyPath, model_input: ModelInput, words: Mapping[str, str]
) -> list[Feed]:
    for column, name in enumerate(model_input.features):
        if name not in words:
            raise _unfed(pipeline, card, (*at, "features", column), name, list(words))
    return [
        Feed(tensor=model_input.tensor, column=column, feature=name, source=words[name])
        for column, name in enumerate(model_input.features)
    ]


def _sequence(
    pipeline: Pipeline, card: ModelCard, at: KeyPath, model_input: ModelInput, name: str
) -> list[Feed]:
    feature = pipeline.features.get(name)
    if not isinstance(feature, SequenceFeature):
        raise _unfed(pipeline, card, (*at, "sequence"), name, sequence_names(pipeline))
    _, length, width = model_input.shape
    wanted = (
        length if isinstance(length, int) else feature.length,
        width if isinstance(width, int) else None,
    )
    if wanted[0] != feature.length or wanted[1] not in (None, len(feature.fields)):
        expected = f"[n, {feature.length}, {len(feature.fields)}], the sequence {name} of {pipeline.path}"
        raise read_card(card.folder).error((*at, "shape"), show_shape(model_input.shape), expected)
    if model_input.fields and model_input.fields != feature.fields:
        expected = f"the fields of {name} in {pipeline.path}, in that order: {', '.join(feature.fields)}"
        raise read_card(card.folder).error((*at, "fields"), ", ".join(model_input.fields), expected)
    return [
        Feed(
            tensor=model_input.tensor,
            column=column,
            feature=f"{name}.{field}",
            source=f"event field {field}, {_points(feature)}, oldest first",
        )
        for column, field in enumerate(feature.fields)
    ]


def _points(feature: SequenceFeature) -> str:
    if feature.every_us is None:
        return f"last {feature.length} readings"
    return f"{feature.length} points every {write_duration(feature.every_us)} ({feature.fill})"


def _unfed(pipeline: Pipeline, card: ModelCard, at: KeyPath, name: str, known: list[str]) -> ConfigError:
    near = get_close_matches(name, known, n=1)
    choice = f"such as {near[0]}" if near else f"one of {', '.join(known)}" if known else "which has none"
    kind = "sequence" if at[-1] == "sequence" else "feature"
    return read_card(card.folder).error(at, show(name), f"a {kind} of {pipeline.path}, {choice}")


def feature_words(pipeline: Pipeline, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what each scalar feature column is, in words, in the order of `feature_names`."""
    words: dict[str, str] = {}
    for name, feature in pipeline.features.items():
        if isinstance(feature, FieldFeature):
            words[name] = f"event field {feature.field}"
        elif isinstance(feature, CalendarFeature):
            words[name] = _calendar(feature)
        elif isinstance(feature, WindowFeature):
            words |= _window(name, feature, pipeline.source.key, "")
        elif isinstance(feature, ProfileFeature):
            by = feature.key or pipeline.source.key
            for column, field in zip(profile_names(name, feature), feature.fields, strict=True):
                words[column] = f"{field} of the profile {feature.prefix}<{by}>, {feature.default:g} without"
        elif isinstance(feature, LookupFeature):
            other = load_pipeline(feature.pipeline, env)
            group = other.features[feature.group]
            assert isinstance(group, WindowFeature)  # load_pipeline checked it
            words |= _window(name, group, feature.key, f", kept by {other.name}")
    return {name: words[name] for name in feature_names(pipeline, env)}


def _calendar(feature: CalendarFeature) -> str:
    if feature.number is not None:
        return {"hour": "hour of the day, 0 to 23 (UTC)", "weekday": "day of the week, Monday 0 (UTC)"}[
            feature.number
        ]
    if feature.hours is None:
        return "1 on Saturday and Sunday (UTC), else 0"
    return f"1 from {feature.hours[0]:02}:00 to before {feature.hours[1]:02}:00 (UTC), else 0"


def _window(name: str, feature: WindowFeature, key: str, suffix: str) -> dict[str, str]:
    return {
        f"{name}.{aggregate}_{label}": (
            f"{AGGREGATE_WORDS[aggregate].format(over=feature.over)} in {label} per {key}{suffix}"
        )
        for label in feature.windows
        for aggregate in feature.aggregates
    }
