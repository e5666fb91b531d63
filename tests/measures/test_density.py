"""Measures with any density: masses, their error, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from congested.errors import InputError, NotConverged
from congested.measures.base import restricted_masses
from congested.measures.density import DensityMeasure
from congested.measures.gaussian_mixture import GaussianMixture


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_polynomial_density_has_exact_masses(box_cells, dimension):
    measure = DensityMeasure(lambda x: 2.0 * x[:, 0], [0.0] * dimension, [1.0] * dimension)
    cells = box_cells([0] * dimension, [1] * dimension, 3)
    exact = 2.0 * cells.midpoint[:, 0] * cells.volume
    np.testing.assert_allclose(measure.cell_masses(cells), exact, rtol=1e-13)
    assert measure.dimension == dimension


def test_the_density_ends_at_the_box_exactly(box_cells):
    # The box cuts through cells; the linear density is integrated exactly all the same.
    measure = DensityMeasure(lambda x: 8.0 * x[:, 0] / 0.9, [0.11, 0.2], [0.61, 0.825], 2)
    cells = box_cells([0, 0], [1, 1], 7)
    total = 8.0 / 0.9 * (0.61**2 - 0.11**2) / 2 * 0.625
    assert measure.cell_masses(cells).sum() == pytest.approx(total, rel=1e-13)
    np.testing.assert_array_equal(measure.density(np.array([[0.1, 0.5], [0.5, 0.9]])), 0.0)


def test_masses_agree_with_those_of_a_gaussian_mixture(box_cells):
    mixture = GaussianMixture.from_stds([[0.4, 0.5], [0.6, 0.7]], [0.05, 0.02])
    measure = DensityMeasure(mixture.density, *mixture.bounds())
    cells = box_cells([0, 0], [1, 1], 12)
    difference = measure.cell_masses(cells, 1e-9) - mixture.cell_masses(cells)
    assert np.abs(difference).sum() <= 1.1e-9


def test_a_density_with_another_mass_than_one_is_refused(box_cells):
    cells = box_cells([0, 0], [1, 1], 2)
    twice = DensityMeasure(lambda x: 2.0 + 0.0 * x[:, 0], [0.0, 0.0], [1.0, 1.0])
    with pytest.raises(InputError, match="source: found the total mass 2"):
        restricted_masses(twice, cells, "source")
    negative = DensityMeasure(lambda x: 3.0 - 4.0 * x[:, 0], [0.0, 0.0], [1.0, 1.0])
    with pytest.raises(InputError, match="source: found a cell mass that is -"):
        restricted_masses(negative, cells, "source")


def test_a_jump_inside_the_cells_stops_at_the_limit_of_memory(box_cells, monkeypatch):
    monkeypatch.setattr("congested.quadrature._NUMBERS_OF_PIECES", 1 << 16)
    jump = DensityMeasure(lambda x: 1.0 * (x[:, 0] < 0.3), [0.0, 0.0], [1.0, 1.0])
    with pytest.raises(NotConverged, match=r"adaptive quadrature stopped .* one near \[0.3"):
        jump.cell_masses(box_cells([0, 0], [1, 1], 2))


def test_mistakes_are_named(box_cells):
    cells = box_cells([0, 0], [1, 1], 2)
    with pytest.raises(InputError, match=r"upper: .*larger than lower"):
        DensityMeasure(np.ones_like, [0.0, 0.0], [1.0, 0.0])
    with pytest.raises(InputError, match="lower: found an array of shape"):
        DensityMeasure(np.ones_like, [0.0, 0.0], [1.0, 1.0], 3)
    with pytest.raises(InputError, match=r"function: found 1\.0"):
        DensityMeasure(1.0, [0.0, 0.0], [1.0, 1.0])
    with pytest.raises(InputError, match=r"density: .*not finite"):
        DensityMeasure(lambda x: x[:, 0] * np.inf, [0.1, 0.1], [1.0, 1.0]).cell_masses(cells)
    with pytest.raises(InputError, match="cannot be sampled"):
        DensityMeasure(np.ones_like, [0.0, 0.0], [1.0, 1.0]).sample(np.zeros((1, 2)))
