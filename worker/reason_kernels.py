"""The loops over alerts and features: what the model has to be asked, and which features come first.

As a dozen steps over small arrays each, they cost more than asking the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_FAR = 1.0  # standard deviations; nearer to the mean nothing stands out


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def laid_out(scalars: Any, rows: Any, p50: Any, std: Any) -> Any:
    """(k, m) values, what is usual, what is far from it, and NaN; the channels' values are not filled.

    Args:
        scalars: (n, f) features of the batch.
        rows: (k,) of it.
        p50, std: (m,) of the training rows.
    """
    k, m = len(rows), len(p50)
    values, usual = np.empty((k, m)), np.empty((k, m))
    scale, unknown = np.empty((k, m)), np.empty((k, m))
    for i in range(k):
        values[i, : scalars.shape[1]] = scalars[rows[i]]
        usual[i], scale[i], unknown[i] = p50, std, np.nan
    return values, usual, scale, unknown


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def questions(
    values: Any, usual: Any, scale: Any, is_read: Any, scalars: int, most: int, contributions: Any
) -> Any:
    """(q,) alert and column of every value that is to be set to what is usual, (q,) what that is, and the
    (q, scalars) rows in which it is, where it is not a channel.

    Of each alert, the values that are furthest from it. A scalar that is as usual anyway moves nothing; a
    sequence may have the usual mean and another course.

    Args:
        values, usual: (k, m); NaN where nothing is known to be usual.
        scale: (k, m) what is far: standard deviations; where one is 0 or NaN, any difference is.
        is_read: (m,) the model reads it.
        scalars: how many of the columns are no channels.
        most: values of an alert.
        contributions: (k, m), set to 0 where the value is as usual.
    """
    k, m = values.shape
    alert, column = np.empty(k * most, np.int64), np.empty(k * most, np.int64)
    to, far = np.empty(k * most), np.empty(m)
    count = 0
    for i in range(k):
        for j in range(m):
            far[j] = -1.0
            if not is_read[j] or np.isnan(usual[i, j]):
                continue
            off = abs(values[i, j] - usual[i, j])
            if j < scalars and off == 0:
                contributions[i, j] = 0.0
            else:
                far[j] = off / scale[i, j] if scale[i, j] > 0 else np.inf
        for _ in range(most):
            best = np.argmax(far)
            if far[best] < 0:
                break
            alert[count], column[count], to[count] = i, best, usual[i, best]
            far[best] = -1.0
            count += 1
    made = np.empty((count, scalars))
    for q in range(count):
        made[q] = values[alert[q], :scalars]
        if column[q] < scalars:
            made[q, column[q]] = to[q]
    return alert[:count], column[:count], to[:count], made


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def leading(
    contributions: Any, is_cleared: Any, sign: float, values: Any, usual: Any, mean: Any, std: Any, top: int
) -> Any:
    """(k, top, 4) column, value, usual and contribution of the features that speak most for each alert.

    They have the largest contribution in its direction. Where there is none, they are those furthest from
    the mean in standard deviations, with NaN for a contribution. Column -1: there are no more.

    Args:
        contributions, values, usual: (k, m); NaN: not known.
        is_cleared: (k,) what speaks against an alert is the reason to clear it.
        sign: 1 where high scores alert, -1 where low ones do.
        mean, std: (m,) of the training rows; NaN: not known.
    """
    k, m = values.shape
    found, weight = np.full((k, top, 4), np.nan), np.empty(m)
    for i in range(k):
        direction, is_told = -sign if is_cleared[i] else sign, False
        for j in range(m):
            moved = contributions[i, j] * direction
            weight[j] = moved if moved > 0 else 0.0  # NaN too
            is_told = is_told or moved > 0
        if not is_told:
            for j in range(m):
                far = abs(values[i, j] - mean[j]) / std[j] if std[j] > 0 else 0.0
                weight[j] = far if far > _FAR else 0.0
        for place in range(top):
            best = np.argmax(weight) if m else -1
            if best < 0 or weight[best] <= 0:
                found[i, place, 0] = -1
                continue
            weight[best] = 0.0
            found[i, place, 0], found[i, place, 1] = best, values[i, best]
            found[i, place, 2] = usual[i, best]
            if is_told:
                found[i, place, 3] = contributions[i, best]
    return found
