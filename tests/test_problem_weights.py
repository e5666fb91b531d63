"""Weights in problem files: every kind is read, written back, and read again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import meshio
import numpy as np
import pytest
from PIL import Image as Pillow

from congested.domain import Box
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.image import Image
from congested.measures.mesh_field import MeshField
from congested.measures.points import Points
from congested.measures.ray_monotone import RayMonotonePair, RayMonotoneSource
from congested.measures.uniform import UniformBall, UniformBox
from congested.problem import Problem
from congested.problem_file import problem_from_tables, problem_text, read_problem
from congested.weights.kinds import ConstantWeight, Interpolates, MeasureWeight, MixtureWeight

BOX = 'kind = "box"\nlower = [0, 0]\nupper = [2.0, 1.0]\n'
BALL = 'kind = "uniform"\nshape = "ball"\ncenter = [0.5, 0.5]\nradius = 0.1\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with points, an image and a field in data/."""
    data = tmp_path / "data"
    data.mkdir()
    np.save(data / "points.npy", [[0.5, 0.5], [1.5, 0.25]])
    Pillow.fromarray(np.array([[0, 51], [102, 255]], np.uint8)).save(data / "a.png")
    square = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    triangles = [("triangle", np.array([[0, 1, 2], [0, 2, 3]]))]
    meshio.write(data / "a.vtu", meshio.Mesh(square, triangles, cell_data={"rho": [[3.0, 5.0]]}))
    return tmp_path


def file_of(directory: Path, weight: str) -> Path:
    file = directory / "problem.toml"
    file.write_text(f"[domain]\n{BOX}\n[source]\n{BALL}\n[target]\n{BALL}\n[weight]\n{weight}\n")
    return file


def problem_of(directory: Path, weight: str) -> Problem:
    return read_problem(file_of(directory, weight))


# --- what is read ---------------------------------------------------------------------------


def test_interpolates_with_everything(directory: Path) -> None:
    text = 'kind = "interpolates"\ncoupling = "optimal"\norder = 1\nrule = "segments"\n'
    weight = problem_of(directory, text + "samples = 9\nseed = 3\ntolerance = 1e-2").weight
    assert weight == Interpolates("optimal", 1, "segments", 9, 3, 1e-2)
    for rule in ("auto", "closed-form", "rays", "raster", "segments"):
        text = f'kind = "interpolates"\nrule = "{rule}"'
        assert problem_of(directory, text).weight == Interpolates(rule=rule)


def test_the_ends_as_weights(directory: Path) -> None:
    for end in ("source", "target"):
        expected = Interpolates(coupling=end)
        assert problem_of(directory, f'kind = "{end}"').weight == expected
        long = problem_of(directory, f'kind = "interpolates"\ncoupling = "{end}"')
        assert long.weight == expected
        assert long.description["weight"] == {"kind": "interpolates", "coupling": end}


def test_uniform_with_and_without_a_shape(directory: Path) -> None:
    assert problem_of(directory, 'kind = "uniform"').weight == ConstantWeight()
    weight = problem_of(directory, BALL + "mass = 3").weight
    assert isinstance(weight, MeasureWeight)
    assert isinstance(weight.measure, UniformBall)
    assert (weight.measure.radius, weight.mass) == (0.1, 3.0)
    text = 'kind = "uniform"\nshape = "box"\nlower = [0, 0]\nupper = [1, 1]'
    weight = problem_of(directory, text).weight
    assert isinstance(weight, MeasureWeight)
    assert isinstance(weight.measure, UniformBox)
    assert weight.mass == 1.0


def test_points_and_mixtures_of_gaussians(directory: Path) -> None:
    weight = problem_of(directory, 'kind = "points"\nfile = "data/points.npy"\nmass = 0.5').weight
    assert isinstance(weight, MeasureWeight)
    assert isinstance(weight.measure, Points)
    np.testing.assert_array_equal(weight.measure.points, [[0.5, 0.5], [1.5, 0.25]])
    assert weight.mass == 0.5
    text = 'kind = "gaussian-mixture"\nmeans = [[0.5, 0.5], [1.5, 0.5]]\nstds = [0.1, 0.2]'
    problem = problem_of(directory, text)
    assert isinstance(problem.weight, MeasureWeight)
    assert isinstance(problem.weight.measure, GaussianMixture)
    assert problem.description["weight"] == {
        "kind": "gaussian-mixture",
        "means": [[0.5, 0.5], [1.5, 0.5]],
        "stds": [0.1, 0.2],
        "weights": [0.5, 0.5],
        "mass": 1.0,
    }


