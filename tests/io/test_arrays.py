"""Gathered arrays are the fields that were given, and survive the file."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from congested.certificate import EDGES
from congested.errors import CongestedError, InputError
from congested.io import arrays as arrays_module
from congested.io.arrays import (
    ResultArrays,
    gather_arrays,
    gather_rows,
    load_arrays,
    potential_of_cells,
    save_arrays,
)

CELL_NAMES = ("flux", "momentum", "gradient", "weight", "source", "target", "gap_indicator")


def gathered(sample: Any) -> ResultArrays:
    arrays = gather_arrays(sample.mesh, sample.fields, sample.cells.volume)
    assert arrays is not None
    return arrays


@pytest.mark.parametrize("dimension", [2, 3])
def test_gathered_rows_belong_to_their_cells(
    make_sample: Callable[..., Any], dimension: int
) -> None:
    sample = make_sample(dimension)
    arrays = gathered(sample)
    assert arrays.dimension == dimension
    np.testing.assert_array_equal(arrays.vertices[arrays.cells], sample.cells.simplices)
    np.testing.assert_array_equal(arrays.cell_volume, sample.cells.volume)
    for name in CELL_NAMES:
        np.testing.assert_array_equal(getattr(arrays, name), getattr(sample.fields, name))
    weights = np.arange(1.0, dimension + 1.0)
    np.testing.assert_allclose(arrays.potential, 1.0 + arrays.vertices @ weights, rtol=1e-14)
    # ∫ (1 + x) over the unit cube, exact by midpoints.
    assert arrays.weight @ arrays.cell_volume == pytest.approx(1.5, rel=1e-13)
    assert arrays.edges is None
    assert arrays.potential_edges is None


@pytest.mark.parametrize(("dimension", "cells"), [(2, 36), (3, 162)])
def test_edges_of_a_quadratic_potential(
    make_sample: Callable[..., Any], dimension: int, cells: int
) -> None:
    arrays = gathered(make_sample(dimension, edges=True))
    assert arrays.edges is not None
    assert arrays.potential_edges is not None
    assert len(arrays.cells) == cells
    # Every pair of vertices of a cell is an edge, and there are no others.
    pairs = np.array(EDGES[dimension])
    expected = np.unique(np.sort(arrays.cells[:, pairs].reshape(-1, 2), axis=1), axis=0)
    np.testing.assert_array_equal(arrays.edges, expected)
    middle = arrays.vertices[arrays.edges].mean(axis=1)
    weights = np.arange(1.0, dimension + 1.0)
    value = 1.0 + middle @ weights + middle[:, 0] * middle[:, 1]
    np.testing.assert_allclose(arrays.potential_edges, value, rtol=1e-14)
    potential, in_cells = potential_of_cells(arrays)
    middle = arrays.vertices[arrays.cells][:, pairs].mean(axis=2)
    value = 1.0 + middle @ weights + middle[..., 0] * middle[..., 1]
    np.testing.assert_allclose(in_cells, value, rtol=1e-14)
    np.testing.assert_array_equal(potential, arrays.potential[arrays.cells])
    with pytest.raises(InputError, match="edges lacks an edge of a cell"):
        potential_of_cells(
            replace(arrays, edges=arrays.edges[1:], potential_edges=arrays.potential_edges[1:])
        )


def test_too_many_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays_module, "_MOST_ROWS", 9)
    assert gather_rows(MPI.COMM_SELF, np.zeros((9, 2))) is not None
    with pytest.raises(CongestedError, match="10 rows are too many"):
        gather_rows(MPI.COMM_SELF, np.zeros((10, 2)))


@pytest.mark.parametrize("edges", [False, True])
def test_round_trip(make_sample: Callable[..., Any], tmp_path: Path, edges: bool) -> None:
    arrays = gathered(make_sample(2, edges=edges))
    path = tmp_path / "solution.npz"
    save_arrays(arrays, path)
    again = load_arrays(path)
    for field in fields_of(ResultArrays):
        before, after = getattr(arrays, field.name), getattr(again, field.name)
        if before is None:
            assert after is None
        else:
            np.testing.assert_array_equal(before, after)
            assert before.dtype == after.dtype
    with np.load(path, allow_pickle=False) as stored:
        assert ("edges" in stored) is edges
    assert [entry.name for entry in tmp_path.iterdir()] == ["solution.npz"]


def test_failed_save_keeps_the_old_file(
    make_sample: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = gathered(make_sample(2))
    path = tmp_path / "solution.npz"
    save_arrays(arrays, path)
    before = path.read_bytes()

    def full(file: Any, **_: object) -> None:
        file.write(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        save_arrays(arrays, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["solution.npz"]


def test_mistakes_in_a_file_are_named(make_sample: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "solution.npz"
    with pytest.raises(InputError, match=r"solution\.npz: no such file"):
        load_arrays(path)
    path.write_bytes(b"not a zip file")
    with pytest.raises(InputError, match=r"not a readable solution\.npz"):
        load_arrays(path)

    good = {
        field.name: value
        for field in fields_of(ResultArrays)
        if (value := getattr(gathered(make_sample(2, edges=True)), field.name)) is not None
    }
    wrong: list[tuple[dict[str, Any], str]] = [
        ({**good, "weight": None}, "array missing: weight; found: vertices, "),
        ({**good, "edges": None}, "array missing: edges"),
        (
            {**good, "source_vertex_masses": good["flux"]},
            "array missing: target_vertex_masses, source_affine_error, target_affine_error;",
        ),
        ({**good, "inverse_weight": good["flux"]}, r"inverse_weight has shape.*\(36, 6\)"),
        ({**good, "flux": good["flux"][:, :2]}, r"flux has shape \(36, 2\); allowed.*\(36, 3\)"),
        ({**good, "vertices": good["vertices"][:, 0]}, r"vertices has shape \(25,\)"),
        ({**good, "target": np.array([{}], dtype=object)}, "not a readable"),
    ]
    for content, text in wrong:
        np.savez(path, **{name: value for name, value in content.items() if value is not None})
        with pytest.raises(InputError, match=text):
            load_arrays(path)


def test_arrays_are_frozen(make_sample: Callable[..., Any]) -> None:
    arrays = gathered(make_sample(2))
    with pytest.raises(AttributeError):
        arrays.weight = arrays.source  # type: ignore[misc]
    assert replace(arrays, weight=arrays.source).weight is arrays.source
