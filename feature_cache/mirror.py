"""Rows of another consumer group, kept for as long as their lane stays as it was when they were read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feature_cache.key_index import Keys, keys_of
from feature_cache.lane import lane_name
from feature_cache.layout import NEVER_US, Layout
from feature_cache.packing import unpack_generation
from feature_cache.rows import HotRows
from feature_cache.store import NOTHING, LaneMeta, Store

_ROOM = 16_384  # rows, least recently used out first


class Mirror:
    """A read-only copy.

    Invariant: every row held is what the store had when the lane's meta was the one held. Rows and meta are
    stored in one write, so while the meta stays the same, so do the rows: only what is missing is read.
    """

    def __init__(self, store: Store, owner: tuple[str, str], layout: Layout) -> None:
        """Hold nothing yet.

        Args:
            store: where the owner keeps its rows.
            owner: its consumer group and the topic it reads.
            layout: of its rows; lanes of another layout have none for us.
        """
        self.rows = HotRows(layout, _ROOM)
        self._store = store
        self._owner = owner
        self._fingerprint = layout.fingerprint
        self._meta: dict[int, LaneMeta | None] = {}
        self._is_absent = np.zeros(_ROOM, np.bool_)  # by slot: the store has no row of that key

    def read(
        self, keys: Keys | Sequence[bytes], lanes: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The rows of distinct keys, each lane as of one moment.

        Args:
            keys: (k,) entities.
            lanes: (k,) int32 the partition of each.

        Returns:
            (k,) slot in `rows`, -1 where there is no row; (k,) event time up to which its lane is complete,
            NEVER_US where nothing usable is stored; (k,) event time before which the lane knows nothing.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        keys = keys_of(keys)
        self._make_room(len(keys))
        slots = self.rows.find(keys)
        complete_us, forgotten_us = (np.full(len(keys), NEVER_US, np.int64) for _ in range(2))
        asked = np.unique(lanes).tolist()
        # One command for all lanes: in most batches that is all there is to ask.
        stored = self._store.metas([lane_name(*self._owner, lane) for lane in asked])
        for lane, now in zip(asked, stored, strict=True):
            here = np.flatnonzero(lanes == lane)
            if now is not None and now == self._meta.get(lane) and (slots[here] >= 0).all():
                meta: LaneMeta | None = now
            else:
                meta = self._refresh(lane, here, keys, slots)
            if meta is not None:
                complete_us[here], forgotten_us[here] = meta.complete_us, meta.forgotten_us
        return np.where(self._is_absent[slots], -1, slots), complete_us, forgotten_us

    def _refresh(
        self, lane: int, here: NDArray[np.int64], keys: Keys, slots: NDArray[np.int64]
    ) -> LaneMeta | None:
        """Read what is missing of a lane, or all that is asked for when the lane has moved on."""
        name = lane_name(*self._owner, lane)
        while True:
            missing = here[slots[here] < 0]
            [(meta, packed)] = self._store.read([(name, keys.take(missing).to_list())])
            if meta is not None and not self._is_usable(meta):
                meta = None
            is_same = meta == self._meta.get(lane)
            if not is_same:
                self.rows.drop_lane(lane)
                self._meta[lane] = meta
            if meta is None:
                slots[here] = -1
                return None
            if is_same or len(missing) == len(here):
                self._keep(lane, meta, missing, keys, packed, slots)
                return meta
            slots[here] = -1

    def _is_usable(self, meta: LaneMeta) -> bool:
        return meta.watermark != NOTHING and meta.layout == self._fingerprint

    def _keep(
        self,
        lane: int,
        meta: LaneMeta,
        missing: NDArray[np.int64],
        keys: Keys,
        packed: list[bytes | None],
        slots: NDArray[np.int64],
    ) -> None:
        added = self.rows.add(keys.take(missing), lane)
        self._is_absent[added] = ~unpack_generation(self.rows, added, packed, meta.generation)
        slots[missing] = added

    def _make_room(self, keys: int) -> None:
        """Rows asked for together must fit together."""
        if self.rows.capacity < 2 * keys:
            self.rows = HotRows(self.rows.layout, 4 * keys)
            self._meta.clear()
            self._is_absent = np.zeros(4 * keys, np.bool_)
