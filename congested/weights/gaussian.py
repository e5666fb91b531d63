"""The law of points on segments between two Gaussian mixtures, as a Gaussian mixture again.

For two Gaussians N(m, S), N(n, R) the law is ∫₀¹ N((1−t) m + t n, S_t) dt with

- S_t = (1−t)² S + t² R where the ends of a segment are independent, and
- S_t = C_t S C_t, C_t = (1−t) I + t A, where they are coupled optimally for the square of the
  distance: the optimal map is affine, with the positive definite matrix A that has A S A = R.

In suitable coordinates both are S_t = D_t Σ D_t with diagonal matrices D_t: in the first case in
those where S and R are both diagonal (Σ = I), in the second along the axes of A. (The S_t of the
second case are not all diagonal in any coordinates, unless S and R commute.) A quadrature in t
makes the law a mixture. The integrand's scale in t varies widely (its variance may go down to that
of the smaller Gaussian within a small part of the interval), so the panels of the quadrature are
chosen of equal length in the Fisher–Rao metric, in which N(m, S) changes at the rate
|S^{−1/2} m'|² + ½ |S^{−1/2} S' S^{−1/2}|².
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from congested.errors import NotConverged
from congested.geometry import Cells, FloatArray
from congested.measures.gaussian_mixture import GaussianMixture
from congested.weights.base import CellWeight, summed

# Error of the cell masses unless the user asks for another.
_TOLERANCE = 1e-9
# Fisher–Rao length of a panel; found to need the fewest points for errors from 1e-6 to 1e-12.
_PANEL_LENGTH = 5.0
# Gauss points per panel that are tried; the error of one is seen from the next.
_PANEL_POINTS = (6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 40, 48, 64)
# Points at which two rules are compared, drawn from the law itself.
_CHECK_POINTS = 512


@dataclass(frozen=True)
class GaussianPath:
    """Gaussians N(t · distance, D_t Σ D_t), 0 ≤ t ≤ 1, with diagonal D_t from D_0 = I to D_1.

    Attributes
    ----------
    distance
        Mean (d,) at t = 1; at t = 0 it is zero.
    scales
        Diagonal (d,) of D_1, positive.
    shape
        Σ (d, d), the covariance at t = 0.
    coupled
        Whether D_t = (1−t) I + t D_1 (the ends of a segment determine each other); otherwise
        D_t² = (1−t)² I + t² D_1² (they are independent; then Σ = I).
    """

    distance: FloatArray
    scales: FloatArray
    shape: FloatArray
    coupled: bool

    def scales_at(self, t: FloatArray, rest: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the diagonal of D_t and its logarithmic derivative in t, (k, d) both.

        Parameters
        ----------
        t, rest
            t and 1 − t (k,), each with all its digits.
        """
        t, rest = t[:, None], rest[:, None]
        if self.coupled:
            scales = rest + t * self.scales
            return scales, (self.scales - 1.0) / scales
        variance = rest**2 + t**2 * self.scales**2
        return np.sqrt(variance), (t * self.scales**2 - rest) / variance

    def speed(self, t: FloatArray, rest: FloatArray) -> FloatArray:
        """Return the rate (k,) of change in the Fisher–Rao metric; arguments as `scales_at`."""
        scales, change = self.scales_at(t, rest)
        inverse = np.linalg.inv(self.shape)
        velocity = self.distance / scales
        # With G = D'D⁻¹: ½ |S^{−1/2} S' S^{−1/2}|² = tr G² + tr Σ⁻¹GΣG.
        mixed = change @ (inverse * self.shape + np.eye(len(self.distance)))
        return np.sqrt(((velocity @ inverse) * velocity + mixed * change).sum(axis=1))

    def points(self, t: FloatArray, normal: FloatArray) -> FloatArray:
        """Map standard normal vectors (k, d) to points of the Gaussians at t (k,)."""
        scales, _ = self.scales_at(t, 1.0 - t)
        return t[:, None] * self.distance + scales * (normal @ np.linalg.cholesky(self.shape).T)

    def density(self, points: FloatArray, t: FloatArray, weights: FloatArray) -> FloatArray:
        """Return Σ_k weights_k N_{t_k} at points (m, d), up to a constant factor."""
        scales, _ = self.scales_at(t, 1.0 - t)
        offset = (points[:, None, :] - t[:, None] * self.distance) / scales
        whitened = offset @ np.linalg.inv(np.linalg.cholesky(self.shape)).T
        return np.exp(-0.5 * (whitened**2).sum(axis=2)) @ (weights / scales.prod(axis=1))


