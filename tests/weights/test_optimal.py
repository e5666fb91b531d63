"""The weight of optimal couplings against plans that are known, closed forms and brute force."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import sqrtm
from scipy.stats import qmc

from congested.cell_search import CellBins
from congested.errors import InputError
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.measures.ray_monotone import RayMonotonePair, RayMonotoneSource
from congested.measures.uniform import UniformBox
from congested.weights import optimal
from congested.weights.base import REPLICATES
from congested.weights.compute import cell_weight
from congested.weights.gaussian import GaussianPath, displacement_mixture, optimal_matrix
from congested.weights.kinds import Interpolates
from congested.weights.plan import Plan
from tests.weights.test_compute import Disguised, box_cells, point_set


def optimal_kind(order: int = 2, **options: object) -> Interpolates:
    return Interpolates(coupling="optimal", order=order, **options)  # type: ignore[arg-type]


# --- Gaussians ---------------------------------------------------------------------------------

COVARIANCES = {
    "general": ([[0.010, 0.004], [0.004, 0.005]], [[0.002, -0.001], [-0.001, 0.02]]),
    "equal": ([[0.010, 0.004], [0.004, 0.005]], [[0.010, 0.004], [0.004, 0.005]]),
    "sharp": ([[0.01, 0.0], [0.0, 0.01]], [[1e-6, 0.0], [0.0, 0.01]]),
    "space": (
        [[0.010, 0.004, 0.0], [0.004, 0.005, 0.002], [0.0, 0.002, 0.02]],
        [[0.004, 0.0, 0.001], [0.0, 0.02, 0.0], [0.001, 0.0, 0.004]],
    ),
}


def gaussian_pair(name: str) -> tuple[GaussianMixture, GaussianMixture]:
    first, second = (np.array(matrix) for matrix in COVARIANCES[name])
    means = np.array([[0.35, 0.4, 0.5], [0.6, 0.5, 0.4]])[:, : len(first)]
    return GaussianMixture(means[:1], first[None]), GaussianMixture(means[1:], second[None])


def interpolated(
    pair: tuple[GaussianMixture, GaussianMixture], t: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariances of the displacement interpolation, by square roots of matrices."""
    (m, s), (n, r) = ((mixture.means[0], mixture.covariances[0]) for mixture in pair)
    root = np.real(sqrtm(s))
    inverse = np.linalg.inv(root)
    matrix = inverse @ np.real(sqrtm(root @ r @ root)) @ inverse
    factor = (1 - t)[:, None, None] * np.eye(len(m)) + t[:, None, None] * matrix
    return m + t[:, None] * (n - m), factor @ s @ np.swapaxes(factor, 1, 2)


@pytest.mark.parametrize("name", COVARIANCES)
def test_displacement_of_gaussians_keeps_its_stated_error(name: str) -> None:
    pair = gaussian_pair(name)
    generator = np.random.default_rng(3)
    edges = np.unique([*np.geomspace(1e-9, 0.5, 40), *(1 - np.geomspace(1e-9, 0.5, 40)), 0.0, 1.0])
    x, w = np.polynomial.legendre.leggauss(30)
    t = (edges[:-1, None] + 0.5 * (x + 1.0) * np.diff(edges)[:, None]).ravel()
    weights = (0.5 * w * np.diff(edges)[:, None]).ravel()
    means, covariances = interpolated(pair, t)
    chosen = generator.integers(0, len(t), 200)
    points = np.stack(
        [
            generator.multivariate_normal(*parameters)
            for parameters in zip(means[chosen], covariances[chosen], strict=True)
        ]
    )
    brute = GaussianMixture(means, 0.5 * (covariances + np.swapaxes(covariances, 1, 2)), weights)
    for tolerance in (1e-3, 1e-6, 1e-9):
        mixture, stated = displacement_mixture(*pair, tolerance)
        assert stated <= tolerance
        error = np.mean(np.abs(mixture.density(points) / brute.density(points) - 1))
        assert error <= 2.0 * stated + 1e-12
    # The panels in t are no more than the length of the way asks for.
    assert len(mixture.means) < 300


