"""Ray-monotone pairs in any dimension: closed forms, samples, random pairs."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from congested.errors import InputError
from congested.measures.ray_monotone import RayMonotonePair, RayMonotoneSource

DIMENSIONS = [2, 3, 16, 128]


def random_points(pair, number, seed=0):
    """Return independent samples of the pair's target."""
    uniforms = np.random.default_rng(seed).random((number, pair.dimension))
    return pair.sample_target(uniforms)


@pytest.fixture(scope="module", params=DIMENSIONS)
def pair(request):
    """Return a random pair in each dimension."""
    return RayMonotonePair.random(request.param, min(4 * request.param, 64), seed=7)


@pytest.mark.parametrize(("dimension", "number"), [(2, 4), (2, 256), (3, 64), (128, 256)])
def test_random_pairs_have_no_empty_funnel(dimension, number):
    pair = RayMonotonePair.random(dimension, number, seed=11)
    assert (pair.half_width, pair.power) == (2.5, 8.0)
    assert pair.centers.shape == (number, dimension)
    assert len(pair.funnels.centers) == number
    assert np.abs(pair.centers).max() < 2.5
    assert 0.0 < pair.biases.std() < 0.2
    again = RayMonotonePair.random(dimension, number, seed=11)
    np.testing.assert_array_equal(again.centers, pair.centers)
    other = RayMonotonePair.random(dimension, number, seed=12)
    assert (other.centers != pair.centers).all()


def test_samples_with_the_seed_of_a_random_pair_do_not_meet_its_tips():
    pair = RayMonotonePair.random(16, 8, seed=5)
    rays = pair.funnels.rays(random_points(pair, 1000, seed=5))
    assert rays.distance.min() > 1.0


def test_distance_is_the_mean_of_ten_million_samples_in_the_plane():
    pair = RayMonotonePair.random(2, 4, seed=1)
    uniforms = np.random.default_rng(0)
    total = square = 0.0
    for _ in range(10):
        points = pair.sample_target(uniforms.random((10**6, 2)))
        moved = np.linalg.norm(points - pair.transport(points), axis=1)
        total, square = total + moved.sum(), square + moved @ moved
    mean = total / 10**7
    error = math.sqrt((square / 10**7 - mean**2) / 10**7)
    assert error < 2e-4
    assert abs(mean - pair.wasserstein1()) < 3.5 * error
    assert abs(pair.wasserstein1_estimate().value - pair.wasserstein1()) < 2e-5


@pytest.mark.parametrize(
    ("dimension", "number", "samples"), [(3, 4, 10**6), (16, 32, 10**6), (128, 32, 10**5)]
)
def test_distance_is_the_mean_of_samples(dimension, number, samples):
    pair = RayMonotonePair.random(dimension, number, seed=2)
    points = random_points(pair, samples)
    moved = np.linalg.norm(points - pair.transport(points), axis=1)
    error = moved.std() / math.sqrt(samples)
    estimate = pair.wasserstein1_estimate(1 << 16)
    assert 0.0 < estimate.standard_error < 5e-4 * estimate.value
    assert abs(moved.mean() - estimate.value) < 3.5 * math.hypot(error, estimate.standard_error)
    if dimension == 3:
        assert abs(moved.mean() - pair.wasserstein1(1e-9)) < 3.5 * error


def test_estimates_are_as_far_from_the_quadrature_as_they_say():
    deviations = []
    for dimension in (2, 3):
        for seed in range(8):
            pair = RayMonotonePair.random(dimension, 6, seed=seed)
            found = pair.wasserstein1_estimate(1 << 14, seed=seed)
            deviations.append((found.value - pair.wasserstein1(1e-8)) / found.standard_error)
    assert 0.5 < np.sqrt(np.mean(np.square(deviations))) < 1.8


