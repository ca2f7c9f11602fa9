"""What the hot path counts, noted in passing and added up when somebody looks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric

_AT_MOST = 1000  # notes, of some 70 batches
# Adds what was noted to a metric: numbers, or arrays of them.
Add = Callable[[list[Any]], None]


class Tally:
    """Notes of one thread; any other may add them up.

    A metric's own call takes a lock and, for a histogram, looks for the bucket: 2 us, some twenty times a
    batch. A note is a tuple in a queue.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Be added up whenever all of this registry is read, see `first_in`."""
        self._notes: deque[tuple[Add, Any]] = deque()
        self._adding_up = threading.Lock()
        _of(registry).tallies.append(self)

    def note(self, add: Add, value: Any) -> None:
        """One value for a metric; an array must not change any more."""
        self._notes.append((add, value))
        if len(self._notes) > _AT_MOST:
            self.add_up()

    def add_up(self) -> None:
        """Tell the metrics what was noted."""
        with self._adding_up:
            values: dict[Add, list[Any]] = {}
            for _ in range(len(self._notes)):  # and not what is noted meanwhile
                add, value = self._notes.popleft()
                values.setdefault(add, []).append(value)
            for add, noted in values.items():
                add(noted)


class _AddsUp:
    """What a registry collects first: nothing, but by then every tally has told its metrics."""

    def __init__(self) -> None:
        self.tallies: list[Tally] = []  # for good: what was counted counts when its pipeline is gone, too

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        for tally in self.tallies.copy():
            tally.add_up()
        return ()


def first_in(registry: CollectorRegistry) -> None:
    """Let tallies be added up before anything registered later is read."""
    registry.register(_AddsUp())


def add_up(registry: CollectorRegistry) -> None:
    """Tell the metrics of a registry what was noted, for whoever reads some of them alone."""
    _of(registry).collect()


def _of(registry: CollectorRegistry) -> _AddsUp:
    return next(each for each in registry._collector_to_names if isinstance(each, _AddsUp))


class Stage:
    """Times one stage at a time; a generator in its place would cost a batch 20 us."""

    def __init__(self, seconds: Histogram, tally: Tally) -> None:
        self._add, self._tally = observes(seconds), tally
        self._begun = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._tally.note(self._add, time.perf_counter() - self._begun)


def counts(counter: Counter) -> Add:
    """Numbers to a counter."""
    return lambda noted: counter.inc(sum(noted))


def counts_all(counter: Counter) -> Add:
    """Arrays to a counter: their sum."""
    return lambda noted: counter.inc(int(np.concatenate(noted).sum()))


def counts_each(counters: list[Counter | None]) -> Add:
    """Arrays of indices to the counter of each index; None: nobody counts that one."""

    def add(noted: list[NDArray[Any]]) -> None:
        found = np.bincount(np.concatenate(noted), minlength=len(counters)).tolist()
        for counter, count in zip(counters, found, strict=True):
            if count and counter is not None:
                counter.inc(count)

    return add


def sets(gauge: Gauge) -> Add:
    """Numbers to a gauge: the last one."""
    return lambda noted: gauge.set(noted[-1])


def observes(histogram: Histogram) -> Add:
    """Numbers to a histogram."""
    return lambda noted: _observe(histogram, np.array(noted, np.float64))


def observes_waits(histogram: Histogram) -> Add:
    """When records were done, in microseconds, with their (n,) timestamps, to a histogram of seconds."""
    return lambda noted: _observe(histogram, waits_s(noted))


def waits_s(noted: list[tuple[int, NDArray[np.int64]]]) -> NDArray[np.float64]:
    """How long each record took; those without a timestamp are left out."""
    return np.concatenate(
        [(at_us / 1000 - produced_ms[produced_ms > 0]) / 1000 for at_us, produced_ms in noted]
    )


def _observe(histogram: Histogram, values: NDArray[np.float64]) -> None:
    bounds = histogram._upper_bounds
    found = np.bincount(np.searchsorted(bounds, values), minlength=len(bounds)).tolist()
    for bucket, count in zip(histogram._buckets, found, strict=True):
        if count:
            bucket.inc(count)
    histogram._sum.inc(float(values.sum()))
