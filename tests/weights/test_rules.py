"""The rules against brute force, against each other, and the honesty of the errors they state."""

from __future__ import annotations

import numpy as np
import pytest

from congested.errors import InputError
from congested.geometry import Cells, split_simplices
from congested.measures.gaussian_mixture import GaussianMixture
from congested.weights import raster
from congested.weights.base import CellWeight
from congested.weights.compute import cell_weight
from congested.weights.kinds import Interpolates
from tests.weights.pairs import BRUTE_FORCE, pairs

PAIRS = pairs()
RULES = {
    "discs": ("rays", "raster", "segments"),
    "box-gauss": ("rays", "segments"),
    "overlapping": ("rays", "raster", "segments"),
    "points-disc": ("rays", "segments"),
    "gauss-points": ("rays", "segments"),
    "funnels": ("rays", "segments"),
    "images": ("raster", "segments"),
    "image-gauss": ("raster", "segments"),
    "balls": ("segments",),
    "points-box": ("segments",),
}
# Mean of (count − expected)²/variance where the rule's own error is larger than that of 10⁸ draws.
CHI_SQUARED = {
    ("funnels", "rays"): 5.0,
    ("discs", "raster"): 10.0,
    ("images", "raster"): 15.0,
    ("image-gauss", "raster"): 10.0,
}
# What `auto` takes, and the error that it is to state at most.
AUTO = {
    "discs": ("rays", 3e-4),
    "funnels": ("rays", 2e-3),
    "images": ("raster", 2e-3),
    "balls": ("sampled", 2e-2),
}


@pytest.fixture(scope="module")
def computed() -> dict[tuple[str, str], CellWeight]:
    """The weight of every pair by every rule that serves it."""

    def asked(name: str, rule: str) -> Interpolates:
        if rule == "segments":
            return Interpolates(rule=rule, samples=1 << 19)
        if name in AUTO and rule == AUTO[name][0] and name != "discs":
            return Interpolates()
        # Of rays as much is asked that 10⁸ draws see no difference, but of the dear funnels. The
        # error of most rasters is that of their pixels, whatever is asked for.
        tolerance = None if name == "overlapping" else 5e-3
        return Interpolates(rule=rule, tolerance=1e-4 if rule == "rays" else tolerance)

    return {
        (name, rule): cell_weight(asked(name, rule), *PAIRS[name])
        for name, rules in RULES.items()
        for rule in rules
    }


CASES = [(name, rule) for name, rules in RULES.items() for rule in rules]


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_a_hundred_million_draws(
    computed: dict[tuple[str, str], CellWeight], name: str, rule: str
) -> None:
    """Counts scatter like Poisson numbers about 10⁸ σ_T; so does what is left of them."""
    with np.load(BRUTE_FORCE) as file:
        counts, draws = file[name].astype(np.float64), float(file["draws"])
    weight = computed[name, rule]
    expected = draws * weight.masses
    full = expected > 100.0
    assert full.sum() > 60
    variance = expected.copy()
    if weight.replicates is not None:
        # Segments scatter themselves; the error of the deterministic rules is asserted apart.
        spread = weight.replicates.var(axis=0, ddof=1) / len(weight.replicates)
        variance += draws**2 * spread
    squares = (counts[full] - expected[full]) ** 2 / variance[full]
    assert squares.mean() < CHI_SQUARED.get((name, rule), 1.2)
    # Where the weight has nothing nothing was drawn, but for the rim of its support.
    assert counts[expected < 1e-3].sum() < 1e-5 * draws
    # The mean of |error| is √(2/π) standard deviations.
    scatter = 0.8 * np.sqrt(variance).sum() / draws
    assert np.abs(counts / draws - weight.masses).sum() < 1.15 * scatter + weight.relative_error


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_mass_is_one_to_the_error_stated(
    computed: dict[tuple[str, str], CellWeight], name: str, rule: str
) -> None:
    weight = computed[name, rule]
    # Gaussians reach out of the square: 1e-6 of them.
    allowance = 2e-6 if "gauss" in name else 1e-12
    error = 1e-12 if rule == "segments" else 2.0 * weight.relative_error
    assert weight.mass == pytest.approx(1.0, abs=error + allowance)
    assert weight.masses.min() >= 0.0


@pytest.mark.parametrize(
    ("name", "finest"),
    [("discs", 2e-5), ("box-gauss", 1e-4), ("points-disc", 2e-5), ("gauss-points", 2e-5)],
)
def test_measured_error_is_honest(
    computed: dict[tuple[str, str], CellWeight], name: str, finest: float
) -> None:
    """Many times the accuracy shows the error that was stated, up to a factor of two."""
    fine = computed[name, "rays"]
    if finest < 1e-4:
        fine = cell_weight(Interpolates(rule="rays", tolerance=finest), *PAIRS[name])
    assert fine.relative_error <= finest
    for tolerance in (1e-2, 2e-3):
        coarse = cell_weight(Interpolates(rule="rays", tolerance=tolerance), *PAIRS[name])
        error = np.abs(coarse.masses - fine.masses).sum()
        assert coarse.relative_error <= tolerance
        assert fine.relative_error < 0.3 * coarse.relative_error
        assert error < 2.0 * coarse.relative_error + fine.relative_error
        assert coarse.errors is not None
        assert coarse.errors.sum() == pytest.approx(coarse.relative_error * coarse.mass)
        assert np.count_nonzero(coarse.errors) < 400