def test_one_central_funnel_is_the_same_in_closed_form_in_any_dimension():
    # W₁ = (p − 1)/(d + p) E|x|, and E|x| → √(d/3) with the relative error 1/(10 d).
    pair = RayMonotonePair(1.0, 8, np.zeros((1, 500)), [0.0])
    expected = 7 / 508 * math.sqrt(500 / 3) * (1 - 1 / 5000)
    assert pair.wasserstein1_estimate(1 << 12).value == pytest.approx(expected, rel=1e-5)


def test_samples_of_the_source_lie_in_the_box_on_the_rays_of_the_target(pair):
    uniforms = np.random.default_rng(3).random((2000, pair.dimension))
    target, source = pair.sample_target(uniforms), pair.sample_source(uniforms)
    np.testing.assert_array_equal(RayMonotoneSource(pair).sample(uniforms), source)
    np.testing.assert_array_equal(source, pair.transport(target))
    assert np.abs(target).max() <= 2.5
    assert np.abs(source).max() <= 2.5
    # The potential falls along a ray by exactly the way.
    way = np.linalg.norm(target - source, axis=1)
    np.testing.assert_allclose(pair.potential(source) - pair.potential(target), way, atol=1e-13)
    far = np.linalg.norm(source[:, None] - pair.centers, axis=2).min(axis=1) > 1e-6
    assert far.mean() > 0.5
    gradient = pair.gradient(target)
    np.testing.assert_allclose(pair.gradient(source)[far], gradient[far], atol=1e-8)
    np.testing.assert_allclose(way[:, None] * gradient, source - target, atol=1e-13)


