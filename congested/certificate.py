r"""Certified bounds from written fields: NumPy only, nothing shared with the solver's assembly.

Given cell data (masses μ_T, ν_T, σ_T), a continuous potential and a conservative RT0 flux:

- lower bound  D(u) = Σ_T (μ_T − ν_T) ū_T − ∫_T φ(∇u), exact for P1; for P2 the penalty is taken by
  the vertex rule, which overestimates the integral of the convex φ of an affine gradient;
- upper bound  Σ_T ∫_T H(m), where |m|² of an affine m is integrated exactly and ∫_T |m| ≤ |T| times
  the smaller of the vertex average (convexity) and the root mean square (Jensen);
- indicator    η_T = ∫_T φ(∇u) + H(m) + m·∇u ≥ 0 with the same u, m and rules, so that Σ η_T is
  upper − lower up to Σ_T r_T ū_T, r_T the rounding left in the divergence.

Every function works on plain arrays in the layout of ``solution.npz``, so that a user can repeat
the certificate from that file alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from congested.geometry import EDGES, FloatArray, barycentric_gradients, simplex_volumes
from congested.integrand import capacity as capacity_of
from congested.integrand import gradient_penalty, transport_cost


@dataclass(frozen=True)
class Bounds:
    """Guaranteed bounds of the congested cost.

    Attributes
    ----------
    lower, upper
        Bounds in units of mass times length.
    scope
        "cell-data": exact for the problem with piecewise constant data of the cell masses.
        "continuum": for the original densities.
    data_error
        Estimate of the difference between the problem of the scope and the one with the original
        data: 0 for the continuum.
    """

    lower: float
    upper: float
    scope: str = "cell-data"
    data_error: float | None = None

    @property
    def gap(self) -> float:
        """Upper minus lower bound."""
        return self.upper - self.lower

    @property
    def relative_gap(self) -> float:
        """Gap over the larger bound; 0 if both are 0, infinite if a bound is."""
        if math.isinf(self.gap):
            return math.inf
        scale = max(abs(self.upper), abs(self.lower))
        return self.gap / scale if scale > 0.0 else 0.0

    @property
    def cost(self) -> float:
        """Midpoint of the bounds."""
        return 0.5 * (self.lower + self.upper)


@dataclass(frozen=True)
class CellFields:
    """Fields on the cells of this rank, in the layout of the result file.

    Attributes
    ----------
    potential
        Potential at the cell's vertices (n, d+1).
    potential_edges
        P2 only: potential at the midpoints of the cell's edges (n, e), in the order `EDGES`.
    flux
        Outward integral of the momentum through the facet opposite each vertex (n, d+1).
    momentum, gradient
        Cell means of the momentum and of the potential's gradient (n, d).
    weight, source, target
        Densities (n,): cell masses over cell volumes.
    gap_indicator
        η_T (n,), whose sum is the gap.
    source_vertex_masses, target_vertex_masses, source_affine_error, target_affine_error, \
