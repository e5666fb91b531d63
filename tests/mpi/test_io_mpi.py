"""Files do not depend on the number of ranks, and one rank's failure is everybody's.

Run as ``mpirun -n 3 python -m pytest tests/mpi/test_io_mpi.py``; it passes in serial as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dolfinx.common
import numpy as np
import pytest
import pyvista
from dolfinx.mesh import DiagonalType, GhostMode, Mesh, create_box, create_rectangle
from mpi4py import MPI

from congested.certificate import EDGES, CellFields
from congested.errors import CongestedError, InputError
from congested.geometry import Cells, FloatArray, cells_of_mesh
from congested.io import result as result_module
from congested.io.arrays import ResultArrays, gather_arrays, gather_rows, load_arrays
from congested.io.files import on_root
from congested.io.result import read_result, write_result

COMM = MPI.COMM_WORLD


def make_mesh(comm: MPI.Comm, dimension: int) -> Mesh:
    corners, ghosts = [np.zeros(dimension), np.ones(dimension)], GhostMode.none
    if dimension == 2:
        crossed = DiagonalType.crossed
        return create_rectangle(comm, corners, [9, 9], diagonal=crossed, ghost_mode=ghosts)
    return create_box(comm, corners, [4, 4, 4], ghost_mode=ghosts)


def make_fields(cells: Cells) -> CellFields:
    """Evaluate functions of position, so that ranks and their order cannot matter."""
    middle = cells.midpoint
    pairs = np.array(EDGES[cells.dimension])
    edge_middles = 0.5 * (cells.simplices[:, pairs[:, 0]] + cells.simplices[:, pairs[:, 1]])
    return CellFields(
        potential=np.sin(cells.simplices).sum(axis=2),
        potential_edges=np.cos(edge_middles).sum(axis=2),
        flux=np.exp(cells.simplices).sum(axis=2),
        momentum=np.sin(middle),
        gradient=np.cos(middle),
        weight=1.0 + middle[:, 0],
        source=middle[:, 1] ** 2,
        target=middle[:, 0] ** 2,
        gap_indicator=cells.volume * middle[:, 0],
    )


def sorted_content(arrays: ResultArrays) -> list[FloatArray]:
    """Return what the arrays say about space, in an order of space."""
    corners = arrays.vertices[arrays.cells]
    # Per cell: midpoint, values, and the values at the corners in the corners' order.
    order = np.lexsort(np.round(np.moveaxis(corners, 2, 0), 9), axis=-1)
    per_cell = [
        np.round(corners.mean(axis=1), 9),
        arrays.cell_volume[:, None],
        np.take_along_axis(arrays.flux, order, axis=1),
        np.take_along_axis(arrays.potential[arrays.cells], order, axis=1),
        arrays.momentum,
        arrays.gradient,
        arrays.weight[:, None],
        arrays.source[:, None],
        arrays.target[:, None],
        arrays.gap_indicator[:, None],
    ]
    assert arrays.edges is not None
    assert arrays.potential_edges is not None
    per_edge = [
        np.round(arrays.vertices[arrays.edges].mean(axis=1), 9),
        arrays.potential_edges[:, None],
    ]
    per_vertex = [np.round(arrays.vertices, 9), arrays.potential[:, None]]
    tables = [np.concatenate(columns, axis=1) for columns in (per_cell, per_edge, per_vertex)]
    return [table[np.lexsort(table[:, : arrays.dimension].T)] for table in tables]


def gathered(comm: MPI.Comm, dimension: int) -> tuple[Mesh, CellFields, ResultArrays | None]:
    mesh = make_mesh(comm, dimension)
    cells = cells_of_mesh(mesh)
    fields = make_fields(cells)
    return mesh, fields, gather_arrays(mesh, fields, cells.volume)


@pytest.mark.parametrize("dimension", [2, 3])
def test_gathered_arrays_are_those_of_one_rank(dimension: int) -> None:
    _, _, together = gathered(COMM, dimension)
    _, _, single = gathered(MPI.COMM_SELF, dimension)
    assert (together is None) == (COMM.rank != 0)
    assert single is not None
    if together is not None:
        for ours, theirs in zip(sorted_content(together), sorted_content(single), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_rows_come_in_the_order_of_ranks_and_may_be_none() -> None:
    count = 0 if COMM.rank == 1 else COMM.rank + 2
    rows = np.full((count, 3), float(COMM.rank))
    stacked = gather_rows(COMM, rows)
    numbers = gather_rows(COMM, np.full(count, COMM.rank, dtype=np.int64))
    assert (stacked is None) == (COMM.rank != 0)
    if stacked is not None and numbers is not None:
        expected = [rank for rank in range(COMM.size) for _ in range(0 if rank == 1 else rank + 2)]
        np.testing.assert_array_equal(numbers, expected)
        np.testing.assert_array_equal(stacked, np.repeat(numbers[:, None], 3, axis=1))


def draw_nothing(arrays: ResultArrays, result: Mapping[str, Any], path: Path) -> None:
    path.write_bytes(b"")


def write(directory: Path, **changes: Any) -> Path:
    mesh, fields, arrays = gathered(COMM, 2)
    options = {
        "result": {"schema": 1, "seconds": {}},
        "arrays": arrays,
        "mesh": mesh,
        "fields": fields,
        "history": ({"iteration": 0},),
        "problem_text": "title = 'x'",
        "draw": draw_nothing,
        **changes,
    }
    return write_result(directory, **options)


def test_result_directory(shared_path: Path) -> None:
    formats = ["vtu", "xdmf", *(["vtx"] if dolfinx.common.has_adios2 else [])]
    directory = write(shared_path / "result", formats=formats)
    names = {path.name for path in directory.iterdir()}
    assert names == {
        "history.csv",
        "overview.png",
        "problem.toml",
        "result.json",
        "solution.npz",
        "solution.pvd",
        "solution.vtu",
        "solution.xdmf",
        "solution.h5",
        *(["solution_points.bp", "solution_cells.bp"] if "vtx" in formats else []),
    }
    assert read_result(directory)["seconds"]["write"] > 0.0
    if COMM.rank == 0:
        assert len(load_arrays(directory / "solution.npz").cells) == 324
        grid = pyvista.get_reader(str(directory / "solution.pvd")).read()[0]
        area = np.asarray(grid.compute_cell_sizes()["Area"])
        assert area @ np.asarray(grid.cell_data["weight"]) == pytest.approx(1.5, rel=1e-12)
    COMM.Barrier()
    write(directory, formats=["vtu"], draw=None)
    assert {path.name for path in directory.iterdir()} == {
        "history.csv",
        "problem.toml",
        "result.json",
        "solution.npz",
        "solution.pvd",
        "solution.vtu",
    }


def test_failures_of_rank_0_reach_every_rank(
    shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "solution.npz")

    with monkeypatch.context() as patch:
        patch.setattr(result_module, "save_arrays", full)
        with pytest.raises(CongestedError, match=r"solution\.npz: .*No space left on device"):
            write(shared_path)
    with pytest.raises(InputError, match="no result here"):
        read_result(shared_path)
    COMM.Barrier()

    def broken(*_: object) -> None:
        raise RuntimeError("no OpenGL")

    with pytest.raises(CongestedError, match="the picture failed: no OpenGL"):
        write(shared_path, draw=broken)
    assert read_result(shared_path)["schema"] == 1
    COMM.Barrier()

    blocked = shared_path / "result.json" / "below"
    with pytest.raises(InputError, match=r"result\.json.*cannot write"):
        write(blocked)


def test_on_root_runs_once_and_tells_everybody() -> None:
    assert on_root(COMM, lambda: COMM.rank) == (0 if COMM.rank == 0 else None)

    def fail() -> None:
        raise InputError("found 1; allowed: 2", key="domain.cells")

    with pytest.raises(InputError, match=r"^domain\.cells: found 1; allowed: 2$"):
        on_root(COMM, fail)

    def mistake() -> None:
        raise ValueError("ours")

    kind = ValueError if COMM.rank == 0 else CongestedError
    with pytest.raises(kind, match="ours"):
        on_root(COMM, mistake)
