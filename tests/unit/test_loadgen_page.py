"""A page holds all that it needs, says what the report says, and is well formed whatever the report holds."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.__main__ import main
from loadgen.ledger import Ledger
from loadgen.outcomes import Outcomes
from loadgen.page import page
from loadgen.plots import HEIGHT, WIDTH, Series, axis, nines_axis, plot
from loadgen.report import report

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
_VOID = {"meta", "br"}


class Tags(HTMLParser):
    """Fails on an end without its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(html)
    assert parser.open == []
    return parser.seen


def run_report(events: int, *, spike: bool = False, name: str = "fraud") -> dict[str, Any]:
    """A run of twenty seconds in which every event is answered after 10 ms, in a spike after 200."""
    ledger = Ledger(name)
    due_s = np.sort(np.random.default_rng(1).random(events)) * 20
    if spike:
        due_s = np.sort(np.concatenate([due_s, 10 + np.random.default_rng(2).random(events)]))
    n = len(due_s)
    ledger.plan(0, due_s, np.full(n, np.nan), np.zeros(n, np.int8))
    ledger.sent = n
    outcomes = Outcomes(ledger)
    waited_s = np.where((due_s >= 10) & (due_s < 11) & spike, 0.2, 0.01)
    outcomes.add_scores(np.arange(n), np.zeros(n, np.float32), due_s + waited_s)
    streams = {name: report(outcomes)}
    return {"streams": streams, "records_sent": n, "unaccounted": 0}


PAGES = [
    run_report(4_000),
    run_report(2_000, spike=True),
    run_report(0),
    run_report(1),
    json.loads((RESULTS / "capacity.json").read_text()),
]


@pytest.mark.parametrize("made", PAGES, ids=["run", "spike", "nothing", "one event", "capacity"])
def test_a_page_is_well_formed_and_asks_nobody_for_anything(made: dict[str, Any]) -> None:
    html = page(made)

    seen = tags(html)
    assert {name for _, attributes in seen for name in attributes} & {"src", "href", "srcset"} == set()
    assert {tag for tag, _ in seen} & {"script", "link", "iframe", "img"} == set()
    assert re.findall(r"https?:|url\(|@import", html) == []
    assert "prefers-color-scheme: dark" in html
    assert not re.search(r"\b(nan|None|inf)\b", re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL))


def test_a_page_shows_latency_over_time_percentiles_throughput_and_spikes() -> None:
    html = page(run_report(2_000, spike=True))

    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert captions == ["Latency over time", "Percentiles", "Throughput"]
    assert html.count('<rect class="band"') == 1
    row = re.search(r"<tr><td>traffic</td>(.*?)</tr>", html)
    assert row is not None
    assert re.findall(r">([^<]*)</td>", row[1])[:2] == ["10 s", "1 s"]


def test_a_capacity_page_shows_every_load_of_the_report() -> None:
    made = PAGES[-1]
    html = page(made)

    for step in made["steps"]:
        assert f"{step['share']:.0%}: {step['events_per_s']:,.0f} events/s" in html
    # Three lines of latency by load, one of percentiles a step, and two over time for each.
    assert html.count('class="line"') == 3 + 3 * len(made["steps"])


def test_what_is_text_in_a_report_is_text_on_the_page() -> None:
    html = page(run_report(10, name="<b>&"))

    assert "<b>" not in html
    assert "&lt;b&gt;&amp;" in html


@given(st.lists(st.none() | st.floats(0.001, 1e7), min_size=1, max_size=30))
def test_no_line_leaves_its_plot_and_gaps_stay_gaps(values: list[float | None]) -> None:
    points = [(float(i), value) for i, value in enumerate(values)]
    x, y = axis("s", [0, max(1, len(values) - 1)]), axis("ms", values, may_log=True)

    html = plot("p", [Series(name="a", points=points, colour=0)], x, y)

    tags(html)
    runs = [found.split("L") for found in re.findall(r'<path class="line" [^>]*d="M([^"]+)"', html)]
    drawn = [tuple(map(float, point.split())) for run in runs for point in run]
    assert len(drawn) == sum(value is not None for value in values)
    assert all(0 <= across <= WIDTH and 0 <= down <= HEIGHT for across, down in drawn)
    shown = [value for value in values if value is not None]
    heights = [down for _, down in drawn]
    # Higher values are drawn higher, to the tenth of a pixel that is written.
    assert all(
        heights[i] <= heights[j] + 0.1
        for i in range(len(shown))
        for j in range(len(shown))
        if shown[i] >= shown[j]
    )
    assert all(tick[0] >= y.low * (1 - 1e-9) and tick[0] <= y.high * (1 + 1e-9) for tick in y.ticks)


def test_each_nine_of_a_percentile_axis_is_as_wide_as_the_one_before() -> None:
    found = nines_axis(99.99)

    at = {name: found.share(value) for value, name in found.ticks}
    assert at["99"] - at["90"] == pytest.approx(at["99.9"] - at["99"])
    assert at["99.99"] == pytest.approx(1.0)


def test_the_command_writes_the_page_of_a_stored_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = run_report(100)
    (tmp_path / "run.json").write_text(json.dumps(stored))

    assert main(["report", str(tmp_path / "run.json"), "--html", str(tmp_path / "run.html")]) == 0

    assert (tmp_path / "run.html").read_text() == page(json.loads(json.dumps(stored)))
    assert json.loads(capsys.readouterr().out)["records_sent"] == 100
