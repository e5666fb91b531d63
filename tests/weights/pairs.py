"""Pairs of measures with the meshes on which their weights were counted by brute force."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from congested.geometry import Cells, cells_from_arrays
from congested.measures.base import Measure
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.image import Image
from congested.measures.points import Points
from congested.measures.ray_monotone import RayMonotonePair, RayMonotoneSource
from congested.measures.uniform import UniformBall, UniformBox

BRUTE_FORCE = Path(__file__).parent / "brute_force.npz"

POINTS = np.array([[0.2, 0.2], [0.25, 0.8], [0.5, 0.5], [0.7, 0.15], [0.78125, 0.34375]])
PICTURE = np.add.outer(np.arange(7) % 3, np.arange(5) ** 2) * 1.0
FUNNELS = RayMonotonePair(0.5, 4.0, np.array([[0.2, -0.1], [-0.3, 0.25]]), np.array([0.0, 0.1]))


def box_cells(lower: tuple[float, ...], upper: tuple[float, ...], number: int) -> Cells:
    """Cut a box into number^d boxes and each along its diagonals, into 2 or 6 simplices."""
    dimension = len(lower)
    axes = [np.linspace(low, high, number + 1) for low, high in zip(lower, upper, strict=True)]
    vertices = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dimension)
    corner = np.stack(np.meshgrid(*[np.arange(number)] * dimension, indexing="ij"), -1)
    strides = (number + 1) ** np.arange(dimension - 1, -1, -1)
    base = corner.reshape(-1, dimension) @ strides
    simplices = [
        np.stack([base + path for path in np.cumsum([0, *strides[list(order)]])], axis=1)
        for order in itertools.permutations(range(dimension))
    ]
    return cells_from_arrays(vertices, np.concatenate(simplices))


def square() -> Cells:
    return box_cells((0.0, 0.0), (1.0, 1.0), 16)


def cube() -> Cells:
    return box_cells((0.0,) * 3, (1.0,) * 3, 5)


def pairs() -> dict[str, tuple[Measure, Measure, Cells]]:
    """Return source, target and cells of each pair."""
    disc, other = UniformBall((0.3, 0.4), 0.15), UniformBall((0.7, 0.6), 0.2)
    box = UniformBox((0.15, 0.1), (0.4, 0.5))
    gauss = GaussianMixture.from_stds([[0.6, 0.7], [0.75, 0.4]], [0.06, 0.04], [0.3, 0.7])
    return {
        "discs": (disc, other, square()),
        "box-gauss": (box, gauss, square()),
        "overlapping": (UniformBox((0.2, 0.3), (0.7, 0.9)), other, square()),
        "points-disc": (Points(POINTS), other, square()),
        "gauss-points": (gauss, Points(POINTS, [0.1, 0.2, 0.3, 0.15, 0.25]), square()),
        "funnels": (
            RayMonotoneSource(FUNNELS),
            UniformBox((-0.5, -0.5), (0.5, 0.5)),
            box_cells((-0.5, -0.5), (0.5, 0.5), 16),
        ),
        "images": (
            Image(PICTURE, (0.1, 0.05), (0.5, 0.4)),
            Image(PICTURE.T[::-1], (0.3, 0.55), (0.95, 0.9)),
            square(),
        ),
        "image-gauss": (Image(PICTURE, (0.1, 0.05), (0.5, 0.4)), gauss, square()),
        "balls": (
            UniformBall((0.3, 0.4, 0.35), 0.2),
            UniformBall((0.7, 0.6, 0.55), 0.15),
            cube(),
        ),
        "points-box": (
            Points(np.array([[0.2, 0.2, 0.3], [0.8, 0.3, 0.5]]), [0.25, 0.75]),
            UniformBox((0.3, 0.5, 0.4), (0.6, 0.9, 0.95)),
            cube(),
        ),
    }


PAIR_OF_FUNNELS = RayMonotoneSource(FUNNELS), UniformBox((-0.5, -0.5), (0.5, 0.5))
