"""The weight from below: 1/σ is bounded at every point of every cell, and not by far."""

from __future__ import annotations

import math

import numpy as np
import pytest

from congested.geometry import EDGES, split_simplices
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.weights.kinds import (
    ConstantWeight,
    DensityWeight,
    Interpolates,
    MeasureWeight,
    MixtureWeight,
)
from congested.weights.lower_bound import (
    LogConcaveSum,
    has_lower_bound,
    interpolates_from_below,
    weight_from_below,
)

SLANTED = np.array([[0.02, 0.012, 0.0], [0.012, 0.01, 0.001], [0.0, 0.001, 0.006]])


def pair(name: str, dimension: int) -> tuple[GaussianMixture, GaussianMixture]:
    first, second = np.array([[0.3, 0.35, 0.4], [0.7, 0.6, 0.5]])[:, None, :dimension]
    narrow = GaussianMixture.from_stds(first, 0.08)
    if name == "apart":
        return narrow, GaussianMixture.from_stds(second, 0.06)
    if name == "concentric":
        return narrow, GaussianMixture.from_stds(first, 0.2)
    if name == "slanted":
        covariance = SLANTED[:dimension, :dimension]
        return GaussianMixture(first, [covariance]), GaussianMixture(
            second, [covariance[::-1, ::-1]]
        )
    assert name == "mixtures"
    both = np.concatenate([first, second])
    return (
        GaussianMixture.from_stds(both, [0.1, 0.05], [0.3, 0.7]),
        GaussianMixture.from_stds(both[:, ::-1] + 0.02, [0.15, 0.1], [0.6, 0.4]),
    )


def exact_density(source: GaussianMixture, target: GaussianMixture, x: np.ndarray) -> np.ndarray:
    """∫₀¹ Σ_ij w_ij N((1−t) m_i + t n_j, (1−t)² S_i + t² R_j)(x) dt by Gauss's rule on 400 panels.

    All terms are positive, so every value, however small, has the rule's relative accuracy.
    """
    nodes, weights = np.polynomial.legendre.leggauss(8)
    total = np.zeros(len(x))
    for t, step in zip(
        ((np.arange(400)[:, None] + 0.5 * (nodes + 1.0)) / 400).ravel(),
        np.tile(weights / 800, 400),
        strict=True,
    ):
        for i, share in enumerate(source.weights):
            for j, other in enumerate(target.weights):
                offset = x - (1 - t) * source.means[i] - t * target.means[j]
                covariance = (1 - t) ** 2 * source.covariances[i] + t**2 * target.covariances[j]
                square = np.sum(offset @ np.linalg.inv(covariance) * offset, axis=1)
                root = math.sqrt(np.linalg.det(2 * np.pi * covariance))
                total += step * share * other * np.exp(-0.5 * square) / root
    return total


def bernstein(shares: np.ndarray) -> np.ndarray:
    """Bernstein's basis of degree two (q, k) at barycentric coordinates (q, d+1)."""
    mixed = [2.0 * shares[:, i] * shares[:, j] for i, j in EDGES[shares.shape[1] - 1]]
    return np.concatenate([shares**2, np.stack(mixed, axis=1)], axis=1)


def random_cells(dimension: int, size: float, number: int = 60) -> np.ndarray:
    generator = np.random.default_rng(dimension)
    middle = generator.uniform(0.1, 0.9, size=(number, 1, dimension))
    return middle + size * generator.normal(size=(number, dimension + 1, dimension))


def points_in(cells: np.ndarray, number: int = 6) -> tuple[np.ndarray, np.ndarray]:
    corners = cells.shape[1]
    shares = np.random.default_rng(0).dirichlet(np.ones(corners), size=number)
    shares = np.concatenate([shares, np.eye(corners), np.full((1, corners), 1 / corners)])
    return bernstein(shares), np.einsum("qi,nid->nqd", shares, cells).reshape(-1, cells.shape[2])


