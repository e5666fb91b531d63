"""Triangle meshes on a pixel grid: one search for all pictures of the same mesh.

Drawing hundreds of thousands of triangles six times takes a minute; finding the triangle under
each pixel once takes a second, and at the size of a figure the eye sees no difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from congested.geometry import FloatArray, IntArray

_CHUNK = 2_000_000


@dataclass(frozen=True)
class Raster:
    """A grid of square pixels over a triangle mesh.

    Attributes
    ----------
    x, y
        Coordinates of the pixel centres (nx,), (ny,), equally spaced.
    cell
        Cell (ny, nx) under each pixel centre, -1 outside the mesh.
    barycentric
        Barycentric coordinates (ny, nx, 3) of the pixel centre in that cell.
    crowded
        Flat indices (k,) of the pixels that hold the midpoints of two or more cells.
    crowd
        For each cell the position in `crowded` of the pixel that holds its midpoint, or -1.
    cells, volume
        The mesh: vertex numbers (C, 3) and areas (C,).
    """

    x: FloatArray
    y: FloatArray
    cell: IntArray
    barycentric: FloatArray
    crowded: IntArray
    crowd: IntArray
    cells: IntArray
    volume: FloatArray

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Whether a pixel shows a part of the mesh (ny, nx)."""
        inside = self.cell >= 0
        inside.reshape(-1)[self.crowded] = True
        return inside

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of the pixel grid, as matplotlib's imshow wants them."""
        half = 0.5 * (self.x[1] - self.x[0])
        return (self.x[0] - half, self.x[-1] + half, self.y[0] - half, self.y[-1] + half)

    def cellwise(self, values: FloatArray) -> FloatArray:
        """Show cell values (C,): NaN outside, means over the area where cells are smaller."""
        image = np.full(self.cell.size, np.nan)
        flat = self.cell.reshape(-1)
        image[flat >= 0] = values[flat[flat >= 0]]
        counted = self.crowd >= 0
        if counted.any():
            # The mean over the cells in a pixel, so that a thin feature is not lost by chance.
            number = len(self.crowded)
            crowd, area = self.crowd[counted], self.volume[counted]
            total = np.bincount(crowd, values[counted] * area, number)
            image[self.crowded] = total / np.bincount(crowd, area, number)
        return image.reshape(self.cell.shape)

    def linear(self, values: FloatArray) -> FloatArray:
        """Interpolate vertex values (V,) or (V, k) at the pixel centres: NaN outside."""
        corners = values[self.cells[np.maximum(self.cell, 0)]]
        image = np.einsum("yxi,yxi...->yx...", self.barycentric, corners)
        image[self.cell < 0] = np.nan
        return image


def vertex_means(cells: IntArray, volume: FloatArray, values: FloatArray) -> FloatArray:
    """Average cell values (C,) or (C, k) to the vertices, weighted by volume."""
    number = int(cells.max()) + 1
    corners = cells.shape[1]
    flat = cells.reshape(-1)
    columns = values.reshape(len(values), -1)
    total = np.stack(
        [np.bincount(flat, np.repeat(column * volume, corners), number) for column in columns.T],
        axis=1,
    )
    means = total / np.bincount(flat, np.repeat(volume, corners), number)[:, None]
    return means.reshape(number, *values.shape[1:])


def make_raster(
    vertices: FloatArray, cells: IntArray, volume: FloatArray, pixels: int, *, averaged: bool = True
) -> Raster:
    """Lay a grid of square pixels over a triangle mesh.

    Parameters
    ----------
    vertices, cells, volume
        Triangle mesh: coordinates (V, 2), vertex numbers (C, 3), areas (C,).
    pixels
        Number of pixels along the longer side of the bounding box.
    averaged
        Whether pixels that hold several cells show their mean; otherwise what lies under their
        centre.
    """
    lower, upper = vertices.min(axis=0), vertices.max(axis=0)
    size = float(np.max(upper - lower)) / pixels
    number = np.maximum(np.ceil((upper - lower) / size - 1e-9).astype(int), 2)
    x, y = (lower[axis] + size * (np.arange(number[axis]) + 0.5) for axis in (0, 1))

    # In units of pixels, with pixel centres at the integers.
    corners = ((vertices - lower) / size - 0.5)[cells]
    cell, barycentric = _cells_under_centres(corners, number)

    crowded: IntArray = np.empty(0, dtype=np.int64)
    crowd = np.full(len(cells), -1, dtype=np.int64)
    if averaged:
        position = np.clip(np.rint(corners.mean(axis=1)).astype(np.int64), 0, number - 1)
        pixel = position[:, 1] * number[0] + position[:, 0]
        count = np.bincount(pixel, minlength=number[0] * number[1])
        crowded = np.flatnonzero((count >= 2) | ((count == 1) & (cell.reshape(-1) < 0)))
        place = np.full(number[0] * number[1], -1, dtype=np.int64)
        place[crowded] = np.arange(len(crowded))
        crowd = place[pixel]
    return Raster(x, y, cell, barycentric, crowded, crowd, cells, volume)


def _cells_under_centres(corners: FloatArray, number: IntArray) -> tuple[IntArray, FloatArray]:
    """Find the triangle that holds each integer point of the grid, by its bounding box."""
    first = np.clip(np.ceil(corners.min(axis=1) - 1e-9).astype(np.int64), 0, None)
    last = np.minimum(np.floor(corners.max(axis=1) + 1e-9).astype(np.int64), number - 1)
    spans = np.maximum(last - first + 1, 0)
    candidates = spans[:, 0] * spans[:, 1]

    cell: IntArray = np.full((number[1], number[0]), -1, dtype=np.int64)
    barycentric = np.zeros((number[1], number[0], 3))
    hit = np.flatnonzero(candidates)
    ends = np.cumsum(candidates[hit])
    start = 0
    while start < len(hit):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + _CHUNK)), start + 1)
        chosen = hit[start:stop]
        owner = np.repeat(chosen, candidates[chosen])
        offset = np.arange(len(owner)) - np.repeat(
            ends[start:stop] - candidates[chosen] - done, candidates[chosen]
        )
        column = first[owner, 0] + offset % spans[owner, 0]
        row = first[owner, 1] + offset // spans[owner, 0]
        coordinates = _barycentric(corners[owner], np.stack([column, row], axis=1))
        inside = coordinates.min(axis=1) >= -1e-9
        cell[row[inside], column[inside]] = owner[inside]
        barycentric[row[inside], column[inside]] = coordinates[inside]
        start = stop
    return cell, barycentric


def _barycentric(corners: FloatArray, points: IntArray) -> FloatArray:
    """Return the barycentric coordinates (k, 3) of points (k, 2) in triangles (k, 3, 2)."""
    origin = corners[:, 0]
    first, second = corners[:, 1] - origin, corners[:, 2] - origin
    shift = points - origin
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    one = (shift[:, 0] * second[:, 1] - shift[:, 1] * second[:, 0]) / area
    two = (first[:, 0] * shift[:, 1] - first[:, 1] * shift[:, 0]) / area
    return np.stack([1.0 - one - two, one, two], axis=1)
