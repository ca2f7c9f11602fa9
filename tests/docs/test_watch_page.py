"""The figures of docs/watch.md are those of the committed result, and its fields those of the schema."""

from __future__ import annotations

import json

from tests.docs.pages import ROOT, marked, rows, section

PAGE = ROOT / "docs" / "watch.md"


def test_every_field_of_a_watch_alert_is_listed_in_its_order() -> None:
    document = json.loads((ROOT / "schemas" / "watch_alert.avsc").read_text())

    listed = [row[0].strip("`") for row in rows(marked(PAGE, "fields: WatchAlert"))]

    assert listed == [field["name"] for field in document["fields"]]


def test_every_kind_of_watch_alert_is_explained() -> None:
    document = json.loads((ROOT / "schemas" / "watch_alert.avsc").read_text())
    kinds = next(field["type"]["symbols"] for field in document["fields"] if field["name"] == "kind")

    page = PAGE.read_text()

    assert [kind for kind in kinds if f"`{kind}`" not in page] == []


def test_the_drift_figures_are_those_of_the_committed_result() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "drift.json").read_text())
    clean, shifted = result["clean"], result["shifted"]
    page = section(PAGE, "Shown")

    assert (clean["replays"], clean["false_alarms"]) == (20, 0)
    assert shifted["found"] == shifted["injected"]
    assert shifted["slowest_events"] <= shifted["within_events"] == 10_000
    assert f"none in {clean['events']:,} events" in page
    assert f"{shifted['found']} of {shifted['injected']}" in page
    assert f"{shifted['slowest_events']:,} events, the median {shifted['median_events']:,.0f}" in page
