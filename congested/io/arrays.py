"""The solution as plain NumPy arrays on rank 0: what `solution.npz` holds.

The arrays carry everything that the certificate is computed from (potential, flux, cell data), so
that a user can repeat the bounds with NumPy alone.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from congested.certificate import CellFields
from congested.errors import CongestedError, InputError
from congested.geometry import EDGES, FloatArray, IntArray
from congested.io.files import atomic_file

if TYPE_CHECKING:
    from dolfinx.mesh import Mesh


@dataclass(frozen=True)
class ResultArrays:
    """A solution on C cells and V vertices of the whole mesh, d space dimensions.

    The order of vertices and cells depends on the number of ranks, their content does not.

    Attributes
    ----------
    vertices
        Coordinates (V, d).
    cells
        Vertex numbers (C, d+1).
    cell_volume
        Volumes |T| (C,).
    flux
        Outward integral of the momentum through the facet opposite each vertex (C, d+1).
    potential
        Potential at the vertices (V,).
    momentum, gradient
        Cell means of the momentum and of the potential's gradient (C, d).
    weight, source, target
        Densities σ_T/|T|, μ_T/|T|, ν_T/|T| (C,).
    gap_indicator
        Integrals η_T ≥ 0 whose sum is the gap (C,).
    source_vertex_masses, target_vertex_masses
        Only with bounds for the original densities: ∫_T λ_i dμ and ∫_T λ_i dν (C, d+1), λ_i the
        barycentric coordinates.
    source_affine_error, target_affine_error
        Likewise: bounds (C,) of the root mean square over T of the density less some affine
        function; infinite for measures without a known density.
    inverse_weight
        Likewise, for finite λ: numbers g (C, k) with 1/σ ≤ Σ_α g_α B_α on T; B are the λ_i² first
        and then the 2λ_iλ_j, pairs in the order of `congested.geometry.EDGES`: 12, 02, 01 in the
        plane and 23, 13, 12, 03, 02, 01 in space.
    edges, potential_edges
        Only if the lower bound came from a P2 potential: vertex pairs (E, 2), the smaller number
        first, and the potential at the middle of each edge (E,).
    """

    vertices: FloatArray
    cells: IntArray
    cell_volume: FloatArray
    flux: FloatArray
    potential: FloatArray
    momentum: FloatArray
    gradient: FloatArray
    weight: FloatArray
    source: FloatArray
    target: FloatArray
    gap_indicator: FloatArray
    source_vertex_masses: FloatArray | None = None
    target_vertex_masses: FloatArray | None = None
    source_affine_error: FloatArray | None = None
    target_affine_error: FloatArray | None = None
    inverse_weight: FloatArray | None = None
    edges: IntArray | None = None
    potential_edges: FloatArray | None = None

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return self.vertices.shape[1]


# Arrays of which a file has all or none.
_P2 = ("edges", "potential_edges")
_CONTINUUM = (
    "source_vertex_masses",
    "target_vertex_masses",
    "source_affine_error",
    "target_affine_error",
)
_OPTIONAL = (*_P2, *_CONTINUUM, "inverse_weight")
_MOST_ROWS = np.iinfo(np.int32).max
_MPI_TYPES = {np.dtype(np.float64): MPI.DOUBLE, np.dtype(np.int64): MPI.INT64_T}


def gather_rows(comm: MPI.Comm, rows: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Stack the rows of all ranks, in rank order, on rank 0 (collective).

    Parameters
    ----------
    comm
        Communicator.
    rows
        Array (n, …) of float64 or int64; n may differ between ranks, the other lengths may not.

    Returns
    -------
    numpy.ndarray or None
        Array (sum of n, …) on rank 0, None on the others.

    Raises
    ------
    CongestedError
        On every rank, if there are more rows than MPI's 32-bit counts can express.
    """
    rows = np.ascontiguousarray(rows)
    counts = comm.allgather(rows.shape[0])
    if sum(counts) > _MOST_ROWS:
        raise CongestedError(f"{sum(counts)} rows are too many to be gathered on one rank")
    tail = rows.shape[1:]
    # Counted in whole rows, so that counts and displacements stay far below 2³¹ and the sizes in
    # bytes, which do not, are left to the MPI library (it keeps them in 64 bits).
    row_type = _MPI_TYPES[rows.dtype].Create_contiguous(int(np.prod(tail, dtype=int)))
    row_type.Commit()
    try:
        if comm.rank == 0:
            gathered = np.empty((sum(counts), *tail), dtype=rows.dtype)
            displacements = np.concatenate([[0], np.cumsum(counts)[:-1]])
            comm.Gatherv(
                [rows, rows.shape[0], row_type], [gathered, counts, displacements, row_type]
            )
            return gathered
        comm.Gatherv([rows, rows.shape[0], row_type], None)
        return None
    finally:
        row_type.Free()


