"""Profile rows as columns beside our events."""

from __future__ import annotations

import numpy as np

from feature_cache.profiles import read_profiles
from feature_cache.store import Store, StoreUnavailableError
from worker.batch import Events
from worker.lookups import Looked
from worker.plan import ProfilePlan
from worker.records import index_keys


class Profile:
    """One profile of the pipeline file."""

    def __init__(self, plan: ProfilePlan, store: Store, *, may_guess: bool = False) -> None:
        """Read nothing yet.

        Args:
            may_guess: a store that is away is one without rows.
        """
        self._plan = plan
        self._store = store
        self._may_guess = may_guess
        self.columns = slice(plan.column, plan.column + len(plan.table.fields))

    def read(self, events: Events, _: object = None) -> Looked:
        """The row of each event's key, as it is now; also in a replay, as nobody keeps older ones.

        Raises:
            StoreUnavailableError: the store did not answer; not with `may_guess`.
            StoreRefusedError: see `read_profiles`.
        """
        n, plan = len(events), self._plan
        keys = events.records.keys
        if plan.key is not None:
            keys = events.columns.spans(plan.key)
        is_away = False
        try:
            values = read_profiles(self._store, plan.table, index_keys(keys))
        except StoreUnavailableError:
            if not self._may_guess:
                raise
            values, is_away = np.full((n, len(plan.table.fields)), plan.table.default), True
        return Looked(
            values=values,
            age_ms=np.full(n, -1, np.int64),
            is_stale=np.full(n, is_away),
            incomplete=np.zeros(n, np.bool_),
        )
