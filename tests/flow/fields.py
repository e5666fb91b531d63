"""Flow fields whose streamlines are known."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from scipy.spatial import Delaunay

import congested as ct
from congested.domain import create_mesh
from congested.flow.field import FlowField, flow_field
from congested.geometry import (
    FloatArray,
    IntArray,
    barycentric_gradients,
    cells_from_arrays,
    cells_of_mesh,
    facet_neighbours,
    simplex_volumes,
)
from congested.io.arrays import ResultArrays, gather_mesh
from congested.quadrature import simplex_rule


def box_mesh(dimension: int, cells: int) -> tuple[FloatArray, IntArray]:
    """Return vertices and cells of the unit square or cube."""
    mesh = create_mesh(ct.Box((0.0,) * dimension, (1.0,) * dimension, cells), MPI.COMM_SELF)
    gathered = gather_mesh(mesh, cells_of_mesh(mesh).volume)
    vertices, numbers = gathered["vertices"], gathered["cells"]
    assert vertices is not None and numbers is not None
    return vertices, numbers


def irregular_mesh(dimension: int) -> tuple[FloatArray, IntArray]:
    """Return a mesh of the unit square or cube without any order."""
    points = np.random.default_rng(5).random((200, dimension))
    corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * dimension), axis=-1).reshape(-1, dimension)
    vertices = np.concatenate([points, corners])
    cells = Delaunay(vertices).simplices.astype(np.int64)
    # Flat ones on the hull are no cells.
    return vertices, cells[simplex_volumes(vertices[cells]) > 1e-9]


def outward_areas(vertices: FloatArray, cells: IntArray) -> FloatArray:
    """Return area times outward normal of the facet opposite each vertex (C, d+1, d)."""
    simplices = vertices[cells]
    volume = simplex_volumes(simplices)
    return -vertices.shape[1] * volume[:, None, None] * barycentric_gradients(simplices)


def affine_field(
    vertices: FloatArray,
    cells: IntArray,
    constant: FloatArray,
    slope: float,
    source: float,
    compliance: float = 0.0,
) -> FlowField:
    """Return m(x) = a + b x with constant densities; walls let it through.

    RT0 holds such a field exactly. Particles move along x(t) = x₀ + m(x₀) φ, where
    1 + b φ = (ρ(0)/ρ(t))^(1/d) and ρ(t) = ρ(0) − d b t.
    """
    dimension = vertices.shape[1]
    simplices = vertices[cells]
    midpoints = np.stack(
        [np.delete(simplices, i, axis=1).mean(axis=1) for i in range(dimension + 1)], axis=1
    )
    # The normal component is constant on a facet.
    flux = np.einsum("nid,nid->ni", outward_areas(vertices, cells), constant + slope * midpoints)
    count = len(cells)
    return FlowField(
        vertices=vertices,
        cells=cells,
        volume=simplex_volumes(simplices),
        neighbours=facet_neighbours(cells),
        flux=flux,
        source=np.full(count, source),
        target=np.full(count, source - dimension * slope),
        growth=np.zeros(count),
        weight=np.full(count, np.inf if compliance == 0.0 else 0.5 / compliance),
        strength=1.0,
    )


def gaussian(dimension: int, std: float) -> ct.GaussianMixture:
    return ct.GaussianMixture.from_stds(np.full((1, dimension), 0.5), np.array([std]))


def field_of_flux(
    vertices: FloatArray, cells: IntArray, flux: FloatArray, source: FloatArray
) -> FlowField:
    """Return the flow of outward facet integrals (C, d+1) that starts with masses (C,)."""
    volume = simplex_volumes(vertices[cells])
    target = source - flux.sum(axis=1)
    dimension = vertices.shape[1]
    empty = np.zeros((len(cells), dimension))
    return flow_field(
        ResultArrays(
            vertices=vertices,
            cells=cells,
            cell_volume=volume,
            flux=flux,
            potential=np.zeros(len(vertices)),
            momentum=empty,
            gradient=empty,
            weight=np.ones(len(cells)),
            source=source / volume,
            target=target / volume,
            gap_indicator=np.zeros(len(cells)),
        ),
        1.0,
    )


def radial_field(dimension: int, cells: int, stds: tuple[float, float]) -> FlowField:
    """Return the flow between concentric Gaussians, facets' fluxes by quadrature.

    |m|(r) = (M_μ(r) − M_ν(r)) / |S^{d−1}| r^{d−1}, M the mass within r; nothing leaves the box.
    """
    vertices, numbers = box_mesh(dimension, cells)
    simplices = vertices[numbers]
    points, weights = simplex_rule(dimension - 1, 8)
    areas = outward_areas(vertices, numbers)
    neighbours = facet_neighbours(numbers)
    flux = np.zeros(numbers.shape)
    for i in range(dimension + 1):
        places = np.matmul(points, np.delete(simplices, i, axis=1)) - 0.5
        radius = np.maximum(np.linalg.norm(places, axis=2), 1e-12)
        sphere = 2.0 * np.pi if dimension == 2 else 4.0 * np.pi
        mass = mass_within(dimension, radius, stds[0]) - mass_within(dimension, radius, stds[1])
        momentum = (mass / (sphere * radius**dimension))[..., None] * places
        flux[:, i] = np.einsum("nqd,nd,q->n", momentum, areas[:, i], weights)
    flux[neighbours < 0] = 0.0
    # Masses so that the divergence is theirs to rounding: quadrature leaves a little.
    source = gaussian(dimension, stds[0]).cell_masses(cells_from_arrays(vertices, numbers))
    target = np.maximum(source - flux.sum(axis=1), 0.0)
    return field_of_flux(vertices, numbers, flux, target + flux.sum(axis=1))


def mass_within(dimension: int, radius: FloatArray, std: float) -> FloatArray:
    """Return the mass of a centred Gaussian within a radius."""
    from scipy.special import gammainc

    return np.asarray(gammainc(0.5 * dimension, 0.5 * (radius / std) ** 2))


def strip_field(cells: int) -> FlowField:
    """Return the flow from the left quarter of the square, evenly, to the right quarter.

    Momentum min(4 x, 1, 4 (1 − x)) along the first axis; particles move by 3/4.
    """
    vertices, numbers = box_mesh(2, cells)
    simplices = vertices[numbers]
    points, weights = simplex_rule(1, 1)
    areas = outward_areas(vertices, numbers)
    flux = np.zeros(numbers.shape)
    for i in range(3):
        x = np.matmul(points, np.delete(simplices, i, axis=1))[..., 0]
        momentum = np.minimum(np.minimum(4.0 * x, 1.0), 4.0 * (1.0 - x))
        flux[:, i] = areas[:, i, 0] * (momentum @ weights)
    source = np.where(simplices[:, :, 0].mean(axis=1) < 0.25, 4.0, 0.0)
    return field_of_flux(vertices, numbers, flux, source * simplex_volumes(simplices))
