"""Solve a problem with a known solution on a few meshes and measure what the theory promises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI

from congested.nested_iteration import solve
from congested.problem import Problem
from congested.solution import Solution
from congested.solvers.newton import Newton
from tests.convergence.exact import UFL, ExactSolution

# Far below what the meshes here resolve, so that only the discretisation is seen: the discrete
# problems are solved to a twentieth of it.
RELATIVE_GAP = 2e-5


@dataclass(frozen=True)
class Study:
    """Solutions of one problem on a mesh and on its uniform refinements.

    Attributes
    ----------
    exact
        The exact solution.
    solutions
        The solutions, coarse to fine.
    errors
        Absolute errors of each quantity, one per mesh: "lower", "upper" and "cost" (the bounds
        and their midpoint), "critic_loss", "penalty" and "momentum_l1" (the numbers L, P, ∫|m|);
        "identity" is ∫|m| − (L − 2P) of the computed numbers; "flux" the L¹ distance of the
        momenta over ∫|m|, "gradient" the norm of the error of ∇u in L²(|m| dx), that is where
        mass moves, over √∫|m|.
    """

    exact: ExactSolution
    solutions: tuple[Solution, ...]
    errors: dict[str, np.ndarray]

    def rate(self, quantity: str) -> float:
        """Return the power of the mesh width that the errors on the two finest meshes show."""
        coarse, fine = self.errors[quantity][-2:]
        return float(np.log2(coarse / fine))


def solve_on_levels(
    problem: Problem, levels: int, relative_gap: float = RELATIVE_GAP
) -> list[Solution]:
    """Solve by nested iteration on one mesh, on two meshes, …; P1 gives the lower bounds."""
    solutions: list[Solution] = []
    max_cells = 1
    for _ in range(levels):
        solution = solve(
            problem,
            relative_gap=relative_gap,
            max_cells=max_cells,
            lower_bound="p1",
            method=Newton(unsolved_share=0.0),
        )
        solutions.append(solution)
        topology = solution.mesh.topology
        max_cells = 2**topology.dim * topology.index_map(topology.dim).size_global
    return solutions


def data_error(solution: Solution) -> float:
    """Return the data error that the result states."""
    stated = solution.bounds.data_error
    assert stated is not None
    return stated


def widened_bounds(solution: Solution) -> tuple[float, float]:
    """Return the bounds of the cost with the original data, as far as the result knows them."""
    bounds, stated = solution.bounds, data_error(solution)
    return bounds.lower - stated, bounds.upper + stated


def field_errors(solution: Solution, exact: ExactSolution, degree: int = 6) -> tuple[float, float]:
    """Return the relative errors of momentum and gradient by quadrature of the exact fields."""
    position = ufl.SpatialCoordinate(solution.mesh)
    x = [position[axis] for axis in range(exact.dimension)]
    momentum = ufl.as_vector(exact.momentum(x, UFL))
    slope = ufl.grad(solution.potential) - ufl.as_vector(exact.gradient(x, UFL))
    dx = ufl.dx(metadata={"quadrature_degree": degree})

    def assemble(integrand: ufl.core.expr.Expr) -> float:
        value = fem.assemble_scalar(fem.form(integrand * dx))
        return float(solution.mesh.comm.allreduce(value, op=MPI.SUM))

    def length(vector: ufl.core.expr.Expr) -> ufl.core.expr.Expr:
        return ufl.sqrt(ufl.inner(vector, vector))

    moved = assemble(length(momentum))
    flux = assemble(length(solution.momentum - momentum))
    gradient = assemble(length(momentum) * ufl.inner(slope, slope))
    return flux / moved, float(np.sqrt(gradient / moved))


def study(exact: ExactSolution, cells: int, levels: int = 3) -> Study:
    """Solve on a mesh with so many cells along a side and its refinements; collect the errors."""
    solutions = solve_on_levels(exact.problem(cells), levels)
    rows = []
    for solution in solutions:
        bounds, values, truth = solution.bounds, solution.values, exact.values
        flux, gradient = field_errors(solution, exact)
        rows.append(
            {
                "lower": bounds.lower - truth.cost,
                "upper": bounds.upper - truth.cost,
                "cost": bounds.cost - truth.cost,
                "critic_loss": values.critic_loss - truth.critic_loss,
                "penalty": values.penalty - truth.penalty,
                "momentum_l1": values.momentum_l1 - truth.momentum_l1,
                "identity": values.momentum_l1 - (values.critic_loss - 2.0 * values.penalty),
                "flux": flux,
                "gradient": gradient,
            }
        )
    errors = {name: np.abs([row[name] for row in rows]) for name in rows[0]}
    return Study(exact, tuple(solutions), errors)
