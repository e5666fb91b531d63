"""A mesh with fields that are known functions of position: every row can be checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from dolfinx.mesh import DiagonalType, GhostMode, Mesh, create_box, create_rectangle
from mpi4py import MPI

from congested.certificate import EDGES, CellFields
from congested.geometry import Cells, FloatArray, cells_of_mesh


def linear(points: FloatArray) -> FloatArray:
    """Return the potential 1 + x + 2y (+ 3z)."""
    return 1.0 + points @ np.arange(1.0, points.shape[-1] + 1.0)


def quadratic(points: FloatArray) -> FloatArray:
    """Return the P2 potential at the edges' middles: linear plus x y."""
    return linear(points) + points[..., 0] * points[..., 1]


@dataclass(frozen=True)
class Sample:
    """A mesh, its cells, and fields on them."""

    mesh: Mesh
    cells: Cells
    fields: CellFields


def make_fields(cells: Cells, *, edges: bool) -> CellFields:
    """Evaluate the fields on the cells of this rank."""
    middle = cells.midpoint
    pairs = np.array(EDGES[cells.dimension])
    edge_middles = 0.5 * (cells.simplices[:, pairs[:, 0]] + cells.simplices[:, pairs[:, 1]])
    return CellFields(
        potential=linear(cells.simplices),
        potential_edges=quadratic(edge_middles) if edges else None,
        flux=cells.simplices.sum(axis=2),
        momentum=middle * np.arange(1, cells.dimension + 1),
        gradient=np.tile(np.arange(1.0, cells.dimension + 1.0), (cells.number, 1)),
        weight=1.0 + middle[:, 0],
        source=2.0 * middle[:, 1],
        target=2.0 * middle[:, 0],
        gap_indicator=1e-6 * middle[:, 0] * cells.volume,
    )


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    """Return a function (dimension, size, edges) -> Sample on the unit square or cube."""

    def make(dimension: int = 2, size: int = 3, *, edges: bool = False) -> Sample:
        comm, ghosts = MPI.COMM_SELF, GhostMode.none
        if dimension == 2:
            corners = [np.zeros(2), np.ones(2)]
            crossed = DiagonalType.crossed
            mesh = create_rectangle(comm, corners, [size] * 2, diagonal=crossed, ghost_mode=ghosts)
        else:
            corners = [np.zeros(3), np.ones(3)]
            mesh = create_box(comm, corners, [size] * 3, ghost_mode=ghosts)
        cells = cells_of_mesh(mesh)
        return Sample(mesh, cells, make_fields(cells, edges=edges))

    return make
