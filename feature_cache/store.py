"""The durable copy of rows, lane by lane: what a store promises, and the one in process memory."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from feature_cache.ahead import Ahead
from feature_cache.layout import NEVER_US

NOTHING = -1  # a watermark: no state is stored


class FencedError(RuntimeError):
    """Somebody else has taken the lane since; what we hold of it must be dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneMeta:
    """What a store knows of a lane; changed only together with its rows, by comparing the whole of it."""

    epoch: int  # raised at each take: a former owner's writes no longer compare
    generation: int  # rows written under another generation are not read: the lane was rebuilt since
    watermark: int  # next offset that the rows have not seen; NOTHING when no rows are stored
    complete_us: int = NEVER_US  # every event up to this event time has been applied
    forgotten_us: int = NEVER_US  # nothing at or before this event time was ever seen
    layout: str = ""  # fingerprint of the rows
    topic_id: str = ""  # of the topic that the rows were made from: one made anew has another; "": not known
    owner: str = ""  # made up at each take: tells two of the same epoch apart, as a failover may leave behind

    def encode(self) -> bytes:
        """The stored form, readable in redis-cli."""
        numbers = (self.epoch, self.generation, self.watermark, self.complete_us, self.forgotten_us)
        rows = f"{self.layout}/{self.topic_id}" if self.topic_id else self.layout
        return " ".join([*map(str, numbers), rows, self.owner]).encode()

    @staticmethod
    def decode(stored: bytes) -> LaneMeta:
        """Inverse of encode."""
        epoch, generation, watermark, complete, forgotten, rows, *owner = stored.decode().split(" ")
        layout, _, topic_id = rows.partition("/")
        return LaneMeta(
            epoch=int(epoch),
            generation=int(generation),
            watermark=int(watermark),
            complete_us=int(complete),
            forgotten_us=int(forgotten),
            layout=layout,
            topic_id=topic_id,
            owner="".join(owner),  # nothing in what version 0.1.0 stored
        )


Stored = tuple[LaneMeta | None, list[bytes | None]]  # a lane's meta, and packed rows of it


class Store(Protocol):
    """Rows by lane. Every call may raise StoreUnavailableError or StoreRefusedError."""

    def take(self, lane: str, *, generation: int) -> LaneMeta:
        """Raise the lane's epoch and return what is stored; a lane never seen starts at this generation."""

    def meta(self, lane: str) -> LaneMeta | None:
        """What is stored of the lane now; None when nothing is."""

    def read(self, wanted: Sequence[tuple[str, Sequence[bytes]]]) -> list[Stored]:
        """Of each lane its meta and these entities' packed rows (None: there is none), as of one instant.

        In as few commands as can be; a lane may be asked for its meta alone.
        """

    def write(
        self, lane: str, expected: LaneMeta, new: LaneMeta, keys: Sequence[bytes], rows: Sequence[bytes]
    ) -> bool:
        """Store rows and meta together if the stored meta still is the expected one; False if it is not."""

    def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Values that belong to no lane, as they are now (None: there is none)."""

    def get_ahead(self, names: Sequence[bytes]) -> Ahead | None:
        """Ask for such values, and read them later; None: `get` is the only way now."""

    def put(self, names: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Store such values, for `get`."""

    def ping(self) -> str:
        """One line that says what answered."""

    def close(self) -> None:
        """Let go of connections."""


class StoreUnavailableError(RuntimeError):
    """The store did not answer in time, or cannot serve now: try again later."""


class StoreRefusedError(RuntimeError):
    """The store will not serve us as it is asked: a person has to mend what the message says."""


class MemoryStore:
    """Rows in this process, shared by its pipelines; gone when it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._meta: dict[str, LaneMeta] = {}
        self._rows: dict[str, dict[bytes, bytes]] = {}
        self._values: dict[bytes, bytes] = {}

    def take(self, lane: str, *, generation: int) -> LaneMeta:
        with self._lock:
            known = self._meta.get(lane) or LaneMeta(epoch=0, generation=generation, watermark=NOTHING)
            self._meta[lane] = replace(known, epoch=known.epoch + 1, owner=secrets.token_hex(8))
            return self._meta[lane]

    def meta(self, lane: str) -> LaneMeta | None:
        with self._lock:
            return self._meta.get(lane)

    def read(self, wanted: Sequence[tuple[str, Sequence[bytes]]]) -> list[Stored]:
        with self._lock:
            return [
                (self._meta.get(lane), list(map(self._rows.get(lane, {}).get, keys))) for lane, keys in wanted
            ]

    def write(
        self, lane: str, expected: LaneMeta, new: LaneMeta, keys: Sequence[bytes], rows: Sequence[bytes]
    ) -> bool:
        with self._lock:
            if self._meta.get(lane) != expected:
                return False
            self._meta[lane] = new
            self._rows.setdefault(lane, {}).update(zip(keys, rows, strict=True))
            return True

    def get(self, names: Sequence[bytes]) -> list[bytes | None]:
        with self._lock:
            return list(map(self._values.get, names))

    def get_ahead(self, names: Sequence[bytes]) -> Ahead | None:  # noqa: ARG002
        return None

    def put(self, names: Sequence[bytes], values: Sequence[bytes]) -> None:
        with self._lock:
            self._values.update(zip(names, values, strict=True))

    def ping(self) -> str:
        return "in-memory store of this process"

    def close(self) -> None:
        """Nothing to let go of."""