def test_gradient_is_that_of_the_potential(pair):
    points = 0.99 * random_points(pair, 200)
    gradient, step = pair.gradient(points), 1e-5
    for axis in range(0, pair.dimension, max(1, pair.dimension // 4)):
        shift = step * np.eye(pair.dimension)[axis]
        slope = (pair.potential(points + shift) - pair.potential(points - shift)) / (2 * step)
        assert (np.abs(slope - gradient[:, axis]) < 1e-6).mean() > 0.97


@pytest.mark.parametrize(("dimension", "power"), [(2, 8.0), (3, 2.5), (5, 8.0), (16, 8.0)])
def test_momentum_moves_the_source_to_the_target(dimension, power):
    # div m = μ − ν, by central differences where no ridge or tip is near.
    pair = RayMonotonePair.random(dimension, 4, half_width=1.0, power=power, seed=4)
    points = 0.99 * random_points(pair, 400)
    density = pair.source_density(points) - 0.5**dimension
    step, divergence, scale = 1e-5, np.zeros(len(points)), np.zeros(len(points))
    for axis in range(dimension):
        shift = step * np.eye(dimension)[axis]
        ahead, behind = (pair.momentum(points + sign * shift)[:, axis] for sign in (1, -1))
        slope = (ahead - behind) / (2 * step)
        divergence, scale = divergence + slope, scale + np.abs(slope)
    close = np.abs(divergence - density) <= 1e-4 * (scale + pair.source_density(points))
    assert close.mean() > 0.97


def test_momentum_points_down_the_gradient_and_costs_the_distance(pair):
    # ∫|m| = E_μ[|m|/density of μ], whose integrand is bounded.
    target = random_points(pair, 20_000)
    source = pair.transport(target)
    tips = pair.funnels.centers[pair.funnels.rays(target).funnel]
    away = np.linalg.norm(source - tips, axis=1) > 1e-10
    source = source[away]
    momentum, density = pair.momentum(source), pair.source_density(source)
    length = np.linalg.norm(momentum, axis=1)
    np.testing.assert_allclose(momentum / length[:, None], -pair.gradient(source), atol=1e-12)
    ratio = np.zeros(len(target))  # it is below 1e-9 next to a tip
    ratio[away] = length / density
    error = ratio.std() / math.sqrt(len(ratio))
    assert abs(ratio.mean() - pair.wasserstein1_estimate(1 << 14).value) < 3.5 * error
    assert error < 0.01 * ratio.mean()


def test_momentum_is_zero_outside_and_at_the_ends_and_at_tips(pair):
    rays = pair.funnels.rays(random_points(pair, 100))
    ends = pair.centers[rays.funnel] + rays.direction / rays.inverse_radius[:, None]
    inner = np.clip(ends, -pair.half_width, pair.half_width)
    halfway = pair.centers[rays.funnel] + 0.5 * rays.direction / rays.inverse_radius[:, None]
    lengths = [np.linalg.norm(pair.momentum(points), axis=1) for points in (inner, halfway)]
    assert (lengths[0] < 1e-10 * lengths[1]).all()
    np.testing.assert_array_equal(pair.momentum(np.full((1, pair.dimension), 3.0)), 0.0)
    np.testing.assert_array_equal(pair.momentum(pair.centers), 0.0)
    assert np.isinf(pair.source_density(pair.centers)).all()


def test_power_one_moves_nothing_in_any_dimension(pair):
    still = RayMonotonePair(pair.half_width, 1.0, pair.centers, pair.biases)
    points = np.concatenate([random_points(pair, 50), pair.centers])
    np.testing.assert_allclose(still.transport(points), points, atol=1e-13)
    np.testing.assert_array_equal(still.momentum(points), 0.0)
    np.testing.assert_allclose(still.source_density(points), 5.0**-pair.dimension, rtol=1e-12)
    assert still.wasserstein1_estimate(64).value == 0.0


def test_many_points_take_little_memory_beyond_their_own():
    pair = RayMonotonePair.random(128, 256, seed=0)
    points = random_points(pair, 20_000)
    pair.transport(points[:1])
    tracemalloc.start()
    try:
        pair.transport(points)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < points.nbytes + 64 * 2**20


@pytest.mark.parametrize("dimension", [4, 7])
def test_cells_and_quadrature_ask_for_the_plane_or_space(box_cells, dimension):
    pair = RayMonotonePair.random(dimension, 3)
    with pytest.raises(InputError, match=rf"dimension: found {dimension}; .*wasserstein1_estimate"):
        pair.wasserstein1()
    with pytest.raises(InputError, match=rf"dimension: found {dimension}; allowed: 2 or 3"):
        pair.source_masses(np.zeros((1, dimension + 1, dimension)))
    with pytest.raises(InputError, match=rf"dimension: found {dimension}; allowed: 2 or 3"):
        RayMonotoneSource(pair).cell_masses(box_cells([0, 0], [1, 1], 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimension": 1}, "dimension: found 1; allowed: 2 or more"),
        ({"number": 0}, "number: found 0; allowed: 1 or more"),
        ({"half_width": -1.0}, "half_width: found -1"),
        ({"power": 0.5}, "power: found 0.5; allowed: a number >= 1"),
        ({"number": 20_000}, r"number: found 20000; allowed: fewer in 2 dimensions"),
    ],
)
def test_each_mistake_of_a_random_pair_is_named(change, message):
    values = {"dimension": 2, "number": 3} | change
    with pytest.raises(InputError, match=message):
        RayMonotonePair.random(values.pop("dimension"), values.pop("number"), **values)


def test_mistakes_of_arguments_are_named(pair):
    for method in (pair.potential, pair.gradient, pair.transport, pair.momentum):
        with pytest.raises(InputError, match=rf"points: found .*allowed: \(m, {pair.dimension}\)"):
            method(np.zeros((3, pair.dimension + 1)))
    with pytest.raises(InputError, match="samples: found 0; allowed: 1 or more"):
        pair.wasserstein1_estimate(0)
    with pytest.raises(InputError, match="seed: found -1; allowed: 0 or more"):
        pair.wasserstein1_estimate(seed=-1)
    with pytest.raises(InputError, match="seed: found -1; allowed: 0 or more"):
        RayMonotonePair.random(2, 1, seed=-1)
