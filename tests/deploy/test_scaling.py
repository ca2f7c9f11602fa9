"""What KEDA scales by: the queries ask for what is served, and their answers are the workers wanted."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from tests.deploy.kubernetes_files import (
    KUBERNETES,
    LOGINS,
    Object,
    build,
    combined,
    named,
    needs_kustomize,
)
from worker.lag_command import BacklogMetrics
from worker.metrics import Families

pytestmark = needs_kustomize
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (package prometheus) is not installed"
)


def scaled() -> Object:
    """How the example is scaled."""
    found: Object = named(build(LOGINS), "ScaledObject", "logins-worker")["spec"]
    return found


def trigger(name: str) -> Object:
    """One of its triggers."""
    (found,) = (each for each in scaled()["triggers"] if each["name"] == name)
    of: Object = found["metadata"]
    return of


def test_the_deployment_that_is_scaled_is_there_and_leaves_its_number_to_keda() -> None:
    objects = build(LOGINS)

    assert scaled()["scaleTargetRef"]["name"] == "logins-worker"
    assert "replicas" not in named(objects, "Deployment", "logins-worker")["spec"]
    assert named(objects, "Deployment", "logins-lag")["spec"]["replicas"] == 1


def test_there_may_be_none_and_at_most_one_a_partition_also_when_nothing_is_known() -> None:
    assert scaled()["minReplicaCount"] == 0
    assert scaled()["fallback"]["replicas"] == scaled()["maxReplicaCount"] > 1
    # KEDA falls back only where a metric is an average.
    assert {each["metricType"] for each in scaled()["triggers"]} == {"AverageValue"}
    assert trigger("waiting")["ignoreNullValues"] == "false"


def test_an_overlay_that_forgot_its_numbers_has_one_worker_and_asks_for_nobody(tmp_path: Path) -> None:
    forgot = named(combined(tmp_path, "scale-on-lag"), "ScaledObject", "mine-worker")["spec"]

    assert forgot["maxReplicaCount"] == 1
    assert all('pipeline="PIPELINE"' in each["metadata"]["query"] for each in forgot["triggers"])


@pytest.mark.parametrize("name", ["waiting", "busy"])
def test_every_metric_and_label_asked_for_is_served(name: str) -> None:
    lag = {
        metric._name: set(metric._labelnames) for metric in vars(BacklogMetrics(CollectorRegistry())).values()
    }
    stages = Families(CollectorRegistry()).stage_seconds
    served = {**lag, f"{stages._name}_sum": set(stages._labelnames)}
    query = trigger(name)["query"]
    (metric, matchers) = re.findall(r"(penstock_\w+)\{([^}]*)\}", query)[0]
    labels = dict(re.findall(r'(\w+)="([^"]*)"', matchers))

    assert labels.keys() <= served[metric]
    assert labels["pipeline"] == "logins"


def _answers(tmp_path: Path, series: dict[str, str], at: str, expected: dict[str, float | None]) -> None:
    """Prometheus's own answer to each query, for these series."""
    rules = [
        {"record": f"asked:{name}", "expr": f"round({trigger(name)['query']}, 0.001)"} for name in expected
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    test: dict[str, Any] = {
        "interval": "10s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"asked:{name}",
                "eval_time": at,
                "exp_samples": [] if value is None else [{"labels": f"asked:{name}", "value": value}],
            }
            for name, value in expected.items()
        ],
    }
    _hold(tmp_path, test)


def _hold(tmp_path: Path, test: dict[str, Any]) -> None:
    """Let Prometheus itself judge one test of the rules in rules.yml."""
    file = tmp_path / "test.yml"
    whole = {"rule_files": ["rules.yml"], "evaluation_interval": "10s", "tests": [test]}
    file.write_text(yaml.safe_dump(whole))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def wanted(answers: dict[str, float | None]) -> int:
    """How many workers that comes to, as KEDA and the autoscaler compute it; -1: nobody knows."""
    if answers["waiting"] is None:
        return -1
    known = {name: value or 0.0 for name, value in answers.items()}
    if not any(value > float(trigger(name)["activationThreshold"]) for name, value in known.items()):
        return 0
    most = max(math.ceil(value / float(trigger(name)["threshold"])) for name, value in known.items())
    return min(max(1, most), int(scaled()["maxReplicaCount"]))


def backlog(partition: int, values: str) -> dict[str, str]:
    """One partition's age, as the lag pod serves it."""
    return {f'penstock_backlog_seconds{{pipeline="logins",partition="{partition}"}}': values}