def closed_form_weight(
    source: GaussianMixture,
    target: GaussianMixture,
    cells: Cells,
    tolerance: float | None,
    *,
    coupled: bool = False,
) -> CellWeight:
    """Return the weight of two Gaussian mixtures (collective).

    Parameters
    ----------
    source, target
        The mixtures; single Gaussians if `coupled`.
    cells
        The cells.
    tolerance
        Error allowed in total; None: 1e-9.
    coupled
        Whether the ends of a segment are coupled optimally (see `displacement_mixture`) and not
        independent.
    """
    share = 0.5 * (tolerance or _TOLERANCE)
    make = displacement_mixture if coupled else interpolates_mixture
    mixture, error = make(source, target, share)
    masses = mixture.cell_masses(cells, share)
    return summed(cells, "closed-form", masses, error=error + share, whole=1.0)


def interpolates_mixture(
    source: GaussianMixture, target: GaussianMixture, tolerance: float
) -> tuple[GaussianMixture, float]:
    """Approximate the law of the interpolates of two Gaussian mixtures by a Gaussian mixture.

    Parameters
    ----------
    source, target
        The mixtures.
    tolerance
        Error allowed in the L¹ norm of the density. The error of a rule is measured as its
        L¹ difference (estimated at 512 samples of the law) from a rule with more points.

    Returns
    -------
    tuple
        The mixture, and the L¹ error measured.

    Raises
    ------
    NotConverged
        If no rule meets the tolerance.
    """
    means, covariances, weights = [], [], []
    total_error = 0.0
    assert source.weights is not None
    assert target.weights is not None
    for i in np.flatnonzero(source.weights):
        for j in np.flatnonzero(target.weights):
            first = (source.means[i], source.covariances[i])
            second = (target.means[j], target.covariances[j])
            path, _ = independent_path(*first, *second)
            t, t_weights, error = _quadrature_in_t(path, tolerance)
            weight = source.weights[i] * target.weights[j]
            means.append(_interpolate(t, first[0], second[0]))
            covariances.append(_interpolate_squared(t, first[1], second[1]))
            weights.append(weight * t_weights)
            total_error += weight * error
    mixture = GaussianMixture(
        np.concatenate(means), np.concatenate(covariances), np.concatenate(weights)
    )
    return mixture, total_error


def displacement_mixture(
    source: GaussianMixture, target: GaussianMixture, tolerance: float
) -> tuple[GaussianMixture, float]:
    """Approximate the time average of the displacement interpolation of two Gaussians.

    It is the law of (1 − t) X + t Y with (X, Y) from the plan that minimises E|X − Y|², t uniform.

    Parameters
    ----------
    source, target
        Mixtures in which one component has all the weight.
    tolerance, returns and raises
        As for `interpolates_mixture`.
    """
    (m, s), (n, r) = single_gaussian(source), single_gaussian(target)
    matrix = optimal_matrix(s, r)
    # Along the axes of A the covariance at t is D_t Σ D_t, Σ the source's.
    scales, axes = eigh(matrix)
    path = GaussianPath(axes.T @ (n - m), scales, axes.T @ s @ axes, coupled=True)
    t, weights, error = _quadrature_in_t(path, tolerance)
    factors = (1.0 - t)[:, None, None] * np.eye(len(m)) + t[:, None, None] * matrix
    covariances = factors @ s @ factors
    covariances = 0.5 * (covariances + np.swapaxes(covariances, 1, 2))
    return GaussianMixture(_interpolate(t, m, n), covariances, weights), error


def is_single_gaussian(mixture: GaussianMixture) -> bool:
    """Return whether one component has all the weight."""
    assert mixture.weights is not None
    return np.count_nonzero(mixture.weights) == 1


