"""A truth section that cannot work is refused in one line that says where and why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.schema import BUNDLED
from tests.unit.test_validate import FRAUD, changed
from worker.config import ConfigError, load_pipeline

TRUTH: dict[str, Any] = {
    "topic": "fraud.truth",
    "labels": {"topic": "labels", "schema": "label.avsc", "event_id": "event_id", "label": "fraud"},
    "value": "alert.amount",
}


def with_truth(folder: Path, truth: dict[str, Any]) -> Path:
    """The fraud pipeline with a truth section."""
    return changed(
        folder, {"truth: null": f"truth: {yaml.safe_dump(truth, default_flow_style=True).strip()}\n#"}
    )


def test_the_section_that_fraud_yaml_shows_in_comments_is_one(tmp_path: Path) -> None:
    text = FRAUD.read_text()
    shown = text[text.index("# truth:\n") :].split("\n\n", 1)[0]
    truth = yaml.safe_load("\n".join(line[2:] for line in shown.splitlines()))["truth"]

    pipeline = load_pipeline(with_truth(tmp_path, truth), {})

    assert pipeline.truth is not None
    assert pipeline.truth.horizon_ms == 30 * 86_400_000
    assert pipeline.truth.labels.time == "event_time"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"topic": "fraud.scores"},
            'topic: found "fraud.scores", expected a topic other than that of',
        ),
        ({"window": "36h"}, "window: found 36h, expected a multiple of bucket"),
        ({"window": "200d"}, "window: found 200d, expected a multiple of bucket, 1 to 100 times 1d"),
        ({"value": "alert.nothing"}, 'value: found "alert.nothing", expected alert. and one of amount, '),
        ({"value": "label.terminal_id"}, 'value: found "terminal_id" of type string, expected a number'),
        ({"value": "amount"}, 'value: found "amount", expected label.FIELD or alert.FEATURE'),
        ({"segment": "x", "segments": ["a"]}, 'segment: found "x", expected label.FIELD or score.FIELD'),
        (
            {"segment": "label.fraud", "segments": ["a b"]},
            'segments[0]: found "a b", expected letters',
        ),
        ({"segment": "label.terminal_id"}, "segment: found one of segment and segments, expected both"),
        ({"segment": "score.shop", "segments": ["a"]}, 'segment: found "shop", which a score does not have'),
        ({"segment": "score.key", "segments": ["all"]}, "segments: found all, expected a value other than"),
        (
            {"labels": {"topic": "fraud.scores"}},
            'labels.topic: found "fraud.scores", expected a topic that',
        ),
        ({"labels": {"label": "terminal_id"}}, 'labels.label: found "terminal_id" of type string, expected'),
        ({"labels": {"event_id": "id"}}, 'labels.event_id: found "id", which a label does not have'),
        ({"labels": {"time": "fraud"}}, 'labels.time: found "fraud" of type boolean, expected'),
        ({"labels": {"schema": "nothing.avsc"}}, "expected a bundled schema or a readable .avsc file"),
        ({"labels": {"wire": "confluent"}}, "labels.registry: found nothing, expected the registry's URL"),
    ],
)
def test_what_cannot_work_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    truth = {**TRUTH, **change, "labels": {**TRUTH["labels"], **change.get("labels", {})}}

    with pytest.raises(ConfigError) as error:
        load_pipeline(with_truth(tmp_path, truth), {})

    assert re.search(rf"^\S+/fraud.yaml:[0-9]+: truth\..*{re.escape(said)}", str(error.value))
    assert str(error.value).count("\n") == 0


def test_a_pipeline_without_scores_has_no_truth_about_them(tmp_path: Path) -> None:
    text = yaml.safe_dump({"truth": {**TRUTH, "value": None}})
    file = changed(tmp_path, {"name: terminal-risk": f"{text}\nname: terminal-risk"}, "terminal-risk")

    with pytest.raises(ConfigError, match="truth: found no scores to find the truth about"):
        load_pipeline(file, {})


def test_alerts_whose_event_ids_are_hashed_are_worth_nothing(tmp_path: Path) -> None:
    file = with_truth(tmp_path, TRUTH)
    fields = json.loads((BUNDLED / "transaction.avsc").read_text())
    for field in fields["fields"]:
        field["pii"] = field["name"] in ("transaction_id", "customer_id")
    (file.parent / "private.avsc").write_text(json.dumps(fields))
    hides = "privacy: {hash_key: '${HASH_KEY}'}\n#"
    text = file.read_text().replace("privacy: null", hides).replace("transaction.avsc", "private.avsc")
    file.write_text(text)

    with pytest.raises(ConfigError, match=r"truth\.value: .* as privacy hashes the event ids of alerts"):
        load_pipeline(file, {"HASH_KEY": "0123456789abcdef"})
