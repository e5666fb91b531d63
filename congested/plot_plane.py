"""Pictures in 2D, several of the same triangle mesh, by matplotlib: the overview, a weight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from congested.geometry import FloatArray
from congested.io.arrays import ResultArrays
from congested.plot_panels import (
    INACTIVE_COLOR,
    Densities,
    Panel,
    boundary_facets,
    density_panels,
    draw_color_bar,
    few_cells,
    headline,
    new_figure,
    overview_panels,
    weight_headline,
)
from congested.plot_raster import Raster, make_raster, vertex_means

_DPI = 150
_PIXELS = 700  # of the raster along the longer side: about what a panel has in the file
_LINE_GRID = 180  # of the grid for streamlines and contours


def plot_plane(arrays: ResultArrays, result: Mapping[str, Any], file: Path) -> None:
    """Draw the 2D overview into a PNG file."""
    plane_figure(arrays, result).savefig(file, dpi=_DPI, format="png")


def plane_figure(arrays: ResultArrays, result: Mapping[str, Any]) -> Figure:
    """Draw the 2D overview; the axes are the six panels, each followed by its colour bar."""
    lines = make_raster(
        arrays.vertices, arrays.cells, arrays.cell_volume, _LINE_GRID, averaged=False
    )
    panels = overview_panels(arrays)
    figure, axes = draw_panels(arrays, panels, headline(result))
    for panel in panels:
        if panel.name == "momentum":
            draw_streamlines(axes[panel.name], lines, arrays)
        if panel.name == "gradient":
            draw_contour(axes[panel.name], lines, arrays, panel)
    return figure


def plot_weight_plane(arrays: Densities, result: Mapping[str, Any], file: Path) -> None:
    """Draw a weight in 2D into a PNG file."""
    weight_plane_figure(arrays, result).savefig(file, dpi=_DPI, format="png")


def weight_plane_figure(arrays: Densities, result: Mapping[str, Any]) -> Figure:
    """Draw source, target and weight in 2D; each panel is followed by its colour bar."""
    return draw_panels(arrays, density_panels(arrays), weight_headline(result))[0]


def draw_panels(
    arrays: Densities, panels: tuple[Panel, ...], words: tuple[str, str]
) -> tuple[Figure, dict[str, Axes]]:
    """Draw panels with their colour bars; return the figure and the axes of each panel."""
    raster = make_raster(arrays.vertices, arrays.cells, arrays.cell_volume, _PIXELS)
    outline = arrays.vertices[boundary_facets(arrays.cells)[0]]
    figure, grid = _layout(raster, len(panels), *words)
    for panel, (axes, bar_axes) in zip(panels, grid, strict=True):
        _draw_titled(axes, raster, panel)
        axes.add_collection(
            LineCollection(list(outline), colors="0.15", linewidths=0.7, clip_on=False)
        )
        if panel.name in ("source", "target", "weight"):
            _draw_points(axes, arrays, panel)
        draw_color_bar(figure, bar_axes, panel)
    return figure, {panel.name: axes for panel, (axes, _) in zip(panels, grid, strict=True)}


def _layout(
    raster: Raster, panels: int, title: str, numbers: str
) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Place up to three, or six or eight panels with their colour bars, in inches."""
    left, right, bottom, top = raster.extent
    aspect = (top - bottom) / (right - left)
    columns = (panels if panels <= 3 else panels // 2) if aspect > 0.45 else -(-panels // 4)
    rows = panels // columns
    width = min(12.0 / columns, 4.4 / aspect)
    height = width * aspect
    bar_gap, bar_width, bar_text, axis_text = 0.09, 0.14, 0.60, 0.34
    step_x, step_y = axis_text + width + bar_gap + bar_width + bar_text, height + 0.48
    size_x = max(columns * step_x + 0.15, 10.5)
    size_y = rows * step_y + 1.15
    shift = 0.5 * (size_x - columns * step_x) + 0.1

    figure = new_figure(size_x, size_y, title, numbers)
    grid = []
    for place in range(panels):
        row, column = divmod(place, columns)
        x, y = shift + column * step_x + axis_text, 0.32 + (rows - 1 - row) * step_y
        axes = figure.add_axes((x / size_x, y / size_y, width / size_x, height / size_y))
        x += width + bar_gap
        bar_axes = figure.add_axes((x / size_x, y / size_y, bar_width / size_x, height / size_y))
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        axes.tick_params(labelsize=8, color="0.4", labelcolor="0.25", length=3)
        axes.xaxis.set_major_locator(MaxNLocator(4 if width > 2 else 2))
        axes.yaxis.set_major_locator(MaxNLocator(4 if height > 2 else 2))
        axes.tick_params(bottom=row == rows - 1, labelbottom=row == rows - 1)
        axes.tick_params(left=column == 0, labelleft=column == 0)
        axes.spines[:].set_visible(False)
        grid.append((axes, bar_axes))
    return figure, grid


def draw_values(axes: Axes, raster: Raster, panel: Panel) -> bool:
    """Draw the colours of a panel, grey where it is not active; return whether it is anywhere."""
    image = raster.cellwise(np.where(panel.active, panel.values, 0.0))
    inactive = raster.cellwise((~panel.active).astype(float)) > 0.5
    colored = panel.colored(image)
    colored[inactive, :3] = float(INACTIVE_COLOR)
    colored[..., 3] = raster.inside
    axes.imshow(colored, origin="lower", extent=raster.extent, interpolation="nearest")
    return bool(inactive.any())


def _draw_titled(axes: Axes, raster: Raster, panel: Panel) -> None:
    inactive = draw_values(axes, raster, panel)
    axes.set_title(panel.title, size=11, pad=5)
    if inactive:
        axes.text(
            0.02, 0.02, f"grey: {panel.inactive}", transform=axes.transAxes, size=8, color="0.25",
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip


def _draw_points(axes: Axes, arrays: Densities, panel: Panel) -> None:
    """Draw discs where the mass sits in cells too small to be seen."""
    cells = few_cells(panel.values, arrays.cell_volume)
    x, y = arrays.vertices[arrays.cells[cells]].mean(axis=1).T
    colors = panel.colored(panel.values[cells])
    axes.scatter(x, y, s=22, c=colors, edgecolors="white", linewidths=0.5)


def _smooth_momentum(arrays: ResultArrays, lines: Raster) -> FloatArray:
    """Return the momentum (ny, nx, 2), averaged to the vertices and interpolated."""
    return lines.linear(vertex_means(arrays.cells, arrays.cell_volume, arrays.momentum))


def draw_streamlines(
    axes: Axes,
    lines: Raster,
    arrays: ResultArrays,
    *,
    density: float = 1.4,
    scale: float = 1.0,
) -> None:
    """Draw streamlines of the momentum, wide where it is large.

    Parameters
    ----------
    axes, lines, arrays
        Where, on which grid, of what.
    density
        As matplotlib's, along the longer side.
    scale
        Factor of the lines' widths.
    """
    momentum = _smooth_momentum(arrays, lines)
    speed = np.linalg.norm(momentum, axis=2)
    top = np.nanmax(speed, initial=0.0)
    if not top > 0.0:
        return
    hidden = ~(speed > 5e-3 * top)
    u, v = (np.ma.array(momentum[..., axis], mask=hidden) for axis in (0, 1))
    width = scale * (0.5 + 1.1 * np.sqrt(np.nan_to_num(speed) / top))
    sides = np.array([len(lines.x), len(lines.y)]) / max(len(lines.x), len(lines.y))
    axes.streamplot(
        lines.x, lines.y, u, v, color="white", linewidth=width, arrowsize=0.7 * np.sqrt(scale),
        density=tuple(density * sides), minlength=0.12,
    )  # fmt: skip


def draw_contour(
    axes: Axes, lines: Raster, arrays: ResultArrays, panel: Panel, *, width: float = 1.0
) -> None:
    """Draw the line on which the values of a panel are one, where it is active."""
    smooth = lines.linear(vertex_means(arrays.cells, arrays.cell_volume, panel.values))
    active = lines.cellwise(panel.active.astype(float)) > 0.5
    field = np.ma.array(smooth, mask=~(active & np.isfinite(smooth)))
    if field.count() and field.min() < 1.0 < field.max():
        axes.contour(lines.x, lines.y, field, levels=[1.0], colors="black", linewidths=width)