def polls(instance: str, seconds_per_10s: float) -> dict[str, str]:
    """A worker that spends so much of ten seconds waiting for records."""
    labels = f'pipeline="logins",stage="poll",instance="{instance}"'
    return {f"penstock_stage_seconds_sum{{{labels}}}": f"0+{seconds_per_10s}x60"}


OTHERS = {'penstock_backlog_seconds{pipeline="another",partition="0"}': "9999x60"}
# Series; what the queries answer; how many workers that is.
CASES: dict[str, tuple[dict[str, str], dict[str, float | None], int]] = {
    "no worker and nothing waits": (
        {**backlog(0, "0x60"), **backlog(1, "0x60")},
        {"waiting": 0.0, "busy": None},
        0,
    ),
    "one record wakes the first": (
        {**backlog(0, "0x60"), **backlog(1, "0.4x60")},
        {"waiting": 0.4, "busy": None},
        1,
    ),
    "later means more": ({**backlog(0, "75x60"), **polls("a", 0)}, {"waiting": 75.0, "busy": 1.0}, 3),
    "never more than partitions": (
        {**backlog(0, "900x60"), **polls("a", 0)},
        {"waiting": 900.0, "busy": 1.0},
        4,
    ),
    "nothing waits, and two that are busy stay two": (
        {**backlog(0, "0.2x60"), **polls("a", 4), **polls("b", 4)},
        {"waiting": 0.2, "busy": 1.2},
        2,
    ),
    "three that idle are two too many": (
        {**backlog(0, "0.2x60"), **polls("a", 9), **polls("b", 9), **polls("c", 9)},
        {"waiting": 0.2, "busy": 0.3},
        1,
    ),
    "an idle worker keeps nobody": (
        {**backlog(0, "0x60"), **polls("a", 9.9)},
        {"waiting": 0.0, "busy": 0.01},
        0,
    ),
    "not known is not zero": (polls("a", 5), {"waiting": None, "busy": 0.5}, -1),
}


@needs_promtool
@pytest.mark.parametrize("case", CASES)
def test_the_answers_are_the_workers_wanted(case: str, tmp_path: Path) -> None:
    series, answers, workers = CASES[case]

    _answers(tmp_path, {**OTHERS, **series}, "5m", answers)
    assert wanted(answers) == workers


EVENTS = 'penstock_events_total{pipeline="logins",instance="a"}'
KNOWN = 'penstock_backlog_known{pipeline="logins"}'
# Series; whether nobody reads, whether the lag is unknown: after ten minutes.
ALARMS: dict[str, tuple[dict[str, str], bool, bool]] = {
    "nothing waits": ({**backlog(0, "0x90"), KNOWN: "1x90"}, False, False),
    "records wait and no worker is there": ({**backlog(0, "0+10x90"), KNOWN: "1x90"}, True, False),
    "records wait and a worker stands still": (
        {**backlog(0, "0+10x90"), KNOWN: "1x90", EVENTS: "7x90"},
        True,
        False,
    ),
    "records wait and a worker catches up": (
        {**backlog(0, "900x90"), KNOWN: "1x90", EVENTS: "0+500x90"},
        False,
        False,
    ),
    "Kafka does not answer": ({KNOWN: "0x90"}, False, True),
    "no lag pod is there": ({}, False, True),
}


@needs_promtool
@pytest.mark.parametrize("case", ALARMS)
def test_somebody_is_told_that_nobody_reads_or_that_the_lag_is_unknown(case: str, tmp_path: Path) -> None:
    series, nobody, unknown = ALARMS[case]
    rules = named(build(KUBERNETES / "monitoring"), "PrometheusRule", "penstock-waiting")["spec"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    firing = {"PenstockNobodyReads": nobody, "PenstockLagUnknown": unknown}
    assert {rule["alert"] for group in rules["groups"] for rule in group["rules"]} == firing.keys()
    states = "count by (alertname, alertstate) (ALERTS{alertstate='firing'})"
    expected = [
        {"labels": f"{{alertname={alert!r}, alertstate='firing'}}".replace("'", '"'), "value": 1}
        for alert, is_firing in firing.items()
        if is_firing
    ]
    _hold(
        tmp_path,
        {
            "interval": "10s",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [{"expr": states, "eval_time": "10m", "exp_samples": expected}],
        },
    )
