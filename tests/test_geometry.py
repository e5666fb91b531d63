"""Simplices as arrays: volumes, gradients, red refinement, and the cells of a mesh."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dolfinx.mesh import compute_midpoints
from mpi4py import MPI

from congested.domain import Box, create_mesh
from congested.geometry import (
    barycentric_gradients,
    cells_from_arrays,
    cells_of_mesh,
    determinants,
    inverses,
    simplex_volumes,
    split_simplices,
)

dimensions = pytest.mark.parametrize("dimension", [2, 3])


def random_simplices(dimension: int, number: int, seed: int = 0) -> np.ndarray:
    """Simplices of all shapes and both orientations, none of them flat."""
    generator = np.random.default_rng(seed)
    simplices = generator.normal(size=(4 * number, dimension + 1, dimension))
    return simplices[simplex_volumes(simplices) > 0.05][:number]


def reference_simplex(dimension: int) -> np.ndarray:
    return np.vstack([np.zeros(dimension), np.eye(dimension)])[None]


@dimensions
def test_volume_of_reference_simplex_and_its_images(dimension: int) -> None:
    reference = reference_simplex(dimension)
    exact = 1.0 / math.factorial(dimension)
    np.testing.assert_allclose(simplex_volumes(reference), exact, rtol=1e-15)
    matrix = np.random.default_rng(1).normal(size=(dimension, dimension))
    image = reference @ matrix.T + 3.0
    expected = abs(np.linalg.det(matrix)) * exact
    np.testing.assert_allclose(simplex_volumes(image), expected, rtol=1e-12)
    # The orientation does not matter.
    np.testing.assert_allclose(simplex_volumes(image[:, ::-1]), expected, rtol=1e-12)


@dimensions
def test_small_matrices(dimension: int) -> None:
    matrices = np.random.default_rng(2).normal(size=(5, 40, dimension, dimension))
    np.testing.assert_allclose(determinants(matrices), np.linalg.det(matrices), rtol=1e-11)
    np.testing.assert_allclose(inverses(matrices), np.linalg.inv(matrices), rtol=1e-9)
    assert not np.isfinite(inverses(np.zeros((1, dimension, dimension)))).any()


@dimensions
def test_barycentric_gradients(dimension: int) -> None:
    simplices = random_simplices(dimension, 20)
    gradients = barycentric_gradients(simplices)
    # Coordinate i is 1 at vertex i and 0 at the others: differences along the edges are known.
    edges = simplices[:, :, None] - simplices[:, None]
    changes = np.einsum("nid,njkd->nijk", gradients, edges)
    identity = np.eye(dimension + 1)
    expected = identity[:, :, None] - identity[:, None]
    np.testing.assert_allclose(changes, np.broadcast_to(expected, changes.shape), atol=1e-12)


@dimensions
def test_children_have_equal_volume_and_follow_their_parent(dimension: int) -> None:
    simplices = random_simplices(dimension, 5)
    number = 2**dimension
    children = split_simplices(simplices).reshape(5, number, dimension + 1, dimension)
    for parent, brood in zip(simplices, children, strict=True):
        volume = simplex_volumes(parent[None])[0] / number
        np.testing.assert_allclose(simplex_volumes(brood), volume, rtol=1e-12)
        # Every vertex of a child is a vertex of the parent or the middle of an edge.
        middles = 0.5 * (parent[:, None] + parent[None]).reshape(-1, dimension)
        distances = np.abs(brood.reshape(-1, 1, dimension) - middles).max(axis=2).min(axis=1)
        assert distances.max() == 0.0


@dimensions
def test_children_cover_the_parent_once(dimension: int) -> None:
    parent = random_simplices(dimension, 1)
    children = split_simplices(parent)
    weights = np.random.default_rng(2).dirichlet(np.ones(dimension + 1), size=500)
    points = weights @ parent[0]
    offsets = points[:, None] - children[None, :, 0]
    gradients = barycentric_gradients(children)
    coordinates = np.einsum("cid,pcd->pci", gradients, offsets)
    coordinates[:, :, 0] += 1.0
    inside = (coordinates > 0.0).all(axis=2)
    np.testing.assert_array_equal(inside.sum(axis=1), 1)


def test_repeated_refinement_keeps_the_shapes_of_tetrahedra() -> None:
    # Bey (1995): at most three classes of similar tetrahedra, however often one refines. The
    # lengths of the six edges, scaled by the volume, tell the classes apart.
    simplices = random_simplices(3, 1, seed=5)
    first, second = np.triu_indices(4, 1)
    for _ in range(4):
        simplices = split_simplices(simplices)
        edges = np.linalg.norm(simplices[:, first] - simplices[:, second], axis=2)
        scaled = np.sort(edges / simplex_volumes(simplices)[:, None] ** (1 / 3), axis=1)
        assert len(np.unique(scaled.round(9), axis=0)) <= 3


@dimensions
def test_cells_from_arrays(dimension: int) -> None:
    corners = np.vstack([reference_simplex(dimension)[0], -np.eye(dimension)[0]])
    first = list(range(dimension + 1))
    second = [0, dimension + 1, *range(2, dimension + 1)]
    cells = cells_from_arrays(corners, np.array([first, second]))
    assert (cells.number, cells.dimension) == (2, dimension)
    np.testing.assert_allclose(cells.volume, 1.0 / math.factorial(dimension))
    np.testing.assert_allclose(cells.diameter, math.sqrt(2.0))
    np.testing.assert_allclose(cells.midpoint[0], 1.0 / (dimension + 1))
    np.testing.assert_array_equal(cells.lower, [-1.0, *[0.0] * (dimension - 1)])
    np.testing.assert_array_equal(cells.upper, np.ones(dimension))
    assert cells.total(np.array([1.0, 2.5])) == 3.5


def test_diameter_is_the_longest_edge() -> None:
    cells = cells_from_arrays(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), np.array([[0, 1, 2]]))
    np.testing.assert_allclose(cells.diameter, 5.0)


@dimensions
def test_cells_of_mesh_are_those_of_dolfinx(dimension: int) -> None:
    lower, upper = (-1.0, 0.5, 2.0)[:dimension], (1.0, 1.5, 3.0)[:dimension]
    mesh = create_mesh(Box(lower, upper, cells=4), MPI.COMM_SELF)
    cells = cells_of_mesh(mesh)
    assert cells.number == mesh.topology.index_map(dimension).size_global
    numbers = np.arange(cells.number, dtype=np.int32)
    expected = compute_midpoints(mesh, dimension, numbers)[:, :dimension]
    np.testing.assert_allclose(cells.midpoint, expected, atol=1e-14)
    assert cells.total(cells.volume) == pytest.approx(2.0, rel=1e-14)
    np.testing.assert_array_equal(cells.lower, lower)
    np.testing.assert_array_equal(cells.upper, upper)
