"""A density given by the pixels of a picture or the voxels of a volume, with exact cell masses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from congested.clip_kernels import image_overlaps
from congested.errors import InputError
from congested.geometry import Cells, FloatArray, IntArray
from congested.measures.base import as_array, as_box, check_uniforms
from congested.space_curve import hilbert_order

# A cell that reaches less than this part of the largest coordinate into a pixel only touches it.
_ROUNDING = 64 * np.finfo(float).eps


def check_not_negative(values: FloatArray) -> None:
    """Raise an `InputError` that names the smallest of the pixels, if it is negative."""
    where = np.unravel_index(int(np.argmin(values)), values.shape)
    if values[where] < 0.0:
        place = ", ".join(str(index) for index in where)
        raise InputError(
            f"found {values[where]:.6g} at [{place}]; allowed: numbers >= 0", key="values"
        )


@dataclass(frozen=True, eq=False)
class Image:
    """A density that is constant on each pixel (voxel) of a regular grid, and 0 outside the grid.

    Its integrals over cells are exact: the cells are cut along the sides of the pixels.

    Attributes
    ----------
    values
        Numbers ≥ 0 in proportion to the density, (n_x, n_y) or (n_x, n_y, n_z): ``values[i, j]``
        belongs to the i-th pixel in the direction of x and the j-th in that of y, from the lower
        corner on. A picture as programs store it, rows from the top, is ``picture[::-1].T``.
    lower, upper
        Corners (d,) of the box that the grid fills.

    Raises
    ------
    InputError
        If a value is negative or not finite, all are zero, or the shapes do not fit.
    """

    values: FloatArray
    lower: FloatArray
    upper: FloatArray

    def __post_init__(self) -> None:
        """Check and convert the values."""
        raw = np.asarray(self.values)
        if raw.ndim not in (2, 3) or raw.size == 0:
            raise InputError(
                f"found an array of shape {raw.shape}; allowed: numbers along 2 or 3 axes",
                key="values",
            )
        if raw.dtype == bool:
            raw = raw.astype(np.float64)
        values = as_array(raw, "values", "numbers >= 0", (None,) * raw.ndim)
        check_not_negative(values)
        if not values.any():
            raise InputError("found only zeros; allowed: at least one number > 0", key="values")
        lower, upper = as_box(self.lower, self.upper, values.ndim)
        for name, value in (("values", values), ("lower", lower), ("upper", upper)):
            object.__setattr__(self, name, value)

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return self.values.ndim

    @property
    def sample_dimension(self) -> int:
        """One uniform number chooses the pixel, one per coordinate the place in it."""
        return self.dimension + 1

    @property
    def integral(self) -> float:
        """The integral of the values as they were given, as a density."""
        pixel = float(np.prod((self.upper - self.lower) / self.values.shape))
        return float(self.values.sum()) * pixel

    @cached_property
    def _sides(self) -> list[FloatArray]:
        """Where the pixels of each axis begin and end."""
        corners = zip(self.lower, self.upper, self.values.shape, strict=True)
        return [np.linspace(low, high, number + 1) for low, high, number in corners]

    @cached_property
    def densities(self) -> FloatArray:
        """Density of each pixel, in the shape of `values`, of integral one."""
        shares = self.values / self.values.max()
        pixel = np.prod((self.upper - self.lower) / self.values.shape)
        return np.asarray(shares / (shares.sum() * pixel), dtype=np.float64)

    @cached_property
    def _pixels(self) -> tuple[IntArray, FloatArray]:
        """Pixels with mass along a Hilbert curve, and the mass up to and with each of them."""
        with_mass = np.argwhere(self.values > 0.0)
        order = hilbert_order(with_mass.astype(np.float64))
        chosen = np.ravel_multi_index(tuple(with_mass[order].T), self.values.shape)
        steps = np.cumsum(self.densities.ravel()[chosen])
        return chosen, steps / steps[-1]

    def density(self, points: FloatArray) -> FloatArray:
        """Return the density (m,) at points (m, d)."""
        points = np.asarray(points, dtype=np.float64)
        inside = ((points >= self.lower) & (points <= self.upper)).all(axis=1)
        index = tuple(
            np.minimum(np.searchsorted(sides, points[inside, axis], side="right"), number) - 1
            for axis, (sides, number) in enumerate(zip(self._sides, self.values.shape, strict=True))
        )
        result = np.zeros(len(points))
        result[inside] = self.densities[index]
        return result

    def _overlaps(self, cells: Cells) -> tuple[FloatArray, FloatArray]:
        """Return vertex masses (n, d+1) and bounds (n, 2) of the density on the owned cells."""
        sides = np.zeros((self.dimension, max(self.values.shape) + 1))
        for axis, positions in enumerate(self._sides):
            sides[axis, : len(positions)] = positions
        corners = np.concatenate([self.lower, self.upper, cells.lower, cells.upper])
        return image_overlaps(
            np.ascontiguousarray(cells.simplices),
            cells.volume,
            sides,
            self.densities.reshape((1,) * (3 - self.dimension) + self.values.shape),
            _ROUNDING * float(np.abs(corners).max()),
        )

    def cell_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the integral of the density over each owned cell, exact to rounding."""
        return self.vertex_masses(cells).sum(axis=1)

    def vertex_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the integrals (n, d+1) of density times barycentric coordinates of each cell.

        They are exact to rounding, and sum over a cell's vertices to its mass.
        """
        return self._overlaps(cells)[0]

    def density_range(self, cells: Cells) -> tuple[FloatArray, FloatArray]:
        """Return the least and the greatest density (n,), (n,) on each owned cell.

        Parts outside the grid count with density 0, pixels that a cell only touches do not count.
        """
        bounds = self._overlaps(cells)[1]
        return bounds[:, 0], bounds[:, 1]

    def sample(self, uniforms: FloatArray) -> FloatArray:
        """Map numbers (m, d+1) in [0, 1) to samples (m, d): the pixel, then the place in it.

        Neighbouring first numbers choose neighbouring pixels, which evenly spread numbers profit
        from.
        """
        uniforms = check_uniforms(uniforms, self.sample_dimension)
        pixels, steps = self._pixels
        chosen = np.searchsorted(steps, uniforms[:, 0], side="right")
        index = np.unravel_index(pixels[np.minimum(chosen, len(pixels) - 1)], self.values.shape)
        samples = np.empty((len(uniforms), self.dimension))
        for axis, (sides, along) in enumerate(zip(self._sides, index, strict=True)):
            start, end = sides[along], sides[along + 1]
            samples[:, axis] = start + uniforms[:, 1 + axis] * (end - start)
        return samples

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the corners of the smallest box that holds all pixels with mass."""
        lower, upper = np.empty(self.dimension), np.empty(self.dimension)
        for axis, sides in enumerate(self._sides):
            others = tuple(other for other in range(self.dimension) if other != axis)
            with_mass = np.flatnonzero(self.values.any(axis=others))
            lower[axis], upper[axis] = sides[with_mass[0]], sides[with_mass[-1] + 1]
        return lower, upper
