"""The study of flows runs, and finds what its page says: chance falls, equilibrium comes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.scripts import load_script


def test_the_quick_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = load_script("study_flow").main(["--quick", "-o", str(tmp_path)])
    few, many = study.convergence
    assert many["momentum_relative_l1"] < 0.75 * few["momentum_relative_l1"]
    assert many["pushforward_relative_l1"] < 0.75 * few["pushforward_relative_l1"]
    coarse, fine = study.equilibrium
    assert fine["relative_gap"] < 0.6 * coarse["relative_gap"]
    assert fine["max_relative_excess"] < 0.6 * coarse["max_relative_excess"]
    assert fine["mean_relative_excess"] == pytest.approx(fine["relative_gap"], rel=0.5)
    assert study.critics == ()
    # At λ = ∞ the picture has next to nothing to show.
    (limit,) = study.limits
    assert len(limit["shown"]) == 6 and max(limit["shown"]) < 0.1
    stored = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert stored["equilibrium"][1]["pairs"] == fine["pairs"]
    assert "two_gaussians" in capsys.readouterr().out
