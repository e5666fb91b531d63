"""The 2D overview: what is drawn in which panel, and that it is drawn inside the domain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.image import imread

from congested.geometry import FloatArray, simplex_volumes
from congested.io.arrays import ResultArrays
from congested.plot_plane import plane_figure, weight_plane_figure

RESULT = {
    "title": "A bundle of flow",
    "bounds": {"lower": 0.5, "upper": 0.51, "relative_gap": 0.02, "scope": "cell-data"},
    "values": {"critic_loss": 0.52, "penalty": 0.01, "momentum_l1": 0.5},
    "problem": {"penalty": {"strength": 10.0}},
}

WEIGHT = {
    "title": "A bundle of flow",
    "mass": 0.75,
    "lost": 0.25,
    "relative_error": 0.0123,
    "method": "sampled",
    "samples": 4096,
}


def blob(points: FloatArray, center: tuple[float, float], width: float) -> FloatArray:
    distance = ((points - center) ** 2).sum(axis=1)
    return np.exp(-0.5 * distance / width**2) / (2.0 * np.pi * width**2)


def bundle(size: int = 24, *, hole: bool = False, aspect: int = 1, **changes: Any) -> ResultArrays:
    """Two blobs with a bundle of flow between them, on [0, aspect] × [0, 1], perhaps with a hole.

    |∇u| is 1.1 in the bundle and 0.8 outside; far from it there is no weight.
    """
    steps = np.arange(aspect * size + 1), np.arange(size + 1)
    grid = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 2) / size
    i, j = (index.reshape(-1) for index in np.meshgrid(*(s[:-1] for s in steps), indexing="ij"))
    first = i * (size + 1) + j
    square = np.stack([first, first + size + 1, first + size + 2, first + 1], axis=1)
    cells = np.concatenate([square[:, [0, 1, 2]], square[:, [0, 2, 3]]])
    if hole:
        cells = cells[np.abs(grid[cells].mean(axis=1) - [aspect / 2, 0.5]).max(axis=1) > 0.125]
        used, flat = np.unique(cells, return_inverse=True)
        grid, cells = grid[used], flat.reshape(-1, 3)
    middle = grid[cells].mean(axis=1)
    near = np.exp(-0.5 * ((middle[:, 1] - 0.5) / 0.08) ** 2)
    along = np.clip(4.0 * (middle[:, 0] / aspect - 0.1), 0.0, 1.0)
    along *= np.clip(4.0 * (0.9 - middle[:, 0] / aspect), 0.0, 1.0)
    speed = np.where(near * along > 1e-6, near * along, 0.0)
    volume = simplex_volumes(grid[cells])
    values: dict[str, Any] = {
        "vertices": grid,
        "cells": cells,
        "cell_volume": volume,
        "flux": np.zeros((len(cells), 3)),
        "potential": -grid[:, 0],
        "momentum": np.stack([speed, np.zeros(len(cells))], axis=1),
        "gradient": np.stack([-0.8 - 0.3 * speed, np.zeros(len(cells))], axis=1),
        "weight": np.where(near > 1e-5, near, 0.0),
        "source": blob(middle, (0.2 * aspect, 0.5), 0.07),
        "target": blob(middle, (0.8 * aspect, 0.5), 0.07),
        "gap_indicator": 1e-4 * speed * volume,
    }
    return ResultArrays(**{**values, **changes})


def panels_of(arrays: ResultArrays) -> dict[str, Axes]:
    """Return the axes of the panels; between them lie those of the colour bars."""
    names = ("source", "target", "weight", "momentum", "gradient", "indicator")
    return dict(zip(names, plane_figure(arrays, RESULT).axes[::2], strict=True))


def streamlines(axes: Axes) -> FloatArray:
    """Return the segments (k, 2, 2) of the streamlines."""
    return np.concatenate(
        [
            np.asarray(collection.get_segments())
            for collection in axes.collections
            if isinstance(collection, LineCollection)
            and np.allclose(collection.get_color()[0][:3], 1.0)
        ]
        or [np.empty((0, 2, 2))]
    )


def contours(axes: Axes) -> list[ContourSet]:
    return [collection for collection in axes.collections if isinstance(collection, ContourSet)]


@pytest.fixture(scope="module")
def figure() -> Figure:
    return plane_figure(bundle(), RESULT)


def test_panels_and_words(figure: Figure) -> None:
    assert len(figure.axes) == 12
    titles = [axes.get_title() for axes in figure.axes[::2]]
    assert titles == [
        "source density μ",
        "target density ν",
        "weight density σ",
        "flux |m|",
        "gradient |∇u|",
        "gap indicator η/|T|",
    ]
    words = [text.get_text() for text in figure.texts]
    assert words[0] == "A bundle of flow"
    assert "cost in [0.500, 0.510], gap 2 % (cell-data)" in words[1]


@pytest.mark.parametrize("aspect", [1, 4])
@pytest.mark.parametrize("panels", [6, 3])
def test_scale_is_the_same_both_ways_and_nothing_overlaps(aspect: int, panels: int) -> None:
    arrays = bundle(12, aspect=aspect)
    figure = plane_figure(arrays, RESULT) if panels == 6 else weight_plane_figure(arrays, WEIGHT)
    assert len(figure.axes) == 2 * panels
    width, height = figure.get_size_inches()
    boxes = []
    for axes in figure.axes:
        box = axes.get_position()
        assert 0.0 < box.x0 < box.x1 < 1.0
        assert 0.0 < box.y0 < box.y1 < 1.0
        boxes.append(box)
    for axes, box in zip(figure.axes[::2], boxes[::2], strict=True):
        left, right = axes.get_xlim()
        bottom, top = axes.get_ylim()
        across, up = box.width * width / (right - left), box.height * height / (top - bottom)
        assert across == pytest.approx(up, rel=1e-9)
        assert (right - left, top - bottom) == pytest.approx((aspect, 1.0))
    # Panels, colour bars, the numbers at them and the words above stay apart.
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    pieces = [text.get_window_extent(renderer) for text in figure.texts]
    for axes in figure.axes:
        pieces += [axes.get_window_extent(renderer), axes.title.get_window_extent(renderer)]
        pieces += [axis.get_tightbbox(renderer) for axis in (axes.xaxis, axes.yaxis)]
    pieces = [piece for piece in pieces if piece is not None and piece.width * piece.height > 0]
    assert len(pieces) >= 2 + 4 * panels
    for index, one in enumerate(pieces):
        for other in pieces[index + 1 :]:
            common = type(one).intersection(one, other)
            assert common is None or min(common.width, common.height) < 1.0  # pixels


def test_streamlines_follow_the_flow_and_stay_in_the_domain() -> None:
    segments = streamlines(panels_of(bundle(hole=True))["momentum"])
    assert len(segments) > 50
    step = segments[:, 1] - segments[:, 0]
    assert np.abs(step[:, 0]).sum() > 50 * np.abs(step[:, 1]).sum()
    in_hole = np.abs(segments - 0.5).max(axis=2) < 0.125 - 0.01
    assert not in_hole.any()
    # Only where mass moves: the bundle is narrow.
    assert np.abs(segments[..., 1] - 0.5).max() < 0.4


def test_contour_is_where_the_gradient_is_one() -> None:
    arrays = bundle(40)
    (contour,) = contours(panels_of(arrays)["gradient"])
    assert list(contour.levels) == [1.0]
    points = np.concatenate([np.concatenate(line) for line in contour.allsegs if line])
    # On x = 1/2 the speed is exp(−½(y − ½)²/0.08²), so that |∇u| = 1 where it is 2/3.
    expected = 0.08 * np.sqrt(2.0 * np.log(1.5))
    middle = points[np.abs(points[:, 0] - 0.5) < 0.1]
    np.testing.assert_allclose(np.abs(middle[:, 1] - 0.5), expected, atol=0.006)
    assert len(middle) > 10


def test_what_is_not_there_is_not_drawn() -> None:
    still = bundle(momentum=np.zeros((1152, 2)), gradient=np.zeros((1152, 2)))
    panels = panels_of(still)
    assert len(streamlines(panels["momentum"])) == 0
    assert contours(panels["gradient"]) == []


def test_points_are_drawn_as_discs() -> None:
    points = np.zeros(2 * 48**2)
    points[[100, 2000]] = 1.0
    arrays = bundle(48, target=points)
    panels = panels_of(arrays)
    discs = [item for item in panels["target"].collections if isinstance(item, PathCollection)]
    expected = arrays.vertices[arrays.cells[[100, 2000]]].mean(axis=1)
    np.testing.assert_allclose(discs[0].get_offsets(), expected)
    (source,) = (item for item in panels["source"].collections if isinstance(item, PathCollection))
    assert len(source.get_offsets()) == 0


def test_grey_marks_cells_without_weight_and_holes_are_empty() -> None:
    panels = panels_of(bundle(hole=True))
    (image,) = panels["weight"].images
    colors = np.asarray(image.get_array())
    size = len(colors)
    np.testing.assert_allclose(colors[5, size // 2], [0.86, 0.86, 0.86, 1.0])  # no weight
    assert np.ptp(colors[size // 2, 20, :3]) > 0.1  # weight
    assert colors[size // 2, size // 2, 3] == 0.0  # the hole
    assert [text.get_text() for text in panels["weight"].texts] == ["grey: no weight"]
    assert not panels["source"].texts


def test_every_panel_shows_something(figure: Figure, tmp_path: Path) -> None:
    figure.savefig(tmp_path / "overview.png", dpi=100)
    picture = imread(tmp_path / "overview.png")[..., :3]
    height, width = picture.shape[:2]
    for axes in figure.axes[::2]:
        box = axes.get_position()
        rows = slice(int((1 - box.y1) * height) + 3, int((1 - box.y0) * height) - 3)
        columns = slice(int(box.x0 * width) + 3, int(box.x1 * width) - 3)
        panel = (255 * picture[rows, columns]).astype(int).reshape(-1, 3)
        colors, count = np.unique(panel, axis=0, return_counts=True)
        assert len(colors) > 30, axes.get_title()
        assert count.max() < 0.97 * len(panel), axes.get_title()


# --- a weight alone -------------------------------------------------------------------------


def test_panels_and_words_of_a_weight() -> None:
    figure = weight_plane_figure(bundle(hole=True), WEIGHT)
    titles = [axes.get_title() for axes in figure.axes[::2]]
    assert titles == ["source density μ", "target density ν", "weight density σ"]
    assert [text.get_text() for text in figure.texts] == [
        "A bundle of flow: the weight",
        "mass 0.75   ·   25 % lost outside the domain   ·   relative error 0.012 (sampled, 4,096 "
        "segments)",
    ]
    # The same pictures as in the overview, one of them grey where there is no weight.
    overview = panels_of(bundle(hole=True))
    for axes, name in zip(figure.axes[::2], ("source", "target", "weight"), strict=True):
        (image,), (other,) = axes.images, overview[name].images
        np.testing.assert_array_equal(image.get_array(), other.get_array())
    assert [text.get_text() for text in figure.axes[4].texts] == ["grey: no weight"]


def test_points_as_a_weight_are_drawn_as_discs() -> None:
    points = np.zeros(2 * 48**2)
    points[[100, 2000]] = 1.0
    arrays = bundle(48, weight=points)
    for figure in (weight_plane_figure(arrays, WEIGHT), plane_figure(arrays, RESULT)):
        discs = [item for item in figure.axes[4].collections if isinstance(item, PathCollection)]
        expected = arrays.vertices[arrays.cells[[100, 2000]]].mean(axis=1)
        np.testing.assert_allclose(discs[0].get_offsets(), expected)


def test_a_wide_domain_has_its_panels_below_each_other() -> None:
    figure = weight_plane_figure(bundle(12, aspect=4), WEIGHT)
    boxes = [axes.get_position() for axes in figure.axes[::2]]
    assert len({round(box.x0, 9) for box in boxes}) == 1
    assert boxes[0].y0 > boxes[1].y1 > boxes[1].y0 > boxes[2].y1
