"""Funnels of a ray-monotone pair in any dimension, and the rays that points lie on.

The tips a_n and biases b_n divide the box [−L, L]^d: x belongs to the funnel n that attains
min_n |x − a_n| + b_n. It lies on the ray from a_n with the direction v = (x − a_n)/|x − a_n|, at
the distance s = |x − a_n|; the ray leaves the funnel at the distance R. On each ray 1/R is the
largest of finitely many functions α + g·v: the faces of the box give g = ±e_i / (distance of the
tip from the face), and funnel m gives 2 (β + c·v) / (|c|² − β²) with c = a_m − a_n and
β = b_n − b_m. All the geometry of the funnels is in these numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from congested.compiled import compiler
from congested.geometry import FloatArray, IntArray

# Sums over coordinates may be taken in any order: only so they use vector instructions.
compiled = compiler(__file__, fastmath={"reassoc", "contract"})


class Rays(NamedTuple):
    """The rays on which points lie.

    Attributes
    ----------
    funnel
        Number (m,) of the funnel of each point, in the order of `Funnels`.
    distance
        Distance s (m,) from its tip.
    direction
        Unit vectors v (m, d) from the tip to the point; the first axis at the tip itself.
    inverse_radius
        1/R (m,), R the distance from the tip to the end of the funnel on the ray.
    """

    funnel: IntArray
    distance: FloatArray
    direction: FloatArray
    inverse_radius: FloatArray


@dataclass(frozen=True, eq=False)
class Funnels:
    """The nonempty funnels of a pair.

    Attributes
    ----------
    centers, biases
        Tips (N, d) and biases (N,).
    half_width
        L of the box.
    scales
        Numbers 2 / (|c|² − β²) (N, N) of each funnel, in the rows, and each other; zero for itself.
    """

    centers: FloatArray
    biases: FloatArray
    half_width: float
    scales: FloatArray

    @cached_property
    def offsets(self) -> FloatArray:
        """Numbers α (N, J), J = N + 2d: 1/R = max_j α_j + g_j·v on the ray v of a funnel."""
        number, dimension = self.centers.shape
        offsets = np.zeros((number, number + 2 * dimension))
        offsets[:, :number] = self.scales * (self.biases[:, None] - self.biases)
        return offsets

    @cached_property
    def slopes(self) -> FloatArray:
        """Vectors g (N, J, d); large in high dimensions, where `rays` does without them."""
        number, dimension = self.centers.shape
        slopes = np.zeros((number, number + 2 * dimension, dimension))
        slopes[:, :number] = self.scales[:, :, None] * (self.centers - self.centers[:, None])
        for axis in range(dimension):
            for side, sign in enumerate((1.0, -1.0)):
                faces = self.half_width - sign * self.centers[:, axis]
                slopes[:, number + 2 * axis + side, axis] = sign / faces
        return slopes

    def inverse_radius(self, funnel: int, directions: FloatArray) -> FloatArray:
        """Return 1/R (m,) on the rays with unit vectors (m, d) of one funnel."""
        return (directions @ self.slopes[funnel].T + self.offsets[funnel]).max(axis=1)

    def rays(self, points: FloatArray) -> Rays:
        """Return the rays of points (m, d), of type float64.

        A point that two funnels share belongs to the first. Distances are those of differences of
        coordinates: they have all digits next to a tip, where |x|² − 2x·a + |a|² has none.
        """
        number, dimension = points.shape
        rays = Rays(
            np.zeros(number, dtype=np.int64),
            np.empty(number),
            np.empty((number, dimension)),
            np.empty(number),
        )
        points = np.ascontiguousarray(points)
        _find_rays(points, self.centers, self.biases, self.half_width, self.scales, *rays)
        return rays


def active_funnels(centers: FloatArray, biases: FloatArray, half_width: float) -> Funnels:
    """Return the funnels that are not empty.

    Parameters
    ----------
    centers, biases
        All tips (N, d) and biases (N,).
    half_width
        L of the box, in which the tips lie.
    """
    kept = []
    for n, center in enumerate(centers):
        # A tip covered by another funnel has no points of its own; of equal ones the first stays.
        distances = np.linalg.norm(centers - center, axis=1)
        equal = (distances == 0.0) & (biases == biases[n])
        dominated = (distances <= biases[n] - biases) & ~(equal & (np.arange(len(biases)) >= n))
        if not dominated.any():
            kept.append(n)
    centers, biases = centers[kept], biases[kept]
    scales = np.zeros((len(kept), len(kept)))
    for n, center in enumerate(centers):
        length = np.linalg.norm(centers - center, axis=1)
        bias = biases[n] - biases
        others = np.arange(len(kept)) != n
        scales[n, others] = 2.0 / ((length - bias) * (length + bias))[others]
    return Funnels(centers, biases, half_width, scales)


@compiled
def _find_rays(
    points: FloatArray,
    centers: FloatArray,
    biases: FloatArray,
    half_width: float,
    scales: FloatArray,
    funnel: IntArray,
    distance: FloatArray,
    direction: FloatArray,
    inverse_radius: FloatArray,
) -> None:
    """Write the rays of points; see `Rays` for the last four arrays."""
    number, dimension = points.shape
    for i in range(number):
        best = np.inf
        chosen = 0
        for n in range(centers.shape[0]):
            square = 0.0
            for k in range(dimension):
                square += (points[i, k] - centers[n, k]) ** 2
            value = math.sqrt(square) + biases[n]
            if value < best:
                best, chosen = value, n
        # Squares of the smallest differences would underflow.
        largest = 0.0
        for k in range(dimension):
            direction[i, k] = points[i, k] - centers[chosen, k]
            largest = max(largest, abs(direction[i, k]))
        funnel[i] = chosen
        if largest > 0.0:
            square = 0.0
            for k in range(dimension):
                square += (direction[i, k] / largest) ** 2
            length = math.sqrt(square)
            distance[i] = largest * length
            for k in range(dimension):
                direction[i, k] = direction[i, k] / largest / length
        else:
            distance[i] = 0.0
            direction[i, 0] = 1.0
        inverse = 0.0
        for k in range(dimension):
            side = 1.0 if direction[i, k] > 0.0 else -1.0
            face = half_width - side * centers[chosen, k]
            inverse = max(inverse, abs(direction[i, k]) / face)
        for n in range(centers.shape[0]):
            if n != chosen:
                along = 0.0
                for k in range(dimension):
                    along += (centers[n, k] - centers[chosen, k]) * direction[i, k]
                bias = biases[chosen] - biases[n]
                inverse = max(inverse, scales[chosen, n] * (bias + along))
        inverse_radius[i] = inverse
