"""What the pages say of reasons, metrics, exit codes, fields and variables is what the code has."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tests.chaos import page as chaos_page
from tests.docs.numbers import README, written
from tests.docs.pages import ROOT, links, marked, pages, rows, section
from worker import metric_docs
from worker.exits import Exit
from worker.lag_command import BacklogMetrics
from worker.metrics import STAGES, Families

DOCS = ROOT / "docs"
CODE = sorted([*(ROOT / "schemas").glob("*.py"), *(ROOT / "worker").glob("*.py")])


def _page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=_page_id)
def test_every_link_into_the_repository_leads_somewhere(page: Path) -> None:
    missing = [target for target in links(page) if not (page.parent / target).exists()]

    assert missing == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, wanted = set[Path](), {README}
    while wanted:
        page = wanted.pop()
        reached.add(page)
        for target in links(page):
            found = (page.parent / target).resolve()
            found = found / "README.md" if found.is_dir() else found
            if found.suffix == ".md" and found not in reached:
                wanted.add(found)

    assert {page for page in pages() if page.name != "CHANGELOG.md"} <= reached


@pytest.mark.parametrize("page", pages(), ids=_page_id)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))

    assert [name for name in sorted(named) if f"def {name}(" not in sources] == []


def _reasons_in_code() -> set[str]:
    """Every code that a record can be rejected with: first words of what builds a rejection."""
    found: set[str] = set()
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            texts: list[ast.expr] = []
            if isinstance(node, ast.Call):
                name = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                if name == "Malformed":
                    texts = node.args[:1]
                elif name == "reject":  # _Verdict.reject(rows, reason, detail)
                    texts = node.args[1:2]
                elif name == "_rejected":  # (records, row, stage, reason, detail)
                    texts = node.args[3:4]
                elif name in {"Reject", "Rejected", "Why"}:
                    texts = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            elif isinstance(node, ast.FunctionDef) and node.name == "_prefix_problem":
                returned = [n.value for n in ast.walk(node) if isinstance(n, ast.Return)]
                texts = [value.elts[0] for value in returned if isinstance(value, ast.Tuple)]
            found |= {t.value for t in texts if isinstance(t, ast.Constant) and isinstance(t.value, str)}
    return found


def test_every_reason_of_a_dead_letter_is_listed_and_no_other() -> None:
    listed = [row[0].strip("`") for row in rows(section(DOCS / "dead-letters.md", "Reasons"))]

    assert sorted(listed) == sorted(set(listed))
    assert set(listed) == _reasons_in_code()


def test_every_metric_is_listed_with_its_type_and_labels_and_no_other() -> None:
    registry = CollectorRegistry()
    bound = vars(Families(registry)).values()
    ours = {
        metric._name + ("_total" if metric._type == "counter" else ""): (
            metric._type,
            set(metric._labelnames) - {"pipeline"},
        )
        for metric in bound
    }
    listed = {
        name.strip("`"): (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in rows(marked(DOCS / "metrics.md", "metrics"))
    }

    assert listed == ours


def test_the_table_of_metrics_is_the_one_made_from_the_code() -> None:
    page = (DOCS / "metrics.md").read_text()

    assert page == metric_docs.written(page), "run `python -m worker.metric_docs`"
    assert metric_docs.DETAILS.keys() <= metric_docs.rows().keys()


def test_every_metric_of_the_lag_pod_is_listed_with_its_labels_and_no_other() -> None:
    bound = vars(BacklogMetrics(CollectorRegistry())).values()
    ours = {metric._name: (metric._type, set(metric._labelnames) - {"pipeline"}) for metric in bound}
    listed = {
        name.strip("`"): (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in rows(marked(DOCS / "metrics.md", "metrics of lag"))
    }

    assert listed == ours


def test_the_queries_ask_for_metrics_that_exist() -> None:
    listed = {row[0].strip("`") for row in rows(marked(DOCS / "metrics.md", "metrics"))}
    asked = set(re.findall(r"penstock_\w+", section(DOCS / "metrics.md", "What to look at")))

    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= listed


def test_the_stages_are_those_that_are_timed() -> None:
    text = next(row for row in rows(marked(DOCS / "metrics.md", "metrics")) if "stage_seconds" in row[0])[3]
    source = "".join(
        (ROOT / "worker" / name).read_text() for name in ("run.py", "judge.py", "publish.py", "row_writes.py")
    )
    timed = set(re.findall(r'meter\.timed\("(\w+)"\)', source))

    assert set(re.findall(r"`(\w+)`", text)) == timed
    assert timed <= set(STAGES)


def test_every_exit_code_is_listed_under_its_name() -> None:
    listed = [(int(row[0]), row[1]) for row in rows(section(DOCS / "operating.md", "Exit codes"))]

    assert listed == [(code.value, code.name) for code in Exit]


@pytest.mark.parametrize(("record", "schema"), [("Score", "score"), ("Alert", "alert"), ("Reason", "alert")])
def test_every_field_of_an_output_is_listed_in_its_order(record: str, schema: str) -> None:
    document = json.loads((ROOT / "schemas" / f"{schema}.avsc").read_text())
    names = [field["name"] for field in document["fields"]]
    if record == "Reason":
        reasons = next(field for field in document["fields"] if field["name"] == "reasons")
        names = [field["name"] for field in reasons["type"]["items"]["fields"]]
    if record == "Alert":
        score = json.loads((ROOT / "schemas" / "score.avsc").read_text())
        shared = {field["name"] for field in score["fields"]}
        names = [name for name in names if name not in shared]

    listed = [row[0].strip("`") for row in rows(marked(DOCS / "scores-and-alerts.md", f"fields: {record}"))]

    assert listed == names


def test_every_field_of_the_figures_is_listed_in_its_order() -> None:
    document = json.loads((ROOT / "schemas" / "truth.avsc").read_text())
    listed = [row[0].strip("`") for row in rows(marked(DOCS / "truth.md", "fields: TruthFigures"))]

    assert listed == [field["name"] for field in document["fields"]]


def test_every_variable_of_the_shipped_files_is_listed_with_its_default() -> None:
    taken = {
        name: default
        for file in sorted((ROOT / "pipelines").glob("*.yaml"))
        for name, default in re.findall(r"\$\{(PENSTOCK_\w+):-([^}]*)\}", file.read_text())
    }
    listed = {
        name.strip("`"): default.strip("`")
        for name, default, _ in rows(marked(DOCS / "operating.md", "variables"))
    }

    assert listed == taken


def test_every_event_of_the_log_that_is_explained_is_logged() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "worker").glob("*.py"))
    explained = [row[0].strip("`") for row in rows(section(DOCS / "operating.md", "Logs"))]

    assert [event for event in explained if f'"{event}"' not in source] == []


def test_every_library_has_a_reason() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=;\[ ]", line)[0] for line in project["dependencies"]}
    asked_for = {"confluent-kafka", "fastavro", "onnxruntime-gpu", "onnxruntime", "numpy", "redis"}
    asked_for |= {"prometheus-client", "hiredis"}  # hiredis: the fast parser of redis
    reasons = "\n".join(page.read_text().lower() for page in (DOCS / "decisions").glob("0*.md"))

    assert [
        name for name in sorted(names - asked_for) if name.replace("hdrhistogram", "hdr") not in reasons
    ] == []


def test_every_decision_is_in_the_list() -> None:
    listed = set(links(DOCS / "decisions" / "README.md"))

    assert listed == {page.name for page in (DOCS / "decisions").glob("0*.md")}


def test_published_numbers_are_those_that_were_measured() -> None:
    assert README.read_text() == written(README.read_text()), "run `python -m tests.docs.numbers`"


def test_the_results_of_the_chaos_run_are_those_that_were_committed() -> None:
    page = chaos_page.PAGE.read_text()

    assert page == chaos_page.written(page), "run `python -m tests.chaos.page`"
