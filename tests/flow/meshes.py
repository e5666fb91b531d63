"""Small meshes as arrays."""

from __future__ import annotations

import itertools

import numpy as np

from congested.geometry import FloatArray, IntArray


def crossed_square(number: int, shaken: float = 0.0) -> tuple[FloatArray, IntArray]:
    """Return the unit square in squares of four triangles, inner vertices moved at random."""
    lines, middles = np.arange(number + 1) / number, (np.arange(number) + 0.5) / number
    grids = [np.stack(np.meshgrid(g, g, indexing="ij"), -1) for g in (lines, middles)]
    vertices = np.concatenate([grid.reshape(-1, 2) for grid in grids])
    row, column = np.divmod(np.arange(number**2), number)
    a = row * (number + 1) + column
    b, c, d = a + number + 1, a + number + 2, a + 1
    middle = (number + 1) ** 2 + np.arange(number**2)
    cells = [np.stack([*pair, middle], 1) for pair in ((a, b), (b, c), (c, d), (d, a))]
    inner = ((vertices > 0.0) & (vertices < 1.0)).all(axis=1)
    noise = np.random.default_rng(7).uniform(-1.0, 1.0, vertices.shape)
    return vertices + shaken / number * inner[:, None] * noise, np.concatenate(cells)


def cube(number: int) -> tuple[FloatArray, IntArray]:
    """Return the unit cube in cubes of six tetrahedra."""
    lines = np.arange(number + 1) / number
    vertices = np.stack(np.meshgrid(*[lines] * 3, indexing="ij"), -1).reshape(-1, 3)
    steps = np.array([(number + 1) ** 2, number + 1, 1])
    first = np.stack(np.meshgrid(*[np.arange(number)] * 3, indexing="ij"), -1).reshape(-1, 3)
    cells = [
        np.stack([first @ steps + sum(steps[list(order[:k])]) for k in range(4)], 1)
        for order in itertools.permutations(range(3))
    ]
    return vertices, np.concatenate(cells)


def midpoints(vertices: FloatArray, cells: IntArray) -> FloatArray:
    return vertices[cells].mean(axis=1)
