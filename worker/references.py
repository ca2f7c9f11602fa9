"""How rows that a model was trained on are distributed, as its card says it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def distribution(column: NDArray[np.floating[Any]], default: float | None = None) -> dict[str, Any]:
    """Return mean, std, p01, p50, p99, and the shares of the rows between their distinct deciles.

    A decile belongs to the bin below it, so a value that many rows share has a bin that ends with it.

    Args:
        column: (n,) finite values.
        default: the value that stands in where there is none; its share of the rows is written.
    """
    exact = column.astype(np.float64)
    p01, p50, p99 = np.percentile(exact, [1, 50, 99])
    values = {"mean": exact.mean(), "std": exact.std(), "p01": p01, "p50": p50, "p99": p99}
    described: dict[str, Any] = {key: round(float(value), 6) for key, value in values.items()}
    single = column.astype(np.float32)
    deciles = np.unique(np.quantile(single, np.arange(0.1, 0.95, 0.1), method="lower"))
    edges = deciles[deciles < single.max()]
    counts = np.bincount(np.searchsorted(edges, single, side="left"), minlength=len(edges) + 1)
    # As short as names the same float32, which is what is compared.
    described["edges"] = [float(str(edge)) for edge in edges]
    described["shares"] = [round(float(share), 6) for share in counts / len(single)]
    if default is not None:
        described["default_share"] = round(float((single == np.float32(default)).mean()), 6)
    return described
