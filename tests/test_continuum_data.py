"""Bounds for original densities as a run gives them: scope, tolerances, files, what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from congested import level_solution
from congested.cell_data import make_cell_data
from congested.certificate import Bounds, CellIntegrals
from congested.continuum_data import (
    MASS_TOLERANCE,
    ContinuumData,
    check_scope,
    continuum_bounds,
    make_continuum_data,
)
from congested.data_error import discarded_mass_error, moved_mass_error
from congested.domain import Box, create_mesh
from congested.errors import InputError, NotConverged
from congested.geometry import cells_of_mesh
from congested.io.result import read_result
from congested.measures.base import restricted_masses
from congested.measures.density import DensityMeasure
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.measures.ray_monotone import RayMonotonePair, RayMonotoneSource
from congested.measures.uniform import UniformBall, UniformBox
from congested.nested_iteration import solve
from congested.problem import OutputOptions, Problem, SolverOptions
from congested.solution import Solution, Status
from congested.solvers import pair
from congested.weights.base import CellWeight
from congested.weights.compute import cell_weight
from congested.weights.kinds import ConstantWeight, DensityWeight, Interpolates, MixtureWeight

SERIAL = MPI.COMM_SELF


def gaussian(mean: tuple[float, ...], std: float) -> GaussianMixture:
    return GaussianMixture.from_stds(np.array([mean]), np.array([std]))


def two_gaussians(dimension: int = 2, cells: int = 8, std: float = 0.1, **changes: Any) -> Problem:
    problem = Problem(
        domain=Box((0.0,) * dimension, (1.0,) * dimension, cells=cells),
        source=gaussian((0.35, 0.4, 0.5)[:dimension], std),
        target=gaussian((0.65, 0.6, 0.5)[:dimension], std),
        output=OutputOptions(formats=(), overview=False),
    )
    return dataclasses.replace(problem, **changes)


def run(problem: Problem, **arguments: Any) -> Solution:
    return solve(problem, scope="continuum", comm=SERIAL, **arguments)


@pytest.fixture(scope="module")
def solved() -> Solution:
    return run(two_gaussians(), relative_gap=2e-2)


# --- what a run says --------------------------------------------------------------------------


def test_the_goal_is_one_for_the_original_densities(solved: Solution) -> None:
    bounds, values = solved.bounds, solved.values
    assert solved.status is Status.CONVERGED
    assert bounds.scope == "continuum"
    assert bounds.data_error == 0.0
    assert bounds.relative_gap <= 2e-2
    assert solved.data["lower_bound_from"] == "p1"
    parts = solved.data["cost_error"]
    slack = parts["subtracted_for_tolerances"]
    # Masses to 1e-10, the weight to 1e-9 times λ(|∇u| − 1)₊², which is 10 or so in the tails.
    assert 1e-10 < slack < 1e-6
    expected = values.critic_loss - values.penalty - slack
    assert bounds.lower == pytest.approx(expected, abs=1e-15)
    assert parts["discarded_mass"] == 0.0
    assert 0.0 < parts["weight_bound_loss"] <= 1e-3
    # ∫|m| counts what corrects the flux inside the cells.
    volume = cells_of_mesh(solved.mesh).volume
    assert values.momentum_l1 > np.linalg.norm(solved.fields.momentum, axis=1) @ volume
    assert values.momentum_l1 < bounds.upper
    assert solved.result()["bounds"]["scope"] == "continuum"
    assert solved.result()["problem"]["solver"]["scope"] == "continuum"


def test_the_same_mesh_has_bounds_in_both_scopes(solved: Solution) -> None:
    cells = int(solved.mesh.topology.index_map(2).size_global)
    other = solve(
        two_gaussians(), relative_gap=1e-9, max_cells=cells, lower_bound="p1", comm=SERIAL
    )
    assert other.bounds.scope == "cell-data"
    assert other.fields.inverse_weight is None
    # Bounds of different numbers, one of which estimates how far that of the other is.
    assert abs(other.bounds.cost - solved.bounds.cost) < other.bounds.data_error + solved.bounds.gap
    assert solved.bounds.gap > other.bounds.gap


def test_indicators_sum_to_the_gap(solved: Solution) -> None:
    indicator = solved.fields.gap_indicator
    assert indicator.sum() == pytest.approx(solved.bounds.gap, abs=1e-14)
    assert indicator.min() >= -1e-15


def test_cells_that_vary_too_much_have_no_upper_bound(tmp_path: Path) -> None:
    problem = two_gaussians(cells=4, std=0.002)
    problem = dataclasses.replace(problem, output=OutputOptions(formats=(), overview=True))
    solution = run(problem, max_cells=100)
    assert solution.status is Status.STOPPED
    assert solution.bounds.upper == solution.bounds.relative_gap == math.inf
    assert solution.bounds.lower > 0.3
    assert "varies too much inside some cells for an upper bound" in solution.reason
    solution.write(tmp_path)
    assert read_result(tmp_path)["bounds"]["upper"] == "inf"
    assert (tmp_path / "overview.png").exists()


def test_the_solver_refines_until_there_is_an_upper_bound() -> None:
    # Infinite on the first mesh, astronomical on the second.
    solution = run(two_gaussians(cells=4, std=0.02), relative_gap=0.1)
    assert solution.status is Status.CONVERGED
    assert solution.levels > 3


def test_a_mesh_without_upper_bound_leaves_a_start_for_the_next() -> None:
    # What the next mesh starts from is taken from the gap of the problem with cell data.
    solution = run(two_gaussians(cells=4, std=0.002), max_cells=300)
    assert solution.levels == 2
    assert "raise max_cells (now 300)" in solution.reason
    assert solution.bounds.lower > 0.3
    assert solution.solver["newton_iterations"] < 60


def test_bounds_that_cross_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def crossed(*arguments: Any) -> tuple[CellIntegrals, Bounds]:
        integrals, bounds = continuum_bounds(*arguments)
        return integrals, dataclasses.replace(bounds, lower=bounds.upper * (1.0 + 1e-9))

    monkeypatch.setattr(pair, "continuum_bounds", crossed)
    with pytest.raises(NotConverged, match="are no bounds"):
        run(two_gaussians(std=0.13), refine="none")


# --- from the written files, with NumPy alone -------------------------------------------------


def gauss_rule(dimension: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Conical product of Gauss's rules: barycentric points and weights with sum one."""
    x, w = np.polynomial.legendre.leggauss(number)
    x, w = 0.5 * (x + 1.0), 0.5 * w
    grids = np.meshgrid(*[x] * dimension, indexing="ij")
    weights = np.prod(np.meshgrid(*[w] * dimension, indexing="ij"), axis=0)
    left, shares = np.ones_like(grids[0]), []
    for axis, grid in enumerate(grids):
        shares.append(left * grid)
        left = left * (1.0 - grid)
        # The map of the cube to the simplex has the Jacobian Π (1 − x_k)^(d−1−k).
        weights = weights * (1.0 - grid) ** (dimension - 1 - axis)
    points = np.stack([*shares, left], axis=-1).reshape(-1, dimension + 1)
    return points, (weights / weights.sum()).ravel()


