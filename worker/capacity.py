"""Loads a pipeline step by step on topics of its own, and says what one worker of this machine can do."""

from __future__ import annotations

import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from feature_cache.redis_store import RedisStore
from feature_cache.store import StoreRefusedError, StoreUnavailableError
from worker.assemble import store_opener
from worker.capacity_cpu import Others, Spent
from worker.capacity_events import Pool, open_pool
from worker.capacity_load import send
from worker.capacity_plan import HEAD_ROOM, last_kept, need, planned_per_member
from worker.capacity_rig import Figures, Rig, brokers, live_topic, rig, row_names
from worker.capacity_verdict import bottleneck
from worker.codecs import input_codec
from worker.config import Pipeline
from worker.dlq import client_config
from worker.exits import Exit, StopWorker

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of saturation
_WARM_PER_KEY = 8  # events: the first ones of a key are unlike the others, such as in how many raise alerts
_FIRST_EVENTS = 2_000  # what a pipeline is like is not known yet: a heavy model may take seconds for them
_WARM_AT_MOST, _FIRST_BACKLOG = 200_000, 50_000
_BACKLOG_AT_MOST = 1_000_000
_STEP_AT_MOST = 1_000_000
_LOOK_EVERY_S = 0.05
_STALL_S = 60.0  # without a single event: something is wrong
_COUNTED = (0.1, 0.95)  # of a backlog: its beginning and its end are not the steady state
_LATE_P99_MS = 50.0  # a sender so late does not offer what was asked for
_ANSWERED = 0.999  # of the events of a step, when it ends, or it was not kept up with
_DRAIN_S = 5.0
_SEND_S = 180.0
_SETTLE_S = 30.0
_MOST_EVENTS = _FIRST_EVENTS + _WARM_AT_MOST + _FIRST_BACKLOG + _BACKLOG_AT_MOST + len(SHARES) * _STEP_AT_MOST
_SIZED_KEYS = 100

