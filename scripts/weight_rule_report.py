"""What scripts/study_weight_rules.py measured, as tables for people and as files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from congested.io.files import write_text


@dataclass(frozen=True)
class Row:
    """One rule on one pair.

    Attributes
    ----------
    pair, title, dimension, cells
        The pair and the mesh.
    rule
        The method, as `CellWeight` names it.
    chosen
        Whether it is what ``rule = "auto"`` takes.
    seconds
        Of the processor.
    error, stated
        The error that is made, to the accuracy of the reference, and the one that is stated.
    reference, reference_stated
        Rule of the reference, and the error that it states.
    samples
        Segments, 0 if there are none.
    plain_points, plain_segments
        Errors of plain sampling in the same time; None if the rule is exact.
    gain, gain_over_segments
        These over the error; None if the rule is exact.
    draws, draws_seconds, draws_error
        The plain points that were drawn.
    """

    pair: str
    title: str
    dimension: int
    cells: int
    rule: str
    chosen: bool
    seconds: float
    error: float
    stated: float
    reference: str
    reference_stated: float
    samples: int
    plain_points: float | None
    plain_segments: float | None
    gain: float | None
    gain_over_segments: float | None
    draws: int
    draws_seconds: float
    draws_error: float


@dataclass(frozen=True)
class Deposit:
    """All segments between two point sets, shared out.

    Attributes
    ----------
    cells, segments
        How many there are.
    seconds
        Of the processor.
    megabytes
        Largest memory that was held at a time, beyond mesh and points.
    mass
        Their mass in the mesh.
    """

    cells: int
    segments: int
    seconds: float
    megabytes: float
    mass: float


def rules_table(rows: Sequence[Row]) -> Table:
    """Return the table of the rules."""
    table = Table(title="The weight by each rule (*: the one taken by itself)")
    table.add_column("pair", no_wrap=True)
    for heading in (
        "rule", "cells", "s", "error made", "stated", "reference", "plain points", "gain",
        "plain segments", "gain",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        first = number == 0 or rows[number - 1].pair != row.pair
        last = number + 1 == len(rows) or rows[number + 1].pair != row.pair
        table.add_row(
            row.title if first else "",
            row.rule + ("*" if row.chosen else ""),
            f"{row.cells:,}",
            f"{row.seconds:.2f}",
            f"{row.error:.1e}",
            f"{row.stated:.1e}",
            f"{row.reference} {row.reference_stated:.0e}",
            _shown(row.plain_points, ".1e"),
            _shown(row.gain, ",.3g"),
            _shown(row.plain_segments, ".1e"),
            _shown(row.gain_over_segments, ",.3g"),
            end_section=last,
        )
    return table


def _shown(value: float | None, form: str) -> str:
    return "exact" if value is None else format(value, form)


def deposits_table(rows: Sequence[Deposit]) -> Table:
    """Return the table of segments."""
    table = Table(title="All segments between two point sets in the plane")
    for heading in ("cells", "segments", "s", "MiB held", "1 − mass"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            f"{row.cells:,}",
            f"{row.segments:,}",
            f"{row.seconds:.1f}",
            f"{row.megabytes:.0f}",
            f"{1.0 - row.mass:.0e}",
        )
    return table


def write(directory: Path, rows: Sequence[Row], segments: Sequence[Deposit]) -> list[Path]:
    """Write weight_rules.json and weight_rules.csv, each in one step."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "rules": [dataclasses.asdict(row) for row in rows],
        "segments": [dataclasses.asdict(row) for row in segments],
    }
    files = [directory / "weight_rules.json", directory / "weight_rules.csv"]
    write_text(files[0], json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Row)])
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    write_text(files[1], text.getvalue())
    return files
