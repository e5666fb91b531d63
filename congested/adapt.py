"""Where to refine, and the mesh that is refined there.

Cells are marked by what they contribute to the certified gap and to the error of the cell data
(Dörfler, SIAM J. Numer. Anal. 33, 1996), and DOLFINx bisects them and as many neighbours as a mesh
without hanging nodes needs (Plaza & Carey, Appl. Numer. Math. 32, 2000). Nothing is coarsened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import dolfinx
import numpy as np
from mpi4py import MPI

from congested.compatibility import refine_edges
from congested.errors import InputError
from congested.geometry import BoolArray, Cells, FloatArray, IntArray

# Maps cells and their indicator (n,) ≥ 0 to the cells (n,) that are to be refined; collective.
Marker = Callable[[Cells, FloatArray], BoolArray]

# Bisections of the threshold: over 600 decades it is then found to 12 digits.
_BISECTIONS = 52


@dataclass(frozen=True)
class BulkMarker:
    """Marks the cells with the largest indicators that have a given part of its sum.

    Attributes
    ----------
    share
        The part, above 0 and at most 1. A large one needs few meshes, a small one few cells.

    Raises
    ------
    InputError
        If the share is not allowed.
    """

    share: float = 0.7

    def __post_init__(self) -> None:
        """Check the share."""
        if not 0.0 < self.share <= 1.0:
            raise InputError(f"found {self.share!r}; allowed: a number in (0, 1]", key="share")

    def __call__(self, cells: Cells, indicator: FloatArray) -> BoolArray:
        """Return the cells (n,) to refine (collective).

        Parameters
        ----------
        cells
            The cells.
        indicator
            Numbers (n,) ≥ 0; infinite ones are marked first.
        """
        infinite = np.isinf(indicator)
        if cells.comm.allreduce(bool(infinite.any()), op=MPI.LOR):
            return np.asarray(infinite)
        wanted = self.share * cells.total(indicator)
        positive = np.where(indicator > 0.0, indicator, np.inf)
        low = float(cells.comm.allreduce(positive.min(initial=np.inf), op=MPI.MIN))
        high = float(cells.comm.allreduce(indicator.max(initial=0.0), op=MPI.MAX))
        if not high > 0.0:
            return np.zeros(cells.number, dtype=bool)
        # Indicators of a mesh vary over many decades: their logarithm is bisected.
        for _ in range(_BISECTIONS):
            middle = float(np.sqrt(low) * np.sqrt(high))
            if cells.total(np.where(indicator >= middle, indicator, 0.0)) >= wanted:
                low = middle
            else:
                high = middle
        return np.asarray(indicator >= low) & (indicator > 0.0)


def refine_marked(mesh: dolfinx.mesh.Mesh, marked: BoolArray) -> tuple[dolfinx.mesh.Mesh, IntArray]:
    """Refine the marked cells and what a conforming mesh needs beside them (collective).

    All edges of a marked cell are halved.

    Parameters
    ----------
    mesh
        Straight triangles or tetrahedra without ghost cells.
    marked
        Which of the owned cells to refine (n,).

    Returns
    -------
    fine : dolfinx.mesh.Mesh
        The refined mesh, without ghost cells; children are on the rank of their parent.
    parent : numpy.ndarray
        Local index in `mesh` of the parent of each local cell of `fine`.
    """
    dimension = mesh.topology.dim
    mesh.topology.create_entities(1)
    mesh.topology.create_connectivity(dimension, 1)
    mesh.topology.create_connectivity(1, dimension)
    edges = mesh.topology.connectivity(dimension, 1).array.reshape(len(marked), -1)
    return refine_edges(mesh, np.unique(edges[marked]).astype(np.int32))
