"""A density given on a mesh of its own, with exact masses of the cells of any other mesh.

A cell and a simplex of the density's mesh overlap in a convex polytope, which is cut into
simplices; on each of these the density, constant or linear, and its products with the barycentric
coordinates of the cell are polynomials that a rule integrates exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from congested.cell_search import CellBins
from congested.clip_kernels import simplex_overlaps
from congested.errors import InputError
from congested.geometry import Cells, FloatArray, IntArray, cells_from_arrays
from congested.measures.base import as_array, check_uniforms, run_collectively
from congested.measures.files import chosen_array
from congested.mesh_check import check_mesh, highest_dimension
from congested.mesh_file import read_with_meshio
from congested.space_curve import hilbert_order

# A cell that reaches less than this part of the largest coordinate into a simplex only touches it.
_ROUNDING = 64 * np.finfo(float).eps
# Cells whose pairs with simplices are found at a time.
_CHUNK = 1 << 13


@dataclass(frozen=True, eq=False)
class MeshField:
    """A density that is constant or linear on each simplex of a mesh, and 0 outside the mesh.

    Attributes
    ----------
    points, cells
        The mesh: coordinates (V, d) and vertices (C, d+1), d = 2 or 3. Points that no cell uses
        are dropped. Several parts, and points written twice, are allowed.
    cell_values, point_values
        Numbers ≥ 0 in proportion to the density, one of the two: on each cell (C,), where it is
        constant, or at each point (V,), between which it is linear.

    Raises
    ------
    InputError
        If the mesh has cells that are degenerate or overlap, a value is negative or not finite,
        all are zero, or the shapes do not fit.
    """

    points: FloatArray
    cells: IntArray
    cell_values: FloatArray | None = None
    point_values: FloatArray | None = None

    def __post_init__(self) -> None:
        """Check and convert the values."""
        given = as_array(self.points, "points", "points with 2 or 3 coordinates", (None, None))
        cells = np.asarray(self.cells)
        if cells.dtype.kind not in "iu":
            raise InputError(
                f"found values of type {cells.dtype}; allowed: numbers of points", key="cells"
            )
        cells = cells.astype(np.int64)
        try:
            points, renumbered = check_mesh(given, cells, whole=False)
        except InputError as error:
            raise InputError(error.message, key="cells") from error
        if (self.cell_values is None) == (self.point_values is None):
            found = "neither" if self.cell_values is None else "both"
            raise InputError(
                f"found {found} of them; allowed: one", key="cell_values or point_values"
            )
        if self.cell_values is not None:
            values = self._checked(self.cell_values, "cell_values", len(cells))
        else:
            assert self.point_values is not None
            values = self._checked(self.point_values, "point_values", len(given))[np.unique(cells)]
            values.flags.writeable = False
        if not values.any():
            raise InputError("found only zeros; allowed: at least one number > 0", key="values")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "cells", renumbered)
        name = "point_values" if self.cell_values is None else "cell_values"
        object.__setattr__(self, name, values)

    @staticmethod
    def _checked(values: npt.ArrayLike, key: str, number: int) -> FloatArray:
        checked = as_array(values, key, f"{number} numbers >= 0", (number,))
        if checked.min() < 0.0:
            where = int(np.argmin(checked))
            raise InputError(
                f"found {checked[where]:.6g} at position {where}; allowed: numbers >= 0", key=key
            )
        return checked

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return self.points.shape[1]

    @property
    def sample_dimension(self) -> int:
        """One uniform number chooses the simplex, one per coordinate the place in it."""
        return self.dimension + 1

    @property
    def integral(self) -> float:
        """The integral of the values as they were given."""
        return self._scale * float(self._masses.sum())

    @cached_property
    def _mesh(self) -> Cells:
        return cells_from_arrays(self.points, self.cells)

    @cached_property
    def _bins(self) -> CellBins:
        return CellBins(self._mesh)

    @cached_property
    def _scale(self) -> float:
        values = self.point_values if self.cell_values is None else self.cell_values
        assert values is not None
        return float(values.max())

    @cached_property
    def _corner_values(self) -> FloatArray:
        """Values (C, d+1) at the vertices of the simplices, over the largest of all."""
        if self.cell_values is not None:
            return np.repeat(self.cell_values[:, None] / self._scale, self.dimension + 1, axis=1)
        assert self.point_values is not None
        return np.asarray(self.point_values[self.cells] / self._scale, dtype=np.float64)

    @cached_property
    def _masses(self) -> FloatArray:
        """Integrals (C,) of these values."""
        return self._mesh.volume * self._corner_values.mean(axis=1)

    @cached_property
    def _density(self) -> FloatArray:
        """Density (C, d+1) at the vertices of the simplices."""
        return self._corner_values / self._masses.sum()

    @cached_property
    def _simplices(self) -> tuple[IntArray, FloatArray]:
        """Simplices with mass along a Hilbert curve, and the mass up to each of them and the end.

        The masses are scaled to one.
        """
        with_mass = np.flatnonzero(self._masses)
        chosen = with_mass[hilbert_order(self._mesh.midpoint[with_mass])]
        steps = np.concatenate([[0.0], np.cumsum(self._masses[chosen])])
        return chosen, steps / steps[-1]

    def density(self, points: FloatArray) -> FloatArray:
        """Return the density (m,) at points (m, d)."""
        points = np.asarray(points, dtype=np.float64)
        simplex, _ = self._bins.locate(points)
        found = np.flatnonzero(simplex >= 0)
        chosen = simplex[found]
        result = np.zeros(len(points))
        if self.cell_values is not None:
            result[found] = self._density[chosen, 0]
            return result
        offset = points[found] - self._mesh.midpoint[chosen]
        gradients = self._mesh.barycentric_gradients[chosen]
        coordinates = np.einsum("nid,nd->ni", gradients, offset) + 1.0 / (self.dimension + 1)
        result[found] = np.maximum((coordinates * self._density[chosen]).sum(axis=1), 0.0)
        return result

    def _overlaps(self, cells: Cells) -> tuple[FloatArray, FloatArray]:
        """Return vertex masses (n, d+1) and bounds (n, 2) of the density on the owned cells."""
        mesh, outer = self._mesh, self._bins.outer_facets
        corners = np.concatenate([mesh.lower, mesh.upper, cells.lower, cells.upper])
        rounding = _ROUNDING * float(np.abs(corners).max())
        simplices = np.ascontiguousarray(cells.simplices)
        lower, upper = simplices.min(axis=1), simplices.max(axis=1)
        moments = np.zeros((cells.number, cells.dimension + 1))
        bounds = np.tile([np.inf, 0.0], (cells.number, 1))
        leaves = np.zeros(cells.number, dtype=bool)
        for start in range(0, cells.number, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            owner, other = self._bins.near(lower[chunk], upper[chunk])
            simplex_overlaps(
                owner + start,
                other,
                simplices,
                cells.volume,
                mesh.simplices,
                mesh.barycentric_gradients,
                self._density,
                outer,
                rounding,
                moments,
                bounds,
                leaves,
            )
        bounds[leaves | np.isinf(bounds[:, 0]), 0] = 0.0
        return moments, bounds

    def cell_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the integral of the density over each owned cell, exact to rounding (collective).

        The density's mesh is whole on every rank; only an error is communicated.
        """
        return self.vertex_masses(cells).sum(axis=1)

    def vertex_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the integrals (n, d+1) of density times barycentric coordinates (collective).

        They are exact to rounding, and sum over a cell's vertices to its mass.
        """
        return run_collectively(cells.comm, lambda: self._overlaps(cells)[0])

    def density_range(self, cells: Cells) -> tuple[FloatArray, FloatArray]:
        """Return bounds (n,), (n,) of the density on each owned cell from below and above.

        They are attained but for rounding, by which they are widened where the density is linear.
        Parts outside the mesh count with density 0, simplices that a cell only touches do not
        count. (Collective.)
        """
        bounds = run_collectively(cells.comm, lambda: self._overlaps(cells)[1])
        return bounds[:, 0], bounds[:, 1]

    def sample(self, uniforms: FloatArray) -> FloatArray:
        """Map numbers (m, d+1) in [0, 1) to samples (m, d): the simplex, then the place in it.

        A point of a simplex x₀ … x_d is x₀ + r₁(x₁ − x₀ + r₂(x₂ − x₁ + …)); it is uniform if
        r_j = u_j^{1/(d+1−j)}. A linear density is a mixture of the densities in proportion to the
        barycentric coordinates λ_k, with shares as its values at the vertices. To draw from λ_0,
        which is 1 − r₁, r₁ has to follow Beta(d, 2), and so does the product of u₁^{1/d} and
        another v^{1/(d+1)}. The vertex (as x₀) and v come from what the number that chose the
        simplex has left.
        """
        uniforms = check_uniforms(uniforms, self.sample_dimension)
        dimension = self.dimension
        order, steps = self._simplices
        place = np.searchsorted(steps, uniforms[:, 0], side="right") - 1
        place = np.minimum(place, len(order) - 1)
        chosen = order[place]
        corners = self._mesh.simplices[chosen]
        ratio = uniforms[:, 1:] ** (1.0 / np.arange(dimension, 0, -1))
        if self.cell_values is None:
            rest = (uniforms[:, 0] - steps[place]) / (steps[place + 1] - steps[place])
            shares = np.cumsum(self._corner_values[chosen], axis=1)
            shares = np.insert(shares / shares[:, -1:], 0, 0.0, axis=1)
            first = (rest[:, None] >= shares[:, 1:-1]).sum(axis=1)
            rows = np.arange(len(chosen))
            low, high = shares[rows, first], shares[rows, first + 1]
            ratio[:, 0] *= np.clip((rest - low) / (high - low), 0.0, 1.0) ** (1 / (dimension + 1))
            turned = (first[:, None] + np.arange(dimension + 1)) % (dimension + 1)
            corners = np.take_along_axis(corners, turned[:, :, None], axis=1)
        samples: FloatArray = np.zeros((len(chosen), dimension))
        for j in range(dimension, 0, -1):
            samples = ratio[:, j - 1 : j] * (corners[:, j] - corners[:, j - 1] + samples)
        return corners[:, 0] + samples

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the corners of the smallest box that holds all simplices with mass."""
        corners = self._mesh.simplices[self._masses > 0.0]
        return corners.min(axis=(0, 1)), corners.max(axis=(0, 1))


