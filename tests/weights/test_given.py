"""Weights that the user gives: measures with a mass, mixtures, and which rule serves a pair."""

from __future__ import annotations

import math

import numpy as np
import pytest

from congested.errors import InputError
from congested.geometry import Cells, cells_from_arrays
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.image import Image
from congested.measures.points import Points
from congested.measures.uniform import UniformBall, UniformBox
from congested.weights.compute import cell_weight
from congested.weights.kinds import ConstantWeight, Interpolates, MeasureWeight, MixtureWeight

SOURCE = GaussianMixture.from_stds(np.array([[0.4, 0.5]]), np.array([0.05]))
TARGET = GaussianMixture.from_stds(np.array([[0.6, 0.5]]), np.array([0.04]))
BALL = UniformBall(np.array([0.5, 0.5]), 0.2)


@pytest.fixture
def cells() -> Cells:
    """Return the unit square in 2 · 8² triangles."""
    axis = np.linspace(0.0, 1.0, 9)
    vertices = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    first = (np.arange(8)[:, None] * 9 + np.arange(8)).ravel()
    lower = np.stack([first, first + 9, first + 10], axis=1)
    upper = np.stack([first, first + 10, first + 1], axis=1)
    return cells_from_arrays(vertices, np.concatenate([lower, upper]))


def test_the_mass_scales_a_measure(cells: Cells) -> None:
    weight = cell_weight(MeasureWeight(BALL, 2.5), SOURCE, TARGET, cells)
    np.testing.assert_allclose(weight.masses, 2.5 * BALL.cell_masses(cells), rtol=1e-14)
    assert weight.mass == pytest.approx(2.5, rel=1e-12)
    assert weight.lost == pytest.approx(0.0, abs=1e-12)
    assert (weight.method, weight.standard_errors) == ("measure", None)


def test_what_a_measure_has_outside_is_lost_with_its_mass(cells: Cells) -> None:
    box = UniformBox(np.array([0.5, 0.5]), np.array([1.5, 1.0]))
    weight = cell_weight(MeasureWeight(box, 4.0), SOURCE, TARGET, cells)
    assert (weight.mass, weight.lost) == (pytest.approx(2.0), pytest.approx(2.0))
    # Half of a part of share 0.25, and nothing of the rest.
    mixture = MixtureWeight((MeasureWeight(box, 4.0), ConstantWeight(2.0)), (0.25, 0.75))
    weight = cell_weight(mixture, SOURCE, TARGET, cells)
    assert (weight.mass, weight.lost) == (pytest.approx(2.0), pytest.approx(0.5))


@pytest.mark.parametrize("mass", [0.0, -1.0, math.inf, math.nan])
def test_masses_that_are_no_masses(mass: float) -> None:
    with pytest.raises(InputError, match=rf"weight\.mass: found {mass:g}; allowed: > 0"):
        MeasureWeight(BALL, mass)


def test_the_integral_of_an_image_is_that_of_its_values() -> None:
    # Two pixels of area 0.5 · 0.25.
    image = Image(np.array([[3.0], [5.0]]), np.array([0.0, 0.0]), np.array([1.0, 0.25]))
    assert image.integral == pytest.approx(8.0 * 0.125, rel=1e-15)
    voxel = Image(np.full((1, 2, 1), 2.0), np.zeros(3), np.array([1.0, 2.0, 3.0]))
    assert voxel.integral == pytest.approx(12.0, rel=1e-15)


def test_a_mixture_is_the_sum_of_its_parts(cells: Cells) -> None:
    sampled = Interpolates(samples=1024, rule="segments")
    parts = (Interpolates(), sampled, Interpolates(coupling="source"), ConstantWeight(3.0))
    alone = [cell_weight(part, SOURCE, TARGET, cells) for part in parts]
    assert [part.method for part in alone] == ["closed-form", "sampled", "measure", "constant"]
    shares = (0.4, 0.3, 0.2, 0.1)
    weight = cell_weight(MixtureWeight(parts, shares), SOURCE, TARGET, cells)
    expected = sum(share * part.masses for share, part in zip(shares, alone, strict=True))
    np.testing.assert_allclose(weight.masses, expected, rtol=1e-13)
    assert weight.mass == pytest.approx(0.9 + 0.3, abs=1e-6)
    # Only the sampled part has an error to speak of.
    assert weight.standard_errors is not None
    assert alone[1].standard_errors is not None
    np.testing.assert_allclose(weight.standard_errors, 0.3 * alone[1].standard_errors, atol=1e-16)
    assert alone[1].standard_errors.sum() == pytest.approx(alone[1].relative_error, rel=1e-12)
    assert [part["method"] for part in weight.details["parts"]] == [part.method for part in alone]


def test_rules_that_are_asked_for(cells: Cells) -> None:
    assert cell_weight(Interpolates(rule="closed-form"), SOURCE, TARGET, cells).samples == 0
    forced = cell_weight(Interpolates(rule="segments", samples=1024), SOURCE, TARGET, cells)
    assert (forced.method, forced.samples) == ("sampled", 1024)
    with pytest.raises(InputError) as caught:
        cell_weight(Interpolates(rule="closed-form"), BALL, TARGET, cells)
    assert str(caught.value) == (
        'weight.rule: found "closed-form", which is not available for UniformBall and '
        'GaussianMixture in 2D; allowed: "auto" or "rays" or "raster" or "segments"'
    )


def test_mistakes_in_a_part_are_placed(cells: Cells) -> None:
    far = MeasureWeight(Points(np.array([[0.5, 0.5], [2.0, 0.5]])))
    with pytest.raises(InputError, match=r"^weight\.points: found 1 of 2 points outside"):
        cell_weight(far, SOURCE, TARGET, cells)
    with pytest.raises(InputError, match=r"^weight\.parts\[1\]\.points: found 1 of 2 points"):
        cell_weight(MixtureWeight((ConstantWeight(), far)), SOURCE, TARGET, cells)
    solid = MeasureWeight(UniformBall(np.zeros(3), 1.0))
    with pytest.raises(InputError, match=r"^weight\.parts\[0\]: found dimension 3; allowed: 2"):
        cell_weight(MixtureWeight((solid,)), SOURCE, TARGET, cells)
    # What is wrong with the source is said of the source.
    source = UniformBall(np.zeros(3), 1.0)
    with pytest.raises(InputError, match=r"^source: found dimension 3"):
        cell_weight(MixtureWeight((Interpolates(),)), source, TARGET, cells)
