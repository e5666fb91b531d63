"""The whole solve: how it ends and what it then says, history, data error, degenerate problems."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dolfinx import fem
from mpi4py import MPI

from congested.certificate import cell_integrals
from congested.domain import Box
from congested.errors import InputError
from congested.geometry import cells_of_mesh
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.nested_iteration import solve
from congested.parallel import StopRequest
from congested.problem import Problem
from congested.solution import ProgressEvent, Solution, Status
from congested.solvers.newton import Newton
from congested.weights.kinds import ConstantWeight, Interpolates

SERIAL = MPI.COMM_SELF


def gaussian(mean: tuple[float, ...], std: float) -> GaussianMixture:
    return GaussianMixture.from_stds(np.array([mean]), np.array([std]))


def two_gaussians(**changes: Any) -> Problem:
    problem = Problem(
        title="two Gaussians",
        domain=Box((0.0, 0.0), (1.0, 1.0), cells=8),
        source=gaussian((0.35, 0.4), 0.1),
        target=gaussian((0.65, 0.6), 0.1),
    )
    return dataclasses.replace(problem, **changes)


@pytest.fixture(scope="module")
def coarse() -> Solution:
    """The starting mesh alone: 256 cells."""
    return solve(two_gaussians(), relative_gap=1e-4, refine="none", comm=SERIAL)


@pytest.fixture(scope="module")
def converged() -> Solution:
    return solve(two_gaussians(), relative_gap=1e-3, comm=SERIAL)


# --- how it ends ----------------------------------------------------------------------------


def test_goal_is_reached(converged: Solution) -> None:
    assert converged.status is Status.CONVERGED
    assert converged.bounds.relative_gap <= 1e-3
    assert converged.levels == 3
    assert converged.mesh.topology.index_map(2).size_global == 256 * 4**2
    assert f"{converged.bounds.relative_gap:.2e} is certified, as asked (1.00e-03)" in (
        converged.reason
    )


def test_refinement_off(coarse: Solution) -> None:
    assert coarse.status is Status.STOPPED
    assert coarse.levels == 1
    assert "refinement is off" in coarse.reason
    assert 'refine = "uniform"' in coarse.reason


@pytest.mark.parametrize(
    ("limit", "cells", "levels"), [(256, 256, 1), (1023, 256, 1), (1024, 1024, 2)]
)
def test_max_cells(limit: int, cells: int, levels: int) -> None:
    solution = solve(two_gaussians(), relative_gap=1e-6, max_cells=limit, comm=SERIAL)
    assert solution.status is Status.STOPPED
    assert solution.levels == levels
    assert solution.mesh.topology.index_map(2).size_global == cells
    assert f"raise max_cells (now {limit})" in solution.reason
    assert f"{4 * cells} cells" in solution.reason


def test_starting_mesh_may_exceed_max_cells() -> None:
    solution = solve(two_gaussians(), relative_gap=1e-6, max_cells=10, comm=SERIAL)
    assert solution.levels == 1
    assert solution.bounds.lower < solution.bounds.upper


def test_max_seconds_returns_valid_bounds(converged: Solution) -> None:
    # The clock is read after each Newton step: one is made, and its flux made conservative.
    solution = solve(two_gaussians(), relative_gap=1e-4, max_seconds=1e-9, comm=SERIAL)
    assert solution.status is Status.STOPPED
    assert "max_seconds = 1e-09 have passed" in solution.reason
    assert [row["space"] for row in solution.history] == ["p1"]
    assert solution.bounds.lower < solution.bounds.upper
    assert solution.conservation["max_divergence_residual"] < 1e-14
    # The same cell data as on the coarse mesh of a full solve: the intervals must meet.
    slack = solution.bounds.data_error + converged.bounds.data_error
    assert solution.bounds.lower <= converged.bounds.upper + slack
    assert solution.bounds.upper >= converged.bounds.lower - slack


def stop_when(condition: Callable[[ProgressEvent], bool]) -> dict[str, Any]:
    stop = StopRequest()

    def progress(event: ProgressEvent) -> None:
        if condition(event):
            stop.signal = signal.SIGTERM

    return {"progress": progress, "stop": stop}


def test_stop_request_on_the_first_mesh() -> None:
    arguments = stop_when(lambda event: event.iteration == 2)
    solution = solve(two_gaussians(), relative_gap=1e-6, comm=SERIAL, **arguments)
    assert solution.status is Status.STOPPED
    assert "stopped by SIGTERM" in solution.reason
    assert [row["space"] for row in solution.history] == ["p1", "p1"]
    assert 0.0 < solution.bounds.lower < solution.bounds.upper < math.inf


def test_stop_request_keeps_the_bounds_of_the_last_finished_mesh() -> None:
    arguments = stop_when(lambda event: event.level == 1)
    solution = solve(two_gaussians(), relative_gap=1e-6, comm=SERIAL, **arguments)
    # Without "last mesh" there is no P2, hence not the bounds of `coarse`.
    reference = solve(
        two_gaussians(), relative_gap=1e-6, refine="none", lower_bound="p1", comm=SERIAL
    )
    assert solution.levels == 1
    assert solution.mesh.topology.index_map(2).size_global == 256
    assert (solution.bounds.lower, solution.bounds.upper) == pytest.approx(
        (reference.bounds.lower, reference.bounds.upper), rel=1e-13
    )
    assert solution.history[-1]["level"] == 1
    assert "the best bounds so far are kept" in solution.reason


@pytest.mark.parametrize("strength", [1.0, 1000.0])
def test_stop_request_never_makes_the_bounds_worse(strength: float) -> None:
    # At λ = 1000 the first step on the finer mesh is far from its optimum.
    problem = two_gaussians(
        source=gaussian((0.25, 0.25), 0.02), target=gaussian((0.75, 0.75), 0.07), strength=strength
    )
    goals = {"relative_gap": 1e-6, "lower_bound": "p1", "comm": SERIAL}
    first = solve(problem, refine="none", **goals)
    arguments = stop_when(lambda event: event.level == 1)
    solution = solve(problem, **goals, **arguments)
    assert solution.bounds.relative_gap <= first.bounds.relative_gap
    assert solution.levels == 1
    assert solution.status is Status.STOPPED


def test_newton_limit_is_named() -> None:
    # P1 is not blamed where others have replaced its bounds, nor one step of stream functions,
    # which leaves less than the gap.
    solution = solve(two_gaussians(), method=Newton(max_iterations=1), refine="none", comm=SERIAL)
    assert solution.status is Status.STOPPED
    assert "limit of 1 steps in p2" in solution.reason
    assert solution.bounds.lower < solution.bounds.upper


def test_linear_solver_that_fails_on_a_finer_mesh_leaves_the_coarser_bounds() -> None:
    # Jacobi-CG needs twice the steps on a mesh of half the size.
    options = {"pc_type": "jacobi", "ksp_max_it": 150}
    solution = solve(two_gaussians(), relative_gap=1e-6, petsc=options, comm=SERIAL)
    assert solution.status is Status.STOPPED
    assert 0 < solution.levels < 5
    assert "on the next mesh the linear solver stopped: DIVERGED_MAX_IT" in solution.reason
    assert 0.0 < solution.bounds.lower < solution.bounds.upper


def test_linear_solver_that_fails_in_a_better_space_leaves_the_bounds_of_the_first() -> None:
    # P1 and stream functions need at most 30 steps of Jacobi-CG on this mesh, P2 more.
    options = {"pc_type": "jacobi", "ksp_max_it": 60}
    arguments = {"relative_gap": 1e-6, "refine": "none", "comm": SERIAL}
    solution = solve(two_gaussians(), petsc=options, **arguments)
    assert solution.status is Status.STOPPED
    assert "the linear solver stopped: DIVERGED_MAX_IT" in solution.reason
    assert {row["space"] for row in solution.history} == {"p1", "stream"}
    reference = solve(two_gaussians(), **arguments)
    assert solution.bounds.lower <= reference.bounds.upper
    assert solution.bounds.upper >= reference.bounds.lower
    assert solution.bounds.relative_gap > reference.bounds.relative_gap


def test_a_first_mesh_that_sees_no_difference_tells_nothing_of_what_spaces_gain() -> None:
    # Both points lie in one of four triangles.
    points = (Points([[0.5, 0.2]]), Points([[0.5, 0.3]]))
    problem = Problem(Box((0.0, 0.0), (1.0, 1.0), cells=1), *points, ConstantWeight())
    options = {"lower_bound": "p2", "relative_gap": 1e-2, "max_cells": 300, "comm": SERIAL}
    solution = solve(problem, **options)
    assert solution.levels == 4
    assert 0.0 < solution.bounds.lower < solution.bounds.upper < math.inf


# --- options --------------------------------------------------------------------------------


@pytest.mark.parametrize("lower_bound", ["p1", "p2"])
def test_lower_bound_is_chosen(lower_bound: str, coarse: Solution) -> None:
    solution = solve(
        two_gaussians(), relative_gap=1e-4, refine="none", lower_bound=lower_bound, comm=SERIAL
    )
    assert solution.data["lower_bound_from"] == lower_bound
    assert (solution.fields.potential_edges is None) == (lower_bound == "p1")
    # "auto" takes P2 on the last mesh if the goal is missed; here it is the better one.
    assert coarse.data["lower_bound_from"] == "p2"
    assert coarse.bounds.lower >= solution.bounds.lower * (1.0 - 1e-12)


def test_arguments_override_the_options_of_the_problem() -> None:
    solution = solve(two_gaussians(), relative_gap=0.25, comm=SERIAL)
    assert solution.problem.solver.relative_gap == 0.25
    assert solution.result()["problem"]["solver"]["relative_gap"] == 0.25


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"relative_gap": -1.0}, "solver.relative_gap"),
        ({"refine": "sometimes"}, "solver.refine"),
        ({"method": "magic"}, "solver.method"),
        ({"max_cells": 0}, "solver.max_cells"),
        ({"max_seconds": 0.0}, "solver.max_seconds"),
        ({"lower_bound": "p3"}, "solver.lower_bound"),
    ],
)
def test_wrong_argument(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        solve(two_gaussians(), comm=SERIAL, **arguments)
    assert caught.value.key == key


def test_progress_is_called_after_each_step(converged: Solution) -> None:
    events: list[ProgressEvent] = []
    solve(two_gaussians(), relative_gap=1e-3, comm=SERIAL, progress=events.append)
    assert [event.iteration for event in events] == list(range(1, len(events) + 1))
    assert len(events) == len(converged.history)
    assert math.isnan(events[0].relative_gap)
    gaps = [event.relative_gap for event in events if event.level > 0]
    assert all(1e-3 < gap < 0.1 for gap in gaps)


# --- degenerate problems --------------------------------------------------------------------


@pytest.mark.parametrize("strength", [10.0, math.inf])
@pytest.mark.parametrize("weight", [Interpolates(), ConstantWeight()])
def test_target_equal_to_source_costs_nothing(strength: float, weight: Any) -> None:
    problem = two_gaussians(target=gaussian((0.35, 0.4), 0.1), strength=strength, weight=weight)
    solution = solve(problem, refine="none", comm=SERIAL)
    assert solution.status is Status.CONVERGED
    assert (solution.bounds.lower, solution.bounds.upper) == (0.0, 0.0)
    # What is left are the sums of the masses, which are one to rounding.
    assert solution.bounds.data_error < 1e-14
    assert (solution.fields.flux == 0.0).all()
    assert solution.levels == 1


@pytest.mark.parametrize("shift", [1e-3, 1e-6, 1e-9])
def test_nearly_equal_measures(shift: float) -> None:
    # What the masses leave of their difference is of the size of their rounding errors. A shift
    # by e costs e to first order, less what the sides of the box cut off (2 % at 3.5 deviations).
    problem = two_gaussians(target=gaussian((0.35 + shift, 0.4), 0.1))
    solution = solve(problem, relative_gap=5e-2, refine="none", comm=SERIAL)
    assert 0.9 * shift < solution.bounds.lower < shift
    assert solution.bounds.lower < solution.bounds.upper < 1.2 * shift
    assert solution.conservation["max_divergence_residual"] < 1e-16


def test_infinite_strength_gives_finite_bounds_of_the_distance() -> None:
    # Translates: W₁ is the distance of the means, up to what the sides of the box cut off.
    problem = two_gaussians(
        strength=math.inf,
        source=gaussian((0.35, 0.4), 0.05),
        target=gaussian((0.65, 0.6), 0.05),
    )
    solution = solve(problem, relative_gap=2e-3, comm=SERIAL, max_cells=5000)
    assert solution.status is Status.CONVERGED
    distance = math.hypot(0.3, 0.2)
    slack = solution.bounds.data_error
    assert solution.bounds.lower - slack <= distance <= solution.bounds.upper + slack
    assert solution.values.penalty == 0.0


@pytest.mark.parametrize("strength", [0.1, 1.0, 100.0, 1000.0])
def test_strengths_from_a_tenth_to_a_thousand(strength: float) -> None:
    solution = solve(
        two_gaussians(strength=strength), relative_gap=5e-3, max_cells=5000, comm=SERIAL
    )
    assert solution.status is Status.CONVERGED
    assert solution.levels <= 3
    # W₁ is a lower bound of the cost for every λ.
    assert solution.bounds.upper + solution.bounds.data_error >= math.hypot(0.3, 0.2)
    # Newton's method never runs into its limit.
    assert max(row["iteration"] for row in solution.history) < 40


def test_points_data() -> None:
    generator = np.random.default_rng(0)
    clouds = [
        Points(generator.normal(mean, 0.08, size=(60, 2)), np.full(60, 1.0 / 60))
        for mean in (0.35, 0.6)
    ]
    problem = two_gaussians(source=clouds[0], target=clouds[1])
    solution = solve(problem, relative_gap=5e-2, max_cells=20_000, comm=SERIAL)
    assert solution.status is Status.CONVERGED
    assert solution.data["closed_cells"] > 0
    assert solution.data["weight"]["method"] == "all-pairs"
    # W₁ of the clouds is at least the distance of their means.
    means = [cloud.points.mean(axis=0) for cloud in clouds]
    distance = float(np.linalg.norm(means[0] - means[1]))
    assert solution.bounds.upper + solution.bounds.data_error >= distance


@pytest.mark.parametrize("places", [((0.25, 0.5), (0.75, 0.5)), ((0.25, 0.25), (0.75, 0.75))])
def test_points_on_vertices_of_the_mesh(places: tuple[tuple[float, float], ...]) -> None:
    # One point to one point along a line of the mesh: σ is the measure on the segment, m = σ L,
    # and the cost is L (1 + 1/(4λ)). Spread over cells the segment is a channel of their width,
    # in which the bounds stay 25 % apart.
    source, target = (Points(np.array([place]), np.ones(1)) for place in places)
    problem = two_gaussians(source=source, target=target)
    solution = solve(problem, relative_gap=1e-2, max_cells=2000, comm=SERIAL)
    length = math.dist(*places)
    slack = solution.bounds.data_error
    assert solution.bounds.lower - slack <= length * 1.025 <= solution.bounds.upper + slack
    assert solution.bounds.lower > 0.9 * length
    assert solution.bounds.upper < 1.3 * length


def test_cost_of_points_does_not_jump_from_mesh_to_mesh() -> None:
    # A point very near a facet, with its segments behind it: in its own cell there is hardly any
    # weight, and carrying its mass away through that cell would cost ten times the rest.
    generator = np.random.default_rng(0)
    points = generator.uniform(0.1, 0.9, size=(2, 12, 2))
    points[0, 0], points[0, 1:, 0] = (0.25 - 1e-6, 0.55), 0.9
    points[1, :, 0] += 0.25 - points[1, :, 0].min() + 1e-3
    points[1] = np.clip(points[1], 0.0, 0.95)
    weights = np.full(12, 1 / 12)
    problem = two_gaussians(source=Points(points[0], weights), target=Points(points[1], weights))
    costs = [
        solve(problem, relative_gap=1e-2, max_cells=limit, comm=SERIAL).bounds
        for limit in (256, 1024)
    ]
    for bounds in costs:
        # Nothing is farther than the diagonal; congestion at λ = 10 adds a few per cent.
        assert bounds.upper < 1.2 * math.sqrt(2.0)
    assert costs[1].lower < costs[0].upper
    assert costs[0].lower < costs[1].upper


# --- what is returned -----------------------------------------------------------------------


def test_identities(converged: Solution) -> None:
    values, bounds = converged.values, converged.bounds
    assert values.cost == pytest.approx(0.5 * (bounds.lower + bounds.upper), rel=1e-15)
    assert values.critic_loss - values.penalty == pytest.approx(bounds.lower, rel=1e-13)
    # ∫|m| = L − 2P at the optimum; both sides are stationary only in their combination D.
    assert values.momentum_l1 == pytest.approx(values.critic_loss - 2.0 * values.penalty, rel=5e-3)
    assert converged.fields.gap_indicator.sum() == pytest.approx(bounds.gap, rel=1e-9)
    assert converged.conservation["max_divergence_residual"] < 1e-14


def test_potential_is_up_to_a_constant(converged: Solution) -> None:
    cells, fields = cells_of_mesh(converged.mesh), converged.fields
    lower = []
    for constant in (0.0, 7.0):
        integrals = cell_integrals(
            cells.simplices,
            fields.potential + constant,
            fields.flux,
            fields.source,
            fields.target,
            fields.weight,
            converged.problem.strength,
        )
        lower.append(integrals.critic_loss.sum() - integrals.penalty.sum())
    assert fields.potential_edges is None
    assert lower[0] == pytest.approx(converged.bounds.lower, rel=1e-13)
    assert lower[1] == pytest.approx(lower[0], rel=1e-12)


def test_signs(converged: Solution) -> None:
    # The potential is high on the source, and mass moves down its gradient to the target.
    cells, fields = cells_of_mesh(converged.mesh), converged.fields
    mass = cells.volume * np.array([fields.source, fields.target])
    means = mass @ fields.potential.mean(axis=1)
    assert means[0] - means[1] == pytest.approx(converged.values.critic_loss, rel=1e-12)
    assert means[0] > means[1]
    drift = cells.volume @ fields.momentum
    # ∫ m = −∫ x div m: the first moment of ν − μ.
    expected = (mass[1] - mass[0]) @ cells.midpoint
    np.testing.assert_allclose(drift, expected, atol=1e-3)
    assert (drift > 0.1).all()


def test_functions_are_the_fields(converged: Solution) -> None:
    cells, fields = cells_of_mesh(converged.mesh), converged.fields
    names = [converged.potential.name, converged.momentum.name, converged.weight.name]
    assert names == ["potential", "momentum", "weight"]
    dofmap = converged.potential.function_space.dofmap.list
    np.testing.assert_array_equal(converged.potential.x.array[dofmap], fields.potential)
    np.testing.assert_array_equal(converged.weight.x.array, fields.weight)
    into = fem.functionspace(converged.mesh, ("DG", 1, (2,)))
    momentum = fem.Function(into)
    momentum.interpolate(converged.momentum)
    means = momentum.x.array.reshape(cells.number, 3, 2).mean(axis=1)
    np.testing.assert_allclose(means, fields.momentum, atol=1e-12)


def test_history(converged: Solution) -> None:
    history = converged.history
    columns = {
        "level", "cells", "space", "iteration", "discrete_cost", "discrete_gap", "smoothing",
        "step_length", "penalty", "primal_residual", "dual_residual", "linear_iterations", "lower",
        "upper", "relative_gap", "seconds",
    }  # fmt: skip
    assert all(set(row) == columns for row in history)
    assert len(history) == converged.solver["newton_iterations"]
    total = sum(row["linear_iterations"] for row in history)
    assert total == converged.solver["linear_iterations"]
    assert [row["level"] for row in history] == sorted(row["level"] for row in history)
    assert {row["level"] for row in history} == {0, 1, 2}
    assert all(row["cells"] == 256 * 4 ** row["level"] for row in history)
    seconds = [row["seconds"] for row in history]
    assert seconds == sorted(seconds)
    assert all(math.isnan(row["lower"]) == (row["level"] == 0) for row in history)


def test_data_error_brackets_the_cost_of_finer_data(coarse: Solution, converged: Solution) -> None:
    reference = solve(two_gaussians(), relative_gap=3e-4, max_cells=20_000, comm=SERIAL)
    cost = reference.bounds.cost
    errors = []
    for solution in (coarse, converged):
        bounds = solution.bounds
        assert bounds.data_error is not None
        assert bounds.lower - bounds.data_error <= cost <= bounds.upper + bounds.data_error
        errors.append(bounds.data_error)
    # With one mesh only it is generous, with two it is small against the cost.
    assert errors[1] < 1e-3 * cost < errors[0] < 0.1 * cost


def test_result_has_the_keys_of_the_design(converged: Solution) -> None:
    result = converged.result()
    keys = {
        "schema", "title", "status", "reason", "bounds", "values", "mesh", "dofs", "conservation",
        "solver", "seconds", "peak_memory_bytes", "environment", "problem", "data",
    }  # fmt: skip
    assert set(result) == keys
    inner = {
        "bounds": {"lower", "upper", "gap", "relative_gap", "scope", "data_error"},
        "values": {"cost", "critic_loss", "penalty", "momentum_l1"},
        "mesh": {"dimension", "cells", "vertices", "levels"},
        "dofs": {"potential", "flux"},
        "conservation": {"max_divergence_residual"},
        "solver": {
            "method", "outer_iterations", "newton_iterations",
            "augmented_lagrangian_iterations", "linear_iterations",
            "direct_solves", "unfinished",
        },
        "seconds": {
            "setup", "weight", "solve", "certify", "refine", "adapt", "checkpoint", "write",
            "total",
        },
        "environment": {"congested", "dolfinx", "petsc", "python", "mpi_size"},
        "problem": {
            "title", "domain", "source", "target", "weight", "penalty", "solver", "output",
        },
    }  # fmt: skip
    assert {key: set(result[key]) for key in inner} == inner
    assert result["solver"]["unfinished"] == []
    assert (result["schema"], result["title"]) == (1, "two Gaussians")
    assert (result["status"], result["bounds"]["scope"]) == ("converged", "cell-data")
    # Crossed squares: (2n)² · 2 cells after two refinements of n = 8, and their vertices.
    assert result["mesh"] == {"dimension": 2, "cells": 4096, "vertices": 2113, "levels": 3}
    assert result["dofs"] == {"potential": 2113, "flux": 2113 + 4096 - 1}
    assert result["environment"]["mpi_size"] == 1
    assert result["seconds"]["total"] > result["seconds"]["solve"] > 0.0
    assert result["peak_memory_bytes"] > 10**7
    # JSON can hold all of it, and it is finite.
    json.dumps(result, allow_nan=False)
