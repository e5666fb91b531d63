"""Every mistake in a weight of a problem file: its key, what was found, what is allowed."""

from __future__ import annotations

from pathlib import Path

import meshio
import numpy as np
import pytest
from PIL import Image as Pillow

from congested.errors import InputError
from congested.problem_file import read_problem

ROOT = Path(__file__).parents[1]
BOX = 'kind = "box"\nlower = [0, 0]\nupper = [2.0, 1.0]\n'
MESH = f'kind = "mesh"\nfile = "{ROOT / "meshes" / "l_shape.msh"}"\n'
BALL = 'kind = "uniform"\nshape = "ball"\ncenter = [0.5, 0.5]\nradius = 0.1\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with points, an image and a field in data/."""
    data = tmp_path / "data"
    data.mkdir()
    np.save(data / "points.npy", [[0.5, 0.5]])
    np.save(data / "far.npy", [[0.5, 0.5], [2.5, 0.25]])
    Pillow.fromarray(np.array([[255]], np.uint8)).save(data / "a.png")
    triangle = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    cells = [("triangle", np.array([[0, 1, 2]]))]
    meshio.write(data / "a.vtu", meshio.Mesh(triangle, cells, cell_data={"rho": [[3.0]]}))
    return tmp_path


def file_of(directory: Path, weight: str, domain: str = BOX) -> Path:
    file = directory / "problem.toml"
    file.write_text(f"[domain]\n{domain}\n[source]\n{BALL}\n[target]\n{BALL}\n[weight]\n{weight}\n")
    return file


KIND_WORDS = (
    '"interpolates" or "source" or "target" or "constant" or "uniform" or "gaussian-mixture" or '
    '"points" or "image" or "field"'
)
PARTS = 'kind = "mixture"\nparts = [{share = 0.5, kind = "source"}, %s]'

