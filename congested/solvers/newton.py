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
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from mpi4py import MPI

from congested.discretization import PotentialSpace, StiffnessSystem
from congested.geometry import FloatArray
from congested.integrand import (
    gradient_penalty,
    primal_dual_stiffness,
    smoothed_cost,
    smoothed_gradient,
    transport_cost,
)
from congested.solvers.linear import LinearSolver, LinearStatistics, PetscOptions

# A start whose first step leaves this relative gap was useless; β is then this part of the mean
# cost density (measured on concentric Gaussians and at λ = 1000: fewest steps between 0.1 and 1).
_USELESS_GAP = 0.1
_RESTART_SHARE = 0.3


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
    smoothing_reduction
        Smallest factor by which β falls in one step.
    linear_tolerance
        Relative tolerance of the linear solves in the last steps; the first ones, far from the
        solution, are content with up to `loosest_linear_tolerance`.
    petsc
        PETSc options of the linear solves, without prefix.
    """

    title: ClassVar[str] = "Newton's method"

    max_iterations: int = 80
    gap_share: float = 0.05
    smoothing_reduction: float = 0.05
    linear_tolerance: float = 1e-8
    loosest_linear_tolerance: float = 1e-7
    petsc: PetscOptions | None = None


@dataclass(frozen=True)
class NewtonState:
    """Iterate of the method.

    Attributes
    ----------
    flux
        w = −m (n, q, d).
    gradient
        ∇u (n, q, d).
    smoothing
        β, in units of the flux; None where the method chooses.
    distrusted
        As a start: whether `smoothing` is expected to be too small for so rough a guess, because
        it was on the coarser mesh.
    """

    flux: FloatArray
    gradient: FloatArray
    smoothing: float | None = None
    distrusted: bool = False


@dataclass(frozen=True)
class NewtonStep:
    """What one step reports: cost ∫H(w), discrete gap, β, step length, CG steps.

    The augmented Lagrangian has no β and no step length but a penalty r and its two residuals.
    """

    iteration: int
    cost: float
    gap: float
    smoothing: float
    step_length: float
    linear_iterations: int
    penalty: float = np.nan
    primal_residual: float = np.nan
    dual_residual: float = np.nan


@dataclass(frozen=True)
class NewtonResult:
    """Where the iteration stopped.

    Attributes
    ----------
    state
        Last iterate; `state.flux` is feasible if at least one step was taken.
    potential
        Values of the potential of the last linear solve (owned and ghost dofs).
    cost, gap
        ∫H(w) and the discrete duality gap.
    converged
        Whether the gap fell below the target.
    iterations
        Number of steps.
    restarted
        Whether β had to be raised to make use of the start.
    """

    state: NewtonState
    potential: FloatArray
    cost: float
    gap: float
    converged: bool
    iterations: int
    restarted: bool


def initial_state(space: PotentialSpace) -> NewtonState:
    """Return the start from nothing: w = 0, ∇u = 0."""
    zero = np.zeros((space.cells.number, space.points_per_cell, space.cells.dimension))
    return NewtonState(zero, zero)


def transfer_state(state: NewtonState, space: PotentialSpace, parent: np.ndarray) -> NewtonState:
    """Carry an iterate to another space or a finer mesh: cell means of w and ∇u are injected.

    Parameters
    ----------
    state
        Iterate on the coarse cells.
    space
        Space to start on.
    parent
        Local coarse cell of each owned cell of `space` (n,).
    """
    q = space.points_per_cell

    def inject(values: FloatArray) -> FloatArray:
        return np.repeat(values.mean(axis=1)[parent][:, None], q, axis=1)

    return NewtonState(inject(state.flux), inject(state.gradient), state.smoothing)


def solve_newton(
    space: PotentialSpace,
    capacity: FloatArray,
    load: FloatArray,
    start: NewtonState,
    relative_gap: float,
    options: Newton,
    statistics: LinearStatistics,
    monitor: Callable[[NewtonStep], bool],
) -> NewtonResult:
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
    NewtonResult
        Never raises for slow convergence: look at `converged`.
    """
    system = StiffnessSystem(space)
    solver = LinearSolver(system, options.petsc or {}, statistics)
    try:
        return _iterate(system, solver, capacity, load, start, relative_gap, options, monitor)
    finally:
        solver.destroy()


