"""Two-sided and one-sided penalty: the same optimal value, other critics.

Three parts. On a sequence of meshes the two-sided value of the P1 solution is set beside those of
the same function with tents on it (tents.py), whose gradients have length one, and of a P1 function
that maximises the two-sided value itself, all between the certified bounds of the one-sided
problem. Then GP and LP critics of several widths are trained, and where no mass moves the lengths
of their gradients are compared with those where it does. With --published the published critics
are taken, for the published pair, where they lie in the folder $CONGESTED_PUBLISHED. Three tables,
two_sided.json, two_sided.csv and two_sided.png; docs/two_sided.md reads them. It runs on one rank.

    .venv/bin/python scripts/study_two_sided.py
    .venv/bin/python scripts/study_two_sided.py --published -o results/two_sided_published
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from critic_readings import (
    METHODS,
    STRENGTH,
    VARIABLE,
    Effort,
    published_critics,
    published_folder,
    train_critic,
    training_is_possible,
)
from mpi4py import MPI
from rich.console import Console
from tents import block_gradient, still_cells, tent_rows, two_sided_maximum
from two_sided_report import CriticRow, Map, MeshRow, Slopes, Study, draw, tables, write

import congested as ct
from congested.critics.evaluate import evaluate
from congested.critics.reference import Reference, reference_from_arrays
from congested.geometry import BoolArray, FloatArray, cells_of_mesh, split_simplices
from congested.io.arrays import gather_arrays

SCRIPTS = Path(__file__).resolve().parent
PROBLEM = SCRIPTS / "problems" / "opposite_lanes.toml"
PUBLISHED = SCRIPTS / "problems" / "ray_monotone_d2_n4.toml"
MESHES, WIDTHS = (12, 24, 48), (16, 64, 256)
# A cell is still if |m| is below this share of its mean under |m|.
STILL = 0.01
# Parts of a triangle's sides with tents, at most; blocks along each side of the domain in which
# gradients are averaged; bins of slopes.
MOST_PARTS, BLOCKS = 16, 8
BINS = np.linspace(0.0, 1.5, 76)
# Relative error of σ that will do for a quick look.
QUICK_TOLERANCE = 3e-2


def solve_on(problem: ct.Problem, cells: int, gap: float) -> Reference:
    """Solve on one mesh, with a P1 potential."""
    if isinstance(problem.domain, ct.Box):
        domain = dataclasses.replace(problem.domain, cells=cells)
        problem = dataclasses.replace(problem, domain=domain)
    solution = ct.solve(
        problem, relative_gap=gap, refine="none", lower_bound="p1", comm=MPI.COMM_SELF
    )
    volume = cells_of_mesh(solution.mesh).volume
    arrays = gather_arrays(solution.mesh, solution.fields, volume)
    return reference_from_arrays(arrays, solution.result(), MPI.COMM_SELF)


def mesh_row(reference: Reference) -> tuple[MeshRow, FloatArray]:
    """Measure the two-sided values on one mesh; also return the gradients of its maximum."""
    tents = tent_rows(reference, MOST_PARTS)
    gradient, value = two_sided_maximum(reference)
    bounds = reference.bounds
    row = MeshRow(len(reference.volume), bounds.lower, bounds.upper, tuple(tents), value)
    return row, gradient


# --- slopes --------------------------------------------------------------------------------------


def slopes(
    points: FloatArray, gradient: FloatArray, mass: FloatArray, still: BoolArray
) -> tuple[Slopes, Slopes]:
    """Return how long gradients are where nothing moves and where mass moves, under a measure.

    Parameters
    ----------
    points, gradient, mass, still
        Places (m, 2), gradients (m, 2), the measure (m,), and whether nothing moves there (m,).
    """
    found = []
    length = np.linalg.norm(gradient, axis=1)
    for where in (still, ~still):
        weights = mass * where
        total = float(weights.sum())
        if total == 0.0:
            found.append(Slopes(0.0, (), 0.0, 0.0, 0.0, np.zeros(len(BINS) - 1)))
            continue
        order = np.argsort(length)
        share = np.cumsum(weights[order]) / total
        quantiles = np.interp([0.1, 0.5, 0.9], share, length[order])
        found.append(
            Slopes(
                mass=total / float(mass.sum()),
                quantiles=tuple(float(one) for one in quantiles),
                flat=float(weights[length < 0.9].sum()) / total,
                steep=float(weights[length > 1.1].sum()) / total,
                averaged=block_gradient(points[where], gradient[where], mass[where], BLOCKS),
                histogram=np.histogram(length, BINS, weights=weights / total)[0],
            )
        )
    return found[0], found[1]


def field_row(
    name: str,
    reference: Reference,
    gradient: FloatArray,
    still: BoolArray,
    two_sided: float | None = None,
) -> CriticRow:
    """Look at the gradients (n, 2) of a P1 function; without its two-sided value the solution's."""
    points = reference.simplices.mean(axis=1)
    lack = np.maximum(1.0 - np.linalg.norm(gradient, axis=1), 0.0)
    # By so much the two-sided penalty is the larger one.
    more = float((0.5 * reference.capacity * reference.volume) @ lack**2)
    if two_sided is None:
        two_sided = reference.bounds.lower - more
    volume = np.where(reference.weight > 0.0, reference.volume, 0.0)
    there, elsewhere = slopes(points, gradient, reference.weight * reference.volume, still)
    by_volume = slopes(points, gradient, volume, still)[0]
    return CriticRow(name, "", 0, two_sided + more, two_sided, there, elsewhere, by_volume)


