"""Shortest paths through the cells of a mesh."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from congested.errors import InputError
from congested.flow import eikonal
from congested.flow import graph as graph_module
from congested.flow.eikonal import _from_segment, _from_triangle, passes, relax
from congested.flow.graph import (
    affordable_per_edge,
    coarser,
    distances,
    graph_distances,
    mesh_graph,
    overestimate,
)
from congested.flow.lattice import arcs_of_cell, nodes_of_cells, parts_of_facets
from tests.flow import meshes

MESHES = {
    "crossed": lambda: meshes.crossed_square(12),
    "shaken": lambda: meshes.crossed_square(12, 0.2),
    "cube": lambda: meshes.cube(4),
}


def node_at(vertices, place):
    return int(np.flatnonzero((np.abs(vertices - place) < 1e-9).all(axis=1))[0])


def from_cells(vertices, cells, chosen, per_edge, is_open=None):
    points = meshes.midpoints(vertices, cells)[chosen]
    return mesh_graph(
        vertices, cells, per_edge, points=points, cells_of_points=np.array(chosen), is_open=is_open
    )


@pytest.mark.parametrize("mesh", list(MESHES))
@pytest.mark.parametrize("per_edge", [0, 1, 2, 3])
def test_distances_are_upper_bounds_that_fall(mesh, per_edge):
    vertices, cells = MESHES[mesh]()
    graph = from_cells(vertices, cells, [0, len(cells) // 2, len(cells) - 1], per_edge)
    metric = np.full(len(cells), 1.5)
    along_arcs = graph_distances(graph, metric, graph.inner)
    sharp = distances(graph, metric, graph.inner)
    way = np.linalg.norm(graph.points[graph.inner][:, None] - graph.points, axis=2)
    assert (sharp >= 1.5 * way - 1e-12).all()
    assert (sharp <= along_arcs + 1e-15).all()
    far = way > 0.3
    mean = [(found[far] / (1.5 * way[far])).mean() - 1.0 for found in (along_arcs, sharp)]
    # Measured: graph 6, 2.5, 1.5, 1 % in the plane and 30, 8, 6, 3.5 % in space.
    most = (0.4, 0.12, 0.09, 0.06) if mesh == "cube" else (0.08, 0.04, 0.025, 0.015)
    assert mean[0] < most[per_edge]
    assert mean[1] < 0.8 * mean[0]


@pytest.mark.parametrize("mesh", list(MESHES))
def test_coarser_graph_tells_the_overestimate(mesh):
    vertices, cells = MESHES[mesh]()
    metric = np.ones(len(cells))
    found = {}
    for per_edge in (coarser(3), 3):
        graph = from_cells(vertices, cells, [3], per_edge)
        found[per_edge] = distances(graph, metric, graph.inner)[0, : len(vertices)]
    way = np.linalg.norm(vertices - graph.points[graph.inner], axis=1)
    far = way > 0.3
    told = overestimate(found[1], found[3], 3)[far].mean()
    true = (found[3] - way)[far].mean()
    assert 0.5 * true < told < 2.0 * true


def test_light_is_refracted():
    """Two materials: the path bends at the interface as Snell's law says."""
    vertices, cells = meshes.crossed_square(16)
    middle = meshes.midpoints(vertices, cells)
    metric = np.where(middle[:, 1] < 0.5, 1.0, 2.0)
    below = np.flatnonzero((np.abs(middle - [0.1, 0.1]) < 0.04).all(axis=1))[:1]
    graph = from_cells(vertices, cells, below, 7)
    start = graph.points[graph.inner[0]]
    found = distances(graph, metric, graph.inner)[0, : len(vertices)]
    for place in ([1.0, 1.0], [0.5, 1.0], [1.0, 0.625], [0.0, 0.875]):
        end = np.array(place)
        node = node_at(vertices, end)

        def cost(x, end=end):
            return np.hypot(x - start[0], 0.5 - start[1]) + 2.0 * np.hypot(end[0] - x, end[1] - 0.5)

        exact = minimize_scalar(cost, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-9})
        assert exact.fun - 1e-9 <= found[node] <= 1.002 * exact.fun


