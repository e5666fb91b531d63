"""The command line as its users meet it: exit status, stdout, stderr, files."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from congested.cli import main
from congested.version import __version__
from tests.problem_texts import two_gaussians

SMALL = two_gaussians("Small", 6, "relative_gap = 0.2")

# Four samples leave most of both measures where the weight vanishes.
INFEASIBLE = """
[domain]
kind = "box"
lower = [0, 0]
upper = [1, 1]
cells = 8
[source]
kind = "uniform"
shape = "ball"
center = [0.3, 0.3]
radius = 0.2
[target]
kind = "uniform"
shape = "box"
lower = [0.6, 0.6]
upper = [0.9, 0.9]
[weight]
kind = "interpolates"
samples = 4
"""


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(SMALL, encoding="utf-8")
    return file


def command(*arguments: str | Path, ranks: int | None = None) -> list[str]:
    start = [] if ranks is None else ["mpirun", "-n", str(ranks)]
    return [*start, sys.executable, "-m", "congested.cli", *map(str, arguments)]


def run(*arguments: str | Path, ranks: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, ranks=ranks), capture_output=True, text=True, timeout=200, check=False
    )


def result_of(directory: Path) -> dict:
    return json.loads((directory / "result.json").read_text(encoding="utf-8"))


def own_lines(stderr: str) -> list[str]:
    """Lines of this program; mpirun adds its own when a rank has an exit status."""
    return [line for line in stderr.splitlines() if line.startswith(("error:", "stopped:"))]


# --- 0: done --------------------------------------------------------------------------------


def test_done(problem: Path, tmp_path: Path) -> None:
    done = run("solve", problem, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "out")
    assert result["status"] == "converged"
    assert result["bounds"]["relative_gap"] <= 0.2
    assert (tmp_path / "out" / "solution.npz").exists()

    table = dict(re.findall(r"^ *(\S.*?)  +(\S.*?) *$", done.stdout, re.MULTILINE))
    assert done.stdout.startswith("Small")
    assert table["status"] == "converged"
    assert float(table["cost (strength 10)"]) == pytest.approx(result["values"]["cost"], rel=1e-7)
    lower, upper = re.match(r"(\S+) \.\. (\S+) \(cell-data\)", table["certified bounds"]).groups()
    assert float(lower) == pytest.approx(result["bounds"]["lower"], rel=1e-7)
    assert float(upper) == pytest.approx(result["bounds"]["upper"], rel=1e-7)
    gap = result["bounds"]["relative_gap"]
    assert float(table["relative gap"]) == pytest.approx(gap, rel=1e-2)
    for name, key in (
        ("critic loss L", "critic_loss"),
        ("penalty P", "penalty"),
        ("momentum ∫|m|", "momentum_l1"),
    ):
        assert float(table[name]) == pytest.approx(result["values"][key], rel=1e-5)
    assert table["cells"].startswith(f"{result['mesh']['cells']:,} ")
    assert float(table["seconds"].split()[0]) == pytest.approx(
        result["seconds"]["total"], abs=0.051
    )
    assert table["files"] == f"{tmp_path / 'out'}/"

    assert "\x1b" not in done.stdout + done.stderr  # no colour in a pipe
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "Traceback" not in done.stderr


def test_flags_override_the_file(problem: Path, tmp_path: Path) -> None:
    flags = "--penalty 3 --relative-gap 0.5 --method newton --refine none --max-cells 1e4 "
    flags += "--max-seconds 100 --lower-bound p1 --scope continuum --formats vtu,xdmf "
    flags += "--no-overview -v --petsc -ksp_rtol 1e-9 -ksp_converged_reason"
    done = run("solve", problem, "-o", tmp_path / "out", *flags.split())
    assert done.returncode == 0, done.stderr
    effective = result_of(tmp_path / "out")["problem"]
    assert effective["penalty"] == {"strength": 3.0}
    assert effective["solver"] == {
        "method": "newton",
        "relative_gap": 0.5,
        "refine": "none",
        "max_cells": 10000,
        "max_seconds": 100.0,
        "lower_bound": "p1",
        "scope": "continuum",
        "petsc": {"ksp_rtol": "1e-9", "ksp_converged_reason": ""},
    }
    assert effective["output"] == {"formats": ["vtu", "xdmf"], "overview": False}
    names = {file.suffix for file in (tmp_path / "out").iterdir()}
    assert {".pvd", ".xdmf"} <= names
    assert not (tmp_path / "out" / "overview.png").exists()


def test_the_result_directory_can_be_solved_again_in_place(problem: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("solve", problem, "-o", out, "-q", "--penalty", "3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # quiet is silent
    first, text = result_of(out), (out / "problem.toml").read_bytes()
    assert first["problem"]["penalty"] == {"strength": 3.0}
    assert run("solve", out / "problem.toml", "-o", out, "-q").returncode == 0
    assert (out / "problem.toml").read_bytes() == text
    again = result_of(out)
    assert again["problem"] == first["problem"]
    assert again["bounds"]["upper"] == pytest.approx(first["bounds"]["upper"], rel=1e-9)


def test_picture_is_drawn_and_drawn_again(problem: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("solve", problem, "-o", out, "--overview", "-q").returncode == 0
    picture = out / "overview.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.unlink()
    done = run("plot", out)
    assert (done.returncode, done.stderr) == (0, "")
    # A long path is folded.
    assert str(picture) in "".join(done.stdout.split())
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_progress_bar_on_a_terminal(problem: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("solve", problem, "-o", tmp_path / "out", "--relative-gap", "0.02"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "160"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux ends a pseudo-terminal this way
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    text = shown.decode()
    assert re.search(r"level \d, [\d,]+ cells, \S+ <= cost <= \S+, gap \S+ -> 2\.0e-02", text)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor comes back
    assert b"\x1b" not in out


# --- 2: the input is wrong ------------------------------------------------------------------


def test_mistake_in_the_file(problem: Path, tmp_path: Path) -> None:
    problem.write_text(SMALL.replace("means = [[0.65", "meens = [[0.65"), encoding="utf-8")
    done = run("solve", problem, "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f'error: {problem}: target.meens: found an unknown key (did you mean "means"?); '
        "allowed: only kind, means, stds, covariances, weights\n"
    )
    assert not (tmp_path / "out").exists()


def test_mistake_that_the_solver_finds_names_the_file(problem: Path, tmp_path: Path) -> None:
    problem.write_text(SMALL.replace("[[0.65, 0.6]]", "[[0.95, 0.6]]"), encoding="utf-8")
    done = run("solve", problem, "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {problem}: target: found ")
    assert "% of the mass outside the domain" in done.stderr
    assert done.stderr.count("\n") == 1


def test_scope_that_a_problem_does_not_have(tmp_path: Path) -> None:
    file = tmp_path / "ball.toml"
    file.write_text(INFEASIBLE, encoding="utf-8")
    done = run("solve", file, "-o", tmp_path / "out", "--scope", "continuum")
    assert done.returncode == 2
    assert own_lines(done.stderr) == [
        f'error: {file}: solver.scope: found "continuum", but no lower bound of the weight '
        "Interpolates is known inside the cells; there is one of constant weights, Gaussian "
        "mixtures, the interpolates of two of these with independent coupling, and mixtures of "
        'such weights; allowed here: "cell-data"'
    ]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/no"])
def test_output_that_cannot_be_written(problem: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    output = tmp_path / place  # an absolute place stays what it is
    done = run("solve", problem, "-o", output)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f'error: --output: found "{output}"')
    assert done.stderr.endswith("allowed: a directory that can be written\n")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("sovle p.toml", "invalid choice: 'sovle'"),
        ("solve", "the following arguments are required: PROBLEM.toml, -o/--output"),
        ("solve p.toml", "the following arguments are required: -o/--output"),
        ("solve p.toml -o d --frob", "unrecognized arguments: --frob"),
        ("solve p.toml -o d -q -v", "not allowed with"),
        (
            "solve p.toml -o d --relative-gap -1",
            'gap: found "-1"; allowed: a number > 0',
        ),
        ("solve p.toml -o d --relative-gap inf", '"inf"; allowed: a number > 0'),
        ("solve p.toml -o d --relative-gap nan", '"nan"; allowed: a number > 0'),
        ("solve p.toml -o d --relative-gap x", '--relative-gap: found "x"; allowed: a number > 0'),
        ("solve p.toml -o d --penalty 0", '--penalty: found "0"; allowed: a number > 0'),
        ("solve p.toml -o d --max-cells 2.5", '--max-cells: found "2.5"; allowed: an integer >= 1'),
        ("solve p.toml -o d --max-cells inf", 'found "inf"; allowed: an integer >= 1'),
        ("solve p.toml -o d --max-seconds 0", '--max-seconds: found "0"; allowed: a number > 0'),
        ("solve p.toml -o d --method alg2", '--method: found "alg2"; allowed: newton'),
        ("solve p.toml -o d --refine no", '"no"; allowed: uniform or none or adaptive'),
        ("solve p.toml -o d --lower-bound p3", '"p3"; allowed: auto or p1 or p2'),
        ("solve p.toml -o d --formats vtu,vtk", '"vtk"; allowed: vtu or xdmf or vtx'),
        ("solve p.toml -o d --petsc ksp_rtol 3", '--petsc: found "ksp_rtol"; allowed: PETSc opt'),
        ("solve p.toml -o d --petsc -ksp_rtol 3 4", '--petsc: found "4"; allowed: PETSc options'),
        ("plot", "the following arguments are required: DIR"),
    ],
)
def test_wrong_arguments(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err


def test_plot_without_a_result(tmp_path: Path) -> None:
    done = run("plot", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}")
    assert done.stderr.count("\n") == 1


# --- 3, 4, 130, 143 -------------------------------------------------------------------------


def test_stopped_before_the_gap(problem: Path, tmp_path: Path) -> None:
    done = run(
        "solve", problem, "-o", tmp_path / "out", "--refine", "none", "--relative-gap", "1e-9"
    )
    assert done.returncode == 3
    result = result_of(tmp_path / "out")
    assert result["status"] == "stopped"
    assert 1e-9 < result["bounds"]["relative_gap"] < 1.0
    assert (tmp_path / "out" / "solution.npz").exists()
    assert own_lines(done.stderr) == [f"stopped: {result['reason']}"]
    assert re.search(r"status +stopped", done.stdout)


def test_infeasible(tmp_path: Path) -> None:
    problem = tmp_path / "infeasible.toml"
    problem.write_text(INFEASIBLE, encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    (out / "solution.npz").write_bytes(b"of an earlier run")
    done = run("solve", problem, "-o", out)
    assert (done.returncode, done.stdout) == (4, "")
    result = result_of(out)
    assert result["status"] == "infeasible"
    assert result["bounds"] is None
    assert "lies in cells where the weight vanishes" in result["reason"]
    assert own_lines(done.stderr) == [f"error: {result['reason']}"]
    assert not (out / "solution.npz").exists()
    assert {
        "title",
        "values",
        "mesh",
        "dofs",
        "conservation",
        "solver",
        "seconds",
        "peak_memory_bytes",
        "environment",
        "problem",
    } <= result.keys()
    assert run("plot", out).returncode == 2


@pytest.mark.parametrize(
    ("number", "ranks", "status"),
    [
        (signal.SIGINT, None, 130),
        (signal.SIGTERM, None, 143),
        (signal.SIGUSR1, 2, 143),  # which mpirun passes on, unlike the other two
    ],
)
def test_signals(
    problem: Path, tmp_path: Path, number: signal.Signals, ranks: int | None, status: int
) -> None:
    """A signal ends the run after the next iteration, with the best so far written."""
    out = tmp_path / "out"
    with subprocess.Popen(
        command("solve", problem, "-o", out, "--relative-gap", "1e-9", ranks=ranks),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("level 0"):
                process.send_signal(number)
                break
        stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == status, stderr
    result = result_of(out)
    assert result["status"] == "stopped"
    assert f"stopped by {signal.Signals(status - 128).name}" in result["reason"]
    assert own_lines(stderr) == [f"stopped: {result['reason']}"]
    assert result["bounds"]["lower"] < result["bounds"]["upper"]
    assert (out / "solution.npz").exists()
    assert re.search(r"status +stopped", stdout)


# --- under MPI ------------------------------------------------------------------------------


def test_only_rank_0_speaks(problem: Path, tmp_path: Path) -> None:
    done = run("solve", problem, "-o", tmp_path / "out", ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("certified bounds") == 1
    assert done.stderr.count("level 0: ") == 1
    assert "\x1b" not in done.stdout
    assert result_of(tmp_path / "out")["environment"]["mpi_size"] == 2


@pytest.mark.parametrize("arguments", ["solve no.toml -o out", "solve"])
def test_wrong_input_under_mpi(arguments: str) -> None:
    done = run(*arguments.split(), ranks=2)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(own_lines(done.stderr)) == 1


def test_stopped_and_infeasible_under_mpi(problem: Path, tmp_path: Path) -> None:
    flags = ["--refine", "none", "--relative-gap", "1e-9"]
    done = run("solve", problem, "-o", tmp_path / "out", *flags, ranks=2)
    assert (done.returncode, len(own_lines(done.stderr))) == (3, 1)
    problem.write_text(INFEASIBLE, encoding="utf-8")
    done = run("solve", problem, "-o", tmp_path / "out", ranks=2)
    assert (done.returncode, len(own_lines(done.stderr))) == (4, 1)
    assert result_of(tmp_path / "out")["status"] == "infeasible"


# --- the other commands ---------------------------------------------------------------------


def test_info() -> None:
    done = run("info", ranks=2)
    assert done.returncode == 0
    rows = dict(re.findall(r"^ *(\S.*?)  +(\S.*?) *$", done.stdout, re.MULTILINE))
    assert rows["congested"] == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", rows["dolfinx"])
    assert re.fullmatch(r"3\.\d+\.\d+", rows["petsc"])
    assert rows["petsc scalars"] == "float64"
    assert {rows["hypre"], rows["mumps"], rows["adios2 (vtx files)"]} <= {"yes", "no"}
    assert rows["python"] == ".".join(map(str, sys.version_info[:3]))
    assert rows["ranks"] == "2"
    assert rows["mpi"]
    assert int(rows["cores for rank 0"]) >= 1
    assert rows["threads per rank"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"congested {__version__}\n"


@pytest.mark.parametrize("words", ["--help", "solve --help", "solve p.toml -o d --penalty x"])
def test_help_and_wrong_flags_come_without_the_finite_element_stack(words: str) -> None:
    code = (
        "import sys; from congested.cli import main\n"
        f"main({words.split()!r})\n"
        "slow = {'dolfinx', 'petsc4py', 'mpi4py', 'numba', 'scipy', 'pydantic'}\n"
        "raise SystemExit(f'imported {slow}' if (slow := slow & set(sys.modules)) else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", "--help"]) == 0
    text = capsys.readouterr().out
    flags = "--relative-gap --penalty --method --refine --max-cells --max-seconds --lower-bound "
    flags += "--formats --no-overview --verbose --quiet --petsc --output --resume"
    for flag in flags.split():
        assert flag in text
