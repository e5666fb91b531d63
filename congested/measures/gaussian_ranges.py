r"""Rigorous bounds of a Gaussian mixture in cells: its range, its distance from affine functions.

In whitened coordinates z about its mean a component is N = A exp(−q/2), q = |z|². On a cell

- q is largest at a vertex. As a convex function it lies above its tangent at the midpoint, which is
  smallest at a vertex. This bounds N on both sides.
- Taylor's formula about the midpoint leaves ½ max |D²N[e, e]| |y|² of N less an affine function, y
  the offset from the midpoint. D²N[e, e] = N ((z·e)² − |e|²) lies between −N |e|² and
  N (q − 1) |e|², and the mean of |y|⁴ is at most max |y_i|² times that of |y|², which is
  Σ_i |y_i|² / ((d+1)(d+2)). The bound is a few times too large in 2D and ten times in 3D, but it
  falls off as N does.
- Quadrature says more: with any affine p, the mean of (N − p)² bounds the square of the distance.
  With positive weights and degree D, p² is integrated exactly, and the error is at most
  2 dist(N², P_D) + 4 max |p| dist(N, P_{D−1}). These distances from polynomials are bounded as in
  `gaussian_mixture`: in units of A, by 1.0866 r^{k} exp(−m²/4) / √k! and by
  2 (r/2)^k E|Z|^k / k! with k = D, on a cell of radius r at the distance m from the mean; N² is a
  Gaussian again, for which r and m are √2 times as large and k = D + 1.

Half the range is the largest distance from a constant. The smallest of the three is taken for each
component, and the components are added (Minkowski).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln

from congested.compiled import compiler
from congested.geometry import FloatArray, IntArray
from congested.quadrature import simplex_rule

compiled = compiler(__file__)

_CRAMER = 1.0866
# Degrees of rules with positive weights.
_DEGREES = {2: (8, 10, 14), 3: (9, 12, 14)}
# Part of Taylor's bound that the error of a rule may have, for the next one not to be tried.
_GOOD_ENOUGH = 0.02
# Squared distance from the mean beyond which Taylor's bound, 3e-6 of the height, will do.
_FAR = 25.0


def density_ranges(
    simplices: FloatArray, means: FloatArray, whitening: FloatArray, log_factors: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return bounds (n,), (n,) of the density of a mixture from below and above.

    Parameters
    ----------
    simplices
        Vertices (n, d+1, d).
    means, whitening, log_factors
        The components exp(log_factor − |whitening (x − mean)|²/2), whitening lower triangular.
    """
    lower, upper, _ = _ranges(
        simplices, means, whitening, log_factors, *_ladder(simplices.shape[2]), False
    )
    return lower, upper


def affine_errors(
    simplices: FloatArray, means: FloatArray, whitening: FloatArray, log_factors: FloatArray
) -> FloatArray:
    """Return bounds (n,) of the root mean square of the density less some affine function.

    Parameters
    ----------
    simplices, means, whitening, log_factors
        As for `density_ranges`.
    """
    _, _, errors = _ranges(
        simplices, means, whitening, log_factors, *_ladder(simplices.shape[2]), True
    )
    return errors


def _ladder(
    dimension: int,
) -> tuple[FloatArray, FloatArray, IntArray, IntArray, FloatArray]:
    """Return points (d+1, q), weights (q,), where each rule starts, powers k (2, rules), factors.

    The factors (2, 2, rules) are what Taylor's and Chebyshev's bounds (rows) of the distances of N
    and N² (columns) have besides r^k and the exponential.
    """
    rules = [simplex_rule(dimension, degree) for degree in _DEGREES[dimension]]
    points = np.concatenate([rule[0] for rule in rules]).T.copy()
    weights = np.concatenate([rule[1] for rule in rules])
    first = np.cumsum([0] + [len(rule[1]) for rule in rules])
    powers = np.array(_DEGREES[dimension]) + np.array([[0], [1]])
    half = 0.5 * dimension
    moments = 0.5 * powers * math.log(2.0) + gammaln(half + 0.5 * powers) - gammaln(half)
    taylor = _CRAMER * np.exp(-0.5 * gammaln(powers + 1))
    chebyshev = 2.0 * np.exp(moments - powers * math.log(2.0) - gammaln(powers + 1))
    return points, weights, first, powers, np.stack([taylor, chebyshev])


