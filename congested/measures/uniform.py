"""Uniform distributions on a box or a ball, with exact cell masses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from congested.errors import InputError
from congested.geometry import Cells, FloatArray, barycentric_coordinates, simplex_volumes
from congested.measures.base import as_array, as_box, check_dimension, check_uniforms
from congested.measures.radial import (
    ball_simplex_moments,
    ball_simplex_volumes,
    ball_volume,
)
from congested.quadrature import clip_to_box


def _range(
    inside: npt.NDArray[np.bool_], masses: FloatArray, density: float
) -> tuple[FloatArray, FloatArray]:
    """Return the range of a constant density on cells inside, cut (some mass) and outside."""
    return np.where(inside, density, 0.0), np.where(inside | (masses > 0.0), density, 0.0)


def _affine_error(
    vertex_masses: FloatArray,
    volume: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    rounding: float,
) -> FloatArray:
    """Return the distance of a density from affine functions that is 0 or a constant everywhere.

    The mean of the square of such a density f is its mean times the constant, and by Pythagoras the
    mean square of f less its affine projection is that less the mean square of the projection,
    which the vertex masses tell (see `continuum.affine_deviation`).

    Parameters
    ----------
    vertex_masses, volume
        ∫_T λ_i dμ (n, d+1) and |T| (n,).
    lower, upper
        Range of the density (n,), (n,).
    rounding
        What rounding may take from the mean square, over the square of the constant.
    """
    corners = vertex_masses.shape[1]
    number = corners * (corners + 1)
    density = upper - lower
    mean = vertex_masses.sum(axis=1) / volume
    deviation = vertex_masses - vertex_masses.mean(axis=1, keepdims=True)
    projection = mean**2 + number * np.einsum("ni,ni->n", deviation, deviation) / volume**2
    square = np.maximum(density * mean - projection, 0.0) + rounding * density**2
    return np.minimum(np.sqrt(square), 0.5 * density)


@dataclass(frozen=True, eq=False)
class UniformBox:
    """Uniform distribution on a box with edges along the axes.

    Attributes
    ----------
    lower, upper
        Corners (d,), d = 2 or 3.

    Raises
    ------
    InputError
        If the corners do not span a box.
    """

    lower: FloatArray
    upper: FloatArray

    def __post_init__(self) -> None:
        """Check and convert the values."""
        lower, upper = as_box(self.lower, self.upper)
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return len(self.lower)

    @property
    def sample_dimension(self) -> int:
        """One uniform number per coordinate."""
        return self.dimension

    def density(self, points: FloatArray) -> FloatArray:
        """Return the density (m,) at points (m, d)."""
        points = np.asarray(points, dtype=np.float64)
        inside = ((points >= self.lower) & (points <= self.upper)).all(axis=1)
        return np.asarray(inside / np.prod(self.upper - self.lower))

    def cell_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the share of the box in each owned cell, exact to rounding."""
        pieces, owner, whole = clip_to_box(cells.simplices, self.lower, self.upper)
        # Without any piece bincount counts in integers.
        volumes = np.bincount(owner, simplex_volumes(pieces), cells.number).astype(np.float64)
        volumes[whole] = cells.volume[whole]
        return volumes / np.prod(self.upper - self.lower)

    def vertex_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return ∫_T λ_i dμ (n, d+1) of each owned cell, exact to rounding."""
        pieces, owner, whole = clip_to_box(cells.simplices, self.lower, self.upper)
        masses = np.zeros((cells.number, cells.dimension + 1))
        # λ_i is affine: its mean over a piece is that of its values at the corners.
        means = barycentric_coordinates(cells.simplices[owner], pieces).mean(axis=1)
        np.add.at(masses, owner, simplex_volumes(pieces)[:, None] * means)
        masses[whole] = cells.volume[whole, None] / (cells.dimension + 1)
        return masses / np.prod(self.upper - self.lower)

    def density_range(self, cells: Cells) -> tuple[FloatArray, FloatArray]:
        """Return bounds (n,), (n,) of the density on each owned cell."""
        density = 1.0 / float(np.prod(self.upper - self.lower))
        low, high = cells.simplices.min(axis=1), cells.simplices.max(axis=1)
        inside = ((low >= self.lower) & (high <= self.upper)).all(axis=1)
        return _range(inside, self.cell_masses(cells), density)

    def affine_error(self, cells: Cells) -> FloatArray:
        """Return the distance (n,) of the density from an affine function on each owned cell."""
        return _affine_error(
            self.vertex_masses(cells), cells.volume, *self.density_range(cells), rounding=1e-12
        )

    def sample(self, uniforms: FloatArray) -> FloatArray:
        """Map numbers (m, d) in [0, 1) to samples (m, d)."""
        uniforms = check_uniforms(uniforms, self.sample_dimension)
        return self.lower + uniforms * (self.upper - self.lower)

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the corners of the box."""
        return self.lower, self.upper


