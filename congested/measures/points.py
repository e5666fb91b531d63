"""Weighted points: each point's whole mass belongs to exactly one cell.

A point on a facet that cells share is made generic by a tiny shift, the same on every rank; among
the ranks the one in whose cell the point lies deepest takes it. So the total is right and the
result does not depend on how the mesh is distributed.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from congested.cell_search import CellBins
from congested.errors import InputError
from congested.geometry import Cells, FloatArray, IntArray, barycentric_coordinates
from congested.measures.base import (
    Measure,
    as_array,
    check_dimension,
    check_uniforms,
    normalised_weights,
)
from congested.measures.files import NEAR, file_type, read_npy

POINT_FILES = (".npy", ".csv", ".txt", ".vtu", ".ply")
WEIGHT_FILES = (".npy", ".csv", ".txt")

# Points are shifted by this part of the domain's size, so that none lies on a facet.
_SHIFT = 1e-10
# Smallest barycentric coordinate of points whose segments are shared out.
_INSIDE = 0.1
# Turns the shifts out of all directions in which facets are likely to lie.
_TURN = np.array([0.137035999, 0.236067977, 0.414213562])


@dataclass(frozen=True, eq=False)
class Points:
    """Σ_k weight_k δ(point_k).

    Attributes
    ----------
    points
        Coordinates (N, d), d = 2 or 3.
    weights
        Weights (N,) ≥ 0 with sum 1 (normalised if within 1e-6); equal ones if None.

    Raises
    ------
    InputError
        If there is no point, a coordinate is not finite, or the weights are no probabilities.
    """

    points: FloatArray
    weights: FloatArray | None = None

    def __post_init__(self) -> None:
        """Check and convert the values."""
        points = as_array(self.points, "points", "points with 2 or 3 coordinates", (None, None))
        if len(points) == 0:
            raise InputError("found no point; allowed: at least one", key="points")
        check_dimension(points.shape[1], "points")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "weights", normalised_weights(self.weights, len(points)))

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return self.points.shape[1]

    @property
    def sample_dimension(self) -> int:
        """One uniform number chooses the point."""
        return 1

    def cell_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the sum of the weights of the points in each owned cell (collective).

        Raises
        ------
        InputError
            If a point lies outside the domain by more than about 1e-9 of its size.
        """
        holder = locate_uniquely(self.points, cells)
        mine = holder >= 0
        assert self.weights is not None
        masses = np.bincount(holder[mine], self.weights[mine], minlength=cells.number)
        return masses.astype(np.float64)  # integers if there is no point at all

    def vertex_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the sums (n, d+1) of weight_k λ_i(point_k) in each owned cell (collective).

        Raises
        ------
        InputError
            If a point lies outside the domain by more than about 1e-9 of its size.
        """
        holder = locate_uniquely(self.points, cells)
        mine = np.flatnonzero(holder >= 0)
        assert self.weights is not None
        masses = np.zeros((cells.number, cells.dimension + 1))
        # A point that was made generic may lie outside its cell by the shift.
        inside = barycentric_coordinates(
            cells.simplices[holder[mine]], self.points[mine, None]
        ).clip(0.0, 1.0)[:, 0]
        inside /= inside.sum(axis=1, keepdims=True)
        np.add.at(masses, holder[mine], self.weights[mine, None] * inside)
        return masses

    def sample(self, uniforms: FloatArray) -> FloatArray:
        """Map numbers (m, 1) in [0, 1) to points (m, d), with probabilities the weights."""
        uniforms = check_uniforms(uniforms, self.sample_dimension)
        assert self.weights is not None
        steps = np.cumsum(self.weights)
        chosen = np.searchsorted(steps / steps[-1], uniforms[:, 0], side="right")
        return self.points[np.minimum(chosen, len(steps) - 1)]

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the corners of the smallest box that holds the points."""
        return self.points.min(axis=0), self.points.max(axis=0)


