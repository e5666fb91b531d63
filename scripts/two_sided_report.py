"""What scripts/study_two_sided.py found, as tables for people, as files and as a picture."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from few_colors import save_in_few_colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from tents import TentRow

from congested.io.files import write_text
from congested.io.result import json_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from congested.critics.reference import Reference
    from congested.geometry import BoolArray, FloatArray

_DPI = 80
# Panels of the picture in a row, and levels of each colour in the file.
_COLUMNS, _COLOR_LEVELS = 4, 24
_LARGEST = 1.4


@dataclass(frozen=True)
class MeshRow:
    """One mesh.

    Attributes
    ----------
    cells
        Triangles.
    lower, upper
        Bounds of the one-sided optimum.
    tents
        Two-sided values of the P1 solution, without and with tents.
    maximum
        Two-sided value that a P1 function has.
    """

    cells: int
    lower: float
    upper: float
    tents: tuple[TentRow, ...]
    maximum: float


@dataclass(frozen=True, eq=False)
class Slopes:
    """How long gradients are in one of the two regions, under a measure.

    Attributes
    ----------
    mass
        Share of the measure that the region has.
    quantiles
        Of 10, 50 and 90 %.
    flat, steep
        Shares of the region with lengths below 0.9 and above 1.1.
    averaged
        Mean length of gradients that are averaged over blocks first.
    histogram
        Shares of the region.
    """

    mass: float
    quantiles: tuple[float, ...]
    flat: float
    steep: float
    averaged: float
    histogram: FloatArray

    def content(self) -> dict[str, Any]:
        """Return the numbers for a file."""
        low, middle, high = self.quantiles or (None, None, None)
        return {
            "mass": self.mass,
            "tenth": low,
            "median": middle,
            "nine_tenths": high,
            "flat": self.flat,
            "steep": self.steep,
            "averaged": self.averaged,
        }


@dataclass(frozen=True, eq=False)
class CriticRow:
    """A critic, or a P1 function.

    Attributes
    ----------
    name, method, width
        Who it is; no method and width 0 for P1 functions.
    one_sided, two_sided
        Its two dual values.
    still, moving
        Slopes where no mass moves and where it does, under σ.
    still_volume
        Slopes where no mass moves, by area.
    """

    name: str
    method: str
    width: int
    one_sided: float
    two_sided: float
    still: Slopes
    moving: Slopes
    still_volume: Slopes


@dataclass(frozen=True, eq=False)
class Map:
    """Lengths (n,) of gradients for a panel of the picture."""

    name: str
    length: FloatArray


@dataclass(frozen=True)
class Study:
    """What came out: meshes, the coarsest first, and on the finest one critics."""

    title: str
    strength: float
    meshes: tuple[MeshRow, ...]
    critics: tuple[CriticRow, ...]
    notes: tuple[str, ...]


def tables(study: Study) -> list[Table]:
    """Return the tables: meshes, tents on the finest of them, critics there."""
    title = f"{study.title}, λ = {study.strength:g}"
    meshes = Table(title=f"{title}: two-sided values between the bounds of the one-sided optimum")
    for heading in (
        "cells", "one-sided optimum", "two-sided: P1 solution", "with tents, k = 1",
        "P1 maximum", "lacks to P1 solution's D",
    ):  # fmt: skip
        meshes.add_column(heading, justify="right")
    for row in study.meshes:
        meshes.add_row(
            f"{row.cells:,}",
            f"{row.lower:.5f} … {row.upper:.5f}",
            f"{row.tents[0].dual_value:.5f}",
            f"{row.tents[1].dual_value:.5f}",
            f"{row.maximum:.5f}",
            f"{row.lower - row.maximum:.1e}",
        )
    last = study.meshes[-1]
    tents = Table(title=f"Tents on k² parts of each of {last.cells:,} cells")
    for heading in ("k", "two-sided value", "less D of P1", "all upward, less D", "largest change"):
        tents.add_column(heading, justify="right")
    for one in last.tents:
        tents.add_row(
            f"{one.parts or 'none'}",
            f"{one.dual_value:.6f}",
            f"{one.dual_value - last.lower:+.1e}",
            f"{one.dual_value_upward - last.lower:+.1e}",
            f"{one.distance:.5f}",
        )
    found = Table(
        title="|∇f| where no mass moves and where it does, under σ: 10, 50, 90 %; "
        "flat: |∇f| < 0.9, steep: |∇f| > 1.1; averaged: |mean of ∇f over blocks|"
    )
    for heading in (
        "critic", "D", "two-sided D", "still: |∇f|", "flat", "steep", "averaged", "flat by area",
        "moving: |∇f|", "flat",
    ):  # fmt: skip
        found.add_column(heading, justify="right", no_wrap=True)
    for critic in study.critics:
        still, moving = critic.still, critic.moving
        found.add_row(
            critic.name,
            f"{critic.one_sided:.4f}",
            f"{critic.two_sided:.4f}",
            " ".join(f"{one:.2f}" for one in still.quantiles),
            f"{100 * still.flat:.1f} %",
            f"{100 * still.steep:.1f} %",
            f"{still.averaged:.3f}",
            f"{100 * critic.still_volume.flat:.1f} %",
            " ".join(f"{one:.2f}" for one in moving.quantiles),
            f"{100 * moving.flat:.1f} %",
        )
    share = study.critics[0].still.mass
    found.caption = f"{100 * share:.0f} % of σ lies where no mass moves"
    return [meshes, tents, found]


def write(directory: Path, study: Study) -> list[Path]:
    """Write two_sided.json, and two_sided.csv with the critics, each in one step."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [_flat(one) for one in study.critics]
    content = {
        "title": study.title,
        "strength": study.strength,
        "meshes": [dataclasses.asdict(row) for row in study.meshes],
        "critics": rows,
        "notes": study.notes,
    }
    files = [directory / "two_sided.json", directory / "two_sided.csv"]
    write_text(files[0], json_text(content))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(files[1], text.getvalue())
    return files


