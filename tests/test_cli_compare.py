"""The command ``congested compare`` as its users meet it: exit status, stdout, stderr, files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from congested.cli import main
from tests.critics.references import solution


def write_critic(file: Path, dimension: int = 2, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    state = {
        "0.weight": random.normal(size=(6, dimension)),
        "0.bias": random.normal(size=6),
        "2.weight": random.normal(size=(1, 6)),
        "2.bias": np.zeros(1),
    }
    file.parent.mkdir(exist_ok=True)
    np.savez(file, **state)
    return file


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("result")
    solution("plane").write(directory)
    return directory


@pytest.fixture
def critic(tmp_path: Path) -> Path:
    return write_critic(tmp_path / "critic.npz")


def here(*arguments: str | Path) -> int:
    """Run in this process, which is much faster."""
    return main(["compare", *map(str, arguments)])


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


# --- 0: done ------------------------------------------------------------------------------------


def test_done(result: Path, critic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(result)
    other = write_critic(critic.with_name("other.npz"), seed=4)
    assert here(result, critic, other) == 0
    done = capsys.readouterr()
    assert done.err == ""
    assert names(result) - before == {"compare.json", "compare_critic.png", "compare_other.png"}
    content = json.loads((result / "compare.json").read_text(encoding="utf-8"))
    assert set(content["critics"]) == {"critic.npz", "other.npz"}
    for one in content["critics"].values():
        assert one["architecture"] == "2-6-1 relu"
        assert (result / one["picture"]).read_bytes().startswith(b"\x89PNG")
    bounds = solution("plane").bounds
    cost = f"cost {bounds.lower:.8g} .. {bounds.upper:.8g}"
    assert done.out.startswith(f"Two Gaussians: {cost} (λ = 10)")
    assert "critic.npz" in done.out
    assert f"files: {result}/" in re.sub(r"\n", "", done.out)
    # Again, with one of them: what the other left is gone.
    assert here(result, critic, "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert names(result) - before == {"compare.json", "compare_critic.png"}


def test_elsewhere_without_pictures(result: Path, critic: Path, tmp_path: Path) -> None:
    before = names(result)
    out = tmp_path / "new" / "out"
    assert here(result, critic, "-o", out, "--no-pictures", "-q") == 0
    assert names(out) == {"compare.json"}
    assert names(result) == before
    assert here(result, critic, "-o", out, "-q") == 0
    assert names(out) == {"compare.json", "compare_critic.png"}
    assert here(result, critic, "-o", out, "-q", "--no-pictures") == 0
    assert names(out) == {"compare.json"}


def test_a_new_solution_removes_what_was_compared_with_the_old_one(
    critic: Path, tmp_path: Path
) -> None:
    solution("plane").write(tmp_path)
    (tmp_path / "compare_mine.png").touch()
    before = names(tmp_path)
    assert here(tmp_path, critic, "-q") == 0
    solution("plane").write(tmp_path)
    assert names(tmp_path) == before


def content_of(out: Path) -> dict:
    content = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    (one,) = content["critics"].values()
    return one


def test_what_stands_between_the_layers(result: Path, critic: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ("-q", "--no-pictures", "-o", out)
    for words, shape in (
        (["--activation", "tanh"], "2-6-1 tanh"),
        (["--activation", "group-sort", "--group-size", "2"], "2-6-1 group-sort(2)"),
        (["--activation", "leaky-relu", "--slope", "0.2"], "2-6-1 leaky-relu"),
    ):
        assert here(result, critic, *words, *flags) == 0
        assert content_of(out)["architecture"] == shape
    for sign in ("1", "-1"):
        assert here(result, critic, "--sign", sign, *flags) == 0
        assert content_of(out)["sign"] == int(sign)


def test_critics_of_one_name_keep_their_folders(result: Path, tmp_path: Path) -> None:
    paths = [write_critic(tmp_path / name / "critic.npz", seed=i) for i, name in enumerate("ab")]
    assert here(result, *paths, "-q", "-o", tmp_path / "out") == 0
    content = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    assert set(content["critics"]) == set(map(str, paths))
    assert len(names(tmp_path / "out")) == 3


def test_torchscript_of_any_shape(result: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([0.5, 0.5]))

        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return -(self.scale * points).sum(dim=1)

    torch.jit.script(Scaled()).save(str(tmp_path / "critic.pt"))
    assert here(result, tmp_path / "critic.pt", "-q", "-o", tmp_path / "out") == 0
    one = content_of(tmp_path / "out")
    assert one["largest_gradient_norm"] == pytest.approx(0.5**0.5, rel=1e-6)
    assert one["integration"]["method"] == "quadrature"


def test_no_terminal_no_bar(result: Path, critic: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "congested.cli", "compare", str(result), str(critic)]
    done = subprocess.run(
        [*command, "--no-pictures", "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "critic.npz" in done.stdout


# --- 2: the input is wrong ----------------------------------------------------------------------


def wrong(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return the one line of an error of status 2."""
    assert here(*arguments) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    return done.err