def test_rules_for_densities_agree(computed: dict[tuple[str, str], CellWeight]) -> None:
    rays, raster = computed["overlapping", "rays"], computed["overlapping", "raster"]
    assert np.abs(rays.masses - raster.masses).sum() < 1e-3
    assert raster.details["directions"] >= 256


def test_rays_agree_with_the_closed_form_of_gaussians() -> None:
    source = GaussianMixture.from_stds([[0.3, 0.4]], [0.07])
    target = GaussianMixture.from_stds([[0.6, 0.7]], [0.05])
    cells = PAIRS["discs"][2]
    exact = cell_weight(Interpolates(), source, target, cells)
    rays = cell_weight(Interpolates(rule="rays"), source, target, cells)
    assert (exact.method, rays.method) == ("closed-form", "rays")
    assert np.abs(rays.masses - exact.masses).sum() < 3.0 * rays.relative_error
    assert rays.relative_error < 3e-4


@pytest.mark.parametrize(("name", "expected"), AUTO.items())
def test_the_rule_is_chosen_by_the_pair(
    computed: dict[tuple[str, str], CellWeight], name: str, expected: tuple[str, float]
) -> None:
    method, largest = expected
    # The dear ones were computed without naming the rule.
    weight = computed.get((name, method))
    if weight is None or name == "discs":
        weight = cell_weight(Interpolates(), *PAIRS[name])
    assert weight.method == method
    assert 0.0 < weight.relative_error < largest


@pytest.mark.parametrize(
    ("name", "rule"), [("discs", "rays"), ("gauss-points", "rays"), ("images", "raster")]
)
def test_a_refined_mesh_has_the_same_masses(
    computed: dict[tuple[str, str], CellWeight], name: str, rule: str
) -> None:
    source, target, cells = PAIRS[name]
    fine = Cells(cells.comm, split_simplices(cells.simplices), cells.lower, cells.upper)
    coarse = computed[name, rule]
    summed = cell_weight(Interpolates(), source, target, fine)
    difference = np.abs(summed.masses.reshape(cells.number, -1).sum(axis=1) - coarse.masses).sum()
    assert difference < 2.0 * (coarse.relative_error + summed.relative_error)


def test_swapping_the_measures_changes_nothing() -> None:
    source, target, cells = PAIRS["gauss-points"]
    one = cell_weight(Interpolates(rule="rays"), source, target, cells)
    other = cell_weight(Interpolates(rule="rays"), target, source, cells)
    np.testing.assert_array_equal(one.masses, other.masses)


@pytest.mark.parametrize(
    ("name", "rule", "allowed"),
    [
        ("discs", "closed-form", '"rays" or "raster" or "segments"'),
        ("images", "rays", '"raster" or "segments"'),
        ("points-disc", "raster", '"rays" or "segments"'),
        ("balls", "rays", '"segments"'),
        ("balls", "raster", '"segments"'),
    ],
)
def test_rules_that_do_not_serve_are_refused(name: str, rule: str, allowed: str) -> None:
    found = rf'weight\.rule: found "{rule}", .*allowed: "auto" or {allowed}'
    with pytest.raises(InputError, match=found):
        cell_weight(Interpolates(rule=rule), *PAIRS[name])


def test_what_a_rule_misses_is_not_mass_outside(
    computed: dict[tuple[str, str], CellWeight],
) -> None:
    """Everything is inside; mass that is missing within the error is no loss."""
    for name, rule in (("box-gauss", "rays"), ("points-disc", "rays"), ("images", "raster")):
        weight = computed[name, rule]
        assert weight.lost == 0.0
        assert abs(weight.mass - 1.0) <= weight.relative_error
    assert any(computed[case].mass < 1.0 for case in computed if case[1] in ("rays", "raster"))


def test_a_raster_ends_where_a_tolerance_is_out_of_reach(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what it has reached, and a part of that for every place."""
    monkeypatch.setattr(raster, "_PIXELS", 32)
    monkeypatch.setattr(raster, "_DIRECTIONS", 16)
    monkeypatch.setattr(raster, "_LEAST_TOLERANCE", 5e-3)
    with caplog.at_level("WARNING"):
        weight = cell_weight(Interpolates(rule="raster", tolerance=1e-7), *PAIRS["images"])
    assert "not 1e-07, with 64 directions" in caplog.text
    assert weight.relative_error >= 5e-3
    assert weight.unlocated_error == pytest.approx(5e-3 * weight.mass)


def test_samples_go_with_segments_only(caplog: pytest.LogCaptureFixture) -> None:
    for rule in ("closed-form", "rays", "raster"):
        with pytest.raises(InputError, match=rf'samples: found 9; .* rule = "{rule}" has no segm'):
            Interpolates(rule=rule, samples=9)
    assert cell_weight(Interpolates(samples=4096), *PAIRS["discs"]).method == "sampled"
    gaussian = GaussianMixture.from_stds([[0.4, 0.5]], [0.1])
    with caplog.at_level("WARNING"):
        weight = cell_weight(Interpolates(samples=9), gaussian, gaussian, PAIRS["discs"][2])
    assert weight.method == "closed-form"
    assert "weight.samples = 9 is not used" in caplog.text


def test_too_many_points_take_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    from congested.weights import compute

    monkeypatch.setattr(compute, "MOST_SECONDS", 1e-6)
    source, target, cells = PAIRS["points-disc"]
    assert cell_weight(Interpolates(), source, target, cells).method == "sampled"
