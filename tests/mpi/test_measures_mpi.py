"""Cell masses do not depend on how the mesh is distributed, and errors reach every rank.

Run as ``mpirun -n 3 python -m pytest tests/mpi/test_measures_mpi.py``; in serial it compares the
same mesh with itself and checks the sums.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from mpi4py import MPI

from congested.domain import Box, create_mesh
from congested.errors import InputError, NotConverged
from congested.geometry import Cells, cells_of_mesh
from congested.measures.base import Measure, restricted_masses
from congested.measures.density import DensityMeasure
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.image import Image
from congested.measures.mesh_field import MeshField
from congested.measures.points import Points
from congested.measures.ray_monotone import RayMonotonePair, RayMonotoneSource
from congested.measures.uniform import UniformBall, UniformBox

COMM = MPI.COMM_WORLD
# Points inside, and on vertices and edges of the mesh, where ranks must agree.
GRID = np.stack(np.meshgrid(np.linspace(-1, 1, 17), np.linspace(-1, 1, 17)), -1).reshape(-1, 2)
# A mesh of its own: a fan of triangles round a point off the centre.
RIM = np.stack([np.cos(np.linspace(0, 5.5, 8)), np.sin(np.linspace(0, 5.5, 8))], axis=1)
FAN = np.array([[0, k + 1, (k + 1) % 8 + 1] for k in range(8)])

GRIDDED: dict[str, Image | MeshField] = {
    "image": Image(np.random.default_rng(0).random((13, 7)), [-0.9, -0.8], [0.95, 0.7]),
    "field": MeshField(np.concatenate([[[0.2, -0.1]], RIM]), FAN, point_values=np.arange(9.0) % 4),
}
MEASURES: dict[str, Measure] = {
    "mixture": GaussianMixture.from_stds([[0.0, 0.1], [0.3, -0.2]], [0.1, 0.02]),
    "box": UniformBox([-0.7, -0.31], [0.2, 0.83]),
    "ball": UniformBall([0.1, 0.0], 0.6),
    "points": Points(GRID),
    "ray-monotone": RayMonotoneSource(RayMonotonePair(1.0, 8, [[0.1, 0.2], [-0.5, 0]], [0, 0.1])),
    "density": DensityMeasure(lambda x: 0.75 * x[:, 0] ** 2, [-1, -1], [1, 1]),
    **GRIDDED,
}


def box_cells(comm: MPI.Comm) -> Cells:
    """Return the cells of the square [−1, 1]² on a communicator."""
    return cells_of_mesh(create_mesh(Box((-1, -1), (1, 1), 8), comm))


def gathered(cells: Cells, masses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rows (midpoint, mass) of all ranks, sorted by midpoint."""
    rows = np.concatenate(COMM.allgather(np.c_[cells.midpoint, masses]))
    return rows[np.lexsort(np.round(rows[:, :2], 9).T)]


@pytest.mark.parametrize("name", MEASURES)
def test_masses_are_those_of_one_rank(name: str) -> None:
    together = box_cells(COMM)
    restricted = restricted_masses(MEASURES[name], together, "source")
    assert together.total(restricted.masses) == pytest.approx(1.0, abs=1e-14)
    alone = box_cells(MPI.COMM_SELF)
    single = restricted_masses(MEASURES[name], alone, "source")
    rows = gathered(together, restricted.masses)
    order = np.lexsort(np.round(alone.midpoint, 9).T)
    np.testing.assert_allclose(rows[:, :2], alone.midpoint[order], atol=1e-12)
    np.testing.assert_allclose(rows[:, 2], single.masses[order], rtol=0, atol=1e-11)
    assert restricted.outside == pytest.approx(single.outside, abs=1e-11)


@pytest.mark.parametrize("name", GRIDDED)
def test_vertex_masses_and_range_are_those_of_one_rank(name: str) -> None:
    measure = GRIDDED[name]
    together, alone = box_cells(COMM), box_cells(MPI.COMM_SELF)
    # Each cell's first moment, which does not depend on the order of its vertices.
    found, expected = (
        np.c_[
            cells.midpoint,
            np.einsum("ni,nid->nd", measure.vertex_masses(cells), cells.simplices),
            np.stack(measure.density_range(cells), axis=1),
        ]
        for cells in (together, alone)
    )
    found = np.concatenate(COMM.allgather(found))
    found = found[np.lexsort(np.round(found[:, :2], 9).T)]
    expected = expected[np.lexsort(np.round(expected[:, :2], 9).T)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    assert np.ptp(expected[:, 5]) > 0.1


def test_a_point_outside_is_reported_on_every_rank() -> None:
    with pytest.raises(InputError, match="found 1 of 2 points outside"):
        Points([[0.0, 0.0], [0.5, 1.5]]).cell_masses(box_cells(COMM))


def test_an_error_in_one_cell_is_raised_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("congested.quadrature._NUMBERS_OF_PIECES", 1 << 16)
    cells = box_cells(COMM)

    def density(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.where((points > 0.9).all(axis=1), np.inf, 1.0)

    with pytest.raises(InputError, match="not finite"):
        DensityMeasure(density, [-1, -1], [1, 1]).cell_masses(cells)
    jump = DensityMeasure(lambda x: 1.0 * (x.sum(axis=1) > 1.91), [-1, -1], [1, 1])
    with pytest.raises(NotConverged, match="adaptive quadrature"):
        jump.cell_masses(cells, 1e-8)
