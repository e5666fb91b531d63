"""The frozen problem: its checks and its description."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from congested.domain import Box, MeshFile
from congested.errors import InputError
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.uniform import UniformBall, UniformBox
from congested.problem import OutputOptions, Problem, SolverOptions, check_dimensions
from congested.problem_file import read_problem
from congested.weights.kinds import ConstantWeight, DensityWeight, Interpolates

SQUARE = Box((0.0, 0.0), (1.0, 1.0), 8)
SOURCE = UniformBall(np.array([0.3, 0.3]), 0.1)
TARGET = UniformBox(np.array([0.6, 0.6]), np.array([0.8, 0.8]))
PROBLEMS = Path(__file__).parents[1] / "scripts" / "problems"


def test_defaults() -> None:
    problem = Problem(SQUARE, SOURCE, TARGET)
    assert problem.strength == 10.0
    assert problem.weight == Interpolates()
    assert problem.solver == SolverOptions()
    assert problem.output == OutputOptions()


def test_frozen() -> None:
    problem = Problem(SQUARE, SOURCE, TARGET)
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.strength = 3.0  # type: ignore[misc]


@pytest.mark.parametrize("strength", [0.0, -1.0, math.nan, True, "10"])
def test_strength_must_be_positive(strength: object) -> None:
    with pytest.raises(InputError, match="allowed: a number > 0 or inf") as caught:
        Problem(SQUARE, SOURCE, TARGET, strength=strength)  # type: ignore[arg-type]
    assert caught.value.key == "penalty.strength"


def test_infinite_strength() -> None:
    problem = Problem(SQUARE, SOURCE, TARGET, strength=math.inf)
    assert problem.strength == math.inf
    assert problem.description["penalty"]["strength"] == "inf"


def test_dimensions_must_agree_with_the_box() -> None:
    ball = UniformBall(np.array([0.3, 0.3, 0.3]), 0.1)
    with pytest.raises(InputError, match="found dimension 3; allowed: 2") as caught:
        Problem(SQUARE, SOURCE, ball)
    assert caught.value.key == "target"


def test_dimensions_must_agree_with_each_other_where_the_mesh_is_not_yet_read() -> None:
    ball = UniformBall(np.array([0.3, 0.3, 0.3]), 0.1)
    mesh = MeshFile(PROBLEMS.parents[1] / "meshes" / "l_shape.msh")
    with pytest.raises(InputError, match="found dimension 2; allowed: 3 as that of the source"):
        Problem(mesh, ball, TARGET)


def test_dimensions_must_agree_with_the_mesh_when_it_is_read() -> None:
    mesh = MeshFile(PROBLEMS.parents[1] / "meshes" / "l_shape.msh")
    problem = Problem(mesh, SOURCE, TARGET)
    check_dimensions(problem, 2)
    with pytest.raises(InputError, match="found dimension 2; allowed: 3") as caught:
        check_dimensions(problem, 3)
    assert caught.value.key == "source"


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"method": "alg2"}, "solver.method"),
        ({"relative_gap": 0.0}, "solver.relative_gap"),
        ({"relative_gap": math.nan}, "solver.relative_gap"),
        ({"relative_gap": math.inf}, "solver.relative_gap"),
        ({"relative_gap": "1e-3"}, "solver.relative_gap"),
        ({"refine": "twice"}, "solver.refine"),
        ({"max_cells": 0}, "solver.max_cells"),
        ({"max_cells": 1e6}, "solver.max_cells"),
        ({"max_cells": True}, "solver.max_cells"),
        ({"max_seconds": 0.0}, "solver.max_seconds"),
        ({"lower_bound": "p3"}, "solver.lower_bound"),
        ({"scope": "original"}, "solver.scope"),
        ({"scope": "continuum", "lower_bound": "p2"}, "solver.scope"),
    ],
)
def test_solver_options_are_checked(options: dict[str, object], key: str) -> None:
    with pytest.raises(InputError, match=r"found .*; allowed: ") as caught:
        SolverOptions(**options)  # type: ignore[arg-type]
    assert caught.value.key == key


def test_unknown_format() -> None:
    with pytest.raises(InputError, match='found \'vtk\'; allowed: "vtu" or "xdmf" or "vtx"'):
        OutputOptions(formats=("vtu", "vtk"))


# --- description ----------------------------------------------------------------------------


def test_description_of_a_problem_made_in_python() -> None:
    mixture = GaussianMixture(np.array([[0.5, 0.5]]), 0.01 * np.eye(2)[None], np.array([1.0]))
    problem = Problem(SQUARE, mixture, SOURCE, weight=ConstantWeight(2.0), title="by hand")
    description = problem.description
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    assert description["title"] == "by hand"
    assert description["domain"] == {
        "kind": "box",
        "lower": [0.0, 0.0],
        "upper": [1.0, 1.0],
        "cells": 8,
    }
    assert description["source"]["kind"] == "gaussian-mixture"
    assert description["source"]["covariances"] == [[[0.01, 0.0], [0.0, 0.01]]]
    assert description["target"]["shape"] == "ball"
    assert description["weight"] == {"kind": "constant", "density": 2.0}


def test_description_of_what_no_file_can_say() -> None:
    def density(points: np.ndarray) -> np.ndarray:
        return np.ones(len(points))

    problem = Problem(SQUARE, SOURCE, TARGET, weight=DensityWeight(density))
    weight = problem.description["weight"]
    assert weight["kind"] == "DensityWeight"
    assert weight["function"].endswith("density")
    json.dumps(problem.description, allow_nan=False)


def test_petsc_flags_are_empty_text_in_the_description() -> None:
    options = SolverOptions(petsc={"ksp_monitor": None, "ksp_rtol": 1e-9})
    problem = Problem(SQUARE, SOURCE, TARGET, solver=options)
    assert problem.description["solver"]["petsc"] == {"ksp_monitor": "", "ksp_rtol": 1e-9}


def test_replacing_a_part_changes_the_description() -> None:
    problem = read_problem(PROBLEMS / "two_gaussians.toml")
    assert problem.description["source"]["stds"] == [0.08]
    changed = dataclasses.replace(
        problem,
        source=SOURCE,
        strength=3,
        solver=dataclasses.replace(problem.solver, relative_gap=0.5),
    )
    description = changed.description
    assert description["source"] == {
        "kind": "uniform",
        "shape": "ball",
        "center": [0.3, 0.3],
        "radius": 0.1,
    }
    assert description["target"] == problem.description["target"]
    assert description["penalty"] == {"strength": 3.0}
    assert description["solver"]["relative_gap"] == 0.5


def test_from_file_is_read_problem() -> None:
    file = PROBLEMS / "two_gaussians.toml"
    assert Problem.from_file(file).description == read_problem(file).description
    assert Problem.from_file(str(file)).title == "Two Gaussians"