def test_optimal_matrix_and_wasserstein_distance_of_gaussians() -> None:
    """The moments of σ tell W₂: tr cov σ = (tr S + tr R + tr AS)/3 + |n − m|²/12."""
    for name in COVARIANCES:
        (m, s), (n, r) = (
            (mixture.means[0], mixture.covariances[0]) for mixture in gaussian_pair(name)
        )
        matrix = optimal_matrix(s, r)
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-13)
        assert np.linalg.eigvalsh(matrix)[0] > 0
        np.testing.assert_allclose(matrix @ s @ matrix, r, atol=1e-15)
        mixture, _ = displacement_mixture(*gaussian_pair(name), 1e-9)
        weights = mixture.weights
        assert weights is not None
        mean = weights @ mixture.means
        np.testing.assert_allclose(mean, (m + n) / 2, atol=1e-12)
        spread = mixture.means - mean
        moment = weights @ (np.trace(mixture.covariances, axis1=1, axis2=2) + (spread**2).sum(1))
        distance = np.sum((n - m) ** 2)
        coupled = 3 * (moment - distance / 12) - np.trace(s) - np.trace(r)
        found = distance + np.trace(s) + np.trace(r) - 2 * coupled
        root = np.real(sqrtm(s))
        cross = np.trace(np.real(sqrtm(root @ r @ root)))
        exact = distance + np.trace(s) + np.trace(r) - 2 * cross
        assert found == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("coupled", [True, False])
def test_path_of_gaussians_has_its_length_and_samples(coupled: bool) -> None:
    """The length in the metric |S^{-1/2} m'|² + ½|S^{-1/2} S' S^{-1/2}|², by differences."""
    shape = np.array([[1.0, 0.4], [0.4, 0.5]]) if coupled else np.eye(2)
    scales, distance = np.array([0.2, 3.0]), np.array([1.5, -0.7])
    path = GaussianPath(distance, scales, shape, coupled)

    def covariance(t: float) -> np.ndarray:
        rest = 1.0 - t
        diagonal = rest + t * scales if coupled else np.sqrt(rest**2 + (t * scales) ** 2)
        return np.diag(diagonal) @ shape @ np.diag(diagonal)

    t = np.array([0.1, 0.5, 0.9])
    for where, found in zip(t, path.speed(t, 1 - t), strict=True):
        inverse = np.linalg.inv(covariance(where))
        slope = (covariance(where + 1e-5) - covariance(where - 1e-5)) / 2e-5
        change = inverse @ slope
        square = distance @ inverse @ distance + 0.5 * np.trace(change @ change)
        assert found == pytest.approx(math.sqrt(square), rel=1e-8)
    unit = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    for where in t:
        one, other, middle = path.points(np.full(3, where), unit)
        np.testing.assert_allclose(middle, where * distance, rtol=1e-14)
        factor = np.stack([one - middle, other - middle], axis=1)
        np.testing.assert_allclose(factor @ factor.T, covariance(where), atol=1e-14)
        values = path.density(np.stack([middle, one]), np.array([where]), np.ones(1))
        assert values[1] / values[0] == pytest.approx(math.exp(-0.5), rel=1e-12)
        assert values[0] ** -2 == pytest.approx(
            np.linalg.det(covariance(where)) / np.linalg.det(shape), rel=1e-12
        )


def test_gaussian_that_stays_is_its_own_weight() -> None:
    source, _ = gaussian_pair("general")
    cells = box_cells(2, 8)
    weight = cell_weight(optimal_kind(2), source, source, cells)
    np.testing.assert_allclose(weight.masses, source.cell_masses(cells), atol=1e-10)
    assert weight.method == "closed-form"
    assert 0.0 < weight.relative_error < 1.1e-9


@pytest.mark.parametrize("name", ["general", "space"])
def test_closed_form_agrees_with_segments_of_the_map(name: str) -> None:
    pair = gaussian_pair(name)
    dimension = pair[0].dimension
    cells = box_cells(dimension, {2: 12, 3: 5}[dimension])
    weight = cell_weight(optimal_kind(2, tolerance=1e-4), *pair, cells)
    assert weight.method == "closed-form"
    assert (weight.samples, weight.replicates) == (0, None)
    number = 1 << 16
    sobol = qmc.Sobol(dimension + 1, rng=np.random.default_rng(1))
    starts = pair[0].sample(sobol.random(number))
    matrix = optimal_matrix(pair[0].covariances[0], pair[1].covariances[0])
    ends = pair[1].means[0] + (starts - pair[0].means[0]) @ matrix
    brute = CellBins(cells).deposit_segments(starts, ends, np.full(number, 1 / number))
    assert np.abs(weight.masses - brute).sum() < 4e-3
    assert weight.lost == pytest.approx(1 - brute.sum(), abs=1e-4)
    # Not the weight of independent ends, which is much wider.
    assert np.abs(cell_weight(Interpolates(), *pair, cells).masses - brute).sum() > 0.1


