"""Field files for ParaView: VTK by default, XDMF and VTX on request.

Every format carries the potential as point data and momentum, gradient, weight, source, target and
gap indicator as cell data, under these names.

The VTK file is written by meshio from the gathered arrays: one piece on any number of ranks, of
ordinary linear cells. DOLFINx's own writer makes Lagrange cells, as text and one piece per rank:
twice the size, and meshio cannot read them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import meshio
import numpy as np
import numpy.typing as npt
from dolfinx import common as dolfinx_common
from dolfinx import fem
from dolfinx import io as dolfinx_io

from congested.errors import InputError
from congested.geometry import FloatArray, IntArray
from congested.io.arrays import ResultArrays
from congested.io.files import atomic_file, atomic_path, on_root

if TYPE_CHECKING:
    from dolfinx.fem import Function
    from dolfinx.mesh import Mesh

    from congested.certificate import CellFields

FORMATS = ("vtu", "xdmf", "vtx")
SCALARS = ("weight", "source", "target", "gap_indicator")
VECTORS = ("momentum", "gradient")

_STAGE = ".fields.partial"
# Exactly the names that this module gives, so that no user's file is ever removed.
_OWN_FILES = re.compile(r"\.?solution\.(pvd|vtu|xdmf|h5)(\.partial)?|solution_(point|cell)s\.bp")

_COLLECTION = """<?xml version="1.0"?>
<VTKFile type="Collection" version="0.1">
  <Collection>
    <DataSet timestep="0" part="0" file="{file}"/>
  </Collection>
</VTKFile>
"""


def check_formats(formats: Sequence[str]) -> None:
    """Raise InputError unless every format is known and this DOLFINx can write it."""
    key = "output.formats"
    for name in formats:
        if name not in FORMATS:
            raise InputError(f'found "{name}"; allowed: {", ".join(FORMATS)}', key=key)
    if "vtx" in formats and not dolfinx_common.has_adios2:
        raise InputError(
            'found "vtx", but this DOLFINx was built without ADIOS2; allowed here: vtu, xdmf',
            key=key,
        )


def write_vtu(arrays: ResultArrays, directory: Path) -> None:
    """Write `solution.vtu` and the `solution.pvd` that refers to it (one rank).

    Vectors get a third component, as VTK wants; of a P2 potential the vertex values are shown.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    cell_data = {name: getattr(arrays, name) for name in (*VECTORS, *SCALARS)}
    write_grid(
        directory / "solution.vtu",
        arrays.vertices,
        arrays.cells,
        cell_data,
        {"potential": arrays.potential},
    )


def write_grid(
    file: Path,
    vertices: FloatArray,
    cells: IntArray,
    cell_data: Mapping[str, FloatArray],
    point_data: Mapping[str, FloatArray] | None = None,
) -> None:
    """Write a .vtu file, and a .pvd file beside it that refers to it (one rank).

    Parameters
    ----------
    file
        The .vtu file.
    vertices, cells
        Mesh (V, d), (C, d+1).
    cell_data, point_data
        Numbers (C,), (V,) or vectors (C, d) by name.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    flat = vertices.shape[1] == 2

    def padded(rows: FloatArray) -> FloatArray:
        return np.pad(rows, ((0, 0), (0, 1))) if flat and rows.ndim == 2 else rows

    mesh = meshio.Mesh(
        padded(vertices),
        [("triangle" if flat else "tetra", cells)],
        point_data=point_data,
        cell_data={name: [padded(rows)] for name, rows in cell_data.items()},
    )
    with atomic_path(file) as path:
        meshio.vtu.write(path, mesh)
    with atomic_file(file.with_suffix(".pvd")) as collection:
        collection.write(_COLLECTION.format(file=file.name).encode())


def field_functions(mesh: Mesh, fields: CellFields) -> list[Function]:
    """Make DOLFINx functions of the cell values, potential first (collective).

    A P2 potential is shown by its values at the vertices.
    """
    dimension = mesh.topology.dim
    owned = mesh.topology.index_map(dimension).size_local

    continuous = fem.functionspace(mesh, ("Lagrange", 1))
    potential = fem.Function(continuous, name="potential")
    # Shared vertices get the same value from every cell and on every rank: nothing to exchange.
    potential.x.array[continuous.dofmap.list[:owned]] = fields.potential

    functions = [potential]
    scalar_space = fem.functionspace(mesh, ("DG", 0))
    vector_space = fem.functionspace(mesh, ("DG", 0, (dimension,)))
    for names, space in ((VECTORS, vector_space), (SCALARS, scalar_space)):
        for name in names:
            function = fem.Function(space, name=name)
            _set_cell_values(function, owned, np.asarray(getattr(fields, name)))
            functions.append(function)
    return functions


def _set_cell_values(function: Function, owned: int, values: npt.NDArray[np.float64]) -> None:
    block = function.function_space.dofmap.index_map_bs
    dofs = function.function_space.dofmap.list[:owned, 0]
    function.x.array.reshape(-1, block)[dofs] = values.reshape(owned, block)


def _write_xdmf(mesh: Mesh, functions: Sequence[Function], stage: Path) -> None:
    with dolfinx_io.XDMFFile(mesh.comm, str(stage / "solution.xdmf"), "w") as file:
        file.write_mesh(mesh)
        for function in functions:
            file.write_function(function)


def _write_vtx(mesh: Mesh, functions: Sequence[Function], stage: Path) -> None:
    # One file holds one kind of element: the point data and the cell data go separately.
    writer: Any = dolfinx_io.VTXWriter
    for name, part in (("points", functions[:1]), ("cells", functions[1:])):
        with writer(mesh.comm, str(stage / f"solution_{name}.bp"), list(part)) as file:
            file.write(0.0)


_WRITERS = {"xdmf": _write_xdmf, "vtx": _write_vtx}


def remove_field_files(directory: Path) -> None:
    """Remove the field files, finished or not, of an earlier run (one rank)."""
    for path in directory.iterdir():
        if path.name == _STAGE or _OWN_FILES.fullmatch(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_fields(mesh: Mesh, fields: CellFields, directory: Path, formats: Sequence[str]) -> None:
    """Write the formats that DOLFINx writes in parallel into an existing directory (collective).

    The files are made in a hidden sub-directory and moved when all of them are complete.

    Parameters
    ----------
    mesh
        Distributed simplicial mesh without ghost cells.
    fields
        Values of this rank's cells, in local order.
    directory
        Directory that every rank sees.
    formats
        "xdmf" (`solution.xdmf` and `.h5`) and "vtx" (`solution_points.bp`, `solution_cells.bp`);
        "vtu" is passed over, see `write_vtu`.

    Raises
    ------
    InputError
        If a format is unknown or needs something that this DOLFINx lacks.
    """
    check_formats(formats)
    wanted = [name for name in _WRITERS if name in formats]
    if not wanted:
        return
    stage = directory / _STAGE

    def prepare() -> None:
        if stage.exists():
            shutil.rmtree(stage)
        stage.mkdir()

    def publish() -> None:
        # The XDMF file refers to the HDF5 file by its name alone, and comes after it.
        for path in sorted(stage.iterdir()):
            _remove(directory / path.name)
            path.replace(directory / path.name)
        stage.rmdir()

    on_root(mesh.comm, prepare)
    functions = field_functions(mesh, fields)
    for name in wanted:
        _WRITERS[name](mesh, functions, stage)
    mesh.comm.Barrier()
    on_root(mesh.comm, publish)
