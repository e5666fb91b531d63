"""Points near facets are moved into their cells, so that their segments leave weight there."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from congested.domain import Box, create_mesh
from congested.errors import InputError
from congested.geometry import Cells, cells_of_mesh
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points, away_from_facets, locate_uniquely

dimensions = pytest.mark.parametrize("dimension", [2, 3])


def unit_cells(dimension: int) -> Cells:
    box = Box((0.0,) * dimension, (1.0,) * dimension, cells=4)
    return cells_of_mesh(create_mesh(box, MPI.COMM_SELF))


def coordinates(points: np.ndarray, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Barycentric coordinates in the cell that holds each point, and that cell."""
    holder = locate_uniquely(points, cells)
    offset = points - cells.midpoint[holder]
    gradients = cells.barycentric_gradients[holder]
    return 1.0 / (cells.dimension + 1) + np.einsum("nid,nd->ni", gradients, offset), holder


@dimensions
def test_points_come_to_lie_well_inside_the_cells_that_hold_them(dimension: int) -> None:
    cells = unit_cells(dimension)
    generator = np.random.default_rng(0)
    lattice = generator.integers(0, 9, size=(100, dimension)) / 8.0
    anywhere = generator.uniform(size=(300, dimension))
    points = np.vstack([lattice, anywhere])
    moved = away_from_facets(Points(points, np.full(400, 1 / 400)), cells)
    before, holder = coordinates(points, cells)
    after, same = coordinates(moved.points, cells)
    np.testing.assert_array_equal(same, holder)
    assert after.min() == pytest.approx(0.1, rel=1e-9)
    distance = np.linalg.norm(moved.points - points, axis=1)
    assert (distance <= cells.diameter[holder] / 3.0).all()
    # Points that are inside already stay where they are, exactly.
    inside = before.min(axis=1) >= 0.1
    assert 50 < np.count_nonzero(inside) < 300
    assert (distance[inside] == 0.0).all()
    assert (distance[~inside] > 0.0).all()
    np.testing.assert_array_equal(moved.weights, np.full(400, 1 / 400))
    # The masses of the cells do not change.
    original = Points(points, np.full(400, 1 / 400)).cell_masses(cells)
    np.testing.assert_array_equal(moved.cell_masses(cells), original)


def test_other_measures_are_left_alone() -> None:
    mixture = GaussianMixture.from_stds(np.array([[0.5, 0.5]]), np.array([0.1]))
    assert away_from_facets(mixture, unit_cells(2)) is mixture


def test_point_outside_the_domain_is_refused() -> None:
    with pytest.raises(InputError, match="outside the domain"):
        away_from_facets(Points(np.array([[1.5, 0.5]]), np.ones(1)), unit_cells(2))
