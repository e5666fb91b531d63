"""Does the flow of a solution have its momentum, and are its paths the cheapest? Measured.

For each problem: particles 10³ … 10⁶, with the errors of time-averaged momentum and arrivals; then
solutions with smaller and smaller gaps, with the excess of path costs over potentials and what
cheaper paths there are; then, for the published pair, the mass that published critics lose (where
they lie in the folder $CONGESTED_PUBLISHED); then what is seen in the third panel of flow.png at
λ = ∞, where there should be nothing. Four tables and study.json; docs/flow.md reads them.
It runs on one rank.

    .venv/bin/python scripts/study_flow.py
    .venv/bin/python scripts/study_flow.py --pictures -o results/flow_pictures
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from critic_readings import published_critics
from few_colors import copy_in_few_colors
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
from congested.flow_result import ray_groups
from congested.io.files import write_text
from congested.io.result import json_text
from congested.measures.sampling import estimate_mean
from congested.plot_flow import difference_panel

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
# Gaps of the solutions at λ = ∞, and seeds of each; seeds and particles of critics' path lengths.
LIMIT_GAPS, LIMIT_SEEDS = (1e-3, 2e-4), 6
LENGTH_SEEDS, LENGTH_PARTICLES = 8, 40_000
# Problems of the pictures by the names of these, and their width and levels of each colour.
PICTURES = {"flow": "ray_monotone_d2_n4", "flow_letter": "letter", "flow_channel": "channel"}
WIDTH, LEVELS = 1500, 28


@dataclass(frozen=True)
class Study:
    """What came out: rows of the four tables.

    Attributes
    ----------
    convergence
        Particles and errors.
    equilibrium
        Gaps and path costs.
    critics
        Mass that critics lose, and what their particles are worth.
    limits
        At λ = ∞: gaps, and what the third panel shows, over the end of its scale.
    """

    convergence: tuple[dict[str, Any], ...]
    equilibrium: tuple[dict[str, Any], ...]
    critics: tuple[dict[str, Any], ...]
    limits: tuple[dict[str, Any], ...]


def solved(name: str, gap: float | None = None, strength: float | None = None) -> Reference:
    """Solve a problem by adaptive refinement, to a gap and for a λ of one's own if there is one."""
    problem = ct.Problem.from_file(PROBLEMS / f"{name}.toml")
    if strength is not None:
        problem = dataclasses.replace(problem, strength=strength)
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
        "pushforward_wasserstein1": flow.numbers["pushforward_wasserstein1"],
        **flow.wardrop,
    }


def lose(found: Reference, particles: int) -> list[dict[str, Any]]:
    """Compute the flows of the published critics, and lengths of their paths for some seeds."""
    options = ct.FlowOptions(particles=particles)
    rows = []
    for method, critic in published_critics():
        flow = ct.compute_flow(found, critic, name=method, options=options)
        masses = flow.tally.sample()[1].mass
        lengths = []
        for seed in range(LENGTH_SEEDS):
            plan = Plan(LENGTH_PARTICLES, seed)
            moved = statistics(flow.field, plan, simulate(flow.field, plan, found.comm))
            lengths.append(moved.length.value)
        rows.append(
            {
                "critic": method,
                "orders_of_masses": float(np.ptp(np.log10(np.quantile(masses, (0.01, 0.99))))),
                "lengths": vars(estimate_mean(np.array(lengths))),
                **flow.result(),
            }
        )
    return rows


def vanish(gap: float) -> dict[str, Any]:
    """Return the largest difference in traffic that flow.png shows at λ = ∞, over its scale."""
    found = solved("two_gaussians", gap, math.inf)
    assert found.arrays is not None
    shown = []
    for seed in range(LIMIT_SEEDS):
        options = ct.FlowOptions(particles=10_000, seed=seed)
        flow = ct.compute_flow(found, options=options, equilibrium=False)
        panel = difference_panel(found.arrays, ray_groups(flow))
        shown.append(float(np.abs(panel.values).max() / panel.norm.vmax))
    return {"relative_gap": found.bounds.relative_gap, "shown": shown}


