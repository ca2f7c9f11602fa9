"""A backtest's figures are those worked out by hand, and its differences are those that were made."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_replay import DAY_MS, PIPELINES, labels, transactions
from training.metrics import kept_test_rows
from worker.accuracy import auc, average_precision, card_precision
from worker.backtest import backtest, with_changes
from worker.backtest_page import page
from worker.backtest_report import (
    DAY_US,
    Outcomes,
    QualityRows,
    difference,
    quality,
    read_outcomes,
)
from worker.cli import main
from worker.config import ConfigError, Pipeline, load_pipeline
from worker.exits import Exit
from worker.published import read_backtest
from worker.replay import Period
from worker.replay_files import from_files
from worker.skew import compare, same

EVENTS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """transactions.parquet and labels.parquet of sixty days."""
    made = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(8)
    times = np.sort(rng.integers(0, 60 * DAY_MS, EVENTS)).tolist()
    customers, terminals = rng.integers(0, 20, EVENTS).tolist(), rng.integers(0, 20, EVENTS).tolist()
    fraud = (rng.random(EVENTS) < 0.2).tolist()
    later = [t + 7 * DAY_MS for t in times]
    tables = {
        "transactions": transactions(times, customers, terminals),
        "labels": labels(later, terminals, fraud),
    }
    for name, table in tables.items():
        pq.write_table(pa.Table.from_batches([table]), made / f"{name}.parquet")
    return made


@pytest.fixture(scope="module")
def fraud() -> Pipeline:
    """The shipped pipeline."""
    return load_pipeline(PIPELINES / "fraud.yaml")


def inputs(folder: Path) -> list[str]:
    """The files as a command takes them."""
    return [f"--input={folder}/transactions.parquet", f"--input=terminal-risk={folder}/labels.parquet"]


def run(folder: Path, out: Path, pipeline: Pipeline, rows: int = 8192) -> Outcomes:
    """What a backtest of these files writes."""
    feed = from_files(
        {"fraud": [folder / "transactions.parquet"], "terminal-risk": [folder / "labels.parquet"]}
    )
    backtest(pipeline, feed, Period(), out, rows=rows)
    found = read_outcomes([out])
    assert found is not None
    return found


def test_how_events_are_cut_into_batches_changes_no_score_and_no_alert(
    folder: Path, fraud: Pipeline, tmp_path: Path
) -> None:
    pipeline = with_changes(fraud, "fraud/1", {"warning": 0.001})
    runs = [run(folder, tmp_path / str(rows), pipeline, rows) for rows in (7, 8192)]

    for one, other in (("score", "score"), ("is_alert", "is_alert"), ("place", "place")):
        np.testing.assert_array_equal(getattr(runs[0], one), getattr(runs[1], other))
    assert runs[0].is_alert.sum() > 5
    assert runs[0].alerts.keys() == runs[1].alerts.keys()


def test_a_difference_names_what_appears_what_vanishes_and_what_stays(
    folder: Path, fraud: Pipeline, tmp_path: Path
) -> None:
    before = run(folder, tmp_path / "before", with_changes(fraud, "fraud/1", {"warning": 0.01}))
    after = run(folder, tmp_path / "after", with_changes(fraud, "fraud/1", {"warning": 0.05}))
    topic = fraud.source.topic

    up = difference(before, read_backtest(tmp_path / "after", topic), [tmp_path / "before"])
    down = difference(after, read_backtest(tmp_path / "before", topic), [tmp_path / "after"])

    gone = before.alerts.keys() - after.alerts.keys()
    assert up["scores"] == down["scores"]
    assert (up["scores"]["compared"], up["scores"]["differ"]) == (EVENTS, 0)
    assert up["alerts"]["appear"] == down["alerts"]["vanish"] == len(gone) > 0
    assert up["alerts"]["same"] + up["alerts"]["change"] == len(before.alerts.keys() & after.alerts.keys())
    shown = {example["source_offset"] for example in down["examples"]["vanish"]}
    assert shown <= {before.alerts[place]["source_offset"] for place in gone}
    assert all(example["reasons"] for example in down["examples"]["vanish"])
    assert up["features"]["compared"] == len(after.alerts)
    assert up["features"]["differ"] == 0
    other = run(folder, tmp_path / "other", with_changes(fraud, "fraud/2", {}))
    models = difference(other, read_backtest(tmp_path / "before", topic), [tmp_path / "other"])
    assert models["models"] == ["fraud/1"]
    assert models["scores"]["differ"] > 0
    assert models["scores"]["largest_difference"] == pytest.approx(
        float(np.abs(other.score.astype(np.float64) - before.score).max())
    )


def outcomes(day: list[int], key: list[int], truth: list[float], score: list[float]) -> Outcomes:
    """Events at noon of their day, whose truth is known seven days later."""
    event_us = (np.array(day, np.int64) * 2 + 1) * (DAY_US // 2)
    return Outcomes(
        place=np.arange(len(day)),
        event_us=event_us,
        score=np.array(score, np.float32),
        key=np.array(key, np.int64),
        is_alert=np.array(score) >= 0.5,
        truth=np.array(truth),
        known_us=event_us + 7 * DAY_US,
        flags={},
        alerts={},
    )


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5), st.booleans(), st.integers(0, 20)), min_size=1)
)
def test_keys_known_by_the_day_are_left_out_as_the_published_protocol_leaves_them_out(
    rows: list[tuple[int, int, bool, int]],
) -> None:
    day, key, truth, score = (np.array(column) for column in zip(*sorted(rows), strict=True))
    found = outcomes(day.tolist(), key.tolist(), truth.astype(float).tolist(), (score / 20).tolist())
    train_day = 10
    kept = kept_test_rows(day, key, truth.astype(int), train_day=train_day)
    test_week = (day >= train_day + 14) & (day < train_day + 21)
    week = replace(found, truth=np.where(day < train_day + 21, truth.astype(float), np.nan))

    said = quality(
        week,
        QualityRows(from_us=(train_day + 14) * DAY_US, known_since_us=train_day * DAY_US),
        "probability",
    )

    assert said is not None
    assert said["events"] == int((kept & test_week).sum())
    assert said["positives"] == int(truth[kept & test_week].sum())
    if 0 < said["positives"] < said["events"]:
        chosen = truth[kept].astype(int), (score / 20).astype(np.float32)[kept]
        assert said["auc"] == auc(*chosen)
        assert said["average_precision"] == average_precision(*chosen)
        assert said["card_precision_100"] == card_precision(day[kept], key[kept], *chosen)


def test_precision_and_recall_are_of_events_that_alert_and_unknown_truth_counts_for_nothing() -> None:
    found = outcomes([1, 1, 2, 2, 3], [1, 2, 3, 4, 5], [1, 0, 1, 0, float("nan")], [0.9, 0.8, 0.1, 0.2, 0.99])

    said = quality(found, QualityRows(), "probability")

    assert said is not None
    assert (said["events"], said["positives"], said["alerts"]) == (4, 2, 2)
    assert (said["alert_precision"], said["alert_recall"]) == (0.5, 0.5)
    assert said["curve"][-1]["recall"] == 1.0
    assert said["curve"][0]["precision"] == 1.0
    life = quality(found, QualityRows(), "remaining_life")
    assert life is not None
    assert life["rmse"] == pytest.approx(np.sqrt(np.mean(np.square([0.1, 0.8, 0.9, 0.2]))), rel=1e-6)
    assert quality(replace(found, truth=None), QualityRows(), "probability") is None


def test_the_page_asks_nobody_for_anything_and_shows_what_is_in_it_as_text(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["backtest", str(PIPELINES / "fraud.yaml"), *inputs(folder), "--label", "terminal-risk.fraud"]
    assert main([*command, "--model", "fraud/1", "--out", str(tmp_path / "a")]) == Exit.OK
    assert main([*command, "--out", str(tmp_path / "b"), "--against", str(tmp_path / "a")]) == Exit.OK
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "b" / "report.json").read_text())

    html = (tmp_path / "b" / "report.html").read_text()

    assert f"fraud with fraud/2: {EVENTS} events scored" in printed
    assert not re.search(r"""(src|href)=|url\(|@import|https?://(?!www\.w3\.org)""", html)
    assert html.count("<svg") == 5
    report["pipeline"] = "<script>alert(1)</script>"
    assert "<script>" not in page(report)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "fraud"], "--model: found 'fraud', expected NAME/VERSION"),
        (["--threshold", "urgent=0.3"], "--threshold: found 'urgent', expected one of warning, critical"),
        (["--threshold", "0.95"], "the less urgent warning"),
        (["--threshold", "much"], "--threshold: found 'much', expected [SEVERITY=]SCORE"),
        (
            ["--input", "labels=x.parquet"],
            "--input: found pipeline 'labels', expected fraud or terminal-risk",
        ),
        (["--input", "absent.parquet"], "--input: found 'absent.parquet', expected a file"),
        (["--label", "other.fraud"], "--label: found 'other.fraud', expected FIELD or terminal-risk.FIELD"),
        (["--from", "2030-01-01"], "found no event of this period among 400"),
        (["--against", "/nowhere"], "--against:"),
        (["--partitions", "0"], "--partitions: found --input, expected the log"),
        (["--processes", "2"], "--processes: found --input, expected the log"),
    ],
)
def test_a_mistake_of_the_command_line_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    command = ["backtest", str(PIPELINES / "fraud.yaml"), *inputs(folder), "--out", str(tmp_path / "out")]

    assert main([*command, *words]) == Exit.CONFIG

    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_pipeline_without_a_model_cannot_be_backtested() -> None:
    with pytest.raises(ConfigError, match="found no model"):
        with_changes(load_pipeline(PIPELINES / "terminal-risk.yaml"), None, {})


