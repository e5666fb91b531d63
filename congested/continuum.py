r"""Bounds for the original densities, from written fields: NumPy only, like `certificate.py`.

The potential u is P1; the momentum m_h of RT0 balances the cell means of f = μ − ν. What these
means leave out of f enters both bounds.

**Lower bound.** D(u) = Σ_T Σ_i u_i ∫_T λ_i df − λ Σ_T (|∇u_T| − 1)₊² σ_T: a piecewise affine u
sees no more of the measures than their vertex masses ∫_T λ_i dμ, a constant gradient no more of
the weight than its mass σ_T.

**Upper bound.** m = m_h + c₁ + c₂ has the divergence f and the normal flux of m_h:

- c₁ = Σ_{i<j} (φ_i − φ_j)/(d+1) λ_i λ_j (v_j − v_i) has no normal flux, since λ_i λ_j (v_j − v_i)
  is zero or tangential on each facet, and the divergence Σ_i φ_i λ_i, since that of
  λ_i λ_j (v_j − v_i) is λ_i − λ_j. The φ_i are the vertex values of the L² projection of f on the
  affine functions, less its mean; the vertex masses tell them.
- c₂ takes what is left, r. The gradient of the Neumann problem in a convex cell of diameter h has
  ‖c₂‖ ≤ (h/π) ‖r‖ in L²(T) (Payne & Weinberger 1960; Bebendorf 2003), and ‖r‖ is at most the
  distance of f from any affine function, which the measures bound.

m_h + c₁ is quadratic. Its Bernstein form, with nonnegative basis functions of equal integrals,
gives ∫_T |m_h + c₁| ≤ |T| times the mean length of its control points; by Cauchy and Schwarz the
integral is also at most Σ_i (∫λ_i)^½ (∫λ_i |m_h + c₁|²)^½. The smaller one is taken, and
|T|^½ ‖c₂‖ added. Where 1/σ ≤ Σ_α g_α B_α on T, B Bernstein's basis of degree two,
∫_T |m_h + c₁|²/σ ≤ a² = Σ_α g_α ∫_T B_α |m_h + c₁|², a polynomial that is integrated exactly, and
by Minkowski's inequality in L²(T; 1/σ), ∫_T |m|²/σ ≤ (a + max_α g_α^½ ‖c₂‖)².

**λ = ∞.** σ plays no part and m may be a measure: instead of correctors, each measure can be
carried from where it is in T to its uniform spread over T. From x, with any coupling, it costs at
most e(x) = (mean of |x − y|² over y in T)^½, a convex function, so that altogether it costs at most
Σ_i e(v_i) ∫_T λ_i dμ. The cheaper way is taken in each cell; for measures without a known density
it is the only one.

**Indicator.** η_T = penalty_T + cost_T + ∫_T ∇u·m_h − (∫_T u df − ū_T ∫_T df) ≥ 0, since
∫_T ∇u·(c₁ + c₂) = −∫_T u (f − f_T), and Σ η_T is upper − lower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from congested.certificate import (
    CellIntegrals,
    gradient_at_vertices,
    momentum_at_vertices,
)
from congested.geometry import EDGES, FloatArray, simplex_volumes
from congested.integrand import capacity as capacity_of
from congested.integrand import gradient_penalty

# Cells whose products of control points are in memory at a time.
_CELLS_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class ContinuumFields:
    """What the bounds know of the original densities and the weight, on the cells of this rank.

    Attributes
    ----------
    source_vertex_masses, target_vertex_masses
        ∫_T λ_i dμ and ∫_T λ_i dν (n, d+1).
    source_affine_error, target_affine_error
        Bounds (n,) of the root mean square over a cell of the density less some affine function;
        infinite where none is known.
    inverse_weight
        Numbers g (n, k) with 1/σ ≤ Σ_α g_α B_α: coefficients of the λ_i² first and then of the
        2λ_iλ_j, pairs in the order `EDGES`; None at λ = ∞.
    """

    source_vertex_masses: FloatArray
    target_vertex_masses: FloatArray
    source_affine_error: FloatArray
    target_affine_error: FloatArray
    inverse_weight: FloatArray | None


def affine_deviation(simplices: FloatArray, vertex_masses: FloatArray) -> FloatArray:
    """Return the vertex values (n, d+1) of the affine projection of a density, less its mean.

    Parameters
    ----------
    simplices
        Vertex coordinates (n, d+1, d).
    vertex_masses
        Integrals (n, d+1) of the density times the barycentric coordinates.
    """
    corners = simplices.shape[1]
    deviation = vertex_masses - vertex_masses.mean(axis=1, keepdims=True)
    # For affine functions of mean zero, ∫λ_i Σ_j φ_j λ_j = |T| φ_i / ((d+1)(d+2)).
    return corners * (corners + 1) * deviation / simplex_volumes(simplices)[:, None]


def control_points(
    simplices: FloatArray, momentum: FloatArray, deviation: FloatArray
) -> FloatArray:
    """Return the control points (n, k, d) of m_h + c₁ in Bernstein's basis of degree two.

    Parameters
    ----------
    simplices
        Vertex coordinates (n, d+1, d).
    momentum
        m_h at the vertices (n, d+1, d).
    deviation
        φ (n, d+1), the vertex values of div c₁.

    Returns
    -------
    numpy.ndarray
        Coefficients of the λ_i² first and then of the 2λ_iλ_j, pairs in the order `EDGES`.
    """
    corners = simplices.shape[1]
    first, second = np.array(EDGES[simplices.shape[2]]).T
    step = (deviation[:, first] - deviation[:, second]) / corners
    corrector = step[..., None] * (simplices[:, second] - simplices[:, first])
    middle = 0.5 * (momentum[:, first] + momentum[:, second] + corrector)
    return np.concatenate([momentum, middle], axis=1)


@lru_cache(maxsize=4)
def _moments(dimension: int, degree: int) -> FloatArray:
    """Return the means (k², m) of B_α B_β C_γ, Bernstein's bases of degree two and `degree`."""
    corners = range(dimension + 1)
    quadratic = [(corner, corner) for corner in corners] + list(EDGES[dimension])
    other = quadratic if degree == 2 else [(corner,) for corner in corners]

    def multiple(factors: tuple[int, ...]) -> int:
        return math.factorial(len(factors)) // math.prod(
            math.factorial(factors.count(corner)) for corner in corners
        )

    result = np.empty((len(quadratic), len(quadratic), len(other)))
    for row, column, entry in np.ndindex(result.shape):
        parts = quadratic[row], quadratic[column], other[entry]
        powers = [sum(part.count(corner) for part in parts) for corner in corners]
        # The mean of λ^p over a simplex is d! Π p_i! / (d + Σ p_i)!
        product = math.factorial(dimension) * math.prod(map(math.factorial, powers))
        product *= math.prod(map(multiple, parts))
        result[row, column, entry] = product / math.factorial(dimension + 4 + degree)
    return result.reshape(-1, len(other))


