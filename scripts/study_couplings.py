"""Why penalise on lines between independent pairs? Solve one pair of measures with several weights.

WGAN-GP samples its weight σ on lines between independent pairs of real and generated points. This
script solves the same pair, on the same mesh and with the same λ, with that weight and with others
of mass one, and puts their costs, fluxes and potentials side by side: two tables (couplings.json
and couplings.csv) and, in 2D, a picture (couplings.png). docs/couplings.md reads them.

It runs on one rank: eight small solves with tables between them, and directions that are compared
cell by cell on one mesh.

    .venv/bin/python scripts/study_couplings.py
    .venv/bin/python scripts/study_couplings.py scripts/problems/two_gaussians.toml -o results/two
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from coupling_picture import Column, draw
from coupling_report import Reference, Row, tables, write
from mpi4py import MPI
from rich.console import Console

import congested as ct
from congested.domain import create_mesh
from congested.geometry import Cells, FloatArray, cells_of_mesh, split_simplices
from congested.io.arrays import gather_arrays
from congested.weights.compute import cell_weight
from congested.weights.kinds import ConstantWeight, Interpolates, MixtureWeight, Weight

SCRIPTS = Path(__file__).resolve().parent
PROBLEM = SCRIPTS / "problems" / "ray_monotone_d2_n4.toml"

# At λ = ∞ the potential is hard to find, and only the flux is needed to this accuracy.
WASSERSTEIN_GAP = 2e-2
# Columns beside which there is room for a long line of text.
_WIDE = 8
# Directions are compared where this part of the W₁ flux is, if no exact direction is known.
KNOWN_SHARE = 0.99
# Length of the mean of unit vectors in a cell below which there is no one direction in it: that
# concerns the tips of ray-monotone pairs and the borders between funnels.
ONE_DIRECTION = 0.99
# Relative difference of densities that counts as none, when cells are sorted by them.
SAME_DENSITY = 1e-9


SOURCE, TARGET = Interpolates(coupling="source"), Interpolates(coupling="target")
OPTIMAL = Interpolates(coupling="optimal", order=2)
UNIFORM = ConstantWeight()
# The weights of the study, all of mass one: a name in words, and the weight.
COUPLINGS: dict[str, tuple[str, Weight]] = {
    "independent": ("independent pairs", Interpolates()),
    "optimal-1": ("optimal pairs, order 1", Interpolates(coupling="optimal", order=1)),
    "optimal-2": ("optimal pairs, order 2", OPTIMAL),
    "source": ("source", SOURCE),
    "target": ("target", TARGET),
    "uniform": ("uniform", UNIFORM),
    "both-ends": ("½ source + ½ target", MixtureWeight((SOURCE, TARGET))),
    "optimal-uniform": ("0.9 opt. 2 + 0.1 unif.", MixtureWeight((OPTIMAL, UNIFORM), (0.9, 0.1))),
}


# --- what is measured ---------------------------------------------------------------------------


def share_in_poorest(
    weight: FloatArray, moved: FloatArray, volume: FloatArray, part: float
) -> float:
    """Return the share of the flux in the cells that hold the lowest part of the weight's mass.

    Cells are sorted by the density of σ and filled up to `part` of its mass, the last one in
    proportion; cells of the same density count as one. Where the weight is the same everywhere,
    or proportional to |m|, the share is `part` itself.

    Parameters
    ----------
    weight
        Density (n,) of σ.
    moved
        ∫|m| of each cell (n,).
    volume
        Volumes (n,).
    part
        Number between 0 and 1.
    """
    order = np.argsort(weight)
    density = weight[order]
    new = np.diff(density) > SAME_DENSITY * density[1:]
    last = np.append(np.flatnonzero(new), len(density) - 1)
    mass = np.append(0.0, np.cumsum((weight * volume)[order])[last])
    flux = np.append(0.0, np.cumsum(moved[order])[last])
    return float(np.interp(part, mass / mass[-1], flux / flux[-1]))


def direction_error(gradient: FloatArray, reference: FloatArray, measure: FloatArray) -> float:
    """Return the mean of 1 − cos of the angle between −∇u and a direction, under a measure.

    Parameters
    ----------
    gradient
        ∇u (n, d); where it vanishes the cosine counts as 0.
    reference
        Unit vectors (n, d).
    measure
        Mass (n,) of each cell.
    """
    length = np.linalg.norm(gradient, axis=1)
    unit = -gradient / np.where(length > 0.0, length, 1.0)[:, None]
    cosine = (unit * reference).sum(axis=1)
    return float(measure @ (1.0 - cosine) / measure.sum())


def measured(solution: ct.Solution, cells: Cells, reference: Reference) -> dict[str, Any]:
    """Return the columns of one solution.

    The critic loss L and the penalty P are those of the potential. ``loss_of_flux`` is what the
    flux says that L is, ∫|m| + 2 ∫|m|²/(4λσ); compared with W₁ by its flux on the same mesh, the
    errors of the mesh cancel in part. ``efficiency`` is (∫|m|)²/(4λ σ(Ω)) over ∫|m|²/(4λσ): the
    congestion that a weight in proportion to |m| would leave, over what there is.
    """
    fields, bounds, values = solution.fields, solution.bounds, solution.values
    data, strength = solution.data, solution.problem.strength
    integrals = ct.cell_integrals(
        cells.simplices,
        fields.potential,
        fields.flux,
        fields.source,
        fields.target,
        fields.weight,
        strength,
        fields.potential_edges,
    )
    moved = integrals.momentum_l1
    total = float(moved.sum())
    # ∫|m|²/(4λσ), the penalty P as the flux knows it.
    congestion = float(integrals.transport_cost.sum()) - total
    source = fields.source * cells.volume
    return {
        "lower": bounds.lower,
        "upper": bounds.upper,
        "data_error": bounds.data_error,
        "critic_loss": values.critic_loss,
        "penalty": values.penalty,
        "momentum_l1": total,
        "loss_of_flux": total + 2.0 * congestion,
        "loss_over_wasserstein": (total + 2.0 * congestion) / reference.upper - 1.0,
        "efficiency": total**2 / (4.0 * strength * data["weight"]["mass"] * congestion),
        "flux_in_poorest_tenth": share_in_poorest(fields.weight, moved, cells.volume, 0.1),
        "flux_in_poorest_hundredth": share_in_poorest(fields.weight, moved, cells.volume, 0.01),
        "direction_error_flux": direction_error(
            fields.gradient, reference.direction, np.where(reference.where, moved, 0.0)
        ),
        "direction_error_source": direction_error(
            fields.gradient, reference.direction, np.where(reference.where, source, 0.0)
        ),
        "flux_compared": float(moved[reference.where].sum() / total),
        "source_compared": float(source[reference.where].sum() / source.sum()),
        "cells_closed": data["closed_cells"] / cells.number,
        "mass_displaced": max(
            data["mass_moved"][name] + 0.5 * data["mass_rescaled"][name]
            for name in ("source", "target")
        ),
        "weight_method": data["weight"]["method"],
        "weight_error": float(data["weight"]["relative_error"]),
        "weight_mass": data["weight"]["mass"],
        "newton_steps": solution.solver["newton_iterations"],
        "unfinished": ", ".join(solution.solver["unfinished"]),
        "seconds": solution.seconds["total"],
    }


# --- solving ------------------------------------------------------------------------------------


def wasserstein(problem: ct.Problem, cells: Cells, gap: float) -> Reference:
    """Solve at λ = ∞ and collect what is known of W₁.

    The lower bound is the better one of the solver's and of the linear potentials, which give the
    distance between the two centres of mass: sharp where all mass goes the same way.
    """
    limit = dataclasses.replace(problem, weight=ConstantWeight(), strength=math.inf)
    solution = ct.solve(
        limit,
        relative_gap=max(gap, WASSERSTEIN_GAP),
        refine="none",
        lower_bound="p1",
        comm=MPI.COMM_SELF,
    )
    arrays = gather_arrays(solution.mesh, solution.fields, cells.volume)
    assert arrays is not None
    fields = solution.fields
    shift = ((fields.source - fields.target) * cells.volume) @ cells.simplices.mean(axis=1)
    pair, exact = own_pair(problem), None
    if pair is not None:
        # Means of the exact directions over the cells, which matter at the tips.
        points = split_simplices(split_simplices(cells.simplices)).mean(axis=1)
        means = -pair.gradient(points).reshape(cells.number, -1, cells.dimension).mean(axis=1)
        length = np.linalg.norm(means, axis=1)
        direction = means / np.where(length > 0.0, length, 1.0)[:, None]
        where = length > ONE_DIRECTION
        exact = pair.wasserstein1()
    else:
        speed = np.linalg.norm(fields.momentum, axis=1)
        direction = fields.momentum / np.where(speed > 0.0, speed, 1.0)[:, None]
        order = np.argsort(-speed)
        carried = np.cumsum((speed * cells.volume)[order])
        where = np.zeros(cells.number, dtype=bool)
        where[order[: np.searchsorted(carried, KNOWN_SHARE * carried[-1]) + 1]] = True
    return Reference(
        max(solution.bounds.lower, float(np.linalg.norm(shift))),
        solution.bounds.upper,
        exact,
        direction,
        where,
        arrays,
        solution.seconds["total"],
    )


def own_pair(problem: ct.Problem) -> ct.RayMonotonePair | None:
    """Return the ray-monotone pair whose source and target the problem has, if it has one's."""
    source, target = problem.source, problem.target
    if not isinstance(source, ct.RayMonotoneSource) or not isinstance(target, ct.UniformBox):
        return None
    half = source.pair.half_width
    own = (target.lower == -half).all() and (target.upper == half).all()
    return source.pair if own else None


