"""Batches of particles: the law of chance, error bars, stops, and what statistics make of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from congested.errors import InputError
from congested.flow.checkpoint import fingerprint, load_tally, save_tally, stored_options
from congested.flow.field import FlowField, flow_field, one_flux_per_facet
from congested.flow.particles import draw_particles
from congested.flow.simulate import Plan, Tally, simulate
from congested.flow.statistics import (
    arrival_distances,
    arrivals_chance,
    arrivals_error,
    statistics,
    straight_rays,
)
from congested.geometry import facet_neighbours
from tests.critics.references import reference
from tests.flow.fields import box_mesh, outward_areas, radial_field

SELF = MPI.COMM_SELF


def solved(name: str = "plane") -> FlowField:
    found = reference(name)
    assert found.arrays is not None
    return flow_field(found.arrays, found.strength)


@pytest.mark.parametrize("name", ["plane", "cube"])
def test_the_error_of_the_momentum_falls_like_one_over_the_root(name: str) -> None:
    field = solved(name)
    numbers = [2_000 * 4**k for k in range(4)]
    found = [statistics(field, plan, simulate(field, plan, SELF)) for plan in map(Plan, numbers)]
    for which in ("momentum_error", "pushforward_error"):
        errors = [getattr(one, which).value for one in found]
        slope = np.polyfit(np.log(numbers), np.log(errors), 1)[0]
        assert slope == pytest.approx(-0.5, abs=0.08), errors
        # Nothing but chance.
        for one in found:
            chance, error = getattr(one, which.replace("error", "chance")), getattr(one, which)
            assert abs(chance - error.value) < 3.5 * error.standard_error
    assert found[-1].momentum_error.value < 0.02
    assert found[-1].exponent == pytest.approx(-0.5, abs=0.15)
    assert found[-1].counts == (8_000, 16_000, 32_000, 64_000, 128_000)
    assert found[-1].momentum_errors[-1] == found[-1].momentum_error.value


def test_error_bars_are_what_other_seeds_show() -> None:
    field = solved()
    found = [
        statistics(field, plan, simulate(field, plan, SELF))
        for plan in (Plan(4_000, seed) for seed in range(40))
    ]
    for which in ("momentum_error", "pushforward_error", "length", "cost"):
        values = np.array([getattr(one, which).value for one in found])
        stated = np.mean([getattr(one, which).standard_error for one in found])
        assert stated == pytest.approx(values.std(ddof=1), rel=0.45), which


@pytest.mark.parametrize("name", ["plane", "cube", "w1"])
def test_paths_have_the_length_and_the_cost_of_the_momentum(name: str) -> None:
    """Their means are ∫|m| and ∫ (1 + |m|/(2λσ)) |m|, exactly."""
    field = solved(name)
    plan = Plan(100_000)
    found = statistics(field, plan, simulate(field, plan, SELF))
    assert abs(found.length.value - field.momentum_l1) < 4.0 * found.length.standard_error
    square = field.momentum_at_vertices
    corners = square.shape[1]
    mean_square = ((square.sum(axis=1) ** 2).sum(axis=1) + (square**2).sum(axis=(1, 2))) / (
        corners * (corners + 1)
    )
    cost = field.momentum_l1 + field.volume @ (mean_square * field.compliance)
    assert abs(found.cost.value - cost) < 4.0 * found.cost.standard_error
    assert found.cost.standard_error < 0.01 * cost
    if name == "w1":
        assert found.cost.value == pytest.approx(found.length.value, rel=1e-12)
    assert found.mass["start"] == pytest.approx(1.0, abs=1e-12)
    assert found.mass["end"] == pytest.approx(found.mass["start"], abs=1e-13)
    assert found.mass["unfinished"] == found.mass["lost"] == found.mass["created"] == 0.0


def tallies_agree(first: Tally, second: Tally) -> bool:
    names = first.arrays()
    return all(np.array_equal(names[name], array) for name, array in second.arrays().items())


def test_a_simulation_that_was_stopped_goes_on_as_if_it_were_not(tmp_path: Path) -> None:
    field = solved()
    plan = Plan(5_001, seed=3)
    whole = simulate(field, plan, SELF)
    asked = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == 4

    part = simulate(field, plan, SELF, stop=stop)
    assert part.batches == 4 and part.particles == plan.until(4) < 5_001
    file = tmp_path / "flow.checkpoint.npz"
    save_tally(file, field, part, {"particles": 5_001, "seed": 3})
    rest = simulate(field, plan, SELF, tally=load_tally(file, field, plan))
    assert tallies_agree(rest, whole)
    assert not tallies_agree(simulate(field, Plan(5_001, seed=4), SELF), whole)
    # What a part says has the masses of the whole.
    found = statistics(field, plan, part)
    assert found.mass["start"] == pytest.approx(1.0, abs=1e-12)
    assert found.length.value == pytest.approx(field.momentum_l1, rel=0.05)

    assert stored_options(file) == {"particles": 5_001, "seed": 3}
    other = radial_field(2, 4, (0.1, 0.2))
    for wrong in ((field, Plan(5_002, 3)), (field, Plan(5_001, 2)), (other, plan)):
        with pytest.raises(InputError, match="allowed"):
            load_tally(file, *wrong)
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(InputError, match="no checkpoint"):
        load_tally(file, field, plan)
    with pytest.raises(InputError, match=r"resume: found no flow\.checkpoint\.npz"):
        load_tally(tmp_path / "none" / "flow.checkpoint.npz", field, plan)


def test_a_bias_is_told_from_chance() -> None:
    """Particles of another momentum are off by more than by chance."""
    field = solved()
    plan = Plan(64_000)
    tally = simulate(replace(field, flux=0.9 * field.flux), plan, SELF)
    found = statistics(field, plan, tally)
    assert found.momentum_error.value > 3.0 * found.momentum_chance
    assert found.momentum_error.value == pytest.approx(0.1, rel=0.3)
    odd = simulate(field, plan, SELF, stop=_StopAfter(7))
    assert odd.batches == 7
    found = statistics(field, plan, odd)
    assert found.momentum_chance == pytest.approx(found.momentum_error.value, rel=0.6)


class _StopAfter:
    """Says stop when so many batches are done."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def test_every_part_of_a_flow_tells_it_from_others() -> None:
    field = solved()
    own = fingerprint(field)
    assert own == fingerprint(replace(field))
    for name in ("vertices", "flux", "source", "target", "growth", "weight", "strength"):
        assert fingerprint(replace(field, **{name: getattr(field, name) + 1.0})) != own, name