def test_component_without_weight_does_not_prevent_the_closed_form() -> None:
    source, target = gaussian_pair("general")
    with_idle = GaussianMixture(
        np.concatenate([np.zeros((1, 2)), source.means]),
        np.concatenate([np.eye(2)[None], source.covariances]),
        np.array([0.0, 1.0]),
    )
    cells = box_cells(2, 4)
    one, other = (cell_weight(optimal_kind(), m, target, cells) for m in (source, with_idle))
    np.testing.assert_array_equal(one.masses, other.masses)


# --- ray-monotone pairs ------------------------------------------------------------------------


@pytest.mark.parametrize(("dimension", "swapped"), [(2, False), (2, True), (3, False)])
def test_one_funnel_has_its_radial_law(dimension: int, swapped: bool) -> None:
    """σ({s ≤ cR}) = P((1 − t)τᵖ + tτ ≤ c), τᵈ and t uniform, whatever the direction."""
    power = 3.0
    pair = RayMonotonePair(1.0, power, np.zeros((1, dimension)), np.zeros(1))
    measures = [
        RayMonotoneSource(pair),
        UniformBox(np.full(dimension, -1.0), np.full(dimension, 1.0)),
    ]
    number = {2: 16, 3: 8}[dimension]
    cells = box_cells(dimension, number, -1.0, 1.0)
    weight = cell_weight(optimal_kind(1), *measures[:: -1 if swapped else 1], cells)
    assert (weight.method, weight.samples) == ("sampled", 1 << 17)
    assert weight.mass == pytest.approx(1.0, abs=1e-12)
    radius = np.abs(cells.simplices).max(axis=(1, 2))

    def share(tau: float, c: float) -> float:
        slow = tau**power
        part = min(max((c - slow) / max(tau - slow, 1e-300), 0.0), 1.0)
        return dimension * tau ** (dimension - 1) * part

    for c in (0.25, 0.5, 0.75):
        exact = quad(share, 0, 1, args=(c,), points=[c, c ** (1 / power)], limit=200)[0]
        assert weight.masses[radius <= c + 1e-9].sum() == pytest.approx(exact, abs=2e-4)
    # All orthants are alike.
    first = (cells.midpoint > 0.0).all(axis=1)
    assert weight.masses[first].sum() == pytest.approx(0.5**dimension, abs=1e-4)


def test_segments_of_a_pair_lie_on_its_rays_and_cost_its_distance() -> None:
    pair = RayMonotonePair(
        1.5, 4.0, np.array([[0.5, 0.2], [-0.7, -0.9], [-0.2, 1.0]]), np.array([0.1, 0.0, -0.1])
    )
    ends = optimal.RayEnds(pair)
    starts, stops = ends.sample(qmc.Sobol(2, rng=np.random.default_rng(0)).random(1 << 14))
    way = np.linalg.norm(stops - starts, axis=1)
    assert way.mean() == pytest.approx(pair.wasserstein1(), rel=1e-3)
    # The potential falls by the length of the way: each segment lies on a ray.
    fall = pair.potential(starts) - pair.potential(stops)
    np.testing.assert_allclose(fall, way, atol=1e-12)
    uniform = UniformBox(np.full(2, -1.5), np.full(2, 1.5))
    assert np.abs(stops - uniform.sample(np.zeros((1, 2)))).min() >= 0.0
    assert np.abs(stops.mean(axis=0)).max() < 1e-3


def test_only_the_pairs_own_box_and_order_one_use_the_map() -> None:
    pair = RayMonotonePair(0.5, 2.0, np.zeros((1, 2)), np.zeros(1))
    source = RayMonotoneSource(pair)
    box, smaller = (UniformBox(np.full(2, -half), np.full(2, half)) for half in (0.5, 0.4))
    cells = box_cells(2, 4, -0.5, 0.5)

    def method(order: int, target: UniformBox) -> str:
        kind = optimal_kind(order, samples=8 * 16)
        return cell_weight(kind, source, target, cells).method

    assert method(1, box) == "sampled"
    assert method(2, box) == method(1, smaller) == "sampled-plan"


# --- plans of samples --------------------------------------------------------------------------


def test_plans_of_samples_approach_the_closed_form() -> None:
    """What n points get wrong falls with n; whatever the number, each replicate has mass one."""
    pair = gaussian_pair("general")
    cells = box_cells(2, 16, -0.2, 1.2)
    exact = cell_weight(optimal_kind(), *pair, cells)
    errors = []
    for points in (32, 256):
        kind = optimal_kind(rule="segments", samples=REPLICATES * points)
        weight = cell_weight(kind, *pair, cells)
        assert weight.method == "sampled-plan"
        assert weight.details == {"order": 2, "points_per_plan": points}
        assert weight.samples == 1 << 17
        assert weight.replicates is not None
        np.testing.assert_allclose(weight.replicates.sum(axis=1), 1.0, atol=1e-3)
        np.testing.assert_allclose(weight.replicates.mean(axis=0), weight.masses, rtol=1e-14)
        errors.append(np.abs(weight.masses - exact.masses).sum())
        assert errors[-1] < 1.5 * weight.relative_error
    assert errors[0] < 0.12
    assert errors[1] < 0.35 * errors[0]


