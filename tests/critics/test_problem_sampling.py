"""Samples of problems have the laws that the solver integrates."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

import congested as ct
from congested.cell_search import CellBins
from congested.critics.problem_sampling import problem_samplers
from congested.domain import create_mesh
from congested.errors import InputError
from congested.geometry import cells_of_mesh
from congested.mesh_masses import mesh_masses
from congested.parallel import Stopwatch
from congested.weights.kinds import Weight

MESHES = Path(__file__).parents[2] / "meshes"
BOX = ct.Box((0.0, 0.0), (1.0, 1.0), 4)
SOURCE = ct.GaussianMixture.from_stds([[0.3, 0.4]], [0.12])
TARGET = ct.GaussianMixture.from_stds([[0.7, 0.6]], [0.1])
# Well inside cells: the solver moves points near facets.
POINTS = ct.Points(
    np.array([[0.13, 0.045], [0.87, 0.29], [0.37, 0.795]]), np.array([0.5, 0.3, 0.2])
)
OTHERS = ct.Points(np.array([[0.63, 0.545], [0.12, 0.54]]))
NUMBER = 40_000


def compare(problem: ct.Problem) -> None:
    """Compare sampled masses of the cells with those of the solver, cell by cell."""
    mesh = create_mesh(problem.domain, MPI.COMM_SELF)
    cells = cells_of_mesh(mesh)
    masses = mesh_masses(problem, cells, Stopwatch(), with_weight=True)
    samplers = problem_samplers(problem)
    random = np.random.default_rng(5)
    bins = CellBins(cells)

    def counted(points: np.ndarray, factors: np.ndarray) -> np.ndarray:
        holder, _ = bins.locate(points)
        assert (factors[holder < 0] == 0.0).all()
        inside = holder >= 0
        return np.bincount(holder[inside], factors[inside], cells.number) / len(points)

    ones = np.ones(NUMBER)
    for expected, found, scale in (
        (masses.source.masses, counted(samplers.source(NUMBER, random), ones), 1.0),
        (masses.target.masses, counted(samplers.target(NUMBER, random), ones), 1.0),
        (masses.weight.masses, counted(*samplers.weight(NUMBER, random)), None),
    ):
        scale = scale or max(1.0, float(expected.sum()))
        noise = np.sqrt(scale * np.maximum(expected, 1e-5) / NUMBER)
        assert np.abs(found - expected).max() < 5.0 * noise.max()
        assert (np.abs(found - expected) < 6.0 * noise + 4e-3 * expected.max()).all()


@pytest.mark.parametrize(
    "weight",
    [
        ct.Interpolates(),
        ct.Interpolates(coupling="source"),
        ct.Interpolates(coupling="optimal", order=2),
        ct.ConstantWeight(),
        ct.ConstantWeight(3.0),
        ct.MeasureWeight(ct.GaussianMixture.from_stds([[0.5, 0.5]], [0.25]), 2.0),
        ct.DensityWeight(lambda x: 1.0 + x[:, 0]),
        ct.MixtureWeight((ct.Interpolates(), ct.ConstantWeight()), (0.7, 0.3)),
    ],
    ids=lambda weight: type(weight).__name__ + getattr(weight, "coupling", ""),
)
def test_weights_of_two_gaussians(weight: Weight) -> None:
    compare(ct.Problem(BOX, SOURCE, TARGET, weight))


@pytest.mark.parametrize("coupling", ["independent", "optimal"])
def test_weights_of_two_point_sets(coupling: str) -> None:
    compare(ct.Problem(BOX, POINTS, OTHERS, ct.Interpolates(coupling=coupling)))


def test_mesh_file_whose_domain_is_not_convex() -> None:
    """What of σ lies outside is lost, and the uniform law is that of the mesh."""
    weight = ct.MixtureWeight((ct.Interpolates(), ct.ConstantWeight()))
    domain = ct.MeshFile(MESHES / "l_shape.msh")
    source, target = ct.Points([[0.8, 0.3]]), ct.Points([[0.3, 0.8]])
    samplers = problem_samplers(ct.Problem(domain, source, target, weight))
    points, factors = samplers.weight(NUMBER, np.random.default_rng(0))
    outside = (points > 0.5).all(axis=1)
    assert 0.05 < outside.mean() < 0.4
    assert (factors[outside] == 0.0).all()
    assert factors[~outside].min() == 1.0


def test_ray_monotone_pair_with_its_own_map() -> None:
    problem = ct.Problem.from_file(
        Path(__file__).parents[2] / "scripts" / "problems" / "ray_monotone_d2_n4.toml"
    )
    coupled = dataclasses.replace(problem, weight=ct.Interpolates(coupling="optimal", order=1))
    domain = ct.Box(problem.domain.lower, problem.domain.upper, 4)
    compare(dataclasses.replace(coupled, domain=domain))


def test_points_outside_are_drawn_again() -> None:
    near = ct.GaussianMixture.from_stds([[0.5, 0.5]], [0.17])  # 0.7 % outside
    samplers = problem_samplers(ct.Problem(BOX, near, TARGET))
    points = samplers.source(NUMBER, np.random.default_rng(0))
    assert points.shape == (NUMBER, 2)
    assert points.min() >= 0.0
    assert points.max() <= 1.0


def test_too_much_mass_outside() -> None:
    far = ct.GaussianMixture.from_stds([[0.5, 0.5]], [0.4])
    with pytest.raises(InputError, match=r"target: found 3\d\.\d % of the mass outside") as caught:
        problem_samplers(ct.Problem(BOX, SOURCE, far))
    assert caught.value.key == "target"


def test_plan_that_cannot_be_sampled_is_refused() -> None:
    weight = ct.MixtureWeight((ct.ConstantWeight(), ct.Interpolates(coupling="optimal", order=1)))
    with pytest.raises(InputError, match="GaussianMixture and Points") as caught:
        problem_samplers(ct.Problem(BOX, SOURCE, OTHERS, weight))
    assert caught.value.key == "weight.parts[1].coupling"
    assert "allowed for training: two point sets" in str(caught.value)


def test_penalty_counts_the_mass_of_the_weight() -> None:
    """∫ 1 dσ is the mean of the factors."""
    weight = ct.ConstantWeight(3.0)
    problem = ct.Problem(ct.Box((0.0, 0.0), (2.0, 1.0), 4), SOURCE, TARGET, weight)
    _, factors = problem_samplers(problem).weight(100, np.random.default_rng(0))
    assert math.isclose(factors.mean(), 6.0)
