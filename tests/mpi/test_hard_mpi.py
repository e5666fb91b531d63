"""Hard weights have the same answer on any number of ranks. Run with any number of ranks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from congested.domain import Box
from congested.errors import InfeasibleProblem
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.measures.uniform import UniformBall, UniformBox
from congested.nested_iteration import solve
from congested.problem import Problem
from congested.solution import Status
from congested.solvers.newton import Newton
from congested.weights.kinds import ConstantWeight, Interpolates, MeasureWeight, MixtureWeight

WORLD = MPI.COMM_WORLD
SQUARE = Box((0.0, 0.0), (1.0, 1.0), 8)


def lattice(dimension: int, steps: int) -> list[Points]:
    generator = np.random.default_rng(0)
    places = generator.integers(0, steps + 1, size=(2, 5, dimension)) / steps
    return [Points(points) for points in places]


def jump() -> MixtureWeight:
    left = MeasureWeight(UniformBox((0.0, 0.0), (0.5, 1.0)))
    return MixtureWeight((left, ConstantWeight(2e-5)), (0.5, 0.5))


def three_parts() -> GaussianMixture:
    means = np.array([[0.4, 0.5]] * 3)
    return GaussianMixture.from_stds(means, np.full(3, 0.1), np.array([0.3, 0.6, 0.1]))


CASES: dict[str, tuple[Problem, dict[str, Any]]] = {
    "vertices": (Problem(SQUARE, *lattice(2, 16)), {"refine": "none"}),
    "vertices in space": (
        Problem(Box((0.0,) * 3, (1.0,) * 3, 3), *lattice(3, 6)),
        {"refine": "none"},
    ),
    "atom": (
        Problem(SQUARE, Points([[0.5, 0.5]]), UniformBall((0.5, 0.5), 0.4)),
        {"refine": "none"},
    ),
    "line": (Problem(SQUARE, Points([[0.21, 0.43]]), Points([[0.81, 0.57]])), {"max_cells": 5000}),
    "jump": (
        Problem(
            Box((0.0, 0.0), (1.0, 1.0), 10),
            UniformBox((0.0, 0.0), (0.3, 1.0)),
            UniformBox((0.7, 0.0), (1.0, 1.0)),
            jump(),
        ),
        {"refine": "none"},
    ),
    "equal": (
        Problem(
            SQUARE,
            GaussianMixture.from_stds(np.array([[0.4, 0.5]]), np.array([0.1])),
            three_parts(),
        ),
        {},
    ),
    "equal without congestion": (
        Problem(
            SQUARE,
            GaussianMixture.from_stds(np.array([[0.4, 0.5]]), np.array([0.1])),
            three_parts(),
            strength=math.inf,
        ),
        {},
    ),
    "inside a cell": (
        Problem(SQUARE, Points([[0.507, 0.52]]), Points([[0.507, 0.55]])),
        {"refine": "none"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hard_weights_on_any_number_of_ranks(name: str) -> None:
    problem, arguments = CASES[name]
    # Newton's method else leaves a share of the meshes' gap, and where in it depends on rounding.
    arguments = {
        "method": Newton(unsolved_share=0.0),
        "petsc": {"ksp_rtol": 1e-9},
        **arguments,
    }
    together = solve(problem, comm=WORLD, **arguments)
    alone = solve(problem, comm=MPI.COMM_SELF, **arguments)
    assert (together.status, together.levels) == (alone.status, alone.levels)
    assert (together.status is Status.CONVERGED) == name.startswith("equal")
    assert together.data["closed_cells"] == alone.data["closed_cells"]
    assert together.data["weight"]["mass"] == pytest.approx(alone.data["weight"]["mass"], rel=1e-12)
    for bound in ("lower", "upper", "data_error"):
        expected = getattr(alone.bounds, bound)
        assert getattr(together.bounds, bound) == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert len({*WORLD.allgather(together.reason)}) == 1
    if name == "line":
        assert "weight lies on lines or points" in together.reason
    if name == "inside a cell":
        assert together.bounds.data_error == pytest.approx(0.03, rel=1e-9)


def test_hard_parts_that_cannot_balance_are_refused_on_all_ranks() -> None:
    discs = UniformBall((0.3, 0.5), 0.1), UniformBall((0.7, 0.5), 0.1)
    ends = MixtureWeight((Interpolates("source"), Interpolates("target")), (0.5, 0.5))
    with pytest.raises(InfeasibleProblem, match="small share of kind") as caught:
        solve(Problem(SQUARE, *discs, ends), comm=WORLD)
    assert len({*WORLD.allgather(str(caught.value))}) == 1