def solve_with(
    name: str, problem: ct.Problem, cells: Cells, reference: Reference, gap: float
) -> Row:
    """Solve with one weight; what makes it impossible goes into the row."""
    title, weight = COUPLINGS[name]
    problem = dataclasses.replace(problem, weight=weight)
    try:
        solution = ct.solve(
            problem, relative_gap=gap, refine="none", lower_bound="p1", comm=MPI.COMM_SELF
        )
    except (ct.InfeasibleProblem, ct.NotConverged) as error:
        status = "infeasible" if isinstance(error, ct.InfeasibleProblem) else "failed"
        masses = cell_weight(weight, problem.source, problem.target, cells).masses
        return Row(name, title, status, str(error), {}, None, masses / cells.volume)
    arrays = gather_arrays(solution.mesh, solution.fields, cells.volume)
    values = measured(solution, cells, reference)
    return Row(name, title, "solved", "", values, arrays, solution.fields.weight)


# --- the study ----------------------------------------------------------------------------------


def draw_rows(file: Path, problem: ct.Problem, reference: Reference, rows: Sequence[Row]) -> None:
    """Draw the picture: W₁ first, then a column for each weight, equal weights together."""
    bounds = f"[{reference.lower:.4f}, {reference.upper:.4f}]"
    columns = [Column(f"W₁ (λ = ∞)\n{bounds}", reference.arrays, None)]
    drawn: list[tuple[FloatArray, str]] = []
    for row in rows:
        same = [row.title, *(title for weight, title in drawn if np.allclose(weight, row.weight))]
        if len(same) > 1:
            place = 1 + [title for _, title in drawn].index(same[1])
            first = columns[place]
            title = first.title.replace("\n", f" = {row.title}\n", 1)
            columns[place] = dataclasses.replace(first, title=title)
            continue
        drawn.append((row.weight, row.title))
        bounds = "no solution"
        if row.values:
            bounds = f"[{row.values['lower']:.4f}, {row.values['upper']:.4f}]"
        columns.append(Column(f"{row.title}\n{bounds}", row.arrays, row.weight, row.status))
    words = [f"λ = {problem.strength:g}", f"{len(reference.arrays.cells):,} cells"]
    if len(columns) >= _WIDE:
        words[1] = f"above each column bounds of the cost for the data of {words[1]}"
        words.append("same colours along a row")
    words += ["black lines |∇u| = 1", "grey where σ vanishes"]
    draw(file, f"{problem.title}: the same pair under several weights", "; ".join(words), columns)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the study and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", nargs="?", type=Path, default=PROBLEM, help="problem file")
    parser.add_argument(
        "-o", "--output", type=Path, default=SCRIPTS.parent / "results" / "couplings"
    )
    parser.add_argument("--penalty", type=float, help="λ instead of the problem file's")
    parser.add_argument(
        "--cells", type=int, default=128, help="squares along the longest side of a box"
    )
    parser.add_argument(
        "--relative-gap", type=float, default=1e-3, help="goal of the solver on the mesh"
    )
    parser.add_argument(
        "--couplings", nargs="+", choices=list(COUPLINGS), default=list(COUPLINGS), metavar="NAME",
        help="which weights: " + ", ".join(COUPLINGS),
    )  # fmt: skip
    parser.add_argument("--no-picture", action="store_true", help="only the tables")
    arguments = parser.parse_args(argv)
    if MPI.COMM_WORLD.size > 1:
        parser.error(f"found {MPI.COMM_WORLD.size} ranks; allowed: one, it is a serial script")

    problem = ct.Problem.from_file(arguments.problem)
    if isinstance(problem.domain, ct.Box):
        domain = dataclasses.replace(problem.domain, cells=arguments.cells)
        problem = dataclasses.replace(problem, domain=domain)
    if arguments.penalty is not None:
        problem = dataclasses.replace(problem, strength=arguments.penalty)
    if math.isinf(problem.strength):
        parser.error("found λ = inf, for which the weight does not matter; allowed: a number")
    progress = Console(stderr=True)
    cells = cells_of_mesh(create_mesh(problem.domain, MPI.COMM_SELF))
    started = time.perf_counter()
    progress.print(f"W₁ on {cells.number:,} cells …")
    reference = wasserstein(problem, cells, arguments.relative_gap)
    rows = []
    for name in arguments.couplings:
        progress.print(f"{COUPLINGS[name][0]} …")
        rows.append(solve_with(name, problem, cells, reference, arguments.relative_gap))
    files = write(arguments.output, problem, reference, rows)
    if cells.dimension == 2 and not arguments.no_picture:
        picture = arguments.output / "couplings.png"
        draw_rows(picture, problem, reference, rows)
        files.append(picture)
    console = Console(width=140)
    for table in tables(problem, reference, rows):
        console.print(table)
    for row in rows:
        if row.reason:
            console.print(f"{row.title}: {row.status}: {row.reason}")
    names = ", ".join(file.name for file in files)
    console.print(f"{time.perf_counter() - started:.0f} s; {arguments.output}: {names}")
    return rows


if __name__ == "__main__":
    main()
    sys.exit(0)
