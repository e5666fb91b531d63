"""What does λ do? Certified L, L − P, ∫|m| and W₁ over four decades, and critics on top.

The problem is solved for each λ, and for λ = ∞, on one mesh; the fluxes and potentials found give
bounds at every λ (lambda_bounds.py). GP and LP critics are trained for some λ, the published ones
are taken for the published pair where they lie in the folder $CONGESTED_PUBLISHED, and what is read
off them is put beside the bounds, with its error. Two tables, lambda.json, lambda.csv and
lambda.png; docs/lambda.md reads them. It runs on one rank.

    .venv/bin/python scripts/study_lambda.py
    .venv/bin/python scripts/study_lambda.py --published -o results/lambda_published
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from critic_readings import (
    METHODS,
    STRENGTH,
    VARIABLE,
    Effort,
    Reading,
    published_critics,
    published_folder,
    read_critic,
    train_critic,
    training_is_possible,
)
from lambda_bounds import Envelope, Interval, envelope_of, trial_of
from lambda_report import Study, draw, reading_table, strength_table, write
from mpi4py import MPI
from rich.console import Console

import congested as ct
from congested.geometry import FloatArray, cells_of_mesh

SCRIPTS = Path(__file__).resolve().parent
PROBLEM = SCRIPTS / "problems" / "two_gaussians.toml"
PUBLISHED = SCRIPTS / "problems" / "ray_monotone_d2_n4.toml"
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
TRAINED = (1.0, 10.0, 100.0, 1000.0)
# Masses that differ by less are the same.
_SAME = 1e-9


def moved_by(first: FloatArray, second: FloatArray, volume: FloatArray, width: float) -> float:
    """Return how far W₁ can differ between two loads: their mass times the domain's diameter."""
    mass = 0.5 * float(np.abs((first - second) * volume).sum())
    return width * mass if mass > _SAME else 0.0


def solve_all(
    problem: ct.Problem, strengths: Sequence[float], gap: float, progress: Console
) -> tuple[Envelope, dict[float, ct.Solution]]:
    """Solve for each λ, the smallest first, and for λ = ∞, all on one mesh."""
    solutions, trials = {}, []
    weight = load = None
    wasserstein = Interval(0.0, math.inf)
    for strength in (*sorted(strengths), math.inf):
        progress.print(f"λ = {strength:g} …")
        solution = ct.solve(
            dataclasses.replace(problem, strength=strength),
            relative_gap=gap,
            refine="none",
            comm=MPI.COMM_SELF,
        )
        cells, fields = cells_of_mesh(solution.mesh), solution.fields
        weight = fields.weight if weight is None else weight
        load = fields.source - fields.target if load is None else load
        width = float(np.linalg.norm(np.ptp(cells.simplices.reshape(-1, cells.dimension), axis=0)))
        moved = moved_by(fields.source - fields.target, load, cells.volume, width)
        trial = trial_of(solution, cells, weight)
        if math.isinf(strength):
            # Cells without weight are closed at finite λ, and mass may have been moved out of them.
            bounds = solution.bounds
            wasserstein = Interval(bounds.lower - moved, bounds.upper + moved)
        if moved == 0.0:
            trials.append(trial)
        elif math.isfinite(strength):
            raise SystemExit(f"λ = {strength:g} moved mass out of closed cells: not comparable")
        solutions[strength] = solution
    return envelope_of(trials, wasserstein), solutions


