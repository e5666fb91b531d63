"""The study of couplings: its measures by hand, its numbers against what holds for every weight."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import congested as ct
from tests.scripts import load_script

ROOT = Path(__file__).parents[1]
PROBLEMS = ROOT / "scripts" / "problems"
STRENGTH = 10.0


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("study_couplings")


@pytest.fixture(scope="module")
def gaussians(
    script: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """Return the study of two Gaussians on a coarse mesh, as read from its file, and the folder."""
    folder = tmp_path_factory.mktemp("gaussians")
    problem = PROBLEMS / "two_gaussians.toml"
    names = ["independent", "optimal-2", "source", "uniform"]
    script.main([str(problem), "-o", str(folder), "--cells", "32", "--couplings", *names])
    content = json.loads((folder / "couplings.json").read_text(), parse_constant=pytest.fail)
    assert list(content["couplings"]) == names
    return content, folder


# ------------------------------------------------------------------------------- measures, by hand


def test_share_in_poorest_fills_up_cells_from_the_lowest_density(script: ModuleType) -> None:
    # The masses of σ are 1, 2 and 1: densities 0.5, 2 and 4, here in another order.
    weight, volume = np.array([2.0, 4.0, 0.5]), np.array([1.0, 0.25, 2.0])
    moved = np.array([3.0, 5.0, 2.0])
    expected = {0.0: 0.0, 0.125: 0.1, 0.25: 0.2, 0.5: 0.35, 0.75: 0.5, 1.0: 1.0}
    for part, share in expected.items():
        assert script.share_in_poorest(weight, moved, volume, part) == pytest.approx(share)


def test_share_in_poorest_of_proportional_and_of_constant_weights_is_the_part(
    script: ModuleType,
) -> None:
    random = np.random.default_rng(5)
    volume, density = random.uniform(0.5, 2.0, 40), random.uniform(0.1, 9.0, 40)
    for part in (0.01, 0.1, 0.6):
        proportional = script.share_in_poorest(density, 3.0 * density * volume, volume, part)
        constant = script.share_in_poorest(np.full(40, 0.2), density, volume, part)
        assert proportional == pytest.approx(part)
        assert constant == pytest.approx(part)


def test_cells_without_weight_hold_the_flux_of_no_part(script: ModuleType) -> None:
    weight, volume, moved = np.array([0.0, 1.0, 1.0]), np.ones(3), np.array([0.0, 1.0, 3.0])
    assert script.share_in_poorest(weight, moved, volume, 0.5) == pytest.approx(0.5)


def test_direction_error_is_one_less_cosine_against_minus_the_gradient(script: ModuleType) -> None:
    gradient = np.array([[-2.0, 0.0], [0.0, 3.0], [0.5, 0.0], [0.0, 0.0], [-1.0, -1.0]])
    right = np.tile([1.0, 0.0], (5, 1))
    errors = [0.0, 1.0, 2.0, 1.0, 1.0 - math.sqrt(0.5)]
    for cell, error in enumerate(errors):
        alone = np.eye(5)[cell]
        assert script.direction_error(gradient, right, alone) == pytest.approx(error)
    measure = np.array([1.0, 0.0, 2.0, 0.0, 1.0])
    mean = (errors[0] + 2.0 * errors[2] + errors[4]) / 4.0
    assert script.direction_error(gradient, right, measure) == pytest.approx(mean)


# ---------------------------------------------------------------------- identities of every weight


def test_wasserstein_is_between_the_bounds_and_the_lower_one_is_the_shift(
    gaussians: tuple[dict[str, Any], Path],
) -> None:
    bounds = gaussians[0]["wasserstein1"]
    # The centres are (0.4, 0.25) apart, which a linear potential sees on any mesh.
    assert math.hypot(0.4, 0.25) == pytest.approx(bounds["lower"], rel=1e-3)
    assert bounds["lower"] <= bounds["upper"] < 1.01 * bounds["lower"]
    assert bounds["exact"] is None


@pytest.mark.parametrize("name", ["independent", "optimal-2", "uniform"])
def test_every_weight_of_mass_one_keeps_the_inequalities(
    gaussians: tuple[dict[str, Any], Path], name: str
) -> None:
    content, _ = gaussians
    least = content["wasserstein1"]["lower"]
    row = content["couplings"][name]
    assert row["status"] == "solved"
    assert row["weight_mass"] == pytest.approx(1.0, abs=1e-4)
    gap = row["upper"] - row["lower"]
    assert 0.0 < gap < 0.01 * row["upper"]
    # W₁ + W₁²/(4λ) ≤ cost, with equality for σ ∝ |m| only.
    assert content["least_cost"][0] == pytest.approx(least + least**2 / (4.0 * STRENGTH))
    assert row["upper"] > content["least_cost"][0]
    # W₁ ≤ ∫|m| = L − 2P ≤ D = L − P ≤ L, and the flux says the same of L.
    assert least <= row["momentum_l1"] < row["upper"] < row["loss_of_flux"]
    assert row["critic_loss"] - 2.0 * row["penalty"] == pytest.approx(
        row["momentum_l1"], abs=4.0 * gap
    )
    assert row["critic_loss"] - row["penalty"] == pytest.approx(row["lower"], abs=1e-9)
    assert row["critic_loss"] == pytest.approx(row["loss_of_flux"], abs=4.0 * gap)
    # Cauchy and Schwarz.
    congestion = row["upper"] - row["momentum_l1"]
    efficiency = row["momentum_l1"] ** 2 / (4.0 * STRENGTH * row["weight_mass"] * congestion)
    assert row["efficiency"] == pytest.approx(efficiency, rel=1e-6)
    assert 0.0 < efficiency < 1.0 + 1e-6


def test_weights_rank_as_they_follow_the_flux(gaussians: tuple[dict[str, Any], Path]) -> None:
    independent, optimal, uniform = (
        gaussians[0]["couplings"][name] for name in ("independent", "optimal-2", "uniform")
    )
    assert optimal["upper"] < independent["lower"] < independent["upper"] < uniform["lower"]
    assert optimal["efficiency"] > 0.98 > independent["efficiency"] > 0.9
    assert uniform["efficiency"] < 0.25
    assert uniform["flux_in_poorest_tenth"] == pytest.approx(0.1, abs=1e-9)
    assert optimal["flux_in_poorest_tenth"] < independent["flux_in_poorest_tenth"]
    # The uniform weight lets mass take detours; the flux of W₁ is straight.
    assert optimal["direction_error_flux"] < 0.003 < uniform["direction_error_flux"] < 0.02


def test_what_cannot_move_is_reported_with_its_reason(
    gaussians: tuple[dict[str, Any], Path],
) -> None:
    row = gaussians[0]["couplings"]["source"]
    assert set(row) == {"status", "reason"}
    assert row["status"] == "infeasible"
    assert "of the target lies in cells where the weight vanishes" in row["reason"]


def test_table_and_picture_are_files_that_can_be_read(
    gaussians: tuple[dict[str, Any], Path],
) -> None:
    content, folder = gaussians
    with (folder / "couplings.csv").open(newline="") as file:
        rows = {row["coupling"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(content["couplings"])
    for name, row in rows.items():
        values = content["couplings"][name]
        assert row["status"] == values["status"]
        if values["status"] == "solved":
            assert float(row["upper"]) == values["upper"]
        else:
            assert row["upper"] == ""
    with Image.open(folder / "couplings.png") as picture:
        picture.load()
        # W₁ and four weights beside each other, three rows; not one colour.
        assert picture.width > 1.3 * picture.height
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 100


# ------------------------------------------------------------------------------- the published pair


def test_published_pair_knows_its_directions_and_draws_equal_weights_once(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(script, "draw", lambda file, title, numbers, columns: drawn.extend(columns))
    rows = script.main(["-o", str(tmp_path), "--cells", "16", "--couplings", "target", "uniform"])
    content = json.loads((tmp_path / "couplings.json").read_text())
    assert content["wasserstein1"]["exact"] == pytest.approx(0.82134, abs=1e-5)
    target, uniform = (row.values for row in rows)
    # Its target is the uniform law of the domain.
    assert target["upper"] == pytest.approx(uniform["upper"], rel=1e-9)
    assert [column.title.partition("\n")[0] for column in drawn] == [
        "W₁ (λ = ∞)",
        "target = uniform",
    ]
    # −∇u points the way of the exact potential, but for the tips, where a cell has all directions.
    assert target["direction_error_flux"] < 0.05
    assert 0.5 < target["flux_compared"] < 1.0


def test_a_pair_is_exact_only_with_its_own_target(script: ModuleType) -> None:
    problem = ct.Problem.from_file(PROBLEMS / "ray_monotone_d2_n4.toml")
    assert script.own_pair(problem) is problem.source.pair
    other = ct.UniformBox([-2.5, -2.5], [2.5, 2.0])
    assert script.own_pair(ct.Problem(problem.domain, problem.source, other)) is None


def test_without_congestion_there_is_nothing_to_compare(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = PROBLEMS / "two_gaussians.toml"
    with pytest.raises(SystemExit, match="2"):
        script.main([str(problem), "-o", str(tmp_path), "--penalty", "inf"])
    assert "found λ = inf" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