@compiled
def _distance_bound(
    radius: float, distance: float, power: int, taylor: float, chebyshev: float
) -> float:
    """Return the bound of the distance of exp(−|z|²/2) from the polynomials of degree power − 1."""
    grown = radius**power
    return min(taylor * grown * math.exp(-0.25 * distance * distance), chebyshev * grown)


@compiled
def _ranges(
    simplices: FloatArray,
    means: FloatArray,
    whitening: FloatArray,
    log_factors: FloatArray,
    points: FloatArray,
    weights: FloatArray,
    first: IntArray,
    powers: IntArray,
    factors: FloatArray,
    with_errors: bool,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    number, corners, dimension = simplices.shape
    lowest, highest, errors = np.zeros(number), np.zeros(number), np.zeros(number)
    white, centre = np.empty((corners, dimension)), np.empty(dimension)
    values, slopes = np.empty(weights.shape[0]), np.empty(corners)
    root = math.sqrt(2.0)
    for i in range(number):
        for j in range(means.shape[0]):
            centre[:] = 0.0
            for corner in range(corners):
                for row in range(dimension):
                    entry = 0.0
                    for k in range(row + 1):  # the whitening matrix is lower triangular
                        entry += whitening[j, row, k] * (simplices[i, corner, k] - means[j, k])
                    white[corner, row] = entry
                    centre[row] += entry / corners
            # Squared distances of the vertices from the mean and from the midpoint.
            farthest, below, middle, reach, spread = 0.0, np.inf, 0.0, 0.0, 0.0
            for row in range(dimension):
                middle += centre[row] ** 2
            for corner in range(corners):
                square, product, offset = 0.0, 0.0, 0.0
                for row in range(dimension):
                    square += white[corner, row] ** 2
                    product += white[corner, row] * centre[row]
                    offset += (white[corner, row] - centre[row]) ** 2
                farthest = max(farthest, square)
                below = min(below, product)
                reach = max(reach, offset)
                spread += offset
            nearest = min(max(0.0, 2.0 * below - middle), farthest)
            height = math.exp(log_factors[j])
            low, high = math.exp(-0.5 * farthest), math.exp(-0.5 * nearest)
            lowest[i] += height * low
            highest[i] += height * high
            if not with_errors:
                continue
            # The largest max(1, q − 1) exp(−q/2): the second factor alone, or the top at q = 3.
            bend, worst = high, min(max(nearest, 3.0), farthest)
            if worst > 2.0:
                bend = max(bend, (worst - 1.0) * math.exp(-0.5 * worst))
            fourth = reach * spread / (corners * (corners + 1))
            error = min(0.5 * (high - low), 0.5 * bend * math.sqrt(fourth))
            if nearest > _FAR:
                errors[i] += height * error
                continue
            radius, distance = math.sqrt(reach), math.sqrt(nearest)
            # The first rule that is good enough, or the last one.
            for rule in range(powers.shape[1]):
                own = _distance_bound(
                    radius, distance, powers[0, rule], factors[0, 0, rule], factors[1, 0, rule]
                )
                squared = _distance_bound(
                    root * radius,
                    root * distance,
                    powers[1, rule],
                    factors[0, 1, rule],
                    factors[1, 1, rule],
                )
                if 2.0 * squared + 4.0 * high * own <= (_GOOD_ENOUGH * error) ** 2:
                    break
            start, end = first[rule], first[rule + 1]
            if 2.0 * squared < error * error:
                mean = 0.0
                slopes[:] = 0.0
                for q in range(start, end):
                    square = 0.0
                    for row in range(dimension):
                        entry = 0.0
                        for corner in range(corners):
                            entry += points[corner, q] * white[corner, row]
                        square += entry * entry
                    values[q] = math.exp(-0.5 * square)
                    mean += weights[q] * values[q]
                    for corner in range(corners):
                        slopes[corner] += weights[q] * points[corner, q] * values[q]
                # The best affine function by its vertex values, see `continuum.affine_deviation`.
                largest = 0.0
                for corner in range(corners):
                    slopes[corner] = mean + corners * (corners + 1) * (
                        slopes[corner] - mean / corners
                    )
                    largest = max(largest, abs(slopes[corner]))
                total = 2.0 * squared + 4.0 * largest * own
                for q in range(start, end):
                    difference = values[q]
                    for corner in range(corners):
                        difference -= slopes[corner] * points[corner, q]
                    total += weights[q] * difference * difference
                error = min(error, math.sqrt(total))
            errors[i] += height * error
    return lowest, highest, errors
