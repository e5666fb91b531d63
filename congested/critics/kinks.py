"""Compiled kernel that cuts simplices along the kinks of one layer of a network.

What a layer gives before its activation is affine on a simplex. An activation that looks at signs
(ReLU, its leaky sister, the absolute value) has a kink where an entry is zero, one that sorts
where two entries of a group are equal. The pieces have coordinates that are barycentric in their
simplex, so that an entry at a vertex is a scalar product with the entries at the simplex's
vertices.
"""

from __future__ import annotations

import numpy as np

from congested import clip_kernels
from congested.clip_kernels import cut_simplex
from congested.compiled import compiler
from congested.geometry import FloatArray, IntArray

compiled = compiler(__file__, clip_kernels.__file__)


@compiled
def _set_entry(entries: FloatArray, piece: FloatArray, j: int, heights: FloatArray) -> None:
    """Set `heights` (d+1,) to entry j at the vertices of a piece."""
    corners = piece.shape[0]
    for i in range(corners):
        heights[i] = 0.0
        for k in range(corners):
            heights[i] += piece[i, k] * entries[k, j]


@compiled
def _set_difference(
    entries: FloatArray, piece: FloatArray, below: int, above: int, heights: FloatArray
) -> None:
    """Set `heights` (d+1,) to the difference of two entries at the vertices of a piece."""
    corners = piece.shape[0]
    for i in range(corners):
        heights[i] = 0.0
        for k in range(corners):
            heights[i] += piece[i, k] * (entries[k, above] - entries[k, below])


@compiled
def _changes_sign(heights: FloatArray, zero: float) -> bool:
    """Return whether heights have both signs; those up to `zero` are set to zero."""
    low, high = 0.0, 0.0
    for i in range(len(heights)):
        if abs(heights[i]) <= zero:
            heights[i] = 0.0
        low, high = min(low, heights[i]), max(high, heights[i])
    return low < 0.0 < high


@compiled
def _may_vanish(heights: FloatArray, zero: float) -> bool:
    """Return whether rounding may have hidden that a height is zero."""
    for height in heights:
        if abs(height) <= 2.0 * zero:
            return True
    return False


@compiled
def _sorted(entries: FloatArray, piece: FloatArray, first: int, size: int) -> IntArray:
    """Return the entries of a group in their order at the middle of a piece."""
    corners = piece.shape[0]
    middle = np.zeros(size)
    for k in range(corners):
        share = piece[:, k].sum()
        for j in range(size):
            middle[j] += share * entries[k, first + j]
    return np.argsort(middle) + first


@compiled
def _find_sign_kink(
    entries: FloatArray, piece: FloatArray, zero: FloatArray, start: int, heights: FloatArray
) -> int:
    """Return the first entry from `start` on that changes its sign on a piece, -1 for none.

    `heights` (d+1,) is set to that entry at the vertices of the piece.
    """
    for j in range(start, entries.shape[1]):
        _set_entry(entries, piece, j, heights)
        if _changes_sign(heights, zero[j]):
            return j
    return -1


@compiled
def _find_order_kink(
    entries: FloatArray, piece: FloatArray, zero: FloatArray, size: int, heights: FloatArray
) -> int:
    """Return 0 if two entries of a group change their order on a piece, else -1.

    `heights` (d+1,) is set to their difference at the vertices of the piece. Sorted at the middle,
    all entries keep their order if neighbours do.
    """
    for first in range(0, entries.shape[1], size):
        order = _sorted(entries, piece, first, size)
        for j in range(size - 1):
            below, above = order[j], order[j + 1]
            _set_difference(entries, piece, below, above, heights)
            if _changes_sign(heights, zero[below] + zero[above]):
                return 0
    return -1


@compiled
def _sign_doubt(
    entries: FloatArray,
    piece: FloatArray,
    zero: FloatArray,
    effect: FloatArray,
    heights: FloatArray,
) -> float:
    """Return Σ zero·effect over the entries that may change their sign on a piece unseen."""
    doubt = 0.0
    for j in range(entries.shape[1]):
        _set_entry(entries, piece, j, heights)
        if _may_vanish(heights, zero[j]):
            doubt += zero[j] * effect[j]
    return doubt


@compiled
def _order_doubt(
    entries: FloatArray,
    piece: FloatArray,
    zero: FloatArray,
    effect: FloatArray,
    size: int,
    heights: FloatArray,
) -> float:
    """Return the same for neighbours in a sorted group that may change their order unseen."""
    doubt = 0.0
    for first in range(0, entries.shape[1], size):
        order = _sorted(entries, piece, first, size)
        for j in range(size - 1):
            below, above = order[j], order[j + 1]
            width = zero[below] + zero[above]
            _set_difference(entries, piece, below, above, heights)
            if _may_vanish(heights, width):
                doubt += width * max(effect[below], effect[above])
    return doubt


@compiled
def _doubled(array: FloatArray) -> FloatArray:
    longer = np.empty((2 * array.shape[0], *array.shape[1:]), array.dtype)
    longer[: array.shape[0]] = array
    return longer


@compiled
def cut_at_kinks(
    entries: FloatArray, zero: FloatArray, effect: FloatArray, group_size: int
) -> tuple[FloatArray, IntArray, FloatArray]:
    """Cut simplices where entries that are affine on each change signs, or order.

    Parameters
    ----------
    entries
        What the layer gives at the vertices (n, d+1, w), d = 2 or 3.
    zero
        How small each entry (w,) may be to count as zero: what rounding can make of it. A cut there
        would leave pieces without volume.
    effect
        Bounds (w,) of the network's derivatives by the entries.
    group_size
        0: kinks are where an entry is zero. Else: where two entries of a group of so many
        neighbours are equal.

    Returns
    -------
    tuple
        Pieces (k, d+1, d+1): barycentric coordinates of their vertices in the simplex; the index
        (k,) of the simplex; and Σ zero·effect (k,) over the entries that may be zero on the piece
        without having been seen. A piece that no kink crosses is its simplex itself.
    """
    number, corners = entries.shape[:2]
    pieces = np.empty((number + number // 2 + 16, corners, corners))
    owner = np.empty(len(pieces), np.int64)
    doubt = np.empty(len(pieces))
    count = 0
    stack = np.empty((64, corners, corners))
    start = np.zeros(64, np.int64)
    prism = np.empty((2, corners - 1, corners))
    heights = np.empty(corners)
    for n in range(number):
        values = entries[n]
        stack[0] = np.eye(corners)
        start[0] = 0
        waiting = 1
        while waiting:
            waiting -= 1
            piece = stack[waiting].copy()
            if group_size:
                kink = _find_order_kink(values, piece, zero, group_size, heights)
            else:
                kink = _find_sign_kink(values, piece, zero, start[waiting], heights)
            if kink < 0:
                if count == len(pieces):
                    pieces, owner, doubt = _doubled(pieces), _doubled(owner), _doubled(doubt)
                pieces[count], owner[count] = piece, n
                if group_size:
                    doubt[count] = _order_doubt(values, piece, zero, effect, group_size, heights)
                else:
                    doubt[count] = _sign_doubt(values, piece, zero, effect, heights)
                count += 1
                continue
            # Either side has at most three pieces.
            if waiting + 6 > len(stack):
                stack, start = _doubled(stack), _doubled(start)
            before = waiting
            waiting = cut_simplex(piece, heights, prism, stack, waiting)
            for i in range(corners):
                heights[i] = -heights[i]
            waiting = cut_simplex(piece, heights, prism, stack, waiting)
            start[before:waiting] = kink + 1
    return pieces[:count].copy(), owner[:count].copy(), doubt[:count].copy()
