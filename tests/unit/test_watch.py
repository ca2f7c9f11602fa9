"""What is told of drift and of bad readings: raised, cleared, and told of after a start."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from schemas.codec import Codec
from schemas.schema import load_schema
from tests.builders import NOW_US, events, features
from worker.batch import Batch
from worker.config import ConfigError, load_pipeline
from worker.metrics import Meter
from worker.model_file import ModelCard, load_model_card
from worker.plan import feature_plan
from worker.references import distribution
from worker.watch import Watcher

ROOT = Path(__file__).parents[2]
FRAUD_WATCHED = "watch: {drift: {window_events: 1000, false_alarm_events: 100000}}"


def fraud_file(tmp_path: Path, watch: str = FRAUD_WATCHED) -> Path:
    """The shipped fraud pipeline with a section watch."""
    text = (ROOT / "pipelines" / "fraud.yaml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("watch: null"))
    text = text.replace(line, watch).replace("  watch: null  ", "  watch: fraud.watch  ")
    text = text.replace("repository: ../models", f"repository: {ROOT / 'models'}")
    file = tmp_path / "fraud.yaml"
    file.write_text(
        text.replace("pipeline: terminal-risk.yaml", f"pipeline: {ROOT}/pipelines/terminal-risk.yaml")
    )
    return file


class Fraud:
    """A watcher of the fraud pipeline, and events that look like the training rows of its card."""

    def __init__(self, tmp_path: Path, watch: str = FRAUD_WATCHED) -> None:
        pipeline = load_pipeline(fraud_file(tmp_path, watch), {})
        assert pipeline.model is not None
        self.plan = feature_plan(pipeline)
        self.card = load_model_card(pipeline.model.folder)
        self.registry = CollectorRegistry()
        self.watcher = Watcher(pipeline, self.plan, Meter("fraud", self.registry), "me")
        self.random = np.random.default_rng(3)
        self.offset = 0

    def scalars(self, n: int) -> NDArray[np.float64]:
        """(n, 15) values in the middle of a bin, each bin as often as in the training rows."""
        columns = []
        for name in self.plan.names:
            columns.append(_drawn(self.card, name, n, self.random))
        return np.column_stack(columns)

    def look(self, scalars: NDArray[np.float64], **flags: Any) -> list[dict[str, Any]]:
        """What is told of these events."""
        n, score = len(scalars), self.card.reference_score
        assert score is not None
        offsets = list(range(self.offset, self.offset + n))
        self.offset += n
        batch = Batch(
            events=events(time_us=[1_000_000 + o for o in offsets], offset=offsets),
            features=replace(features(scalars, **flags)),
        )
        scores = _of(score, n, self.random).astype(np.float32)
        return self.watcher.look(self.card, batch, scores, NOW_US)

    def gauge(self, name: str, **labels: str) -> float | None:
        """A metric's value."""
        return self.registry.get_sample_value(
            f"penstock_{name}", {"pipeline": "fraud", "version": "2", **labels}
        )


def _drawn(card: ModelCard, name: str, n: int, random: np.random.Generator) -> NDArray[np.float64]:
    return _of(card.reference[name], n, random)


def _of(reference: Any, n: int, random: np.random.Generator) -> NDArray[np.float64]:
    # The edge belongs to the bin below it: the edges themselves, and something above the last.
    values = np.array([*reference.edges, reference.edges[-1] + 1])
    shares = np.array(reference.shares)
    return random.choice(values, n, p=shares / shares.sum())


def changes(alerts: list[dict[str, Any]], lifecycle: str) -> list[tuple[str, str]]:
    """Kind and subject of each alert with this lifecycle."""
    return [(alert["kind"], alert["subject"]) for alert in alerts if alert["lifecycle"] == lifecycle]


def test_the_first_whole_window_is_told_of_every_subject_and_the_next_of_none(tmp_path: Path) -> None:
    fraud = Fraud(tmp_path)

    before = fraud.look(fraud.scalars(999))
    first = fraud.look(fraud.scalars(1))
    later = [alert for _ in range(5) for alert in fraud.look(fraud.scalars(1000))]

    assert before == later == []
    assert changes(first, "RAISED") == []
    told = set(changes(first, "CLEARED"))
    assert {
        ("SHIFT", "amount"),
        ("PSI", "terminal.mean_30d"),
        ("SHIFT", "score"),
        ("DEGRADED", "event"),
    } <= told
    assert ("DEFAULT", "terminal.count_1d") in told
    assert not {subject for _, subject in told} & {"weekend", "night"}
    assert len(told) == 3 * 14 + 6 + 2


def test_a_shift_is_raised_once_and_cleared_when_it_is_over(tmp_path: Path) -> None:
    fraud = Fraud(tmp_path)
    fraud.look(fraud.scalars(1000))
    shifted = fraud.scalars(3000)
    shifted[:, 0] += 60

    during = fraud.look(shifted)
    raised = fraud.gauge("drift_alarm", feature="amount", kind="SHIFT")
    after = fraud.look(fraud.scalars(3000))

    assert sorted(changes(during, "RAISED")) == [("PSI", "amount"), ("SHIFT", "amount")]
    assert sorted(changes(after, "CLEARED")) == [("PSI", "amount"), ("SHIFT", "amount")]
    assert changes(during, "CLEARED") == changes(after, "RAISED") == []
    assert (raised, fraud.gauge("drift_alarm", feature="amount", kind="SHIFT")) == (1, 0)
    shift = next(alert for alert in during if alert["kind"] == "SHIFT")
    assert shift["alert_id"] == "fraud/me/2/SHIFT/amount"
    assert shift["observed"] > 0.55
    assert (shift["usual"], shift["limit"], shift["model_version"]) == (0.5, 0.05, "2")
    assert shift["event_time"] <= 1_000_000 + 4000
    psi = fraud.gauge("drift_psi", feature="amount")
    assert psi is not None
    assert psi < 0.1


