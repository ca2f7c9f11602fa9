"""Every alert rule fires over what it is for, is silent beside it, and has its place in the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.compose_file import ROOT
from tests.deploy.rule_cases import CASES as WORKERS
from tests.deploy.rule_cases import Case
from tests.deploy.rule_cases_state import CASES as STATE
from tests.docs.pages import rows

RULES = ROOT / "deploy" / "rules" / "penstock.yml"
RUNBOOK = ROOT / "docs" / "runbook.md"
CASES = (*WORKERS, *STATE)


def _alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def _told(text: str, labels: dict[str, str]) -> str:
    """An annotation with the labels in their places, as Prometheus writes it."""
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)


def _expected(rule: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    said = {name: _told(text, labels) for name, text in rule["annotations"].items()}
    return {"exp_labels": {**labels, **rule["labels"]}, "exp_annotations": said}


def _as_promtool(case: Case) -> dict[str, Any]:
    rule = _alerts()[case.alert]
    return {
        "name": f"{case.alert}: {case.why or 'fires'}",
        "interval": case.step,
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "alert_rule_test": [
            {
                "eval_time": case.at,
                "alertname": case.alert,
                "exp_alerts": [_expected(rule, dict(labels)) for labels in case.fires],
            }
        ],
    }


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (package prometheus) is not installed")
def test_every_rule_fires_over_its_trouble_and_is_silent_beside_it(tmp_path: Path) -> None:
    files = []
    for step in {case.step for case in CASES}:
        tests = [_as_promtool(case) for case in CASES if case.step == step]
        document = {"rule_files": [str(RULES)], "evaluation_interval": step, "tests": tests}
        files.append(tmp_path / f"{step}.yml")
        files[-1].write_text(yaml.safe_dump(document, sort_keys=False))

    done = subprocess.run(
        ["promtool", "test", "rules", *map(str, files)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires = Counter(case.alert for case in CASES if case.fires)
    silent = Counter(case.alert for case in CASES if not case.fires)

    assert fires.keys() == silent.keys() == _alerts().keys()
    assert all(case.why for case in CASES if not case.fires)


@pytest.mark.parametrize("name", _alerts())
def test_an_alert_says_what_is_wrong_how_bad_it_is_and_where_it_is_explained(name: str) -> None:
    rule = _alerts()[name]

    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    # The anchor that Markdown makes of the heading.
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def _told_of() -> dict[str, str]:
    """By alert, what the runbook says of it."""
    parts = re.split(r"^### (\w+)\n", RUNBOOK.read_text(), flags=re.MULTILINE)
    said = {name: text.partition("\n## ")[0] for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    return {name: text for name, text in said.items() if name.startswith("Penstock")}


def test_the_runbook_explains_every_rule_once_and_no_other() -> None:
    headings = re.findall(r"^### (Penstock\w+)$", RUNBOOK.read_text(), re.MULTILINE)

    assert headings == list(_alerts())


@pytest.mark.parametrize("name", _alerts())
def test_the_runbook_says_symptom_cause_and_action(name: str) -> None:
    said = _told_of()[name]
    rule = _alerts()[name]

    assert f"**{rule['labels']['severity']}**" in said
    assert f"after {rule.get('for', 'no wait')}" in said
    (head, *causes) = rows(f"| cause | action |\n{said[said.index('| cause') :]}")
    assert head == ["cause", "action"]
    assert causes
    assert all(len(cells) == 2 and all(cells) for cells in causes)
