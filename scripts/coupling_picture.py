"""The picture of scripts/study_couplings.py: weights, fluxes and gradients side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from few_colors import save_in_few_colors
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure

from congested.geometry import FloatArray
from congested.io.arrays import ResultArrays
from congested.plot_panels import (
    Panel,
    draw_color_bar,
    new_figure,
    overview_panels,
    weighted_quantile,
)
from congested.plot_plane import draw_contour, draw_streamlines, draw_values
from congested.plot_raster import Raster, make_raster

# Inches: size of a panel along its longer side, and what lies around it.
_SIDE, _GAP, _LEFT, _RIGHT, _TOP, _BOTTOM = 1.5, 0.06, 0.34, 0.62, 1.12, 0.12
_DPI = 100
# Pixels of the raster per panel, and grid for streamlines and contours.
_PIXELS, _LINE_GRID = 150, 90
# Decades of the scale of σ, at most.
_DECADES = 4.0
# Levels of each colour in the file: nobody sees the steps, and the file becomes half as large.
# (A palette of 255 colours is smaller still, but leaves bands.)
_COLOR_LEVELS = 30
_SOURCE_COLOR, _TARGET_COLOR = "#c44e00", "#1f6fb4"
_ROWS = ("weight", "momentum", "gradient")
_LABELS = {"weight": "weight σ", "momentum": "flux |m|", "gradient": "gradient |∇u|"}


@dataclass(frozen=True)
class Column:
    """What one column shows.

    Attributes
    ----------
    title
        Lines above it.
    arrays
        The solution; None if there is none.
    weight
        Density (n,) of σ; None if there is none to show.
    note
        Text in the empty panels.
    """

    title: str
    arrays: ResultArrays | None
    weight: FloatArray | None
    note: str = ""


def draw(file: Path, title: str, numbers: str, columns: Sequence[Column]) -> None:
    """Draw the grid, one column per weight, the same colours along a row, into a PNG file."""
    solved = [column.arrays for column in columns if column.arrays is not None]
    raster = make_raster(solved[0].vertices, solved[0].cells, solved[0].cell_volume, _PIXELS)
    lines = make_raster(
        solved[0].vertices, solved[0].cells, solved[0].cell_volume, _LINE_GRID, averaged=False
    )
    scales = _shared_scales(columns)
    figure, grid, bars = _layout(raster, title, numbers, len(columns))
    for place, column in enumerate(columns):
        grid[0][place].set_title(column.title, size=7.5, pad=4, linespacing=1.35)
        for row, name in enumerate(_ROWS):
            axes = grid[row][place]
            panel = _panel(scales[name], column)
            if panel is None and name == "weight":
                _draw_data(axes, raster, solved[0])
                continue
            if panel is None:
                _write(axes, 0.5, column.note)
                axes.set_facecolor("0.97")
                continue
            draw_values(axes, raster, panel)
            assert column.arrays is not None or name == "weight"
            if name == "momentum" and column.arrays is not None:
                draw_streamlines(axes, lines, column.arrays, density=0.6, scale=0.45)
            if name == "gradient":
                draw_contour(axes, lines, solved[0], panel, width=0.5)
    for row, name in enumerate(_ROWS):
        draw_color_bar(figure, bars[row], scales[name])
        bars[row].tick_params(labelsize=7)
        grid[row][0].set_ylabel(_LABELS[name], size=9)
    save_in_few_colors(figure, file, _DPI, _COLOR_LEVELS)


def _shared_scales(columns: Sequence[Column]) -> dict[str, Panel]:
    """Return panels with the values of all columns, whose colour scales suit all of them."""
    solved = [column.arrays for column in columns if column.arrays is not None]

    def joined(name: str) -> FloatArray:
        return np.concatenate([getattr(arrays, name) for arrays in solved])

    names = ("cell_volume", "momentum", "gradient", "source", "target", "gap_indicator", "weight")
    everything = dataclasses.replace(solved[0], **{name: joined(name) for name in names})
    panels = {panel.name: panel for panel in overview_panels(everything)}
    # The scale of σ is that of the cells where mass moves, without the extremes at singular tips.
    density, volume = everything.weight, everything.cell_volume
    top = weighted_quantile(density, density * volume, 0.8)
    moved = np.linalg.norm(everything.momentum, axis=1) * volume * (density > 0.0)
    low = max(weighted_quantile(density, moved, 0.01), top * 10.0**-_DECADES)
    if low < top:
        panels["weight"] = dataclasses.replace(panels["weight"], norm=LogNorm(low, top))
    return {name: panels[name] for name in _ROWS}


def _panel(scale: Panel, column: Column) -> Panel | None:
    """Return one column's panel with a scale of all; None if there is nothing to show."""
    arrays = column.arrays
    if scale.name == "weight":
        if column.weight is None:
            return None
        return dataclasses.replace(scale, values=column.weight, active=column.weight > 0.0)
    if arrays is None:
        return None
    values = np.linalg.norm(getattr(arrays, scale.name), axis=1)
    # A column without a weight is that of W₁, where the potential is meant everywhere.
    everywhere = scale.name == "momentum" or column.weight is None
    active = np.ones(len(values), dtype=bool) if everywhere else arrays.weight > 0.0
    return dataclasses.replace(scale, values=values, active=active)


