"""Scenes of a mesh in space: slices and surfaces, rendered by PyVista without a display.

Each picture is rendered on its own and set into a matplotlib figure, so that words and colour bars
look as they do in 2D.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyvista
from matplotlib.colors import to_rgb

from congested.geometry import FloatArray, IntArray
from congested.plot_panels import (
    INACTIVE_COLOR,
    Densities,
    Panel,
    boundary_facets,
    draw_color_bar,
    new_figure,
    weighted_quantile,
)
from congested.plot_raster import vertex_means

#: Parts of an integral inside the iso-surfaces of `add_isosurfaces`.
SHARES = (0.25, 0.5, 0.9)

_DPI = 150
_WIDTH = 900  # of one picture, in pixels: more than the figure has, so that edges are smooth
_COLUMNS = 4

#: Words above a picture, the picture, and the panel whose colour bar it gets.
Picture = tuple[str, npt.NDArray[np.uint8], Panel]


@dataclass(frozen=True)
class Scene:
    """What all the pictures share.

    Attributes
    ----------
    grid
        The mesh, with its cell numbers.
    surface, outline
        Its boundary and the sharp edges of that.
    center, axis, side, above
        A point on the axis of the transport, and three orthogonal directions: along the axis,
        horizontally across it, and up.
    right, up, toward
        The axes of the picture: to the right, upwards, and to the eye.
    """

    grid: pyvista.UnstructuredGrid
    surface: pyvista.PolyData
    outline: pyvista.PolyData
    center: FloatArray
    axis: FloatArray
    side: FloatArray
    above: FloatArray
    right: FloatArray
    up: FloatArray
    toward: FloatArray

    def extent(self) -> tuple[FloatArray, FloatArray]:
        """Return the lower left and upper right corner of the mesh in the picture's axes."""
        seen = np.asarray(self.surface.points) @ np.stack([self.right, self.up], axis=1)
        return seen.min(axis=0), seen.max(axis=0)


def make_scene(arrays: Densities) -> Scene:
    """Choose the view of a mesh: along and across the way from the source to the target."""
    vertices = arrays.vertices
    grid = pyvista.UnstructuredGrid({pyvista.CellType.TETRA: arrays.cells}, vertices)
    grid.cell_data["cell"] = np.arange(len(arrays.cells))
    facets = np.asarray(_outward(vertices, arrays.cells), dtype=int)
    surface = pyvista.PolyData.from_regular_faces(vertices, facets).clean()
    outline = surface.extract_feature_edges(
        feature_angle=35, boundary_edges=False, manifold_edges=False
    )

    # The slices run along the transport: from the middle of the source to that of the target.
    midpoints = vertices[arrays.cells].mean(axis=1)
    ends = []
    for density in (arrays.source, arrays.target):
        mass = density * arrays.cell_volume
        ends.append(mass @ midpoints / mass.sum())
    axis = ends[1] - ends[0]
    if np.linalg.norm(axis) < 0.02 * grid.length:
        axis = np.array([1.0, 0.0, 0.0])
    axis = _unit(axis)
    vertical = np.array([0.0, 0.0, 1.0])
    if abs(axis @ vertical) > 0.9:
        vertical = np.array([0.0, 1.0, 0.0])
    side = _unit(np.cross(axis, vertical))
    above = _unit(np.cross(side, axis))

    level = np.cross(vertical, side)
    toward = _unit(0.80 * side + 0.60 * vertical - 0.36 * level)
    right = _unit(np.cross(vertical, toward))
    up = _unit(np.cross(toward, right))
    center = 0.5 * (ends[0] + ends[1])
    return Scene(grid, surface, outline, center, axis, side, above, right, up, toward)


def _unit(vector: npt.NDArray[np.floating]) -> FloatArray:
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float64)


def _outward(vertices: FloatArray, cells: IntArray) -> IntArray:
    """Return the boundary facets (B, 3) with their vertices anticlockwise as seen from outside."""
    facets, opposite = boundary_facets(cells)
    first, second, third = (vertices[facets[:, corner]] for corner in range(3))
    normal = np.cross(second - first, third - first)
    inward = np.einsum("ij,ij->i", normal, vertices[opposite] - first) > 0.0
    facets[inward] = facets[inward][:, ::-1]
    return facets


