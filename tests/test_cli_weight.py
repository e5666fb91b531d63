"""The command ``congested weight`` as its users meet it: exit status, stdout, stderr, files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from congested.cli import main

ROOT = Path(__file__).parents[1]
SMALL = """
title = "Small"
[domain]
kind = "box"
lower = [0, 0]
upper = [1, 1]
cells = 6
[source]
kind = "gaussian-mixture"
means = [[0.35, 0.4]]
stds = 0.1
[target]
kind = "points"
points = [[0.75, 0.6], [0.6, 0.75]]
[output]
overview = false
"""
L_SHAPE = f"""
[domain]
kind = "mesh"
file = "{ROOT / "meshes" / "l_shape.msh"}"
[source]
kind = "points"
points = [[0.8, 0.3]]
[target]
kind = "points"
points = [[0.3, 0.8]]
[output]
overview = false
"""


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(SMALL, encoding="utf-8")
    return file


def run(*arguments: str | Path, ranks: int | None = None) -> subprocess.CompletedProcess[str]:
    start = [] if ranks is None else ["mpirun", "-n", str(ranks)]
    command = [*start, sys.executable, "-m", "congested.cli", "weight", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def here(*arguments: str | Path) -> int:
    """Run in this process, which is much faster."""
    return main(["weight", *map(str, arguments)])


def content_of(directory: Path) -> dict:
    return json.loads((directory / "weight.json").read_text(encoding="utf-8"))


def rows_of(stdout: str) -> dict[str, str]:
    return dict(re.findall(r"^ *(\S.*?)  +(\S.*?) *$", stdout, re.MULTILINE))


# --- 0: done --------------------------------------------------------------------------------


def test_done(problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert here(problem, "-o", out, "--samples", "4096", "--overview") == 0
    done = capsys.readouterr()
    assert done.err == ""
    content = content_of(out)
    # What design.md promises, and more.
    assert {"mass", "min", "max", "relative_error", "method", "seconds"} <= content.keys()
    with np.load(out / "weight.npz") as stored:
        assert {"vertices", "cells", "weight"} <= set(stored)
        assert stored["weight"].shape == stored["cell_volume"].shape == (144,)
        assert stored["weight"] @ stored["cell_volume"] == pytest.approx(content["mass"])
    assert (out / "weight.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "weight.vtu").exists()

    assert done.out.startswith("Small")
    table = rows_of(done.out)
    assert float(table["mass"]) == pytest.approx(content["mass"], rel=1e-7)
    assert float(table["lost outside"].split()[0]) == pytest.approx(content["lost"], rel=0.06)
    assert float(table["least density"]) == content["min"] == 0.0
    assert float(table["greatest density"]) == pytest.approx(content["max"], rel=1e-5)
    assert float(table["relative error"]) == pytest.approx(content["relative_error"], rel=0.06)
    assert table["method"] == content["method"] == "sampled"
    assert (table["segments"], content["samples"]) == ("4,096", 4096)
    assert (table["cells"], content["mesh"]["cells"]) == ("144", 144)
    assert float(table["seconds"]) == pytest.approx(content["seconds"], abs=0.051)
    assert table["files"] == f"{out}/"
    assert max(map(len, done.out.splitlines())) <= 100


def test_flags_override_the_file(problem: Path, tmp_path: Path) -> None:
    flags = "--cells 3 --refine 1 --rule segments --samples 2e3 --tolerance 0.5 --seed 7 -q"
    assert here(problem, "-o", tmp_path / "out", *flags.split()) == 0
    content = content_of(tmp_path / "out")
    assert content["problem"]["domain"]["cells"] == 3
    assert content["mesh"]["cells"] == 4 * 36
    assert content["problem"]["weight"] == {
        "kind": "interpolates",
        "coupling": "independent",
        "rule": "segments",
        "samples": 2000,
        "seed": 7,
        "tolerance": 0.5,
    }
    assert content["samples"] == 2048  # up to the next power of two


def test_flags_reach_the_lines_in_a_mixture_and_leave_the_rest(
    problem: Path, tmp_path: Path
) -> None:
    parts = '{share = 0.75, kind = "interpolates", seed = 3}, {share = 0.25, kind = "source"}'
    with problem.open("a", encoding="utf-8") as file:
        file.write(f'[weight]\nkind = "mixture"\nparts = [{parts}]\n')
    assert here(problem, "-o", tmp_path / "out", "--samples", "512", "-q") == 0
    content = content_of(tmp_path / "out")
    lines, end = content["problem"]["weight"]["parts"]
    assert (lines["share"], lines["samples"], lines["seed"]) == (0.75, 512, 3)
    assert end == {"share": 0.25, "kind": "source"}
    assert content["method"] == "mixture"
    assert [part["method"] for part in content["details"]["parts"]] == ["sampled", "measure"]


def test_quiet_is_silent_and_a_second_weight_replaces_the_first(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text("of a solve")
    assert here(problem, "-o", out, "-q", "--overview", "--samples", "64") == 0
    first = content_of(out)
    assert here(problem, "-o", out, "-q", "--samples", "128") == 0
    assert capsys.readouterr() == ("", "")
    assert (first["samples"], content_of(out)["samples"]) == (64, 128)
    names = {path.name for path in out.iterdir()}
    assert names == {"result.json", "weight.json", "weight.npz", "weight.pvd", "weight.vtu"}
    assert (out / "result.json").read_text() == "of a solve"


def test_lost_weight_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fifth of the only line is outside, see tests/test_mesh_masses.py."""
    file, out = tmp_path / "l.toml", tmp_path / "out"
    file.write_text(L_SHAPE, encoding="utf-8")
    assert here(file, "-o", out, "--refine", "2") == 0
    done = capsys.readouterr()
    lost = content_of(out)["lost"]
    assert lost == pytest.approx(0.2, abs=0.01)
    assert done.err == (
        f"{100 * lost:.3g} % of the weight is lost outside the domain: lines from source to target "
        "leave the domain, which is not convex; the rest is not scaled up\n"
    )
    assert f"({lost:.2%})" in rows_of(done.out)["lost outside"]
    assert here(file, "-o", out, "-q") == 0
    assert capsys.readouterr() == ("", "")


