"""The guard against getting slower compares with the right commit and names the stage that grew."""

from __future__ import annotations

from typing import Any

from benchmarks.check import baseline, changes, explain, noticed
from benchmarks.stages import PASSTHROUGH, summarize

STAGES = {"decode": 1.0, "features": 3.0, "infer": 2.0}


def line(commit: str, *, cpu: str = "ours", release: bool = False, **stages: float) -> dict[str, Any]:
    """A line of the history: times of the passthrough by stage, each known to a hundredth."""
    found = {**STAGES, **stages}
    return {
        "commit": commit,
        "date": "2026-01-02T03:04:05+00:00",
        "release": release,
        "machine": {"cpu": cpu},
        "stages": {name: {"us": 2 * x, "x": x, "spread": 0.01} for name, x in found.items()},
        "passthrough": {"us": 2.0},
        "total": {"us": 2 * sum(found.values()), "x": sum(found.values()), "spread": 0.02},
    }


def test_a_commit_is_compared_with_that_of_the_newest_tag() -> None:
    known = [line("old-tag"), line("tagged"), line("marked", release=True), line("last")]

    found = baseline(known, line("now"), ["not-measured", "tagged", "old-tag"])

    assert found is known[1]


def test_without_a_tag_it_is_compared_with_the_last_marked_release_and_else_with_the_line_before() -> None:
    known = [line("first", release=True), line("marked", release=True), line("last")]

    assert baseline(known, line("now"), []) is known[1]
    assert baseline([known[2]], line("now"), []) is known[2]


def test_a_commit_is_never_compared_with_itself() -> None:
    known = [line("before"), line("now", release=True)]

    assert baseline(known, line("now"), ["now"]) is known[0]
    assert baseline(known[1:], line("now"), []) is None


def test_another_processor_counts_only_where_ours_has_no_line() -> None:
    known = [line("ours"), line("other", cpu="theirs", release=True)]

    assert baseline(known, line("now"), []) is known[0]
    assert baseline(known[1:], line("now"), []) is known[1]


def test_growth_is_a_share_of_the_former_whole_and_a_new_stage_grew_whole() -> None:
    found = changes(line("now", infer=2.6, privacy=0.3), line("then"))

    assert list(found) == ["infer", "privacy", "decode", "features"]
    assert {name: round(share, 3) for name, share in found.items()} == {
        "infer": 0.1,
        "privacy": 0.05,
        "decode": 0.0,
        "features": 0.0,
    }


def test_what_runs_vary_by_is_not_noticed() -> None:
    now, then = line("now", features=3.6, decode=1.1), line("then")
    assert list(noticed(now, then)) == ["features"]

    now["stages"]["features"]["spread"] = 0.5
    assert noticed(now, then) == {}


def test_the_verdict_names_the_stages_that_grew_and_those_that_shrank() -> None:
    said = explain(line("now", features=4.2, decode=0.4), line("a" * 40, release=True)).splitlines()

    assert said[-1] == (
        "10% slower than aaaaaaaaaa (2026-01-02, release); "
        "grew: features by 20%; shrank: decode by 10% (of the whole before)"
    )
    assert next(row for row in said if row.startswith("features")).split() == [
        "features",
        "8.40",
        "4.20",
        "3.00",
        "+40%",
    ]


def test_an_unchanged_commit_is_as_fast() -> None:
    said = explain(line("now"), line("then")).splitlines()[-1]

    assert said == "+0.0% against then (2026-01-02), which is within what runs vary by; no stage stands out"


def test_the_first_commit_has_nothing_to_be_compared_with() -> None:
    assert explain(line("now"), None).endswith(
        "nothing to compare with yet: this is the first commit measured"
    )


def test_a_round_is_held_against_its_own_passthrough_so_that_a_busy_machine_does_not_show() -> None:
    quiet = {PASSTHROUGH: 2.0, "decode": 4.0, "total": 4.0}
    busy = {name: 3 * us for name, us in quiet.items()}

    found = summarize([quiet, busy, quiet])

    assert (found["decode"].us, found["decode"].x, found["decode"].spread) == (4.0, 2.0, 0.0)


def test_a_stage_that_only_some_rounds_had_cost_nothing_in_the_others() -> None:
    rounds = [{PASSTHROUGH: 1.0, "total": 1.0}, {PASSTHROUGH: 1.0, "write": 9.0, "total": 9.0}] * 3

    found = summarize([*rounds, {PASSTHROUGH: 1.0, "total": 1.0}])

    assert found["write"].x == 0.0
