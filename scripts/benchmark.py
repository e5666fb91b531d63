"""What a solve costs: beside a linear solve and a peer, by method, λ and refinement, in space.

Every section solves two Gaussians (scripts/problems/two_gaussians.toml) or the problem it names,
prints a table and adds to benchmark.json. Seconds are of the processor, on one rank and one thread;
machines differ, so read ratios within one run. docs/performance.md keeps what was measured.

    .venv/bin/python scripts/benchmark.py   # all sections: 45 minutes
    .venv/bin/python scripts/benchmark.py mesh linear --sizes 64 128

Clarabel (pip install clarabel) is the peer on one mesh, FreeFem++ (Debian's freefem++) that for a
true error, POT and GeomLoss (pip install pot geomloss) those for W₁; without one the row says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import peer_freefem
import wasserstein
from mpi4py import MPI
from peers import clarabel_cost
from rich.console import Console
from rich.table import Table

import congested as ct
from congested.discretization import CROUZEIX_RAVIART, PotentialSpace, StiffnessSystem
from congested.domain import create_mesh
from congested.geometry import cells_of_mesh
from congested.io.files import write_text
from congested.solvers.linear import LinearSolver

SCRIPTS = Path(__file__).resolve().parent
Record = dict[str, Any]

# Squares along a side of the coarsest mesh of nested iteration.
_COARSEST = 8


def two_gaussians(squares: int) -> ct.Problem:
    """Return the two Gaussians on a crossed mesh of so many squares along a side."""
    return with_squares(load("two_gaussians"), squares)


def load(name: str) -> ct.Problem:
    """Return a problem of scripts/problems."""
    return ct.Problem.from_file(SCRIPTS / "problems" / f"{name}.toml")


def with_squares(problem: ct.Problem, squares: int) -> ct.Problem:
    """Return the problem on a box with so many squares along its longest side."""
    return dataclasses.replace(problem, domain=dataclasses.replace(problem.domain, cells=squares))


def nested_solve(squares: int, relative_gap: float, **options: Any) -> tuple[ct.Solution, float]:
    """Solve on the crossed mesh by nested iteration from a coarse one; return processor seconds."""
    coarsest = squares
    while coarsest % 2 == 0 and coarsest > _COARSEST:
        coarsest //= 2
    start = time.process_time()
    solution = ct.solve(
        two_gaussians(coarsest),
        relative_gap=relative_gap,
        max_cells=4 * squares**2,
        lower_bound="p1",
        comm=MPI.COMM_SELF,
        **options,
    )
    return solution, time.process_time() - start


def gap_of_p1(squares: int) -> float:
    """Return a gap that the flux of P1 meets on the crossed mesh, and on none before."""
    return 4e-5 * (256 / squares) ** 2


def memory() -> float:
    """Return the largest memory of this process so far, in bytes."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def linear_seconds(squares: int) -> float:
    """Return the seconds of one Poisson solve in Crouzeix–Raviart, multigrid set-up included."""
    problem = two_gaussians(squares)
    mesh = create_mesh(problem.domain, MPI.COMM_SELF)
    cells = cells_of_mesh(mesh)
    space = PotentialSpace(mesh, cells, CROUZEIX_RAVIART, np.ones(cells.number, dtype=bool))
    load_ = problem.source.cell_masses(cells) - problem.target.cell_masses(cells)
    load_ = (load_ - load_.sum() * cells.volume) / cells.volume
    system = StiffnessSystem(space)
    stiffness = np.broadcast_to(np.eye(2), (cells.number, 1, 2, 2))
    system.assemble(stiffness, np.zeros((cells.number, 1, 2)), load_)
    solver = LinearSolver(system)
    start = time.process_time()
    solver.solve(1e-8)
    seconds = time.process_time() - start
    solver.destroy()
    return seconds


# --- sections -------------------------------------------------------------------------------------


def on_one_mesh(sizes: Sequence[int], console: Console) -> list[Record]:
    """Solve the cell-data problem of one mesh, beside Clarabel."""
    records: list[Record] = []
    for squares in sizes:
        solution, seconds = nested_solve(squares, 1e-9 if squares < 32 else 5e-5)
        record: Record = {
            "squares": squares,
            "flux_dofs": solution.dofs["flux"],
            "cells": solution.fields.source.size,
            "seconds": seconds,
            # Without mesh, masses and weight, which the peer is given.
            "solve_seconds": solution.seconds["solve"],
            "relative_gap": solution.bounds.relative_gap,
            "lower": solution.bounds.lower,
            "upper": solution.bounds.upper,
        }
        record.update(clarabel_cost(solution))
        if "clarabel_seconds" in record:
            record["ratio"] = record["clarabel_seconds"] / seconds
            record["solve_ratio"] = record["clarabel_seconds"] / record["solve_seconds"]
        console.print(f"mesh {squares}: {record}", soft_wrap=True)
        records.append(record)
    return records


