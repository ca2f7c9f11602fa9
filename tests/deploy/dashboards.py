"""The dashboards as the tests see them."""

from __future__ import annotations

import json
from typing import Any

from tests.deploy.compose_file import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS: dict[str, dict[str, Any]] = {
    file.stem: json.loads(file.read_text()) for file in sorted((GRAFANA / "dashboards").glob("*.json"))
}


def every_panel() -> list[dict[str, Any]]:
    """Every panel that asks for something."""
    return [p for dashboard in DASHBOARDS.values() for p in dashboard["panels"] if p["type"] != "row"]


def every_query() -> list[str]:
    """What all of them ask."""
    return [target["expr"] for panel in every_panel() for target in panel["targets"]]