def weighted_squares(control: FloatArray, degree: int) -> FloatArray:
    """Return the means (n, m) of C_γ |m|² over a cell, m given by control points (n, k, d).

    C is Bernstein's basis of degree 1 (the barycentric coordinates) or 2.
    """
    moments = _moments(control.shape[2], degree)
    result = np.empty((len(control), moments.shape[1]))
    for start in range(0, len(control), _CELLS_AT_ONCE):
        part = control[start : start + _CELLS_AT_ONCE]
        products = np.matmul(part, part.swapaxes(1, 2)).reshape(len(part), moments.shape[0])
        result[start : start + _CELLS_AT_ONCE] = products @ moments
    return np.maximum(result, 0.0)


def mean_length(control: FloatArray, squares: FloatArray) -> FloatArray:
    """Return upper bounds (n,) of the mean of |m| over a cell.

    Parameters
    ----------
    control
        Control points (n, k, d) of m.
    squares
        Means (n, d+1) of λ_i |m|².
    """
    average = np.linalg.norm(control, axis=2).mean(axis=1)
    return np.minimum(average, np.sqrt(squares / squares.shape[1]).sum(axis=1))


def spread_cost(simplices: FloatArray, vertex_masses: FloatArray) -> FloatArray:
    """Return bounds (n,) of the cost |x − y| of spreading the mass of a cell uniformly over it."""
    corners = simplices.shape[1]
    offsets = simplices - simplices.mean(axis=1, keepdims=True)
    squares = np.einsum("nid,nid->ni", offsets, offsets)
    variance = squares.sum(axis=1, keepdims=True) / (corners * (corners + 1))
    return np.einsum("ni,ni->n", vertex_masses, np.sqrt(squares + variance))


