"""The pieces on which a piecewise affine critic is affine, cell by cell of a mesh.

On each piece the critic is affine and its gradient constant, so that its dual value with
piecewise constant data is a finite sum: no quadrature error, and what rounding can do has a bound
(`congested.critics.rounding`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from congested.critics.kinks import cut_at_kinks
from congested.critics.network import Activation, Network
from congested.critics.rounding import Rounding, rounding_of
from congested.errors import InputError
from congested.geometry import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces of simplices.

    Attributes
    ----------
    shares
        Barycentric coordinates (k, d+1, d+1) of the vertices of each piece in its simplex.
    owner
        Index (k,) of the simplex.
    doubt
        Sizes (k,) of kinks that rounding may have hidden: zero·effect of each, in the words of
        `congested.critics.kinks.cut_at_kinks`; those of several pieces add up.
    """

    shares: FloatArray
    owner: IntArray
    doubt: FloatArray

    def part(self, some: slice | BoolArray) -> Pieces:
        """Return some of the pieces."""
        return Pieces(self.shares[some], self.owner[some], self.doubt[some])


def whole(number: int, corners: int) -> Pieces:
    """Return simplices as pieces of themselves."""
    shares = np.broadcast_to(np.eye(corners), (number, corners, corners))
    return Pieces(np.array(shares), np.arange(number), np.zeros(number))


# Pieces that one layer cuts at a time: what it gives at their vertices stays in the cache.
_AT_A_TIME = 1 << 10


def affine_pieces(
    network: Network, simplices: FloatArray, rounding: Rounding | None = None
) -> Iterator[Pieces]:
    """Cut simplices into pieces on which a network is affine, some at a time.

    Parameters
    ----------
    network
        A piecewise affine network.
    simplices
        Vertices (n, d+1, d), d = 2 or 3.
    rounding
        What rounding can do to the network on a domain that holds them; None: on the smallest.

    Yields
    ------
    Pieces
        All of them together fill the simplices without overlap.

    Raises
    ------
    InputError
        If the network is not piecewise affine.
    """
    if not network.piecewise_affine:
        raise InputError(
            f"found {network.activation}; allowed: a piecewise affine activation", key="activation"
        )
    last = len(network.weights) - 1
    if rounding is None:
        rounding = rounding_of(network, np.abs(simplices).max(axis=(0, 1), initial=0.0))
    # Pieces that are whole for the layers below one. Depth first: however many pieces there are,
    # only those of one chunk per layer are in memory.
    waiting = [(whole(len(simplices), simplices.shape[1]), 0)]
    while waiting:
        pieces, layer = waiting.pop()
        if layer == last:
            yield pieces
            continue
        if len(pieces.owner) > _AT_A_TIME:
            waiting.append((pieces.part(slice(_AT_A_TIME, None)), layer))
            pieces = pieces.part(slice(_AT_A_TIME))
        waiting.append((_cut(network, layer, simplices, pieces, rounding), layer + 1))


def _cut(
    network: Network, layer: int, simplices: FloatArray, pieces: Pieces, rounding: Rounding
) -> Pieces:
    """Cut pieces at the kinks of the activation behind a layer, which is affine on each."""
    corners, dimension = simplices.shape[1:]
    width = len(network.weights[layer])
    # The network is continuous: its value at a vertex is that of every piece around it.
    points = np.matmul(pieces.shares, simplices[pieces.owner]).reshape(-1, dimension)
    entries = network.preactivation(layer, points).reshape(-1, corners, width)
    size = 0
    if network.activation is Activation.GROUP_SORT:
        size = network.group_size or width
    shares, parent, doubt = cut_at_kinks(
        np.ascontiguousarray(entries), rounding.entries[layer], rounding.effects[layer], size
    )
    doubt += (pieces.doubt / np.maximum(np.bincount(parent, minlength=len(pieces.owner)), 1))[
        parent
    ]
    return Pieces(np.matmul(shares, pieces.shares[parent]), pieces.owner[parent], doubt)