def recomputed(directory: Path) -> dict[str, float]:
    """Evaluate the bounds from result.json and solution.npz; nothing else is used."""
    with (directory / "result.json").open() as file:
        result = json.load(file)
    strength = float(result["problem"]["penalty"]["strength"])
    with np.load(directory / "solution.npz", allow_pickle=False) as file:
        arrays = dict(file)
    corners = arrays["vertices"][arrays["cells"]]
    number, dimension = corners.shape[1:]
    jacobian = np.swapaxes(corners[:, 1:] - corners[:, :1], 1, 2)
    volume = np.abs(np.linalg.det(jacobian)) / math.factorial(dimension)
    inverse = np.linalg.inv(jacobian)
    gradients = np.concatenate([-inverse.sum(axis=1, keepdims=True), inverse], axis=1)
    edges = {2: "12 02 01", 3: "23 13 12 03 02 01"}[dimension].split()
    edges = [(int(edge[0]), int(edge[1])) for edge in edges]

    # Lower bound: Σ u_i ∫λ_i d(μ − ν) − λ Σ (|∇u| − 1)₊² σ_T.
    load = arrays["source_vertex_masses"] - arrays["target_vertex_masses"]
    potential = arrays["potential"][arrays["cells"]]
    slope = np.einsum("ni,nid->nd", potential, gradients)
    excess = np.maximum(np.linalg.norm(slope, axis=1) - 1.0, 0.0)
    loss, penalty = (potential * load).sum(), strength * (excess**2 * arrays["weight"]) @ volume

    # The momentum at the points of a rule that is exact to degree 6 and more.
    points, weights = gauss_rule(dimension, 6)
    flux = arrays["flux"]
    x = np.einsum("qi,nid->nqd", points, corners)
    momentum = np.einsum("nj,nqjd->nqd", flux, x[:, :, None] - corners[:, None])
    momentum /= (dimension * volume)[:, None, None]
    deviation = number * (number + 1) * (load - load.mean(axis=1, keepdims=True))
    deviation /= volume[:, None]
    control = [
        np.einsum("nj,njd->nd", flux, corners[:, i : i + 1] - corners)
        / (dimension * volume)[:, None]
        for i in range(number)
    ]
    for i, j in edges:
        step = ((deviation[:, i] - deviation[:, j]) / number)[:, None]
        step = step * (corners[:, j] - corners[:, i])
        momentum += (points[:, i] * points[:, j])[:, None] * step[:, None]
        control.append(0.5 * (control[i] + control[j] + step))
    square = (momentum**2).sum(axis=2)
    basis = np.stack(
        [points[:, i] ** 2 for i in range(number)]
        + [2.0 * points[:, i] * points[:, j] for i, j in edges]
    )
    above = arrays["inverse_weight"] @ basis
    root = np.sqrt((square * above) @ weights)
    length = np.linalg.norm(control, axis=2).mean(axis=0)
    parts = np.sqrt((square @ (weights[:, None] * points)) / number).sum(axis=1)
    length = np.minimum(length, parts)
    diameter = np.max([np.linalg.norm(corners[:, i] - corners[:, j], axis=1) for i, j in edges], 0)
    rest = arrays["source_affine_error"] + arrays["target_affine_error"]
    rest = diameter / np.pi * rest
    root += np.sqrt(arrays["inverse_weight"].max(axis=1)) * rest
    cost = length + rest + root**2 / (4.0 * strength)
    return {
        "lower": loss - penalty - result["data"]["cost_error"]["subtracted_for_tolerances"],
        "upper": volume @ cost,
        "divergence": np.abs(flux.sum(axis=1) - load.sum(axis=1)).max(),
        "gap": arrays["gap_indicator"].sum(),
        "least": arrays["gap_indicator"].min(),
    }


