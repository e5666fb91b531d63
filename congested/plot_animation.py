"""Particles on their way, as a picture that moves: GIF, or MP4 where there is ffmpeg."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.animation import FFMpegWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import Colormap, Normalize, to_rgb
from matplotlib.figure import Figure
from PIL import Image
from scipy.spatial import cKDTree

from congested.errors import InputError
from congested.flow.frames import Frames
from congested.geometry import FloatArray
from congested.io.arrays import ResultArrays
from congested.io.files import atomic_path
from congested.plot_panels import (
    SOURCE_COLOR,
    TARGET_COLOR,
    Panel,
    boundary_facets,
    draw_color_bar,
    few_cells,
    new_figure,
)
from congested.plot_raster import make_raster
from congested.plot_traffic import (
    GREY_TO_RED,
    WAY_COLORS,
    factor_norm,
    flow_headline,
    pale_mixture,
    strength_of,
)

_DPI = 100
_SIDE = 5.6  # inches of the longer side of what is drawn
_PIXELS = 560
_ABOVE = 0.12  # inches between what is drawn and the words above it
_SHADES, _OTHERS = 56, 190  # colours of particles and of all else, the same in all frames
_STEP, _FIRST, _LAST = 90, 700, 1600  # milliseconds of a frame


def animate_flow(
    arrays: ResultArrays,
    content: Mapping[str, Any],
    frames: Frames,
    file: Path,
) -> None:
    """Draw particles that move over pale source (blue) and target (orange) densities (one rank).

    A particle has the colour of the congestion factor that it meets at the moment, from grey (none)
    to dark red; at λ = ∞, where there is none, that of how long its way is. In space points and
    densities are seen from the side that the other pictures have; what is nearer hides what is
    farther away.

    Parameters
    ----------
    arrays
        The solution.
    content
        As for `congested.plot_flow.plot_flow`.
    frames
        The particles; some thousand are enough, and they may be none.
    file
        To write: .gif, or .mp4 if there is ffmpeg. It appears under its name when it is complete.

    Raises
    ------
    InputError
        If the file has another ending, or is to be .mp4 and there is no ffmpeg.
    """
    film = file.suffix == ".mp4"
    if file.suffix not in (".gif", ".mp4"):
        raise InputError(f"found {file.suffix!r}; allowed: .gif, .mp4", file=str(file))
    if film and not FFMpegWriter.isAvailable():
        raise InputError("a .mp4 file needs ffmpeg; allowed here: .gif", file=str(file))
    panel = moment_panel(frames, strength_of(content))
    paper, *pictures = _pictures(arrays, content, frames, panel)
    times = _milliseconds(len(frames.times))
    with atomic_path(file) as partial:
        if film:
            _write_film(pictures, times, partial)
        else:
            _write_gif(paper, pictures, times, panel, partial)


def can_animate(suffix: str) -> bool:
    """Return whether files with an ending (".gif", ".mp4") can be written here."""
    return suffix == ".gif" or (suffix == ".mp4" and bool(FFMpegWriter.isAvailable()))


def _milliseconds(number: int) -> list[int]:
    """Return how long each frame is seen: longer at both ends."""
    return [_FIRST, *[_STEP] * (number - 2), _LAST] if number > 1 else [_LAST]


def _pictures(
    arrays: ResultArrays,
    content: Mapping[str, Any],
    frames: Frames,
    panel: Panel,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Draw what does not change (h, w, 3), then the frames one after the other.

    The particles of a frame are drawn over what does not change.
    """
    figure, axes, bar_axes, places, depth = _stage(arrays, content, frames, panel.title)
    draw_color_bar(figure, bar_axes, panel)
    size = float(np.clip(500.0 / math.sqrt(max(frames.number, 1)), 3.0, 40.0))
    nothing = np.empty(0)
    dots = axes.scatter(
        nothing, nothing, size, nothing, cmap=panel.colors, norm=panel.norm, linewidths=0,
        animated=True,
    )  # fmt: skip
    above = 1.0 + _ABOVE / (axes.get_position().height * figure.get_size_inches()[1])
    clock = axes.text(0.5, above, "", transform=axes.transAxes, ha="center", size=10, animated=True)
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    paper = canvas.copy_from_bbox(figure.bbox)
    yield np.array(canvas.buffer_rgba())[..., :3]
    values = panel.values.reshape(frames.congestion.shape)
    for number, time in enumerate(frames.times):
        canvas.restore_region(paper)
        _place(dots, places[:, number], depth[:, number], values[:, number])
        clock.set_text(f"t = {time:.2f}")
        for artist in (dots, clock):
            axes.draw_artist(artist)
        yield np.array(canvas.buffer_rgba())[..., :3]