def paint(folder: Path) -> None:
    """Make the pictures of the page."""
    none = {"animation": "none"}
    for name, problem in PICTURES.items():
        found = solved(problem)
        place = folder / problem
        kind = {"animation": "gif"} if problem == "letter" else none
        ct.compute_flow(found, equilibrium=False).write(place, **kind)
        copy_in_few_colors(place / "flow.png", folder / f"{name}.png", WIDTH, LEVELS)
        if problem == PUBLISHED:
            for method, critic in published_critics():
                place = folder / method
                flow = ct.compute_flow(found, critic, name=f"the published {method} critic")
                flow.write(place, **none)
                copy_in_few_colors(
                    place / "flow.png", folder / f"flow_critic_{method}.png", WIDTH, LEVELS
                )


def tables(study: Study) -> list[Table]:
    """Return the four tables."""
    first = _table(
        *("problem", "cells", "particles", "momentum, relative L1", "by chance"),
        *("arrivals, relative L1", "by chance", "s"),
    )
    for row in study.convergence:
        first.add_row(
            row["problem"],
            f"{row['cells']:,}",
            f"{row['particles']:,}",
            f"{row['momentum_relative_l1']:.4f} ± {row['momentum_relative_l1_error']:.4f}",
            f"{row['momentum_relative_l1_chance']:.4f}",
            f"{row['pushforward_relative_l1']:.4f} ± {row['pushforward_relative_l1_error']:.4f}",
            f"{row['pushforward_relative_l1_chance']:.4f}",
            f"{row['seconds']:.2f}",
        )
    second = _table(
        *("problem", "cells", "gap", "excess (99 %)", "excess (mean)", "violation", "detour"),
        *("distance error", "path cost", "expected", "W1 of arrivals, of target", "s"),
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
            f"{row['distance_error']:.1e}",
            f"{row['mean_cost']:.4f} ± {row['mean_cost_error']:.4f}",
            f"{row['expected_cost']:.5f}",
            f"{_estimate(row['pushforward_wasserstein1'])}, "
            f"{_estimate(row['pushforward_wasserstein1']['two_samples_of_target'])}",
            f"{row['seconds']:.1f}",
        )
    third = _table(
        *("critic", "lost in cells", "in boxes", "of the solution", "W1 to the target"),
        *("as good as", "orders of masses", "falls like", "path length", "of the momentum"),
    )
    for row in study.critics:
        lost = row["imbalance"]["critic"]["lost"]
        own = row["imbalance"]["solution"]["lost"]
        distance = row["masses_kept"]["pushforward_wasserstein1"]
        third.add_row(
            row["critic"],
            f"{lost[0]:.3f}",
            ", ".join(f"{value:.3f}" for value in lost[1:]),
            ", ".join(f"{value:.3f}" for value in own),
            _estimate(distance),
            f"{row['effective_particles']:.0f}",
            f"{row['orders_of_masses']:.1f}",
            f"{row['convergence']['exponent']:.2f}",
            _estimate(row["lengths"]),
            f"{row['momentum_l1']:.4f}",
        )
    fourth = _table("two Gaussians, λ = ∞: gap", "shown, over the scale")
    for row in study.limits:
        fourth.add_row(
            f"{row['relative_gap']:.1e}", ", ".join(f"{value:.3f}" for value in row["shown"])
        )
    return [first, second, third, fourth]


def _estimate(entry: dict[str, float]) -> str:
    return f"{entry['value']:.3f} ± {entry['standard_error']:.3f}"


def _table(*columns: str) -> Table:
    table = Table(box=box.MARKDOWN)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def main(argv: Sequence[str] | None = None) -> Study | None:
    """Run the study and return what came out, if it was not pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=SCRIPTS.parent / "results" / "flow")
    parser.add_argument("--pictures", action="store_true", help="make the pictures, no tables")
    parser.add_argument("--quick", action="store_true", help="one problem, large gaps, few")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.pictures:
        paint(arguments.output)
        return None
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
    limits = []
    for gap in (1e-2,) if arguments.quick else LIMIT_GAPS:
        progress.print(f"two_gaussians, λ = ∞, gap {gap:g} …")
        limits.append(vanish(gap))
    study = Study(tuple(convergence), tuple(equilibrium), tuple(critics), tuple(limits))
    write_text(arguments.output / "study.json", json_text(vars(study)))
    console = Console(width=220)
    for table in tables(study):
        console.print(table)
    return study


if __name__ == "__main__":
    main()
