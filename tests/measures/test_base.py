"""Restriction to the domain, and errors that every rank sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from mpi4py import MPI

from congested.errors import InputError
from congested.measures.base import normalised_weights, restricted_masses, run_collectively
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.uniform import UniformBox


@dataclass
class GivenMasses:
    """A measure with the cell masses it is given."""

    masses: np.ndarray
    dimension: int = 2

    def cell_masses(self, cells, tolerance=1e-10):
        return self.masses


def test_mass_inside_is_renormalised_and_the_rest_recorded(box_cells):
    cells = box_cells([0, 0], [1, 1], 4)
    measure = UniformBox([0.0, 0.0], [1.005, 1.0])
    restricted = restricted_masses(measure, cells, "source")
    assert restricted.masses.sum() == pytest.approx(1.0, abs=1e-15)
    assert restricted.outside == pytest.approx(1 - 1 / 1.005, abs=1e-15)
    np.testing.assert_allclose(restricted.masses, 1 / 32, rtol=1e-14)


def test_nothing_is_outside_for_a_measure_inside(box_cells):
    measure = GaussianMixture.from_stds([[0.5, 0.5]], 0.05)
    restricted = restricted_masses(measure, box_cells([0, 0], [1, 1], 8), "source")
    assert 0 <= restricted.outside < 1e-10


def test_too_much_mass_outside_names_the_measure_and_the_share(box_cells):
    measure = UniformBox([0.0, 0.0], [2.0, 1.0])
    with pytest.raises(InputError, match=r"^target: found 50 % of the mass outside .* 1 %"):
        restricted_masses(measure, box_cells([0, 0], [1, 1], 4), "target")


def test_wrong_dimension_names_the_measure(box_cells):
    measure = UniformBox([0.0] * 3, [1.0] * 3)
    with pytest.raises(InputError, match=r"^source: found dimension 3, allowed 2"):
        restricted_masses(measure, box_cells([0, 0], [1, 1], 2), "source")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.nan, "not a finite number"),
        (np.inf, "not a finite number"),
        (-0.1, "-0.1"),
        (0.2, "total mass 1.075"),
    ],
)
def test_masses_that_are_none_are_named(box_cells, wrong, message):
    masses = np.full(8, 1 / 8)
    masses[3] = wrong
    with pytest.raises(InputError, match=message):
        restricted_masses(GivenMasses(masses), box_cells([0, 0], [1, 1], 2), "source")


def test_tiny_negative_masses_are_clipped(box_cells):
    masses = np.full(8, 1 / 8)
    masses[3], masses[4] = -1e-9, 1 / 4
    restricted = restricted_masses(GivenMasses(masses), box_cells([0, 0], [1, 1], 2), "source")
    assert restricted.masses[3] == 0.0
    assert restricted.masses.sum() == pytest.approx(1.0, abs=1e-15)


def test_an_error_on_one_rank_is_raised_on_all():
    comm = MPI.COMM_WORLD

    def compute():
        if comm.rank == comm.size - 1:
            raise InputError("found nothing", key="means")
        return 1

    with pytest.raises(InputError, match="means: found nothing"):
        run_collectively(comm, compute)
    assert run_collectively(comm, lambda: comm.rank) == comm.rank


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.6], "sum 1.1"),
        ([1.5, -0.5], "-0.5 at position 1"),
        ([1.0], r"shape \(1,\)"),
        ([0.5, float("nan")], "not finite"),
        (["0.5", "0.5"], "numbers >= 0"),
    ],
)
def test_weights_that_are_no_probabilities(weights, message):
    with pytest.raises(InputError, match=message):
        normalised_weights(weights, 2)


def test_weights_are_normalised_within_the_allowance():
    weights = normalised_weights([0.5, 0.5 + 5e-7], 2)
    assert weights.sum() == pytest.approx(1.0, abs=1e-15)
    np.testing.assert_array_equal(normalised_weights(None, 4), 0.25)