def served(offset: int, features: dict[str, float], **more: Any) -> dict[str, Any]:
    """An alert, as far as skew looks at it."""
    return {
        "event_id": str(offset),
        "source_partition": 0,
        "source_offset": offset,
        "features": features,
        "degraded": False,
        "lookup_age_ms": None,
        **more,
    }


def test_one_bit_is_skew_and_what_said_that_it_lagged_is_counted_apart() -> None:
    found = {0: {"a": 1.0, "b": 2.0}, 1: {"a": 0.1 + 0.2, "b": 2.0}, 2: {"a": 5.0, "b": 2.0}}
    alerts = [
        served(0, {"a": 1.0, "b": 2.0}),
        served(1, {"a": 0.3, "b": 2.0}),
        served(2, {"a": 6.0}, lookup_age_ms=20),  # b is personal, and left out
        served(3, {"a": 1.0}),
    ]

    result = compare(alerts, found)

    assert (result.compared, result.missing, result.differ, result.behind) == (3, 1, 2, 1)
    assert result.share == pytest.approx(1 / 3)
    assert result.features == {"a": 2}
    assert result.examples[0]["features"] == {"a": {"served": 0.3, "found": 0.1 + 0.2}}
    assert not same(0.0, -0.0)
    assert same(float("nan"), float("nan"))