@pytest.mark.parametrize("dimension", [2, 3])
def test_bounds_recomputed_from_files_with_numpy_alone(dimension: int, tmp_path: Path) -> None:
    problem = two_gaussians(dimension, cells={2: 12, 3: 6}[dimension], std=0.13)
    directory = run(problem, refine="none").write(tmp_path / "result")
    written, found = read_result(directory)["bounds"], recomputed(directory)
    assert written["scope"] == "continuum"
    assert found["lower"] == pytest.approx(written["lower"], rel=1e-12)
    assert found["upper"] == pytest.approx(written["upper"], rel=1e-11)
    assert found["gap"] == pytest.approx(written["gap"], rel=1e-11)
    assert found["divergence"] < 1e-14
    assert found["least"] >= -1e-15


# --- tolerances -------------------------------------------------------------------------------


def parts_of(
    problem: Problem,
) -> tuple[Any, Any, CellWeight]:
    mesh = create_mesh(problem.domain, SERIAL)
    cells = cells_of_mesh(mesh)
    source = restricted_masses(problem.source, cells, "source")
    target = restricted_masses(problem.target, cells, "target")
    weight = cell_weight(problem.weight, problem.source, problem.target, cells)
    data = make_cell_data(mesh, cells, source, target, weight, problem.strength)
    return cells, data, weight


@pytest.fixture(scope="module")
def parts() -> tuple[Problem, Any, CellWeight, ContinuumData]:
    # A part of the target lies outside, so that the factors are not one.
    problem = two_gaussians(std=0.13)
    _, data, weight = parts_of(problem)
    return problem, data, weight, make_continuum_data(problem, data, weight)


