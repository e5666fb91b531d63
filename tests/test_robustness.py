"""Meshes, weights and scales that solvers do not like: the exact cost lies in the bounds, always.

Whatever the mesh, a strip has data that its cells know exactly, so that its cost must lie between
the bounds for cell data; a thousand islands are a thousand strips; scaled domains scale the cost.
"""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import meshio
import numpy as np
import pytest
from mpi4py import MPI

from congested import nested_iteration
from congested.adapt import refine_marked
from congested.domain import Box, MeshFile, create_mesh
from congested.geometry import cells_of_mesh
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.image import Image
from congested.measures.points import Points
from congested.measures.uniform import UniformBox
from congested.nested_iteration import solve
from congested.parallel import StopRequest
from congested.problem import Problem
from congested.solution import Solution, Status
from congested.solvers.augmented_lagrangian import AugmentedLagrangian
from congested.solvers.newton import Newton
from congested.weights.kinds import ConstantWeight, MeasureWeight, MixtureWeight

SERIAL = MPI.COMM_SELF
METHODS = ("newton", "augmented-lagrangian")
Arrays = tuple[np.ndarray, np.ndarray]


# --- meshes ---------------------------------------------------------------------------------


def grid(*axes: np.ndarray) -> Arrays:
    """Cut the cells of a tensor grid into simplices around a diagonal (Kuhn)."""
    dimension = len(axes)
    points = np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], axis=1)
    number = np.arange(len(points)).reshape([len(axis) for axis in axes])
    first = np.stack([k.ravel() for k in np.indices([len(axis) - 1 for axis in axes])], axis=1)
    cells = []
    for order in itertools.permutations(range(dimension)):
        corner, path = first.copy(), [number[tuple(first.T)]]
        for axis in order:
            corner[:, axis] += 1
            path.append(number[tuple(corner.T)])
        cells.append(np.stack(path, axis=1))
    return points, np.concatenate(cells)


def with_slivers(points: np.ndarray, cells: np.ndarray, height: float) -> Arrays:
    """Put a point into every third cell, at a height above the middle of a facet."""
    generator = np.random.default_rng(1)
    corners = cells.shape[1]
    chosen = np.arange(len(cells)) % 3 == 0
    share = np.full((chosen.sum(), corners), (1.0 - height) / (corners - 1))
    share[np.arange(len(share)), generator.integers(corners, size=len(share))] = height
    new = np.einsum("ni,nid->nd", share, points[cells[chosen]])
    children = np.repeat(cells[chosen], corners, axis=0)
    children[np.arange(len(children)), np.arange(len(children)) % corners] = np.repeat(
        len(points) + np.arange(len(new)), corners
    )
    return np.concatenate([points, new]), np.concatenate([cells[~chosen], children])


def graded() -> np.ndarray:
    """Steps from 1/8 down to 1/8000 of the side."""
    return np.concatenate([[0.0], np.geomspace(1.25e-4, 0.25, 12), np.linspace(0.25, 1.0, 7)[1:]])


def bisected() -> Arrays:
    """Similar triangles that become smaller towards a point, by a factor of 1000."""
    mesh = create_mesh(Box((0.0, 0.0), (1.0, 1.0), 8), SERIAL)
    for _ in range(10):
        cells = cells_of_mesh(mesh)
        away = np.linalg.norm(cells.midpoint - [0.61, 0.37], axis=1)
        mesh, _ = refine_marked(mesh, away < cells.diameter)
    return mesh.geometry.x[:, :2].copy(), mesh.geometry.dofmap.astype(np.int64)


EVEN, COARSE = np.linspace(0.0, 1.0, 9), np.linspace(0.0, 1.0, 5)
MESHES: dict[str, Callable[[], Arrays]] = {
    "slivers": lambda: with_slivers(*grid(EVEN, EVEN), 1e-3),
    "slivers in space": lambda: with_slivers(*grid(COARSE, COARSE, COARSE), 1e-3),
    "layers": lambda: grid(COARSE, np.linspace(0.0, 1.0, 251) ** 2),
    "layers in space": lambda: grid(COARSE, COARSE[::2], np.linspace(0.0, 1.0, 45) ** 2),
    "corner": lambda: grid(graded(), graded()),
    "line": lambda: grid(graded(), EVEN),
    "edge in space": lambda: grid(graded(), graded()[::3], COARSE[::2]),
    "point": bisected,
}


