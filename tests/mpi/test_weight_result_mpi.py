"""The weight alone does not depend on the number of ranks, nor do its files. Run with any number.

The same weight is computed on all ranks together and on each rank alone, in one run.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from congested.domain import Box, Domain, MeshFile
from congested.errors import InputError
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.measures.uniform import UniformBall
from congested.problem import OutputOptions, Problem
from congested.weight_result import compute_weight
from congested.weights.kinds import (
    ConstantWeight,
    Interpolates,
    MeasureWeight,
    MixtureWeight,
    Weight,
)

WORLD = MPI.COMM_WORLD
L_SHAPE = MeshFile(Path(__file__).parents[2] / "meshes" / "l_shape.msh")
SQUARE = Box((0.0, 0.0), (1.0, 1.0), cells=8)


def gaussian(x: float, y: float) -> GaussianMixture:
    return GaussianMixture.from_stds(np.array([[x, y]]), np.array([0.05]))


def problem_of(weight: Weight, domain: Domain = L_SHAPE, *, overview: bool = False) -> Problem:
    source, target = gaussian(0.75, 0.25), Points(np.array([[0.25, 0.75], [0.3, 0.6]]))
    return Problem(domain, source, target, weight, output=OutputOptions(overview=overview))


SAMPLED = Interpolates(samples=2048)
CLOUD = Points(np.random.default_rng(0).random((50, 2)) / 2)
WEIGHTS: dict[str, Weight] = {
    "sampled": SAMPLED,
    "points": MeasureWeight(CLOUD, 2.0),
    "beyond": MeasureWeight(UniformBall(np.array([0.5, 0.5]), 0.3)),
    "mixture": MixtureWeight((SAMPLED, MeasureWeight(CLOUD), ConstantWeight()), (0.5, 0.3, 0.2)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_same_weight_on_any_number_of_ranks(name: str) -> None:
    problem = problem_of(WEIGHTS[name])
    together = compute_weight(problem, refine=1, comm=WORLD).result()
    alone = compute_weight(problem, refine=1, comm=MPI.COMM_SELF).result()
    for key in ("mass", "lost", "min", "max", "relative_error"):
        assert together[key] == pytest.approx(alone[key], rel=1e-9, abs=1e-13)
    assert (alone["lost"] > 5e-3) == (name != "points")
    for key in ("method", "samples", "mesh", "problem"):
        assert together[key] == alone[key]
    parts, expected = (result["details"].get("parts", []) for result in (together, alone))
    assert len(parts) == len(expected) == (3 if name == "mixture" else 0)
    for part, other in zip(parts, expected, strict=True):
        assert part == pytest.approx(other, rel=1e-12, abs=1e-14)
    assert together["environment"]["mpi_size"] == WORLD.size
    # All ranks have the same numbers, the seconds too.
    del together["problem"]
    texts = WORLD.allgather(json.dumps(together))
    assert texts == texts[:1] * WORLD.size


def test_files_do_not_depend_on_the_ranks(shared_path: Path) -> None:
    problem = problem_of(WEIGHTS["mixture"], overview=True)
    compute_weight(problem, comm=WORLD).write(shared_path / "together")
    if WORLD.rank == 0:
        alone = compute_weight(problem, comm=MPI.COMM_SELF)
        alone.write(shared_path / "alone")
    WORLD.Barrier()
    names = {"weight.json", "weight.npz", "weight.png", "weight.pvd", "weight.vtu"}
    rows = []
    for name in ("together", "alone"):
        assert {path.name for path in (shared_path / name).iterdir()} == names
        with np.load(shared_path / name / "weight.npz") as stored:
            content = {key: stored[key] for key in stored}
        middle = content["vertices"][content["cells"]].mean(axis=1)
        columns = [middle, content["cell_volume"], content["weight"]]
        columns.append(content["weight_standard_error"])
        order = np.lexsort(np.round(middle, 9).T[::-1])
        rows.append(np.column_stack(columns)[order])
        result = json.loads((shared_path / name / "weight.json").read_text(encoding="utf-8"))
        mass = content["weight"] @ content["cell_volume"]
        assert mass == pytest.approx(result["mass"], rel=1e-13)
    assert len(rows[0]) == 338
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-9, atol=1e-12)


def test_more_ranks_than_some_have_cells() -> None:
    box = Box((0.0, 0.0), (1.0, 1.0), cells=1)  # four triangles
    together = compute_weight(problem_of(ConstantWeight(3.0), box), comm=WORLD)
    assert together.density_range == pytest.approx((3.0, 3.0))
    assert together.cell_weight.mass == pytest.approx(3.0)


def test_a_mistake_is_raised_on_all_ranks(shared_path: Path) -> None:
    outside = MeasureWeight(Points(np.array([[0.25, 0.25], [0.75, 0.75]])))
    mixture = MixtureWeight((ConstantWeight(), outside))
    with pytest.raises(InputError) as caught:
        compute_weight(problem_of(mixture), comm=WORLD)
    assert str(caught.value).startswith("weight.parts[1].points: found 1 of 2 points outside")
    blocked = shared_path / "file"
    if WORLD.rank == 0:
        blocked.write_text("in the way")
    WORLD.Barrier()
    result = compute_weight(problem_of(ConstantWeight()), comm=WORLD)
    with pytest.raises(InputError, match="cannot write"):
        result.write(blocked)
