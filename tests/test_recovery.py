"""Certifiable fields from iterates: Marini's flux, its equilibration, the best scaling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mpi4py import MPI
from scipy.optimize import minimize_scalar

from congested.cell_data import CellData
from congested.certificate import momentum_at_vertices
from congested.discretization import CROUZEIX_RAVIART, LAGRANGE_1, LAGRANGE_2, PotentialSpace
from congested.domain import Box, create_mesh
from congested.errors import NotConverged
from congested.geometry import cells_of_mesh
from congested.integrand import gradient_penalty
from congested.recovery import _Facets, best_scale, equilibrate, marini_momentum

dimensions = pytest.mark.parametrize("dimension", [2, 3])


def random_data(dimension: int, *, strip: bool, contrast: float = 1.0) -> tuple:
    """Mesh, CR space and random balanced cell data; `strip` closes the middle of the domain."""
    mesh = create_mesh(Box((0.0,) * dimension, (1.0,) * dimension, cells=5), MPI.COMM_SELF)
    cells = cells_of_mesh(mesh)
    active = np.ones(cells.number, dtype=bool)
    if strip:
        active = np.abs(cells.midpoint[:, 0] - 0.5) > 0.1
    generator = np.random.default_rng(0)
    sides = [active & (cells.midpoint[:, 0] < 0.5), active & (cells.midpoint[:, 0] > 0.5)]
    masses = []
    for _ in range(2):
        values = generator.uniform(size=cells.number) * cells.volume
        result = np.zeros(cells.number)
        for side in sides:
            result[side] = 0.5 * values[side] / values[side].sum()
        masses.append(result)
    weight = np.where(active, contrast ** generator.uniform(-1.0, 0.0, size=cells.number), 0.0)
    weight *= cells.volume
    data = CellData(cells, masses[0], masses[1], weight, 10.0, active, {})
    return mesh, PotentialSpace(mesh, cells, CROUZEIX_RAVIART, active), data


def facet_sums(space: PotentialSpace, flux: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the outward fluxes of both sides of each facet, and the number of its sides."""
    facets = space.dofmap.ravel()
    number = space.global_dofs
    return np.bincount(facets, flux.ravel(), number), np.bincount(facets, minlength=number)


@dimensions
def test_marini_flux_has_the_divergence_and_the_mean(dimension: int) -> None:
    _, _, data = random_data(dimension, strip=False)
    flux = np.random.default_rng(1).normal(size=(data.cells.number, dimension))
    momentum = marini_momentum(data.cells, flux, data.load)
    expected = data.source - data.target
    np.testing.assert_allclose(momentum.sum(axis=1), expected, atol=1e-14)
    mean = momentum_at_vertices(data.cells.simplices, momentum).mean(axis=1)
    np.testing.assert_allclose(mean, -flux, atol=1e-12)


@dimensions
@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize(("size", "contrast"), [(1e-6, 1.0), (1.0, 1.0), (1e-3, 1e8)])
def test_equilibrated_flux_is_conservative(
    dimension: int, strip: bool, size: float, contrast: float
) -> None:
    _, space, data = random_data(dimension, strip=strip, contrast=contrast)
    generator = np.random.default_rng(2)
    flux = equilibrate(space, data, size * generator.normal(size=space.dofmap.shape))
    sums, sides = facet_sums(space, flux)
    # Opposite numbers on the two sides, zero on the boundary: exactly, up to one rounding.
    assert np.abs(sums).max() <= 1e-15 * max(1.0, np.abs(flux).max())
    assert (flux[sides[space.dofmap] == 1] == 0.0).all()
    assert (flux[~data.active] == 0.0).all()
    residual = flux.sum(axis=1) - (data.source - data.target)
    assert np.abs(residual).max() < 1e-14
    assert np.abs(flux).max() > 1e-4


def test_equilibration_leaves_a_conservative_flux_alone() -> None:
    _, space, data = random_data(2, strip=True)
    first = equilibrate(space, data, np.zeros(space.dofmap.shape))
    np.testing.assert_allclose(equilibrate(space, data, first), first, atol=1e-15)
    # A small disturbance is answered by a small correction.
    noise = 1e-8 * np.random.default_rng(0).normal(size=first.shape)
    second = equilibrate(space, data, first + noise)
    assert 0.0 < np.abs(second - first).max() < 1e-6


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_flux_that_is_no_number_is_not_certified(value: float) -> None:
    _, space, data = random_data(2, strip=False)
    flux = np.zeros(space.dofmap.shape)
    flux[3, 1] = value
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(NotConverged, match="could not be made conservative"),
    ):
        equilibrate(space, data, flux)


