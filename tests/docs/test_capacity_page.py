"""docs/capacity.md says what the results and the command say."""

from __future__ import annotations

import argparse
import re

import pytest

from feature_cache.layout import Group, Layout, SequenceGroup
from feature_cache.packing import pack
from feature_cache.rows import HotRows
from tests.docs.capacity_numbers import (
    CAPACITY,
    DAY_S,
    EVENTS_PER_KEY_30D,
    FIELDS,
    PAGE,
    TRAFFIC,
    WORKER,
    card_gb,
    machine_gb,
    result,
    written,
)
from tests.docs.pages import ROOT, marked, rows
from worker.capacity import SHARES
from worker.capacity_commands import add_arguments
from worker.capacity_plan import HEAD_ROOM
from worker.config import load_pipeline
from worker.plan import feature_plan


def test_the_table_of_numbers_is_that_of_the_results() -> None:
    assert written(PAGE.read_text()) == PAGE.read_text()


def test_the_table_goes_from_a_laptop_to_a_million_events_a_second() -> None:
    listed = rows(marked(PAGE, "numbers"))

    assert [int(row[0].replace(",", "")) for row in listed] == list(TRAFFIC)
    limit = result("latest")["events_per_s"][WORKER]
    for row in listed:
        traffic, workers, partitions = (int(cell.replace(",", "")) for cell in row[:3])
        assert workers * limit * (1 - HEAD_ROOM) >= traffic
        assert partitions >= workers


def test_the_memory_of_redis_is_that_of_rows_as_they_are_packed() -> None:
    """The formulas, less what Redis adds, against the rows of full groups."""
    plan = feature_plan(load_pipeline(ROOT / "pipelines" / "maintenance.yaml", {}))
    (sequence,) = plan.layout.groups
    assert isinstance(sequence, SequenceGroup)
    assert (len(sequence.fields), sequence.capacity) == (FIELDS, CAPACITY)

    assert machine_gb(1, 0.0)[1] * 1e9 == packed_bytes(sequence, CAPACITY)
    window = feature_plan(load_pipeline(ROOT / "pipelines" / "fraud.yaml", {})).layout.groups[0]
    traffic = EVENTS_PER_KEY_30D / (30 * DAY_S)  # of one card
    assert card_gb(traffic, 0.0)[1] * 1e9 == pytest.approx(packed_bytes(window, EVENTS_PER_KEY_30D))


def packed_bytes(group: Group, events: int) -> int:
    """A row with one group that remembers so many events."""
    rows = HotRows(Layout(groups=(group,)), 1)
    slots = rows.add([b"m"], 0)
    rows.groups[0].length[slots] = events
    return len(pack(rows, slots, 0)[0])


def test_thirty_days_at_ten_thousand_a_second_are_what_the_page_says() -> None:
    page = PAGE.read_text()

    events_gb = 16 * 10_000 * 30 * 86_400 / 1e9
    assert f"30 days are {events_gb:,.0f} GB and a day is {events_gb / 30:,.0f} GB" in page
    assert card_gb(10_000, 0.0)[1] > events_gb


def test_every_option_is_listed_and_no_other() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = {
        option for action in parser._actions for option in action.option_strings if option.startswith("--")
    }

    listed = [row[0].strip("`") for row in rows(PAGE.read_text()) if row[0].startswith("`--")]

    assert sorted(listed) == sorted(options - {"--help"})


def test_the_steps_and_the_head_room_are_those_of_the_code() -> None:
    page = PAGE.read_text()

    *first, last = (f"{share:.0%}".rstrip("%") for share in SHARES)
    assert f"{', '.join(first)} and {last} % of that" in page
    assert f"planned    = {1 - HEAD_ROOM:g} * limit" in page
    assert re.search(rf"{HEAD_ROOM:.0%}".replace("%", " %") + " head-room", page)
