"""The stated data error: of the load, of a sampled weight, of mass that was taken away."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from mpi4py import MPI

from congested.cell_data import CellData
from congested.certificate import cell_integrals
from congested.data_error import (
    WeightErrors,
    inner_change,
    inner_moments,
    load_change,
    spread_error,
    unevenness,
    weight_errors,
)
from congested.domain import Box
from congested.geometry import Cells, cells_from_arrays, cells_of_mesh, split_simplices
from congested.measures.points import Points
from congested.measures.uniform import UniformBall, UniformBox
from congested.nested_iteration import solve
from congested.problem import Problem
from congested.solution import Solution
from congested.weights.base import CellWeight
from congested.weights.kinds import Interpolates

SERIAL = MPI.COMM_SELF


def triangle_data(cells: Cells, source: np.ndarray, target: np.ndarray) -> CellData:
    active = np.ones(cells.number, dtype=bool)
    return CellData(cells, source, target, np.ones(cells.number), 1.0, active, {})


def test_load_change_is_the_change_of_the_critic_loss() -> None:
    # Masses of the children of one triangle: the change of ∫ u dμ by hand, and the same with ν.
    coarse = cells_from_arrays(
        np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([[0, 1, 2]])
    )
    fine = Cells(SERIAL, split_simplices(coarse.simplices), coarse.lower, coarse.upper)
    gradient = np.array([2.0, -1.0])
    source, target = np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.0, 0.0, 0.25, 0.75])
    one = triangle_data(coarse, np.ones(1), np.ones(1))

    def change(masses: np.ndarray) -> float:
        return float(masses @ fine.midpoint @ gradient - coarse.midpoint[0] @ gradient)

    potential, parent = fine.simplices @ gradient, np.zeros(4, dtype=int)
    found = load_change(one, triangle_data(fine, source, target), parent, potential)
    assert found == pytest.approx(abs(change(source)) + abs(change(target)), rel=1e-13)
    assert found > 0.1
    # Equal masses of the children: nothing changes.
    even = np.full(4, 0.25)
    zero = load_change(one, triangle_data(fine, even, even), parent, potential)
    assert zero == pytest.approx(0.0, abs=1e-15)


def test_spread_error_is_the_price_of_moving_mass_between_children() -> None:
    cells = cells_from_arrays(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([[0, 1, 2]]))
    # Three quarters of the mass move by at most half the diameter √2, at the price |∇u| = 3.
    potential = cells.simplices @ np.array([3.0, 0.0])
    found = spread_error(cells, potential, np.array([1.0, 0.0, 0.0, 0.0]))
    assert found == pytest.approx(0.75 * 0.5 * np.sqrt(2.0) * 3.0, rel=1e-13)
    assert spread_error(cells, potential, np.full(4, 0.25)) == 0.0


def two_triangles() -> Cells:
    return cells_from_arrays(
        np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), np.array([[0, 1, 2], [0, 2, 3]])
    )


def test_moments_are_about_the_midpoints_of_the_cells() -> None:
    cells = two_triangles()
    places = np.array([[0.8, 0.1], [0.7, 0.4], [0.1, 0.6]])
    moments = inner_moments(Points(places, [0.2, 0.3, 0.5]), cells, 0.0)
    assert moments is not None
    first = 0.2 * places[0] + 0.3 * places[1] - 0.5 * cells.midpoint[0]
    np.testing.assert_allclose(moments, [first, 0.5 * (places[2] - cells.midpoint[1])], rtol=1e-12)
    # The rest of a measure that is partly outside counts as all of it.
    scaled = inner_moments(Points(places, [0.2, 0.3, 0.5]), cells, 0.2)
    np.testing.assert_allclose(scaled, moments / 0.8, rtol=1e-12)
    whole = UniformBox((0.0, 0.0), (1.0, 1.0))
    np.testing.assert_allclose(inner_moments(whole, cells, 0.0), 0.0, atol=1e-15)
    assert inner_moments(Nameless(whole), cells, 0.0) is None


class Nameless:
    """A measure without vertex masses."""

    dimension = sample_dimension = 2

    def __init__(self, measure: UniformBox) -> None:
        self.cell_masses, self.sample = measure.cell_masses, measure.sample
        self.bounds = measure.bounds


def test_moves_inside_cells_count_in_full_where_nothing_else_moves() -> None:
    cells = two_triangles()
    half = np.full(2, 0.5)
    data = triangle_data(cells, half, half)
    moments = np.array([[0.03, 0.0], [0.0, 0.04]]), np.array([[0.0, 0.0], [0.0, 0.02]])
    still = np.zeros((2, 2))
    flat, steep = np.zeros((2, 2)), np.array([[2.0, 0.0], [0.0, 0.5]])
    assert inner_change(data, moments, flat, still) == pytest.approx(0.03 + 0.02)
    # The first cell at its price of 2, the second at one; to first order 0.06 + 0.02 and 0.01.
    expected = 2.0 * 0.03 + 0.02 + (0.06 + 0.02) + 0.01
    assert inner_change(data, moments, steep, still) == pytest.approx(expected)
    # With more momentum than that in both cells only the first order is left.
    moving = np.full((2, 2), 1.0)
    assert inner_change(data, moments, steep, moving) == pytest.approx(0.08 + 0.01)
    assert inner_change(data, (moments[0], None), steep, still) == 0.0


def test_unevenness_tells_a_line_from_a_density() -> None:
    coarse = two_triangles()
    fine = Cells(SERIAL, split_simplices(coarse.simplices), coarse.lower, coarse.upper)
    parent = np.repeat([0, 1], 4)
    gap = np.repeat([1.0, 3.0], 4)
    assert unevenness(fine, parent, 2.0 * fine.volume, gap) == pytest.approx(0.0, abs=1e-15)
    # All of the first parent's weight in one child of four, the second's in two.
    weight = np.array([1.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.0, 0.0])
    assert unevenness(fine, parent, weight, gap) == pytest.approx(0.25 * 0.75 + 0.75 * 0.5)
    assert unevenness(fine, parent, np.zeros(8), gap) == 0.0


def sampled(seed: int, samples: int = 2048) -> Solution:
    generator = np.random.default_rng(7)
    # Clouds that fill the domain: no cell is closed by chance.
    source, target = (Points(generator.uniform(0.0, 1.0, (200, 2)) ** power) for power in (1, 2))
    problem = Problem(
        domain=Box((0.0, 0.0), (1.0, 1.0), cells=8),
        source=source,
        target=target,
        weight=Interpolates(samples=samples, seed=seed),
        strength=1.0,
    )
    return solve(problem, relative_gap=1e-3, refine="none", comm=SERIAL)


@pytest.mark.parametrize("samples", [2048, 16384])
def test_error_bar_of_a_sampled_weight_holds_over_repeated_sampling(samples: int) -> None:
    """Against the cost with all 40,000 pairs: seldom further off than the bias and two errors."""
    exact = sampled(0, samples=40_000)
    assert exact.data["weight"]["method"] == "all-pairs"
    for part in ("weight_standard_error", "weight_bias", "weight_rule_error"):
        assert exact.data["cost_error"][part] == 0.0
    solutions = [sampled(seed, samples) for seed in range(12)]
    assert {solution.data["weight"]["method"] for solution in solutions} == {"sampled"}
    standard, bias = (
        np.array([solution.data["cost_error"][part] for solution in solutions])
        for part in ("weight_standard_error", "weight_bias")
    )
    # Upper bounds differ by where the iteration stops as well.
    errors = np.array([solution.bounds.lower for solution in solutions]) - exact.bounds.lower
    outside = np.maximum(0.0, np.maximum(errors - bias, -errors)) > 2.0 * standard
    assert outside.sum() <= 3
    # What is stated is neither much too large: the mean error is the bias or less, ...
    assert -0.5 * bias.mean() < errors.mean() < 1.5 * bias.mean()
    # ... and the spread is the standard error.
    assert 0.4 < errors.std(ddof=1) / np.sqrt(np.mean(standard**2)) < 2.0


def test_stated_error_adds_up() -> None:
    solution = sampled(0)
    parts = solution.data["cost_error"]
    assert parts["weight_standard_error"] > 0.0
    assert parts["weight_rule_error"] == 0.0
    noise = 2.0 * parts["weight_standard_error"] + parts["weight_bias"]
    expected = parts["load"] + noise + parts["moved_mass"]
    assert solution.bounds.data_error == pytest.approx(expected, rel=1e-14)
    # Mass in cells that no sample reached pays the diagonal of the domain, mass that moved to
    # cells around the cells' diameters, both at a price of at least one.
    rescaled, moved = solution.data["mass_rescaled"], solution.data["mass_moved"]
    spread = 0.5 * (rescaled["source"] + rescaled["target"])
    least = np.sqrt(2.0) * spread + moved["cost"]
    assert least <= parts["moved_mass"] <= 5.0 * least


def test_penalty_is_the_derivative_that_the_weight_error_uses() -> None:
    # Replicates that differ by a factor: their penalties, linear in the weight, do too.
    solution = sampled(0)
    fields, cells = solution.fields, cells_of_mesh(solution.mesh)
    arguments = (cells.simplices, fields.potential, fields.flux, fields.source, fields.target)
    penalty = cell_integrals(*arguments, fields.weight, 1.0).penalty.sum()
    masses = fields.weight * cells.volume
    data = CellData(cells, fields.source, fields.target, masses, 1.0, fields.weight > 0.0, {})
    factors = np.array([0.9, 1.0, 1.1, 1.2])
    weight = CellWeight(masses, factors[:, None] * masses, 0.0, "sampled", 1.0, 0.0, 4)
    expected = penalty * factors.std(ddof=1) / 2.0
    found = weight_errors(data, weight, fields.potential)
    assert found.standard_error == pytest.approx(expected, rel=1e-12)
    # The variance of the mean of the factors, times the penalty.
    assert found.bias == pytest.approx(penalty * factors.var(ddof=1) / 4.0, rel=1e-12)
    assert found.rule == 0.0
    assert found.total == pytest.approx(2.0 * found.standard_error + found.bias, rel=1e-15)
    exact = dataclasses.replace(weight, replicates=None)
    assert weight_errors(data, exact, fields.potential) == WeightErrors()
    # Errors in the cells, a twentieth of each mass: the penalty of that; W₁ knows no weight.
    checked = dataclasses.replace(exact, errors=0.05 * masses)
    found = weight_errors(data, checked, fields.potential)
    assert found == WeightErrors(rule=pytest.approx(0.05 * penalty, rel=1e-12))
    limit = dataclasses.replace(data, strength=np.inf)
    assert weight_errors(limit, checked, fields.potential) == WeightErrors()
    # An error that may be anywhere is where the penalty per mass is largest, at worst.
    worst = (
        cell_integrals(*arguments, fields.weight, 1.0).penalty[fields.weight > 0.0]
        / masses[fields.weight > 0.0]
    ).max()
    closed_form = dataclasses.replace(exact, unlocated_error=1e-3)
    assert weight_errors(data, closed_form, fields.potential).rule == pytest.approx(1e-3 * worst)


@pytest.mark.parametrize("rule", ["rays", "raster"])
def test_stated_error_of_a_deterministic_rule_covers_what_it_does_to_the_cost(rule: str) -> None:
    """The cost with a rough rule against that with one a hundred times better."""

    def solved(tolerance: float, name: str = rule) -> Solution:
        problem = Problem(
            domain=Box((0.0, 0.0), (1.0, 1.0), cells=8),
            source=UniformBall((0.3, 0.4), 0.15),
            target=UniformBall((0.65, 0.6), 0.2),
            weight=Interpolates(rule=name, tolerance=tolerance),
            strength=1.0,
        )
        return solve(problem, relative_gap=1e-4, refine="none", comm=SERIAL)

    rough, fine = solved(0.03), solved(3e-4, "rays")
    stated = rough.data["cost_error"]["weight_rule_error"]
    assert rough.data["cost_error"]["weight_standard_error"] == 0.0
    assert fine.data["cost_error"]["weight_rule_error"] < 0.1 * stated
    # The same gap on both sides, so that the upper bounds can be compared.
    difference = abs(rough.bounds.upper - fine.bounds.upper)
    assert 1e-3 * stated < difference < 2.0 * stated
    assert stated < 0.1 * rough.bounds.upper