def _place(dots: PathCollection, places: FloatArray, depth: FloatArray, values: FloatArray) -> None:
    # What is drawn last is seen.
    order = np.argsort(depth, kind="stable")
    dots.set_offsets(places[order])
    dots.set_array(values[order])


def moment_panel(frames: Frames, strength: float) -> Panel:
    """Choose values (n f,) and colour scale of particles: the factor, or how far they go."""
    way = np.linalg.norm(np.diff(frames.positions, axis=1), axis=2).sum(axis=1)
    number = len(frames.times)
    colors: Colormap
    norm: Normalize
    if math.isinf(strength):
        values = np.repeat(way, number)
        norm = Normalize(0.0, max(float(way.max(initial=0.0)), 1e-300))
        name, title, colors = "way", "length of the way", WAY_COLORS
    else:
        values = frames.congestion.reshape(-1)
        norm = factor_norm(values, np.repeat(frames.mass * way, number))
        name, title, colors = "congestion", "congestion factor", GREY_TO_RED
    return Panel(name, title, values, np.ones(len(values), dtype=bool), colors, norm)


def _stage(
    arrays: ResultArrays, content: Mapping[str, Any], frames: Frames, shown: str
) -> tuple[Figure, Axes, Axes, FloatArray, FloatArray]:
    """Draw what does not move; say where points (n, f, 2) are in it, and how near (n, f)."""
    if arrays.dimension == 2:
        raster = make_raster(arrays.vertices, arrays.cells, arrays.cell_volume, _PIXELS)
        paper = np.ones((*raster.cell.shape, 4))
        source, target = (raster.cellwise(part) for part in (arrays.source, arrays.target))
        paper[..., :3] = pale_mixture(np.nan_to_num(source), np.nan_to_num(target))
        paper[..., 3] = raster.inside
        figure, axes, bar_axes = _page(raster.extent, content, shown)
        axes.imshow(paper, origin="lower", extent=raster.extent, interpolation="nearest")
        outline = arrays.vertices[boundary_facets(arrays.cells)[0]]
        axes.add_collection(
            LineCollection(list(outline), colors="0.15", linewidths=0.7, clip_on=False)
        )
        for values, color in ((arrays.source, SOURCE_COLOR), (arrays.target, TARGET_COLOR)):
            few = few_cells(values, arrays.cell_volume)
            x, y = arrays.vertices[arrays.cells[few]].mean(axis=1).T
            axes.scatter(x, y, s=22, c=color, edgecolors="white", linewidths=0.5)
        places = frames.positions
        # The congested ones in front: the eye looks for them.
        return figure, axes, bar_axes, places, frames.congestion
    # Loading VTK takes longer than drawing in 2D.
    from congested.plot_scene import finish, make_scene, open_plotter, start, view
    from congested.plot_volume import add_blobs

    scene = make_scene(arrays)
    with open_plotter(scene, translucent=True) as plotter:
        start(plotter, scene)
        add_blobs(plotter, scene, arrays, opacity=0.3)
        image = finish(plotter, scene)
    figure, axes, bar_axes = _page(view(scene), content, shown)
    axes.imshow(image, extent=view(scene), interpolation="antialiased", interpolation_stage="rgba")
    axes.set_axis_off()
    places = frames.positions @ np.stack([scene.right, scene.up], axis=1)
    return figure, axes, bar_axes, places, frames.positions @ scene.toward


