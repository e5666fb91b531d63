"""The study of λ: its bounds by hand where all is known, and what they must satisfy where not."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from congested.critics.network import Network
from tests.scripts import load_script

# A flux of 0.7 along a road of length one whose weight has the density 0.4: A = 0.7, B = 1.225.
FLUX, DENSITY = 0.7, 0.4
CONGESTION = FLUX**2 / DENSITY


@pytest.fixture(scope="module")
def bounds() -> ModuleType:
    return load_script("lambda_bounds")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return the quick study, and its folder."""
    folder = tmp_path_factory.mktemp("lambda")
    return load_script("study_lambda").main(["--quick", "-o", str(folder)]), folder


def road(bounds: ModuleType, strength: float) -> Any:
    slope = 1.0 + FLUX / (2.0 * strength * DENSITY)
    return bounds.Trial(
        strength, FLUX, CONGESTION, FLUX * slope, np.full(3, slope), np.full(3, DENSITY / 3), slope
    )


# ---------------------------------------------------------------------------------------- by hand


def test_a_straight_road_is_known_exactly_from_one_solve(bounds: ModuleType) -> None:
    envelope = bounds.envelope_of([road(bounds, 10.0)], bounds.Interval(FLUX, FLUX))
    for strength in (0.5, 3.0, 10.0, 200.0):
        one = envelope.enclose(strength)
        penalty = CONGESTION / (4.0 * strength)
        for interval, exact in (
            (one.dual_value, FLUX + penalty),
            (one.critic_loss, FLUX + 2.0 * penalty),
            (one.penalty, penalty),
            (one.momentum_l1, FLUX),
            (one.bias, 0.0),
        ):
            assert interval.lower == pytest.approx(exact, abs=1e-7)
            assert interval.upper == pytest.approx(exact, abs=1e-7)


def test_chords_enclose_the_slope_of_a_curve_that_is_known(bounds: ModuleType) -> None:
    # Two equal roads of length one and two, of weight 0.4 and 4: the share y on the longer one is
    # chosen by cost, and the lower bounds are those of the optimal potential.
    def optimum(strength: float) -> tuple[float, float]:
        s = 0.25 / strength
        share = min(max((2.0 * s / DENSITY - 1.0) / (2.0 * s * (1.0 / DENSITY + 0.5)), 0.0), 1.0)
        return share, 1.0 - share

    trials = []
    for strength in (0.02, 0.05, 0.1, 0.2, 0.5, 5.0):
        long, short = optimum(strength)
        # The long road has the mass 8 of σ, the density 4 on a length of two.
        congestion = short**2 / DENSITY + 2.0 * long**2 / 4.0
        length = short + 2.0 * long
        drop = 1.0 + short / (2.0 * strength * DENSITY)
        slopes = np.array([drop, drop / 2.0])
        masses = np.array([DENSITY, 8.0])
        trials.append(bounds.Trial(strength, length, congestion, drop, slopes, masses, float(drop)))
    envelope = bounds.envelope_of(trials, bounds.Interval(1.0, 1.0))
    for trial in trials:
        s = 0.25 / trial.strength
        value = envelope.value(s)
        # Strong duality for each trial.
        assert value.lower == pytest.approx(value.upper, rel=1e-9)
        one = envelope.enclose(trial.strength)
        assert one.penalty.lower <= s * trial.congestion + 1e-9
        assert one.penalty.upper >= s * trial.congestion - 1e-9
        assert one.momentum_l1.lower <= trial.length + 1e-9
        assert one.momentum_l1.upper >= trial.length - 1e-9
        assert one.penalty.upper - one.penalty.lower < 0.1 * s * trial.congestion


@pytest.mark.parametrize("own", [0.0, 0.3, 0.9, 1.0, 1.4, 3.0])
def test_the_error_of_a_reading_is_bounded_and_the_bound_is_attained(
    bounds: ModuleType, own: float
) -> None:
    # A critic of slope 1 + e on the road: its suboptimality is λσ(e − e*)² exactly.
    strength = 2.0
    best = FLUX / (2.0 * strength * DENSITY)
    excess = own * best
    penalty = strength * DENSITY * excess**2
    lack = strength * DENSITY * (excess - best) ** 2
    error = FLUX * (1.0 + excess) - 2.0 * penalty - FLUX
    interval = bounds.reading_error(penalty, lack)
    assert interval.lower - 1e-12 <= error <= interval.upper + 1e-12
    if own <= 1.0:
        assert error == pytest.approx(interval.upper, abs=1e-12)
    else:
        assert error == pytest.approx(interval.lower, abs=1e-12)


# -------------------------------------------------------------------------------------- the study