def test_standard_error_is_honest() -> None:
    """The plan of samples errs by little more than its replicates differ."""
    pair = gaussian_pair("general")
    cells = box_cells(2, 12)
    exact = cell_weight(optimal_kind(), *pair, cells)
    squares, ratios, replicates = [], [], []
    for seed in range(12):
        kind = optimal_kind(rule="segments", samples=REPLICATES * 128, seed=seed)
        weight = cell_weight(kind, *pair, cells)
        assert weight.replicates is not None
        replicates.append(weight.replicates)
        hit = exact.masses > 0.1 / cells.number
        error = weight.masses - exact.masses
        standard_error = weight.replicates.std(axis=0, ddof=1) / math.sqrt(REPLICATES)
        squares.append(np.mean((error[hit] / standard_error[hit]) ** 2))
        ratios.append(np.abs(error).sum() / weight.relative_error)
    # 7/5 and √(2/π) without a bias, as for independent segments.
    assert np.mean(squares) == pytest.approx(1.5, abs=0.4)
    assert np.mean(ratios) == pytest.approx(0.85, abs=0.12)
    # The mean of all shows the bias: a fraction of the standard error of one weight.
    bias = np.abs(np.concatenate(replicates).mean(axis=0) - exact.masses).sum()
    assert bias < 0.5 * weight.relative_error


def test_sampled_plans_are_reproducible_and_depend_on_the_seed() -> None:
    source, target = gaussian_pair("general")
    cells = box_cells(2, 5)
    first, again, other = (
        cell_weight(optimal_kind(1, samples=200, seed=seed), source, target, cells)
        for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first.masses, again.masses)
    assert np.abs(first.masses - other.masses).max() > 1e-4
    assert first.details["points_per_plan"] == 32


def test_every_coupling_with_one_point_is_the_same() -> None:
    """A point is taken whole, with its mass; the other measure moves there."""
    source = GaussianMixture.from_stds(np.array([[0.3, 0.4]]), np.array([0.08]))
    target = point_set([[0.7, 0.6]])
    cells = box_cells(2, 8)
    free = cell_weight(Interpolates(samples=1 << 17), source, target, cells)
    for order, pair in ((1, (source, target)), (2, (target, source))):
        bound = cell_weight(optimal_kind(order, samples=8 * 64), *pair, cells)
        assert bound.method == "sampled-plan"
        assert bound.samples == 1 << 17
        assert np.abs(bound.masses - free.masses).sum() < 2e-3


def test_points_follow_the_points_of_a_plan() -> None:
    source = Points(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0.25, 0.75]))
    target = Points(np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 2.0]]), np.array([0.45, 0.25, 0.3]))
    found = Plan(
        source,
        target,
        np.array([0, 1, 1, 1]),
        np.array([0, 0, 1, 2]),
        np.array([0.25, 0.2, 0.25, 0.3]),
    )
    origin, pair = optimal._followed(found, np.array([1, 0]))
    np.testing.assert_array_equal(origin, [0, 0, 0, 1])
    np.testing.assert_array_equal(pair, [1, 2, 3, 0])
    # Two points follow the first, five the second, which sends 4/15 of its mass to the target 0.
    shares = optimal._shares(found, np.array([2, 5]))
    to_first = 0.45 / (2 + 5 * 4 / 15)
    np.testing.assert_allclose(shares, [to_first, to_first * 4 / 15, 0.05, 0.06], rtol=1e-14)
    # Backwards the targets 1 and 2 send all to the source 1, the target 0 four ninths.
    np.testing.assert_array_equal(found.reversed.rows, [0, 0, 1, 2])
    shares = optimal._shares(found.reversed, np.array([1, 3, 3]))
    parts = np.array([5 / 9, 4 / 9, 1.0, 1.0])
    sums = np.array([5 / 9, *[4 / 9 + 3 + 3] * 3])
    np.testing.assert_allclose(shares, parts * np.array([0.25, 0.75, 0.75, 0.75]) / sums)