@pytest.mark.parametrize("rule", ["rays", "segments"])
def test_rules_without_a_bound_are_refused_before_anything_is_computed(rule: str) -> None:
    cloud = GaussianMixture.from_stds([[0.4, 0.5]], [0.1])
    lines = Interpolates(rule=rule)
    for weight, place in (
        (lines, "weight.rule"),
        (MixtureWeight((ConstantWeight(), lines)), "weight.parts[1].rule"),
    ):
        solver = SolverOptions(scope="continuum")
        problem = Problem(Box((0.0, 0.0), (1.0, 1.0)), cloud, cloud, weight, solver=solver)
        with pytest.raises(
            InputError, match=f'found "{rule}", whose errors have no bound'
        ) as found:
            check_scope(problem)
        assert found.value.key == place
    free = dataclasses.replace(problem, strength=np.inf)
    check_scope(free)  # W₁ does not use the weight


def test_vertex_masses_have_the_masses_that_the_flux_balances(parts: Any) -> None:
    problem, data, _, continuum = parts
    fields = continuum.fields
    for measure, masses, vertex_masses, error in (
        (problem.source, data.source, fields.source_vertex_masses, fields.source_affine_error),
        (problem.target, data.target, fields.target_vertex_masses, fields.target_affine_error),
    ):
        np.testing.assert_allclose(vertex_masses.sum(axis=1), masses, rtol=1e-14)
        raw = measure.vertex_masses(data.cells)
        factor = 1.0 / raw.sum()
        assert factor - 1.0 > 1e-4
        np.testing.assert_allclose(vertex_masses, factor * raw, atol=1e-13)
        np.testing.assert_allclose(error, factor * measure.affine_error(data.cells), rtol=1e-6)


def test_tolerances_are_subtracted_from_the_lower_bound(parts: Any) -> None:
    _, data, weight, continuum = parts
    assert continuum.weight_error > weight.relative_error * weight.mass
    assert continuum.mass_error >= 8 * MASS_TOLERANCE
    # Steep in one cell: u = 3 at a vertex and 0 elsewhere.
    vertex = data.cells.simplices[100, 0]
    hat = np.abs(data.cells.simplices - vertex).max(axis=2) < 1e-12
    potential = 3.0 * hat
    flux = np.zeros_like(potential)
    slope = 3.0 * np.linalg.norm(data.cells.barycentric_gradients[hat], axis=1).max()
    steepest = data.strength * (slope - 1.0) ** 2
    lower, shared = [], []
    for mass_error, weight_error in ((0.0, 0.0), (1e-3, 0.0), (0.0, 1e-3)):
        loose = dataclasses.replace(continuum, mass_error=mass_error, weight_error=weight_error)
        integrals, bounds = continuum_bounds(data, loose, potential, flux)
        lower.append(bounds.lower)
        shared.append(integrals.gap_indicator)
    assert lower[0] - lower[1] == pytest.approx(3.0 * 1e-3, rel=1e-9)
    assert lower[0] - lower[2] == pytest.approx(steepest * 1e-3, rel=1e-9)
    # The indicators share it by volume.
    share = data.cells.volume / data.cells.volume.sum()
    np.testing.assert_allclose(shared[1] - shared[0], 3.0 * 1e-3 * share, rtol=1e-6, atol=1e-12)


def test_mass_taken_out_of_closed_cells_is_an_error_that_is_left(parts: Any) -> None:
    _, data, _, _ = parts
    flat = np.zeros(data.cells.simplices.shape[:2])
    assert discarded_mass_error(data, flat) == 0.0
    record = {**data.record, "mass_rescaled": {"source": 4e-7, "target": 0.0}}
    less = dataclasses.replace(data, record=record)
    assert discarded_mass_error(less, flat) == pytest.approx(2e-7 * math.sqrt(2.0), rel=1e-12)
    assert moved_mass_error(less, flat) == discarded_mass_error(less, flat)


# --- what is refused --------------------------------------------------------------------------

POINTS = Points(np.array([[0.4, 0.4], [0.6, 0.5]]))
BALL = UniformBall(np.array([0.3, 0.3]), 0.2)
FLAT = DensityMeasure(lambda x: np.ones(len(x)), np.zeros(2), np.ones(2))
RAYS = RayMonotoneSource(RayMonotonePair(0.5, 2.0, np.array([[0.1, 0.1]]), np.array([0.0])))

