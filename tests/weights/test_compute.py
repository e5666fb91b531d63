"""The weight against closed forms, brute force and itself, and the honesty of its stated error."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.integrate import quad

from congested.errors import InputError
from congested.geometry import Cells, cells_from_arrays, split_simplices
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.quadrature import integrate_over_simplices
from congested.weights import compute
from congested.weights.base import REPLICATES
from congested.weights.compute import cell_weight
from congested.weights.gaussian import interpolates_mixture
from congested.weights.kinds import ConstantWeight, DensityWeight, Interpolates
from congested.weights.segments import default_samples


def box_cells(dimension: int, number: int, lower: float = 0.0, upper: float = 1.0) -> Cells:
    axis = np.linspace(lower, upper, number + 1)
    vertices = np.stack(np.meshgrid(*[axis] * dimension, indexing="ij"), -1).reshape(-1, dimension)
    corner = np.stack(np.meshgrid(*[np.arange(number)] * dimension, indexing="ij"), -1)
    strides = (number + 1) ** np.arange(dimension - 1, -1, -1)
    base = corner.reshape(-1, dimension) @ strides
    simplices = [
        np.stack([base + path for path in np.cumsum([0, *strides[list(order)]])], axis=1)
        for order in itertools.permutations(range(dimension))
    ]
    return cells_from_arrays(vertices, np.concatenate(simplices))


@dataclass(frozen=True)
class Box:
    """Uniform measure of a box, for these tests alone."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]

    @property
    def dimension(self) -> int:
        return len(self.lower)

    @property
    def sample_dimension(self) -> int:
        return len(self.lower)

    def cell_masses(self, cells: Cells, tolerance: float = 1e-10) -> np.ndarray:
        raise AssertionError("segments need samples of a measure, not its masses")

    def sample(self, uniforms: np.ndarray) -> np.ndarray:
        return np.array(self.lower) + uniforms * np.subtract(self.upper, self.lower)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.lower), np.array(self.upper)