def single_gaussian(mixture: GaussianMixture) -> tuple[FloatArray, FloatArray]:
    """Return mean (d,) and covariance (d, d) of the component that has all the weight."""
    assert mixture.weights is not None
    component = int(np.argmax(mixture.weights))
    return mixture.means[component], mixture.covariances[component]


def optimal_matrix(start: FloatArray, end: FloatArray) -> FloatArray:
    """Return the symmetric positive definite matrix A (d, d) with A S A = R.

    x ↦ n + A (x − m) is the optimal map from N(m, S) to N(n, R) for the square of the distance
    (Dowson & Landau, J. Multivariate Anal. 1982).

    Parameters
    ----------
    start, end
        Covariances S and R (d, d).
    """
    factor = np.linalg.cholesky(start)
    values, vectors = eigh(factor.T @ end @ factor)
    half = np.linalg.solve(factor.T, vectors)
    return (half * np.sqrt(np.maximum(values, 0.0))) @ half.T


def independent_path(
    m: FloatArray, s: FloatArray, n: FloatArray, r: FloatArray
) -> tuple[GaussianPath, FloatArray]:
    """Return the path from N(m, S) to N(n, R) with independent ends, and its coordinates.

    Parameters
    ----------
    m, s, n, r
        Means (d,) and covariances (d, d).

    Returns
    -------
    tuple
        The path in the coordinates V'(x − m), and V (d, d): V' S V = 1, V' R V = D_1².
    """
    ratio, basis = eigh(r, s)
    return GaussianPath(basis.T @ (n - m), np.sqrt(ratio), np.eye(len(m)), coupled=False), basis


def _interpolate(t: FloatArray, start: FloatArray, end: FloatArray) -> FloatArray:
    return start + t[:, None] * (end - start)


def _interpolate_squared(t: FloatArray, start: FloatArray, end: FloatArray) -> FloatArray:
    return (1.0 - t)[:, None, None] ** 2 * start + t[:, None, None] ** 2 * end


def _quadrature_in_t(path: GaussianPath, tolerance: float) -> tuple[FloatArray, FloatArray, float]:
    """Return points, weights and L¹ error of a rule for the integral of N_t over t."""
    edges = panels(path, _PANEL_LENGTH)
    points = law_samples(path)
    coarse = None
    for number in _PANEL_POINTS:
        x, w = np.polynomial.legendre.leggauss(number)
        lengths = np.diff(edges)
        t = (edges[:-1, None] + 0.5 * (x + 1.0) * lengths[:, None]).ravel()
        weights = (0.5 * w * lengths[:, None]).ravel()
        values = path.density(points, t, weights)
        if coarse is not None:
            # The points are samples of the law: the mean of |p − q|/q is the L¹ norm of p − q.
            error = float(np.mean(np.abs(coarse[2] / values - 1.0)))
            if error <= tolerance:
                return coarse[0], coarse[1], error
        coarse = (t, weights, values)
    raise NotConverged(
        f"the quadrature of the weight of two Gaussians stopped at the error {error:.3g} with "
        f"{len(t)} points; allow a larger weight tolerance than {tolerance:.3g}"
    )


def panels(path: GaussianPath, longest: float) -> FloatArray:
    """Return the ends of panels in t of equal Fisher–Rao length, at most `longest`."""
    # t = 1/(1 + exp(−z)) resolves both ends of the interval, however small a variance is there.
    z = np.linspace(-36.0, 36.0, 4001)
    t, rest = 1.0 / (1.0 + np.exp(-z)), 1.0 / (1.0 + np.exp(z))
    speed = path.speed(t, rest) * t * rest
    steps = 0.5 * (speed[1:] + speed[:-1]) * np.diff(z)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    number = max(1, int(np.ceil(length[-1] / longest)))
    edges = np.interp(np.linspace(0.0, length[-1], number + 1), length, t)
    edges[0], edges[-1] = 0.0, 1.0
    return edges


def law_samples(path: GaussianPath) -> FloatArray:
    """Return samples (m, d) of the law, the same ones every time."""
    generator = np.random.default_rng(0)
    t = (np.arange(_CHECK_POINTS) + generator.random(_CHECK_POINTS)) / _CHECK_POINTS
    return path.points(t, generator.standard_normal((_CHECK_POINTS, len(path.distance))))