REFUSED = {
    "points": ({"source": POINTS}, "Points, the source, has no density"),
    "density": ({"target": FLAT}, "DensityMeasure, the target, has no density"),
    "rays": ({"source": RAYS}, "RayMonotoneSource, the source, has near vertices"),
    "rays at λ = ∞": ({"source": RAYS, "strength": math.inf}, "RayMonotoneSource"),
    "interpolates of a ball": ({"source": BALL}, "weight Interpolates is known"),
    "coupling": ({"weight": Interpolates(coupling="optimal")}, "weight Interpolates is known"),
    "density weight": ({"weight": DensityWeight(lambda x: x[:, 0])}, "weight DensityWeight"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_problems_without_bounds_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        run(two_gaussians(**changes))
    assert caught.value.key == "solver.scope"
    assert caught.value.exit_status == 2
    assert 'found "continuum", but' in str(caught.value)
    assert 'allowed here: "cell-data"' in str(caught.value)


def test_p2_is_refused() -> None:
    with pytest.raises(InputError, match='lower_bound = "p2"') as caught:
        run(two_gaussians(), lower_bound="p2")
    assert caught.value.key == "solver.scope"


def test_moved_mass_and_sampled_weights_are_refused(parts: Any) -> None:
    problem, data, weight, _ = parts
    moved = {**data.record["mass_moved"], "target": 3e-7}
    changed = dataclasses.replace(data, record={**data.record, "mass_moved": moved})
    with pytest.raises(InputError, match="3e-07 of the target lies where") as caught:
        make_continuum_data(problem, changed, weight)
    assert caught.value.key == "solver.scope"
    # What quadrature cannot tell from nothing may move.
    moved = {**moved, "target": 1e-12}
    changed = dataclasses.replace(data, record={**data.record, "mass_moved": moved})
    make_continuum_data(problem, changed, weight)
    sampled = dataclasses.replace(weight, replicates=np.stack([weight.masses] * 8))
    with pytest.raises(InputError, match="estimates: their errors have no bound"):
        make_continuum_data(problem, data, sampled)


def test_a_finer_mesh_that_is_refused_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    make, calls = make_continuum_data, []

    def second_fails(*arguments: Any) -> ContinuumData:
        calls.append(1)
        if len(calls) == 2:
            raise InputError("mass has moved", key="solver.scope")
        return make(*arguments)

    monkeypatch.setattr(level_solution, "make_continuum_data", second_fails)
    solution = run(two_gaussians(std=0.13))
    assert solution.status is Status.STOPPED
    assert solution.levels == 1
    assert "on the next mesh solver.scope: mass has moved" in solution.reason
    assert solution.bounds.lower < solution.bounds.upper < math.inf


# --- other measures and weights ---------------------------------------------------------------


def test_shapes_with_a_constant_weight() -> None:
    problem = two_gaussians(
        source=BALL, target=UniformBox(np.array([0.5, 0.5]), np.array([0.9, 0.8]))
    )
    problem = dataclasses.replace(problem, weight=ConstantWeight())
    coarse, fine = (
        run(problem, relative_gap=1e-5, max_cells=limit).bounds for limit in (300, 1100)
    )
    assert coarse.lower < fine.upper
    assert fine.lower < coarse.upper
    assert fine.relative_gap < 0.02
    # The jumps of the densities lie in few cells: second order still.
    assert coarse.gap / fine.gap > 3.0


def test_densities_without_a_range_do_at_infinite_strength() -> None:
    slope = DensityMeasure(lambda x: 0.5 + x[:, 0], np.zeros(2), np.ones(2))
    problem = two_gaussians(source=slope, target=FLAT, weight=ConstantWeight())
    solution = run(dataclasses.replace(problem, strength=math.inf), relative_gap=0.9)
    # W₁ = ∫ (F_ν − F_μ) dx₁ = ∫ (x − x²)/2 = 1/12.
    assert solution.bounds.lower <= 1.0 / 12.0 <= solution.bounds.upper
    assert np.isposinf(solution.fields.source_affine_error).all()
    assert solution.fields.inverse_weight is None
