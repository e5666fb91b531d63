"""Field files open in PyVista and meshio with the promised arrays and values."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dolfinx.common
import meshio
import numpy as np
import pytest
import pyvista

from congested.errors import InputError
from congested.io.arrays import gather_arrays
from congested.io.fields import (
    check_formats,
    field_functions,
    remove_field_files,
    write_fields,
    write_vtu,
)

CELL_ARRAYS = ("momentum", "gradient", "weight", "source", "target", "gap_indicator")


def expected_cell_values(name: str, middle: np.ndarray) -> np.ndarray:
    """Return what the fixture's fields are at cell midpoints (n, 3), vectors with 3 components."""
    dimension = 3 if np.any(middle[:, 2]) else 2
    factors = np.where(np.arange(3) < dimension, np.arange(1.0, 4.0), 0.0)
    return {
        "momentum": middle * factors,
        "gradient": np.tile(factors, (len(middle), 1)),
        "weight": 1.0 + middle[:, 0],
        "source": 2.0 * middle[:, 1],
        "target": 2.0 * middle[:, 0],
    }[name]


def write_vtk(sample: Any, directory: Path) -> None:
    arrays = gather_arrays(sample.mesh, sample.fields, sample.cells.volume)
    assert arrays is not None
    write_vtu(arrays, directory)


@pytest.mark.parametrize("dimension", [2, 3])
def test_pvd_opens_in_pyvista(
    make_sample: Callable[..., Any], tmp_path: Path, dimension: int
) -> None:
    # The vertex values are shown when the potential is quadratic, too.
    sample = make_sample(dimension, edges=True)
    write_vtk(sample, tmp_path)
    blocks = pyvista.get_reader(str(tmp_path / "solution.pvd")).read()
    assert len(blocks) == 1
    grid = blocks[0]
    assert grid.n_cells == sample.cells.number
    points = np.asarray(grid.points)
    np.testing.assert_allclose(
        grid.point_data["potential"], 1.0 + points @ [1.0, 2.0, 3.0], rtol=1e-12
    )
    middle = np.asarray(grid.cell_centers().points)
    for name in CELL_ARRAYS[:-1]:
        np.testing.assert_allclose(
            grid.cell_data[name], expected_cell_values(name, middle), rtol=1e-9, atol=1e-12
        )
    assert grid.cell_data["momentum"].shape == (sample.cells.number, 3)
    total = float(np.sum(grid.cell_data["gap_indicator"]))
    assert total == pytest.approx(0.5e-6, rel=1e-12)
    assert set(grid.array_names) == {"potential", *CELL_ARRAYS}
    kind = pyvista.CellType.TRIANGLE if dimension == 2 else pyvista.CellType.TETRA
    assert set(grid.celltypes) == {kind}
    assert {path.name for path in tmp_path.iterdir()} == {"solution.pvd", "solution.vtu"}


def test_vtu_opens_in_meshio(make_sample: Callable[..., Any], tmp_path: Path) -> None:
    sample = make_sample(2)
    write_vtk(sample, tmp_path)
    read = meshio.read(tmp_path / "solution.vtu")
    assert set(read.cell_data) == set(CELL_ARRAYS)
    np.testing.assert_allclose(
        read.point_data["potential"], 1.0 + read.points @ [1.0, 2.0, 0.0], rtol=1e-15
    )
    middle = read.points[read.cells_dict["triangle"]].mean(axis=1)
    for name in CELL_ARRAYS[:-1]:
        np.testing.assert_allclose(
            read.cell_data[name][0], expected_cell_values(name, middle), rtol=1e-12, atol=1e-14
        )


def test_functions_are_the_fields(make_sample: Callable[..., Any]) -> None:
    sample = make_sample(2)
    potential, *others = field_functions(sample.mesh, sample.fields)
    space = potential.function_space
    at_dofs = space.tabulate_dof_coordinates()
    np.testing.assert_allclose(potential.x.array, 1.0 + at_dofs @ [1.0, 2.0, 0.0], rtol=1e-14)
    assert {function.name for function in others} == set(CELL_ARRAYS)


def test_only_our_own_old_files_are_removed(tmp_path: Path) -> None:
    stale = ["solution.pvd", "solution.vtu", ".solution.vtu.partial", "solution.xdmf"]
    kept = ["solution_notes.vtu", "solution.txt", "my_solution.pvd", "solution.vtu.old"]
    for name in (*stale, *kept):
        (tmp_path / name).write_text("of an earlier run")
    for name in ("solution_points.bp", ".fields.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("of an earlier run")
    remove_field_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_moved_directory_still_opens(make_sample: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    sample = make_sample(2)
    write_vtk(sample, tmp_path / "first")
    write_fields(sample.mesh, sample.fields, tmp_path / "first", ["xdmf"])
    moved = (tmp_path / "first").rename(tmp_path / "second")
    assert pyvista.get_reader(str(moved / "solution.pvd")).read()[0].n_cells == 36
    text = (moved / "solution.xdmf").read_text()
    assert "solution.h5:/" in text
    assert str(tmp_path) not in text


def test_xdmf_names_and_values(make_sample: Callable[..., Any], tmp_path: Path) -> None:
    sample = make_sample(2)
    write_fields(sample.mesh, sample.fields, tmp_path, ["xdmf"])
    assert {path.name for path in tmp_path.iterdir()} == {"solution.xdmf", "solution.h5"}
    tree = ET.parse(tmp_path / "solution.xdmf")
    centers = {
        attribute.get("Name"): attribute.get("Center") for attribute in tree.iter("Attribute")
    }
    assert centers == {"potential": "Node", **dict.fromkeys(CELL_ARRAYS, "Cell")}
    # Values as they lie in the file, one cell after the other.
    content = (tmp_path / "solution.h5").read_bytes()
    for name in ("weight", "source", "target", "gap_indicator"):
        assert np.ascontiguousarray(getattr(sample.fields, name)).tobytes() in content


@pytest.mark.skipif(not dolfinx.common.has_adios2, reason="DOLFINx was built without ADIOS2")
def test_vtx_holds_every_array(make_sample: Callable[..., Any], tmp_path: Path) -> None:
    sample = make_sample(2)
    write_fields(sample.mesh, sample.fields, tmp_path, ["vtx", "vtu"])  # vtu: see write_vtu
    write_fields(sample.mesh, sample.fields, tmp_path, ["vtx"])  # replaces directories, too
    assert {path.name for path in tmp_path.iterdir()} == {"solution_points.bp", "solution_cells.bp"}

    def content(name: str) -> bytes:
        return b"".join(path.read_bytes() for path in (tmp_path / name).iterdir())

    assert b"potential" in content("solution_points.bp")
    for name in CELL_ARRAYS:
        assert name.encode() in content("solution_cells.bp")
    weight = np.ascontiguousarray(sample.fields.weight)
    assert weight.tobytes() in content("solution_cells.bp")


def test_unknown_and_impossible_formats(
    make_sample: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r'output\.formats: found "vtk"; allowed: vtu, xdmf, vtx'):
        check_formats(["vtu", "vtk"])
    monkeypatch.setattr(dolfinx.common, "has_adios2", False)
    check_formats(["vtu", "xdmf"])
    sample = make_sample(2)
    with pytest.raises(InputError, match="without ADIOS2; allowed here: vtu, xdmf"):
        write_fields(sample.mesh, sample.fields, tmp_path, ["vtx"])
    assert not list(tmp_path.iterdir())
