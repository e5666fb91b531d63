"""The momentum that moves mass, and the densities between which it does, as arrays of one mesh."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from mpi4py import MPI

from congested.certificate import momentum_at_vertices
from congested.errors import InputError
from congested.geometry import FloatArray, IntArray, facet_neighbours, simplex_volumes
from congested.integrand import capacity, gradient_norm
from congested.io.arrays import ResultArrays, broadcast_array
from congested.quadrature import simplex_rule

# Degree of the rule for ∫_T |m|, and cells at a time.
_DEGREE, _CHUNK = 12, 1 << 15

# Fluxes of one facet from its two sides, and those of walls, agree to rounding.
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class FlowField:
    """A momentum in RT0 and what it moves, on the C cells of a whole mesh, the same on every rank.

    Attributes
    ----------
    vertices
        Coordinates (V, d).
    cells
        Vertex numbers (C, d+1).
    volume
        Volumes (C,).
    neighbours
        The cell behind the facet opposite each vertex (C, d+1), −1 at walls.
    flux
        Outward integral of the momentum through the facet opposite each vertex (C, d+1): opposite
        numbers from the two sides of a facet, 0 at walls.
    source, target
        Densities μ_T/|T|, ν_T/|T| (C,).
    growth
        Density (C,) of div m − (μ − ν): 0 for a momentum that moves source to target, else mass
        that the momentum makes (positive) or loses.
    weight
        Densities σ_T/|T| (C,).
    strength
        λ, infinity for W₁.
    """

    vertices: FloatArray
    cells: IntArray
    volume: FloatArray
    neighbours: IntArray
    flux: FloatArray
    source: FloatArray
    target: FloatArray
    growth: FloatArray
    weight: FloatArray
    strength: float

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return self.vertices.shape[1]

    @cached_property
    def rates(self) -> FloatArray:
        """Fluxes over d |T| (C, d+1): how barycentric coordinates fall at their facets."""
        return self.flux / (self.dimension * self.volume)[:, None]

    @cached_property
    def momentum_at_vertices(self) -> FloatArray:
        """Momentum at the vertices of each cell (C, d+1, d), between which it is affine."""
        return momentum_at_vertices(self.vertices[self.cells], self.flux)

    @cached_property
    def momentum(self) -> FloatArray:
        """Integrals (C, d) of the momentum."""
        return self.volume[:, None] * self.momentum_at_vertices.mean(axis=1)

    @cached_property
    def integrals(self) -> tuple[float, float]:
        """∫H(m) and ∫|m|, see `flow_integrals`."""
        return flow_integrals(self)

    @property
    def momentum_l1(self) -> float:
        """∫|m|."""
        return self.integrals[1]

    @cached_property
    def compliance(self) -> FloatArray:
        """Return 1/κ = 1/(2λσ) (C,), 0 for W₁ and in cells without flux."""
        moved = (self.flux != 0.0).any(axis=1)
        kappa = capacity(self.weight, self.strength)
        return np.divide(1.0, kappa, out=np.zeros(len(kappa)), where=moved & (kappa > 0.0))

    @cached_property
    def congestion(self) -> FloatArray:
        """Return ξ = 1 + |m|/(2λσ) at the midpoints of the cells (C,)."""
        density = np.linalg.norm(self.momentum, axis=1) / self.volume
        return np.asarray(gradient_norm(density, capacity(self.weight, self.strength)))


def flow_field(arrays: ResultArrays, strength: float) -> FlowField:
    """Return the flow field of a solution.

    Parameters
    ----------
    arrays
        The solution on its whole mesh.
    strength
        λ, infinity for W₁.

    Raises
    ------
    InputError
        If the flux is not one of a conservative momentum.
    """
    neighbours = facet_neighbours(arrays.cells)
    volume = simplex_volumes(arrays.vertices[arrays.cells])
    flux, mismatch = one_flux_per_facet(neighbours, arrays.flux)
    residual = np.abs(flux.sum(axis=1) - volume * (arrays.source - arrays.target)).max(initial=0.0)
    for what, size in (
        ("differences between the two sides of facets", mismatch),
        ("divergences that differ from source less target", float(residual)),
    ):
        if not size <= _SAME:
            raise InputError(f"found {what} in array flux, up to {size:.2g}; allowed: {_SAME:g}")
    return field_with_flux(arrays, strength, neighbours, flux, np.zeros(len(volume)))


def field_with_flux(
    arrays: ResultArrays,
    strength: float,
    neighbours: IntArray,
    flux: FloatArray,
    growth: FloatArray,
) -> FlowField:
    """Return the flow field of a flux (C, d+1) on the mesh and with the measures of a solution."""
    return FlowField(
        vertices=np.ascontiguousarray(arrays.vertices, dtype=np.float64),
        cells=np.ascontiguousarray(arrays.cells, dtype=np.int64),
        volume=simplex_volumes(arrays.vertices[arrays.cells]),
        neighbours=neighbours,
        flux=flux,
        source=np.maximum(arrays.source, 0.0),
        target=np.maximum(arrays.target, 0.0),
        growth=growth,
        weight=arrays.weight,
        strength=strength,
    )


def one_flux_per_facet(neighbours: IntArray, flux: FloatArray) -> tuple[FloatArray, float]:
    """Make fluxes opposite from the two sides of a facet, and 0 at walls.

    Parameters
    ----------
    neighbours
        As in `FlowField` (C, d+1).
    flux
        Outward integrals (C, d+1).

    Returns
    -------
    flux, mismatch
        The means of both sides, and by how much one side differed at most from the other, or a
        wall from 0.
    """
    cells, corners = neighbours.shape
    # A facet is known by its two cells; it stands once in the row of each.
    own = np.repeat(np.arange(cells), corners)
    other = neighbours.ravel()
    inner = np.flatnonzero(other >= 0)
    low = np.minimum(own[inner], other[inner])
    high = np.maximum(own[inner], other[inner])
    order = inner[np.lexsort((high, low))]
    first, second = order[0::2], order[1::2]
    values = flux.ravel()
    result = np.zeros(values.shape)
    result[first] = 0.5 * (values[first] - values[second])
    result[second] = -result[first]
    mismatch = float(np.abs(result - values).max(initial=0.0))
    return result.reshape(cells, corners), 2.0 * mismatch


def broadcast_field(comm: MPI.Comm, field: FlowField | None) -> FlowField:
    """Return the field of rank 0 on every rank (collective).

    Parameters
    ----------
    comm
        Communicator.
    field
        The field on rank 0; not used on the others.
    """
    if comm.size == 1:
        assert field is not None
        return field
    names = [one.name for one in fields(FlowField)]
    own = {} if field is None else {name: getattr(field, name) for name in names}
    strength = comm.bcast(own.pop("strength", None))
    arrays = {name: broadcast_array(comm, own.get(name)) for name in names if name != "strength"}
    return FlowField(**arrays, strength=strength)


def flow_integrals(field: FlowField) -> tuple[float, float]:
    """Return ∫H(m) and ∫|m| by a rule of high degree: no upper bounds, as the certificate's are."""
    points, weights = simplex_rule(field.dimension, _DEGREE)
    length = quadratic = 0.0
    for begin in range(0, len(field.cells), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        momentum = momentum_at_vertices(field.vertices[field.cells[part]], field.flux[part])
        norms = np.linalg.norm(np.matmul(points, momentum), axis=2)
        length += float(field.volume[part] @ (norms @ weights))
        # ∫|m|² is exact by this rule.
        squares = field.volume[part] * (norms**2 @ weights)
        quadratic += float(field.compliance[part] @ squares)
    return length + 0.5 * quadratic, length