@contextmanager
def open_plotter(scene: Scene, *, translucent: bool) -> Iterator[pyvista.Plotter]:
    """Open a window that needs no display, and close it."""
    # VTK warns when it finds no display, before it goes on without one; errors are still shown.
    with pyvista.vtk_verbosity("error"):
        # Any: decorators in pyvista hide the types of the methods from mypy.
        plotter: Any = pyvista.Plotter(off_screen=True, window_size=list(_window(scene)))
    try:
        plotter.set_background(color="white")
        if translucent:
            # Surfaces in the right order; multisampling would make them vanish.
            plotter.disable_anti_aliasing()
            plotter.enable_depth_peeling(number_of_peels=6)
        yield plotter
    finally:
        plotter.close()


def _window(scene: Scene) -> tuple[int, int]:
    lower, upper = scene.extent()
    width, height = upper - lower
    return _WIDTH, int(np.clip(_WIDTH * height / width, 0.4 * _WIDTH, 1.1 * _WIDTH))


def view(scene: Scene) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of a picture, along the axes `right` and `up`."""
    lower, upper = scene.extent()
    width, height = _window(scene)
    half = 0.5 * (upper - lower)
    scale = 1.03 * max(half[1], half[0] * height / width)
    x, y = 0.5 * (lower + upper)
    across = scale * width / height
    return float(x - across), float(x + across), float(y - scale), float(y + scale)


def start(plotter: pyvista.Plotter, scene: Scene) -> None:
    """Begin a picture: only the boundary of the mesh."""
    plotter.clear_actors()
    plotter.add_mesh(scene.surface, color="#999999", opacity=0.06, lighting=False, render=False)
    if scene.outline.n_cells:
        plotter.add_mesh(
            scene.outline, color="#444444", line_width=2.0, lighting=False, render=False
        )


def finish(plotter: pyvista.Plotter, scene: Scene) -> npt.NDArray[np.uint8]:
    """Return the picture as the eye sees it."""
    left, right, bottom, top = view(scene)
    depth = np.asarray(scene.surface.points) @ scene.toward
    focus = 0.5 * (left + right) * scene.right + 0.5 * (bottom + top) * scene.up
    focus = focus + depth.mean() * scene.toward
    camera = plotter.camera
    camera.focal_point = tuple(focus)
    camera.position = tuple(focus + 2.0 * scene.grid.length * scene.toward)
    camera.up = tuple(scene.up)
    camera.parallel_projection = True
    camera.parallel_scale = 0.5 * (top - bottom)
    plotter.renderer.ResetCameraClippingRange()
    plotter.render()
    return np.asarray(plotter.screenshot(None, return_img=True))


def cut_slices(scene: Scene) -> tuple[pyvista.PolyData, pyvista.PolyData]:
    """Cut the mesh along two planes that meet in the axis of the transport.

    Returns the cuts, which know their cells, and their rims together with the line where they
    meet: without lines the eye cannot tell the planes apart.
    """
    normals = (scene.side, scene.above)
    cuts = [scene.grid.slice(normal, origin=scene.center) for normal in normals]
    lines = [cut.extract_feature_edges(feature_edges=False, manifold_edges=False) for cut in cuts]
    lines.append(cuts[0].slice(scene.above, origin=scene.center))
    return pyvista.merge(cuts, merge_points=False), pyvista.merge(lines, merge_points=False)


def add_slices(
    plotter: pyvista.Plotter,
    scene: Scene,
    cuts: tuple[pyvista.PolyData, pyvista.PolyData],
    panel: Panel,
) -> None:
    """Draw a panel on the slices of `cut_slices`."""
    slices, lines = cuts
    cell = slices.cell_data["cell"]
    colors = panel.colored(panel.values[cell])[:, :3]
    colors[~panel.active[cell]] = to_rgb(INACTIVE_COLOR)
    shown = slices.copy(deep=False)
    shown.cell_data["color"] = (255 * colors).astype(np.uint8)
    plotter.add_mesh(shown, scalars="color", rgb=True, lighting=False, render=False)
    lines = lines.translate(_nearer(scene))
    plotter.add_mesh(lines, color="#a0a0a0", line_width=2.5, lighting=False, render=False)


def add_contour(
    plotter: pyvista.Plotter,
    scene: Scene,
    cuts: tuple[pyvista.PolyData, pyvista.PolyData],
    name: str,
    level: float,
) -> None:
    """Draw where a field at the vertices of the scene's mesh has a level, on the slices."""
    lines = cuts[0].contour([level], scalars=name).translate(_nearer(scene))
    if lines.n_cells:
        plotter.add_mesh(lines, color="black", line_width=2.5, lighting=False, render=False)


