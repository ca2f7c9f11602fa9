"""Made-up fraud rows on which a device must agree with the model before it may serve."""

import numpy as np
from numpy.typing import NDArray

from tests.parity.pandas_reference import FEATURES
from training.model_folder import golden_from

WHOLE = ("weekend", "night", *(name for name in FEATURES if ".count_" in name))


def golden_rows(reference: dict[str, dict[str, float]], seed: int) -> NDArray[np.float32]:
    """Return (48, 15): ordinary rows, extremes, and eight that look like each kind of fraud.

    The percentiles of a terminal's risk are 0, 0 and a little; without the last eight no row would be a
    clear fraud and half of the model would go unchecked.
    """
    rows = golden_from(FEATURES, reference, whole=WHOLE, rows=48, seed=seed)
    random = np.random.default_rng(seed + 1)
    flags = [FEATURES.index("weekend"), FEATURES.index("night")]
    rows[:, flags] = random.integers(0, 2, (48, 2))
    rows[40:44, FEATURES.index("amount")] = [230, 305.5, 471.25, 1200]
    for days in (1, 7, 30):
        rows[44:, FEATURES.index(f"terminal.count_{days}d")] = days + 1
        rows[44:, FEATURES.index(f"terminal.mean_{days}d")] = [0.25, 0.5, 0.75, 1]
    return rows
