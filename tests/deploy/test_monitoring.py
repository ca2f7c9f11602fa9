"""Prometheus and Grafana ask for metrics that the worker has, in queries that parse."""

from __future__ import annotations

import itertools
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from tests.deploy.compose_file import ROOT, published, services
from tests.deploy.dashboards import DASHBOARDS, GRAFANA, every_panel, every_query
from worker.metrics import Families

RULES = ROOT / "deploy" / "rules" / "penstock.yml"
# Of Prometheus itself, the client library, and the exporters that deploy/prometheus.yml asks.
OTHERS = re.compile(r"\b(up|ALERTS|process_\w+|redis_\w+|DCGM_\w+|penstock:late_share:rate\w+)\b")
GROUPED = re.compile(r"by \(([^)]*)\) \((?:\w+\(|\()*(penstock_\w+)")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (package prometheus) is not installed"
)


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def _queries() -> list[str]:
    return [*every_query(), *(rule["expr"] for rule in _rules())]


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


@pytest.mark.parametrize("query", _queries())
def test_every_metric_and_label_asked_for_is_one_that_there_is(query: str) -> None:
    known = _series_by_label()
    asked = set(re.findall(r"\bpenstock_\w+", query))

    assert asked or OTHERS.search(query)
    assert asked <= known.keys()
    for labels, name in GROUPED.findall(query):
        assert {label.strip() for label in labels.split(",")} - {"instance"} <= known[name]


def test_every_metric_of_the_worker_is_on_a_panel_or_in_a_rule() -> None:
    asked = {name for query in _queries() for name in re.findall(r"\bpenstock_\w+", query)}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    known = {re.sub(r"_(bucket|sum|count)$", "", name) for name in _series_by_label()}

    assert sorted(known - families) == []


def test_every_recorded_series_that_is_asked_for_is_recorded_and_none_for_nothing() -> None:
    asked = {name for query in _queries() for name in re.findall(r"\bpenstock:[\w:]+", query)}

    assert asked == {rule["record"] for rule in _rules() if "record" in rule}


def test_the_dashboards_are_those_of_the_script() -> None:
    made = runpy.run_path(str(GRAFANA / "make_dashboards.py"))

    assert {file.name for file in (GRAFANA / "dashboards").iterdir()} == {
        f"{dashboard.name}.json" for dashboard in made["DASHBOARDS"]
    }
    for dashboard in made["DASHBOARDS"]:
        written = (GRAFANA / "dashboards" / f"{dashboard.name}.json").read_text()
        assert written == made["text"](dashboard), "run `python deploy/grafana/make_dashboards.py`"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_beside_each_other_and_have_names_and_words_of_their_own(name: str) -> None:
    cells: set[tuple[int, int]] = set()
    panels = DASHBOARDS[name]["panels"]
    for panel in panels:
        box = panel["gridPos"]
        right, bottom = box["x"] + box["w"], box["y"] + box["h"]
        own = set(itertools.product(range(box["x"], right), range(box["y"], bottom)))
        assert not own & cells, panel["title"]
        assert right <= 24
        cells |= own
        assert panel["type"] == "row" or panel["description"]
    for own_name in ("title", "id"):
        assert len({panel[own_name] for panel in panels}) == len(panels)


def test_dashboards_have_addresses_of_their_own() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


def test_grafana_finds_its_data_and_its_dashboards_where_compose_puts_them() -> None:
    provisioning = GRAFANA / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((provisioning / "dashboards" / "penstock.yml").read_text())["providers"][0]
    grafana, prometheus = services()["grafana"], services()["prometheus"]
    mounts = dict(entry.split(":")[:2][::-1] for entry in grafana["volumes"])

    assert source["url"] == f"http://prometheus:{next(iter(published(prometheus)))}"
    assert {panel["datasource"]["uid"] for panel in every_panel()} == {source["uid"]}
    assert mounts[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (ROOT / mounts[str(home.parent)] / home.name).exists()


def test_prometheus_asks_services_that_compose_starts() -> None:
    jobs = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    names = {name for job in jobs for found in job["dns_sd_configs"] for name in found["names"]}

    assert names <= services().keys()
    assert {job["job_name"] for job in jobs} == {"penstock", "redis", "gpu"}


@needs_promtool
def test_prometheus_accepts_its_configuration_and_rules() -> None:
    _promtool("check", "config", str(ROOT / "deploy" / "prometheus.yml"))


@needs_promtool
def test_every_query_of_the_dashboards_is_valid_promql(tmp_path: Path) -> None:
    # promtool checks expressions only in rule files, so the panels' queries are written as rules.
    queries = [query.replace("$__rate_interval", "1m") for query in every_query()]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    _promtool("check", "rules", str(file))


def _promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
