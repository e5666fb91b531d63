"""The primal–dual Newton method on one space: bounds at every step, limits, starts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mpi4py import MPI

from congested.cell_data import CellData
from congested.discretization import (
    CROUZEIX_RAVIART,
    LAGRANGE_1,
    LAGRANGE_2,
    PotentialSpace,
    StiffnessSystem,
)
from congested.domain import Box, create_mesh
from congested.errors import InputError, NotConverged
from congested.geometry import cells_of_mesh
from congested.measures.gaussian_mixture import GaussianMixture
from congested.nested_iteration import solve
from congested.problem import Problem
from congested.recovery import marini_momentum
from congested.solvers.iteration import (
    Iterate,
    SpaceResult,
    Step,
    initial_iterate,
    line_search,
    transfer,
)
from congested.solvers.linear import LinearStatistics
from congested.solvers.newton import Newton, solve_newton
from congested.weights.kinds import ConstantWeight

kinds = pytest.mark.parametrize("kind", [CROUZEIX_RAVIART, LAGRANGE_1, LAGRANGE_2])


def make_problem(
    kind: str, *, strength: float = 10.0, dimension: int = 2, hole: bool = False
) -> tuple[PotentialSpace, CellData]:
    """Two bumps and a weight that varies by a factor of 1000; `hole` closes cells in between."""
    number = {2: 8, 3: 4}[dimension]
    mesh = create_mesh(Box((0.0,) * dimension, (1.0,) * dimension, cells=number), MPI.COMM_SELF)
    cells = cells_of_mesh(mesh)
    x = cells.midpoint
    active = np.ones(cells.number, dtype=bool)
    if hole:
        active = np.linalg.norm(x - 0.5, axis=1) > 0.15
    masses = []
    for place in (0.25, 0.7):
        mass = np.exp(-50.0 * np.sum((x - place) ** 2, axis=1)) * cells.volume * active
        masses.append(mass / mass.sum())
    weight = cells.volume * active * 10.0 ** (-3.0 * x[:, 0])
    data = CellData(cells, masses[0], masses[1], weight, strength, active, {})
    return PotentialSpace(mesh, cells, kind, active), data


def run(
    space: PotentialSpace,
    data: CellData,
    *,
    start: Iterate | None = None,
    relative_gap: float = 1e-6,
    options: Newton | None = None,
    stop_after: int = 10**6,
) -> tuple[SpaceResult, list[Step]]:
    steps: list[Step] = []

    def monitor(step: Step) -> bool:
        steps.append(step)
        return len(steps) >= stop_after

    result = solve_newton(
        space,
        data.capacity,
        data.load,
        start or initial_iterate(space),
        relative_gap,
        options or Newton(),
        LinearStatistics(),
        monitor,
    )
    return result, steps


@kinds
@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
def test_every_step_brackets_the_discrete_optimum(kind: str, strength: float) -> None:
    # After each step the flux is feasible, so that its cost is an upper bound of the discrete
    # optimum and cost − gap a lower bound: all these intervals must meet.
    space, data = make_problem(kind, strength=strength)
    result, steps = run(space, data)
    assert result.converged
    assert result.gap <= 1e-6 * result.cost
    assert (result.cost, result.gap) == (steps[-1].cost, steps[-1].gap)
    costs = np.array([step.cost for step in steps])
    gaps = np.array([step.gap for step in steps])
    # The linear tolerance 1e-8 is the error of the feasibility.
    assert (costs - gaps).max() <= costs.min() * (1.0 + 1e-7)
    assert (gaps >= -1e-12 * costs).all()
    # The start is far from the solution (at λ = 0.1 the problem is nearly linear: two steps).
    assert gaps[0] > 100.0 * gaps[-1]
    assert [step.iteration for step in steps] == list(range(1, len(steps) + 1))


@kinds
def test_smoothing_falls(kind: str) -> None:
    space, data = make_problem(kind)
    _, steps = run(space, data)
    smoothing = np.array([step.smoothing for step in steps])
    assert len(steps) > 3
    assert (np.diff(smoothing) <= 0.0).all()
    assert smoothing[-1] < 1e-2 * smoothing[0]
    # Never by more than the option allows.
    assert (smoothing[1:] >= (1.0 - 1e-12) * Newton().smoothing_reduction * smoothing[:-1]).all()


def test_three_dimensions() -> None:
    space, data = make_problem(CROUZEIX_RAVIART, dimension=3)
    result, _ = run(space, data, relative_gap=1e-5)
    assert result.converged


@kinds
@pytest.mark.parametrize("stop_after", [1, 3, 100])
def test_flux_is_feasible_after_every_step(kind: str, stop_after: int) -> None:
    # ∫ w·∇v = ∫ f v for every v: with the flux as residual and no stiffness the right-hand side
    # of a stiffness system is the sum of both sides.
    space, data = make_problem(kind)
    options = Newton(petsc={"ksp_rtol": 1e-13})
    result, _ = run(space, data, stop_after=stop_after, options=options)
    flux = result.iterate.flux
    system = StiffnessSystem(space)
    stiffness = np.zeros((*flux.shape, flux.shape[-1]))
    system.assemble(stiffness, -flux, data.load)
    defect = system.right_hand_side.x.array.copy()
    system.assemble(stiffness, np.zeros_like(flux), data.load)
    assert np.abs(defect).max() <= 1e-10 * np.abs(system.right_hand_side.x.array).max()
    system.destroy()


def test_crouzeix_raviart_flux_is_conservative_by_marini() -> None:
    space, data = make_problem(CROUZEIX_RAVIART, hole=True)
    result, _ = run(space, data, stop_after=2, options=Newton(petsc={"ksp_rtol": 1e-13}))
    flux = marini_momentum(data.cells, result.iterate.flux[:, 0], data.load)
    jumps = np.bincount(space.dofmap[space.active].ravel(), flux[space.active].ravel())
    assert np.abs(jumps).max() <= 1e-10 * np.abs(flux).max()


@kinds
def test_inactive_cells_carry_nothing(kind: str) -> None:
    space, data = make_problem(kind, hole=True)
    result, _ = run(space, data)
    assert result.converged
    assert 0 < np.count_nonzero(~space.active) < data.cells.number
    assert (result.iterate.flux[~space.active] == 0.0).all()


@pytest.mark.parametrize("limit", [1, 4])
def test_max_iterations_is_respected(limit: int) -> None:
    space, data = make_problem(CROUZEIX_RAVIART)
    result, steps = run(space, data, options=Newton(max_iterations=limit))
    assert not result.converged
    assert result.iterations == len(steps) == limit
    assert result.gap > 1e-6 * result.cost


def test_monitor_stops_the_iteration() -> None:
    space, data = make_problem(CROUZEIX_RAVIART)
    result, steps = run(space, data, stop_after=2)
    assert result.iterations == len(steps) == 2
    assert not result.converged


def test_start_from_the_solution_needs_one_step() -> None:
    space, data = make_problem(CROUZEIX_RAVIART)
    first, steps = run(space, data)
    again, more = run(space, data, start=first.iterate)
    assert again.converged
    assert len(more) == 1 < len(steps)


def test_useless_start_is_survived() -> None:
    # A wrong flux with a β that is far too small for it.
    space, data = make_problem(CROUZEIX_RAVIART)
    reference, steps = run(space, data)
    generator = np.random.default_rng(0)
    shape = reference.iterate.flux.shape
    start = Iterate(generator.normal(size=shape), generator.normal(size=shape), 1e-6)
    result, more = run(space, data, start=start)
    assert result.converged
    assert result.cost == pytest.approx(reference.cost, rel=2e-6)
    assert len(more) < 3 * len(steps)


def test_nothing_to_transport() -> None:
    space, data = make_problem(CROUZEIX_RAVIART)
    still = CellData(data.cells, data.source, data.source, data.weight, 10.0, data.active, {})
    result, steps = run(space, still)
    assert result.converged
    assert len(steps) == 1
    assert (result.cost, result.gap) == (0.0, 0.0)
    assert (result.iterate.flux == 0.0).all()


def test_without_congestion() -> None:
    # λ = ∞: the gap is that of a potential with |∇u| ≤ 1.
    space, data = make_problem(CROUZEIX_RAVIART, strength=math.inf)
    result, steps = run(space, data, relative_gap=1e-2)
    assert result.converged
    assert np.isfinite([(step.cost, step.gap) for step in steps]).all()
    assert 0.0 < result.gap <= 1e-2 * result.cost
    # The distance of the centres bounds the cost of this pair up to the truncation at the sides.
    assert result.cost == pytest.approx(0.45 * math.sqrt(2.0), rel=0.02)


@kinds
def test_transfer_injects_cell_means(kind: str) -> None:
    space, _ = make_problem(kind)
    generator = np.random.default_rng(0)
    coarse = Iterate(*generator.normal(size=(2, 5, 3, 2)), smoothing=0.25)
    parent = generator.integers(0, 5, size=space.cells.number)
    fine = transfer(coarse, space, parent)
    assert fine.smoothing == 0.25
    for old, new in ((coarse.flux, fine.flux), (coarse.gradient, fine.gradient)):
        assert new.shape == (space.cells.number, space.points_per_cell, 2)
        for point in range(space.points_per_cell):
            np.testing.assert_allclose(new[:, point], old.mean(axis=1)[parent])


def test_line_search_takes_the_largest_power_of_one_half_that_descends() -> None:
    # (t − a)² from t = 0: Armijo's condition holds up to t = 2a (1 − 1e-4/…) ≈ 2a.
    for minimum, expected in ((1.0, 1.0), (0.3, 0.5), (0.05, 0.0625)):
        found = line_search(lambda t, a=minimum: (t - a) ** 2, -2.0 * minimum)
        assert found == expected
    # A function that only rises: given up at a negligible length.
    assert line_search(lambda t: 1.0 + t, -1.0) < 1e-8


# --- through solve --------------------------------------------------------------------------


def two_gaussians() -> Problem:
    return Problem(
        domain=Box((0.0, 0.0), (1.0, 1.0), cells=8),
        source=GaussianMixture.from_stds(np.array([[0.35, 0.4]]), np.array([0.1])),
        target=GaussianMixture.from_stds(np.array([[0.65, 0.6]]), np.array([0.1])),
        weight=ConstantWeight(),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"ksp_type": "preonly", "pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"},
        {"pc_type": "gamg", "ksp_rtol": 1e-9},
        {"ksp_type": "minres", "pc_type": "jacobi"},
    ],
)
def test_petsc_options_do_not_change_the_bounds(options: dict[str, str | float]) -> None:
    arguments = {"relative_gap": 1e-2, "comm": MPI.COMM_SELF}
    reference = solve(two_gaussians(), **arguments)
    solution = solve(two_gaussians(), petsc=options, **arguments)
    # Newton's path, and with it where it stops, feels the linear tolerance of 1e-8.
    assert solution.bounds.lower == pytest.approx(reference.bounds.lower, rel=1e-6)
    assert solution.bounds.upper == pytest.approx(reference.bounds.upper, rel=1e-6)
    direct = "preonly" in options.values()
    steps = solution.solver["newton_iterations"]
    # Steps of the interior-point method have two solves.
    assert (steps if direct else 0) <= solution.solver["direct_solves"] <= 2 * steps * direct


def test_petsc_options_of_the_call_win_over_those_of_the_method() -> None:
    arguments = {"relative_gap": 1e-2, "refine": "none", "comm": MPI.COMM_SELF}
    exact = solve(two_gaussians(), petsc={"ksp_rtol": 1e-11}, **arguments)
    rough = Newton(petsc={"ksp_rtol": 1e-2})
    merged = solve(two_gaussians(), method=rough, petsc={"ksp_rtol": 1e-11}, **arguments)
    alone = solve(two_gaussians(), method=rough, **arguments)
    assert merged.bounds.lower == pytest.approx(exact.bounds.lower, rel=1e-9)
    assert abs(alone.bounds.lower - exact.bounds.lower) > 1e-6
    # Whatever the linear solver leaves, the flux is conservative and the bounds are bounds.
    assert alone.conservation["max_divergence_residual"] < 1e-14
    assert alone.bounds.lower < exact.bounds.upper
    assert exact.bounds.lower < alone.bounds.upper


def test_unknown_petsc_option_is_refused() -> None:
    with pytest.raises(InputError, match=r"solver\.petsc: .*-ksp_tolerance"):
        solve(two_gaussians(), petsc={"ksp_tolerance": 1e-3}, comm=MPI.COMM_SELF)


def test_failing_linear_solver_is_reported() -> None:
    with pytest.raises(NotConverged, match="the linear solver stopped: DIVERGED_MAX_IT"):
        solve(two_gaussians(), petsc={"pc_type": "jacobi", "ksp_max_it": 1}, comm=MPI.COMM_SELF)


def test_options_of_the_method_object_are_used() -> None:
    solution = solve(
        two_gaussians(), method=Newton(max_iterations=2), refine="none", comm=MPI.COMM_SELF
    )
    assert max(row["iteration"] for row in solution.history) == 2
    assert solution.bounds.lower < solution.bounds.upper
    assert solution.conservation["max_divergence_residual"] < 1e-14