def quality(points: np.ndarray, cells: np.ndarray) -> tuple[float, float]:
    """Return the largest ratio of diameter to height, and of two diameters, in a mesh."""
    simplices = points[cells]
    edges = simplices[:, :, None] - simplices[:, None]
    diameter = np.linalg.norm(edges, axis=3).max(axis=(1, 2))
    jacobian = simplices[:, 1:] - simplices[:, :1]
    gradients = np.linalg.inv(jacobian)
    steepest = np.linalg.norm(gradients, axis=1).max(axis=1)
    return float((diameter * steepest).max()), float(diameter.max() / diameter.min())


@pytest.mark.parametrize("name", MESHES)
def test_the_meshes_are_as_bad_as_they_are_said_to_be(name: str) -> None:
    aspect, grading = quality(*MESHES[name]())
    assert grading > 900.0 if name in ("corner", "point") else aspect > 900.0


def mesh_file(directory: Path, name: str) -> MeshFile:
    points, cells = MESHES[name]()
    kind = "triangle" if cells.shape[1] == 3 else "tetra"
    padded = np.zeros((len(points), 3))
    padded[:, : points.shape[1]] = points
    file = directory / "mesh.vtu"
    meshio.Mesh(padded, [(kind, cells)]).write(file)
    return MeshFile(file)


def strip(domain: Box | MeshFile, dimension: int, strength: float) -> Problem:
    """Move the uniform law of the first quarter to the last."""
    low, high = np.zeros(dimension), np.ones(dimension)
    quarter, last = high.copy(), low.copy()
    quarter[0], last[0] = 0.25, 0.75
    return Problem(
        domain,
        UniformBox(tuple(low), tuple(quarter)),
        UniformBox(tuple(last), tuple(high)),
        ConstantWeight(),
        strength=strength,
    )


def strip_cost(strength: float) -> float:
    """∫ |m| + |m|²/4λ with |m| = 4x, 1, 4(1 − x)."""
    return 0.75 + (0.5 + 2.0 * 0.25 / 3.0) / (4.0 * strength)


def assert_contains(solution: Solution, exact: float) -> None:
    bounds = solution.bounds
    # Where the discrete problem has the exact solution a bound differs from it by rounding.
    slack = 1e-9 * exact
    assert bounds.lower - slack <= exact <= bounds.upper + slack
    assert math.isfinite(bounds.upper)
    assert bounds.lower <= bounds.upper
    assert all(
        np.isfinite(array).all() for array in (solution.fields.flux, solution.fields.gradient)
    )
    reached = bounds.relative_gap <= solution.problem.solver.relative_gap
    assert solution.status is (Status.CONVERGED if reached else Status.STOPPED)
    assert ("is certified, as asked" in solution.reason) == reached


@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e4, math.inf])
@pytest.mark.parametrize("name", MESHES)
def test_a_strip_on_a_bad_mesh(name: str, strength: float, tmp_path: Path) -> None:
    dimension = 3 if "space" in name else 2
    problem = strip(mesh_file(tmp_path, name), dimension, strength)
    # Each method meets half of the cases, and the one for λ = ∞ all of those.
    turn = list(MESHES).index(name) + int(strength == 1.0)
    method = METHODS[1 if math.isinf(strength) else turn % 2]
    solution = solve(problem, method=method, relative_gap=1e-1, refine="none", comm=SERIAL)
    assert_contains(solution, strip_cost(strength))
    assert solution.status is Status.CONVERGED


# --- islands --------------------------------------------------------------------------------


def islands(number: int, strength: float) -> tuple[Problem, float]:
    """Squares with weight, two cells wide with one cell between: from left half to right half."""
    pixels = 3 * number - 1
    left = np.zeros((pixels, pixels))
    for row in (0, 1):
        left[0::3, row::3] = 1.0
    right = np.roll(left, 1, axis=0)
    corners = np.zeros(2), np.ones(2)
    source, target, weight = (Image(values, *corners) for values in (left, right, left + right))
    box = Box((0.0, 0.0), (1.0, 1.0), pixels)
    problem = Problem(box, source, target, MeasureWeight(weight), strength=strength)
    # Each is a strip whose momentum rises to its middle and falls again.
    width = 2.0 / pixels
    return problem, width / 2.0 + width**2 / (12.0 * strength)


