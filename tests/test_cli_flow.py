"""The command ``congested flow`` as its users meet it: exit status, stdout, stderr, files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from congested.cli import main
from tests.critics.references import solution
from tests.test_cli_compare import write_critic
from tests.test_mass_flow import FILES

FEW = ("--particles", "2000", "--keep", "40", "--frames", "3", "--paths", "10")
QUICK = (*FEW, "--no-pictures", "--animation", "none")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("result")
    solution("plane").write(directory)
    return directory


def here(*arguments: str | Path) -> int:
    """Run in this process, which is much faster."""
    return main(["flow", *map(str, arguments)])


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def content_of(directory: Path) -> dict:
    return json.loads((directory / "flow.json").read_text(encoding="utf-8"))


def test_done(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(result)
    assert here(result, *FEW) == 0
    done = capsys.readouterr()
    assert done.err == ""
    assert names(result) - before == FILES
    content = content_of(result)
    for name in (
        "momentum_relative_l1",
        "momentum_relative_l1_error",
        "pushforward_relative_l1",
        "seconds",
    ):
        assert content[name] > 0.0
    assert content["particles"] == 2000
    wardrop = json.loads((result / "wardrop.json").read_text(encoding="utf-8"))
    assert {"max_relative_excess", "max_relative_violation", "pairs"} <= set(wardrop)
    assert "done: all particles have flown" in done.out
    assert f"{content['momentum_relative_l1']:.4g} ±" in done.out
    assert (result / "flow.gif").read_bytes().startswith(b"GIF89a")


def test_elsewhere_and_quietly(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert here(result, *QUICK, "-q", "-o", out, "--seed", "5", "--clock", "dacorogna-moser") == 0
    assert capsys.readouterr() == ("", "")
    content = content_of(out)
    assert (content["seed"], content["clock"]) == (5, "dacorogna-moser")
    assert "flow.png" not in names(out) and "flow.gif" not in names(out)


def test_a_critics_flow_has_a_directory_of_its_own(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    critic = write_critic(tmp_path / "mine.npz")
    assert here(result, *QUICK, "--critic", critic) == 0
    out = result / "flow_mine"
    content = content_of(out)
    assert content["critic"] == "mine.npz"
    assert content["imbalance"]["critic"]["lost"][0] > 0.0
    assert not (out / "wardrop.json").exists()
    table = capsys.readouterr().out
    assert "momentum loses" in table and "particles of one mass" in table


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--particles", "0"], "--particles"),
        (["--clock", "sundial"], "constant-speed or dacorogna-moser"),
        (["--animation", "flip-book"], "gif or mp4 or none"),
        (["--critic", "missing.pt"], "no such file"),
        (["--resume"], "--resume: found no flow.checkpoint.npz"),
        (["--frames", "2.5"], "an integer >= 1"),
        (["--particles", "1e99"], "an integer from 1 to 1e+12"),
        (["--activation", "tanh"], "--activation: found tanh without --critic"),
    ],
)
def test_mistakes(
    result: Path, words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(result, *words, "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


def test_no_solution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(tmp_path, *QUICK) == 2
    assert "no result here" in capsys.readouterr().err
    (tmp_path / "file").touch()
    solution("plane").write(tmp_path / "solution")
    assert here(tmp_path / "solution", *QUICK, "-o", tmp_path / "file") == 2
    assert "which is a file" in capsys.readouterr().err


def test_a_mistake_leaves_an_earlier_flow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solution("w1").write(tmp_path)
    out = tmp_path / "out"
    assert here(tmp_path, *QUICK, "-q", "--no-equilibrium", "-o", out) == 0
    before = names(out)
    assert "flow.json" in before and "wardrop.json" not in before
    assert here(tmp_path, "--critic", write_critic(tmp_path / "mine.npz"), "-o", out) == 2
    assert "--critic: found a solution with λ = ∞" in capsys.readouterr().err
    assert names(out) == before


def test_a_mesh_with_a_cell_twice_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solution("plane").write(tmp_path)
    with np.load(tmp_path / "solution.npz") as stored:
        arrays = dict(stored)
    for values in arrays.values():
        if len(values) == len(arrays["cells"]):
            values[3] = values[4]
    np.savez(tmp_path / "solution.npz", **arrays)
    assert here(tmp_path, *QUICK) == 2
    assert "allowed" in capsys.readouterr().err


def test_out_of_time_and_on(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    slow = (*QUICK, "--clock", "dacorogna-moser")
    assert here(result, *slow, "-o", out, "--max-seconds", "1e-9") == 3
    stopped = capsys.readouterr()
    assert "--max-seconds 1e-09 have passed; --resume goes on" in stopped.err
    assert content_of(out)["status"] == "stopped" and content_of(out)["particles"] == 125
    # Options of the particles are those of the beginning.
    quick = QUICK[-3:]
    assert here(result, "--resume", *quick, "-o", out, "--seed", "1") == 2
    assert "found 2000 particles with seed 0" in capsys.readouterr().err
    assert here(result, "--resume", *quick, "-o", out) == 0
    assert content_of(out)["status"] == "done" and content_of(out)["particles"] == 2000
    whole = tmp_path / "whole"
    assert here(result, *slow, "-o", whole) == 0
    one, other = content_of(out), content_of(whole)
    del one["seconds"], other["seconds"]
    assert one == other
    with np.load(out / "flow.npz") as first, np.load(whole / "flow.npz") as second:
        np.testing.assert_array_equal(first["positions"], second["positions"])


def test_words_are_those_of_the_library() -> None:
    from congested import cli_flow, flow_result

    assert cli_flow._CLOCKS == flow_result.CLOCKS
    assert cli_flow._ANIMATIONS == flow_result.ANIMATIONS


def test_an_interrupt_keeps_what_has_flown(result: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["flow", str(result), *QUICK, "-o", str(out), "--particles", "100000000", "-q"]
    process = subprocess.Popen(
        [sys.executable, "-m", "congested.cli", *words], stderr=subprocess.PIPE, text=True
    )
    # The first checkpoint tells that particles fly.
    for _ in range(600):
        time.sleep(0.1)
        if (out / "flow.checkpoint.npz").exists() or process.poll() is not None:
            break
    os.kill(process.pid, signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 130, error
    assert "SIGINT asked to stop; --resume goes on" in error
    content = content_of(out)
    assert content["status"] == "stopped" and 131_072 <= content["particles"] < 100_000_000
    assert content["momentum_relative_l1"] < 0.02
    assert (out / "flow.checkpoint.npz").exists()