def test_flux_that_cannot_balance_is_not_certified() -> None:
    # More source than target in one part: no correction removes the difference.
    _, space, data = random_data(2, strip=True)
    left = data.cells.midpoint[:, 0] < 0.5
    source = np.where(left, 1.001 * data.source, data.source)
    data = CellData(data.cells, source, data.target, data.weight, 10.0, data.active, {})
    with pytest.raises(NotConverged, match="could not be made conservative"):
        equilibrate(space, data, np.zeros(space.dofmap.shape))


def test_flux_avoids_the_cells_where_it_is_dear() -> None:
    # A wall of nearly closed cells with a gate: the correction goes through the gate.
    mesh = create_mesh(Box((0.0, 0.0), (1.0, 1.0), cells=8), MPI.COMM_SELF)
    cells = cells_of_mesh(mesh)
    x, y = cells.midpoint.T
    wall = (np.abs(x - 0.5) < 0.125) & (y > 0.25)
    weight = cells.volume * np.where(wall, 1e-9, 1.0)
    source = np.where(x < 0.25, cells.volume, 0.0)
    target = np.where(x > 0.75, cells.volume, 0.0)
    data = CellData(cells, source / source.sum(), target / target.sum(), weight, 10.0, x < 2.0, {})
    space = PotentialSpace(mesh, cells, CROUZEIX_RAVIART, data.active)
    flux = equilibrate(space, data, np.zeros(space.dofmap.shape))
    assert np.abs(flux.sum(axis=1) - (data.source - data.target)).max() < 1e-14
    assert np.abs(flux[wall]).max() < 1e-6


def test_jump_is_settled_on_the_side_where_flux_is_cheap() -> None:
    # Two cells with very different weights: the flux of the dear one is kept.
    _, space, data = random_data(2, strip=False)
    cheap = np.arange(data.cells.number) % 2 == 0
    weight = data.cells.volume * np.where(cheap, 1.0, 1e-6)
    data = CellData(data.cells, data.source, data.target, weight, 10.0, data.active, {})
    flux = np.random.default_rng(0).normal(size=space.dofmap.shape)
    settled = _Facets(space, data).single_valued(flux)
    sums, sides = facet_sums(space, settled)
    assert np.abs(sums).max() <= 1e-15
    # Facets of which one side is cheap.
    number = np.bincount(space.dofmap[cheap].ravel(), minlength=space.global_dofs)
    mixed = ((number == 1) & (sides == 2))[space.dofmap] & ~cheap[:, None]
    assert np.count_nonzero(mixed) > 10
    np.testing.assert_allclose(settled[mixed], flux[mixed], atol=1e-5)


@dimensions
@pytest.mark.parametrize("kind", [LAGRANGE_1, LAGRANGE_2])
@pytest.mark.parametrize("critic_loss", [0.01, 1.0, 100.0])
def test_best_scale_maximises_the_dual_value(dimension: int, kind: str, critic_loss: float) -> None:
    mesh, crouzeix_raviart, data = random_data(dimension, strip=True)
    space = PotentialSpace(mesh, data.cells, kind, crouzeix_raviart.active)
    values = np.random.default_rng(3).normal(size=space.global_dofs)
    gradient = space.gradient(values)
    lengths = np.linalg.norm(gradient, axis=-1)

    def dual(scale: float) -> float:
        penalty = gradient_penalty(scale * lengths, data.capacity[:, None])
        return float(scale * critic_loss - np.sum(space.point_volume * penalty))

    scale = best_scale(space, data.capacity, gradient, critic_loss)
    assert scale > 0.0
    found = minimize_scalar(lambda c: -dual(c), bounds=(0.0, 4.0 * scale), method="bounded")
    # The search finds the maximum to its square root of rounding, the formula to rounding.
    assert dual(scale) >= -found.fun * (1.0 - 1e-14)
    for factor in (0.999, 1.001):
        assert dual(scale) > dual(factor * scale)


def test_best_scale_of_a_potential_that_gains_nothing() -> None:
    _, space, data = random_data(2, strip=False)
    gradient = np.ones((data.cells.number, 1, 2))
    assert best_scale(space, data.capacity, gradient, 0.0) == 0.0
    assert best_scale(space, data.capacity, gradient, -1.0) == 0.0


def test_best_scale_without_congestion_makes_the_longest_gradient_one() -> None:
    _, space, data = random_data(2, strip=False)
    infinite = np.full(data.cells.number, math.inf)
    generator = np.random.default_rng(4)
    for _ in range(50):
        gradient = generator.normal(size=(data.cells.number, 1, 2))
        scale = best_scale(space, infinite, gradient, 1.0)
        longest = np.linalg.norm(scale * gradient, axis=-1).max()
        # Never above one, where the penalty is infinite, by a rounding error.
        assert 1.0 - 1e-11 < longest < 1.0
