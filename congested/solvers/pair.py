"""A conforming potential and a conservative flux on a mesh: what they certify together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from congested.cell_data import CellData
from congested.certificate import (
    Bounds,
    CellFields,
    CellIntegrals,
    cell_integrals,
    gradient_at_vertices,
    momentum_at_vertices,
    potential_means,
)
from congested.continuum import critic_loss
from congested.continuum_data import ContinuumData, continuum_bounds
from congested.discretization import LAGRANGE_2, PotentialSpace
from congested.errors import NotConverged
from congested.geometry import FloatArray
from congested.recovery import best_scale
from congested.solvers.iteration import SpaceResult

# Rounding by which a lower bound may lie above the upper one.
_CROSSING = 1e-11


@dataclass(frozen=True)
class PotentialValues:
    """A conforming potential on cells: vertex values (n, d+1), P2 edge values (n, e) or None."""

    vertices: FloatArray
    edges: FloatArray | None = None


def conforming_values(
    space: PotentialSpace,
    data: CellData,
    result: SpaceResult,
    continuum: ContinuumData | None = None,
) -> PotentialValues:
    """Return the potential of a result on cells, multiplied by the best number (collective)."""
    corners = data.cells.dimension + 1
    values = result.potential[space.dofmap]
    edges = values[:, corners:] if space.kind == LAGRANGE_2 else None
    unscaled = PotentialValues(values[:, :corners], edges)
    gradient = gradient_at_vertices(data.cells.simplices, unscaled.vertices, unscaled.edges)
    if continuum is None:
        means = potential_means(unscaled.vertices, unscaled.edges)
        loss = data.cells.total((data.source - data.target) * means)
    else:
        loss = data.cells.total(critic_loss(continuum.fields, unscaled.vertices))
    scale = best_scale(space, data.capacity, gradient, loss)
    return PotentialValues(scale * unscaled.vertices, None if edges is None else scale * edges)


def pair_integrals(data: CellData, potential: PotentialValues, flux: FloatArray) -> CellIntegrals:
    """Return the integrals whose sums are the bounds, in each cell."""
    volume = data.cells.volume
    return cell_integrals(
        data.cells.simplices,
        potential.vertices,
        flux,
        data.source / volume,
        data.target / volume,
        data.weight / volume,
        data.strength,
        potential.edges,
    )


def pair_bounds(data: CellData, integrals: CellIntegrals) -> Bounds:
    """Return the bounds that integrals give, checked (collective)."""
    total = data.cells.total
    lower = total(integrals.critic_loss) - total(integrals.penalty)
    return checked(Bounds(lower, total(integrals.transport_cost)))


def certified(
    data: CellData,
    potential: PotentialValues,
    flux: FloatArray,
    continuum: ContinuumData | None,
) -> tuple[CellIntegrals, Bounds, float]:
    """Certify a pair in the scope asked for (collective).

    Returns
    -------
    tuple
        Integrals over the cells, the bounds, and the gap of the problem with cell data, which the
        solver closes.

    Raises
    ------
    NotConverged
        If the bounds are none.
    """
    integrals = pair_integrals(data, potential, flux)
    bounds = pair_bounds(data, integrals)
    gap = bounds.gap
    if continuum is not None:
        integrals, bounds = continuum_bounds(data, continuum, potential.vertices, flux)
    return integrals, checked(bounds), gap


def checked(bounds: Bounds) -> Bounds:
    """Return the bounds if they are some; raise `NotConverged` otherwise."""
    # Bounds that cross or are no numbers certify nothing, and a negative gap is below any goal.
    lower, upper = bounds.lower, bounds.upper
    if not lower <= upper + _CROSSING * abs(upper):
        raise NotConverged(
            f"the bounds {lower:.8g} and {upper:.8g} are no bounds: rounding errors are as large "
            "as the gap or larger; ask for a larger relative gap or scale the domain"
        )
    return bounds


def pair_totals(data: CellData, integrals: CellIntegrals) -> dict[str, float]:
    """Return critic loss, penalty, ∫|m| and the largest divergence residual (collective)."""
    total = data.cells.total
    residual = float(np.abs(integrals.divergence_residual).max(initial=0.0))
    return {
        "critic_loss": total(integrals.critic_loss),
        "penalty": total(integrals.penalty),
        "momentum_l1": total(integrals.momentum_l1),
        "max_divergence_residual": data.cells.comm.allreduce(residual, op=MPI.MAX),
    }


def pair_fields(
    data: CellData,
    potential: PotentialValues,
    flux: FloatArray,
    integrals: CellIntegrals,
    continuum: ContinuumData | None,
) -> CellFields:
    """Return all fields in the layout of the result file."""
    cells = data.cells
    gradient = gradient_at_vertices(cells.simplices, potential.vertices, potential.edges)
    return CellFields(
        potential=potential.vertices,
        potential_edges=potential.edges,
        flux=flux,
        momentum=momentum_at_vertices(cells.simplices, flux).mean(axis=1),
        gradient=gradient.mean(axis=1),
        weight=data.weight / cells.volume,
        source=data.source / cells.volume,
        target=data.target / cells.volume,
        gap_indicator=integrals.gap_indicator,
        **({} if continuum is None else vars(continuum.fields)),
    )