def scatter_rows(
    comm: MPI.Comm, rows: npt.NDArray[Any] | None, wanted: IntArray
) -> npt.NDArray[Any]:
    """Give every rank the rows that it wants of an array on rank 0 (collective).

    Parameters
    ----------
    comm
        Communicator.
    rows
        Array (N, …) of float64 or int64 on rank 0; not used on the others.
    wanted
        Numbers (n,) of the rows that this rank wants.

    Returns
    -------
    numpy.ndarray
        Those rows (n, …).

    Raises
    ------
    CongestedError
        On every rank, if more rows are wanted than MPI's 32-bit counts can express.
    """
    wanted = np.ascontiguousarray(wanted, dtype=np.int64)
    all_wanted = gather_rows(comm, wanted)
    counts = comm.gather(len(wanted))
    tail, name = comm.bcast(None if rows is None else (rows.shape[1:], rows.dtype.str))
    own = np.empty((len(wanted), *tail), dtype=name)
    row_type = _MPI_TYPES[own.dtype].Create_contiguous(int(np.prod(tail, dtype=int)))
    row_type.Commit()
    try:
        if rows is None or all_wanted is None or counts is None:
            comm.Scatterv(None, [own, len(own), row_type])
        else:
            displacements = np.concatenate([[0], np.cumsum(counts)[:-1]])
            parts = np.ascontiguousarray(rows[all_wanted])
            comm.Scatterv([parts, counts, displacements, row_type], [own, len(own), row_type])
    finally:
        row_type.Free()
    return own


