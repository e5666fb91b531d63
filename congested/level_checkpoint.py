"""Between a solved mesh and the checkpoint of its run: what is kept, and how it is made again.

Kept is what takes a solve to find. Masses, weight and bounds are computed again from the problem,
so that bounds never rest on what a file says; the bounds in the file are compared with them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dolfinx.mesh import Mesh
from mpi4py import MPI

from congested.errors import CongestedError, InfeasibleProblem, InputError, NotConverged
from congested.geometry import FloatArray
from congested.io.checkpoint import (
    LEVEL,
    LevelState,
    RunRecord,
    discard_checkpoint,
    distribute_level,
    gather_level,
    load_level,
    save_level,
    write_run,
)
from congested.io.files import on_root
from congested.io.result import RESULT
from congested.level_solution import Level, mesh_data
from congested.parallel import Stopwatch
from congested.problem import Problem, check_dimensions
from congested.problem_file import problem_text
from congested.solvers.iteration import Iterate
from congested.solvers.level import FoundPair, PotentialValues, certify_again
from congested.solvers.linear import LinearStatistics

logger = logging.getLogger(__name__)

# By which bounds that are computed again may differ, relatively: sums in another order.
_SAME_BOUNDS = 1e-6
_SAME_ZERO = 1e-12
_OTHER_PROBLEM = "not a checkpoint of the problem with its data as they are now"


@dataclass(frozen=True)
class RunState:
    """How far a run has come.

    Attributes
    ----------
    levels
        Meshes solved on.
    history
        Rows of history.csv.
    seconds, total_seconds
        By stage, and in all.
    linear
        Counts of the linear solves.
    """

    levels: int
    history: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]
    total_seconds: float
    linear: LinearStatistics


@dataclass(frozen=True, eq=False)
class KeptLevel:
    """A mesh with what was found on it, as it came from a file.

    Attributes
    ----------
    mesh
        The mesh, distributed over the ranks that there are now.
    values
        Arrays on this rank's cells, see `congested.io.checkpoint.StoredLevel`.
    state
        Numbers of the mesh and of the run.
    """

    mesh: Mesh
    values: Mapping[str, FloatArray]
    state: LevelState

    @property
    def run(self) -> RunState:
        """How far the run had come."""
        state = self.state
        return RunState(
            state.levels,
            state.history,
            state.seconds,
            state.total_seconds,
            LinearStatistics(**state.linear),
        )

    @property
    def found(self) -> FoundPair:
        """What had been found."""
        values, state = self.values, self.state
        return FoundPair(
            potential=PotentialValues(values["potential"], values.get("potential_edges")),
            flux=values["flux"],
            lower_bound_from=state.lower_bound_from,
            dofs=state.dofs,
            gains=state.gains,
            first_gap=state.first_gap,
            iterate=Iterate(
                values["iterate_flux"], values["iterate_gradient"], state.smoothing, state.penalty
            ),
            trust=dict(state.trust),
            unfinished=tuple(state.unfinished),
            failure=state.failure,
        )


@dataclass(frozen=True)
class Checkpoint:
    """Where a run keeps its last finished mesh.

    Attributes
    ----------
    directory
        The directory.
    resuming
        Whether the run goes on from what is kept there; else it is removed.
    file
        The user's own problem file, if there is one.
    """

    directory: Path
    resuming: bool = False
    file: Path | None = None

    def begin(self, problem: Problem, comm: MPI.Comm) -> KeptLevel | None:
        """Write what is asked for, and return the mesh to go on from if there is one (collective).

        Raises
        ------
        InputError
            On every rank, if the directory cannot be written to or the checkpoint is no good.
        """
        record = RunRecord(
            problem_text(problem), None if self.file is None else str(self.file.resolve())
        )

        def start() -> Any:
            stored = None
            if self.resuming:
                stored = load_level(self.directory)
            else:
                # The numbers of an earlier run are not those of this one.
                (self.directory / RESULT).unlink(missing_ok=True)
                discard_checkpoint(self.directory)
            write_run(self.directory, record)
            return stored

        stored = on_root(comm, start)
        if not comm.bcast(stored is not None):
            return None
        return KeptLevel(*distribute_level(comm, stored))

    def keep(self, level: Level, run: RunState) -> None:
        """Write a mesh in place of the one before (collective).

        If that fails, a warning says so: better a run that goes on from an older mesh, should it
        be stopped, than none. What stands in the way of this file, will stop the result's too.
        """
        comm = level.mesh.comm
        try:
            self._write(level, run)
        except CongestedError as error:  # on every rank
            if comm.rank == 0:
                logger.warning("no checkpoint after level %d: %s", run.levels - 1, error)

    def _write(self, level: Level, run: RunState) -> None:
        result, comm = level.result, level.mesh.comm
        values = {
            "potential": result.potential.vertices,
            "potential_edges": result.potential.edges,
            "flux": result.flux,
            "iterate_flux": result.iterate.flux,
            "iterate_gradient": result.iterate.gradient,
            "unresolved": level.unresolved,
        }
        arrays = gather_level(
            level.mesh, {name: array for name, array in values.items() if array is not None}
        )
        state = LevelState(
            ranks=comm.size,
            levels=run.levels,
            history=[dict(row) for row in run.history],
            seconds=dict(run.seconds),
            total_seconds=run.total_seconds,
            linear=vars(run.linear).copy(),
            lower=result.bounds.lower,
            upper=result.bounds.upper,
            load_change=level.load_change,
            hidden_cost=level.hidden_cost,
            fruitless=level.fruitless,
            unevenness=level.unevenness,
            lower_bound_from=result.lower_bound_from,
            dofs=dict(result.dofs),
            gains=dict(result.gains),
            first_gap=result.first_gap,
            trust=dict(result.trust),
            unfinished=list(result.unfinished),
            failure=result.failure,
            smoothing=result.iterate.smoothing,
            penalty=result.iterate.penalty,
        )

        def save() -> None:
            assert arrays is not None
            save_level(self.directory, arrays, state)

        on_root(comm, save)


def restored_level(kept: KeptLevel, problem: Problem, watch: Stopwatch) -> Level:
    """Return a level that was kept, certified anew (collective).

    Parameters
    ----------
    kept
        What was kept of it.
    problem
        The problem.
    watch
        Counts the seconds that it takes.

    Raises
    ------
    InputError
        On every rank, if the bounds are not those that had been certified.
    """
    state = kept.state
    check_dimensions(problem, kept.mesh.topology.dim)
    try:
        given = mesh_data(problem, kept.mesh, watch, first=state.levels == 1)
        with watch("certify"):
            result = certify_again(kept.mesh, given.data, kept.found, given.continuum)
    except (InfeasibleProblem, NotConverged) as error:  # which it was not before
        raise InputError(f"{_OTHER_PROBLEM}: {error}", file=LEVEL) from error
    before, now = (state.lower, state.upper), (result.bounds.lower, result.bounds.upper)
    if not np.allclose(now, before, rtol=_SAME_BOUNDS, atol=_SAME_ZERO):
        raise InputError(
            f"{_OTHER_PROBLEM}: found the bounds {before[0]:.8g} and {before[1]:.8g}, which are "
            f"now {now[0]:.8g} and {now[1]:.8g}; allowed: the same files of data as before",
            file=LEVEL,
        )
    return Level(
        kept.mesh,
        given.cells,
        given.weight,
        result,
        state.load_change,
        given.continuum,
        state.hidden_cost,
        state.fruitless,
        state.unevenness,
        kept.values.get("unresolved"),
    )