@pytest.mark.parametrize(
    ("number", "method", "strength", "goal"),
    [(32, "newton", 10.0, 0.1), (12, "newton", 1e-3, 0.2), (12, "augmented-lagrangian", 1e4, 0.1)],
)
def test_a_thousand_islands(number: int, method: str, strength: float, goal: float) -> None:
    problem, exact = islands(number, strength)
    solution = solve(
        problem, method=method, relative_gap=goal, lower_bound="p1", refine="none", comm=SERIAL
    )
    assert_contains(solution, exact)
    assert solution.status is Status.CONVERGED
    assert solution.data["parts"] == number**2
    # Multigrid works; a factorisation was the last resort before.
    assert solution.solver["direct_solves"] == 0
    assert solution.solver["linear_iterations"] > 0
    assert (solution.fields.flux[solution.fields.weight == 0.0] == 0.0).all()


def test_islands_on_adaptive_meshes() -> None:
    problem, exact = islands(4, 1.0)
    solution = solve(problem, relative_gap=3e-2, refine="adaptive", comm=SERIAL)
    assert solution.levels > 1
    assert_contains(solution, exact)
    assert solution.status is Status.CONVERGED


# --- jumps of the weight, at every strength ---------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e4, math.inf])
def test_a_jump_of_the_weight_by_100000(strength: float, method: str) -> None:
    left = MeasureWeight(UniformBox((0.0, 0.0), (0.5, 1.0)))
    jump = MixtureWeight((left, ConstantWeight(2e-5)), (0.5, 0.5))
    ends = UniformBox((0.0, 0.0), (0.3, 1.0)), UniformBox((0.7, 0.0), (1.0, 1.0))
    problem = Problem(Box((0.0, 0.0), (1.0, 1.0), 10), *ends, jump, strength=strength)
    # ∫ m² = 0.3 on either side.
    exact = 0.7 + 0.3 / (4.0 * strength) * (1.0 / (1.0 + 1e-5) + 1e5)
    solution = solve(problem, method=method, relative_gap=1e-2, refine="none", comm=SERIAL)
    assert_contains(solution, exact)
    assert solution.status is Status.CONVERGED


# --- scales ---------------------------------------------------------------------------------


def scaled_gaussians(scale: float, strength: float, cells: int = 8) -> Problem:
    source, target = (
        GaussianMixture.from_stds(scale * np.array([mean]), np.array([scale * std]))
        for mean, std in (([0.3, 0.35], 0.08), ([0.7, 0.6], 0.06))
    )
    return Problem(Box((0.0, 0.0), (scale, scale), cells), source, target, strength=strength)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scaled_domains_scale_the_cost(scale: float, method: str) -> None:
    # Lengths times s: ∫|m| grows by s and ∫|m|²/σ by s², so λ s has the cost of λ times s.
    options: dict[str, Any] = {"method": method, "relative_gap": 5e-2, "comm": SERIAL}
    reference = solve(scaled_gaussians(1.0, 10.0), **options)
    solution = solve(scaled_gaussians(scale, 10.0 * scale), **options)
    assert solution.status is reference.status is Status.CONVERGED
    assert solution.levels == reference.levels
    # Two solves of one discrete problem differ by what the methods leave of the gap.
    assert solution.bounds.upper == pytest.approx(scale * reference.bounds.upper, rel=5e-3)
    assert solution.bounds.lower == pytest.approx(scale * reference.bounds.lower, rel=5e-3)
    assert solution.bounds.lower <= scale * reference.bounds.upper
    assert scale * reference.bounds.lower <= solution.bounds.upper


