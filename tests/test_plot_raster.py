"""Meshes on pixels: the right cell, exact interpolation, and no mass lost in averaging."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import Delaunay

from congested.geometry import FloatArray, IntArray, simplex_volumes
from congested.plot_raster import make_raster, vertex_means


def crossed_square(size: int, *, hole: bool = False) -> tuple[FloatArray, IntArray, FloatArray]:
    """Cut the unit square into size² squares of four triangles; the hole is its middle third."""
    steps = np.arange(size + 1) / size
    corners = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    first = (y * (size + 1) + x).reshape(-1)
    ring = np.stack([first, first + 1, first + size + 2, first + size + 1], axis=1)
    middle = len(corners) + np.arange(len(first))
    vertices = np.concatenate([corners, corners[ring].mean(axis=1)])
    cells = np.stack(
        [np.stack([ring[:, k], ring[:, (k + 1) % 4], middle], axis=1) for k in range(4)], axis=1
    ).reshape(-1, 3)
    if hole:
        distance = np.abs(vertices[cells].mean(axis=1) - 0.5).max(axis=1)
        cells = cells[distance > 1 / 6]
        used, cells = np.unique(cells, return_inverse=True)
        vertices, cells = vertices[used], cells.reshape(-1, 3)
    return vertices, cells, simplex_volumes(vertices[cells])


def test_every_pixel_finds_its_cell() -> None:
    points = np.random.default_rng(3).random((60, 2)) * [2.0, 1.0] + [5.0, -3.0]
    search = Delaunay(points)
    cells = search.simplices.astype(np.int64)
    raster = make_raster(points, cells, simplex_volumes(points[cells]), 83, averaged=False)
    grid = np.stack(np.meshgrid(raster.x, raster.y), axis=-1)
    np.testing.assert_array_equal(raster.cell, search.find_simplex(grid))
    assert raster.cell.max() == len(cells) - 1
    assert (raster.cell < 0).any()
    # Square pixels that cover the bounding box.
    left, right, bottom, top = raster.extent
    assert right - left == pytest.approx(np.ptp(points[:, 0]), rel=1e-12)
    assert (right - left) / len(raster.x) == pytest.approx((top - bottom) / len(raster.y))
    assert bottom == pytest.approx(points[:, 1].min())
    assert top >= points[:, 1].max() - 1e-12


def test_linear_functions_are_interpolated_exactly() -> None:
    vertices, cells, volume = crossed_square(6, hole=True)
    raster = make_raster(vertices, cells, volume, 50, averaged=False)
    values = np.stack([1.0 + vertices @ [2.0, -3.0], vertices @ [0.0, 1.0]], axis=1)
    image = raster.linear(values)
    x, y = np.meshgrid(raster.x, raster.y)
    inside = raster.inside
    np.testing.assert_allclose(image[inside, 0], (1.0 + 2.0 * x - 3.0 * y)[inside], atol=1e-13)
    np.testing.assert_allclose(image[inside, 1], y[inside], atol=1e-13)
    # The hole, a third of each side, is empty: and nothing else is.
    hole = (np.abs(x - 0.5) < 1 / 6) & (np.abs(y - 0.5) < 1 / 6)
    np.testing.assert_array_equal(inside, ~hole)
    assert np.isnan(image[hole]).all()


def test_coarse_cells_are_shown_flat() -> None:
    vertices, cells, volume = crossed_square(2)
    raster = make_raster(vertices, cells, volume, 40)
    image = raster.cellwise(np.arange(16.0))
    np.testing.assert_array_equal(image, raster.cell)
    assert set(np.unique(image)) == set(range(16))


def test_means_over_small_cells_keep_the_mass() -> None:
    vertices, cells, volume = crossed_square(40)
    raster = make_raster(vertices, cells, volume, 10)
    density = np.random.default_rng(1).random(len(cells))
    image = raster.cellwise(density)
    assert image.shape == (10, 10)
    # 16 squares to a pixel: the mean over its cells is the mass in it over its area.
    assert image.sum() * 0.1**2 == pytest.approx(density @ volume, rel=1e-12)
    # A single cell full of mass is seen, wherever the pixels' centres lie.
    spike = np.zeros(len(cells))
    spike[777] = 1.0 / volume[777]
    assert raster.cellwise(spike).sum() * 0.1**2 == pytest.approx(1.0, rel=1e-12)


def test_many_candidates_go_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, cells, volume = crossed_square(5, hole=False)
    whole = make_raster(vertices, cells, volume, 64)
    monkeypatch.setattr("congested.plot_raster._CHUNK", 17)
    pieces = make_raster(vertices, cells, volume, 64)
    np.testing.assert_array_equal(whole.cell, pieces.cell)
    np.testing.assert_array_equal(whole.barycentric, pieces.barycentric)


def test_vertex_means() -> None:
    vertices, cells, volume = crossed_square(4)
    constant = vertex_means(cells, volume, np.full((len(cells), 2), [3.0, -1.0]))
    np.testing.assert_allclose(constant, np.tile([3.0, -1.0], (len(vertices), 1)), rtol=1e-14)
    # Two cells of area 1/2 and 3/2 that share vertices 0 and 2.
    cells = np.array([[0, 1, 2], [0, 2, 3]])
    means = vertex_means(cells, np.array([0.5, 1.5]), np.array([1.0, 5.0]))
    np.testing.assert_allclose(means, [4.0, 1.0, 4.0, 5.0], rtol=1e-14)