# --- 2: the input is wrong ------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return the only line that a wrong command says."""
    assert here(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("error: ").rstrip("\n")


def test_a_mistake_in_the_file(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with problem.open("a", encoding="utf-8") as file:
        file.write('[weight]\nkind = "field"\nfile = "no.vtu"\n')
    assert said(capsys, problem, "-o", tmp_path / "out") == (
        f'{problem}: weight.file: found "no.vtu", no such file: {tmp_path / "no.vtu"}; allowed: an '
        "existing file"
    )
    assert not (tmp_path / "out").exists()


def test_flags_that_do_not_go_with_the_file(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert said(capsys, problem, "-o", out, "--rule", "closed-form") == (
        '--rule: found "closed-form", which is not available for GaussianMixture and Points in '
        '2D; allowed: "auto" or "rays" or "segments"'
    )
    found = said(capsys, problem, "-o", out, "--refine", "12")
    assert found.startswith("--refine: found 12, which makes 2415919104 cells; allowed: ")
    with problem.open("a", encoding="utf-8") as file:
        file.write('[weight]\nkind = "source"\n')
    assert said(capsys, problem, "-o", out, "--seed", "0") == (
        "--seed: found 0 for a weight without lines from source to target; allowed: nothing here"
    )
    mixture = '[weight]\nkind = "mixture"\nparts = [{share = 1.0, kind = "constant"}]\n'
    problem.write_text(SMALL + mixture, encoding="utf-8")
    found = said(capsys, problem, "-o", out, "--rule", "auto")
    assert found.startswith("--rule: found auto for a weight without lines from source to target")
    problem.write_text(L_SHAPE, encoding="utf-8")
    assert said(capsys, problem, "-o", out, "--cells", "4") == (
        "--cells: found 4 for a domain that is a mesh file; allowed: only for boxes, see --refine"
    )


def test_what_is_not_available_names_the_file(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with problem.open("a", encoding="utf-8") as file:
        file.write('[weight]\nkind = "interpolates"\nrule = "closed-form"\n')
    found = said(capsys, problem, "-o", tmp_path / "out")
    assert found.startswith(f'{problem}: weight.rule: found "closed-form", which is not available')
    # An earlier weight would have been taken for this one.
    assert not (tmp_path / "out" / "weight.json").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "the following arguments are required: PROBLEM.toml, -o/--output"),
        ("p.toml -o d --cells 0", '--cells: found "0"; allowed: an integer >= 1'),
        ("p.toml -o d --cells 2.5", '--cells: found "2.5"; allowed: an integer >= 1'),
        ("p.toml -o d --refine -1", '--refine: found "-1"; allowed: an integer >= 0'),
        ("p.toml -o d --refine x", '--refine: found "x"; allowed: an integer >= 0'),
        ("p.toml -o d --rule ray", '--rule: found "ray"; allowed: auto or closed-form or rays or '),
        ("p.toml -o d --samples 0", '--samples: found "0"; allowed: an integer >= 1'),
        ("p.toml -o d --seed -1", '--seed: found "-1"; allowed: an integer >= 0'),
        ("p.toml -o d --tolerance 1", '--tolerance: found "1"; allowed: a number from 1e-13 to 1'),
        ("p.toml -o d --tolerance nan", '--tolerance: found "nan"; allowed: a number from 1e-13'),
        ("p.toml -o d --tolerance x", '--tolerance: found "x"; allowed: a number from 1e-13'),
        ("p.toml -o d --penalty 3", "unrecognized arguments: --penalty 3"),
        ("p.toml -o d -q -v", "not allowed with"),
    ],
)
def test_wrong_arguments(flags: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in said(capsys, *flags.split())


def test_output_that_cannot_be_written(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, problem, "-o", problem)
    assert found.startswith(f'--output: found "{problem}", which is a file; allowed: ')
    assert problem.read_text(encoding="utf-8") == SMALL


def test_an_earlier_weight_is_not_left_beside_a_failure(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert here(problem, "-o", out, "-q", "--samples", "64") == 0
    problem.write_text(SMALL.replace("[[0.35, 0.4]]", "[[0.05, 0.4]]"), encoding="utf-8")
    assert "% of the mass outside the domain" in said(capsys, problem, "-o", out)
    assert not (out / "weight.json").exists()


# --- help, ranks ----------------------------------------------------------------------------


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("--help") == 0
    text = capsys.readouterr().out
    flags = "--output --cells --refine --rule --samples --tolerance --seed --no-overview "
    flags += "--verbose --quiet"
    for flag in flags.split():
        assert flag in text
    assert main(["--help"]) == 0
    assert re.search(r"^ +weight +compute the weight", capsys.readouterr().out, re.MULTILINE)


def test_help_and_wrong_flags_come_without_the_finite_element_stack() -> None:
    code = (
        "import sys; from congested.cli import main\n"
        "main(['weight', '--help']); main(['weight', 'p.toml', '-o', 'd', '--rule', 'x'])\n"
        "slow = {'dolfinx', 'petsc4py', 'mpi4py', 'numba', 'scipy', 'pydantic'}\n"
        "raise SystemExit(f'imported {slow}' if (slow := slow & set(sys.modules)) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ranks_write_the_same_weight_and_only_one_speaks(problem: Path, tmp_path: Path) -> None:
    assert here(problem, "-o", tmp_path / "one", "-q", "--samples", "1024") == 0
    done = run(problem, "-o", tmp_path / "two", "--samples", "1024", ranks=2)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("least density") == 1
    one, two = (content_of(tmp_path / name) for name in ("one", "two"))
    assert two["environment"]["mpi_size"] == 2
    for key in ("mass", "lost", "min", "max", "relative_error"):
        assert two[key] == pytest.approx(one[key], rel=1e-9, abs=1e-12)
    for key in ("mesh", "samples", "method", "problem"):
        assert two[key] == one[key]

    def sorted_rows(name: str) -> np.ndarray:
        with np.load(tmp_path / name / "weight.npz") as stored:
            middle = stored["vertices"][stored["cells"]].mean(axis=1)
            rows = np.column_stack(
                [middle, stored["weight"], stored["weight_standard_error"], stored["cell_volume"]]
            )
        return rows[np.lexsort(np.round(middle, 9).T[::-1])]

    np.testing.assert_allclose(sorted_rows("two"), sorted_rows("one"), rtol=1e-9, atol=1e-9)


def test_wrong_input_under_mpi(tmp_path: Path) -> None:
    done = run(tmp_path / "no.toml", "-o", tmp_path / "out", ranks=2)
    assert (done.returncode, done.stdout) == (2, "")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert lines == [f"error: {tmp_path / 'no.toml'}: found no such file; allowed: a problem file"]
    assert os.listdir(tmp_path) == []
