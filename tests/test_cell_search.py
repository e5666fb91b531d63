"""Locating points and sharing out segments: by hand, by brute force, at every degenerate place."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from scipy.spatial import Delaunay

from congested.cell_search import CellBins
from congested.errors import InputError
from congested.geometry import Cells, cells_from_arrays, simplex_volumes, split_simplices
from congested.quadrature import clip_to_box

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def structured(dimension: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit square or cube: squares along one diagonal, cubes cut into 6 tetrahedra."""
    axis = np.linspace(0.0, 1.0, number + 1)
    vertices = np.stack(np.meshgrid(*[axis] * dimension, indexing="ij"), -1).reshape(-1, dimension)
    corner = np.stack(np.meshgrid(*[np.arange(number)] * dimension, indexing="ij"), -1)
    strides = (number + 1) ** np.arange(dimension - 1, -1, -1)
    base = corner.reshape(-1, dimension) @ strides
    cells = [
        np.stack([base + path for path in np.cumsum([0, *strides[list(order)]])], axis=1)
        for order in itertools.permutations(range(dimension))
    ]
    return vertices, np.concatenate(cells)


def unstructured(dimension: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(dimension)
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=dimension)))
    vertices = np.concatenate([corners, generator.random((number, dimension))])
    cells = Delaunay(vertices).simplices
    cells = cells[simplex_volumes(vertices[cells]) > 1e-13]
    return vertices, cells


