"""What all workers say, added up by pipeline: histograms are summed, percentiles never averaged."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from worker.console_health import Finding, Gone, findings
from worker.console_snapshot import WINDOW_S, Snapshot
from worker.latency_window import from_sparse, percentiles_ms

STALE_MS = 2_000  # what is older is marked
GONE_MS = 5_000  # a worker that has said nothing for so long is gone
_FORGET_MS = 300_000  # and after this nobody asks for it any more
_HISTORY = 300  # points, a second each
_SHARES = (0.5, 0.9, 0.99, 0.999)
WORKERS_AT_MOST = 512  # told apart; who may write the topic must not fill our memory


@dataclass(slots=True)
class _Heard:
    """The newest of one worker, and when it came, on our clock."""

    snapshot: Snapshot
    at_ms: float
    has_left: bool = False


class World:
    """What is known of every worker of every pipeline; any thread may call.

    Invariants: a snapshot counts for GONE_MS after it was made, and not once its worker has left; an older
    one never takes the place of a newer one.
    """

    def __init__(self) -> None:
        self._heard: dict[tuple[str, str], _Heard] = {}
        self._history: dict[str, deque[tuple[float | int | None, ...]]] = {}
        self._point_ms = -math.inf
        self._lock = threading.Lock()

    def take(self, snapshot: Snapshot, at_ms: float) -> None:
        """A worker has spoken; at_ms is when, on our clock."""
        key = snapshot.pipeline, snapshot.worker
        with self._lock:
            known = self._heard.get(key)
            if known is None and len(self._heard) >= WORKERS_AT_MOST:
                return
            newest = (known.snapshot.started_ms, known.snapshot.seq) if known else (0, 0)
            if (snapshot.started_ms, snapshot.seq) > newest:
                self._heard[key] = _Heard(snapshot, at_ms)

    def left(self, pipeline: str, worker: str) -> None:
        """A worker has said that it ends."""
        with self._lock:
            if (pipeline, worker) in self._heard:
                self._heard[pipeline, worker].has_left = True

    def adopt(self, past: World) -> None:
        """Take over what was read of the time before; nothing is left there."""
        with past._lock:
            heard, history = past._heard, past._history
            past._heard, past._history = {}, {}
        with self._lock:
            for key, old in heard.items():
                if key not in self._heard and len(self._heard) < WORKERS_AT_MOST:
                    self._heard[key] = old
            for name, points in history.items():
                until_ms = float(points[-1][0] or 0)
                since = [point for point in self._history.get(name, ()) if float(point[0] or 0) > until_ms]
                self._history[name] = deque([*points, *since], maxlen=_HISTORY)

    def tick(self, now_ms: float) -> None:
        """Add a point to the history once a second; forget who is long gone."""
        with self._lock:
            if now_ms < self._point_ms + 1000:
                return
            self._point_ms = now_ms if now_ms > self._point_ms + 2000 else self._point_ms + 1000
            for key in [k for k, heard in self._heard.items() if now_ms - heard.at_ms > _FORGET_MS]:
                del self._heard[key]
            for name in {name for name, _ in self._heard}:
                points = self._history.setdefault(name, deque(maxlen=_HISTORY))
                points.append(_point(self._live(name, now_ms), now_ms))
            for name in [n for n in self._history if n not in {name for name, _ in self._heard}]:
                del self._history[name]

    def history(self, wall_ms: float, now_ms: float) -> dict[str, list[tuple[float | int | None, ...]]]:
        """A point a second: wall ms; events, scores, alerts, dead letters a second; p50, p99; lag."""
        with self._lock:
            return {
                name: [(round(wall_ms - now_ms + float(point[0] or 0)), *point[1:]) for point in points]
                for name, points in self._history.items()
            }

    def state(self, now_ms: float, known: Mapping[str, Any]) -> list[dict[str, Any]]:
        """How every pipeline is, by name.

        Args:
            known: pipelines that are told of also where no worker speaks.
        """
        with self._lock:
            names = sorted({name for name, _ in self._heard} | set(known))
            return [self._pipeline(name, now_ms) for name in names]

    def _live(self, name: str, now_ms: float) -> list[Snapshot]:
        return [
            heard.snapshot
            for (pipeline, _), heard in self._heard.items()
            if pipeline == name and not heard.has_left and now_ms - heard.at_ms <= GONE_MS
        ]

    def _pipeline(self, name: str, now_ms: float) -> dict[str, Any]:
        heard = {worker: h for (pipeline, worker), h in sorted(self._heard.items()) if pipeline == name}
        live = self._live(name, now_ms)
        gone = [
            Gone(worker=worker, for_s=(now_ms - h.at_ms) / 1000, has_left=h.has_left)
            for worker, h in heard.items()
            if h.snapshot not in live
        ]
        lag = _lag(live)
        found = findings(name, live, gone, lag)
        return {
            "name": name,
            "health": [finding.as_json() for finding in found],
            "level": _worst(found),
            "workers": [_worker(h, now_ms) for h in heard.values()],
            "age_ms": max(
                (round(now_ms - h.at_ms) for h in heard.values() if h.snapshot in live), default=None
            ),
            **_merged(live),
            "lag": lag,
        }


def _merged(live: list[Snapshot]) -> dict[str, Any]:
    counts = sum((from_sparse(s.latency) for s in live), np.zeros_like(from_sparse({})))
    p50, p90, p99, p999 = percentiles_ms(counts, _SHARES)
    events = sum(s.batch_events for s in live)
    batches = _summed(s.batches for s in live)
    return {
        "topic": live[0].topic if live else "",
        "per_s": _summed(s.per_s for s in live),
        "totals": _summed(s.totals for s in live),
        "latency_ms": {"p50": p50, "p90": p90, "p99": p99, "p999": p999, "events": int(counts.sum())},
        "window_s": WINDOW_S,
        "lanes_total": max((s.lanes_total for s in live), default=0),
        "lanes": _summed(s.lanes for s in live),
        "batches": batches,
        "rows_a_batch": round(events / sum(batches.values()), 1) if batches else None,
        "batch_max_rows": max((s.batch_max_rows for s in live), default=0),
        "batch_max_wait_ms": max((s.batch_max_wait_ms for s in live), default=0),
        "stages_us": _weighted(live),
        "dead_letters": _summed(s.dead_letters for s in live),
        "alerts": _summed(s.alerts for s in live),
        "model": next((s.model for s in live if s.model), ""),
        "versions": _versions(live),
        "drift": _drift(live),
    }


def _summed(many: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for one in many:
        for name, value in one.items():
            total[name] = total.get(name, 0) + value
    return total


def _weighted(live: list[Snapshot]) -> dict[str, float]:
    """Microseconds an event in each stage, by how many events each worker had."""
    weight = sum(s.batch_events for s in live)
    total: dict[str, float] = {}
    for s in live:
        for stage, us in s.stages_us.items():
            total[stage] = total.get(stage, 0.0) + us * s.batch_events
    return {stage: round(us / weight, 3) for stage, us in total.items()} if weight else {}


def _lag(live: list[Snapshot]) -> dict[str, dict[str, Any]]:
    """By partition; one that two workers tell of for a moment is the newer one's."""
    lag: dict[str, dict[str, Any]] = {}
    for s in sorted(live, key=lambda s: s.at_ms):
        for partition, (records, seconds) in s.lag.items():
            if partition.isdecimal():
                lag[partition] = {"records": records, "seconds": seconds, "worker": s.worker}
    return dict(sorted(lag.items(), key=lambda item: int(item[0])))