def _iterate(
    system: StiffnessSystem,
    solver: LinearSolver,
    capacity: FloatArray,
    load: FloatArray,
    start: NewtonState,
    relative_gap: float,
    options: Newton,
    monitor: Callable[[NewtonStep], bool],
) -> NewtonResult:
    space = system.potential_space
    comm, active = space.mesh.comm, space.active
    volume = space.point_volume[active]
    capacity = np.repeat(capacity[active, None], space.points_per_cell, axis=1)
    compliance = np.asarray(1.0 / capacity, dtype=np.float64)
    dimension = space.cells.dimension
    congested = not comm.allreduce(bool(np.isinf(capacity).any()), op=MPI.LOR)

    def integral(values: FloatArray) -> float:
        return float(comm.allreduce(float(np.sum(volume * values)), op=MPI.SUM))

    measure = integral(np.ones_like(volume))
    flux, gradient = start.flux[active], start.gradient[active]
    # A flux of size mass/|Ω|^((d-1)/d) has unit mass through a section: the scale to start from.
    flux_scale = measure ** (1.0 / dimension - 1.0)
    smoothing = start.smoothing or flux_scale
    restart_smoothing = None
    if start.smoothing is not None:
        lengths = np.linalg.norm(flux, axis=-1)
        large = _RESTART_SHARE * integral(transport_cost(lengths, capacity)) / measure
        restart_smoothing = large if large > smoothing else None
    restarted = start.distrusted and restart_smoothing is not None
    if restarted and restart_smoothing is not None:
        smoothing, restart_smoothing = restart_smoothing, None
    stiffness = np.zeros((*space.point_volume.shape, dimension, dimension))
    residual = np.zeros((*space.point_volume.shape, dimension))
    feasible = False
    cost = gap = np.inf
    iteration = 0
    for iteration in range(1, options.max_iterations + 1):
        # W₁ (κ = ∞): H is flat along w, and the stiffness along the flux would grow like |w|³/β²;
        # a compliance that vanishes with β keeps it below |w|²/β.
        softened: FloatArray = compliance if congested else compliance + smoothing / flux_scale**2
        matrix = primal_dual_stiffness(
            flux, gradient - softened[..., None] * flux, softened, smoothing
        )
        derivative = smoothed_gradient(flux, softened, smoothing)
        stiffness[active] = matrix
        residual[active] = np.einsum("nqij,nqj->nqi", matrix, derivative) - flux
        system.assemble(stiffness, residual, load)
        before = solver.statistics.iterations
        tolerance = options.linear_tolerance
        if congested:
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

            length = _line_search(cost_at, slope)
        flux = flux + length * step
        gradient = gradient + length * (new_gradient - gradient)
        feasible = True

        flux_norm = np.linalg.norm(flux, axis=-1)
        gradient_norm = np.linalg.norm(new_gradient, axis=-1)
        if not congested:
            # Gradients longer than one cost infinity, so the gap is that of a scaled potential.
            longest = comm.allreduce(float(gradient_norm.max(initial=1.0)), op=MPI.MAX)
            new_gradient, gradient_norm = new_gradient / longest, gradient_norm / longest
        cost = integral(transport_cost(flux_norm, capacity))
        gap = integral(
            gradient_penalty(gradient_norm, capacity)
            + transport_cost(flux_norm, capacity)
            - np.sum(flux * new_gradient, axis=-1)
        )
        linear_iterations = solver.statistics.iterations - before
        stop = monitor(NewtonStep(iteration, cost, gap, smoothing, length, linear_iterations))
        if gap <= relative_gap * cost or stop:
            break
        if restart_smoothing is not None and gap > _USELESS_GAP * cost:
            # The start was too far from this problem's solution for its small β: go back to it
            # and let a larger β lead from there.
            flux, gradient, feasible = start.flux[active], start.gradient[active], False
            smoothing, restart_smoothing, restarted = restart_smoothing, None, True
            continue
        restart_smoothing = None
        # The error made by smoothing is at most β |Ω|: follow the gap down, but never below what
        # the goal needs by more than a factor 100 (the conditioning would suffer for nothing).
        wanted = max(0.1 * gap / measure, options.smoothing_reduction * smoothing)
        if congested and length == 1.0:
            # A full step has used up this β, even where the gap is still far above β |Ω|.
            wanted = min(wanted, 0.5 * smoothing)
        smoothing = min(smoothing, max(wanted, 0.01 * relative_gap * cost / measure))

    full_flux = np.zeros((*space.point_volume.shape, dimension))
    full_gradient = np.zeros_like(full_flux)
    full_flux[active], full_gradient[active] = flux, gradient
    return NewtonResult(
        NewtonState(full_flux, full_gradient, smoothing),
        system.solution.x.array.copy(),
        cost,
        gap,
        bool(gap <= relative_gap * cost),
        iteration,
        restarted,
    )


def _line_search(cost_at: Callable[[float], float], slope: float) -> float:
    """Return the largest of 1, 1/2, 1/4, … with Armijo's decrease; rounding is forgiven."""
    current = cost_at(0.0)
    length = 1.0
    while cost_at(length) > current + 1e-4 * length * slope + 1e-14 * abs(current):
        length *= 0.5
        if length < 1e-8:
            break
    return length
