"""What editors and readers are told about the pipeline file is what the types say."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker.pipeline_docs import (
    DOCS_FILE,
    MARKED,
    NOT_IN_FILE,
    SCHEMA_FILE,
    SECTIONS,
    json_schema,
    key_tables,
    written_docs,
    written_schema,
)

ROOT = Path(__file__).parent.parent.parent
REWRITE = "run `python -m worker.pipeline_docs`"


def test_the_committed_json_schema_is_current() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == written_schema(), REWRITE


def test_the_tables_of_the_page_are_current_and_complete() -> None:
    page = DOCS_FILE.read_text(encoding="utf-8")

    assert page == written_docs(page, key_tables(json_schema())), REWRITE
    assert sorted(match["name"] for match in MARKED.finditer(page)) == sorted(SECTIONS)


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_every_key_has_a_meaning_and_a_default_or_is_required(name: str) -> None:
    fields = [field.name for field in dataclasses.fields(SECTIONS[name]) if field.name not in NOT_IN_FILE]
    rows = key_tables(json_schema())[name].splitlines()[2:]

    assert len(rows) == len(fields)
    for row in rows:
        assert re.fullmatch(r"\| `[a-z_]+` \| (required|computed|`.+`) \| .+\. \|", row), row


@pytest.mark.parametrize("name", ["fraud", "terminal-risk", "maintenance"])
def test_the_shipped_files_point_editors_at_the_schema_and_use_only_its_keys(name: str) -> None:
    file = ROOT / "pipelines" / f"{name}.yaml"
    text = file.read_text()
    first = text.splitlines()[0]

    assert first == "# yaml-language-server: $schema=../worker/pipeline.schema.json"
    assert (file.parent / first.split("=")[1]).resolve() == SCHEMA_FILE.resolve()
    schema = json.loads(SCHEMA_FILE.read_text())
    for key, value in yaml.safe_load(text).items():
        assert key in schema["properties"]
        section: dict[str, Any] = schema["$defs"].get(key.capitalize(), {}).get("properties", {})
        assert not section or set(value or ()) <= set(section)


def test_fraud_yaml_writes_out_every_key_of_its_sections() -> None:
    content = yaml.safe_load((ROOT / "pipelines" / "fraud.yaml").read_text())
    schema = json_schema()
    sections = {
        "kafka": "Kafka",
        "source": "Source",
        "model": "ModelRef",
        "outputs": "Outputs",
        "batching": "Batching",
        "delivery": "Delivery",
        "state": "State",
        "dead_letters": "DeadLetterPolicy",
        "admin": "Admin",
    }

    assert set(content) == set(schema["properties"])
    for key, name in sections.items():
        assert set(content[key]) == set(schema["$defs"][name]["properties"])