@pytest.mark.parametrize(
    ("text", "measure", "integral"),
    [
        # Four pixels of area 0.5 with luminances 0, 0.2, 0.4 and 1.
        ('kind = "image"\nfile = "data/a.png"\n', Image, 0.8),
        ('kind = "field"\nfile = "data/a.vtu"\narray = "rho"\n', MeshField, 4.0),
    ],
)
def test_files_of_densities(
    directory: Path, text: str, measure: type[Any], integral: float
) -> None:
    for more, mass in (("", 1.0), ("mass = 7", 7.0), ("normalise = false", integral)):
        problem = problem_of(directory, text + more)
        assert isinstance(problem.weight, MeasureWeight)
        assert isinstance(problem.weight.measure, measure)
        assert problem.weight.mass == pytest.approx(mass, rel=1e-12)
    described = problem.description["weight"]
    assert described["normalise"] is False
    assert "mass" not in described
    assert problem_of(directory, text).description["weight"]["mass"] == 1.0


MIXTURE = """
kind = "mixture"
parts = [
    {share = 0.5, kind = "interpolates", rule = "segments", samples = 64},
    {share = 0.3, kind = "target"},
    {share = 0.2, kind = "image", file = "data/a.png", normalise = false},
]
"""
ARRAY_OF_TABLES = """
kind = "mixture"
[[weight.parts]]
share = 0.5
kind = "interpolates"
rule = "segments"
samples = 64
[[weight.parts]]
share = 0.3
kind = "target"
[[weight.parts]]
share = 0.2
kind = "image"
file = "data/a.png"
normalise = false
"""


@pytest.mark.parametrize("text", [MIXTURE, ARRAY_OF_TABLES])
def test_mixtures(directory: Path, text: str) -> None:
    problem = problem_of(directory, text)
    weight = problem.weight
    assert isinstance(weight, MixtureWeight)
    assert weight.shares == (0.5, 0.3, 0.2)
    assert weight.parts[:2] == (
        Interpolates(rule="segments", samples=64),
        Interpolates(coupling="target"),
    )
    assert isinstance(weight.parts[2], MeasureWeight)
    assert weight.parts[2].mass == pytest.approx(0.8)
    assert problem.description["weight"] == {
        "kind": "mixture",
        "parts": [
            {
                "share": 0.5,
                "kind": "interpolates",
                "coupling": "independent",
                "rule": "segments",
                "samples": 64,
                "seed": 0,
            },
            {"share": 0.3, "kind": "target"},
            {
                "share": 0.2,
                "kind": "image",
                "file": str(directory / "data" / "a.png"),
                "lower": [0.0, 0.0],
                "upper": [2.0, 1.0],
                "invert": False,
                "normalise": False,
            },
        ],
    }


def test_shares_are_kept_as_they_are_or_scaled_once() -> None:
    parts = (ConstantWeight(), Interpolates(), Interpolates("source"))
    for shares in ((0.7, 0.2, 0.1), (1 / 3, 1 / 3, 1 / 3)):
        assert MixtureWeight(parts, shares).shares == shares
    # Three shares whose scaled values do not quite sum to one either.
    given = np.array([0.0634921, 0.0634921, 0.8730159])
    scaled = MixtureWeight(parts, tuple(given)).shares
    assert scaled == pytest.approx(given / given.sum(), rel=1e-14)
    assert MixtureWeight(parts, scaled).shares == scaled


# --- what is written back -------------------------------------------------------------------

FLOOR = """
kind = "mixture"
parts = [{share = 0.9, kind = "interpolates"}, {share = 0.1, kind = "uniform"}]
"""
KINDS = {
    "default": 'kind = "interpolates"',
    "optimal": 'kind = "interpolates"\ncoupling = "optimal"\norder = 1\ntolerance = 1e-3',
    "source": 'kind = "interpolates"\ncoupling = "source"',
    "short": 'kind = "target"',
    "constant": 'kind = "constant"\ndensity = 2',
    "uniform": 'kind = "uniform"',
    "ball": BALL + "mass = 2",
    "gaussians": 'kind = "gaussian-mixture"\nmeans = [[0.5, 0.5]]\nstds = 0.1',
    "points": 'kind = "points"\npoints = [[0.5, 0.5], [1.0, 0.5]]\nweights = [0.25, 0.75]',
    "file of points": 'kind = "points"\nfile = "data/points.npy"',
    "image": 'kind = "image"\nfile = "data/a.png"\ninvert = true\nmass = 3',
    "field": 'kind = "field"\nfile = "data/a.vtu"\nnormalise = false',
    "mixture": MIXTURE,
    "mixture with a floor": FLOOR,
}


