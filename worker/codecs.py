"""The codec of each topic of a pipeline: what its records are, and what stands in front of them."""

from __future__ import annotations

from schemas.codec import Codec
from schemas.proto_layout import Layout, derived
from schemas.schema import Schema, load_schema
from schemas.tree import SchemaError
from worker.config import Pipeline
from worker.format_types import Protobuf
from worker.registries import open_registry


def codec_for(pipeline: Pipeline, topic: str, *, writes: bool = False) -> Codec | None:
    """The codec of one of the pipeline's topics; None: of dead letters, which are as they came, or of none.

    Args:
        pipeline: whose.
        topic: name, as in Kafka.
        writes: the codec is also to encode. With wire confluent this registers the schema.

    Raises:
        SchemaError, RegistryError: see `Codec`.
    """
    outputs, truth, rollout = pipeline.outputs, pipeline.truth, pipeline.rollout
    if topic == pipeline.source.topic:
        schema = load_schema(pipeline.source.schema_ref, pipeline.base)
        return input_codec(pipeline, schema, writes=writes)
    if truth is not None and topic == truth.labels.topic:
        return label_codec(pipeline, writes=writes)
    kinds = {outputs.scores: "score", outputs.alerts: "alert", outputs.watch: "watch_alert"}
    if truth is not None:
        kinds[truth.topic] = "truth"
    if rollout is not None:
        kinds[rollout.shadow] = "score"
    return output_codec(pipeline, kinds[topic], topic if writes else None) if topic in kinds else None


def input_codec(pipeline: Pipeline, schema: Schema, *, writes: bool = False) -> Codec:
    """How records of the input topic become columns."""
    source = pipeline.source
    return Codec(
        schema,
        source.wire,
        format=source.format,
        message=message_of(schema, source.protobuf) if source.protobuf else None,
        writers=[load_schema(ref, pipeline.base) for ref in source.writer_schemas],
        registry=open_registry(pipeline, source.registry),
        topic=source.topic if writes and source.wire == "confluent" else None,
        max_bytes=source.max_record_bytes,
    )


def label_codec(pipeline: Pipeline, *, writes: bool = False) -> Codec:
    """How the truth about events becomes columns; the pipeline has that section."""
    assert pipeline.truth is not None
    labels = pipeline.truth.labels
    schema = load_schema(labels.schema_ref, pipeline.base)
    return Codec(
        schema,
        labels.wire,
        format=labels.format,
        message=message_of(schema, labels.protobuf) if labels.protobuf else None,
        registry=open_registry(pipeline, labels.registry),
        topic=labels.topic if writes and labels.wire == "confluent" else None,
    )


def output_codec(pipeline: Pipeline, kind: str, topic: str | None = None) -> Codec:
    """The codec of the outputs of one kind: the name of a bundled schema.

    Args:
        pipeline: whose.
        kind: such as score.
        topic: where they are written to; None: they are only read. Naming it registers the schema with wire
            confluent; other wires have no registry to tell.
    """
    outputs = pipeline.outputs
    return Codec(
        load_schema(kind),
        outputs.wire,
        format=outputs.format,
        registry=open_registry(pipeline, outputs.registry),
        topic=topic if outputs.wire == "confluent" else None,
    )


def message_of(schema: Schema, protobuf: Protobuf | None) -> Layout:
    """The message that records of format protobuf are: the one that the file names, or the derived one.

    Raises:
        SchemaError: no such file or message, or one that the schema does not fit.
    """
    if protobuf is None:
        return derived(schema)
    from schemas.proto_descriptor import described

    try:
        descriptors = protobuf.descriptors.read_bytes()
    except OSError as error:
        raise SchemaError(f"found no {protobuf.descriptors}, expected a FileDescriptorSet") from error
    return described(schema, descriptors, protobuf.message)
