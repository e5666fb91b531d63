"""The benchmark runs on small meshes, and its peer agrees with the bounds."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from tests.scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmark")


def test_sections_and_their_file(script: ModuleType, tmp_path: Path) -> None:
    results = script.main(["mesh", "linear", "--sizes", "16", "32", "-o", str(tmp_path)])
    stored = json.loads((tmp_path / "benchmark.json").read_text())
    assert stored["mesh"] == results["mesh"]
    assert stored["linear"] == results["linear"]
    for record, squares in zip(results["mesh"], (16, 32), strict=True):
        assert record["cells"] == 4 * squares**2
        assert record["clarabel_status"] == "Solved"
        # The peer's cost is that of the mean flux of each cell: less than the upper bound, and no
        # less than what any flux costs, to its own tolerance.
        assert record["lower"] < record["clarabel_cost"] * (1.0 + 1e-7)
        assert record["clarabel_cost"] < record["upper"]
        assert record["upper"] - record["clarabel_cost"] < 0.6 * (record["upper"] - record["lower"])
    for record in results["linear"]:
        assert record["linear_solves"] > 1.0
        assert record["newton_steps_on_finest"] >= 1
        assert record["cg_steps_per_newton_step"] > 1.0
    assert "exponent" in results["linear"][-1]


def test_command_line(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.parse([]).sections == list(script.SECTIONS)
    assert script.parse(["space", "--sizes", "8"]).sections == ["space"]
    with pytest.raises(SystemExit):
        script.parse(["spaces"])
    assert "found spaces; allowed: linear or mesh" in capsys.readouterr().err


def test_sections_of_runs(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "_METHOD_CASES", (("two_gaussians", 8, 1.0, 5e-2, 1000),))
    (newton, lagrangian) = script.main(["methods", "-o", str(tmp_path)])["methods"]
    assert (newton["method"], lagrangian["method"]) == ("newton", "augmented-lagrangian")
    for record in (newton, lagrangian):
        assert record["status"] == "converged"
        assert record["relative_gap"] <= 5e-2
        assert set(record["iterations"]) == {"p1"}
    assert newton["lower"] <= lagrangian["upper"]
    assert lagrangian["lower"] <= newton["upper"]


def test_section_of_ranks(script: ModuleType) -> None:
    alone, together = script.on_ranks(Console(quiet=True), 16)
    assert (alone["ranks"], together["ranks"]) == (1, 2)
    assert alone["flux_dofs"] == together["flux_dofs"] == 1568
    assert together["relative_gap"] == pytest.approx(alone["relative_gap"], rel=1e-3)
    assert together["ratio"] == alone["seconds"] / together["seconds"]


def test_dofs_for_a_gap(script: ModuleType) -> None:
    # Half of the gap for twice the cells: between the meshes, and beyond them.
    gaps = [(100, 0.08), (200, 0.04), (400, 0.02)]
    assert script.dofs_for(gaps, 0.03) == pytest.approx(1.5 * 100 * 0.08 / 0.03)
    assert script.dofs_for(gaps, 0.001) == pytest.approx(1.5 * 8000)
