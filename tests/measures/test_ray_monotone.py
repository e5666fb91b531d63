"""Ray-monotone pairs: geometry, exact masses, and the published distance."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import qmc

from congested.geometry import split_simplices
from congested.measures.points import Points
from congested.measures.ray_monotone import RayMonotonePair, RayMonotoneSource
from congested.quadrature import integrate_over_simplices

PROBLEM = Path(__file__).parents[2] / "scripts" / "problems" / "ray_monotone_d2_n4.toml"


@pytest.fixture(scope="module")
def published() -> RayMonotonePair:
    """Return the published pair, from the numbers in the problem file."""
    with PROBLEM.open("rb") as file:
        table = tomllib.load(file)["source"]["pair"]
    return RayMonotonePair(**table)


@pytest.fixture(scope="module")
def solid() -> RayMonotonePair:
    """Return a pair in 3D."""
    centers = np.random.default_rng(3).uniform(-0.8, 0.8, (3, 3))
    return RayMonotonePair(1.0, 8, centers, [0.0, 0.02, -0.03])


def box_points(pair, number=2**14):
    """Return evenly spread points of the pair's box."""
    uniforms = qmc.Sobol(pair.dimension, seed=0).random(number)
    return pair.half_width * (2 * uniforms - 1)


def test_published_distance_to_all_published_digits(published):
    assert published.wasserstein1() == pytest.approx(0.82134, abs=5e-6)
    assert published.wasserstein1() == pytest.approx(0.821342400982924, abs=1e-12)


@pytest.mark.parametrize("name", ["published", "solid"])
def test_distance_equals_primal_and_dual_averages(name, request):
    pair = request.getfixturevalue(name)
    points = box_points(pair, 2**17)
    image = pair.transport(points)
    primal = np.linalg.norm(points - image, axis=1).mean()
    dual = pair.potential(image).mean() - pair.potential(points).mean()
    # Each point moves along its ray by exactly the difference of the potential.
    assert primal == pytest.approx(dual, abs=1e-13)
    assert pair.wasserstein1(1e-9) == pytest.approx(primal, rel=2e-4)


def test_distance_in_3d_equals_an_average_over_directions(solid):
    # W₁ = Σ_n ∫ ρ₀ R⁴ (1/4 − 1/(3 + p)) dv, with directions on a spiral that fills the sphere.
    number = 200_000
    index = np.arange(number) + 0.5
    height, angle = 1 - 2 * index / number, np.pi * (1 + np.sqrt(5)) * index
    side = np.sqrt(1 - height**2)
    directions = np.stack([side * np.cos(angle), side * np.sin(angle), height], axis=1)
    mean = sum((1 / solid.funnels.inverse_radius(n, directions) ** 4).mean() for n in range(3))
    expected = 4 * np.pi * mean / 8 * (1 / 4 - 1 / 11)
    assert solid.wasserstein1(1e-9) == pytest.approx(expected, abs=2e-6)


def test_distance_of_one_funnel_in_closed_form():
    # Points of the box's faces at distance c from a central tip: by symmetry
    # W₁ = E|x| (1 − 3/(2+p)) in 2D, as |x| is uniform^(1/2) of R and T shortens it to t^p R.
    pair = RayMonotonePair(1.0, 8, [[0.0, 0.0]], [0.0])
    mean_radius = (np.sqrt(2) + np.arcsinh(1)) / 3
    assert pair.wasserstein1() == pytest.approx(mean_radius * (1 - 3 / 10), rel=1e-12)


def test_power_one_moves_nothing(published):
    pair = RayMonotonePair(2.5, 1.0, published.centers, published.biases)
    points = box_points(pair, 256)
    np.testing.assert_allclose(pair.transport(points), points, atol=1e-14)
    assert pair.wasserstein1() == 0.0


@pytest.mark.parametrize("name", ["published", "solid"])
def test_rays_end_at_the_box_or_at_another_funnel(name, request):
    pair = request.getfixturevalue(name)
    points = box_points(pair, 2**12)
    chosen, distance, direction, inverse = pair.funnels.rays(points)
    tips = pair.funnels.centers[chosen]
    assert (distance * inverse <= 1 + 1e-12).all()
    ends = tips + direction / inverse[:, None]
    at_box = np.abs(np.abs(ends).max(axis=1) - pair.half_width) < 1e-9
    values = np.linalg.norm(ends[:, None] - pair.centers, axis=2) + pair.biases
    values.sort(axis=1)
    tied = np.abs(values[:, 1] - values[:, 0]) < 1e-9
    assert (at_box | tied).all()
    assert at_box.any() and tied.any()


@pytest.mark.parametrize("name", ["published", "solid"])
def test_gradient_is_that_of_the_potential(name, request):
    pair = request.getfixturevalue(name)
    points = 0.99 * box_points(pair, 512)
    gradient, step = pair.gradient(points), 1e-6
    np.testing.assert_allclose(np.linalg.norm(gradient, axis=1), 1.0, atol=1e-14)
    for axis in range(pair.dimension):
        shift = step * np.eye(pair.dimension)[axis]
        slope = (pair.potential(points + shift) - pair.potential(points - shift)) / (2 * step)
        close = np.abs(slope - gradient[:, axis]) < 1e-4
        assert close.mean() > 0.99  # the others lie within the step of a ridge or a tip
    np.testing.assert_array_equal(pair.gradient(pair.centers), 0.0)


