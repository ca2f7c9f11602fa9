"""Why an alert: the features furthest from what the model's training rows looked like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOP = 3
_USUAL = 1.0  # standard deviations; nearer to the mean nothing stands out


def reasons(
    names: tuple[str, ...], values: NDArray[np.float64], reference: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The most unusual features of one event, most unusual first.

    Args:
        names: (f,) feature names.
        values: (f,) their values.
        reference: by feature, mean and std of the training rows; features without one give no reason.

    Returns:
        Up to three records for alert.avsc. Unusual is measured in standard deviations from the mean; it
        says what stands out, not what the model made of it, so contribution is null.
    """
    unusual = []
    for name, value in zip(names, values.tolist(), strict=True):
        known = reference.get(name)
        if known is None or not known.std > 0:
            continue
        deviations = abs(value - known.mean) / known.std
        if deviations > _USUAL:
            unusual.append((deviations, name, value, known.mean))
    unusual.sort(reverse=True)
    return [
        {
            "feature": name,
            "value": value,
            "usual": mean,
            "contribution": None,
            "text": f"{name} is {value:.4g}, usually {mean:.4g}",
        }
        for _, name, value, mean in unusual[:_TOP]
    ]
