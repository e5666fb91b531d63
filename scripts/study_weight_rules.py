"""Measure how well and how fast each rule computes the weight σ, beside plain sampling.

For pairs of measures of every kind, σ on a mesh by each rule that serves the pair: seconds, the
error that the rule states and the one that it makes, against a far finer reference; and the error
of plain sampling in the same time. A table, weight_rules.json and weight_rules.csv;
docs/weight_rules.md reads them.

    .venv/bin/python scripts/study_weight_rules.py
    .venv/bin/python scripts/study_weight_rules.py --cells 100000 --pairs discs clouds
    .venv/bin/python scripts/study_weight_rules.py --segments --cells 100000

Errors are sums of |error of σ_T| over all cells T, relative to the mass of σ. Plain sampling draws
x, y and t independently at random and counts points x + t (y − x) per cell; plain segments are
drawn at random and shared out exactly. Their errors fall like N^(−1/2): measured with --draws
points, and an eighth as many segments, they are scaled to the seconds of the rule. Seconds are
those of the processor, after a first run on a tiny mesh that compiles.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from mpi4py import MPI
from rich.console import Console
from weight_rule_report import Deposit, Row, deposits_table, rules_table, write

import congested as ct
from congested.cell_search import CellBins
from congested.domain import create_mesh
from congested.geometry import Cells, FloatArray, cells_of_mesh
from congested.measures.base import Measure
from congested.measures.points import Points
from congested.weights import raster
from congested.weights.base import CellWeight
from congested.weights.compute import cell_weight
from congested.weights.kinds import RULES, Interpolates

SCRIPTS = Path(__file__).resolve().parent
PROBLEMS = SCRIPTS / "problems"
CELLS, DRAWS, REFERENCE_SAMPLES = 16_384, 1 << 22, 1 << 25
# Points drawn at a time.
CHUNK = 1 << 17
# A rule that takes less is run three times, and the least time counts.
SHORT = 2.0
# What is asked of the rule of a reference, and of how many directions that of a raster is: eight
# times as many as the rule begins with, since one with the same directions has the same error.
FINEST = {"closed-form": 1e-12, "rays": 1e-5, "raster": 5e-4}
FINEST_DIRECTIONS = 1024


@dataclass(frozen=True)
class Pair:
    """Two measures in a box.

    Attributes
    ----------
    title
        For the table.
    source, target
        The measures.
    lower, upper
        Corners of the domain.
    reference
        The rule of the reference.
    finest
        Tolerance of the reference, None: what `FINEST` says.
    """

    title: str
    source: Measure
    target: Measure
    lower: tuple[float, ...] = (0.0, 0.0)
    upper: tuple[float, ...] = (1.0, 1.0)
    reference: str = "rays"
    finest: float | None = None


def of_file(name: str, title: str, **values: Any) -> Pair:
    """Return the pair of a problem file."""
    problem = ct.Problem.from_file(PROBLEMS / name)
    box = problem.domain
    assert isinstance(box, ct.Box)
    lower, upper = tuple(box.lower), tuple(box.upper)
    return Pair(title, problem.source, problem.target, lower, upper, **values)


def cloud(dimension: int, number: int, seed: int, center: float, spread: float) -> Points:
    """Return points that scatter about a ring or a shell, cut off at the unit box."""
    generator = np.random.default_rng(seed)
    directions = generator.normal(size=(number, dimension))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    noise = 0.03 * generator.normal(size=(number, dimension))
    return Points(np.clip(center + spread * directions + noise, 0.0, 1.0))


def pairs() -> dict[str, Pair]:
    """Return the pairs of the study."""
    space: dict[str, Any] = {"lower": (0.0,) * 3, "upper": (1.0,) * 3, "reference": "segments"}
    grid = np.stack(np.meshgrid([0.15, 0.3, 0.45], [0.2, 0.35, 0.5]), axis=-1).reshape(-1, 2)
    gaussian = ct.GaussianMixture.from_stds([[0.7, 0.65]], [0.07])
    mixtures = [
        ct.GaussianMixture.from_stds(means, stds)
        for means, stds in (
            ([[0.25, 0.3], [0.3, 0.7], [0.45, 0.5]], [0.04, 0.06, 0.05]),
            ([[0.6, 0.25], [0.75, 0.5], [0.65, 0.75]], [0.05, 0.03, 0.06]),
        )
    ]
    return {
        "discs": Pair(
            "two discs", ct.UniformBall((0.3, 0.35), 0.18), ct.UniformBall((0.68, 0.62), 0.22)
        ),
        "box-gauss": Pair("box and Gaussian", ct.UniformBox((0.1, 0.15), (0.4, 0.45)), gaussian),
        "mixtures": Pair("Gaussian mixtures, 3 and 3", *mixtures, reference="closed-form"),
        "points-gauss": Pair("9 points and Gaussian", ct.Points(grid), gaussian),
        "published": of_file("ray_monotone_d2_n4.toml", "published pair D = 2, N = 4", finest=5e-4),
        "letter": of_file("letter.toml", "a letter and a ring", reference="raster"),
        "clouds": Pair(
            "4,000 and 4,000 points",
            cloud(2, 4000, 1, 0.35, 0.2),
            cloud(2, 4000, 2, 0.6, 0.25),
            reference="all pairs",
        ),
        "balls": Pair(
            "two balls in space",
            ct.UniformBall((0.3, 0.35, 0.3), 0.2),
            ct.UniformBall((0.68, 0.62, 0.7), 0.22),
            **space,
        ),
        "gauss-box": Pair(
            "Gaussian and box in space",
            ct.GaussianMixture.from_stds([[0.3, 0.35, 0.3]], [0.07]),
            ct.UniformBox((0.55, 0.5, 0.6), (0.9, 0.9, 0.85)),
            **space,
        ),
        "clouds-3d": Pair(
            "2,000 and 2,000 points in space",
            cloud(3, 2000, 1, 0.35, 0.2),
            cloud(3, 2000, 2, 0.6, 0.25),
            **{**space, "reference": "all pairs"},
        ),
    }


def mesh_cells(pair: Pair, number: int) -> Cells:
    """Cut the domain of a pair into about so many cells."""
    sides = np.subtract(pair.upper, pair.lower)
    dimension = len(sides)
    wanted = number / (4.0 if dimension == 2 else 6.0)
    along = (wanted / np.prod(sides / sides.max())) ** (1.0 / dimension)
    box = ct.Box(pair.lower, pair.upper, cells=max(1, round(along)))
    return cells_of_mesh(create_mesh(box, MPI.COMM_SELF))


# --- what is measured ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """What plain sampling has given.

    Attributes
    ----------
    draws
        Number of points or segments.
    seconds, error
        What they took, without the search structure of the mesh, and how far they are off.
    """

    draws: int
    seconds: float
    error: float

    def error_after(self, seconds: float) -> float:
        """Return the error in another time, by the law of N^(−1/2)."""
        return self.error * math.sqrt(self.seconds / seconds)


def timed(action: Callable[[], CellWeight]) -> tuple[CellWeight, float]:
    """Run an action and return what it gives and its least seconds."""
    seconds = math.inf
    for _ in range(3):
        started = time.process_time()
        weight = action()
        seconds = min(seconds, time.process_time() - started)
        if seconds > SHORT:
            break
    return weight, seconds


def distance(masses: FloatArray, reference: CellWeight) -> float:
    """Return Σ|masses − reference| over the mass."""
    return float(np.abs(masses - reference.masses).sum() / reference.mass)


def plain_points(pair: Pair, bins: CellBins, draws: int) -> tuple[FloatArray, float]:
    """Draw points on random segments and count them per cell: their shares, and the seconds."""
    generator = np.random.default_rng(5)
    counts = np.zeros(bins.number)
    started = time.process_time()
    for first in range(0, draws, CHUNK):
        x, y = _ends(pair, generator, min(CHUNK, draws - first))
        holder, _ = bins.locate(x + generator.random((len(x), 1)) * (y - x))
        counts += np.bincount(holder[holder >= 0], minlength=bins.number)
    return counts / draws, time.process_time() - started


def plain_segments(pair: Pair, bins: CellBins, draws: int) -> tuple[FloatArray, float]:
    """Draw random segments and share them out: masses per cell, and the seconds."""
    generator = np.random.default_rng(6)
    masses = np.zeros(bins.number)
    started = time.process_time()
    for first in range(0, draws, CHUNK):
        x, y = _ends(pair, generator, min(CHUNK, draws - first))
        bins.deposit_segments(x, y, np.ones(len(x)), masses)
    return masses / draws, time.process_time() - started


def _ends(pair: Pair, generator: np.random.Generator, size: int) -> tuple[FloatArray, FloatArray]:
    x, y = (
        measure.sample(generator.random((size, measure.sample_dimension)))
        for measure in (pair.source, pair.target)
    )
    return x, y


def reference_of(pair: Pair, cells: Cells, samples: int) -> CellWeight:
    """Compute the reference; where it is sampled, with another seed than the rules have."""
    if pair.reference == "all pairs":
        return cell_weight(all_pairs(pair), pair.source, pair.target, cells)
    if pair.reference == "segments":
        weight = Interpolates(rule="segments", samples=samples, seed=1)
    else:
        tolerance = pair.finest or FINEST[pair.reference]
        weight = Interpolates(rule=pair.reference, tolerance=tolerance)
    with mock.patch.multiple(raster, _DIRECTIONS=FINEST_DIRECTIONS, _MOST_ATTEMPTS=1):
        return cell_weight(weight, pair.source, pair.target, cells)


def all_pairs(pair: Pair) -> Interpolates:
    """Return the weight by all pairs of points."""
    assert isinstance(pair.source, Points)
    assert isinstance(pair.target, Points)
    number = len(pair.source.points) * len(pair.target.points)
    return Interpolates(rule="segments", samples=number)


def weights_of(pair: Pair) -> Iterator[Interpolates]:
    """Yield the automatic choice first, then every rule by its name."""
    yield Interpolates()
    for rule in RULES[1:]:
        yield Interpolates(rule=rule)
    if isinstance(pair.source, Points) and isinstance(pair.target, Points):
        yield all_pairs(pair)


def cheap(weight: Interpolates) -> Interpolates:
    """Return the weight by the same rule, with little to do on a tiny mesh."""
    if weight.rule == "segments":
        return weight if weight.samples is None else dataclasses.replace(weight, samples=1)
    return dataclasses.replace(weight, tolerance=0.5)


def study(
    name: str, pair: Pair, number: int, draws: int, samples: int, report: Callable[[str], None]
) -> list[Row]:
    """Run every rule on one pair."""
    cells, tiny = mesh_cells(pair, number), mesh_cells(pair, 8)
    bins = CellBins(cells)
    report(f"{pair.title}: reference on {cells.number:,} cells …")
    started = time.process_time()
    reference = reference_of(pair, cells, samples)
    report(f"  {reference.method}, {time.process_time() - started:.0f} s")
    plain = []
    for sample, count in ((plain_points, draws), (plain_segments, max(1, draws // 8))):
        sample(pair, bins, 1)
        masses, seconds = sample(pair, bins, count)
        plain.append(Plain(count, seconds, distance(masses, reference)))
    rows: list[Row] = []
    for weight in weights_of(pair):
        try:
            method = cell_weight(cheap(weight), pair.source, pair.target, tiny).method
        except ct.InputError as error:
            if error.key != "weight.rule":
                raise
            continue
        if weight.samples is not None:
            method = "all-pairs"
        if any(row.rule == method for row in rows):
            continue

        def compute(weight: Interpolates = weight) -> CellWeight:
            return cell_weight(weight, pair.source, pair.target, cells)

        found, seconds = timed(compute)
        error = distance(found.masses, reference)
        exact = found.relative_error == 0.0
        same_time = [None if exact else each.error_after(seconds) for each in plain]
        rows.append(
            Row(
                name,
                pair.title,
                cells.dimension,
                cells.number,
                found.method,
                not rows,
                seconds,
                error,
                found.relative_error,
                reference.method,
                reference.relative_error,
                found.samples,
                *same_time,
                *(None if each is None else each / error for each in same_time),
                draws,
                plain[0].seconds,
                plain[0].error,
            )
        )
        report(f"  {found.method}: {seconds:.2f} s, error {error:.2g}")
    return rows


def deposits(number: int, sizes: Sequence[int]) -> list[Deposit]:
    """Share out the segments of point sets of several sizes on one mesh in the plane."""
    square = Pair("", cloud(2, 1, 1, 0.35, 0.2), cloud(2, 1, 2, 0.6, 0.25))
    cells = mesh_cells(square, number)
    found = []
    for size in (1, *sizes):  # the first compiles
        source, target = cloud(2, size, 1, 0.35, 0.2), cloud(2, size, 2, 0.6, 0.25)
        weight = Interpolates(rule="segments", samples=size**2)
        bins = CellBins(cells)
        tracemalloc.start()
        started = time.process_time()
        result = cell_weight(weight, source, target, cells, bins=bins)
        seconds = time.process_time() - started
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        found.append(Deposit(cells.number, size**2, seconds, peak / 2**20, result.mass))
    return found[1:]


def main(argv: Sequence[str] | None = None) -> tuple[list[Row], list[Deposit]]:
    """Run the study and return its rows."""
    known = pairs()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=CELLS, help="cells of the mesh, about")
    parser.add_argument(
        "--pairs", nargs="*", choices=list(known), default=None, metavar="NAME",
        help="which pairs: " + ", ".join(known),
    )  # fmt: skip
    parser.add_argument("--draws", type=int, default=DRAWS, help="plain points that are drawn")
    parser.add_argument(
        "--reference-samples", type=int, default=REFERENCE_SAMPLES, help="of sampled references"
    )
    parser.add_argument(
        "--segments", nargs="*", type=int, metavar="POINTS",
        help="share out all segments between two sets of so many points (1000 2000), and no pairs "
        "unless some are named",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, default=SCRIPTS.parent / "results" / "weight_rules"
    )
    arguments = parser.parse_args(argv)
    progress, console = Console(stderr=True), Console(width=180)
    names = arguments.pairs
    if names is None:
        names = list(known) if arguments.segments is None else []
    rows: list[Row] = []
    for name in names:
        rows += study(
            name,
            known[name],
            arguments.cells,
            arguments.draws,
            arguments.reference_samples,
            progress.print,
        )
    segments: list[Deposit] = []
    if arguments.segments is not None:
        segments = deposits(arguments.cells, arguments.segments or [1000, 2000])
        console.print(deposits_table(segments))
    if rows:
        console.print(rules_table(rows))
    for file in write(arguments.output, rows, segments):
        progress.print(str(file))
    return rows, segments


if __name__ == "__main__":
    main()