def clipped(cells: Cells, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Parts of one segment in all cells, straight from the barycentric coordinates."""
    gradients = cells.barycentric_gradients
    at_vertex = np.eye(cells.dimension + 1)[:, 0]
    value = at_vertex + gradients @ start - (gradients @ cells.simplices[:, 0, :, None])[..., 0]
    slope = gradients @ (end - start)
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = -value / slope
    enter = np.where(slope > 0, zero, -np.inf).max(axis=1)
    leave = np.where(slope < 0, zero, np.inf).min(axis=1)
    return np.maximum(0.0, np.minimum(leave, 1.0) - np.maximum(enter, 0.0))


def test_lengths_by_hand() -> None:
    bins = CellBins(cells_from_arrays(SQUARE, np.array([[0, 1, 2], [0, 2, 3]])))
    starts = np.array([[0.0, 0.25], [0.2, 0.1], [0.5, 0.5]])
    ends = np.array([[1.0, 0.25], [0.9, 0.1], [0.0, 1.0]])
    shares = [
        bins.deposit_segments(starts[k : k + 1], ends[k : k + 1], np.array([2.0])) for k in range(3)
    ]
    np.testing.assert_allclose(shares[0], [1.5, 0.5], atol=1e-9)
    np.testing.assert_allclose(shares[1], [2.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(shares[2], [0.0, 2.0], atol=1e-9)
    together = bins.deposit_segments(starts, ends, np.array([2.0, 2.0, 2.0]))
    np.testing.assert_allclose(together, np.sum(shares, axis=0), rtol=1e-14)


@pytest.mark.parametrize("dimension", [2, 3])
def test_agrees_with_clipping_every_cell(dimension: int) -> None:
    cells = cells_from_arrays(*unstructured(dimension, 300))
    bins = CellBins(cells)
    generator = np.random.default_rng(5)
    starts, ends = generator.random((2, 40, dimension))
    for start, end in zip(starts, ends, strict=True):
        share = bins.deposit_segments(start[None], end[None], np.ones(1))
        np.testing.assert_allclose(share, clipped(cells, start, end), atol=2e-8)
        assert share.sum() == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("number", [1, 7, 8])
def test_nothing_is_lost_between_mesh_vertices(dimension: int, number: int) -> None:
    """Along edges, facets and the boundary, through vertices, and points on vertices."""
    vertices, simplices = structured(dimension, number)
    bins = CellBins(cells_from_arrays(vertices, simplices))
    generator = np.random.default_rng(0)
    chosen = vertices[generator.permutation(len(vertices))[:30]]
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=dimension)))
    points = np.concatenate([chosen, corners, np.full((1, dimension), 0.5)])
    for start, end in itertools.product(points, points):
        share = bins.deposit_segments(start[None], end[None], np.ones(1))
        assert share.sum() == pytest.approx(1.0, abs=1e-12)
        if (start == end).all():
            assert np.count_nonzero(share) == 1


def test_point_gives_all_to_the_cell_that_holds_it() -> None:
    vertices, simplices = unstructured(2, 100)
    cells = cells_from_arrays(vertices, simplices)
    points = cells.midpoint[[3, 17]]
    share = CellBins(cells).deposit_segments(points, points, np.array([0.25, 0.75]))
    expected = np.zeros(cells.number)
    expected[[3, 17]] = 0.25, 0.75
    np.testing.assert_array_equal(share, expected)


def test_what_leaves_a_non_convex_domain_is_lost_and_what_returns_is_not() -> None:
    # The letter U: a square of 3 × 3 squares without the two upper ones in the middle.
    vertices, simplices = structured(2, 3)
    midpoint = vertices[simplices].mean(axis=1)
    hole = (abs(midpoint[:, 0] - 0.5) < 1 / 6) & (midpoint[:, 1] > 1 / 3)
    cells = cells_from_arrays(vertices, simplices[~hole])
    bins = CellBins(cells)
    across = bins.deposit_segments(np.array([[0.1, 0.8]]), np.array([[0.9, 0.8]]), np.ones(1))
    left = cells.midpoint[:, 0] < 0.5
    lengths = [across[left].sum(), across[~left].sum()]
    np.testing.assert_allclose(lengths, 2 * [(1 / 3 - 0.1) / 0.8], atol=1e-9)
    outside = bins.deposit_segments(np.array([[0.4, 0.8]]), np.array([[0.6, 0.5]]), np.ones(1))
    assert outside.sum() == 0.0
    inside = bins.deposit_segments(np.array([[0.1, 0.2]]), np.array([[0.9, 0.1]]), np.ones(1))
    assert inside.sum() == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("dimension", [2, 3])
def test_segments_that_begin_or_end_far_outside(dimension: int) -> None:
    bins = CellBins(cells_from_arrays(*structured(dimension, 5)))
    start, end = np.full(dimension, 0.45), np.full(dimension, 0.45)
    start[0], end[0] = -1.0, 4.0
    share = bins.deposit_segments(start[None], end[None], np.ones(1))
    assert share.sum() == pytest.approx(0.2, abs=1e-9)
    start[1], end[1] = 1.5, 1.5
    assert bins.deposit_segments(start[None], end[None], np.ones(1)).sum() == 0.0


class OneOfSeveral:
    """Stands for a communicator: adds what the other ranks would have contributed."""

    def __init__(self, others: np.ndarray) -> None:
        self.others = others

    def allreduce(self, value: Any, op: MPI.Op) -> Any:
        return value + self.others


@pytest.mark.parametrize("dimension", [2, 3])
def test_any_partition_gives_the_same(dimension: int) -> None:
    vertices, simplices = structured(dimension, 6)
    cells = cells_from_arrays(vertices, simplices)
    generator = np.random.default_rng(1)
    lattice = vertices[generator.integers(len(vertices), size=(2, 100))]
    starts, ends = np.concatenate([lattice, generator.random((2, 100, dimension))], axis=1)
    weights = generator.random(200)
    whole = CellBins(cells).deposit_segments(starts, ends, weights)
    # A cell here and a cell there: segments leave and enter each part many times.
    part = generator.integers(3, size=cells.number)
    moments = np.append(cells.volume @ cells.midpoint, cells.volume.sum())
    for rank in range(3):
        mine = part == rank
        volume = cells.volume[mine]
        others = moments - np.append(volume @ cells.midpoint[mine], volume.sum())
        owned = Cells(OneOfSeveral(others), cells.simplices[mine], cells.lower, cells.upper)
        share = CellBins(owned).deposit_segments(starts, ends, weights)
        np.testing.assert_allclose(share, whole[mine], atol=1e-11)


@pytest.mark.parametrize("dimension", [2, 3])
def test_shares_add_up_under_refinement(dimension: int) -> None:
    vertices, simplices = unstructured(dimension, 60)
    cells = cells_from_arrays(vertices, simplices)
    children = split_simplices(cells.simplices)
    fine = Cells(cells.comm, children, cells.lower, cells.upper)
    generator = np.random.default_rng(2)
    segments = (*generator.random((2, 500, dimension)), generator.random(500))
    coarse_share = CellBins(cells).deposit_segments(*segments)
    fine_share = CellBins(fine).deposit_segments(*segments)
    summed = fine_share.reshape(cells.number, -1).sum(axis=1)
    np.testing.assert_allclose(summed, coarse_share, atol=1e-11)


def test_strongly_graded_mesh_far_from_the_origin() -> None:
    """Cells shrink by 2^-30 towards a corner that is a million sizes away from the origin."""
    radii = np.concatenate([[0.0], 2.0 ** np.arange(-30, 1)])
    angles = np.linspace(0.0, np.pi / 2, 5)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    vertices = (radii[1:, None, None] * ring).reshape(-1, 2)
    vertices = np.concatenate([[[0.0, 0.0]], vertices])
    simplices = [[0, 1 + k, 2 + k] for k in range(4)]
    for level, k in itertools.product(range(30), range(4)):
        a = 1 + 5 * level + k
        simplices += [[a, a + 5, a + 6], [a, a + 6, a + 1]]
    generator = np.random.default_rng(3)
    angle = np.pi / 2 * generator.random((2, 300))
    radius = 0.9 * 2.0 ** (-28 * generator.random((2, 300)))
    starts, ends = (radius * np.array([np.cos(angle), np.sin(angle)])).transpose(1, 2, 0)
    for shift, accuracy in ((0.0, 1e-13), (1e6, 1e-13)):
        bins = CellBins(cells_from_arrays(vertices + shift, np.array(simplices)))
        share = bins.deposit_segments(starts + shift, ends + shift, np.full(300, 1 / 300))
        assert share.sum() == pytest.approx(1.0, abs=accuracy)
    assert bins.cells_per_bin[1] < 250


@pytest.mark.parametrize("dimension", [2, 3])
def test_locate_agrees_with_qhull(dimension: int) -> None:
    vertices, simplices = unstructured(dimension, 400)
    cells = cells_from_arrays(vertices, simplices)
    points = np.random.default_rng(4).random((2000, dimension)) * 1.2 - 0.1
    found, depth = CellBins(cells).locate(points)
    inside = ((points > 0) & (points < 1)).all(axis=1)
    np.testing.assert_array_equal(found >= 0, inside)
    gradients = cells.barycentric_gradients[found[inside]]
    offset = points[inside] - cells.midpoint[found[inside]]
    coordinates = 1 / (dimension + 1) + np.einsum("mik,mk->mi", gradients, offset)
    np.testing.assert_allclose(depth[inside], coordinates.min(axis=1), atol=1e-9)
    assert depth[inside].min() >= 0.0
    assert (depth[~inside] < 0.0).all()


@pytest.mark.parametrize("dimension", [2, 3])
def test_locate_on_vertices_and_just_outside(dimension: int) -> None:
    vertices, simplices = structured(dimension, 4)
    cells = cells_from_arrays(vertices, simplices)
    bins = CellBins(cells)
    found, depth = bins.locate(vertices)
    assert (found >= 0).all()
    np.testing.assert_allclose(depth, 0.0, atol=1e-13)
    assert (cells.simplices[found] == vertices[:, None, :]).all(axis=2).any(axis=1).all()
    beside = np.full((1, dimension), 0.5)
    beside[0, 0] = 1.0 + 1e-12
    assert bins.locate(beside)[0][0] >= 0
    assert bins.locate(beside, tolerance=1e-13)[0][0] == -1
    beside[0, 0] = 1.0 + 1e-7
    assert bins.locate(beside)[0][0] == -1


@pytest.mark.parametrize("dimension", [2, 3])
def test_cells_near_boxes_are_all_that_meet_them_and_few_others(dimension: int) -> None:
    cells = cells_from_arrays(*unstructured(dimension, 60))
    generator = np.random.default_rng(0)
    lower = generator.uniform(-0.5, 1.0, (40, dimension))
    upper = lower + generator.uniform(0.0, 0.6, (40, dimension)) ** 2
    # A box that only touches the domain, one beside it, and one that holds it.
    lower[:3], upper[:3] = -1.0, 2.0
    upper[0, 0], upper[1, 0] = 0.0, -1e-6
    low, high = cells.simplices.min(axis=1), cells.simplices.max(axis=1)
    boxes_meet = (lower[:, None] <= high).all(axis=2) & (upper[:, None] >= low).all(axis=2)
    meet = np.zeros_like(boxes_meet)
    for k in range(len(lower)):
        _, cut, whole = clip_to_box(cells.simplices, lower[k], upper[k])
        meet[k, cut] = meet[k, whole] = True
    box, cell = CellBins(cells).near(lower, upper)
    found = np.zeros_like(meet)
    found[box, cell] = True
    assert (found >= meet).all()
    assert (found <= boxes_meet).all()
    assert len(box) == found.sum()
    assert (np.diff(box) >= 0).all()
    assert [found[0].any(), found[1].any(), found[2].all()] == [True, False, True]


@pytest.mark.parametrize("dimension", [2, 3])
def test_outer_facets_are_those_of_the_box(dimension: int) -> None:
    cells = cells_from_arrays(*unstructured(dimension, 60))
    facets = np.stack([np.delete(cells.simplices, i, axis=1) for i in range(dimension + 1)], axis=1)
    on_side = [(facets[..., k] == side).all(axis=2) for k in range(dimension) for side in (0, 1)]
    np.testing.assert_array_equal(CellBins(cells).outer_facets, np.any(on_side, axis=0))


def test_a_rank_without_cells() -> None:
    others = np.array([0.5, 0.5, 1.0])
    nothing = Cells(OneOfSeveral(others), np.empty((0, 3, 2)), np.zeros(2), np.ones(2))
    bins = CellBins(nothing)
    assert bins.deposit_segments(SQUARE[:1], SQUARE[1:2], np.ones(1)).shape == (0,)
    found, depth = bins.locate(SQUARE)
    assert (found == -1).all()
    assert (depth == -np.inf).all()
    assert len(bins.near(SQUARE, SQUARE)[0]) == 0


def test_wrong_arrays_are_refused() -> None:
    bins = CellBins(cells_from_arrays(SQUARE, np.array([[0, 1, 2], [0, 2, 3]])))
    with pytest.raises(InputError, match="must agree"):
        bins.deposit_segments(SQUARE, SQUARE, np.ones(3))
    with pytest.raises(InputError, match=r"points: .*\(4, 3\)"):
        bins.locate(np.zeros((4, 3)))
    with pytest.raises(InputError, match=r"ends: .*not finite"):
        bins.deposit_segments(SQUARE, SQUARE * np.nan, np.ones(4))