def test_what_is_told_is_of_the_schema(tmp_path: Path) -> None:
    fraud, codec = Fraud(tmp_path), Codec(load_schema("watch_alert"), "single_object")
    alerts = fraud.look(fraud.scalars(1000))

    decoded = codec.decode(codec.encode_rows(alerts)).table.to_pylist()

    assert [row["alert_id"] for row in decoded] == [alert["alert_id"] for alert in alerts]
    assert {row["kind"] for row in decoded} >= {"SHIFT", "PSI", "MISSING", "DEFAULT", "INCOMPLETE"}


def test_defaults_that_stand_in_and_degraded_scores_are_told_and_are_no_shift(tmp_path: Path) -> None:
    fraud = Fraud(tmp_path)
    fraud.look(fraud.scalars(1000))
    stale = fraud.scalars(2000)
    column = fraud.plan.names.index("terminal.count_30d")
    stale[:, column] = 0.0

    alerts = fraud.look(stale, degradation=[1] * 2000)

    assert set(changes(alerts, "RAISED")) == {("DEFAULT", "terminal.count_30d"), ("DEGRADED", "event")}


def test_events_that_come_again_begin_the_watch_anew(tmp_path: Path) -> None:
    fraud = Fraud(tmp_path)
    shifted = fraud.scalars(3000)
    shifted[:, 0] += 60
    first = fraud.look(shifted)

    fraud.offset -= 1500  # of an aborted transaction: its alerts have never been seen
    again = fraud.look(shifted[1500:])

    assert ("SHIFT", "amount") in changes(first, "RAISED")
    assert ("SHIFT", "amount") in changes(again, "RAISED")


def test_another_version_begins_anew_under_its_own_name(tmp_path: Path) -> None:
    fraud = Fraud(tmp_path)
    fraud.look(fraud.scalars(1000))
    fraud.card = load_model_card(ROOT / "models" / "fraud" / "1")

    alerts = fraud.look(fraud.scalars(1000))

    assert {alert["model_version"] for alert in alerts} == {"1"}
    assert ("SHIFT", "amount") in changes(alerts, "CLEARED")


def test_the_newest_readings_of_a_sequence_are_watched_like_features(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    readings = random.normal(642, 0.5, 5000).astype(np.float32)
    folder = tmp_path / "rul" / "1"
    shutil.copytree(ROOT / "models" / "rul" / "1", folder)
    card = yaml.safe_load((folder / "model.yaml").read_text())
    card["reference"] = {"readings.s02": distribution(readings)}
    (folder / "model.yaml").write_text(yaml.safe_dump(card))
    text = (ROOT / "pipelines" / "maintenance.yaml").read_text().replace("../models", str(tmp_path))
    file = tmp_path / "maintenance.yaml"
    file.write_text(text.replace("outputs:\n", f"{FRAUD_WATCHED}\noutputs:\n  watch: maintenance.watch\n"))
    pipeline = load_pipeline(file, {})
    assert pipeline.model is not None
    plan, version = feature_plan(pipeline), load_model_card(pipeline.model.folder)
    watcher = Watcher(pipeline, plan, Meter("maintenance", CollectorRegistry()), "me")
    told = []
    for begin, shift in ((0, 0.0), (1000, 0.0), (2000, 0.5)):
        offsets = list(range(begin, begin + 1000))
        sequence = np.zeros((1000, 30, 14), np.float32)
        sequence[:, -1, 0] = random.choice(readings, 1000) + np.float32(shift)
        batch = Batch(
            events=events(time_us=offsets, offset=offsets),
            features=features(np.zeros((1000, 0)), sequences={"readings": sequence}),
        )
        told.append(watcher.look(version, batch, np.zeros(1000, np.float32), NOW_US))

    assert [changes(alerts, "RAISED") for alerts in told] == [
        [],
        [],
        [("SHIFT", "readings.s02"), ("PSI", "readings.s02")],
    ]


@pytest.mark.parametrize(
    ("watch", "said"),
    [
        ("watch: {}", "watch: found neither, expected drift, quality or both"),
        (
            "watch: {drift: {features: [amuont]}}",
            'watch.drift.features[0]: found "amuont", expected a feature',
        ),
        (
            "watch: {quality: {amount: {}}}",
            "watch.quality.amount: found nothing to check, expected one of min",
        ),
        ("watch: {quality: {amount: {min: 3, max: 2}}}", "watch.quality.amount.min: found 3 to 2, expected"),
        ("watch: {quality: {terminal_id: {min: 3}}}", "no feature reads, expected one of amount"),
        ("watch: {quality: {amount: {stuck_events: 3}}}", "expected fields of one sequence feature"),
        (
            "watch: {quality: {amount: {max_jump: 3, policy: refuse}}}",
            "watch.quality.amount.max_gap: found nothing, expected a duration",
        ),
    ],
)
def test_what_cannot_be_watched_stops_the_start(tmp_path: Path, watch: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_pipeline(fraud_file(tmp_path, watch), {})

    assert said in str(caught.value)


def test_alerts_without_a_topic_stop_the_start(tmp_path: Path) -> None:
    file = fraud_file(tmp_path)
    file.write_text(file.read_text().replace("  watch: fraud.watch  ", "  watch: null  "))

    with pytest.raises(ConfigError, match=r"outputs\.watch: found nothing, expected a topic"):
        load_pipeline(file, {})
