"""Writes what editors and readers need from the types: the JSON Schema and the tables of the keys.

`python -m worker.pipeline_docs` rewrites both files; a test holds them current.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic_core import PydanticUndefined

from worker import (
    console_types,
    feature_types,
    format_types,
    model_types,
    pipeline_types,
    rollout_types,
    truth_types,
    watch_types,
)
from worker.pipeline_types import Pipeline

SCHEMA_FILE = Path(__file__).parent / "pipeline.schema.json"
DOCS_FILE = Path(__file__).parent.parent / "docs" / "pipeline-file.md"
NOT_IN_FILE = ("path", "secrets")
COMPUTED = frozenset(
    {
        ("Kafka", "group"),
        ("SequenceFeature", "capacity"),
        *((section, "wire") for section in ("Source", "Outputs", "TruthLabels")),
    }
)
SECTIONS = {
    name: member
    for module in (
        console_types,
        pipeline_types,
        feature_types,
        format_types,
        model_types,
        rollout_types,
        truth_types,
        watch_types,
    )
    for name, member in vars(module).items()
    if hasattr(member, "__pydantic_fields__")
}
VERBATIM = frozenset({"default", "const", "enum", "required", "examples", "description"})
# Any value may come from outside; what it then is, only the start can tell.
SUBSTITUTION = {"type": "string", "pattern": r"\$\{.+\}"}
MARKED = re.compile(r"<!-- keys: (?P<name>\w+) -->\n.*?<!-- end -->", re.DOTALL)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a pipeline file, as editors read it."""
    schema = TypeAdapter(Pipeline).json_schema(by_alias=True)
    sections = {"Pipeline": schema, **schema.pop("$defs")}
    for name, section in sections.items():
        _complete(section, SECTIONS[name])
    root = sections.pop("Pipeline")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock pipeline file",
        **_substitutable(root),
        "$defs": {name: _substitutable(section) for name, section in sections.items()},
    }


def _complete(section: dict[str, Any], section_type: Any) -> None:
    """Put in defaults as the file writes them, the description of every key, and that `kind` is required."""
    del section["title"]
    hints = get_type_hints(section_type, include_extras=True)
    for name, info in section_type.__pydantic_fields__.items():
        key = info.alias
        if name in NOT_IN_FILE:
            del section["properties"][key]
            continue
        node = section["properties"][key]
        node["description"] = info.description
        node.pop("default", None)
        node.pop("title", None)
        if key == "kind":
            section["required"] = ["kind", *section.get("required", [])]
        elif (section_type.__name__, key) not in COMPUTED and info.default is not PydanticUndefined:
            adapter: TypeAdapter[Any] = TypeAdapter(hints[name])
            node["default"] = adapter.dump_python(info.default, mode="json")


def _substitutable(node: Any) -> Any:
    """Return the schema with `${...}` allowed wherever something other than free text stands."""
    if isinstance(node, list):
        return [_substitutable(member) for member in node]
    if not isinstance(node, dict):
        return node
    kept: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "patternProperties"):  # below it the keys are those of the file
            kept[key] = {name: _substitutable(member) for name, member in value.items()}
        elif key != "discriminator":  # an extension of OpenAPI that editors do not know
            kept[key] = value if key in VERBATIM else _substitutable(value)
    if "patternProperties" in kept:
        kept["additionalProperties"] = False
    is_text = kept.get("type") == "string" and not {"pattern", "enum"} & kept.keys()
    if is_text or kept.get("type") not in ("string", "integer", "number", "boolean"):
        return kept
    outside = {key: kept.pop(key) for key in ("description", "default") if key in kept}
    return {**outside, "anyOf": [kept, SUBSTITUTION]}


def key_tables(schema: Mapping[str, Any]) -> dict[str, str]:
    """Return a Markdown table of the keys of each section, by the name of its type."""
    sections = {"Pipeline": schema, **schema["$defs"]}
    return {name: _table(name, section) for name, section in sections.items()}


def _table(name: str, section: Mapping[str, Any]) -> str:
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key, node in section["properties"].items():
        if key in section.get("required", []):
            default = "required"
        elif "default" in node:
            default = f"`{json.dumps(node['default'])}`".replace('"', "")
        elif (name, key) in COMPUTED:
            default = "computed"
        else:
            default = "`{}`"
        lines.append(f"| `{key}` | {default} | {node['description']} |")
    return "\n".join(lines)


def written_docs(text: str, tables: Mapping[str, str]) -> str:
    """Return the page with the table between each pair of marks replaced by the current one."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- keys: {match['name']} -->\n{tables[match['name']]}\n<!-- end -->"

    return MARKED.sub(table, text)


def written_schema() -> str:
    """Return the text of the committed JSON Schema."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(written_schema(), encoding="utf-8")
    page = DOCS_FILE.read_text(encoding="utf-8")
    DOCS_FILE.write_text(written_docs(page, key_tables(json_schema())), encoding="utf-8")
