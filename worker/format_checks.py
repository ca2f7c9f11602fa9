"""Checks that what a file says about formats and framing goes together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.schema import load_schema
from schemas.tree import SchemaError
from worker.pipeline_types import Outputs, Pipeline, Source
from worker.truth_types import TruthLabels
from worker.yaml_lines import KeyPath

Problem = tuple[KeyPath, str, str]  # where, what was found, what was expected


def format_problems(pipeline: Pipeline) -> Iterator[Problem]:
    """What is wrong with the formats of the events and of the outputs."""
    source, outputs = pipeline.source, pipeline.outputs
    yield from _framing(("source",), source)
    yield from _framing(("outputs",), outputs)
    if source.format != "avro" and source.writer_schemas:
        yield ("source", "writer_schemas"), "schemas", f"none: {source.format} names its fields itself"
    if outputs.wire == "confluent" and outputs.registry is None:
        yield ("outputs", "registry"), "nothing", "the registry's URL, as wire is confluent"
    yield from _incoming(("source",), source, pipeline.base)


def label_problems(labels: TruthLabels, base: Path) -> Iterator[Problem]:
    """What is wrong with the format of labels."""
    yield from _framing(("truth", "labels"), labels)
    yield from _incoming(("truth", "labels"), labels, base)


def _framing(where: KeyPath, section: Source | Outputs | TruthLabels) -> Iterator[Problem]:
    if section.format != "avro" and section.wire == "single_object":
        yield (*where, "wire"), '"single_object"', f"raw or confluent, as format is {section.format}"


def _incoming(where: KeyPath, section: Source | TruthLabels, base: Path) -> Iterator[Problem]:
    if section.wire == "confluent" and section.format == "avro" and section.registry is None:
        yield (*where, "registry"), "nothing", "the registry's URL, as wire is confluent"
    if section.protobuf is not None and section.format != "protobuf":
        yield (*where, "protobuf"), "a message", f"no such section, as format is {section.format}"
    elif section.format == "protobuf":
        yield from _message(where, section, base)


def _message(where: KeyPath, section: Any, base: Path) -> Iterator[Problem]:
    from worker.codecs import message_of

    try:
        schema = load_schema(section.schema_ref, base)
    except SchemaError:
        return  # which is said at its own key
    try:
        message_of(schema, section.protobuf)
    except SchemaError as error:
        found, _, expected = str(error).rpartition(", expected ")
        key = "protobuf" if section.protobuf is not None else "format"
        yield (*where, key), found.replace("found ", "", 1), expected
