"""Compiled kernels of the Gaussian mixture: its density, and its means over simplices.

A kernel that would spend its time in exp evaluates it once per component and piece, and the rest
of the exponent, which is small on a small piece, by a polynomial.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from congested.compiled import compiler
from congested.geometry import FloatArray, IntArray

compiled = compiler(__file__)
# Reordered sums let the compiler use vector instructions, where most of the time goes.
compiled_reordered = compiler(__file__, fastmath={"reassoc", "contract", "nsz"})

# A component is left out where another one exceeds it by the factor e⁴⁰ everywhere on the piece.
_NEGLIGIBLE_EXPONENT = 40.0
# Up to this exponent the Taylor polynomial of degree 10 of exp is exact to 6e-15.
_SMALL_EXPONENT = 0.25
_LARGEST_EXPONENT = 32 * _SMALL_EXPONENT


@compiled
def _exp_small(t: float) -> float:
    """Return the Taylor polynomial of exp of degree 10."""
    tail = 1 / 720 + t * (1 / 5040 + t * (1 / 40320 + t * (1 / 362880 + t / 3628800)))
    return 1.0 + t * (1.0 + t * (1 / 2 + t * (1 / 6 + t * (1 / 24 + t * (1 / 120 + t * tail)))))


@compiled
def _values(
    points: FloatArray,
    start: int,
    end: int,
    white: FloatArray,
    origin: FloatArray,
    exponent: float,
    values: FloatArray,
) -> None:
    """Set `values` to exp(exponent − (|y|² − |origin|²)/2) on a piece, y − origin in `white`."""
    for q in range(start, end):
        change = exponent
        for row in range(origin.shape[0]):
            entry = 0.0
            for corner in range(white.shape[0]):
                entry += points[corner, q] * white[corner, row]
            change -= entry * (origin[row] + 0.5 * entry)
        values[q - start] = math.exp(change)


# Reordered sums let the compiler use vector instructions, where most of the time goes.
@compiled_reordered
def _values_small(
    points: FloatArray,
    start: int,
    end: int,
    white: FloatArray,
    origin: FloatArray,
    squarings: int,
    values: FloatArray,
) -> None:
    """Set the same values without the factor exp(exponent), by a polynomial and squarings."""
    scale = 0.5**squarings
    x0, y0 = white[0, 0], white[0, 1]
    x1, x2 = white[1, 0] - x0, white[2, 0] - x0
    y1, y2 = white[1, 1] - y0, white[2, 1] - y0
    if origin.shape[0] == 2:
        for q in range(start, end):
            x = x0 + points[1, q] * x1 + points[2, q] * x2
            y = y0 + points[1, q] * y1 + points[2, q] * y2
            change = x * (origin[0] + 0.5 * x) + y * (origin[1] + 0.5 * y)
            values[q - start] = _exp_small(-change * scale)
    else:
        x3, y3 = white[3, 0] - x0, white[3, 1] - y0
        z0 = white[0, 2]
        z1, z2, z3 = white[1, 2] - z0, white[2, 2] - z0, white[3, 2] - z0
        for q in range(start, end):
            x = x0 + points[1, q] * x1 + points[2, q] * x2 + points[3, q] * x3
            y = y0 + points[1, q] * y1 + points[2, q] * y2 + points[3, q] * y3
            z = z0 + points[1, q] * z1 + points[2, q] * z2 + points[3, q] * z3
            change = x * (origin[0] + 0.5 * x) + y * (origin[1] + 0.5 * y)
            change += z * (origin[2] + 0.5 * z)
            values[q - start] = _exp_small(-change * scale)
    for _ in range(squarings):
        for q in range(end - start):
            values[q] *= values[q]


@compiled_reordered
def _add_means(
    points: FloatArray,
    weights: FloatArray,
    start: int,
    end: int,
    values: FloatArray,
    factor: float,
    means: FloatArray,
) -> None:
    """Add factor times the mean of the values, or their means against each λ_i, to `means`."""
    if means.shape[0] == 1:
        total = 0.0
        for q in range(end - start):
            total += weights[start + q] * values[q]
        means[0] += factor * total
        return
    for corner in range(means.shape[0]):
        total = 0.0
        for q in range(end - start):
            total += weights[start + q] * points[corner, start + q] * values[q]
        means[corner] += factor * total


@compiled
def mixture_density(
    points: FloatArray, means: FloatArray, whitening: FloatArray, log_factors: FloatArray
) -> FloatArray:
    """Return the density of the mixture at points (m, d)."""
    number, dimension = points.shape
    density = np.zeros(number)
    for i in range(number):
        for j in range(means.shape[0]):
            exponent = log_factors[j]
            for row in range(dimension):
                entry = 0.0
                for k in range(row + 1):  # the whitening matrix is lower triangular
                    entry += whitening[j, row, k] * (points[i, k] - means[j, k])
                exponent -= 0.5 * entry * entry
            density[i] += math.exp(exponent)
    return density


@compiled
def mixture_rule(
    pieces: FloatArray,
    points: FloatArray,
    weights: FloatArray,
    first: IntArray,
    powers: IntArray,
    log_bounds: FloatArray,
    means: FloatArray,
    whitening: FloatArray,
    norms: FloatArray,
    log_factors: FloatArray,
    moments: int,
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return means on simplices (n, moments) and whether these must be cut.

    With moments = 1 the means of the density, with moments = d + 1 those of the density times each
    barycentric coordinate of the piece.
    """
    number, corners, dimension = pieces.shape
    components = means.shape[0]
    result = np.zeros((number, moments))
    must_cut = np.zeros(number, dtype=np.bool_)
    whites = np.empty((components, dimension))
    distances = np.empty(components)
    centre, spokes = np.empty(dimension), np.empty((corners, dimension))
    white, values = np.empty((corners, dimension)), np.empty(weights.shape[0])
    for i in range(number):
        # The piece lies within `radius` of its centre.
        for k in range(dimension):
            centre[k] = 0.0
            for corner in range(corners):
                centre[k] += pieces[i, corner, k]
            centre[k] /= corners
        radius = 0.0
        for corner in range(corners):
            square = 0.0
            for k in range(dimension):
                spokes[corner, k] = pieces[i, corner, k] - centre[k]
                square += spokes[corner, k] ** 2
            radius = max(radius, math.sqrt(square))
        # Mahalanobis distances of the centre; `surely` is what the largest component has at least.
        surely = -np.inf
        for j in range(components):
            square = 0.0
            for row in range(dimension):
                entry = 0.0
                for k in range(row + 1):  # the whitening matrix is lower triangular
                    entry += whitening[j, row, k] * (centre[k] - means[j, k])
                whites[j, row] = entry
                square += entry * entry
            distances[j] = math.sqrt(square)
            surely = max(surely, log_factors[j] - 0.5 * (distances[j] + radius * norms[j]) ** 2)
        for j in range(components):
            reach = radius * norms[j]
            nearest, farthest = max(0.0, distances[j] - reach), distances[j] + reach
            if log_factors[j] - 0.5 * nearest * nearest < surely - _NEGLIGIBLE_EXPONENT:
                continue
            # Choose the first rule that is good enough.
            log_reach = math.log(reach)
            slack = -0.5 * (dimension + 1) * math.log(1.0 + farthest * farthest)
            slack_taylor = slack + 0.25 * nearest * nearest
            chosen = 0
            while chosen < powers.shape[0]:
                growth = powers[chosen] * log_reach
                if log_bounds[0, chosen] + growth <= slack_taylor:
                    break
                if log_bounds[1, chosen] + growth <= slack:
                    break
                chosen += 1
            if chosen == powers.shape[0]:
                must_cut[i] = True
                break
            # The whitened piece is `whites[j]` plus the barycentric combinations of `white`.
            for corner in range(corners):
                for row in range(dimension):
                    entry = 0.0
                    for k in range(row + 1):
                        entry += whitening[j, row, k] * spokes[corner, k]
                    white[corner, row] = entry
            exponent = log_factors[j] - 0.5 * distances[j] ** 2
            start, end = first[chosen], first[chosen + 1]
            largest = (distances[j] + 0.5 * reach) * reach
            if largest > _LARGEST_EXPONENT or exponent < -600.0:
                _values(points, start, end, white, whites[j], exponent, values)
                _add_means(points, weights, start, end, values, 1.0, result[i])
                continue
            squarings = 0
            while largest > _SMALL_EXPONENT:
                largest *= 0.5
                squarings += 1
            _values_small(points, start, end, white, whites[j], squarings, values)
            _add_means(points, weights, start, end, values, math.exp(exponent), result[i])
    return result, must_cut
