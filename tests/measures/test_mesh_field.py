"""Fields on a mesh of their own: exact masses on the same, finer, coarser and unrelated meshes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial import Delaunay
from scipy.stats import qmc

from congested.errors import InputError
from congested.geometry import (
    Cells,
    barycentric_gradients,
    cells_from_arrays,
    simplex_volumes,
    split_simplices,
)
from congested.measures.image import Image
from congested.measures.mesh_field import MeshField
from congested.quadrature import clip_simplices

SLOPE = np.array([0.7, -0.4, 0.3])


def scattered(dimension: int, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a Delaunay mesh of the unit square or cube with random points inside."""
    corners = np.array(list(itertools.product([0.0, 1.0], repeat=dimension)))
    points = np.concatenate([corners, np.random.default_rng(seed).random((number, dimension))])
    cells = Delaunay(points).simplices
    return points, cells[simplex_volumes(points[cells]) > 1e-13]


def affine(points: np.ndarray) -> np.ndarray:
    """Return an affine function that is positive in the unit square and cube."""
    return 0.9 + points @ SLOPE[: points.shape[-1]]


def overlap_volumes(cells: Cells, simplices: np.ndarray) -> np.ndarray:
    """Return the volumes (n, C) of the parts that cells and simplices have in common."""
    volumes = np.zeros((cells.number, len(simplices)))
    for k, simplex in enumerate(simplices):
        pieces, owner = cells.simplices, np.arange(cells.number)
        for gradient, away in zip(
            barycentric_gradients(simplex[None])[0], np.roll(simplex, -1, axis=0), strict=True
        ):
            # The facet of a vertex holds the next one.
            pieces, parent = clip_simplices(pieces, -gradient, -gradient @ away)
            owner = owner[parent]
        volumes[:, k] = np.bincount(owner, simplex_volumes(pieces), minlength=cells.number)
    return volumes


def random_field(dimension: int, kind: str, number: int = 40) -> MeshField:
    """Return a field with random values, some of them zero."""
    points, cells = scattered(dimension, number, seed=7)
    generator = np.random.default_rng(0)
    count = len(cells) if kind == "cell" else len(points)
    values = generator.random(count) * (generator.random(count) > 0.2)
    return MeshField(points, cells, **{f"{kind}_values": values})


# --- masses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cell", "point"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_masses_on_its_own_mesh(dimension, kind):
    field = random_field(dimension, kind)
    cells = cells_from_arrays(field.points, field.cells)
    values = field.cell_values
    if kind == "point":
        values = field.point_values[field.cells].mean(axis=1)
    masses = field.cell_masses(cells)
    exact = values * cells.volume / (values @ cells.volume)
    np.testing.assert_allclose(masses, exact, rtol=1e-13, atol=1e-18)
    assert masses.sum() == pytest.approx(1.0, abs=2e-15)
    assert field.integral == pytest.approx(values @ cells.volume, rel=1e-14)


