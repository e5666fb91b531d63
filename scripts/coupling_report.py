"""What scripts/study_couplings.py found, as tables for people and as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import congested as ct
from congested.geometry import FloatArray
from congested.io.arrays import ResultArrays
from congested.io.files import atomic_file


@dataclass(frozen=True)
class Reference:
    """What is known of W₁, for the data of the cells.

    Attributes
    ----------
    lower, upper
        Certified bounds.
    exact
        W₁ of the original measures, where it is known.
    direction
        Direction (n, d) in which mass moves in the mean of each cell.
    where
        Cells (n,) in which directions are compared.
    arrays
        The solution at λ = ∞.
    seconds
        What it took.
    """

    lower: float
    upper: float
    exact: float | None
    direction: FloatArray
    where: np.ndarray
    arrays: ResultArrays
    seconds: float

    def least_costs(self, strength: float) -> tuple[float, float]:
        """Return bounds of W₁ + W₁²/(4λ), which no weight of mass one undercuts.

        By the inequality of Cauchy and Schwarz (∫|m|)² ≤ ∫|m|²/σ ∫σ, so that every flux costs at
        least M + M²/(4λ) with M = ∫|m| ≥ W₁. Equality needs σ proportional to |m|.
        """
        lower, upper = (bound + bound**2 / (4.0 * strength) for bound in (self.lower, self.upper))
        return lower, upper


@dataclass(frozen=True)
class Row:
    """Result for one weight.

    Attributes
    ----------
    name, title
        Key of the weight, and its name in words.
    status
        "solved", or "infeasible" or "failed" with a reason.
    reason
        Why there are no values.
    values
        The columns, as far as there are any.
    arrays
        The solution, for pictures.
    weight
        σ (n,) as density on the cells.
    """

    name: str
    title: str
    status: str
    reason: str
    values: dict[str, Any]
    arrays: ResultArrays | None
    weight: FloatArray


def tables(problem: ct.Problem, reference: Reference, rows: Sequence[Row]) -> list[Table]:
    """Return the two tables: what the weights cost, and how mass moves under them."""
    exact = "" if reference.exact is None else f" (original data: {reference.exact:.5f})"
    costs = Table(
        title=f"{problem.title}: {len(reference.arrays.cells):,} cells, λ = {problem.strength:g}\n"
        f"W₁ in {reference.lower:.4f} … {reference.upper:.4f}{exact}"
    )
    ways = Table(title="Where mass moves, and where the potential points")
    for table in (costs, ways):
        table.add_column("weight σ", no_wrap=True)
    for heading in (
        "cost, certified", "± cells", "P", "L", "L of flux", "over W₁", "L − 2P", "∫|m|",
        "efficiency",
    ):  # fmt: skip
        costs.add_column(heading, justify="right", no_wrap=True)
    for heading in (
        "flux in poorest 10 %", "1 %", "1 − cos, flux", "source", "closed", "error of σ", "s",
    ):  # fmt: skip
        ways.add_column(heading, justify="right", no_wrap=True)
    costs.add_row(*_least_row(problem.strength, reference), end_section=True)
    for row in rows:
        if not row.values:
            costs.add_row(row.title, row.status)
            ways.add_row(row.title, row.status)
            continue
        v = row.values
        costs.add_row(
            row.title,
            f"{v['lower']:.4f} … {v['upper']:.4f}",
            f"{v['data_error']:.4f}",
            f"{v['penalty']:.4f}",
            f"{v['critic_loss']:.4f}",
            f"{v['loss_of_flux']:.4f}",
            f"{100 * v['loss_over_wasserstein']:+.1f} %",
            f"{v['critic_loss'] - 2.0 * v['penalty']:.4f}",
            f"{v['momentum_l1']:.4f}",
            f"{100 * v['efficiency']:.0f} %",
        )
        ways.add_row(
            row.title,
            f"{100 * v['flux_in_poorest_tenth']:.1f} %",
            f"{100 * v['flux_in_poorest_hundredth']:.2f} %",
            f"{v['direction_error_flux']:.4f}",
            f"{v['direction_error_source']:.4f}",
            f"{100 * v['cells_closed']:.1f} %",
            f"{100 * v['weight_error']:.1f} %",
            f"{v['seconds']:.1f}",
        )
    return [costs, ways]


def _least_row(strength: float, reference: Reference) -> list[str]:
    """Return the row of costs of a weight in proportion to the flux of W₁."""
    lower, upper = reference.least_costs(strength)
    least = reference.upper
    penalty = least**2 / (4.0 * strength)
    return [
        "least of all: σ ∝ |m|",
        f"{lower:.4f} … {upper:.4f}",
        "",
        f"{penalty:.4f}",
        "",
        f"{least + 2.0 * penalty:.4f}",
        f"{100 * 2.0 * penalty / least:+.1f} %",
        f"{least:.4f}",
        f"{least:.4f}",
        "100 %",
    ]


def write(
    directory: Path, problem: ct.Problem, reference: Reference, rows: Sequence[Row]
) -> list[Path]:
    """Write couplings.json and couplings.csv, each in one step."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "title": problem.title,
        "strength": problem.strength,
        "cells": len(reference.arrays.cells),
        "wasserstein1": {
            "lower": reference.lower,
            "upper": reference.upper,
            "exact": reference.exact,
            "seconds": reference.seconds,
        },
        "least_cost": reference.least_costs(problem.strength),
        "couplings": {
            row.name: {"status": row.status, "reason": row.reason, **row.values} for row in rows
        },
        "problem": problem.description,
    }
    files = [directory / "couplings.json", directory / "couplings.csv"]
    with atomic_file(files[0]) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode())
    columns = list(dict.fromkeys(key for row in rows for key in row.values))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["coupling", "status", "reason", *columns])
    writer.writeheader()
    for row in rows:
        known = {"coupling": row.name, "status": row.status, "reason": row.reason}
        writer.writerow({**known, **row.values})
    with atomic_file(files[1]) as file:
        file.write(text.getvalue().encode())
    return files
