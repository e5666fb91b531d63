"""A problem on a mesh: its masses, what is lost of the weight and why, weights that close cells."""

from __future__ import annotations

import math
import re
from pathlib import Path

import meshio
import numpy as np
import pytest
from mpi4py import MPI
from scipy.integrate import quad
from scipy.stats import norm

from congested.domain import Box, MeshFile, create_mesh
from congested.errors import InfeasibleProblem, InputError
from congested.geometry import Cells, cells_of_mesh
from congested.measures.base import restricted_masses
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points, away_from_facets
from congested.measures.uniform import UniformBall, UniformBox
from congested.mesh_masses import mesh_masses, warn_of_lost_weight
from congested.nested_iteration import solve
from congested.parallel import Stopwatch
from congested.problem import Problem
from congested.problem_file import problem_from_tables
from congested.solution import Status
from congested.weights.compute import cell_weight
from congested.weights.kinds import (
    ConstantWeight,
    Interpolates,
    MeasureWeight,
    MixtureWeight,
    Weight,
)

L_SHAPE = MeshFile(Path(__file__).parents[1] / "meshes" / "l_shape.msh")
SQUARE = Box((0.0, 0.0), (1.0, 1.0), cells=8)


def gaussian(x: float, y: float, std: float) -> GaussianMixture:
    return GaussianMixture.from_stds(np.array([[x, y]]), np.array([std]))


def cells_of(problem: Problem) -> Cells:
    return cells_of_mesh(create_mesh(problem.domain, MPI.COMM_SELF))


def lost_of(problem: Problem) -> float:
    weight = mesh_masses(problem, cells_of(problem)).weight
    return weight.lost / (weight.mass + weight.lost)


def said(problem: Problem, caplog: pytest.LogCaptureFixture, rank: int = 0) -> list[str]:
    """Return what is said of the weight that a problem loses."""
    masses = mesh_masses(problem, cells_of(problem))
    with caplog.at_level("WARNING", logger="congested"):
        warn_of_lost_weight(problem, masses, rank)
    return [record.getMessage() for record in caplog.records]


# --- masses ---------------------------------------------------------------------------------


def test_masses_are_those_of_the_parts_and_are_timed() -> None:
    points = Points(np.array([[0.25, 0.3], [0.5, 0.5], [0.5, 0.8]]))  # two on facets
    problem = Problem(SQUARE, points, gaussian(0.6, 0.4, 0.05))
    cells = cells_of(problem)
    watch = Stopwatch()
    masses = mesh_masses(problem, cells, watch)
    np.testing.assert_array_equal(masses.source.masses, points.cell_masses(cells))
    expected = restricted_masses(problem.target, cells, "target")
    np.testing.assert_array_equal(masses.target.masses, expected.masses)
    moved = away_from_facets(points, cells)
    weight = cell_weight(problem.weight, moved, problem.target, cells)
    np.testing.assert_array_equal(masses.weight.masses, weight.masses)
    # The segments of a point on a facet start inside its cell: its weight is that of many.
    at_points = weight.masses[points.cell_masses(cells) > 0.0]
    assert at_points.min() > 0.2 / cells.number
    assert list(watch.seconds) == ["setup", "weight"]
    assert min(watch.seconds.values()) > 0.0


@pytest.mark.parametrize("name", ["source", "target", "weight"])
def test_a_mistake_names_its_table(name: str) -> None:
    """A mesh is read late: points outside it are found here."""
    ball = UniformBall(np.array([0.25, 0.25]), 0.1)
    far = Points(np.array([[0.25, 0.25], [0.75, 0.75]]))
    parts = {"source": ball, "target": ball, "weight": ConstantWeight()}
    parts[name] = MeasureWeight(far) if name == "weight" else far
    problem = Problem(L_SHAPE, **parts)
    with pytest.raises(InputError, match=rf"^{name}\.points: found 1 of 2 points outside"):
        mesh_masses(problem, cells_of(problem))


def test_what_the_measure_says_itself_is_not_said_twice() -> None:
    ball, outside = UniformBall(np.array([0.5, 0.5]), 0.1), UniformBall(np.array([0.0, 0.5]), 0.1)
    problem = Problem(SQUARE, ball, outside)
    with pytest.raises(InputError, match=r"^target: found 50 % of the mass outside"):
        mesh_masses(problem, cells_of(problem))


# --- lost weight ----------------------------------------------------------------------------


def test_lines_of_points_that_leave_an_l() -> None:
    """The line from (0.8, 0.3) to (0.3, 0.8) is outside for x from 0.5 to 0.6: a fifth of it."""
    problem = Problem(L_SHAPE, Points(np.array([[0.8, 0.3]])), Points(np.array([[0.3, 0.8]])))
    cells = cells_of(problem)
    weight = cell_weight(problem.weight, problem.source, problem.target, cells)
    assert weight.lost == pytest.approx(0.2, abs=1e-9)
    assert weight.mass == pytest.approx(0.8, abs=1e-9)
    # The ends are moved by less than a cell.
    assert lost_of(problem) == pytest.approx(0.2, abs=0.05)


