"""Rows of another consumer group, kept for as long as their lane stays as it was when they were read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feature_cache.key_index import Keys, keys_of
from feature_cache.lane import lane_name
from feature_cache.layout import NEVER_US, Layout
from feature_cache.packing import CorruptRowError, unpack_generation
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
        places = {int(lane): np.flatnonzero(lanes == lane) for lane in np.flatnonzero(np.bincount(lanes))}
        asked = list(places)
        while asked:  # in most batches once, and of metas alone: their rows are here, and still good
            missing = [places[lane][slots[places[lane]] < 0] for lane in asked]
            wanted = [
                (lane_name(*self._owner, lane), keys.take(rows).to_list())
                for lane, rows in zip(asked, missing, strict=True)
            ]
            again: list[int] = []
            for lane, rows, (meta, packed) in zip(asked, missing, self._store.read(wanted), strict=True):
                here = places[lane]
                if not self._hold(lane, meta):
                    slots[here] = -1  # its rows are gone
                    if self._meta[lane] is not None and len(rows) < len(here):
                        again.append(lane)
                        continue
                if (held := self._meta[lane]) is not None:
                    self._keep(lane, held, rows, keys, packed, slots)
                    complete_us[here], forgotten_us[here] = held.complete_us, held.forgotten_us
            asked = again
        return np.where(self._is_absent[slots], -1, slots), complete_us, forgotten_us

    def _hold(self, lane: int, meta: LaneMeta | None) -> bool:
        """Hold this meta of a lane; False: it is another than the one before, and the rows are gone."""
        if meta is not None and not self._is_usable(meta):
            meta = None
        if lane in self._meta and meta == self._meta[lane]:
            return True
        self.rows.drop_lane(lane)
        self._meta[lane] = meta
        return False

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
        if not len(missing):
            return
        added = self.rows.add(keys.take(missing), lane)
        try:
            self._is_absent[added] = ~unpack_generation(self.rows, added, packed, meta.generation)
        except CorruptRowError:
            self.rows.drop_lane(lane)  # or the next read would find the row here, and take it for good
            del self._meta[lane]
            raise
        slots[missing] = added

    def _make_room(self, keys: int) -> None:
        """Rows asked for together must fit together."""
        if self.rows.capacity < 2 * keys:
            self.rows = HotRows(self.rows.layout, 4 * keys)
            self._meta.clear()
            self._is_absent = np.zeros(4 * keys, np.bool_)