@pytest.mark.parametrize(("width", "strength"), [(1e-3, 1e-3), (1e-3, math.inf), (1e3, 1.0)])
def test_strips_that_are_a_thousand_times_longer_than_wide(width: float, strength: float) -> None:
    box = Box((0.0, 0.0), (1.0, width), 32)
    source, target = UniformBox((0.0, 0.0), (0.25, width)), UniformBox((0.75, 0.0), (1.0, width))
    problem = Problem(box, source, target, ConstantWeight(), strength=strength)
    solution = solve(
        problem, method="augmented-lagrangian", relative_gap=5e-2, refine="none", comm=SERIAL
    )
    # The weight is one in total, as in the square: so is the cost. A mesh one cell across and 32
    # along sees the ends well, one with cells 30 times longer than the way does not.
    lower, upper = solution.bounds.lower, solution.bounds.upper
    error = solution.bounds.data_error
    assert error is not None
    assert lower - error <= strip_cost(strength) <= upper + error
    assert lower <= upper < math.inf
    assert (solution.status is Status.CONVERGED) == (width < 1.0)
    if width > 1.0:
        assert 'refinement is off; use refine = "uniform" or a finer mesh' in solution.reason


# --- reasons --------------------------------------------------------------------------------


def test_what_helps_at_infinity_where_a_method_meets_its_limit() -> None:
    problem = scaled_gaussians(1.0, math.inf)
    options: dict[str, Any] = {"relative_gap": 1e-2, "refine": "none", "comm": SERIAL}
    newton = solve(problem, method=Newton(max_iterations=3), **options)
    assert newton.status is Status.STOPPED
    assert "did not end within its limit of 3 steps in" in newton.reason
    assert 'try method = "augmented-lagrangian"' in newton.reason
    lagrangian = solve(problem, method=AugmentedLagrangian(max_iterations=10), **options)
    assert lagrangian.status is Status.STOPPED
    assert "did not end within its limit of 10 steps in" in lagrangian.reason
    assert 'try method = "newton"' in lagrangian.reason
    # What is said helps.
    helped = solve(problem, method="newton", **options)
    assert helped.bounds.gap < 0.7 * min(lagrangian.bounds.gap, newton.bounds.gap)
    assert helped.bounds.upper >= max(lagrangian.bounds.lower, newton.bounds.lower)
    assert "limit of" not in helped.reason


def test_a_limit_that_does_not_keep_the_gap_open_is_not_blamed() -> None:
    # The first has left far less than the mesh does; the second has hardly begun.
    problem = scaled_gaussians(1.0, 10.0)
    options: dict[str, Any] = {"relative_gap": 1e-6, "refine": "none", "lower_bound": "p1"}
    reasons = {}
    for steps in (120, 4):
        method = AugmentedLagrangian(max_iterations=steps)
        solution = solve(problem, method=method, comm=SERIAL, **options)
        last = [row for row in solution.history if row["space"] == "p1"][-1]
        assert last["iteration"] == steps
        reasons[steps] = solution.reason
        assert bool(solution.solver["unfinished"]) == (steps == 4)
    assert "refinement is off" in reasons[120]
    assert "did not end within its limit of 4 steps in p1" in reasons[4]


def test_the_reason_has_the_gap_of_the_bounds_that_are_kept() -> None:
    # Newton's method at λ = ∞ fails on a finer mesh; a coarser one has the better bounds.
    points = Points([[0.21, 0.43]]), Points([[0.81, 0.57]])
    problem = Problem(Box((0.0, 0.0), (1.0, 1.0), 8), *points, strength=math.inf)
    method = Newton(max_iterations=5)
    options: dict[str, Any] = {"relative_gap": 1e-3, "lower_bound": "p1", "max_cells": 5000}
    solution = solve(problem, method=method, comm=SERIAL, **options)
    assert solution.status is Status.STOPPED
    assert solution.history[-1]["cells"] > len(solution.fields.weight)
    begin = (
        f"the relative gap is {solution.bounds.relative_gap:.2e}, not 1.00e-03: on the next mesh"
    )
    assert solution.reason.startswith(begin)


def test_a_signal_during_the_weight_ends_the_run_before_the_next_solve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop = StopRequest()
    calls = []
    compute = nested_iteration.mesh_data

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:
            stop.signal = signal.SIGTERM
        return compute(*arguments, **options)

    monkeypatch.setattr(nested_iteration, "mesh_data", interrupted)
    problem = scaled_gaussians(1.0, 10.0)
    solution = solve(problem, relative_gap=1e-6, max_cells=5000, comm=SERIAL, stop=stop)
    assert solution.status is Status.STOPPED
    assert "stopped by SIGTERM; the best bounds so far are kept" in solution.reason
    assert {row["level"] for row in solution.history} == {0}
    assert 0.0 < solution.bounds.lower < solution.bounds.upper
