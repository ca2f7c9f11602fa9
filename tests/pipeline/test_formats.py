"""The same events as JSON, Protobuf and Avro get the same scores, alerts and dead letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.workers import create_topics, running, topics_of
from schemas.codec import Codec
from schemas.form import FORMATS, Format
from schemas.schema import load_schema
from tests.pipeline.streams import Outcomes, Reader, alone, assert_same, fill, transactions

EVENTS, PARTITIONS = 3_000, 2
CUT, KEYLESS = 1_234, 2_345  # records that are cut short, and whose key is another


def pipeline_of(form: Format, folder: Path, prefix: str) -> Path:
    """The fraud pipeline with its events and outputs in one format."""
    own = folder / form
    own.mkdir()
    keys: dict[str, Any] = {"format": form, "wire": "single_object" if form == "avro" else "raw"}
    file = alone(own, prefix, source=keys, outputs=keys)
    document = yaml.safe_load(file.read_text())
    document["name"] = form  # pipelines of one process have different names
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def records_of(form: Format) -> tuple[list[bytes], list[bytes]]:
    keys, values = transactions(EVENTS, seed=43, odd_share=0.02, odd_amount=900.5)
    schema = load_schema("transaction")
    table = Codec(schema, "single_object").decode(values).table
    values = Codec(schema, "single_object" if form == "avro" else "raw", format=form).encode(table)
    values[CUT] = values[CUT][:-1]
    keys[KEYLESS] = keys[KEYLESS] + b"x"
    return keys, values


def reader_of(form: Format, kafka: str, prefix: str) -> Reader:
    reader = Reader(kafka, prefix)
    wire: Any = "single_object" if form == "avro" else "raw"
    reader._codecs = {kind: Codec(load_schema(kind[:-1]), wire, format=form) for kind in ("scores", "alerts")}
    return reader


@pytest.mark.kafka
def test_scores_alerts_and_dead_letters_are_the_same_in_every_format(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    env = {"PENSTOCK_KAFKA": kafka_bootstrap, "PENSTOCK_STORE": "memory://", "PENSTOCK_DEVICE": "cpu"}
    prefixes = {form: f"{topic_prefix}{form}." for form in FORMATS}
    found: dict[Format, Outcomes] = {}

    for form, prefix in prefixes.items():
        create_topics(kafka_bootstrap, topics_of(prefix, PARTITIONS))
        fill(kafka_bootstrap, f"{prefix}transactions", *records_of(form))
    files = [pipeline_of(form, tmp_path, prefix) for form, prefix in prefixes.items()]
    with running([files], tmp_path, env):
        for form, prefix in prefixes.items():
            reader = reader_of(form, kafka_bootstrap, prefix)
            found[form] = reader.read_all(EVENTS)
            reader.close()

    reasons = {form: sorted(outcomes.dead_letters.values()) for form, outcomes in found.items()}
    cut = {"avro": "truncated", "json": "invalid_json", "protobuf": "truncated"}
    assert reasons == {form: sorted(["key_mismatch", reason]) for form, reason in cut.items()}
    assert found["avro"].alerts
    for form in FORMATS:
        assert found[form].dead_letters.keys() == found["avro"].dead_letters.keys()
        assert_same(found[form], found["avro"], EVENTS)
