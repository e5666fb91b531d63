"""The checkpoint of a run: what it takes to go on after its last finished mesh, in two files.

`checkpoint.json` is written when a run begins: the problem as it is solved, whatever flags changed,
with absolute paths. `checkpoint.npz` is written anew after each mesh: the mesh, what was found on
it, and the state of the run as JSON. Each file is replaced in one step, so that a process that is
killed leaves the one before, whole. Nothing in them is evaluated.

Points and cells are kept in the order in which DOLFINx was given them, and with the rank of each
cell: given them in the same way again, as many ranks make the same mesh with the same numbers.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from congested.domain import mesh_from_arrays
from congested.errors import InputError
from congested.geometry import EDGES, FloatArray, IntArray
from congested.io.arrays import gather_rows, save_npz, scatter_rows
from congested.io.files import partial_name, write_text
from congested.io.result import RESULT, json_text, read_result
from congested.solvers.iteration import Trust

if TYPE_CHECKING:
    from dolfinx.mesh import Mesh

RUN = "checkpoint.json"
LEVEL = "checkpoint.npz"
FORMAT = "congested checkpoint"
VERSION = 1

# Arrays of the mesh, and those of them that a file may lack.
_MESH = ("points", "cells", "owner")
_OPTIONAL = ("potential_edges", "unresolved")
# A run with one of these is over: what it was asked for is certified, or cannot be had.
_ENDED = ("converged", "infeasible")
_ALLOWED = "allowed: the output directory of a `congested solve` that was stopped or killed"


@dataclass(frozen=True)
class RunRecord:
    """What a run was asked for.

    Attributes
    ----------
    problem
        Text of a problem file: the problem with everything that overrides it.
    file
        The user's own problem file, if there was one.
    """

    problem: str
    file: str | None = None


class LevelState(BaseModel):
    """The numbers of a mesh that has been solved on, and of the run up to there.

    Attributes
    ----------
    ranks
        Number of ranks that the mesh was distributed over.
    levels, history, seconds, total_seconds, linear
        Of the run: meshes solved on, rows of history.csv, seconds by stage and in all, counts of
        linear solves.
    lower, upper
        The bounds that were certified.
    load_change, hidden_cost, fruitless, unevenness
        As in `congested.level_solution.Level`.
    lower_bound_from, dofs, gains, first_gap, trust, unfinished, failure
        As in `congested.solvers.level.LevelResult`.
    smoothing, penalty
        Of its iterate.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    ranks: int
    levels: int = Field(ge=1)
    history: list[dict[str, str | int | float]]
    seconds: dict[str, float]
    total_seconds: float
    linear: dict[str, int]
    lower: float
    upper: float
    load_change: float | None
    hidden_cost: float
    fruitless: int
    unevenness: float
    lower_bound_from: str
    dofs: dict[str, int]
    gains: dict[str, float]
    first_gap: float
    trust: dict[str, Annotated[Trust, Field(strict=False)]]
    unfinished: list[str]
    failure: str | None
    smoothing: float | None
    penalty: float | None


@dataclass(frozen=True, eq=False)
class StoredLevel:
    """A checkpoint of V points and C cells, whole on one rank.

    Attributes
    ----------
    points, cells, owner
        Points (V, d) and cells (C, d+1) in the order of DOLFINx's input; the rank of each cell.
    values
        Arrays (C, …) by name: ``potential`` and ``flux`` (C, d+1), ``iterate_flux`` and
        ``iterate_gradient`` (C, q, d), and, where there are such, ``potential_edges`` (C, e) and
        ``unresolved`` (C,).
    state
        Everything else.
    """

    points: FloatArray
    cells: IntArray
    owner: IntArray
    values: Mapping[str, FloatArray]
    state: LevelState


# --- what the run was asked for ---------------------------------------------------------------


def has_checkpoint(directory: Path) -> bool:
    """Return whether a directory has a solved mesh from which a run can be resumed."""
    return (directory / LEVEL).exists()


def discard_checkpoint(directory: Path) -> None:
    """Remove a checkpoint, and what a killed process left of one (one rank)."""
    # The level first: without it the run would begin anew, but never go on with another problem.
    for name in (LEVEL, RUN):
        (directory / name).unlink(missing_ok=True)
        partial_name(directory / name).unlink(missing_ok=True)


