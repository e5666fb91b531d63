"""The pieces on which a piecewise affine critic is affine, cell by cell of a mesh.

On each piece the critic is affine and its gradient constant, so that its dual value with
piecewise constant data is a finite sum: no quadrature error, and bounds of it that cannot be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from congested.critics.kinks import cut_at_kinks
from congested.critics.network import Activation, Network
from congested.errors import InputError
from congested.geometry import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces of simplices.

    Attributes
    ----------
    shares
        Barycentric coordinates (k, d+1, d+1) of the vertices of each piece in its simplex.
    owner
        Index (k,) of the simplex.
    """

    shares: FloatArray
    owner: IntArray


def whole(number: int, corners: int) -> Pieces:
    """Return simplices as pieces of themselves."""
    shares = np.broadcast_to(np.eye(corners), (number, corners, corners))
    return Pieces(np.array(shares), np.arange(number))


def affine_pieces(network: Network, simplices: FloatArray) -> Pieces:
    """Cut simplices into pieces on which a network is affine.

    Parameters
    ----------
    network
        A piecewise affine network.
    simplices
        Vertices (n, d+1, d), d = 2 or 3. The memory needed is that of a layer at all the vertices
        of all the pieces, so that one calls this with some thousand at a time.

    Returns
    -------
    Pieces
        The pieces fill the simplices without overlap.

    Raises
    ------
    InputError
        If the network is not piecewise affine.
    """
    if not network.piecewise_affine:
        raise InputError(
            f"found {network.activation}; allowed: a piecewise affine activation", key="activation"
        )
    number, corners, dimension = simplices.shape
    pieces = whole(number, corners)
    for layer, weight in enumerate(network.weights[:-1]):
        # The network is continuous: its value at a vertex is that of every piece around it.
        points = np.matmul(pieces.shares, simplices[pieces.owner]).reshape(-1, dimension)
        entries = network.preactivation(layer, points).reshape(-1, corners, len(weight))
        size = 0
        if network.activation is Activation.GROUP_SORT:
            size = network.group_size or len(weight)
        shares, parent = cut_at_kinks(np.ascontiguousarray(entries), size)
        pieces = Pieces(np.matmul(shares, pieces.shares[parent]), pieces.owner[parent])
    return pieces
