"""Pictures in space: the overview of a solution, and a weight alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyvista
from matplotlib import colormaps
from matplotlib.colors import ListedColormap

from congested.geometry import FloatArray
from congested.io.arrays import ResultArrays
from congested.plot_panels import (
    SOURCE_COLOR,
    TARGET_COLOR,
    Densities,
    Panel,
    density_panels,
    few_cells,
    headline,
    overview_panels,
    weight_headline,
)
from congested.plot_raster import vertex_means
from congested.plot_scene import (
    SHARES,
    Picture,
    Scene,
    add_contour,
    add_isosurfaces,
    add_slices,
    add_surface,
    compose,
    contour_of,
    cut_slices,
    finish,
    make_scene,
    open_plotter,
    start,
)

_COLORS = {"source": SOURCE_COLOR, "target": TARGET_COLOR, "weight": "#238443"}
_STREAMLINES = 90
_SHARES_IN_WORDS = ", ".join(f"{100 * share:.0f}" for share in SHARES) + " %"


def plot_volume(arrays: ResultArrays, result: Mapping[str, Any], file: Path) -> None:
    """Draw the 3D overview into a PNG file."""
    scene = make_scene(arrays)
    _add_fields(scene, arrays)
    cuts = cut_slices(scene)
    panels = {panel.name: panel for panel in overview_panels(arrays)}
    # From pale to dark on white paper, so that what is weak does not hide what is strong; thin
    # lines have to be darker than a whole plane.
    panels["momentum"] = replace(panels["momentum"], colors=pale_to_dark("magma_r", 0.0))
    lined = replace(panels["momentum"], colors=pale_to_dark("magma_r", 0.12))

    pictures: list[Picture] = []
    with open_plotter(scene, translucent=False) as plotter:
        for name in ("source", "target", "weight", "indicator", "momentum", "gradient"):
            start(plotter, scene)
            add_slices(plotter, scene, cuts, panels[name])
            if name == "gradient":
                add_contour(plotter, scene, cuts, "gradient", 1.0)
            pictures.append((panels[name].title, finish(plotter, scene), panels[name]))
    with open_plotter(scene, translucent=True) as plotter:
        start(plotter, scene)
        add_blobs(plotter, scene, arrays)
        _add_streamlines(plotter, scene, arrays, lined)
        pictures.append(
            ("streamlines (blue: source, orange: target)", finish(plotter, scene), lined)
        )
        start(plotter, scene)
        add_isosurfaces(plotter, scene, arrays, lined)
        pictures.append((f"|m| around {_SHARES_IN_WORDS} of ∫|m|", finish(plotter, scene), lined))
    compose(pictures, headline(result), file)


def plot_weight_volume(arrays: Densities, result: Mapping[str, Any], file: Path) -> None:
    """Draw a weight in 3D into a PNG file: slices beside source and target, and surfaces."""
    scene = make_scene(arrays)
    cuts = cut_slices(scene)
    panels = density_panels(arrays)
    pictures: list[Picture] = []
    with open_plotter(scene, translucent=False) as plotter:
        for panel in panels:
            start(plotter, scene)
            # Few points seldom lie in a slice, which would hide them.
            if not _add_balls(plotter, scene, arrays, panel.values, _COLORS[panel.name]):
                add_slices(plotter, scene, cuts, panel)
            pictures.append((panel.title, finish(plotter, scene), panel))
    lined = replace(panels[-1], colors=pale_to_dark("YlGn", 0.12))
    with open_plotter(scene, translucent=True) as plotter:
        start(plotter, scene)
        add_blobs(plotter, scene, arrays)
        add_isosurfaces(plotter, scene, arrays, lined)
        title = f"{_SHARES_IN_WORDS} of σ (blue: μ, orange: ν)"
        pictures.append((title, finish(plotter, scene), lined))
    compose(pictures, weight_headline(result), file)


def plot_slices(
    arrays: Densities, panels: tuple[Panel, ...], words: tuple[str, str], file: Path
) -> None:
    """Draw panels in 3D into a PNG file: each on the same two slices."""
    scene = make_scene(arrays)
    cuts = cut_slices(scene)
    pictures: list[Picture] = []
    with open_plotter(scene, translucent=False) as plotter:
        for panel in panels:
            start(plotter, scene)
            add_slices(plotter, scene, cuts, panel)
            pictures.append((panel.title, finish(plotter, scene), panel))
    compose(pictures, words, file)


def _add_fields(scene: Scene, arrays: ResultArrays) -> None:
    """Give the scene's mesh momentum and gradient at its vertices."""
    data = scene.grid.point_data
    data["momentum"] = vertex_means(arrays.cells, arrays.cell_volume, arrays.momentum)
    data["speed"] = np.linalg.norm(data["momentum"], axis=1)
    gradient = np.linalg.norm(arrays.gradient, axis=1)
    data["gradient"] = vertex_means(arrays.cells, arrays.cell_volume, gradient)


def pale_to_dark(name: str, start: float) -> ListedColormap:
    """Return a colour map of matplotlib's from some place on, without its dark end."""
    return ListedColormap(colormaps[name](np.linspace(start, 0.9, 256)), name=name)


def _seeds(arrays: ResultArrays) -> FloatArray:
    """Spread starting points over the source, each for the same share of its surplus mass."""
    surplus = np.maximum(arrays.source - arrays.target, 0.0) * arrays.cell_volume
    share = (np.arange(_STREAMLINES) + 0.5) / _STREAMLINES
    cumulated = np.cumsum(surplus)
    cells = np.searchsorted(cumulated, share * cumulated[-1])
    return arrays.vertices[arrays.cells[cells]].mean(axis=1)


def _add_streamlines(
    plotter: pyvista.Plotter, scene: Scene, arrays: ResultArrays, panel: Panel
) -> None:
    top = float(scene.grid.point_data["speed"].max())
    if not top > 0.0:
        return
    lines = scene.grid.streamlines_from_source(
        pyvista.PolyData(_seeds(arrays)),
        vectors="momentum",
        integration_direction="both",
        max_length=3.0 * scene.grid.length,
        terminal_speed=3e-3 * top,
    )
    if lines.n_cells:
        tubes = lines.tube(radius=0.0025 * scene.grid.length, n_sides=8)
        colors = panel.colored(tubes.point_data["speed"])[:, :3]
        tubes.point_data["color"] = (255 * colors).astype(np.uint8)
        plotter.add_mesh(tubes, scalars="color", rgb=True, ambient=0.4, render=False)


def add_blobs(
    plotter: pyvista.Plotter, scene: Scene, arrays: Densities, *, opacity: float = 0.5
) -> None:
    """Draw surfaces around half of the source and half of the target, or balls at few points."""
    for name, values in (("source", arrays.source), ("target", arrays.target)):
        if not _add_balls(plotter, scene, arrays, values, _COLORS[name]):
            blob = contour_of(scene, arrays, values, 0.5)
            if blob.n_cells:
                add_surface(plotter, blob, _COLORS[name], opacity)


def _add_balls(
    plotter: pyvista.Plotter, scene: Scene, arrays: Densities, values: FloatArray, color: str
) -> bool:
    """Draw balls where a density sits in a few cells, and return whether it does."""
    cells = few_cells(values, arrays.cell_volume)
    if not len(cells):
        return False
    places = pyvista.PolyData(arrays.vertices[arrays.cells[cells]].mean(axis=1))
    ball = pyvista.Sphere(radius=0.01 * scene.grid.length)
    add_surface(plotter, places.glyph(geom=ball, scale=False, orient=False), color, 1.0)
    return True