@dataclass(frozen=True, eq=False)
class UniformBall:
    """Uniform distribution on a disc (2D) or ball (3D).

    Attributes
    ----------
    center
        Centre (d,), d = 2 or 3.
    radius
        Radius > 0.

    Raises
    ------
    InputError
        If the radius is not positive or the centre is no point.
    """

    center: FloatArray
    radius: float

    def __post_init__(self) -> None:
        """Check and convert the values."""
        center = as_array(self.center, "center", "2 or 3 numbers", (None,))
        check_dimension(len(center), "center")
        radius = float(as_array(self.radius, "radius", "a number > 0", ()))
        if radius <= 0:
            raise InputError(f"found {radius:g}; allowed: a number > 0", key="radius")
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "radius", radius)

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return len(self.center)

    @property
    def sample_dimension(self) -> int:
        """One uniform number per polar coordinate."""
        return self.dimension

    def density(self, points: FloatArray) -> FloatArray:
        """Return the density (m,) at points (m, d)."""
        distance = np.linalg.norm(np.asarray(points) - self.center, axis=1)
        return (distance <= self.radius) / ball_volume(self.dimension, self.radius)

    def cell_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the share of the ball in each owned cell, exact to rounding."""
        volumes = ball_simplex_volumes(cells.simplices, self.center, self.radius)
        return np.asarray(volumes / ball_volume(self.dimension, self.radius), dtype=np.float64)

    def vertex_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return ∫_T λ_i dμ (n, d+1) of each owned cell, exact to rounding.

        In a cell that the sphere cuts rounding costs some 1e-16 times the radius over its size.
        """
        simplices = cells.simplices
        volumes = ball_simplex_volumes(simplices, self.center, self.radius)
        masses = np.repeat(volumes[:, None] / (cells.dimension + 1), cells.dimension + 1, axis=1)
        cut = np.flatnonzero((volumes > 0.0) & ~self._holds(cells))
        moments = ball_simplex_moments(simplices[cut], self.center, self.radius)
        # ∫ λ_i over the part in the ball, with λ_i taken at the centre of the cell plus its slope.
        middle = cells.midpoint[cut] - self.center
        about = moments - volumes[cut, None] * middle
        parts = np.einsum("nid,nd->ni", cells.barycentric_gradients[cut], about)
        masses[cut] = np.maximum(masses[cut] + parts, 0.0)
        return np.asarray(masses / ball_volume(self.dimension, self.radius), dtype=np.float64)

    def density_range(self, cells: Cells) -> tuple[FloatArray, FloatArray]:
        """Return bounds (n,), (n,) of the density on each owned cell."""
        density = 1.0 / ball_volume(self.dimension, self.radius)
        return _range(self._holds(cells), self.cell_masses(cells), density)

    def affine_error(self, cells: Cells) -> FloatArray:
        """Return the distance (n,) of the density from an affine function on each owned cell."""
        # The vertex masses of cells that are much smaller than the ball have fewer digits.
        return _affine_error(
            self.vertex_masses(cells), cells.volume, *self.density_range(cells), rounding=1e-7
        )

    def _holds(self, cells: Cells) -> npt.NDArray[np.bool_]:
        """Return which cells (n,) lie wholly in the ball."""
        distance = np.linalg.norm(cells.simplices - self.center, axis=2)
        return (distance <= self.radius).all(axis=1)

    def sample(self, uniforms: FloatArray) -> FloatArray:
        """Map numbers (m, d) in [0, 1) to samples (m, d): radius, angle, height."""
        uniforms = check_uniforms(uniforms, self.sample_dimension)
        distance: FloatArray = self.radius * uniforms[:, 0] ** (1.0 / self.dimension)
        angle = 2.0 * math.pi * uniforms[:, 1]
        direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        if self.dimension == 3:
            height = 2.0 * uniforms[:, 2:] - 1.0
            direction = np.concatenate([np.sqrt(1.0 - height**2) * direction, height], axis=1)
        return self.center + distance[:, None] * direction

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the corners of the box around the ball."""
        return self.center - self.radius, self.center + self.radius
