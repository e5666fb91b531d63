"""The benchmark's metrics: of the exact potential, of critics whose metrics are known, at tips."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import numpy as np
import pytest

from congested.critics.pair_metrics import benchmark_metrics, sample_metrics
from congested.errors import InputError
from congested.measures.ray_monotone import RayMonotonePair

PROBLEM = Path(__file__).parents[2] / "scripts" / "problems" / "ray_monotone_d2_n4.toml"


@pytest.fixture(scope="module")
def published() -> RayMonotonePair:
    """Return the published pair, from the numbers in the problem file."""
    with PROBLEM.open("rb") as file:
        return RayMonotonePair(**tomllib.load(file)["source"]["pair"])


def exact_gradient(pair):
    """Return ∇f* with a direction for samples that were rounded to a tip, too."""

    def gradient(points):
        return -pair.funnels.rays(points).direction

    return gradient


@pytest.mark.parametrize("dimension", [2, 3, 16, 128])
def test_the_exact_potential_has_exact_metrics(dimension):
    pair = RayMonotonePair.random(dimension, 16, seed=3)
    found = benchmark_metrics(pair, pair.potential, exact_gradient(pair), 20_000)
    # Samples that were rounded to the tip itself have lost their direction.
    rounded = 2e-3 if dimension == 2 else 1e-5
    assert found.cosine.value == pytest.approx(1.0, abs=rounded)
    assert found.gradient_l2.value == pytest.approx(0.0, abs=2 * rounded)
    estimate = pair.wasserstein1_estimate(1 << 14)
    error = math.hypot(found.distance.standard_error, estimate.standard_error)
    assert abs(found.distance.value - estimate.value) < 3.5 * error
    assert error < 0.01 * estimate.value


def test_multiples_and_constants_are_measured_as_what_they_are(published):
    double = benchmark_metrics(
        published,
        lambda points: 2.0 * published.potential(points) + 5.0,
        lambda points: 2.0 * exact_gradient(published)(points),
    )
    assert double.cosine.value == pytest.approx(1.0, abs=1e-3)
    assert double.gradient_l2.value == pytest.approx(1.0, abs=1e-3)
    distance = published.wasserstein1()
    assert abs(double.distance.value - 2.0 * distance) < 3.5 * double.distance.standard_error
    flat = benchmark_metrics(published, lambda points: np.ones(len(points)), np.zeros_like)
    assert (flat.cosine.value, flat.distance.value) == (0.0, 0.0)
    assert flat.gradient_l2.value == pytest.approx(1.0, abs=1e-12)


def test_standard_errors_are_those_of_many_runs():
    # At p = 3 no sample is rounded to a tip, which would be rare and weigh much.
    pair = RayMonotonePair.random(2, 4, power=3.0, seed=6)

    def value(points):
        return pair.potential(points) + 0.3 * np.sin(points[:, 0])

    def gradient(points):
        return pair.gradient(points) + 0.3 * np.cos(points[:, :1]) * np.array([1.0, 0.0])

    runs = [benchmark_metrics(pair, value, gradient, 1000, seed) for seed in range(200)]
    for name in ("cosine", "gradient_l2", "distance"):
        values = np.array([getattr(run, name).value for run in runs])
        stated = np.mean([getattr(run, name).standard_error for run in runs])
        assert values.std(ddof=1) == pytest.approx(stated, rel=0.2)


def test_pairs_of_samples_say_more_than_independent_ones(published):
    random = np.random.default_rng(4)
    source = published.sample_source(random.random((4096, 2)))
    target = published.sample_target(random.random((4096, 2)))
    alone = sample_metrics(
        published.gradient(source),
        published.gradient(source),
        published.potential(source),
        published.potential(target),
    )
    together = benchmark_metrics(published, published.potential, published.gradient, 4096)
    for found in (alone, together):
        difference = found.distance.value - published.wasserstein1()
        assert abs(difference) < 3.5 * found.distance.standard_error
    assert together.distance.standard_error < alone.distance.standard_error
    assert alone.gradient_l2.value == 0.0


def test_single_precision_loses_a_tenth_of_the_published_gradients(published):
    # As the published tables took ∇f* from |x|² − 2x·a + |a|² in single precision.
    uniforms = np.random.default_rng(5).random((2**16, 2))
    target, source = published.sample_target(uniforms), published.sample_source(uniforms)
    points, tips = source.astype(np.float32), published.centers.astype(np.float32)
    squares = (points**2).sum(axis=1)[:, None] + (tips**2).sum(axis=1)
    squares -= np.float32(2.0) * (points @ tips.T)
    lengths = np.sqrt(np.maximum(squares, 0.0)) + published.biases.astype(np.float32)
    lost = squares[np.arange(len(points)), lengths.argmin(axis=1)] <= 0.0
    assert 0.09 < lost.mean() < 0.15
    assert np.linalg.norm(source - published.centers[lengths.argmin(axis=1)], axis=1)[
        lost
    ].max() == pytest.approx(1e-3, rel=0.5)
    # Ours are unit vectors for each of them.
    exact = published.gradient(target)
    np.testing.assert_allclose(np.linalg.norm(exact[lost], axis=1), 1.0, rtol=1e-12)
    values = published.potential(source)
    theirs = sample_metrics(exact, np.where(lost[:, None], 0.0, exact), values, values)
    assert theirs.cosine.value == pytest.approx(1.0 - lost.mean(), abs=1e-12)


def test_each_mistake_is_named(published):
    value, gradient = published.potential, published.gradient
    with pytest.raises(InputError, match="samples: found 1; allowed: 2 or more"):
        benchmark_metrics(published, value, gradient, 1)
    with pytest.raises(InputError, match="seed: found -2; allowed: 0 or more"):
        benchmark_metrics(published, value, gradient, 10, -2)
    with pytest.raises(InputError, match=r"value: found an array of shape \(10, 1\); .*\(10\)"):
        benchmark_metrics(published, lambda points: value(points)[:, None], gradient, 10)
    with pytest.raises(InputError, match=r"gradient: found an array of shape \(10,\).*\(10, 2\)"):
        benchmark_metrics(published, value, value, 10)
    with pytest.raises(InputError, match="gradient: found a number that is not finite"):
        benchmark_metrics(published, value, lambda points: np.full(points.shape, np.nan), 10)
    vectors, numbers = np.ones((4, 2)), np.ones(4)
    with pytest.raises(InputError, match=r"exact_gradients: .*\(4, 3\); allowed: \(4, 2\)"):
        sample_metrics(vectors, np.ones((4, 3)), numbers, numbers)
    with pytest.raises(InputError, match=r"target_values: .*\(0,\); allowed: \(any\)"):
        sample_metrics(vectors, vectors, numbers, np.ones(0))