def beside_linear(sizes: Sequence[int], console: Console) -> list[Record]:
    """Compare the whole nonlinear solve with one linear one; time, steps and memory over sizes."""
    records: list[Record] = []
    start_up = memory()
    # One more than the peers can take: 1.6 million dofs.
    larger = [2 * max(sizes)] if max(sizes) >= 256 else []
    for squares in sorted([*sizes, *larger]):
        solution, seconds = nested_solve(squares, gap_of_p1(squares))
        linear = linear_seconds(squares)
        last = solution.levels - 1
        finest = [row for row in solution.history if row["level"] == last]
        steps = len(finest)
        record = {
            "squares": squares,
            "flux_dofs": solution.dofs["flux"],
            "relative_gap": solution.bounds.relative_gap,
            "seconds": seconds,
            "solve_seconds": solution.seconds["solve"],
            "linear_seconds": linear,
            "linear_solves": seconds / linear,
            "solve_over_linear": solution.seconds["solve"] / linear,
            "newton_steps_on_finest": steps,
            "cg_steps_per_newton_step": sum(row["linear_iterations"] for row in finest) / steps,
            "bytes_per_dof": (memory() - start_up) / solution.dofs["flux"],
            "parts": {name: round(value, 3) for name, value in solution.seconds.items()},
        }
        console.print(f"linear {squares}: {record}", soft_wrap=True)
        records.append(record)
    if len(records) > 1:
        dofs, times = (np.log([row[key] for row in records]) for key in ("flux_dofs", "seconds"))
        records[-1]["exponent"] = float(np.polyfit(dofs, times, 1)[0])
    return records


def on_ranks(console: Console, squares: int = 512) -> list[Record]:
    """Solve on one and on two ranks; seconds of the clock, without start-up."""
    records: list[Record] = []
    for ranks in (1, 2):
        words = [sys.executable, __file__, "ranks", "--alone", str(squares)]
        found = subprocess.run(
            ["mpirun", "-n", str(ranks), *words], capture_output=True, text=True, check=True
        )
        record = json.loads(found.stdout.splitlines()[-1])
        record["ratio"] = records[0]["seconds"] / record["seconds"] if records else 1.0
        console.print(f"ranks {ranks}: {record}", soft_wrap=True)
        records.append(record)
    return records


def one_of_ranks(squares: int) -> None:
    """Solve on all ranks of this run; rank 0 prints what it took as JSON."""
    comm = MPI.COMM_WORLD
    coarsest = squares
    while coarsest % 2 == 0 and coarsest > 2 * _COARSEST:
        coarsest //= 2
    options: Record = {"lower_bound": "p1", "comm": comm}
    # The first solve compiles.
    ct.solve(two_gaussians(coarsest), relative_gap=1e-2, refine="none", **options)
    comm.Barrier()
    start = time.perf_counter()
    solution = ct.solve(
        two_gaussians(coarsest),
        relative_gap=gap_of_p1(squares),
        max_cells=4 * squares**2,
        **options,
    )
    seconds = comm.allreduce(time.perf_counter() - start, op=MPI.MAX)
    record = {
        "ranks": comm.size,
        "squares": squares,
        "flux_dofs": solution.dofs["flux"],
        "seconds": seconds,
        "relative_gap": solution.bounds.relative_gap,
        "parts": {name: round(value, 2) for name, value in solution.seconds.items()},
    }
    if comm.rank == 0:
        sys.stdout.write(json.dumps(record) + "\n")


