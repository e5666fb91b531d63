"""Cell data: closed cells, parts that balance their mass, and what makes a problem infeasible."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from dolfinx.mesh import Mesh
from mpi4py import MPI

from congested.cell_data import CellData, make_cell_data
from congested.domain import Box, create_mesh
from congested.errors import InfeasibleProblem
from congested.geometry import Cells, FloatArray, cells_of_mesh
from congested.measures.base import RestrictedMasses
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.uniform import UniformBox
from congested.nested_iteration import solve
from congested.problem import Problem
from congested.solution import Solution
from congested.weights.base import CellWeight
from congested.weights.kinds import ConstantWeight, DensityWeight

# Sums of 400 masses in another order than the code's.
ROUNDING = 400 * np.finfo(float).eps


@pytest.fixture(scope="module")
def square() -> tuple[Mesh, Cells]:
    mesh = create_mesh(Box((0.0, 0.0), (1.0, 1.0), cells=10), MPI.COMM_SELF)
    return mesh, cells_of_mesh(mesh)


def make(
    square: tuple[Mesh, Cells],
    source: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    *,
    strength: float = 10.0,
    sampled: bool = False,
) -> CellData:
    """Cell data from densities; the measures are normalised, the weight is not."""
    mesh, cells = square
    masses = []
    for density in (source, target):
        mass = density * cells.volume
        masses.append(RestrictedMasses(mass / mass.sum(), 0.0))
    sigma = weight * cells.volume
    replicates = np.stack([sigma, sigma]) if sampled else None
    cell_weight = CellWeight(sigma, replicates, 0.0, "test", float(sigma.sum()), 0.0, 0)
    return make_cell_data(mesh, cells, masses[0], masses[1], cell_weight, strength)


def columns(cells: Cells) -> np.ndarray:
    """Column 0 … 9 of squares to which each cell belongs."""
    return np.floor(10.0 * cells.midpoint[:, 0]).astype(int)


def test_nothing_is_changed_without_need(square: tuple[Mesh, Cells]) -> None:
    cells = square[1]
    generator = np.random.default_rng(0)
    source, target, weight = generator.uniform(0.5, 1.5, size=(3, cells.number))
    data = make(square, source, target, weight)
    assert data.active.all()
    for density, masses in ((source, data.source), (target, data.target)):
        np.testing.assert_allclose(masses, density * cells.volume / (density @ cells.volume))
    np.testing.assert_allclose(data.capacity, 20.0 * weight)
    np.testing.assert_allclose(data.load, (data.source - data.target) / cells.volume)
    assert data.record["closed_cells"] == 0
    assert data.record["parts"] == 1
    assert max(data.record["mass_rescaled"].values()) < 1e-15


def test_closed_cells_lose_their_negligible_mass_and_say_how_much(
    square: tuple[Mesh, Cells],
) -> None:
    cells = square[1]
    column = columns(cells)
    # Column 8 parts column 9 from all weight: its mass cannot move to cells around.
    weight = np.where(column >= 8, 0.0, 1.0)
    source = np.select([column == 9, column == 8], [1e-7, 0.0], 1.0)
    target = np.select([column == 9, column == 8], [2e-7, 0.0], 1.0)
    data = make(square, source, target, weight)
    np.testing.assert_array_equal(data.active, column < 8)
    for masses in (data.source, data.target):
        assert (masses[~data.active] == 0.0).all()
        assert masses.sum() == pytest.approx(1.0, abs=ROUNDING)
    assert data.source.sum() == pytest.approx(data.target.sum(), abs=ROUNDING)
    assert data.record["closed_cells"] == data.record["cells_without_weight"] == 80
    # Taken away in column 9 and put back elsewhere: twice the mass, 1e-7 · 0.1/0.8 here.
    moved = data.record["mass_rescaled"]
    assert moved["source"] == pytest.approx(2.0 * 1e-7 / 8.0, rel=1e-6)
    assert moved["target"] == pytest.approx(4.0 * 1e-7 / 8.0, rel=1e-6)


def test_threshold_of_closing(square: tuple[Mesh, Cells]) -> None:
    cells = square[1]
    column = columns(cells)
    # The mean of the weight is 0.8: cells with less than 8e-14 are closed.
    weight = np.select([column == 9, column == 8], [1e-14, 1e-12], 1.0)
    mass = np.where(column < 8, 1.0, 0.0)
    data = make(square, mass, mass, weight)
    np.testing.assert_array_equal(data.active, column < 9)


@pytest.mark.parametrize("measure", ["source", "target"])
def test_mass_without_weight_is_infeasible_and_located(
    square: tuple[Mesh, Cells], measure: str
) -> None:
    cells = square[1]
    corner = (cells.midpoint > 0.8).all(axis=1)
    weight = np.where(corner, 0.0, 1.0)
    everywhere = np.ones(cells.number)
    # The mass has its peak in the corner that the weight leaves out.
    peaked = 1.0 + 9.0 * (np.linalg.norm(cells.midpoint - 0.95, axis=1) < 0.04)
    pair = {"source": everywhere, "target": everywhere, measure: peaked}
    with pytest.raises(InfeasibleProblem) as caught:
        make(square, pair["source"], pair["target"], weight)
    place = re.search(r"near \(([\d.]+), ([\d.]+)\)", str(caught.value))
    assert place is not None
    np.testing.assert_allclose([float(x) for x in place.groups()], 0.95, atol=0.04)
    # It also says how much: the corner's share, less what moved to cells with weight around it.
    share = (peaked / (peaked @ cells.volume))[corner] @ cells.volume[corner]
    said = re.match(r"([\d.]+) of the (source|target) lies", str(caught.value))
    assert said is not None
    assert said[2] == measure
    assert 0.5 * share < float(said[1]) < share


def test_sampled_weight_may_miss_a_little(square: tuple[Mesh, Cells]) -> None:
    cells = square[1]
    # Nine squares without weight, with mass only in the one in the middle: it reaches no weight.
    away = np.abs(cells.midpoint - 0.45).max(axis=1)
    weight = np.where(away < 0.15, 0.0, 1.0)
    mass = np.select([away < 0.05, away < 0.15], [0.5, 0.0], 1.0)
    # 0.55 % of the mass: between the limits of an exact and of a sampled weight.
    data = make(square, mass, mass, weight, sampled=True)
    assert data.record["closed_cells"] == 36
    with pytest.raises(InfeasibleProblem, match=r"0\.00546 of the (source|target)"):
        make(square, mass, mass, weight)


def test_mass_of_a_lone_cell_without_weight_moves_to_the_cells_around(
    square: tuple[Mesh, Cells],
) -> None:
    cells = square[1]
    lone = np.zeros(cells.number, dtype=bool)
    lone[123] = True
    one = np.ones(cells.number)
    data = make(square, one, one, np.where(lone, 0.0, 1.0))
    assert data.record["closed_cells"] == 1
    assert data.record["mass_moved"]["source"] == pytest.approx(1.0 / 400, rel=1e-12)
    assert data.record["mass_rescaled"]["source"] < 1e-12
    received = data.source > 1.0001 / 400
    distance = np.linalg.norm(cells.midpoint - cells.midpoint[123], axis=1)
    assert 10 < received.sum() < 25
    assert distance[received].max() < 0.2


def strip(cells: Cells) -> np.ndarray:
    """Weight that vanishes in the two columns in the middle."""
    column = columns(cells)
    return np.where((column == 4) | (column == 5), 0.0, 1.0)


def test_parts_with_unequal_masses_are_infeasible(square: tuple[Mesh, Cells]) -> None:
    cells = square[1]
    weight, left = strip(cells), cells.midpoint[:, 0] < 0.5
    source = np.where(left, 3.0, 1.0) * weight
    with pytest.raises(InfeasibleProblem) as caught:
        make(square, source, weight, weight)
    text = str(caught.value)
    assert "equal masses in each connected part" in text
    # Either part may be named, with its own masses.
    place = re.search(r"around \(([\d.]+), ([\d.]+)\) holds ([\d.]+) .* but ([\d.]+)", text)
    assert place is not None
    x, _, from_source, from_target = (float(number) for number in place.groups())
    assert from_source == pytest.approx(0.75 if x < 0.5 else 0.25, abs=1e-6)
    assert from_target == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("sampled", [False, True])
def test_balanced_parts_are_balanced_to_rounding(square: tuple[Mesh, Cells], sampled: bool) -> None:
    cells = square[1]
    weight, left = strip(cells), cells.midpoint[:, 0] < 0.5
    generator = np.random.default_rng(0)
    source, target = generator.uniform(0.5, 1.5, size=(2, cells.number)) * weight
    for density in (source, target):
        for side in (left, ~left):
            density[side] /= density[side] @ cells.volume[side]
    # An imbalance below the limit is scaled away.
    excess = 5e-3 if sampled else 5e-7
    source[left] *= 1.0 + excess
    data = make(square, source, target, weight, sampled=sampled)
    assert data.record["parts"] == 2
    for side in (left, ~left):
        assert data.source[side].sum() == pytest.approx(data.target[side].sum(), abs=ROUNDING)
    assert data.source.sum() == pytest.approx(1.0, abs=ROUNDING)
    assert 0.1 * excess < data.record["mass_rescaled"]["source"] < excess


@pytest.mark.parametrize("also_target", [0.0, 1e-9])
def test_small_mass_alone_in_a_part_is_taken_away(
    square: tuple[Mesh, Cells], also_target: float
) -> None:
    # Too much for a part that is closed because it is empty, too little to be infeasible: no
    # scaling of the source can balance it against nothing.
    cells = square[1]
    weight, left = strip(cells), cells.midpoint[:, 0] < 0.5
    source, target = np.where(left, weight, 0.0), np.where(left, weight, 0.0)
    source[~left] = 7e-7 * weight[~left]
    target[~left] = also_target * weight[~left]
    data = make(square, source, target, weight)
    assert data.record["parts"] == 1
    np.testing.assert_array_equal(data.active, left & (weight > 0.0))
    for masses in (data.source, data.target):
        assert masses[left].sum() == pytest.approx(1.0, abs=ROUNDING)
    assert data.record["mass_rescaled"]["source"] == pytest.approx(2.0 * 7e-7, rel=1e-3)


def test_small_masses_alone_in_many_parts_add_up(square: tuple[Mesh, Cells]) -> None:
    # Every single part is below the limit for a sampled weight, all together are not.
    cells = square[1]
    column = columns(cells)
    weight = np.where(column % 2 == 0, 1.0, 0.0)
    excess = np.select([column == 0, column == 4, column == 2, column == 6], [1, 1, -1, -1], 0)
    target = np.where(column < 8, weight, 0.0)

    def unbalanced(part: float) -> FloatArray:
        """Source that has more, or less, of the whole mass in each of four parts."""
        return target + 4.0 * part * excess

    with pytest.raises(InfeasibleProblem, match="equal masses in each connected part"):
        make(square, unbalanced(6e-3), target, weight, sampled=True)
    data = make(square, unbalanced(4e-3), target, weight, sampled=True)
    assert data.record["parts"] == 4


def test_part_without_mass_is_closed(square: tuple[Mesh, Cells]) -> None:
    cells = square[1]
    weight, left = strip(cells), cells.midpoint[:, 0] < 0.5
    mass = np.where(left, weight, 0.0)
    data = make(square, mass, mass, weight)
    np.testing.assert_array_equal(data.active, left & (weight > 0.0))
    assert data.record["parts"] == 1
    # Only the strip is without weight; the part on the right merely has nothing to do.
    assert data.record["cells_without_weight"] == 80
    assert data.record["closed_cells"] == 80 + 160


def test_weight_that_vanishes_everywhere(square: tuple[Mesh, Cells]) -> None:
    cells = square[1]
    one = np.ones(cells.number)
    with pytest.raises(InfeasibleProblem, match="weight vanishes"):
        make(square, one, one, 0.0 * one)


def test_infinite_strength_ignores_the_weight(square: tuple[Mesh, Cells]) -> None:
    cells = square[1]
    weight, left = strip(cells), cells.midpoint[:, 0] < 0.5
    source, target = np.where(left, 1.0, 0.0), np.where(left, 0.0, 1.0)
    data = make(square, source, target, weight, strength=math.inf)
    assert data.active.all()
    assert np.isposinf(data.capacity).all()


# --- through solve --------------------------------------------------------------------------


def outside_strip(points: FloatArray) -> FloatArray:
    return np.where(np.abs(points[:, 0] - 0.5) < 0.1, 0.0, 1.0)


def solve_here(problem: Problem) -> Solution:
    return solve(problem, relative_gap=1e-4, refine="none", comm=MPI.COMM_SELF)


def test_two_balanced_parts_cost_as_much_as_one_of_them_alone() -> None:
    # Mirror images: H is homogeneous of degree one in (m, σ), so the two halves of the mass with
    # the weight 1 cost what the whole mass costs in one half with the weight 2.
    means = {y: np.array([[0.2, y], [0.8, y]]) for y in (0.3, 0.7)}
    stds = np.array([0.03, 0.03])
    both = solve_here(
        Problem(
            domain=Box((0.0, 0.0), (1.0, 1.0), cells=10),
            source=GaussianMixture.from_stds(means[0.3], stds),
            target=GaussianMixture.from_stds(means[0.7], stds),
            weight=DensityWeight(outside_strip),
        )
    )
    alone = solve_here(
        Problem(
            domain=Box((0.0, 0.0), (0.4, 1.0), cells=10),
            source=GaussianMixture.from_stds(means[0.3][:1], stds[:1]),
            target=GaussianMixture.from_stds(means[0.7][:1], stds[:1]),
            weight=ConstantWeight(2.0),
        )
    )
    assert both.data["parts"] == 2
    assert both.data["closed_cells"] == 80
    assert alone.data["parts"] == 1
    # The discrete problems are left unsolved by some per cent of the gap.
    slack = 0.1 * alone.bounds.gap
    assert both.bounds.upper == pytest.approx(alone.bounds.upper, abs=slack)
    assert both.bounds.lower == pytest.approx(alone.bounds.lower, abs=slack)
    closed = both.fields.weight == 0.0
    assert np.count_nonzero(closed) == 80
    assert (both.fields.flux[closed] == 0.0).all()
    assert both.conservation["max_divergence_residual"] < 1e-14


def test_solve_says_where_a_part_cannot_balance() -> None:
    problem = Problem(
        domain=Box((0.0, 0.0), (1.0, 1.0), cells=10),
        source=UniformBox((0.0, 0.0), (0.4, 1.0)),
        target=UniformBox((0.6, 0.0), (1.0, 1.0)),
        weight=DensityWeight(outside_strip),
    )
    with pytest.raises(InfeasibleProblem, match=r"holds (1 of the source but 0|0 of the source)"):
        solve_here(problem)
