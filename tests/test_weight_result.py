"""The weight of a problem alone: the same as the solver's, on any mesh, with its files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import meshio
import numpy as np
import pytest
from mpi4py import MPI

import congested as ct
from congested.domain import create_mesh
from congested.geometry import cells_of_mesh
from congested.measures.points import away_from_facets
from congested.weights.base import REPLICATES
from congested.weights.compute import cell_weight

COMM = MPI.COMM_SELF
SQUARE = ct.Box((0.0, 0.0), (1.0, 1.0), cells=6)
SOURCE = ct.GaussianMixture.from_stds(np.array([[0.35, 0.4]]), np.array([0.1]))
TARGET = ct.Points(np.array([[0.5, 0.75], [0.75, 0.5]]))


def test_the_weight_is_that_of_the_solver() -> None:
    problem = ct.Problem(SQUARE, SOURCE, TARGET, ct.Interpolates(samples=4096))
    result = ct.compute_weight(problem, comm=COMM)
    solution = ct.solve(problem, comm=COMM, refine="none", relative_gap=0.5)
    np.testing.assert_array_equal(result.cells.simplices, cells_of_mesh(solution.mesh).simplices)
    record = solution.data["weight"]
    weight = result.cell_weight
    assert (weight.mass, weight.lost, weight.method) == (
        record["mass"],
        record["lost"],
        record["method"],
    )
    active = solution.fields.weight > 0.0
    np.testing.assert_allclose(result.density[active], solution.fields.weight[active], rtol=1e-14)
    cells = cells_of_mesh(create_mesh(SQUARE, COMM))
    moved = away_from_facets(TARGET, cells)  # both points are on facets
    expected = cell_weight(problem.weight, SOURCE, moved, cells)
    np.testing.assert_array_equal(weight.masses, expected.masses)
    assert np.abs(weight.masses - cell_weight(problem.weight, SOURCE, TARGET, cells).masses).max()
    np.testing.assert_array_equal(result.target.masses, TARGET.cell_masses(cells))
    assert result.source.masses.sum() == pytest.approx(1.0, abs=1e-13)
    assert result.seconds > 0.0


def test_what_the_files_say(tmp_path: Path) -> None:
    problem = ct.Problem(
        SQUARE, SOURCE, TARGET, ct.Interpolates(samples=4096), title="One onto two"
    )
    result = ct.compute_weight(problem, comm=COMM)
    assert result.write(tmp_path / "out") == tmp_path / "out"
    names = {"weight.json", "weight.npz", "weight.png", "weight.pvd", "weight.vtu"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    content = json.loads((tmp_path / "out" / "weight.json").read_text(encoding="utf-8"))
    assert list(content) == [
        "schema", "title", "mass", "min", "max", "relative_error", "method", "seconds", "lost",
        "samples", "details", "mesh", "environment", "problem",
    ]  # fmt: skip
    with np.load(tmp_path / "out" / "weight.npz") as stored:
        weight, volume = stored["weight"], stored["cell_volume"]
        error = stored["weight_standard_error"]
    assert weight @ volume == pytest.approx(content["mass"], rel=1e-13)
    assert volume.sum() == pytest.approx(1.0, rel=1e-13)
    assert (weight.min(), weight.max()) == (content["min"], content["max"])
    assert content["min"] == 0.0
    assert error @ volume == pytest.approx(content["relative_error"] * content["mass"], rel=1e-12)
    replicates = result.cell_weight.replicates
    assert replicates is not None
    spread = replicates.std(axis=0, ddof=1) / np.sqrt(REPLICATES)
    np.testing.assert_allclose(error, spread / volume, rtol=1e-13)
    grid = meshio.read(tmp_path / "out" / "weight.vtu")
    for name, expected in (
        ("weight", weight),
        ("source", result.source.masses / result.cells.volume),
        ("target", TARGET.cell_masses(result.cells) / result.cells.volume),
    ):
        np.testing.assert_allclose(grid.cell_data[name][0], expected, rtol=1e-13)
    assert (content["schema"], content["title"]) == (1, "One onto two")
    assert (content["method"], content["samples"], content["details"]) == ("sampled", 4096, {})
    assert content["lost"] == pytest.approx(1.0 - content["mass"], abs=1e-15)
    # 6 · 6 squares with a point in the middle of each.
    assert content["mesh"] == {
        "dimension": 2, "cells": 144, "vertices": 49 + 36, "refinements": 0,
    }  # fmt: skip
    assert content["environment"]["mpi_size"] == 1
    assert content["problem"] == problem.description
    assert content["seconds"] == result.seconds


def test_no_picture_where_none_is_wanted(tmp_path: Path) -> None:
    output = ct.OutputOptions(overview=False)
    problem = ct.Problem(SQUARE, SOURCE, TARGET, ct.ConstantWeight(), output=output)
    ct.compute_weight(problem, comm=COMM).write(tmp_path)
    assert not (tmp_path / "weight.png").exists()
    with np.load(tmp_path / "weight.npz") as stored:
        assert "weight_standard_error" not in stored
        np.testing.assert_allclose(stored["weight"], 1.0, rtol=1e-13)


def test_a_first_mesh_has_its_limit_too() -> None:
    solver = ct.SolverOptions(max_cells=100)
    problem = ct.Problem(SQUARE, SOURCE, TARGET, solver=solver)
    with pytest.raises(ct.InputError, match="cells: found a mesh, which makes 144 cells; allowed"):
        ct.compute_weight(problem, comm=COMM)


def test_refinement_keeps_the_mass_of_each_square() -> None:
    problem = ct.Problem(SQUARE, SOURCE, SOURCE)
    coarse = ct.compute_weight(problem, comm=COMM)
    fine = ct.compute_weight(problem, refine=2, comm=COMM)
    assert fine.refinements == fine.result()["mesh"]["refinements"] == 2
    assert fine.cells.number == 16 * coarse.cells.number == fine.result()["mesh"]["cells"]
    assert fine.cell_weight.mass == pytest.approx(coarse.cell_weight.mass, abs=2e-9)
    in_squares = []
    for result in (coarse, fine):
        column, row = np.floor(6 * result.cells.midpoint).astype(int).T
        in_squares.append(np.bincount(6 * column + row, result.cell_weight.masses))
    np.testing.assert_allclose(in_squares[1], in_squares[0], atol=2e-9)
    assert np.ptp(in_squares[0]) > 0.01
    assert fine.density_range[1] > coarse.density_range[1] == coarse.density.max()


def test_refinement_has_a_limit() -> None:
    problem = ct.Problem(SQUARE, SOURCE, SOURCE, ct.ConstantWeight())
    limited = dataclasses.replace(problem, solver=ct.SolverOptions(max_cells=4 * 144))
    assert ct.compute_weight(limited, refine=1, comm=COMM).cells.number == 4 * 144
    with pytest.raises(ct.InputError, match=r"refine: found 2, which makes 2304 cells; allowed: "):
        ct.compute_weight(limited, refine=2, comm=COMM)
    with pytest.raises(ct.InputError, match=r"refine: found -1; allowed: >= 0"):
        ct.compute_weight(problem, refine=-1, comm=COMM)


def test_dimensions_are_checked_when_the_mesh_has_been_read() -> None:
    solid = ct.UniformBall(np.zeros(3), 0.1)
    mesh = ct.MeshFile(Path(__file__).parents[1] / "meshes" / "l_shape.msh")
    with pytest.raises(ct.InputError, match="source: found dimension 3; allowed: 2"):
        ct.compute_weight(ct.Problem(mesh, solid, solid), comm=COMM)


def test_a_weight_that_misses_the_domain_is_told(tmp_path: Path) -> None:
    """Nothing but zeros: numbers, files and picture are there all the same."""
    away = ct.UniformBall(np.array([5.0, 5.0]), 0.5)
    problem = ct.Problem(SQUARE, SOURCE, TARGET, ct.MeasureWeight(away))
    result = ct.compute_weight(problem, comm=COMM)
    assert (result.cell_weight.mass, result.cell_weight.lost) == (0.0, 1.0)
    result.write(tmp_path)
    content = json.loads((tmp_path / "weight.json").read_text(encoding="utf-8"))
    assert (content["min"], content["max"], content["relative_error"]) == (0.0, 0.0, "inf")
    assert (tmp_path / "weight.png").exists()