def adaptively(console: Console, relative_gap: float = 1e-3) -> list[Record]:
    """Reach a gap on uniform and on adaptive meshes.

    Where the uniform meshes do not get there below 300,000 cells, the dofs are extrapolated with
    the rate of the last two.
    """
    records: list[Record] = []
    for name, most in (("concentric_gaussians", 300_000), ("ray_monotone_d2_n4", 300_000)):
        problem = with_squares(load(name), 16)
        record: Record = {"problem": name, "relative_gap": relative_gap}
        for refine in ("adaptive", "uniform"):
            start = time.process_time()
            solution = ct.solve(
                problem,
                relative_gap=relative_gap,
                refine=refine,
                max_cells=most,
                lower_bound="p1",
                comm=MPI.COMM_SELF,
            )
            gaps = gaps_of(solution)
            record[refine] = {
                "gap": solution.bounds.relative_gap,
                "flux_dofs": solution.dofs["flux"],
                "dofs_for_gap": dofs_for(gaps, relative_gap),
                "data_error": solution.bounds.data_error,
                "levels": solution.levels,
                "seconds": time.process_time() - start,
            }
        needed = record["uniform"]["dofs_for_gap"], record["adaptive"]["dofs_for_gap"]
        record["ratio"] = needed[0] / needed[1]
        console.print(f"adaptive {name}: {record}", soft_wrap=True)
        records.append(record)
    return records


# Problem, squares of the first mesh, λ, gap, most cells: what docs/performance.md compares.
_METHOD_CASES = (
    ("two_gaussians", 32, 10.0, 1e-3, 20_000),
    ("two_gaussians", 32, 10.0, 5e-5, 270_000),
    ("concentric_gaussians", 32, 10.0, 1e-2, 20_000),
    ("ray_monotone_d2_n4", 32, 10.0, 1e-2, 20_000),
    ("two_gaussians", 32, np.inf, 1e-2, 20_000),
)
_METHODS = ("newton", "augmented-lagrangian")


def by_method(console: Console) -> list[Record]:
    """Solve on uniform meshes with both methods."""
    records = []
    for name, squares, strength, gap, most in _METHOD_CASES:
        problem = with_squares(load(name), squares)
        for method in _METHODS:
            options = {"relative_gap": gap, "max_cells": most, "method": method}
            records.append(solved(name, problem, strength, console, **options))
    return records


def by_strength(console: Console) -> list[Record]:
    """Solve on adaptive meshes over λ."""
    options: Record = {"refine": "adaptive", "relative_gap": 2e-3, "max_cells": 60_000}
    problem = with_squares(load("two_gaussians"), 16)
    return [
        solved("two_gaussians", problem, strength, console, method=method, **options)
        for strength in (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, np.inf)
        for method in _METHODS
    ]


def in_space(console: Console) -> list[Record]:
    """Solve on adaptive meshes of a cube."""
    problem = with_squares(load("concentric_gaussians_3d"), 6)
    cases = [(10.0, gap, method) for gap in (2e-2, 1e-2) for method in _METHODS]
    return [
        solved(
            "concentric_gaussians_3d", problem, strength, console,
            refine="adaptive", relative_gap=gap, method=method, lower_bound="auto",
        )
        for strength, gap, method in [*cases, (np.inf, 3e-2, "newton")]
    ]  # fmt: skip


def solved(
    name: str, problem: ct.Problem, strength: float, console: Console, **options: Any
) -> Record:
    """Solve a problem with another λ and return what it took."""
    problem = dataclasses.replace(problem, strength=strength)
    start = time.process_time()
    solution = ct.solve(problem, comm=MPI.COMM_SELF, **{"lower_bound": "p1", **options})
    seconds = time.process_time() - start
    finest = [row["space"] for row in solution.history if row["level"] == solution.levels - 1]
    record = {
        "problem": name,
        "strength": str(strength),
        "method": solution.solver["method"],
        "gap_asked": options["relative_gap"],
        "relative_gap": solution.bounds.relative_gap,
        "lower": solution.bounds.lower,
        "upper": solution.bounds.upper,
        "data_error": solution.bounds.data_error,
        "lower_bound_from": solution.data["lower_bound_from"],
        "cells": solution.fields.source.size,
        "seconds": seconds,
        "gibibytes": solution.peak_memory_bytes / 2**30,
        "iterations": {space: finest.count(space) for space in dict.fromkeys(finest)},
        "status": solution.status.value,
        "reason": solution.reason,
    }
    console.print(f"{name}: {record}", soft_wrap=True)
    return record


def gaps_of(solution: ct.Solution) -> list[tuple[float, float]]:
    """Return (cells, relative gap) of every mesh of a run."""
    rows = {}
    for row in solution.history:
        # A row has the bounds of the mesh before.
        rows[row["level"]] = (row["cells"], row["relative_gap"])
    levels = sorted(rows)
    gaps = [rows[level + 1][1] for level in levels[:-1]] + [solution.bounds.relative_gap]
    return [(rows[level][0], gap) for level, gap in zip(levels, gaps, strict=True)]


