"""A NumPy column that grows at its end, for what is not known in advance."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Growing:
    """A column of one type, `fill` where nothing was written; one thread writes, others may read."""

    def __init__(self, dtype: str, fill: float) -> None:
        """Start empty."""
        self._fill = fill
        self._space = np.full(4096, fill, dtype)
        self._size = 0

    def reach(self, size: int) -> NDArray[Any]:
        """Make the column at least `size` long and return it whole, writable."""
        if size > len(self._space):
            space = np.full(max(size, 2 * len(self._space)), self._fill, self._space.dtype)
            space[: self._size] = self._space[: self._size]
            self._space = space
        self._size = max(self._size, size)
        return self.values

    @property
    def values(self) -> NDArray[Any]:
        """The column as it is now, (n,)."""
        return self._space[: self._size]

    def put(self, at: int, values: NDArray[Any]) -> None:
        """Write values from index `at` on."""
        self.reach(at + len(values))[at : at + len(values)] = values