def critic_loss(fields: ContinuumFields, potential: FloatArray) -> FloatArray:
    """Return ∫_T u d(μ − ν) (n,) of a P1 potential with vertex values (n, d+1)."""
    load = fields.source_vertex_masses - fields.target_vertex_masses
    return np.einsum("ni,ni->n", potential, load)


def _diameter(simplices: FloatArray) -> FloatArray:
    first, second = np.array(EDGES[simplices.shape[2]]).T
    return np.linalg.norm(simplices[:, first] - simplices[:, second], axis=2).max(axis=1)


def _product(first: FloatArray, second: FloatArray) -> FloatArray:
    """Multiply; 0·∞ counts as 0: where nothing flows it does not matter what flow would cost."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where((first == 0.0) | (second == 0.0), 0.0, first * second)


def continuum_integrals(
    simplices: FloatArray,
    potential: FloatArray,
    flux: FloatArray,
    weight: FloatArray,
    strength: float,
    fields: ContinuumFields,
) -> CellIntegrals:
    """Evaluate the integrands of both bounds for the original densities on each cell.

    Parameters
    ----------
    simplices
        Vertex coordinates (n, d+1, d).
    potential
        P1 potential at the vertices (n, d+1).
    flux
        Outward facet integrals of m_h (n, d+1), with sum μ_T − ν_T.
    weight
        σ_T / |T| (n,).
    strength
        λ; infinity for W₁.
    fields
        Vertex masses and bounds.

    Returns
    -------
    CellIntegrals
        ``transport_cost`` and ``momentum_l1`` are those of m_h and of what else carries the mass.
        Infinite where no bound is known.
    """
    volume = simplex_volumes(simplices)
    momentum = momentum_at_vertices(simplices, flux)
    masses = (fields.source_vertex_masses, fields.target_vertex_masses)
    errors = (fields.source_affine_error, fields.target_affine_error)
    # The corrector is for measures with a known density; the others are spread over the cell.
    known = [np.isfinite(error) for error in errors]
    dense = [np.where(good[:, None], mass, 0.0) for good, mass in zip(known, masses, strict=True)]
    remainder = sum(np.where(good, error, 0.0) for good, error in zip(known, errors, strict=True))
    # Root mean square of c₂.
    rest = _diameter(simplices) / math.pi * remainder
    control = control_points(simplices, momentum, affine_deviation(simplices, dense[0] - dense[1]))
    length = mean_length(control, weighted_squares(control, 1)) + rest
    if math.isinf(strength):
        spread = [spread_cost(simplices, mass) / volume for mass in masses]
        every = sum(np.where(good, cost, 0.0) for good, cost in zip(known, spread, strict=True))
        plain = control_points(simplices, momentum, np.zeros_like(flux))
        length = np.minimum(length, mean_length(plain, weighted_squares(plain, 1)) + every)
        length += sum(np.where(good, 0.0, cost) for good, cost in zip(known, spread, strict=True))
        cost = length
    else:
        inverse = fields.inverse_weight
        assert inverse is not None
        length = np.where(known[0] & known[1], length, np.inf)
        square = np.maximum(_product(weighted_squares(control, 2), inverse).sum(axis=1), 0.0)
        root = np.sqrt(square) + _product(np.sqrt(inverse.max(axis=1)), rest)
        with np.errstate(over="ignore"):
            cost = length + root**2 / (4.0 * strength)

    slope = gradient_at_vertices(simplices, potential)[:, 0]
    load = masses[0] - masses[1]
    loss = critic_loss(fields, potential)
    capacity = capacity_of(weight, strength)
    penalty = volume * gradient_penalty(np.linalg.norm(slope, axis=1), capacity)
    work = volume * np.einsum("nd,nd->n", slope, momentum.mean(axis=1))
    deviation = loss - potential.mean(axis=1) * load.sum(axis=1)
    return CellIntegrals(
        critic_loss=loss,
        penalty=penalty,
        transport_cost=volume * cost,
        momentum_l1=volume * length,
        gap_indicator=penalty + volume * cost + work - deviation,
        divergence_residual=flux.sum(axis=1) - load.sum(axis=1),
    )
