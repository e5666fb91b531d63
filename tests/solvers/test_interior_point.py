"""The interior-point method on one space: optimality, feasibility, starts, and its end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from congested.cell_data import CellData
from congested.discretization import (
    CROUZEIX_RAVIART,
    LAGRANGE_1,
    LAGRANGE_2,
    PotentialSpace,
    StiffnessSystem,
)
from congested.solvers import interior_point
from congested.solvers.interior_point import solve_interior_point
from congested.solvers.iteration import SpaceResult, Step
from congested.solvers.linear import LinearSolver
from tests.solvers.test_newton import make_problem
from tests.solvers.test_newton import run as run_newton

kinds = pytest.mark.parametrize("kind", [CROUZEIX_RAVIART, LAGRANGE_1, LAGRANGE_2])


def run(
    space: PotentialSpace, data: CellData, relative_gap: float = 1e-6, limit: int = 60
) -> tuple[SpaceResult, list[Step]]:
    steps: list[Step] = []

    def monitor(step: Step) -> bool:
        steps.append(step)
        return False

    solver = LinearSolver(StiffnessSystem(space))
    arguments = (space, data.capacity, data.load, relative_gap, solver, 1e-8, limit, monitor)
    result = solve_interior_point(*arguments)
    solver.destroy()
    return result, steps


def infeasibility(space: PotentialSpace, data: CellData, result: SpaceResult) -> float:
    """Return the largest entry of ∫ f v − ∫ w·∇v over that of ∫ f v."""
    system = StiffnessSystem(space)
    entries = []
    for flux in (-result.iterate.flux, np.zeros_like(result.iterate.flux)):
        system.assemble_right_hand_side(flux, data.load)
        entries.append(np.abs(system.right_hand_side.x.array).max())
    system.destroy()
    return float(entries[0] / entries[1])


@kinds
@pytest.mark.parametrize("strength", [0.1, 10.0, 1e4])
def test_same_optimum_as_newton(kind: str, strength: float) -> None:
    space, data = make_problem(kind, strength=strength)
    reference, _ = run_newton(space, data)
    result, steps = run(space, data)
    assert result.converged
    assert 0.0 <= result.gap <= 1e-6 * result.cost
    assert result.cost == pytest.approx(reference.cost, rel=3e-6)
    assert infeasibility(space, data, result) < 1e-5
    assert len(steps) <= 30
    assert [step.iteration for step in steps] == list(range(1, len(steps) + 1))


@kinds
@pytest.mark.parametrize("dimension", [2, 3])
def test_without_congestion(kind: str, dimension: int) -> None:
    space, data = make_problem(kind, strength=math.inf, dimension=dimension, hole=True)
    result, steps = run(space, data, 1e-4)
    assert result.converged
    assert len(steps) <= 30
    lengths = np.linalg.norm(space.gradient(result.potential), axis=-1)[space.active]
    # A potential that is almost one of slope one, whose value is the cost: both are optimal.
    assert lengths.max() < 1.01
    means = result.potential[space.dofmap]
    if kind == LAGRANGE_2:
        return
    value = float(np.sum(means.mean(axis=1) * data.load * data.cells.volume))
    assert abs(value) / max(lengths.max(), 1.0) == pytest.approx(result.cost, rel=2e-2)
    assert (result.iterate.flux[~space.active] == 0.0).all()


def test_an_infeasible_flux_has_not_converged() -> None:
    # The first points have a small gap, as hardly anything flows yet.
    space, data = make_problem(LAGRANGE_1)
    result, steps = run(space, data, 0.9)
    assert result.converged
    assert steps[0].gap < 0.9 * steps[0].cost
    assert len(steps) > 1
    assert infeasibility(space, data, result) < 0.01


def test_limit_and_stop() -> None:
    space, data = make_problem(LAGRANGE_1)
    result, steps = run(space, data, limit=2)
    assert (result.converged, result.iterations, len(steps)) == (False, 2, 2)
    assert np.isfinite(result.potential).all()


def test_a_point_outside_the_cone_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    space, data = make_problem(LAGRANGE_1)
    reference, _ = run(space, data, limit=3)
    calls: list[int] = []
    whole = interior_point.largest_step

    def broken(*arguments: Any) -> float:
        # Two points for each of two directions: the fourth step is the first that is too long.
        calls.append(1)
        return math.inf if len(calls) > 12 else whole(*arguments)

    monkeypatch.setattr(interior_point, "largest_step", broken)
    result, steps = run(space, data)
    assert not result.converged
    assert len(steps) == 3
    np.testing.assert_array_equal(result.potential, reference.potential)
    assert (result.cost, result.gap) == (reference.cost, reference.gap)