def test_lines_of_gaussians_that_leave_an_l() -> None:
    """At time t the line of two round Gaussians is at N(m_t, s_t² I): products of Φ's."""
    ends, stds = np.array([[0.8, 0.35], [0.35, 0.8]]), np.array([0.05, 0.04])
    problem = Problem(L_SHAPE, gaussian(*ends[0], stds[0]), gaussian(*ends[1], stds[1]))

    def inside(t: float) -> float:
        mean = (1 - t) * ends[0] + t * ends[1]
        std = math.hypot((1 - t) * stds[0], t * stds[1])

        def within(lower: float) -> float:
            return float(np.prod(norm.cdf((1.0 - mean) / std) - norm.cdf((lower - mean) / std)))

        return within(0.0) - within(0.5)

    expected = 1.0 - quad(inside, 0.0, 1.0, epsabs=1e-11, points=[0.4, 0.6])[0]
    assert 0.2 < expected < 0.4
    assert lost_of(problem) == pytest.approx(expected, abs=1e-8)
    # Sampled lines lose the same.
    sampled = Problem(L_SHAPE, problem.source, problem.target, Interpolates(rule="segments"))
    assert lost_of(sampled) == pytest.approx(expected, abs=1e-3)


BALLS = (UniformBall(np.array([0.8, 0.3]), 0.1), UniformBall(np.array([0.3, 0.8]), 0.1))
INSIDE = UniformBall(np.array([0.25, 0.25]), 0.2)
BEYOND = MeasureWeight(UniformBox(np.array([0.5, 0.0]), np.array([1.5, 1.0])))
BOTH = MixtureWeight((BEYOND, ConstantWeight()))
LINES = "lines from source to target leave the domain, which is not convex"
GIVEN = "the weight is a measure that was given, and reaches beyond it"


