"""Go on with a run that was stopped or killed, from the last mesh that it finished."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpi4py import MPI

from congested.adapt import Marker
from congested.errors import InputError
from congested.io.checkpoint import RUN, RunRecord, read_run
from congested.io.files import on_root
from congested.level_checkpoint import Checkpoint
from congested.nested_iteration import Progress, solve
from congested.parallel import StopRequest
from congested.problem import Problem
from congested.problem_file import problem_from_tables
from congested.solution import Solution
from congested.solvers.level import Method


def resume(
    directory: str | Path,
    *,
    problem: Problem | None = None,
    relative_gap: float | None = None,
    method: Method | None = None,
    comm: MPI.Comm | None = None,
    max_cells: int | None = None,
    max_seconds: float | None = None,
    petsc: Mapping[str, Any] | None = None,
    marker: Marker | None = None,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
) -> Solution:
    """Go on with a run of ``solve(…, checkpoint=directory)`` (collective).

    The last mesh that was finished is certified again, not solved on again; where none was, the
    run begins anew. The number of ranks may be another one.

    Parameters
    ----------
    directory
        Where the run keeps its checkpoint. It goes on keeping it there.
    problem
        The same problem with the same data, and its solver options. Only needed if it cannot be
        read from a file, since a part was made in Python; by default as the run was asked for.
    relative_gap, max_cells, max_seconds, petsc
        Override what the run was asked for, as in `solve`. Time is counted from now on.
    method, marker
        Options of the method, and a marker of one's own: the checkpoint does not know them.
    comm, progress, stop
        As in `solve`.

    Returns
    -------
    Solution
        Its history and seconds are those of the whole run.

    Raises
    ------
    InputError
        If the directory has no checkpoint, if the run has ended, if a file is damaged, or if the
        data of the problem have changed.
    InfeasibleProblem, NotConverged
        As in `solve`.
    """
    comm = comm or MPI.COMM_WORLD
    record, checkpoint = read_checkpoint(Path(directory), comm)
    return solve(
        problem or recorded_problem(record, Path(directory)),
        relative_gap=relative_gap,
        method=method,
        comm=comm,
        max_cells=max_cells,
        max_seconds=max_seconds,
        petsc=petsc,
        marker=marker,
        progress=progress,
        stop=stop,
        checkpoint=checkpoint,
    )


def read_checkpoint(directory: Path, comm: MPI.Comm) -> tuple[RunRecord, Checkpoint]:
    """Read what a run was asked for (collective).

    Parameters
    ----------
    directory
        Where the run keeps its checkpoint.
    comm
        Communicator.

    Returns
    -------
    record : RunRecord
        What it was asked for.
    checkpoint : Checkpoint
        To go on with, for `solve`.

    Raises
    ------
    InputError
        On every rank, if there is no run to go on with.
    """
    # Rank 0 reads for all: it will replace this file, and the others might see the new one.
    record: RunRecord = comm.bcast(on_root(comm, lambda: read_run(directory)))
    file = None if record.file is None else Path(record.file)
    return record, Checkpoint(directory, resuming=True, file=file)


def recorded_problem(record: RunRecord, directory: Path) -> Problem:
    """Return the problem of a run, with everything that overrode it.

    Raises
    ------
    InputError
        If it cannot be read any more: a file of data is gone, say, or a part was made in Python.
    """
    file = str(directory / RUN)
    try:
        tables = tomllib.loads(record.problem)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not a problem file: {error}", key="problem", file=file) from error
    return problem_from_tables(tables, file=file)
