r"""Rigorous bounds of the weight from below at every point, and from them of 1/σ from above.

Bounds for the original densities need 1/σ inside every cell, where quadrature of σ is no help. Two
inequalities give a polynomial above it on every cell:

- **Jensen.** On a panel P of the interval of t, the mean of the density N_t(x) of an interpolate is
  at least exp of the mean of log N_t(x), which is a concave quadratic function of x. The panels
  together give σ ≥ Σ_k E_k with log-concave E_k. With panels of equal Fisher–Rao length L, half the
  variance of log N_t over a panel is lost, about L²/24 of the weight. The means over t are smooth
  integrals, computed to rounding.
- **Cauchy–Schwarz.** 1/Σ_k E_k ≤ Σ_k θ_k²/E_k for all θ_k ≥ 0 with sum one, and each 1/E_k is
  bounded by a polynomial of degree two. The θ_k of a cell are those that make the mean of the sum
  smallest, inversely proportional to the means of the polynomials: what is lost is of the order h².
  Components may be left out (θ_k = 0), so nothing overflows where another one is larger.

1/E_k = exp q with a convex quadratic q, whose Bernstein coefficients of degree two are
q_ij = c + z_i·z_j/2, z the affine function with q = c + |z|²/2. Two bounds are known, and the one
with the smaller mean is taken:

- exp q ≤ Σ_α B_α exp q_α, since exp is convex and the B_α ≥ 0 sum to one. It never overflows before
  exp q does.
- With q = q_c + l + r, q_c the value at the midpoint, l affine, r ≥ 0 its quadratic rest and b the
  largest value of s = l + r: exp s ≤ 1 + s + γ s² with γ = (eᵇ − 1 − b)/b², since
  (eˢ − 1 − s)/s² increases with s, and s² ≤ l² + (2 max l + max r) r. Its error is of third order.
  It is not taken where a coefficient would be negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from congested.compiled import compiler
from congested.geometry import EDGES, FloatArray
from congested.measures.base import Measure
from congested.measures.gaussian_mixture import GaussianMixture
from congested.weights.gaussian import GaussianPath, independent_path, law_samples, panels
from congested.weights.kinds import (
    ConstantWeight,
    Interpolates,
    MeasureWeight,
    MixtureWeight,
    Weight,
)

compiled = compiler(__file__)

# Gauss points for means over a panel: the integrands are analytic and change little on it.
_PANEL_POINTS = 12
# Panels of an interval in t, at most; beyond that the loss is larger than asked for.
_MOST_PANELS = 5000
# Where log σ is below this at a vertex, 1/σ is taken for infinite.
_SMALLEST_EXPONENT = -650.0
# Where 1/E_k varies by less than this exponent, its quadratic bound is the better one.
_SURELY_QUADRATIC = 0.3
# A component is left out of a cell where another one exceeds it by the factor e²⁰ at all vertices.
_NEGLIGIBLE_EXPONENT = 20.0


@dataclass(frozen=True, eq=False)
class LogConcaveSum:
    """Σ_k exp(log_factors_k − |whitening_k (x − centers_k)|²/2), a lower bound of a weight.

    Attributes
    ----------
    centers
        Points (k, d).
    whitening
        Matrices (k, d, d).
    log_factors
        Numbers (k,).
    loss
        L¹ distance from the weight over its mass, as seen at samples of it; 0 if there is none.
    """

    centers: FloatArray
    whitening: FloatArray
    log_factors: FloatArray
    loss: float

    def inverse_coefficients(self, simplices: FloatArray) -> FloatArray:
        """Return numbers g (n, k) with 1/σ ≤ Σ_α g_α B_α, B Bernstein's basis of degree two.

        Parameters
        ----------
        simplices
            Vertices (n, d+1, d).

        Returns
        -------
        numpy.ndarray
            Coefficients of the λ_i² first and then of the 2λ_iλ_j, pairs in the order `EDGES`;
            infinite where the density may be too small for 1/σ to be a float.
        """
        axes = tuple(range(simplices.shape[2]))
        corners = range(len(axes) + 1)
        pairs = tuple((corner, corner) for corner in corners) + EDGES[len(axes)]
        result: FloatArray = _inverse_coefficients(
            np.ascontiguousarray(simplices),
            axes,
            pairs,
            self.centers,
            self.whitening,
            self.log_factors,
        )
        return result


def has_lower_bound(weight: Weight, source: Measure, target: Measure) -> bool:
    """Return whether `weight_from_below` knows a lower bound of the weight.

    It does for constant weights, for Gaussian mixtures, for the interpolates of two of these with
    independent coupling, and for mixtures of such weights.
    """
    if isinstance(weight, MixtureWeight):
        return all(has_lower_bound(part, source, target) for part in weight.parts)
    if isinstance(weight, Interpolates) and weight.coupling == "independent":
        return isinstance(source, GaussianMixture) and isinstance(target, GaussianMixture)
    return isinstance(weight, ConstantWeight) or (
        isinstance(_own_measure(weight, source, target), GaussianMixture)
    )


def _own_measure(weight: Weight, source: Measure, target: Measure) -> Measure | None:
    """Return the measure that a weight is, None if it is something else."""
    if isinstance(weight, MeasureWeight):
        return weight.measure
    if isinstance(weight, Interpolates):
        return {"source": source, "target": target}.get(weight.coupling)
    return None


def weight_from_below(
    weight: Weight, source: Measure, target: Measure, volume: float, tolerance: float
) -> LogConcaveSum | None:
    """Return a lower bound of a weight, None where none is known (see `has_lower_bound`).

    Parameters
    ----------
    weight
        The weight.
    source, target
        The measures μ and ν.
    volume
        Volume of the domain, over which a constant weight without a density is spread.
    tolerance
        Part of the weight that the bound may lose.
    """
    dimension = source.dimension
    if isinstance(weight, ConstantWeight):
        density = 1.0 / volume if weight.density is None else weight.density
        return LogConcaveSum(
            np.zeros((1, dimension)),
            np.zeros((1, dimension, dimension)),
            np.array([math.log(density)]),
            0.0,
        )
    if isinstance(weight, MixtureWeight):
        known = []
        for kind in weight.parts:
            part = weight_from_below(kind, source, target, volume, tolerance)
            if part is None:
                return None
            known.append(part)
        assert weight.shares is not None
        return _combined(known, weight.shares)
    own = _own_measure(weight, source, target)
    if isinstance(own, GaussianMixture):
        return LogConcaveSum(*own.exponents(), loss=0.0)
    if isinstance(weight, Interpolates) and weight.coupling == "independent":
        if isinstance(source, GaussianMixture) and isinstance(target, GaussianMixture):
            return interpolates_from_below(source, target, tolerance)
    return None


def _combined(parts: Sequence[LogConcaveSum], shares: Sequence[float]) -> LogConcaveSum:
    """Return Σ_k share_k part_k."""
    return LogConcaveSum(
        np.concatenate([part.centers for part in parts]),
        np.concatenate([part.whitening for part in parts]),
        np.concatenate(
            [math.log(share) + part.log_factors for share, part in zip(shares, parts, strict=True)]
        ),
        sum(share * part.loss for share, part in zip(shares, parts, strict=True)),
    )


def interpolates_from_below(
    source: GaussianMixture, target: GaussianMixture, tolerance: float
) -> LogConcaveSum:
    """Return a lower bound of the law of the interpolates of two Gaussian mixtures.

    Parameters
    ----------
    source, target
        The mixtures, coupled independently.
    tolerance
        Part of the weight that the bound may lose; less than 1e-8 or so takes very many panels,
        and their number is limited.
    """
    assert source.weights is not None
    assert target.weights is not None
    parts, shares = [], []
    for i in np.flatnonzero(source.weights):
        for j in np.flatnonzero(target.weights):
            first = (source.means[i], source.covariances[i])
            second = (target.means[j], target.covariances[j])
            parts.append(_pair_from_below(*first, *second, tolerance))
            shares.append(float(source.weights[i] * target.weights[j]))
    return _combined(parts, shares)


def _pair_from_below(
    m: FloatArray, s: FloatArray, n: FloatArray, r: FloatArray, tolerance: float
) -> LogConcaveSum:
    """Return a lower bound of ∫₀¹ N((1−t)m + tn, (1−t)²S + t²R) dt."""
    path, basis = independent_path(m, s, n, r)
    samples = law_samples(path)
    x, w = np.polynomial.legendre.leggauss(64)
    fine = panels(path, 5.0)
    t = (fine[:-1, None] + 0.5 * (x + 1.0) * np.diff(fine)[:, None]).ravel()
    exact = path.density(samples, t, (0.5 * w * np.diff(fine)[:, None]).ravel())
    longest = math.sqrt(24.0 * tolerance)
    while True:
        edges = panels(path, longest)
        centres, precisions, log_factors = _panel_means(edges, path)
        exponents = log_factors - 0.5 * (precisions * (samples[:, None] - centres) ** 2).sum(axis=2)
        loss = float(np.mean(1.0 - np.exp(exponents).sum(axis=1) / exact))
        if loss <= tolerance or len(edges) > _MOST_PANELS:
            break
        longest *= min(0.9, math.sqrt(tolerance / loss))
    # Back to x: the coordinates above are V'(x − m), and V' has the inverse S V.
    return LogConcaveSum(
        m + centres @ (s @ basis).T,
        np.sqrt(precisions)[:, :, None] * basis.T,
        log_factors - 0.5 * (len(m) * math.log(2.0 * math.pi) + np.linalg.slogdet(s)[1]),
        loss,
    )


def _panel_means(
    edges: FloatArray, path: GaussianPath
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the exponentials of the means of log N_t over panels, times the panels' lengths.

    Returns
    -------
    tuple
        Centres (k, d), precisions (k, d), and log factors (k,) without −d/2 log 2π.
    """
    x, w = np.polynomial.legendre.leggauss(_PANEL_POINTS)
    lengths = np.diff(edges)
    t = edges[:-1, None] + 0.5 * (x + 1.0) * lengths[:, None]
    weights = 0.5 * w[:, None]
    scales, _ = path.scales_at(t.ravel(), 1.0 - t.ravel())
    variance = (scales**2).reshape(*t.shape, -1)
    mean = t[..., None] * path.distance
    precisions = (weights / variance).sum(axis=1)
    centres = (weights * mean / variance).sum(axis=1) / precisions
    spread = (weights * ((mean - centres[:, None]) ** 2 / variance + np.log(variance))).sum(axis=1)
    return centres, precisions, np.log(lengths) - 0.5 * spread.sum(axis=1)


