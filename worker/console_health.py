"""What is wrong with a pipeline, in sentences: what was seen, what it means, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worker.console_snapshot import WINDOW_S, Snapshot
from worker.degradation import STEPS, WHOLE

_LAG_WARN_S, _LAG_BAD_S = 10.0, 60.0
_DEAD_WARN, _DEAD_BAD = 0.01, 0.2
_CLOCKS_APART_S = 30.0  # what they say is at most some seconds old
_LEFT_FOR_S = 60.0  # so long it is told that a worker has left
_STANDS_ON = {
    "STALE_LOOKUP": "the pipeline that is looked up is behind",
    "WITHOUT_ROWS": "the store is away, and rows are guessed",
    "CPU": "the GPU failed, and the CPU stands in for it",
    "RULES": "the model failed, and rules stand in for it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A worker that says nothing any more."""

    worker: str
    for_s: float
    has_left: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a person should know."""

    level: str  # bad, warn or info
    text: str
    do: str = ""

    def as_json(self) -> dict[str, Any]:
        """For the page."""
        return asdict(self)


def findings(
    name: str, live: Sequence[Snapshot], gone: Sequence[Gone], lag: Mapping[str, Mapping[str, Any]]
) -> list[Finding]:
    """Everything that is wrong, the worst first; empty when all is well."""
    found = [
        *_workers(name, live, gone),
        *_clocks(live),
        *_reading(live, lag),
        *_outcomes(live),
        *_models(live),
    ]
    order = {"bad": 0, "warn": 1, "info": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def _workers(name: str, live: Sequence[Snapshot], gone: Sequence[Gone]) -> Iterator[Finding]:
    if not live:
        yield Finding(
            level="bad",
            text=f"No worker of {name} is running, or none can be heard.",
            do="Start one: penstock run FILE. If one runs, its file must name the same console.topic.",
        )
    for each in gone:
        if each.has_left and each.for_s <= _LEFT_FOR_S:
            yield Finding(level="info", text=f"Worker {each.worker} has left in good order.")
        elif not each.has_left:
            yield Finding(
                level="bad" if each.for_s < _LEFT_FOR_S else "warn",
                text=f"Worker {each.worker} has said nothing for {_for(each.for_s)}: it died, or cannot "
                f"reach Kafka.",
                do="Its partitions move to the other workers within the session timeout. Look at the end of "
                "its log.",
            )
    for s in live:
        if not s.is_alive:
            yield Finding(
                level="bad",
                text=f"The loop of worker {s.worker} has been stuck for {_for(s.loop_age_s)}.",
                do="Its supervisor should restart it (/healthz says 503). Look at its log first.",
            )
        elif s.is_paused:
            yield Finding(
                level="warn",
                text=f"Worker {s.worker} is paused: it reads nothing and keeps its partitions.",
                do="Let it go on: POST /resume with the token.",
            )
        elif not s.is_ready:
            yield Finding(
                level="warn",
                text=f"Worker {s.worker} does not read all of its partitions yet: it is starting, or the "
                f"partitions have just moved.",
                do="If it stays so, Kafka or the store does not answer: penstock doctor FILE.",
            )


def _clocks(live: Sequence[Snapshot]) -> Iterator[Finding]:
    behind = min(live, key=lambda s: s.at_ms, default=None)
    ahead = max(live, key=lambda s: s.at_ms, default=None)
    if behind and ahead and (apart_s := (ahead.at_ms - behind.at_ms) / 1000) >= _CLOCKS_APART_S:
        yield Finding(
            level="warn",
            text=f"The clock of worker {ahead.worker} is {_for(apart_s)} ahead of that of {behind.worker}.",
            do="Have both set by NTP: latencies, and the times in scores and alerts, are by these clocks.",
        )


def _reading(live: Sequence[Snapshot], lag: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    total = max((s.lanes_total for s in live), default=0)
    held = sum(s.lanes.get("reading", 0) + s.lanes.get("waiting", 0) for s in live)
    if live and total > held and all(s.is_ready for s in live):
        yield Finding(
            level="bad",
            text=f"{total - held} of {total} partitions belong to no worker that can be heard: nobody scores "
            f"their events.",
            do="They move to another worker within the session timeout, unless none is left.",
        )
    waiting = sum(s.lanes.get("waiting", 0) for s in live)
    if waiting and all(s.is_ready for s in live):
        yield Finding(
            level="warn",
            text=f"{waiting} of {total} partitions wait for Kafka or the store.",
            do="penstock doctor FILE",
        )
    worst = max(lag.items(), key=lambda item: float(item[1]["seconds"]), default=None)
    if worst is not None and worst[1]["seconds"] >= _LAG_WARN_S:
        records = sum(each["records"] for each in lag.values())
        yield Finding(
            level="bad" if worst[1]["seconds"] >= _LAG_BAD_S else "warn",
            text=f"Scores are {_for(worst[1]['seconds'])} late on partition {worst[0]}; {records:,} events "
            f"wait in all.",
            do="If this grows, add workers (up to one a partition) or look which stage takes the time.",
        )
    if failed := sum(s.writes_failed for s in live):
        yield Finding(
            level="bad",
            text=f"The store did not take {failed} {'write' if failed == 1 else 'writes'} of the last "
            f"{WINDOW_S} s: it is away or refuses.",
            do="Scores go on from memory. penstock doctor FILE says what is wrong with the store.",
        )
    for s in live:
        for cause, times in s.recoveries.items():
            yield Finding(
                level="warn",
                text=f"Worker {s.worker} took its partitions again {_times(times)} in the last {WINDOW_S} s: "
                f"{cause}.",
                do="Nothing is lost or doubled by it. If it goes on, Kafka is in trouble: see its log.",
            )


def _outcomes(live: Sequence[Snapshot]) -> Iterator[Finding]:
    dead = sum(sum(s.dead_letters.values()) for s in live)
    scored = sum(s.batch_events for s in live)
    if dead and dead >= _DEAD_WARN * (dead + scored):
        reasons: dict[str, int] = {}
        for s in live:
            for reason, count in s.dead_letters.items():
                reasons[reason] = reasons.get(reason, 0) + count
        most = max(reasons, key=lambda reason: reasons[reason])
        share = dead / (dead + scored)
        yield Finding(
            level="bad" if share >= _DEAD_BAD else "warn",
            text=f"{share:.0%} of the records of the last {WINDOW_S} s could not be scored, mostly {most}.",
            do="Look at one under Dead letters. penstock dlq replay sends them again once that is mended.",
        )
    step = max((s.degradation for s in live), default=WHOLE)
    degraded = {step for s in live for step, count in s.degraded.items() if count}
    words = {STEPS[step]} if step else degraded
    for word in sorted(words & set(_STANDS_ON)):
        yield Finding(
            level="warn",
            text=f"Scores are marked degraded ({word}): {_STANDS_ON[word]}.",
            do="See docs/degradation.md.",
        )
    if any(s.slo_missed for s in live):
        late = max(s.late_share for s in live)
        yield Finding(
            level="warn",
            text=f"The latency objective cannot be kept: {late:.1%} of the events are later.",
            do="Add workers, or raise batching.latency_slo.",
        )


def _models(live: Sequence[Snapshot]) -> Iterator[Finding]:
    for s in live:
        if s.is_refused:
            yield Finding(
                level="bad",
                text=f"Worker {s.worker} refuses the newest change of the model, and goes on with version "
                f"{s.champion}.",
                do="penstock models list FILE says why.",
            )
    if len({s.champion for s in live if s.champion}) > 1:
        yield Finding(
            level="warn", text="Workers serve different versions of the model: a change is under way."
        )
    alarms = sorted({alarm for s in live for alarm in s.drift_alarms})
    if alarms:
        more = f" and {len(alarms) - 3} more" if len(alarms) > 3 else ""
        yield Finding(
            level="warn",
            text=f"What comes in is unlike the training data: {', '.join(alarms[:3])}{more}.",
            do="See Models for how far; docs/watch.md says what to do.",
        )


def _for(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