# (weight, key, what the message says after "found ")
MISTAKES: dict[str, tuple[str, str, str]] = {
    "kind": (
        'kind = "interpolate"',
        "kind",
        '"interpolate" (did you mean "interpolates"?); allowed: ' + KIND_WORDS + ' or "mixture"',
    ),
    "measure that is no weight": (
        'kind = "ray-monotone"',
        "kind",
        '"ray-monotone"; allowed: ' + KIND_WORDS + ' or "mixture"',
    ),
    "coupling": (
        'kind = "interpolates"\ncoupling = "independant"',
        "coupling",
        '"independant" (did you mean "independent"?); allowed: "independent" or "optimal" or '
        '"source" or "target"',
    ),
    "rule": (
        'kind = "interpolates"\nrule = "ray"',
        "rule",
        '"ray" (did you mean "rays"?); allowed: "auto" or "closed-form" or "rays" or "raster" or '
        '"segments"',
    ),
    "order": (
        'kind = "interpolates"\ncoupling = "optimal"\norder = 3',
        "order",
        "3; allowed: 1 or 2",
    ),
    "order of what has none": (
        'kind = "interpolates"\norder = 2',
        "order",
        '2; allowed: nothing, as only coupling = "optimal" has an order',
    ),
    "samples without segments": (
        'kind = "interpolates"\ncoupling = "source"\nsamples = 9',
        "samples",
        '9; allowed: nothing, as coupling = "source" has no segments',
    ),
    "samples of an end": (
        'kind = "source"\nsamples = 9',
        "samples",
        "an unknown key; allowed: only kind",
    ),
    "samples zero": (
        'kind = "interpolates"\nsamples = 0',
        "samples",
        "0; allowed: an integer >= 1",
    ),
    "seed": ('kind = "interpolates"\nseed = -1', "seed", "-1; allowed: an integer >= 0"),
    "tolerance": (
        'kind = "interpolates"\ntolerance = 0.0',
        "tolerance",
        "0.0; allowed: a number from 1e-13 to 1",
    ),
    "tolerance one": (
        'kind = "interpolates"\ntolerance = 1.0',
        "tolerance",
        "1.0; allowed: a number from 1e-13 to 1",
    ),
    "density": ('kind = "constant"\ndensity = -1.0', "density", "-1.0; allowed: a number > 0"),
    "uniform without the shape that is meant": (
        'kind = "uniform"\nradius = 3',
        "shape",
        'nothing; allowed: "box" or "ball"',
    ),
    "uniform misspelt": (
        'kind = "uniform"\nshap = "box"',
        "shap",
        'an unknown key (did you mean "shape"?); allowed: only shape',
    ),
    "uniform unknown key": (
        'kind = "uniform"\nfrob = 1',
        "frob",
        "an unknown key; allowed: only kind, shape",
    ),
    "uniform shape": (
        'kind = "uniform"\nshape = "bal"',
        "shape",
        '"bal" (did you mean "ball"?); allowed: "box" or "ball"',
    ),
    "mass zero": (BALL + "mass = 0", "mass", "0; allowed: a number > 0"),
    "mass inf": (BALL + "mass = inf", "mass", "inf; allowed: a number > 0"),
    "mass of an image": (
        'kind = "image"\nfile = "data/a.png"\nmass = -2',
        "mass",
        "-2; allowed: a number > 0",
    ),
    "mass twice": (
        'kind = "field"\nfile = "data/a.vtu"\nnormalise = false\nmass = 2',
        "mass",
        "2.0; allowed: nothing, as with normalise = false the values are the density",
    ),
    "normalise": (
        'kind = "field"\nfile = "data/a.vtu"\nnormalise = "no"',
        "normalise",
        '"no"; allowed: true or false',
    ),
    "normalise of points": (
        'kind = "points"\nfile = "data/points.npy"\nnormalise = false',
        "normalise",
        "an unknown key; allowed: only kind, file, points, weights, mass",
    ),
    "normalize": (
        'kind = "field"\nfile = "data/a.vtu"\nnormalize = true',
        "normalize",
        'an unknown key (did you mean "normalise"?); allowed: only kind, file, array, normalise, '
        "mass",
    ),
    "what a measure says of itself": (
        'kind = "image"\nfile = "data/a.png"\nlower = [0, 0]',
        "upper",
        "nothing; allowed: both corners of a box or none: lower is there",
    ),
    "points of another dimension": (
        'kind = "points"\npoints = [[0.5, 0.5, 0.5]]',
        "points",
        "dimension 3; allowed: dimension 2 as in domain.lower",
    ),
    "points outside": (
        'kind = "points"\npoints = [[0.5, 0.5], [0.5, 1.5]]',
        "points[1]",
        "[0.5, 1.5]; allowed: a point of the domain",
    ),
    "points of a file outside": (
        'kind = "points"\nfile = "data/far.npy"',
        "file",
        "1 points outside the domain, first number 1 (from 0) at [2.5, 0.25]; allowed: points of "
        "the domain",
    ),
    "mixture without parts": (
        'kind = "mixture"',
        "parts",
        "nothing; allowed: a list of tables of weights, each with its share",
    ),
    "mixture of nothing": (
        'kind = "mixture"\nparts = []',
        "parts",
        "[]; allowed: a list of tables of weights, each with its share",
    ),
    "parts of another kind": (
        'kind = "mixture"\nparts = {share = 1}',
        "parts",
        "{share = 1}; allowed: a list of tables of weights, each with its share",
    ),
    "mixture unknown key": (
        'kind = "mixture"\npart = [{share = 1.0, kind = "source"}]',
        "part",
        'an unknown key (did you mean "parts"?); allowed: only kind, parts',
    ),
    "part no table": (
        PARTS % "3",
        "parts[1]",
        "3; allowed: a list of tables of weights, each with its share",
    ),
    "part without a kind": (
        PARTS % "{share = 0.5}",
        "parts[1].kind",
        "nothing; allowed: " + KIND_WORDS,
    ),
    "mixture in a mixture": (
        PARTS % '{share = 0.5, kind = "mixture", parts = []}',
        "parts[1].kind",
        '"mixture", which has no place inside another; allowed: ' + KIND_WORDS,
    ),
    "part without a share": (
        PARTS % '{kind = "target"}',
        "parts[1].share",
        "nothing; allowed: a number > 0: the share of this weight in the mixture",
    ),
    "share zero": (
        PARTS % '{share = 0, kind = "target"}',
        "parts[1].share",
        "0; allowed: a number > 0: the share of this weight in the mixture",
    ),
    "shares": (
        PARTS % '{share = 0.4, kind = "target"}',
        "parts",
        "shares with the sum 0.9; allowed: shares whose sum is 1",
    ),
    "part unknown key": (
        PARTS % '{share = 0.5, kind = "constant", densty = 1}',
        "parts[1].densty",
        'an unknown key (did you mean "density"?); allowed: only kind, density, share',
    ),
    "part between fields": (
        PARTS % '{share = 0.5, kind = "interpolates", order = 1}',
        "parts[1].order",
        '1; allowed: nothing, as only coupling = "optimal" has an order',
    ),
    "part outside": (
        PARTS % '{share = 0.5, kind = "points", points = [[9, 9]]}',
        "parts[1].points[0]",
        "[9.0, 9.0]; allowed: a point of the domain",
    ),
    "part of another dimension": (
        PARTS % '{share = 0.5, kind = "points", points = [[0.1, 0.1, 0.1]]}',
        "parts[1].points",
        "dimension 3; allowed: dimension 2 as in domain.lower",
    ),
    "part with points outside": (
        PARTS % '{share = 0.5, kind = "points", file = "data/far.npy"}',
        "parts[1].file",
        "1 points outside the domain, first number 1 (from 0) at [2.5, 0.25]; allowed: points of "
        "the domain",
    ),
    "two parts": (
        'kind = "mixture"\nparts = [{kind = "source"}, {share = 1, kind = "frob"}]',
        "parts[0].share",
        "nothing; allowed: a number > 0: the share of this weight in the mixture (and 1 more "
        "mistake)",
    ),
}


@pytest.mark.parametrize(("weight", "key", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake(directory: Path, weight: str, key: str, words: str) -> None:
    file = file_of(directory, weight)
    with pytest.raises(InputError) as caught:
        read_problem(file)
    assert str(caught.value) == f"{file}: weight.{key}: found {words}"


@pytest.mark.parametrize("place", ["weight", "weight.parts[1]"])
def test_files_that_are_not_there_or_wrong(directory: Path, place: str) -> None:
    def message(body: str, domain: str = BOX) -> str:
        text = body if place == "weight" else PARTS % f"{{share = 0.5, {body}}}"
        if place == "weight":
            text = body.replace(", ", "\n")
        with pytest.raises(InputError) as caught:
            read_problem(file_of(directory, text, domain))
        return str(caught.value).removeprefix(f"{directory / 'problem.toml'}: ")

    data = directory / "data"
    assert message('kind = "field", file = "data/no.vtu"') == (
        f'{place}.file: found "data/no.vtu", no such file: {data / "no.vtu"}; allowed: an existing '
        "file"
    )
    (data / "broken.png").write_text("hello")
    found = message('kind = "image", file = "data/broken.png"')
    assert found.startswith(f"{place}.file: {data / 'broken.png'}: found a file that is no picture")
    found = message('kind = "field", file = "data/a.vtu", array = "none"')
    assert found.startswith(f"{place}.array: ")
    assert message('kind = "image", file = "data/a.png"', MESH) == (
        f"{place}.lower: found nothing; allowed: the corners lower and upper of the image, as the "
        "domain is no box"
    )