def _layout(
    raster: Raster, title: str, numbers: str, columns: int
) -> tuple[Figure, list[list[Axes]], list[Axes]]:
    """Place the panels and, at the end of each row, its colour bar."""
    left, right, bottom, top = raster.extent
    longer = max(right - left, top - bottom)
    width, height = _SIDE * (right - left) / longer, _SIDE * (top - bottom) / longer
    size_x = _LEFT + columns * (width + _GAP) + _RIGHT
    size_y = _BOTTOM + len(_ROWS) * (height + _GAP) + _TOP
    figure = new_figure(size_x, size_y, title, numbers)
    grid, bars = [], []
    for row in range(len(_ROWS)):
        y = _BOTTOM + (len(_ROWS) - 1 - row) * (height + _GAP)
        line = []
        for column in range(columns):
            x = _LEFT + column * (width + _GAP)
            axes = figure.add_axes((x / size_x, y / size_y, width / size_x, height / size_y))
            axes.set_xlim(left, right)
            axes.set_ylim(bottom, top)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set(linewidth=0.4, color="0.5")
            line.append(axes)
        grid.append(line)
        x = _LEFT + columns * (width + _GAP) + 0.04
        bars.append(figure.add_axes((x / size_x, y / size_y, 0.11 / size_x, height / size_y)))
    return figure, grid, bars


def _write(axes: Axes, height: float, text: str, color: str = "0.25") -> None:
    axes.text(
        0.5, height, text, size=7, ha="center", va="center", transform=axes.transAxes, color=color,
        bbox={"facecolor": "white", "alpha": 0.6, "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def _draw_data(axes: Axes, raster: Raster, arrays: ResultArrays) -> None:
    """Show source and target in the place of a weight, where there is none."""
    image = np.ones((*raster.cell.shape, 3))
    for values, color, most in (
        (arrays.target, _TARGET_COLOR, 0.4),
        (arrays.source, _SOURCE_COLOR, 1.0),
    ):
        top = weighted_quantile(values, values * arrays.cell_volume, 0.5)
        opacity = most * np.clip(np.nan_to_num(raster.cellwise(values)) / top, 0.0, 1.0)
        image += opacity[..., None] * (np.array(to_rgb(color)) - image)
    axes.imshow(image, origin="lower", extent=raster.extent, interpolation="nearest")
    for word, height, color in (("source", 0.93, _SOURCE_COLOR), ("target", 0.82, _TARGET_COLOR)):
        _write(axes, height, word, color)
