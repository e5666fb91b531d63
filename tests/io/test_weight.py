"""The directory of a weight: what is in it, complete or without weight.json."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import meshio
import numpy as np
import pytest
import pyvista
from mpi4py import MPI

from congested.errors import CongestedError, InputError
from congested.io import weight as weight_module
from congested.io.weight import WeightArrays, gather_weight, write_weight

RESULT = {"schema": 1, "title": "λ", "mass": np.float64(1.0), "relative_error": np.inf}
FILES = {"weight.json", "weight.npz", "weight.png", "weight.pvd", "weight.vtu"}


def draw_dot(arrays: WeightArrays, result: Mapping[str, Any], path: Path) -> None:
    path.write_text(f"{len(arrays.cells)} cells of {result['title']}")


def gathered(sample: Any, *, sampled: bool = True) -> WeightArrays:
    volume, fields = sample.cells.volume, sample.fields
    masses = {name: getattr(fields, name) * volume for name in ("weight", "source", "target")}
    masses["weight_standard_error"] = 0.25 * masses["weight"] if sampled else None
    arrays = gather_weight(sample.mesh, volume, masses)
    assert arrays is not None
    return arrays


def write(sample: Any, directory: Path, **changes: Any) -> Path:
    options = {
        "result": RESULT,
        "arrays": gathered(sample),
        "comm": MPI.COMM_SELF,
        "draw": draw_dot,
        **changes,
    }
    return write_weight(directory, **options)


@pytest.mark.parametrize("dimension", [2, 3])
def test_gathered_rows_belong_to_their_cells(
    make_sample: Callable[..., Any], dimension: int
) -> None:
    sample = make_sample(dimension)
    arrays = gathered(sample)
    assert arrays.dimension == dimension
    np.testing.assert_array_equal(arrays.vertices[arrays.cells], sample.cells.simplices)
    np.testing.assert_array_equal(arrays.cell_volume, sample.cells.volume)
    for name in ("weight", "source", "target"):
        expected = getattr(sample.fields, name)
        np.testing.assert_allclose(getattr(arrays, name), expected, rtol=1e-14)
    assert arrays.weight_standard_error is not None
    np.testing.assert_allclose(arrays.weight_standard_error, 0.25 * arrays.weight, rtol=1e-14)


@pytest.mark.parametrize("sampled", [True, False])
def test_everything_is_there(
    make_sample: Callable[..., Any], tmp_path: Path, sampled: bool
) -> None:
    sample = make_sample(2)
    arrays = gathered(sample, sampled=sampled)
    directory = write(sample, tmp_path / "results" / "two", arrays=arrays)
    assert {path.name for path in directory.iterdir()} == FILES
    assert (directory / "weight.png").read_text() == "36 cells of λ"
    content = json.loads((directory / "weight.json").read_text(encoding="utf-8"))
    assert content == {"schema": 1, "title": "λ", "mass": 1.0, "relative_error": "inf"}
    with np.load(directory / "weight.npz", allow_pickle=False) as stored:
        shapes = {name: stored[name].shape for name in stored}
        np.testing.assert_array_equal(stored["weight"], arrays.weight)
    vertices = len(arrays.vertices)
    expected = {"vertices": (vertices, 2), "cells": (36, 3), "cell_volume": (36,), "weight": (36,)}
    if sampled:
        expected["weight_standard_error"] = (36,)
    assert shapes == expected


@pytest.mark.parametrize("dimension", [2, 3])
def test_paraview_file(make_sample: Callable[..., Any], tmp_path: Path, dimension: int) -> None:
    sample = make_sample(dimension)
    write(sample, tmp_path)
    (grid,) = pyvista.get_reader(str(tmp_path / "weight.pvd")).read()
    assert set(grid.array_names) == {"weight", "source", "target"}
    middle = np.asarray(grid.cell_centers().points)
    np.testing.assert_allclose(grid.cell_data["weight"], 1.0 + middle[:, 0], rtol=1e-9)
    np.testing.assert_allclose(grid.cell_data["source"], 2.0 * middle[:, 1], rtol=1e-9)
    np.testing.assert_allclose(grid.cell_data["target"], 2.0 * middle[:, 0], rtol=1e-9)
    kind = {2: "triangle", 3: "tetra"}[dimension]
    assert len(meshio.read(tmp_path / "weight.vtu").cells_dict[kind]) == sample.cells.number


def test_a_second_weight_replaces_the_first_and_nothing_else(
    make_sample: Callable[..., Any], tmp_path: Path
) -> None:
    write(make_sample(2, 3), tmp_path)
    (tmp_path / ".weight.npz.partial").write_text("killed while writing")
    kept = {"result.json", "solution.npz", "problem.toml", "weight.npy"}
    for name in kept:
        (tmp_path / name).write_text("mine")
    write(make_sample(2, 2), tmp_path, draw=None)
    assert {path.name for path in tmp_path.iterdir()} == (FILES | kept) - {"weight.png"}
    with np.load(tmp_path / "weight.npz") as stored:
        assert len(stored["cells"]) == 16


@pytest.mark.parametrize("step", ["save_npz", "write_grid"])
def test_no_result_after_a_failure_in_the_middle(
    make_sample: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write(make_sample(2), tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "disk")

    monkeypatch.setattr(weight_module, step, full)
    with pytest.raises(CongestedError, match="No space left on device"):
        write(make_sample(2), tmp_path)
    assert not (tmp_path / "weight.json").exists()


def test_result_is_the_last_file(
    make_sample: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    write_text = weight_module.write_text

    def spy(path: Path, text: str) -> None:
        seen.append({path.name for path in tmp_path.iterdir()})
        write_text(path, text)

    monkeypatch.setattr(weight_module, "write_text", spy)
    write(make_sample(2), tmp_path)
    assert seen == [FILES - {"weight.json"}]


def test_a_failed_picture_costs_nothing_else(
    make_sample: Callable[..., Any], tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no OpenGL here")

    with pytest.raises(CongestedError, match=r"everything but weight\.png .*no OpenGL here"):
        write(make_sample(2), tmp_path, draw=broken)
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"weight.png"}


def test_an_impossible_directory_is_an_input_error(
    make_sample: Callable[..., Any], tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(InputError, match=r"file.*: cannot write"):
        write(make_sample(2), blocked)
    assert blocked.read_text() == "in the way"
