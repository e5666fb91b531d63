"""Images: exact masses by hand, against uniform boxes, under refinement, and on any grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial import Delaunay
from scipy.stats import qmc

from congested.errors import InputError
from congested.geometry import Cells, cells_from_arrays, simplex_volumes, split_simplices
from congested.measures.base import restricted_masses
from congested.measures.image import Image
from congested.measures.uniform import UniformBox

LOWER, UPPER = np.array([-0.3, 0.1, 0.2]), np.array([0.9, 0.8, 1.1])


def random_image(shape: tuple[int, ...], zeros: float = 0.3) -> Image:
    """Return an image with random values, some of them zero, in an oblong box."""
    generator = np.random.default_rng(0)
    values = generator.random(shape) * (generator.random(shape) > zeros)
    return Image(values, LOWER[: len(shape)], UPPER[: len(shape)])


def scattered_cells(dimension: int, number: int, seed: int = 0) -> Cells:
    """Return a Delaunay mesh of the box [LOWER, UPPER] with random points inside."""
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=dimension)))
    inner = np.random.default_rng(seed).random((number, dimension))
    points = np.concatenate([corners, inner])
    points = LOWER[:dimension] + points * (UPPER - LOWER)[:dimension]
    cells = Delaunay(points).simplices
    return cells_from_arrays(points, cells[simplex_volumes(points[cells]) > 1e-13])


def summed_boxes(image: Image, cells: Cells) -> np.ndarray:
    """Return the cell masses as a sum over the pixels as uniform boxes."""
    size = (image.upper - image.lower) / image.values.shape
    total = np.zeros(cells.number)
    for index in np.ndindex(image.values.shape):
        low = image.lower + np.array(index) * size
        total += image.values[index] * UniformBox(low, low + size).cell_masses(cells)
    return total / image.values.sum()


def children_of(cells: Cells) -> Cells:
    """Return the red refinement of cells."""
    return Cells(cells.comm, split_simplices(cells.simplices), cells.lower, cells.upper)


# --- masses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 3), (1, 1, 1), (4, 7, 5)])
def test_a_constant_image_is_a_uniform_box(shape):
    dimension = len(shape)
    image = Image(np.full(shape, 3.0), LOWER[:dimension], UPPER[:dimension])
    box = UniformBox(LOWER[:dimension], UPPER[:dimension])
    cells = scattered_cells(dimension, 60)
    np.testing.assert_allclose(image.cell_masses(cells), box.cell_masses(cells), rtol=0, atol=1e-15)
    # A mesh that the box cuts through.
    wider = Cells(cells.comm, 1.7 * cells.simplices - 0.4, cells.lower, cells.upper)
    masses = box.cell_masses(wider)
    assert 0 < np.count_nonzero(masses == 0.0) < wider.number
    np.testing.assert_allclose(image.cell_masses(wider), masses, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("shape", "number"),
    [((6, 9), 3), ((6, 9), 200), ((40, 3), 30), ((3, 4, 5), 2), ((3, 4, 5), 60), ((1, 8, 2), 20)],
)
def test_masses_are_those_of_the_pixels_as_boxes(shape, number):
    image = random_image(shape)
    cells = scattered_cells(len(shape), number)
    masses = image.cell_masses(cells)
    np.testing.assert_allclose(masses, summed_boxes(image, cells), rtol=0, atol=2e-15)
    assert masses.min() >= 0.0
    assert masses.sum() == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("dimension", [2, 3])
def test_by_hand_a_triangle_in_the_corner_of_four_pixels(dimension):
    # Pixels of side 1 with the values 1, 2, … ; the unit corner scaled by 3/2 reaches half a pixel
    # into the second ones: what lies beyond x₁ = 1 is the corner scaled by 1/2.
    shape = (2,) * dimension
    values = np.arange(1.0, 1.0 + 2**dimension).reshape(shape)
    image = Image(values, np.zeros(dimension), np.full(dimension, 2.0))
    corner = np.concatenate([np.zeros((1, dimension)), 1.5 * np.eye(dimension)])
    cells = cells_from_arrays(corner, np.arange(dimension + 1)[None])
    unit = 1.0 / (2.0 if dimension == 2 else 6.0)
    beyond = unit * 0.5**dimension
    neighbours = [values[tuple(index)] for index in np.eye(dimension, dtype=int)]
    exact = values.flat[0] * (unit * 1.5**dimension - dimension * beyond) + sum(neighbours) * beyond
    assert image.cell_masses(cells)[0] == pytest.approx(exact / values.sum(), rel=1e-15)


@pytest.mark.parametrize("noise", [0.0, 4e-16])
@pytest.mark.parametrize("dimension", [2, 3])
def test_sides_of_pixels_that_are_facets_of_cells(box_cells, dimension, noise):
    # Twelve cells a side of the mesh, four or twelve pixels: every cell lies in one pixel, with its
    # facets on the sides of it but for rounding.
    lower, upper = 0.1, 0.8
    exact = box_cells([lower] * dimension, [upper] * dimension, 12)
    shifts = np.random.default_rng(0).uniform(-noise, noise, exact.simplices.shape)
    cells = Cells(exact.comm, exact.simplices + shifts, exact.lower, exact.upper)
    for pixels in (4, 12):
        values = np.random.default_rng(pixels).random((pixels,) * dimension)
        image = Image(values, np.full(dimension, lower), np.full(dimension, upper))
        index = tuple(((cells.midpoint - lower) * pixels / (upper - lower)).astype(int).T)
        density = values[index] * (pixels / (upper - lower)) ** dimension / values.sum()
        masses = image.cell_masses(cells)
        np.testing.assert_allclose(masses, density * cells.volume, rtol=1e-13, atol=2e-16)
        least, greatest = image.density_range(cells)
        np.testing.assert_allclose(least, density, rtol=1e-13)
        np.testing.assert_array_equal(least, greatest)


@pytest.mark.parametrize("shape", [(33, 20), (9, 6, 11)])
def test_masses_add_up_under_refinement(shape):
    image = random_image(shape)
    cells = scattered_cells(len(shape), 40)
    children = children_of(cells)
    fine = image.cell_masses(children).reshape(cells.number, -1)
    np.testing.assert_allclose(image.cell_masses(cells), fine.sum(axis=1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_grid_far_from_the_origin_loses_no_digits(dimension):
    # All coordinates, and so the sides of the pixels, are multiples of 2^-24: the shift is exact.
    shape = (8, 16, 4)[:dimension]
    values = np.random.default_rng(0).random(shape)
    lower, upper = np.full(dimension, 0.125), np.full(dimension, 0.75)
    cells = scattered_cells(dimension, 50)
    simplices = np.round(cells.simplices * 2.0**24) / 2.0**24
    near = Cells(cells.comm, simplices, cells.lower, cells.upper)
    far = Cells(cells.comm, simplices + 2.0**20, cells.lower + 2.0**20, cells.upper + 2.0**20)
    first = Image(values, lower, upper).vertex_masses(near)
    second = Image(values, lower + 2.0**20, upper + 2.0**20).vertex_masses(far)
    np.testing.assert_allclose(second, first, rtol=0, atol=1e-15)


def test_part_of_the_image_outside_the_domain_is_left_out(box_cells):
    values = np.zeros((4, 4))
    values[1, 1], values[3, 0] = 995.0, 5.0
    image = Image(values, [0.0, 0.0], [4.0, 4.0])
    restricted = restricted_masses(image, box_cells([0.0, 0.0], [3.0, 3.0], 6), "source")
    assert restricted.outside == pytest.approx(0.005, abs=1e-15)
    with pytest.raises(InputError, match="source: found 100 % of the mass outside"):
        restricted_masses(image, box_cells([5.0, 5.0], [6.0, 6.0], 2), "source")


# --- vertex masses and range -----------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 9), (3, 4, 5)])
def test_vertex_masses_integrate_affine_functions(shape):
    # Σ_i (a·x_i) ∫ λ_i dμ is the integral of a·x, which each pixel's moments give without cells.
    image = random_image(shape)
    cells = scattered_cells(len(shape), 40)
    masses = image.vertex_masses(cells)
    assert masses.shape == (cells.number, cells.dimension + 1)
    np.testing.assert_array_equal(masses.sum(axis=1), image.cell_masses(cells))
    size = (image.upper - image.lower) / shape
    centres = image.lower + (np.argwhere(np.ones(shape)) + 0.5) * size
    exact = image.values.ravel() @ centres / image.values.sum()
    moment = np.einsum("ni,nid->d", masses, cells.simplices)
    np.testing.assert_allclose(moment, exact, rtol=1e-13)


@pytest.mark.parametrize("shape", [(11, 7), (3, 5, 4)])
def test_vertex_masses_add_up_under_refinement(shape):
    # A child's λ at the parent's vertices: the midpoints' values are means of two corners'.
    image = random_image(shape)
    cells = scattered_cells(len(shape), 20)
    children = children_of(cells)
    corners = cells.dimension + 1
    reference = split_simplices(np.eye(corners)[None, :, 1:])
    coordinates = np.concatenate([1.0 - reference.sum(axis=2, keepdims=True), reference], axis=2)
    fine = image.vertex_masses(children).reshape(cells.number, -1, corners)
    summed = np.einsum("nci,cik->nk", fine, coordinates)
    np.testing.assert_allclose(image.vertex_masses(cells), summed, rtol=0, atol=1e-15)


@pytest.mark.parametrize("shape", [(6, 9), (5, 3, 4)])
def test_range_is_that_of_the_pixels_that_a_cell_overlaps(shape):
    image = random_image(shape, zeros=0.05)
    dimension = len(shape)
    whole = scattered_cells(dimension, 25)
    # Some cells inside the grid, some across its sides, some outside.
    cells = Cells(whole.comm, 1.3 * whole.simplices - 0.3, whole.lower - 0.3, whole.upper + 0.3)
    least, greatest = np.full(cells.number, np.inf), np.zeros(cells.number)
    covered = np.zeros(cells.number)
    size = (image.upper - image.lower) / shape
    scale = 1.0 / (image.values.sum() * np.prod(size))
    for index in np.ndindex(shape):
        low = image.lower + np.array(index) * size
        part = UniformBox(low, low + size).cell_masses(cells) * np.prod(size)
        met = part > 1e-13
        covered += part
        least[met] = np.minimum(least[met], scale * image.values[index])
        greatest[met] = np.maximum(greatest[met], scale * image.values[index])
    least[covered < cells.volume - 1e-13] = 0.0
    found_least, found_greatest = image.density_range(cells)
    assert np.count_nonzero(least) > 3
    np.testing.assert_allclose(found_least, least, rtol=1e-14)
    np.testing.assert_allclose(found_greatest, greatest, rtol=1e-14)


def test_a_cell_that_reaches_a_little_across_the_side_of_the_grid():
    image = Image(np.ones((2, 2)), [0.0, 0.0], [1.0, 1.0])
    for beyond, expected in ((1e-12, 0.0), (0.0, 1.0), (-1e-12, 1.0)):
        points = np.array([[0.2, 0.2], [1.0 + beyond, 0.3], [0.4, 0.8]])
        cells = cells_from_arrays(points, np.array([[0, 1, 2]]))
        least, greatest = image.density_range(cells)
        assert (least[0], greatest[0]) == (expected, 1.0)


# --- density, samples, bounds ----------------------------------------------------------------


def test_density_is_that_of_the_pixel_and_zero_outside():
    image = Image([[1, 2, 3], [0, 5, 7]], [0.0, 0.0], [4.0, 3.0])
    points = np.array([[0.5, 0.5], [1.0, 2.5], [3.0, 1.2], [4.0, 3.0], [4.1, 1.0], [2.0, -1e-9]])
    np.testing.assert_allclose(image.density(points), np.array([1, 3, 5, 7, 0, 0]) / 36.0)


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 2)])
def test_samples_have_the_moments_and_masses_of_the_image(shape):
    image = random_image(shape)
    dimension = len(shape)
    samples = image.sample(qmc.Sobol(image.sample_dimension, seed=0).random(2**14))
    size = (image.upper - image.lower) / shape
    centres = image.lower + (np.argwhere(np.ones(shape)) + 0.5) * size
    mean = image.values.ravel() @ centres / image.values.sum()
    # Independent samples would have a standard error of about 0.3/√16384 = 2.5e-3.
    np.testing.assert_allclose(samples.mean(axis=0), mean, rtol=0, atol=4e-4)
    counts, _ = np.histogramdd(samples, [*image._sides])
    np.testing.assert_allclose(counts / 2**14, image.values / image.values.sum(), atol=2e-4)
    assert (image.density(samples) > 0.0).all()
    lower, upper = image.bounds()
    assert (samples >= lower).all() and (samples <= upper).all()
    assert image.sample_dimension == dimension + 1


def test_the_place_in_a_pixel_is_uniform():
    image = Image([[0, 1], [0, 0]], [0.0, 0.0], [2.0, 4.0])
    uniforms = np.random.default_rng(0).random((100, 3))
    np.testing.assert_allclose(image.sample(uniforms), [0, 2] + uniforms[:, 1:] * [1, 2])


def test_neighbouring_numbers_choose_neighbouring_pixels():
    image = Image(np.ones((16, 16)), [0.0, 0.0], [16.0, 16.0])
    uniforms = np.full((256, 3), 0.5)
    uniforms[:, 0] = (np.arange(256) + 0.5) / 256
    steps = np.abs(np.diff(image.sample(uniforms), axis=0)).sum(axis=1)
    np.testing.assert_array_equal(steps, 1.0)


def test_bounds_hold_the_pixels_with_mass():
    values = np.zeros((4, 5, 6))
    values[1, 2, 3] = values[2, 2, 5] = 1.0
    lower, upper = Image(values, [0, 0, 0], [4, 5, 6]).bounds()
    np.testing.assert_array_equal(lower, [1, 2, 3])
    np.testing.assert_array_equal(upper, [3, 3, 6])


def test_integers_and_booleans_are_numbers():
    flags = np.array([[True, False], [True, True]])
    cells = cells_from_arrays(np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]]), [[0, 1, 2], [0, 2, 3]])
    expected = Image(flags.astype(float), [0, 0], [1, 1]).cell_masses(cells)
    for values in (flags, flags.astype(np.uint8) * 255):
        np.testing.assert_array_equal(Image(values, [0, 0], [1, 1]).cell_masses(cells), expected)


def test_huge_values_do_not_overflow():
    image = Image([[1e308, 1e308], [1e308, 0.5e308]], [0.0, 0.0], [1.0, 1.0])
    np.testing.assert_allclose(image.density(np.array([[0.1, 0.1], [0.9, 0.9]])), [8 / 7, 4 / 7])


@pytest.mark.parametrize(
    ("values", "lower", "upper", "message"),
    [
        ([1.0, 2.0], [0, 0], [1, 1], r"values: found an array of shape \(2,\); allowed: numbers"),
        (np.ones((0, 3)), [0, 0], [1, 1], r"values: found an array of shape \(0, 3\)"),
        (np.ones((1, 1, 1, 1)), [0, 0], [1, 1], r"values: found an array of shape \(1, 1, 1, 1\)"),
        ([[1.0, -2.0]], [0, 0], [1, 1], r"values: found -2 at \[0, 1\]; allowed: numbers >= 0"),
        ([[1.0, np.nan]], [0, 0], [1, 1], "values: found a number that is not finite"),
        ([[1.0, np.inf]], [0, 0], [1, 1], "values: found a number that is not finite"),
        ([[0.0, 0.0]], [0, 0], [1, 1], "values: found only zeros"),
        ([["1", "2"]], [0, 0], [1, 1], "values: found .*; allowed: numbers >= 0"),
        ([[1j, 2.0]], [0, 0], [1, 1], "values: found .*; allowed: numbers >= 0"),
        ([[1.0]], [0, 0, 0], [1, 1, 1], r"lower: found an array of shape \(3,\); allowed: 2 num"),
        ([[1.0]], [0, 0], [1, 0], r"upper: found \[1.0, 0.0\]; allowed: larger than lower"),
        ([[[1.0]]], [0, 0], [1, 1], r"lower: found an array of shape \(2,\); allowed: 3 numbers"),
    ],
)
def test_mistakes_are_named(values, lower, upper, message):
    with pytest.raises(InputError, match=message):
        Image(values, lower, upper)
