"""What scripts/study_lambda.py found, as tables for people, as files and as a picture."""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from critic_readings import Reading
from lambda_bounds import Enclosure, Envelope, Interval
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from congested.io.files import atomic_path, write_text
from congested.io.result import json_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_QUANTITIES = ("critic_loss", "dual_value", "penalty", "momentum_l1", "bias")
_COLORS = {"critic_loss": "#c44e00", "dual_value": "#1f6fb4", "momentum_l1": "#2a8a3e"}
_LABELS = {"critic_loss": "L", "dual_value": "D = L − P", "momentum_l1": "∫|m| = L − 2P"}
_MARKERS = {"gp": "^", "lp": "o"}


@dataclass(frozen=True, eq=False)
class Study:
    """What came out.

    Attributes
    ----------
    title, cells
        Of the problem; triangles of the mesh.
    envelope
        Bounds at every λ.
    enclosures, curve
        Everything at the λ that were solved for, and at many between them, for the picture.
    readings
        What was read off critics.
    notes
        What was left out, with its reason.
    data_error
        Estimate of what the data of the cells move the cost by, the largest of all λ.
    """

    title: str
    cells: int
    envelope: Envelope
    enclosures: tuple[Enclosure, ...]
    curve: tuple[Enclosure, ...]
    readings: tuple[Reading, ...]
    notes: tuple[str, ...]
    data_error: float


def _span(one: Interval, digits: int = 4) -> str:
    return f"{one.lower:.{digits}f} … {one.upper:.{digits}f}"


def strength_table(study: Study) -> Table:
    """Return the table of bounds, a row for each λ."""
    wasserstein = study.envelope.wasserstein
    table = Table(
        title=f"{study.title}: {study.cells:,} cells; W₁ in {_span(wasserstein, 5)} "
        f"(data of the cells, which may move all by {study.data_error:.1g})"
    )
    for heading in ("λ", "L", "D = L − P", "P", "∫|m| = L − 2P", "L over W₁", "∫|m| over W₁"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in study.enclosures:
        least = max(0.0, one.critic_loss.lower / wasserstein.upper - 1.0)
        most = one.critic_loss.upper / wasserstein.lower - 1.0
        over = one.bias.lower / wasserstein.upper, one.bias.upper / wasserstein.lower
        table.add_row(
            f"{one.strength:g}",
            _span(one.critic_loss),
            _span(one.dual_value),
            _span(one.penalty, 5),
            _span(one.momentum_l1),
            f"{100 * least:.2f} … {100 * most:.2f} %",
            f"{100 * over[0]:.2f} … {100 * over[1]:.2f} %",
        )
    return table


def reading_table(study: Study) -> Table:
    """Return the table of critics."""
    table = Table(
        title="Critics: D less D_f is in δ; the reading L − 2P is off ∫|m| by less than is proved"
    )
    for heading in (
        "critic", "λ", "L", "P", "two-sided P", "δ", "L − 2P", "± proved", "best multiple",
        "W₁ in", "L / max|∇f|",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for one in study.readings:
        table.add_row(
            one.name,
            f"{one.strength:g}",
            f"{one.critic_loss:.4f}",
            f"{one.penalty:.4f}",
            f"{one.penalty_two_sided:.4f}",
            _span(one.suboptimality),
            f"{one.momentum_l1:.4f}",
            f"{max(-one.momentum_l1_error.lower, one.momentum_l1_error.upper):.5f}",
            f"{one.scaled:.4f}",
            _span(one.wasserstein),
            f"{one.lipschitz:.4f}",
        )
    return table


def write(directory: Path, study: Study) -> list[Path]:
    """Write lambda.json and lambda.csv, each in one step."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "title": study.title,
        "cells": study.cells,
        "data_error": study.data_error,
        "wasserstein1": dataclasses.asdict(study.envelope.wasserstein),
        "strengths": [dataclasses.asdict(one) for one in study.enclosures],
        "critics": [dataclasses.asdict(one) for one in study.readings],
        "notes": study.notes,
    }
    files = [directory / "lambda.json", directory / "lambda.csv"]
    write_text(files[0], json_text(content))
    text = io.StringIO(newline="")
    ends = [f"{name}_{end}" for name in _QUANTITIES for end in ("lower", "upper")]
    writer = csv.writer(text)
    writer.writerow(["strength", *ends])
    for one in study.enclosures:
        writer.writerow([one.strength, *_ends(one)])
    write_text(files[1], text.getvalue())
    return files


def _ends(one: Enclosure) -> list[Any]:
    intervals = [getattr(one, name) for name in _QUANTITIES]
    return [end for interval in intervals for end in (interval.lower, interval.upper)]


def draw(file: Path, study: Study) -> Path:
    """Draw all quantities over W₁, and what L − 2P and the penalty are on a scale of their own."""
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        _draw_values(left, study)
        _draw_excess(right, study)
        for axis in (left, right):
            axis.set_xscale("log")
            axis.set_xlabel("λ")
            axis.grid(True, alpha=0.3)
            axis.legend(fontsize=8)
        figure.suptitle(f"{study.title}: {study.cells:,} cells; bands are bounds")
        with atomic_path(file) as partial:
            figure.savefig(partial, dpi=90, format="png")
    return file


def _draw_values(axis: Axes, study: Study) -> None:
    places = [one.strength for one in study.curve]
    scale = study.envelope.wasserstein.middle
    for name, color in _COLORS.items():
        lower = [getattr(one, name).lower / scale for one in study.curve]
        upper = [getattr(one, name).upper / scale for one in study.curve]
        axis.fill_between(places, lower, upper, color=color, alpha=0.6, label=_LABELS[name], lw=1)
    for one in study.readings:
        face = "none" if "published" not in one.name else None
        for name, color in _COLORS.items():
            value = getattr(one, name) / scale
            axis.plot(one.strength, value, _MARKERS[one.method], color=color, mfc=face, ms=6)
    axis.plot([], [], "^", color="0.3", mfc="none", label="GP critics")
    axis.plot([], [], "o", color="0.3", mfc="none", label="LP critics")
    most = max(one.critic_loss.upper for one in study.curve if one.strength >= 1.0) / scale
    axis.set_ylim(0.95, min(1.5, most * 1.02))
    axis.set_ylabel("over W₁")


def _draw_excess(axis: Axes, study: Study) -> None:
    places = [one.strength for one in study.curve]
    scale = study.envelope.wasserstein.middle
    for name, color, label in (
        ("penalty", "#7b4ea3", "P"),
        ("bias", _COLORS["momentum_l1"], "∫|m| − W₁"),
    ):
        lower = [max(getattr(one, name).lower / scale, 1e-9) for one in study.curve]
        upper = [getattr(one, name).upper / scale for one in study.curve]
        axis.fill_between(places, lower, upper, color=color, alpha=0.4, label=label)
    for one in study.readings:
        error = abs(one.momentum_l1 - study.envelope.wasserstein.middle) / scale
        face = "none" if "published" not in one.name else None
        axis.plot(one.strength, error, _MARKERS[one.method], color="k", mfc=face, ms=6)
        lack = one.suboptimality.upper / scale
        axis.plot(one.strength, lack, _MARKERS[one.method], color="#c44e00", mfc=face, ms=6)
    axis.plot([], [], "s", color="k", mfc="none", label="critics: |L − 2P − W₁|")
    axis.plot([], [], "s", color="#c44e00", mfc="none", label="critics: δ, at most")
    axis.set_yscale("log")
    axis.set_ylim(bottom=max(1e-5, 0.1 * min(one.penalty.upper / scale for one in study.curve)))
    axis.set_ylabel("over W₁")
