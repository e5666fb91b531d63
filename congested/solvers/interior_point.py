r"""An interior-point method for min ∫ H(w) subject to ∫ w·∇v = ∫ f v for all potentials v.

It needs no start, takes about as many steps on every mesh and for every λ (mostly 8 to 20), and is
what `newton` turns to where Newton's method on the smoothed cost leads nowhere, and at λ = ∞.

With t ≥ |w| the cost is t + |w|²/(2κ). Its optimality conditions with a small parameter μ are, at
each gradient point,

    (t, w)∘(1, z) = (μ, 0),    z = w/κ − ∇u,    ∫ w·∇v = ∫ f v,

∘ the product of the second-order cone, in which (t, w) and (1, z) lie: at μ = 0, z = −w/|w|. A
step linearises the first condition in the scaling of Nesterov and Todd, first with μ = 0, then with
the μ that this predicts and its second-order terms (Mehrotra 1992). Eliminating t and w leaves one
weighted Laplacian for the potential, as in Newton's method; both solves of a step have its matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from congested.discretization import PotentialSpace
from congested.geometry import FloatArray
from congested.solvers.iteration import ActivePoints, Iterate, SpaceResult, Step, Trust
from congested.solvers.linear import LinearSolver
from congested.solvers.second_order_cone import (
    Scaling,
    determinant,
    joined,
    largest_step,
    product,
    quotient,
)

# Steps end this far before the boundary of the cone.
_SHORTER = 0.99
# The predictor only chooses μ and second-order terms: its solve may be rougher by this factor.
_PREDICTOR = 100.0
# Errors of a linear solve show in the gradients where little flows, and shorten the steps: after
# one shorter than the first number the next is solved better by the second, down to the third.
_TIGHTEN = (0.5, 0.1, 1e-11)
# What a step leaves of the infeasibility of w counts like a gap; it is to be far below it.
_INFEASIBILITY_SHARE = 0.01
# So many steps in a row, each shorter than that, lead nowhere any more.
_STALLED = (4, 0.02)


@dataclass(frozen=True)
class _Point:
    """x = (t, w) and y = (1, z) inside the cone (k, q, 1 + d), and the potential's values."""

    primal: FloatArray
    dual: FloatArray
    potential: FloatArray
    gradient: FloatArray


def solve_interior_point(
    space: PotentialSpace,
    capacity: FloatArray,
    load: FloatArray,
    relative_gap: float,
    solver: LinearSolver,
    tolerance: float,
    max_iterations: int,
    monitor: Callable[[Step], bool],
) -> SpaceResult:
    """Minimise ∫ H(w) on a `PotentialSpace`, from nothing (collective).

    Parameters
    ----------
    space, capacity, load, relative_gap, monitor
        As for `newton.solve_newton`. In the steps reported, `smoothing` is μ.
    solver, tolerance
        Linear solver of the space's system, and the relative tolerance of its first solves.
    max_iterations
        Limit of steps.

    Returns
    -------
    SpaceResult
        Never raises for slow convergence: look at `converged`.
    """
    points = ActivePoints(space, capacity)
    shape = (*points.volume.shape, space.cells.dimension)
    unit = np.ones(points.volume.shape)
    nothing = np.zeros(shape)
    point = _Point(
        joined(points.flux_scale * unit, nothing),
        joined(unit, nothing),
        np.zeros_like(solver.system.solution.x.array),
        nothing,
    )
    infeasible, stalled = 1.0, 0
    cost = gap = mean = np.inf
    converged = False
    iteration = 0
    for iteration in range(1, max_iterations + 1):
        before, last = solver.statistics.iterations, (point, cost, gap, mean)
        step = _Linearisation(points, point, load, solver)
        scaled = step.scaled
        predictor, _, _ = step.direction(-scaled, _PREDICTOR * tolerance)
        length = _common_step(points, point, predictor, 1.0)
        change, dual_change = predictor
        second_order = product(step.scaling.apply_inverse(change), step.scaling.apply(dual_change))
        wanted = -product(scaled, scaled) - second_order
        wanted[..., 0] += (1.0 - length) ** 3 * _complementarity(points, point) / points.measure
        corrector, potential, gradient = step.direction(quotient(wanted, scaled), tolerance)
        length = _common_step(points, point, corrector, _SHORTER)
        change, dual_change = corrector
        point = _Point(
            point.primal + length * change,
            point.dual + length * dual_change,
            point.potential + length * (potential - point.potential),
            point.gradient + length * (gradient - point.gradient),
        )
        infeasible *= 1.0 - length
        if length < _TIGHTEN[0]:
            tolerance = max(_TIGHTEN[1] * tolerance, _TIGHTEN[2])
        cost, gap = points.cost_and_gap(point.primal[..., 1:], point.gradient)
        mean = _complementarity(points, point) / points.measure
        if not (_is_inside(points, point) and np.isfinite([cost, gap, mean]).all()):
            # Rounding has left the cone: the point before is the best there is.
            point, cost, gap, mean = last
            break
        linear_iterations = solver.statistics.iterations - before
        stop = monitor(Step(iteration, cost, gap, linear_iterations, mean, length))
        feasible = infeasible <= _INFEASIBILITY_SHARE * relative_gap
        converged = bool(feasible and gap <= relative_gap * cost)
        stalled = stalled + 1 if length < _STALLED[1] else 0
        if converged or stop or stalled >= _STALLED[0]:
            break
    return SpaceResult(
        Iterate(points.full(point.primal[..., 1:]), points.full(point.gradient), mean),
        point.potential,
        cost,
        gap,
        converged,
        iteration,
        Trust.NONE,
    )


