"""What a pipeline file says of formats, and which codec each of its topics gets."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from schemas import Codec, load_schema
from schemas.form import FORMATS, Format
from schemas.framing import index_bytes
from schemas.json_schema import json_schema
from schemas.proto_text import proto_text
from schemas.proto_write_rows import put_tag, put_varint
from schemas.registry import Registry, RegistrySettings
from tests.pipeline.streams import alone
from tests.services.tiny_registry import TinyRegistry
from tests.unit.test_config_errors import FULL, error_of, line_of
from tests.unit.test_dlq import letter
from tests.unit.test_formats import transactions
from worker.codecs import codec_for
from worker.config import Pipeline, load_pipeline
from worker.dlq_show import describe
from worker.doctor import _schema
from worker.validate import describe as planned

TRANSACTION = load_schema("transaction")
TYPES = descriptor_pb2.FieldDescriptorProto
named_formats = pytest.mark.parametrize("form", ["json", "protobuf"])


@pytest.fixture
def tiny() -> Iterator[TinyRegistry]:
    registry = TinyRegistry()
    yield registry
    registry.close()


def content_with(**sections: dict[str, Any]) -> dict[str, Any]:
    content = copy.deepcopy(FULL)
    for name, keys in sections.items():
        content[name] = {key: value for key, value in (content[name] | keys).items() if value is not None}
    return content


def loaded(folder: Path, content: dict[str, Any]) -> Pipeline:
    file = folder / "pipeline.yaml"
    file.write_text(json.dumps(content))
    return load_pipeline(file, {})


@pytest.mark.parametrize("form", FORMATS)
def test_the_framing_that_a_file_does_not_say_is_that_of_the_format(tmp_path: Path, form: Format) -> None:
    keys = {"format": form, "wire": None, "writer_schemas": None}
    pipeline = loaded(tmp_path, content_with(source=keys, outputs={"format": form, "wire": None}))

    expected = "single_object" if form == "avro" else "raw"
    assert (pipeline.source.wire, pipeline.outputs.wire) == (expected, expected)


@pytest.mark.parametrize(
    ("sections", "path", "message"),
    [
        (
            {"source": {"format": "json", "writer_schemas": None}},
            ("source", "wire"),
            'found "single_object", expected raw or confluent, as format is json',
        ),
        (
            {"outputs": {"format": "protobuf"}},
            ("outputs", "wire"),
            'found "single_object", expected raw or confluent, as format is protobuf',
        ),
        (
            {"source": {"format": "json", "wire": "raw"}},
            ("source", "writer_schemas"),
            "found schemas, expected none: json names its fields itself",
        ),
        (
            {"source": {"format": "xml"}},
            ("source", "format"),
            'found "xml", expected one of avro, json, protobuf',
        ),
        (
            {"source": {"protobuf": {"descriptors": "a.desc", "message": "A"}}},
            ("source", "protobuf"),
            "found a message, expected no such section, as format is avro",
        ),
        (
            {
                "source": {
                    "format": "protobuf",
                    "wire": "raw",
                    "writer_schemas": None,
                    "protobuf": {"descriptors": "missing.desc", "message": "A"},
                }
            },
            ("source", "protobuf"),
            "missing.desc, expected a FileDescriptorSet",
        ),
        (
            {"outputs": {"format": "json", "wire": "confluent", "registry": None}},
            ("outputs",),
            "registry: found nothing, expected the registry's URL, as wire is confluent",
        ),
    ],
)
def test_what_does_not_go_together_is_named_with_its_line(
    sections: dict[str, Any], path: tuple[str, ...], message: str
) -> None:
    content = content_with(**sections)

    line, rest = error_of(content)

    assert line == line_of(content, path)
    assert rest.startswith(".".join(path))
    assert message in rest


@pytest.mark.parametrize("form", FORMATS)
def test_each_topic_has_its_codec_and_dead_letters_have_none(tmp_path: Path, form: Format) -> None:
    keys = {"format": form, "wire": None, "writer_schemas": None}
    pipeline = loaded(tmp_path, content_with(source=keys, outputs={"format": form, "wire": None}))

    names = {}
    for topic in ("transactions", "cards.scores", "cards.alerts", "cards.dead-letters", "elsewhere"):
        codec = codec_for(pipeline, topic)
        names[topic] = codec and (codec.reader.name, codec.format)
    assert names == {
        "transactions": ("penstock.Transaction", form),
        "cards.scores": ("penstock.Score", form),
        "cards.alerts": ("penstock.Alert", form),
        "cards.dead-letters": None,
        "elsewhere": None,
    }


def test_a_message_of_the_file_is_read_by_its_names(tmp_path: Path) -> None:
    file = descriptor_pb2.FileDescriptorProto(name="cards.proto", package="cards", syntax="proto3")
    payment = file.message_type.add(name="Payment")
    for number, (name, kind) in enumerate(
        {
            "amount": "DOUBLE",
            "terminal_id": "STRING",
            "customer_id": "STRING",
            "transaction_id": "STRING",
        }.items(),
        1,
    ):
        payment.field.add(name=name, number=number, type=TYPES.Type.Value(f"TYPE_{kind}"), label=1)
    payment.field.add(name="event_time", number=9, type=TYPES.TYPE_INT64, label=1)
    (tmp_path / "cards.desc").write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    keys = {"format": "protobuf", "wire": None, "writer_schemas": None}
    message = {"protobuf": {"descriptors": "cards.desc", "message": "cards.Payment"}}
    pipeline = loaded(tmp_path, content_with(source=keys | message))
    codec = codec_for(pipeline, "transactions", writes=True)
    assert codec is not None
    row = {"transaction_id": "t", "customer_id": "c", "terminal_id": "x", "amount": 2.5, "event_time": 7}

    found = codec.decode([_payment(row)]).table.to_pylist()[0]
    assert found["amount"] == 2.5
    assert found["channel"] is None  # the message has no such field


def _payment(row: dict[str, Any]) -> bytes:
    texts = b"".join(
        put_tag(number, 2) + put_varint(len(row[name])) + row[name].encode()
        for number, name in ((2, "terminal_id"), (3, "customer_id"), (4, "transaction_id"))
    )
    amount = b"\x00\x00\x00\x00\x00\x00\x04\x40"
    return texts + put_tag(1, 1) + amount + put_tag(9, 0) + put_varint(row["event_time"])


@named_formats
def test_what_is_written_behind_an_id_is_registered_and_read_behind_any_id(
    tiny: TinyRegistry, form: Format
) -> None:
    writer = Codec(TRANSACTION, "confluent", format=form, registry=_registry(tiny), topic="t")
    reader = Codec(TRANSACTION, "confluent", format=form)  # needs no registry: fields have names
    table = transactions(20)

    values = writer.encode(table)

    kind = {"json": "JSON", "protobuf": "PROTOBUF"}[form]
    text = (
        json.dumps(json_schema(TRANSACTION), separators=(",", ":"))
        if form == "json"
        else proto_text(TRANSACTION)
    )
    assert tiny.schemas == {1: {"schema": text, "schemaType": kind}}
    assert tiny.subjects == {"t-value": 1}
    assert all(value.startswith(b"\x00\x00\x00\x00\x01") for value in values)
    others = [value[:1] + b"\x7f\x00\x00" + bytes([row]) + value[5:] for row, value in enumerate(values)]
    for codec in (reader, writer):
        assert codec.decode(others).table.equals(table)
        assert codec.decode(values).table.equals(table)


def _registry(tiny: TinyRegistry) -> Registry:
    return Registry(RegistrySettings(url=tiny.url, retry_pause_s=0.0))


@named_formats
def test_a_bad_prefix_is_rejected_by_name_and_spoils_nothing(tiny: TinyRegistry, form: Format) -> None:
    codec = Codec(TRANSACTION, "confluent", format=form, registry=_registry(tiny), topic="t")
    table = transactions(3)
    good = codec.encode(table)

    decoded = codec.decode([good[0], b"", b"\x00\x00\x01", b"{" + good[1], good[1], None, good[2]])

    assert decoded.rows.tolist() == [0, 4, 6]
    assert decoded.table.equals(table)
    reasons = ["truncated", "truncated", "bad_magic", "null_value"]
    assert [reject.reason for reject in decoded.rejects] == reasons


def test_the_path_of_a_message_is_read_in_both_spellings_and_another_message_is_rejected(
    tiny: TinyRegistry,
) -> None:
    codec = Codec(TRANSACTION, "confluent", format="protobuf", registry=_registry(tiny), topic="t")
    table = transactions(1)
    value = codec.encode(table)[0]
    assert value[5:6] == index_bytes((0,)) == b"\x00"
    head, body = value[:5], value[6:]

    spelled = [head + b"\x00" + body, head + b"\x02\x00" + body]
    other = [head + index_bytes((1,)) + body, head + index_bytes((0, 2)) + body, head + b"\x03", head]

    assert codec.decode(spelled).rows.tolist() == [0, 1]
    rejects = codec.decode(other).rejects
    assert [reject.reason for reject in rejects] == [
        "unknown_schema",
        "unknown_schema",
        "unknown_schema",
        "truncated",
    ]
    assert rejects[0].detail == "found message index [1], expected [0]"


def test_a_message_further_down_its_file_has_its_path_in_front() -> None:
    assert index_bytes((2, 100)) == b"\x04\x04\xc8\x01"


@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_a_dead_letter_is_shown_as_its_record_or_with_what_is_wrong(tmp_path: Path, form: Format) -> None:
    keys = {"format": form, "wire": None, "writer_schemas": None}
    pipeline = loaded(tmp_path, content_with(source=keys))
    good = Codec(TRANSACTION, "raw", format=form).encode(transactions(1))[0]

    shown = [describe(letter(value=value), pipeline, False) for value in (good, good[:-1])]

    assert f"decoded   as penstock.Transaction, {form}" in shown[0]
    assert "  transaction_id  't0'" in shown[0]
    reason = {"json": "invalid_json: found no JSON at character", "protobuf": "missing_field: "}[form]
    assert f"decoded   nothing: {reason}" in shown[1] or "decoded   nothing: truncated" in shown[1]


def test_labels_have_a_format_of_their_own(tmp_path: Path) -> None:
    labels = {"topic": "labels", "schema": "label.avsc", "format": "json"}
    labels |= {"event_id": "event_id", "label": "fraud"}
    content = content_with() | {"truth": {"topic": "cards.truth", "labels": labels}}
    pipeline = loaded(tmp_path, content)

    codec = codec_for(pipeline, "labels")

    assert codec is not None
    assert (codec.format, codec.wire, codec.reader.name) == ("json", "raw", "penstock.Label")
    figures = codec_for(pipeline, "cards.truth")
    assert figures is not None
    assert (figures.format, figures.wire) == ("avro", "single_object")


@pytest.mark.parametrize("form", FORMATS)
def test_doctor_and_validate_name_the_format(tmp_path: Path, form: Format) -> None:
    wire = "single_object" if form == "avro" else "raw"
    keys = {"format": form, "wire": wire}
    pipeline = load_pipeline(alone(tmp_path, "", source=keys, outputs=keys), {})

    said = planned(pipeline, {})

    assert f"{form}, wire {wire}; a new group begins" in said
    assert f"writes ({form}, wire {wire})" in said
    found = {
        "avro": "fingerprint",
        "json": "as JSON",
        "protobuf": "as the Protobuf message penstock.Transaction",
    }
    assert found[form] in _schema(pipeline).found
