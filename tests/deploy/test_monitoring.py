"""Prometheus and Grafana ask for metrics that the worker has, in queries that parse."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from tests.deploy.compose_file import ROOT, published, services
from worker.metrics import Families

DASHBOARD: dict[str, Any] = json.loads(
    (ROOT / "deploy" / "grafana" / "dashboards" / "penstock.json").read_text()
)
RULES = ROOT / "deploy" / "rules" / "penstock.yml"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (package prometheus) is not installed"
)


def _dashboard_queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def _rule_queries() -> list[str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def _series_by_label() -> dict[str, set[str]]:
    """Return every series name the worker exposes, with its labels."""
    registry = CollectorRegistry()
    series: dict[str, set[str]] = {}
    for family in vars(Families(registry)).values():
        labels = set(family._labelnames)
        kind = family._type
        ends = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[kind]
        for end in ends:
            series[f"{family._name}{end}"] = labels | ({"le"} if end == "_bucket" else set())
    return series


@pytest.mark.parametrize("query", [*_dashboard_queries(), *_rule_queries()])
def test_every_metric_and_label_asked_for_is_one_that_the_worker_has(query: str) -> None:
    known = _series_by_label()
    asked = set(re.findall(r"\bpenstock_\w+", query))
    assert asked <= known.keys()
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
    for name in asked:
        assert grouped - {"instance"} <= known[name]


def test_panels_lie_beside_each_other_and_have_names_of_their_own() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        box = panel["gridPos"]
        right, bottom = box["x"] + box["w"], box["y"] + box["h"]
        own = set(itertools.product(range(box["x"], right), range(box["y"], bottom)))
        assert not own & cells, panel["title"]
        assert right <= 24
        cells |= own
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    assert len(set(titles)) == len(titles)


def test_grafana_finds_its_data_and_its_dashboard_where_compose_puts_them() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((provisioning / "dashboards" / "penstock.yml").read_text())["providers"][0]
    grafana, prometheus = services()["grafana"], services()["prometheus"]
    mounts = dict(entry.split(":")[:2][::-1] for entry in grafana["volumes"])

    assert source["url"] == f"http://prometheus:{next(iter(published(prometheus)))}"
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    assert mounts[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (ROOT / mounts[str(home.parent)] / home.name).exists()


@needs_promtool
def test_prometheus_accepts_its_configuration_and_rules() -> None:
    _promtool("check", "config", str(ROOT / "deploy" / "prometheus.yml"))


@needs_promtool
def test_every_query_of_the_dashboard_is_valid_promql(tmp_path: Path) -> None:
    # promtool checks expressions only in rule files, so the panels' queries are written as rules.
    queries = [query.replace("$__rate_interval", "1m") for query in _dashboard_queries()]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    _promtool("check", "rules", str(file))


def _promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