def _nearer(scene: Scene) -> FloatArray:
    """Return a small step to the eye: lines in the planes would be half hidden."""
    return np.asarray(2e-3 * scene.grid.length * scene.toward)


def contour_of(
    scene: Scene, arrays: Densities, values: FloatArray, share: float
) -> pyvista.PolyData:
    """Return the surface inside which lies a share of the integral of a cellwise density."""
    smooth = vertex_means(arrays.cells, arrays.cell_volume, values)
    at_cells = smooth[arrays.cells].mean(axis=1)
    mass = at_cells * arrays.cell_volume
    if not np.ptp(smooth) > 1e-9 * smooth.max():  # nothing at all, or the same everywhere
        return pyvista.PolyData()
    grid = scene.grid.copy(deep=False)
    grid.point_data["shown"] = smooth
    return grid.contour([weighted_quantile(at_cells, mass, 1.0 - share)], scalars="shown")


def add_isosurfaces(
    plotter: pyvista.Plotter, scene: Scene, arrays: Densities, panel: Panel
) -> None:
    """Draw the surfaces inside which lie some shares of a panel's integral."""
    for share, opacity in zip(SHARES, (0.9, 0.4, 0.2), strict=True):
        surface = contour_of(scene, arrays, panel.values, share)
        if surface.n_cells:
            level = surface.point_data["shown"][:1]
            add_surface(plotter, surface, panel.colored(level)[0, :3], opacity)


def add_surface(
    plotter: pyvista.Plotter, surface: pyvista.PolyData, color: object, opacity: float
) -> None:
    """Draw a surface of one colour."""
    plotter.add_mesh(
        surface, color=color, opacity=opacity, smooth_shading=True, ambient=0.4, render=False
    )


def add_tubes(
    plotter: pyvista.Plotter, scene: Scene, segments: FloatArray, colors: FloatArray
) -> None:
    """Draw straight pieces (k, 2, 3) as thin tubes of given colours (k, 3)."""
    if not len(segments):
        return
    ends = np.arange(2 * len(segments)).reshape(-1, 2)
    lines = np.insert(ends, 0, 2, axis=1).reshape(-1)
    pieces = pyvista.PolyData(segments.reshape(-1, 3), lines=lines)
    pieces.point_data["color"] = np.repeat((255 * colors).astype(np.uint8), 2, axis=0)
    tubes = pieces.tube(radius=0.0018 * scene.grid.length, n_sides=6)
    plotter.add_mesh(tubes, scalars="color", rgb=True, ambient=0.4, render=False)


def compose(pictures: list[Picture], words: tuple[str, str], file: Path, *, note: str = "") -> None:
    """Set pictures of equal size, up to four in a row, into a PNG file with a headline.

    A note is written below the headline.
    """
    pixels_y, pixels_x = pictures[0][1].shape[:2]
    columns = min(len(pictures), _COLUMNS)
    rows = -(-len(pictures) // columns)
    width, height = 3.7, 3.7 * pixels_y / pixels_x
    step_x, step_y = width + 0.82, height + 0.5
    size_x, size_y = columns * step_x + 0.1, rows * step_y + 0.95
    figure = new_figure(size_x, size_y, *words)
    if note:
        y = 1.0 - 0.84 / size_y
        figure.text(0.5, y, note, ha="center", va="center", size=9, color="0.15")
    for place, (title, image, panel) in enumerate(pictures):
        row, column = divmod(place, columns)
        x, y = 0.1 + column * step_x, 0.12 + (rows - 1 - row) * step_y
        axes = figure.add_axes((x / size_x, y / size_y, width / size_x, height / size_y))
        axes.imshow(image, interpolation="antialiased", interpolation_stage="rgba")
        axes.set_axis_off()
        axes.set_title(title, size=11, pad=5)
        x, y = x + width + 0.08, y + 0.08 * height
        bar_axes = figure.add_axes((x / size_x, y / size_y, 0.13 / size_x, 0.84 * height / size_y))
        draw_color_bar(figure, bar_axes, panel)
        if panel.name == "way":
            # Numbers would not say of what.
            bar_axes.set_yticks([0.0, 1.0], ["leaves", "arrives"])
    figure.savefig(file, dpi=_DPI, format="png")
