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
def _find_sign_kink(
    entries: FloatArray, piece: FloatArray, zero: FloatArray, start: int, heights: FloatArray
) -> int:
    """Return the first entry from `start` on that changes its sign on a piece, -1 for none.

    `heights` (d+1,) is set to that entry at the vertices of the piece.
    """
    corners, number = entries.shape
    for j in range(start, number):
        low, high = 0.0, 0.0
        for i in range(corners):
            value = 0.0
            for k in range(corners):
                value += piece[i, k] * entries[k, j]
            if abs(value) <= zero[j]:
                value = 0.0
            heights[i] = value
            low, high = min(low, value), max(high, value)
        if low < 0.0 < high:
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
    corners, number = entries.shape
    values = np.dot(piece, entries)
    middle = np.zeros(size)
    for first in range(0, number, size):
        for j in range(size):
            middle[j] = 0.0
            for i in range(corners):
                middle[j] += values[i, first + j]
        order = np.argsort(middle)
        for j in range(size - 1):
            below, above = first + order[j], first + order[j + 1]
            low, high = 0.0, 0.0
            for i in range(corners):
                value = values[i, above] - values[i, below]
                if abs(value) <= zero[below] + zero[above]:
                    value = 0.0
                heights[i] = value
                low, high = min(low, value), max(high, value)
            if low < 0.0 < high:
                return 0
    return -1


@compiled
def _sign_doubt(
    entries: FloatArray, piece: FloatArray, zero: FloatArray, effect: FloatArray
) -> float:
    """Return Σ zero·effect over the entries that may change their sign on a piece unseen."""
    corners, number = entries.shape
    doubt = 0.0
    for j in range(number):
        for i in range(corners):
            value = 0.0
            for k in range(corners):
                value += piece[i, k] * entries[k, j]
            if abs(value) <= 2.0 * zero[j]:
                doubt += zero[j] * effect[j]
                break
    return doubt


@compiled
def _order_doubt(
    entries: FloatArray, piece: FloatArray, zero: FloatArray, effect: FloatArray, size: int
) -> float:
    """Return the same for neighbours in a sorted group that may change their order unseen."""
    corners, number = entries.shape
    values = np.dot(piece, entries)
    middle = np.zeros(size)
    doubt = 0.0
    for first in range(0, number, size):
        for j in range(size):
            middle[j] = 0.0
            for i in range(corners):
                middle[j] += values[i, first + j]
        order = np.argsort(middle)
        for j in range(size - 1):
            below, above = first + order[j], first + order[j + 1]
            width = zero[below] + zero[above]
            for i in range(corners):
                if abs(values[i, above] - values[i, below]) <= 2.0 * width:
                    doubt += width * max(effect[below], effect[above])
                    break
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
                    doubt[count] = _order_doubt(values, piece, zero, effect, group_size)
                else:
                    doubt[count] = _sign_doubt(values, piece, zero, effect)
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
