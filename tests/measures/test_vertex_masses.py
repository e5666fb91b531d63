"""What bounds for original densities ask of a measure: vertex masses, ranges, affine errors."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from congested.geometry import (
    Cells,
    barycentric_coordinates,
    cells_from_arrays,
    simplex_volumes,
    split_simplices,
)
from congested.measures.base import (
    Measure,
    OffersAffineError,
    OffersDensityRange,
    OffersVertexMasses,
    affine_error_bound,
)
from congested.measures.density import DensityMeasure
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.measures.radial import ball_simplex_moments
from congested.measures.ray_monotone import RayMonotonePair, RayMonotoneSource
from congested.measures.uniform import UniformBall, UniformBox
from congested.quadrature import integrate_over_simplices, simplex_rule

dimensions = pytest.mark.parametrize("dimension", [2, 3])


def mixture(dimension: int) -> GaussianMixture:
    factor = np.array([[0.2, 0.0, 0.0], [0.1, 0.15, 0.0], [-0.05, 0.1, 0.2]])
    covariance = (factor @ factor.T)[:dimension, :dimension]
    means = [[0.4] * dimension, [0.8] * dimension]
    return GaussianMixture(means, [covariance, 0.1 * covariance], [0.3, 0.7])


def box(dimension: int) -> UniformBox:
    return UniformBox([0.13, 0.2, 0.3][:dimension], [0.7, 0.51, 0.9][:dimension])


def ball(dimension: int, radius: float = 0.31) -> UniformBall:
    return UniformBall([0.513, 0.471, 0.538][:dimension], radius)


def points(dimension: int) -> Points:
    generator = np.random.default_rng(1)
    weights = generator.random(60)
    return Points(generator.random((60, dimension)), weights / weights.sum())


def density(dimension: int) -> DensityMeasure:
    lower, upper = np.full(dimension, 0.1), np.full(dimension, 0.85)
    volume = float(np.prod(upper - lower))
    middle = 0.5 * (lower[0] + upper[0])
    return DensityMeasure(lambda x: (1.0 + 2.0 * (x[:, 0] - middle)) / volume, lower, upper)


MEASURES = {"mixture": mixture, "box": box, "ball": ball, "points": points, "density": density}
# Fewer digits in 3D, which saves seconds.
TOLERANCE = {2: 1e-10, 3: 1e-7}


@dimensions
@pytest.mark.parametrize("name", MEASURES)
def test_vertex_masses_sum_to_the_cell_masses(box_cells, dimension, name):
    measure = MEASURES[name](dimension)
    cells = box_cells([0] * dimension, [1] * dimension, 4)
    assert isinstance(measure, OffersVertexMasses)
    tolerance = TOLERANCE[dimension]
    vertices = measure.vertex_masses(cells, tolerance)
    masses = measure.cell_masses(cells, tolerance)
    assert vertices.shape == (cells.number, dimension + 1)
    assert vertices.min() >= 0.0
    assert np.abs(vertices.sum(axis=1) - masses).sum() <= 2.0 * tolerance


@dimensions
@pytest.mark.parametrize("name", MEASURES)
def test_affine_functions_have_their_exact_integrals(box_cells, dimension, name):
    # On one mesh and on its refinement; ∫ u dμ of an affine u is that of the mean of μ.
    measure = MEASURES[name](dimension)
    cells = box_cells([0] * dimension, [1] * dimension, 2)
    mean = {
        "box": lambda: 0.5 * (measure.lower + measure.upper),
        "ball": lambda: measure.center,
        "points": lambda: measure.weights @ measure.points,
        "density": lambda: np.array([0.475 + 2.0 * 0.75**2 / 12] + [0.475] * (dimension - 1)),
    }.get(name)
    fine = Cells(MPI.COMM_SELF, split_simplices(cells.simplices), cells.lower, cells.upper)
    sums = [
        np.einsum("ni,nid->d", measure.vertex_masses(each, TOLERANCE[dimension]), each.simplices)
        for each in (cells, fine)
    ]
    np.testing.assert_allclose(sums[0], sums[1], atol=2.0 * TOLERANCE[dimension])
    if mean is not None:
        np.testing.assert_allclose(sums[0], mean(), atol=2.0 * TOLERANCE[dimension])


@dimensions
@pytest.mark.parametrize("name", ["box", "ball", "points", "density", "mixture"])
def test_vertex_masses_of_a_cell_are_those_of_its_parts(box_cells, dimension, name):
    # Not so if λ_i were that of the piece: the parts' coordinates are mixed into the cell's.
    measure = MEASURES[name](dimension)
    cells = box_cells([0] * dimension, [1] * dimension, 3)
    parts = Cells(MPI.COMM_SELF, split_simplices(cells.simplices), cells.lower, cells.upper)
    owner = np.repeat(np.arange(cells.number), 2**dimension)
    mixed = barycentric_coordinates(cells.simplices[owner], parts.simplices)
    together = np.zeros((cells.number, dimension + 1))
    tolerance = TOLERANCE[dimension]
    fine = measure.vertex_masses(parts, tolerance)
    np.add.at(together, owner, np.einsum("kc,kci->ki", fine, mixed))
    np.testing.assert_allclose(
        measure.vertex_masses(cells, tolerance), together, atol=2.0 * tolerance
    )


@dimensions
def test_vertex_masses_agree_with_adaptive_quadrature(box_cells, dimension):
    measure = mixture(dimension)
    cells = box_cells([0] * dimension, [1] * dimension, 3)
    found = measure.vertex_masses(cells)
    for cell in range(0, cells.number, {2: 1, 3: 29}[dimension]):
        simplex = cells.simplices[cell : cell + 1]
        exact = integrate_over_simplices(measure.density, simplex, 1e-11, vertices=simplex)[0]
        assert np.abs(found[cell] - exact).sum() <= 1e-9


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize("std", [1e-6, 0.01, 0.3])
def test_errors_of_mixtures_stay_below_the_tolerance(box_cells, tolerance, std):
    measure = GaussianMixture.from_stds([[0.37, 0.41]], std)
    cells = box_cells([0, 0], [1, 1], 5)
    exact = measure.vertex_masses(cells, 1e-14)
    error = np.abs(measure.vertex_masses(cells, tolerance) - exact).sum()
    assert error <= max(tolerance, 1e-13)
    # A rule of one degree less than for masses has to do: the bound is not far off.
    assert std < 0.1 or tolerance < 1e-10 or error > 1e-9 * tolerance


def test_vertices_of_quadrature_have_the_coordinates_of_the_cell(box_cells):
    cells = box_cells([0, 0], [1, 1], 2)

    def wave(x):
        return 1.0 + np.sin(25.0 * x[:, 0]) * np.cos(13.0 * x[:, 1])

    found = integrate_over_simplices(wave, cells.simplices, 1e-10, vertices=cells.simplices)
    pieces, owner = cells.simplices, np.arange(cells.number)
    for _ in range(3):
        pieces, owner = split_simplices(pieces), np.repeat(owner, 4)
    nodes, weights = simplex_rule(2, 12)
    x = np.matmul(nodes, pieces)
    values = wave(x.reshape(-1, 2)).reshape(len(pieces), -1)
    shares = barycentric_coordinates(cells.simplices[owner], x)
    parts = simplex_volumes(pieces)[:, None] * np.einsum("kq,q,kqi->ki", values, weights, shares)
    exact = np.zeros_like(found)
    np.add.at(exact, owner, parts)
    np.testing.assert_allclose(found, exact, atol=1e-10)


@dimensions
def test_rounding_where_a_ball_is_far_larger_than_the_cells(dimension):
    # Well-shaped cells across the sphere; the error grows with the ratio of the sizes.
    size = {2: 1e-3, 3: 1e-2}[dimension]
    generator = np.random.default_rng(2)
    directions = generator.normal(size=(300, 1, dimension))
    middle = directions / np.linalg.norm(directions, axis=2, keepdims=True)
    shape = np.concatenate([np.zeros((1, dimension)), np.eye(dimension)]) - 0.25
    simplices = middle + size * shape
    cells = cells_from_arrays(
        simplices.reshape(-1, dimension),
        np.arange(300 * (dimension + 1)).reshape(-1, dimension + 1),
    )
    measure = UniformBall(np.zeros(dimension), 1.0)
    found, masses = measure.vertex_masses(cells), measure.cell_masses(cells)
    parts = Cells(MPI.COMM_SELF, split_simplices(simplices), cells.lower, cells.upper)
    owner = np.repeat(np.arange(len(simplices)), 2**dimension)
    mixed = barycentric_coordinates(simplices[owner], parts.simplices)
    together = np.zeros_like(found)
    np.add.at(together, owner, np.einsum("kc,kci->ki", measure.vertex_masses(parts), mixed))
    assert np.count_nonzero((masses > 0.0) & (masses < masses.max())) > 100
    assert np.abs(found - together).max() < 1e-14 / size**0.5
    assert np.abs(found.sum(axis=1) - masses).max() < 1e-14


def test_moments_of_a_half_disc():
    # The part y > 0 of the unit disc about its centre: ∫ y = 2/3, ∫ x = 0.
    halves = np.array(
        [[[-9.0, 0.0], [9.0, 0.0], [0.0, 9.0]], [[-9.0, 0.0], [9.0, 0.0], [0.0, -9.0]]]
    )
    moments = ball_simplex_moments(halves, np.zeros(2), 1.0)
    np.testing.assert_allclose(moments, [[0.0, 2.0 / 3.0], [0.0, -2.0 / 3.0]], atol=1e-13)


def sampled(cells: Cells, measure: Measure, number: int = 300):
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.ones(cells.dimension + 1), size=number)
    x = np.einsum("qi,nid->nqd", shares, cells.simplices)
    values = measure.density(x.reshape(-1, cells.dimension)).reshape(cells.number, -1)
    return shares, values


@dimensions
@pytest.mark.parametrize("name", ["mixture", "box", "ball"])
@pytest.mark.parametrize("number", [1, 4])
def test_ranges_contain_the_density(box_cells, dimension, name, number):
    measure = MEASURES[name](dimension)
    cells = box_cells([0] * dimension, [1] * dimension, number)
    assert isinstance(measure, OffersDensityRange)
    lower, upper = measure.density_range(cells)
    _, values = sampled(cells, measure)
    assert (values >= lower[:, None] * (1 - 1e-12)).all()
    assert (values <= upper[:, None] * (1 + 1e-12)).all()
    masses = measure.cell_masses(cells)
    assert (masses >= lower * cells.volume - 1e-12).all()
    assert (masses <= upper * cells.volume + 1e-12).all()
    if name != "mixture":
        assert set(np.unique(upper - lower)) <= {0.0, upper.max()}
        # Cells that lie wholly inside or outside are known exactly.
        assert number == 1 or 0 < np.count_nonzero(upper > lower) < cells.number


def test_ranges_of_a_gaussian_are_sharp_to_first_order(box_cells):
    measure = GaussianMixture.from_stds([[0.4, 0.45]], 0.15)
    excess = []
    for number in (16, 32):
        cells = box_cells([0, 0], [1, 1], number)
        lower, upper = measure.density_range(cells)
        values = measure.density(cells.simplices.reshape(-1, 2)).reshape(-1, 3)
        width = values.max(axis=1) - values.min(axis=1)
        excess.append(float(((upper - lower) - width).sum() / width.sum()))
    # What the range has too much is of the order h², the range itself h.
    assert 0.0 <= excess[1] < 0.6 * excess[0] < 0.1


@dimensions
@pytest.mark.parametrize("number", [1, 3, 8])
def test_affine_errors_bound_the_distance_from_affine_functions(box_cells, dimension, number):
    measure = mixture(dimension)
    cells = box_cells([0] * dimension, [1] * dimension, number)
    bound = measure.affine_error(cells)
    lower, upper = measure.density_range(cells)
    assert (bound <= 0.5 * (upper - lower) * (1 + 1e-12)).all()
    nodes, weights = simplex_rule(dimension, 14)
    values = measure.density(np.matmul(nodes, cells.simplices).reshape(-1, dimension))
    values = values.reshape(cells.number, -1)
    # The best affine function in the root mean square, by the normal equations.
    normal = nodes.T @ (weights[:, None] * nodes)
    best = (values * weights) @ nodes @ np.linalg.inv(normal)
    distance = np.sqrt(((values - best @ nodes.T) ** 2) @ weights)
    assert (distance <= bound * (1 + 1e-9)).all()
    if number == 8:
        # Sharp where the cells resolve the wider component, and nothing else is there.
        plain = (cells.midpoint < 0.5).all(axis=1) & (upper > 0.1)
        assert (distance / bound)[plain].min() > 0.5
        assert np.median((distance / bound)[plain]) > 0.95


@dimensions
def test_affine_errors_of_a_gaussian_that_cells_hardly_resolve(box_cells, dimension):
    # From cells within a tenth of a standard deviation to cells of ten of them.
    cells = box_cells([0] * dimension, [1] * dimension, 2)
    nodes, weights = simplex_rule(dimension, 20)
    inverse = np.linalg.inv(nodes.T @ (weights[:, None] * nodes))
    ratios = []
    for std in (10.0, 3.0, 1.0, 0.5, 0.3, 0.2, 0.15):
        measure = GaussianMixture.from_stds([[0.4] * dimension], std)
        values = measure.density(np.matmul(nodes, cells.simplices).reshape(-1, dimension))
        values = values.reshape(cells.number, -1)
        best = (values * weights) @ nodes @ inverse
        distance = np.sqrt(((values - best @ nodes.T) ** 2) @ weights)
        bound = measure.affine_error(cells)
        assert (distance <= bound * (1 + 1e-9) + 1e-13).all()
        ratios.append(float((distance / bound).max()))
    assert min(ratios[:3]) > 0.99
    assert ratios[-1] < 0.99


@dimensions
@pytest.mark.parametrize("name", ["box", "ball"])
def test_affine_errors_of_shapes_are_exact(box_cells, dimension, name):
    measure = MEASURES[name](dimension)
    cells = box_cells([0] * dimension, [1] * dimension, 3)
    found = measure.affine_error(cells)
    lower, upper = measure.density_range(cells)
    assert (found[lower == upper] == 0.0).all()
    # Of the jump the fine points see some percent too much or too little.
    pieces = cells.simplices
    depth = {2: 5, 3: 3}[dimension]
    for _ in range(depth):
        pieces = split_simplices(pieces)
    owner = np.repeat(np.arange(cells.number), 2 ** (dimension * depth))
    x = pieces.mean(axis=1)
    values = measure.density(x)
    shares = barycentric_coordinates(cells.simplices[owner], x[:, None])[:, 0]
    for cell in np.flatnonzero(upper > lower)[:: {2: 1, 3: 7}[dimension]]:
        here = owner == cell
        best, *_ = np.linalg.lstsq(shares[here], values[here], rcond=None)
        distance = np.sqrt(np.mean((values[here] - shares[here] @ best) ** 2))
        assert found[cell] == pytest.approx(distance, abs=0.05 * upper.max())


def test_affine_errors_fall_with_the_square_of_the_size(box_cells):
    measure = GaussianMixture.from_stds([[0.4, 0.45]], 0.15)
    errors = [
        float((cells.volume * measure.affine_error(cells)).sum())
        for cells in (box_cells([0, 0], [1, 1], number) for number in (16, 32))
    ]
    assert np.log2(errors[0] / errors[1]) > 1.9


def test_half_the_range_stands_for_a_missing_affine_error(box_cells):
    cells = box_cells([0, 0], [1, 1], 4)

    class Ranged(UniformBall):
        affine_error = None

    measure = Ranged(np.array([0.5, 0.5]), 0.3)
    lower, upper = measure.density_range(cells)
    assert not isinstance(measure, OffersAffineError)
    np.testing.assert_array_equal(affine_error_bound(measure, cells), 0.5 * (upper - lower))
    assert isinstance(mixture(2), OffersAffineError)
    np.testing.assert_array_equal(
        affine_error_bound(mixture(2), cells), mixture(2).affine_error(cells)
    )
    assert affine_error_bound(points(2), cells) is None
    assert affine_error_bound(density(2), cells) is None


def test_what_a_measure_does_not_know_is_not_offered():
    source = RayMonotoneSource(RayMonotonePair(1.0, 2.0, [[0.1, 0.2]], [0.0]))
    assert not isinstance(source, OffersVertexMasses)
    assert not isinstance(source, OffersDensityRange)
    assert not isinstance(points(2), OffersDensityRange)


def test_points_at_vertices_and_on_facets(box_cells):
    cells = box_cells([0, 0], [1, 1], 2)
    measure = Points([[0.5, 0.5], [0.25, 0.25], [0.0, 1.0]], [0.5, 0.3, 0.2])
    masses = measure.vertex_masses(cells)
    # Whichever cell takes a point, its vertices get what they get: halves of the point on an edge.
    for vertex, expected in (((0.5, 0.5), 0.65), ((0.0, 1.0), 0.2), ((0.0, 0.0), 0.15)):
        here = np.abs(cells.simplices - vertex).max(axis=2) < 1e-12
        assert masses[here].sum() == pytest.approx(expected, abs=1e-12)
