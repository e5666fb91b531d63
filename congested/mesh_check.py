"""Find what is wrong with a mesh before anything is computed on it, and name it.

A mesh that comes from a file may hold cells that the discretisation cannot use, cells that overlap,
or parts that nobody glued together. Such a mesh gives a flow through walls that are not there or
none through openings that should be, so each defect is an `InputError` with its name, how often it
occurs, and where it is first seen. All checks work on whole arrays (about 2 s for 10^6 cells).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import meshio
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from congested.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# |T| / diameter^d below this is a cell without an inside; gmsh's worst slivers have about 1e-3.
DEGENERATE = 1e-10
# Points closer than this fraction of the bounding box's diagonal are one point written twice.
COINCIDENT = 1e-10
# A region whose cells are oriented one way but for this share, or this number, has inverted cells.
# A more even mixture is the habit of a program to which orientation means nothing (DOLFINx).
INVERTED_SHARE, INVERTED_NUMBER = 0.25, 8

_SIMPLICES = {"triangle": 2, "tetra": 3}
_ALLOWED = "allowed are straight-sided triangles ('triangle') and tetrahedra ('tetra')"


@dataclass(frozen=True)
class _Topology:
    """Facets of the cells: facet k of a cell lies opposite its vertex k.

    Attributes
    ----------
    facet
        Number (C, d+1) of each cell's facets.
    order
        Positions in the flattened `facet`, sorted by facet number.
    start
        Where each facet begins in `order` (F,), and how many cells it has: `count` (F,).
    """

    facet: IntArray
    order: IntArray
    start: IntArray
    count: IntArray

    def cells(self) -> IntArray:
        """Return the cell of each entry of `order`."""
        return self.order // self.facet.shape[1]

    def shared(self) -> tuple[IntArray, IntArray]:
        """Return the two positions in the flattened `facet` of each facet of two cells."""
        first = self.start[self.count == 2]
        return self.order[first], self.order[first + 1]

    def boundary(self) -> tuple[IntArray, IntArray]:
        """Return cell and local number of each facet that belongs to one cell only."""
        position = self.order[self.start[self.count == 1]]
        return np.divmod(position, self.facet.shape[1])


def check_mesh(
    points: npt.ArrayLike,
    cells: IntArray | Mapping[str, npt.ArrayLike] | Iterable[meshio.CellBlock],
    file: str | None = None,
    regions: npt.ArrayLike | None = None,
    *,
    whole: bool = True,
) -> tuple[FloatArray, IntArray]:
    """Check a simplicial mesh and return what the solver needs of it.

    Points and cells are numbered in the messages from 0, in the order of the arguments (cells
    among those of their type). Overlaps are found between cells that share a facet; whether two
    remote ends of one part lie on top of each other is not tested. Few cells oriented against the
    many of their region count as inverted; where orientations are thoroughly mixed, as in meshes
    that DOLFINx wrote, only cells that overlap do.

    Parameters
    ----------
    points
        Coordinates (V, 2) or (V, 3).
    cells
        Vertices (C, d+1) of the cells, or all cells by their meshio type name (``"triangle"``,
        ``"tetra"``, ``"line"``, …), or meshio's cell blocks. Cells of less than the highest
        dimension that occurs are tags of boundaries, and ignored.
    file
        Name of the mesh file, for the messages.
    regions
        Number (C,) of the geometrical region in which each cell lies. A generator may orient each
        region its own way, so orientations are only compared within one. None: all in one.
    whole
        Whether the mesh must be one piece through which something flows, as a domain. If not, as
        for a density, the orientation of the cells means nothing, and there may be several parts,
        points written twice, and points inside the facets of other cells.

    Returns
    -------
    points : numpy.ndarray
        Coordinates (V', d) of the points that the cells use, in the given order.
    cells : numpy.ndarray
        Vertices (C, d+1) of the cells, numbered accordingly.

    Raises
    ------
    InputError
        With key ``domain.file``: wrong cell types, no cells, missing points, non-finite
        coordinates, a surface in space, degenerate, duplicate, inverted or overlapping cells,
        duplicate or hanging points, non-manifold facets, several parts.
    """
    simplices = _simplices(cells, file)
    all_points = np.asarray(points, dtype=np.float64)
    _check_references(all_points, simplices, file)
    used = np.zeros(len(all_points), dtype=bool)
    used[simplices] = True
    _check_finite(all_points, used, file)
    all_points = _in_own_dimension(all_points, used, simplices.shape[1] - 1, file)
    groups = np.zeros(len(simplices), dtype=np.int64)
    if regions is not None:
        groups = np.unique(np.asarray(regions), return_inverse=True)[1].reshape(-1)
    volume = _signed_volumes(all_points, simplices)
    _check_degenerate(all_points, simplices, volume, file)
    _check_duplicate_cells(all_points, simplices, file)
    if whole:
        _check_inverted(all_points, simplices, volume, groups, file)
        _check_duplicate_points(all_points, np.flatnonzero(used), file)
    topology = _topology(simplices, len(all_points))
    _check_manifold(all_points, simplices, topology, file)
    _check_overlap(all_points, simplices, volume, topology, file)
    if whole:
        _check_hanging(all_points, simplices, topology, file)
        _check_parts(all_points, simplices, topology, file)
    renumbered = np.cumsum(used) - 1
    return np.ascontiguousarray(all_points[used]), renumbered[simplices]


def highest_dimension(blocks: Iterable[meshio.CellBlock]) -> int:
    """Return the highest topological dimension of blocks that hold cells, -1 if none does."""
    return max((block.dim for block in blocks if len(block.data)), default=-1)


def _defect(text: str, file: str | None) -> InputError:
    return InputError(f"mesh file {file}: {text}" if file else f"mesh: {text}", key="domain.file")


def _count(number: int, singular: str, plural: str | None = None) -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def _at(place: FloatArray) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in place) + ")"


def _cell_at(points: FloatArray, simplices: IntArray, cell: int) -> str:
    return f"cell {cell} at {_at(points[simplices[cell]].mean(axis=0))}"


def _simplices(
    cells: IntArray | Mapping[str, npt.ArrayLike] | Iterable[meshio.CellBlock],
    file: str | None,
) -> IntArray:
    """Return the cells of the highest dimension, if they are straight-sided simplices."""
    if isinstance(cells, np.ndarray):
        names = {count + 1: name for name, count in _SIMPLICES.items()}
        if cells.ndim != 2 or cells.shape[1] not in names:
            raise _defect(f"cells have shape {cells.shape}; allowed are (C, 3) and (C, 4)", file)
        blocks = [meshio.CellBlock(names[cells.shape[1]], cells)]
    elif isinstance(cells, Mapping):
        blocks = [meshio.CellBlock(name, np.asarray(block)) for name, block in cells.items()]
    else:
        blocks = list(cells)
    dimension = highest_dimension(blocks)
    if dimension < 0:
        raise _defect(f"no cells; {_ALLOWED}", file)
    blocks = [block for block in blocks if block.dim == dimension and len(block.data)]
    counts: dict[str, int] = {}
    for block in blocks:
        counts[block.type] = counts.get(block.type, 0) + len(block.data)
    found = ", ".join(f"{number} '{name}'" for name, number in counts.items())
    if dimension < 2:
        raise _defect(f"wrong cell types: no cell of dimension 2 or 3, only {found}", file)
    if set(counts) <= set(_SIMPLICES):
        return np.concatenate([np.asarray(block.data, dtype=np.int64) for block in blocks])
    simplex = {2: "triangle", 3: "tetra"}[dimension]
    if all(name.startswith(simplex) for name in counts):
        reason = "cells of higher order; save the mesh with straight cells (gmsh: -order 1)"
    elif len(counts) > 1:
        reason = "mixed cell types; save the mesh with simplices only"
    else:
        reason = "not simplices; cut each cell into simplices (gmsh: do not recombine)"
    raise _defect(f"wrong cell types: {found}: {reason}. {_ALLOWED.capitalize()}", file)


def _check_references(points: FloatArray, simplices: IntArray, file: str | None) -> None:
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise _defect(f"points have shape {points.shape}; allowed are (V, 2) and (V, 3)", file)
    outside = (simplices < 0) | (simplices >= len(points))
    if outside.any():
        cells = np.flatnonzero(outside.any(axis=1))
        missing = simplices[cells[0]][outside[cells[0]]][0]
        text = _count(len(cells), "cell uses", "cells use")
        first = f"first cell {cells[0]}, point {missing} of {len(points)}"
        raise _defect(f"missing points: {text} points that do not exist; {first}", file)


def _check_finite(points: FloatArray, used: npt.NDArray[np.bool_], file: str | None) -> None:
    bad = np.flatnonzero(used & ~np.isfinite(points).all(axis=1))
    if len(bad):
        text = _count(len(bad), "point has", "points have")
        first = f"first point {bad[0]} at {_at(points[bad[0]])}"
        raise _defect(f"non-finite coordinates: {text} NaN or infinite coordinates; {first}", file)


def _in_own_dimension(
    points: FloatArray, used: npt.NDArray[np.bool_], dimension: int, file: str | None
) -> FloatArray:
    """Drop the third coordinate of a planar mesh; refuse a surface in space."""
    if points.shape[1] < dimension:
        raise _defect("wrong coordinates: tetrahedra need points with 3 coordinates, found 2", file)
    if points.shape[1] == dimension:
        return points
    heights = points[used, 2]
    extent = np.ptp(points[used, :2], axis=0).max()
    if np.ptp(heights) > 1e-9 * extent:
        low, high = heights.min(), heights.max()
        text = f"triangles with z from {low:.6g} to {high:.6g}"
        allowed = "allowed are triangles in a plane z = constant, or tetrahedra"
        raise _defect(f"wrong cell types: a surface in space, {text}; {allowed}", file)
    return points[:, :dimension]


def _signed_volumes(points: FloatArray, simplices: IntArray) -> FloatArray:
    corners = points[simplices]
    edges = corners[:, 1:] - corners[:, :1]
    return np.linalg.det(edges) / math.factorial(points.shape[1])


def _check_degenerate(
    points: FloatArray, simplices: IntArray, volume: FloatArray, file: str | None
) -> None:
    corners = points[simplices]
    first, second = np.triu_indices(simplices.shape[1], 1)
    squared = np.zeros(len(simplices))
    for one, other in zip(first, second, strict=True):
        squared = np.maximum(squared, ((corners[:, one] - corners[:, other]) ** 2).sum(axis=1))
    dimension = points.shape[1]
    bad = np.flatnonzero(np.abs(volume) <= DEGENERATE * squared ** (dimension / 2))
    if len(bad):
        what = _count(len(bad), "degenerate cell") + " without "
        what += "area" if dimension == 2 else "volume"
        raise _defect(f"{what}; first {_cell_at(points, simplices, bad[0])}", file)


def _check_inverted(
    points: FloatArray,
    simplices: IntArray,
    volume: FloatArray,
    groups: IntArray,
    file: str | None,
) -> None:
    """Refuse the few cells of a region that are oriented against the many."""
    positive = volume > 0
    number = np.bincount(groups)
    upright = np.bincount(groups, weights=positive).astype(np.int64)
    few = np.minimum(upright, number - upright) <= np.maximum(
        INVERTED_SHARE * number, INVERTED_NUMBER
    )
    majority = 2 * upright >= number
    bad = np.flatnonzero((positive != majority[groups]) & few[groups])
    if len(bad):
        what = _count(len(bad), "inverted cell")
        rest = f"oriented against the other {len(simplices) - len(bad)}"
        remedy = "a point has crossed its neighbours, or the vertices are in the wrong order"
        first = _cell_at(points, simplices, bad[0])
        raise _defect(f"{what}, {rest}: {remedy}; first {first}", file)


def _row_keys(rows: IntArray, bound: int) -> IntArray:
    """Return one integer per row of (n, k), equal exactly where the rows are equal."""
    keys, largest = rows[:, 0], bound
    for column in rows.T[1:]:
        if largest > np.iinfo(np.int64).max // bound:
            values, keys = np.unique(keys, return_inverse=True)
            keys, largest = keys.reshape(-1), len(values)
        keys, largest = keys * bound + column, largest * bound
    return keys


def _check_duplicate_cells(points: FloatArray, simplices: IntArray, file: str | None) -> None:
    keys = _row_keys(np.sort(simplices, axis=1), len(points))
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    if same.any():
        repeated = order[1:][same]
        cell = repeated.min()
        twin = order[:-1][same][repeated.argmin()]
        what = _count(len(repeated), "duplicate cell")
        raise _defect(
            f"{what}; first {_cell_at(points, simplices, cell)} repeats cell {twin}", file
        )


def _check_duplicate_points(points: FloatArray, used: IntArray, file: str | None) -> None:
    places = points[used]
    radius = COINCIDENT * float(np.linalg.norm(np.ptp(places, axis=0)))
    distance, neighbour = cKDTree(places).query(places, k=2, distance_upper_bound=radius)
    # A point is its own nearest neighbour or, where points coincide, may come second.
    bad = np.flatnonzero(np.isfinite(distance[:, 1]))
    if len(bad):
        own = neighbour[bad[0]]
        twin = used[own[own != bad[0]][0]]
        what = _count(len(bad), "duplicate point")
        first = f"first point {used[bad[0]]} at {_at(places[bad[0]])}, where point {twin} lies too"
        raise _defect(f"{what}: parts were probably not merged; {first}", file)


def _facet_vertices(simplices: IntArray) -> IntArray:
    """Return the vertices (C, d+1, d) of the facets, facet k opposite vertex k."""
    corners = simplices.shape[1]
    keep = [[j for j in range(corners) if j != k] for k in range(corners)]
    return simplices[:, np.array(keep)]


def _topology(simplices: IntArray, number_of_points: int) -> _Topology:
    corners = simplices.shape[1]
    facets = np.sort(_facet_vertices(simplices).reshape(-1, corners - 1), axis=1)
    keys = _row_keys(facets, number_of_points)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    fresh = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    facet = np.empty(len(keys), dtype=np.int64)
    facet[order] = np.cumsum(fresh) - 1
    start = np.flatnonzero(fresh)
    count = np.diff(np.append(start, len(keys)))
    return _Topology(facet.reshape(-1, corners), order, start, count)


def _check_manifold(
    points: FloatArray, simplices: IntArray, topology: _Topology, file: str | None
) -> None:
    crowded = np.flatnonzero(topology.count > 2)
    if len(crowded):
        name = "edge" if simplices.shape[1] == 3 else "face"
        begin = topology.start[crowded[0]]
        members = topology.cells()[begin : begin + topology.count[crowded[0]]]
        cell, local = np.divmod(topology.order[begin], simplices.shape[1])
        place = points[np.delete(simplices[cell], local)].mean(axis=0)
        what = _count(len(crowded), f"non-manifold {name}")
        listed = ", ".join(str(member) for member in members[:6])
        first = f"first at {_at(place)}, shared by {len(members)} cells ({listed})"
        raise _defect(f"{what}, shared by more than two cells; {first}", file)


def _check_overlap(
    points: FloatArray,
    simplices: IntArray,
    volume: FloatArray,
    topology: _Topology,
    file: str | None,
) -> None:
    """Refuse two cells on the same side of the facet that they share."""
    facets = _facet_vertices(simplices)
    corners = simplices.shape[1]
    # Side of the facet, its vertices taken in ascending order, on which the cell lies: orientation
    # of the cell, times the sign of moving vertex k to the front, times the parity of the sorting.
    side = np.sign(volume)[:, None] * (-1.0) ** np.arange(corners)
    for first in range(corners - 1):
        for second in range(first + 1, corners - 1):
            side *= np.sign(facets[:, :, second] - facets[:, :, first])
    one, other = topology.shared()
    flat = side.reshape(-1)
    bad = np.flatnonzero(flat[one] == flat[other])
    if len(bad):
        pairs = np.sort(np.column_stack([one[bad], other[bad]]) // corners, axis=1)
        first_pair = pairs[np.lexsort(pairs.T[::-1])[0]]
        what = _count(len(bad), "pair") + " of overlapping cells on one side of a common facet"
        remedy = "one of them is inverted: a point has crossed its neighbours"
        place = _cell_at(points, simplices, first_pair[0])
        raise _defect(f"{what}: {remedy}; first {place} and cell {first_pair[1]}", file)


def _check_hanging(
    points: FloatArray, simplices: IntArray, topology: _Topology, file: str | None
) -> None:
    """Refuse boundary points inside another cell's boundary facet: a slit that was not meant."""
    cell, local = topology.boundary()
    facets = _facet_vertices(simplices)[cell, local]
    corners = points[facets]
    middle = corners.mean(axis=1)
    radius = np.linalg.norm(corners - middle[:, None], axis=2).max(axis=1)
    vertices = np.unique(facets)
    near = cKDTree(points[vertices]).query_ball_point(middle, radius)
    facet = np.repeat(np.arange(len(facets)), [len(found) for found in near])
    point = vertices[np.concatenate([np.asarray(found, dtype=np.int64) for found in near])]
    foreign = (facets[facet] != point[:, None]).all(axis=1)
    facet, point = facet[foreign], point[foreign]
    # Barycentric coordinates of the foot point in the facet, and the distance from it.
    edges = corners[facet, 1:] - corners[facet, :1]
    offset = points[point] - corners[facet, 0]
    gram = edges @ np.swapaxes(edges, 1, 2)
    weight = np.linalg.solve(gram, (edges @ offset[:, :, None]))[:, :, 0]
    distance = np.linalg.norm(offset - (weight[:, None] @ edges)[:, 0], axis=1)
    inside = np.minimum(weight.min(axis=1), 1 - weight.sum(axis=1)) > -1e-9
    bad = np.unique(point[inside & (distance < 1e-9 * radius[facet])])
    if len(bad):
        what = _count(len(bad), "hanging point")
        first = f"first point {bad[0]} at {_at(points[bad[0]])}"
        text = "inside the facet of a cell that does not have it as a vertex"
        raise _defect(f"{what} {text}; {first}", file)


def _check_parts(
    points: FloatArray, simplices: IntArray, topology: _Topology, file: str | None
) -> None:
    corners = simplices.shape[1]
    one, other = (position // corners for position in topology.shared())
    number = len(simplices)
    graph = coo_matrix((np.ones(len(one), dtype=np.int8), (one, other)), shape=(number, number))
    parts, label = connected_components(graph, directed=False)
    if parts > 1:
        sizes = np.bincount(label)
        listed = ", ".join(str(size) for size in sizes[:10]) + (", …" if parts > 10 else "")
        name = "edge" if corners == 3 else "face"
        second = int(np.flatnonzero(label != label[0])[0])
        first = f"the second begins with {_cell_at(points, simplices, second)}"
        raise _defect(f"{parts} parts that share no {name}, with {listed} cells; {first}", file)
