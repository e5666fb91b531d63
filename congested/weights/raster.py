r"""The weight of densities of any kind in the plane, from pixels: the ray formula on two images.

Both densities are given by pixels: images as they are, other measures by their exact masses in the
pixels of a fine grid. For each of many directions, the same for all points, the integrals along all
rays through an image are tables (`raster_kernels`), so that a point costs two readings per
direction whatever the image. As for `rays` the error is measured in some of the cells, with twice
as many directions, rays and pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from congested.geometry import (
    Cells,
    FloatArray,
    IntArray,
    cells_from_arrays,
    simplex_volumes,
    split_simplices,
)
from congested.measures.base import Measure, run_collectively
from congested.measures.density import DensityMeasure
from congested.measures.image import Image
from congested.measures.mesh_field import MeshField
from congested.quadrature import integrate_adaptively
from congested.weights.base import CellWeight
from congested.weights.checks import chances, checked_weight, measured_errors
from congested.weights.raster_kernels import add_direction
from congested.weights.ray_parts import has_parts

# Error asked for unless the user says, relative to the mass.
DEFAULT_TOLERANCE = 2e-3
# Pixels along the longer side of a measure (images with fewer are magnified) and directions of half
# a circle to begin with; both, but the pixels of images, may be doubled until there have been so
# many attempts.
_PIXELS, _DIRECTIONS, _MOST_ATTEMPTS = 128, 128, 2
# Rays per pixel.
_PER_PIXEL = 2
# Error allowed in the masses of the pixels.
_PIXEL_TOLERANCE = 1e-8
# Error of all pieces below which none is cut further: directions and pixels leave as much, and the
# cuts would go on down to the pixels.
_LEAST_TOLERANCE = 1.25e-4
# A cell is cut down to this part of a pixel at the most.
_SMALLEST_PIECE = 0.5


@dataclass(frozen=True)
class _Fineness:
    """How fine the rule is: pixels along a side, directions of half a circle, error of a piece."""

    pixels: int
    directions: int
    tolerance: float


def serves(source: Measure, target: Measure) -> bool:
    """Whether the rule serves a pair: both are densities in the plane."""
    return all(
        measure.dimension == 2
        and (has_parts(measure) or isinstance(measure, Image | MeshField | DensityMeasure))
        for measure in (source, target)
    )


def raster_weight(
    source: Measure, target: Measure, cells: Cells, tolerance: float | None
) -> CellWeight:
    """Compute the weight from pixels (collective).

    Parameters
    ----------
    source, target
        A pair that the rule serves.
    cells
        The cells.
    tolerance
        Error allowed in total over all cells, relative to the mass; None: 2e-3. Directions
        and pixels are doubled until the error that is measured is as small, at most once.
    """
    goal = DEFAULT_TOLERANCE if tolerance is None else tolerance
    area = cells.total(cells.volume)
    fineness = _Fineness(_PIXELS, _DIRECTIONS, max(goal, _LEAST_TOLERANCE))
    for attempt in range(_MOST_ATTEMPTS):
        masses = _integrate(source, target, cells, cells.simplices, fineness, area)
        chance = chances(cells, masses, area)
        finer = _Fineness(
            2 * fineness.pixels,
            2 * fineness.directions,
            max(0.25 * fineness.tolerance, _LEAST_TOLERANCE),
        )

        def better(simplices: FloatArray, finer: _Fineness = finer) -> FloatArray:
            # Few cells and dear tables: that they all are cut twice saves the tables of two levels.
            pieces = split_simplices(split_simplices(simplices))
            masses = _integrate(source, target, cells, pieces, finer, area)
            return masses.reshape(len(simplices), -1).sum(axis=1)

        errors = measured_errors(better, cells, masses, chance)
        if cells.total(errors) <= goal * cells.total(masses) or attempt + 1 == _MOST_ATTEMPTS:
            break
        fineness = finer
    return checked_weight(
        cells,
        "raster",
        masses,
        errors,
        goal=goal,
        effort=f"{2 * fineness.directions} directions",
        details={"directions": 2 * fineness.directions, "pixels": fineness.pixels},
        # Pieces are as rough in the better rule then.
        hidden=_LEAST_TOLERANCE if fineness.tolerance <= _LEAST_TOLERANCE else 0.0,
    )


def _integrate(
    source: Measure,
    target: Measure,
    cells: Cells,
    simplices: FloatArray,
    fineness: _Fineness,
    area: float,
) -> FloatArray:
    """Integrate the weight over triangles (collective: only for the sake of errors)."""

    def compute() -> FloatArray:
        first, first_box = pixels_of(source, fineness.pixels)
        second, second_box = pixels_of(target, fineness.pixels)
        smallest = _SMALLEST_PIECE * min(*first_box[2:], *second_box[2:])

        def density(points: FloatArray) -> FloatArray:
            values = np.zeros(len(points))
            # An even number: none of them is along an axis.
            step = math.pi / fineness.directions
            for k in range(fineness.directions):
                add_direction(
                    first,
                    first_box,
                    second,
                    second_box,
                    (k + 0.5) * step,
                    step,
                    _PER_PIXEL,
                    points,
                    values,
                )
            return values

        def rule(pieces: FloatArray, owner: IntArray) -> tuple[FloatArray, FloatArray]:
            corners = pieces.reshape(-1, 2)
            values = density(np.concatenate([corners, pieces.mean(axis=1)]))
            at_corners = values[: len(corners)].reshape(-1, 3).mean(axis=1)
            at_middle = values[len(corners) :]
            volume = simplex_volumes(pieces)
            # Weights 1/12 at the vertices and 3/4 in the middle: exact for quadratics.
            fine = volume * (0.25 * at_corners + 0.75 * at_middle)
            allowed = fineness.tolerance * 0.5 * (fine + volume / area)
            edges = np.linalg.norm(pieces - np.roll(pieces, 1, axis=1), axis=2).max(axis=1)
            split = (np.abs(fine - volume * at_middle) > allowed) & (edges > smallest)
            return fine, np.where(split, np.inf, 0.0)

        # Tables are made for each call: all pieces of a level go into one.
        # Differences of sums may leave rounding errors of either sign where there is nothing.
        return np.maximum(integrate_adaptively(rule, simplices, 0.0), 0.0)

    return run_collectively(cells.comm, compute)


def pixels_of(measure: Measure, number: int) -> tuple[FloatArray, FloatArray]:
    """Return a density by pixels.

    Parameters
    ----------
    measure
        The measure; an `Image` keeps its pixels, or each is cut into equal parts if they are few.
    number
        Pixels along the longer side of the box around any other measure.

    Returns
    -------
    tuple
        Densities (n_x, n_y), and lower corner and size of a pixel (4,).
    """
    if isinstance(measure, Image):
        parts = max(1, math.ceil(_PIXELS / max(measure.values.shape)))
        pixels = measure.densities.repeat(parts, axis=0).repeat(parts, axis=1)
        sizes = (measure.upper - measure.lower) / pixels.shape
        return pixels, np.concatenate([measure.lower, sizes])
    lower, upper = measure.bounds()
    shape = np.maximum(1, np.rint(number * (upper - lower) / (upper - lower).max())).astype(int)
    axes = [np.linspace(low, high, n + 1) for low, high, n in zip(lower, upper, shape, strict=True)]
    vertices = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    index = np.arange(len(vertices)).reshape(shape + 1)
    corners = [index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]]
    triangles = [
        np.stack([corners[0], corners[k], corners[k + 1]], axis=-1).reshape(-1, 3) for k in (1, 2)
    ]
    grid = cells_from_arrays(vertices, np.concatenate(triangles))
    masses = measure.cell_masses(grid, _PIXEL_TOLERANCE).reshape(2, *shape).sum(axis=0)
    sizes = (upper - lower) / shape
    return np.maximum(masses, 0.0) / np.prod(sizes), np.concatenate([lower, sizes])
