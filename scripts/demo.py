"""Solve the published benchmark pair and hold the numbers against what was published for it.

The pair is the one with D = 2 and N = 4 funnels of the Wasserstein-1 benchmark (Korotin, Kolesov,
Burnaev, NeurIPS 2022, arXiv 2206.07767), on which WGAN critics with gradient penalty were trained
with λ = 10. Such a critic does not estimate W₁ but the critic loss L of congested transport; this
script computes L, certified, and prints both.

    scripts/demo.sh                       sets up what is missing and runs this
    .venv/bin/python scripts/demo.py --relative-gap 0.02      a coarser, faster run
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

from mpi4py import MPI
from rich.console import Console
from rich.table import Table

import congested as ct
from congested.parallel import StopRequest, configure_logging, progress_bar
from congested.problem_file import problem_text

SCRIPTS = Path(__file__).resolve().parent
PROBLEM = SCRIPTS / "problems" / "ray_monotone_d2_n4.toml"

# Published for the trained WGAN-LP critic (λ = 10) of this pair: E_μ f − E_ν f from 4,096 samples,
# and the same checkpoint evaluated on 4 million.
PUBLISHED_CRITIC_LOSS = "0.885 ± 0.013 (4,096 samples), 0.871 (4 million)"


def main(argv: list[str] | None = None) -> ct.Solution:
    """Run the demo and return the solution."""
    parser = argparse.ArgumentParser(description="Solve the published pair D = 2, N = 4.")
    parser.add_argument("-o", "--output", type=Path, default=SCRIPTS.parent / "results" / "demo")
    parser.add_argument("--relative-gap", type=float, help="goal instead of the problem file's")
    parser.add_argument("--max-cells", type=int, help="limit instead of the problem file's")
    arguments = parser.parse_args(argv)

    comm = MPI.COMM_WORLD
    configure_logging(comm)
    started = time.perf_counter()
    problem = ct.Problem.from_file(PROBLEM)
    given = {"relative_gap": arguments.relative_gap, "max_cells": arguments.max_cells}
    options = {name: value for name, value in given.items() if value is not None}
    problem = dataclasses.replace(problem, solver=dataclasses.replace(problem.solver, **options))
    stop = StopRequest()
    with stop.install(), progress_bar(comm, problem.solver.relative_gap) as progress:
        solution = ct.solve(problem, progress=progress, stop=stop)
        directory = solution.write(arguments.output, problem_text=problem_text(problem))
        flow = ct.compute_flow(solution)
        flow.write(directory)
    if comm.rank == 0:
        console = Console(width=100)
        console.print(table(solution, problem.source.pair.wasserstein1()))
        console.print(
            f"{solution.reason}; {time.perf_counter() - started:.1f} s\n"
            f"Pictures: {directory / 'overview.png'}, flow.png, flow.gif\n"
            f"ParaView: {directory / 'solution.pvd'}, flow_particles.pvd"
        )
    return solution


def table(solution: ct.Solution, wasserstein1: float) -> Table:
    """Return the table: certified values beside the published ones."""
    bounds, values = solution.bounds, solution.values
    cells = solution.mesh.topology.index_map(solution.mesh.topology.dim).size_global
    rows = Table(
        title=f"{solution.problem.title}: {cells:,} cells, λ = {solution.problem.strength:g}"
    )
    rows.add_column("quantity")
    rows.add_column("congested", justify="right")
    rows.add_column("published", justify="right")
    rows.add_row("W₁ of the pair", "", f"{wasserstein1:.5f} (exact)")
    rows.add_row("∫|m| (≥ W₁)", f"{values.momentum_l1:.4f}", "")
    rows.add_row(
        "congested cost, certified for the cell data",
        f"{bounds.lower:.4f} … {bounds.upper:.4f}",
        "",
    )
    rows.add_row("  estimated error of the cell data", f"± {bounds.data_error:.4f}", "")
    rows.add_row("penalty P", f"{values.penalty:.4f}", "")
    rows.add_row("critic loss L", f"{values.critic_loss:.4f}", PUBLISHED_CRITIC_LOSS)
    return rows


if __name__ == "__main__":
    sys.exit(0 if main().status is ct.Status.CONVERGED else 3)
