"""The command ``congested train`` as its users meet it: exit status, stdout, stderr, files."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import congested as ct
from congested.cli import main
from congested.cli_train import what_counts
from congested.critics.load import load_critic
from congested.critics.torch_network import network_of_state
from congested.critics.training_history import read_history
from tests.problem_texts import two_gaussians
from tests.torch_threads import one_thread  # noqa: F401  (used by itself)

TINY = "--batch 32 --width 8 --depth 1 --steps 40 --check-every 20 --samples 2000".split()


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(two_gaussians("Small", 8), encoding="utf-8")
    return file


def here(*arguments: str | Path) -> int:
    """Run in this process, which is much faster."""
    return main(["train", *map(str, arguments)])


def start(*arguments: str | Path, ranks: int | None = None) -> subprocess.Popen[str]:
    begin = [] if ranks is None else ["mpirun", "-n", str(ranks)]
    command = [*begin, sys.executable, "-m", "congested.cli", "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def content_of(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(file, weights_only=True)
    return content


def rows_of(stdout: str) -> dict[str, str]:
    return dict(re.findall(r"^ *(\S.*?)  +(\S.*?) *$", stdout, re.MULTILINE))


# --- 0: done --------------------------------------------------------------------------------


def test_done(problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    critic = tmp_path / "deep" / "critic.pt"
    assert here(problem, "-o", critic, *TINY) == 0
    done = capsys.readouterr()
    assert done.err == ""
    assert sorted(path.name for path in critic.parent.iterdir()) == [
        "critic.history.csv",
        "critic.pt",
    ]
    content = content_of(critic)
    assert {"title": "Small", "method": "lp", "strength": 10.0, "seed": 0, "steps": 40}.items() <= (
        content.items()
    )
    assert content["activation"] == "relu"
    history = read_history(critic.with_name("critic.history.csv"))
    assert [row.step for row in history] == [0, 20, 40]

    assert done.out.startswith("Small")
    table = rows_of(done.out)
    assert table["method"] == "lp, penalty 10"
    assert table["network"] == str(network_of_state(content)) == "2-8-1 relu"
    estimate = content["estimate"]["dual_value"]
    assert float(table["dual value"].split()[0]) == pytest.approx(estimate["value"], rel=1e-5)
    bound = estimate["value"] - 1.6449 * estimate["standard_error"]
    assert float(table["cost is at least"].split()[0]) == pytest.approx(bound, rel=1e-4)
    assert max(map(len, done.out.splitlines())) <= 100


def test_flags_are_options(problem: Path, tmp_path: Path) -> None:
    flags = (
        "--method sorting --penalty inf --activation group-sort --group-size 4 --seed 7 "
        "--learning-rate 0.01 --schedule constant --device cpu -q"
    )
    assert here(problem, "-o", tmp_path / "critic.pt", *TINY, *flags.split()) == 0
    content = content_of(tmp_path / "critic.pt")
    assert content["group_size"] == 4
    expected = {"method": "sorting", "seed": 7, "learning_rate": 0.01, "schedule": "constant"}
    assert expected.items() <= content["training"].items()


def test_quiet(problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(problem, "-o", tmp_path / "critic.pt", *TINY, "-q") == 0
    assert capsys.readouterr() == ("", "")


# --- against a solution ---------------------------------------------------------------------


def test_certified_on_the_way(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solution, critic = tmp_path / "solution", tmp_path / "critic.pt"
    assert main(["solve", str(problem), "-o", str(solution), "--relative-gap", "0.05", "-q"]) == 0
    flags = ["--against", solution, "--check-every", "20", "--learning-rate", "0.02"]
    small = ["--batch", "64", "--width", "16", "--depth", "2", "--samples", "2000"]
    assert here(problem, "-o", critic, *small, *flags, "--steps", "400", "--stop-at", "0.1") == 0
    last = read_history(tmp_path / "critic.history.csv")[-1]
    assert last.step < 400
    assert 0.0 <= last.suboptimality_lower < last.suboptimality_upper <= 0.1
    assert abs(last.certified_dual_value - last.dual_value) < 6.0 * last.standard_error + 2e-3
    table = rows_of(capsys.readouterr().out)
    low, high = re.findall(r"[\d.]+", table["suboptimality"])
    assert float(low) < float(high) <= 10.0
    assert table["suboptimality"].endswith("(certified)")

    # More than the few steps can give.
    flags = [*flags, "--steps", "21", "--stop-at", "1e-4"]
    assert here(problem, "-o", critic, *small, *flags) == 3
    assert "the suboptimality asked for is not reached" in capsys.readouterr().err
    assert (tmp_path / "critic.checkpoint.pt").exists()

    assert here(problem, "-o", critic, *TINY, "--against", solution, "--penalty", "5", "-q") == 0
    assert here(problem, "-o", critic, *TINY, "--against", solution, "--penalty", "5") == 0
    assert "the penalty of the training is 5, that of the solution 10" in capsys.readouterr().err
    problem.write_text(problem.read_text().replace("0.65, 0.6", "0.65, 0.7"), encoding="utf-8")
    assert here(problem, "-o", critic, *TINY, "--against", solution) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --against: found the solution of a problem with another target")


# --- 3, 130, 143: stopped, and resumed ------------------------------------------------------


def test_stopped_by_time_and_resumed(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    critic, whole = tmp_path / "critic.pt", tmp_path / "whole.pt"
    assert here(problem, "-o", whole, *TINY, "--steps", "300", "-q") == 0
    limit = ["--max-seconds", "0.02"]
    assert here(problem, "-o", critic, *TINY, "--steps", "300", *limit) == 3
    stopped = capsys.readouterr()
    assert stopped.err.startswith("stopped: the time is up")
    assert "dual value" in stopped.out
    assert (tmp_path / "critic.checkpoint.pt").exists()
    content_of(critic)

    assert here(problem, "-o", critic, "--resume", "--width", "9") == 2
    assert here(problem, "-o", critic, "--resume", "--penalty", "5") == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("error: --width: found 9 for a training that was begun with 8")
    assert errors[1].startswith("error: --penalty: found 5.0 for a training that")

    assert here(problem, "-o", critic, "--resume", "--max-seconds", "100", "-q") == 0
    assert not (tmp_path / "critic.checkpoint.pt").exists()
    one, other = (network_of_state(content_of(file)) for file in (critic, whole))
    assert all((a == b).all() for a, b in zip(one.weights, other.weights, strict=True))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal(problem: Path, tmp_path: Path, number: int, status: int) -> None:
    critic = tmp_path / "critic.pt"
    process = start(problem, "-o", critic, *TINY, "--steps", "1e7")
    history = tmp_path / "critic.history.csv"
    deadline = time.monotonic() + 60.0
    while not history.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert err == "stopped: interrupted: resume\n"
    assert rows_of(out)["files"].startswith(str(critic))
    assert content_of(critic)["steps"] == read_history(history)[-1].step
    assert (tmp_path / "critic.checkpoint.pt").exists()


def test_new_training_replaces_one_that_could_be_resumed(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "critic.checkpoint.pt").write_bytes(b"")
    assert here(problem, "-o", tmp_path / "critic.pt", *TINY) == 0
    assert "is replaced by this one" in capsys.readouterr().err
    assert not (tmp_path / "critic.checkpoint.pt").exists()


# --- 2: wrong input -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "wgan"], 'argument --method: found "wgan"; allowed: gp or lp or clipping or'),
        (["--steps", "0"], 'argument --steps: found "0"; allowed: an integer >= 1'),
        (["--learning-rate", "-1"], "argument --learning-rate: "),
        (["--device", "tpu"], 'argument --device: found "tpu"; allowed: cpu or cuda or auto'),
        (["--penalty", "nan"], 'argument --penalty: found "nan"; allowed: a number > 0'),
        (["--penalty", "inf"], '--penalty: found inf with method "lp", which has a penalty'),
        (["--method", "sorting", "--width", "15"], "--group-size: found 2; allowed: an integer"),
        (["--stop-at", "0.1"], "--stop-at: found 0.1 without a solution to compare with"),
        (["--against", "nowhere", "--stop-at", "0.1"], "--against: "),
        (["--resume"], "--resume: found no file "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_flags(
    problem: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    # What an earlier training left is not lost by a mistake.
    kept = [tmp_path / "critic.pt"]
    if flags != ["--resume"]:
        kept.append(tmp_path / "critic.checkpoint.pt")
    for file in kept:
        file.write_text("hours of work")
    assert here(problem, "-o", tmp_path / "critic.pt", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert all(file.read_text() == "hours of work" for file in kept)


def test_infinite_strength_of_the_file_names_its_key(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem.write_text(problem.read_text() + "[penalty]\nstrength = inf\n")
    assert here(problem, "-o", tmp_path / "critic.pt") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {problem}: penalty.strength: found inf with method")
    assert "(--penalty)" in error
    assert here(problem, "-o", tmp_path / "critic.pt", *TINY, "--penalty", "10", "-q") == 0


def test_weight_that_cannot_be_sampled(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optimal = '[weight]\nkind = "interpolates"\ncoupling = "optimal"\norder = 1\n'
    problem.write_text(problem.read_text() + optimal)
    assert here(problem, "-o", tmp_path / "critic.pt") == 2
    assert f"error: {problem}: weight.coupling: found " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["critic.npz", "critic.safetensors", "critic", "pt", "a.b/.pt"])
def test_a_name_that_nobody_could_read(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = set(tmp_path.iterdir())
    for more in ([], ["--resume"]):
        assert here(problem, "-o", tmp_path / name, *TINY, *more) == 2
        words = "allowed: a name that ends with .pt, .pth, .ckpt or .bin"
        error = f'error: --output: found "{tmp_path / name}"; {words}\n'
        assert capsys.readouterr().err == error
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["critic.pth", "critic.CKPT", "critic.bin"])
def test_other_endings_can_be_read(problem: Path, tmp_path: Path, name: str) -> None:
    assert here(problem, "-o", tmp_path / name, *TINY, "-q") == 0
    assert load_critic(tmp_path / name).dimension == 2


def test_output_that_cannot_be_written(
    problem: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(problem, "-o", tmp_path) == 2
    assert here(problem, "-o", problem / "critic.pt") == 2
    errors = capsys.readouterr().err.splitlines()
    assert "which is a directory; allowed: a file that can be written" in errors[0]
    assert errors[1].startswith("error: --output: found ")
    assert os.listdir(tmp_path) == [problem.name]


def test_more_ranks_than_one_are_refused(problem: Path, tmp_path: Path) -> None:
    process = start(problem, "-o", tmp_path / "critic.pt", *TINY, ranks=2)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 2
    assert out == ""
    assert "error: -n: found 2 ranks; allowed: 1, as training uses threads instead\n" in err
    assert err.count("error: ") == 1
    assert not (tmp_path / "critic.pt").exists()


def test_how_a_weight_is_integrated_makes_no_other_problem() -> None:
    gaussians = [ct.GaussianMixture.from_stds([[0.5, x]], [0.1]) for x in (0.3, 0.6)]

    def counted(share: float, **settings: object) -> dict[str, object]:
        parts = (ct.Interpolates(**settings), ct.ConstantWeight())
        weight = ct.MixtureWeight(parts, (share, 1.0 - share))
        return what_counts(ct.Problem(ct.Box((0, 0), (1, 1), 4), *gaussians, weight).description)

    assert counted(0.5, samples=1000, seed=3) == counted(0.5)
    assert counted(0.4) != counted(0.5)
