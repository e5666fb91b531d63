"""Colour scales, boundaries and words of the overview."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import LogNorm, Normalize

from congested.io.arrays import ResultArrays
from congested.plot_panels import (
    Panel,
    boundary_facets,
    few_cells,
    headline,
    overview_panels,
    weight_headline,
    weighted_quantile,
)


def arrays_of(**changes: Any) -> ResultArrays:
    """Return 100 cells of volume 0.01 with plain values; their mesh does not matter here."""
    ramp = (np.arange(100) + 0.5) / 50
    values: dict[str, Any] = {
        "vertices": np.zeros((3, 2)),
        "cells": np.zeros((100, 3), dtype=np.int64),
        "cell_volume": np.full(100, 0.01),
        "flux": np.zeros((100, 3)),
        "potential": np.zeros(3),
        "momentum": np.stack([ramp, np.zeros(100)], axis=1),
        "gradient": np.tile([0.0, 1.2], (100, 1)),
        "weight": ramp.copy(),
        "source": ramp.copy(),
        "target": ramp[::-1].copy(),
        "gap_indicator": 1e-8 * ramp,
    }
    return ResultArrays(**{**values, **changes})


def panels_of(**changes: Any) -> dict[str, Panel]:
    return {panel.name: panel for panel in overview_panels(arrays_of(**changes))}


def test_values_are_what_the_titles_say() -> None:
    panels = panels_of()
    arrays = arrays_of()
    assert list(panels) == ["source", "target", "weight", "momentum", "gradient", "indicator"]
    np.testing.assert_allclose(panels["momentum"].values, arrays.momentum[:, 0], rtol=1e-15)
    np.testing.assert_allclose(panels["gradient"].values, 1.2, rtol=1e-15)
    np.testing.assert_allclose(
        panels["indicator"].values, arrays.gap_indicator / arrays.cell_volume, rtol=1e-15
    )


def test_plain_densities_are_linear_and_singular_ones_logarithmic() -> None:
    source = panels_of()["source"]
    assert type(source.norm) is Normalize
    assert source.limits == (0.0, 1.99)
    assert source.extend == "neither"
    # Half of the mass in the ramp, half of it in one cell that is a hundred times denser.
    singular = arrays_of().source.copy()
    singular[40] = 100.0
    source = panels_of(source=singular)["source"]
    assert isinstance(source.norm, LogNorm)
    assert source.limits == (0.01, 100.0)
    # A cell that stands out, but with hardly any mass, does not set the scale.
    volume = np.full(100, 0.01)
    volume[40] = 1e-6
    source = panels_of(source=singular, cell_volume=volume)["source"]
    assert type(source.norm) is Normalize
    assert source.limits == (0.0, 1.95)  # 95 % of the mass lie below
    assert source.extend == "max"


def test_weight_is_logarithmic_and_grey_where_there_is_none() -> None:
    weight = arrays_of().weight.copy()
    weight[:10] = 0.0
    weight[10] = 1e-20
    panel = panels_of(weight=weight)["weight"]
    np.testing.assert_array_equal(panel.active, weight > 0.0)
    assert isinstance(panel.norm, LogNorm)
    assert panel.limits == pytest.approx((1.99e-6, 1.99))
    assert panel.extend == "min"
    np.testing.assert_array_equal(panels_of(weight=weight)["gradient"].active, weight > 0.0)


def test_nearly_constant_weight_is_linear() -> None:
    panel = panels_of(weight=np.linspace(1.0, 2.0, 100))["weight"]
    assert type(panel.norm) is Normalize
    assert panel.limits == (0.0, 2.0)


def test_few_cells_are_points() -> None:
    values, volume = np.zeros(10_000), np.full(10_000, 1e-4)
    values[[7, 9]] = 5.0
    np.testing.assert_array_equal(few_cells(values, volume), [7, 9])
    values[:30] = 1.0  # 0.3 % of the area: that can be seen
    assert len(few_cells(values, volume)) == 0
    many = np.full(10_000, 1e-9)
    many[-1] = 1.0
    values[:] = [*np.ones(9_999), 0.0]
    assert len(few_cells(values, many)) == 0


def test_the_middle_of_the_gradient_scale_is_one() -> None:
    momentum = np.tile([1.0, 0.0], (100, 1))
    for middle, top in ((1.1, 1.2), (1.01, 5.0)):
        lengths = np.concatenate([np.full(50, 0.4), np.full(40, middle), np.full(10, top)])
        momentum[:50] = 0.0
        gradient = np.stack([np.zeros(100), -lengths], axis=1)
        norm = panels_of(gradient=gradient, momentum=momentum)["gradient"].norm
        shown = norm(np.array([0.0, 0.5, 1.0, top]))
        np.testing.assert_allclose(shown, [0.0, 0.25, 0.5, 1.0], atol=1e-12)
        values = np.array([0.0, 0.3, 1.0, middle, top])
        np.testing.assert_allclose(norm.inverse(norm(values)), values, atol=1e-12)
        # Linear, or by the square root where the top is far above the rest.
        share = (middle - 1.0) / (top - 1.0)
        expected = share if share > 0.15 else math.sqrt(share)
        assert norm(middle) == pytest.approx(0.5 + 0.5 * expected, rel=1e-12)


def test_no_flux_and_no_gap_can_be_shown() -> None:
    zeros = np.zeros(100)
    panels = panels_of(momentum=np.zeros((100, 2)), gap_indicator=zeros, weight=zeros)
    for panel in panels.values():
        low, high = panel.limits
        assert low < high
        assert np.isfinite(panel.colored(panel.values)).all()
    assert not panels["weight"].active.any()


def test_colors_beyond_the_ends_are_those_of_the_ends() -> None:
    panel = panels_of()["source"]
    low, high = panel.colored(np.array([0.0, 1.99]))
    np.testing.assert_array_equal(panel.colored(np.array([-5.0, math.nan, 9.0])), [low, low, high])


def test_weighted_quantile() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 2.0, 1.0])
    assert [weighted_quantile(values, weights, level) for level in (0.0, 0.5, 0.51, 0.75, 1.0)] == [
        1.0,
        1.0,
        2.0,
        2.0,
        3.0,
    ]


def test_boundary_of_two_triangles_and_of_two_tetrahedra() -> None:
    facets, opposite = boundary_facets(np.array([[0, 1, 2], [2, 1, 3]]))
    found = {
        (*sorted(facet), vertex) for facet, vertex in zip(facets.tolist(), opposite, strict=True)
    }
    assert found == {(0, 1, 2), (0, 2, 1), (1, 3, 2), (2, 3, 1)}
    facets, opposite = boundary_facets(np.array([[0, 1, 2, 3], [4, 3, 2, 1]]))
    found = {
        (*sorted(facet), vertex) for facet, vertex in zip(facets.tolist(), opposite, strict=True)
    }
    assert found == {
        (0, 1, 2, 3), (0, 1, 3, 2), (0, 2, 3, 1), (1, 2, 4, 3), (1, 3, 4, 2), (2, 3, 4, 1),
    }  # fmt: skip


def test_headline() -> None:
    result = {
        "title": "Two Gaussians",
        "status": "converged",
        "bounds": {
            "lower": 0.506890, "upper": 0.506947, "relative_gap": 1.13e-4, "scope": "cell-data",
        },
        "values": {"critic_loss": 0.513612, "penalty": 0.0067154, "momentum_l1": 0.50016},
        "problem": {"penalty": {"strength": 10.0}},
    }  # fmt: skip
    title, numbers = headline(result)
    assert title == "Two Gaussians"
    assert numbers.split("   ·   ") == [
        "λ = 10",
        "cost in [0.506890, 0.506947], gap 0.011 % (cell-data)",
        "L = 0.51361",
        "P = 0.0067154",
        "∫|m| = 0.50016",
    ]


@pytest.mark.parametrize(
    ("lower", "upper", "shown"),
    [
        (0.8, 1.2, "[0.80, 1.20]"),
        (12.34, 12.99, "[12.34, 12.99]"),
        (100.0, 140.0, "[100.0, 140.0]"),
        (0.5, 0.5, "[0.5, 0.5]"),
        (1.0, 1.0 + 1e-15, "[1.000000000, 1.000000001]"),
        (0.12349, 0.45671, "[0.12, 0.46]"),  # outwards: what is printed is still a bound
        (-0.45671, -0.12349, "[-0.46, -0.12]"),
    ],
)
def test_bounds_have_the_digits_that_tell_them_apart(
    lower: float, upper: float, shown: str
) -> None:
    result = {"bounds": {"lower": lower, "upper": upper, "relative_gap": 0.0}}
    assert f"cost in {shown}," in headline(result)[1]


def test_infinite_indicators_are_above_the_scale_of_the_others() -> None:
    indicator = 1e-8 * np.linspace(1.0, 100.0, 100)
    indicator[7] = np.inf
    panel = panels_of(gap_indicator=indicator)["indicator"]
    finite = np.delete(panel.values, 7)
    assert panel.limits == (finite.min(), finite.max())
    assert panel.extend == "max"


def test_headline_of_unusual_results() -> None:
    stopped = {
        "status": "stopped",
        "bounds": {"lower": 0.5, "upper": "inf"},
        "values": {"penalty": None},
        "problem": {"penalty": {"strength": "inf"}},
    }
    assert headline(stopped) == (
        "Congested transport (stopped before the gap was reached)",
        "λ = ∞   ·   cost ≥ 0.5",
    )
    apart = {"bounds": {"lower": 0.5, "upper": 2.5e71, "relative_gap": 1.0}}
    assert headline(apart)[1] == "cost in [0.5, 2.5e+71], gap 1e+02 % (cell-data)"
    assert headline({"bounds": None, "values": None, "problem": None})[1] == ""


def test_headline_of_a_weight() -> None:
    sampled = {
        "title": "Two Gaussians",
        "mass": 0.798765,
        "lost": 0.201235,
        "relative_error": 0.01234,
        "method": "sampled",
        "samples": 131072,
    }
    title, numbers = weight_headline(sampled)
    assert title == "Two Gaussians: the weight"
    assert numbers.split("   ·   ") == [
        "mass 0.79876",
        "20.1 % lost outside the domain",
        "relative error 0.012 (sampled, 131,072 segments)",
    ]
    # What has no error, no loss to speak of and no title.
    exact = {"title": "", "mass": 3.0, "lost": 1e-5, "relative_error": 0.0, "method": "measure"}
    assert weight_headline({**exact, "samples": 0}) == (
        "The weight",
        "mass 3   ·   exact (measure)",
    )
    nothing = {**exact, "mass": 0.0, "lost": 1.0, "relative_error": "inf"}
    assert "100 % lost outside the domain   ·   relative error inf" in weight_headline(nothing)[1]
