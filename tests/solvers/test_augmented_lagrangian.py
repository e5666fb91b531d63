"""The augmented Lagrangian method has the bounds of Newton's, within the two gaps."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from congested.domain import Box
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.nested_iteration import solve
from congested.problem import Problem
from congested.solution import Solution, Status
from congested.solvers.augmented_lagrangian import AugmentedLagrangian
from congested.weights.kinds import ConstantWeight, Interpolates, MixtureWeight

SERIAL = MPI.COMM_SELF
PROBLEMS = Path(__file__).parent.parent.parent / "scripts" / "problems"
# λ, refinements of the coarse mesh, relative gap.
CASES = {
    "two_gaussians": (10.0, 4_000, 5e-3),
    "concentric_gaussians": (10.0, 4_000, 3e-2),
    "ray_monotone_d2_n4": (10.0, 4_000, 3e-2),
    "points": (10.0, 4_000, 3e-2),
    "l_shape": (10.0, 2_000, 3e-2),
    "disc_field": (1.0, 3_000, 3e-2),
    "channel": (10.0, 6_000, 0.2),
}


def both(problem: Problem, **options: Any) -> tuple[Solution, Solution]:
    newton, lagrangian = (
        solve(problem, method=method, comm=SERIAL, **options)
        for method in ("newton", "augmented-lagrangian")
    )
    assert newton.solver["method"] == "newton"
    assert lagrangian.solver["method"] == "augmented-lagrangian"
    assert lagrangian.solver["newton_iterations"] == 0
    assert lagrangian.solver["augmented_lagrangian_iterations"] == len(lagrangian.history)
    return newton, lagrangian


def assert_agreement(newton: Solution, lagrangian: Solution) -> None:
    """Both intervals hold for the same cell data: they meet, and the second is not much wider."""
    assert newton.fields.source.size == lagrangian.fields.source.size
    first, second = newton.bounds, lagrangian.bounds
    assert max(first.lower, second.lower) <= min(first.upper, second.upper)
    assert second.gap < 1.5 * first.gap + 5e-3 * first.upper
    assert not lagrangian.solver["unfinished"]
    assert lagrangian.conservation["max_divergence_residual"] < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_newton(name: str) -> None:
    strength, most, gap = CASES[name]
    problem = Problem.from_file(PROBLEMS / f"{name}.toml")
    domain = problem.domain
    if isinstance(domain, Box):
        domain = dataclasses.replace(domain, cells=16 if domain.dimension == 2 else 8)
    problem = dataclasses.replace(problem, strength=strength, domain=domain)
    assert_agreement(*both(problem, relative_gap=gap, max_cells=most, lower_bound="p1"))


def gaussians(strength: float, cells: int = 16) -> Problem:
    source, target = (
        GaussianMixture.from_stds([mean], [std])
        for mean, std in (((0.3, 0.35), 0.08), ((0.7, 0.6), 0.06))
    )
    return Problem(Box((0.0, 0.0), (1.0, 1.0), cells=cells), source, target, strength=strength)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 1e4])
def test_weak_and_strong_penalties(strength: float) -> None:
    assert_agreement(*both(gaussians(strength), relative_gap=1e-2, refine="none"))


def test_wasserstein_distance() -> None:
    """λ = ∞, where Newton's method in P1 meets its limit of steps."""
    problem = gaussians(math.inf, 32)
    solution = solve(problem, method="augmented-lagrangian", relative_gap=1e-2, comm=SERIAL)
    assert solution.status is Status.CONVERGED
    # A potential of slope one in the direction of the means, and the means' distance.
    distance = math.hypot(0.4, 0.25)
    assert solution.bounds.lower < 1.002 * distance
    assert solution.bounds.upper > 0.998 * distance


def test_second_order_potential_and_adaptive_meshes() -> None:
    problem = gaussians(1.0)
    options = {"relative_gap": 1e-3, "lower_bound": "p2", "refine": "adaptive", "max_cells": 20_000}
    solution = solve(problem, method="augmented-lagrangian", comm=SERIAL, **options)
    reference = solve(problem, comm=SERIAL, relative_gap=1e-3, lower_bound="p1")
    assert solution.status is Status.CONVERGED
    assert solution.data["lower_bound_from"] == "p2"
    slack = solution.bounds.data_error + reference.bounds.data_error
    assert solution.bounds.lower <= reference.bounds.upper + slack
    assert reference.bounds.lower <= solution.bounds.upper + slack


def test_closed_cells_carry_nothing() -> None:
    cloud = Points(np.array([[0.2, 0.3], [0.3, 0.6]])), Points(np.array([[0.7, 0.4], [0.8, 0.6]]))
    problem = Problem(Box((0.0, 0.0), (1.0, 1.0), cells=16), *cloud, strength=1.0)
    newton, lagrangian = both(problem, relative_gap=0.3, refine="none", lower_bound="p1")
    closed = lagrangian.fields.weight == 0.0
    assert closed.sum() > 100
    assert (lagrangian.fields.flux[closed] == 0.0).all()
    assert max(newton.bounds.lower, lagrangian.bounds.lower) <= min(
        newton.bounds.upper, lagrangian.bounds.upper
    )


def test_history_shows_both_residuals_falling() -> None:
    solution = solve(
        gaussians(10.0), method="augmented-lagrangian", refine="none", relative_gap=1e-5,
        lower_bound="p1", comm=SERIAL,
    )  # fmt: skip
    rows = [row for row in solution.history if row["space"] == "p1"]
    for name in ("primal_residual", "dual_residual"):
        values = np.array([row[name] for row in rows])
        assert (values > 0.0).all()
        assert values[-1] < 1e-2 * values[0]
    assert all(row["penalty"] > 0.0 and math.isnan(row["smoothing"]) for row in rows)
    # The gap is known once the flux has been equilibrated.
    gaps = np.array([row["discrete_gap"] for row in rows])
    assert np.isfinite(gaps[-1])
    assert gaps[-1] <= 0.3 * 1e-5 * rows[-1]["discrete_cost"]


def test_few_iterations_still_give_bounds_and_the_remedy() -> None:
    problem = gaussians(10.0)
    solution = solve(
        problem,
        method=AugmentedLagrangian(max_iterations=4),
        refine="none",
        relative_gap=1e-4,
        lower_bound="p1",
        comm=SERIAL,
    )
    assert solution.status is Status.STOPPED
    assert (
        "the augmented Lagrangian method did not end within its limit of 4 steps" in solution.reason
    )
    assert 'try method = "newton"' in solution.reason
    better = solve(problem, refine="none", lower_bound="p1", comm=SERIAL)
    assert solution.bounds.lower <= better.bounds.lower
    assert solution.bounds.upper >= better.bounds.upper - better.bounds.gap
    assert solution.conservation["max_divergence_residual"] < 1e-12


def test_a_stop_keeps_what_there_is() -> None:
    """Stopped at the first step of the first space: the flux is made feasible all the same."""
    solution = solve(gaussians(10.0), method="augmented-lagrangian", max_seconds=1e-9, comm=SERIAL)
    assert solution.status is Status.STOPPED
    assert 0.0 <= solution.bounds.lower <= solution.bounds.upper < math.inf


def test_weight_with_a_floor() -> None:
    problem = dataclasses.replace(
        gaussians(10.0), weight=MixtureWeight((Interpolates(), ConstantWeight()), (0.99, 0.01))
    )
    assert_agreement(*both(problem, relative_gap=1e-2, refine="none"))
