"""Formulas of the bounds for original densities: each inequality against what it bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from congested.certificate import momentum_at_vertices
from congested.continuum import (
    ContinuumFields,
    affine_deviation,
    continuum_integrals,
    control_points,
    mean_length,
    spread_cost,
    weighted_squares,
)
from congested.geometry import (
    EDGES,
    barycentric_coordinates,
    barycentric_gradients,
    simplex_volumes,
    split_simplices,
)
from congested.quadrature import simplex_rule

dimensions = pytest.mark.parametrize("dimension", [2, 3])
STRENGTH = 0.7


def random_simplices(dimension: int, number: int = 40) -> np.ndarray:
    generator = np.random.default_rng(dimension)
    simplices = generator.normal(size=(8 * number, dimension + 1, dimension))
    return simplices[simplex_volumes(simplices) > 0.1][:number]


def bernstein(shares: np.ndarray) -> np.ndarray:
    """Bernstein's basis of degree two (…, k) at barycentric coordinates (…, d+1)."""
    pairs = EDGES[shares.shape[-1] - 1]
    mixed = [2.0 * shares[..., i] * shares[..., j] for i, j in pairs]
    return np.concatenate([shares**2, np.stack(mixed, axis=-1)], axis=-1)


def fine_rule(dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in barycentric coordinates of a simplex cut finely, and weights with sum one."""
    reference = np.concatenate([np.zeros((1, dimension)), np.eye(dimension)])[None]
    pieces = reference
    for _ in range({2: 4, 3: 3}[dimension]):
        pieces = split_simplices(pieces)
    nodes, weights = simplex_rule(dimension, 6)
    x = np.matmul(nodes, pieces).reshape(1, -1, dimension)
    shares = barycentric_coordinates(reference, x)[0]
    return shares, np.tile(weights, len(pieces)) / len(pieces)


# --- the corrector c₁ -------------------------------------------------------------------------


@dimensions
def test_affine_deviation_inverts_the_vertex_masses(dimension: int) -> None:
    simplices = random_simplices(dimension)
    values = np.random.default_rng(0).normal(size=simplices.shape[:2])
    nodes, weights = simplex_rule(dimension, 2)
    masses = np.einsum("q,qi,nq->ni", weights, nodes, values @ nodes.T)
    masses *= simplex_volumes(simplices)[:, None]
    found = affine_deviation(simplices, masses)
    np.testing.assert_allclose(found, values - values.mean(axis=1, keepdims=True), atol=1e-11)


@dimensions
def test_corrector_has_the_divergence_of_the_affine_part_and_no_normal_flux(dimension: int) -> None:
    simplices = random_simplices(dimension)
    deviation = np.random.default_rng(1).normal(size=simplices.shape[:2])
    deviation -= deviation.mean(axis=1, keepdims=True)
    control = control_points(simplices, np.zeros_like(simplices), deviation)
    gradients = barycentric_gradients(simplices)

    def field(shares: np.ndarray) -> np.ndarray:
        return np.einsum("nqk,nkd->nqd", bernstein(shares), control)

    generator = np.random.default_rng(2)
    shares = generator.dirichlet(np.ones(dimension + 1), size=(len(simplices), 5))
    # Differences of a quadratic field about a point are exact.
    divergence = np.zeros(shares.shape[:2])
    for axis in range(dimension):
        step = 0.5 * gradients[:, None, :, axis]
        change = field(shares + step) - field(shares - step)
        divergence += change[..., axis]
    np.testing.assert_allclose(divergence, np.einsum("nqi,ni->nq", shares, deviation), atol=1e-9)
    for facet in range(dimension + 1):
        on_facet = shares.copy()
        on_facet[..., facet] = 0.0
        normal = gradients[:, facet]
        through = np.einsum("nqd,nd->nq", field(on_facet), normal)
        np.testing.assert_allclose(through, 0.0, atol=1e-12)


# --- integrals of the quadratic field ---------------------------------------------------------


@dimensions
@pytest.mark.parametrize("degree", [1, 2])
def test_weighted_squares_are_exact(dimension: int, degree: int) -> None:
    size = (dimension + 1) * (dimension + 2) // 2
    control = np.random.default_rng(3).normal(size=(20, size, dimension))
    nodes, weights = simplex_rule(dimension, 4 + degree)
    values = np.einsum("qk,nkd->nqd", bernstein(nodes), control)
    basis = nodes if degree == 1 else bernstein(nodes)
    exact = np.einsum("q,qm,nq->nm", weights, basis, np.sum(values**2, axis=2))
    np.testing.assert_allclose(weighted_squares(control, degree), exact, rtol=1e-10, atol=1e-14)


@dimensions
def test_mean_length_is_above_quadrature(dimension: int) -> None:
    size = (dimension + 1) * (dimension + 2) // 2
    generator = np.random.default_rng(4)
    # Fields with a direction and fields that turn: each of the two bounds has its turn.
    control = generator.normal(size=(60, size, dimension))
    control[30:] = 2.0 + 0.1 * control[30:]
    control[45:] *= np.linspace(-0.2, 3.0, size)[:, None]
    shares, weights = fine_rule(dimension)
    values = np.einsum("qk,nkd->nqd", bernstein(shares), control)
    exact = np.linalg.norm(values, axis=2) @ weights
    squares = weighted_squares(control, 1)
    found = mean_length(control, squares)
    assert (found >= exact * (1.0 - 1e-4)).all()
    assert (found <= 1.6 * exact).all()
    assert (found[30:45] <= 1.001 * exact[30:45]).all()
    average = np.linalg.norm(control, axis=2).mean(axis=1)
    sharper = np.count_nonzero(found < average * (1 - 1e-12))
    assert 0 < sharper <= len(found) - (dimension == 2)


@dimensions
def test_degree_elevation_is_sharper_than_the_vertex_rule(dimension: int) -> None:
    simplices = random_simplices(dimension)
    flux = np.random.default_rng(5).normal(size=simplices.shape[:2])
    momentum = momentum_at_vertices(simplices, flux)
    control = control_points(simplices, momentum, np.zeros_like(flux))
    vertex_rule = np.linalg.norm(momentum, axis=2).mean(axis=1)
    assert (np.linalg.norm(control, axis=2).mean(axis=1) < vertex_rule).all()


# --- spreading a mass -------------------------------------------------------------------------


@dimensions
def test_spread_cost_is_above_the_mean_distance(dimension: int) -> None:
    simplices = random_simplices(dimension, 20)
    shares, weights = fine_rule(dimension)
    uniform = np.einsum("qi,nid->nqd", shares, simplices)
    generator = np.random.default_rng(6)
    for place in (*np.eye(dimension + 1), *generator.dirichlet(np.ones(dimension + 1), size=5)):
        atom = np.einsum("i,nid->nd", place, simplices)
        exact = np.linalg.norm(uniform - atom[:, None], axis=2) @ weights
        found = spread_cost(simplices, np.broadcast_to(place, simplices.shape[:2]))
        assert (found >= exact).all()
        # Sharp at the vertices; in the middle of a cell it is that of the vertices still.
        assert (found <= (1.3 if place.max() == 1.0 else 3.0) * exact).all()
    twice = spread_cost(simplices, np.full(simplices.shape[:2], 2.0 / (dimension + 1)))
    once = spread_cost(simplices, np.full(simplices.shape[:2], 1.0 / (dimension + 1)))
    np.testing.assert_allclose(twice, 2.0 * once, rtol=1e-14)


# --- all together -----------------------------------------------------------------------------


def quadratic_case(dimension: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Cells, fields, and control points of a momentum with the divergence of affine densities."""
    simplices = random_simplices(dimension)
    generator = np.random.default_rng(7)
    volume = simplex_volumes(simplices)
    densities = generator.uniform(0.5, 2.0, size=(2, *simplices.shape[:2]))
    nodes, weights = simplex_rule(dimension, 2)
    masses = np.einsum("q,qi,mnq->mni", weights, nodes, densities @ nodes.T) * volume[:, None]
    flux = generator.normal(size=simplices.shape[:2])
    flux += ((masses[0] - masses[1]).sum(axis=1) - flux.sum(axis=1))[:, None] / flux.shape[1]
    momentum = momentum_at_vertices(simplices, flux)
    deviation = densities[0] - densities[1]
    deviation -= deviation.mean(axis=1, keepdims=True)
    control = control_points(simplices, momentum, deviation)
    return simplices, {"flux": flux, "source": masses[0], "target": masses[1]}, control


def fields_of(case: dict[str, np.ndarray], inverse: np.ndarray | None, error: float = 0.0):
    zero = np.full(len(case["flux"]), error)
    return ContinuumFields(case["source"], case["target"], zero, zero, inverse)


@dimensions
def test_upper_bound_of_affine_densities_is_that_of_the_momentum(dimension: int) -> None:
    simplices, case, control = quadratic_case(dimension)
    size = control.shape[1]
    inverse = np.random.default_rng(8).uniform(0.5, 3.0, size=(len(simplices), size))
    potential = np.random.default_rng(9).normal(size=simplices.shape[:2])
    weight = np.ones(len(simplices))
    found = continuum_integrals(
        simplices, potential, case["flux"], weight, STRENGTH, fields_of(case, inverse)
    )
    shares, weights = fine_rule(dimension)
    basis = bernstein(shares)
    length = np.linalg.norm(np.einsum("qk,nkd->nqd", basis, control), axis=2)
    quadratic = (length**2 * (inverse @ basis.T)) @ weights / (4.0 * STRENGTH)
    volume = simplex_volumes(simplices)
    # |m|²/(4λσ) exactly, |m| from above.
    np.testing.assert_allclose(
        found.transport_cost - found.momentum_l1, volume * quadratic, rtol=1e-9
    )
    assert (found.momentum_l1 >= volume * (length @ weights) * (1.0 - 1e-4)).all()
    assert (found.momentum_l1 <= 1.6 * volume * (length @ weights)).all()
    assert np.abs(found.divergence_residual).max() < 1e-12


@dimensions
def test_indicator_is_not_negative_and_is_the_gap_of_a_cell(dimension: int) -> None:
    simplices, case, control = quadratic_case(dimension)
    inverse = np.random.default_rng(8).uniform(0.5, 3.0, size=(len(simplices), control.shape[1]))
    # σ_T of the largest σ that the bound allows.
    shares, weights = fine_rule(dimension)
    weight = (1.0 / (inverse @ bernstein(shares).T)) @ weights
    for seed in range(10):
        potential = 3.0 * np.random.default_rng(seed).normal(size=simplices.shape[:2])
        found = continuum_integrals(
            simplices, potential, case["flux"], weight, STRENGTH, fields_of(case, inverse)
        )
        scale = found.penalty + found.transport_cost
        assert (found.gap_indicator >= -1e-12 * scale).all()
        # What is left when the facets are summed over: the flux through them times u.
        gradients = barycentric_gradients(simplices)
        normals = -dimension * simplex_volumes(simplices)[:, None, None] * gradients
        momentum = momentum_at_vertices(simplices, case["flux"])
        through = np.zeros(len(simplices))
        for facet in range(dimension + 1):
            corners = [i for i in range(dimension + 1) if i != facet]
            product = np.einsum("nid,nd->ni", momentum[:, corners], normals[:, facet])
            through += (product * potential[:, corners]).mean(axis=1)
        gap = found.penalty + found.transport_cost - found.critic_loss
        np.testing.assert_allclose(found.gap_indicator, gap + through, atol=1e-9 * scale.max())


@dimensions
def test_rest_of_the_density_costs_what_its_corrector_may(dimension: int) -> None:
    simplices, case, control = quadratic_case(dimension)
    inverse = np.full((len(simplices), control.shape[1]), 2.0)
    arguments = simplices, np.zeros(simplices.shape[:2]), case["flux"], np.ones(len(simplices))
    plain, more = (
        continuum_integrals(*arguments, STRENGTH, fields_of(case, inverse, error))
        for error in (0.0, 0.05)
    )
    volume = simplex_volumes(simplices)
    first, second = np.array(EDGES[dimension]).T
    diameter = np.linalg.norm(simplices[:, first] - simplices[:, second], axis=2).max(axis=1)
    rest = diameter / math.pi * 0.1  # both measures
    np.testing.assert_allclose(more.momentum_l1 - plain.momentum_l1, volume * rest, rtol=1e-9)
    # Minkowski in L²(1/σ): the roots of the quadratic parts differ by √|T| √(1/σ) rms(c₂).
    roots = [
        np.sqrt((each.transport_cost - each.momentum_l1) * 4.0 * STRENGTH) for each in (plain, more)
    ]
    np.testing.assert_allclose(roots[1] - roots[0], np.sqrt(2.0 * volume) * rest, rtol=1e-9)


@dimensions
def test_the_corrector_of_a_cubic_density_costs_less_than_its_bound(dimension: int) -> None:
    """c = λ₀ … λ_d w has no flux through any facet: its divergence and its size are known."""
    simplices = random_simplices(dimension)
    gradients = barycentric_gradients(simplices)
    direction = np.random.default_rng(10).normal(size=(len(simplices), dimension))
    shares, weights = simplex_rule(dimension, 10)
    others = np.stack(
        [np.prod(np.delete(shares, i, axis=1), axis=1) for i in range(dimension + 1)], axis=1
    )
    size = np.linalg.norm(direction, axis=1) * math.sqrt(np.prod(shares, axis=1) ** 2 @ weights)
    divergence = np.einsum("qi,nid,nd->nq", others, gradients, direction)
    norm = np.sqrt(divergence**2 @ weights)
    first, second = np.array(EDGES[dimension]).T
    diameter = np.linalg.norm(simplices[:, first] - simplices[:, second], axis=2).max(axis=1)
    # Any field is at least as large as the gradient field that the bound is for.
    assert np.abs(divergence @ weights).max() < 1e-12
    ratio = size / (diameter / math.pi * norm)
    assert 0.2 < ratio.max() < 1.0


def test_nothing_is_known_without_density_at_finite_strength() -> None:
    simplices, case, control = quadratic_case(2)
    arguments = simplices, np.zeros(simplices.shape[:2]), case["flux"], np.ones(len(simplices))
    inverse = np.ones((len(simplices), control.shape[1]))
    fields = fields_of(case, inverse, math.inf)
    assert np.isposinf(continuum_integrals(*arguments, STRENGTH, fields).transport_cost).all()


def test_closed_cells_need_nothing() -> None:
    simplices, case, control = quadratic_case(2)
    still = {name: np.zeros_like(values) for name, values in case.items()}
    inverse = np.full((len(simplices), control.shape[1]), np.inf)
    steep = 9.0 * simplices[:, :, 0]
    zero = np.zeros(len(simplices))
    found = continuum_integrals(
        simplices, steep, still["flux"], zero, STRENGTH, fields_of(still, inverse)
    )
    np.testing.assert_array_equal(found.gap_indicator, 0.0)
    np.testing.assert_array_equal(found.transport_cost, 0.0)
    moving = continuum_integrals(
        simplices, steep, case["flux"], zero, STRENGTH, fields_of(case, inverse)
    )
    assert np.isposinf(moving.transport_cost).all()


@dimensions
def test_without_congestion_the_cheaper_way_is_taken(dimension: int) -> None:
    simplices, case, _ = quadratic_case(dimension)
    flat = np.zeros(simplices.shape[:2])
    one = np.ones(len(simplices))

    def cost(source_error: float, target_error: float) -> np.ndarray:
        fields = ContinuumFields(
            case["source"], case["target"], source_error * one, target_error * one, None
        )
        found = continuum_integrals(simplices, flat, case["flux"], one, math.inf, fields)
        np.testing.assert_array_equal(found.transport_cost, found.momentum_l1)
        return found.transport_cost

    volume = simplex_volumes(simplices)
    momentum = momentum_at_vertices(simplices, case["flux"])
    plain = control_points(simplices, momentum, flat)
    carried = volume * mean_length(plain, weighted_squares(plain, 1))
    spread = [spread_cost(simplices, case[name]) for name in ("source", "target")]
    np.testing.assert_allclose(cost(math.inf, math.inf), carried + sum(spread), rtol=1e-12)
    # A density that is known exactly needs its corrector only.
    assert (cost(0.0, 0.0) < carried + 0.7 * sum(spread)).mean() > 0.8
    # One that is hardly known is spread.
    np.testing.assert_allclose(cost(1e3, 1e3), carried + sum(spread), rtol=1e-12)
    mixed = cost(0.0, math.inf)
    assert (mixed >= spread[1]).all()
    assert (mixed <= carried + sum(spread) + 1e-12).all()
