"""Profile rows as columns beside our events."""

from __future__ import annotations

import numpy as np

from feature_cache.profiles import Asked, ask_profiles, told_profiles
from feature_cache.store import Store, StoreUnavailableError
from worker.batch import Events
from worker.lookups import Looked
from worker.plan import ProfilePlan
from worker.records import Records, index_keys

_LONGEST_BYTES = 1024  # of a key that is asked for before it is looked at


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
        self._expected: tuple[Records, Asked] | None = None

    def expect(self, records: Records) -> None:
        """These will be read soon: the store looks for their rows while they are decoded."""
        self._forget()
        keys = records.keys
        # A record without a key, or with one that nobody would take, is no event: then there is no hurry.
        are_usual = len(keys) > 0 and keys.sizes.min() > 0 and keys.sizes.max() <= _LONGEST_BYTES
        if self._plan.key is None and are_usual:
            asked = ask_profiles(self._store, self._plan.table, index_keys(keys), ahead=True)
            self._expected = records, asked

    def _forget(self) -> None:
        expected, self._expected = self._expected, None
        if expected is not None:
            expected[1].drop()

    def _asked(self, events: Events) -> Asked:
        if self._expected is not None and self._expected[0] is events.records:
            (_, asked), self._expected = self._expected, None
            return asked
        self._forget()  # some of the records became no events
        keys = events.records.keys
        if self._plan.key is not None:
            keys = events.columns.spans(self._plan.key)
        return ask_profiles(self._store, self._plan.table, index_keys(keys))

    def read(self, events: Events, _: object = None) -> Looked:
        """The row of each event's key, as it is now; also in a replay, as nobody keeps older ones.

        Raises:
            StoreUnavailableError: the store did not answer; not with `may_guess`.
            StoreRefusedError: see `read_profiles`.
        """
        n, plan = len(events), self._plan
        is_away = False
        try:
            values = told_profiles(self._store, plan.table, self._asked(events))
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
