"""Find the cells that hold points, and share out segments over the cells that they cross.

A uniform grid of bins covers the cells of one rank; each bin lists the cells that meet it. The
first cell of a segment is found through the bins (Amanatides & Woo 1987); from there the segment
is followed from neighbour to neighbour through the facets. Where it leaves the rank's cells, the
bins are searched for the place where it comes back: partitions of any shape and non-convex domains
need no communication.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from congested import cell_kernels as kernels
from congested.cell_kernels import Int32Array
from congested.errors import InputError
from congested.geometry import Cells, FloatArray, IntArray

# Bins per cell: more of them make locating points faster, fewer need less memory. Even where the
# cells fill only a corner of their bounding box there are no more than _MOST_BINS times as many.
_BINS_PER_CELL = {2: 2.0, 3: 1.0}
_MOST_BINS = 8.0

# Segments are pulled towards the domain's centroid by this part of their distance from it, so
# that a segment on the boundary of a convex domain runs inside, ...
_PULL = 1e-10
# ... and shifted by this part of the domain's size, in a direction that no mesh prefers, so that
# no segment runs along an edge or a facet and no point lies on one. The shift is smaller than the
# pull of a boundary point as long as the centroid is not far out of the middle.
_SHIFT = 1e-11 * np.array([math.sqrt(2) / 2, -(math.sqrt(5) - 1) / 2, math.sqrt(3) / 3])
# Bins list the cells that come within this part of the domain's size.
_MARGIN = 1e-9


class CellBins:
    """Search structure over the cells that this rank owns.

    The bins are about as large as the cells on average, so the memory is proportional to the
    number of cells whatever the mesh. On strongly graded meshes a bin may list hundreds of small
    cells; finding a point, or the beginning of a segment, there costs time in proportion,
    following the segment does not.

    Parameters
    ----------
    cells
        The owned cells. Building the bins is collective (the domain's centroid is needed).
    """

    def __init__(self, cells: Cells) -> None:
        dimension = cells.dimension
        self.dimension = dimension
        self.number = cells.number
        moments = np.append(cells.volume @ cells.midpoint, cells.volume.sum())
        moments = cells.comm.allreduce(moments, op=MPI.SUM)
        centroid = moments[:-1] / moments[-1]
        size = float(np.max(cells.upper - cells.lower))
        # All arithmetic is relative to the centroid: a mesh far from the origin loses no digits.
        self._centroid = centroid
        self._shift = size * _SHIFT
        vertices = cells.simplices - centroid
        self._planes, self._inverse_heights = _facet_planes(vertices)
        self._neighbours = _neighbours(vertices, self._planes)
        self._lower, self._bin_size, self._shape = _bin_grid(vertices, cells.volume, size)
        self._boxes = np.zeros((self.number, 2, 3))
        self._boxes[:, 0, :dimension] = vertices.min(axis=1)
        self._boxes[:, 1, :dimension] = vertices.max(axis=1)
        grid = (self._lower, self._bin_size, self._shape)
        self._margin = _MARGIN * size
        self._first, self._members = _list_cells(self._boxes, self._planes, self._margin, *grid)

    @property
    def cells_per_bin(self) -> tuple[float, int]:
        """Mean and maximum number of cells that a bin lists."""
        counts = np.diff(self._first)
        return float(counts.mean()), int(counts.max())

    @property
    def outer_facets(self) -> npt.NDArray[np.bool_]:
        """Whether no owned cell lies behind the facet opposite a vertex (n, d+1)."""
        return self._neighbours < 0

    def near(self, lower: FloatArray, upper: FloatArray) -> tuple[IntArray, IntArray]:
        """Find the owned cells that may meet given boxes (not collective).

        Parameters
        ----------
        lower, upper
            Corners (m, d) of the boxes.

        Returns
        -------
        tuple
            Pairs of a box (p,) and a cell (p,), in the order of the boxes, each pair once: all
            that meet, and no cell whose bounding box is further than 1e-9 of the domain's size
            away.
        """
        lower, upper = self._check(lower, "lower"), self._check(upper, "upper")
        boxes = np.stack([self._relative(lower), self._relative(upper)], axis=1)
        grid = (self._lower, self._bin_size, self._shape, self._first, self._members)
        first = np.zeros(len(boxes) + 1, dtype=np.int64)
        nothing = np.empty(0, dtype=np.int64)
        kernels.near_cells(boxes, self._boxes, self._margin, *grid, first, nothing, False)
        np.cumsum(first, out=first)
        found = np.empty(int(first[-1]), dtype=np.int64)
        kernels.near_cells(boxes, self._boxes, self._margin, *grid, first, found, True)
        return np.repeat(np.arange(len(boxes)), np.diff(first)), found

    def locate(self, points: FloatArray, tolerance: float = 1e-10) -> tuple[IntArray, FloatArray]:
        """Find the owned cell in which each point lies deepest (local, not collective).

        Parameters
        ----------
        points
            Coordinates (m, d).
        tolerance
            A point counts as inside a cell down to the barycentric coordinate -tolerance (at
            most about 1e-9 times the ratio of the domain's to the cell's size is looked for).

        Returns
        -------
        tuple
            Local cell index (m,), -1 where no owned cell holds the point, and the smallest
            barycentric coordinate (m,) of the point in the best cell looked at (-inf if none).
            On a facet that several cells share the largest such coordinate wins, then the lowest
            index; across ranks the caller compares the second array.
        """
        points = self._check(points, "points")
        grid = (self._lower, self._bin_size, self._shape, self._first, self._members)
        return kernels.locate(
            self._relative(points), self._planes, self._inverse_heights, *grid, float(tolerance)
        )

    def deposit_segments(
        self,
        starts: FloatArray,
        ends: FloatArray,
        weights: FloatArray,
        masses: FloatArray | None = None,
    ) -> FloatArray:
        r"""Share the weight of each segment over the owned cells, by length (not collective).

        Cell T receives Σ_k weight_k · \|[x_k, y_k] ∩ T\| / \|y_k − x_k\|; a segment of length zero
        gives its whole weight to the cell that holds the point. Positions are made generic by a
        fixed shift of 1e-11 of the domain's size, after a pull towards the domain's centroid by
        1e-10 of the distance to it, the same on all ranks. Facets are treated alike from both
        sides, so the cells' parts of a segment inside a convex domain add up to its weight to
        rounding, over all ranks together; what runs outside the domain is lost.

        Parameters
        ----------
        starts, ends
            Coordinates (m, d) of the x_k and y_k.
        weights
            Weights (m,).
        masses
            Array (n,) to which the shares are added; a new one of zeros if None.

        Returns
        -------
        numpy.ndarray
            The array `masses` (n,).
        """
        starts, ends = self._check(starts, "starts"), self._check(ends, "ends")
        weights = np.ascontiguousarray(weights, dtype=np.float64)
        if masses is None:
            masses = np.zeros(self.number)
        if starts.shape != ends.shape or weights.shape != starts.shape[:1]:
            raise InputError(
                f"found shapes {starts.shape}, {ends.shape}, {weights.shape} of starts, ends and "
                "weights; they must agree"
            )
        if self.number:
            first = self._relative(starts) * (1.0 - _PULL) + self._shift
            last = self._relative(ends) * (1.0 - _PULL) + self._shift
            # Segments that follow each other should run through the same cells: the machine's
            # caches then make this two to four times as fast.
            keys = kernels.sort_keys(first, last, self._lower, self._bin_size * self._shape)
            order = np.argsort(keys, kind="stable")
            kernels.deposit(
                first[order],
                last[order],
                weights[order],
                self._planes,
                self._neighbours,
                self._lower,
                self._bin_size,
                self._shape,
                self._first,
                self._members,
                masses,
            )
        return masses

    def _check(self, points: FloatArray, name: str) -> FloatArray:
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != self.dimension:
            raise InputError(
                f"found shape {points.shape}; it must be (m, {self.dimension})", key=name
            )
        if not np.isfinite(points).all():
            raise InputError("found a coordinate that is not finite", key=name)
        return points

    def _relative(self, points: FloatArray) -> FloatArray:
        """Coordinates (m, 3) relative to the centroid, the third one zero in 2D."""
        relative = np.zeros((len(points), 3))
        relative[:, : self.dimension] = points - self._centroid
        return relative


def _facet_planes(vertices: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the facets' planes (n, d+1, 4) and the inverse heights (n, d+1) of the cells.

    Row i is the unit normal (zero-padded in 2D) and the offset of the facet opposite vertex i:
    normal·x + offset is the distance from it, positive inside. A facet's plane is computed from
    its vertices in lexicographic order with elementwise arithmetic alone: the two cells that
    share it, be they on two ranks, get the same numbers up to the sign. Hence they also compute
    the same crossing point of a segment, and leave neither a gap nor an overlap.
    """
    number, corners, dimension = vertices.shape
    planes = np.zeros((number, corners, 4))
    inverse_heights = np.empty((number, corners))
    for i in range(corners):
        facet = np.delete(vertices, i, axis=1)
        order = np.lexsort(tuple(facet[:, :, k] for k in reversed(range(dimension))), axis=1)
        facet = np.take_along_axis(facet, order[:, :, None], axis=1)
        base, edge = facet[:, 0], facet[:, 1] - facet[:, 0]
        if dimension == 2:
            normal = np.stack([edge[:, 1], -edge[:, 0]], axis=1)
        else:
            (a, b, c), (p, q, r) = edge.T, (facet[:, 2] - base).T
            normal = np.stack([b * r - c * q, c * p - a * r, a * q - b * p], axis=1)
        unit = normal / np.sqrt(_dot(normal, normal))[:, None]
        offset = -_dot(unit, base)
        height = _dot(unit, vertices[:, i]) + offset
        sign = np.where(height < 0, -1.0, 1.0)
        planes[:, i, :dimension] = sign[:, None] * unit
        planes[:, i, 3] = sign * offset
        inverse_heights[:, i] = 1.0 / np.abs(height)
    return planes, inverse_heights


def _neighbours(vertices: FloatArray, planes: FloatArray) -> Int32Array:
    """Return the cell behind the facet opposite each vertex (n, d+1), -1 if there is none.

    Facets are matched by a hash of their vertices' coordinates. A pair counts only if the two
    planes agree, so that a collision of hashes cannot join the wrong cells.
    """
    number, corners, dimension = vertices.shape
    hashes: npt.NDArray[np.uint64]
    hashes = np.full((number, corners), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for k in range(dimension):
        # Adding zero turns -0.0 into 0.0. The multipliers are those of splitmix64.
        hashes ^= (vertices[:, :, k] + 0.0).view(np.uint64)
        hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        hashes ^= hashes >> np.uint64(31)
    keys = (hashes.sum(axis=1, dtype=np.uint64)[:, None] - hashes).ravel()
    order = np.argsort(keys, kind="stable")
    pairs = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    one, other = order[pairs], order[pairs + 1]
    flat = planes.reshape(-1, 4)
    opposite = (flat[one] == -flat[other]).all(axis=1)
    one, other = one[opposite], other[opposite]
    neighbours = np.full(number * corners, -1, dtype=np.int32)
    neighbours[one], neighbours[other] = other // corners, one // corners
    return neighbours.reshape(number, corners)


def _dot(first: FloatArray, second: FloatArray) -> FloatArray:
    """Row-wise scalar products, always summed in the same order."""
    total = first[:, 0] * second[:, 0]
    for k in range(1, first.shape[1]):
        total = total + first[:, k] * second[:, k]
    return total


def _bin_grid(
    vertices: FloatArray, volume: FloatArray, size: float
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return lower corner (3,), bin size (3,) and number of bins (3,) of the grid of bins."""
    number, _, dimension = vertices.shape
    lower, bin_size, shape = np.full(3, -1.0), np.full(3, 2.0), np.ones(3, dtype=np.int64)
    if number:
        margin = 2 * _MARGIN * size
        corner = vertices.min(axis=(0, 1)) - margin
        extent = vertices.max(axis=(0, 1)) + margin - corner
        filled = min(1.0, max(float(volume.sum() / np.prod(extent)), 1.0 / _MOST_BINS))
        bins = _BINS_PER_CELL[dimension] * number / filled
        edge = float(np.prod(extent) / bins) ** (1.0 / dimension)
        counts = np.maximum(1, np.rint(extent / edge)).astype(np.int64)
        lower[:dimension], shape[:dimension] = corner, counts
        bin_size[:dimension] = extent / counts
    return lower, bin_size, shape


def _list_cells(
    boxes: FloatArray,
    planes: FloatArray,
    margin: float,
    lower: FloatArray,
    bin_size: FloatArray,
    shape: IntArray,
) -> tuple[IntArray, Int32Array]:
    """Return for each bin the cells that meet it, as start indices and one list."""
    first = np.zeros(int(np.prod(shape)) + 1, dtype=np.int64)
    nothing = np.empty(0, dtype=np.int32)
    kernels.fill_bins(boxes, planes, margin, lower, bin_size, shape, first, nothing, False)
    np.cumsum(first, out=first)
    members = np.empty(int(first[-1]), dtype=np.int32)
    kernels.fill_bins(
        boxes, planes, margin, lower, bin_size, shape, first[:-1].copy(), members, True
    )
    return first, members