def dofs_for(gaps: Sequence[tuple[float, float]], wanted: float) -> float:
    """Return the flux dofs (3/2 of the cells) for a gap, between meshes or beyond the last two."""
    cells, values = (np.log(column) for column in zip(*gaps, strict=True))
    place = int(np.clip(np.searchsorted(-values, -np.log(wanted)), 1, len(values) - 1))
    slope = (values[place] - values[place - 1]) / (cells[place] - cells[place - 1])
    return float(1.5 * np.exp(cells[place] + (np.log(wanted) - values[place]) / slope))


# --- the whole ------------------------------------------------------------------------------------

_COLUMNS = {
    "mesh": (
        "squares",
        "flux_dofs",
        "seconds",
        "solve_seconds",
        "relative_gap",
        "clarabel_seconds",
        "ratio",
        "solve_ratio",
    ),
    "ranks": ("ranks", "squares", "flux_dofs", "seconds", "relative_gap", "ratio"),
    "linear": (
        "squares",
        "flux_dofs",
        "seconds",
        "linear_seconds",
        "linear_solves",
        "solve_over_linear",
        "newton_steps_on_finest",
        "cg_steps_per_newton_step",
        "bytes_per_dof",
        "relative_gap",
    ),
    "freefem": peer_freefem.COLUMNS,
    "w1": wasserstein.COLUMNS,
}
_RUN_COLUMNS = (
    "problem",
    "strength",
    "method",
    "gap_asked",
    "relative_gap",
    "data_error",
    "cells",
    "seconds",
    "gibibytes",
    "lower_bound_from",
    "iterations",
    "status",
)


def table_of(section: str, records: Sequence[Record]) -> Table:
    """Return the table of a section."""
    table = Table(title=section)
    if section == "adaptive":
        for heading in ("problem", "meshes", "dofs for the gap", "gap", "data error", "s"):
            table.add_column(heading, justify="right")
        for record in records:
            for kind in ("uniform", "adaptive"):
                row = record[kind]
                table.add_row(
                    record["problem"],
                    kind,
                    f"{row['dofs_for_gap']:.3g}",
                    f"{row['gap']:.2e}",
                    f"{row['data_error']:.1e}",
                    f"{row['seconds']:.1f}",
                )
        return table
    columns = _COLUMNS.get(section, _RUN_COLUMNS)
    for heading in columns:
        table.add_column(heading.replace("_", " "), justify="right")
    for record in records:
        values = (record.get(name, record.get("clarabel", "")) for name in columns)
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values))
    return table


SECTIONS: dict[str, Callable[..., list[Record]]] = {
    "linear": beside_linear,  # first: the peer takes more memory
    "mesh": on_one_mesh,
    "ranks": on_ranks,
    "adaptive": adaptively,
    "methods": by_method,
    "strengths": by_strength,
    "space": in_space,
    "freefem": lambda sizes, console: peer_freefem.beside_freefem(sizes, console, nested_solve),
    "w1": wasserstein.w1_by_solver,
}
# These take the sizes of the command line.
_SIZED = ("linear", "mesh", "freefem")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for; without sections that is all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=" ".join(SECTIONS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("-o", "--output", type=Path, default=SCRIPTS.parent / "results/benchmark")
    parser.add_argument("--alone", type=int, metavar="SQUARES", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"found {unknown[0]}; allowed: {' or '.join(SECTIONS)}")
    arguments.sections = arguments.sections or list(SECTIONS)
    return arguments


def main(argv: Sequence[str] | None = None) -> dict[str, list[Record]]:
    """Run the sections and return their records."""
    arguments = parse(argv)
    progress, out = Console(stderr=True), Console()
    if arguments.alone is not None:
        one_of_ranks(arguments.alone)
        return {}
    # The first solve compiles kernels and forms: not what a solve costs.
    nested_solve(_COARSEST, 1e-2)
    linear_seconds(_COARSEST)
    results: dict[str, list[Record]] = {}
    for name in arguments.sections:
        section = SECTIONS[name]
        sized = name in _SIZED
        results[name] = section(arguments.sizes, progress) if sized else section(progress)
        out.print(table_of(name, results[name]))
        arguments.output.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"platform": sys.platform, **results}, indent=1)
        write_text(arguments.output / "benchmark.json", text)
    return results


if __name__ == "__main__":
    main()
