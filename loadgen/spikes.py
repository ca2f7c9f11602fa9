"""Stretches of a run in which traffic or latency stood out, and how long it took to be over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

TRAFFIC_TIMES = 1.5  # of the usual: more is a spike
LATENCY_TIMES = 2.0
_LEAST_MS = 5.0  # above the usual: less is no spike, whatever the ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Spike:
    """One such stretch."""

    kind: Literal["traffic", "latency"]
    begin_s: int  # since the start of the run
    seconds: int
    highest: float  # events a second, or p99 in ms
    times_usual: float
    worst_p99_ms: float | None  # from its beginning until latency was back to usual
    over_after_s: int | None  # from its end until p99 was back to usual; None: not within the run


def spikes(per_second: Mapping[str, Sequence[float | None]]) -> list[Spike]:
    """The spikes of a stream, in the order of their time.

    Args:
        per_second: columns by second, see `loadgen.report.per_second`. What is usual is the median of the
            seconds that have any.
    """
    due = np.array(per_second["events"], float)
    p99 = np.array([np.nan if value is None else value for value in per_second["p99_ms"]], float)
    if not (due > 0).any() or not np.isfinite(p99).any():
        return []
    usual_due, usual_ms = float(np.median(due[due > 0])), float(np.nanmedian(p99))
    is_slow = p99 > max(LATENCY_TIMES * usual_ms, usual_ms + _LEAST_MS)
    found = [
        *_of("traffic", due, usual_due, due > TRAFFIC_TIMES * usual_due, p99, is_slow),
        *_of("latency", p99, usual_ms, is_slow, p99, is_slow),
    ]
    return sorted(found, key=lambda spike: (spike.begin_s, spike.kind == "latency"))


def _of(
    kind: Literal["traffic", "latency"],
    values: NDArray[np.float64],
    usual: float,
    is_spike: NDArray[np.bool_],
    p99: NDArray[np.float64],
    is_slow: NDArray[np.bool_],
) -> list[Spike]:
    found = []
    edges = np.diff(np.concatenate([[False], is_spike, [False]]).astype(np.int8))
    for begin, end in zip(
        np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True
    ):
        # Seconds without an event say nothing of latency: not slow, and not back to usual either.
        calm = np.flatnonzero(np.isfinite(p99[end:]) & ~is_slow[end:])
        over = int(calm[0]) if len(calm) else None
        worst = p99[begin : end + over if over is not None else len(p99)]
        worst = worst[np.isfinite(worst)]
        found.append(
            Spike(
                kind=kind,
                begin_s=begin,
                seconds=end - begin,
                highest=float(values[begin:end].max()),
                times_usual=float(values[begin:end].max() / usual),
                worst_p99_ms=float(worst.max()) if len(worst) else None,
                over_after_s=over,
            )
        )
    return found


def as_json(found: Sequence[Spike]) -> list[dict[str, Any]]:
    """As a report holds them."""
    return [{name: getattr(spike, name) for name in Spike.__slots__} for spike in found]
