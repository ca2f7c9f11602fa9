"""Bad readings: judged as the slow definition judges them, masked and refused before features see them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from feature_cache.lanes import Lanes
from feature_cache.readings import KINDS, MASKED, REFUSED
from feature_cache.rows import HotRows
from feature_cache.store import MemoryStore
from tests.builders import events, pipeline
from tests.unit.test_order import SCHEMA
from worker.bad_readings import BadReadings
from worker.batch import Batch, Features
from worker.features import enrich
from worker.metrics import Meter
from worker.plan import feature_plan
from worker.quality import are_masked
from worker.refuse import set_refused_apart

S = 1_000_000
FEATURES = """
  s: {kind: sequence, fields: [amount, speed], length: 3, capacity: 6}
  w: {kind: window, over: amount, windows: [1h], aggregates: [count, sum, max]}
  amount: {kind: field, field: amount}
"""
CHECKS: dict[str, dict[str, Any]] = {
    "amount": {"min": 0.0, "max": 9.0, "max_jump": 4.0, "accept_after": 3, "max_gap_us": 50 * S},
    "speed": {"stuck_events": 4, "flat_for_us": 20 * S, "flat_within": 0.5, "max_gap_us": 30 * S},
}


def watched(tmp_path: Path, policy: str) -> Any:
    """A plan that judges both fields, and a meter."""
    unit = {"max_gap_us": "max_gap", "flat_for_us": "flat_for"}
    checks = {
        field: {
            unit.get(key, key): f"{value // S}s" if key in unit else value for key, value in check.items()
        }
        for field, check in CHECKS.items()
    }
    text = ", ".join(
        f"{field}: {{{', '.join(f'{key}: {value}' for key, value in check.items())}, policy: {policy}}}"
        for field, check in checks.items()
    )
    return feature_plan(pipeline(tmp_path, FEATURES, rest=f"watch: {{quality: {{{text}}}}}"))


Log = list[tuple[int, int, float, float]]  # key, second, amount, speed


def enriched(
    plan: Any, log: Log, cuts: list[int], lanes: Lanes, meter: Meter
) -> list[tuple[Features, Batch]]:
    """The log in parts, cut at these places, one after another into the same rows."""
    parts = []
    for begin, end in zip([0, *cuts], [*cuts, len(log)], strict=True):
        part = log[begin:end]
        if not part:
            continue
        made = events(
            time_us=[s * S for _, s, _, _ in part],
            keys=[b"k%d" % key for key, _, _, _ in part],
            amount=[amount for _, _, amount, _ in part],
            offset=list(range(begin, end)),
            next_offsets={0: end},
            schema=SCHEMA,
            columns={"terminal": ["t"] * len(part), "speed": [speed for _, _, _, speed in part]},
        )
        found = enrich(made, plan, lanes, (), meter)
        parts.append((found, Batch(events=made, features=found)))
    return parts


def fresh(plan: Any) -> tuple[Lanes, Meter]:
    """Rows without events, and a meter of their own."""
    lanes = Lanes(HotRows(plan.layout, 100), MemoryStore(), "g", "in")
    lanes.take(0, committed=None, start=0, low=0, high=0, now_ms=0)
    return lanes, Meter("t", CollectorRegistry())


@dataclass
class Held:
    """One remembered reading of the slow reference."""

    second: int
    values: tuple[np.float32, np.float32]


def slow(log: Log, policy: str) -> tuple[list[list[int]], list[tuple[float, float]]]:
    """Flags and values of each event by the definition, one at a time, with a list as the row."""
    rows: dict[int, list[Held]] = {}
    lost: dict[int, int] = {}
    flags, kept = [], []
    for key, second, amount, speed in log:
        row = rows.setdefault(key, [])
        # Among newer readings, those before it say nothing.
        before = [] if row and row[-1].second > second else row
        amount_flags, is_level = _of_amount(before, second, amount)
        mine, values = [amount_flags, _of_speed(before, second, speed)], [amount, speed]
        if policy == "refuse":
            mine = [found | REFUSED if found & ~_GAP else found for found in mine]
        is_wrong = bool(amount_flags & _RANGE or (amount_flags & _JUMP and not is_level))
        if policy == "mask" and is_wrong:
            mine[0] |= MASKED
            values[0] = float(before[-1].values[0]) if before else min(max(amount, 0.0), 9.0)
        flags.append(mine)
        kept.append((values[0], values[1]))
        if not any(found & REFUSED for found in mine) and second >= lost.get(key, -1):
            held = Held(second, (np.float32(values[0]), np.float32(values[1])))
            _hold(row, held, lost, key)
    return flags, kept


_RANGE, _GAP, _FLAT, _STUCK, _JUMP = (1 << bit for bit in range(5))


def _of_amount(before: list[Held], second: int, amount: float) -> tuple[int, bool]:
    """Flags, and whether a jump is the new level."""
    check = CHECKS["amount"]
    found = 0 if check["min"] <= amount <= check["max"] else _RANGE
    if not before:
        return found, False
    last = before[-1]
    if (second - last.second) * S > check["max_gap_us"]:
        return found | _GAP, False
    if abs(amount - float(last.values[0])) <= check["max_jump"]:
        return found, False
    level = 0
    while level < len(before) and before[-1 - level].values[0] == last.values[0]:
        level += 1
    return found | _JUMP, level >= check["accept_after"]


def _of_speed(before: list[Held], second: int, speed: float) -> int:
    check, found = CHECKS["speed"], 0
    if before and (second - before[-1].second) * S > check["max_gap_us"]:
        found |= _GAP
    others = check["stuck_events"] - 1
    if len(before) >= others and all(held.values[1] == speed for held in before[-others:]):
        found |= _STUCK
    for held in reversed(before):
        if abs(speed - float(held.values[1])) > check["flat_within"]:
            break
        if (second - held.second) * S >= check["flat_for_us"]:
            return found | _FLAT
    return found


def _hold(row: list[Held], held: Held, lost: dict[int, int], key: int) -> None:
    """Insert in the order of times; of seven readings the oldest is lost."""
    place = sum(other.second <= held.second for other in row)
    if len(row) == 6 and place == 0:
        lost[key] = max(lost.get(key, -1), held.second)
        return
    row.insert(place, held)
    if len(row) > 6:
        lost[key] = max(lost.get(key, -1), row.pop(0).second)


logs = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 12),
        st.sampled_from([1.0, 2.0, 3.0, 8.0, 8.5, 11.0, -1.0]),
        st.sampled_from([5.0, 5.25, 7.0]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("policy", ["flag", "mask", "refuse"])
@settings(max_examples=60, deadline=None)
@given(steps=logs, backs=st.sets(st.integers(0, 39), max_size=4), cuts=st.sets(st.integers(1, 39)))
def test_readings_are_judged_as_the_definition_judges_them_in_any_batches(
    policy: str, steps: Log, backs: set[int], cuts: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    plan = watched(tmp_path_factory.mktemp("p"), policy)
    log, second = [], 100
    for at, (key, step, amount, speed) in enumerate(steps):
        second += step * (5 if step == 12 else 1)
        log.append((key, second - 15 if at in backs else second, amount, speed))
    lanes, meter = fresh(plan)

    parts = enriched(plan, log, sorted(cut for cut in cuts if cut < len(log)), lanes, meter)

    flags, kept = slow(log, policy)
    found = [part.quality.tolist() for part, _ in parts if part.quality is not None]
    assert [row for part in found for row in part] == flags
    amounts = [value for part, _ in parts for value in part.scalars[:, plan.names.index("amount")].tolist()]
    assert amounts == [amount for amount, _ in kept]
    refused = [bool(flag) for part, _ in parts for flag in part.refused.tolist()]
    assert refused == [any(flag & REFUSED for flag in row) for row in flags]


def test_a_masked_reading_is_the_last_good_one_to_every_feature(tmp_path: Path) -> None:
    plan = watched(tmp_path, "mask")
    lanes, meter = fresh(plan)

    ((found, _),) = enriched(plan, [(0, 1, 5.0, 1.0), (0, 2, 80.0, 2.0), (0, 3, 6.0, 3.0)], [], lanes, meter)

    assert found.sequences["s"][2, :, 0].tolist() == [5, 5, 6]
    window = [plan.names.index(f"w.{name}_1h") for name in ("count", "sum", "max")]
    assert found.scalars[2, window].tolist() == [3, 16, 6]
    assert found.scalars[1, plan.names.index("amount")] == 5
    assert are_masked(found.quality, 3).tolist() == [False, True, False]


def test_a_refused_reading_is_a_dead_letter_and_no_feature_remembers_it(tmp_path: Path) -> None:
    plan = watched(tmp_path, "refuse")
    lanes, meter = fresh(plan)

    ((_, batch),) = enriched(plan, [(0, 1, 5.0, 1.0), (0, 2, 80.0, 2.0), (0, 3, 6.0, 3.0)], [], lanes, meter)
    scored, rejected = set_refused_apart(batch)

    assert [(r.record.offset, r.stage, r.reason) for r in rejected] == [(1, "validate", "bad_reading")]
    assert scored.events.columns.numbers("amount").tolist() == [5, 6]
    assert scored.features.sequences["s"][1, :, 0].tolist() == [5, 5, 6]
    assert scored.features.scalars[1, plan.names.index("w.count_1h")] == 2


def test_a_new_level_is_taken_after_it_was_masked_often_enough(tmp_path: Path) -> None:
    plan = watched(tmp_path, "mask")
    lanes, meter = fresh(plan)
    log = [(0, second, 1.0 if second < 3 else 8.0, float(second)) for second in range(10)]

    ((found, _),) = enriched(plan, log, [], lanes, meter)

    amount = found.scalars[:, plan.names.index("amount")].tolist()
    assert amount == [1, 1, 1, 8, 8, 8, 8, 8, 8, 8]  # it was level before, and gives way at once
    lanes, meter = fresh(plan)
    moving = [
        (0, second, value, float(second)) for second, value in enumerate([1.0, 2.0, 3.0, 8.0, 8.0, 8.0, 8.0])
    ]
    ((found, _),) = enriched(plan, moving, [], lanes, meter)
    assert found.scalars[:, plan.names.index("amount")].tolist() == [1, 2, 3, 3, 3, 8, 8]


def test_bad_readings_are_counted_by_field_and_kind(tmp_path: Path) -> None:
    plan = watched(tmp_path, "flag")
    lanes, _ = fresh(plan)
    registry = CollectorRegistry()
    log = [(0, second, 5.0, 1.0) for second in range(5)] + [(0, 100, 80.0, 2.0)]

    enriched(plan, log, [3], lanes, Meter("t", registry))

    def count(field: str, kind: str) -> float | None:
        return registry.get_sample_value(
            "penstock_quality_total", {"pipeline": "t", "field": field, "kind": kind}
        )

    assert [count("speed", kind) for kind in KINDS] == [None, 1, None, 2, None]
    assert [count("amount", kind) for kind in KINDS] == [1, 1, None, None, None]


@pytest.mark.parametrize("cuts", [[], [3], [1, 2, 3, 4, 5, 6]])
def test_a_sensor_is_told_of_once_and_cleared_by_its_first_good_reading(
    tmp_path: Path, cuts: list[int]
) -> None:
    plan = watched(tmp_path, "flag")
    lanes, meter = fresh(plan)
    bad = BadReadings(("amount", "speed"))
    log = [
        *((0, second, 5.0, float(second)) for second in range(2)),
        (0, 2, 9.5, 2.0),
        (1, 2, 9.5, 2.0),
        (0, 3, 9.5, 3.0),
        (0, 4, 5.0, 4.0),
        (0, 5, 5.5, 5.0),
    ]

    parts = enriched(plan, log, cuts, lanes, meter)
    told = [(e.key, e.field, e.kind, e.is_raised) for _, batch in parts for e in bad.edges(batch)]

    assert told == [
        (b"k0", "amount", "RANGE", True),
        (b"k0", "amount", "JUMP", True),
        (b"k1", "amount", "RANGE", True),
        (b"k0", "amount", "JUMP", False),
        (b"k0", "amount", "RANGE", False),
        (b"k0", "amount", "JUMP", True),
        (b"k0", "amount", "JUMP", False),
    ]
