"""One lane: what is known of a partition that is owned, and of what the store holds of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_cache.store import NOTHING, LaneMeta


def lane_name(group: str, topic: str, partition: int) -> str:
    """The lane's name in the store: the unit of ownership is one partition as one consumer group reads it."""
    return f"{group}:{topic}:{partition}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offsets:
    """What Kafka knows of a partition; every offset is the next one to read or write."""

    committed: int | None  # of the consumer group; None when it never committed
    start: int  # where a group without a committed offset begins
    low: int  # the oldest that the topic still holds
    high: int  # the next one to be written
    topic_id: str = ""  # "": not known


@dataclass(slots=True)
class Lane:
    """One owned partition."""

    name: str
    durable: LaneMeta  # what the store holds, as far as we know
    generation: int  # rows of another generation are from before a rebuild
    watermark: int  # next offset not yet applied to the rows in memory
    mute_until: int  # offsets below have their outcome already: replayed into state without output
    complete_us: int
    forgotten_us: int
    starts_blind: bool  # reading starts after records nobody remembers; the first event tells since when
    topic_id: str = ""
    uncertain: LaneMeta | None = None  # a write whose answer was lost
    is_guessing: bool = False  # some rows began from nothing because the store was away

    @property
    def has_rows(self) -> bool:
        """Whether the store holds rows of this lane that may be read."""
        return self.durable.watermark != NOTHING and self.durable.generation == self.generation


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A lane's changed rows as of a moment, on their way to the store."""

    partition: int
    lane: Lane
    durable: LaneMeta  # what the store is expected to hold
    new: LaneMeta
    slots: NDArray[np.int64]
    keys: list[bytes]
    rows: list[bytes]


def has_state(durable: LaneMeta, offsets: Offsets) -> bool:
    """Whether anything is stored of the topic that these offsets are of."""
    # What was stored of a topic says nothing of one that was made anew under its name, which has another id,
    # and where ids are not known is at least as long only by chance.
    is_other = durable.topic_id and offsets.topic_id and durable.topic_id != offsets.topic_id
    return not is_other and durable.watermark != NOTHING and durable.watermark <= offsets.high


def committed_offset(durable: LaneMeta, offsets: Offsets) -> int | None:
    """Up to where outcomes are published, as far as anybody knows; None: the group has not begun."""
    if offsets.committed is not None and offsets.committed <= offsets.high:
        return offsets.committed
    # The group's offsets expired, or are of a topic since made anew: rows are never ahead of a commit.
    return durable.watermark if has_state(durable, offsets) else None
