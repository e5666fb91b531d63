"""Cell masses of Gaussian mixtures against exact masses of boxes, samples, mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import qmc

from congested.errors import InputError
from congested.geometry import split_simplices
from congested.measures.gaussian_mixture import GaussianMixture
from congested.quadrature import integrate_over_simplices


def box_mass(mixture, lower, upper):
    """Mass of a box for diagonal covariances, by the normal distribution function."""
    stds = np.sqrt(np.diagonal(mixture.covariances, axis1=1, axis2=2))
    sides = ndtr((upper - mixture.means) / stds) - ndtr((lower - mixture.means) / stds)
    return mixture.weights @ np.prod(sides, axis=1)


def square_masses(cells, masses, number):
    """Sum the masses of the simplices of each of the number^d boxes of `box_cells`."""
    return masses.reshape(-1, number**cells.dimension).sum(axis=0)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10, 1e-13])
def test_every_box_has_its_exact_mass(box_cells, dimension, tolerance):
    number = 7
    means = [[0.3, 0.35, 0.4][:dimension], [0.72, 0.6, 0.5][:dimension]]
    covariances = [np.diag([0.01, 0.02, 0.03][:dimension]), 0.003 * np.eye(dimension)]
    mixture = GaussianMixture(means, covariances, [0.3, 0.7])
    cells = box_cells([0] * dimension, [1] * dimension, number)
    masses = square_masses(cells, mixture.cell_masses(cells, tolerance), number)
    lower = np.stack(np.meshgrid(*[np.arange(number) / number] * dimension, indexing="ij"), -1)
    exact = [box_mass(mixture, x, x + 1 / number) for x in lower.reshape(-1, dimension)]
    assert np.abs(masses - exact).sum() <= max(tolerance, 5e-14)


@pytest.mark.parametrize("number", [1, 3, 20])
@pytest.mark.parametrize("std", [1e-9, 1e-4, 0.03, 0.5])
def test_no_peak_is_lost_however_coarse_the_mesh(box_cells, number, std):
    mixture = GaussianMixture.from_stds([[0.31, 0.47]], std)
    masses = mixture.cell_masses(box_cells([0, 0], [1, 1], number))
    assert masses.sum() == pytest.approx(box_mass(mixture, 0.0, 1.0), abs=1e-10)


def test_a_thin_slanted_gaussian_has_mass_one(box_cells):
    angle = 0.4
    axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    covariance = axes @ np.diag([0.05**2, 0.0005**2]) @ axes.T
    mixture = GaussianMixture([[0.5, 0.5]], [covariance])
    masses = mixture.cell_masses(box_cells([0, 0], [1, 1], 5))
    assert masses.sum() == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("dimension", [2, 3])
def test_full_covariances_agree_with_adaptive_quadrature(box_cells, dimension):
    factor = np.array([[0.2, 0.0, 0.0], [0.1, 0.15, 0.0], [-0.05, 0.1, 0.2]])
    covariance = (factor @ factor.T)[:dimension, :dimension]
    mixture = GaussianMixture([[0.4] * dimension, [0.8] * dimension], [covariance] * 2)
    cells = box_cells([0] * dimension, [1] * dimension, 3)
    masses = mixture.cell_masses(cells)
    tolerance = {2: 1e-9, 3: 1e-7}[dimension]
    adaptive = integrate_over_simplices(mixture.density, cells.simplices, tolerance)
    assert np.abs(masses - adaptive).sum() <= 2 * tolerance


@pytest.mark.parametrize("dimension", [2, 3])
def test_masses_add_up_under_refinement(box_cells, dimension):
    mixture = GaussianMixture.from_stds([[0.2] * dimension, [0.7] * dimension], [0.15, 0.05])
    simplices = box_cells([0] * dimension, [1] * dimension, 4).simplices
    coarse = mixture.simplex_masses(simplices)
    fine = mixture.simplex_masses(split_simplices(simplices))
    assert np.abs(fine.reshape(len(coarse), -1).sum(axis=1) - coarse).sum() <= 2e-10


def test_far_tails_keep_a_positive_and_sensible_mass(box_cells):
    # The corner is 27 standard deviations away, where the density is 1e-158 of its maximum.
    number, std = 64, 0.05
    mixture = GaussianMixture.from_stds([[0.05, 0.05]], std)
    cells = box_cells([0, 0], [1, 1], number)
    masses = square_masses(cells, mixture.cell_masses(cells), number)
    # Differences of ndtr lose all digits in the upper tail; by symmetry take the lower one.
    side = -np.diff(ndtr((0.05 - np.linspace(0, 1, number + 1)) / std))
    exact = np.outer(side, side).ravel()
    assert exact.min() < 1e-155
    assert 0.1 < (masses / exact).min()
    assert (masses / exact).max() < 10.0


def test_many_components_equal_the_sum_of_single_ones(box_cells):
    share = np.linspace(0, 1, 40)[:, None]
    means = (1 - share) * [0.3, 0.35] + share * [0.7, 0.6]
    stds = 0.02 + 0.1 * share[:, 0]
    cells = box_cells([0, 0], [1, 1], 16)
    together = GaussianMixture.from_stds(means, stds).cell_masses(cells)
    single = [
        GaussianMixture.from_stds([mean], std).cell_masses(cells, 1e-12)
        for mean, std in zip(means, stds, strict=True)
    ]
    assert np.abs(together - np.mean(single, axis=0)).sum() <= 1e-10


def test_components_without_weight_do_nothing(box_cells):
    cells = box_cells([0, 0], [1, 1], 4)
    one = GaussianMixture.from_stds([[0.4, 0.5]], 0.1)
    two = GaussianMixture.from_stds([[0.4, 0.5], [9.0, 9.0]], [0.1, 1e-3], [1.0, 0.0])
    np.testing.assert_array_equal(one.cell_masses(cells), two.cell_masses(cells))
    np.testing.assert_array_equal(one.bounds(), two.bounds())


@pytest.mark.parametrize("dimension", [2, 3])
def test_samples_follow_the_density(dimension):
    factor = np.array([[0.2, 0.0, 0.0], [0.1, 0.15, 0.0], [-0.05, 0.1, 0.2]])
    covariance = (factor @ factor.T)[:dimension, :dimension]
    means = np.array([[0.0] * dimension, [1.0] * dimension])
    mixture = GaussianMixture(means, [covariance, 0.01 * np.eye(dimension)], [0.25, 0.75])
    assert mixture.sample_dimension == dimension + 1
    samples = mixture.sample(qmc.Sobol(dimension + 1, seed=1).random(2**14))
    mean = 0.75 * means[1]
    second = 0.25 * covariance + 0.75 * (0.01 * np.eye(dimension) + np.outer(means[1], means[1]))
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=2e-4)
    np.testing.assert_allclose(samples.T @ samples / len(samples), second, atol=1e-3)


def test_the_ends_of_the_unit_interval_give_finite_samples():
    mixture = GaussianMixture.from_stds([[0.0, 0.0], [1.0, 1.0]], 1.0)
    samples = mixture.sample(np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]]))
    assert np.isfinite(samples).all()
    np.testing.assert_allclose(samples[2], [1.0, 1.0])
    with pytest.raises(InputError, match=r"shape \(2, 2\); allowed: \(m, 3\)"):
        mixture.sample(np.zeros((2, 2)))


def test_bounds_hold_the_mass(box_cells):
    mixture = GaussianMixture.from_stds([[0.0, 0.0], [1.0, 0.5]], [0.1, 0.3])
    lower, upper = mixture.bounds()
    np.testing.assert_allclose(lower, [1.0 - 7.5 * 0.3, 0.5 - 7.5 * 0.3])
    assert 1.0 - box_mass(mixture, lower, upper) < 1e-12


EYE = [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.0, 0.0, 0.0, 0.0]], [np.eye(4)], [1.0]), "means: found 4 coordinates"),
        (([], [], []), "means: "),
        (([[0.0, np.nan]], [EYE], [1.0]), "means: .*not finite"),
        (([[0.0, "0.0"]], [EYE], [1.0]), "means: found"),
        (([[0.0, 0.0]], [EYE, EYE], [1.0]), r"covariances: .*shape \(2, 2, 2\)"),
        (([[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]], [1.0]), "not positive definite at position 0"),
        (([[0.0, 0.0]], [[[1.0, 0.5], [0.2, 1.0]]], [1.0]), "not symmetric at position 0"),
        (([[0.0, 0.0]], [EYE], [0.9]), "weights: found the sum 0.9"),
    ],
)
def test_each_mistake_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        GaussianMixture(*arguments)


@pytest.mark.parametrize("stds", [0.0, -1.0, [0.1, 0.2, 0.3], [0.1, -0.1], "0.1"])
def test_wrong_standard_deviations_are_named(stds):
    with pytest.raises(InputError, match="stds: found"):
        GaussianMixture.from_stds([[0.0, 0.0], [1.0, 1.0]], stds)
