"""Whether the features that were served are those that the log gives: compared to the last bit."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from worker.published import place_of, places
from worker.replay import Replay

_EXAMPLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Skew:
    """Served feature vectors against recomputed ones."""

    compared: int
    missing: int  # served, and not in what was replayed
    differ: int  # of those compared
    behind: int  # of those that differ: served while a lookup was behind its event, as the output itself says
    features: dict[str, int]  # how many vectors differ in each; only those that do
    examples: list[dict[str, Any]]

    @property
    def share(self) -> float:
        """Share of the vectors compared that differ without having said why; 0 is what must be."""
        return (self.differ - self.behind) / self.compared if self.compared else 0.0


def compare(served: Iterable[Mapping[str, Any]], found: Mapping[int, Mapping[str, float]]) -> Skew:
    """Compare the features of alerts with those found for their events.

    Args:
        served: alerts as in alert.avsc. Features that one of both does not have are not compared: what is
            personal may be left out of an alert.
        found: features by place.
    """
    compared = missing = differ = behind = 0
    features: Counter[str] = Counter()
    examples: list[dict[str, Any]] = []
    for alert in served:
        here = found.get(place_of(dict(alert)))
        if here is None:
            missing += 1
            continue
        compared += 1
        names = [
            name for name, value in alert["features"].items() if name in here and not same(value, here[name])
        ]
        if not names:
            continue
        differ += 1
        behind += _was_behind(alert)
        features.update(names)
        if len(examples) < _EXAMPLES:
            examples.append(
                {
                    "event_id": alert["event_id"],
                    "source_partition": alert["source_partition"],
                    "source_offset": alert["source_offset"],
                    "lookup_age_ms": alert["lookup_age_ms"],
                    "features": {
                        name: {"served": alert["features"][name], "found": here[name]} for name in names
                    },
                }
            )
    return Skew(
        compared=compared,
        missing=missing,
        differ=differ,
        behind=behind,
        features=dict(features.most_common()),
        examples=examples,
    )


def same(one: float, other: float) -> bool:
    """Whether two numbers are of the same bits; all NaN are."""
    return struct.pack("d", one) == struct.pack("d", other) or (math.isnan(one) and math.isnan(other))


def recomputed(
    replay: Replay, wanted: set[int], on_events: Callable[[int, int], None] = lambda _events, _event_us: None
) -> dict[int, dict[str, float]]:
    """The features of these places, from the whole of a replay."""
    found: dict[int, dict[str, float]] = {}
    sought = np.array(sorted(wanted), np.int64)
    for batch in replay.batches():
        records = batch.events.records
        here = places(records.partition, records.offset)
        for row in np.flatnonzero(np.isin(here, sought)).tolist():
            values = batch.features.scalars[row].tolist()
            found[int(here[row])] = dict(zip(replay.plan.names, values, strict=True))
        on_events(len(batch), int(batch.events.event_us.max(initial=0)))
    return found


def lines(skew: Skew) -> Iterator[str]:
    """The comparison for a terminal."""
    yield (
        f"{skew.compared:,} served feature vectors compared, {skew.differ - skew.behind:,} differ: "
        f"share {skew.share:.6g}"
    )
    if skew.behind:
        yield f"{skew.behind:,} more differ and were served while a lookup was behind (lookup_age_ms says so)"
    if skew.missing:
        yield f"{skew.missing:,} were served for events that the replay does not have"
    for name, count in skew.features.items():
        yield f"  {name}: {count:,}"
    for example in skew.examples:
        place = f"{example['source_partition']} {example['source_offset']}"
        said = ", ".join(
            f"{name} {values['served']!r} served, {values['found']!r} found"
            for name, values in example["features"].items()
        )
        yield f"  event {example['event_id']} at {place}: {said}"


def _was_behind(alert: Mapping[str, Any]) -> bool:
    return bool(alert["degraded"]) or (alert["lookup_age_ms"] or 0) > 0
