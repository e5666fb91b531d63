"""What a critic lacks to the best, relative to a cost of which only bounds are known."""

from __future__ import annotations

import math


def relative_suboptimality(
    suboptimality: tuple[float, float], lower: float, upper: float
) -> tuple[float, float]:
    """Return an interval of (cost − D)/cost that is true for any cost between its bounds.

    What the dual value D lacks at least is divided by the largest cost, what it lacks at most by
    the smallest: (cost − D)/cost grows with the cost where D > 0 and falls where D < 0.

    Parameters
    ----------
    suboptimality
        The least, at least 0, and the most that D lacks to the cost.
    lower, upper
        Bounds of the cost.

    Returns
    -------
    tuple of float
        The ends; NaN unless the lower bound is positive, as nothing is relative to a cost that may
        be zero.
    """
    if not lower > 0.0:
        return math.nan, math.nan
    least, most = suboptimality
    # Infinitely much of an infinite cost is infinitely much, too.
    return least / upper if math.isfinite(least) else math.inf, most / lower