def away_from_facets(measure: Measure, cells: Cells) -> Measure:
    """Move points that lie near the facets of their cells inwards (collective).

    Meant for the ends of the weight's segments. Cell data spread a point's mass over its cell
    anyway, but segments that start on a facet, or very near one, may leave that cell at once: the
    weight in it would be next to nothing, and the cost of carrying the point's mass out of it
    enormous, whatever the mesh. The mass of each cell is the same before and after.

    Parameters
    ----------
    measure
        The measure; only `Points` are moved.
    cells
        The cells.

    Returns
    -------
    Measure
        Points whose barycentric coordinates in the cell that holds them are 0.1 or more, so that
        none has moved by more than a third of its cell's diameter; any other measure as it was.

    Raises
    ------
    InputError
        If a point lies outside the domain.
    """
    if not isinstance(measure, Points):
        return measure
    holder = locate_uniquely(measure.points, cells)
    mine = holder >= 0
    points, midpoint = measure.points[mine], cells.midpoint[holder[mine]]
    centre = 1.0 / (cells.dimension + 1)
    gradients = cells.barycentric_gradients[holder[mine]]
    coordinates = centre + np.einsum("nid,nd->ni", gradients, points - midpoint)
    smallest = coordinates.min(axis=1)
    share = np.clip((_INSIDE - smallest) / (centre - np.minimum(smallest, _INSIDE)), 0.0, 1.0)
    moved = np.zeros_like(measure.points)
    moved[mine] = points + share[:, None] * (midpoint - points)
    result = np.empty_like(moved)
    cells.comm.Allreduce(moved, result, op=MPI.SUM)
    return Points(result, measure.weights)


def locate_uniquely(points: FloatArray, cells: Cells) -> IntArray:
    """Give each point to exactly one cell of one rank (collective).

    Parameters
    ----------
    points
        Coordinates (N, d), the same on all ranks.
    cells
        The cells.

    Returns
    -------
    numpy.ndarray
        Local cell index (N,) on the rank that takes the point, -1 on the others.

    Raises
    ------
    InputError
        If a point lies outside the domain by more than about 1e-9 of its size.
    """
    size = float(np.max(cells.upper - cells.lower))
    bins = CellBins(cells)
    taken = np.full(len(points), -1, dtype=np.int64)
    # Points clearly outside the bounding box need no search.
    beyond = np.maximum(cells.lower - points, points - cells.upper).max(axis=1) > 2 * NEAR * size
    left = np.flatnonzero(~beyond)
    for shift in _shifts(cells.dimension, size):
        if len(left) == 0:
            break
        local, depth = bins.locate(points[left] + shift, tolerance=0.0)
        depth = np.where(local >= 0, depth, -np.inf)
        deepest = np.empty_like(depth)
        cells.comm.Allreduce(depth, deepest, op=MPI.MAX)
        claim = np.where((depth == deepest) & (local >= 0), cells.comm.rank, cells.comm.size)
        winner = np.empty_like(claim)
        cells.comm.Allreduce(claim, winner, op=MPI.MIN)
        mine = winner == cells.comm.rank
        taken[left[mine]] = local[mine]
        left = left[winner == cells.comm.size]
    lost = np.sort(np.concatenate([np.flatnonzero(beyond), left]))
    if len(lost):
        raise InputError(
            f"found {len(lost)} of {len(points)} points outside the domain, the first is number "
            f"{lost[0]} at {points[lost[0]].tolist()}; allowed: points in the domain, which lies "
            f"between {cells.lower.tolist()} and {cells.upper.tolist()}",
            key="points",
        )
    return taken


def _shifts(dimension: int, size: float) -> list[FloatArray]:
    """Return the shifts to try: tiny in all directions, then as far as points may be outside."""
    steps = itertools.product((0.0, 1.0, -1.0), repeat=dimension)
    directions = np.array(list(steps)) + _TURN[:dimension]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return [*(_SHIFT * size * directions), *(2 * NEAR * size * directions)]


