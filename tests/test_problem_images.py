"""Images and fields in problem files: what is read, what is written back, and every mistake."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import meshio
import numpy as np
import pytest
import pyvista
from PIL import Image as Pillow

from congested.errors import InputError
from congested.measures.mesh_field import mesh_field_from_file
from congested.problem import Problem
from congested.problem_file import problem_text, read_problem
from tests.scripts import load_script

ROOT = Path(__file__).parents[1]
PROBLEMS = ROOT / "scripts" / "problems"

BOX = 'kind = "box"\nlower = [0, 0]\nupper = [2.0, 1.0]\n'
CUBE = 'kind = "box"\nlower = [0, 0, 0]\nupper = [1, 1, 1]\n'
MESH = f'kind = "mesh"\nfile = "{ROOT / "meshes" / "l_shape.msh"}"\n'
BALL = 'kind = "uniform"\nshape = "ball"\ncenter = [0.5, 0.5]\nradius = 0.1\n'
BALL_3D = BALL.replace("[0.5, 0.5]", "[0.5, 0.5, 0.5]")
IMAGE = 'kind = "image"\nfile = "data/a.png"\n'
FIELD = 'kind = "field"\nfile = "data/a.vtu"\n'
CORNERS = "lower = [0.25, 0.25]\nupper = [0.5, 0.5]\n"

# Rows from the top; ink is dark.
ROWS = np.array([[0, 51, 255], [102, 204, 255]], np.uint8)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with images and fields in data/."""
    data = tmp_path / "data"
    data.mkdir()
    Pillow.fromarray(ROWS).save(data / "a.png")
    np.save(data / "plane.npy", np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    np.save(data / "space.npy", np.arange(1.0, 25.0).reshape(2, 3, 4))
    np.save(data / "negative.npy", [[1.0, -1.0]])
    (data / "broken.png").write_text("hello")
    grid = pyvista.ImageData(dimensions=(4, 3, 1), spacing=(0.1, 0.1, 1.0), origin=(0.1, 0.2, 0.0))
    grid.cell_data["one"], grid.cell_data["two"] = np.arange(6.0), np.arange(6.0, 12.0)
    grid.save(data / "a.vti")
    points = np.array([[0.2, 0.2, 0.0], [0.4, 0.2, 0.0], [0.2, 0.4, 0.0], [0.4, 0.4, 0.0]])
    triangles = [("triangle", np.array([[0, 1, 2], [1, 2, 3]]))]
    cell_data, point_data = {"mass": [[1.0, 3.0]]}, {"height": [0.0, 1.0, 2.0, 3.0]}
    meshio.write(data / "a.vtu", meshio.Mesh(points, triangles, cell_data=cell_data))
    both = meshio.Mesh(points, triangles, cell_data=cell_data, point_data=point_data)
    meshio.write(data / "both.vtu", both)
    tetrahedron = np.concatenate([np.zeros((1, 3)), np.eye(3)])
    solid = meshio.Mesh(tetrahedron, [("tetra", [[0, 1, 2, 3]])], cell_data={"mass": [[1.0]]})
    meshio.write(data / "solid.vtu", solid)
    return tmp_path


def problem_of(directory: Path, source: str, domain: str = BOX, target: str = BALL) -> Problem:
    """Read a problem with the given tables."""
    file = directory / "problem.toml"
    file.write_text(f"[domain]\n{domain}\n[source]\n{source}\n[target]\n{target}\n")
    return read_problem(file)


def test_a_picture_fills_the_box_of_the_domain(directory: Path) -> None:
    problem = problem_of(directory, IMAGE)
    np.testing.assert_allclose(problem.source.values, ROWS[::-1].T / 255.0, rtol=1e-15)
    np.testing.assert_array_equal(problem.source.upper, [2.0, 1.0])
    assert problem.description["source"] == {
        "kind": "image",
        "file": str(directory / "data" / "a.png"),
        "lower": [0.0, 0.0],
        "upper": [2.0, 1.0],
        "invert": False,
    }


def test_every_value_of_an_image_arrives(directory: Path) -> None:
    source = IMAGE + CORNERS + 'indexing = "coordinates"\ninvert = true'
    image = problem_of(directory, source).source
    np.testing.assert_allclose(image.values, 1.0 - ROWS / 255.0, rtol=1e-15)
    np.testing.assert_array_equal([image.lower, image.upper], [[0.25, 0.25], [0.5, 0.5]])
    named = 'kind = "image"\nfile = "data/a.vti"\narray = "two"\n'
    for body, lower in ((named, [0.1, 0.2]), (named + CORNERS, [0.25, 0.25])):
        image = problem_of(directory, body, MESH).source
        assert image.values[0, 1] == 9.0
        np.testing.assert_array_equal(image.lower, lower)


def test_images_in_space(directory: Path) -> None:
    source = 'kind = "image"\nfile = "data/space.npy"'
    image = problem_of(directory, source, CUBE, BALL_3D).source
    assert image.values[1, 2, 3] == 24.0
    np.testing.assert_array_equal(image.upper, [1.0, 1.0, 1.0])


def test_a_picture_in_a_mesh_has_a_box_of_its_own(directory: Path) -> None:
    image = problem_of(directory, IMAGE + CORNERS, MESH).source
    np.testing.assert_array_equal(image.upper, [0.5, 0.5])


def test_fields(directory: Path) -> None:
    problem = problem_of(directory, FIELD)
    np.testing.assert_array_equal(problem.source.cell_values, [1.0, 3.0])
    assert problem.description["source"] == {
        "kind": "field",
        "file": str(directory / "data" / "a.vtu"),
    }
    named = 'kind = "field"\nfile = "data/both.vtu"\narray = "height"'
    field = problem_of(directory, named, MESH).source
    np.testing.assert_array_equal(field.point_values, [0.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("source", "domain"),
    [
        (IMAGE, BOX),
        (IMAGE + CORNERS + "invert = true", MESH),
        ('kind = "image"\nfile = "data/a.vti"\narray = "two"', MESH),
        ('kind = "image"\nfile = "data/plane.npy"\nindexing = "coordinates"', BOX),
        ('kind = "field"\nfile = "data/both.vtu"\narray = "mass"', BOX),
    ],
)
def test_text_reads_as_the_same_problem(directory: Path, source: str, domain: str) -> None:
    problem = problem_of(directory, source, domain)
    description = problem.description
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    text = problem_text(problem)
    assert tomllib.loads(text)["source"] == description["source"]
    copy = directory / "elsewhere" / "problem.toml"
    copy.parent.mkdir()
    copy.write_text(text)
    again = read_problem(copy)
    assert again.description == description
    name = "point_values" if hasattr(problem.source, "point_values") else "values"
    for key in (name, "lower", "cell_values"):
        first, second = (getattr(part.source, key, None) for part in (problem, again))
        np.testing.assert_array_equal(first, second)


def test_parts_made_in_python_are_described() -> None:
    import congested as ct

    image = ct.Image(np.ones((2, 3)), [0, 0], [1, 1])
    field = ct.MeshField([[0.0, 0], [1, 0], [0, 1]], [[0, 1, 2]], point_values=[0, 1, 2])
    domain = ct.Box((0.0, 0.0), (1.0, 1.0))
    description = ct.Problem(domain, image, field).description
    assert description["source"]["kind"] == "image"
    assert description["source"]["values"] == [[1.0] * 3] * 2
    assert description["target"]["kind"] == "field"
    assert description["target"]["point_values"] == [0.0, 1.0, 2.0]
    assert "cell_values" not in description["target"]


def test_an_image_moves_onto_a_field(directory: Path) -> None:
    import congested as ct

    tables = '[weight]\nkind = "constant"\n[solver]\nrefine = "none"\n'
    domain = BOX + "cells = 16"
    file = directory / "problem.toml"
    file.write_text(f"[domain]\n{domain}\n[source]\n{IMAGE}\n[target]\n{FIELD}\n{tables}")
    solution = ct.solve(read_problem(file))
    # Moments by hand: pixels of 2/3 × 1/2 with 51, 255, 102, 204 and 255 parts; triangles 1 : 3.
    parts = np.array([51, 255, 102, 204, 255]) / 867
    centres = np.array([[1, 0.75], [5 / 3, 0.75], [1 / 3, 0.25], [1, 0.25], [5 / 3, 0.25]])
    triangles = np.array([[0.8 / 3, 0.8 / 3], [1 / 3, 1 / 3]])
    path = np.array([0.25, 0.75]) @ triangles - parts @ centres
    solution.write(directory / "result")
    # The flow carries the centre of one measure to that of the other, but for the cell data.
    with np.load(directory / "result" / "solution.npz") as arrays:
        moved = arrays["cell_volume"] @ arrays["momentum"]
    np.testing.assert_allclose(moved, path, rtol=0, atol=2e-3)
    assert solution.bounds.upper > np.linalg.norm(moved)
    result = ct.read_result(directory / "result")
    assert result["problem"]["source"]["file"] == str(directory / "data" / "a.png")
    assert result["problem"]["target"]["kind"] == "field"
    assert max(result["data"]["mass_outside"].values()) == pytest.approx(0.0, abs=1e-14)


def test_the_letter_of_the_package_is_upright() -> None:
    problem = read_problem(ROOT / "scripts" / "problems" / "letter.toml")
    stem, bar, foot, beside = [0.36, 0.2], [0.65, 0.8], [0.65, 0.2], [0.36, 0.95]
    density = problem.source.density(np.array([stem, bar, foot, beside]))
    np.testing.assert_allclose(density[:2], density[0])
    assert density[0] > 5.0
    np.testing.assert_array_equal(density[2:], 0.0)
    left, right, hole = problem.target.density(np.array([[1.2, 0.5], [1.8, 0.5], [1.5, 0.5]]))
    assert right > 1.8 * left > 0.0
    assert hole == 0.0


def test_the_script_makes_the_files_of_the_package(tmp_path: Path) -> None:
    script = load_script("make_images")
    assert script.main(["--output", str(tmp_path)]) == 0
    for name in ("letter.png", "ring.png", "lanes_source.png", "lanes_target.png"):
        with Pillow.open(tmp_path / name) as new, Pillow.open(PROBLEMS / name) as old:
            np.testing.assert_array_equal(np.asarray(new), np.asarray(old))
    for array in ("hill", "sector"):
        new, old = (
            mesh_field_from_file(folder / "disc_field.vtu", array)
            for folder in (tmp_path, PROBLEMS)
        )
        assert new.integral == pytest.approx(old.integral, rel=1e-14)
        np.testing.assert_allclose(new.points, old.points, rtol=0, atol=1e-15)


# (source, domain, key, what else the message must say)
MISTAKES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "image without file": ('kind = "image"', BOX, "file", ("nothing", ".png .npy .vti")),
    "image file not there": (
        'kind = "image"\nfile = "no.png"',
        BOX,
        "file",
        ('found "no.png", no such file: /', "an existing file"),
    ),
    "image file of wrong kind": (
        'kind = "image"\nfile = "problem.toml"',
        BOX,
        "file",
        ('found "problem.toml"', "a file of kind .png .npy .vti"),
    ),
    "image unknown key": (
        IMAGE + "uper = [1, 1]",
        BOX,
        "uper",
        ('did you mean "upper"?', "only kind, file, lower, upper, indexing, invert, array"),
    ),
    "image lower text": (IMAGE + 'lower = "a"', BOX, "lower", ('"a"', "2 or 3 numbers")),
    "image lower alone": (
        IMAGE + "lower = [0, 0]",
        BOX,
        "upper",
        ("found nothing", "both corners of a box or none: lower is there"),
    ),
    "image upper alone": (IMAGE + "upper = [1, 1]", MESH, "lower", ("upper is there",)),
    "image box upside down": (
        IMAGE + "lower = [0, 0]\nupper = [1, -1]",
        BOX,
        "upper[1]",
        ("found -1", "> lower[1] = 0"),
    ),
    "image indexing": (
        IMAGE + 'indexing = "pictures"',
        BOX,
        "indexing",
        ('found "pictures" (did you mean "picture"?)', '"picture" or "coordinates"'),
    ),
    "image invert": (IMAGE + "invert = 1", BOX, "invert", ("found 1", "true or false")),
    "image array of a picture": (
        IMAGE + 'array = "red"',
        BOX,
        "array",
        ('found "red"', "nothing, as only .vti files name arrays"),
    ),
    "image picture of a grid": (
        'kind = "image"\nfile = "data/a.vti"\nindexing = "picture"\narray = "one"',
        BOX,
        "indexing",
        ('found "picture"', '"coordinates", as a .vti file has them'),
    ),
    "image without a box in a mesh": (
        IMAGE,
        MESH,
        "lower",
        ("found nothing", "lower and upper of the image, as the domain is no box"),
    ),
    "picture in space": (
        IMAGE,
        CUBE,
        "file",
        ("found dimension 2", "dimension 3 as in domain.lower"),
    ),
    "image box in space": (
        IMAGE + "lower = [0, 0, 0]\nupper = [1, 1, 1]",
        BOX,
        "lower",
        ("found dimension 3", "dimension 2 as in domain.lower"),
    ),
    # found when the file is read
    "image broken": (
        'kind = "image"\nfile = "data/broken.png"',
        BOX,
        "file",
        ("broken.png: found a file that is no picture (", "allowed: a valid .png file"),
    ),
    "image negative": (
        'kind = "image"\nfile = "data/negative.npy"\nindexing = "coordinates"',
        BOX,
        "file",
        ("negative.npy: found -1 at [0, 1]", "numbers >= 0"),
    ),
    "array in space for a plane": (
        'kind = "image"\nfile = "data/space.npy"',
        BOX,
        "file",
        ("space.npy: found numbers along 3 axes for the box from [0.0, 0.0] to [2.0, 1.0]",),
    ),
    "array in space as a picture": (
        'kind = "image"\nfile = "data/space.npy"\nindexing = "picture"',
        BOX,
        "indexing",
        ('space.npy: found "picture"; allowed: "coordinates", in 3D',),
    ),
    "grid with several arrays": (
        'kind = "image"\nfile = "data/a.vti"',
        BOX,
        "array",
        ('a.vti: found nothing, and 2 arrays in the file; allowed: one of "one", "two"',),
    ),
    "grid without that array": (
        'kind = "image"\nfile = "data/a.vti"\narray = "tow"',
        BOX,
        "array",
        ('found "tow" (did you mean "two"?); allowed: "one", "two"',),
    ),
    "plane grid in space": (
        'kind = "image"\nfile = "data/a.vti"\narray = "one"',
        CUBE,
        "",
        ("found dimension 2; allowed: 3 as that of the domain",),
    ),
    "field without file": ('kind = "field"', BOX, "file", ("nothing", "a mesh file with data")),
    "field file not there": ('kind = "field"\nfile = "no.vtu"', BOX, "file", ("no such file",)),
    "field unknown key": (
        FIELD + 'aray = "mass"',
        BOX,
        "aray",
        ('did you mean "array"?', "only kind, file, array"),
    ),
    "field array a number": (FIELD + "array = 3", BOX, "array", ("found 3", "name of an array")),
    "field with several arrays": (
        'kind = "field"\nfile = "data/both.vtu"',
        BOX,
        "array",
        ('both.vtu: found nothing, and 2 arrays in the file; allowed: one of "height", "mass"',),
    ),
    "field without that array": (
        FIELD + 'array = "mas"',
        BOX,
        "array",
        ('a.vtu: found "mas" (did you mean "mass"?); allowed: "mass"',),
    ),
    "field that is no mesh": (
        'kind = "field"\nfile = "problem.toml"',
        BOX,
        "file",
        ("unknown kind of file '.toml'",),
    ),
    "field in space": (
        'kind = "field"\nfile = "data/solid.vtu"',
        BOX,
        "",
        ("found dimension 3; allowed: 2 as that of the domain",),
    ),
}


@pytest.mark.parametrize(
    ("source", "domain", "key", "words"), MISTAKES.values(), ids=MISTAKES.keys()
)
def test_mistake(
    directory: Path, source: str, domain: str, key: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        problem_of(directory, source, domain, BALL_3D if domain == CUBE else BALL)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.file == str(directory / "problem.toml")
    where = f"source.{key}" if key else "source"
    assert text.startswith(f"{directory / 'problem.toml'}: {where}: ")
    assert "allowed" in text
    for word in words:
        assert word in text
