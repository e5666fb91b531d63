"""The overview is written whole, for both dimensions, and can be drawn again from the files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from congested.errors import InputError
from congested.geometry import simplex_volumes
from congested.io.arrays import ResultArrays, save_arrays
from congested.io.weight import WeightArrays
from congested.plot import plot_directory, plot_overview, plot_weight
from congested.plot_scene import contour_of, make_scene

RESULT: dict[str, Any] = {
    "schema": 1,
    "title": "λ and a title",
    "status": "converged",
    "bounds": {"lower": 0.5, "upper": 0.51, "relative_gap": 0.02, "scope": "cell-data"},
    "values": {"critic_loss": 0.52, "penalty": 0.01, "momentum_l1": 0.5},
    "problem": {"penalty": {"strength": "inf"}},
}

# Six tetrahedra that share the diagonal of a cube: one for each order of the axes.
_ORDERS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]


def flow(dimension: int, size: int) -> ResultArrays:
    """Two blobs on the diagonal of the unit square or cube with flow between them."""
    steps = [np.arange(size + 1)] * dimension
    lattice = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, dimension)
    number = {tuple(point): index for index, point in enumerate(lattice.tolist())}
    cells = []
    for corner in lattice[(lattice < size).all(axis=1)]:
        for order in _ORDERS if dimension == 3 else [(0, 1), (1, 0)]:
            walk = [corner]
            for axis in order:
                walk.append(walk[-1] + np.eye(dimension, dtype=int)[axis])
            cells.append([number[tuple(point.tolist())] for point in walk])
    vertices, connectivity = lattice / size, np.array(cells)
    middle = vertices[connectivity].mean(axis=1)
    volume = simplex_volumes(vertices[connectivity])

    def blob(center: float, width: float) -> np.ndarray:
        density = np.exp(-0.5 * ((middle - center) ** 2).sum(axis=1) / width**2)
        return density / (density @ volume)

    axis = np.ones(dimension) / math.sqrt(dimension)
    along = (middle - 0.5) @ axis
    across = ((middle - 0.5) ** 2).sum(axis=1) - along**2
    speed = np.exp(-0.5 * across / 0.1**2) * np.clip(3.0 - 8.0 * np.abs(along), 0.0, 1.0)
    return ResultArrays(
        vertices=vertices,
        cells=connectivity,
        cell_volume=volume,
        flux=np.zeros(connectivity.shape),
        potential=-vertices @ axis,
        momentum=speed[:, None] * axis,
        gradient=-(0.8 + 0.3 * speed)[:, None] * axis,
        weight=np.where(across < 0.2, speed + 1e-4, 0.0),
        source=blob(0.3, 0.1),
        target=blob(0.7, 0.1),
        gap_indicator=1e-4 * speed * volume,
    )


@pytest.fixture(scope="module")
def square() -> ResultArrays:
    return flow(2, 16)


@pytest.fixture(scope="module")
def cube() -> ResultArrays:
    return flow(3, 8)


def colors_in_blocks(file: Path, rows: int, columns: int) -> list[int]:
    """Count the colours in each block of a picture below its headline."""
    picture = (255 * imread(file)[..., :3]).astype(np.int64) @ [65536, 256, 1]
    picture = picture[picture.shape[0] // 12 :]
    return [
        len(np.unique(block))
        for band in np.array_split(picture, rows, axis=0)
        for block in np.array_split(band, columns, axis=1)
    ]


def test_plane_without_a_display(
    square: ResultArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    file = tmp_path / "overview.png"
    plot_overview(square, RESULT, file)
    assert [path.name for path in tmp_path.iterdir()] == ["overview.png"]
    height, width = imread(file).shape[:2]
    assert 1200 < height < width < 3000
    # Text alone has its shades of grey: a picture has more.
    assert min(colors_in_blocks(file, 2, 3)) > 250


def test_volume_without_a_display(
    cube: ResultArrays,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    file = tmp_path / "overview.png"
    plot_overview(cube, RESULT, file)
    assert [path.name for path in tmp_path.iterdir()] == ["overview.png"]
    assert min(colors_in_blocks(file, 2, 4)) > 250
    # VTK says nothing on the terminal, neither about displays nor about anything else.
    assert capfd.readouterr() == ("", "")


def test_volume_without_flow_or_weight(
    cube: ResultArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("congested.plot_scene._WIDTH", 300)
    nothing = np.zeros(len(cube.cells))
    still = replace(
        cube,
        momentum=np.zeros_like(cube.momentum),
        gradient=np.zeros_like(cube.gradient),
        weight=nothing,
        gap_indicator=nothing,
        target=cube.source,
    )
    plot_overview(still, {"title": ""}, tmp_path / "overview.png")
    assert (tmp_path / "overview.png").stat().st_size > 50_000


def test_volume_with_points(
    cube: ResultArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("congested.plot_scene._WIDTH", 300)
    points = np.zeros(len(cube.cells))
    points[[40, 3000]] = 1.0
    plot_overview(replace(cube, target=points), RESULT, tmp_path / "overview.png")
    assert min(colors_in_blocks(tmp_path / "overview.png", 2, 4)) > 100


def test_failed_picture_leaves_the_old_one(
    square: ResultArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "overview.png"
    file.write_text("the old picture")

    def broken(arrays: ResultArrays, result: dict[str, Any], path: Path) -> None:
        path.write_text("half of it")
        raise RuntimeError("out of paint")

    monkeypatch.setattr("congested.plot_plane.plot_plane", broken)
    with pytest.raises(RuntimeError, match="out of paint"):
        plot_overview(square, RESULT, file)
    assert [path.name for path in tmp_path.iterdir()] == ["overview.png"]
    assert file.read_text() == "the old picture"


def test_drawn_again_from_the_files(
    square: ResultArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_arrays(square, tmp_path / "solution.npz")
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    drawn: list[tuple[ResultArrays, dict[str, Any], Path]] = []
    monkeypatch.setattr("congested.plot.plot_overview", lambda *what: drawn.append(what))
    assert plot_directory(tmp_path) == tmp_path / "overview.png"
    ((arrays, result, file),) = drawn
    np.testing.assert_array_equal(arrays.momentum, square.momentum)
    assert result == RESULT
    assert file == tmp_path / "overview.png"


def test_directories_without_a_solution(square: ResultArrays, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no result here"):
        plot_directory(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    with pytest.raises(InputError, match=r"solution\.npz: no such file"):
        plot_directory(tmp_path)
    save_arrays(square, tmp_path / "solution.npz")
    (tmp_path / "result.json").write_text(json.dumps({**RESULT, "status": "infeasible"}))
    with pytest.raises(InputError, match="no solution to draw"):
        plot_directory(tmp_path)
    assert not (tmp_path / "overview.png").exists()


# --- a weight alone -------------------------------------------------------------------------

WEIGHT: dict[str, Any] = {
    "title": "A weight",
    "mass": 1.0,
    "lost": 0.0,
    "relative_error": 0.01,
    "method": "sampled",
    "samples": 4096,
}


def weight_of(arrays: ResultArrays, **changes: Any) -> WeightArrays:
    names = ("vertices", "cells", "cell_volume", "weight", "source", "target")
    return WeightArrays(**{name: getattr(arrays, name) for name in names} | changes)


@pytest.mark.parametrize("dimension", [2, 3])
def test_weight_without_a_display(
    square: ResultArrays,
    cube: ResultArrays,
    dimension: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr("congested.plot_scene._WIDTH", 300)
    file = tmp_path / "weight.png"
    plot_weight(weight_of({2: square, 3: cube}[dimension]), WEIGHT, file)
    assert [path.name for path in tmp_path.iterdir()] == ["weight.png"]
    height, width = imread(file).shape[:2]
    assert 600 < height < width / 2 < 1500
    assert min(colors_in_blocks(file, 1, dimension + 1)) > 200
    assert capfd.readouterr() == ("", "")


def test_points_in_space_are_balls_that_no_slice_hides(
    cube: ResultArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("congested.plot_scene._WIDTH", 300)
    points = np.zeros((3, len(cube.cells)))
    for row, cell in zip(points, (40, 3000, 1500), strict=True):
        row[cell] = 1.0
    source, target, weight = points
    file = tmp_path / "weight.png"
    plot_weight(weight_of(cube, source=source, target=target, weight=weight), WEIGHT, file)
    picture = imread(file)[..., :3]
    blocks = np.array_split(picture[picture.shape[0] // 5 :], 4, axis=1)
    for block, strongest in zip(blocks[:3], (2, 0, 1), strict=True):  # blue, orange, green
        block = block[:, : int(0.8 * block.shape[1])]  # without the colour bar
        others = [channel for channel in range(3) if channel != strongest]
        colored = block[..., strongest] - block[..., others].max(axis=2) > 0.1
        assert 5 < colored.sum() < 500
        assert not (block.max(axis=2) < 0.2).sum() > 0.02 * colored.size  # no dark slice


def test_surfaces_only_where_a_field_has_levels(cube: ResultArrays) -> None:
    scene = make_scene(cube)
    assert contour_of(scene, cube, cube.weight, 0.5).n_cells > 10
    flat = np.full(len(cube.cells), 4.0 / 3.0)
    assert contour_of(scene, cube, flat, 0.5).n_cells == 0
    assert contour_of(scene, cube, 0.0 * flat, 0.5).n_cells == 0
