"""Every strength of the penalty: λ from 0.1 to 1000 on one problem, and λ = ∞, which is W₁."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from congested.domain import Box
from congested.measures.ray_monotone import RayMonotoneSource
from congested.nested_iteration import solve
from congested.problem import Problem
from congested.solution import Solution, Status
from tests.convergence.exact import ConcentricGaussians, ExactSolution, Strip
from tests.convergence.study import solve_on_levels, widened_bounds

PROBLEMS = Path(__file__).parents[2] / "scripts" / "problems"
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
# Newton and CG steps on all meshes together; more than twice what was seen.
MOST_NEWTON_STEPS = {0.1: 25, 1.0: 25, 10.0: 35, 100.0: 70, 1000.0: 200}
MOST_LINEAR_STEPS = {0.1: 150, 1.0: 150, 10.0: 350, 100.0: 1500, 1000.0: 6000}
RELATIVE_GAP = 5e-4


@pytest.fixture(scope="module")
def two_gaussians() -> dict[float, Solution]:
    problem = Problem.from_file(PROBLEMS / "two_gaussians.toml")
    return {
        strength: solve(
            dataclasses.replace(problem, strength=strength),
            relative_gap=RELATIVE_GAP,
            max_cells=70_000,
        )
        for strength in STRENGTHS
    }


@pytest.mark.parametrize("strength", STRENGTHS)
def test_every_strength_converges(two_gaussians: dict[float, Solution], strength: float) -> None:
    solution = two_gaussians[strength]
    assert solution.status is Status.CONVERGED
    assert 0.0 < solution.bounds.relative_gap <= RELATIVE_GAP
    assert solution.conservation["max_divergence_residual"] < 1e-13
    assert solution.solver["newton_iterations"] <= MOST_NEWTON_STEPS[strength]
    assert solution.solver["linear_iterations"] <= MOST_LINEAR_STEPS[strength]


def test_cost_falls_with_the_strength(two_gaussians: dict[float, Solution]) -> None:
    for weak, strong in itertools.pairwise(STRENGTHS):
        _, cheap = widened_bounds(two_gaussians[strong])
        dear, _ = widened_bounds(two_gaussians[weak])
        assert cheap < dear


def test_a_flux_bounds_the_cost_at_every_strength(two_gaussians: dict[float, Solution]) -> None:
    for one, other in itertools.product(STRENGTHS, STRENGTHS):
        # The cost of a momentum is ∫|m| and a part that goes like 1/λ.
        moved = two_gaussians[one].values.momentum_l1
        _, upper = widened_bounds(two_gaussians[one])
        lower, _ = widened_bounds(two_gaussians[other])
        assert moved + (upper - moved) * one / other >= lower


def test_large_strengths_approach_the_distance(two_gaussians: dict[float, Solution]) -> None:
    # W₁ is at least the distance of the means (here it is little more).
    means = math.hypot(0.7 - 0.3, 0.6 - 0.35)
    excess = [two_gaussians[strength].bounds.cost - means for strength in STRENGTHS]
    assert np.all(np.diff(excess) < 0.0)
    assert 0.0 < excess[-1] < 1.5e-3 * means
    for solution in two_gaussians.values():
        assert solution.values.momentum_l1 > means
        critic_loss, penalty = solution.values.critic_loss, solution.values.penalty
        assert critic_loss - 2.0 * penalty == pytest.approx(
            solution.values.momentum_l1, abs=2.0 * solution.bounds.gap
        )


@pytest.mark.parametrize(
    "exact",
    [Strip(2, math.inf, 0.5), ConcentricGaussians(2, 0.08, 0.16, 1.0, math.inf)],
    ids=["strip", "concentric"],
)
def test_infinite_strength_gives_the_distance(exact: ExactSolution) -> None:
    distance = exact.distance
    assert distance is not None
    for solution in solve_on_levels(exact.problem(16), 2, relative_gap=1e-3):
        bounds, values = solution.bounds, solution.values
        lower, upper = widened_bounds(solution)
        assert lower <= distance <= upper
        assert values.penalty == 0.0
        assert values.critic_loss == bounds.lower
        assert values.momentum_l1 == pytest.approx(bounds.upper, rel=1e-14)
        assert np.linalg.norm(solution.fields.gradient, axis=1).max() <= 1.0 + 1e-12
    assert solution.bounds.relative_gap < 0.05


@pytest.fixture(scope="module", params=[16, 24])
def published_pair(request: pytest.FixtureRequest) -> list[Solution]:
    """Solve the published pair D = 2, N = 4 with λ = ∞ on a mesh and its refinements."""
    problem = Problem.from_file(PROBLEMS / "ray_monotone_d2_n4.toml")
    assert isinstance(problem.domain, Box)
    domain = dataclasses.replace(problem.domain, cells=request.param)
    problem = dataclasses.replace(problem, domain=domain, strength=math.inf)
    return solve_on_levels(problem, 3 if request.param == 16 else 2, relative_gap=1e-2)


def test_published_distance_is_bracketed(published_pair: list[Solution]) -> None:
    source = published_pair[0].problem.source
    assert isinstance(source, RayMonotoneSource)
    distance = source.pair.wasserstein1()
    assert distance == pytest.approx(0.82134, abs=5e-6)
    widened = [widened_bounds(solution) for solution in published_pair]
    assert [lower <= distance <= upper for lower, upper in widened] == [True] * len(widened)


def test_published_distance_is_approached(published_pair: list[Solution]) -> None:
    lower = [solution.bounds.lower for solution in published_pair]
    upper = [solution.bounds.upper for solution in published_pair]
    # The tips are better resolved from mesh to mesh: both bounds rise to 0.82134.
    assert np.all(np.diff(lower) > 0.0)
    assert np.all(np.diff(upper) > 0.0)
    assert lower[-1] > 0.79
    assert 0.81 < upper[-1] < 0.82134
    assert published_pair[-1].bounds.relative_gap < 0.03


def test_distance_of_the_pair_in_space_is_bracketed() -> None:
    problem = Problem.from_file(PROBLEMS / "ray_monotone_d3_n4.toml")
    source = problem.source
    assert isinstance(source, RayMonotoneSource)
    distance = source.pair.wasserstein1(1e-9)
    assert distance == pytest.approx(1.223945, abs=5e-7)
    assert isinstance(problem.domain, Box)
    domain = dataclasses.replace(problem.domain, cells=4)
    problem = dataclasses.replace(problem, domain=domain, strength=math.inf)
    (solution,) = solve_on_levels(problem, 1, relative_gap=1e-1)
    lower, upper = widened_bounds(solution)
    assert lower <= distance <= upper
    assert solution.bounds.upper == pytest.approx(distance, rel=0.05)
    assert solution.bounds.relative_gap < 0.35
