r"""Primal–dual Newton for min ∫ H(w) subject to ∫ w·∇v = ∫ f v for all potentials v.

The unknowns are the flux w (one vector per gradient point of a `PotentialSpace`; the momentum is
m = −w) and the potential u, the multiplier of the constraint. With the smoothed cost H_β one step
linearises DH_β(w) = ∇u with the matrix M of `primal_dual_stiffness` and eliminates w:

    ∫ M⁻¹∇u_new·∇v = ∫ f v − ∫ (w − M⁻¹DH_β(w))·∇v,      δw = M⁻¹(∇u_new − DH_β(w)).

After one full step w satisfies the constraint, and it keeps it for any later step length: δw is a
descent direction of the convex ∫ H_β, which makes a line search on the cost a global method. In
Crouzeix–Raviart every feasible w gives a flux with exact divergence (Marini), hence an upper
bound, converged or not. The duality gap of the discrete problem, ∫ φ(∇u) + H(w) − w·∇u, is known
after each step; it chooses the next β and stops the iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from congested.discretization import PotentialSpace, StiffnessSystem
from congested.geometry import FloatArray
from congested.integrand import (
    primal_dual_stiffness,
    smoothed_cost,
    smoothed_gradient,
    transport_cost,
)
from congested.solvers.interior_point import solve_interior_point
from congested.solvers.iteration import (
    ActivePoints,
    Iterate,
    SpaceResult,
    Step,
    Trust,
    line_search,
)
from congested.solvers.linear import LinearSolver, LinearStatistics, PetscOptions

# A start whose first step leaves this relative gap was useless; β is then this part of the mean
# cost density (measured on concentric Gaussians and at λ = 1000: fewest steps between 0.1 and 1).
_USELESS_GAP = 0.1
_RESTART_SHARE = 0.3
# So many steps, or so many of them shorter than the last number, are more than the interior-point
# method takes.
_MOST_STEPS = 20
_MOST_SHORT_STEPS, _SHORT = 3, 0.25
# CG steps in a solve of the interior-point method beyond which a factorisation is cheaper in 2D.
_PATIENCE = 15


@dataclass(frozen=True)
class Newton:
    """Options of the primal–dual Newton method.

    Attributes
    ----------
    max_iterations
        Steps per space and level.
    gap_share
        Part of the requested relative gap that a discrete problem may leave unsolved; the rest is
        for the difference between the nonconforming flux and the conforming potential.
    unsolved_share
        Part of the certified gap expected on a mesh that its discrete problems may leave unsolved,
        where that is more: they are not solved better than the mesh deserves.
    smoothing_reduction
        Smallest factor by which β falls in one step.
    linear_tolerance
        Relative tolerance of the linear solves in the last steps; the first ones, far from the
        solution, are content with up to `loosest_linear_tolerance`.
    interior_point_tolerance
        The same for the interior-point method, which takes over where there is no useful start and
        at λ = ∞.
    petsc
        PETSc options of the linear solves, without prefix.
    """

    title: ClassVar[str] = "Newton's method"

    max_iterations: int = 80
    gap_share: float = 0.05
    unsolved_share: float = 0.02
    smoothing_reduction: float = 0.05
    linear_tolerance: float = 1e-8
    loosest_linear_tolerance: float = 1e-7
    interior_point_tolerance: float = 1e-6
    petsc: PetscOptions | None = None


def solve_newton(
    space: PotentialSpace,
    capacity: FloatArray,
    load: FloatArray,
    start: Iterate,
    relative_gap: float,
    options: Newton,
    statistics: LinearStatistics,
    monitor: Callable[[Step], bool],
) -> SpaceResult:
    """Minimise ∫ H(w) on a `PotentialSpace` (collective).

    Parameters
    ----------
    space
        Potential space; its inactive cells carry no flux.
    capacity
        κ = 2λσ (n,), positive in active cells.
    load
        f (n,), with zero total in every component.
    start
        Where to start; the flux need not be feasible.
    relative_gap
        Goal for gap/cost of the discrete problem (`options.gap_share` is applied by the caller).
    options, statistics
        Options; counts of linear solves, updated.
    monitor
        Called after each step on every rank; returns True to stop.

    Returns
    -------
    SpaceResult
        Never raises for slow convergence: look at `converged`.
    """
    system = StiffnessSystem(space)
    solver = LinearSolver(system, options.petsc or {}, statistics)
    points = ActivePoints(space, capacity)
    taken = 0

    def counted(step: Step) -> bool:
        nonlocal taken
        taken += 1
        return monitor(replace(step, iteration=taken))

    try:
        if points.congested and start.trust is not Trust.NONE:
            result = _iterate(points, solver, load, start, relative_gap, options, counted)
            if result is not None:
                return result
        # Two solves share a factorisation.
        solver.patience = _PATIENCE
        return solve_interior_point(
            space,
            capacity,
            load,
            relative_gap,
            solver,
            options.interior_point_tolerance,
            max(options.max_iterations - taken, 1),
            counted,
        )
    finally:
        solver.destroy()


def _iterate(
    points: ActivePoints,
    solver: LinearSolver,
    load: FloatArray,
    start: Iterate,
    relative_gap: float,
    options: Newton,
    monitor: Callable[[Step], bool],
) -> SpaceResult | None:
    """Return the result, or None where the start leads nowhere."""
    space, system = points.space, solver.system
    active, measure, integral = space.active, points.measure, points.integral
    flux, gradient = start.flux[active], start.gradient[active]
    smoothing = start.smoothing or points.flux_scale
    trust, larger = Trust.FULL, None
    if start.smoothing is not None:
        lengths = np.linalg.norm(flux, axis=-1)
        large = _RESTART_SHARE * integral(transport_cost(lengths, points.capacity)) / measure
        larger = large if large > smoothing else None
    if start.trust is Trust.ROUGH and larger is not None:
        smoothing, larger, trust = larger, None, Trust.ROUGH
    feasible = False
    cost = gap = np.inf
    iteration = short = 0
    for iteration in range(1, options.max_iterations + 1):
        softened = points.compliance(smoothing)
        matrix = primal_dual_stiffness(
            flux, gradient - softened[..., None] * flux, softened, smoothing
        )
        derivative = smoothed_gradient(flux, softened, smoothing)
        residual = np.einsum("nqij,nqj->nqi", matrix, derivative) - flux
        system.assemble(points.full(matrix), points.full(residual), load)
        before = solver.statistics.iterations
        tolerance = options.linear_tolerance
        if points.congested:
            relative = gap / cost if cost < np.inf else np.inf
            tolerance = max(tolerance, min(1e-4 * relative, options.loosest_linear_tolerance))
        values = solver.solve(tolerance)
        new_gradient = space.gradient(values)[active]
        step = np.einsum("nqij,nqj->nqi", matrix, new_gradient - derivative)
        length = 1.0
        if feasible:
            slope = integral(np.sum(step * (derivative - new_gradient), axis=-1))

            def cost_at(length: float) -> float:
                return integral(smoothed_cost(flux + length * step, softened, smoothing))  # noqa: B023

            length = line_search(cost_at, slope)
        flux = flux + length * step
        gradient = gradient + length * (new_gradient - gradient)
        feasible = True
        cost, gap = points.cost_and_gap(flux, new_gradient)
        linear_iterations = solver.statistics.iterations - before
        stop = monitor(Step(iteration, cost, gap, linear_iterations, smoothing, length))
        if gap <= relative_gap * cost or stop:
            break
        if larger is not None and gap > _USELESS_GAP * cost:
            # The start was too far from this problem's solution for its small β: go back to it
            # and let a larger β lead from there.
            flux, gradient, feasible = start.flux[active], start.gradient[active], False
            smoothing, larger, trust = larger, None, Trust.ROUGH
            continue
        larger = None
        short += length < _SHORT
        if iteration == _MOST_STEPS or short == _MOST_SHORT_STEPS:
            return None
        # The error made by smoothing is at most β |Ω|: follow the gap down, but never below what
        # the goal needs by more than a factor 100 (the conditioning would suffer for nothing).
        wanted = max(0.1 * gap / measure, options.smoothing_reduction * smoothing)
        if points.congested and length == 1.0:
            # A full step has used up this β, even where the gap is still far above β |Ω|.
            wanted = min(wanted, 0.5 * smoothing)
        smoothing = min(smoothing, max(wanted, 0.01 * relative_gap * cost / measure))

    return SpaceResult(
        Iterate(points.full(flux), points.full(gradient), smoothing),
        system.solution.x.array.copy(),
        cost,
        gap,
        bool(gap <= relative_gap * cost),
        iteration,
        trust,
    )