def _flat(one: CriticRow) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": one.name,
        "method": one.method,
        "width": one.width,
        "one_sided": one.one_sided,
        "two_sided": one.two_sided,
    }
    for region in ("still", "moving", "still_volume"):
        slopes: Slopes = getattr(one, region)
        row |= {f"{region}_{key}": value for key, value in slopes.content().items()}
    return row


# --- picture -------------------------------------------------------------------------------------


def draw(
    file: Path,
    study: Study,
    reference: Reference,
    still: BoolArray,
    maps: Sequence[Map],
    bins: FloatArray,
) -> Path:
    """Draw |∇f| of the functions on the plane, and its histograms where no mass moves."""
    chosen = [*maps[:2], *maps[-2:]] if len(maps) > 2 else list(maps)
    arrays = reference.arrays
    assert arrays is not None
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(2.7 * _COLUMNS, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(2, _COLUMNS)
        for axis in grid.flat[len(chosen) : _COLUMNS]:
            axis.set_axis_off()
        for axis, one in zip(grid[0], chosen, strict=False):
            values = np.where(reference.weight > 0.0, one.length, np.nan)
            painted = axis.tripcolor(
                *arrays.vertices.T, arrays.cells, facecolors=values, cmap="RdBu_r", vmin=0.6,
                vmax=_LARGEST, rasterized=True,
            )  # fmt: skip
            axis.set_title(one.name, fontsize=9)
            axis.set_aspect("equal")
            axis.set_xticks([])
            axis.set_yticks([])
        figure.colorbar(painted, ax=grid[0], label="|∇f|", shrink=0.8)
        names = [one.name for one in chosen]
        rows = {one.name: one for one in study.critics}
        for axis in grid[1][len(names) :]:
            axis.set_axis_off()
        for axis, name in zip(grid[1], names, strict=False):
            _draw_histogram(axis, rows[name], bins)
        figure.suptitle(
            f"{study.title}, λ = {study.strength:g}: {len(arrays.cells):,} cells; "
            f"{100 * study.critics[0].still.mass:.0f} % of σ where no mass moves"
        )
        save_in_few_colors(figure, file, _DPI, _COLOR_LEVELS)
    return file


def _draw_histogram(axis: Axes, row: CriticRow, bins: FloatArray) -> None:
    for slopes, color, label in (
        (row.moving, "#c44e00", "mass moves"),
        (row.still, "#1f6fb4", "no mass moves"),
    ):
        axis.stairs(slopes.histogram, bins, fill=True, alpha=0.55, color=color, label=label)
    axis.set_yscale("symlog", linthresh=0.01)
    axis.set_ylim(0.0, 1.0)
    axis.set_xlabel("|∇f|")
    axis.axvline(1.0, color="0.3", linewidth=0.6)
    axis.legend(fontsize=7, loc="upper left")
