"""The picture of a flow: the ways of particles beside the straight ones, and where they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy.ndimage import binary_dilation, gaussian_filter, map_coordinates

from congested.flow.frames import frames_at_constant_speed
from congested.flow.particles import Paths
from congested.geometry import FloatArray, IntArray
from congested.io.arrays import ResultArrays
from congested.io.files import atomic_path
from congested.plot_panels import (
    FLUX_COLORS,
    Panel,
    density_norm,
)
from congested.plot_raster import Raster, make_raster
from congested.plot_traffic import (
    REDS,
    WAY_COLORS,
    WAY_NORM,
    congestion_panel,
    flow_headline,
    strength_of,
    way_panel,
    way_segments,
)

#: Starts and ends (r, d) of straight rays, each for the same mass.
Rays = tuple[FloatArray, FloatArray]

_DPI = 150
_PIECES = 64  # of a path in a picture
_STRAIGHT_PIECES = 24
_MOST_LINES = 250  # in one panel
_TRAFFIC_PIXELS = 128  # of the grid on which traffic is compared
_SMOOTHED = 0.02  # width of the smoothing there, over the longer side
_GROUPS = 10  # of straight rays, from whose differences their standard error is known
_ASTRAY = 0.01  # share of straight rays that may seem to lie outside the mesh
_CERTAIN = 2.0  # standard errors that count as chance


def plot_flow(
    arrays: ResultArrays,
    content: Mapping[str, Any],
    paths: Paths,
    rays: Rays | None,
    file: Path,
) -> None:
    """Draw the flow of a solution into a PNG file (one rank).

    In the plane: particle paths over the congestion factor; over the same the straight rays of W₁;
    and the traffic of the one less that of the other, see `difference_panel`. Without straight rays
    the traffic |m| itself. In space: paths, straight rays, the factor on slices, and surfaces of
    |m|. Lines are coloured by how far on its way a particle is. At λ = ∞ the factor is 1
    everywhere, and |m| takes its place.

    Parameters
    ----------
    arrays
        The solution.
    content
        Content of result.json: title, bounds, values and λ are shown. As ``flow`` that of
        flow.json, as far as there is one: ``particles``, ``momentum_relative_l1``,
        ``pushforward_relative_l1``.
    paths
        Paths to draw: 250 of them at most, evenly chosen; they may be none.
    rays
        Starts and ends (r, d) of an optimal plan of W₁ between samples: as many lines, but all of
        them count for the traffic, which some thousand tell well. None for no such ways; those
        that leave the domain, which is not convex then, are none of its own and not drawn either.
    file
        PNG file to write; it appears under its name when it is complete.
    """
    ways = frames_at_constant_speed(paths, np.ones(paths.number), _PIECES).positions
    ways = _some(ways)
    with atomic_path(file) as partial:
        if arrays.dimension == 2:
            flow_figure(arrays, content, ways, rays).savefig(partial, dpi=_DPI, format="png")
        else:
            _draw_volume(arrays, content, ways, rays, partial)


def straight_ways(rays: Rays) -> FloatArray:
    """Return points (r, f + 1, d) after equal parts of straight rays."""
    starts, ends = (np.asarray(side, dtype=np.float64)[:, None] for side in rays)
    part = np.linspace(0.0, 1.0, _STRAIGHT_PIECES + 1)[:, None]
    return np.asarray((1.0 - part) * starts + part * ends)


def _some(rows: FloatArray) -> FloatArray:
    """Return evenly chosen rows, not more than a picture bears."""
    number = min(len(rows), _MOST_LINES)
    return rows[np.arange(number) * len(rows) // max(number, 1)]


def flow_figure(
    arrays: ResultArrays, content: Mapping[str, Any], ways: FloatArray, rays: Rays | None
) -> Figure:
    """Draw the picture in the plane; each panel is followed by its colour bar.

    Parameters
    ----------
    arrays, content, rays
        As for `plot_flow`.
    ways
        Points (n, f + 1, 2) after equal parts of each path.
    """
    from congested.plot_plane import draw_panels

    if rays is not None and not _stay_in_plane(arrays, rays):
        rays = None
    strength = strength_of(content)
    congestion = congestion_panel(arrays, strength)
    shown = "|m|" if math.isinf(strength) else "1 + |m|/(2λσ)"
    panels = [replace(congestion, name="paths", title=f"particle paths over {shown}")]
    if rays is not None:
        panels.append(replace(congestion, name="rays", title="straight rays of W₁ over the same"))
        panels.append(difference_panel(arrays, rays))
    elif not math.isinf(strength):
        panels.append(_traffic_panel(arrays))
    figure, axes = draw_panels(arrays, tuple(panels), flow_headline(content))
    drawn = {"paths": ways}
    if rays is not None:
        drawn["rays"] = _some(straight_ways(rays))
    for name, lines in drawn.items():
        _draw_ways(axes[name], lines)
    _draw_way_scale(figure)
    return figure


def _traffic_panel(arrays: ResultArrays) -> Panel:
    speed = np.linalg.norm(arrays.momentum, axis=1)
    norm = density_norm(speed, arrays.cell_volume)
    return Panel(
        "traffic", "traffic |m|", speed, np.ones(len(speed), dtype=bool), FLUX_COLORS, norm
    )


def _draw_ways(axes: Axes, ways: FloatArray) -> None:
    segments, fraction = way_segments(ways)
    width = float(np.clip(14.0 / math.sqrt(max(len(ways), 1)), 0.5, 1.1))
    axes.add_collection(
        LineCollection(
            list(segments), array=fraction, cmap=WAY_COLORS, norm=WAY_NORM, linewidths=width,
            capstyle="round",
        )
    )  # fmt: skip


def _draw_way_scale(figure: Figure) -> None:
    """Draw what the colours of lines mean, between the headline and the panels."""
    width, height = figure.get_size_inches()
    y = 1.0 - 0.87 / height
    bar = figure.add_axes((0.5 - 0.9 / width, y - 0.05 / height, 1.8 / width, 0.1 / height))
    figure.colorbar(ScalarMappable(WAY_NORM, WAY_COLORS), cax=bar, orientation="horizontal")
    bar.set_xticks([])
    bar.minorticks_off()
    bar.spines["outline"].set_linewidth(0.4)
    for side, words, place in ((-1, "leaves", "right"), (1, "arrives", "left")):
        figure.text(
            0.5 + side * 0.98 / width, y, words, ha=place, va="center", size=9, color="0.15"
        )


def _points_between(rays: Rays) -> FloatArray:
    """Return points (k, d) on some of the straight rays, without the ends."""
    return np.concatenate(list(_some(straight_ways(rays))[:, 1:-1]) or [rays[0]])


def _stay_in_plane(arrays: ResultArrays, rays: Rays) -> bool:
    """Return whether straight rays stay in the mesh, but for a pixel and a hundredth of them."""
    raster = make_raster(arrays.vertices, arrays.cells, arrays.cell_volume, _TRAFFIC_PIXELS)
    row, column = _pixels(raster, _points_between(rays))
    inside = binary_dilation(raster.inside, np.ones((3, 3)))
    return bool(np.mean(~inside[row, column]) < _ASTRAY) if len(row) else True


def difference_panel(arrays: ResultArrays, rays: Rays) -> Panel:
    """Compare the traffic of a flow in the plane with that of straight rays.

    Both are smoothed alike over 2 % of the domain's size, as some hundred ways say nothing about a
    single cell, and what is left is drawn towards 0 by two standard errors: what chance can do is
    not shown.
    """
    raster = make_raster(arrays.vertices, arrays.cells, arrays.cell_volume, _TRAFFIC_PIXELS)
    speed = np.linalg.norm(arrays.momentum, axis=1)
    flow = _smoothed(raster, np.nan_to_num(raster.cellwise(speed)))
    starts, ends = (np.asarray(side, dtype=np.float64) for side in rays)
    groups = min(_GROUPS, len(starts))
    difference = flow
    if groups > 1:
        straight = [
            _smoothed(raster, ray_traffic(raster, (starts[first::groups], ends[first::groups])))
            for first in range(groups)
        ]
        error = np.std(straight, axis=0, ddof=1) / math.sqrt(groups)
        difference = flow - np.mean(straight, axis=0)
        size = np.maximum(np.abs(difference) - _CERTAIN * error, 0.0)
        difference = np.copysign(size, difference)
    # Back to the cells, which the panels show.
    middle = arrays.vertices[arrays.cells].mean(axis=1)
    pixel = raster.x[1] - raster.x[0]
    places = (middle[:, 1] - raster.y[0]) / pixel, (middle[:, 0] - raster.x[0]) / pixel
    values = map_coordinates(difference, places, order=1, mode="nearest")
    # A small difference shall look small.
    top = max(0.15 * float(flow.max()), float(np.quantile(np.abs(difference), 0.995)))
    norm = Normalize(-top, top) if top > 0.0 else Normalize(-1.0, 1.0)
    everywhere = np.ones(len(values), dtype=bool)
    title = "traffic: flow less straight rays"
    return Panel("difference", title, values, everywhere, colormaps["PuOr_r"], norm)


def _pixels(raster: Raster, points: FloatArray) -> tuple[IntArray, IntArray]:
    """Return rows and columns (k,) of the pixels under points (k, 2)."""
    size = raster.x[1] - raster.x[0]
    row, column = (
        np.clip(np.rint((points[:, axis] - places[0]) / size), 0, len(places) - 1).astype(np.int64)
        for axis, places in ((1, raster.y), (0, raster.x))
    )
    return row, column


def ray_traffic(raster: Raster, rays: Rays) -> FloatArray:
    """Return length of ways per area (ny, nx) on a grid, for a mass of 1 on all ways together."""
    starts, ends = (np.asarray(side, dtype=np.float64) for side in rays)
    shape = len(raster.y), len(raster.x)
    if not len(starts):
        return np.zeros(shape)
    pieces = 2 * max(shape)
    part = ((np.arange(pieces) + 0.5) / pieces)[:, None]
    points = ((1.0 - part) * starts[:, None] + part * ends[:, None]).reshape(-1, 2)
    row, column = _pixels(raster, points)
    size = raster.x[1] - raster.x[0]
    length = np.repeat(np.linalg.norm(ends - starts, axis=1) / pieces, pieces)
    total = np.bincount(row * shape[1] + column, length, shape[0] * shape[1])
    return total.reshape(shape) / (len(starts) * size**2)


def _smoothed(raster: Raster, image: FloatArray) -> FloatArray:
    """Average over the surroundings of each pixel, as far as they belong to the mesh."""
    inside = raster.inside.astype(float)
    width = _SMOOTHED * max(image.shape)
    spread, share = (gaussian_filter(part, width, mode="constant") for part in (image, inside))
    return np.asarray(inside * np.divide(spread, share, out=np.zeros(image.shape), where=share > 0))


def _draw_volume(
    arrays: ResultArrays,
    content: Mapping[str, Any],
    ways: FloatArray,
    rays: Rays | None,
    file: Path,
) -> None:
    # Loading VTK takes longer than drawing in 2D.
    from congested.plot_scene import (
        SHARES,
        Picture,
        add_isosurfaces,
        add_slices,
        add_tubes,
        compose,
        cut_slices,
        finish,
        make_scene,
        open_plotter,
        start,
    )
    from congested.plot_volume import add_blobs, pale_to_dark

    scene = make_scene(arrays)
    strength = strength_of(content)
    congestion = replace(congestion_panel(arrays, strength), colors=REDS)
    traffic = replace(_traffic_panel(arrays), colors=pale_to_dark("magma_r", 0.12))
    if rays is not None:
        found = scene.grid.find_containing_cell(_points_between(rays))
        if np.mean(np.asarray(found) < 0) > _ASTRAY:
            rays = None
    drawn = [(way_panel("paths (blue: source, orange: target)", arrays), ways)]
    if rays is not None:
        drawn.append((way_panel("straight rays of W₁", arrays), _some(straight_ways(rays))))
    pictures: list[Picture] = []
    with open_plotter(scene, translucent=True) as plotter:
        for panel, lines in drawn:
            start(plotter, scene)
            add_blobs(plotter, scene, arrays, opacity=0.25)
            segments, fraction = way_segments(lines)
            add_tubes(plotter, scene, segments, panel.colored(fraction)[:, :3])
            pictures.append((panel.title, finish(plotter, scene), panel))
    with open_plotter(scene, translucent=False) as plotter:
        if not math.isinf(strength):
            start(plotter, scene)
            add_slices(plotter, scene, cut_slices(scene), congestion)
            pictures.append((congestion.title, finish(plotter, scene), congestion))
    with open_plotter(scene, translucent=True) as plotter:
        start(plotter, scene)
        add_isosurfaces(plotter, scene, arrays, traffic)
        shares = ", ".join(f"{100 * share:.0f}" for share in SHARES) + " %"
        pictures.append((f"|m| around {shares} of ∫|m|", finish(plotter, scene), traffic))
    compose(pictures, flow_headline(content), file)