def write_run(directory: Path, record: RunRecord) -> None:
    """Write what a run is asked for (one rank)."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "version": VERSION, **vars(record)}
    write_text(directory / RUN, json_text(content))


def read_run(directory: Path) -> RunRecord:
    """Read what a run in a directory was asked for (one rank).

    Raises
    ------
    InputError
        If there is no run to go on with, because none was begun or it has ended, or the file is
        damaged, of another kind or of another version.
    """
    path = directory / RUN
    status = None
    if (directory / RESULT).exists():
        result = read_result(directory)
        status = result.get("status")
        if status in _ENDED or not path.exists():
            # Killed after the result was complete and before the checkpoint was removed.
            discard_checkpoint(directory)
            raise InputError(
                f"the run has ended ({status}: {result.get('reason')}) and left no checkpoint; "
                f"{_ALLOWED}",
                file=str(directory),
            )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"found no checkpoint; {_ALLOWED}", file=str(directory)) from None
    except (ValueError, OSError) as error:
        raise InputError(f"not a readable checkpoint: {error}", file=str(path)) from error
    if not isinstance(content, dict):
        found = type(content).__name__
        raise InputError(f"found a {found}; allowed: a table", file=str(path))
    _check_format(content, path)
    problem, file = content.get("problem"), content.get("file")
    if not isinstance(problem, str) or not isinstance(file, str | None):
        raise InputError("found no text of a problem file", key="problem", file=str(path))
    return RunRecord(problem, file)


def _check_format(content: Mapping[str, Any], path: Path) -> None:
    for key, allowed in (("format", FORMAT), ("version", VERSION)):
        found = content.get(key)
        if found != allowed:
            raise InputError(f"found {found!r}; allowed: {allowed!r}", key=key, file=str(path))


# --- a mesh -----------------------------------------------------------------------------------


def gather_level(
    mesh: Mesh, values: Mapping[str, FloatArray]
) -> dict[str, npt.NDArray[Any]] | None:
    """Bring a mesh and values on its cells together on rank 0, in their first order (collective).

    Parameters
    ----------
    mesh
        Distributed simplicial mesh without ghost cells.
    values
        Arrays (n, …) on this rank's cells, the same names on every rank.

    Returns
    -------
    dict or None
        The arrays of `StoredLevel` by name on rank 0, None on the others.
    """
    comm, dimension = mesh.comm, mesh.topology.dim
    number = mesh.topology.index_map(dimension).size_local
    own_points = mesh.geometry.index_map().size_local
    names = np.asarray(mesh.geometry.input_global_indices, dtype=np.int64)
    columns = {
        "cells": names[mesh.geometry.dofmap[:number]],
        "owner": np.full(number, comm.rank, dtype=np.int64),
        **{name: np.asarray(array, dtype=np.float64) for name, array in values.items()},
    }
    points = gather_rows(comm, mesh.geometry.x[:own_points, :dimension])
    point_names = gather_rows(comm, names[:own_points])
    cell_names = gather_rows(comm, np.asarray(mesh.topology.original_cell_index[:number]))
    gathered = {name: gather_rows(comm, array) for name, array in columns.items()}
    if points is None or point_names is None or cell_names is None:
        return None
    order = np.argsort(cell_names)
    arrays = {name: array[order] for name, array in gathered.items() if array is not None}
    order = np.argsort(point_names)
    arrays["points"] = points[order]
    # Their rank among the names, should the first input have had points of no cell.
    arrays["cells"] = np.searchsorted(point_names[order], arrays["cells"])
    return arrays


def save_level(directory: Path, arrays: Mapping[str, npt.NDArray[Any]], state: LevelState) -> None:
    """Write a level, which replaces the one before in one step (one rank).

    Raises
    ------
    OSError
        If the file cannot be written; the one before is then still there.
    """
    # JSON as Python spells it, with NaN and Infinity: history has both, and they come back as such.
    text = json.dumps({"format": FORMAT, "version": VERSION, **state.model_dump()})
    save_npz(directory / LEVEL, {"state": np.frombuffer(text.encode(), np.uint8), **arrays})


def load_level(directory: Path) -> StoredLevel | None:
    """Read the level of a directory, None if no mesh had been finished (one rank).

    Raises
    ------
    InputError
        If the file is damaged, of another kind or of another version.
    """
    path = directory / LEVEL
    try:
        # Opened here, as NumPy leaves a file open that is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, AttributeError) as error:
        raise InputError(f"not a readable checkpoint: {error}", file=str(path)) from error
    state = _state(found.pop("state", None), path)
    _check_arrays(found, state.ranks, path)
    points, cells, owner = (found.pop(name) for name in _MESH)
    return StoredLevel(points, cells, owner, found, state)


def _state(stored: npt.NDArray[Any] | None, path: Path) -> LevelState:
    if stored is None or stored.dtype != np.uint8:
        raise InputError("found no state of a run; allowed: a checkpoint", file=str(path))
    try:
        content = json.loads(stored.tobytes())
    except ValueError as error:
        raise InputError(f"not a readable checkpoint: {error}", file=str(path)) from error
    if not isinstance(content, dict):
        raise InputError("found no state of a run; allowed: a checkpoint", file=str(path))
    _check_format(content, path)
    del content["format"], content["version"]
    try:
        return LevelState.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(
            f"found something else: {first['msg']}", key=key, file=str(path)
        ) from error


def _check_arrays(found: Mapping[str, npt.NDArray[Any]], ranks: int, path: Path) -> None:
    """Raise InputError unless all arrays are there, and go with each other."""

    def refuse(text: str) -> None:
        raise InputError(text, file=str(path))

    if missing := [name for name in _MESH if name not in found]:
        refuse(f"array missing: {', '.join(missing)}; found: {', '.join(found) or 'none'}")
    dimension = found["points"].shape[1] if found["points"].ndim == 2 else -1
    if dimension not in EDGES:
        refuse(f"array points has shape {found['points'].shape}; allowed: (V, 2) or (V, 3)")
    number, corners = len(found["cells"]), dimension + 1
    points_per_cell = found["iterate_flux"].shape[1:2] if "iterate_flux" in found else (1,)
    shapes: dict[str, tuple[int, ...]] = {
        "points": (len(found["points"]), dimension),
        "cells": (number, corners),
        "owner": (number,),
        "potential": (number, corners),
        "potential_edges": (number, len(EDGES[dimension])),
        "flux": (number, corners),
        "iterate_flux": (number, *points_per_cell, dimension),
        "iterate_gradient": (number, *points_per_cell, dimension),
        "unresolved": (number,),
    }
    missing = [name for name in shapes if name not in found and name not in _OPTIONAL]
    unknown = [name for name in found if name not in shapes]
    if missing or unknown:
        refuse(
            f"array {'missing' if missing else 'unknown'}: {', '.join(missing or unknown)}; "
            f"found: {', '.join(found)}"
        )
    for name, array in found.items():
        kind = np.dtype(np.int64 if name in ("cells", "owner") else np.float64)
        if array.shape != shapes[name] or array.dtype != kind:
            refuse(
                f"array {name} has shape {array.shape} of {array.dtype}; "
                f"allowed here: {shapes[name]} of {kind}"
            )
    for name, limit in (("cells", len(found["points"])), ("owner", ranks)):
        array = found[name]
        if number == 0 or array.min() < 0 or array.max() >= limit:
            refuse(f"array {name} has numbers outside 0 to {limit - 1}, or none")


def distribute_level(
    comm: MPI.Comm, stored: StoredLevel | None
) -> tuple[Mesh, dict[str, FloatArray], LevelState]:
    """Distribute a level over the ranks that there are now (collective).

    Parameters
    ----------
    comm
        Communicator.
    stored
        The level on rank 0; not used on the others.

    Returns
    -------
    mesh : dolfinx.mesh.Mesh
        The mesh: on as many ranks as before the same in every number.
    values : dict
        The arrays (n, …) on this rank's cells.
    state : LevelState
        The rest.
    """
    known = None
    if stored is not None:
        known = (stored.state, stored.points.shape[1], list(stored.values))
    state, dimension, names = comm.bcast(known)
    stay = state.ranks == comm.size
    given = comm.scatter(None if stored is None else _given(stored, comm.size, stay))
    points = np.empty((0, dimension)) if stored is None else stored.points
    cells = scatter_rows(comm, None if stored is None else stored.cells, given)
    mesh = mesh_from_arrays(comm, points, cells, stay=stay)
    number = mesh.topology.index_map(dimension).size_local
    made = np.asarray(mesh.topology.original_cell_index[:number], dtype=np.int64)
    # Places in the input of all ranks; `given` on all ranks is the table from there to the file.
    table = np.concatenate(comm.allgather(given))
    values = {
        name: scatter_rows(comm, None if stored is None else stored.values[name], table[made])
        for name in names
    }
    return mesh, values, state


def _given(stored: StoredLevel, size: int, stay: bool) -> list[IntArray]:
    """Return the cells that each rank gives to DOLFINx: its former ones, or rank 0 all."""
    if stay:
        return [np.flatnonzero(stored.owner == rank) for rank in range(size)]
    nothing = np.empty(0, dtype=np.int64)
    return [np.arange(len(stored.cells)), *[nothing] * (size - 1)]
