"""What a worker says of itself when it is asked: age of its loop, its clock, what gives its scores."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry

from worker.metrics import families


class VitalSigns:
    """The gauges of one pipeline that are set at the scrape and at no other time."""

    def __init__(self, pipeline: str, registry: CollectorRegistry = REGISTRY) -> None:
        found = families(registry)
        self._pipeline = pipeline
        self._loop_age = found.loop_age.labels(pipeline)
        self._clock = found.clock.labels(pipeline)
        self._devices = found.device
        self._device = ""

    def say(self, *, loop_age_s: float, clock_s: float, device: str) -> None:
        """Set them.

        Args:
            clock_s: the wall clock, in seconds since 1970.
            device: what gives the scores: a device or `rules`; empty without a model.
        """
        self._loop_age.set(loop_age_s)
        self._clock.set(clock_s)
        if device != self._device and self._device:
            self._devices.remove(self._pipeline, self._device)
        if device:
            self._devices.labels(self._pipeline, device).set(1)
        self._device = device
