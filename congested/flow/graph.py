"""Shortest paths through the cells of a mesh: a graph of segments, and paths between its nodes.

Nodes are the vertices, k points at equal distances on every edge, in space those of the same
lattice in every facet, and given points inside cells. Arcs join all nodes of one cell, along an
edge only neighbours. An arc costs its length times the metric of its cell; one in a facet, or on
an edge, belongs to several cells and takes the smallest. Every path of the graph is a path of the
domain, so that `graph_distances` are upper bounds of the true ones: too large by what the few
directions of the arcs cost, on the finest meshes, too.

`distances` let paths cross facets between the nodes, where the distance is taken to be affine
(`congested.flow.eikonal`). In a constant metric distances are convex where the source is in sight,
and affine values between nodes above them: still upper bounds. In others they are to the second
order of the spacing, and too small only next to points with two shortest ways. Measured in a
constant metric (`scripts/study_distances.py`), mean (largest, next to a source) overestimate in
percent, from 8 vertices to all others that they see:

================================  ============  ============  ============  ============
points on an edge k               0             1             3             7
================================  ============  ============  ============  ============
crossed box, 65k cells, graph     5.4 (41)      2.6 (5.2)     0.95 (1.4)    0.27 (0.42)
the same, distances               0.46 (21)     0.18 (2.6)    0.06 (0.72)   0.02 (0.17)
disc with hole, 511 cells, graph  6.0 (20)      1.4 (4.5)     0.52 (1.4)    0.16 (0.59)
the same, distances               2.4 (11)      0.57 (2.2)    0.19 (0.65)   0.05 (0.18)
cube, 10k cells, graph            25 (47)       5.5 (13)      2.0 (4.6)
the same, distances               5.4 (21)      1.4 (5.2)     0.56 (1.8)
ball, 503 cells, graph            10 (44)       3.6 (10)      1.7 (5.3)     0.61 (2.0)
the same, distances               6.5 (24)      2.2 (6.6)     0.79 (2.2)    0.24 (0.77)
================================  ============  ============  ============  ============

These fall about like (k + 1)^-1.6, and with the mesh; two values of k tell what is left
(`overestimate`: right within a factor of two there). 16 sources in 65k triangles, k = 3: 8 s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import dijkstra

from congested.errors import InputError
from congested.flow.eikonal import passes
from congested.flow.lattice import arcs_of_cell, nodes_of_cells, parts_of_facets
from congested.geometry import BoolArray, FloatArray, IntArray

# Points on an edge that are tried, and arcs that a graph may have by default: some 15 s for 16
# sources on one core.
_PER_EDGE = {2: (7, 3, 1), 3: (3, 2, 1)}
_ARCS = {2: 4_000_000, 3: 1_000_000}
# Overestimates fall about like this power of 1/(k + 1).
_ORDER = 1.6
# Passes end when no distance falls by more than this share of the largest, or after so many.
_SHARP, _PASSES = 1e-5, 8


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes and arcs; arcs in facets stand there once for each of their cells.

    Attributes
    ----------
    points
        Coordinates (N, d) of the nodes: first the mesh's vertices, then points on its edges.
    inner
        Numbers (p,) of the nodes that are the given points inside cells.
    first, second
        Nodes (A,) that each arc joins.
    cell
        The cell (A,) that it lies in.
    nodes
        The nodes (C, l) of each cell.
    owner
        The cells (p,) of the given points.
    is_open
        Which cells (C,) may be passed.
    per_edge
        Points on each edge k.
    """

    points: FloatArray
    inner: IntArray
    first: IntArray
    second: IntArray
    cell: IntArray
    nodes: IntArray
    owner: IntArray
    is_open: BoolArray
    per_edge: int

    @property
    def number(self) -> int:
        """Number N of nodes."""
        return len(self.points)

    def weighted(self, metric: FloatArray) -> csr_array:
        """Return the matrix (N, N) of what arcs cost in a metric (C,)."""
        length = np.linalg.norm(self.points[self.second] - self.points[self.first], axis=1)
        cost = length * metric[self.cell]
        low, high = np.minimum(self.first, self.second), np.maximum(self.first, self.second)
        keys = low * self.number + high
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
        # Of equal arcs the cheapest. None would be left of no arcs at all.
        smallest = np.minimum.reduceat(cost[order], begins) if len(begins) else cost
        low, high = np.divmod(keys[begins], self.number)
        rows, columns = np.concatenate([low, high]), np.concatenate([high, low])
        shape = (self.number, self.number)
        return coo_array((np.tile(smallest, 2), (rows, columns)), shape=shape).tocsr()


