"""The README's Python examples run as they stand, and its problem file is a valid one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import congested as ct

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "scripts" / "problems", tmp_path / "scripts" / "problems")
    monkeypatch.chdir(tmp_path)
    example, _, _, _ = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    lower, upper, loss = (float(word) for word in capsys.readouterr().out.split()[:3])
    # The cost of the two Gaussians is 0.47822 (a conic solver's value on fine meshes).
    assert lower <= upper <= (1 + 1.1e-3) * lower
    assert lower - 1e-4 < 0.47822 < upper + 1e-4
    assert loss > upper
    assert ct.read_result(tmp_path / "results" / "two_gaussians")["status"] == "converged"


def test_python_example_of_a_pair_runs(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, _, example = blocks("python")
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert capsys.readouterr().out.count("Estimate(") == 4
    metrics = names["metrics"]
    assert isinstance(metrics, ct.PairMetrics)
    assert metrics.cosine.value == pytest.approx(1.0, abs=1e-6)


def test_python_example_of_a_critic_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    _, example, _, _ = blocks("python")
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    comparison = names["comparison"]
    assert isinstance(comparison, ct.Comparison)
    evaluation = comparison.critics[0].evaluation
    # The mean moves by (0.4, 0.25), the penalty is 10 (|(0.9, 0.6)| - 1)² times the mass of σ.
    length = (0.9**2 + 0.6**2) ** 0.5
    assert evaluation.critic_loss == pytest.approx(0.4 * 0.9 + 0.25 * 0.6, rel=1e-3)
    assert evaluation.penalty == pytest.approx(10.0 * (length - 1.0) ** 2, rel=1e-3)
    least, most = evaluation.suboptimality
    # 0.47827 is the certified cost of the densities, 0.4785 that on these cells.
    assert 0.0 < least < 0.4785 - evaluation.dual_value < most


def test_python_example_of_a_flow_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "scripts" / "problems", tmp_path / "scripts" / "problems")
    monkeypatch.chdir(tmp_path)
    _, _, example, _ = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    error, excess = (float(word) for word in capsys.readouterr().out.split())
    assert 0.0 < error < 0.1 and 0.0 < excess < 0.3
    assert (tmp_path / "results" / "two_gaussians_flow" / "flow.gif").exists()


def test_problem_file_of_the_readme_is_valid(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    (tmp_path / "problem.toml").write_text(text)
    problem = ct.Problem.from_file(tmp_path / "problem.toml")
    assert problem.strength == 10.0
    assert problem.solver.max_cells == 2_000_000
    assert problem.domain == ct.Box((0.0, 0.0), (1.0, 1.0), 32)


def test_paths_in_the_readme_exist() -> None:
    named = set(re.findall(r"(?:scripts|meshes|tests|docs)/[\w/]+\.\w+", README))
    assert len(named) > 5
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert missing == []
