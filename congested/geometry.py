"""Simplices as NumPy arrays: volumes, barycentric gradients, red refinement.

Everything that integrates cell by cell (measures, weight, certificate) works on these arrays and
not on DOLFINx objects, so that it can be checked, and repeated by a user, with NumPy alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from congested.errors import InputError

if TYPE_CHECKING:
    from dolfinx.mesh import Mesh

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Local edges of a simplex as pairs of local vertices, in the order of P2's edge values.
EDGES = {
    2: ((1, 2), (0, 2), (0, 1)),
    3: ((2, 3), (1, 3), (1, 2), (0, 3), (0, 2), (0, 1)),
}


def determinants(matrices: FloatArray) -> FloatArray:
    """Return the determinants (...) of matrices (..., d, d), d = 2 or 3."""
    # Cofactors: ten times faster than the factorisation of many small matrices.
    if matrices.shape[-1] == 2:
        (a, b), (c, d) = _entries(matrices)
        return a * d - b * c
    first, second, third = _entries(matrices)
    return sum(x * y for x, y in zip(first, _cross(second, third), strict=True))  # type: ignore[return-value]


def inverses(matrices: FloatArray) -> FloatArray:
    """Return the inverses (..., d, d) of matrices (..., d, d), d = 2 or 3.

    A singular matrix gives entries that are not finite.
    """
    result = np.empty_like(matrices)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1.0 / determinants(matrices)
        if matrices.shape[-1] == 2:
            (a, b), (c, d) = _entries(matrices)
            for (row, column), entry in (((0, 0), d), ((0, 1), -b), ((1, 0), -c), ((1, 1), a)):
                np.multiply(entry, scale, out=result[..., row, column])
            return result
        rows = _entries(matrices)
        for column in range(3):
            cofactors = _cross(rows[(column + 1) % 3], rows[(column + 2) % 3])
            for row in range(3):
                np.multiply(cofactors[row], scale, out=result[..., row, column])
    return result


def _entries(matrices: FloatArray) -> list[list[FloatArray]]:
    size = range(matrices.shape[-1])
    return [[matrices[..., row, column] for column in size] for row in size]


def _cross(first: list[FloatArray], second: list[FloatArray]) -> list[FloatArray]:
    return [
        first[(i + 1) % 3] * second[(i + 2) % 3] - first[(i + 2) % 3] * second[(i + 1) % 3]
        for i in range(3)
    ]


def simplex_volumes(simplices: FloatArray) -> FloatArray:
    """Return the volumes (n,) of simplices with vertices (n, d+1, d)."""
    edges = simplices[:, 1:] - simplices[:, :1]
    return np.abs(determinants(edges)) / math.factorial(simplices.shape[2])


def barycentric_gradients(simplices: FloatArray) -> FloatArray:
    """Return the gradients (n, d+1, d) of the barycentric coordinates of simplices (n, d+1, d)."""
    edges = simplices[:, 1:] - simplices[:, :1]
    # Row i of the inverse transpose of the edge matrix is the gradient of coordinate i + 1.
    inner = np.swapaxes(inverses(edges), 1, 2)
    return np.concatenate([-inner.sum(axis=1, keepdims=True), inner], axis=1)


def barycentric_coordinates(simplices: FloatArray, points: FloatArray) -> FloatArray:
    """Return the barycentric coordinates (n, k, d+1) of points (n, k, d), k for each simplex."""
    offsets = points - simplices.mean(axis=1, keepdims=True)
    share = 1.0 / simplices.shape[1]
    return share + np.einsum("nkd,nid->nki", offsets, barycentric_gradients(simplices))


# Children of the red refinement as pairs of vertices whose midpoint is the child's vertex. The
# octahedron in the middle of a tetrahedron is cut along the diagonal between the midpoints of the
# edges 02 and 13 (Bey 1995), which keeps the number of shapes bounded under repetition.
_RED_CHILDREN = {
    2: (
        ((0, 0), (0, 1), (0, 2)),
        ((0, 1), (1, 1), (1, 2)),
        ((0, 2), (1, 2), (2, 2)),
        ((0, 1), (1, 2), (0, 2)),
    ),
    3: (
        ((0, 0), (0, 1), (0, 2), (0, 3)),
        ((0, 1), (1, 1), (1, 2), (1, 3)),
        ((0, 2), (1, 2), (2, 2), (2, 3)),
        ((0, 3), (1, 3), (2, 3), (3, 3)),
        ((0, 1), (0, 2), (0, 3), (1, 3)),
        ((0, 1), (0, 2), (1, 2), (1, 3)),
        ((0, 2), (0, 3), (1, 3), (2, 3)),
        ((0, 2), (1, 2), (1, 3), (2, 3)),
    ),
}


def split_simplices(simplices: FloatArray) -> FloatArray:
    """Cut each simplex into 2^d of equal volume (red refinement).

    Parameters
    ----------
    simplices
        Vertices (n, d+1, d).

    Returns
    -------
    numpy.ndarray
        Vertices (2^d n, d+1, d); the children of simplex k are rows 2^d k to 2^d (k+1) - 1.
    """
    dimension = simplices.shape[2]
    pairs = np.array(_RED_CHILDREN[dimension])
    children = 0.5 * (simplices[:, pairs[..., 0]] + simplices[:, pairs[..., 1]])
    return children.reshape(-1, dimension + 1, dimension)


def facet_neighbours(cells: IntArray) -> IntArray:
    """Return the cell behind the facet opposite each vertex, −1 where there is none.

    Parameters
    ----------
    cells
        Vertex numbers (C, d+1).

    Returns
    -------
    numpy.ndarray
        Cell numbers (C, d+1).

    Raises
    ------
    InputError
        If a facet belongs to more than two cells.
    """
    number, corners = cells.shape
    others = [[j for j in range(corners) if j != i] for i in range(corners)]
    facets = np.sort(cells[:, others].reshape(-1, corners - 1), axis=1)
    # Equal facets end up side by side.
    order = np.lexsort(facets.T[::-1])
    equal = (facets[order[1:]] == facets[order[:-1]]).all(axis=1)
    if (equal[1:] & equal[:-1]).any():
        raise InputError("found a facet of three cells; allowed: one or two cells at each")
    pairs = np.flatnonzero(equal)
    one, other = order[pairs], order[pairs + 1]
    neighbours = np.full(number * corners, -1, dtype=np.int64)
    neighbours[one], neighbours[other] = other // corners, one // corners
    return neighbours.reshape(number, corners)


@dataclass(frozen=True)
class Cells:
    """The cells that this rank owns, as arrays, and the bounding box of the whole mesh.

    Attributes
    ----------
    comm
        Communicator over which the cells are distributed; each cell is owned by one rank.
    simplices
        Vertex coordinates (n, d+1, d) of the owned cells.
    lower, upper
        Corners (d,) of the bounding box of all cells on all ranks.
    """

    comm: MPI.Comm
    simplices: FloatArray
    lower: FloatArray
    upper: FloatArray

    @property
    def number(self) -> int:
        """Number of owned cells."""
        return self.simplices.shape[0]

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return self.simplices.shape[2]

    @cached_property
    def volume(self) -> FloatArray:
        """Cell volumes |T| (n,)."""
        return simplex_volumes(self.simplices)

    @cached_property
    def midpoint(self) -> FloatArray:
        """Cell midpoints x_T (n, d)."""
        return self.simplices.mean(axis=1)

    @cached_property
    def diameter(self) -> FloatArray:
        """Longest edge of each cell (n,)."""
        first, second = np.triu_indices(self.dimension + 1, 1)
        edges = self.simplices[:, first] - self.simplices[:, second]
        return np.linalg.norm(edges, axis=2).max(axis=1)

    @cached_property
    def barycentric_gradients(self) -> FloatArray:
        """Gradients (n, d+1, d) of the barycentric coordinates."""
        return barycentric_gradients(self.simplices)

    def total(self, values: FloatArray) -> float:
        """Sum one value per cell over all cells of all ranks (collective)."""
        return float(self.comm.allreduce(float(np.sum(values)), op=MPI.SUM))


def _with_bounding_box(comm: MPI.Comm, simplices: FloatArray, dimension: int) -> Cells:
    points = simplices.reshape(-1, dimension)
    lower = points.min(axis=0) if len(points) else np.full(dimension, np.inf)
    upper = points.max(axis=0) if len(points) else np.full(dimension, -np.inf)
    global_lower, global_upper = np.empty(dimension), np.empty(dimension)
    comm.Allreduce(lower, global_lower, op=MPI.MIN)
    comm.Allreduce(upper, global_upper, op=MPI.MAX)
    return Cells(comm, simplices, global_lower, global_upper)


def cells_from_arrays(
    vertices: FloatArray, cells: IntArray, comm: MPI.Comm = MPI.COMM_SELF
) -> Cells:
    """Make `Cells` from vertices (V, d) and connectivity (C, d+1)."""
    vertices = np.asarray(vertices, dtype=np.float64)
    return _with_bounding_box(comm, vertices[np.asarray(cells)], vertices.shape[1])


def cells_of_mesh(mesh: Mesh) -> Cells:
    """Make `Cells` from a distributed simplicial DOLFINx mesh (collective)."""
    dimension = mesh.topology.dim
    owned = mesh.topology.index_map(dimension).size_local
    dofmap = mesh.geometry.dofmap[:owned]
    corners = mesh.geometry.x[dofmap][:, :, :dimension]
    simplices: FloatArray = np.ascontiguousarray(corners, dtype=np.float64)
    return _with_bounding_box(mesh.comm, simplices, dimension)
