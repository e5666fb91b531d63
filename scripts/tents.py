r"""Functions whose gradients have length one where a solution's are shorter, in the plane.

On a triangle T on which u is affine with ∇u = ξ, |ξ| ≤ 1, the function

    v = u + min_e κ_e d_e,    κ_e = √(1 − |ξ|² + (ξ·n_e)²) − ξ·n_e ≥ 0,

with d_e the distance from edge e and n_e its inward normal, equals u on the boundary, and its
gradient ξ + κ_e n_e has length one in each of its three parts: a tent on u, or below it with the
signs of the normals reversed. Tents on all small triangles of side 1/k differ from u by O(1/k). The
two-sided penalty vanishes on them, as does the one-sided penalty of u there: the two-sided value of
v is the one-sided value of u, but for what the tents add to ∫ u d(μ − ν), of order 1/k and of
either sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from congested.critics.reference import Reference
from congested.geometry import BoolArray, FloatArray, barycentric_gradients

# Steps of the minimiser at most, and how many earlier steps it remembers.
_STEPS, _MEMORY = 3000, 30


@dataclass(frozen=True, eq=False)
class Tents:
    """Tents on the triangles (n,) of a mesh.

    Attributes
    ----------
    height
        Largest value (n,) of the tent on a whole triangle; 0 where |ξ| ≥ 1.
    inverted
        The same for the triangle turned by 180°, as every second small one is.
    peak
        Barycentric coordinates (n, 3) of the place of the largest value.
    """

    height: FloatArray
    inverted: FloatArray
    peak: FloatArray

    def mean(self, parts: int) -> FloatArray:
        """Return the mean (n,) of the tents on k² small triangles: a third of their heights."""
        upright = 0.5 * (parts + 1.0) / parts
        return (upright * self.height + (1.0 - upright) * self.inverted) / (3.0 * parts)


def tents_on(simplices: FloatArray, gradient: FloatArray, sign: FloatArray) -> Tents:
    """Return the tents on an affine function of each triangle.

    Parameters
    ----------
    simplices
        Vertices (n, 3, 2).
    gradient
        ξ (n, 2).
    sign
        1 for tents on the function, −1 for those that hang from it (n,).
    """
    slopes = barycentric_gradients(simplices)
    length = np.linalg.norm(slopes, axis=2)
    along = sign[:, None] * np.einsum("nid,nd->ni", slopes, gradient) / length
    square = (gradient**2).sum(axis=1)[:, None]
    root = np.sqrt(np.maximum(1.0 - square + along**2, 0.0))
    flat = square[:, 0] >= 1.0

    def heights(across: FloatArray) -> tuple[FloatArray, FloatArray]:
        # Where all κ_e d_e are equal; d_e is the barycentric coordinate over its slope.
        inverse = length / np.maximum(root - across, 1e-12)
        total = inverse.sum(axis=1)
        return np.where(flat, 0.0, 1.0 / total), inverse / total[:, None]

    height, peak = heights(along)
    return Tents(height, heights(-along)[0], peak)


@dataclass(frozen=True)
class TentRow:
    """Two-sided value of a function with tents on k² parts of each triangle, k = 0 for none.

    Attributes
    ----------
    parts
        k.
    dual_value, dual_value_upward
        Two-sided: with each tent on the side where it helps, and with all of them upwards.
    penalty_two_sided
        Of both.
    distance
        Largest difference from the P1 solution.
    """

    parts: int
    dual_value: float
    dual_value_upward: float
    penalty_two_sided: float
    distance: float


def tent_rows(reference: Reference, most: int) -> list[TentRow]:
    """Return the two-sided values of a P1 solution and of tents on it, k = 1, 2, 4, … `most`."""
    if reference.potential_edges is not None or reference.dimension != 2:
        raise ValueError("tents stand on P1 potentials in the plane")
    gradient = reference.gradient[:, 0]
    norm = np.linalg.norm(gradient, axis=1)
    stiffness = 0.5 * reference.capacity * reference.volume
    load = (reference.source - reference.target) * reference.volume
    loss = float(load @ reference.potential.mean(axis=1))
    excess = float(stiffness @ np.maximum(norm - 1.0, 0.0) ** 2)
    own = float(stiffness @ (norm - 1.0) ** 2)
    rows = [TentRow(0, loss - own, loss - own, own, 0.0)]
    side = np.where(load >= 0.0, 1.0, -1.0)
    best = tents_on(reference.simplices, gradient, side)
    upward = tents_on(reference.simplices, gradient, np.ones(len(side)))
    parts = 1
    while parts <= most:
        gain = float((side * load) @ best.mean(parts))
        rise = float(load @ upward.mean(parts))
        distance = max(float(one.max()) for one in (best.height, best.inverted)) / parts
        rows.append(TentRow(parts, loss + gain - excess, loss + rise - excess, excess, distance))
        parts *= 2
    return rows


# --- two-sided values of P1 functions ------------------------------------------------------------


def two_sided_maximum(reference: Reference, seed: int = 0) -> tuple[FloatArray, float]:
    """Return a P1 function of large two-sided value, as its gradients (n, d), and the value.

    The value is not concave: this is a local maximum next to the solution of the one-sided problem,
    from which it starts, with noise of a tenth of the size of the cells.
    """
    arrays = reference.arrays
    assert arrays is not None
    cells, vertices = arrays.cells, len(arrays.vertices)
    slopes = barycentric_gradients(reference.simplices)
    number, corners, dimension = slopes.shape
    row = np.arange(number * dimension).reshape(number, dimension)
    rows = np.repeat(row[:, None, :], corners, axis=1)
    columns = np.repeat(cells[:, :, None], dimension, axis=2)
    shape = (number * dimension, vertices)
    operator = csr_matrix((slopes.ravel(), (rows.ravel(), columns.ravel())), shape=shape)
    mass = (reference.source - reference.target) * reference.volume / corners
    load = np.bincount(cells.ravel(), np.repeat(mass, corners), vertices)
    stiffness = 0.5 * reference.capacity * reference.volume

    def negative(values: FloatArray) -> tuple[float, FloatArray]:
        gradient = (operator @ values).reshape(number, dimension)
        norm = np.maximum(np.linalg.norm(gradient, axis=1), 1e-14)
        slope = (2.0 * stiffness * (norm - 1.0) / norm)[:, None] * gradient
        value = float(stiffness @ (norm - 1.0) ** 2) - float(load @ values)
        return value, operator.T @ slope.ravel() - load

    size = np.sqrt(reference.volume.mean())
    noise = np.random.default_rng(seed).standard_normal(vertices)
    start = arrays.potential + 0.1 * size * noise
    options = {"maxiter": _STEPS, "maxfun": 2 * _STEPS, "maxcor": _MEMORY, "ftol": 1e-12}
    found = minimize(negative, start, jac=True, method="L-BFGS-B", options=options)
    return (operator @ found.x).reshape(number, dimension), -float(found.fun)


# --- where nothing moves -------------------------------------------------------------------------


def still_cells(reference: Reference, share: float) -> BoolArray:
    """Return the cells (n,) with weight in which |m| is below a share of its mean under |m|."""
    speed = np.linalg.norm(reference.momentum.mean(axis=1), axis=1)
    flux = speed * reference.volume
    typical = float(flux @ speed) / float(flux.sum())
    return np.asarray((speed < share * typical) & (reference.weight > 0.0))


def block_gradient(
    points: FloatArray, gradient: FloatArray, mass: FloatArray, blocks: int
) -> float:
    """Return the mean length of gradients that are averaged over blocks of the plane first.

    Gradients that oscillate within the blocks have length one and an average that is shorter.

    Parameters
    ----------
    points, gradient, mass
        Places (m, 2), gradients (m, 2) there, and the measure (m,).
    blocks
        Number of blocks along each side of the box around all points.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    place = np.minimum((blocks * (points - low) / (high - low)).astype(int), blocks - 1)
    index = place[:, 0] * blocks + place[:, 1]
    sums = [np.bincount(index, mass * gradient[:, axis]) for axis in range(2)]
    return float(np.hypot(*sums).sum() / mass.sum())