def points_from_file(
    path: str | Path,
    weights: str | Path | npt.ArrayLike | None = None,
    dimension: int | None = None,
) -> Points:
    """Read points, and weights if there are any.

    Parameters
    ----------
    path
        ``.npy`` (an array (N, d)), ``.csv`` or ``.txt`` (a point per line, columns separated by
        commas or blanks; a first line with names is skipped), or ``.vtu`` or ``.ply`` (the points
        of a mesh; three columns of which the last is zero count as two).
    weights
        File with one number per point (``.npy``, ``.csv``, ``.txt``), or the numbers; None: equal.
    dimension
        Dimension of the domain, 2 or 3; None: that of the file.

    Raises
    ------
    InputError
        If a file cannot be read or holds something else; the text names the file, what was found
        and what is allowed.
    """
    path = Path(path)
    table = _read(path, POINT_FILES)
    if table.ndim != 2:
        raise InputError(
            f"found an array of shape {table.shape}; allowed: (N, 2) or (N, 3)", file=str(path)
        )
    if len(table) == 0:
        raise InputError("found no point; allowed: at least one", file=str(path))
    planar = path.suffix.lower() in (".vtu", ".ply") and table.shape[1] == 3
    if planar and dimension != 3 and (table[:, 2] == 0.0).all():
        table = table[:, :2]
    wanted = (2, 3) if dimension is None else (dimension,)
    if table.shape[1] not in wanted:
        raise InputError(
            f"found {table.shape[1]} columns; allowed: {' or '.join(map(str, wanted))}",
            file=str(path),
        )
    _check_finite(table, path)
    if weights is None:
        return Points(table)
    if not isinstance(weights, (str, Path)):
        return Points(table, weights)  # type: ignore[arg-type]
    weights_path = Path(weights)
    numbers = _read(weights_path, WEIGHT_FILES)
    if numbers.ndim == 2 and 1 in numbers.shape:
        numbers = numbers.ravel()
    numbers = np.atleast_1d(numbers)
    if numbers.shape != (len(table),):
        raise InputError(
            f"found an array of shape {numbers.shape}; allowed: {len(table)} numbers, one for "
            f"each point of {path}",
            file=str(weights_path),
        )
    _check_finite(numbers, weights_path)
    try:
        return Points(table, numbers)
    except InputError as error:
        raise InputError(error.message, file=str(weights_path)) from error


def _check_finite(table: FloatArray, path: Path) -> None:
    finite = np.isfinite(table).reshape(len(table), -1).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InputError(
            f"found {table[row].tolist()} in row {row}; allowed: finite numbers", file=str(path)
        )


def _read(path: Path, allowed: tuple[str, ...]) -> FloatArray:
    """Read a file into a float array, or raise InputError that names the file."""
    readers: dict[str, Callable[[Path], FloatArray]] = {
        ".npy": _read_npy,
        ".csv": _read_text,
        ".txt": _read_text,
        ".vtu": _read_mesh,
        ".ply": _read_mesh,
    }
    return readers[file_type(path, allowed)](path)


def _read_npy(path: Path) -> FloatArray:
    return read_npy(path).astype(np.float64)


def _read_text(path: Path) -> FloatArray:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"found no text ({error}); allowed: numbers", file=str(path)) from error
    rows = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    delimiter = "," if any("," in line for line in rows) else None
    if rows and not _is_numeric(rows[0], delimiter):
        rows = rows[1:]  # names of the columns
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty file is reported by the caller
            return np.loadtxt(rows, delimiter=delimiter, ndmin=2, dtype=np.float64)
    except ValueError as error:
        raise InputError(
            f"found a line that cannot be read ({error}); allowed: the same number of numbers in "
            "every line",
            file=str(path),
        ) from error


def _is_numeric(line: str, delimiter: str | None) -> bool:
    try:
        for entry in line.split(delimiter):
            float(entry)
    except ValueError:
        return False
    return True


def _read_mesh(path: Path) -> FloatArray:
    import meshio  # slow to import, and seldom needed

    # meshio raises ReadError, but damaged files also end in errors of the parsers below it.
    try:
        return np.asarray(meshio.read(path).points, dtype=np.float64)
    except (SystemExit, Exception) as error:
        raise InputError(
            f"found a file that meshio cannot read ({error}); allowed: a valid {path.suffix} file",
            file=str(path),
        ) from error
