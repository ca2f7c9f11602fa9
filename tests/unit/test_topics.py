"""Every topic that a pipeline names is wanted as it has to be, and what differs is told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from worker.config import Pipeline, load_pipeline
from worker.key_types import UNITS_US
from worker.rollout_types import Rollout
from worker.terminal import plain
from worker.topics import AHEAD, DAY_MS, LARGEST, POLICY, RETENTION, differences, shown_setting, wanted_topics
from worker.topics_command import Found, as_json, as_text
from worker.truth_types import TruthLabels, TruthOptions
from worker.validate import plan

ROOT = Path(__file__).resolve().parents[2]
FRAUD = load_pipeline(ROOT / "pipelines" / "fraud.yaml", {})


def with_everything() -> Pipeline:
    """Fraud with each optional topic."""
    labels = TruthLabels(topic="verdicts", schema_ref="label", event_id="event_id", label="fraud")
    return dataclasses.replace(
        FRAUD,
        rollout=Rollout(shadow="fraud.shadow"),
        truth=TruthOptions(topic="fraud.truth", labels=labels),
        outputs=dataclasses.replace(FRAUD.outputs, watch="fraud.watch"),
    )


def test_every_topic_that_validate_names_is_wanted() -> None:
    everything = with_everything()

    wanted = {(topic.use, topic.name) for topic in wanted_topics(everything)}

    assert {(topic.use, topic.name) for topic in plan(everything, {}).topics} <= wanted
    assert ("lookup", "labels") in wanted  # of the pipeline that fraud looks things up in


def test_inputs_are_kept_for_longer_than_what_is_remembered_of_them() -> None:
    by_use = {topic.use: topic for topic in wanted_topics(FRAUD)}

    # 30 days of windows, an hour late, an hour ahead, an hour of cool-down, and a day to notice.
    assert int(by_use["source"].config[RETENTION]) == 32 * DAY_MS
    # 30 days of windows, seven late.
    assert int(by_use["lookup"].config[RETENTION]) >= 38 * DAY_MS
    assert {by_use[use].config[POLICY] for use in ("source", "lookup", "scores")} == {"delete"}
    assert by_use["source"].config[AHEAD] == str(UNITS_US["h"] // 1000)


def test_what_is_read_by_its_newest_record_is_compacted_and_has_one_order() -> None:
    compacted = {
        topic.use: topic.partitions
        for topic in wanted_topics(with_everything())
        if topic.config[POLICY] == "compact"
    }

    assert compacted == {"control": 1, "truth": 1}


def test_scores_wait_for_their_labels() -> None:
    by_use = {topic.use: topic for topic in wanted_topics(with_everything())}

    assert {int(by_use[use].config[RETENTION]) for use in ("scores", "alerts", "labels")} == {31 * DAY_MS}


def test_a_dead_letter_fits_whatever_the_input_takes() -> None:
    large = dataclasses.replace(FRAUD, source=dataclasses.replace(FRAUD.source, max_record_bytes=8 << 20))
    for pipeline in (FRAUD, large):
        by_use = {topic.use: topic for topic in wanted_topics(pipeline)}
        taken = int(by_use["source"].config.get(LARGEST, 1_048_588))
        assert int(by_use["dead_letters"].config[LARGEST]) >= taken
        assert int(by_use["dead_letters"].config[LARGEST]) >= pipeline.source.max_record_bytes + (1 << 16)


def test_a_topic_of_two_uses_is_wanted_once_and_kept_for_the_longer() -> None:
    truth = TruthOptions(
        topic="t", horizon_ms=90 * DAY_MS,
        labels=TruthLabels(topic="labels", schema_ref="label", event_id="event_id", label="fraud"),
    )  # fmt: skip
    found = [
        topic for topic in wanted_topics(dataclasses.replace(FRAUD, truth=truth)) if topic.name == "labels"
    ]

    assert [int(topic.config[RETENTION]) for topic in found] == [91 * DAY_MS]


def by_use(use: str) -> tuple[str, dict[str, str]]:
    """Name and settings of a wanted topic."""
    (topic,) = (topic for topic in wanted_topics(with_everything()) if topic.use == use)
    return topic.name, dict(topic.config)


@pytest.mark.parametrize(
    ("use", "partitions", "setting", "value", "breaks"),
    [
        ("source", 6, RETENTION, "3600000", True),
        ("source", 6, RETENTION, "-1", None),
        ("source", 6, POLICY, "compact,delete", True),
        ("source", 6, AHEAD, str(2**63 - 1), False),
        ("scores", 6, RETENTION, "1", False),
        ("scores", 3, None, "", False),
        ("source", 3, None, "", True),
        ("dead_letters", 5, None, "", None),
        ("dead_letters", 1, LARGEST, "1048588", True),
        ("control", 3, None, "", True),
        ("control", 1, POLICY, "delete", True),
        ("truth", 1, POLICY, "delete", True),
    ],
)
def test_a_difference_is_told_and_is_wrong_where_it_breaks_a_promise(
    use: str, partitions: int, setting: str | None, value: str, breaks: bool | None
) -> None:
    (topic,) = (topic for topic in wanted_topics(with_everything()) if topic.use == use)
    config = {**topic.config, **({setting: value} if setting else {})}

    found = differences(topic, partitions, config, topic.partitions or 6)

    assert [each.breaks for each in found] == ([] if breaks is None else [breaks])
    assert all(each.do and each.found and each.wanted for each in found)


def test_a_setting_that_the_broker_does_not_know_is_no_difference() -> None:
    (topic,) = (topic for topic in wanted_topics(FRAUD) if topic.use == "source")

    assert differences(topic, 6, {}, None) == []


def test_what_became_of_the_topics_is_said_for_people_and_for_machines() -> None:
    source, *_ = wanted_topics(FRAUD)
    wrong = tuple(differences(source, 3, {**source.config, RETENTION: "60000"}, 6))
    found = [
        Found(wanted=source, state="differs", partitions=3, differs=wrong),
        Found(wanted=wanted_topics(FRAUD)[2], state="created", partitions=6),
    ]

    text, data = as_text(found, plain), json.loads(as_json(found))

    assert "retention.ms: found 1m, expected 32d" in text
    assert "created  fraud.scores" in text
    assert "6 partitions, kept 7d" in text
    assert [each["state"] for each in data] == ["differs", "created"]
    assert {each["what"] for each in data[0]["differences"]} == {"partitions", RETENTION}


def test_settings_are_shown_with_their_units() -> None:
    assert shown_setting(RETENTION, "604800000") == "7d"
    assert shown_setting(RETENTION, "-1") == shown_setting(AHEAD, str(2**63 - 1)) == "forever"
    assert shown_setting(LARGEST, "1114124") == "1,114,124 bytes"
    assert shown_setting(POLICY, "compact") == "compact"
