"""Writes the schemas beside it from the packages that README.md names."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

MODELS = {
    "ScaledObject": "cloudcoil.models.keda.v1alpha1",
    "ServiceMonitor": "cloudcoil.models.prometheus_operator.v1",
    "PrometheusRule": "cloudcoil.models.prometheus_operator.v1",
}
SAID_ONLY = {"title", "description", "default", "examples"}


def strict(node: Any) -> Any:
    """The schema without what it only says, and closed to keys that it does not name."""
    if isinstance(node, list):
        return [strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):
            kept[key] = {name: strict(each) for name, each in value.items()}
        elif key not in SAID_ONLY:
            kept[key] = strict(value)
    if "properties" in kept:
        kept["additionalProperties"] = False
    return kept


if __name__ == "__main__":
    for kind, module in MODELS.items():
        schema = strict(getattr(importlib.import_module(module), kind).model_json_schema(by_alias=True))
        schema["properties"].pop("status", None)  # only ever written by its operator
        schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
        text = json.dumps(schema, separators=(",", ":"), sort_keys=True)
        (Path(__file__).parent / f"{kind}.json").write_text(f"{text}\n")
