"""Rows of another pipeline, as columns beside our events: waited for or used as they are, and dated."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_cache.key_index import distinct
from feature_cache.layout import NEVER_US
from feature_cache.lookup import LookedUp, read_lookup
from feature_cache.mirror import Mirror
from feature_cache.store import Store, StoreUnavailableError
from schemas.spans import Spans
from worker.batch import Events
from worker.partitioners import partitions
from worker.plan import LookupPlan
from worker.records import Records, index_keys

_POLL_S = 0.005  # how often a lane that lags is asked again
_UNKNOWN_AGE_MS = 2**53  # the owner has stored nothing yet


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Looked:
    """What a lookup gives each event."""

    values: NDArray[np.float64]  # (n, columns)
    age_ms: NDArray[np.int64]  # (n,) how far the owner was behind the event
    is_stale: NDArray[np.bool_]  # (n,) further than max_age: the default was used
    incomplete: NDArray[np.bool_]  # (n,)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Known:
    """What a lookup has given already."""

    columns: slice
    looked: Looked

    def read(self, _events: Events, _may_wait: object = None) -> Looked:
        """The same, whatever is asked."""
        return self.looked


class Lookup:
    """One lookup of the pipeline file."""

    def __init__(
        self,
        plan: LookupPlan,
        store: Store,
        lane_count: int,
        clock_s: Callable[[], float] = time.monotonic,
        *,
        may_guess: bool = False,  # a store that is away is an owner that has stored nothing
    ) -> None:
        self._plan = plan
        self._lane_count = lane_count  # partitions of the owner's topic
        self._clock_s = clock_s
        self._may_guess = may_guess
        self._mirror = Mirror(store, (plan.owner.kafka.group, plan.owner.source.topic), plan.layout)
        self.columns = slice(plan.column, plan.column + len(plan.group.columns))

    def expect(self, _records: Records) -> None:
        """Their keys are known once they are decoded."""

    def read(self, events: Events, may_wait: Callable[[], None] = lambda: None) -> Looked:
        """The other pipeline's windows as of each event.

        Args:
            may_wait: called before each pause; raises to give up waiting.

        Raises:
            StoreUnavailableError: the store did not answer; not with `may_guess`.
        """
        asked = events.columns.spans(self._plan.feature.key)
        firsts, key_index = distinct(index_keys(asked))
        keys = asked.take(firsts)
        try:
            found = self._read_when_ready(keys, key_index, events.event_us, may_wait)
        except StoreUnavailableError:
            if not self._may_guess:
                raise
            found = self._nothing(len(events))
        feature = self._plan.feature
        behind_us = np.maximum(events.event_us - found.complete_us, 0)
        never = found.complete_us == NEVER_US
        is_stale = never | (behind_us > feature.max_age_us)
        return Looked(
            values=np.where(is_stale[:, None], feature.default, found.values),
            age_ms=np.where(never, _UNKNOWN_AGE_MS, behind_us // 1000),
            is_stale=is_stale,
            incomplete=found.incomplete & ~is_stale,
        )

    def _nothing(self, n: int) -> LookedUp:
        return LookedUp(
            values=np.zeros((n, len(self._plan.group.columns))),
            complete_us=np.full(n, NEVER_US, np.int64),
            incomplete=np.zeros(n, np.bool_),
        )

    def _read_when_ready(
        self,
        keys: Spans,
        key_index: NDArray[np.int64],
        event_us: NDArray[np.int64],
        may_wait: Callable[[], None],
    ) -> LookedUp:
        """Read at once, or again and again until the owner has reached every event's time."""
        plan = self._plan
        lanes = partitions(keys, self._lane_count, plan.owner.source.partitioner)
        entities = index_keys(keys)
        deadline_s = self._clock_s() + plan.feature.wait_at_most_ms / 1000
        while True:
            found = read_lookup(self._mirror, plan.group, entities, lanes, key_index, event_us)
            if plan.feature.when_behind == "use" or bool((found.complete_us >= event_us).all()):
                return found
            if self._clock_s() >= deadline_s:
                return found
            may_wait()
            time.sleep(_POLL_S)