@pytest.mark.parametrize("number", [1, 2, 7, 40])
def test_masses_sum_to_one_in_2d(published, box_cells, number):
    source = RayMonotoneSource(published)
    for lower, upper in (([-2.5, -2.5], [2.5, 2.5]), ([-3.0, -2.6], [2.7, 4.0])):
        masses = source.cell_masses(box_cells(lower, upper, number))
        assert masses.min() >= 0
        assert masses.sum() == pytest.approx(1.0, abs=1e-12)


def test_masses_sum_to_one_with_tips_on_vertices_edges_and_nearly_so(box_cells):
    # The tips hold 1e-4 of the mass within 1e-16 of them, so rounding matters here.
    cells = box_cells([-1, -1], [1, 1], 10)
    tips = [[0.2, 0.4], [0.3, -0.4], [0.1 * 3 - 1e-16, -0.1 * 7], [-0.5, -0.5], [-0.6 + 1e-15, 0.6]]
    for count in range(1, 6):
        pair = RayMonotonePair(1.0, 8, tips[:count], [0.0] * count)
        masses = pair.source_masses(cells.simplices)
        assert masses.sum() == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("dimension", [2, 3])
def test_boxes_round_a_central_tip_have_their_exact_mass(box_cells, dimension):
    # Mass grows like the power d/p of the distance on each ray, hence in similar boxes, too.
    pair = RayMonotonePair(1.0, 8, [[0.0] * dimension], [0.0])
    cells = box_cells([-1] * dimension, [1] * dimension, 8)
    masses = pair.source_masses(cells.simplices, 1e-6)
    for half_width in (0.25, 0.5, 0.75):
        inside = (np.abs(cells.midpoint) < half_width).all(axis=1)
        exact = half_width ** (dimension / 8)
        assert masses[inside].sum() == pytest.approx(exact, abs=1e-12 if dimension == 2 else 1e-6)


def test_masses_add_up_under_refinement(published, box_cells):
    simplices = box_cells([-2.5, -2.5], [2.5, 2.5], 9).simplices
    coarse = published.source_masses(simplices)
    fine = published.source_masses(split_simplices(simplices))
    assert np.abs(fine.reshape(len(coarse), -1).sum(axis=1) - coarse).sum() <= 1e-11


def test_masses_are_integrals_of_the_density(published, box_cells):
    cells = box_cells([-2.5, -2.5], [2.5, 2.5], 12)
    masses = published.source_masses(cells.simplices)
    values = np.linalg.norm(cells.midpoint[:, None] - published.centers, axis=2)
    # Away from the tips' peaks; kinks and the borders between funnels are included.
    chosen = np.flatnonzero(values.min(axis=1) > 2 * cells.diameter.max())[:40]
    adaptive = integrate_over_simplices(published.source_density, cells.simplices[chosen], 1e-4)
    assert np.abs(adaptive - masses[chosen]).sum() <= 1e-4


@pytest.mark.parametrize("name", ["published", "solid"])
def test_masses_are_frequencies_of_the_samples(name, request, box_cells):
    source = RayMonotoneSource(request.getfixturevalue(name))
    lower, upper = source.bounds()
    cells = box_cells(list(lower), list(upper), {2: 6, 3: 2}[source.dimension])
    masses = source.cell_masses(cells, 1e-5)
    assert masses.sum() == pytest.approx(1.0, abs=1e-6)
    samples = source.sample(qmc.Sobol(source.sample_dimension, seed=1).random(2**16))
    frequencies = Points(np.clip(samples, lower, upper)).cell_masses(cells)
    np.testing.assert_allclose(frequencies, masses, atol=5e-4)


def test_covered_tips_and_twins_have_no_funnel(box_cells):
    one = RayMonotonePair(1.0, 4, [[0.1, 0.2]], [0.0])
    many = RayMonotonePair(
        1.0, 4, [[0.3, 0.2], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2]], [0.2, 0.0, 0.0, 0.5]
    )
    assert len(many.funnels.centers) == 1
    assert many.wasserstein1() == pytest.approx(one.wasserstein1(), rel=1e-14)
    cells = box_cells([-1, -1], [1, 1], 3)
    np.testing.assert_array_equal(
        many.source_masses(cells.simplices), one.source_masses(cells.simplices)
    )
    # With no bias left, the second tip covers a part of its own.
    two = RayMonotonePair(1.0, 4, [[0.3, 0.2], [0.1, 0.2]], [0.1999, 0.0])
    assert len(two.funnels.centers) == 2
    assert two.source_masses(cells.simplices).sum() == pytest.approx(1.0, abs=1e-12)


def test_many_funnels(box_cells):
    centers = np.random.default_rng(0).uniform(-1, 1, (64, 2))
    pair = RayMonotonePair(1.0, 8, centers, np.random.default_rng(1).uniform(-0.02, 0.02, 64))
    masses = pair.source_masses(box_cells([-1, -1], [1, 1], 6).simplices)
    assert masses.sum() == pytest.approx(1.0, abs=1e-11)
    points = box_points(pair, 2**14)
    primal = np.linalg.norm(points - pair.transport(points), axis=1).mean()
    assert pair.wasserstein1() == pytest.approx(primal, rel=1e-3)


def test_tips_have_infinite_density_and_the_outside_none(published):
    assert np.isinf(published.source_density(published.centers)).all()
    np.testing.assert_array_equal(published.source_density(np.array([[2.6, 0.0]])), 0.0)
    np.testing.assert_allclose(published.transport(published.centers), published.centers)
