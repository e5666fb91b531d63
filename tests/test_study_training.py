"""The study of training runs on small networks, and its exact cost is that of the solver."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import congested as ct
from tests.scripts import load_script
from tests.torch_threads import one_thread  # noqa: F401  (used by itself)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("study_training")


def test_quick_study(script: ModuleType, tmp_path: Path) -> None:
    runs, rows = script.main(["--quick", "--dimension", "6", "-o", str(tmp_path)])
    assert [run.title for run in runs] == ["gp", "lp"]
    for run in runs:
        assert [row.step for row in run.history] == [0, 20, 40, 60]
        best = run.best
        assert 0.0 <= best.suboptimality_lower < best.suboptimality_upper < 0.5
        assert best.certified_dual_value < run.cost
        # Samples and mesh say the same.
        assert abs(best.dual_value - best.certified_dual_value) < 6.0 * best.standard_error
    assert [(row.pair, row.method) for row in rows] == [
        ("centred", "gp"),
        ("centred", "lp"),
        ("shifted", "gp"),
        ("shifted", "lp"),
    ]
    for row in rows:
        assert row.dimension == 6
        if row.exact is not None:
            assert row.dual.dual_value.lower(0.99) < row.exact
    assert rows[3].dual.dual_value.lower(0.99) > 1.5

    with (tmp_path / "training.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 8
    assert float(lines[-1]["suboptimality_upper"]) == runs[1].history[-1].suboptimality_upper
    stored = json.loads((tmp_path / "training.json").read_text())
    assert [run["options"]["method"] for run in stored["runs"]] == ["gp", "lp"]
    assert stored["demonstrations"][0]["exact"] == rows[0].exact
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


def test_radial_cost_is_that_of_the_solver(script: ModuleType) -> None:
    problem = ct.Problem(
        ct.Box((-1.0, -1.0), (1.0, 1.0), 32),
        ct.GaussianMixture.from_stds([[0.0, 0.0]], [0.1]),
        ct.GaussianMixture.from_stds([[0.0, 0.0]], [0.24]),
    )
    bounds = ct.solve(problem, relative_gap=1e-2).bounds
    cost = script.radial_cost(2, 0.1, 0.24, 10.0)
    assert bounds.lower * (1.0 - 2e-3) < cost < bounds.upper * (1.0 + 2e-3)
    # At λ = ∞ it is the distance of the means of |x|: √(π/2) (s₂ − s₁) in the plane.
    limit = script.radial_cost(2, 0.1, 0.24, 1e9)
    assert limit == pytest.approx(math.sqrt(math.pi / 2.0) * 0.14, rel=1e-5)
