"""Meshes of boxes as plain arrays, on this rank alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from congested.geometry import Cells, cells_from_arrays


def make_box_cells(lower: list[float], upper: list[float], number: int) -> Cells:
    """Cut a box into number^d boxes and each along its diagonal, into 2 or 6 simplices."""
    dimension = len(lower)
    axes = [np.linspace(low, high, number + 1) for low, high in zip(lower, upper, strict=True)]
    vertices = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dimension)
    index = np.arange(len(vertices)).reshape((number + 1,) * dimension)
    cells = []
    for order in itertools.permutations(range(dimension)):
        corner = [0] * dimension
        corners = [tuple(corner)]
        for axis in order:
            corner[axis] = 1
            corners.append(tuple(corner))
        shifted = [index[tuple(slice(c, c + number) for c in corner)].ravel() for corner in corners]
        cells.append(np.stack(shifted, axis=1))
    return cells_from_arrays(vertices, np.concatenate(cells))


@pytest.fixture
def box_cells() -> Callable[[list[float], list[float], int], Cells]:
    """Return the function that makes the cells of a box."""
    return make_box_cells
