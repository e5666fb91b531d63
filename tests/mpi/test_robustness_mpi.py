"""Many parts, bad meshes and other scales on any number of ranks. Run with any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import meshio
import numpy as np
import pytest
from mpi4py import MPI

from congested.domain import Box, MeshFile
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.image import Image
from congested.measures.uniform import UniformBox
from congested.nested_iteration import solve
from congested.parts import Parts
from congested.problem import Problem
from congested.solution import Solution, Status
from congested.weights.kinds import ConstantWeight, MeasureWeight

WORLD = MPI.COMM_WORLD


def both(problem: Problem, **options: Any) -> tuple[Solution, Solution]:
    together = solve(problem, comm=WORLD, **options)
    alone = solve(problem, comm=MPI.COMM_SELF, **options)
    assert (together.status, together.levels) == (alone.status, alone.levels)
    assert len({*WORLD.allgather(together.reason)}) == 1
    for bound in ("lower", "upper"):
        expected = getattr(alone.bounds, bound)
        assert getattr(together.bounds, bound) == pytest.approx(expected, rel=1e-4)
    assert together.bounds.lower <= together.bounds.upper
    return together, alone


def test_parts_whose_entries_lie_on_some_ranks_only() -> None:
    # Part k < size lies on rank k alone, the last one on all ranks but the first.
    count = WORLD.size + 1
    number = np.array([WORLD.rank, -1] + [WORLD.size] * (2 * (WORLD.rank > 0)))
    parts = Parts(WORLD, number, count)
    values = np.array([5.0, 7.0] + [WORLD.rank, WORLD.rank + 1.0] * (WORLD.rank > 0))
    parts.remove_means(values)
    shared = 2 * (WORLD.size - 1)
    np.testing.assert_array_equal(parts.sizes, [1.0] * WORLD.size + [shared])
    # The ranks 1 … n have the mean (n + 1)/2, and each two entries, one of them larger by one.
    mean = 0.5 * WORLD.size + 0.5
    own = np.array([WORLD.rank - mean, WORLD.rank + 1.0 - mean] * (WORLD.rank > 0))
    np.testing.assert_allclose(values, [0.0, 7.0, *own], atol=1e-14)


@pytest.mark.parametrize("rows", [10, 2])
def test_islands_on_any_number_of_ranks(rows: int) -> None:
    # With a few rows only, some ranks have no cell with weight.
    pixels = 3 * 10 - 1
    left = np.zeros((pixels, pixels))
    for row in (0, 1):
        left[0::3, row : 3 * rows : 3] = 1.0
    right = np.roll(left, 1, axis=0)
    corners = np.zeros(2), np.ones(2)
    source, target, weight = (Image(values, *corners) for values in (left, right, left + right))
    box = Box((0.0, 0.0), (1.0, 1.0), pixels)
    problem = Problem(box, source, target, MeasureWeight(weight), strength=10.0)
    options = {"relative_gap": 0.1, "lower_bound": "p1", "refine": "none"}
    together, _ = both(problem, petsc={"ksp_rtol": 1e-9}, **options)
    # Each is a strip with the share 1/N of mass and weight; the weight's density is 1/(N a²).
    width = 2.0 / pixels
    assert together.bounds.lower <= width / 2.0 + width**2 / 120.0 <= together.bounds.upper
    assert together.status is Status.CONVERGED
    assert together.data["parts"] == 10 * rows
    assert together.solver["direct_solves"] == 0
    direct = solve(problem, comm=WORLD, petsc={"pc_type": "cholesky"}, **options)
    assert direct.solver["direct_solves"] > 0
    assert direct.bounds.upper == pytest.approx(together.bounds.upper, rel=1e-4)


@pytest.mark.parametrize(("method", "strength"), [("newton", 1e4), ("augmented-lagrangian", 1e-2)])
def test_thin_layers_on_any_number_of_ranks(method: str, strength: float, tmp_path: Path) -> None:
    # Layers up to 1000 times wider than high; the strip's cost does not care.
    across, along = np.linspace(0.0, 1.0, 5), np.linspace(0.0, 1.0, 21) ** 3
    points = np.stack([x.ravel() for x in np.meshgrid(across, along, [0.0], indexing="ij")], axis=1)
    number = np.arange(len(points)).reshape(len(across), len(along))
    low, right, up, both_ = (
        number[:-1, :-1].ravel(),
        number[1:, :-1].ravel(),
        number[:-1, 1:].ravel(),
        number[1:, 1:].ravel(),
    )
    cells = np.concatenate([np.stack([low, right, both_], 1), np.stack([low, both_, up], 1)])
    file = WORLD.bcast(tmp_path / "layers.vtu")
    if WORLD.rank == 0:
        meshio.Mesh(points, [("triangle", cells)]).write(file)
    WORLD.barrier()
    ends = UniformBox((0.0, 0.0), (0.25, 1.0)), UniformBox((0.75, 0.0), (1.0, 1.0))
    # Every rank reads it alone, too.
    problem = Problem(MeshFile(file), *ends, ConstantWeight(), strength=strength)
    together, _ = both(problem, method=method, relative_gap=0.1, refine="none")
    exact = 0.75 + (0.5 + 0.5 / 3.0) / (4.0 * strength)
    assert together.bounds.lower <= exact <= together.bounds.upper
    assert together.status is Status.CONVERGED


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scales_on_any_number_of_ranks(scale: float) -> None:
    source, target = (
        GaussianMixture.from_stds(scale * np.array([mean]), np.array([scale * std]))
        for mean, std in (([0.3, 0.35], 0.08), ([0.7, 0.6], 0.06))
    )
    box = Box((0.0, 0.0), (scale, scale), 8)
    problem = Problem(box, source, target, strength=10.0 * scale)
    together, _ = both(problem, relative_gap=5e-2, petsc={"ksp_rtol": 1e-9})
    assert together.status is Status.CONVERGED
    # The distance of the means bounds the cost from below, but for what the square cuts off.
    assert together.bounds.upper > 0.99 * scale * np.hypot(0.4, 0.25)


@pytest.mark.parametrize("strength", [10.0, np.inf])
def test_ranks_without_cells(tmp_path: Path, strength: float) -> None:
    # Two triangles: from the third rank on there is nothing to own.
    corners = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    file = Path(WORLD.bcast(str(tmp_path / "square.vtu")))
    if WORLD.rank == 0:
        meshio.Mesh(corners, [("triangle", np.array([[0, 1, 2], [0, 2, 3]]))]).write(file)
    WORLD.Barrier()
    ends = (GaussianMixture.from_stds([[x, 0.5]], 0.08) for x in (0.3, 0.7))
    problem = Problem(MeshFile(file), *ends, ConstantWeight(), strength=strength)
    together, _ = both(problem, refine="none", lower_bound="p1", relative_gap=1e-2)
    assert np.isfinite(together.bounds.data_error)