def test_fast_lane_is_taken_along_its_edge():
    """A cell takes part in the arcs on its boundary: the cheaper side counts."""
    vertices, cells = meshes.crossed_square(8)
    metric = np.where(meshes.midpoints(vertices, cells)[:, 1] < 0.5, 1.0, 3.0)
    graph = mesh_graph(vertices, cells, 1)
    ends = [node_at(vertices, [x, 0.5]) for x in (0.0, 1.0)]
    assert distances(graph, metric, np.array(ends[:1]))[0, ends[1]] == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("per_edge", [0, 1, 3])
def test_path_along_an_interface_costs_the_cheaper_material(per_edge):
    """Arcs of the graph alone: a sharper rule finds the cheap side from the cells there."""
    vertices, cells = meshes.crossed_square(8)
    above = meshes.midpoints(vertices, cells)[:, 1] > 0.5
    graph = mesh_graph(vertices, cells, per_edge)
    start, end = (node_at(vertices, [x, 0.5]) for x in (0.0, 1.0))
    for metric in (np.where(above, 3.0, 1.0), np.where(above, 1.0, 3.0)):
        found = graph_distances(graph, metric, np.array([start]))[0]
        along = graph.points[:, 1] == 0.5
        np.testing.assert_allclose(found[along], graph.points[along, 0], atol=1e-14)
        assert along.sum() == 9 + 8 * per_edge and along[end]


@pytest.mark.parametrize("mesh", list(MESHES))
def test_arcs_cost_their_length_in_the_cheapest_of_their_cells(mesh):
    vertices, cells = MESHES[mesh]()
    graph = from_cells(vertices, cells, [2, 5], 1)
    metric = np.random.default_rng(2).uniform(1.0, 5.0, len(cells))
    cheapest: dict[tuple[int, int], float] = {}
    for first, second, cell in zip(graph.first, graph.second, graph.cell, strict=True):
        for key in ((first, second), (second, first)):
            cheapest[key] = min(cheapest.get(key, np.inf), metric[cell])
    assert len(cheapest) < 2 * len(graph.first)  # some arcs are in several cells
    costs = graph.weighted(metric).tocoo()
    first, second = costs.coords
    assert costs.nnz == len(cheapest)
    least = [cheapest[key] for key in zip(first, second, strict=True)]
    way = np.linalg.norm(graph.points[first] - graph.points[second], axis=1)
    np.testing.assert_allclose(costs.data, way * least, rtol=1e-14)


def test_ways_lead_around_closed_cells():
    vertices, cells = meshes.crossed_square(16)
    middle = meshes.midpoints(vertices, cells)
    is_open = ~((np.abs(middle[:, 0] - 0.5) < 0.125) & (middle[:, 1] < 0.75))
    nodes = [node_at(vertices, place) for place in ([0.0, 0.25], [1.0, 0.25], [0.5, 0.5])]
    graph = mesh_graph(vertices, cells, 7, is_open=is_open)
    found = distances(graph, np.ones(len(cells)), np.array(nodes[:1]))[0]
    exact = 2.0 * np.hypot(0.375, 0.5) + 0.25
    assert exact - 1e-12 <= found[nodes[1]] <= 1.002 * exact
    assert np.isinf(found[nodes[2]])  # amid closed cells


@pytest.mark.parametrize("mesh", ["crossed", "cube"])
def test_closed_wall_cuts_off(mesh):
    vertices, cells = MESHES[mesh]()
    middle = meshes.midpoints(vertices, cells)
    is_open = np.abs(middle[:, 0] - 0.5) > 0.25
    chosen = [int(np.argmin(middle[:, 0])), int(np.argmax(middle[:, 0]))]
    closed = int(np.flatnonzero(~is_open)[0])
    graph = from_cells(vertices, cells, [*chosen, closed], 1, is_open)
    found = distances(graph, np.ones(len(cells)), graph.inner)
    left = graph.points[:, 0] < 0.5
    assert np.isinf(found[0, ~left]).all() and np.isinf(found[1, left]).all()
    assert np.isinf(found[2]).sum() == graph.number - 1  # only itself
    corner = (vertices == 0.0).all(axis=1).argmax()
    assert np.isfinite(found[0, corner])