Look = tuple[Figures, Spent]
Show = Callable[[str], None]  # called when the next part begins, with what it is
PARTS = 4 + len(SHARES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked."""

    events: tuple[Path, ...] = ()
    keys: int = 10_000  # of generated events
    partitions: int | None = None  # None: as many as the pipeline's own topic
    seconds: float = 10.0  # of a step
    p99_ms: float | None = None  # None: the pipeline's own objective, if it has one
    traffic_per_s: float | None = None
    member_price_per_hour: float | None = None


def measure(pipeline: Pipeline, request: Request, show: Show) -> dict[str, Any]:
    """The report of docs/capacity.md, as JSON.

    Raises:
        ConfigError, StopWorker, KafkaException, StoreUnavailableError: it cannot be measured, and why.
    """
    show("looking at events")
    store = store_opener()(str(pipeline.state.store))
    redis = store if isinstance(store, RedisStore) else None
    store.ping()  # a worker would wait for it
    pool = open_pool(pipeline, request.events, _MOST_EVENTS, request.keys)
    live_partitions, replicas = live_topic(pipeline)
    partitions = request.partitions or live_partitions
    run = f"{os.getpid()}-{time.time_ns() // 1_000_000:x}"
    with tempfile.TemporaryDirectory(prefix="penstock-capacity-") as name:
        folder = Path(name)
        show("starting a worker")
        with rig(pipeline, run, partitions, replicas, pool.keys, folder) as running:
            load = _Load(running, pool, Others(brokers(pipeline), redis), folder, request.seconds)
            show("working off a backlog")
            saturation = load.saturate()
            steps = []
            for share in SHARES if running.pipeline.outputs.scores else ():
                rate = share * saturation["events_per_s"]
                show(f"{rate:,.0f} events a second")
                steps.append({"share": share, **load.step(rate)})
            show("counting rows")
            rows, device = _rows(running, pool, redis), running.device()
    return {
        "pipeline": pipeline.name,
        "file": str(pipeline.path),
        "delivery": pipeline.delivery.mode,
        "device": device,
        "machine": _machine(),
        "events": {"source": pool.source, "keys": len(pool.keys)},
        "partitions": partitions,
        "saturation": saturation,
        "bottleneck": bottleneck(saturation),
        "steps": steps,
        "store": rows,
        **verdict(pipeline, request, saturation, steps, partitions),
    }


def verdict(
    pipeline: Pipeline,
    request: Request,
    saturation: dict[str, Any],
    steps: Sequence[dict[str, Any]],
    partitions: int,
) -> dict[str, Any]:
    """Where the objective breaks, and what the stated traffic takes.

    A member's limit is the last rate up to which the objective is kept; without an objective, or where
    nothing is scored, it is what it worked a backlog off with.
    """
    objective_ms = request.p99_ms if request.p99_ms is not None else pipeline.batching.latency_slo_ms
    objective_ms = objective_ms if steps else None  # where nothing is scored, nobody waits for a score
    limit: float | None = saturation["events_per_s"]
    broken = None
    if objective_ms is not None:
        p99 = [step["latency_ms"]["p99"] if step["is_kept_up"] else None for step in steps]
        rates = [step["events_per_s"] for step in steps]
        limit = last_kept(rates, p99, objective_ms, [step["is_sender_late"] for step in steps])
        broken = next((rate for rate in rates if limit is None or rate > limit), None)
    wanted, price = request.traffic_per_s, request.member_price_per_hour
    needed = None
    if wanted is not None and limit is not None:
        needed = asdict(need(wanted, limit, partitions=partitions, member_price_per_hour=price))
    cores = None  # that the workers' CPU alone takes, however it is divided among them
    if wanted is not None and saturation["cpu_us_per_event"]:
        cores = wanted * saturation["cpu_us_per_event"] / 1e6 / (1 - HEAD_ROOM)
    full = None
    if limit is not None and price is not None:
        full = need(planned_per_member(limit), limit, member_price_per_hour=price).per_million
    cpu_us = saturation["cpu_us_per_event"]
    return {
        "one_core_per_s": 1e6 / cpu_us if cpu_us else None,  # were nothing but the worker's CPU in the way
        "objective_p99_ms": objective_ms,
        "member_limit_per_s": limit,
        "objective_broken_at_per_s": broken,
        "traffic_per_s": wanted,
        "member_price_per_hour": price,
        "need": needed,
        "need_cores": cores,
        "per_million_at_full_use": full,
    }


class _Load:
    """The worker under load, and the events that it has been sent so far."""

    def __init__(self, running: Rig, pool: Pool, others: Others, folder: Path, seconds: float) -> None:
        self._rig = running
        self._pool = pool
        self._others = others
        self._folder = folder
        self._seconds = seconds
        self._sent = 0
        self._codec = input_codec(running.pipeline, pool.schema)

    def saturate(self) -> dict[str, Any]:
        """What a backlog is worked off with, once everything is warm.

        Each backlog tells how large the next one may be to last no longer than a step.
        """
        found = self._backlog(_FIRST_EVENTS)
        for at_most in (min(_WARM_PER_KEY * len(self._pool.keys), _WARM_AT_MOST), _FIRST_BACKLOG):
            found = self._backlog(self._in_a_step(found, at_most))
        wanted = self._in_a_step(found, _BACKLOG_AT_MOST)
        return self._backlog(wanted) if wanted > found["backlog"] else found

    def _in_a_step(self, found: dict[str, Any], at_most: int) -> int:
        """Events that last as long as a step at the rate that was found."""
        return max(_FIRST_EVENTS, min(at_most, int(found["events_per_s"] * self._seconds)))

    def _backlog(self, count: int) -> dict[str, Any]:
        self._rig.switch("pause")
        before = self._rig.figures()
        size_bytes = self._send(count, None)[-1]
        self._rig.switch("resume")
        looks: list[Look] = []
        begun_s = time.monotonic()
        while True:
            looks.append(self._look())
            done = _outcomes(looks[-1][0]) - _outcomes(before)
            if done >= count:
                break
            if done == 0 and time.monotonic() - begun_s > _STALL_S:
                raise StopWorker(Exit.KAFKA, f"the worker has scored nothing within {_STALL_S:g} s")
            if time.monotonic() - begun_s > _STALL_S + 10 * self._seconds:
                break  # what was seen so far tells the rate
            time.sleep(_LOOK_EVERY_S)
        self._settle()
        reached = _outcomes(looks[-1][0]) - _outcomes(before)
        low, high = (_outcomes(before) + share * reached for share in _COUNTED)
        first = next(look for look in looks if _outcomes(look[0]) >= low)
        last = next(look for look in looks if _outcomes(look[0]) >= high)
        if first is last:  # worked off between two looks
            first = looks[0]
        return {"backlog": count, "bytes_per_event": size_bytes / count, **_between(first, last)}

    def step(self, per_s: float) -> dict[str, Any]:
        """Latency at a rate, open loop: events are due by a Poisson process, whatever the worker does."""
        count = max(100, int(min(_STEP_AT_MOST, per_s * self._seconds)))
        report, first, last, _ = self._send(count, per_s)
        self._settle()
        answered = report["scores"] + report["dead_letters"]
        is_late = report["send_late_ms"]["p99"] > _LATE_P99_MS
        return {
            "asked_per_s": per_s,
            "is_kept_up": answered >= _ANSWERED * count,
            "is_sender_late": is_late,
            "busy": _between(first, last),
            **report,
        }

    def _settle(self) -> None:
        """Wait, not for ever, until all is worked off: the next step is not to begin with a rest."""
        deadline_s = time.monotonic() + _SETTLE_S
        while _outcomes(self._rig.figures()) < self._sent and time.monotonic() < deadline_s:
            time.sleep(_LOOK_EVERY_S)

    def _look(self) -> Look:
        return self._rig.figures(), self._others.spent()

    def _send(self, count: int, per_s: float | None) -> tuple[dict[str, Any], Look, Look, int]:
        """Send the next events; the report, a look at the beginning and at the end, and the bytes sent."""
        path = self._folder / "events.arrow"
        loaded = self._rig.pipeline
        size_bytes = self._pool.write(path, self._codec, self._sent, count)
        properties = client_config(loaded)
        order = {
            "name": loaded.name,
            "bootstrap": properties.pop("bootstrap.servers"),
            "properties": properties,
            "records": str(path),
            "topic": loaded.source.topic,
            "first_number": self._sent,
            "per_s": per_s,
            "seed": self._sent,
            "partitioner": loaded.source.partitioner,
            "scores": loaded.outputs.scores,
            "alerts": loaded.outputs.alerts,
            "dead_letters": loaded.outputs.dead_letters,
            "schema": self._pool.schema.text,
            "format": loaded.source.format,
            "output_format": loaded.outputs.format,
            "id_field": self._pool.id_field,
            "drain_s": _DRAIN_S,
        }
        report, first, last = send(order, _SEND_S + 3 * self._seconds, self._look)
        self._sent += count
        return report, first, last, size_bytes


def _outcomes(figures: Figures) -> float:
    return figures.events + figures.dead_letters


def _between(first: Look, last: Look) -> dict[str, Any]:
    """What happened from one look to another: rates, cores used, and the loop's time by stage."""
    (old, old_spent), (new, new_spent) = first, last
    seconds, events = new.at_s - old.at_s, _outcomes(new) - _outcomes(old)
    batches = new.batches - old.batches

    def cores(now: float | None, then: float | None) -> float | None:
        return None if now is None or then is None else (now - then) / seconds

    worker = cores(new.cpu_s, old.cpu_s)
    return {
        "seconds": seconds,
        "events": events,
        "events_per_s": events / seconds,
        "cpu_us_per_event": None if worker is None or not events else worker * seconds / events * 1e6,
        "batch_rows": events / batches if batches else None,
        "memory_mb": None if new.memory_bytes is None else new.memory_bytes / 1e6,
        "cores": {
            "worker": worker,
            "redis": cores(new_spent.redis_s, old_spent.redis_s),
            "brokers": cores(new_spent.brokers_s, old_spent.brokers_s),
            "machine": cores(new_spent.machine_s, old_spent.machine_s),
            "of": os.cpu_count(),
        },
        "stage_share": {
            stage: (new.stage_s[stage] - old.stage_s.get(stage, 0.0)) / seconds for stage in new.stage_s
        },
        "dead_letters": new.dead_letters - old.dead_letters,
        "alerts": new.alerts - old.alerts,
    }


def _rows(running: Rig, pool: Pool, redis: RedisStore | None) -> dict[str, Any] | None:
    """What the rows of some keys take in Redis, with its own share and without; None where there are none."""
    if redis is None:
        return None
    names = [name for lane in row_names(running.pipeline, pool.keys, running.partitions) for name in lane[1:]]
    every = max(1, math.ceil(len(names) / _SIZED_KEYS))
    try:
        sizes = [
            (redis.ask(name, b"MEMORY", b"USAGE", name), redis.ask(name, b"STRLEN", name))
            for name in names[::every]
        ]
    except (StoreUnavailableError, StoreRefusedError):
        return None
    found = [(int(held), int(value)) for held, value in sizes if held]
    if not found:
        return None
    held, values = (sum(column) / len(found) for column in zip(*found, strict=True))
    return {"keys": len(names), "bytes_per_key": held, "value_bytes_per_key": values}


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    except OSError:
        pass
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load_average": round(os.getloadavg()[0], 2),
    }
