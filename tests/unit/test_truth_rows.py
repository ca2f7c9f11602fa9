"""Rows of figures are those of the window, of each version and segment, and are shown as such."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from feature_cache.cases import Fact, MemoryCases, shard_of
from schemas.codec import Codec
from tests.truth_facts import alert, label, score
from worker.decide import DecisionPolicy
from worker.truth_command import as_json, table
from worker.truth_metrics import TruthMeter
from worker.truth_rows import current_rows
from worker.truth_topic import FIGURES, Row
from worker.truth_types import TruthLabels, TruthOptions

DAY_US = 86_400_000_000
POLICY = DecisionPolicy(
    severities=("warning", "critical"),
    thresholds=(0.2, 0.9),
    alert_below=False,
    cooldown_us=0,
    clear_margin=None,
)
LABELS = TruthLabels(topic="labels", schema_ref="label", event_id="event_id", label="fraud")


def truth(**more: Any) -> TruthOptions:
    """Three days' window, one day's buckets."""
    of: dict[str, Any] = {
        "topic": "figures",
        "labels": LABELS,
        "window_us": 3 * DAY_US,
        "horizon_ms": 86_400_000,
    }
    return TruthOptions(**{**of, **more})


def rows_of(facts: list[Fact], options: TruthOptions | None = None) -> list[Row]:
    """Rows of cases that were given these facts."""
    cases = MemoryCases()
    for fact in facts:
        cases.apply(shard_of(fact.event_id), [], [fact])
    return current_rows(cases, options or truth(), POLICY, "p", 5)


def test_without_scores_there_are_no_figures() -> None:
    assert rows_of([]) == rows_of([label("e", 1)]) == []


def test_only_events_of_the_window_count() -> None:
    facts = [score(f"e{day}", bucket=day) for day in range(10)]

    (row,) = rows_of(facts)

    assert (row["scored"], row["segment"], row["model_version"]) == (3, "all", "v1")
    assert (row["window_start"], row["window_end"]) == (7 * DAY_US, 10 * DAY_US)


def test_each_version_and_segment_has_a_row_and_the_rest_is_other_or_unknown() -> None:
    facts = [
        *(score("a"), label("a", 1, segment="web")),
        *(score("b", version="v2"), label("b", 0, segment="other")),
        *(score("c", version="v2"), score("d", version="v2", segment="web")),
    ]
    options = truth(segment="label.channel", segments=("web", "pos"))

    found = {(row["model_version"], row["segment"]): row["scored"] for row in rows_of(facts, options)}

    assert found == {
        ("v1", "all"): 1, ("v1", "web"): 1,
        ("v2", "all"): 3, ("v2", "web"): 1, ("v2", "other"): 1, ("v2", "unknown"): 1,
    }  # fmt: skip


@pytest.mark.parametrize(("unlabelled", "labelled"), [("ignore", 0), ("negative", 2)])
def test_events_without_a_label_are_negatives_once_the_horizon_has_passed(
    unlabelled: Any, labelled: int
) -> None:
    facts = [score(f"e{i}", bucket=bucket) for i, bucket in enumerate((5, 5, 6, 7, 7))]

    (row,) = rows_of(facts, truth(unlabelled=unlabelled))

    assert (row["scored"], row["labelled"], row["positives"]) == (5, labelled, 0)


def test_a_row_can_be_written_read_and_printed() -> None:
    facts = [
        score("a", cell="900.2.9"),
        alert("a", level=2, value=1_500),
        label("a", 1),
        score("b"),
        label("b", 0),
    ]
    written = rows_of(facts)
    codec = Codec(FIGURES, "single_object")

    read = codec.decode(codec.encode_rows(written)).table.to_pylist()

    assert [row["thresholds"][1]["value_saved"] for row in read] == [1.5]
    assert [row["average_precision"] for row in read] == [1.0]
    shown = [
        {name: v.replace(tzinfo=UTC) if isinstance(v, datetime) else v for name, v in row.items()}
        for row in read
    ]
    lines = table(shown).splitlines()
    assert lines[0].split() == [
        *(
            "version",
            "segment",
            "severity",
            "scored",
            "labelled",
            "positives",
            "precision",
            "recall",
            "AP",
            "AUC",
        ),
        *("yield", "ECE", "saved", "missed"),
    ]
    assert [line.split()[:8] for line in lines[1:3]] == [
        ["v1", "all", "warning", "2", "2", "1", "0.500", "1.000"],
        ["v1", "all", "critical", "2", "2", "1", "1.000", "1.000"],
    ]
    assert json.loads(as_json(shown[0]))["computed_at"] == "1970-01-01T00:00:00.000005+00:00"
    assert table([]) == "no figures yet"


def test_what_is_not_known_any_more_is_not_shown() -> None:
    registry = CollectorRegistry()
    meter = TruthMeter("p", registry)
    shown = rows_of([score("a", cell="900.2.9"), label("a", 1), score("b"), label("b", 0)])

    meter.show(shown)
    assert b'penstock_truth_precision{pipeline="p",segment="all",severity="warning",version="v1"} 0.5' in (
        generate_latest(registry)
    )
    meter.show(rows_of([score("a", version="v2")]))
    now = generate_latest(registry).decode()
    assert 'penstock_truth_scored{pipeline="p",segment="all",version="v2"} 1.0' in now
    assert 'version="v1"' not in now
    assert "penstock_truth_auc{" not in now
    meter.show([])
    assert 'version="v2"' not in generate_latest(registry).decode()