@pytest.mark.parametrize(("mesh", "spread"), [("crossed", 1.0), ("shaken", 3.0), ("cube", 1.0)])
def test_passes_go_on_until_distances_stand(mesh, spread, monkeypatch):
    """Where materials change from cell to cell: one pass in order does most, but not all."""
    vertices, cells = MESHES[mesh]()
    metric = np.exp(spread * np.random.default_rng(4).normal(size=len(cells)))
    graph = from_cells(vertices, cells, [0], 1)
    found = distances(graph, metric, graph.inner)
    monkeypatch.setattr(graph_module, "_SHARP", 0.0)
    monkeypatch.setattr(graph_module, "_PASSES", 100)
    exact = distances(graph, metric, graph.inner)
    monkeypatch.setattr(graph_module, "_PASSES", 1)
    one = distances(graph, metric, graph.inner)
    left = [(values - exact).max() / exact.max() for values in (one, found)]
    # Measured after one: 5e-5, 3e-4 and 8e-4; at the end 0, 2e-12, 0.
    assert 2e-5 < left[0] < 2e-3
    assert left[1] < 1e-9


def test_passes_end_when_little_falls_or_after_so_many(monkeypatch):
    orders = []

    def relax(order, values):
        orders.append(order.tolist())
        values[2] -= 0.25
        return 1.0 / len(orders)

    monkeypatch.setattr(eikonal, "relax", relax)
    for tolerance, most, number in ((0.5, 8, 2), (0.4, 8, 3), (0.0, 4, 4)):
        orders.clear()
        passes(np.array([1.0, 0.0, 1.125]), tolerance, most)
        assert orders == [[1, 0, 2], [1, 2, 0], [1, 2, 0], [1, 2, 0]][:number]


@pytest.mark.parametrize("dimension", [2, 3])
def test_best_point_of_a_facet_is_found_however_corners_are_numbered(dimension):
    """One cell: from the corner that is low, unless a way through its facet is better."""
    points = np.concatenate([np.eye(dimension), np.zeros((1, dimension))])
    parts, facet, within = parts_of_facets(dimension, 0)
    corners = dimension + 1
    found = set()
    for numbers in itertools.permutations(range(corners)):
        values = np.full(corners, 2.0)
        values[0], values[-1] = 0.25, 1.5
        order = np.array([dimension])
        cell = np.zeros(corners, dtype=np.int64)
        place = np.argsort(numbers)
        arguments = np.arange(corners + 1), cell, place, np.array([1.0]), order, values
        fell = relax(points, np.array([numbers]), parts, facet, within, *arguments)
        assert fell == 1.5 - values[-1]
        found.add(round(values[-1], 12))
    assert found == {1.25}


def test_no_way_leads_through_a_closed_cell():
    """From the middle of one of its edges to that of another: around the corner, exactly."""
    vertices, cells = meshes.crossed_square(4)
    is_open = np.ones(len(cells), dtype=bool)
    is_open[9] = False
    graph = from_cells(vertices, cells, [9], 1, is_open)
    for corner in range(3):
        around, *far = vertices[[cells[9, corner], *np.delete(cells[9], corner)]]
        start, end = (node_at(graph.points, 0.5 * (around + place)) for place in far)
        sides = [np.linalg.norm(place - around) / 2.0 for place in far]
        found = distances(graph, np.ones(len(cells)), np.array([start]))[0]
        assert found[end] == pytest.approx(sum(sides), rel=1e-12)
        assert np.isinf(found[graph.inner[0]])


def test_points_of_one_cell_see_each_other():
    vertices, cells = meshes.crossed_square(2)
    shares = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.2, 0.6, 0.2], [1.0, 0.0, 0.0]])
    points = shares @ vertices[cells[5]]
    graph = mesh_graph(vertices, cells, 1, points=points, cells_of_points=np.full(len(points), 5))
    found = graph_distances(graph, np.full(len(cells), 2.0), graph.inner)
    way = 2.0 * np.linalg.norm(points[:, None] - points, axis=2)
    np.testing.assert_allclose(found[:, graph.inner], way, atol=1e-14)
    assert found[3, cells[5, 0]] == pytest.approx(0.0, abs=1e-15)  # a point on a vertex