class _Linearisation:
    """The linear system of a step at a point, for any right-hand side."""

    def __init__(
        self, points: ActivePoints, point: _Point, load: FloatArray, solver: LinearSolver
    ) -> None:
        self._points, self._point, self._load, self._solver = points, point, load, solver
        self.scaling = Scaling(point.primal, point.dual)
        self.scaled = self.scaling.apply(point.dual)
        # With δt eliminated (the 1 of y stays), z_new = r − S δw and ∇u = w/κ − z give
        # M δw = ∇u_new − c with M = S + I/κ and c = w/κ − z − r. With the axis (a, v) and i = η⁻²,
        # W⁻² has the first row i (1 + 2|v|², −2 a v), and S = i (I − 2 v⊗v / (1 + 2|v|²)): M has
        # the eigenvalue i/(1 + 2|v|²) + 1/κ along v, which a subtraction would lose, else i + 1/κ.
        size, axis = self.scaling.size**-2, self.scaling.axis
        vector = axis[..., 1:]
        stretch = 1.0 + 2.0 * np.sum(vector**2, axis=-1)
        self._first = size * stretch
        self._mixed = -2.0 * (size * axis[..., 0])[..., None] * vector
        self._compliance = (1.0 / points.capacity)[..., None]
        across, along = size + self._compliance[..., 0], size / stretch + self._compliance[..., 0]
        factor = 2.0 * size / (stretch * across * along)
        outer = vector[..., :, None] * vector[..., None, :]
        self._stiffness = factor[..., None, None] * outer
        index = np.arange(vector.shape[-1])
        self._stiffness[..., index, index] += (1.0 / across)[..., None]
        solver.system.assemble_matrix(points.full(self._stiffness))

    def direction(
        self, scaled: FloatArray, tolerance: float
    ) -> tuple[tuple[FloatArray, FloatArray], FloatArray, FloatArray]:
        """Return (δx, δy) with W⁻¹δx + Wδy = `scaled`, and the new potential and gradient."""
        points, point = self._points, self._point
        flux, dual = point.primal[..., 1:], point.dual[..., 1:]
        right = self.scaling.apply_inverse(scaled)
        constant = right[..., 1:] - self._mixed * (right[..., :1] / self._first[..., None])
        offset = flux * self._compliance - dual - constant
        residual = np.einsum("nqij,nqj->nqi", self._stiffness, offset) - flux
        self._solver.system.assemble_right_hand_side(points.full(residual), self._load)
        potential = self._solver.solve(tolerance).copy()
        gradient = points.space.gradient(potential)[points.space.active]
        change = np.einsum("nqij,nqj->nqi", self._stiffness, gradient - offset)
        first = (right[..., 0] - np.sum(self._mixed * change, axis=-1)) / self._first
        dual_change = (flux + change) * self._compliance - gradient - dual
        directions = joined(first, change), joined(np.zeros_like(first), dual_change)
        return directions, potential, gradient


def _complementarity(points: ActivePoints, point: _Point) -> float:
    """Return ∫ x·y, the duality gap where both are feasible."""
    return points.integral(np.sum(point.primal * point.dual, axis=-1))


def _is_inside(points: ActivePoints, point: _Point) -> bool:
    """Whether x and y lie inside the cone on all ranks; what is not a number does not."""
    local = all(bool((determinant(one) > 0.0).all()) for one in (point.primal, point.dual))
    return bool(points.space.mesh.comm.allreduce(local, op=MPI.LAND))


def _common_step(
    points: ActivePoints,
    point: _Point,
    directions: tuple[FloatArray, FloatArray],
    share: float,
) -> float:
    """Return the step that both x and y can take, at most 1: the same on all ranks."""
    change, dual_change = directions
    local = min(largest_step(point.primal, change), largest_step(point.dual, dual_change))
    longest = points.space.mesh.comm.allreduce(local, op=MPI.MIN)
    return min(1.0, share * longest)