def test_chance_is_what_draws_from_the_target_do() -> None:
    field = solved()
    masses = field.volume * field.target
    draws = np.random.default_rng(2).multinomial(3_000, masses / masses.sum(), size=400)
    errors = np.abs(draws / 3_000 - masses / masses.sum()).sum(axis=1)
    found = arrivals_chance(field, 3_000)
    assert found == pytest.approx(errors.mean(), abs=4.0 * errors.std() / 20.0)
    assert found == pytest.approx(errors.mean(), rel=0.01)


def test_halves_of_different_sizes_say_the_same_of_chance() -> None:
    """Three batches: two against one."""
    field = solved("cube")
    chances = []
    for seed in range(12):
        plan = Plan(16 * 200, seed)
        odd, even = (simulate(field, plan, SELF, stop=_StopAfter(n)) for n in (3, 4))
        scale = math.sqrt(3 / 4)  # fewer particles, more chance
        chances.append(
            scale
            * statistics(field, plan, odd).momentum_chance
            / statistics(field, plan, even).momentum_chance
        )
    assert np.mean(chances) == pytest.approx(1.0, abs=0.04)


def test_masses_count_in_distances_of_arrivals() -> None:
    """Points here with the mass of the target, and points far away without any."""
    field = solved()
    number = 4_000
    drawn = draw_particles(
        replace(field, source=field.target), number, np.random.default_rng(3), mass=1.0
    )
    # Half of the particles are moved to a corner of the square and have no mass.
    corner = int(np.argmax(field.vertices[field.cells].mean(axis=1).sum(axis=1)))
    away = np.random.default_rng(4).random(number) < 0.5
    ends = replace(
        drawn,
        cell=np.where(away, corner, drawn.cell),
        mass=np.where(away, 0.0, drawn.mass),
    )
    found = arrival_distances(field, ends)
    assert found is not None
    assert found.pushforward.value < 2.0 * found.target.value
    heavy = arrival_distances(field, replace(ends, mass=np.ones(number)))
    assert heavy is not None
    assert heavy.pushforward.value > 0.2
    assert arrivals_error(field, replace(ends, mass=3.0 * ends.mass)) < 0.2


