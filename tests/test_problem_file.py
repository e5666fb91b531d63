"""Problem files: what is read, and the message of every mistake."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from congested.errors import InputError
from congested.problem_file import problem_text, read_problem

PROBLEMS = Path(__file__).parents[1] / "scripts" / "problems"

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


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    """The first mistake is the message, the others are counted."""
    file = write_problem(
        tmp_path,
        domain=BOX.replace("lower", "lowr"),
        source=GAUSSIAN.replace("0.08", "-0.08").replace("0.06", '"a"'),
        penalty="strength = 0",
    )
    message = message_of(file)
    assert message.startswith('domain.lowr: found an unknown key (did you mean "lower"?)')
    assert message.endswith("(and 3 more mistakes)")


def test_long_values_are_shortened(tmp_path: Path) -> None:
    """A wrong value is shown on one short line."""
    file = write_problem(tmp_path, domain=f'kind = "box\\n{"x" * 500}"')
    message = message_of(file)
    assert message.startswith('domain.kind: found "box\\nxxx')
    assert len(message) < 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title = 1\n[domain\n", "line 2: found a mistake of TOML syntax"),
        ("[domain]\nkind = box\n", "line 2: found a mistake of TOML syntax (Invalid value)"),
        ("[domain]\n[domain]\n", "line 2: "),
        ('title = """\n\n', "line 2: "),
    ],
)
def test_syntax(tmp_path: Path, text: str, words: str) -> None:
    """A mistake of syntax is named with its line."""
    file = tmp_path / "problem.toml"
    file.write_text(text, encoding="utf-8")
    assert message_of(file).startswith(words)


