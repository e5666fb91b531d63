"""The directory of a weight: arrays, a ParaView file, a picture, and `weight.json` last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from congested.geometry import FloatArray, IntArray
from congested.io.arrays import gather_mesh, gather_rows, save_npz
from congested.io.fields import write_grid
from congested.io.files import finish_directory, on_root, partial_name, write_text
from congested.io.result import json_text

if TYPE_CHECKING:
    from dolfinx.mesh import Mesh
    from mpi4py import MPI

RESULT = "weight.json"
ARRAYS = "weight.npz"
GRID = "weight.vtu"
COLLECTION = "weight.pvd"
PICTURE = "weight.png"


@dataclass(frozen=True)
class WeightArrays:
    """A weight on C cells and V vertices of the whole mesh, d space dimensions.

    The order of vertices and cells depends on the number of ranks, their content does not.

    Attributes
    ----------
    vertices
        Coordinates (V, d).
    cells
        Vertex numbers (C, d+1).
    cell_volume
        Volumes |T| (C,).
    weight, source, target
        Densities σ_T/|T|, μ_T/|T|, ν_T/|T| (C,).
    weight_standard_error
        Standard error (C,) of the weight's density, if it was sampled.
    """

    vertices: FloatArray
    cells: IntArray
    cell_volume: FloatArray
    weight: FloatArray
    source: FloatArray
    target: FloatArray
    weight_standard_error: FloatArray | None = None

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return self.vertices.shape[1]


#: Draws a picture of (arrays, result) into a file.
DrawWeight = Callable[[WeightArrays, Mapping[str, Any], Path], None]


def gather_weight(
    mesh: Mesh, volume: FloatArray, masses: Mapping[str, FloatArray | None]
) -> WeightArrays | None:
    """Bring a weight together on rank 0 (collective).

    Parameters
    ----------
    mesh
        Distributed simplicial mesh without ghost cells.
    volume
        Volumes (n,) of this rank's cells.
    masses
        By the names of the arrays: masses (n,) in this rank's cells, which become densities; or
        None, on every rank.

    Returns
    -------
    WeightArrays or None
        The arrays on rank 0, None on the others.
    """
    gathered: dict[str, Any] = gather_mesh(mesh, volume)
    for name, rows in masses.items():
        density = None if rows is None else np.asarray(rows / volume, dtype=np.float64)
        gathered[name] = None if density is None else gather_rows(mesh.comm, density)
    return WeightArrays(**gathered) if mesh.comm.rank == 0 else None


def write_weight(
    directory: Path | str,
    *,
    result: Mapping[str, Any],
    arrays: WeightArrays | None,
    comm: MPI.Comm,
    draw: DrawWeight | None = None,
) -> Path:
    """Write the directory of a weight (collective).

    Parameters
    ----------
    directory
        Made if it does not exist; the files of an earlier weight in it are replaced, all others
        stay.
    result
        Content of weight.json (used on rank 0).
    arrays
        What `gather_weight` returned.
    comm
        Communicator of the ranks that call this.
    draw
        Draws weight.png from (arrays, result, path): `congested.plot.plot_weight`, or None for no
        picture.

    Returns
    -------
    pathlib.Path
        The directory.

    Raises
    ------
    InputError
        On every rank, if the directory cannot be made or written to.
    CongestedError
        On every rank, if the system refused a file (no space left). If only the picture failed,
        everything else, weight.json too, has been written before this is raised.
    """
    directory = Path(directory)

    def clear() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for name in (RESULT, ARRAYS, GRID, COLLECTION, PICTURE):
            (directory / name).unlink(missing_ok=True)
            partial_name(directory / name).unlink(missing_ok=True)

    def write_arrays() -> None:
        assert arrays is not None
        names = ("vertices", "cells", "cell_volume", "weight", "weight_standard_error")
        save_npz(directory / ARRAYS, {name: getattr(arrays, name) for name in names})
        fields = {name: getattr(arrays, name) for name in ("weight", "source", "target")}
        write_grid(directory / GRID, arrays.vertices, arrays.cells, fields)

    on_root(comm, clear)
    on_root(comm, write_arrays)
    pictures = {}
    if draw is not None and arrays is not None:
        pictures[directory / PICTURE] = partial(draw, arrays, result)
    finish_directory(comm, pictures, lambda: write_text(directory / RESULT, json_text(result)))
    return directory
