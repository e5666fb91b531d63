"""The certificate: every integral against quadrature, every bound against what it bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ufl
from dolfinx import fem
from mpi4py import MPI

from congested.certificate import (
    EDGES,
    Bounds,
    CellIntegrals,
    cell_integrals,
    gradient_at_vertices,
    momentum_at_vertices,
    potential_at,
    potential_means,
)
from congested.compatibility import expression
from congested.discretization import LAGRANGE_2, PotentialSpace
from congested.domain import Box, create_mesh
from congested.geometry import (
    barycentric_gradients,
    cells_of_mesh,
    simplex_volumes,
    split_simplices,
)
from congested.measures.gaussian_mixture import GaussianMixture
from congested.nested_iteration import solve
from congested.problem import OutputOptions, Problem
from congested.quadrature import simplex_rule
from congested.weights.kinds import ConstantWeight, Interpolates

dimensions = pytest.mark.parametrize("dimension", [2, 3])
STRENGTH = 2.5


def random_simplices(dimension: int, number: int = 40) -> np.ndarray:
    generator = np.random.default_rng(dimension)
    simplices = generator.normal(size=(6 * number, dimension + 1, dimension))
    return simplices[simplex_volumes(simplices) > 0.05][:number]


def edge_values(points: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    pairs = np.array(EDGES[points.shape[-1]])
    return function(0.5 * (points[:, pairs[:, 0]] + points[:, pairs[:, 1]]))


def integrate(function: Callable[[np.ndarray], np.ndarray], simplices: np.ndarray) -> np.ndarray:
    """Integrals (n,) of a function of (cell, point) by a rule that is exact to degree 6."""
    points, weights = simplex_rule(simplices.shape[2], 6)
    values = function(np.einsum("qi,nid->nqd", points, simplices))
    return simplex_volumes(simplices) * (values @ weights)


def integrate_finely(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], simplices: np.ndarray
) -> np.ndarray:
    """Integrals (n,) of a function of (cell, point) over cells that are refined several times."""
    dimension = simplices.shape[2]
    pieces = simplices
    for _ in range({2: 5, 3: 3}[dimension]):
        pieces = split_simplices(pieces)
    points, weights = simplex_rule(dimension, 6)
    owner = np.repeat(np.arange(len(simplices)), len(pieces) // len(simplices))
    values = function(owner, np.einsum("qi,nid->nqd", points, pieces))
    return np.bincount(owner, simplex_volumes(pieces) * (values @ weights))


def affine(simplices: np.ndarray, corners: np.ndarray) -> Callable[..., np.ndarray]:
    """The affine vector field with given vertex values, as a function of (cells, points)."""
    gradients = barycentric_gradients(simplices)
    slope = np.einsum("nik,nid->nkd", corners, gradients)

    def field(owner: np.ndarray, points: np.ndarray) -> np.ndarray:
        offset = points - simplices[owner, None, 0]
        return corners[owner, None, 0] + np.einsum("nkd,nqd->nqk", slope[owner], offset)

    return field


def random_integrals(
    simplices: np.ndarray, *, quadratic: bool, seed: int = 0
) -> tuple[dict[str, np.ndarray], CellIntegrals]:
    generator = np.random.default_rng(seed)
    number, corners, dimension = simplices.shape
    fields = {
        "potential": 2.0 * generator.normal(size=(number, corners)),
        "flux": generator.normal(size=(number, corners)),
        "source": generator.uniform(size=number),
        "target": generator.uniform(size=number),
        "weight": generator.uniform(0.05, 1.0, size=number),
    }
    edges = 2.0 * generator.normal(size=(number, len(EDGES[dimension]))) if quadratic else None
    integrals = cell_integrals(simplices, **fields, strength=STRENGTH, potential_edges=edges)
    return {**fields, "potential_edges": edges}, integrals


# --- the momentum and the potential from their degrees of freedom ------------------------------


@dimensions
def test_momentum_has_the_given_facet_integrals(dimension: int) -> None:
    simplices = random_simplices(dimension)
    flux = np.random.default_rng(0).normal(size=simplices.shape[:2])
    momentum = momentum_at_vertices(simplices, flux)
    # Outward normal times area of the facet opposite vertex i: −d|T| ∇λ_i.
    normals = (
        -dimension * simplex_volumes(simplices)[:, None, None] * barycentric_gradients(simplices)
    )
    for facet in range(dimension + 1):
        mean = np.delete(momentum, facet, axis=1).mean(axis=1)
        through = np.einsum("nd,nd->n", mean, normals[:, facet])
        np.testing.assert_allclose(through, flux[:, facet], atol=1e-11)
    # A Raviart–Thomas field is a constant plus a multiple of x.
    field = affine(simplices, momentum)
    step = 1e-3 * np.eye(dimension)
    here = np.tile(simplices[:, :1], (1, dimension, 1))
    own = np.arange(len(simplices))
    slopes = (field(own, here + step) - field(own, here)) / 1e-3
    divergence = flux.sum(axis=1) / simplex_volumes(simplices) / dimension
    np.testing.assert_allclose(slopes, divergence[:, None, None] * np.eye(dimension), atol=1e-7)


@dimensions
def test_gradient_of_quadratic_potential_is_exact(dimension: int) -> None:
    generator = np.random.default_rng(3)
    matrix = generator.normal(size=(dimension, dimension))
    matrix += matrix.T
    vector = generator.normal(size=dimension)

    def quadratic(points: np.ndarray) -> np.ndarray:
        bilinear = np.einsum("...i,ij,...j->...", points, matrix, points)
        return 0.5 * bilinear + points @ vector + 7.0

    simplices = random_simplices(dimension)
    vertices, edges = quadratic(simplices), edge_values(simplices, quadratic)
    found = gradient_at_vertices(simplices, vertices, edges)
    np.testing.assert_allclose(found, simplices @ matrix + vector, atol=1e-9)
    # The mean of a quadratic function: exact by quadrature.
    expected = integrate(quadratic, simplices) / simplex_volumes(simplices)
    np.testing.assert_allclose(potential_means(vertices, edges), expected, rtol=1e-11, atol=1e-11)
    shares = generator.dirichlet(np.ones(dimension + 1), len(simplices))
    places = np.einsum("ni,nid->nd", shares, simplices)
    there = potential_at(vertices, edges, shares)
    np.testing.assert_allclose(there, quadratic(places), rtol=1e-11, atol=1e-11)
    affine = potential_at(simplices @ vector, None, shares)
    np.testing.assert_allclose(affine, places @ vector, rtol=1e-11, atol=1e-11)


@dimensions
def test_gradient_of_p2_is_that_of_dolfinx(dimension: int) -> None:
    mesh = create_mesh(Box((0.0,) * dimension, (1.0,) * dimension, cells=2), MPI.COMM_SELF)
    cells = cells_of_mesh(mesh)
    space = PotentialSpace(mesh, cells, LAGRANGE_2, np.ones(cells.number, dtype=bool))
    function = fem.Function(space.space)
    generator = np.random.default_rng(0)
    function.x.array[:] = generator.normal(size=len(function.x.array))

    into = fem.functionspace(mesh, ("DG", 1, (dimension,)))
    gradient = fem.Function(into)
    gradient.interpolate(expression(ufl.grad(function), into))
    expected = gradient.x.array.reshape(cells.number, dimension + 1, dimension)
    values = function.x.array[space.dofmap]
    vertices, edges = values[:, : dimension + 1], values[:, dimension + 1 :]
    found = gradient_at_vertices(cells.simplices, vertices, edges)
    np.testing.assert_allclose(found, expected, atol=1e-11)
    np.testing.assert_allclose(found, space.gradient(function.x.array), atol=1e-11)
    mean = fem.assemble_scalar(fem.form(function * ufl.dx))
    assert cells.volume @ potential_means(vertices, edges) == pytest.approx(mean, rel=1e-12)


# --- the integrals --------------------------------------------------------------------------


@dimensions
@pytest.mark.parametrize("quadratic", [False, True])
def test_exact_integrals(dimension: int, quadratic: bool) -> None:
    simplices = random_simplices(dimension)
    fields, integrals = random_integrals(simplices, quadratic=quadratic)
    own = np.arange(len(simplices))
    momentum = affine(simplices, momentum_at_vertices(simplices, fields["flux"]))
    corners = gradient_at_vertices(simplices, fields["potential"], fields["potential_edges"])
    corners = np.broadcast_to(corners, simplices.shape)
    gradient = affine(simplices, corners)

    # |m|²/(2κ) is the difference of cost and ∫|m|.
    squared = integrate(lambda x: np.sum(momentum(own, x) ** 2, axis=-1), simplices)
    quadratic_cost = squared / (4.0 * STRENGTH * fields["weight"])
    found = integrals.transport_cost - integrals.momentum_l1
    np.testing.assert_allclose(found, quadratic_cost, rtol=1e-10)

    work = integrate(lambda x: np.sum(momentum(own, x) * gradient(own, x), axis=-1), simplices)
    found = integrals.gap_indicator - integrals.penalty - integrals.transport_cost
    scale = np.abs(integrals.gap_indicator) + integrals.penalty + integrals.transport_cost
    assert (np.abs(found - work) <= 1e-12 * scale).all()

    means = potential_means(fields["potential"], fields["potential_edges"])
    loss = simplex_volumes(simplices) * means * (fields["source"] - fields["target"])
    np.testing.assert_allclose(integrals.critic_loss, loss, rtol=1e-12)
    divergence = fields["flux"].sum(axis=1)
    difference = simplex_volumes(simplices) * (fields["source"] - fields["target"])
    np.testing.assert_allclose(integrals.divergence_residual, divergence - difference, atol=1e-13)
    if not quadratic:
        length = np.linalg.norm(corners[:, 0], axis=1)
        exact = STRENGTH * fields["weight"] * np.maximum(length - 1.0, 0.0) ** 2
        np.testing.assert_allclose(
            integrals.penalty, exact * simplex_volumes(simplices), rtol=1e-10, atol=1e-14
        )


@dimensions
def test_upper_rule_is_above_quadrature(dimension: int) -> None:
    simplices = random_simplices(dimension)
    fields, integrals = random_integrals(simplices, quadratic=False)
    corners = momentum_at_vertices(simplices, fields["flux"])
    field = affine(simplices, corners)
    length = integrate_finely(lambda owner, x: np.linalg.norm(field(owner, x), axis=-1), simplices)
    # Where |m| has a kink the quadrature errs by less than 1e-3, and the rule by far more: up to
    # 26 % for these fields, most of which vanish in or near their cell.
    assert (integrals.momentum_l1 >= length * (1.0 - 1e-9)).all()
    assert (integrals.momentum_l1 <= 1.3 * length).all()
    volume = simplex_volumes(simplices)
    vertex_rule = volume * np.linalg.norm(corners, axis=2).mean(axis=1)
    assert (integrals.momentum_l1 <= vertex_rule * (1.0 + 1e-14)).all()
    # The root mean square is the sharper of the two for some of these fields, not for all.
    sharper = integrals.momentum_l1 < vertex_rule * (1.0 - 1e-12)
    assert 0 < np.count_nonzero(sharper) <= len(simplices)


@dimensions
def test_lower_rule_is_above_quadrature_of_the_penalty(dimension: int) -> None:
    simplices = random_simplices(dimension)
    fields, integrals = random_integrals(simplices, quadratic=True)
    corners = gradient_at_vertices(simplices, fields["potential"], fields["potential_edges"])
    field = affine(simplices, corners)

    def penalty(owner: np.ndarray, points: np.ndarray) -> np.ndarray:
        excess = np.maximum(np.linalg.norm(field(owner, points), axis=-1) - 1.0, 0.0)
        return STRENGTH * fields["weight"][owner, None] * excess**2

    exact = integrate_finely(penalty, simplices)
    assert (integrals.penalty >= exact * (1.0 - 1e-9)).all()
    assert np.count_nonzero(integrals.penalty > 1.01 * exact) > len(simplices) // 2


@dimensions
@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize("strength", [0.1, 10.0, 1e3])
def test_indicator_is_not_negative(dimension: int, quadratic: bool, strength: float) -> None:
    simplices = random_simplices(dimension)
    fields, integrals = random_integrals(simplices, quadratic=quadratic, seed=1)
    fields["strength"] = strength
    integrals = cell_integrals(simplices, **fields)
    scale = integrals.penalty + integrals.transport_cost
    assert (integrals.gap_indicator >= -1e-13 * scale).all()


@dimensions
def test_indicator_vanishes_for_the_optimal_pair(dimension: int) -> None:
    # Constant ∇u and the momentum −κ(|∇u| − 1)₊ ∇u/|∇u| that belongs to it.
    simplices = random_simplices(dimension)
    number = len(simplices)
    generator = np.random.default_rng(4)
    gradient = generator.normal(size=(number, dimension))
    length = np.linalg.norm(gradient, axis=1)
    gradient *= (1.0 + generator.exponential(size=number) / length)[:, None]
    length = np.linalg.norm(gradient, axis=1)
    weight = generator.uniform(0.05, 1.0, size=number)
    size = 2.0 * STRENGTH * weight * np.maximum(length - 1.0, 0.0)
    momentum = -(size / length)[:, None] * gradient
    normals = (
        -dimension * simplex_volumes(simplices)[:, None, None] * barycentric_gradients(simplices)
    )
    integrals = cell_integrals(
        simplices,
        potential=np.einsum("nid,nd->ni", simplices, gradient),
        flux=np.einsum("nid,nd->ni", normals, momentum),
        source=np.zeros(number),
        target=np.zeros(number),
        weight=weight,
        strength=STRENGTH,
    )
    scale = integrals.penalty + integrals.transport_cost
    assert np.count_nonzero(size > 0.1) > number // 2
    assert (np.abs(integrals.gap_indicator) <= 1e-12 * (scale + 1e-3)).all()


def test_closed_cell_needs_no_flux() -> None:
    simplices = random_simplices(2, 2)
    zero = np.zeros(2)
    arguments = {"source": zero, "target": zero, "weight": zero, "strength": 10.0}
    steep = 50.0 * simplices[:, :, 0]
    still = cell_integrals(simplices, steep, np.zeros((2, 3)), **arguments)
    np.testing.assert_array_equal(still.penalty, 0.0)
    np.testing.assert_array_equal(still.transport_cost, 0.0)
    flux = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    moving = cell_integrals(simplices, steep, flux, **arguments)
    np.testing.assert_array_equal(np.isposinf(moving.transport_cost), [True, False])


# --- bounds ---------------------------------------------------------------------------------


def test_bounds() -> None:
    bounds = Bounds(0.9, 1.0)
    assert bounds.gap == pytest.approx(0.1)
    assert bounds.relative_gap == pytest.approx(0.1)
    assert bounds.cost == pytest.approx(0.95)
    assert Bounds(0.0, 0.0).relative_gap == 0.0


# --- from the written files, with NumPy alone -------------------------------------------------


def recomputed_bounds(directory: Path) -> dict[str, float]:
    """Evaluate the certificate from result.json and solution.npz; nothing else is used."""
    with (directory / "result.json").open() as file:
        result = json.load(file)
    strength = float(result["problem"]["penalty"]["strength"])
    with np.load(directory / "solution.npz", allow_pickle=False) as file:
        arrays = dict(file)
    vertices, cells = arrays["vertices"], arrays["cells"]
    dimension = vertices.shape[1]
    corners = vertices[cells]
    jacobian = np.swapaxes(corners[:, 1:] - corners[:, :1], 1, 2)
    volume = np.abs(np.linalg.det(jacobian)) / math.factorial(dimension)
    gradients = np.linalg.inv(jacobian)
    gradients = np.concatenate([-gradients.sum(axis=1, keepdims=True), gradients], axis=1)
    weight, difference = arrays["weight"], arrays["source"] - arrays["target"]

    # The flux is single-valued: opposite on the two sides of a facet, zero on the boundary.
    flux = arrays["flux"]
    facets = np.stack([np.delete(cells, i, axis=1) for i in range(dimension + 1)], axis=1)
    keys = np.sort(facets.reshape(-1, dimension), axis=1)
    _, facet = np.unique(keys, axis=0, return_inverse=True)
    jump = np.bincount(facet.ravel(), flux.ravel())
    residual = flux.sum(axis=1) - volume * difference

    # Upper bound: ∫ |m| + |m|²/(4λσ) of m(x) = Σ flux_i (x − v_i)/(d|T|).
    offsets = corners[:, :, None] - corners[:, None]
    momentum = np.einsum("nj,nijd->nid", flux, offsets) / (dimension * volume)[:, None, None]
    number = dimension + 1
    second = np.einsum("nid,njd->n", momentum, momentum) + np.einsum(
        "nid,nid->n", momentum, momentum
    )
    mean_square = second / (number * (number + 1))
    length = np.minimum(np.linalg.norm(momentum, axis=2).mean(axis=1), np.sqrt(mean_square))
    moving = mean_square > 0.0
    cost = length.copy()
    cost[moving] += mean_square[moving] / (4.0 * strength * weight[moving])

    # Lower bound: ∫ u d(μ − ν) − λ ∫ (|∇u| − 1)₊² dσ, for P2 with the vertex rule.
    potential = arrays["potential"][cells]
    slopes = np.einsum("ni,nid->nd", potential, gradients)[:, None]
    mean = potential.mean(axis=1)
    if "potential_edges" in arrays:
        lookup = {tuple(sorted(edge)): k for k, edge in enumerate(arrays["edges"].tolist())}
        slopes = np.zeros_like(corners)
        total = np.zeros(len(cells))
        for i in range(number):
            for k in range(number):
                slopes[:, k] += (4.0 * (i == k) - 1.0) * potential[:, i, None] * gradients[:, i]
            for j in range(i):
                pairs = np.sort(cells[:, [i, j]], axis=1).tolist()
                values = arrays["potential_edges"][[lookup[tuple(pair)] for pair in pairs]]
                total += values
                slopes[:, i] += 4.0 * values[:, None] * gradients[:, j]
                slopes[:, j] += 4.0 * values[:, None] * gradients[:, i]
        # Means of the P2 basis: 0 and 1/3 in 2D, −1/20 and 1/5 in 3D.
        vertex_mean, edge_mean = {2: (0.0, 1 / 3), 3: (-1 / 20, 1 / 5)}[dimension]
        mean = vertex_mean * potential.sum(axis=1) + edge_mean * total
    excess = np.maximum(np.linalg.norm(slopes, axis=2) - 1.0, 0.0)
    penalty = strength * weight * (excess**2).mean(axis=1)
    return {
        "lower": float(volume @ (difference * mean - penalty)),
        "upper": float(volume @ cost),
        "largest_jump": float(np.abs(jump).max()),
        "largest_residual": float(np.abs(residual).max()),
        "gap": float(arrays["gap_indicator"].sum()),
        "smallest_indicator": float(arrays["gap_indicator"].min()),
    }


def two_gaussians(dimension: int, cells: int) -> Problem:
    means = np.array([[0.35, 0.4, 0.5], [0.65, 0.6, 0.5]])[:, None, :dimension]
    return Problem(
        domain=Box((0.0,) * dimension, (1.0,) * dimension, cells=cells),
        source=GaussianMixture.from_stds(means[0], np.array([0.1])),
        target=GaussianMixture.from_stds(means[1], np.array([0.1])),
        weight=Interpolates() if dimension == 2 else ConstantWeight(),
        output=OutputOptions(formats=(), overview=False),
    )


@pytest.mark.parametrize(
    ("dimension", "cells", "lower_bound"), [(2, 8, "p1"), (2, 8, "p2"), (3, 4, "p1"), (3, 4, "p2")]
)
def test_certificate_recomputed_from_files_with_numpy_alone(
    dimension: int, cells: int, lower_bound: str, tmp_path: Path
) -> None:
    solution = solve(
        two_gaussians(dimension, cells),
        relative_gap=1e-2,
        refine="none",
        lower_bound=lower_bound,
        comm=MPI.COMM_SELF,
    )
    assert solution.data["lower_bound_from"] == lower_bound
    directory = solution.write(tmp_path / "result")
    with (directory / "result.json").open() as file:
        written = json.load(file)
    found = recomputed_bounds(directory)
    # Sums of 300 to 1000 cells in another order.
    assert found["lower"] == pytest.approx(written["bounds"]["lower"], rel=1e-12)
    assert found["upper"] == pytest.approx(written["bounds"]["upper"], rel=1e-12)
    assert found["lower"] < found["upper"]
    assert found["largest_jump"] < 1e-15
    assert found["largest_residual"] == pytest.approx(
        written["conservation"]["max_divergence_residual"], abs=1e-15
    )
    assert found["largest_residual"] < 1e-14
    # Σ η_T is the gap itself, up to the divergence residual times the potential.
    assert found["gap"] == pytest.approx(written["bounds"]["gap"], abs=1e-12)
    assert found["smallest_indicator"] >= -1e-15