def test_neighbours_share_their_nodes():
    for mesh in MESHES.values():
        vertices, cells = mesh()
        for per_edge in (1, 2, 3):
            nodes, others = nodes_of_cells(vertices, cells, per_edge)
            points = np.concatenate([vertices, others])
            # No two nodes at one place, and each in its cell.
            rounded = np.round(points, 9)
            assert len(np.unique(rounded, axis=0)) == len(points)
            own = points[nodes]
            corners = vertices[cells]
            assert (own >= corners.min(axis=1, keepdims=True) - 1e-12).all()
            assert (own <= corners.max(axis=1, keepdims=True) + 1e-12).all()
            # The parts of facets fill them.
            parts, facet, within = parts_of_facets(vertices.shape[1], per_edge)
            assert len(parts) == (per_edge + 1) ** (vertices.shape[1] - 1) * cells.shape[1]
            assert within[parts, facet[:, None]].all()
            normal = points[nodes[3][parts]]
            first = vertices[cells[3]]
            for number in range(cells.shape[1]):
                rest = np.delete(first, number, axis=0)
                sizes = [_size(piece) for piece in normal[facet == number]]
                np.testing.assert_allclose(sizes, _size(rest) / len(sizes), rtol=1e-9)


def _size(simplex):
    edges = simplex[1:] - simplex[0]
    return np.sqrt(np.linalg.det(edges @ edges.T))


def test_best_crossing_of_a_segment_and_of_a_triangle():
    random = np.random.default_rng(3)
    for _ in range(40):
        corners, x = random.normal(size=(3, 3)), random.normal(size=3)
        values, metric = random.uniform(0.0, 1.5, 3), random.uniform(0.5, 2.0)
        share = np.linspace(0.0, 1.0, 401)
        along = np.stack([1.0 - share, share], 1)

        def least(shares, points, heights, x=x, metric=metric):
            way = np.linalg.norm(shares @ points - x, axis=1)
            return (shares @ heights + metric * way).min()

        sampled = least(along, corners[:2], values[:2])
        found = _from_segment(x, corners[0], corners[1], values[0], values[1], metric)
        assert sampled - 1e-4 <= found <= sampled + 1e-12

        def cost(y, corners=corners, values=values, x=x, metric=metric):
            weights = np.array([1.0 - y.sum(), *y])
            return weights @ values + metric * np.linalg.norm(weights @ corners - x)

        simplex = [{"type": "ineq", "fun": lambda y: 1.0 - y.sum()}]
        best = minimize(
            cost, [0.3, 0.3], bounds=[(0, 1)] * 2, constraints=simplex, options={"ftol": 1e-13}
        )
        found = _from_triangle(x, *corners, *values, metric)
        assert found == pytest.approx(best.fun, abs=1e-6)


def test_overestimate_is_exact_where_distances_fall_like_a_power():
    """d + c (k + 1)^-1.6 is c (k + 1)^-1.6 too large."""
    for per_edge, half in ((1, 0), (2, 0), (3, 1), (7, 3)):
        assert coarser(per_edge) == half
        error = np.array([0.0, 0.3, 2.0])
        coarse, fine = (4.0 + error * (k + 1.0) ** -1.6 for k in (half, per_edge))
        told = overestimate(coarse, fine, per_edge)
        np.testing.assert_allclose(told, fine - 4.0, atol=1e-14)


def test_number_of_points_is_affordable():
    assert affordable_per_edge(10_000, 2) == 7
    assert affordable_per_edge(65_536, 2) == 3
    assert affordable_per_edge(1_000_000, 2) == 1
    assert affordable_per_edge(10_000, 3) == 1
    assert affordable_per_edge(10**8, 2) == 0
    assert len(arcs_of_cell(2, 0)) == 3 and len(arcs_of_cell(3, 1)) == 39


def test_negative_number_of_points_is_an_error():
    with pytest.raises(InputError, match="per_edge: found -1"):
        mesh_graph(*meshes.crossed_square(1), -1)
