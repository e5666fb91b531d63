"""What the methods have in common: iterates, reports and results, and the points they work at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from mpi4py import MPI

from congested.discretization import PotentialSpace
from congested.geometry import FloatArray
from congested.integrand import gradient_penalty, transport_cost


class Trust(StrEnum):
    """What a start is worth to Newton's method."""

    FULL = "full"
    """Its β is small enough to go on with."""
    ROUGH = "rough"
    """Only a far larger β leads on from it."""
    NONE = "none"
    """Nothing does: the interior-point method needs no start."""

    def or_less(self, other: Trust) -> Trust:
        """Return the smaller of two."""
        return max(self, other, key=list(Trust).index)


@dataclass(frozen=True)
class Iterate:
    """Where a method is, or is to start.

    Attributes
    ----------
    flux
        w = −m (n, q, d).
    gradient
        ∇u (n, q, d).
    smoothing
        β of Newton's method or μ of the interior-point method, in units of the flux; None where
        the method chooses.
    penalty
        r of the augmented Lagrangian; None where the method chooses.
    trust
        As a start: what it is expected to be worth, from what was seen on the coarser mesh.
    """

    flux: FloatArray
    gradient: FloatArray
    smoothing: float | None = None
    penalty: float | None = None
    trust: Trust = Trust.FULL


@dataclass(frozen=True)
class Step:
    """What one step reports: cost ∫H(w), discrete gap and CG steps.

    Newton's method adds β and the step length, the augmented Lagrangian r and its two residuals.
    Stream functions have no dual; in place of a gap is what a step predicted wrongly.
    """

    iteration: int
    cost: float
    gap: float
    linear_iterations: int
    smoothing: float = np.nan
    step_length: float = np.nan
    penalty: float = np.nan
    primal_residual: float = np.nan
    dual_residual: float = np.nan


@dataclass(frozen=True)
class SpaceResult:
    """Where an iteration on one space stopped.

    Attributes
    ----------
    iterate
        Last iterate. Its flux is feasible after one full step of Newton's method, and up to
        what is left of the first infeasibility in the interior-point method.
    potential
        Values of the potential (owned and ghost dofs): that of the last linear solve, or of the
        last point of the interior-point method.
    cost, gap
        ∫H(w) and the discrete duality gap.
    converged
        Whether the gap fell below the target.
    iterations
        Number of steps.
    trust
        What the start was worth.
    """

    iterate: Iterate
    potential: FloatArray
    cost: float
    gap: float
    converged: bool
    iterations: int
    trust: Trust = Trust.FULL


def initial_iterate(space: PotentialSpace) -> Iterate:
    """Return the start from nothing: w = 0, ∇u = 0."""
    zero = np.zeros((space.cells.number, space.points_per_cell, space.cells.dimension))
    return Iterate(zero, zero)


def transfer(iterate: Iterate, space: PotentialSpace, parent: np.ndarray) -> Iterate:
    """Carry an iterate to another space or a finer mesh: cell means of w and ∇u are injected.

    Parameters
    ----------
    iterate
        Iterate on the coarse cells.
    space
        Space to start on.
    parent
        Local coarse cell of each owned cell of `space` (n,).
    """
    q = space.points_per_cell

    def inject(values: FloatArray) -> FloatArray:
        return np.repeat(values.mean(axis=1)[parent][:, None], q, axis=1)

    return Iterate(
        inject(iterate.flux), inject(iterate.gradient), iterate.smoothing, iterate.penalty
    )


def line_search(cost_at: Callable[[float], float], slope: float) -> float:
    """Return the largest of 1, 1/2, 1/4, … with Armijo's decrease; rounding is forgiven."""
    current = cost_at(0.0)
    length = 1.0
    while cost_at(length) > current + 1e-4 * length * slope + 1e-14 * abs(current):
        length *= 0.5
        if length < 1e-8:
            break
    return length


@dataclass(frozen=True)
class ActivePoints:
    """The gradient points of the active cells, with what a method integrates there.

    Attributes
    ----------
    space
        The potential space, whose inactive cells carry no flux.
    cell_capacity
        κ = 2λσ (n,) of all owned cells, positive in active ones.
    """

    space: PotentialSpace
    cell_capacity: FloatArray

    @cached_property
    def volume(self) -> FloatArray:
        """Quadrature weights (k, q)."""
        return self.space.point_volume[self.space.active]

    @cached_property
    def capacity(self) -> FloatArray:
        """κ (k, q)."""
        own = self.cell_capacity[self.space.active, None]
        return np.repeat(own, self.space.points_per_cell, axis=1)

    @cached_property
    def congested(self) -> bool:
        """Whether κ is finite: otherwise the problem is that of W₁."""
        infinite = bool(np.isinf(self.capacity).any())
        return not self.space.mesh.comm.allreduce(infinite, op=MPI.LOR)

    @cached_property
    def measure(self) -> float:
        """Volume of the active cells of all ranks."""
        return self.integral(np.ones_like(self.volume))

    @cached_property
    def flux_scale(self) -> float:
        """Flux that has unit mass through a section: the scale to start from."""
        return float(self.measure ** (1.0 / self.space.cells.dimension - 1.0))

    def integral(self, values: FloatArray) -> float:
        """Integrate values (k, q) over all ranks."""
        local = float(np.sum(self.volume * values))
        return float(self.space.mesh.comm.allreduce(local, op=MPI.SUM))

    def full(self, values: FloatArray) -> FloatArray:
        """Continue values (k, q, …) by zero to all owned cells (n, q, …)."""
        result = np.zeros((*self.space.point_volume.shape, *values.shape[2:]))
        result[self.space.active] = values
        return result

    def compliance(self, smoothing: float) -> FloatArray:
        """Return 1/κ (k, q), softened where κ is infinite.

        There H is flat along w, and the stiffness along the flux would grow like |w|³/β²; a
        compliance that vanishes with β keeps it below |w|²/β.
        """
        exact = np.asarray(1.0 / self.capacity, dtype=np.float64)
        return exact if self.congested else exact + smoothing / self.flux_scale**2

    def cost_and_gap(self, flux: FloatArray, gradient: FloatArray) -> tuple[float, float]:
        """Return ∫H(w) and the duality gap ∫ φ(∇u) + H(w) − w·∇u of feasible w (k, q, d)."""
        flux_norm = np.linalg.norm(flux, axis=-1)
        gradient_norm = np.linalg.norm(gradient, axis=-1)
        if not self.congested:
            # Gradients longer than one cost infinity, so the gap is that of a scaled potential.
            local = float(gradient_norm.max(initial=1.0))
            longest = self.space.mesh.comm.allreduce(local, op=MPI.MAX)
            gradient, gradient_norm = gradient / longest, gradient_norm / longest
        cost = transport_cost(flux_norm, self.capacity)
        penalty = gradient_penalty(gradient_norm, self.capacity)
        return self.integral(cost), self.integral(penalty + cost - np.sum(flux * gradient, axis=-1))