@pytest.mark.parametrize("kind", ["cell", "point"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_masses_on_a_refinement_and_from_one(dimension, kind):
    field = random_field(dimension, kind)
    mesh = cells_from_arrays(field.points, field.cells)
    children = cells_from_arrays(
        split_simplices(mesh.simplices).reshape(-1, dimension),
        np.arange(len(field.cells) * 2**dimension * (dimension + 1)).reshape(-1, dimension + 1),
    )
    parent = np.repeat(np.arange(mesh.number), 2**dimension)
    gradients = mesh.barycentric_gradients[parent]
    offset = children.midpoint - mesh.midpoint[parent]
    coordinates = np.einsum("nid,nd->ni", gradients, offset) + 1 / (dimension + 1)
    values = (
        np.repeat(field.cell_values[:, None], dimension + 1, axis=1)
        if kind == "cell"
        else (field.point_values[field.cells])
    )
    exact = (values[parent] * coordinates).sum(axis=1) * children.volume / field.integral
    np.testing.assert_allclose(field.cell_masses(children), exact, rtol=1e-12, atol=1e-16)
    # The other way round: a field on the children, constant on each, with these masses.
    fine = MeshField(
        children.simplices.reshape(-1, dimension),
        np.arange(children.number * (dimension + 1)).reshape(-1, dimension + 1),
        cell_values=exact / children.volume,
    )
    coarse = fine.cell_masses(mesh)
    summed = exact.reshape(mesh.number, -1).sum(axis=1)
    np.testing.assert_allclose(coarse, summed, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("number", [3, 120])
@pytest.mark.parametrize("dimension", [2, 3])
def test_masses_on_an_unrelated_mesh_are_those_of_the_overlaps(dimension, number):
    field = random_field(dimension, "cell")
    cells = cells_from_arrays(*scattered(dimension, number, seed=1))
    volumes = overlap_volumes(cells, field.points[field.cells])
    np.testing.assert_allclose(volumes.sum(axis=1), cells.volume, rtol=1e-11)
    exact = volumes @ field.cell_values / field.integral
    np.testing.assert_allclose(field.cell_masses(cells), exact, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dimension", [2, 3])
def test_pixels_cut_into_simplices_are_an_image(box_cells, dimension):
    shape = (3,) * dimension
    values = np.random.default_rng(3).random(shape)
    image = Image(values, np.zeros(dimension), np.ones(dimension))
    mesh = box_cells([0.0] * dimension, [1.0] * dimension, 3)
    index = tuple((3 * mesh.midpoint).astype(int).T)
    points = mesh.simplices.reshape(-1, dimension)
    connectivity = np.arange(len(points)).reshape(-1, dimension + 1)
    field = MeshField(points, connectivity, cell_values=values[index])
    cells = cells_from_arrays(*scattered(dimension, 60, seed=2))
    wider = Cells(cells.comm, 1.5 * cells.simplices - 0.2, cells.lower - 1, cells.upper + 1)
    for some in (cells, wider, mesh):
        np.testing.assert_allclose(
            field.vertex_masses(some), image.vertex_masses(some), rtol=0, atol=1e-15
        )
        for one, other in zip(field.density_range(some), image.density_range(some), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-13)


@pytest.mark.parametrize("number", [2, 100])
@pytest.mark.parametrize("dimension", [2, 3])
def test_an_affine_density_on_an_unrelated_mesh(dimension, number):
    points, connectivity = scattered(dimension, 30, seed=4)
    field = MeshField(points, connectivity, point_values=affine(points))
    exact_integral = affine(np.full(dimension, 0.5))
    assert field.integral == pytest.approx(exact_integral, rel=1e-14)
    cells = cells_from_arrays(*scattered(dimension, number, seed=5))
    corners = affine(cells.simplices) / exact_integral
    exact = corners.sum(axis=1, keepdims=True) + corners
    exact *= cells.volume[:, None] / ((dimension + 1) * (dimension + 2))
    found = field.vertex_masses(cells)
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-17)
    np.testing.assert_array_equal(field.cell_masses(cells), found.sum(axis=1))
    least, greatest = field.density_range(cells)
    np.testing.assert_allclose(least, corners.min(axis=1), rtol=1e-12)
    np.testing.assert_allclose(greatest, corners.max(axis=1), rtol=1e-12)
    # The expected numbers are rounded themselves.
    assert (least <= corners.min(axis=1) + 1e-15).all()
    assert (greatest >= corners.max(axis=1) - 1e-15).all()


@pytest.mark.parametrize(("dimension", "depth", "error"), [(2, 7, 3e-5), (3, 4, 2e-3)])
def test_a_linear_field_agrees_with_the_midpoint_rule_on_small_pieces(dimension, depth, error):
    field = random_field(dimension, "point", number=10)
    cells = cells_from_arrays(*scattered(dimension, 4, seed=6))
    pieces = cells.simplices
    for _ in range(depth):
        pieces = split_simplices(pieces)
    middle = pieces.mean(axis=1)
    owner = np.repeat(np.arange(cells.number), len(pieces) // cells.number)
    offset = middle - cells.midpoint[owner]
    coordinates = np.einsum("nid,nd->ni", cells.barycentric_gradients[owner], offset)
    coordinates += 1 / (dimension + 1)
    masses = (field.density(middle) * simplex_volumes(pieces))[:, None] * coordinates
    moments = masses.reshape(cells.number, -1, dimension + 1).sum(axis=1)
    # Second order: one step of refinement more divides the difference by four.
    assert np.abs(moments - field.vertex_masses(cells)).sum() <= error


def test_by_hand_two_triangles_under_one():
    # Density 1 below the diagonal y = x of the unit square and 3 above; the cell is the half left
    # of x + y = 1: a quarter of the square on either side.
    points = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    field = MeshField(points, [[0, 1, 2], [0, 2, 3]], cell_values=[1.0, 3.0])
    cells = cells_from_arrays(points, np.array([[0, 1, 3], [1, 2, 3]]))
    np.testing.assert_allclose(field.cell_masses(cells), [0.5, 0.5], rtol=1e-15)
    # ∫ λ_k over the quarter below the diagonal (vertices (0,0), (1,0), (½,½)): |P|/3 Σ λ_k.
    below, above = np.array([1.0, 1.5, 0.5]) / 12, np.array([1.0, 0.5, 1.5]) / 12
    exact = (below + 3 * above) / 2
    np.testing.assert_allclose(field.vertex_masses(cells)[0], exact, rtol=1e-14)
    np.testing.assert_allclose(np.stack(field.density_range(cells)), [[0.5] * 2, [1.5] * 2])


@pytest.mark.parametrize("kind", ["cell", "point"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_masses_add_up_under_refinement(dimension, kind):
    field = random_field(dimension, kind)
    cells = cells_from_arrays(*scattered(dimension, 12, seed=8))
    wider = Cells(cells.comm, 1.4 * cells.simplices - 0.3, cells.lower - 1, cells.upper + 1)
    children = Cells(cells.comm, split_simplices(wider.simplices), wider.lower, wider.upper)
    masses = field.cell_masses(wider)
    fine = field.cell_masses(children).reshape(cells.number, -1).sum(axis=1)
    np.testing.assert_allclose(masses, fine, rtol=0, atol=1e-15)
    assert masses.sum() == pytest.approx(1.0, abs=1e-14)
    assert masses.min() >= 0.0


def test_chunks_of_cells_do_not_matter(monkeypatch):
    field = random_field(2, "point")
    cells = cells_from_arrays(*scattered(2, 50, seed=9))
    whole, range_whole = field.vertex_masses(cells), field.density_range(cells)
    monkeypatch.setattr("congested.measures.mesh_field._CHUNK", 7)
    np.testing.assert_array_equal(field.vertex_masses(cells), whole)
    np.testing.assert_array_equal(field.density_range(cells), range_whole)


# --- range -----------------------------------------------------------------------------------


def test_range_of_cells_that_leave_the_mesh_begins_at_zero():
    # A ring of eight triangles round a hole: the unit square without the square [¼, ¾]².
    outer = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    points = np.concatenate([outer, 0.25 + 0.5 * outer])
    ring = [[i, (i + 1) % 4, 4 + i] for i in range(4)]
    ring += [[(i + 1) % 4, 4 + (i + 1) % 4, 4 + i] for i in range(4)]
    field = MeshField(points, ring, cell_values=np.full(8, 2.0))
    density = 1 / 0.75
    triangles = {
        "in the ring": ([[0.05, 0.05], [0.9, 0.1], [0.9, 0.2]], density, density),
        "along the hole": ([[0.25, 0.25], [0.75, 0.25], [0.5, 0.0]], density, density),
        "a corner in the hole": ([[0.2, 0.1], [0.3, 0.1], [0.26, 0.2501]], 0.0, density),
        "a corner beside the hole": ([[0.2, 0.1], [0.3, 0.1], [0.25, 0.25]], density, density),
        "an edge across the hole": ([[0.2, 0.1], [0.4, 0.1], [0.3, 0.26]], 0.0, density),
        "over the hole": ([[-0.9, -0.9], [2.9, -0.9], [0.5, 2.9]], 0.0, density),
        "in the hole": ([[0.3, 0.3], [0.7, 0.3], [0.5, 0.7]], 0.0, 0.0),
        "the hole's own corner": ([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75]], 0.0, 0.0),
        "across the side": ([[0.5, 0.1], [0.6, 0.1], [0.55, -1e-9]], 0.0, density),
        "up to the side": ([[0.5, 0.1], [0.6, 0.1], [0.55, 0.0]], density, density),
        "outside": ([[2.0, 2.0], [3.0, 2.0], [2.0, 3.0]], 0.0, 0.0),
    }
    corners = np.array([corners for corners, _, _ in triangles.values()])
    cells = cells_from_arrays(corners.reshape(-1, 2), np.arange(3 * len(corners)).reshape(-1, 3))
    least, greatest = field.density_range(cells)
    np.testing.assert_allclose(least, [low for _, low, _ in triangles.values()], rtol=1e-14)
    np.testing.assert_allclose(greatest, [high for _, _, high in triangles.values()], rtol=1e-14)


@pytest.mark.parametrize("kind", ["cell", "point"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_range_holds_the_density_and_is_nearly_attained(dimension, kind):
    field = random_field(dimension, kind)
    cells = cells_from_arrays(*scattered(dimension, 6, seed=10))
    least, greatest = field.density_range(cells)
    shares = np.random.default_rng(0).dirichlet(np.full(dimension + 1, 0.6), 4000)
    points = np.einsum("mi,nid->nmd", shares, cells.simplices)
    values = field.density(points.reshape(-1, dimension)).reshape(cells.number, -1)
    assert (values >= least[:, None]).all()
    assert (values <= greatest[:, None]).all()
    scale = greatest.max()
    assert np.abs(values.min(axis=1) - least).max() < 0.2 * scale
    assert np.abs(values.max(axis=1) - greatest).max() < 0.2 * scale


def test_range_on_the_own_mesh_does_not_see_the_neighbours():
    field = random_field(3, "cell")
    mesh = cells_from_arrays(field.points, field.cells)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = MeshField(field.points @ turn, field.cells, cell_values=field.cell_values)
    for one, simplices in ((field, mesh.simplices), (turned, mesh.simplices @ turn)):
        same = Cells(mesh.comm, simplices, mesh.lower - 1, mesh.upper + 1)
        children = Cells(mesh.comm, split_simplices(simplices), same.lower, same.upper)
        exact = field.cell_values / field.integral
        for cells, values in ((same, exact), (children, np.repeat(exact, 8))):
            for bound in one.density_range(cells):
                np.testing.assert_allclose(bound, values, rtol=1e-13)


# --- density, samples, bounds ----------------------------------------------------------------


def test_density_between_points_and_outside():
    points = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    field = MeshField(points, [[0, 1, 2]], point_values=[0.0, 3.0, 6.0])
    assert field.integral == pytest.approx(3.0, rel=1e-15)
    places = np.array([[1.0, 0.0], [2 / 3, 1 / 3], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
    np.testing.assert_allclose(field.density(places), [0.5, 1.0, 2.0, 0.0, 0.0], rtol=1e-14)


@pytest.mark.parametrize("dimension", [2, 3])
def test_samples_of_one_barycentric_coordinate_have_its_moments(dimension):
    # Density in proportion to λ_k: λ follows Dirichlet(1, …, 2, …, 1).
    points = np.concatenate([np.zeros((1, dimension)), np.eye(dimension)])
    uniforms = qmc.Sobol(dimension + 1, seed=0).random(2**14)
    for k in range(dimension + 1):
        values = np.eye(dimension + 1)[k]
        field = MeshField(points, [range(dimension + 1)], point_values=values)
        samples = field.sample(uniforms)
        coordinates = np.column_stack([1.0 - samples.sum(axis=1), samples])
        assert coordinates.min() >= -1e-15
        parameters = 1.0 + values
        total = parameters.sum()
        mean = parameters / total
        square = np.outer(parameters, parameters) + np.diag(parameters)
        square /= total * (total + 1)
        # Independent samples would have standard errors of about 0.2/√16384 = 1.6e-3.
        np.testing.assert_allclose(coordinates.mean(axis=0), mean, rtol=0, atol=2e-4)
        found = coordinates.T @ coordinates / len(coordinates)
        np.testing.assert_allclose(found, square, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", ["cell", "point"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_samples_fill_the_cells_as_the_masses_say(box_cells, dimension, kind):
    field = random_field(dimension, kind)
    cells = box_cells([0.0] * dimension, [1.0] * dimension, 2)
    samples = field.sample(qmc.Sobol(field.sample_dimension, seed=0).random(2**14))
    assert (field.density(samples) > 0.0).all()
    offset = samples[:, None] - cells.midpoint
    coordinates = np.einsum("nid,mnd->mni", cells.barycentric_gradients, offset)
    coordinates += 1 / (dimension + 1)
    inside = (coordinates >= 0.0).all(axis=2)
    masses = field.cell_masses(cells)
    # Independent samples would have standard errors of about 3e-3.
    np.testing.assert_allclose(inside.mean(axis=0), masses, rtol=0, atol=2e-3)
    moments = np.where(inside[:, :, None], coordinates, 0.0).mean(axis=0)
    np.testing.assert_allclose(moments, field.vertex_masses(cells), rtol=0, atol=1e-3)


def test_bounds_hold_the_simplices_with_mass():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [5.0, 0.5]])
    cells = [[0, 1, 2], [1, 2, 3], [1, 3, 4]]
    lower, upper = MeshField(points, cells, cell_values=[1.0, 1.0, 0.0]).bounds()
    np.testing.assert_array_equal([lower, upper], [[0, 0], [1, 1]])
    lower, upper = MeshField(points, cells, point_values=[0, 0, 0, 0, 1.0]).bounds()
    np.testing.assert_array_equal([lower, upper], [[1, 0], [5, 1]])


# --- meshes and mistakes ---------------------------------------------------------------------

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
TRIANGLES = np.array([[0, 1, 2], [0, 2, 3]])


def test_parts_duplicate_and_unused_points_and_orientation_do_not_matter():
    beside = SQUARE + np.array([2.0, 0.0])
    points = np.concatenate([SQUARE, [[9.0, 9.0]], beside, SQUARE[:1]])
    cells = np.array([[0, 1, 2], [9, 3, 2], [5, 7, 6]])
    values = np.array([1.0, 2.0, 3.0, 4.0, 99.0, 5.0, 6.0, 7.0, 8.0, 1.0])
    field = MeshField(points, cells, point_values=values)
    assert len(field.points) == 8
    assert field.integral == pytest.approx((6 + 8 + 18) / 6, rel=1e-14)
    some = cells_from_arrays(points, np.array([[0, 1, 2], [0, 3, 2], [5, 6, 7]]))
    np.testing.assert_allclose(field.cell_masses(some), np.array([6, 8, 18]) / 32, rtol=1e-14)
    # Facets of cells are matched by their coordinates: the square has no slit along its diagonal.
    inner = cells_from_arrays(np.array([[0.2, 0.3], [0.6, 0.3], [0.4, 0.8]]), np.array([[0, 1, 2]]))
    assert field.density_range(inner)[0][0] > 0.1


def test_a_plane_mesh_may_have_three_coordinates():
    points = np.column_stack([SQUARE, np.full(4, 2.5)])
    assert MeshField(points, TRIANGLES, cell_values=[1, 2]).dimension == 2


@pytest.mark.parametrize(
    ("points", "cells", "values", "key", "message"),
    [
        (SQUARE, TRIANGLES, {}, "cell_values or point_values", "found neither of them"),
        (
            SQUARE,
            TRIANGLES,
            {"cell_values": [1, 1], "point_values": [1, 1, 1, 1]},
            "cell_values or point_values",
            "found both of them",
        ),
        (SQUARE, TRIANGLES, {"cell_values": [1.0]}, "cell_values", r"found an array of shape \(1,"),
        (
            SQUARE,
            TRIANGLES,
            {"point_values": [1.0, 2.0]},
            "point_values",
            r"found an array of shape \(2,\); allowed: 4 numbers >= 0",
        ),
        (SQUARE, TRIANGLES, {"cell_values": [1, -2]}, "cell_values", "found -2 at position 1"),
        (SQUARE, TRIANGLES, {"cell_values": [1, np.nan]}, "cell_values", "not finite"),
        (SQUARE, TRIANGLES, {"cell_values": [0, 0]}, "values", "found only zeros"),
        (SQUARE, [[0.0, 1.0, 2.0]], {"cell_values": [1]}, "cells", "found values of type float64"),
        (SQUARE, [[0, 1, 4]], {"cell_values": [1]}, "cells", "mesh: missing points"),
        (SQUARE, [[0, 1]], {"cell_values": [1]}, "cells", "mesh: cells have shape"),
        (SQUARE, [[0, 1, 1]], {"cell_values": [1]}, "cells", "mesh: 1 degenerate cell"),
        (
            SQUARE,
            [[0, 1, 2], [2, 0, 1]],
            {"cell_values": [1, 1]},
            "cells",
            "mesh: 1 duplicate cell",
        ),
        (SQUARE, [[0, 1, 2], [0, 1, 3]], {"cell_values": [1, 1]}, "cells", "mesh: 1 pair of over"),
        (SQUARE[0], TRIANGLES, {"cell_values": [1, 1]}, "points", "found an array of shape"),
    ],
)
def test_mistakes_are_named(points, cells, values, key, message):
    with pytest.raises(InputError, match=message) as caught:
        MeshField(points, cells, **values)
    assert caught.value.key == key
