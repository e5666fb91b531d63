"""Flows of momenta that do not balance: mass is made and lost where the divergence says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from congested.errors import InputError
from congested.flow.means import flow_field_of_means, imbalance, imbalance_at_scales
from congested.flow.simulate import Plan, simulate
from congested.flow.statistics import statistics
from tests.critics.references import reference
from tests.flow.fields import radial_field

SELF = MPI.COMM_SELF


@pytest.mark.parametrize("name", ["plane", "closed", "cube"])
def test_the_flux_of_the_means_has_no_flow_through_walls(name: str) -> None:
    arrays = reference(name).arrays
    assert arrays is not None
    field = flow_field_of_means(arrays, 10.0, np.ones((len(arrays.cells), arrays.dimension)))
    assert (field.flux[field.neighbours < 0] == 0.0).all()
    empty = arrays.weight == 0.0
    assert empty.any() == (name == "closed")
    assert (field.flux[empty] == 0.0).all()
    # What flows out of one cell flows into the next; all of it sums to nothing.
    assert field.flux.sum() == pytest.approx(0.0, abs=1e-12)
    created, lost = imbalance(field)
    assert created == pytest.approx(lost, abs=1e-12) and lost > 0.5


def test_means_of_a_conservative_momentum_balance_to_first_order() -> None:
    lost = []
    for cells in (8, 16, 32):
        exact = radial_field(2, cells, (0.1, 0.16))
        arrays = reference("plane").arrays
        assert arrays is not None
        arrays = replace(
            arrays,
            vertices=exact.vertices,
            cells=exact.cells,
            source=exact.source,
            target=exact.target,
            weight=np.ones(len(exact.cells)),
        )
        means = exact.momentum / exact.volume[:, None]
        lost.append(imbalance(flow_field_of_means(arrays, 10.0, means))[1])
    assert lost[0] > 1.6 * lost[1] and lost[1] > 1.6 * lost[2] and lost[2] < 0.1, lost


def test_a_critic_that_moves_nothing_loses_the_source_where_it_is() -> None:
    arrays = reference("plane").arrays
    assert arrays is not None
    field = flow_field_of_means(arrays, 10.0, np.zeros((len(arrays.cells), 2)))
    difference = field.volume * (field.source - field.target)
    missing = 0.5 * np.abs(difference).sum()
    assert imbalance(field) == pytest.approx((missing, missing))
    plan = Plan(50_000)
    tally = simulate(field, plan, SELF)
    found = statistics(field, plan, tally)
    assert found.most_crossings == 0 and found.length.value == 0.0
    assert math.isnan(found.momentum_error.value) and math.isnan(found.exponent)
    # What particles lose, cell by cell, is what the divergence lacks there.
    loss = np.maximum(difference, 0.0)
    np.testing.assert_allclose(tally.exchanged[:, 1], loss, atol=5.0 * np.sqrt(1e-5 / 50))
    assert found.mass["lost"] == pytest.approx(missing, rel=0.01)
    assert found.mass["end"] == pytest.approx(
        found.mass["start"] + found.mass["created"] - found.mass["lost"], abs=1e-12
    )


def test_particles_find_the_imbalance_that_the_flux_has() -> None:
    """Half of the momentum of a solution: it carries too little, and particles tell how much."""
    arrays = reference("plane").arrays
    assert arrays is not None
    field = flow_field_of_means(arrays, 10.0, 0.5 * arrays.momentum)
    plan = Plan(200_000)
    tally = simulate(field, plan, SELF)
    found = statistics(field, plan, tally)
    loss = np.maximum(-field.volume * field.growth, 0.0)
    assert np.abs(tally.exchanged[:, 1] - loss).sum() < 0.05 * loss.sum()
    np.testing.assert_allclose(tally.displacement, field.momentum, atol=0.02 * 0.01)
    assert found.momentum_error.value < 0.02
    # Paths are as long as the momentum is large, if the mass at each point counts.
    assert abs(found.length.value - field.momentum_l1) < 4.0 * found.length.standard_error
    cost = 2.0 * field.integrals[0] - field.integrals[1]
    assert abs(found.cost.value - cost) < 4.0 * found.cost.standard_error
    assert found.length.standard_error < 0.01 * field.momentum_l1
    assert 0.05 * 200_000 < found.effective < 200_000
    balance = found.mass["start"] + found.mass["created"] - found.mass["lost"]
    assert found.mass["end"] == pytest.approx(balance, abs=1e-12)


def test_what_cancels_within_a_box_does_not_count_at_its_scale() -> None:
    arrays = reference("plane").arrays
    assert arrays is not None
    noise = np.random.default_rng(0).normal(size=arrays.momentum.shape)
    noisy = imbalance_at_scales(flow_field_of_means(arrays, 10.0, arrays.momentum + 0.3 * noise))
    assert noisy["scale"][0] == 0.0 and noisy["scale"][-1] == pytest.approx(0.25)
    assert noisy["lost"][-1] < 0.4 * noisy["lost"][0]
    half = imbalance_at_scales(flow_field_of_means(arrays, 10.0, 0.5 * arrays.momentum))
    assert half["lost"][-1] > 0.4
    for table in (noisy, half):
        np.testing.assert_allclose(table["lost"], table["created"], atol=1e-12)


def test_means_of_the_wrong_kind_are_refused() -> None:
    arrays = reference("plane").arrays
    assert arrays is not None
    with pytest.raises(InputError, match="one vector per cell"):
        flow_field_of_means(arrays, 10.0, np.zeros((3, 2)))
    with pytest.raises(InputError, match="not finite"):
        flow_field_of_means(arrays, 10.0, np.full((len(arrays.cells), 2), np.nan))
