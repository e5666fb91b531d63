"""Solve and certify on one mesh: P1, then Crouzeix–Raviart, then P2 where it pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from dolfinx.mesh import Mesh
from mpi4py import MPI

from congested.cell_data import CellData
from congested.certificate import (
    Bounds,
    CellFields,
    CellIntegrals,
    cell_integrals,
    gradient_at_vertices,
    momentum_at_vertices,
)
from congested.continuum import critic_loss
from congested.continuum_data import ContinuumData, continuum_bounds
from congested.discretization import (
    CROUZEIX_RAVIART,
    LAGRANGE_1,
    LAGRANGE_2,
    PotentialSpace,
)
from congested.errors import NotConverged
from congested.geometry import FloatArray, IntArray
from congested.recovery import best_scale, equilibrate, marini_momentum
from congested.solvers.augmented_lagrangian import (
    AugmentedLagrangian,
    solve_augmented_lagrangian,
)
from congested.solvers.iteration import Iterate, SpaceResult, Step, initial_iterate, transfer
from congested.solvers.linear import LinearStatistics
from congested.solvers.newton import Newton, solve_newton

# The certified gap that a first guess of the flux on a new mesh is expected to leave.
_FIRST_GUESS_GAP = 1e-2
# P2 closes the gap that P1 leaves by about this factor on the same mesh (measured: 2 to 4).
_P2_GAIN = 3.0
# Rounding by which a lower bound may lie above the upper one.
_CROSSING = 1e-11


@dataclass(frozen=True)
class PotentialValues:
    """A conforming potential on cells: vertex values (n, d+1), P2 edge values (n, e) or None."""

    vertices: FloatArray
    edges: FloatArray | None = None


@dataclass(frozen=True)
class LevelResult:
    """What is known after a mesh.

    Attributes
    ----------
    data
        Cell data of the mesh.
    potential, flux
        The certified pair: potential; outward facet integrals of the momentum (n, d+1).
    fields
        All fields in the layout of the result file.
    bounds
        Their bounds, in the scope that was asked for.
    cell_data_gap
        Gap of the problem with cell data, which the solver closes.
    totals
        Critic loss, penalty, ∫|m| and the largest divergence residual.
    lower_bound_from
        "p1" or "p2".
    dofs
        Sizes of the potential (of the lower bound) and flux spaces.
    iterate
        Iterate in P1, from which the next mesh starts.
    restarted
        Spaces whose start was of no use at its small β.
    unfinished
        Spaces in which Newton's method met its limit of steps, or was stopped, before its goal.
    """

    data: CellData
    potential: PotentialValues
    flux: FloatArray
    fields: CellFields
    bounds: Bounds
    cell_data_gap: float
    totals: dict[str, float]
    lower_bound_from: str
    dofs: dict[str, int]
    iterate: Iterate
    restarted: frozenset[str]
    unfinished: tuple[str, ...]


@dataclass(frozen=True)
class FoundPair:
    """What of a `LevelResult` takes a solve to find: its attributes of the same names."""

    potential: PotentialValues
    flux: FloatArray
    cell_data_gap: float
    lower_bound_from: str
    dofs: dict[str, int]
    iterate: Iterate
    restarted: frozenset[str]
    unfinished: tuple[str, ...]


@dataclass(frozen=True)
class LevelGoal:
    """What a level aims at.

    Attributes
    ----------
    relative_gap
        Certified relative gap wanted.
    lower_bound
        "p1", "p2" or "auto".
    last
        Whether no finer mesh will follow, so that P2 is the last resort.
    """

    relative_gap: float
    lower_bound: str
    last: bool


Monitor = Callable[[str, Step], bool]
Method = Newton | AugmentedLagrangian


def solve_level(
    mesh: Mesh,
    data: CellData,
    goal: LevelGoal,
    method: Method,
    statistics: LinearStatistics,
    monitor: Monitor,
    coarse: tuple[LevelResult, IntArray] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    continuum: ContinuumData | None = None,
) -> LevelResult | None:
    """Solve on one mesh (collective).

    Parameters
    ----------
    mesh, data
        Mesh and cell data.
    goal
        What to aim at.
    method, statistics
        Options of the method; counts of linear solves, updated.
    monitor
        Called with the space's name and each Newton step; True stops that iteration.
    coarse
        Result on the coarser mesh and the parent cell of each owned cell, to start from.
    stopped
        Whether the run has been asked to stop (the same on all ranks). A level that has a
        coarser result to fall back on is then abandoned before its flux is feasible.
    continuum
        Data of the bounds for the original densities, if these are asked for.

    Returns
    -------
    LevelResult or None
        None if abandoned.
    """
    cells = data.cells

    def space(kind: str) -> PotentialSpace:
        return PotentialSpace(mesh, cells, kind, data.active)

    restarted: set[str] = set()
    unfinished: list[str] = []

    def run(on: PotentialSpace, start: Iterate) -> SpaceResult:
        wanted = method.gap_share * goal.relative_gap
        if coarse is not None and on.kind in coarse[0].restarted:
            start = replace(start, distrusted=True)
        arguments = (on, data.capacity, data.load, start, wanted)

        def report(step: Step) -> bool:
            return monitor(on.kind, step)

        if isinstance(method, Newton):
            result = solve_newton(*arguments, method, statistics, report)
        else:
            result = solve_augmented_lagrangian(*arguments, method, statistics, report)
        if result.restarted:
            restarted.add(on.kind)
        if not result.converged:
            unfinished.append(on.kind)
        return result

    p1 = space(LAGRANGE_1)
    if coarse is None:
        start = initial_iterate(p1)
    else:
        start = transfer(coarse[0].iterate, p1, coarse[1])
    first = run(p1, start)
    if coarse is not None and stopped():
        return None

    crouzeix_raviart = space(CROUZEIX_RAVIART)
    own = np.arange(cells.number)
    gap = coarse[0].cell_data_gap if coarse is not None else _FIRST_GUESS_GAP * first.cost
    open_volume = cells.total(np.where(data.active, cells.volume, 0.0))
    smoothing = max(first.iterate.smoothing or 0.0, 0.1 * gap / open_volume)
    start = replace(transfer(first.iterate, crouzeix_raviart, own), smoothing=smoothing)
    second = run(crouzeix_raviart, start)
    flux = marini_momentum(cells, second.iterate.flux[:, 0], data.load)
    flux = equilibrate(crouzeix_raviart, data, flux)

    potential = _conforming(p1, data, first, continuum)
    integrals = _integrals(data, potential, flux)
    bounds = _bounds(data, integrals)
    chosen, dofs, cell_data_gap = LAGRANGE_1, p1.global_dofs, bounds.gap
    if continuum is not None:
        integrals, bounds = continuum_bounds(data, continuum, potential.vertices, flux)
        bounds = _checked(bounds)
    elif _wants_p2(goal, bounds.relative_gap) and not stopped():
        p2 = space(LAGRANGE_2)
        third = run(p2, transfer(second.iterate, p2, own))
        candidate = _conforming(p2, data, third)
        sharper = _integrals(data, candidate, flux)
        if _bounds(data, sharper).lower > bounds.lower:
            potential, integrals, chosen, dofs = candidate, sharper, LAGRANGE_2, p2.global_dofs
            bounds = _bounds(data, integrals)
            cell_data_gap = bounds.gap
    return LevelResult(
        data=data,
        potential=potential,
        flux=flux,
        fields=_fields(data, potential, flux, integrals, continuum),
        bounds=bounds,
        cell_data_gap=cell_data_gap,
        totals=_totals(data, integrals),
        lower_bound_from=chosen,
        dofs={"potential": dofs, "flux": crouzeix_raviart.global_dofs},
        iterate=first.iterate,
        restarted=frozenset(restarted),
        unfinished=tuple(unfinished),
    )


def certify_again(
    mesh: Mesh, data: CellData, found: FoundPair, continuum: ContinuumData | None = None
) -> LevelResult:
    """Certify a pair that was found in an earlier run, without a solve for it (collective).

    The bounds come from the data and the pair alone, so that they hold whatever file it was kept
    in; what the flux lacks of being conservative is corrected.

    Parameters
    ----------
    mesh, data
        Mesh and cell data.
    found
        The pair, and what else the run knew.
    continuum
        Data of the bounds for the original densities, if these are asked for.

    Raises
    ------
    NotConverged
        If the pair certifies nothing.
    """
    facets = PotentialSpace(mesh, data.cells, CROUZEIX_RAVIART, data.active)
    found = replace(found, flux=equilibrate(facets, data, found.flux))
    integrals = _integrals(data, found.potential, found.flux)
    if continuum is None:
        bounds = _bounds(data, integrals)
    else:
        values = found.potential.vertices
        integrals, bounds = continuum_bounds(data, continuum, values, found.flux)
        bounds = _checked(bounds)
    return LevelResult(
        data=data,
        fields=_fields(data, found.potential, found.flux, integrals, continuum),
        bounds=bounds,
        totals=_totals(data, integrals),
        **vars(found),
    )


def _wants_p2(goal: LevelGoal, relative_gap: float) -> bool:
    if goal.lower_bound != "auto":
        return goal.lower_bound == LAGRANGE_2
    if relative_gap <= goal.relative_gap:
        return False
    return goal.last or relative_gap <= _P2_GAIN * goal.relative_gap


def _conforming(
    space: PotentialSpace,
    data: CellData,
    result: SpaceResult,
    continuum: ContinuumData | None = None,
) -> PotentialValues:
    """Return the potential on cells, multiplied by the best number."""
    corners = data.cells.dimension + 1
    values = result.potential[space.dofmap]
    edges = values[:, corners:] if space.kind == LAGRANGE_2 else None
    unscaled = PotentialValues(values[:, :corners], edges)
    gradient = gradient_at_vertices(data.cells.simplices, unscaled.vertices, unscaled.edges)
    if continuum is None:
        no_flux = np.zeros_like(unscaled.vertices)
        loss = data.cells.total(_integrals(data, unscaled, no_flux).critic_loss)
    else:
        loss = data.cells.total(critic_loss(continuum.fields, unscaled.vertices))
    scale = best_scale(space, data.capacity, gradient, loss)
    return PotentialValues(scale * unscaled.vertices, None if edges is None else scale * edges)


def _integrals(data: CellData, potential: PotentialValues, flux: FloatArray) -> CellIntegrals:
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


def _bounds(data: CellData, integrals: CellIntegrals) -> Bounds:
    total = data.cells.total
    lower = total(integrals.critic_loss) - total(integrals.penalty)
    return _checked(Bounds(lower, total(integrals.transport_cost)))


def _checked(bounds: Bounds) -> Bounds:
    # Bounds that cross or are no numbers certify nothing, and a negative gap is below any goal.
    lower, upper = bounds.lower, bounds.upper
    if not lower <= upper + _CROSSING * abs(upper):
        raise NotConverged(
            f"the bounds {lower:.8g} and {upper:.8g} are no bounds: rounding errors are as large "
            "as the gap or larger; ask for a larger relative gap or scale the domain"
        )
    return bounds


def _totals(data: CellData, integrals: CellIntegrals) -> dict[str, float]:
    total = data.cells.total
    residual = float(np.abs(integrals.divergence_residual).max(initial=0.0))
    return {
        "critic_loss": total(integrals.critic_loss),
        "penalty": total(integrals.penalty),
        "momentum_l1": total(integrals.momentum_l1),
        "max_divergence_residual": data.cells.comm.allreduce(residual, op=MPI.MAX),
    }


def _fields(
    data: CellData,
    potential: PotentialValues,
    flux: FloatArray,
    integrals: CellIntegrals,
    continuum: ContinuumData | None,
) -> CellFields:
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
