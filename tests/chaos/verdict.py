"""Compares what came out under faults with what an undisturbed worker gave for the same log."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.chaos.outcomes import Lane, Outcomes, Place, meaning, small_fields

EXAMPLES = 8
TOLERANCE = 1e-6


@dataclass(slots=True)
class Verdict:
    """What is wrong, with a few examples of each kind; the arrays count by the number of the fault."""

    events: int = 0
    alerts: int = 0
    dead_letters: int = 0
    lost: int = 0
    doubled: int = 0  # outcomes too many
    different: int = 0
    disordered: int = 0
    examples: list[str] = field(default_factory=list)
    events_by_fault: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << 16, np.int64))
    lost_by_fault: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << 16, np.int64))
    doubled_by_fault: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << 16, np.int64))
    different_by_fault: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << 16, np.int64))

    def holds(self, mode: str) -> bool:
        """Whether the promise of the delivery mode was kept."""
        kept = not (self.lost or self.different or self.disordered)
        return kept and not (self.doubled and mode == "exactly_once")

    def example(self, text: str) -> None:
        """Keep an example, if there are few."""
        kind = text.split(":", 1)[0]
        if sum(kept.startswith(kind) for kept in self.examples) < EXAMPLES:
            self.examples.append(text)


def judge(found: Outcomes, expected: Outcomes, ends: NDArray[np.int64]) -> Verdict:
    """Compare outcome by outcome.

    Args:
        found: of the workers under faults.
        expected: of the undisturbed worker.
        ends: next offset of each input partition.
    """
    verdict = Verdict(events=int(ends.sum()), alerts=len(expected.alerts), dead_letters=len(expected.dead))
    for number, (lane, calm) in enumerate(zip(found.lanes, expected.lanes, strict=True)):
        lane.reserve(int(ends[number]))
        calm.reserve(int(ends[number]))
        _judge_lane(verdict, number, lane, calm, int(ends[number]))
    _judge_rare(verdict, found, "alert", found.alerts, expected.alerts)
    _judge_rare(verdict, found, "dead letter", found.dead, expected.dead)
    for place, times in found.alerts_seen.items():
        if times > 1:
            verdict.doubled += times - 1
            verdict.doubled_by_fault[found.lanes[place[0]].during[place[1]]] += times - 1
            verdict.example(f"doubled alert: {place} {times} times")
    if found.elsewhere:
        verdict.disordered += found.elsewhere
        verdict.example(f"order: {found.elsewhere} scores on another partition than their event")
    return verdict


def _judge_lane(verdict: Verdict, number: int, lane: Lane, calm: Lane, end: int) -> None:
    seen, during = lane.times_seen[:end].astype(np.int64), _carried(lane, end)
    if not (calm.times_seen[:end] > 0).all():
        raise RuntimeError(f"the undisturbed worker has not answered all of lane {number}")
    verdict.events_by_fault += np.bincount(during, minlength=1 << 16)
    lost, doubled = np.flatnonzero(seen == 0), np.flatnonzero(seen > 1)
    verdict.lost += len(lost)
    verdict.doubled += int((seen[doubled] - 1).sum())
    np.add.at(verdict.lost_by_fault, during[lost], 1)
    np.add.at(verdict.doubled_by_fault, during[doubled], seen[doubled] - 1)
    far = np.flatnonzero(lane.times_seen[end:]) + end
    if len(far):
        verdict.different += len(far)
        verdict.example(f"different: outcomes of lane {number} for offsets {far[:3]}, which do not exist")
    with np.errstate(invalid="ignore", over="ignore"):
        same = np.isclose(lane.score[:end], calm.score[:end], rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    same_id = lane.identity[:end] == calm.identity[:end]
    same_rest = lane.rest[:end] == calm.rest[:end]
    # A dead letter has no identity here: where one stands for a score, the score is NaN.
    wrong = np.flatnonzero(~(same & same_id & same_rest) & (seen > 0))
    changed = np.array(lane.changed, np.int64)
    verdict.different += len(wrong) + len(changed)
    np.add.at(verdict.different_by_fault, during[wrong], 1)
    np.add.at(verdict.different_by_fault, during[changed], 1)
    verdict.disordered += lane.out_of_order
    for offsets, what in ((lost, "lost"), (doubled, "doubled"), (changed, "different when repeated")):
        for offset in offsets[:EXAMPLES].tolist():
            verdict.example(f"{what}: lane {number} offset {offset} after fault {during[offset]}")
        if len(offsets):
            verdict.example(f"{what} in all: {len(offsets)} of lane {number}, {_stretches(offsets)}")
    for offset in wrong[:EXAMPLES].tolist():
        verdict.example(
            f"different: lane {number} offset {offset} after fault {during[offset]}: "
            f"score {lane.score[offset]:.9g}, expected {calm.score[offset]:.9g}{_rest(lane, calm, offset)}"
        )
    if len(wrong):
        verdict.example(f"different in all: {len(wrong)} of lane {number}, {_stretches(wrong)}")
    if lane.out_of_order:
        verdict.example(f"order: {lane.out_of_order} times a score of lane {number} before an earlier one")


def _rest(lane: Lane, calm: Lane, offset: int) -> str:
    if lane.rest[offset] == calm.rest[offset]:
        return ""
    found, expected = (meaning(int(one.rest[offset]), small_fields()) for one in (lane, calm))
    unequal = [f"{k} {found[k]!r}, expected {expected[k]!r}" for k in found if found[k] != expected[k]]
    return "; " + ", ".join(unequal)


def _carried(lane: Lane, end: int) -> NDArray[np.int64]:
    """(end,) the fault that each outcome came after; what has none takes that of the one before."""
    at = np.maximum.accumulate(np.where(lane.times_seen[:end] > 0, np.arange(end), 0))
    return lane.during[:end].astype(np.int64)[at] if end else np.zeros(0, np.int64)


def _stretches(offsets: NDArray[np.int64]) -> str:
    """The stretches in which offsets lie together, few."""
    cuts = np.flatnonzero(np.diff(offsets) > 1000)
    starts, stops = [0, *(cuts + 1).tolist()], [*cuts.tolist(), len(offsets) - 1]
    shown = [f"{offsets[a]}..{offsets[b]}" for a, b in zip(starts, stops, strict=True)]
    return f"between offsets {', '.join(shown[:4])}{' and more' if len(shown) > 4 else ''}"


def _judge_rare(
    verdict: Verdict,
    found: Outcomes,
    what: str,
    have: dict[Place, tuple[str, str, int]],
    want: dict[Place, tuple[str, str, int]],
) -> None:
    for place in have.keys() | want.keys():
        got, expected = have.get(place), want.get(place)
        if got != expected:
            verdict.different += 1
            verdict.different_by_fault[found.lanes[place[0]].during[place[1]]] += 1
            verdict.example(f"different {what}: {place}: {got}, expected {expected}")
