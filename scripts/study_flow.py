"""Does the flow of a solution have its momentum, and are its paths the cheapest? Measured.

For each problem: particles 10³ … 10⁶, with the errors of time-averaged momentum and arrivals; then
solutions with smaller and smaller gaps, with the excess of path costs over potentials and what
cheaper paths there are; then, for the published pair, the mass that published critics lose (where
they lie in the folder $CONGESTED_PUBLISHED). Three tables and flow.json; docs/flow.md reads them.
It runs on one rank.

    .venv/bin/python scripts/study_flow.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic_readings import published_critics
from mpi4py import MPI
from rich import box
from rich.console import Console
from rich.table import Table

import congested as ct
from congested.comparison import reference_of
from congested.critics.reference import Reference
from congested.flow.field import flow_field
from congested.flow.simulate import Plan, simulate
from congested.flow.statistics import statistics
from congested.io.files import write_text
from congested.io.result import json_text

SCRIPTS = Path(__file__).resolve().parent
PROBLEMS = SCRIPTS / "problems"
#: Problem files with the gaps to which they are solved.
CASES = {
    "two_gaussians": (1e-1, 3e-2, 1e-2, 3e-3, 1e-3),
    "ray_monotone_d2_n4": (1e-1, 3e-2, 1e-2, 3e-3),
    "concentric_gaussians_3d": (2e-1, 1e-1, 5e-2),
}
PUBLISHED = "ray_monotone_d2_n4"
PARTICLES = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Study:
    """What came out: rows of the three tables.

    Attributes
    ----------
    convergence
        Particles and errors.
    equilibrium
        Gaps and path costs.
    critics
        Mass that critics lose.
    """

    convergence: tuple[dict[str, Any], ...]
    equilibrium: tuple[dict[str, Any], ...]
    critics: tuple[dict[str, Any], ...]


def solved(name: str, gap: float) -> Reference:
    """Solve a problem to a gap by adaptive refinement."""
    problem = ct.Problem.from_file(PROBLEMS / f"{name}.toml")
    return reference_of(ct.solve(problem, relative_gap=gap, refine="adaptive", comm=MPI.COMM_SELF))


def converge(name: str, found: Reference, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Move more and more particles."""
    assert found.arrays is not None
    rows = []
    for number in numbers:
        started = time.perf_counter()
        plan = Plan(number)
        field = flow_field(found.arrays, found.strength)
        moved = statistics(field, plan, simulate(field, plan, found.comm))
        rows.append(
            {
                "problem": name,
                "cells": len(field.cells),
                "seconds": time.perf_counter() - started,
                **moved.result(),
            }
        )
    return rows


def balance(name: str, found: Reference, particles: int) -> dict[str, Any]:
    """Compute the flow of a solution and hold its paths against the cheapest ones."""
    options = ct.FlowOptions(particles=particles)
    started = time.perf_counter()
    flow = ct.compute_flow(found, options=options)
    assert flow.wardrop is not None
    return {
        "problem": name,
        "cells": len(flow.field.cells),
        "relative_gap": found.bounds.relative_gap,
        "seconds": time.perf_counter() - started,
        **flow.wardrop,
    }


def lose(found: Reference, particles: int) -> list[dict[str, Any]]:
    """Compute the flows of the published critics."""
    options = ct.FlowOptions(particles=particles)
    rows = []
    for method, critic in published_critics():
        content = ct.compute_flow(found, critic, name=method, options=options).result()
        rows.append({"critic": method, **content})
    return rows


def tables(study: Study) -> list[Table]:
    """Return the three tables."""
    first = _table(
        "problem", "cells", "particles", "momentum, relative L1", "arrivals, relative L1", "s"
    )
    for row in study.convergence:
        first.add_row(
            row["problem"],
            f"{row['cells']:,}",
            f"{row['particles']:,}",
            f"{row['momentum_relative_l1']:.4f} ± {row['momentum_relative_l1_error']:.4f}",
            f"{row['pushforward_relative_l1']:.4f} ± {row['pushforward_relative_l1_error']:.4f}",
            f"{row['seconds']:.2f}",
        )
    second = _table(
        "problem", "cells", "gap", "excess (99 %)", "excess (mean)", "violation", "detour", "s"
    )
    for row in study.equilibrium:
        second.add_row(
            row["problem"],
            f"{row['cells']:,}",
            f"{row['relative_gap']:.1e}",
            f"{row['max_relative_excess']:.2e}",
            f"{row['mean_relative_excess']:.2e}",
            f"{row['max_relative_violation']:.2e}",
            f"{row['mean_relative_detour']:.2e}",
            f"{row['seconds']:.1f}",
        )
    third = _table("critic", "lost in cells", "in boxes", "of the solution", "W1 to the target")
    for row in study.critics:
        lost = row["imbalance"]["critic"]["lost"]
        own = row["imbalance"]["solution"]["lost"]
        distance = row["masses_kept"]["pushforward_wasserstein1"]
        third.add_row(
            row["critic"],
            f"{lost[0]:.3f}",
            ", ".join(f"{value:.3f}" for value in lost[1:]),
            ", ".join(f"{value:.3f}" for value in own),
            f"{distance['value']:.3f} ± {distance['standard_error']:.3f}",
        )
    return [first, second, third]


def _table(*columns: str) -> Table:
    table = Table(box=box.MARKDOWN)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def main(argv: Sequence[str] | None = None) -> Study:
    """Run the study and return what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=SCRIPTS.parent / "results" / "flow")
    parser.add_argument("--quick", action="store_true", help="one problem, large gaps, few")
    arguments = parser.parse_args(argv)
    cases: dict[str, tuple[float, ...]] = dict(CASES)
    numbers, particles = PARTICLES, 100_000
    if arguments.quick:
        cases = {"two_gaussians": (1e-1, 1e-2)}
        numbers, particles = (1_000, 4_000), 2_000
    progress = Console(stderr=True)
    convergence, equilibrium, critics = [], [], []
    for name, gaps in cases.items():
        for gap in gaps:
            progress.print(f"{name}, gap {gap:g} …")
            found = solved(name, gap)
            equilibrium.append(balance(name, found, particles))
        convergence += converge(name, found, numbers)
        if name == PUBLISHED:
            progress.print("published critics …")
            critics = lose(found, particles)
    study = Study(tuple(convergence), tuple(equilibrium), tuple(critics))
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_text(arguments.output / "flow.json", json_text(vars(study)))
    console = Console(width=160)
    for table in tables(study):
        console.print(table)
    return study


if __name__ == "__main__":
    main()