def ratio(below: LogConcaveSum, density: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The bound of 1/σ over 1/σ at the points of `points_in`."""
    basis, _ = points_in(cells)
    return (below.inverse_coefficients(cells) @ basis.T) * density.reshape(len(cells), -1)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("name", ["apart", "concentric", "slanted", "mixtures"])
@pytest.mark.parametrize("size", [0.3, 0.05, 0.003])
def test_the_bound_is_above_one_over_the_weight(dimension, name, size):
    source, target = pair(name, dimension)
    cells = random_cells(dimension, size, 20)
    below = interpolates_from_below(source, target, 1e-4)
    found = ratio(below, exact_density(source, target, points_in(cells)[1]), cells)
    assert (found >= 1.0 - 1e-9).all()
    if size == 0.003:
        # Small cells lose little more than the panels, even where the weight is all but nothing.
        assert np.median(found) < 1.01


@pytest.mark.parametrize("name", ["apart", "mixtures"])
def test_what_the_panels_lose_is_measured_and_below_the_tolerance(name):
    source, target = pair(name, 2)
    generator = np.random.default_rng(3)
    for tolerance in (1e-2, 1e-4):
        below = interpolates_from_below(source, target, tolerance)
        assert 0.2 * tolerance < below.loss <= tolerance
        # Independent samples of the law of the interpolates.
        t = generator.random((400, 1))
        first, second = (m.sample(generator.random((400, 3))) for m in (source, target))
        x = (1 - t) * first + t * second
        square = np.einsum("krc,mkc->mkr", below.whitening, x[:, None] - below.centers)
        bound = np.exp(below.log_factors - 0.5 * (square**2).sum(axis=2)).sum(axis=1)
        lost = 1.0 - bound / exact_density(source, target, x)
        assert lost.min() >= -1e-9
        assert lost.mean() == pytest.approx(below.loss, rel=0.3)


def test_the_bound_is_sharp_to_second_order():
    source, target = pair("apart", 2)
    below = interpolates_from_below(source, target, 1e-7)
    cells = random_cells(2, 0.02)
    excess = []
    for _ in range(3):
        density = exact_density(source, target, points_in(cells)[1])
        found = ratio(below, density, cells) - 1.0
        excess.append(float(np.average(found.ravel(), weights=density)))
        middle = cells.mean(axis=1, keepdims=True)
        cells = middle + 0.5 * (cells - middle)
    rates = np.log2(np.array(excess[:-1]) / excess[1:])
    assert rates.min() > 1.9, (rates, excess)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("size", [1e-4, 1e-3, 1e-2, 0.05, 0.2])
def test_one_gaussian_is_bounded_to_third_order(dimension, size):
    # No panels, no sum: what is left is the polynomial above exp of a quadratic function.
    own, _ = pair("slanted", dimension)
    below = weight_from_below(MeasureWeight(own), own, own, 1.0, 1e-3)
    cells = random_cells(dimension, size)
    density = own.density(points_in(cells)[1])
    excess = ratio(below, density, cells)[density.reshape(len(cells), -1).min(axis=1) > 1e-3] - 1.0
    assert excess.min() >= -1e-13
    # The smallest standard deviation is 0.04, and the worst cell some of them away.
    if size < 0.005:
        assert excess.max() < 2e6 * size**3


def test_cells_of_any_size_next_to_a_narrow_gaussian():
    # The narrow end would be chosen at its own point: it must not spoil a cell that it lies in.
    source = GaussianMixture.from_stds([[0.5, 0.5]], 1e-3)
    target = GaussianMixture.from_stds([[0.5, 0.5]], 0.2)
    below = interpolates_from_below(source, target, 1e-3)
    cells = np.array([[[0.4, 0.4], [0.7, 0.45], [0.45, 0.7]]])
    found = ratio(below, exact_density(source, target, points_in(cells)[1]), cells)
    assert found.min() >= 1.0 - 1e-9
    assert below.inverse_coefficients(cells).max() < 1.0


def test_where_the_weight_is_no_float_the_bound_is_infinite():
    source = GaussianMixture.from_stds([[0.0, 0.0]], 1e-3)
    target = GaussianMixture.from_stds([[1e-3, 0.0]], 1e-3)
    below = interpolates_from_below(source, target, 1e-3)
    near = np.array([[[0.0, 0.0], [1e-3, 0.0], [0.0, 1e-3]]])
    found = below.inverse_coefficients(np.concatenate([near, 100.0 * near, near + 1.0]))
    assert np.isfinite(found[0]).all()
    assert np.isposinf(found[1:]).all()


def test_coefficients_do_not_depend_on_the_other_cells():
    below = interpolates_from_below(*pair("apart", 3), 1e-3)
    cells = split_simplices(random_cells(3, 0.1, 5))
    together = below.inverse_coefficients(cells)
    single = np.concatenate([below.inverse_coefficients(cell[None]) for cell in cells])
    np.testing.assert_array_equal(together, single)


# --- which weights have a bound -------------------------------------------------------------


def test_constant_weights_are_their_own_bound():
    source, target = pair("apart", 2)
    cells = random_cells(2, 0.3, 4)
    for weight, density in ((ConstantWeight(2.5), 2.5), (ConstantWeight(), 1 / 7.0)):
        below = weight_from_below(weight, source, target, 7.0, 1e-4)
        assert below.loss == 0.0
        np.testing.assert_allclose(below.inverse_coefficients(cells), 1 / density, rtol=1e-14)


def test_mixtures_of_weights_have_the_sum_of_the_bounds():
    source, target = pair("apart", 2)
    own = GaussianMixture.from_stds([[0.5, 0.2]], 0.1)
    weight = MixtureWeight(
        (Interpolates(), ConstantWeight(), MeasureWeight(own), Interpolates(coupling="target")),
        (0.4, 0.3, 0.2, 0.1),
    )
    assert has_lower_bound(weight, source, target)
    below = weight_from_below(weight, source, target, 2.0, 1e-5)
    cells = random_cells(2, 0.05)
    x = points_in(cells)[1]
    density = 0.4 * exact_density(source, target, x) + 0.3 / 2.0
    density += 0.2 * own.density(x) + 0.1 * target.density(x)
    found = ratio(below, density, cells)
    assert found.min() >= 1.0 - 1e-9
    assert np.median(found) < 1.2


def test_other_weights_have_none():
    source, target = pair("apart", 2)
    cloud = Points([[0.5, 0.5]])
    for weight, first in (
        (DensityWeight(lambda x: np.ones(len(x))), source),
        (Interpolates(coupling="optimal"), source),
        (Interpolates(), cloud),
        (Interpolates(coupling="source"), cloud),
        (MeasureWeight(cloud), source),
        (MixtureWeight((ConstantWeight(), MeasureWeight(cloud))), source),
    ):
        assert not has_lower_bound(weight, first, target)
        assert weight_from_below(weight, first, target, 1.0, 1e-3) is None
