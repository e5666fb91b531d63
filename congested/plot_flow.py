"""The picture of a flow: the ways of particles beside the straight ones, and where they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from scipy.stats import t as student

from congested.flow.frames import frames_at_constant_speed
from congested.flow.particles import Paths
from congested.geometry import FloatArray, IntArray
from congested.io.arrays import ResultArrays
from congested.io.files import atomic_path
from congested.plot_panels import FLUX_COLORS, Panel, density_norm, weighted_quantile
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
#: Paths of some particles, and the straight rays that pair the same starts and ends as W₁ does.
Group = tuple[Paths, Rays]

#: Lines that one panel bears, and with |m| behind them, which is all there is to see at λ = ∞.
MOST_LINES = 250
_FEW_LINES = 60

_DPI = 150
_PIECES = 64  # of a path in a picture
_STRAIGHT_PIECES = 24
_TRAFFIC_PIXELS = 128  # of the grid on which traffic is compared
_SMOOTHED = 0.02  # width of the smoothing there, over the longer side
_ASTRAY = 0.01  # share of straight rays that may seem to lie outside the mesh
_CHANCE = 0.05  # that something is shown anywhere where nothing is
_SMALLEST = 0.15  # end of the scale of differences, over the largest traffic
_NO_RAYS = "no straight rays: some would leave the domain"


def plot_flow(
    arrays: ResultArrays,
    content: Mapping[str, Any],
    groups: Sequence[Group],
    file: Path,
    lines: int = MOST_LINES,
    *,
    solved: FloatArray | None = None,
) -> None:
    """Draw the flow of a solution, or of a critic, into a PNG file (one rank).

    In the plane: particle paths over the congestion factor; over the same the straight rays of W₁;
    and the traffic of the one less that of the other, see `difference_panel`. Without straight rays
    the traffic |m| itself; of a critic the traffic less that of the solution. In space: paths,
    straight rays, the factor on slices, and surfaces of |m|. Lines are coloured by how far on its
    way a particle is. At λ = ∞ the factor is 1 everywhere, and |m| takes its place.

    Parameters
    ----------
    arrays
        The solution; of a critic, with the critic's momentum.
    content
        Content of result.json: title, bounds, values and λ are shown. As ``flow`` that of
        flow.json, as far as there is one: ``particles``, ``momentum_relative_l1``,
        ``momentum_relative_l1_chance``, and of critics ``critic``, ``momentum_l1``, ``imbalance``.
    groups
        Independent groups of particles, each of the same mass, with their paths and the straight
        rays of W₁ between their starts and ends. Paths of the first ones are drawn, and the rays
        of the first; all groups, two at least, are compared. Straight rays that leave the domain,
        which is not convex then, are none of W₁'s own and not drawn. Of a critic one group, whose
        rays may end elsewhere.
    file
        PNG file to write; it appears under its name when it is complete.
    lines
        How many paths, and straight rays, are drawn at most; at λ = ∞ fewer, over |m|.
    solved
        Of a critic the cell means (C, d) of the solution's momentum.
    """
    with atomic_path(file) as partial:
        if arrays.dimension == 2:
            figure = flow_figure(arrays, content, groups, lines, solved=solved)
            figure.savefig(partial, dpi=_DPI, format="png")
        else:
            _draw_volume(arrays, content, groups, lines, partial)


def straight_ways(rays: Rays) -> FloatArray:
    """Return points (r, f + 1, d) after equal parts of straight rays."""
    starts, ends = (np.asarray(side, dtype=np.float64)[:, None] for side in rays)
    part = np.linspace(0.0, 1.0, _STRAIGHT_PIECES + 1)[:, None]
    return np.asarray((1.0 - part) * starts + part * ends)


def _some(rows: FloatArray, number: int) -> FloatArray:
    """Return evenly chosen rows, not more than a number."""
    number = min(len(rows), number)
    return rows[np.arange(number) * len(rows) // max(number, 1)]


def _path_ways(groups: Sequence[Group], dimension: int, number: int) -> FloatArray:
    """Return points (n, f + 1, d) after equal parts of paths of the first groups."""
    ways: FloatArray = np.zeros((0, _PIECES + 1, dimension))
    for paths, _ in groups:
        if len(ways) < number:
            frames = frames_at_constant_speed(paths, np.ones(paths.number), _PIECES)
            ways = np.concatenate([ways, frames.positions])
    return _some(ways, number)


def flow_figure(
    arrays: ResultArrays,
    content: Mapping[str, Any],
    groups: Sequence[Group],
    lines: int = MOST_LINES,
    *,
    solved: FloatArray | None = None,
) -> Figure:
    """Draw the picture in the plane; each panel is followed by its colour bar.

    The parameters are those of `plot_flow`.
    """
    from congested.plot_plane import draw_panels

    rays = groups[0][1] if groups else None
    astray = rays is not None and not _stay_in_plane(arrays, rays)
    if astray:
        rays = None
    strength = strength_of(content)
    congestion = congestion_panel(arrays, strength)
    shown = "|m|" if math.isinf(strength) else "1 + |m|/(2λσ)"
    widest = 1.1
    if math.isinf(strength):
        lines, widest = min(lines, _FEW_LINES), 0.8
    panels = [replace(congestion, name="paths", title=f"particle paths over {shown}")]
    if rays is not None:
        panels.append(replace(congestion, name="rays", title="straight rays of W₁ over the same"))
    if solved is not None:
        panels.append(critic_panel(arrays, solved))
    elif rays is not None and len(groups) > 1:
        panels.append(difference_panel(arrays, groups))
    elif not math.isinf(strength):
        panels.append(_traffic_panel(arrays))
    figure, axes = draw_panels(arrays, tuple(panels), flow_headline(content))
    drawn = {"paths": _path_ways(groups, 2, lines)}
    if rays is not None:
        drawn["rays"] = _some(straight_ways(rays), lines)
    for name, ways in drawn.items():
        _draw_ways(axes[name], ways, widest)
    _draw_way_scale(figure, _NO_RAYS if astray else "")
    return figure


def _traffic_panel(arrays: ResultArrays) -> Panel:
    speed = np.linalg.norm(arrays.momentum, axis=1)
    norm = density_norm(speed, arrays.cell_volume)
    return Panel(
        "traffic", "traffic |m|", speed, np.ones(len(speed), dtype=bool), FLUX_COLORS, norm
    )


def _draw_ways(axes: Axes, ways: FloatArray, widest: float) -> None:
    segments, fraction = way_segments(ways)
    width = float(np.clip(14.0 / math.sqrt(max(len(ways), 1)), 0.5, widest))
    axes.add_collection(
        LineCollection(
            list(segments), array=fraction, cmap=WAY_COLORS, norm=WAY_NORM, linewidths=width,
            capstyle="round",
        )
    )  # fmt: skip


def _draw_way_scale(figure: Figure, note: str) -> None:
    """Draw what the colours of lines mean, and a note, between the headline and the panels."""
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
    if note:
        figure.text(0.5 + 1.8 / width, y, note, ha="left", va="center", size=9, color="0.15")


def _points_between(rays: Rays) -> FloatArray:
    """Return points (k, d) on some of the straight rays, without the ends."""
    return np.concatenate(list(_some(straight_ways(rays), MOST_LINES)[:, 1:-1]) or [rays[0]])


def _stay_in_plane(arrays: ResultArrays, rays: Rays) -> bool:
    """Return whether straight rays stay in the mesh, but for a pixel and a hundredth of them."""
    raster = make_raster(arrays.vertices, arrays.cells, arrays.cell_volume, _TRAFFIC_PIXELS)
    row, column = _pixels(raster, _points_between(rays))
    inside = binary_dilation(raster.inside, np.ones((3, 3)))
    return bool(np.mean(~inside[row, column]) < _ASTRAY) if len(row) else True


def difference_panel(arrays: ResultArrays, groups: Sequence[Group]) -> Panel:
    """Compare the traffic of paths in the plane with that of straight rays.

    In each group both have the same starts and ends, so that what is random about these drops out
    of the difference: at λ = ∞, where paths are straight rays of W₁, what is left is how far the
    solution is from its limit (some percent of the scale at a gap of 1e-3). Traffic is
    length of ways per area, smoothed over 2 % of the domain's size, as some hundred ways say
    nothing about a single cell. Shown is the mean over the groups, drawn towards 0 by so many of
    its standard errors that the scatter of groups shows anything in one picture out of twenty: by
    Student's t, for as many independent places as smoothed spots fit into the domain.

    Parameters
    ----------
    arrays
        The solution.
    groups
        Two at least, independent of each other. A group's W₁ pairs its own ends, not the whole
        source with the whole target: the more particles it has, the nearer it comes to that.
    """
    raster = make_raster(arrays.vertices, arrays.cells, arrays.cell_volume, _TRAFFIC_PIXELS)
    differences, flow = [], np.zeros(raster.cell.shape)
    for paths, rays in groups:
        of_paths = _smoothed(raster, path_traffic(raster, paths))
        differences.append(of_paths - _smoothed(raster, ray_traffic(raster, rays)))
        flow += of_paths / len(groups)
    difference = np.mean(differences, axis=0)
    error = np.std(differences, axis=0, ddof=1) / math.sqrt(len(groups))
    # The noise in smoothed images is that of as many numbers as spots of this area (in pixels).
    spot = 4.0 * math.pi * (_SMOOTHED * max(raster.cell.shape)) ** 2
    places = max(float(raster.inside.sum()) / spot, 1.0)
    certain = float(student.isf(0.5 * _CHANCE / places, len(groups) - 1))
    size = np.maximum(np.abs(difference) - certain * error, 0.0)
    difference = np.copysign(size, difference)
    # Back to the cells, which the panels show.
    middle = arrays.vertices[arrays.cells].mean(axis=1)
    pixel = raster.x[1] - raster.x[0]
    position = (middle[:, 1] - raster.y[0]) / pixel, (middle[:, 0] - raster.x[0]) / pixel
    values = map_coordinates(difference, position, order=1, mode="nearest")
    top = float(np.quantile(np.abs(difference), 0.995))
    title = "traffic: flow less straight rays"
    return _around_zero(title, values, top, float(flow.max()))


def critic_panel(arrays: ResultArrays, solved: FloatArray) -> Panel:
    """Compare the traffic |m| of a critic's momentum with that of the solution's, cell by cell.

    Nothing is sampled.

    Parameters
    ----------
    arrays
        The mesh, and the critic's momentum.
    solved
        Cell means (C, d) of the solution's momentum.
    """
    speed = np.linalg.norm(solved, axis=1)
    values = np.linalg.norm(arrays.momentum, axis=1) - speed
    # Both can be singular in a few cells.
    top, most = (
        weighted_quantile(size, arrays.cell_volume, 0.98) for size in (np.abs(values), speed)
    )
    return _around_zero("traffic: critic less solution", values, top, most)


def _around_zero(title: str, values: FloatArray, top: float, traffic: float) -> Panel:
    """Return a panel of differences (C,) on a scale on which a small one looks small.

    The scale ends at `top`, or at a part of the largest traffic if that is more.
    """
    top = max(_SMALLEST * traffic, top)
    norm = Normalize(-top, top) if top > 0.0 else Normalize(-1.0, 1.0)
    everywhere = np.ones(len(values), dtype=bool)
    return Panel("difference", title, values, everywhere, colormaps["PuOr_r"], norm)


def _pixels(raster: Raster, points: FloatArray) -> tuple[IntArray, IntArray]:
    """Return rows and columns (k,) of the pixels under points (k, 2)."""
    size = raster.x[1] - raster.x[0]
    row, column = (
        np.clip(np.rint((points[:, axis] - places[0]) / size), 0, len(places) - 1).astype(np.int64)
        for axis, places in ((1, raster.y), (0, raster.x))
    )
    return row, column


def path_traffic(raster: Raster, paths: Paths) -> FloatArray:
    """Return length of paths per area (ny, nx) on a grid, for a mass of 1 on all together."""
    inside = np.ones(max(len(paths.points) - 1, 0), dtype=bool)
    inside[paths.offsets[1:-1] - 1] = False  # from the end of a path to the start of the next
    pieces = np.flatnonzero(inside)
    return _traffic(raster, paths.points[pieces], paths.points[pieces + 1], paths.number)


def ray_traffic(raster: Raster, rays: Rays) -> FloatArray:
    """Return length of rays per area (ny, nx) on a grid, for a mass of 1 on all together."""
    starts, ends = (np.asarray(side, dtype=np.float64) for side in rays)
    return _traffic(raster, starts, ends, len(starts))


def _traffic(raster: Raster, starts: FloatArray, ends: FloatArray, ways: int) -> FloatArray:
    """Spread the lengths of straight pieces (k, 2) over the pixels under them."""
    ny, nx = len(raster.y), len(raster.x)
    size = raster.x[1] - raster.x[0]
    length = np.linalg.norm(ends - starts, axis=1)
    # In steps of a quarter of a pixel; smoothing makes up for the rest.
    steps = np.ceil(4.0 * length / size).astype(np.int64)
    piece = np.repeat(np.arange(len(steps)), steps)
    before = np.repeat(np.cumsum(steps) - steps, steps)
    part = ((np.arange(len(piece)) - before + 0.5) / steps[piece])[:, None]
    row, column = _pixels(raster, (1.0 - part) * starts[piece] + part * ends[piece])
    total = np.bincount(row * nx + column, length[piece] / steps[piece], ny * nx)
    return total.reshape(ny, nx) / (max(ways, 1) * size**2)


def _smoothed(raster: Raster, image: FloatArray) -> FloatArray:
    """Average over the surroundings of each pixel, as far as they belong to the mesh."""
    inside = raster.inside.astype(float)
    width = _SMOOTHED * max(image.shape)
    spread, share = (gaussian_filter(part, width, mode="constant") for part in (image, inside))
    return np.asarray(inside * np.divide(spread, share, out=np.zeros(image.shape), where=share > 0))


def _draw_volume(
    arrays: ResultArrays,
    content: Mapping[str, Any],
    groups: Sequence[Group],
    lines: int,
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
    drawn = [
        (
            way_panel("paths (blue: source, orange: target)", arrays),
            _path_ways(groups, 3, lines),
        )
    ]
    note = ""
    if groups:
        rays = groups[0][1]
        found = scene.grid.find_containing_cell(_points_between(rays))
        if np.mean(np.asarray(found) < 0) > _ASTRAY:
            note = _NO_RAYS
        else:
            straight = _some(straight_ways(rays), lines)
            drawn.append((way_panel("straight rays of W₁", arrays), straight))
    pictures: list[Picture] = []
    with open_plotter(scene, translucent=True) as plotter:
        for panel, ways in drawn:
            start(plotter, scene)
            add_blobs(plotter, scene, arrays, opacity=0.25)
            segments, fraction = way_segments(ways)
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
    compose(pictures, flow_headline(content), file, note=note)