@pytest.mark.parametrize(
    ("weight", "part", "reason"),
    [
        (Interpolates(), r"2\d(\.\d)?", LINES),
        (BEYOND, "75", GIVEN),
        (MixtureWeight((Interpolates(), ConstantWeight())), r"1\d(\.\d)?", LINES),
        (MixtureWeight((BEYOND, Interpolates())), r"4\d(\.\d)?", f"{GIVEN}, and {LINES}"),
        # Only what is to blame is named.
        (MixtureWeight((MeasureWeight(INSIDE), Interpolates())), r"1\d(\.\d)?", LINES),
        (MixtureWeight((Interpolates("source"), BEYOND)), "37.5", GIVEN),
        (MixtureWeight((BEYOND, Interpolates()), (0.01, 0.99)), r"2\d(\.\d)?", LINES),
        (MixtureWeight((BOTH, Interpolates()), (0.02, 0.98)), r"2\d(\.\d)?", LINES),
        (
            MixtureWeight((BOTH, ConstantWeight())),
            "18.8",
            GIVEN,
        ),
    ],
)
def test_loss_in_an_l_is_said_with_its_reason(
    weight: Weight, part: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    (text,) = said(Problem(L_SHAPE, *BALLS, weight), caplog)
    begin, _, end = text.partition(": ")
    assert end == f"{reason}; the rest is not scaled up"
    percent, words = begin.split(" % ")
    assert words == "of the weight is lost outside the domain"
    assert re.fullmatch(part, percent)


def test_measures_outside_a_box_are_the_reason_there(caplog: pytest.LogCaptureFixture) -> None:
    # Φ(−2.4) = 0.820 % of the source and Φ(−2.35) = 0.939 % of the target lie below y = 0, and
    # Φ(−4) = 0.003 % of each left and right.
    source, target = gaussian(0.4, 0.24, 0.1), gaussian(0.6, 0.235, 0.1)
    problem = Problem(SQUARE, source, target)
    (text,) = said(problem, caplog)
    reasons = "0.823 % of the source lies there, and 0.942 % of the target lies there"
    assert text.endswith(f"domain: {reasons}; the rest is not scaled up")
    assert 1e-3 < lost_of(problem) < norm.cdf(-2.4)
    caplog.clear()
    (text,) = said(Problem(SQUARE, source, target, Interpolates("source")), caplog)
    expected = (
        "0.823 % of the weight is lost outside the domain: 0.823 % of the source lies there; "
    )
    assert text == expected + "the rest is not scaled up"
    caplog.clear()
    assert said(Problem(SQUARE, source, target, ConstantWeight()), caplog) == []


def test_little_loss_and_other_ranks_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    problem = Problem(SQUARE, gaussian(0.5, 0.25, 0.1), gaussian(0.5, 0.6, 0.01))
    assert 1e-5 < lost_of(problem) < 1e-3
    assert said(problem, caplog) == []
    assert said(Problem(L_SHAPE, *BALLS), caplog, rank=1) == []


def test_the_solver_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    problem = Problem(L_SHAPE, *BALLS, BEYOND)
    floor = MixtureWeight((BEYOND, ConstantWeight()))
    with caplog.at_level("WARNING", logger="congested"):
        solution = solve(
            Problem(L_SHAPE, *BALLS, floor), comm=MPI.COMM_SELF, relative_gap=1e-9, max_cells=1500
        )
        assert solution.levels == 2
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert caplog.records[0].getMessage().startswith("37.5 % of the weight is lost")
        assert solution.data["weight"]["lost"] == pytest.approx(0.375)
        caplog.clear()
        # Without congestion the weight does not matter.
        unlimited = Problem(L_SHAPE, *BALLS, problem.weight, strength=math.inf)
        solve(unlimited, comm=MPI.COMM_SELF, relative_gap=0.5)
    assert not [record for record in caplog.records if "lost" in record.getMessage()]


# --- weights that close cells ---------------------------------------------------------------


def test_points_as_weight_carry_mass_where_they_are_dense() -> None:
    generator = np.random.default_rng(0)
    band = np.array([0.15, 0.3]) + generator.random((2000, 2)) * [0.7, 0.4]
    source, target = UniformBall(np.array([0.3, 0.5]), 0.08), UniformBall(np.array([0.7, 0.5]), 0.1)
    box = Box((0.0, 0.0), (1.0, 1.0), cells=12)
    problem = Problem(box, source, target, MeasureWeight(Points(band)), strength=0.1)
    solution = solve(problem, comm=MPI.COMM_SELF, refine="none", relative_gap=0.1)
    assert solution.status is Status.CONVERGED
    assert solution.data["cells_without_weight"] > 0.5 * 4 * 12**2
    # Nothing flows where there is no weight: outside a band of one cell around the points.
    outside = np.abs(cells_of(problem).midpoint[:, 1] - 0.5) > 0.2 + 1 / 12
    assert np.abs(solution.fields.momentum[outside]).max() == 0.0
    assert np.abs(solution.fields.momentum[~outside]).max() > 1.0
    # All of space at the same density is wider, and cheaper.
    density = 1.0 / (0.7 * 0.4)
    wide = Problem(box, source, target, ConstantWeight(density), strength=0.1)
    cheaper = solve(wide, comm=MPI.COMM_SELF, refine="none", relative_gap=0.1)
    assert cheaper.bounds.upper < solution.bounds.lower


def test_weights_that_leave_mass_behind_are_refused_and_a_floor_is_the_remedy() -> None:
    generator = np.random.default_rng(0)
    source, target = gaussian(0.3, 0.5, 0.08), gaussian(0.7, 0.5, 0.08)
    samples = Points(np.array([0.2, 0.4]) + generator.random((2000, 2)) * [0.6, 0.2])
    box = Box((0.0, 0.0), (1.0, 1.0), cells=12)
    bare = MeasureWeight(samples)
    with pytest.raises(InfeasibleProblem, match=r"most of it near .* share of kind = \"uniform\""):
        solve(Problem(box, source, target, bare), comm=MPI.COMM_SELF)
    floor = MixtureWeight((bare, ConstantWeight()), (0.9, 0.1))
    options = {"comm": MPI.COMM_SELF, "refine": "none", "relative_gap": 0.5}
    solution = solve(Problem(box, source, target, floor), **options)
    assert solution.data["closed_cells"] == 0
    assert solution.data["weight"]["method"] == "mixture"
    assert 0.4 < solution.bounds.lower < solution.bounds.upper < 0.6


def test_a_field_of_a_file_is_the_density_of_the_weight(tmp_path: Path) -> None:
    mesh = meshio.read(L_SHAPE.file)
    triangles = mesh.cells_dict["triangle"]
    middle = mesh.points[triangles].mean(axis=1)[:, :2]
    density = 0.5 + 4.0 * middle[:, 0]
    data = {"rho": [density]}
    file = tmp_path / "rho.vtu"
    meshio.write(file, meshio.Mesh(mesh.points, [("triangle", triangles)], cell_data=data))
    base = Problem(L_SHAPE, *BALLS).description
    options = {"comm": MPI.COMM_SELF, "refine": "none", "relative_gap": 0.2}
    for normalise in (True, False):
        table = {"kind": "field", "file": str(file), "normalise": normalise}
        solution = solve(problem_from_tables({**base, "weight": table}), **options)
        assert solution.status is Status.CONVERGED
        cells = cells_of_mesh(solution.mesh)
        order, other = (np.lexsort(np.round(at, 9).T) for at in (cells.midpoint, middle))
        found, expected = solution.fields.weight[order], density[other]
        if normalise:
            expected = expected / (expected @ cells.volume[order])
        np.testing.assert_allclose(found, expected, rtol=1e-9)
