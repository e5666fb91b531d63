"""How far from optimal is a trained critic? Certified on a mesh, and sampled in high dimension.

    .venv/bin/python scripts/study_training.py -o results/training
    .venv/bin/python scripts/study_training.py --quick -o results/training_quick

The first part solves a problem, trains critics on it, and certifies each of them against the
solution on the way: by method, and for WGAN-GP and WGAN-LP by λ, width and batch. The second part
has no mesh: Gaussians in dimension 16, where the dual value of a critic on fresh samples is a lower
bound of the congested cost; for centred ones the cost is known. It writes training.csv (all rows of
all histories), training.json and training.png; docs/training.md tells what came out.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI
from rich.progress import Progress
from training_report import Demonstration, Run, demonstration_table, draw, runs_table, write

import congested as ct
from congested.critics.certify import certifier
from congested.critics.objectives import Method
from congested.critics.problem_sampling import problem_samplers
from congested.critics.reference import reference_from_directory
from congested.critics.sampling import Sampler, from_samplers
from congested.critics.training import train
from congested.critics.training_options import Training
from congested.parallel import error_console, output_console

if TYPE_CHECKING:
    from congested.critics.reference import Reference
    from congested.critics.sampling import Samplers
    from congested.problem import Problem

ROOT = Path(__file__).resolve().parents[1]
PROBLEM = ROOT / "scripts" / "problems" / "two_gaussians.toml"

PENALTIES = (Method.GP, Method.LP)
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
WIDTHS = (8, 32, 128)
BATCHES = (16, 64, 1024)


# --- certified, in the plane --------------------------------------------------------------------


def variations(base: Training) -> list[tuple[str, Training]]:
    """Return what is trained: the name of what differs from the rest, and the options."""
    runs = [("method", dataclasses.replace(base, method=method)) for method in Method]
    for method in PENALTIES:
        own = dataclasses.replace(base, method=method)
        for name, values in (("strength", STRENGTHS), ("width", WIDTHS), ("batch", BATCHES)):
            runs += [
                (name, dataclasses.replace(own, **{name: value}))
                for value in values
                if value != getattr(own, name)
            ]
    return runs


def solved(problem: Problem, strength: float, gap: float, directory: Path) -> Reference:
    """Return the solution for a λ, solved unless it lies in its directory."""
    place = directory / f"solution_{strength:g}"
    if not (place / "result.json").exists():
        quiet = dataclasses.replace(problem.output, overview=False, formats=())
        ct.solve(
            dataclasses.replace(problem, strength=strength, output=quiet),
            comm=MPI.COMM_SELF,
            relative_gap=gap,
        ).write(place)
    return reference_from_directory(place, MPI.COMM_SELF)


def trained(varied: str, samplers: Samplers, options: Training, reference: Reference) -> Run:
    """Train a critic and certify it on the way."""
    result = train(samplers, options, certifier=certifier(reference))
    return Run(varied, options, result.history, result.best, reference.bounds.lower)


# --- sampled, in dimension 16 -------------------------------------------------------------------


def gaussian(mean: np.ndarray, std: float) -> Sampler:
    """Return the sampler of N(mean, std² I)."""
    return lambda number, random: mean + std * random.standard_normal((number, len(mean)))


def radial_cost(dimension: int, first: float, second: float, strength: float) -> float:
    """Return the congested cost from N(0, first² I) to N(0, second² I).

    All is radial. With F(r) the mass that crosses the sphere of radius r, and g the density of |x|
    under σ, the cost is ∫ F + F² / (4 λ g) dr.
    """
    from scipy.special import gammainc, gammaln

    half = 0.5 * dimension
    largest = max(first, second)
    spread = largest * (math.sqrt(dimension) + 9.0)
    radius = np.linspace(spread * 1e-6, spread, 20_001)
    crossing = np.abs(
        gammainc(half, 0.5 * (radius / first) ** 2) - gammainc(half, 0.5 * (radius / second) ** 2)
    )
    nodes, weights = np.polynomial.legendre.leggauss(80)
    share = 0.5 * (nodes + 1.0)
    std = np.hypot((1.0 - share) * first, share * second)[:, None]
    log_density = (
        (dimension - 1) * np.log(radius / std)
        - 0.5 * (radius / std) ** 2
        - np.log(std)
        + (1.0 - half) * math.log(2.0)
        - gammaln(half)
    )
    density = 0.5 * weights @ np.exp(log_density)
    with np.errstate(divide="ignore", invalid="ignore"):
        congestion = np.where(crossing > 1e-14, crossing**2 / (4.0 * strength * density), 0.0)
    return float(np.trapezoid(crossing + congestion, radius))


def demonstrations(options: Training, dimension: int, samples: int) -> list[Demonstration]:
    """Train on samples of Gaussians, and bound the cost from below on fresh ones."""
    centre = np.zeros(dimension)
    shift = np.full(dimension, 2.0 / math.sqrt(dimension))
    first, second, strength = 0.25, 0.5, options.strength
    rows = []
    for name, mean, exact in (
        ("centred", centre, radial_cost(dimension, first, second, strength)),
        ("shifted", shift, None),
    ):
        samplers = from_samplers(gaussian(centre, first), gaussian(mean, second))
        for method in PENALTIES:
            result = train(samplers, dataclasses.replace(options, method=method))
            dual = result.fresh_dual(samplers, samples)
            seconds = result.history[-1].seconds
            rows.append(Demonstration(name, dimension, str(method), dual, exact, seconds))
    return rows


def main(argv: Sequence[str] | None = None) -> tuple[list[Run], list[Demonstration]]:
    """Run the study; return its rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "results" / "training")
    parser.add_argument("--problem", type=Path, default=PROBLEM)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--gap", type=float, default=1e-3, help="relative gap of the solutions")
    parser.add_argument("--dimension", type=int, default=16, help="of the second part")
    parser.add_argument("--quick", action="store_true", help="few steps, small networks, few runs")
    arguments = parser.parse_args(argv)
    problem = ct.Problem.from_file(arguments.problem)
    samplers = problem_samplers(problem)
    steps, gap, samples = arguments.steps, arguments.gap, 1 << 20
    base = Training(steps=steps, check_every=max(1, steps // 10), strength=problem.strength)
    deep = dataclasses.replace(base, width=128)
    if arguments.quick:
        steps, gap, samples = 60, 1e-2, 1 << 14
        base = dataclasses.replace(
            base, steps=steps, check_every=20, width=16, depth=2, batch=64, learning_rate=5e-3
        )
        deep = dataclasses.replace(base, width=32)
    planned = variations(base)
    if arguments.quick:
        planned = [run for run in planned if run[0] == "method" and run[1].method in PENALTIES]

    arguments.output.mkdir(parents=True, exist_ok=True)
    runs = []
    with Progress(console=error_console(), transient=True) as progress:
        for varied, options in progress.track(planned, description="training"):
            reference = solved(problem, options.strength, gap, arguments.output)
            runs.append(trained(varied, samplers, options, reference))
            error_console().print(runs[-1].title, f"{runs[-1].best.suboptimality_upper:.2e}")
    rows = demonstrations(deep, arguments.dimension, samples)
    console = output_console()
    console.print(runs_table(runs))
    console.print(demonstration_table(rows))
    write(arguments.output, runs, rows)
    draw(arguments.output / "training.png", runs, base)
    console.print(f"files: {arguments.output}/")
    return runs, rows


if __name__ == "__main__":
    main()