class Disguised:
    """A Gaussian mixture that is not known to be one."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.dimension, self.sample_dimension = mixture.dimension, mixture.sample_dimension
        self.sample, self.cell_masses, self.bounds = (
            mixture.sample,
            mixture.cell_masses,
            mixture.bounds,
        )


def point_set(points: list[list[float]] | np.ndarray, weights: list[float] | None = None) -> Points:
    number = len(points)
    return Points(
        np.array(points), np.full(number, 1 / number) if weights is None else np.array(weights)
    )


# --- points ------------------------------------------------------------------------------------


def test_two_points_make_a_uniform_segment() -> None:
    cells = cells_from_arrays(
        np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), np.array([[0, 1, 2], [0, 2, 3]])
    )
    weight = cell_weight(Interpolates(), point_set([[0.1, 0.25]]), point_set([[0.9, 0.25]]), cells)
    np.testing.assert_allclose(weight.masses, [0.65 / 0.8, 0.15 / 0.8], atol=2e-10)
    assert (weight.method, weight.samples) == ("all-pairs", 1)
    assert weight.mass == pytest.approx(1.0, abs=1e-13)
    assert (weight.relative_error, weight.replicates) == (0.0, None)
    assert weight.lost == pytest.approx(0.0, abs=1e-13)


@pytest.mark.parametrize("dimension", [2, 3])
def test_source_that_is_the_target_keeps_an_atom(dimension: int) -> None:
    cells = box_cells(dimension, 4)
    point = point_set(np.full((1, dimension), 0.5))
    weight = cell_weight(Interpolates(), point, point, cells)
    assert np.count_nonzero(weight.masses) == 1
    assert weight.masses.max() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("dimension", [2, 3])
def test_weighted_points_are_the_sum_over_pairs(dimension: int) -> None:
    cells = box_cells(dimension, 5)
    generator = np.random.default_rng(0)
    x, y = generator.random((3, dimension)), generator.random((4, dimension))
    a, b = generator.dirichlet(np.ones(3)), generator.dirichlet(np.ones(4))
    weight = cell_weight(Interpolates(), point_set(x, list(a)), point_set(y, list(b)), cells)
    expected = np.zeros(cells.number)
    for i, j in itertools.product(range(3), range(4)):
        pair = cell_weight(Interpolates(), point_set(x[i : i + 1]), point_set(y[j : j + 1]), cells)
        expected += a[i] * b[j] * pair.masses
    np.testing.assert_allclose(weight.masses, expected, atol=1e-14)
    assert weight.mass == pytest.approx(1.0, abs=1e-13)
    assert weight.samples == 12


def test_many_pairs_of_points_in_chunks() -> None:
    """More pairs than are shared out at a time; the mean position is known exactly."""
    cells = box_cells(2, 40)
    generator = np.random.default_rng(1)
    x, y = generator.random((500, 2)), generator.random((600, 2))
    weight = cell_weight(Interpolates(), point_set(x), point_set(y), cells)
    assert (weight.method, weight.samples) == ("all-pairs", 300_000)
    assert weight.mass == pytest.approx(1.0, abs=1e-12)
    mean = weight.masses @ cells.midpoint
    np.testing.assert_allclose(mean, (x.mean(axis=0) + y.mean(axis=0)) / 2, atol=1e-4)


def test_sampled_pairs_of_points_agree_with_all_pairs() -> None:
    cells = box_cells(2, 10)
    generator = np.random.default_rng(2)
    source, target = point_set(generator.random((300, 2))), point_set(generator.random((200, 2)))
    exact = cell_weight(Interpolates(), source, target, cells)
    sampled = cell_weight(Interpolates(samples=8192), source, target, cells)
    assert (exact.method, sampled.method) == ("all-pairs", "sampled")
    assert np.abs(sampled.masses - exact.masses).sum() < 2 * sampled.relative_error
    assert sampled.relative_error < 0.05


def test_line_across_a_gap_of_the_domain_is_lost() -> None:
    cells = box_cells(2, 4)
    kept = Cells(
        cells.comm,
        cells.simplices[abs(cells.midpoint[:, 0] - 0.5) > 0.25],
        cells.lower,
        cells.upper,
    )
    ends = point_set([[0.1, 0.3]]), point_set([[0.9, 0.3]])
    weight = cell_weight(Interpolates(), *ends, kept)
    assert weight.lost == pytest.approx(0.5 / 0.8, abs=1e-9)
    assert weight.mass == pytest.approx(0.3 / 0.8, abs=1e-9)


def test_tolerance_that_needs_all_pairs_gets_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "ALL_PAIRS", 100)
    cells = box_cells(2, 4)
    generator = np.random.default_rng(3)
    source, target = point_set(generator.random((40, 2))), point_set(generator.random((50, 2)))
    weight = cell_weight(Interpolates(tolerance=1e-8), source, target, cells)
    assert (weight.method, weight.samples, weight.relative_error) == ("all-pairs", 2000, 0.0)
    assert weight.mass == pytest.approx(1.0, abs=1e-13)
    loose = cell_weight(Interpolates(tolerance=0.5), source, target, cells)
    assert loose.method == "sampled"


# --- Gaussian mixtures -------------------------------------------------------------------------


def brute_density(
    source: GaussianMixture, target: GaussianMixture, points: np.ndarray
) -> np.ndarray:
    """Gauss quadrature with 2,400 points in t, graded to both ends."""
    x, w = np.polynomial.legendre.leggauss(120)
    halves = 0.5 * np.concatenate([[0.0], 2.0 ** np.arange(-9.0, 1.0)])
    edges = np.concatenate([halves, 1.0 - halves[-2::-1]])
    t = (edges[:-1, None] + 0.5 * (x + 1) * np.diff(edges)[:, None]).ravel()
    w = (0.5 * w * np.diff(edges)[:, None]).ravel()
    result = np.zeros(len(points))
    for i, j in itertools.product(range(len(source.means)), range(len(target.means))):
        mean = (1 - t)[:, None] * source.means[i] + t[:, None] * target.means[j]
        covariance = (1 - t)[:, None, None] ** 2 * source.covariances[i]
        covariance = covariance + t[:, None, None] ** 2 * target.covariances[j]
        precision = np.linalg.inv(covariance)
        factor = w / np.sqrt(np.linalg.det(2 * np.pi * covariance))
        assert source.weights is not None
        assert target.weights is not None
        factor *= source.weights[i] * target.weights[j]
        for k, point in enumerate(points):
            offset = point - mean
            exponent = np.einsum("ti,tij,tj->t", offset, precision, offset)
            result[k] += factor @ np.exp(-0.5 * exponent)
    return result


ANISOTROPIC = GaussianMixture(
    np.array([[0.3, 0.4], [0.7, 0.6]]),
    np.array([[[0.01, 0.004], [0.004, 0.005]], [[0.002, 0.0], [0.0, 0.02]]]),
    np.array([0.3, 0.7]),
)
PAIRS = {
    "separated": ([[0.3, 0.35]], [0.08], [[0.7, 0.6]], [0.05]),
    "concentric": ([[0.5, 0.5]], [0.05], [[0.5, 0.5]], [0.15]),
    "far": ([[0.1, 0.2]], [0.01], [[0.9, 0.7]], [0.01]),
    "sharp": ([[0.5, 0.5]], [0.1], [[0.55, 0.52]], [0.001]),
    "space": ([[0.3, 0.3, 0.4]], [0.08], [[0.6, 0.7, 0.5]], [0.12]),
    "several": ([[0.2, 0.2], [0.8, 0.3]], [0.1, 0.06], [[0.5, 0.8], [0.4, 0.1]], [0.07, 0.2]),
}


def mixtures(name: str) -> tuple[GaussianMixture, GaussianMixture]:
    if name == "anisotropic":
        return ANISOTROPIC, GaussianMixture.from_stds(np.array([[0.6, 0.3]]), np.array([0.1]))
    values = [np.array(value) for value in PAIRS[name]]
    return (
        GaussianMixture.from_stds(values[0], values[1]),
        GaussianMixture.from_stds(values[2], values[3]),
    )


@pytest.mark.parametrize("name", [*PAIRS, "anisotropic"])
def test_quadrature_in_t_keeps_its_stated_error(name: str) -> None:
    source, target = mixtures(name)
    generator = np.random.default_rng(3)
    # Samples of the law itself: the mean relative error is the error of the density in L¹.
    t = generator.random((200, 1))
    x = source.sample(generator.random((200, source.sample_dimension)))
    y = target.sample(generator.random((200, target.sample_dimension)))
    points = (1 - t) * x + t * y
    brute = brute_density(source, target, points)
    for tolerance in (1e-3, 1e-6, 1e-9):
        mixture, stated = interpolates_mixture(source, target, tolerance)
        assert stated <= tolerance
        error = np.mean(np.abs(mixture.density(points) / brute - 1))
        assert error <= 1.5 * stated + 1e-13


@pytest.mark.parametrize("dimension", [2, 3])
def test_concentric_gaussians_have_the_radial_density(dimension: int) -> None:
    first, second = 0.3, 0.1
    mixture, _ = interpolates_mixture(
        GaussianMixture.from_stds(np.zeros((1, dimension)), np.array([first])),
        GaussianMixture.from_stds(np.zeros((1, dimension)), np.array([second])),
        1e-10,
    )

    def along(t: float, radius: float) -> float:
        variance = (1 - t) ** 2 * first**2 + t**2 * second**2
        return math.exp(-(radius**2) / (2 * variance)) / (2 * math.pi * variance) ** (dimension / 2)

    for radius in (0.0, 0.05, 0.2, 0.6):
        point = np.zeros((1, dimension))
        point[0, -1] = radius
        exact = quad(along, 0, 1, args=(radius,), epsabs=0, epsrel=1e-12)[0]
        assert mixture.density(point)[0] == pytest.approx(exact, rel=1e-9)


def test_cell_masses_of_gaussians_agree_with_brute_force() -> None:
    source, target = mixtures("anisotropic")
    cells = box_cells(2, 6)
    weight = cell_weight(Interpolates(), source, target, cells)
    chosen = [20, 33, 50]
    brute = integrate_over_simplices(
        lambda points: brute_density(source, target, points), cells.simplices[chosen], 5e-9
    )
    np.testing.assert_allclose(weight.masses[chosen], brute, atol=6e-9)
    assert weight.masses[chosen].max() > 0.1
    assert weight.method == "closed-form"
    assert 0.0 < weight.relative_error <= 1.1e-9
    assert (weight.samples, weight.replicates) == (0, None)


@pytest.mark.parametrize(
    ("name", "dimension", "tolerance"),
    [("separated", 2, 1e-9), ("sharp", 2, 1e-9), ("space", 3, 1e-6)],
)
def test_closed_form_has_mass_one_and_adds_up_under_refinement(
    name: str, dimension: int, tolerance: float
) -> None:
    source, target = mixtures(name)
    cells = box_cells(dimension, 5, -1.0, 2.0)
    kind = Interpolates(tolerance=tolerance)
    weight = cell_weight(kind, source, target, cells)
    assert weight.mass == pytest.approx(1.0, abs=2 * tolerance)
    fine = Cells(cells.comm, split_simplices(cells.simplices), cells.lower, cells.upper)
    fine_masses = cell_weight(kind, source, target, fine).masses
    summed = fine_masses.reshape(cells.number, -1).sum(axis=1)
    assert np.abs(summed - weight.masses).sum() < 2 * tolerance


def test_sampling_agrees_with_the_closed_form() -> None:
    source, target = mixtures("several")
    cells = box_cells(2, 12)
    exact = cell_weight(Interpolates(), source, target, cells)
    sampled = cell_weight(
        Interpolates(samples=1 << 15), Disguised(source), Disguised(target), cells
    )
    assert sampled.method == "sampled"
    assert np.abs(sampled.masses - exact.masses).sum() < 1.5 * sampled.relative_error
    assert sampled.relative_error < 0.02
    # What lies outside is lost, by both rules alike.
    assert exact.lost == pytest.approx(1.0 - exact.mass, abs=1e-15)
    assert 0.01 < exact.lost < 0.1
    assert sampled.lost == pytest.approx(exact.lost, abs=5e-4)


# --- sampling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [2, 3])
def test_standard_error_is_honest(dimension: int) -> None:
    cells = box_cells(dimension, 16 if dimension == 2 else 6)
    source = Box((0.1,) * dimension, (0.4,) * dimension)
    target = Box((0.5,) * dimension, (0.9, 0.8, 0.7)[:dimension])
    large = cell_weight(Interpolates(samples=1 << 18, seed=99), source, target, cells)
    squares, ratios = [], []
    for seed in range(10):
        small = cell_weight(Interpolates(samples=1 << 12, seed=seed), source, target, cells)
        assert small.replicates is not None
        assert small.replicates.shape == (REPLICATES, cells.number)
        np.testing.assert_allclose(small.replicates.mean(axis=0), small.masses, rtol=1e-14)
        np.testing.assert_allclose(small.replicates.sum(axis=1), 1.0, atol=1e-12)
        assert small.relative_error > 5 * large.relative_error
        hit = small.masses > 0.1 / cells.number
        error = small.masses - large.masses
        standard_error = small.replicates.std(axis=0, ddof=1) / math.sqrt(REPLICATES)
        squares.append(np.mean((error[hit] / standard_error[hit]) ** 2))
        ratios.append(np.abs(error).sum() / small.relative_error)
    # With 8 replicates, error over standard error follows Student's t with 7 degrees of freedom,
    # whose second moment is 7/5; the mean of |error| is √(2/π) = 0.8 true standard deviations.
    assert np.mean(squares) == pytest.approx(1.4, abs=0.4)
    assert np.mean(ratios) == pytest.approx(0.83, abs=0.12)


def test_sampling_is_reproducible_and_depends_on_the_seed() -> None:
    cells = box_cells(2, 8)
    source, target = Box((0.1, 0.1), (0.4, 0.5)), point_set([[0.8, 0.8], [0.6, 0.2]])
    first, again, other = (
        cell_weight(Interpolates(samples=1000, seed=seed), source, target, cells)
        for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first.masses, again.masses)
    assert np.abs(first.masses - other.masses).max() > 1e-5
    assert first.samples == 1024


def test_samples_do_not_depend_on_the_mesh() -> None:
    cells = box_cells(2, 7)
    fine = Cells(cells.comm, split_simplices(cells.simplices), cells.lower, cells.upper)
    measures = Box((0.1, 0.1), (0.4, 0.5)), Box((0.3, 0.6), (0.9, 0.9))
    kind = Interpolates(samples=4096)
    coarse_masses = cell_weight(kind, *measures, cells).masses
    fine_masses = cell_weight(kind, *measures, fine).masses
    summed = fine_masses.reshape(cells.number, -1).sum(axis=1)
    np.testing.assert_allclose(summed, coarse_masses, atol=1e-12)


def test_what_the_samples_have_outside_is_lost() -> None:
    """Half of the target is outside; of a segment to it the part (1 − x)/(y − x) is inside."""
    source, target = Box((0.0, 0.4), (0.5, 0.6)), Box((0.5, 0.4), (1.5, 0.6))
    weight = cell_weight(Interpolates(samples=1 << 14), source, target, box_cells(2, 4))

    def outside(y: float) -> float:
        # ∫ (y − 1)/(y − x) dx/0.5 over x in [0, 0.5]
        return (y - 1.0) / 0.5 * math.log(y / (y - 0.5))

    assert weight.lost == pytest.approx(quad(outside, 1.0, 1.5)[0], abs=1e-4)
    assert weight.mass == pytest.approx(1.0 - weight.lost, abs=1e-14)


def test_default_number_of_samples() -> None:
    assert default_samples(100, 2) == 1 << 17
    assert default_samples(100_000, 2) == 1 << 18
    assert default_samples(48_000, 3) == 1 << 19
    assert default_samples(10_000_000, 3) == 1 << 20


# --- given weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [2, 3])
def test_constant_weight(dimension: int) -> None:
    cells = box_cells(dimension, 3, 0.0, 2.0)
    point = point_set(np.ones((1, dimension)))
    weight = cell_weight(ConstantWeight(), point, point, cells)
    np.testing.assert_allclose(weight.masses, cells.volume / 2**dimension, rtol=1e-13)
    assert (weight.method, weight.relative_error, weight.lost) == ("constant", 0.0, 0.0)
    weight = cell_weight(ConstantWeight(3.0), point, point, cells)
    np.testing.assert_allclose(weight.masses, 3.0 * cells.volume, rtol=1e-15)
    assert weight.mass == pytest.approx(3.0 * 2**dimension)


def test_density_weight_integrates_the_density() -> None:
    cells = box_cells(2, 3)
    point = point_set([[0.5, 0.5]])
    weight = cell_weight(DensityWeight(lambda x: np.exp(x[:, 0])), point, point, cells)
    exact = np.zeros(cells.number)
    for k, simplex in enumerate(cells.simplices):
        # ∫_T exp(x₁) dx is the volume times twice the divided difference of exp at the x₁.
        low, middle, high = np.sort(simplex[:, 0])
        assert middle in (low, high)
        step = high - low
        slope = (math.exp(high) - math.exp(low)) / step
        end = math.exp(middle)
        exact[k] = 2 * cells.volume[k] * abs(slope - end) / step
    np.testing.assert_allclose(weight.masses, exact, atol=1e-10)
    assert weight.method == "density"
    assert weight.mass == pytest.approx(math.e - 1, abs=1e-9)
    assert weight.relative_error == pytest.approx(1e-9 / (math.e - 1))


# --- mistakes ----------------------------------------------------------------------------------


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match=r'weight\.coupling: found "best"; allowed: "indep'):
        Interpolates(coupling="best")
    with pytest.raises(InputError, match=r"weight\.samples: found 0; allowed: >= 1"):
        Interpolates(samples=0)
    with pytest.raises(InputError, match=r"weight\.seed: found -1; allowed: >= 0"):
        Interpolates(seed=-1)
    with pytest.raises(InputError, match=r"weight\.tolerance: found 0; allowed: from 1e-13 to 1"):
        Interpolates(tolerance=0.0)
    with pytest.raises(InputError, match=r"weight\.density: found -2; allowed: > 0"):
        ConstantWeight(-2.0)
    with pytest.raises(InputError, match=r"weight\.density: found nan; allowed: > 0"):
        ConstantWeight(math.nan)


def test_wrong_measures_and_densities_are_refused() -> None:
    plane, space = box_cells(2, 2), box_cells(3, 1)
    point = point_set([[0.5, 0.5]])
    with pytest.raises(InputError, match="source: found dimension 2; allowed: 3"):
        cell_weight(Interpolates(), point, point, space)
    negative = DensityWeight(lambda x: x[:, 0] - 0.5)
    with pytest.raises(InputError, match=r"weight\.density: found -0\..* allowed: >= 0"):
        cell_weight(negative, point, point, plane)
    with pytest.raises(InputError, match="not finite"):
        cell_weight(DensityWeight(lambda x: x[:, 0] * np.nan), point, point, plane)