def test_two_clouds_swap_no_places() -> None:
    """Upper points go to upper points: the optimal weight leaves the middle empty."""
    source = UniformBox(np.array([0.0, 0.0]), np.array([0.1, 1.0]))
    target = point_set([[0.9, 0.1], [0.9, 0.9]])
    cells = box_cells(2, 10)
    weight = cell_weight(optimal_kind(2, samples=8 * 128), source, target, cells)
    assert weight.mass == pytest.approx(1.0, abs=1e-12)
    upper = cells.midpoint[:, 1] > 0.5
    assert weight.masses[upper].sum() == pytest.approx(0.5, abs=2e-3)
    middle = (np.abs(cells.midpoint[:, 1] - 0.5) < 0.1) & (cells.midpoint[:, 0] > 0.4)
    assert weight.masses[middle].sum() < 1e-2
    free = cell_weight(Interpolates(), source, target, cells)
    assert free.masses[middle].sum() > 0.05


def test_plans_are_repeated_with_more_points_until_the_tolerance_is_met(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = gaussian_pair("general")
    cells = box_cells(2, 8)
    monkeypatch.setattr(optimal, "_FEWEST_POINTS", 16)
    monkeypatch.setattr(optimal, "_MOST_POINTS", 128)
    kind = optimal_kind(1, tolerance=0.06)
    weight = cell_weight(kind, *pair, cells)
    assert weight.relative_error <= 0.06
    assert 16 < weight.details["points_per_plan"] <= 128
    with caplog.at_level(logging.WARNING):
        weight = cell_weight(optimal_kind(1, tolerance=1e-4), *pair, cells)
    assert weight.details["points_per_plan"] == 128
    # More points than these are not to be had.
    assert "after 8 plans of 128 points" in caplog.text
    assert "give a larger weight.tolerance" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        cell_weight(optimal_kind(1, samples=8 * 32, tolerance=1e-4), *pair, cells)
    assert "give more weight.samples or a larger weight.tolerance" in caplog.text


def test_large_sets_of_points_are_sampled_when_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(8)
    source, target = (
        point_set(generator.random((300, 2)) * 0.4),
        point_set(0.5 + 0.4 * generator.random((200, 2))),
    )
    cells = box_cells(2, 6)
    exact = cell_weight(optimal_kind(), source, target, cells)
    assert (exact.method, exact.samples) == ("plan", 499)
    # As long as the plan is not too large, the number of samples does not matter.
    assert cell_weight(optimal_kind(samples=8), source, target, cells).method == "plan"
    monkeypatch.setattr(optimal, "LARGEST_PLAN", 50_000)
    with pytest.raises(
        InputError,
        match=r"weight\.samples: found none for 300 and 200 points; allowed: a number, for plans",
    ):
        cell_weight(optimal_kind(), source, target, cells)
    sampled = cell_weight(optimal_kind(samples=8 * 128), source, target, cells)
    assert sampled.method == "sampled-plan"
    assert np.abs(sampled.masses - exact.masses).sum() < 2.0 * sampled.relative_error < 0.2
    # The smaller set is taken whole where there are enough points.
    mixed = cell_weight(optimal_kind(samples=8 * 256), source, target, cells)
    assert np.abs(mixed.masses - exact.masses).sum() < 2.0 * mixed.relative_error < 0.2


# --- mistakes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mistake:
    """Options that do not go together and what the error says."""

    options: dict[str, object]
    text: str


def test_mistakes_are_named() -> None:
    source, target = gaussian_pair("general")
    cells = box_cells(2, 2)
    both = r'allowed: "auto" or "closed-form" or "segments"$'
    for mistake in (
        Mistake({"rule": "rays"}, rf'^weight\.rule: found "rays", which is not available.*{both}'),
        Mistake({"order": 1, "rule": "closed-form"}, r'allowed: "auto" or "segments"$'),
        Mistake(
            {"rule": "segments", "samples": 100_000},
            r"weight\.samples: found 100000; allowed with optimal coupling: up to 32768",
        ),
        Mistake({"order": 3}, r"weight\.order: found 3; allowed: 1 or 2"),
    ):
        with pytest.raises(InputError, match=mistake.text):
            cell_weight(optimal_kind(**mistake.options), source, target, cells)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="source: found dimension 2; allowed: 3"):
        cell_weight(optimal_kind(), source, target, box_cells(3, 1))
    mixture = GaussianMixture.from_stds(np.array([[0.3, 0.3], [0.4, 0.6]]), 0.1)
    with pytest.raises(InputError, match=r'weight\.rule: found "closed-form"'):
        cell_weight(optimal_kind(rule="closed-form"), mixture, target, cells)
    disguised = cell_weight(optimal_kind(samples=64), Disguised(source), Disguised(target), cells)
    assert disguised.method == "sampled-plan"
