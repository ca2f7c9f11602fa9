"""What was sent: for every event its intended time, its truth, and where Kafka put it."""

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadgen.growing import Growing


class Ledger:
    """The events of one scored stream by consecutive number; the sender writes, the collector reads.

    The intended time stands here and not in the Kafka timestamp: that would cost 0.5 us an event, and nobody
    outside this process needs it.
    """

    def __init__(self, name: str, *, by_source: bool = False) -> None:
        """Start with nothing sent.

        Args:
            name: of the pipeline that scores the stream.
            by_source: outcomes are matched by source partition and offset instead of by id, because
                ids may be unreadable; every record then needs a receipt.
        """
        self.name = name
        self.by_source = by_source
        self.origin_s = 0.0  # the clock's reading when due time is 0
        self.sent = 0
        self.first_number: int | None = None
        self.late_s = array("f")  # one value a send: how far the sender was behind its plan
        self._due_s = Growing("f8", np.nan)
        self._truth = Growing("f4", np.nan)
        self._mutation = Growing("i1", 0)
        self._base: dict[int, int] = {}
        self._index_at: dict[int, Growing] = {}

    def plan(
        self,
        first_number: int,
        due_s: NDArray[np.float64],
        truth: NDArray[np.float64],
        mutation: NDArray[np.int8],
    ) -> None:
        """Note events about to be sent, (n,) each; their numbers follow those of the last call."""
        if self.first_number is None:
            self.first_number = first_number
        at = first_number - self.first_number
        if at != len(self._due_s.values):
            raise ValueError(
                f"event numbers must be consecutive: found {first_number}, expected "
                f"{self.first_number + len(self._due_s.values)}"
            )
        self._truth.put(at, truth)
        self._mutation.put(at, mutation)
        self._due_s.put(at, due_s)

    def receive(self, number: int, partition: int, offset: int) -> None:
        """Note where a record was written."""
        # One idempotent producer writes a partition in order: its first offset is the lowest.
        base = self._base.setdefault(partition, offset)
        column = self._index_at.setdefault(partition, Growing("i8", -1))
        column.reach(offset - base + 1)[offset - base] = number - (self.first_number or 0)

    def index_at(self, partition: NDArray[Any], offset: NDArray[Any]) -> NDArray[np.int64]:
        """Return the event index at each (partition, offset), (n,); -1 where nothing of ours was written."""
        index = np.full(len(partition), -1, np.int64)
        for one in np.unique(partition).tolist():
            if one not in self._base:
                continue
            column = self._index_at[one].values
            here = partition == one
            at = offset[here] - self._base[one]
            known = (at >= 0) & (at < len(column))
            index[here] = np.where(known, column[np.clip(at, 0, max(len(column) - 1, 0))], -1)
        return index

    def index_of(self, number: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of each event number, (n,); -1 where it is none of ours."""
        if self.first_number is None:
            return np.full(len(number), -1, np.int64)
        index = number - self.first_number
        return np.where((index >= 0) & (index < len(self._due_s.values)), index, -1)

    @property
    def due_s(self) -> NDArray[np.float64]:
        """(sent,) intended times in seconds since the origin."""
        return self._due_s.values[: self.sent]

    @property
    def planned_s(self) -> NDArray[np.float64]:
        """(planned,) like `due_s`, with those not sent yet."""
        return self._due_s.values

    @property
    def truth(self) -> NDArray[np.float32]:
        """(sent,) 1 fraud, 0 genuine; remaining cycles; NaN unknown."""
        return self._truth.values[: self.sent]

    @property
    def mutation(self) -> NDArray[np.int8]:
        """(sent,) kind of mutation, 0 for none."""
        return self._mutation.values[: self.sent]
