"""Marking and refining, and that adaptive meshes get to the gap with few cells."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from mpi4py import MPI

from congested.adapt import BulkMarker, refine_marked
from congested.data_error import unresolved_load
from congested.domain import Box, create_mesh
from congested.errors import InputError
from congested.geometry import (
    Cells,
    barycentric_coordinates,
    cells_of_mesh,
    split_simplices,
)
from congested.measures.gaussian_mixture import GaussianMixture
from congested.nested_iteration import solve
from congested.problem import Problem
from congested.solution import Status
from tests.convergence.exact import ConcentricGaussians

SERIAL = MPI.COMM_SELF
SQUARE = Box((0.0, 0.0), (1.0, 1.0), cells=4)
CUBE = Box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), cells=2)


def cells_of(box: Box) -> Cells:
    return cells_of_mesh(create_mesh(box, SERIAL))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_marked_cells_are_the_fewest_that_have_the_share(share: float) -> None:
    cells = cells_of(SQUARE)
    indicator = np.random.default_rng(3).pareto(1.0, cells.number)
    marked = BulkMarker(share)(cells, indicator)
    chosen = np.sort(indicator[marked])
    assert chosen.sum() >= share * indicator.sum()
    assert chosen[1:].sum() < share * indicator.sum()
    assert chosen[0] > indicator[~marked].max()


def test_marker_at_its_limits() -> None:
    cells = cells_of(SQUARE)
    indicator = np.zeros(cells.number)
    assert not BulkMarker()(cells, indicator).any()
    indicator[5] = 1e-3
    np.testing.assert_array_equal(np.flatnonzero(BulkMarker(1.0)(cells, indicator)), [5])
    # Where nothing bounds the cost yet, that comes first.
    indicator[7] = np.inf
    np.testing.assert_array_equal(np.flatnonzero(BulkMarker()(cells, indicator)), [7])
    assert BulkMarker()(cells, np.ones(cells.number)).all()
    # All of it means all that is not zero, over however many decades.
    decades = np.logspace(-300, 0, cells.number)
    decades[3] = 0.0
    np.testing.assert_array_equal(BulkMarker(1.0)(cells, decades), decades > 1e-17)
    tiny = 1e-200 * np.arange(cells.number)
    np.testing.assert_array_equal(BulkMarker(1.0)(cells, tiny), tiny > 0.0)
    for wrong in (0.0, 1.5, np.nan):
        with pytest.raises(InputError, match=r"share: found .*; allowed: a number in \(0, 1\]"):
            BulkMarker(wrong)


@pytest.mark.parametrize("box", [SQUARE, CUBE], ids=["2D", "3D"])
def test_refined_mesh_conforms_and_knows_its_parents(box: Box) -> None:
    mesh = create_mesh(box, SERIAL)
    coarse = first = cells_of_mesh(mesh)
    for _ in range(3):
        # Towards a corner, so that cells of many sizes meet.
        marked = np.linalg.norm(coarse.midpoint, axis=1) < 1.5 * coarse.diameter.min()
        assert 0 < marked.sum() < coarse.number
        mesh, parent = refine_marked(mesh, marked)
        fine = cells_of_mesh(mesh)
        inside = barycentric_coordinates(coarse.simplices[parent], fine.midpoint[:, None])
        assert inside.min() > 0.0
        np.testing.assert_allclose(
            np.bincount(parent, fine.volume, coarse.number), coarse.volume, rtol=1e-12
        )
        # Every edge of a marked cell is halved.
        assert (np.bincount(parent)[marked] >= 2**coarse.dimension).all()
        coarse = fine
    # No hanging nodes: a facet is on the boundary or has two cells.
    mesh.topology.create_connectivity(box.dimension - 1, box.dimension)
    sides = np.diff(mesh.topology.connectivity(box.dimension - 1, box.dimension).offsets)
    mesh.topology.create_connectivity(box.dimension - 1, 0)
    corners = mesh.geometry.x[
        mesh.topology.connectivity(box.dimension - 1, 0).array.reshape(len(sides), -1)
    ]
    # (The vertices of a mesh read in DOLFINx's order are its nodes on one rank.)
    outer = np.isclose(corners[..., : box.dimension], 0.0) | np.isclose(
        corners[..., : box.dimension], 1.0
    )
    boundary = outer.all(axis=1).any(axis=1)
    assert ((sides == 1) == boundary).all()
    shape = coarse.volume / coarse.diameter**coarse.dimension
    assert shape.min() > 0.3 * (first.volume / first.diameter**first.dimension).min()


def test_unresolved_load_is_what_the_children_change() -> None:
    cells = cells_of(SQUARE)
    gradient = np.array([2.0, -1.0])
    potential = cells.simplices @ gradient
    fine = Cells(SERIAL, split_simplices(cells.simplices), cells.lower, cells.upper)
    masses = np.random.default_rng(4).uniform(size=fine.number)
    found = unresolved_load(cells, potential, masses)
    moved = (fine.midpoint @ gradient).reshape(-1, 4) - (cells.midpoint @ gradient)[:, None]
    expected = (masses.reshape(-1, 4) * moved).sum(axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    assert np.abs(expected).max() > 0.01


def concentric(strength: float) -> tuple[ConcentricGaussians, Problem]:
    exact = ConcentricGaussians(2, 0.15, 0.3, 1.5, strength)
    return exact, exact.problem(8)


def test_a_tenth_of_the_cells_and_the_exact_cost() -> None:
    exact, problem = concentric(1.0)
    uniform = solve(problem, relative_gap=8e-3, comm=SERIAL, lower_bound="p1")
    adaptive = solve(problem, relative_gap=8e-3, comm=SERIAL, lower_bound="p1", refine="adaptive")
    assert uniform.status is adaptive.status is Status.CONVERGED
    assert adaptive.fields.source.size < 0.5 * uniform.fields.source.size
    bounds = adaptive.bounds
    assert bounds.relative_gap <= 8e-3
    assert bounds.data_error is not None
    # Marker and stop know the error of the cell data: it has to be as small as the gap asked for.
    assert adaptive.data["cost_error"]["load"] <= 8e-3 * bounds.upper
    assert bounds.lower - bounds.data_error <= exact.values.cost <= bounds.upper + bounds.data_error


def test_meshes_go_on_until_the_load_is_resolved_too() -> None:
    """With P2 the gap is soon small; what the cells do not show of the measures is not."""
    goal = 2e-2
    _, problem = concentric(0.1)
    options = {"relative_gap": goal, "refine": "adaptive", "lower_bound": "p2", "comm": SERIAL}
    solution = solve(problem, **options)
    assert solution.status is Status.CONVERGED
    assert solution.data["cost_error"]["load"] <= goal * solution.bounds.upper
    # A row has the gap of the mesh before: that of the third was small enough.
    assert solution.levels == 5
    before = {row["level"]: row["relative_gap"] for row in solution.history}
    assert before[4] < before[3] < goal < before[2]
    # Where there are no more cells to be had the gap is certified all the same.
    short = solve(problem, max_cells=1500, **options)
    assert short.levels == 3
    assert short.status is Status.CONVERGED
    assert short.data["cost_error"]["load"] > goal * short.bounds.upper
    assert "the error of the cell data is larger" in short.reason


def test_a_marker_of_ones_own() -> None:
    _, problem = concentric(1.0)
    seen = []

    def everything(cells: Cells, indicator: np.ndarray) -> np.ndarray:
        seen.append((cells.number, indicator.shape))
        assert (indicator >= 0.0).all()
        return np.ones(cells.number, dtype=bool)

    options = {"relative_gap": 1e-6, "refine": "adaptive", "max_cells": 2000, "comm": SERIAL}
    solution = solve(problem, marker=everything, **options)
    assert seen[0] == (256, (256,))
    assert [number for number, _ in seen] == [256, 1024]
    assert solution.status is Status.STOPPED
    assert "max_cells" in solution.reason
    # A marker that finds nothing does not end in an endless loop: everything is refined.
    same = solve(problem, marker=lambda cells, _: np.zeros(cells.number, dtype=bool), **options)
    assert same.fields.source.size == solution.fields.source.size


def test_adaptive_continuum_bounds() -> None:
    exact, problem = concentric(1.0)
    problem = dataclasses.replace(
        problem, solver=dataclasses.replace(problem.solver, scope="continuum", refine="adaptive")
    )
    solution = solve(problem, relative_gap=3e-2, comm=SERIAL)
    assert solution.status is Status.CONVERGED
    assert solution.bounds.lower <= exact.values.cost <= solution.bounds.upper


def test_equal_measures_cost_nothing() -> None:
    cloud = GaussianMixture.from_stds([[0.4, 0.5]], [0.1])
    problem = Problem(SQUARE, cloud, cloud)
    solution = solve(problem, refine="adaptive", comm=SERIAL)
    assert solution.status is Status.CONVERGED
    assert solution.bounds.upper == 0.0
