"""Writes the dashboards from the lists in panels_of/: python deploy/grafana/make_dashboards.py"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # Grafana's folder is no package

from panels_of.capacity import CAPACITY  # noqa: E402
from panels_of.latency import LATENCY  # noqa: E402
from panels_of.models import MODELS  # noqa: E402
from panels_of.overview import OVERVIEW  # noqa: E402
from panels_of.panel import Dashboard, Panel  # noqa: E402
from panels_of.state import STATE  # noqa: E402

DASHBOARDS = (OVERVIEW, LATENCY, STATE, MODELS, CAPACITY)
OUT = HERE / "dashboards"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH, STAT_WIDTH, STAT_HEIGHT, HEIGHT = 24, 4, 4, 8


def text(dashboard: Dashboard) -> str:
    """A dashboard as Grafana reads it."""
    return json.dumps(_dashboard(dashboard), indent=1) + "\n"


def _dashboard(dashboard: Dashboard) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in dashboard.rows:
        if title:
            box = {"x": 0, "y": y, "w": WIDTH, "h": 1}
            panels.append(
                {"id": len(panels) + 1, "type": "row", "title": title, "gridPos": box, "panels": []}
            )
            y += 1
        x, height = 0, 0
        for panel in row:
            w, h = (STAT_WIDTH, STAT_HEIGHT) if panel.is_stat else (WIDTH // dashboard.across, HEIGHT)
            if x + w > WIDTH:
                x, y, height = 0, y + height, 0
            panels.append(_panel(panel, len(panels) + 1, {"x": x, "y": y, "w": w, "h": h}))
            x, height = x + w, max(height, h)
        y += height
    return {
        "uid": dashboard.uid,
        "title": f"Penstock: {dashboard.name}",
        "description": dashboard.description,
        "tags": ["penstock"],
        "schemaVersion": 39,
        "version": 2,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_ALERTS]},
        "links": [
            {"type": "dashboards", "tags": ["penstock"], "title": "", "keepTime": True, "includeVars": True}
        ],
        "templating": {"list": [_PIPELINE]},
        "panels": panels,
    }


_ALERTS = {
    "name": "Alerts",
    "datasource": SOURCE,
    "enable": True,
    "iconColor": "red",
    "expr": 'ALERTS{alertname=~"Penstock.*", alertstate="firing"}',
    "titleFormat": "{{alertname}}",
    "textFormat": "{{pipeline}} {{instance}}",
    "step": "15s",
}
_PIPELINE = {
    "name": "pipeline",
    "label": "Pipeline",
    "type": "query",
    "datasource": SOURCE,
    "query": {"query": "label_values(penstock_events_total, pipeline)", "refId": "pipelines"},
    "definition": "label_values(penstock_events_total, pipeline)",
    "refresh": 2,
    "includeAll": True,
    "multi": True,
    "current": {"text": "All", "value": "$__all"},
    "sort": 1,
}


def _panel(panel: Panel, number: int, box: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "stat" if panel.is_stat else "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": box,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _STAT if panel.is_stat else _SERIES,
        "targets": [
            {"refId": chr(ord("A") + i), "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(panel.queries)
        ],
    }


def _field(panel: Panel) -> dict[str, Any]:
    field: dict[str, Any] = {"unit": panel.unit}
    if not panel.may_be_negative:
        field["min"] = 0
    if not panel.is_stat:
        field["custom"] = {"lineWidth": 1, "fillOpacity": 5, "showPoints": "never"}
    # Without steps of its own Grafana paints every number above 80 red.
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.warn_at is not None:
        steps.append({"color": "orange", "value": panel.warn_at})
        if not panel.is_stat:
            field["custom"]["thresholdsStyle"] = {"mode": "dashed"}
    field["thresholds"] = {"mode": "absolute", "steps": steps}
    return field


_STAT = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
_SERIES = {
    "legend": {"displayMode": "list", "placement": "bottom"},
    "tooltip": {"mode": "multi", "sort": "desc"},
}


if __name__ == "__main__":
    for each in DASHBOARDS:
        (OUT / f"{each.name}.json").write_text(text(each))
