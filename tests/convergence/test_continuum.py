"""Bounds for the original densities hold the exact cost, where those of cell data do not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from congested.certificate import Bounds, cell_integrals
from congested.domain import Box
from congested.geometry import cells_of_mesh
from congested.measures.points import Points
from congested.measures.uniform import UniformBox
from congested.nested_iteration import solve
from congested.problem import Problem
from congested.solution import Solution
from congested.weights.kinds import ConstantWeight
from tests.convergence.exact import ConcentricGaussians, Strip

# The discrete problems are solved to a twentieth of it, far below the gaps of these meshes.
RELATIVE_GAP = 1e-3


def bounds_of(problem: Problem, levels: int = 1, **arguments: object) -> list[Solution]:
    """Solve for the original densities on a mesh and its refinements, each to its own gap."""
    solutions: list[Solution] = []
    most = 1
    for _ in range(levels):
        solution = solve(
            problem, scope="continuum", relative_gap=RELATIVE_GAP, max_cells=most, **arguments
        )
        solutions.append(solution)
        topology = solution.mesh.topology
        most = 2**topology.dim * topology.index_map(topology.dim).size_global
    return solutions


def cell_data_bounds(solution: Solution) -> Bounds:
    """Return what the same potential and flux say of the problem with cell data."""
    fields = solution.fields
    integrals = cell_integrals(
        cells_of_mesh(solution.mesh).simplices,
        fields.potential,
        fields.flux,
        fields.source,
        fields.target,
        fields.weight,
        solution.problem.strength,
    )
    lower = float((integrals.critic_loss - integrals.penalty).sum())
    return Bounds(lower, float(integrals.transport_cost.sum()))


@dataclass(frozen=True)
class Case:
    """A problem of concentric Gaussians, meshes, and how far the exact cost may be off.

    Cell data smear both Gaussians and bring them nearer to each other: their upper bound is below
    the exact cost. The slack is for what the box cuts off.
    """

    exact: ConcentricGaussians
    cells: tuple[int, ...]
    slack: float


CASES = {
    "2d": Case(ConcentricGaussians(2, 0.08, 0.16, 1.0, 10.0), (8, 16, 32), 1e-8),
    "2d-crowded": Case(ConcentricGaussians(2, 0.03, 0.06, 0.4, 1.0), (12, 20), 1e-8),
    "3d": Case(ConcentricGaussians(3, 0.1, 0.2, 0.9, 10.0), (10,), 1e-4),
}


@pytest.mark.parametrize("name", CASES)
def test_exact_cost_is_outside_the_bounds_of_cell_data_and_inside_these(name: str) -> None:
    case = CASES[name]
    cost = case.exact.values.cost
    assert 5.0 * case.exact.cut_off < case.slack
    for cells in case.cells:
        problem = case.exact.problem(cells)
        (solution,) = bounds_of(problem, refine="none")
        bounds, other = solution.bounds, cell_data_bounds(solution)
        # Missed by at least a tenth of a percent: no rounding, no tail.
        assert other.upper < cost * (1.0 - 1e-3)
        assert other.upper + 10.0 * case.slack < cost
        assert bounds.lower - case.slack <= cost <= bounds.upper + case.slack
        assert bounds.lower > other.lower
        assert solution.bounds.data_error == 0.0


@pytest.fixture(scope="module")
def sequence() -> list[Solution]:
    return bounds_of(CASES["2d"].exact.problem(16), 3)


def rates(values: list[float]) -> np.ndarray:
    return np.log2(np.array(values[:-1]) / values[1:])


def test_bounds_close_on_the_exact_cost(sequence: list[Solution]) -> None:
    cost = CASES["2d"].exact.values.cost
    lower = [cost - solution.bounds.lower for solution in sequence]
    upper = [solution.bounds.upper - cost for solution in sequence]
    assert min(lower + upper) > 0.0
    assert (np.diff(lower) < 0.0).all()
    assert (np.diff(upper) < 0.0).all()
    # The upper bound is of second order once the Gaussians are resolved; at this strength the P1
    # potential keeps the lower one from it on such meshes, in either scope (see test_rates).
    assert rates(upper)[-1] > 1.95, rates(upper)
    assert rates(lower)[-1] > 0.8, rates(lower)
    assert sequence[-1].bounds.relative_gap < 0.015


def test_gap_of_smooth_data_is_of_second_order() -> None:
    # Strongly congested, so that 1/σ inside the cells matters most.
    exact = ConcentricGaussians(2, 0.08, 0.16, 1.0, 0.02)
    solutions = bounds_of(exact.problem(32), 3)
    for solution in solutions:
        assert solution.bounds.lower <= exact.values.cost <= solution.bounds.upper
    gaps = [solution.bounds.gap for solution in solutions]
    assert rates(gaps)[-1] > 2.0, rates(gaps)


# --- constant weight --------------------------------------------------------------------------


def halves(cells: int, strength: float) -> tuple[Problem, float]:
    """Return the way from the left half of a square to the right one, and its cost.

    m = min(2x, 2 − 2x) e₁ and σ = 1, so ∫|m| = 1/2 and ∫|m|² = 1/3.
    """
    left, middle, right = np.array([0.0, 0.0]), np.array([0.5, 0.0]), np.array([1.0, 1.0])
    problem = Problem(
        Box((0.0, 0.0), (1.0, 1.0), cells),
        UniformBox(left, np.array([0.5, 1.0])),
        UniformBox(middle, right),
        ConstantWeight(),
        strength=strength,
    )
    return problem, 0.5 + 1.0 / (12.0 * strength)


@pytest.mark.parametrize("strength", [0.3, math.inf])
def test_strip_with_densities_that_jump_inside_cells(strength: float) -> None:
    gaps = []
    for cells in (5, 15, 45):
        problem, cost = halves(cells, strength)
        (solution,) = bounds_of(problem, refine="none")
        bounds = solution.bounds
        assert bounds.lower <= cost <= bounds.upper
        gaps.append(bounds.gap)
    # The cells at the jump are 1/45 of all, their correctors of the order h.
    assert np.log(gaps[1] / gaps[2]) / np.log(3.0) > 1.7
    assert gaps[-1] < 5e-3


def test_strip_with_jumps_on_facets_is_exact() -> None:
    problem, cost = halves(8, 0.3)
    (solution,) = bounds_of(problem, refine="none")
    assert solution.bounds.lower <= cost <= solution.bounds.upper
    # Nothing but the length of m and the P1 potential is not exact.
    assert solution.bounds.relative_gap < 0.02
    np.testing.assert_array_equal(solution.fields.source_affine_error, 0.0)


# --- W₁ ----------------------------------------------------------------------------------------


def test_distance_of_two_point_sets() -> None:
    source, target = np.array([[0.2, 0.2], [0.3, 0.7]]), np.array([[0.8, 0.3], [0.9, 0.6]])
    # Straight across: √0.37 each; crossing would be √0.65 and √0.41.
    distance = math.sqrt(0.37)
    assert 0.5 * (math.sqrt(0.65) + math.sqrt(0.41)) > distance
    gaps = []
    for cells in (8, 16):
        box = Box((0.0, 0.0), (1.0, 1.0), cells)
        problem = Problem(box, Points(source), Points(target), strength=math.inf)
        (solution,) = bounds_of(problem, refine="none")
        bounds = solution.bounds
        assert bounds.lower <= distance <= bounds.upper
        assert bounds.lower > 0.95 * distance
        gaps.append(bounds.gap)
    # A point is carried across its cell: first order.
    assert gaps[0] / gaps[1] > 1.6


def test_distance_of_points_that_stay() -> None:
    # W₁ = 0, but the bounds know the points only up to their cells' vertices.
    cloud = np.random.default_rng(0).random((20, 2))
    box = Box((0.0, 0.0), (1.0, 1.0), 6)
    problem = Problem(box, Points(cloud), Points(cloud[::-1]), strength=math.inf)
    (solution,) = bounds_of(problem, refine="none")
    assert -1e-8 < solution.bounds.lower <= 0.0
    assert 0.0 <= solution.bounds.upper < 2.0 / 6.0


@pytest.mark.parametrize("cells", [8, 16])
def test_distance_of_concentric_gaussians(cells: int) -> None:
    exact = ConcentricGaussians(2, 0.08, 0.16, 1.0, math.inf)
    (solution,) = bounds_of(exact.problem(cells), refine="none")
    assert solution.bounds.lower <= exact.distance <= solution.bounds.upper
    assert solution.fields.inverse_weight is None


def test_distance_of_a_strip_with_densities_that_nobody_bounds() -> None:
    exact = Strip(2, math.inf, 0.5)
    gaps = []
    for cells in (8, 16):
        (solution,) = bounds_of(exact.problem(cells), refine="none")
        assert solution.bounds.lower <= exact.distance <= solution.bounds.upper
        gaps.append(solution.bounds.gap)
    assert gaps[0] / gaps[1] > 1.8
