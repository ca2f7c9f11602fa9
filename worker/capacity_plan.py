"""How many members a traffic needs, by arithmetic on what one of them was measured to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

HEAD_ROOM = 0.3  # of what a member can do is kept free: for spikes, a member that is gone, a slower machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a traffic takes."""

    events_per_s: float
    members: int
    partitions: int  # at least; a whole multiple of the members, so that none has more than another
    busiest_events_per_s: float  # what the member with the most partitions gets
    member_events_per_s: float  # what a member is planned for
    per_million: float | None  # cost of a million events; None without a price


def planned_per_member(limit_per_s: float) -> float:
    """Events a second that a member is planned for, when it can do so many."""
    return limit_per_s * (1 - HEAD_ROOM)


def need(
    events_per_s: float,
    limit_per_s: float,
    *,
    partitions: int | None = None,
    member_price_per_hour: float | None = None,
) -> Need:
    """The fewest members such that none gets more than it is planned for.

    Partitions are as even as their number allows: with 6 of them and 4 members one has two of six, a third of
    the traffic and not a quarter.

    Args:
        events_per_s: the traffic, spread evenly over partitions.
        limit_per_s: what one member can do, above 0.
        partitions: of the topic as it is; where they do not suffice, or None, their number is chosen.
        member_price_per_hour: of what one member runs on, in any currency.
    """
    planned = planned_per_member(limit_per_s)
    # A billionth of slack: 0.7 x 100,000 is not quite 70,000.
    members = max(1, math.ceil(events_per_s / planned * (1 - 1e-9)))
    if partitions is not None:
        enough = (
            m for m in range(members, partitions + 1) if busiest(events_per_s, partitions, m) <= planned
        )
        found = next(enough, None)
        partitions = partitions if found is not None else None
        members = found if found is not None else members
    chosen = partitions if partitions is not None else members
    return Need(
        events_per_s=events_per_s,
        members=members,
        partitions=chosen,
        busiest_events_per_s=busiest(events_per_s, chosen, members),
        member_events_per_s=planned,
        per_million=None
        if member_price_per_hour is None
        else members * member_price_per_hour / (events_per_s * 3600) * 1e6,
    )


def busiest(events_per_s: float, partitions: int, members: int) -> float:
    """Events a second of the member that has the most partitions."""
    return events_per_s * math.ceil(partitions / members) / partitions


def last_kept(
    rates: list[float], p99_ms: list[float | None], objective_ms: float, is_void: list[bool]
) -> float | None:
    """The highest rate that kept the objective with no lower one that broke it; None where there is none.

    Args:
        rates: of the steps, ascending.
        p99_ms: of each; None where the step was not kept up with.
        objective_ms: of p99.
        is_void: of each: a high p99 would be the sender's doing, and breaks nothing.
    """
    kept = None
    for rate, p99, void in zip(rates, p99_ms, is_void, strict=True):
        if p99 is not None and p99 <= objective_ms:
            kept = rate
        elif not void:
            break
    return kept
