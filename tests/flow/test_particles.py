"""Particles follow exact streamlines: fields that RT0 holds, radial flows, strips, walls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq

from congested.flow.field import FlowField, flow_field
from congested.flow.particles import (
    Particles,
    draw_particles,
    moments,
    move,
    no_deposits,
    particles_at,
    trace,
)
from congested.geometry import FloatArray
from tests.critics.references import reference
from tests.flow.fields import (
    affine_field,
    box_mesh,
    irregular_mesh,
    mass_within,
    radial_field,
    strip_field,
)


def inner_particles(field: FlowField, number: int, size: float) -> Particles:
    """Draw particles that start in cells near the middle."""
    drawn = draw_particles(field, 40 * number, np.random.default_rng(1))
    near = np.flatnonzero(np.abs(drawn.points(field) - 0.5).max(axis=1) < size)[:number]
    return replace(drawn, **{name: values[near] for name, values in vars(drawn).items()})


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("slope", [0.3, -0.3, 0.0])
def test_a_field_that_rt0_holds_is_followed_to_rounding(dimension: int, slope: float) -> None:
    constant = np.array([0.11, -0.07, 0.05])[:dimension] - 0.5 * slope
    field = affine_field(*irregular_mesh(dimension), constant, slope, source=1.5)
    start = inner_particles(field, 50, 0.2)
    instants = np.linspace(0.0, 1.0, 5)
    end, positions, _ = moments(field, start, instants)

    density = 1.5 - dimension * slope * instants
    if slope:
        phi = ((1.5 / density) ** (1.0 / dimension) - 1.0) / slope
    else:
        phi = instants / 1.5
    momentum = constant + slope * start.points(field)
    expected = start.points(field)[:, None] + phi[:, None] * momentum[:, None]
    assert end.crossings.mean() > 1.0
    np.testing.assert_allclose(positions, expected, atol=1e-12)
    np.testing.assert_allclose(end.points(field), expected[:, -1], atol=1e-12)
    assert end.arrived().all()
    lengths = np.linalg.norm(expected[:, -1] - expected[:, 0], axis=1)
    np.testing.assert_allclose(end.length, lengths, atol=1e-12)


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_cost_of_a_path_is_the_integral_of_the_congestion_factor(dimension: int) -> None:
    constant, slope, compliance = np.array([0.2, 0.1, 0.1])[:dimension], 0.2, 3.0
    field = affine_field(*irregular_mesh(dimension), constant, slope, 1.5, compliance)
    start = inner_particles(field, 20, 0.1)
    end = move(field, start)
    first, last = start.points(field), end.points(field)
    # |m| is affine along the straight way.
    middle = constant + slope * 0.5 * (first + last)
    factor = 1.0 + compliance * np.linalg.norm(middle, axis=1)
    np.testing.assert_allclose(end.cost, factor * end.length, rtol=1e-12)
    assert end.cost.min() > 1.1 * end.length.min()


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_congestion_factor_is_known_all_along_the_way(dimension: int) -> None:
    constant, slope, compliance = np.array([0.3, 0.2, 0.1])[:dimension], -0.3, 3.0
    field = affine_field(*irregular_mesh(dimension), constant, slope, 1.0, compliance)
    start = inner_particles(field, 30, 0.1)

    def factor(points: FloatArray) -> FloatArray:
        return 1.0 + compliance * np.linalg.norm(constant + slope * points, axis=-1)

    _, positions, congestion = moments(field, start, np.linspace(0.0, 1.0, 7))
    np.testing.assert_allclose(congestion, factor(positions), rtol=1e-12)
    end, paths = trace(field, start)
    last = paths.offsets[1:] - 1
    inner = np.setdiff1d(np.arange(len(paths.points)), last)
    np.testing.assert_allclose(paths.congestion[inner], factor(paths.points[inner]), rtol=1e-12)
    # The factor is affine along a piece of the way.
    step = np.linalg.norm(np.diff(paths.points, axis=0), axis=1)
    paid = step * 0.5 * (factor(paths.points[1:]) + factor(paths.points[:-1]))
    np.testing.assert_allclose(np.diff(paths.cost)[inner], paid[inner], atol=1e-13)
    assert (paths.cost[paths.offsets[:-1]] == 0.0).all() and end.crossings.sum() > 20


def test_going_on_from_a_stop_is_going_through() -> None:
    field = radial_field(2, 12, (0.06, 0.12))
    start = draw_particles(field, 300, np.random.default_rng(2))
    whole = move(field, start)
    half = move(field, start, 0.5)
    np.testing.assert_array_equal(half.time, 0.5)
    rest = move(field, move(field, half, 0.8))
    np.testing.assert_allclose(rest.points(field), whole.points(field), atol=1e-12)
    np.testing.assert_allclose(rest.cost, whole.cost, rtol=1e-10)
    np.testing.assert_allclose(rest.length, whole.length, rtol=1e-10)


def test_paths_and_deposits_say_the_same_as_the_particles() -> None:
    field = radial_field(3, 5, (0.08, 0.14))
    start = draw_particles(field, 200, np.random.default_rng(3))
    deposits = no_deposits(field)
    end = move(field, start, deposits=deposits)
    traced, paths = trace(field, start)
    np.testing.assert_array_equal(traced.barycentric, end.barycentric)
    first, last = paths.offsets[:-1], paths.offsets[1:] - 1
    np.testing.assert_allclose(paths.points[first], start.points(field), atol=1e-14)
    np.testing.assert_allclose(paths.points[last], end.points(field), atol=1e-14)
    np.testing.assert_array_equal(paths.time[last], 1.0)
    np.testing.assert_array_equal(paths.cost[last], end.cost)
    steps = np.linalg.norm(np.diff(paths.points, axis=0), axis=1)
    owner = np.repeat(np.arange(paths.number), np.diff(paths.offsets))
    within = owner[1:] == owner[:-1]
    np.testing.assert_allclose(np.bincount(owner[1:][within], steps[within]), end.length, rtol=1e-9)
    moved = start.mass @ (end.points(field) - start.points(field))
    np.testing.assert_allclose(deposits.displacement.sum(axis=0), moved, atol=1e-14)
    assert deposits.exchanged.max() == 0.0
    np.testing.assert_array_equal(end.mass, start.mass)


def radial_errors(dimension: int, cells: int) -> tuple[float, float]:
    """Return the mean errors of places at time 1 and 0.4, for concentric Gaussians."""
    stds = 0.07, 0.12
    field = radial_field(dimension, cells, stds)
    start = draw_particles(field, 400, np.random.default_rng(4))
    end, positions, _ = moments(field, start, np.array([0.4]))
    first = start.points(field) - 0.5
    # The mass within the radius of a particle stays what it is: at time 1 it is scaled.
    scaled = first * stds[1] / stds[0]
    at_end = np.linalg.norm(end.points(field) - 0.5 - scaled, axis=1).mean()
    radius = np.linalg.norm(first, axis=1)

    def at_time(start_radius: float) -> float:
        within = mass_within(dimension, np.array(start_radius), stds[0])

        def excess(r: float) -> float:
            masses = [float(mass_within(dimension, np.array(r), std)) for std in stds]
            return float(0.6 * masses[0] + 0.4 * masses[1] - within)

        return float(brentq(excess, 0.0, 1.0))

    factor = np.array([at_time(r) / r for r in radius])
    on_way = np.linalg.norm(positions[:, 0] - 0.5 - first * factor[:, None], axis=1).mean()
    return float(at_end), float(on_way)


@pytest.mark.parametrize(("dimension", "cells"), [(2, 16), (3, 6)])
def test_radial_flows_are_followed_to_first_order(dimension: int, cells: int) -> None:
    coarse = radial_errors(dimension, cells)
    fine = radial_errors(dimension, 2 * cells)
    for errors in zip(coarse, fine, strict=True):
        assert errors[0] > 1.7 * errors[1], (coarse, fine)
    assert max(fine) < 0.15 * 0.12


def test_a_strip_is_crossed_on_time_and_in_order() -> None:
    errors = []
    for cells in (8, 16, 32):
        field = strip_field(cells)
        start = draw_particles(field, 500, np.random.default_rng(6))
        end, positions, _ = moments(field, start, np.array([0.3]))
        first, last = start.points(field), end.points(field)
        errors.append(np.abs(last - first - [0.75, 0.0]).max(axis=1).mean())
        # A momentum of 1 leaves the front at x = 1/4 with the mass behind it: until t = 0.3 the
        # particles right of 1/4 − 0.3/4 have left, and jumped over the empty middle.
        gone = first[:, 0] > 0.25 - 0.3 * 0.25 + 0.5 / cells
        stay = first[:, 0] < 0.25 - 0.3 * 0.25 - 0.5 / cells
        assert positions[gone, 0, 0].min() > 0.75 - 1e-12
        assert positions[stay, 0, 0].max() < 0.25 + 1e-12
    assert errors[0] > 1.8 * errors[1] and errors[1] > 1.8 * errors[2], errors
    assert errors[2] < 0.02


@pytest.mark.parametrize("name", ["plane", "closed", "cube", "w1"])
def test_particles_of_a_solution_stay_in_cells_with_weight(name: str) -> None:
    found = reference(name)
    assert found.arrays is not None
    field = flow_field(found.arrays, found.strength)
    start = draw_particles(field, 3000, np.random.default_rng(7))
    end, paths = trace(field, start)
    assert end.arrived().all() and end.crossings.max() > 3
    assert (end.barycentric >= 0.0).all()
    np.testing.assert_allclose(end.barycentric.sum(axis=1), 1.0, atol=1e-14)
    assert paths.points.min() >= -1e-15 and paths.points.max() <= 1.0 + 1e-15
    assert (np.diff(paths.time)[np.diff(paths.time) < 0.0] == -1.0).all()  # only between paths
    if name == "closed":
        assert (found.arrays.weight == 0.0).any()
        assert (found.arrays.weight[end.cell] > 0.0).all()
        assert paths.points[:, 0].max() <= 0.7 + 1e-12


def test_arrivals_have_the_masses_of_the_target() -> None:
    found = reference("plane")
    assert found.arrays is not None
    field = flow_field(found.arrays, found.strength)
    number = 200_000
    end = move(field, draw_particles(field, number, np.random.default_rng(8)))
    arrived = np.bincount(end.cell, minlength=len(field.cells))
    expected = number * field.volume * field.target
    assert arrived.sum() == number
    well = expected > 20.0
    # The sum of squares of standard normal numbers, one fewer than there are cells.
    deviation = (arrived[well] - expected[well]) / np.sqrt(expected[well])
    cells = well.sum()
    assert abs((deviation**2).sum() - cells) < 5.0 * np.sqrt(2.0 * cells)
    assert cells > 40


def test_particles_start_as_the_source_wants() -> None:
    vertices, cells = box_mesh(2, 2)
    field = affine_field(vertices, cells, np.zeros(2), 0.0, 1.0)
    source = np.arange(len(cells), dtype=np.float64)
    source[-3:] = 0.0
    field = replace(field, source=source)
    start = draw_particles(field, 50_000, np.random.default_rng(9), mass=2.0)
    assert start.mass.sum() == pytest.approx(2.0)
    share = np.bincount(start.cell, minlength=len(cells)) / 50_000
    np.testing.assert_allclose(share, source / source.sum(), atol=0.01)
    assert share[0] == 0.0 and (share[-3:] == 0.0).all()
    np.testing.assert_allclose(start.barycentric.mean(axis=0), 1.0 / 3.0, atol=0.005)
    np.testing.assert_allclose((start.barycentric**2).mean(axis=0), 1.0 / 6.0, atol=0.005)


def test_a_particle_in_a_whirl_is_given_up_and_told() -> None:
    """A momentum that turns in an empty region: it takes no time, and no end is reached."""
    vertices, cells = box_mesh(2, 2)
    field = affine_field(vertices, cells, np.zeros(2), 0.0, 0.0)
    around = np.zeros((len(cells), 3))
    middle = int(np.argmin(np.abs(vertices - 0.5).sum(axis=1)))
    for cell in np.flatnonzero((cells == middle).any(axis=1)):
        # Anticlockwise through the two facets that meet in the middle.
        own = vertices[cells[cell]]
        centre = own.mean(axis=0) - 0.5
        for i in range(3):
            if cells[cell, i] != middle:
                side = np.delete(own, i, axis=0).mean(axis=0) - 0.5
                around[cell, i] = np.sign(centre[0] * side[1] - centre[1] * side[0])
    field = replace(field, flux=around, target=np.zeros(len(cells)))
    cell = np.flatnonzero((cells == middle).any(axis=1))[:1]
    start = particles_at(cell, np.full((1, 3), 1.0 / 3.0), np.ones(1))
    end, positions, _ = moments(field, start, np.array([0.0, 0.5, 1.0]))
    assert not end.arrived().any() and end.crossings[0] > 1000
    assert np.isfinite(positions).all()
    np.testing.assert_array_equal(positions[0, 1], positions[0, 2])


def test_particles_come_from_cells_with_mass_whatever_the_numbers() -> None:
    """Sums round: the largest number there is must not lead beyond the last mass."""
    vertices, cells = box_mesh(2, 3)
    field = affine_field(vertices, cells, np.zeros(2), 0.0, 1.0)
    source = np.random.default_rng(0).random(len(cells)) / 3.0
    source[[0, 5, *range(len(cells) - 4, len(cells))]] = 0.0

    class Extreme:
        def random(self, shape: tuple[int, int]) -> FloatArray:
            numbers = np.full(shape, 0.5)
            numbers[:, 0] = [0.0, 1.0 - 2.0**-53, 1.0]
            return numbers

    start = draw_particles(replace(field, source=source), 3, Extreme())  # type: ignore[arg-type]
    assert (source[start.cell] > 0.0).all()
    np.testing.assert_array_equal(start.cell, [1, len(cells) - 5, len(cells) - 5])


def test_mass_that_an_empty_sink_swallows_is_lost() -> None:
    """A cell with inward flux only, no source and no target: whoever enters loses all."""
    slope = -0.4
    field = affine_field(*irregular_mesh(2), np.full(2, -0.5 * slope), slope, 0.0)
    empty = np.zeros(len(field.cells))
    field = replace(field, target=empty, growth=np.full(len(field.cells), 2.0 * slope))
    start = inner_particles(replace(field, source=np.ones_like(empty)), 40, 0.3)
    deposits = no_deposits(field)
    end = move(field, start, deposits=deposits)
    np.testing.assert_allclose(end.points(field), 0.5, atol=1e-9)
    np.testing.assert_array_equal(end.mass, 0.0)
    np.testing.assert_allclose(deposits.exchanged.sum(axis=0), [0.0, start.mass.sum()])
    # The mass shrinks like the square of the distance: ∫ mass dx = x/3.
    away = start.points(field) - 0.5
    expected = -start.mass @ away / 3.0
    np.testing.assert_allclose(deposits.displacement.sum(axis=0), expected, atol=1e-10)


def test_masses_grow_as_the_divergence_says() -> None:
    """With m = b x and ρ₀ = ρ₁ the mass of a particle is e^{d b t/ρ}: closed form."""
    slope = 0.4
    field = affine_field(*irregular_mesh(2), np.full(2, -0.5 * slope), slope, 1.0)
    field = replace(field, target=field.source, growth=np.full(len(field.cells), 2.0 * slope))
    start = inner_particles(field, 50, 0.15)
    deposits = no_deposits(field)
    end = move(field, start, deposits=deposits)
    np.testing.assert_allclose(end.mass, start.mass * np.exp(2.0 * slope), rtol=1e-12)
    gained = end.mass.sum() - start.mass.sum()
    np.testing.assert_allclose(deposits.exchanged.sum(axis=0), [gained, 0.0], rtol=1e-12)
    # ∫ mass · v dt with mass e^{2bt}, v = b (x₀ − 1/2) e^{bt}.
    away = start.points(field) - 0.5
    carried = start.mass @ away * (np.exp(3.0 * slope) - 1.0) / 3.0
    np.testing.assert_allclose(deposits.displacement.sum(axis=0), carried, rtol=1e-10)


def test_work_counts_the_mass_at_each_point() -> None:
    """The same flow: ∫ mass ds and ∫ mass (1 + |m|/κ) ds in closed form."""
    slope, compliance = 0.4, 3.0
    mesh = irregular_mesh(2)
    field = affine_field(*mesh, np.full(2, -0.5 * slope), slope, 1.0, compliance)
    field = replace(field, target=field.source, growth=np.full(len(field.cells), 2.0 * slope))
    start = inner_particles(field, 50, 0.15)
    end = move(field, start)
    # |v| = |m| = b r₀ e^{bt}, mass e^{2bt}.
    radius = np.linalg.norm(start.points(field) - 0.5, axis=1)
    length = start.mass * radius * (np.exp(3.0 * slope) - 1.0) / 3.0
    more = start.mass * compliance * slope * radius**2 * (np.exp(4.0 * slope) - 1.0) / 4.0
    np.testing.assert_allclose(end.work[:, 0], length, rtol=1e-11)
    np.testing.assert_allclose(end.work[:, 1], length + more, rtol=1e-11)
    still = move(replace(field, growth=np.zeros(len(field.cells))), start)
    np.testing.assert_allclose(still.work[:, 0], still.mass * still.length, rtol=1e-11)
    np.testing.assert_allclose(still.work[:, 1], still.mass * still.cost, rtol=1e-11)