def read_all(
    problem: ct.Problem,
    envelope: Envelope,
    solutions: dict[float, ct.Solution],
    trained: Sequence[float],
    effort: Effort,
    published: bool,
    progress: Console,
) -> tuple[list[Reading], list[str]]:
    """Train critics, fetch the published ones, and read W₁ off all of them."""
    critics: list[tuple[str, str, float, ct.Network]] = []
    notes = []
    if trained and not training_is_possible():
        notes.append("no trained critics: PyTorch is not installed")
    elif trained:
        from congested.critics.problem_sampling import problem_samplers

        samplers = problem_samplers(problem)
        for strength in trained:
            for method in METHODS:
                progress.print(f"training {method}, λ = {strength:g} …")
                network = train_critic(samplers, method, strength, effort)
                critics.append((f"{method}, width {effort.width}", method, strength, network))
    if published:
        found = [(f"{one}, published", one, STRENGTH, it) for one, it in published_critics()]
        critics += found
        if not found:
            notes.append(f"no published critics in {published_folder()} (${VARIABLE})")
    readings = []
    for name, method, strength, network in critics:
        report = ct.compare(solutions[strength], network).critics[0]
        upper = envelope.value(0.25 / strength).upper
        enclosure = envelope.enclose(strength)
        readings.append(read_critic(name, method, report.evaluation, upper, enclosure))
    return readings, notes


def main(argv: Sequence[str] | None = None) -> Study:
    """Run the study and return what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", nargs="?", type=Path, help="problem file, two Gaussians if none")
    parser.add_argument("--published", action="store_true", help="the published pair, its critics")
    parser.add_argument("-o", "--output", type=Path, default=SCRIPTS.parent / "results" / "lambda")
    parser.add_argument("--cells", type=int, help="squares along the longest side of a box")
    parser.add_argument("--relative-gap", type=float, default=2e-4, help="goal on the mesh")
    parser.add_argument("--strengths", nargs="+", type=float, default=list(STRENGTHS))
    parser.add_argument("--trained", nargs="*", type=float, default=None, help="λ of the critics")
    parser.add_argument("--steps", type=int, default=2000, help="of each training")
    parser.add_argument("--quick", action="store_true", help="coarse, few λ, hardly trained")
    arguments = parser.parse_args(argv)
    if MPI.COMM_WORLD.size > 1:
        parser.error(f"found {MPI.COMM_WORLD.size} ranks; allowed: one, it is a serial script")
    strengths, effort, cells = arguments.strengths, Effort(arguments.steps), arguments.cells or 64
    trained = list(TRAINED) if arguments.trained is None else arguments.trained
    if arguments.quick:
        strengths, effort, cells = [0.3, 3.0, 10.0, 100.0], Effort(300, 128, 16, 1e-2), 16
        trained = [10.0]
    if arguments.published:
        strengths = sorted({*strengths, STRENGTH})
    strengths = sorted({*strengths, *trained})
    if not all(0.0 < one < math.inf for one in strengths):
        parser.error("found a λ that is not positive and finite; allowed: numbers, ∞ is added")
    file = arguments.problem or (PUBLISHED if arguments.published else PROBLEM)
    problem = ct.Problem.from_file(file)
    if isinstance(problem.domain, ct.Box):
        problem = dataclasses.replace(
            problem, domain=dataclasses.replace(problem.domain, cells=cells)
        )
    progress, console = Console(stderr=True), Console(width=150)
    started = time.perf_counter()
    envelope, solutions = solve_all(problem, strengths, arguments.relative_gap, progress)
    readings, notes = read_all(
        problem, envelope, solutions, trained, effort, arguments.published, progress
    )
    enclosures = tuple(envelope.enclose(strength) for strength in strengths)
    between = np.geomspace(min(strengths), max(strengths), 121)
    study = Study(
        title=problem.title,
        cells=len(solutions[math.inf].fields.source),
        envelope=envelope,
        enclosures=enclosures,
        curve=tuple(envelope.enclose(float(strength)) for strength in between),
        readings=tuple(readings),
        notes=tuple(notes),
        data_error=max(one.bounds.data_error or 0.0 for one in solutions.values()),
    )
    files = write(arguments.output, study)
    files.append(draw(arguments.output / "lambda.png", study))
    console.print(strength_table(study))
    if readings:
        console.print(reading_table(study))
    for note in notes:
        console.print(note)
    names = ", ".join(one.name for one in files)
    console.print(f"{time.perf_counter() - started:.0f} s; {arguments.output}: {names}")
    return study


if __name__ == "__main__":
    main()