def mesh_graph(
    vertices: FloatArray,
    cells: IntArray,
    per_edge: int,
    *,
    points: FloatArray | None = None,
    cells_of_points: IntArray | None = None,
    is_open: BoolArray | None = None,
) -> Graph:
    """Make the graph of a mesh.

    Parameters
    ----------
    vertices, cells
        Coordinates (V, d) and vertex numbers (C, d+1).
    per_edge
        Points on each edge, see `affordable_per_edge`.
    points, cells_of_points
        Points (p, d) inside cells that become nodes, and their cells (p,).
    is_open
        Which cells (C,) may be passed; default: all.

    Raises
    ------
    InputError
        If the number of points on an edge is negative.
    """
    dimension = vertices.shape[1]
    if per_edge < 0:
        raise InputError(f"found {per_edge}; allowed: a number from 0 on", key="per_edge")
    inner = np.zeros((0, dimension)) if points is None else points
    owner = np.zeros(0, dtype=np.int64) if cells_of_points is None else cells_of_points
    nodes, others = nodes_of_cells(vertices, cells, per_edge)
    begin = len(vertices) + len(others)
    numbers = np.arange(begin, begin + len(inner))

    if is_open is None:
        is_open = np.ones(len(cells), dtype=bool)
    kept, used = np.flatnonzero(is_open), np.flatnonzero(is_open[owner])
    pairs = arcs_of_cell(dimension, per_edge)
    first, second = (nodes[kept][:, pairs[:, side]].ravel() for side in (0, 1))
    groups: list[tuple[IntArray, ...]] = [(first, second, np.repeat(kept, len(pairs)))]
    own = nodes[owner[used]]
    groups.append(
        (np.repeat(numbers[used], own.shape[1]), own.ravel(), np.repeat(owner[used], own.shape[1]))
    )
    # Points of one cell see each other.
    order = used[np.argsort(owner[used], kind="stable")]
    for offset in range(1, len(order)):
        same = np.flatnonzero(owner[order[:-offset]] == owner[order[offset:]])
        if len(same) == 0:
            break
        one, other = order[same], order[same + offset]
        groups.append((numbers[one], numbers[other], owner[one]))
    first, second, cell = (np.concatenate(parts) for parts in zip(*groups, strict=True))
    coordinates = np.concatenate([vertices, others, inner])
    return Graph(coordinates, numbers, first, second, cell, nodes, owner, is_open, per_edge)


def graph_distances(graph: Graph, metric: FloatArray, sources: IntArray) -> FloatArray:
    """Return the costs (s, N) of the cheapest paths of the graph from nodes (s,) to all nodes.

    Infinite where no path leads.

    Parameters
    ----------
    graph
        The graph.
    metric
        Cost per length in each cell (C,), positive.
    sources
        Numbers of nodes.
    """
    return np.asarray(dijkstra(graph.weighted(metric), indices=np.asarray(sources)))


def distances(graph: Graph, metric: FloatArray, sources: IntArray) -> FloatArray:
    """Return the costs (s, N) of the cheapest paths, which may cross facets between nodes.

    Parameters
    ----------
    graph, metric, sources
        As in `graph_distances`.
    """
    result = graph_distances(graph, metric, sources)
    corners = graph.points.shape[1] + 1
    parts, facet, within = parts_of_facets(corners - 1, graph.per_edge)
    kept = np.flatnonzero(graph.is_open)
    used = graph.is_open[graph.owner]
    width = graph.nodes.shape[1]
    node = np.concatenate([graph.nodes[kept].ravel(), graph.inner[used]])
    owner = np.concatenate([np.repeat(kept, width), graph.owner[used]])
    place = np.concatenate([np.tile(np.arange(width), len(kept)), np.full(used.sum(), -1)])
    order = np.argsort(node, kind="stable")
    offsets = np.searchsorted(node[order], np.arange(graph.number + 1))
    for values in result:
        scale = values[np.isfinite(values)].max(initial=0.0)
        passes(
            values,
            _SHARP * scale,
            _PASSES,
            graph.points,
            graph.nodes,
            parts,
            facet,
            within,
            offsets,
            owner[order],
            place[order],
            metric,
        )
    return result


def overestimate(coarse: FloatArray, fine: FloatArray, per_edge: int) -> FloatArray:
    """Return by how much distances are too large, from those of a coarser graph; no bound.

    Parameters
    ----------
    coarse, fine
        Distances with `coarser`(k) and with k points on each edge.
    per_edge
        k, at least 1.
    """
    ratio = (per_edge + 1.0) / (coarser(per_edge) + 1.0)
    return (coarse - fine) / (ratio**_ORDER - 1.0)


def coarser(per_edge: int) -> int:
    """Return how many points on an edge the graph for `overestimate` has: half the intervals."""
    return (per_edge + 1) // 2 - 1


def affordable_per_edge(cells: int, dimension: int) -> int:
    """Return how many points each edge gets: the most of 7, 3, 2, 1 that time allows, or none."""
    for count in _PER_EDGE[dimension]:
        # Without any, distances are of little use: one is worth five times the time.
        most = _ARCS[dimension] * (5 if count == 1 else 1)
        if cells * len(arcs_of_cell(dimension, count)) <= most:
            return count
    return 0