def broadcast_array(comm: MPI.Comm, array: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """Give every rank an array of rank 0 (collective).

    Parameters
    ----------
    comm
        Communicator.
    array
        Array (N, …) of float64 or int64 on rank 0; not used on the others.

    Returns
    -------
    numpy.ndarray
        The array; on rank 0 itself, if it is contiguous.
    """
    array = None if array is None else np.ascontiguousarray(array)
    shape, name = comm.bcast(None if array is None else (array.shape, array.dtype.str))
    own = np.empty(shape, dtype=name) if array is None else array
    comm.Bcast([own, own.size, _MPI_TYPES[own.dtype]])
    return own


def _unique_edges(
    cells: IntArray, values: FloatArray, number_of_vertices: int
) -> tuple[IntArray, FloatArray]:
    """Return each edge of the cells once, as a sorted vertex pair, with its value."""
    pairs = np.array(EDGES[cells.shape[1] - 1])
    ends = cells[:, pairs].reshape(-1, 2)
    keys = ends.min(axis=1) * number_of_vertices + ends.max(axis=1)
    unique, first = np.unique(keys, return_index=True)
    edges = np.stack(np.divmod(unique, number_of_vertices), axis=1)
    return edges, values.reshape(-1)[first]


def gather_mesh(mesh: Mesh, volume: FloatArray) -> dict[str, npt.NDArray[Any] | None]:
    """Bring the mesh together on rank 0 (collective).

    Parameters
    ----------
    mesh
        Distributed simplicial mesh without ghost cells.
    volume
        Volumes (n,) of this rank's cells.

    Returns
    -------
    dict
        ``vertices`` (V, d), ``cells`` (C, d+1) and ``cell_volume`` (C,) on rank 0; None for each
        on the others. The cells come in the order of the ranks, and of each rank's own numbers.
    """
    comm = mesh.comm
    dimension = mesh.topology.dim
    owned = mesh.topology.index_map(dimension).size_local
    numbering = mesh.geometry.index_map()
    dofmap = np.asarray(mesh.geometry.dofmap[:owned])
    cells_local = numbering.local_to_global(dofmap.reshape(-1).astype(np.int32))

    # Global numbers run through the ranks in order, so stacking the owned vertices sorts them.
    return {
        "vertices": gather_rows(comm, mesh.geometry.x[: numbering.size_local, :dimension]),
        "cells": gather_rows(comm, cells_local.reshape(dofmap.shape).astype(np.int64)),
        "cell_volume": gather_rows(comm, np.asarray(volume, dtype=np.float64)),
    }


def gather_arrays(mesh: Mesh, fields: CellFields, volume: FloatArray) -> ResultArrays | None:
    """Bring the solution together on rank 0 (collective).

    Parameters
    ----------
    mesh
        Distributed simplicial mesh without ghost cells.
    fields
        Values of this rank's cells, in local order.
    volume
        Volumes (n,) of the same cells.

    Returns
    -------
    ResultArrays or None
        The arrays on rank 0, None on the others.
    """
    comm = mesh.comm
    gathered = gather_mesh(mesh, volume)
    names = ("flux", "momentum", "gradient", "weight", "source", "target", "gap_indicator")
    for name in (*names, *_CONTINUUM, "inverse_weight", "potential", "potential_edges"):
        values = getattr(fields, name)
        if values is not None:
            gathered[name] = gather_rows(comm, np.asarray(values, dtype=np.float64))
    arrays = {name: rows for name, rows in gathered.items() if rows is not None}
    if comm.rank != 0:
        return None

    vertices, cells = arrays["vertices"], arrays["cells"]
    # The potential is continuous: whichever cell writes a vertex last, the value is the same.
    potential = np.empty(len(vertices))
    potential[cells] = arrays["potential"]
    arrays["potential"] = potential
    if "potential_edges" in arrays:
        arrays["edges"], arrays["potential_edges"] = _unique_edges(
            cells, arrays["potential_edges"], len(vertices)
        )
    return ResultArrays(**arrays)


def potential_of_cells(arrays: ResultArrays) -> tuple[FloatArray, FloatArray | None]:
    """Return the potential cell by cell.

    Returns
    -------
    potential, potential_edges
        Values at the vertices (C, d+1), and for P2 at the middles of the edges (C, e), in the
        order of `congested.geometry.EDGES`; else None.

    Raises
    ------
    InputError
        If a cell has an edge that is not in `arrays.edges`.
    """
    potential = arrays.potential[arrays.cells]
    if arrays.edges is None or arrays.potential_edges is None:
        return potential, None
    return potential, arrays.potential_edges[_edges_of(arrays.cells, arrays.edges)]


def _edges_of(cells: IntArray, edges: IntArray) -> IntArray:
    """Return for each cell the numbers (n, e) of its edges, in the order of `EDGES`."""
    number = int(edges.max()) + 1
    keys = edges[:, 0] * number + edges[:, 1]
    order = np.argsort(keys)
    ends = np.sort(cells[:, np.array(EDGES[cells.shape[1] - 1])], axis=2)
    wanted = ends[..., 0] * number + ends[..., 1]
    place = np.minimum(np.searchsorted(keys[order], wanted), len(order) - 1)
    if not np.array_equal(keys[order][place], wanted):
        raise InputError("array edges lacks an edge of a cell; allowed: all edges of the cells")
    return np.asarray(order[place])


def save_arrays(arrays: ResultArrays, path: Path) -> None:
    """Write the arrays as an npz file, in one step (one rank).

    Uncompressed: packing takes fifteen times as long and saves a third of the space.

    Raises
    ------
    OSError
        If the file cannot be written; an older one is then still there.
    """
    save_npz(path, {field.name: getattr(arrays, field.name) for field in fields(arrays)})


def save_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write the arrays that are not None as an npz file, in one step (one rank)."""
    with atomic_file(path) as file:
        np.savez(file, **{name: array for name, array in arrays.items() if array is not None})


def _expected_shapes(
    vertices: int, cells: int, edges: int, dimension: int
) -> dict[str, tuple[int, ...]]:
    """Return the shape that each array must have."""
    return {
        "vertices": (vertices, dimension),
        "cells": (cells, dimension + 1),
        "cell_volume": (cells,),
        "flux": (cells, dimension + 1),
        "potential": (vertices,),
        "momentum": (cells, dimension),
        "gradient": (cells, dimension),
        "weight": (cells,),
        "source": (cells,),
        "target": (cells,),
        "gap_indicator": (cells,),
        "source_vertex_masses": (cells, dimension + 1),
        "target_vertex_masses": (cells, dimension + 1),
        "source_affine_error": (cells,),
        "target_affine_error": (cells,),
        "inverse_weight": (cells, (dimension + 1) * (dimension + 2) // 2),
        "edges": (edges, 2),
        "potential_edges": (edges,),
    }


def load_arrays(path: Path) -> ResultArrays:
    """Read the arrays of `save_arrays`.

    Raises
    ------
    InputError
        If there is no such file, if it is no npz file of plain arrays, or if an array is missing
        or has a shape that does not go with the others.
    """
    names = [field.name for field in fields(ResultArrays)]
    try:
        # NumPy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found = {name: stored[name] for name in names if name in stored}
    except FileNotFoundError:
        raise InputError("no such file; allowed: a solution.npz", file=str(path)) from None
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, AttributeError) as error:
        raise InputError(f"not a readable solution.npz: {error}", file=str(path)) from error
    missing = [name for name in names if name not in found and name not in _OPTIONAL]
    for group in (_P2, _CONTINUUM):
        absent = [name for name in group if name not in found]
        if len(absent) < len(group):
            missing += absent
    if missing:
        raise InputError(
            f"array missing: {', '.join(missing)}; found: {', '.join(found) or 'none'}",
            file=str(path),
        )
    vertices = found["vertices"]
    dimension = vertices.shape[1] if vertices.ndim == 2 else -1
    if dimension not in (2, 3):
        raise InputError(
            f"array vertices has shape {vertices.shape}; allowed: (V, 2) or (V, 3)", file=str(path)
        )
    expected = _expected_shapes(
        len(vertices), len(found["cells"]), len(found.get("edges", ())), dimension
    )
    for name, array in found.items():
        if array.shape != expected[name]:
            raise InputError(
                f"array {name} has shape {array.shape}; allowed here: {expected[name]}",
                file=str(path),
            )
    return ResultArrays(**found)
