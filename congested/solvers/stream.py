r"""The best Raviart–Thomas flux in the plane, from any conservative one, by a stream function.

The fluxes of RT0 with the divergence of a given m₀ are m₀ − curl ψ with ψ in P1, constant on each
wall (the boundary of the open cells), if no open part has more than one wall. With ψ = 0 there,
Newton's method for

    min over ψ of ∫ H(w₀ + curl ψ),    w₀ the cell means of −m₀,

finds the flux that Crouzeix–Raviart finds, since Marini's flux is the best one for the same cost,
with a third of the unknowns. The linearisation is the primal–dual one of `newton`, and starts from
w₀ and the gradient of P1; every iterate is feasible to rounding. Where H is flat the matrix, that
of M in w, is bounded: multigrid needs fewer steps than for Crouzeix–Raviart, whose matrix has M⁻¹.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from mpi4py import MPI

from congested.discretization import LAGRANGE_1, PotentialSpace, StiffnessSystem
from congested.geometry import BoolArray, FloatArray, determinants
from congested.integrand import (
    primal_dual_stiffness,
    smoothed_cost,
    smoothed_gradient,
    transport_cost,
)
from congested.parts import Parts
from congested.solvers.iteration import (
    ActivePoints,
    Iterate,
    SpaceResult,
    Step,
    line_search,
)
from congested.solvers.linear import LinearSolver, LinearStatistics
from congested.solvers.newton import Newton

STREAM = "stream"
# Steps converge like Newton's: a rough solve costs the square of its error.
_LINEAR_TOLERANCE = 1e-5
# β |Ω| may be so many times what may be left of the cost, and falls by that factor at least with
# each full step.
_SMOOTHING_SHARE, _REDUCTION = 10.0, 0.2


@dataclass(frozen=True)
class StreamSpace(PotentialSpace):
    """P1 functions that vanish on the walls: on facets with an open cell on one side only.

    Attributes
    ----------
    facets
        The Crouzeix–Raviart space of the same cells.
    """

    facets: PotentialSpace

    @cached_property
    def _wall(self) -> BoolArray:
        """Facets (n, 3) of open cells with nothing open behind."""
        open_sides = np.where(self.active, 1.0, 0.0)[:, None] * np.ones(3)
        sides = self.facets.sum_over_cells(open_sides)[self.facets.dofmap]
        wall: BoolArray = self.active[:, None] & (sides < 1.5)
        return wall

    @cached_property
    def free(self) -> BoolArray:
        """Degrees of freedom (owned and ghost) inside the open parts."""
        # Facet i lies opposite vertex i.
        touching = self._wall.sum(axis=1, keepdims=True) - self._wall
        on_wall = self.sum_over_cells(touching.astype(np.float64)) > 0.5
        touched = self.sum_over_cells(np.where(self.active, 1.0, 0.0)[:, None] * np.ones(3)) > 0.5
        inside: BoolArray = touched & ~on_wall
        return inside

    @cached_property
    def parts(self) -> Parts:
        """None: the values on the walls fix the constants."""
        owned = self.space.dofmap.index_map.size_local
        return Parts(self.mesh.comm, np.full(owned, -1, dtype=np.int64), 0)

    @cached_property
    def complete(self) -> bool:
        """Whether every divergence-free flux is the curl of a function of this space.

        The fluxes have a dimension of inner facets less cells plus parts. It is larger than the
        number of inner vertices where a part has several walls, around a hole.
        """
        owned = self.space.dofmap.index_map.size_local
        cells, walls = np.count_nonzero(self.active), np.count_nonzero(self._wall)
        inside = np.count_nonzero(self.free[:owned])
        # Twice the inner facets are the sides of all cells less the walls.
        comm = self.mesh.comm
        twice = comm.allreduce(int(3 * cells - walls - 2 * cells - 2 * inside), op=MPI.SUM)
        parts = 1 + comm.allreduce(int(self.facets.components.max(initial=-1)), op=MPI.MAX)
        return bool(twice + 2 * parts == 0)


def stream_space(facets: PotentialSpace) -> StreamSpace:
    """Return the stream functions on the cells of a Crouzeix–Raviart space in the plane."""
    return StreamSpace(facets.mesh, facets.cells, LAGRANGE_1, facets.active, facets)


def solve_stream(
    space: StreamSpace,
    capacity: FloatArray,
    momentum: FloatArray,
    start: Iterate,
    tolerance: Callable[[float], float],
    options: Newton,
    statistics: LinearStatistics,
    monitor: Callable[[Step], bool],
) -> tuple[FloatArray, SpaceResult]:
    """Make the cost of a conservative flux as small as it gets (collective).

    Parameters
    ----------
    space
        Stream functions; if it is not `complete`, the flux found is feasible but not the best.
    capacity
        κ = 2λσ (n,), positive and finite in active cells.
    momentum
        Outward facet integrals (n, 3) of a conservative momentum.
    start
        ∇u near the solution (n, 1, 2), and β; its flux is not used.
    tolerance
        From a decrease of the cost to the part of the cost that may be left above the minimum.
    options, statistics
        Limit of steps and PETSc options; counts of linear solves, updated.
    monitor
        Called after each step on every rank; returns True to stop. The gap of a step is what its
        linearisation predicted wrongly of the decrease, a measure of what is left.

    Returns
    -------
    momentum : numpy.ndarray
        Outward facet integrals (n, 3), conservative like those given, to rounding.
    result : SpaceResult
        The iterate on the cell means; its potential is ψ.
    """
    cells, points = space.cells, ActivePoints(space, capacity)
    active = space.active
    centre = cells.midpoint[:, None] - cells.simplices
    mean = np.einsum("ni,nid->nd", momentum, centre) / (2.0 * cells.volume[:, None])
    flux, gradient = -mean[active][:, None], start.gradient[active]
    smoothing = start.smoothing or points.flux_scale
    compliance = points.compliance(smoothing)
    no_load = np.zeros(cells.number)

    def cost_of(flux: FloatArray) -> float:
        return points.integral(transport_cost(np.linalg.norm(flux, axis=-1), points.capacity))

    first_cost = cost = cost_of(flux)
    system = StiffnessSystem(space)
    solver = LinearSolver(system, options.petsc or {}, statistics)
    stream = np.zeros_like(system.solution.x.array)
    gap, converged, iteration = np.inf, False, 0
    try:
        for iteration in range(1, options.max_iterations + 1):
            inverse = primal_dual_stiffness(
                flux, gradient - compliance[..., None] * flux, compliance, smoothing
            )
            derivative = smoothed_gradient(flux, compliance, smoothing)
            # With J the rotation, curl ψ = J∇ψ and JᵀMJ = M⁻¹/det M⁻¹.
            stiffness = inverse / determinants(inverse)[..., None, None]
            system.assemble(points.full(stiffness), points.full(_rotated(derivative)), no_load)
            system.solution.x.array[:] = 0.0
            before = statistics.iterations
            change = solver.solve(_LINEAR_TOLERANCE)
            slope_of_change = space.gradient(change)[active]
            step = _rotated(slope_of_change)
            slope = points.integral(np.sum(step * derivative, axis=-1))
            smoothed: list[float] = []  # the line search asks for the length zero first

            def cost_at(length: float) -> float:
                moved = flux + length * step  # noqa: B023
                smoothed.append(points.integral(smoothed_cost(moved, compliance, smoothing)))  # noqa: B023
                return smoothed[-1]  # noqa: B023

            length = line_search(cost_at, slope)
            turned = np.einsum("nqij,nqj->nqi", stiffness, slope_of_change)
            # M δw = JJᵀMJ∇δψ is by how much the step changes DH.
            new_gradient = derivative + _rotated(turned)
            flux = flux + length * step
            gradient = gradient + length * (new_gradient - gradient)
            stream += length * change
            cost = cost_of(flux)
            gap = abs(smoothed[0] - smoothed[-1] + 0.5 * length * slope)
            linear_iterations = statistics.iterations - before
            stop = monitor(Step(iteration, cost, gap, linear_iterations, smoothing, length))
            allowed = tolerance(first_cost - cost)
            # The smoothing changes the minimum by far less than β |Ω| where most cells carry flux.
            fine_enough = smoothing * points.measure <= _SMOOTHING_SHARE * allowed
            converged = bool(length == 1.0 and fine_enough and gap <= allowed)
            if converged or stop:
                break
            if length == 1.0:
                wanted = min(
                    _REDUCTION * smoothing, 0.5 * _SMOOTHING_SHARE * allowed / points.measure
                )
                smoothing = max(wanted, options.smoothing_reduction * smoothing)
                compliance = points.compliance(smoothing)
    finally:
        solver.destroy()
    iterate = Iterate(points.full(flux), points.full(gradient), smoothing)
    result = SpaceResult(iterate, stream, cost, gap, converged, iteration)
    return momentum - _outward_curl(space, stream), result


def _rotated(vectors: FloatArray) -> FloatArray:
    """Return J v: the vectors turned by 90 degrees."""
    return np.stack([-vectors[..., 1], vectors[..., 0]], axis=-1)


def _outward_curl(space: StreamSpace, stream: FloatArray) -> FloatArray:
    """Return the outward facet integrals (n, 3) of curl ψ = J∇ψ: differences of its values."""
    values = stream[space.dofmap]
    edges = space.cells.simplices[:, 1:] - space.cells.simplices[:, :1]
    orientation = np.where(space.active, np.sign(determinants(edges)), 0.0)
    difference = values[:, [2, 0, 1]] - values[:, [1, 2, 0]]
    result: FloatArray = -orientation[:, None] * difference
    return result