def test_identities_and_monotony_hold_for_two_gaussians(study: tuple[Any, Path]) -> None:
    found, _ = study
    wasserstein = found.envelope.wasserstein
    # The centres are (0.4, 0.25) apart.
    assert wasserstein.lower <= math.hypot(0.4, 0.25) * 1.003
    assert wasserstein.upper >= math.hypot(0.4, 0.25)
    rows = found.enclosures
    for one in rows:
        for name in ("dual_value", "critic_loss", "penalty", "momentum_l1", "bias"):
            interval = getattr(one, name)
            assert interval.lower <= interval.upper
        assert wasserstein.lower <= one.momentum_l1.lower
        assert one.momentum_l1.upper <= one.dual_value.upper <= one.critic_loss.upper
    for first, second in itertools.pairwise(rows):
        # L, D, P and ∫|m| fall as λ grows: no interval lies above an earlier one.
        for name in ("dual_value", "critic_loss", "penalty", "momentum_l1"):
            assert getattr(second, name).lower <= getattr(first, name).upper
    # At λ = 10 the critic loss is proved to be 1.5 % above W₁, and L − 2P within 1 %.
    ten = next(one for one in rows if one.strength == 10.0)
    assert ten.critic_loss.lower > 1.015 * wasserstein.upper
    assert ten.bias.upper < 0.01 * wasserstein.upper


def test_enclosures_agree_with_the_distance_of_the_flux_from_the_optimum(
    study: tuple[Any, Path],
) -> None:
    # By strong convexity √(s B) of a flux is within the root of the gap of √P: a proof by other
    # means, so that the two intervals meet.
    found, _ = study
    for one, trial in zip(found.enclosures, found.envelope.trials, strict=False):
        s = 0.25 / trial.strength
        assert trial.strength == one.strength
        root = math.sqrt(trial.upper(s) - trial.lower(s))
        own = math.sqrt(s * trial.congestion)
        assert one.penalty.lower <= (own + root) ** 2
        assert one.penalty.upper >= max(own - root, 0.0) ** 2


def test_readings_are_as_near_as_their_suboptimality_promises(study: tuple[Any, Path]) -> None:
    pytest.importorskip("torch")
    found, _ = study
    assert [one.method for one in found.readings] == ["gp", "lp"]
    for one in found.readings:
        enclosure = next(row for row in found.enclosures if row.strength == one.strength)
        assert one.momentum_l1 - one.momentum_l1_error.upper <= enclosure.momentum_l1.upper
        assert one.momentum_l1 - one.momentum_l1_error.lower >= enclosure.momentum_l1.lower
        assert one.wasserstein.lower <= found.envelope.wasserstein.upper
        assert one.wasserstein.upper >= found.envelope.wasserstein.lower
        assert one.lipschitz <= found.envelope.wasserstein.upper
    # 300 steps of width 16: L − 2P is within 2 % of W₁, where L is 2 % and more above.
    lp = found.readings[1]
    assert lp.momentum_l1 == pytest.approx(found.envelope.wasserstein.middle, rel=0.02)


def test_table_and_picture_are_files_that_can_be_read(study: tuple[Any, Path]) -> None:
    found, folder = study
    content = json.loads((folder / "lambda.json").read_text(), parse_constant=pytest.fail)
    assert [one["strength"] for one in content["strengths"]] == [0.3, 3.0, 10.0, 100.0]
    with (folder / "lambda.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[2]["critic_loss_upper"]) == found.enclosures[2].critic_loss.upper
    with Image.open(folder / "lambda.png") as picture:
        picture.load()
        assert picture.width > picture.height


# ---------------------------------------------------------------------------- published critics


def test_published_critics_that_are_not_there_are_left_out_with_a_reason(
    study: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = study
    monkeypatch.setenv("CONGESTED_PUBLISHED", str(tmp_path))
    script = load_script("study_lambda")
    readings, notes = script.read_all(
        None, found.envelope, {}, (), script.Effort(), True, script.Console(quiet=True)
    )
    assert readings == []
    assert notes == [f"no published critics in {tmp_path} ($CONGESTED_PUBLISHED)"]


def test_published_critics_are_read_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    readings = load_script("critic_readings")
    folder = tmp_path / readings.PAIR / "critics"
    folder.mkdir(parents=True)
    layer = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    torch.save(layer.state_dict(), folder / "method_wgan-lp.pt")
    monkeypatch.setenv("CONGESTED_PUBLISHED", str(tmp_path))
    found = list(readings.published_critics())
    assert [method for method, _ in found] == ["lp"]
    assert isinstance(found[0][1], Network)


@pytest.mark.parametrize("flag", ["--strengths", "--trained"])
def test_w1_has_no_lambda_of_its_own(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        load_script("study_lambda").main([flag, "inf", "-o", str(tmp_path / "new")])
    assert "positive and finite" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