def _page(
    extent: tuple[float, float, float, float], content: Mapping[str, Any], shown: str
) -> tuple[Figure, Axes, Axes]:
    """Lay out a headline, one panel and its colour bar, in whole pixels for films."""
    left, right, bottom, top = extent
    scale = _SIDE / max(right - left, top - bottom)
    width, height = scale * (right - left), scale * (top - bottom)
    size_x = 2.0 * round(50.0 * max(width + 1.5, 5.6)) / 100.0
    size_y = 2.0 * round(50.0 * (height + 1.2)) / 100.0
    title, numbers = flow_headline(content, brief=True)
    figure = new_figure(size_x, size_y, "", "")
    figure.set_dpi(_DPI)
    # Titles are as long as users like; the page is as wide as the domain.
    for y, words, size, weight in ((0.24, title, 13.0, "bold"), (0.5, numbers, 9.0, "normal")):
        # A letter is about 0.6 of its size wide.
        fits = 72.0 * 0.96 * size_x / (0.6 * max(len(words), 1))
        figure.text(
            0.5, 1 - y / size_y, words, ha="center", va="center", size=min(size, fits),
            weight=weight,
        )  # fmt: skip
    x = 0.5 * (size_x - width - 0.8)
    axes = figure.add_axes((x / size_x, 0.2 / size_y, width / size_x, height / size_y))
    bar_height = min(height, 3.5)
    y = 0.2 + height - bar_height
    bar_axes = figure.add_axes(
        ((x + width + 0.1) / size_x, y / size_y, 0.13 / size_x, bar_height / size_y)
    )
    above = (0.2 + height + _ABOVE) / size_y
    beyond = 0.5 * max(4.4 - width, 0.0)  # words need more room than a tall domain has
    figure.text((x + width + 0.23 + beyond) / size_x, above, shown, ha="right", size=9, color="0.2")
    for place, words, color in ((0.0, "source", SOURCE_COLOR), (0.6, "target", TARGET_COLOR)):
        figure.text((x + place - beyond) / size_x, above, words, size=9, color=color)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return figure, axes, bar_axes


def _write_gif(
    paper: npt.NDArray[np.uint8],
    pictures: list[npt.NDArray[np.uint8]],
    times: list[int],
    panel: Panel,
    file: Path,
) -> None:
    """Write pictures that share one palette: nothing flickers, and files are small.

    The palette has white, the colours of particles and words, and those of what does not change.
    Chosen by how often they occur, those of the few most congested particles would be lost.
    """
    shades = panel.colors(np.linspace(0.0, 1.0, _SHADES))[:, :3]
    chosen = np.array([(1.0, 1.0, 1.0), to_rgb(SOURCE_COLOR), to_rgb(TARGET_COLOR), *shades])
    still = Image.fromarray(paper).quantize(_OTHERS, method=Image.Quantize.MEDIANCUT)
    others = np.reshape(still.getpalette() or [], (-1, 3))[:_OTHERS]
    palette = np.concatenate([np.rint(255 * chosen), others]).astype(np.uint8)
    tree = cKDTree(palette.astype(float))

    def nearest(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        # Pillow's own search is rough, and white turns grey.
        codes = pixels.astype(np.int64) @ np.array([65536, 256, 1])
        _, first, place = np.unique(codes, return_index=True, return_inverse=True)
        found = tree.query(pixels.reshape(-1, 3)[first])[1]
        return np.asarray(found[place].reshape(codes.shape), dtype=np.uint8)

    unmoved = nearest(paper)

    def in_few_colors(picture: npt.NDArray[np.uint8]) -> Image.Image:
        moved = (picture != paper).any(axis=2)
        indices = unmoved.copy()
        indices[moved] = nearest(picture[moved])
        image = Image.fromarray(indices)
        image.putpalette(palette.tobytes())
        return image

    first, *later = map(in_few_colors, pictures)
    first.save(
        file, format="GIF", save_all=True, append_images=later, duration=times, loop=0,
        optimize=False, disposal=1,
    )  # fmt: skip


def _write_film(pictures: list[npt.NDArray[np.uint8]], times: list[int], file: Path) -> None:
    """Write pictures as a film that everything plays; a frame that is seen longer is repeated."""
    height, width = pictures[0].shape[:2]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    image = figure.figimage(pictures[0])
    # The name that the file has until it is complete does not tell ffmpeg what it is.
    options = ["-f", "mp4", "-pix_fmt", "yuv420p"]
    writer = FFMpegWriter(fps=1000.0 / _STEP, extra_args=options)  # type: ignore[arg-type]
    with writer.saving(figure, str(file), _DPI):
        for picture, time in zip(pictures, times, strict=True):
            image.set_data(picture)
            for _ in range(round(time / _STEP)):
                writer.grab_frame()
