"""How much too large are the distances of `congested.flow.graph`? A table, in a constant metric.

For four meshes and some numbers of points on an edge: mean and largest overestimate in percent, of
graph distances (Dijkstra alone) and of distances (paths may cross facets between the nodes), from 8
vertices to all others that they see. The docstring of `congested/flow/graph.py` has the result.

    .venv/bin/python scripts/study_distances.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mpi4py import MPI
from rich import box
from rich.console import Console
from rich.table import Table

import congested as ct
from congested.domain import create_mesh
from congested.flow.graph import distances, graph_distances, mesh_graph
from congested.geometry import BoolArray, FloatArray, IntArray, cells_of_mesh
from congested.io.arrays import gather_mesh

MESHES = Path(__file__).resolve().parents[1] / "meshes"
SOURCES = 8
# The hole of disc_with_hole.geo.
HOLE_CENTER, HOLE_RADIUS = (0.2, 0.0), 0.3
#: Domains by name, and how many points on an edge are affordable there.
CASES: dict[str, tuple[ct.Box | ct.MeshFile, tuple[int, ...]]] = {
    "crossed box": (ct.Box((0.0, 0.0), (1.0, 1.0), 128), (0, 1, 2, 3, 4, 7)),
    "disc with hole": (ct.MeshFile(MESHES / "disc_with_hole.msh"), (0, 1, 3, 7)),
    "cube": (ct.Box((0.0,) * 3, (1.0,) * 3, 12), (0, 1, 3)),
    "ball": (ct.MeshFile(MESHES / "ball.msh"), (0, 1, 3, 7)),
}


def arrays_of(domain: ct.Box | ct.MeshFile) -> tuple[FloatArray, IntArray]:
    """Return vertices and cells of a domain."""
    mesh = create_mesh(domain, MPI.COMM_SELF)
    gathered = gather_mesh(mesh, cells_of_mesh(mesh).volume)
    vertices, cells = gathered["vertices"], gathered["cells"]
    assert vertices is not None and cells is not None
    return vertices, cells


def seen(name: str, starts: FloatArray, ends: FloatArray) -> BoolArray:
    """Return which ends (e,) are seen from which starts (s,): the hole is in the way of some."""
    if name != "disc with hole":
        return np.ones((len(starts), len(ends)), dtype=bool)
    way = ends - starts[:, None]
    away = np.array(HOLE_CENTER) - starts[:, None]
    square = np.maximum((way**2).sum(axis=2), 1e-300)
    foot = np.clip((away * way).sum(axis=2) / square, 0.0, 1.0)
    nearest = np.linalg.norm(away - foot[..., None] * way, axis=2)
    return np.asarray(nearest > HOLE_RADIUS)


def measure(name: str, per_edge: int) -> dict[str, tuple[float, float]]:
    """Return mean and largest relative overestimate of both kinds of distances."""
    vertices, cells = arrays_of(CASES[name][0])
    sources = np.random.default_rng(0).choice(len(vertices), SOURCES, replace=False)
    exact = np.linalg.norm(vertices[sources][:, None] - vertices, axis=2)
    known = seen(name, vertices[sources], vertices) & (exact > 0.0)
    graph, metric = mesh_graph(vertices, cells, per_edge), np.ones(len(cells))
    found = {}
    for kind, function in (("graph", graph_distances), ("distances", distances)):
        values = function(graph, metric, sources)[:, : len(vertices)]
        error = values[known] / exact[known] - 1.0
        found[kind] = float(error.mean()), float(error.max())
    return found


def main(
    argv: Sequence[str] | None = None,
) -> dict[tuple[str, int], dict[str, tuple[float, float]]]:
    """Run the study and return what came out, by mesh and points on an edge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the two small meshes alone")
    arguments = parser.parse_args(argv)
    table = Table(box=box.MARKDOWN)
    for column in ("mesh", "points on an edge", "graph, %", "distances, %"):
        table.add_column(column, no_wrap=True)
    results = {}
    for name, (_, counts) in CASES.items():
        if arguments.quick and name in ("crossed box", "cube"):
            continue
        for per_edge in counts[: 2 if arguments.quick else None]:
            found = results[name, per_edge] = measure(name, per_edge)
            words = (f"{100 * mean:.2g} ({100 * most:.2g})" for mean, most in found.values())
            table.add_row(name, str(per_edge), *words)
    Console(width=100).print(table)
    return results


if __name__ == "__main__":
    main()
