"""The benchmark of alerts breaks what the chaos suite breaks, by the shipped rules in a shorter time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from benchmarks import alerts_page
from benchmarks.alert_faults import HELD
from benchmarks.alerts import RULES, scaled
from tests.chaos.faults import KINDS


def test_every_kind_of_fault_is_held() -> None:
    assert {kind for kind, fault in HELD.items() if fault.is_of_chaos} == KINDS.keys()


def test_durations_and_ages_are_divided_and_nothing_else_is() -> None:
    expression = (
        "max(quantile_over_time(0.5, (a)[30m:15s])) > 0.01 and rate(b[1h] offset 10m) > 14.4 * 0.01 "
        "and max by (pipeline) (penstock_lag_seconds) > 300 and rate(c:rate5m[20s]) > 60"
    )
    rules = yaml.safe_dump({"groups": [{"name": "g", "rules": [{"expr": expression, "for": "5m"}]}]})

    rule = yaml.safe_load(scaled(rules, 10))["groups"][0]["rules"][0]

    assert rule["for"] == "30s"
    assert rule["expr"] == (
        "max(quantile_over_time(0.5, (a)[180s:2s])) > 0.01 and rate(b[360s] offset 60s) > 14.4 * 0.01 "
        "and max by (pipeline) (penstock_lag_seconds) > 30 and rate(c:rate5m[4s]) > 60"
    )


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (package prometheus) is not installed")
def test_prometheus_accepts_the_rules_in_a_shorter_time(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(scaled(RULES.read_text(), 10))

    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_in_the_runbook_is_that_of_the_committed_result() -> None:
    page = alerts_page.PAGE.read_text()

    assert "<!-- alerts -->" in page
    assert page == alerts_page.written(page), "run `python -m benchmarks.alerts_page`"