def test_batches_share_out_any_number_of_particles() -> None:
    for number in (1, 5, 16, 1_000_003, 10**8):
        plan = Plan(number)
        sizes = [plan.size(batch) for batch in range(plan.batches)]
        assert sum(sizes) == number and min(sizes) >= 1 and max(sizes) <= 1 << 17
    assert Plan(10).batches == 10 and Plan(10_000).batches == 16


def test_one_particle_has_no_error_bar() -> None:
    field = solved()
    plan = Plan(1)
    tally = simulate(field, plan, SELF)
    found = statistics(field, plan, tally)
    assert math.isinf(found.momentum_error.standard_error)
    assert math.isinf(found.length.standard_error) and math.isnan(found.exponent)
    assert arrival_distances(field, tally.sample()[1]) is None


def test_arrivals_are_as_far_from_the_target_as_its_own_samples() -> None:
    field = solved()
    tally = simulate(field, Plan(20_000), SELF)
    starts, ends = tally.sample()
    found = arrival_distances(field, ends)
    assert found is not None
    spread = math.hypot(found.pushforward.standard_error, found.target.standard_error)
    assert abs(found.pushforward.value - found.target.value) < 4.0 * spread
    # Particles that have not moved are as far from it as source and target are.
    away = arrival_distances(field, starts)
    assert away is not None
    assert away.pushforward.value == pytest.approx(0.36, abs=0.03)


def test_straight_rays_do_not_cross() -> None:
    starts = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    ends = np.array([[2.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    first, last = straight_rays(starts, ends)
    np.testing.assert_array_equal(first, starts)
    np.testing.assert_array_equal(last, starts + np.array([0.0, 1.0]))


def test_fluxes_of_the_two_sides_become_one() -> None:
    vertices, cells = box_mesh(2, 3)
    neighbours = facet_neighbours(cells)
    flux = np.einsum("nid,d->ni", outward_areas(vertices, cells), [1.0, 2.0])
    inner = neighbours >= 0
    same, mismatch = one_flux_per_facet(neighbours, np.where(inner, flux, 0.0))
    np.testing.assert_allclose(same, np.where(inner, flux, 0.0), atol=1e-15)
    assert mismatch < 1e-15
    broken = np.where(inner, flux, 0.0)
    cell, facet = np.argwhere(inner)[0]
    broken[cell, facet] += 0.5
    mended, mismatch = one_flux_per_facet(neighbours, broken)
    assert mismatch == pytest.approx(0.5)
    assert mended[cell, facet] == pytest.approx(flux[cell, facet] + 0.25)
    assert mended.sum() == pytest.approx(0.0, abs=1e-14)
    assert (one_flux_per_facet(neighbours, flux)[0][~inner] == 0.0).all()


def test_a_flux_that_conserves_nothing_is_refused() -> None:
    found = reference("plane")
    assert found.arrays is not None
    with pytest.raises(InputError, match="two sides"):
        flux = found.arrays.flux.copy()
        flux[3] *= 1.01
        flow_field(replace(found.arrays, flux=flux), 10.0)
    with pytest.raises(InputError, match="divergences"):
        flow_field(replace(found.arrays, source=1.01 * found.arrays.source), 10.0)
