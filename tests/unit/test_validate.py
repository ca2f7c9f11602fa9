"""`penstock validate` says what would happen, or why it cannot."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from worker.config import ConfigError, load_pipeline
from worker.secret import STARS
from worker.validate import as_json, describe, plan

ROOT = Path(__file__).parent.parent.parent
FRAUD = ROOT / "pipelines" / "fraud.yaml"
FIFTEEN = [
    *("amount", "weekend", "night"),
    *(f"customer.{kind}_{window}" for window in ("1d", "7d", "30d") for kind in ("count", "mean")),
    *(f"terminal.{kind}_{window}" for window in ("1d", "7d", "30d") for kind in ("count", "mean")),
]


def changed(folder: Path, changes: Mapping[str, str], name: str = "fraud") -> Path:
    """A copy of a shipped pipeline and its models, with some of its text replaced."""
    shutil.copytree(ROOT / "pipelines", folder / "pipelines")
    shutil.copytree(ROOT / "models" / "fraud", folder / "models" / "fraud")
    file = folder / "pipelines" / f"{name}.yaml"
    text = file.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return file


def test_every_model_input_column_is_listed_with_the_feature_that_feeds_it() -> None:
    text = describe(load_pipeline(FRAUD, {}), {})
    lines = [line.split() for line in text.splitlines()]

    for column, name in enumerate(FIFTEEN):
        assert [str(column), name] in [line[:2] for line in lines]
    assert "mean of fraud in 7d per terminal_id, kept by terminal-risk" in text
    assert "score: output fraud_probability, a probability" in text


def test_every_topic_is_listed() -> None:
    text = describe(load_pipeline(FRAUD, {}), {})

    for topic in ("transactions", "fraud.scores", "fraud.alerts", "fraud.dead-letters"):
        assert topic in text


def test_the_json_form_says_the_same() -> None:
    pipeline = load_pipeline(FRAUD, {})
    document = json.loads(as_json(pipeline, {}))

    (model_input,) = document["model"]["inputs"]
    assert [feed["feature"] for feed in model_input["fed_by"]] == FIFTEEN
    assert {topic["use"]: topic["name"] for topic in document["topics"]} == {
        "source": "transactions",
        "scores": "fraud.scores",
        "alerts": "fraud.alerts",
        "dead_letters": "fraud.dead-letters",
    }
    assert document["settings"]["batching"]["max_wait"] == "5ms"
    assert document["notes"] == list(plan(pipeline, {}).notes)


def test_trees_are_said_to_run_on_the_cpu(tmp_path: Path) -> None:
    file = changed(tmp_path, {'name: fraud\n  version: "2"': 'name: fraud\n  version: "1"'})
    notes = plan(load_pipeline(file, {}), {}).notes

    assert any("TreeEnsemble" in note and "CPU" in note for note in notes)


def test_a_pipeline_without_a_model_lists_what_it_keeps() -> None:
    text = describe(load_pipeline(ROOT / "pipelines" / "terminal-risk.yaml", {}), {})

    assert "risk.mean_30d   mean of fraud in 30d per terminal_id" in text
    assert "terminal-risk.dead-letters" in text
    assert "model input" not in text


def test_the_maintenance_pipeline_feeds_a_sequence() -> None:
    if not (ROOT / "models" / "rul" / "1" / "model.yaml").is_file():
        pytest.skip("the model rul version 1 is not there")
    planned = plan(load_pipeline(ROOT / "pipelines" / "maintenance.yaml", {}), {})

    (feeds,) = planned.feeds
    assert [feed.feature for feed in feeds][:2] == ["readings.s02", "readings.s03"]
    assert len(feeds) == 14


def test_what_stands_in_for_the_model_is_said(tmp_path: Path) -> None:
    allowed = {
        "when_device_fails: stop": "when_device_fails: cpu",
        "when_model_fails: stop": "when_model_fails: rules",
    }

    text = describe(load_pipeline(changed(tmp_path, allowed), {}), {})

    assert "when the device fails: the same model on the CPU" in text
    assert "when the model fails: 1 where amount > 220 or customer.count_1d > 20, else 0" in text


def test_a_model_input_that_nothing_feeds_stops_it(tmp_path: Path) -> None:
    pipeline = load_pipeline(
        changed(tmp_path, {"  customer:  ": "  client:  ", "customer.count_1d > 20": "night > 0"}), {}
    )
    card = (tmp_path / "models" / "fraud" / "2" / "model.yaml").read_text()
    line = card[: card.index("customer.count_1d")].count("\n") + 1

    with pytest.raises(ConfigError) as caught:
        plan(pipeline, {})

    assert str(caught.value).startswith(
        f'{tmp_path}/models/fraud/2/model.yaml:{line}: inputs[0].features[3]: found "customer.count_1d", '
        f"expected a feature of {tmp_path}/pipelines/fraud.yaml, such as "
    )


def test_an_onnx_file_that_is_not_the_one_of_the_card_stops_it(tmp_path: Path) -> None:
    pipeline = load_pipeline(changed(tmp_path, {}), {})
    with (tmp_path / "models" / "fraud" / "2" / "model.onnx").open("ab") as file:
        file.write(b"more")

    with pytest.raises(ConfigError, match=r"model\.yaml:\d+: sha256: found [0-9a-f]{64} in model\.onnx"):
        plan(pipeline, {})


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"critical: 0.9": "critical: 90"}, "outside 0..1"),
        ({"redis://localhost:6379/0": "memory://"}, "The store is memory"),
        ({"start: earliest": "start: latest"}, "windows are incomplete"),
        ({":-exactly_once": ":-at_least_once"}, "with the same id"),
        ({"aggregates: [count, mean]": "aggregates: [count, mean, last]"}, "customer.last_1d"),
    ],
)
def test_what_deserves_a_second_look_is_noted(tmp_path: Path, changes: dict[str, str], note: str) -> None:
    planned = plan(load_pipeline(changed(tmp_path, changes), {}), {})

    assert any(note in line for line in planned.notes)


def test_secrets_are_not_in_either_form(tmp_path: Path) -> None:
    written = {"# sasl.password: ${file:/run/secrets/kafka-password}": "sasl.password: ${SECRET}"}
    pipeline = load_pipeline(
        changed(
            tmp_path,
            {**written, "${PENSTOCK_STORE:-redis://localhost:6379/0}": "redis://:${SECRET}@localhost:6379/0"},
        ),
        {"SECRET": "hunter2"},
    )

    assert "hunter2" not in describe(pipeline, {})
    assert "hunter2" not in as_json(pipeline, {})
    assert json.loads(as_json(pipeline, {}))["settings"]["kafka"]["properties"]["sasl.password"] == STARS