def critic_row(
    name: str, method: str, width: int, reference: Reference, critic: ct.Network, still: BoolArray
) -> tuple[CriticRow, Map]:
    """Hold a critic against the solution, and look at its gradients."""
    one = evaluate(reference, critic, sign=1)
    fine = split_simplices(split_simplices(reference.simplices))
    points = fine.mean(axis=1)
    parts = len(points) // len(reference.volume)
    gradient = critic.gradient(points)
    mass = np.repeat(reference.weight * reference.volume, parts)
    volume = np.repeat(np.where(reference.weight > 0.0, reference.volume, 0.0), parts)
    there = np.repeat(still, parts)
    under_weight = slopes(points, gradient, mass, there)
    row = CriticRow(
        name=name,
        method=method,
        width=width,
        one_sided=one.dual_value,
        two_sided=one.critic_loss - one.penalty_two_sided,
        still=under_weight[0],
        moving=under_weight[1],
        still_volume=slopes(points, gradient, volume, there)[0],
    )
    assert one.fields is not None
    return row, Map(name, one.fields.gradient_norm)


def critics(
    problem: ct.Problem,
    widths: Sequence[int],
    effort: Effort,
    seed: int,
    published: bool,
    progress: Console,
) -> Iterator[tuple[str, str, int, ct.Network]]:
    """Yield name, method and width of trained critics, or of the published ones."""
    if published:
        for method, network in published_critics():
            width = max(len(bias) for bias in network.biases)
            yield f"{method}, published", method, width, network
        return
    if not training_is_possible():
        return
    from congested.critics.problem_sampling import problem_samplers

    samplers = problem_samplers(problem)
    for width in widths:
        rate = min(1e-2, 0.32 / width)
        for method in METHODS:
            progress.print(f"training {method}, width {width} …")
            own = dataclasses.replace(effort, width=width, learning_rate=rate)
            network = train_critic(samplers, method, problem.strength, own, seed)
            yield f"{method}, width {width}", method, width, network


# --- the study -----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> Study:
    """Run the study and return what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", nargs="?", type=Path, help="problem file, two lanes if none")
    parser.add_argument("--published", action="store_true", help="the published pair, its critics")
    parser.add_argument(
        "-o", "--output", type=Path, default=SCRIPTS.parent / "results" / "two_sided"
    )
    parser.add_argument("--meshes", nargs="+", type=int, default=list(MESHES), help="squares")
    parser.add_argument("--widths", nargs="*", type=int, default=list(WIDTHS), help="of critics")
    parser.add_argument("--steps", type=int, default=3000, help="of each training")
    parser.add_argument("--seed", type=int, default=0, help="of each training")
    parser.add_argument("--relative-gap", type=float, default=1e-3, help="goal on each mesh")
    parser.add_argument("--quick", action="store_true", help="coarse, one width, hardly trained")
    arguments = parser.parse_args(argv)
    if MPI.COMM_WORLD.size > 1:
        parser.error(f"found {MPI.COMM_WORLD.size} ranks; allowed: one, it is a serial script")
    meshes, widths, effort = arguments.meshes, arguments.widths, Effort(arguments.steps)
    if arguments.quick:
        meshes, widths, effort = [6, 12], [16], Effort(400, 128)
    file = arguments.problem or (PUBLISHED if arguments.published else PROBLEM)
    problem = ct.Problem.from_file(file)
    if arguments.published and problem.strength != STRENGTH:
        parser.error(f"found λ = {problem.strength:g}; allowed: {STRENGTH:g}, as published")
    if arguments.quick and isinstance(problem.weight, ct.Interpolates):
        weight = dataclasses.replace(problem.weight, tolerance=QUICK_TOLERANCE)
        problem = dataclasses.replace(problem, weight=weight)
    progress, console = Console(stderr=True), Console(width=150)
    started = time.perf_counter()
    rows = []
    for cells in sorted(meshes):
        progress.print(f"{cells} squares along a side …")
        reference = solve_on(problem, cells, arguments.relative_gap)
        row, maximum = mesh_row(reference)
        rows.append(row)
    # What follows is on the finest mesh.
    still = still_cells(reference, STILL)
    found = [
        field_row("one-sided, P1", reference, reference.gradient[:, 0], still),
        field_row("two-sided, P1", reference, maximum, still, rows[-1].maximum),
    ]
    maps = [
        Map("one-sided, P1", np.linalg.norm(reference.gradient[:, 0], axis=1)),
        Map("two-sided, P1", np.linalg.norm(maximum, axis=1)),
    ]
    for name, method, width, network in critics(
        problem, widths, effort, arguments.seed, arguments.published, progress
    ):
        row_of, picture = critic_row(name, method, width, reference, network, still)
        found.append(row_of)
        maps.append(picture)
    notes = []
    if arguments.published and len(found) == 2:
        notes.append(f"no published critics in {published_folder()} (${VARIABLE})")
    elif widths and len(found) == 2:
        notes.append("no trained critics: PyTorch is not installed")
    study = Study(problem.title or file.stem, problem.strength, tuple(rows), tuple(found),
                  tuple(notes))  # fmt: skip
    files = write(arguments.output, study)
    files.append(draw(arguments.output / "two_sided.png", study, reference, still, maps, BINS))
    for table in tables(study):
        console.print(table)
    for note in notes:
        console.print(note)
    names = ", ".join(one.name for one in files)
    console.print(f"{time.perf_counter() - started:.0f} s; {arguments.output}: {names}")
    return study


if __name__ == "__main__":
    main()
