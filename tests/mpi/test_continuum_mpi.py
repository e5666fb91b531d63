"""Bounds for original densities are the same on any number of ranks. Run with any number of ranks.

The same problem is solved on all ranks together and on each rank alone, in one run.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from congested.domain import Box
from congested.errors import InputError
from congested.geometry import cells_of_mesh
from congested.io.arrays import gather_arrays, load_arrays, save_arrays
from congested.io.files import on_root
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.measures.uniform import UniformBall, UniformBox
from congested.nested_iteration import solve
from congested.problem import Problem
from congested.weights.kinds import ConstantWeight

WORLD = MPI.COMM_WORLD


def gaussian(mean: float, std: float, dimension: int = 2) -> GaussianMixture:
    return GaussianMixture.from_stds(np.full((1, dimension), mean), np.array([std]))


def square(cells: int = 8) -> Box:
    return Box((0.0, 0.0), (1.0, 1.0), cells=cells)


def make_problem(name: str) -> Problem:
    if name == "gaussians":
        return Problem(square(), gaussian(0.35, 0.1), gaussian(0.65, 0.1))
    if name == "cube":
        box = Box((0.0,) * 3, (1.0,) * 3, cells=4)
        return Problem(box, gaussian(0.4, 0.13, 3), gaussian(0.6, 0.14, 3))
    if name == "shapes":
        ball = UniformBall(np.array([0.3, 0.3]), 0.2)
        box = UniformBox(np.array([0.5, 0.5]), np.array([0.9, 0.8]))
        return Problem(square(), ball, box, ConstantWeight(), strength=1.0)
    assert name == "few cells"
    return Problem(square(1), gaussian(0.35, 0.1), gaussian(0.65, 0.1), ConstantWeight())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gaussians", {"relative_gap": 5e-3}),
        ("cube", {"refine": "none"}),
        ("shapes", {"max_cells": 1100}),
        # Four triangles: with more ranks than that, some have none.
        ("few cells", {"refine": "none"}),
    ],
)
def test_same_bounds_on_any_number_of_ranks(name: str, arguments: dict[str, Any]) -> None:
    problem = make_problem(name)
    together = solve(problem, comm=WORLD, scope="continuum", **arguments)
    alone = solve(problem, comm=MPI.COMM_SELF, scope="continuum", **arguments)
    assert (together.status, together.levels) == (alone.status, alone.levels)
    for bound in ("lower", "upper"):
        expected = getattr(alone.bounds, bound)
        assert getattr(together.bounds, bound) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert together.bounds.data_error == alone.bounds.data_error == 0.0
    parts = together.data["cost_error"], alone.data["cost_error"]
    # The steepest gradient lies in the tails, which the solver knows to a few digits.
    assert parts[0] == pytest.approx(parts[1], rel=0.1, abs=1e-12)
    gap = WORLD.allreduce(float(together.fields.gap_indicator.sum()))
    assert gap == pytest.approx(together.bounds.gap, rel=1e-6, abs=1e-12)
    assert len({*WORLD.allgather((together.bounds.lower, together.bounds.upper))}) == 1


def test_distance_of_points() -> None:
    source, target = np.array([[0.2, 0.2], [0.3, 0.7]]), np.array([[0.8, 0.3], [0.9, 0.6]])
    problem = Problem(square(), Points(source), Points(target), strength=math.inf)
    solution = solve(problem, comm=WORLD, scope="continuum", relative_gap=0.3, refine="none")
    # Straight across, √0.37 each: see tests/convergence/test_continuum.py.
    assert solution.bounds.lower <= math.sqrt(0.37) <= solution.bounds.upper
    assert solution.bounds.relative_gap < 0.3
    total = WORLD.allreduce(float(solution.fields.source_vertex_masses.sum()))
    assert total == pytest.approx(1.0, abs=1e-14)


def test_arrays_are_gathered_and_read_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    solution = solve(make_problem("gaussians"), comm=WORLD, scope="continuum", refine="none")
    volume = cells_of_mesh(solution.mesh).volume
    arrays = gather_arrays(solution.mesh, solution.fields, volume)
    largest = WORLD.allreduce(float(solution.fields.inverse_weight.max()), op=MPI.MAX)

    def check() -> None:
        assert arrays is not None
        file = tmp_path_factory.mktemp("arrays") / "solution.npz"
        save_arrays(arrays, file)
        read = load_arrays(file)
        assert read.inverse_weight.shape == (len(read.cells), 6)
        assert read.inverse_weight.max() == largest
        masses = read.source_vertex_masses.sum(axis=1)
        np.testing.assert_allclose(masses, read.source * read.cell_volume, atol=1e-16)
        assert read.target_affine_error.shape == read.source_affine_error.shape == masses.shape

    on_root(WORLD, check)


def test_refusal_reaches_all_ranks() -> None:
    ball = UniformBall(np.array([0.3, 0.3]), 0.2)
    with pytest.raises(InputError, match=r"solver\.scope") as caught:
        solve(Problem(square(), ball, gaussian(0.6, 0.1)), comm=WORLD, scope="continuum")
    assert len({*WORLD.allgather(str(caught.value))}) == 1