def test_not_utf8(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are named."""
    file = tmp_path / "problem.toml"
    file.write_bytes(b'title = "\xff"\n')
    assert message_of(file) == "found bytes that are not UTF-8 at byte 9; allowed: TOML in UTF-8"


def test_no_such_problem_file(tmp_path: Path) -> None:
    """A file that is not there, or a directory, is named."""
    assert "no such file" in message_of(tmp_path / "no.toml")
    assert "cannot be read (Is a directory)" in message_of(tmp_path)


def test_mistakes_are_found_without_the_finite_element_stack(tmp_path: Path) -> None:
    """A mistake is reported before DOLFINx, PETSc or Numba are imported."""
    file = write_problem(tmp_path, penalty="strength = 0")
    code = (
        "import sys\n"
        "from congested.errors import InputError\n"
        "from congested.problem_file import read_problem\n"
        f"try: read_problem({str(file)!r})\n"
        "except InputError: pass\n"
        "else: raise SystemExit('no mistake found')\n"
        "slow = {'dolfinx', 'petsc4py', 'numba', 'mpi4py', 'scipy'} & set(sys.modules)\n"
        "raise SystemExit(f'imported {slow}' if slow else 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


# --- what is read ---------------------------------------------------------------------------


def test_defaults(tmp_path: Path) -> None:
    """Tables and keys that may be left out have the documented defaults."""
    problem = read_problem(write_problem(tmp_path))
    assert problem.title == ""
    assert problem.strength == 10.0
    assert problem.domain.cells == 32
    assert type(problem.weight).__name__ == "Interpolates"
    assert (problem.weight.coupling, problem.weight.samples, problem.weight.seed) == (
        "independent",
        None,
        0,
    )
    assert problem.solver.method == "newton"
    assert problem.solver.relative_gap == 1e-3
    assert problem.solver.refine == "uniform"
    assert problem.solver.max_cells == 2_000_000
    assert problem.solver.max_seconds is None
    assert problem.output.formats == ("vtu",)
    assert problem.output.overview is True


def test_every_value_arrives(tmp_path: Path) -> None:
    """What the file says is what the problem holds."""
    problem = read_problem(
        write_problem(
            tmp_path,
            head='title = "λ = ∞"\n',
            domain=BOX + "cells = 7",
            source=GAUSSIAN + "weights = [0.25, 0.75]",
            target=UNIFORM_BOX,
            weight='kind = "interpolates"\nsamples = 1000\nseed = 5',
            penalty="strength = inf",
            solver='relative_gap = 1\nrefine = "none"\nmax_cells = 9\nmax_seconds = 2\n'
            'lower_bound = "p1"\nscope = "continuum"\n'
            'petsc = {ksp_rtol = 1e-9, pc_type = "lu", ksp_monitor = true}',
            output='formats = ["xdmf", "vtu"]\noverview = false',
        )
    )
    assert problem.title == "λ = ∞"
    assert (problem.domain.lower, problem.domain.upper) == ((0.0, 0.0), (1.0, 1.0))
    assert problem.domain.cells == 7
    np.testing.assert_array_equal(problem.source.means, [[0.3, 0.4], [0.6, 0.4]])
    np.testing.assert_allclose(
        problem.source.covariances, [0.08**2 * np.eye(2), 0.06**2 * np.eye(2)], rtol=1e-15
    )
    np.testing.assert_array_equal(problem.source.weights, [0.25, 0.75])
    np.testing.assert_array_equal(problem.target.lower, [0.2, 0.2])
    np.testing.assert_array_equal(problem.target.upper, [0.4, 0.4])
    assert (problem.weight.samples, problem.weight.seed) == (1000, 5)
    assert problem.strength == math.inf
    assert problem.solver.relative_gap == 1.0
    assert (problem.solver.refine, problem.solver.max_cells) == ("none", 9)
    assert (problem.solver.max_seconds, problem.solver.lower_bound) == (2.0, "p1")
    assert problem.solver.scope == "continuum"
    assert problem.solver.petsc == {"ksp_rtol": 1e-9, "pc_type": "lu", "ksp_monitor": "true"}
    assert problem.output.formats == ("xdmf", "vtu")
    assert problem.output.overview is False


def test_one_std_for_all(tmp_path: Path) -> None:
    """One number stands for the standard deviation of every component."""
    problem = read_problem(write_problem(tmp_path, source=GAUSSIAN.replace("[0.08, 0.06]", "0.05")))
    np.testing.assert_allclose(problem.source.covariances, [0.05**2 * np.eye(2)] * 2, rtol=1e-15)
    assert problem.description["source"]["stds"] == [0.05, 0.05]


def test_covariances(tmp_path: Path) -> None:
    """Covariances are taken as they are."""
    body = GAUSSIAN.replace(
        "stds = [0.08, 0.06]", "covariances = [[[0.02, 0.01], [0.01, 0.03]], [[1, 0], [0, 1]]]"
    )
    problem = read_problem(write_problem(tmp_path, source=body.replace("0.3, 0.4", "0.5, 0.5")))
    np.testing.assert_array_equal(
        problem.source.covariances, [[[0.02, 0.01], [0.01, 0.03]], [[1, 0], [0, 1]]]
    )


def test_points_inline_and_from_file_agree(tmp_path: Path) -> None:
    """Points and weights come from the file or from a list; paths start at the problem file."""
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "points.npy", [[0.5, 0.5], [0.7, 0.2]])
    inline = read_problem(write_problem(tmp_path, target=POINTS + "weights = [0.25, 0.75]"))
    body = 'kind = "points"\nfile = "data/points.npy"\nweights = [0.25, 0.75]'
    read = read_problem(write_problem(tmp_path, target=body))
    np.testing.assert_array_equal(inline.target.points, read.target.points)
    np.testing.assert_array_equal(inline.target.weights, [0.25, 0.75])
    np.testing.assert_array_equal(read.target.weights, [0.25, 0.75])
    assert read.description["target"]["file"] == str(tmp_path / "data" / "points.npy")


def test_points_of_a_file_outside(tmp_path: Path) -> None:
    """Points of a file that lie outside a box are named with the key of the file."""
    np.save(tmp_path / "points.npy", [[0.5, 0.5], [0.7, 1.2]])
    file = write_problem(tmp_path, target='kind = "points"\nfile = "points.npy"')
    message = message_of(file)
    assert message.startswith("target.file: found 1 points outside the domain, first number 1 ")
    assert "[0.7, 1.2]" in message


def test_points_of_a_file_in_3d(tmp_path: Path) -> None:
    """Points of a file with another dimension than the domain are a mistake."""
    np.save(tmp_path / "points.npy", [[0.5, 0.5, 0.5]])
    file = write_problem(tmp_path, target='kind = "points"\nfile = "points.npy"')
    message = message_of(file)
    assert message.startswith("target.file: ")
    assert message.endswith("points.npy: found 3 columns; allowed: 2")


def test_broken_points_file(tmp_path: Path) -> None:
    """A file of points that cannot be read is named with its key."""
    (tmp_path / "points.csv").write_text("0.5, 0.5\n0.5, nonsense\n", encoding="utf-8")
    file = write_problem(tmp_path, target='kind = "points"\nfile = "points.csv"')
    message = message_of(file)
    assert message.startswith("target.file: ")
    assert "points.csv" in message


def test_broken_weights_file(tmp_path: Path) -> None:
    """A file of weights that does not fit is named with its own key."""
    np.save(tmp_path / "points.npy", [[0.5, 0.5], [0.2, 0.2]])
    np.save(tmp_path / "weights.npy", [0.5, 0.25, 0.25])
    body = 'kind = "points"\nfile = "points.npy"\nweights = "weights.npy"'
    message = message_of(write_problem(tmp_path, target=body))
    assert message.startswith(f"target.weights: {tmp_path / 'weights.npy'}: found an array")
    np.save(tmp_path / "weights.npy", [0.25, 0.75])
    problem = read_problem(write_problem(tmp_path, target=body))
    np.testing.assert_array_equal(problem.target.weights, [0.25, 0.75])


def test_broken_pair_file(tmp_path: Path) -> None:
    """A file of a pair that is not one is named with its key."""
    (tmp_path / "pair.json").write_text('{"power": 3}', encoding="utf-8")
    file = write_problem(tmp_path, source='kind = "ray-monotone"\npair = "pair.json"')
    message = message_of(file)
    assert message.startswith(f"source.pair: {tmp_path / 'pair.json'}: found ")


def test_a_pair_without_a_mesh_of_its_dimension_is_refused(tmp_path: Path) -> None:
    """Pairs exist in any dimension, problem files in two."""
    pair = {"half_width": 1.0, "power": 4, "centers": [[0.1] * 5], "biases": [0.0]}
    (tmp_path / "pair.json").write_text(json.dumps(pair), encoding="utf-8")
    box = 'kind = "box"\nlower = [-1, -1]\nupper = [1, 1]'
    body = 'kind = "ray-monotone"\npair = "pair.json"\n'
    message = message_of(write_problem(tmp_path, domain=box, source=body, target=PAIR))
    expected = (
        f"source.pair: {tmp_path / 'pair.json'}: centers: found 5 coordinates; allowed: 2 or 3"
    )
    assert message == expected


def test_ray_monotone_pair(tmp_path: Path) -> None:
    """A pair is inline or a file, and the role is by default that of the table."""
    box = 'kind = "box"\nlower = [-1, -1]\nupper = [1, 1]'
    inline = read_problem(write_problem(tmp_path, domain=box, source=PAIR, target=PAIR))
    assert type(inline.source).__name__ == "RayMonotoneSource"
    assert type(inline.target).__name__ == "UniformBox"
    np.testing.assert_array_equal(inline.target.lower, [-1.0, -1.0])
    assert inline.description["source"]["role"] == "source"
    assert inline.description["target"]["role"] == "target"

    pair = {"half_width": 1.0, "power": 4, "centers": [[0.1, 0.2]], "biases": [0.0]}
    (tmp_path / "pair.json").write_text(json.dumps(pair), encoding="utf-8")
    body = 'kind = "ray-monotone"\npair = "pair.json"\n'
    read = read_problem(
        write_problem(tmp_path, domain=box, source=body + 'role = "target"', target=PAIR)
    )
    assert type(read.source).__name__ == "UniformBox"
    np.testing.assert_array_equal(read.source.upper, [1.0, 1.0])


def test_constant_weight(tmp_path: Path) -> None:
    """A constant weight has its density, or none: then it is that of the domain."""
    problem = read_problem(write_problem(tmp_path, weight='kind = "constant"\ndensity = 2'))
    assert problem.weight.density == 2.0
    problem = read_problem(write_problem(tmp_path, weight='kind = "constant"'))
    assert problem.weight.density is None


def test_adaptive_refinement(tmp_path: Path) -> None:
    problem = read_problem(write_problem(tmp_path, solver='refine = "adaptive"'))
    assert problem.solver.refine == "adaptive"
    assert problem.description["solver"]["refine"] == "adaptive"


def test_description_is_json_and_effective(tmp_path: Path) -> None:
    """The description has the defaults, floats, and no number that JSON cannot hold."""
    problem = read_problem(write_problem(tmp_path, penalty="strength = inf"))
    description = problem.description
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    assert description["penalty"] == {"strength": "inf"}
    assert description["domain"] == {
        "kind": "box",
        "lower": [0.0, 0.0],
        "upper": [1.0, 1.0],
        "cells": 32,
    }
    assert description["source"]["weights"] == [0.5, 0.5]
    assert description["weight"] == {
        "kind": "interpolates",
        "coupling": "independent",
        "rule": "auto",
        "seed": 0,
    }
    assert description["solver"]["relative_gap"] == 1e-3
    assert description["output"] == {"formats": ["vtu"], "overview": True}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"penalty": "strength = inf", "head": 'title = "a \\"quoted\\" \\\\ λ\\u007f"\n'},
        {"target": POINTS + "weights = [0.25, 0.75]", "weight": 'kind = "constant"'},
        {"domain": 'kind = "box"\nlower = [-1, -1]\nupper = [1, 1]', "source": PAIR},
        {"solver": 'petsc = {"ksp_rtol" = 1e-10, pc_type = "gamg", ksp_monitor = true}'},
    ],
)
def test_text_reads_as_the_same_problem(tmp_path: Path, changes: dict[str, str]) -> None:
    """The effective problem written as a file elsewhere is the same problem."""
    problem = read_problem(write_problem(tmp_path, **changes))
    text = problem_text(problem)
    tomllib.loads(text)
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "problem.toml"
    copy.write_text(text, encoding="utf-8")
    assert read_problem(copy).description == problem.description


@pytest.mark.parametrize("file", sorted(PROBLEMS.glob("*.toml")), ids=lambda file: file.stem)
def test_the_problems_of_the_package(file: Path) -> None:
    """The problem files that come with the package are right, and have a title."""
    problem = read_problem(file)
    assert problem.title
    assert problem.description["domain"]["kind"] in ("box", "mesh")


def test_the_problems_of_the_package_are_there() -> None:
    """None of them was lost."""
    names = {file.stem for file in PROBLEMS.glob("*.toml")}
    expected = {"two_gaussians", "concentric_gaussians", "concentric_gaussians_3d", "points"}
    assert expected | {"l_shape", "letter", "disc_field"} <= names
