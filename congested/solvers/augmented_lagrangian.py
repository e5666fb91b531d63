r"""The augmented Lagrangian method ALG2 for max ∫ f u − φ(p) subject to p = ∇u.

The multiplier of the constraint is the flux w (the momentum is m = −w). With a penalty r, weighted
cell by cell with g, one iteration is (Fortin & Glowinski 1983; Benamou & Carlier, J. Optim. Theory
Appl. 2015; over-relaxed as by Eckstein & Bertsekas 1992)

    ∫ r g ∇u·∇v = ∫ f v + ∫ (r g p − w)·∇v,
    w ← prox_{r g H}(w + r g ∇u),      p ← what is left of the argument, over r g.

The matrix never changes: one set-up of its preconditioner serves all iterations. g follows σ within
three decades, which was seen to save half of the iterations or more. r is adapted so that both
residuals, ∇u − p and the change of r g p, fall alike. The flux is equilibrated at the end, and
whenever the residuals say that it may be good enough, by the smallest change in the metric of the
cost's second derivative: then its cost is an upper bound and the duality gap is known, as in
`newton`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from congested.discretization import PotentialSpace, StiffnessSystem
from congested.geometry import FloatArray
from congested.integrand import primal_dual_stiffness, proximal_length, transport_cost
from congested.solvers.iteration import ActivePoints, Iterate, SpaceResult, Step
from congested.solvers.linear import LinearSolver, LinearStatistics, PetscOptions

# The weights g of the penalty are κ over its mean, between this number and one.
_SMALLEST_WEIGHT = 1e-3
# r is adapted after so many iterations, by at most this factor, where the residuals differ by more.
_ADAPT_EVERY, _ADAPT_BY, _BALANCED = 10, 1.6, 5.0
# The flux is equilibrated when both residuals are below this multiple of the gap asked for (the gap
# was seen to be 0.03 of them); each time that it does not do, next below this part of that.
_FIRST_TRY, _NEXT_TRY = 20.0, 0.4
# The smoothing of K is this part of the mean flux at least; the flux counts as this part of its
# scale at least, where there is none yet.
_LEAST_SMOOTHING, _LEAST_FLUX = 1e-8, 1e-3
_EQUILIBRATION_TOLERANCE = 1e-8
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class AugmentedLagrangian:
    """Options of the augmented Lagrangian method.

    Attributes
    ----------
    max_iterations
        Iterations per space and level.
    gap_share
        Part of the requested relative gap that a discrete problem may leave unsolved.
    unsolved_share
        Part of the certified gap expected on a mesh that its discrete problems may leave unsolved,
        where that is more: they are not solved better than the mesh deserves.
    relaxation
        Over-relaxation, from 1 (none) to below 2.
    linear_tolerance
        Relative tolerance of the linear solves.
    petsc
        PETSc options of the linear solves, without prefix.
    """

    title: ClassVar[str] = "the augmented Lagrangian method"

    max_iterations: int = 1000
    gap_share: float = 0.3
    unsolved_share: float = 0.1
    relaxation: float = 1.6
    linear_tolerance: float = 1e-8
    petsc: PetscOptions | None = None


def solve_augmented_lagrangian(
    space: PotentialSpace,
    capacity: FloatArray,
    load: FloatArray,
    start: Iterate,
    relative_gap: float,
    options: AugmentedLagrangian,
    statistics: LinearStatistics,
    monitor: Callable[[Step], bool],
) -> SpaceResult:
    """Minimise ∫ H(w) on a `PotentialSpace` (collective); arguments as for `solve_newton`."""
    poisson, equilibration = (
        LinearSolver(StiffnessSystem(space), options.petsc or {}, statistics) for _ in range(2)
    )
    points = ActivePoints(space, capacity)
    try:
        return _iterate(points, load, poisson, equilibration, start, relative_gap, options, monitor)
    finally:
        poisson.destroy()
        equilibration.destroy()


def _iterate(
    points: ActivePoints,
    load: FloatArray,
    poisson: LinearSolver,
    equilibration: LinearSolver,
    start: Iterate,
    relative_gap: float,
    options: AugmentedLagrangian,
    monitor: Callable[[Step], bool],
) -> SpaceResult:
    space, statistics = points.space, poisson.statistics
    weight = _penalty_weight(points)
    poisson.system.assemble_matrix(points.full(weight * np.eye(space.cells.dimension)))
    flux: FloatArray = start.flux[space.active]
    slope: FloatArray = start.gradient[space.active]
    penalty = start.penalty or points.flux_scale
    wanted = _FIRST_TRY * relative_gap
    cost = gap = np.inf
    stop = False
    for iteration in range(1, options.max_iterations + 1):
        before = statistics.iterations
        step = penalty * weight[..., 0]
        right = points.full(weight[..., 0] * slope - flux / penalty)
        scaled = np.asarray(load / penalty, dtype=np.float64)
        poisson.system.assemble_right_hand_side(right, scaled)
        values = poisson.solve(options.linear_tolerance)
        gradient = space.gradient(values)[space.active]
        mixed = gradient
        if iteration > 1:
            mixed = options.relaxation * gradient + (1.0 - options.relaxation) * slope
        argument = flux + step * mixed
        length = np.linalg.norm(argument, axis=-1)
        shorter = proximal_length(length, step[..., 0], points.capacity)
        share = np.divide(shorter, length, out=np.zeros_like(length), where=length > 0.0)
        flux = argument * share[..., None]
        before_slope, slope = slope, (argument - flux) / step
        primal = _norm(points, gradient - slope) / max(_norm(points, slope), _TINY)
        least = _LEAST_FLUX * points.flux_scale
        dual = _norm(points, step * (slope - before_slope)) / max(_norm(points, flux), least)
        residual = max(primal, dual)
        if residual <= wanted:
            feasible, cost, gap = _certify(points, load, equilibration, flux, gradient, residual)
            certified = feasible, gradient
            wanted *= _NEXT_TRY
        stop = monitor(
            Step(
                iteration,
                cost
                if cost < np.inf
                else points.integral(transport_cost(shorter, points.capacity)),
                gap,
                statistics.iterations - before,
                penalty=penalty,
                primal_residual=primal,
                dual_residual=dual,
            )
        )
        if stop or (cost < np.inf and gap <= relative_gap * cost):
            break
        if iteration % _ADAPT_EVERY == 0:
            penalty *= _adaptation(primal, dual)
    if not (cost < np.inf and gap <= relative_gap * cost):
        # Stopped before, or out of iterations: the last flux becomes feasible, too.
        feasible, cost, gap = _certify(points, load, equilibration, flux, gradient, residual)
        certified = feasible, gradient
    return SpaceResult(
        Iterate(points.full(certified[0]), points.full(certified[1]), penalty=penalty),
        values.copy(),
        cost,
        gap,
        bool(gap <= relative_gap * cost),
        iteration,
    )


def _penalty_weight(points: ActivePoints) -> FloatArray:
    """Return g (k, q, 1, 1): κ over its mean within three decades, 1 where κ is infinite."""
    weight = np.ones_like(points.capacity)
    if points.congested:
        mean = points.integral(points.capacity) / points.measure
        weight = np.clip(points.capacity / mean, _SMALLEST_WEIGHT, 1.0)
    return np.asarray(weight[..., None, None], dtype=np.float64)


def _norm(points: ActivePoints, vectors: FloatArray) -> float:
    """Return the L² norm of vectors (k, q, d)."""
    return float(np.sqrt(points.integral(np.sum(vectors**2, axis=-1))))


def _adaptation(primal: float, dual: float) -> float:
    """Return the factor by which r is changed, so that both residuals fall alike."""
    if primal > _BALANCED * dual:
        return _ADAPT_BY
    return 1.0 / _ADAPT_BY if dual > _BALANCED * primal else 1.0


def _certify(
    points: ActivePoints,
    load: FloatArray,
    solver: LinearSolver,
    flux: FloatArray,
    gradient: FloatArray,
    residual: float,
) -> tuple[FloatArray, float, float]:
    """Return the equilibrated flux (k, q, d), its cost, and the duality gap.

    The flux w + K∇e with ∫ K∇e·∇v = ∫ f v − ∫ w·∇v is feasible; K is the inverse of the
    second derivative of the cost, smoothed by the size of the residual.
    """
    mean = _norm(points, flux) / np.sqrt(points.measure)
    smoothing = max(residual, _LEAST_SMOOTHING) * max(mean, _LEAST_FLUX * points.flux_scale)
    compliance = points.compliance(smoothing)
    direction = gradient - compliance[..., None] * flux
    matrix = primal_dual_stiffness(flux, direction, compliance, smoothing)
    solver.system.assemble(points.full(matrix), points.full(-flux), load)
    correction = points.space.gradient(solver.solve(_EQUILIBRATION_TOLERANCE))
    flux = flux + np.einsum("nqij,nqj->nqi", matrix, correction[points.space.active])
    cost, gap = points.cost_and_gap(flux, gradient)
    return flux, cost, gap