def test_skewed_features_give_the_exit_code_of_something_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(PIPELINES / "fraud.yaml")
    out = tmp_path / "out"
    options = ["--model", "fraud/1", "--threshold", "0.001", "--out", str(out)]
    assert main(["backtest", file, *inputs(folder), *options]) == Exit.OK
    assert main(["features", "skew", file, *inputs(folder), "--served", str(out)]) == Exit.OK
    moved = pq.read_table(folder / "transactions.parquet")
    amount = pa.array(moved["amount"].to_numpy() + 1)
    moved = moved.set_column(moved.schema.get_field_index("amount"), moved.schema.field("amount"), amount)
    pq.write_table(moved, tmp_path / "moved.parquet")
    other = [f"--input={tmp_path}/moved.parquet", inputs(folder)[1]]

    assert main(["features", "skew", file, *other, "--served", str(out)]) == Exit.UNHEALTHY

    assert "amount" in capsys.readouterr().out


def test_an_event_of_a_file_is_explained_with_its_score_and_reasons(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(PIPELINES / "fraud.yaml")
    assert main(["backtest", file, *inputs(folder), "--out", str(tmp_path)]) == Exit.OK
    row = pq.read_table(tmp_path / "scores.parquet").slice(333, 1).to_pylist()[0]
    capsys.readouterr()

    assert main(["explain", file, "transactions", "0", "333", *inputs(folder), "--json"]) == Exit.OK
    found = json.loads(capsys.readouterr().out)

    assert found["event_id"] == row["event_id"] == "333"
    assert found["score"] == row["score"]
    assert found["features"] == {name: row[name] for name in found["features"]}
    assert found["is_same"] is None
    assert main(["explain", file, "0", "333", *inputs(folder)]) == Exit.OK
    assert "published: nothing" in capsys.readouterr().out
    for place in (["elsewhere", "0", "1"], ["0"], ["0", "x"], ["0", "4000"]):
        assert main(["explain", file, *place, *inputs(folder)]) == Exit.USAGE
