"""The order in which a space-filling curve visits points: neighbours in it are near in space."""

from __future__ import annotations

import numpy as np

from congested.geometry import FloatArray, IntArray

# Steps of the curve along each axis: 2 to this power.
_BITS = 16
# Points whose places are computed at a time.
_CHUNK = 1 << 18


def hilbert_order(points: FloatArray) -> IntArray:
    """Return the order (N,) in which a Hilbert curve through the bounding box visits points (N, d).

    Source: J. Skilling, Programming the Hilbert curve, AIP Conf. Proc. 707 (2004).
    """
    lower = points.min(axis=0)
    extent = np.maximum(points.max(axis=0) - lower, np.finfo(float).tiny)
    places = np.empty(len(points), dtype=np.int64)
    for start in range(0, len(points), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        steps = (points[chunk] - lower) / extent * (2**_BITS - 1)
        places[chunk] = _places(steps.astype(np.int64))
    return np.argsort(places, kind="stable")


def _places(steps: IntArray) -> IntArray:
    """Return the places (N,) on the curve of the points with given steps (N, d) along the axes."""
    number, dimension = steps.shape
    axes = list(steps.T.copy())
    # Undo the rotations and reflections of the curve's pieces, from the coarsest to the finest.
    bit = 1 << (_BITS - 1)
    while bit > 1:
        low = bit - 1
        for axis in axes:
            swapped = np.where(axis & bit, 0, (axes[0] ^ axis) & low)
            axes[0] ^= np.where(axis & bit, low, 0)
            axes[0] ^= swapped
            axis ^= swapped
        bit >>= 1
    # Gray code to binary.
    for k in range(1, dimension):
        axes[k] ^= axes[k - 1]
    flips: IntArray = np.zeros(number, dtype=np.int64)
    bit = 1 << (_BITS - 1)
    while bit > 1:
        flips = np.where(axes[-1] & bit, flips ^ (bit - 1), flips)
        bit >>= 1
    places = np.zeros(number, dtype=np.int64)
    for place in range(_BITS - 1, -1, -1):
        for axis in axes:
            places = 2 * places + (((axis ^ flips) >> place) & 1)
    return places
