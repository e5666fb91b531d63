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
`newton`, whose states and results are used.
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
    proximal_length,
    transport_cost,
)
from congested.solvers.linear import LinearSolver, LinearStatistics, PetscOptions
from congested.solvers.newton import NewtonResult, NewtonState, NewtonStep

# The weights g of the penalty are κ over its mean, between this number and one.
_SMALLEST_WEIGHT = 1e-3
# r is adapted after so many iterations, by at most this factor, where the residuals differ by more.
_ADAPT_EVERY, _ADAPT_BY, _BALANCED = 10, 1.6, 5.0
# The flux is equilibrated when both residuals are below this multiple of the gap asked for (the gap
# was seen to be 0.03 of them); each time that it does not do, next below this part of that.
_FIRST_TRY, _NEXT_TRY = 20.0, 0.4


@dataclass(frozen=True)
class AugmentedLagrangian:
    """Options of the augmented Lagrangian method.

    Attributes
    ----------
    max_iterations
        Iterations per space and level.
    gap_share
        Part of the requested relative gap that a discrete problem may leave unsolved.
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
    relaxation: float = 1.6
    linear_tolerance: float = 1e-8
    petsc: PetscOptions | None = None


def solve_augmented_lagrangian(
    space: PotentialSpace,
    capacity: FloatArray,
    load: FloatArray,
    start: NewtonState,
    relative_gap: float,
    options: AugmentedLagrangian,
    statistics: LinearStatistics,
    monitor: Callable[[NewtonStep], bool],
) -> NewtonResult:
    """Minimise ∫ H(w) on a `PotentialSpace` (collective); arguments as for `solve_newton`.

    `NewtonState.smoothing` is the penalty r here.
    """
    solvers = [
        LinearSolver(StiffnessSystem(space), options.petsc or {}, statistics) for _ in range(2)
    ]
    try:
        return _Iteration(space, capacity, load, solvers, options).run(start, relative_gap, monitor)
    finally:
        for solver in solvers:
            solver.destroy()


class _Iteration:
    """The problem on the active cells, and what the iterations share."""

    def __init__(
        self,
        space: PotentialSpace,
        capacity: FloatArray,
        load: FloatArray,
        solvers: list[LinearSolver],
        options: AugmentedLagrangian,
    ) -> None:
        self.space, self.load, self.options = space, load, options
        self.comm, self.active = space.mesh.comm, space.active
        self.volume = space.point_volume[self.active]
        self.capacity = np.repeat(capacity[self.active, None], space.points_per_cell, axis=1)
        self.dimension = space.cells.dimension
        self.measure = self.integral(np.ones_like(self.volume))
        self.congested = not self.comm.allreduce(bool(np.isinf(self.capacity).any()), op=MPI.LOR)
        self.weight = np.ones_like(self.capacity)
        if self.congested:
            mean = self.integral(self.capacity) / self.measure
            self.weight = np.clip(self.capacity / mean, _SMALLEST_WEIGHT, 1.0)
        self.poisson, self.equilibration = solvers
        self.poisson.system.assemble_matrix(
            self.full(self.weight[..., None, None] * np.eye(self.dimension))
        )

    def integral(self, values: FloatArray) -> float:
        """Integrate values at the points over all ranks."""
        return float(self.comm.allreduce(float(np.sum(self.volume * values)), op=MPI.SUM))

    def full(self, values: FloatArray) -> FloatArray:
        """Continue values at the points of active cells by zero."""
        result = np.zeros((*self.space.point_volume.shape, *values.shape[2:]))
        result[self.active] = values
        return result

    def norm(self, vectors: FloatArray) -> float:
        """Return the L² norm of vectors at the points."""
        return float(np.sqrt(self.integral(np.sum(vectors**2, axis=-1))))

    def run(
        self, start: NewtonState, relative_gap: float, monitor: Callable[[NewtonStep], bool]
    ) -> NewtonResult:
        """Iterate until the discrete gap is small enough."""
        options, statistics = self.options, self.poisson.statistics
        flux, slope = start.flux[self.active], start.gradient[self.active]
        # The scale of a flux is that of Newton's first β: unit mass through a section.
        scale = self.measure ** (1.0 / self.dimension - 1.0)
        penalty = start.smoothing or scale
        wanted = _FIRST_TRY * relative_gap
        cost = gap = np.inf
        certified = flux, slope
        values = self.poisson.system.solution.x.array.copy()
        iteration, stop = 0, False
        while iteration < options.max_iterations and not stop:
            iteration += 1
            before = statistics.iterations
            step = penalty * self.weight[..., None]
            right = self.full(self.weight[..., None] * slope - flux / penalty)
            self.poisson.system.assemble_right_hand_side(right, self.load / penalty)
            values = self.poisson.solve(options.linear_tolerance)
            gradient = self.space.gradient(values)[self.active]
            mixed = gradient
            if iteration > 1:
                mixed = options.relaxation * gradient + (1.0 - options.relaxation) * slope
            argument = flux + step * mixed
            length = np.linalg.norm(argument, axis=-1)
            shorter = proximal_length(length, step[..., 0], self.capacity)
            flux = (
                argument
                * np.divide(shorter, length, out=np.zeros_like(length), where=length > 0.0)[
                    ..., None
                ]
            )
            new_slope = (argument - flux) / step
            primal = self.norm(gradient - new_slope) / max(self.norm(new_slope), 1e-300)
            dual = self.norm(step * (new_slope - slope)) / max(self.norm(flux), 1e-3 * scale)
            slope = new_slope
            if max(primal, dual) <= wanted or iteration == options.max_iterations:
                certified, cost, gap = self.certify(flux, gradient, max(primal, dual))
                wanted *= _NEXT_TRY
            report = NewtonStep(
                iteration,
                cost if cost < np.inf else self.integral(transport_cost(shorter, self.capacity)),
                gap,
                np.nan,
                np.nan,
                statistics.iterations - before,
                penalty,
                primal,
                dual,
            )
            stop = monitor(report) or (cost < np.inf and gap <= relative_gap * cost)
            if iteration % _ADAPT_EVERY == 0:
                ratio = primal / max(dual, 1e-300)
                if ratio > _BALANCED:
                    penalty *= _ADAPT_BY
                elif ratio < 1.0 / _BALANCED:
                    penalty /= _ADAPT_BY
        if not cost < np.inf:  # stopped before: what there is becomes feasible
            certified, cost, gap = self.certify(flux, gradient, max(primal, dual))
        state = NewtonState(self.full(certified[0]), self.full(certified[1]), penalty)
        converged = bool(gap <= relative_gap * cost)
        return NewtonResult(state, values.copy(), cost, gap, converged, iteration, False)

    def certify(
        self, flux: FloatArray, gradient: FloatArray, residual: float
    ) -> tuple[tuple[FloatArray, FloatArray], float, float]:
        """Return the equilibrated flux with ∇u, its cost, and the duality gap.

        The flux w + K∇e with ∫ K∇e·∇v = ∫ f v − ∫ w·∇v is feasible; K is the inverse of the
        second derivative of the cost, smoothed by the size of the residual.
        """
        smoothing = max(residual, 1e-8) * self.norm(flux) / np.sqrt(self.measure)
        compliance = np.asarray(1.0 / self.capacity, dtype=np.float64)
        if not self.congested:
            compliance = compliance + smoothing * self.measure ** (2.0 - 2.0 / self.dimension)
        direction = gradient - compliance[..., None] * flux
        matrix = primal_dual_stiffness(flux, direction, compliance, smoothing)
        system = self.equilibration.system
        system.assemble(self.full(matrix), self.full(-flux), self.load)
        correction = self.space.gradient(self.equilibration.solve(1e-8))[self.active]
        flux = flux + np.einsum("nqij,nqj->nqi", matrix, correction)
        lengths, slopes = np.linalg.norm(flux, axis=-1), np.linalg.norm(gradient, axis=-1)
        scaled = gradient
        if not self.congested:
            # Gradients longer than one cost infinity: the gap is that of a scaled potential.
            longest = self.comm.allreduce(float(slopes.max(initial=1.0)), op=MPI.MAX)
            scaled, slopes = gradient / longest, slopes / longest
        cost = self.integral(transport_cost(lengths, self.capacity))
        gap = self.integral(
            gradient_penalty(slopes, self.capacity)
            + transport_cost(lengths, self.capacity)
            - np.sum(flux * scaled, axis=-1)
        )
        return (flux, gradient), cost, gap
