"""Peer of scripts/benchmark.py: ALG2 in FreeFem++ (alg2.edp) on the cell data of a solution.

FreeFem++ (Debian: apt-get install freefem++) is found on PATH; in the private Debian tree of
scripts/setup.sh the host's /usr is not there, see docs/performance.md.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from peers import clarabel_cost, inner_facets
from rich.console import Console

import congested as ct
from congested.geometry import barycentric_gradients, cells_of_mesh

SCRIPT = Path(__file__).with_name("alg2.edp")
Record = dict[str, Any]

# The cost of the two Gaussians. The certified bounds of the original densities (scope "continuum",
# a gap of 2e-5) are 0.4782688 and 0.4782752.
TWO_GAUSSIANS = 0.47827

# Penalty r, over-relaxation, smallest weight of the penalty: the best of some for each kind.
# "textbook" is ALG2 as Benamou and Carlier wrote it, with one penalty everywhere; "weighted" has
# what `congested.AugmentedLagrangian` has.
VARIANTS = {"textbook": (1.0, 1.0, 1.0), "weighted": (5.0, 1.6, 1e-3)}

# Errors of the value whose times are told.
TOLERANCES = (1e-3, 1e-4)

COLUMNS = (
    "solver",
    "squares",
    "error",
    "iterations_0.001",
    "seconds_0.001",
    "iterations_0.0001",
    "seconds_0.0001",
    "cell_violation",
)


def freefem_cost(
    solution: ct.Solution,
    known: float,
    variant: str = "weighted",
    *,
    limit: int = 2000,
    seconds: float = 120.0,
) -> Record:
    """Run ALG2 until both of its values are near the known one.

    Parameters
    ----------
    solution
        A solution in the plane on one rank, whose mesh and cell data are used.
    known
        The exact cost. The loop stops when D(u) and ∫H(w) are closer to it than the smallest of
        `TOLERANCES`; no user could do that.
    variant
        A key of `VARIANTS`.
    limit, seconds
        Most iterations, most seconds.

    Returns
    -------
    dict
        ``solver`` alone, with the reason, if there is no FreeFem++ or it fails. Else ``cost``,
        the value D(u) of its potential, a lower bound for the cell data; ``flux_cost``, that of its
        flux, which is none; ``iterations``, ``input_seconds`` (start, mesh and data),
        ``process_seconds`` (all, as the system counts), the violations of the last flux; for each
        tolerance the iterations and seconds (without the input's) after which D(u) stays as near
        as that.
    """
    program = shutil.which("FreeFem++")
    if program is None:
        return {"solver": "FreeFem++: not installed"}
    options = [*VARIANTS[variant], known, TOLERANCES[-1], seconds, limit]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_problem(solution, folder)
        (folder / "options.txt").write_text(" ".join(map(repr, options)) + "\n")
        before = _seconds_of_children()
        done = subprocess.run(
            [program, "-nw", "-v", "0", str(SCRIPT), str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        process_seconds = _seconds_of_children() - before
        if done.returncode != 0:
            message = (done.stdout + done.stderr).strip().splitlines() or ["no message"]
            return {"solver": f"FreeFem++: failed: {message[-1]}"}
        start, history = _read_history(folder / "history.txt")
        flux = np.loadtxt(folder / "flux.txt")
    record: Record = {
        "solver": f"FreeFem++ ALG2, {variant}",
        "cost": float(history[-1, 2]),
        "flux_cost": float(history[-1, 3]),
        "error": abs(float(history[-1, 2]) / known - 1.0),
        "iterations": int(history[-1, 0]),
        "input_seconds": start,
        "process_seconds": process_seconds,
        "cell_violation": cell_violation(solution, flux),
        "vertex_violation": vertex_violation(solution, flux),
    }
    for tolerance in TOLERANCES:
        far = np.flatnonzero(np.abs(history[:, 2] / known - 1.0) > tolerance)
        first = far[-1] + 1 if len(far) else 0
        if first < len(history):
            record[f"iterations_{tolerance:g}"] = int(history[first, 0])
            record[f"seconds_{tolerance:g}"] = float(history[first, 1]) - start
    return record


def cell_violation(solution: ct.Solution, flux: np.ndarray) -> float:
    """Return by how much a flux that is constant in each cell misses the balance of the cells.

    What leaves through a facet is taken from the mean of its two sides, nothing leaves through the
    boundary: Σ_T |∫_∂T w·n + μ_T − ν_T| over Σ_T |μ_T − ν_T|.
    """
    cells, excess = cells_of_mesh(solution.mesh), _excess(solution)
    facets, sign, number = inner_facets(solution)
    inner = facets >= 0
    dimension = cells.simplices.shape[2]
    normal = -dimension * cells.volume[:, None, None] * barycentric_gradients(cells.simplices)
    side = np.einsum("nid,nd->ni", normal, flux)
    through = 0.5 * np.bincount(facets[inner], (sign * side)[inner], number)
    outflow = np.where(inner, sign * through[facets], 0.0).sum(axis=1)
    return float(np.abs(outflow + excess).sum() / np.abs(excess).sum())


def vertex_violation(solution: ct.Solution, flux: np.ndarray) -> float:
    """Return by how much the flux misses the balance tested with the hat function of each vertex.

    Σ_i |∫ w·∇λ_i − ∫ λ_i d(μ − ν)| over Σ_T |μ_T − ν_T|: what ALG2 makes small.
    """
    cells, excess = cells_of_mesh(solution.mesh), _excess(solution)
    vertices = solution.mesh.geometry.dofmap[: cells.number]
    gradients = barycentric_gradients(cells.simplices)
    tested = cells.volume[:, None] * np.einsum("nid,nd->ni", gradients, flux)
    tested = tested - excess[:, None] / vertices.shape[1]
    residual = np.bincount(vertices.ravel(), tested.ravel())
    return float(np.abs(residual).sum() / np.abs(excess).sum())


def _excess(solution: ct.Solution) -> np.ndarray:
    """Return μ_T − ν_T."""
    excess = solution.fields.source - solution.fields.target
    return np.asarray(excess * cells_of_mesh(solution.mesh).volume)


def beside_freefem(
    sizes: Sequence[int],
    console: Console,
    nested_solve: Callable[..., tuple[ct.Solution, float]],
    adaptive_gaps: Sequence[float] = TOLERANCES,
) -> list[Record]:
    """Time to a true error of the value, two Gaussians: ALG2, Clarabel, adaptive meshes.

    Parameters
    ----------
    sizes
        Squares along a side.
    console
        Takes a line per record.
    nested_solve
        Solves on so many squares; return solution and seconds. Its cell data are the peers'.
    adaptive_gaps
        Relative gaps of the adaptive runs.
    """
    records: list[Record] = []

    def add(record: Record, **more: Any) -> None:
        records.append({**record, **more})
        console.print(f"freefem: {records[-1]}", soft_wrap=True)

    clarabel_error = np.inf
    for squares in sorted(sizes):
        solution, _ = nested_solve(squares, 5e-5)
        place = {
            "squares": squares,
            "cells": solution.fields.source.size,
            # Of the peers neither computes the cell data, above all the weight.
            "data_seconds": _data_seconds(solution),
            "lower": solution.bounds.lower,
            "upper": solution.bounds.upper,
        }
        for variant in VARIANTS:
            record = freefem_cost(solution, TWO_GAUSSIANS, variant)
            if "cost" in record:
                record["in_bounds"] = bool(place["lower"] <= record["cost"] <= place["upper"])
            add(record, **place)
            if "cost" not in record:
                break
        if clarabel_error > TOLERANCES[-1]:
            found = clarabel_cost(solution)
            if "clarabel" in found:
                add({"solver": f"Clarabel: {found['clarabel']}"}, **place)
                continue
            clarabel_error = abs(found["clarabel_cost"] / TWO_GAUSSIANS - 1.0)
            record = {
                f"seconds_{tolerance:g}": found["clarabel_seconds"]
                for tolerance in TOLERANCES
                if clarabel_error <= tolerance
            }
            cost = found["clarabel_cost"]
            record |= {"process_seconds": found["clarabel_seconds"], "cost": cost}
            record |= {"in_bounds": bool(place["lower"] <= cost <= place["upper"])}
            add({"solver": "Clarabel", "error": clarabel_error, **record}, **place)
    for gap in adaptive_gaps:
        add(_adaptive(gap))
    return records


def _adaptive(gap: float) -> Record:
    """Solve the two Gaussians on adaptive meshes until the gap is certified."""
    problem = ct.Problem.from_file(SCRIPT.parent / "problems" / "two_gaussians.toml")
    start = time.process_time()
    solution = ct.solve(
        problem, relative_gap=gap, refine="adaptive", lower_bound="p1", comm=MPI.COMM_SELF
    )
    seconds = time.process_time() - start
    excess = _excess(solution)
    residual = solution.fields.flux.sum(axis=1) - excess
    return {
        "solver": f"ours, adaptive, gap {gap:g}",
        "cells": solution.fields.source.size,
        "cost": solution.bounds.cost,
        "error": abs(solution.bounds.cost / TWO_GAUSSIANS - 1.0),
        "lower": solution.bounds.lower,
        "upper": solution.bounds.upper,
        "relative_gap": solution.bounds.relative_gap,
        f"seconds_{gap:g}": seconds,
        "process_seconds": seconds,
        "data_seconds": _data_seconds(solution),
        "iterations": len(solution.history),
        "cell_violation": float(np.abs(residual).sum() / np.abs(excess).sum()),
    }


def _data_seconds(solution: ct.Solution) -> float:
    """Return the seconds that meshes, masses and weight took."""
    return float(sum(solution.seconds[name] for name in ("setup", "weight")))


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _read_history(file: Path) -> tuple[float, np.ndarray]:
    """Return the seconds before the data were there, and rows of iteration, seconds, D, ∫H."""
    lines = file.read_text().splitlines()
    return float(lines[0]), np.loadtxt(lines[1:], ndmin=2)


def _write_problem(solution: ct.Solution, folder: Path) -> None:
    """Write mesh.msh (FreeFem's format, boundary edges last) and cells.txt (μ_T − ν_T and κ)."""
    cells, fields = cells_of_mesh(solution.mesh), solution.fields
    points = solution.mesh.geometry.x[:, :2]
    triangles = solution.mesh.geometry.dofmap[: cells.number].copy()
    edges = cells.simplices[:, 1:] - cells.simplices[:, :1]
    clockwise = np.linalg.det(edges) < 0.0
    triangles[clockwise, 1:] = triangles[clockwise, :0:-1]
    facets, _, _ = inner_facets(solution)
    cell, opposite = np.nonzero(facets < 0)
    corners = solution.mesh.geometry.dofmap[cell]
    boundary = np.stack(
        [corners[np.arange(len(cell)), (opposite + shift) % 3] for shift in (1, 2)], axis=1
    )
    with (folder / "mesh.msh").open("wb") as file:
        file.write(f"{len(points)} {len(triangles)} {len(boundary)}\n".encode())
        for rows, label, form in (
            (points, 0, "%.17g %.17g %d"),
            (triangles + 1, 0, "%d"),
            (boundary + 1, 1, "%d"),
        ):
            np.savetxt(file, np.column_stack([rows, np.full(len(rows), label)]), fmt=form)
    capacity = 2.0 * solution.problem.strength * fields.weight
    np.savetxt(folder / "cells.txt", np.column_stack([_excess(solution), capacity]), fmt="%.17g")