def mesh_field_from_file(path: str | Path, array: str | None = None) -> MeshField:
    """Read a density from a mesh file with data.

    Parameters
    ----------
    path
        Any file that meshio reads, with triangles in the plane or tetrahedra; cells of lower
        dimension are ignored.
    array
        Name of the array of cell data (the density is constant on each cell) or point data (it is
        linear); None if there is exactly one array with one number per cell or point. The tags of
        gmsh do not count unless they are named.

    Raises
    ------
    InputError
        If the file cannot be read, the mesh has a defect, or there is no such array, or it holds
        something else; the text names the file, what was found and what is allowed.
    """
    path = Path(path)
    contents = read_with_meshio(path, "file")
    try:
        check_mesh(contents.points, contents.cells, str(path), whole=False)
    except InputError as error:
        raise InputError(error.message, key="file") from error
    dimension = highest_dimension(contents.cells)
    blocks = [block.dim == dimension and len(block.data) > 0 for block in contents.cells]

    def of_blocks(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return np.concatenate([part for part, use in zip(parts, blocks, strict=True) if use])

    on_cells = _scalars({name: of_blocks(parts) for name, parts in contents.cell_data.items()})
    on_points = _scalars(contents.point_data)
    offered = [
        name for name in [*on_cells, *on_points] if name == array or not name.startswith("gmsh:")
    ]
    name = chosen_array(sorted(set(offered)), array, path)
    if name in on_cells and name in on_points:
        raise InputError(
            f'found "{name}" both as cell data and as point data; allowed: names that occur once',
            key="array",
            file=str(path),
        )
    cells = of_blocks([block.data for block in contents.cells])
    points = contents.points[:, :dimension]
    try:
        return MeshField(points, cells, on_cells.get(name), on_points.get(name))
    except InputError as error:
        raise InputError(f'array "{name}": {error.message}', file=str(path)) from error


def _scalars(data: dict[str, npt.NDArray[Any]]) -> dict[str, FloatArray]:
    """Return the arrays with one number per cell or point."""
    return {
        name: np.asarray(values, dtype=np.float64).reshape(-1)
        for name, values in data.items()
        if values.dtype.kind in "biuf" and values.size == len(values)
    }
