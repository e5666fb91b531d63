"""``congested solve --resume`` as its users meet it: killed, stopped, ended, damaged."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from congested.cli import main
from congested.nested_iteration import solve
from congested.problem_file import read_problem
from tests.problem_texts import two_gaussians

PROBLEM = two_gaussians("Kept", 12)
GOALS = {"uniform": "5e-4", "adaptive": "5e-4"}
# Data in a file, as relative paths have to hold wherever the run is resumed.
SOURCE = '[source]\nkind = "points"\nfile = "data/source.npy"\n[weight]\nkind = "constant"\n'


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    file = tmp_path / "kept.toml"
    file.write_text(PROBLEM, encoding="utf-8")
    return file


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "congested.cli", "solve", *map(str, arguments)]


def result_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "result.json").read_text(encoding="utf-8"))


def killed(arguments: list[str], chance: random.Random) -> bool:
    """Start a run and kill it at some moment; return whether it was still running."""
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # Most of the time goes into imports: most moments shall be after them.
        for _ in range(chance.randrange(3)):
            process.stderr.readline()
        time.sleep(chance.uniform(0.0, 0.3))
        process.kill()
        process.wait(timeout=60)
        return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("refine", "seed"), [("uniform", 8), ("adaptive", 2)])
def test_killed_at_any_moment(problem: Path, tmp_path: Path, refine: str, seed: int) -> None:
    out = tmp_path / "out"
    goal = ["--refine", refine, "--relative-gap", GOALS[refine]]
    undisturbed = solve(
        read_problem(problem), refine=refine, relative_gap=float(GOALS[refine]), comm=MPI.COMM_SELF
    )
    assert undisturbed.levels >= 3
    chance = random.Random(seed)
    kills = 0
    for _ in range(4):
        # Killed before it had written anything, it is started again, not resumed.
        resuming = (out / "checkpoint.json").exists()
        start = ["--resume", out] if resuming else [problem, "-o", out, *goal]
        kills += killed(command(*start), chance)
        for file in (*out.glob("*.json"), *out.glob("*.npz")):
            # Whatever has its name is whole.
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            else:
                with np.load(file) as stored:
                    assert all(stored[name].size for name in stored.files)
        if (out / "result.json").exists() and not (out / "checkpoint.json").exists():
            break
    assert kills >= 2
    if (out / "checkpoint.json").exists():
        # 2: killed after the result was complete, before the checkpoint was removed.
        ended = main(["solve", "--resume", str(out), "-q"])
        assert ended == 0 or (ended == 2 and (out / "result.json").exists())
    result = result_of(out)
    assert result["status"] == "converged"
    assert result["reason"] == undisturbed.reason
    assert result["mesh"] == undisturbed.result()["mesh"]
    assert result["solver"] == undisturbed.solver
    for bound in ("lower", "upper", "data_error"):
        expected = getattr(undisturbed.bounds, bound)
        assert result["bounds"][bound] == pytest.approx(expected, rel=1e-9)
    rows = (out / "history.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + len(undisturbed.history)
    assert (out / "solution.npz").exists()
    assert not [file for file in out.iterdir() if "partial" in file.name]
    assert not [file for file in out.iterdir() if "checkpoint" in file.name]


# Dies when half of the second mesh's checkpoint is on the disk.
DIES_WHILE_WRITING = """
import os, signal, sys
import numpy
from congested.cli import main
savez, calls = numpy.savez, []
def half(file, **arrays):
    calls.append(file)
    if len(calls) == 2:
        file.write(b"PK" * 1000)
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    savez(file, **arrays)
numpy.savez = half
main(sys.argv[1:])
"""


def test_killed_while_writing(problem: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["solve", str(problem), "-o", str(out), "-q", "--relative-gap", "2e-3"]
    done = subprocess.run([sys.executable, "-c", DIES_WHILE_WRITING, *words], timeout=100)
    assert done.returncode == -signal.SIGKILL
    assert (out / ".checkpoint.npz.partial").exists()
    assert main(["solve", "--resume", str(out), "-q"]) == 0
    undisturbed = solve(read_problem(problem), relative_gap=2e-3, comm=MPI.COMM_SELF)
    assert undisturbed.levels == 2
    assert result_of(out)["bounds"]["upper"] == pytest.approx(undisturbed.bounds.upper, rel=1e-9)
    assert not [file for file in out.iterdir() if "checkpoint" in file.name]


def test_stopped_by_the_clock_and_gone_on_with(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    start, end = PROBLEM.index("[source]"), PROBLEM.index("[target]")
    problem.write_text(PROBLEM[:start] + SOURCE + PROBLEM[end:], encoding="utf-8")
    (tmp_path / "data").mkdir()
    generator = np.random.default_rng(0)
    np.save(tmp_path / "data" / "source.npy", generator.normal((0.35, 0.4), 0.08, (40, 2)))
    monkeypatch.chdir(tmp_path)
    words = ["solve", problem.name, "-o", "out", "--max-seconds", "1e-9", "--relative-gap", "1e-6"]
    assert main(words) == 3
    out = tmp_path / "out"
    first = result_of(out)
    assert first["status"] == "stopped"
    assert first["mesh"]["levels"] == 1
    assert (out / "checkpoint.json").exists()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    words = ["solve", "--resume", "../out", "--max-seconds", "100", "--relative-gap", "0.01"]
    assert main([*words, "--formats", ""]) == 0
    assert capsys.readouterr().out.startswith("Kept")
    result = result_of(out)
    assert result["mesh"]["levels"] > 1
    assert result["problem"]["solver"]["max_seconds"] == 100.0
    assert result["problem"]["solver"]["relative_gap"] == 0.01
    assert result["problem"]["source"]["file"] == str(tmp_path / "data" / "source.npy")
    names = {file.name for file in out.iterdir()}
    assert names == {"result.json", "solution.npz", "history.csv", "problem.toml"}
    # That was all.
    assert main(["solve", "--resume", "../out"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: ../out: the run has ended (converged: {result['reason']}) and left no checkpoint; "
        "allowed: the output directory of a `congested solve` that was stopped or killed\n"
    )


def test_terminated_and_gone_on_with(problem: Path, tmp_path: Path) -> None:
    """What SIGTERM leaves is a result and a checkpoint; the user's own file stays as it is."""
    out = problem.parent
    own = problem.rename(out / "problem.toml")
    undisturbed = solve(read_problem(own), relative_gap=5e-4, comm=MPI.COMM_SELF)
    with subprocess.Popen(
        command(own, "-o", out, "--relative-gap", "5e-4"),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.terminate()
        assert process.wait(timeout=100) == 143
    first = result_of(out)
    assert first["status"] == "stopped"
    assert main(["solve", "--resume", str(out), "-q"]) == 0
    result = result_of(out)
    assert result["bounds"]["upper"] == pytest.approx(undisturbed.bounds.upper, rel=1e-9)
    assert result["bounds"]["lower"] == pytest.approx(undisturbed.bounds.lower, rel=1e-9)
    assert result["seconds"]["total"] > sum(result["seconds"][name] for name in ("solve", "setup"))
    assert own.read_text(encoding="utf-8") == PROBLEM


def test_infeasible_leaves_nothing_to_go_on_with(problem: Path, tmp_path: Path) -> None:
    weight = '[weight]\nkind = "uniform"\nshape = "ball"\ncenter = [0.5, 0.5]\nradius = 0.1\n'
    text = PROBLEM.replace("[output]", f"{weight}[output]")
    problem.write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    assert main(["solve", str(problem), "-o", str(out), "-q"]) == 4
    assert result_of(out)["status"] == "infeasible"
    assert not list(out.glob("checkpoint*"))
    assert main(["solve", "--resume", str(out), "-q"]) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "found no checkpoint; allowed: the output directory of a `congested solve`"),
        ("PK", "checkpoint.json: not a readable checkpoint: "),
        ('{"format": "congested checkpoint", "version": 7}', "version: found 7; allowed: 1"),
        (
            '{"format": "congested checkpoint", "version": 1, "problem": "[domian]"}',
            'checkpoint.json: domian: found an unknown key (did you mean "domain"?)',
        ),
        (
            '{"format": "congested checkpoint", "version": 1, "problem": "="}',
            "checkpoint.json: problem: not a problem file: ",
        ),
    ],
)
def test_no_checkpoint(
    tmp_path: Path, content: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content:
        (tmp_path / "checkpoint.json").write_text(content, encoding="utf-8")
    assert main(["solve", "--resume", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {tmp_path}")
    assert captured.err.count("\n") == 1
    assert words in captured.err


def test_damaged_mesh(problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["-q", "--relative-gap", "1e-9", "--max-cells", "700"]
    assert main(["solve", str(problem), "-o", str(out), *arguments]) == 3
    file = out / "checkpoint.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    capsys.readouterr()
    assert main(["solve", "--resume", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}: not a readable checkpoint: ")
    assert error.count("\n") == 1
    # The result of before is still there, and with the file so is the run.
    assert result_of(out)["status"] == "stopped"
    file.write_bytes(whole)
    assert main(["solve", "--resume", str(out), "-q", "--relative-gap", "0.5"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("p.toml --resume d", "PROBLEM.toml: found p.toml beside --resume"),
        ("--resume d -o d", "--output: found d beside --resume"),
        ("--resume d --penalty 3", "--penalty: found 3.0 beside --resume"),
        ("--resume d --lower-bound p2", "--lower-bound: found p2 beside --resume"),
        ("--resume", "argument --resume: expected one argument"),
        ("--resume d --max-cells 0", '--max-cells: found "0"; allowed: an integer >= 1'),
    ],
)
def test_wrong_arguments(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
