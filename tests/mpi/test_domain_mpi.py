"""A distributed mesh and its refinements are the same cells as on one rank, bit for bit.

Run as ``mpirun -n 3 python -m pytest tests/mpi/test_domain_mpi.py``; in serial it compares two
ways of making the mesh and checks the numbers.
"""

from __future__ import annotations

from pathlib import Path

import dolfinx.mesh
import numpy as np
import numpy.typing as npt
import pytest
from mpi4py import MPI

from congested.domain import Box, Domain, MeshFile, create_mesh, refine_uniformly
from congested.geometry import Cells, cells_of_mesh

COMM = MPI.COMM_WORLD
FOLDER = Path(__file__).resolve().parent.parent.parent / "meshes"

# Domain, its cells, its volume, and Σ |T| |x_T|² after two refinements of a box: the integral of
# |x|² less the variance of the cells, which is h²/18 (crossed triangles) or h²/8 (six tetrahedra).
CASES: dict[str, tuple[Domain, int, float, float | None]] = {
    "square": (Box((0, 0), (1, 1), 8), 256, 1.0, 2 / 3 - (1 / 32) ** 2 / 18),
    "one square": (Box((0, 0), (1, 1), 1), 4, 1.0, 2 / 3 - (1 / 4) ** 2 / 18),
    "cube": (Box((0, 0, 0), (1, 1, 1), 3), 162, 1.0, 1 - (1 / 12) ** 2 / 8),
    "l_shape": (MeshFile(FOLDER / "l_shape.msh"), 338, 0.75, None),
    "channel": (MeshFile(FOLDER / "channel_with_obstacle.msh"), 1650, 0.9413884487, None),
}


def twice_refined(domain: Domain, comm: MPI.Comm) -> list[Cells]:
    """Return the cells of the mesh and of two refinements, checking the parents on the way."""
    mesh: dolfinx.mesh.Mesh = create_mesh(domain, comm)
    levels = [cells_of_mesh(mesh)]
    for _ in range(2):
        mesh, parent = refine_uniformly(mesh)
        fine, coarse = cells_of_mesh(mesh), levels[-1]
        summed = np.bincount(parent, weights=fine.volume, minlength=coarse.number)
        np.testing.assert_allclose(summed, coarse.volume, rtol=1e-12)
        moment = np.stack(
            [
                np.bincount(parent, weights=fine.volume * axis, minlength=coarse.number)
                for axis in fine.midpoint.T
            ],
            axis=1,
        )
        # The children's common centre of mass is the parent's: so they are that parent's.
        np.testing.assert_allclose(
            moment, coarse.volume[:, None] * coarse.midpoint, rtol=1e-11, atol=1e-16
        )
        levels.append(fine)
    return levels


def sorted_cells(cells: Cells) -> npt.NDArray[np.float64]:
    """Return all ranks' cells with sorted vertices, sorted."""
    simplices = np.concatenate(cells.comm.allgather(cells.simplices))
    for axis in reversed(range(cells.dimension)):
        order = np.argsort(simplices[:, :, axis], axis=1, kind="stable")
        simplices = np.take_along_axis(simplices, order[:, :, None], axis=1)
    flat = simplices.reshape(len(simplices), -1)
    return flat[np.lexsort(flat.T)]


@pytest.mark.parametrize("name", CASES)
def test_same_cells_on_any_number_of_ranks(name: str) -> None:
    domain, number, volume, moment = CASES[name]
    distributed = twice_refined(domain, COMM)
    alone = twice_refined(domain, MPI.COMM_SELF)
    for level, (together, single) in enumerate(zip(distributed, alone, strict=True)):
        factor = 2 ** (level * together.dimension)
        assert together.total(np.ones(together.number)) == single.number == factor * number
        assert together.total(together.volume) == pytest.approx(volume, rel=1e-7)
        np.testing.assert_array_equal(sorted_cells(together), sorted_cells(single))
        np.testing.assert_array_equal(together.lower, single.lower)
        np.testing.assert_array_equal(together.upper, single.upper)
    if moment is None:
        return
    last = distributed[-1]
    second = last.total(last.volume * (last.midpoint**2).sum(axis=1))
    assert second == pytest.approx(moment, rel=1e-12)