def _versions(live: list[Snapshot]) -> list[dict[str, Any]]:
    """Who scores what, and how many workers say so."""
    found: dict[tuple[str, str, float], int] = {}
    for s in live:
        if s.champion:
            found[s.champion, "serves", 1.0] = found.get((s.champion, "serves", 1.0), 0) + 1
        if s.challenger:
            key = s.challenger, "shadow" if s.is_shadow else "canary", s.share
            found[key] = found.get(key, 0) + 1
    return [
        {"version": version, "role": role, "share": share, "workers": workers}
        for (version, role, share), workers in sorted(found.items(), key=lambda item: item[0][1] != "serves")
    ]


def _drift(live: list[Snapshot]) -> list[dict[str, Any]]:
    """By feature what the worker says whose events are furthest off; every worker looks at its own lanes."""
    worst: dict[str, tuple[float, float, str, str]] = {}
    for s in live:
        for feature, psi, rank, alarms in s.drift:
            if feature not in worst or (bool(alarms), psi) > (bool(worst[feature][2]), worst[feature][0]):
                worst[feature] = (psi, rank, alarms, s.worker)
    told = sorted(worst.items(), key=lambda item: (not item[1][2], -item[1][0]))
    return [
        {"feature": feature, "psi": psi, "mean_rank": rank, "alarms": alarms, "worker": worker}
        for feature, (psi, rank, alarms, worker) in told
    ]


def _worker(heard: _Heard, now_ms: float) -> dict[str, Any]:
    s, age_ms = heard.snapshot, max(0, round(now_ms - heard.at_ms))
    is_gone = heard.has_left or age_ms > GONE_MS
    return {
        "worker": s.worker,
        "age_ms": age_ms,
        "state": "left"
        if heard.has_left
        else "gone"
        if is_gone
        else "stale"
        if age_ms > STALE_MS
        else "live",
        "device": s.device,
        "is_ready": s.is_ready,
        "is_alive": s.is_alive,
        "is_paused": s.is_paused,
        "loop_age_s": s.loop_age_s,
        "per_s": dict(s.per_s),
        "totals": dict(s.totals),
        "lanes": sorted(int(p) for p in s.lag if p.isdecimal()),
        "hot_rows": s.hot_rows,
        "dirty_rows": s.dirty_rows,
        "version": s.champion,
        "revision": s.revision,
        "started_ms": s.started_ms,
    }


def _point(live: list[Snapshot], now_ms: float) -> tuple[float | int | None, ...]:
    per_s = _summed(s.per_s for s in live)
    counts = sum((from_sparse(s.latency) for s in live), np.zeros_like(from_sparse({})))
    p50, p99 = percentiles_ms(counts, (0.5, 0.99))
    lag = sum(records for s in live for records, _ in s.lag.values())
    rates = (per_s.get(name) for name in ("events", "scores", "alerts", "dead_letters"))
    return (now_ms, *rates, p50, p99, lag)


def _worst(found: list[Finding]) -> str:
    levels = [finding.level for finding in found]
    return next((level for level in ("bad", "warn") if level in levels), "ok")