@pytest.mark.parametrize("text", KINDS.values(), ids=KINDS.keys())
def test_every_kind_reads_as_the_same_weight(directory: Path, text: str) -> None:
    problem = problem_of(directory, text)
    description = problem.description
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    copy = elsewhere / "problem.toml"
    copy.write_text(problem_text(problem), encoding="utf-8")
    again = read_problem(copy)
    assert again.description == description
    assert type(again.weight) is type(problem.weight)
    if not isinstance(problem.weight, MeasureWeight | MixtureWeight):
        assert again.weight == problem.weight
    # As result.json holds it: tables, no text.
    assert problem_from_tables(description).description == description


BY_HAND: dict[str, Any] = {
    "interpolates": Interpolates(samples=100, rule="segments"),
    "optimal": Interpolates("optimal", 1),
    "target": Interpolates("target", order=1, samples=3),  # which make no difference
    "constant": ConstantWeight(),
    "ball": MeasureWeight(UniformBall(np.array([0.5, 0.5]), 0.25), 2.0),
    "points": MeasureWeight(Points(np.array([[0.25, 0.5], [0.5, 0.5]]))),
    "mixture": MixtureWeight(
        (Interpolates(), MeasureWeight(UniformBox(np.zeros(2), np.ones(2)), 3.0)), (0.9, 0.1)
    ),
}


@pytest.mark.parametrize("weight", BY_HAND.values(), ids=BY_HAND.keys())
def test_weights_made_in_python_can_be_read(weight: Any) -> None:
    ball = UniformBall(np.array([0.5, 0.5]), 0.1)
    problem = Problem(Box((0, 0), (1, 1)), ball, ball, weight)
    again = problem_from_tables(problem.description)
    assert again.description == problem.description
    assert type(again.weight) is type(weight)
    if isinstance(weight, MeasureWeight):
        assert isinstance(again.weight, MeasureWeight)
        assert type(again.weight.measure) is type(weight.measure)
        assert again.weight.mass == weight.mass
    if weight == Interpolates(samples=100, rule="segments"):
        assert again.weight == weight


def test_a_mixture_in_a_mixture_is_described_by_its_parts() -> None:
    """A file has no mixtures in mixtures, and needs none."""
    inner = MixtureWeight((Interpolates("source"), ConstantWeight(2.0)), (0.25, 0.75))
    ball = UniformBall(np.array([0.5, 0.5]), 0.1)
    middle = MixtureWeight((inner, Interpolates("target")))
    outer = MixtureWeight((middle, ConstantWeight()))
    problem = Problem(Box((0, 0), (1, 1)), ball, ball, outer)
    again = problem_from_tables(problem.description).weight
    assert isinstance(again, MixtureWeight)
    assert again.parts == (*inner.parts, Interpolates("target"), ConstantWeight())
    assert again.shares == (0.0625, 0.1875, 0.25, 0.5)


def test_a_changed_part_changes_the_description_and_the_others_keep_theirs(directory: Path) -> None:
    problem = problem_of(directory, MIXTURE)
    assert isinstance(problem.weight, MixtureWeight)
    first, *others = problem.weight.parts
    assert isinstance(first, Interpolates)
    changed = dataclasses.replace(
        problem.weight, parts=(dataclasses.replace(first, samples=128), *others)
    )
    before = problem.description["weight"]["parts"]
    after = dataclasses.replace(problem, weight=changed).description["weight"]["parts"]
    assert after == [{**before[0], "samples": 128}, *before[1:]]
    assert after[2]["file"] == str(directory / "data" / "a.png")
    shared = dataclasses.replace(problem.weight, shares=(0.25, 0.25, 0.5))
    described = dataclasses.replace(problem, weight=shared).description["weight"]["parts"]
    assert [part["share"] for part in described] == [0.25, 0.25, 0.5]


def test_a_pair_made_in_python_can_be_read() -> None:
    pair = RayMonotonePair(1.0, 4.0, np.array([[0.1, 0.2]]), np.array([0.0]))
    box = Box((-1, -1), (1, 1))
    problem = Problem(box, RayMonotoneSource(pair), UniformBox(-np.ones(2), np.ones(2)))
    again = problem_from_tables(problem.description)
    assert isinstance(again.source, RayMonotoneSource)
    assert again.description == problem.description
