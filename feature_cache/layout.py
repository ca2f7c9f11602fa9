"""What one entity's row holds: its groups of remembered events, and the fingerprint that dates them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

AGGREGATES = ("count", "sum", "mean", "min", "max", "std", "last", "since_last", "distinct")
FILLS = ("last", "linear", "mean")  # what stands at a point of a grid between readings
ROW_VERSION = 2  # of the packed form, see packing.py
NEVER_US = -(2**62)  # "nothing has been forgotten": older than any event time
FOREVER_US = 2**62  # a history without an end


class LayoutError(ValueError):
    """A group of remembered events that cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowGroup:
    """The last events of an entity with one value each, for exact trailing windows.

    history_us is the longest window plus the allowed lateness: older events are forgotten.
    """

    name: str
    over: str  # the event field remembered
    windows_us: tuple[int, ...]
    window_labels: tuple[str, ...]
    aggregates: tuple[str, ...]
    capacity: int
    allowed_lateness_us: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.aggregates) - set(AGGREGATES):
            raise LayoutError(
                f"{self.name}: found aggregates {sorted(unknown)}, expected some of {AGGREGATES}"
            )
        if list(self.windows_us) != sorted(set(self.windows_us)):
            raise LayoutError(f"{self.name}: windows must be ascending and distinct, found {self.windows_us}")
        if self.capacity < 1:
            raise LayoutError(f"{self.name}: capacity must be at least 1, found {self.capacity}")

    @property
    def channels(self) -> int:
        return 1

    @property
    def dtype(self) -> np.dtype[np.float64]:
        return np.dtype(np.float64)  # averages of amounts are compared to 1e-6

    @property
    def history_us(self) -> int:
        return self.windows_us[-1] + self.allowed_lateness_us

    @property
    def columns(self) -> tuple[str, ...]:
        """Feature names, windows outermost: count_1d, mean_1d, count_7d, ..."""
        return tuple(f"{aggregate}_{label}" for label in self.window_labels for aggregate in self.aggregates)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceGroup:
    """The last readings of an entity, several channels each, for models that eat raw sensor values."""

    name: str
    fields: tuple[str, ...]
    length: int
    capacity: int
    every_us: int | None = None  # readings are handed out on a grid of this step; None: as they came
    fill: Literal["last", "linear", "mean"] = "last"
    warm_up: Literal["pad", "zero", "nan"] = "pad"  # what stands for readings before the first one known
    complete_from: int | None = None  # how many of the length must be known; None: all

    def __post_init__(self) -> None:
        if self.every_us is None and self.capacity < self.length:
            raise LayoutError(f"{self.name}: capacity {self.capacity} is less than length {self.length}")

    @property
    def channels(self) -> int:
        return len(self.fields)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        return np.dtype(np.float32)  # what the model reads

    @property
    def history_us(self) -> int:
        return FOREVER_US


Group = WindowGroup | SequenceGroup


@cache
def asked(spec: Group) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The windows, and the aggregates in the order asked for, as the kernels take them."""
    if not isinstance(spec, WindowGroup):
        raise TypeError(f"group {spec.name!r} has no windows. This is a bug.")
    codes = [AGGREGATES.index(name) for name in spec.aggregates]
    return np.array(spec.windows_us, np.int64), np.array(codes, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The groups of a row, in the order in which they are packed."""

    groups: tuple[Group, ...]

    def group(self, name: str) -> Group:
        """The group called so; KeyError if there is none."""
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    @property
    def fingerprint(self) -> str:
        """Changes whenever stored rows would mean something else; rows of another fingerprint are not read.

        Aggregates and grids are left out: they are computed when asked for, from what the row remembers.
        """
        meaning: list[tuple[str, Literal["window", "sequence"], int, int, int]] = [
            (
                g.name,
                "window" if isinstance(g, WindowGroup) else "sequence",
                g.capacity,
                g.channels,
                g.history_us,
            )
            for g in self.groups
        ]
        fields = [(g.over,) if isinstance(g, WindowGroup) else g.fields for g in self.groups]
        return hashlib.sha256(repr((ROW_VERSION, meaning, fields)).encode()).hexdigest()[:12]
