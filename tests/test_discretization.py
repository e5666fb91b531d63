"""Potential spaces: parts of the mesh, null space, gradients, stiffness; the momentum function."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from dolfinx import fem, geometry
from dolfinx.mesh import Mesh
from mpi4py import MPI

from congested.certificate import momentum_at_vertices
from congested.discretization import (
    CROUZEIX_RAVIART,
    LAGRANGE_1,
    LAGRANGE_2,
    PotentialSpace,
    StiffnessSystem,
    momentum_function,
)
from congested.domain import Box, create_mesh
from congested.geometry import Cells, barycentric_gradients, cells_of_mesh

KINDS = (CROUZEIX_RAVIART, LAGRANGE_1, LAGRANGE_2)
kinds = pytest.mark.parametrize("kind", KINDS)
dimensions = pytest.mark.parametrize("dimension", [2, 3])


def unit_mesh(dimension: int, cells: int) -> tuple[Mesh, Cells]:
    mesh = create_mesh(Box((0.0,) * dimension, (1.0,) * dimension, cells=cells), MPI.COMM_SELF)
    return mesh, cells_of_mesh(mesh)


def whole(mesh: Mesh, cells: Cells, kind: str) -> PotentialSpace:
    return PotentialSpace(mesh, cells, kind, np.ones(cells.number, dtype=bool))


def opposite_corners(cells: Cells) -> np.ndarray:
    """Cells of the two squares (cubes) that touch in the middle of the domain only."""
    return (cells.midpoint < 0.5).all(axis=1) | (cells.midpoint > 0.5).all(axis=1)


def interpolated(space: PotentialSpace, function: object) -> np.ndarray:
    result = fem.Function(space.space)
    result.interpolate(function)
    return result.x.array


# --- parts ----------------------------------------------------------------------------------


@dimensions
@kinds
def test_parts_that_touch_at_a_vertex(dimension: int, kind: str) -> None:
    mesh, cells = unit_mesh(dimension, 2)
    active = opposite_corners(cells)
    space = PotentialSpace(mesh, cells, kind, active)
    components = space.components
    np.testing.assert_array_equal(components[~active], -1)
    lower = active & (cells.midpoint[:, 0] < 0.5)
    upper = active & (cells.midpoint[:, 0] > 0.5)
    if kind == CROUZEIX_RAVIART:
        # No facet joins them: no flux can pass.
        assert {*components[lower]} | {*components[upper]} == {0, 1}
        assert len({*components[lower]}) == len({*components[upper]}) == 1
        assert space.parts.count == 2
    else:
        # A continuous potential has one value at the vertex.
        np.testing.assert_array_equal(components[active], 0)
        assert space.parts.count == 1


@kinds
def test_connected_mesh_is_one_part(kind: str) -> None:
    mesh, cells = unit_mesh(2, 3)
    np.testing.assert_array_equal(whole(mesh, cells, kind).components, 0)


@kinds
def test_no_active_cell(kind: str) -> None:
    mesh, cells = unit_mesh(2, 1)
    space = PotentialSpace(mesh, cells, kind, np.zeros(cells.number, dtype=bool))
    np.testing.assert_array_equal(space.components, -1)
    assert space.parts.count == 0
    assert not space.free.any()


@dimensions
@kinds
def test_constants_on_parts_have_no_gradient(dimension: int, kind: str) -> None:
    mesh, cells = unit_mesh(dimension, 2)
    active = opposite_corners(cells)
    space = PotentialSpace(mesh, cells, kind, active)
    np.testing.assert_array_equal(space.parts.number >= 0, space.free)
    for part in range(space.parts.count):
        constant = np.where(space.parts.number == part, 1.0, 0.0)
        assert constant.sum() == space.parts.sizes[part] > 0
        assert np.abs(space.gradient(constant)[active]).max() < 1e-12


@kinds
def test_free_dofs_are_those_of_active_cells(kind: str) -> None:
    mesh, cells = unit_mesh(2, 2)
    active = opposite_corners(cells)
    space = PotentialSpace(mesh, cells, kind, active)
    expected = np.zeros(space.global_dofs, dtype=bool)
    expected[np.unique(space.dofmap[active])] = True
    np.testing.assert_array_equal(space.free, expected)
    # Two crossed squares: 2·4 + 8 facets; 2·5 vertices, one of them shared.
    count = {CROUZEIX_RAVIART: 16, LAGRANGE_1: 9, LAGRANGE_2: 25}[kind]
    assert np.count_nonzero(space.free) == count


# --- gradients ------------------------------------------------------------------------------


@dimensions
@kinds
def test_gradient_of_affine_function(dimension: int, kind: str) -> None:
    mesh, cells = unit_mesh(dimension, 2)
    space = whole(mesh, cells, kind)
    slope = np.arange(1.0, dimension + 1.0) * [1.0, -1.0, 1.0][:dimension]
    values = interpolated(space, lambda x: 5.0 + slope @ x[:dimension])
    points = dimension + 1 if kind == LAGRANGE_2 else 1
    expected = np.broadcast_to(slope, (cells.number, points, dimension))
    np.testing.assert_allclose(space.gradient(values), expected, atol=1e-13)


@dimensions
def test_p2_gradient_of_quadratic_function_at_vertices(dimension: int) -> None:
    mesh, cells = unit_mesh(dimension, 2)
    space = whole(mesh, cells, LAGRANGE_2)
    values = interpolated(space, lambda x: x[0] * x[1] - x[dimension - 1] ** 2)
    x = cells.simplices
    expected = np.zeros_like(x)
    expected[..., 0] = x[..., 1]
    expected[..., 1] = x[..., 0]
    expected[..., dimension - 1] -= 2.0 * x[..., dimension - 1]
    np.testing.assert_allclose(space.gradient(values), expected, atol=1e-12)


@kinds
def test_point_volumes_add_up_to_the_active_volume(kind: str) -> None:
    mesh, cells = unit_mesh(2, 2)
    space = PotentialSpace(mesh, cells, kind, opposite_corners(cells))
    assert space.point_volume.sum() == pytest.approx(0.5, rel=1e-14)
    assert (space.point_volume[~space.active] == 0.0).all()


# --- the stiffness system -------------------------------------------------------------------


@dimensions
@kinds
def test_stiffness_system_against_its_definition(dimension: int, kind: str) -> None:
    mesh, cells = unit_mesh(dimension, 2)
    active = opposite_corners(cells)
    space = PotentialSpace(mesh, cells, kind, active)
    generator = np.random.default_rng(0)
    shape = space.point_volume.shape
    root = generator.normal(size=(*shape, dimension, dimension))
    stiffness = np.where(active[:, None, None, None], root @ np.swapaxes(root, -1, -2), 0.0)
    residual = np.where(active[:, None, None], generator.normal(size=(*shape, dimension)), 0.0)
    load = np.where(active, generator.normal(size=cells.number), 0.0)
    system = StiffnessSystem(space)
    # Twice: what the first call left behind must not add up.
    for _ in range(2):
        system.assemble(stiffness, residual, load)

    trial, test = generator.normal(size=(2, space.global_dofs)) * space.free
    gradients = space.gradient(trial), space.gradient(test)
    energy = np.einsum(
        "nq,nqi,nqij,nqj->", space.point_volume, gradients[1], stiffness, gradients[0]
    )
    matrix = system.matrix
    vector, image = matrix.createVecs()
    vector.array[:] = trial
    matrix.mult(vector, image)
    assert image.array @ test == pytest.approx(energy, rel=1e-12)
    # A dof that no active cell touches stays what it is.
    unit = np.zeros(space.global_dofs)
    unit[~space.free] = 1.0
    vector.array[:] = unit
    matrix.mult(vector, image)
    np.testing.assert_array_equal(image.array, unit)

    function = fem.Function(space.space)
    function.x.array[:] = test
    density = fem.Function(fem.functionspace(mesh, ("DG", 0)))
    density.x.array[:] = load
    work = fem.assemble_scalar(fem.form(density * function * ufl.dx))
    work += np.einsum("nq,nqi,nqi->", space.point_volume, residual, gradients[1])
    assert system.right_hand_side.x.array @ test == pytest.approx(work, rel=1e-11)
    assert (system.right_hand_side.x.array[~space.free] == 0.0).all()
    system.destroy()


# --- the momentum ---------------------------------------------------------------------------


@dimensions
def test_momentum_function_is_the_field_with_those_facet_integrals(dimension: int) -> None:
    # a + b x lies in RT0; the flux through a facet is that at its middle times its area.
    mesh, cells = unit_mesh(dimension, 2)
    constant, factor = np.arange(1.0, dimension + 1.0), 0.7
    middles = (cells.simplices.sum(axis=1, keepdims=True) - cells.simplices) / dimension
    normals = -dimension * cells.volume[:, None, None] * barycentric_gradients(cells.simplices)
    flux = np.einsum("nid,nid->ni", constant + factor * middles, normals)
    momentum = momentum_function(mesh, cells, flux)
    assert momentum.name == "momentum"

    generator = np.random.default_rng(0)
    points = np.zeros((50, 3))
    points[:, :dimension] = generator.uniform(0.01, 0.99, size=(50, dimension))
    tree = geometry.bb_tree(mesh, dimension)
    found = geometry.compute_colliding_cells(
        mesh, geometry.compute_collisions_points(tree, points), points
    )
    holders = np.array([found.links(i)[0] for i in range(len(points))], dtype=np.int32)
    expected = constant + factor * points[:, :dimension]
    np.testing.assert_allclose(momentum.eval(points, holders), expected, atol=1e-12)
    # The certificate's own formula gives the same.
    np.testing.assert_allclose(
        momentum_at_vertices(cells.simplices, flux), constant + factor * cells.simplices, atol=1e-12
    )


@dimensions
def test_divergence_of_momentum_function_is_that_of_the_flux(dimension: int) -> None:
    mesh, cells = unit_mesh(dimension, 2)
    # A single-valued flux with any divergence: one number per facet, opposite on its two sides.
    facets = whole(mesh, cells, CROUZEIX_RAVIART).dofmap
    generator = np.random.default_rng(0)
    values = generator.normal(size=facets.max() + 1)
    order = np.argsort(facets.ravel(), kind="stable")
    first = np.zeros(facets.size, dtype=bool)
    first[order[np.r_[True, np.diff(facets.ravel()[order]) > 0]]] = True
    flux = values[facets] * np.where(first.reshape(facets.shape), 1.0, -1.0)
    momentum = momentum_function(mesh, cells, flux)
    test = ufl.TestFunction(fem.functionspace(mesh, ("DG", 0)))
    divergence = fem.assemble_vector(fem.form(ufl.div(momentum) * test * ufl.dx)).array
    np.testing.assert_allclose(divergence, flux.sum(axis=1), atol=1e-12)
