"""Four bugs to plant, each in one of the places that the promise stands on; the suite must find every one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """A bug, and what it breaks."""

    what: str
    apply: Callable[[], None]


def _rows_before_commit() -> None:
    from worker.run import Worker

    commit: Callable[[Any], None] = Worker._commit

    def swapped(self: Any) -> None:
        if self._pending:
            self._writes.pack(self._now_ms())
            self._writes.begin()
            self._writes.end()
        commit(self)

    Worker._commit = swapped  # type: ignore[method-assign]


def _lost_data_unnoticed() -> None:
    from feature_cache.redis_store import RedisStore

    write: Callable[..., bool] = RedisStore.write

    def careless(self: Any, lane: str, expected: Any, new: Any, keys: Any, rows: Any) -> bool:
        found = self.meta(lane)
        if found is None or found.epoch == expected.epoch:
            if found is None:  # no watermark to compare with, and nobody asks for it
                self.take(lane, generation=new.generation)
                found = self.meta(lane)
            return write(self, lane, found, new, keys, rows)
        return False

    RedisStore.write = careless  # type: ignore[method-assign]


def _former_owner_writes() -> None:
    from feature_cache.redis_store import RedisStore

    write, read = RedisStore.write, RedisStore.read
    held: dict[str, Any] = {}  # the meta under which this process took the lane

    def unfenced(self: Any, lane: str, expected: Any, new: Any, keys: Any, rows: Any) -> bool:
        found = self.meta(lane)
        if found is not None and found.watermark == expected.watermark:
            expected = found
        held[lane] = new
        return write(self, lane, expected, new, keys, rows)

    def unasked(self: Any, wanted: Any) -> Any:
        return [
            (meta if meta is None else held.get(lane, meta), rows)
            for (lane, _), (meta, rows) in zip(wanted, read(self, wanted), strict=True)
        ]

    take = RedisStore.take

    def noted(self: Any, lane: str, *, generation: int) -> Any:
        held[lane] = take(self, lane, generation=generation)
        return held[lane]

    RedisStore.write = unfenced  # type: ignore[method-assign]
    RedisStore.read = unasked  # type: ignore[method-assign]
    RedisStore.take = noted  # type: ignore[method-assign]


def _no_replay() -> None:
    from feature_cache.lanes import Lanes

    begin: Callable[..., int] = Lanes.begin

    def forgetful(self: Any, partition: int, *known: Any) -> int:
        start = begin(self, partition, *known)
        lane = self[partition]
        if lane.has_rows and start < lane.mute_until:
            lane.watermark = lane.mute_until
        return int(lane.watermark)

    Lanes.begin = forgetful  # type: ignore[method-assign, assignment]


PLANTS = {
    "commit-order": Plant(
        what="Rows are written before the Kafka commit that covers them.", apply=_rows_before_commit
    ),
    "watermark-check": Plant(
        what="A write does not compare the watermark, so a store that lost its rows is not noticed.",
        apply=_lost_data_unnoticed,
    ),
    "epoch-check": Plant(
        what="Neither a write nor a read compares the epoch, so a former owner still writes.",
        apply=_former_owner_writes,
    ),
    "no-replay": Plant(
        what="A new owner reads on at the committed offset without replaying what its rows lack.",
        apply=_no_replay,
    ),
}