@compiled
def _inverse_coefficients(
    simplices: FloatArray,
    axes: tuple[int, ...],
    pairs: tuple[tuple[int, int], ...],
    centers: FloatArray,
    whitening: FloatArray,
    log_factors: FloatArray,
) -> FloatArray:
    """Return coefficients (n, k); the lengths of the tuples are known when this is compiled."""
    dimension, corners, size = len(axes), len(axes) + 1, len(pairs)
    components = centers.shape[0]
    result = np.zeros((simplices.shape[0], size))
    white = np.empty((components, corners, dimension))
    smallest = np.empty(components)
    step, slope, values = np.empty((corners, dimension)), np.empty(corners), np.empty(size)
    for i in range(simplices.shape[0]):
        # z at the vertices; log E_k is smallest at one of them. `best` is the largest of these.
        best = -np.inf
        for k in range(components):
            farthest = 0.0
            for corner in range(corners):
                square = 0.0
                for row in range(dimension):
                    entry = 0.0
                    for column in range(dimension):
                        offset = simplices[i, corner, column] - centers[k, column]
                        entry += whitening[k, row, column] * offset
                    white[k, corner, row] = entry
                    square += entry * entry
                farthest = max(farthest, square)
            smallest[k] = log_factors[k] - 0.5 * farthest
            best = max(best, smallest[k])
        # θ_k = share_k / total; all of a component is relative to its largest 1/E_k.
        total = 0.0
        for k in range(components):
            if smallest[k] < best - _NEGLIGIBLE_EXPONENT:
                continue
            # z = z_c + y; (|z|² − |z_c|²)/2 = l + r with l = z_c·y and r = |y|²/2.
            centre, most_linear, most_bent = 0.0, 0.0, 0.0
            for corner in range(corners):
                slope[corner] = 0.0
            for row in range(dimension):
                middle = 0.0
                for corner in range(corners):
                    middle += white[k, corner, row] / corners
                centre += 0.5 * middle * middle
                for corner in range(corners):
                    step[corner, row] = white[k, corner, row] - middle
                    slope[corner] += middle * step[corner, row]
            for corner in range(corners):
                square = 0.0
                for row in range(dimension):
                    square += 0.5 * step[corner, row] ** 2
                most_bent = max(most_bent, square)
                most_linear = max(most_linear, slope[corner])
            farthest = log_factors[k] - smallest[k]
            rise = max(farthest - centre, 0.0)
            decay = math.exp(-rise)
            if rise < 0.01:
                curvature = decay * (0.5 + rise * (1 / 6 + rise * (1 / 24 + rise / 100)))
            else:
                curvature = (1.0 - (1.0 + rise) * decay) / rise**2
            mean, least = 0.0, np.inf
            for alpha in range(size):
                first, second = pairs[alpha]
                bent = 0.0
                for row in range(dimension):
                    bent += 0.5 * step[first, row] * step[second, row]
                linear = 0.5 * (slope[first] + slope[second])
                square = slope[first] * slope[second]
                square += (2.0 * most_linear + most_bent) * bent
                values[alpha] = decay * (1.0 + linear + bent) + curvature * square
                mean += values[alpha] / size
                least = min(least, values[alpha])
            if rise > _SURELY_QUADRATIC:
                other = 0.0
                for alpha in range(size):
                    first, second = pairs[alpha]
                    product = 0.0
                    for row in range(dimension):
                        product += white[k, first, row] * white[k, second, row]
                    other += math.exp(0.5 * product - farthest) / size
                # Coefficients of both signs would cancel where 1/E_k is small.
                if other < mean or least < 0.0:
                    mean = other
                    for alpha in range(size):
                        first, second = pairs[alpha]
                        product = 0.0
                        for row in range(dimension):
                            product += white[k, first, row] * white[k, second, row]
                        values[alpha] = math.exp(0.5 * product - farthest)
            share = math.exp(smallest[k] - best) / mean
            total += share
            for alpha in range(size):
                result[i, alpha] += share * values[alpha] / mean
        for alpha in range(size):
            if best < _SMALLEST_EXPONENT:
                result[i, alpha] = np.inf
            else:
                result[i, alpha] *= math.exp(-best) / total / total
    return result