def test_results_that_are_none(
    result: Path, critic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        text = wrong(capsys, place, critic)
        assert f"{place / 'result.json'}: no result here; allowed: a directory that" in text
    copy = tmp_path / "copy"
    shutil.copytree(result, copy, ignore=shutil.ignore_patterns("compare*"))
    (copy / "solution.npz").write_bytes((copy / "solution.npz").read_bytes()[:1000])
    assert f"{copy / 'solution.npz'}: not a readable solution.npz" in wrong(capsys, copy, critic)
    content = json.loads((copy / "result.json").read_text(encoding="utf-8"))
    (copy / "result.json").write_text(json.dumps(content | {"status": "infeasible"}))
    assert f"{copy}: found an infeasible problem" in wrong(capsys, copy, critic)
    assert not (copy / "compare.json").exists()


def test_critics_that_are_none(
    result: Path, critic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.pt"
    assert f"{missing}: found no such file" in wrong(capsys, result, critic, missing)
    onnx = tmp_path / "critic.onnx"
    onnx.touch()
    assert f'{onnx}: found the ending ".onnx"; allowed: .pt' in wrong(capsys, result, onnx)
    text = wrong(capsys, result, critic, critic)
    assert f"{critic}: found the same critic twice; allowed: once" in text
    space = write_critic(tmp_path / "space.npz", 3)
    text = wrong(capsys, result, space, "-o", tmp_path / "out")
    assert "space.npz: critic: found a critic of 3 coordinates; allowed: 2" in text
    assert names(tmp_path / "out") == set()


def test_settings_that_are_none(
    result: Path, critic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = wrong(capsys, result, critic, "--activation", "gelu")
    assert f'{critic}: activation: found "gelu"; allowed: relu, leaky-relu, group-sort' in text
    text = wrong(capsys, result, critic, "--slope", "0.1")
    assert "slope: found 0.1 for relu; allowed: nothing, but for leaky-relu" in text
    text = wrong(capsys, result, critic, "--activation", "leaky-relu", "--slope", "nan")
    assert "slope: found nan; allowed: a finite number" in text
    text = wrong(capsys, result, critic, "--group-size", "2")
    assert "group_size: found 2 for relu" in text
    text = wrong(capsys, result, critic, "--orthogonal-map", "qr")
    assert 'orthogonal_map: found "qr"; allowed: matrix_exp, cayley, householder' in text
    for words in (["--sign", "2"], ["--group-size", "1"], ["--slope", "x"], ["--what"]):
        assert words[0] in wrong(capsys, result, critic, *words)
    assert "CRITIC" in wrong(capsys, result)
    file = tmp_path / "file"
    file.touch()
    text = wrong(capsys, result, critic, "-o", file)
    assert f'--output: found "{file}", which is a file; allowed: a directory' in text


def test_code_in_a_critic_is_not_run(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    trace = tmp_path / "it was run"
    # What pickle writes for an object that makes a directory when it is read.
    code = f"cos\nmkdir\n(V{trace}\ntR.".encode()
    (tmp_path / "critic.pt").write_bytes(b"\x80\x02" + code)
    assert "critic.pt: found a pickle that holds more" in wrong(
        capsys, result, tmp_path / "critic.pt"
    )
    assert not trace.exists()
