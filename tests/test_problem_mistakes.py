"""Every mistake in a problem file: its key, what was found, what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from congested.errors import InputError
from congested.problem_file import read_problem

BOX = 'kind = "box"\nlower = [0, 0]\nupper = [1.0, 1.0]\n'
GAUSSIAN = 'kind = "gaussian-mixture"\nmeans = [[0.3, 0.4], [0.6, 0.4]]\nstds = [0.08, 0.06]\n'
UNIFORM_BOX = 'kind = "uniform"\nshape = "box"\nlower = [0.2, 0.2]\nupper = [0.4, 0.4]\n'
UNIFORM_BALL = 'kind = "uniform"\nshape = "ball"\ncenter = [0.5, 0.5]\nradius = 0.1\n'
POINTS = 'kind = "points"\npoints = [[0.5, 0.5], [0.7, 0.2]]\n'
PAIR = (
    'kind = "ray-monotone"\n'
    "pair = {half_width = 1.0, power = 4, centers = [[0.1, 0.2]], biases = [0.0]}\n"
)
BASE = {"domain": BOX, "source": GAUSSIAN, "target": UNIFORM_BALL}


def write_problem(directory: Path, *, head: str = "", **tables: str | None) -> Path:
    """Write a problem file of the base tables and those given; None leaves a table out."""
    text = head + "".join(
        f"[{name}]\n{body}\n" for name, body in (BASE | tables).items() if body is not None
    )
    file = directory / "problem.toml"
    file.write_text(text, encoding="utf-8")
    return file


def message_of(file: Path) -> str:
    """Return the text of the error that a file gives, without its own name."""
    with pytest.raises(InputError) as caught:
        read_problem(file)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.file == str(file)
    return text.removeprefix(f"{file}: ")


# (tables that differ from the base, key, what else the message must say)
MISTAKES: dict[str, tuple[dict[str, str | None], str, tuple[str, ...]]] = {
    # the file as a whole
    "no domain": ({"domain": None}, "domain", ("found nothing", "a table [domain]")),
    "no source": ({"source": None}, "source", ("found nothing", "a table [source]")),
    "no target": ({"target": None}, "target", ("found nothing", "a table [target]")),
    "unknown table": (
        {"domain": None, "dommain": BOX},
        "dommain",
        ("unknown key", 'did you mean "domain"?', "title, domain, source"),
    ),
    "table is a number": ({"domain": None, "head": "domain = 3\n"}, "domain", ("found 3", "[dom")),
    "title is a number": ({"head": "title = 3\n"}, "title", ("found 3", "allowed: text")),
    # domain
    "domain without kind": ({"domain": "cells = 3"}, "domain.kind", ("nothing", '"box" or "mesh"')),
    "domain kind": (
        {"domain": BOX.replace("box", "bax")},
        "domain.kind",
        ('found "bax"', 'did you mean "box"?', '"box" or "mesh"'),
    ),
    "domain kind misspelt key": (
        {"domain": BOX.replace("kind", "knd")},
        "domain.knd",
        ("unknown key", 'did you mean "kind"?'),
    ),
    "domain kind a number": ({"domain": "kind = 3"}, "domain.kind", ("found 3", '"box"')),
    "domain unknown key": (
        {"domain": BOX + "cels = 3"},
        "domain.cels",
        ("unknown key", 'did you mean "cells"?', "kind, lower, upper, cells"),
    ),
    "domain no lower": (
        {"domain": 'kind = "box"\nupper = [1, 1]'},
        "domain.lower",
        ("found nothing", "2 or 3 numbers"),
    ),
    "domain lower text": (
        {"domain": BOX.replace("[0, 0]", '["0", 0]')},
        "domain.lower[0]",
        ('found "0"', "2 or 3 numbers"),
    ),
    "domain lower bool": (
        {"domain": BOX.replace("[0, 0]", "[0, true]")},
        "domain.lower[1]",
        ("found true", "2 or 3 numbers"),
    ),
    "domain lower nan": (
        {"domain": BOX.replace("[0, 0]", "[nan, 0]")},
        "domain.lower[0]",
        ("found nan", "2 or 3 numbers"),
    ),
    "domain upper inf": (
        {"domain": BOX.replace("[1.0, 1.0]", "[1.0, inf]")},
        "domain.upper[1]",
        ("found inf", "2 or 3 numbers"),
    ),
    "domain 1D": (
        {"domain": 'kind = "box"\nlower = [0]\nupper = [1]'},
        "domain.lower",
        ("found [0]", "2 or 3 numbers", "(and 1 more mistake)"),
    ),
    "domain mixed dimensions": (
        {"domain": BOX.replace("[0, 0]", "[0, 0, 0]")},
        "domain.upper",
        ("found [1.0, 1.0]", "3 numbers as in lower"),
    ),
    "domain empty": (
        {"domain": BOX.replace("[1.0, 1.0]", "[1.0, 0.0]")},
        "domain.upper[1]",
        ("found 0.0", "a number > lower[1] = 0.0"),
    ),
    "domain cells zero": ({"domain": BOX + "cells = 0"}, "domain.cells", ("found 0", ">= 1")),
    "domain cells float": ({"domain": BOX + "cells = 3.5"}, "domain.cells", ("3.5", "integer")),
    "domain cells bool": ({"domain": BOX + "cells = true"}, "domain.cells", ("true", "integer")),
    "mesh without file": ({"domain": 'kind = "mesh"'}, "domain.file", ("nothing", "mesh file")),
    "mesh file not there": (
        {"domain": 'kind = "mesh"\nfile = "sub/no.msh"'},
        "domain.file",
        ('found "sub/no.msh", no such file: /', "sub/no.msh; allowed: an existing file"),
    ),
    "mesh file a directory": (
        {"domain": 'kind = "mesh"\nfile = "."'},
        "domain.file",
        ("a directory", "an existing file"),
    ),
    "mesh file a number": ({"domain": 'kind = "mesh"\nfile = 3'}, "domain.file", ("found 3",)),
    # measures: kind
    "source kind": (
        {"source": GAUSSIAN.replace("gaussian", "gausian")},
        "source.kind",
        ('"gausian-mixture"', 'did you mean "gaussian-mixture"?', '"uniform"', '"ray-monotone"'),
    ),
    # Gaussian mixtures
    "means missing": (
        {"source": 'kind = "gaussian-mixture"\nstds = 0.1'},
        "source.means",
        ("found nothing", "a list of points"),
    ),
    "means misspelt": (
        {"source": GAUSSIAN.replace("means", "mean")},
        "source.mean",
        ("unknown key", 'did you mean "means"?'),
    ),
    "means empty": (
        {"source": 'kind = "gaussian-mixture"\nmeans = []\nstds = 0.1'},
        "source.means",
        ("found []", "a list of points"),
    ),
    "means a point": (
        {"source": GAUSSIAN.replace("[[0.3, 0.4], [0.6, 0.4]]", "[0.3, 0.4]")},
        "source.means[0]",
        ("found 0.3", "a list of points"),
    ),
    "means of two dimensions": (
        {"source": GAUSSIAN.replace("[0.6, 0.4]", "[0.6, 0.4, 0.1]")},
        "source.means[1]",
        ("found [0.6, 0.4, 0.1]", "2 numbers as in means[0]"),
    ),
    "means in 3D": (
        {"source": 'kind = "gaussian-mixture"\nmeans = [[0.3, 0.4, 0.1]]\nstds = 0.1'},
        "source.means",
        ("found dimension 3", "dimension 2 as in domain.lower"),
    ),
    "means nan": (
        {"source": GAUSSIAN.replace("[0.6, 0.4]", "[0.6, nan]")},
        "source.means[1][1]",
        ("found nan", "points"),
    ),
    "stds missing": (
        {"source": 'kind = "gaussian-mixture"\nmeans = [[0.3, 0.4]]'},
        "source.stds",
        ("found nothing", "stds (numbers > 0) or covariances"),
    ),
    "stds negative": (
        {"source": GAUSSIAN.replace("0.06", "-0.06")},
        "source.stds[1]",
        ("found -0.06", "a number > 0"),
    ),
    "stds zero, one number": (
        {"source": GAUSSIAN.replace("[0.08, 0.06]", "0")},
        "source.stds",
        ("found 0;", "a number > 0"),
    ),
    "stds text": (
        {"source": GAUSSIAN.replace("[0.08, 0.06]", '"0.1"')},
        "source.stds",
        ('found "0.1"', "a number > 0"),
    ),
    "stds too many": (
        {"source": GAUSSIAN.replace("0.06]", "0.06, 0.1]")},
        "source.stds",
        ("found 3 numbers", "one number, or 2: one per mean"),
    ),
    "stds and covariances": (
        {"source": GAUSSIAN + "covariances = [[[1, 0], [0, 1]], [[1, 0], [0, 1]]]"},
        "source.covariances",
        ("only one of stds and covariances",),
    ),
    "covariances too few": (
        {"source": GAUSSIAN.replace("stds = [0.08, 0.06]", "covariances = [[[1, 0], [0, 1]]]")},
        "source.covariances",
        ("found 1 matrices", "2: one for each mean"),
    ),
    "covariance of wrong shape": (
        {
            "source": 'kind = "gaussian-mixture"\nmeans = [[0.3, 0.4]]\n'
            "covariances = [[[1, 0], [0]]]"
        },
        "source.covariances[0]",
        ("2 rows of 2 numbers",),
    ),
    "covariance not symmetric": (
        {
            "source": 'kind = "gaussian-mixture"\nmeans = [[0.3, 0.4]]\n'
            "covariances = [[[1, 0.5], [0, 1]]]"
        },
        "source.covariances[0]",
        ("found [[1.0, 0.5], [0.0, 1.0]]", "symmetric"),
    ),
    "covariance not definite": (
        {
            "source": 'kind = "gaussian-mixture"\nmeans = [[0.3, 0.4]]\n'
            "covariances = [[[1, 2], [2, 1]]]"
        },
        "source.covariances[0]",
        ("eigenvalue -1", "positive definite"),
    ),
    "mixture weights too few": (
        {"source": GAUSSIAN + "weights = [1.0]"},
        "source.weights",
        ("found 1 numbers", "2: one for each of the means"),
    ),
    "mixture weights sum": (
        {"source": GAUSSIAN + "weights = [0.5, 0.6]"},
        "source.weights",
        ("found a sum of 1.1", "whose sum is 1"),
    ),
    "mixture weight negative": (
        {"source": GAUSSIAN + "weights = [1.5, -0.5]"},
        "source.weights[1]",
        ("found -0.5", ">= 0"),
    ),
    # uniform
    "shape missing": ({"target": 'kind = "uniform"'}, "target.shape", ('"box" or "ball"',)),
    "shape wrong": (
        {"target": UNIFORM_BALL.replace("ball", "bal")},
        "target.shape",
        ('found "bal"', 'did you mean "ball"?'),
    ),
    "ball key spelt British": (
        {"target": UNIFORM_BALL.replace("center", "centre")},
        "target.centre",
        ('did you mean "center"?',),
    ),
    "ball with the keys of a box": (
        {"target": UNIFORM_BALL + "lower = [0, 0]"},
        "target.lower",
        ("unknown key", "kind, shape, center, radius"),
    ),
    "radius zero": (
        {"target": UNIFORM_BALL.replace("0.1", "0.0")},
        "target.radius",
        ("found 0.0", "a number > 0"),
    ),
    "uniform box upside down": (
        {"target": UNIFORM_BOX.replace("[0.4, 0.4]", "[0.1, 0.4]")},
        "target.upper[0]",
        ("found 0.1", "> lower[0] = 0.2"),
    ),
    "center in 3D": (
        {"target": UNIFORM_BALL.replace("[0.5, 0.5]", "[0.5, 0.5, 0.5]")},
        "target.center",
        ("dimension 3", "dimension 2 as in domain.lower"),
    ),
    # points
    "points without data": (
        {"target": 'kind = "points"'},
        "target.file",
        ("nothing", "file (a file name) or points"),
    ),
    "points twice": (
        {"target": POINTS + 'file = "problem.toml"'},
        "target.points",
        ("only one of file and points", "(and 1 more mistake)"),
    ),
    "points file of wrong kind": (
        {"target": 'kind = "points"\nfile = "problem.toml"'},
        "target.file",
        ('found "problem.toml"', ".npy .csv .txt .vtu .ply"),
    ),
    "points file not there": (
        {"target": 'kind = "points"\nfile = "no.csv"'},
        "target.file",
        ("no such file", "no.csv"),
    ),
    "points weights file not there": (
        {"target": 'kind = "points"\nfile = "p.csv"\nweights = "no.npy"'},
        "target.file",
        ("no such file", "p.csv", "(and 1 more mistake)"),
    ),
    "points weights file for a list": (
        {"target": POINTS + 'weights = "no.npy"'},
        "target.weights",
        ('found "no.npy"', "a list, as the points are one"),
    ),
    "points weights sum": (
        {"target": POINTS + "weights = [0.25, 0.25]"},
        "target.weights",
        ("a sum of 0.5", "whose sum is 1"),
    ),
    "points weights too many": (
        {"target": POINTS + "weights = [0.5, 0.25, 0.25]"},
        "target.weights",
        ("3 numbers", "2: one for each of the points"),
    ),
    "points weight negative": (
        {"target": POINTS + "weights = [1.5, -0.5]"},
        "target.weights[1]",
        ("-0.5", ">= 0"),
    ),
    "points weights a number": (
        {"target": POINTS + "weights = 3"},
        "target.weights",
        ("found 3", "name of a file"),
    ),
    "point outside": (
        {"target": POINTS.replace("0.7", "1.7")},
        "target.points[1]",
        ("found [1.7, 0.2]", "a point of the domain"),
    ),
    "points of two dimensions": (
        {"target": POINTS.replace("0.7, 0.2", "0.7, 0.2, 0.1")},
        "target.points[1]",
        ("2 numbers as in points[0]",),
    ),
    # ray-monotone pairs
    "pair missing": ({"target": 'kind = "ray-monotone"'}, "target.pair", (".json", "half_width")),
    "pair file not there": (
        {"target": 'kind = "ray-monotone"\npair = "no.json"'},
        "target.pair",
        ("no such file", "no.json"),
    ),
    "pair a number": ({"target": 'kind = "ray-monotone"\npair = 3'}, "target.pair", ("found 3",)),
    "pair incomplete": (
        {"target": PAIR.replace(", biases = [0.0]", "")},
        "target.pair.biases",
        ("found nothing", "one per center"),
    ),
    "pair unknown key": (
        {"target": PAIR.replace("biases", "bias")},
        "target.pair.bias",
        ("unknown key", 'did you mean "biases"?'),
    ),
    "pair power": (
        {"target": PAIR.replace("power = 4", "power = 0.5")},
        "target.pair.power",
        ("found 0.5;", ">= 1"),
    ),
    "pair biases": (
        {"target": PAIR.replace("[0.0]", "[0.0, 0.1]")},
        "target.pair.biases",
        ("2 numbers", "1: one per center"),
    ),
    "pair center outside": (
        {"target": PAIR.replace("[[0.1", "[[1.0")},
        "target.pair.centers[0]",
        ("[1.0, 0.2]", "half_width = 1.0"),
    ),
    "pair role": (
        {"target": PAIR + 'role = "sauce"'},
        "target.role",
        ('"sauce"', 'did you mean "source"?', '"source" or "target"'),
    ),
    # penalty, solver, output
    "strength zero": ({"penalty": "strength = 0"}, "penalty.strength", ("found 0", "> 0 or inf")),
    "strength nan": ({"penalty": "strength = nan"}, "penalty.strength", ("found nan", "or inf")),
    "strength text": ({"penalty": 'strength = "inf"'}, "penalty.strength", ('found "inf"',)),
    "strength bool": ({"penalty": "strength = true"}, "penalty.strength", ("found true",)),
    "strength misspelt": (
        {"penalty": "strenght = 3"},
        "penalty.strenght",
        ('did you mean "strength"?',),
    ),
    "method misspelt": (
        {"solver": 'method = "augmented-lagrange"'},
        "solver.method",
        ('did you mean "augmented-lagrangian"?', 'allowed: "newton" or "augmented-lagrangian"'),
    ),
    "method wrong": ({"solver": 'method = "newto"'}, "solver.method", ('did you mean "newton"?',)),
    "gap zero": ({"solver": "relative_gap = 0"}, "solver.relative_gap", ("0", "a number > 0")),
    "gap inf": ({"solver": "relative_gap = inf"}, "solver.relative_gap", ("inf", "a number > 0")),
    "refine wrong": (
        {"solver": 'refine = "unifrom"'},
        "solver.refine",
        ('did you mean "uniform"?', '"uniform" or "none" or "adaptive"'),
    ),
    "max_cells text": ({"solver": 'max_cells = "9"'}, "solver.max_cells", ('"9"', "integer")),
    "max_seconds": ({"solver": "max_seconds = -1"}, "solver.max_seconds", ("-1", "> 0")),
    "lower_bound": ({"solver": 'lower_bound = "p3"'}, "solver.lower_bound", ('"p3"', '"p2"')),
    "scope": ({"solver": 'scope = "continum"'}, "solver.scope", ('did you mean "continuum"?',)),
    "scope and p2": (
        {"solver": 'scope = "continuum"\nlower_bound = "p2"'},
        "solver.scope",
        ('"continuum"', 'lower_bound = "auto" or "p1"'),
    ),
    "petsc list": ({"solver": "petsc = {ksp_rtol = [1]}"}, "solver.petsc.ksp_rtol", ("[1]",)),
    "formats word": (
        {"output": 'formats = ["vtu", "xmdf"]'},
        "output.formats[1]",
        ('"xmdf"', 'did you mean "xdmf"?'),
    ),
    "formats text": ({"output": 'formats = "vtu"'}, "output.formats", ('"vtu"', "a list of")),
    "overview": ({"output": "overview = 1"}, "output.overview", ("found 1", "true or false")),
}


@pytest.mark.parametrize(("changes", "key", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake(
    tmp_path: Path, changes: dict[str, str | None], key: str, words: tuple[str, ...]
) -> None:
    """Every mistake is named with its key, what was found and what is allowed."""
    head = changes.get("head") or ""
    file = write_problem(
        tmp_path, head=head, **{name: body for name, body in changes.items() if name != "head"}
    )
    message = message_of(file)
    assert message.startswith(f"{key}: found ")
    assert "allowed: " in message
    for word in words:
        assert word in message