inverse_weight
        What bounds for the original densities need, see `continuum.ContinuumFields`; None for
        bounds of the problem with cell data.
    """

    potential: FloatArray
    potential_edges: FloatArray | None
    flux: FloatArray
    momentum: FloatArray
    gradient: FloatArray
    weight: FloatArray
    source: FloatArray
    target: FloatArray
    gap_indicator: FloatArray
    source_vertex_masses: FloatArray | None = None
    target_vertex_masses: FloatArray | None = None
    source_affine_error: FloatArray | None = None
    target_affine_error: FloatArray | None = None
    inverse_weight: FloatArray | None = None


@dataclass(frozen=True)
class CellIntegrals:
    """Integrals over each cell (n,) whose sums are the certificate.

    Attributes
    ----------
    critic_loss
        ∫_T u d(μ − ν).
    penalty
        Upper bound of ∫_T φ(∇u), exact for P1.
    transport_cost
        Upper bound of ∫_T H(m).
    momentum_l1
        Upper bound of ∫_T |m|.
    gap_indicator
        η_T.
    divergence_residual
        ∫_T div m − (μ_T − ν_T).
    """

    critic_loss: FloatArray
    penalty: FloatArray
    transport_cost: FloatArray
    momentum_l1: FloatArray
    gap_indicator: FloatArray
    divergence_residual: FloatArray


def momentum_at_vertices(simplices: FloatArray, flux: FloatArray) -> FloatArray:
    """Return the RT0 momentum at the vertices (n, d+1, d) from its outward facet integrals.

    m(x) = Σ_i flux_i (x − v_i) / (d |T|): the basis function of facet i vanishes at the opposite
    vertex v_i and has unit flux through facet i.
    """
    dimension = simplices.shape[2]
    scale = 1.0 / (dimension * simplex_volumes(simplices))
    total = flux.sum(axis=1)
    constant = np.einsum("ni,nid->nd", flux, simplices)
    return scale[:, None, None] * (total[:, None, None] * simplices - constant[:, None])


def gradient_at_vertices(
    simplices: FloatArray, potential: FloatArray, potential_edges: FloatArray | None = None
) -> FloatArray:
    """Return ∇u at the vertices (n, k, d): k = 1 for P1 (constant), k = d+1 for P2 (affine)."""
    gradients = barycentric_gradients(simplices)
    if potential_edges is None:
        return np.einsum("ni,nid->nd", potential, gradients)[:, None]
    # P2 basis: λ_i(2λ_i − 1) at vertex i with gradient (4λ_i − 1)∇λ_i; 4 λ_i λ_j at edge ij with
    # gradient 4(λ_i ∇λ_j + λ_j ∇λ_i).
    vertices = range(simplices.shape[1])
    result = np.zeros_like(gradients)
    for point in vertices:
        for vertex in vertices:
            factor = 3.0 if vertex == point else -1.0
            result[:, point] += factor * potential[:, vertex, None] * gradients[:, vertex]
        for edge, (first, second) in enumerate(EDGES[simplices.shape[2]]):
            if point in (first, second):
                other = second if point == first else first
                result[:, point] += 4.0 * potential_edges[:, edge, None] * gradients[:, other]
    return result


def potential_at(
    potential: FloatArray, potential_edges: FloatArray | None, barycentric: FloatArray
) -> FloatArray:
    """Return a P1 or P2 potential (n,) at barycentric coordinates (n, d+1), one in each cell."""
    if potential_edges is None:
        return np.einsum("ni,ni->n", barycentric, potential)
    values = np.einsum("ni,ni->n", barycentric * (2.0 * barycentric - 1.0), potential)
    for edge, (first, second) in enumerate(EDGES[potential.shape[1] - 1]):
        values += 4.0 * barycentric[:, first] * barycentric[:, second] * potential_edges[:, edge]
    return values


def potential_means(potential: FloatArray, potential_edges: FloatArray | None) -> FloatArray:
    """Return the cell means (n,) of a P1 or P2 potential."""
    if potential_edges is None:
        return potential.mean(axis=1)
    if potential.shape[1] == 3:
        return potential_edges.mean(axis=1)
    return potential_edges.sum(axis=1) / 5.0 - potential.sum(axis=1) / 20.0


def _product_mean(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the cell means (n,) of the product of two affine fields given at vertices."""
    corners = first.shape[1]
    sums = np.einsum("nd,nd->n", first.sum(axis=1), second.sum(axis=1))
    return (sums + np.einsum("nid,nid->n", first, second)) / (corners * (corners + 1))


def cell_integrals(
    simplices: FloatArray,
    potential: FloatArray,
    flux: FloatArray,
    source: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    strength: float,
    potential_edges: FloatArray | None = None,
) -> CellIntegrals:
    """Evaluate the integrands of both bounds on each cell.

    Parameters
    ----------
    simplices
        Vertex coordinates (n, d+1, d).
    potential, potential_edges
        Potential at vertices (n, d+1) and, for P2, at edge midpoints (n, e), order `EDGES`.
    flux
        Outward facet integrals of the momentum (n, d+1).
    source, target, weight
        Densities (n,).
    strength
        λ; infinity for W₁.
    """
    volume = simplex_volumes(simplices)
    capacity = capacity_of(weight, strength)
    momentum = momentum_at_vertices(simplices, flux)
    gradient = gradient_at_vertices(simplices, potential, potential_edges)
    corners = simplices.shape[1]

    mean_square = _product_mean(momentum, momentum)
    vertex_average = np.linalg.norm(momentum, axis=2).mean(axis=1)
    mean_length = np.minimum(vertex_average, np.sqrt(mean_square))
    # H(m) = |m| + |m|²/(2κ) with the two means in place of |m| and |m|².
    quadratic = transport_cost(np.sqrt(mean_square), capacity) - np.sqrt(mean_square)
    cost = volume * (mean_length + quadratic)

    norms = np.linalg.norm(gradient, axis=2)
    penalty = volume * gradient_penalty(norms, capacity[:, None]).mean(axis=1)
    if gradient.shape[1] == 1:
        gradient = np.repeat(gradient, corners, axis=1)
    work = volume * _product_mean(momentum, gradient)
    difference = volume * (source - target)
    return CellIntegrals(
        critic_loss=difference * potential_means(potential, potential_edges),
        penalty=penalty,
        transport_cost=cost,
        momentum_l1=volume * mean_length,
        gap_indicator=penalty + cost + work,
        divergence_residual=flux.sum(axis=1) - difference,
    )
