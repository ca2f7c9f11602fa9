"""What a worker says of itself at a scrape is of that moment, and zeros stand where failures are counted."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from worker.metrics import Meter
from worker.vital_signs import VitalSigns


def test_only_what_gives_the_scores_at_present_is_named() -> None:
    registry = CollectorRegistry()
    signs = VitalSigns("fraud", registry)

    for device in ("cuda:0", "cpu"):
        signs.say(loop_age_s=0.1, clock_s=5.0, device=device)

    named = [s.labels["device"] for m in registry.collect() if m.name == "penstock_device" for s in m.samples]
    assert named == ["cpu"]
    assert registry.get_sample_value("penstock_clock_seconds", {"pipeline": "fraud"}) == 5.0
    assert registry.get_sample_value("penstock_loop_age_seconds", {"pipeline": "fraud"}) == 0.1


def test_a_pipeline_without_a_model_names_no_device() -> None:
    registry = CollectorRegistry()

    VitalSigns("risk", registry).say(loop_age_s=0.0, clock_s=0.0, device="")

    assert not [s for m in registry.collect() if m.name == "penstock_device" for s in m.samples]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("penstock_recoveries_total", {"cause": "FencedError"}),
        ("penstock_state_writes_total", {"result": "unavailable"}),
    ],
)
def test_the_first_failure_is_an_increase_from_zero(name: str, labels: dict[str, str]) -> None:
    registry = CollectorRegistry()
    meter = Meter("fraud", registry)
    meter.watch_recoveries(["FencedError"])
    where = {"pipeline": "fraud", **labels}

    before = registry.get_sample_value(name, where)
    meter.recovered("FencedError")
    meter.state_write("unavailable")

    assert (before, registry.get_sample_value(name, where)) == (0.0, 1.0)
