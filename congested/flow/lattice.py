"""Points at equal distances on the edges and in the facets of the cells of a mesh."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np

from congested.geometry import EDGES, BoolArray, FloatArray, IntArray

#: Facets of a cell that are no edges.
FACETS: dict[int, tuple[tuple[int, ...], ...]] = {
    2: (),
    3: ((1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)),
}


@cache
def arcs_of_cell(dimension: int, per_edge: int) -> IntArray:
    """Return the arcs of a cell (a, 2): pairs of its nodes, in the order of `nodes_of_cells`."""
    corners = dimension + 1
    on_edges = len(EDGES[dimension]) * per_edge
    in_facets = len(FACETS[dimension]) * len(_facet_lattice(per_edge))
    along, steps = set(), set()
    for number, (first, second) in enumerate(EDGES[dimension]):
        begin = corners + number * per_edge
        nodes = [first, *range(begin, begin + per_edge), second]
        along |= {tuple(sorted(pair)) for pair in itertools.combinations(nodes, 2)}
        steps |= {tuple(sorted(pair)) for pair in itertools.pairwise(nodes)}
    pairs = itertools.combinations(range(corners + on_edges + in_facets), 2)
    return np.array([pair for pair in pairs if pair not in along or pair in steps])


def _facet_lattice(per_edge: int) -> list[tuple[int, int, int]]:
    """Return barycentric coordinates times k + 1 of the points inside a triangle."""
    total = per_edge + 1
    return [(a, b, total - a - b) for a in range(1, total) for b in range(1, total - a)]


def nodes_of_cells(
    vertices: FloatArray, cells: IntArray, per_edge: int
) -> tuple[IntArray, FloatArray]:
    """Return the nodes (C, l) of each cell, and the coordinates of those that are no vertices.

    A cell's nodes are its corners, then the points of each edge, then those of each facet.
    """
    dimension = vertices.shape[1]
    nodes, points = [cells], [np.zeros((0, dimension))]
    number = len(vertices)
    edges = [(a, per_edge + 1 - a) for a in range(per_edge, 0, -1)]
    for parts, lattice in ((EDGES, edges), (FACETS, _facet_lattice(per_edge))):
        if not lattice or not parts[dimension]:
            continue
        corners = cells[:, np.array(parts[dimension])]
        # A point of an edge or facet is known by its coordinates for the sorted vertices.
        order = np.argsort(corners, axis=2)
        keys = np.take_along_axis(corners, order, axis=2).reshape(-1, corners.shape[2])
        by_key = np.lexsort(keys.T[::-1])
        new = np.ones(len(keys), dtype=bool)
        new[1:] = (keys[by_key[1:]] != keys[by_key[:-1]]).any(axis=1)
        part = np.empty(len(keys), dtype=np.int64)
        part[by_key] = np.cumsum(new) - 1
        weights = np.array(lattice)
        table = np.zeros((per_edge + 2,) * 2, dtype=np.int64)
        table[weights[:, 0], weights[:, 1]] = np.arange(len(weights))
        own = weights[:, order]  # (points, C, parts, corners)
        place = np.moveaxis(table[own[..., 0], own[..., 1]], 0, -1)
        numbers = number + part.reshape(order.shape[:2])[..., None] * len(weights) + place
        nodes.append(numbers.reshape(len(cells), -1))
        unique = vertices[keys[by_key[new]]]
        points.append(np.einsum("pi,nid->npd", weights / (per_edge + 1.0), unique))
        points[-1] = points[-1].reshape(-1, dimension)
        number += len(points[-1])
    return np.concatenate(nodes, axis=1), np.concatenate(points)


@cache
def parts_of_facets(dimension: int, per_edge: int) -> tuple[IntArray, IntArray, BoolArray]:
    """Return the simplices between neighbouring nodes in the facets of a cell, as `relax` wants."""
    total = per_edge + 1
    corners = dimension + 1
    # Nodes of a cell by their barycentric coordinates times k + 1.
    places: dict[tuple[int, ...], int] = {}
    edges = [(a, total - a) for a in range(per_edge, 0, -1)]
    vertices = tuple((corner,) for corner in range(corners))
    groups: tuple[tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]], ...] = (
        (vertices, [(total,)]),
        (EDGES[dimension], edges),
        (FACETS[dimension], _facet_lattice(per_edge)),
    )
    for which, lattice in groups:
        for part, weights in itertools.product(which, lattice):
            key = [0] * corners
            for corner, weight in zip(part, weights, strict=True):
                key[corner] = weight
            places[tuple(key)] = len(places)
    parts, facet = [], []
    for opposite in range(corners):
        inside = [key for key in places if key[opposite] == 0]
        # Neighbours differ by one step along an edge; d of them that are so in pairs are a simplex.
        for some in itertools.combinations(inside, dimension):
            pairs = itertools.combinations(some, 2)
            if all(sum(abs(a - b) for a, b in zip(*pair, strict=True)) == 2 for pair in pairs):
                parts.append([places[key] for key in some])
                facet.append(opposite)
    within = np.array([[entry == 0 for entry in key] for key in places])
    return np.array(parts), np.array(facet), within
