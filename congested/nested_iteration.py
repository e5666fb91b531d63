"""The whole way from a problem to a certified solution: meshes, data, solves, bounds."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from dolfinx.mesh import Mesh
from mpi4py import MPI

from congested.adapt import BulkMarker, Marker, refine_marked
from congested.certificate import Bounds
from congested.continuum_data import check_scope
from congested.data_error import (
    MOMENT_TOLERANCE,
    load_change,
    unevenness,
)
from congested.domain import create_mesh, refine_uniformly
from congested.errors import InfeasibleProblem, NotConverged
from congested.geometry import IntArray
from congested.level_checkpoint import Checkpoint, RunState, restored_level
from congested.level_solution import (
    Level,
    data_error,
    hidden_change,
    level_fields,
    load_left,
    mesh_data,
)
from congested.mesh_masses import lies_on_lines
from congested.parallel import StopRequest, Stopwatch, logger, peak_memory_bytes
from congested.problem import Problem, SolverOptions, check_dimensions
from congested.solution import ProgressEvent, Solution, Status
from congested.solvers.augmented_lagrangian import AugmentedLagrangian
from congested.solvers.iteration import Step
from congested.solvers.level import LevelGoal, Method, solve_level
from congested.solvers.linear import LinearStatistics
from congested.solvers.newton import Newton

Progress = Callable[[ProgressEvent], None]

# How result and problem file name the methods.
_NAMES: dict[type[Method], str] = {Newton: "newton", AugmentedLagrangian: "augmented-lagrangian"}
# What seconds are counted for.
_STAGES = ("setup", "weight", "solve", "certify", "refine", "adapt", "checkpoint", "write")
# With a weight on lines a refinement has not helped where the children of a cell share it more
# unevenly than the first number (lines: 0.43 to 0.66) and more of the gap is left than the second.
_NOT_HELPED = ((0.3, 0.9), (0.45, 0.75))
# After so many that have not helped none is tried.
_FRUITLESS = 2
# Adaptive refinement ends where a mesh that grows by this factor would exceed the limit.
_LEAST_GROWTH = 1.5


def solve(
    problem: Problem,
    *,
    relative_gap: float | None = None,
    method: str | Method | None = None,
    comm: MPI.Comm | None = None,
    refine: str | None = None,
    max_cells: int | None = None,
    max_seconds: float | None = None,
    lower_bound: str | None = None,
    scope: str | None = None,
    petsc: Mapping[str, Any] | None = None,
    marker: Marker | None = None,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
) -> Solution:
    """Solve a problem until its relative gap is certified (collective).

    Nested iteration: each mesh starts from the solution on the coarser one, and ends with bounds
    of its own. Arguments that are given override `problem.solver`.

    Parameters
    ----------
    problem
        What to solve.
    relative_gap
        Goal for (upper − lower)/upper.
    method
        "newton", "augmented-lagrangian", or a `Newton` or `AugmentedLagrangian` with options.
    comm
        Communicator; all ranks of it must call. Default: the world.
    refine
        "uniform", "adaptive" or "none".
    max_cells, max_seconds
        Limits; the best bounds so far are returned when one is met.
    lower_bound
        "auto", "p1" or "p2".
    scope
        "cell-data" or "continuum": what the bounds hold for.
    petsc
        PETSc options of the linear solves, for example ``{"ksp_rtol": 1e-10}``.
    marker
        Chooses the cells of adaptive refinement; default: `BulkMarker()`.
    progress
        Called after each Newton step on every rank with a `ProgressEvent`; must not communicate.
    stop
        Polled after each Newton step, so that a signal ends the run with the best bounds so far.
    checkpoint
        Directory in which each finished mesh is kept, so that `resume` can go on from there, in
        place of what an earlier run left there. It is kept until a solution that has reached its
        goal is written to the same directory.

    Returns
    -------
    Solution
        `Solution.status` tells whether the goal was met, `Solution.reason` what to do if not.

    Raises
    ------
    InputError
        If the problem or an option is wrong, or bounds for the original densities are asked for
        and not known.
    InfeasibleProblem
        If some part of the domain cannot balance its mass.
    NotConverged
        If nothing could be certified on the first mesh. A later failure ends the run with the
        bounds of the mesh before.
    """
    overrides = {
        "relative_gap": relative_gap,
        "method": _NAMES.get(type(method)) if isinstance(method, Method) else method,
        "refine": refine,
        "max_cells": max_cells,
        "max_seconds": max_seconds,
        "lower_bound": lower_bound,
        "scope": scope,
        "petsc": petsc,
    }
    given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    problem = dataclasses.replace(problem, solver=dataclasses.replace(problem.solver, **given))
    if not isinstance(method, Method):
        method = next(kind() for kind, name in _NAMES.items() if name == problem.solver.method)
    method = dataclasses.replace(method, petsc={**(method.petsc or {}), **problem.solver.petsc})
    if isinstance(checkpoint, str | Path):
        checkpoint = Checkpoint(Path(checkpoint))
    comm, marker = comm or MPI.COMM_WORLD, marker or BulkMarker()
    return _Run(problem, method, comm, marker, progress, stop, checkpoint).solve()


@dataclass
class _Run:
    """State of one call of `solve`."""

    problem: Problem
    method: Method
    comm: MPI.Comm
    marker: Marker
    progress: Progress | None
    stop: StopRequest | None
    checkpoint: Checkpoint | None
    watch: Stopwatch = field(default_factory=Stopwatch)
    statistics: LinearStatistics = field(default_factory=LinearStatistics)
    history: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    stopped_by: str | None = None
    # Seconds that the run had taken before it was resumed. Limits of time do not count them.
    earlier: float = 0.0

    @property
    def options(self) -> SolverOptions:
        return self.problem.solver

    def solve(self) -> Solution:
        check_scope(self.problem)
        level, number = self._first_level()
        while (reason := self._reason_to_end(level)) is None:
            with self.watch("refine"):
                mesh, parent = self._refined(level)
            try:
                finer = self._solve_on(mesh, number, level, parent)
            except (NotConverged, InfeasibleProblem) as error:
                # Raised on every rank; what the coarser mesh certified stays certified. (A sampled
                # weight may miss more of the mass on a finer mesh.)
                reason = f"{self._gap_text(level)}on the next mesh {error}"
                break
            if finer is None or self._is_spoiled(finer, level):
                reason = self._stop_text(level)
                break
            number += 1
            gaps = level.result.bounds.relative_gap, finer.result.bounds.relative_gap
            if self._reached(level) and not self._reached(finer):
                # It was to make the error of the data smaller, and has lost the gap.
                reason = f"{self._gap_text(level)}the next mesh has a larger one"
                break
            if finer.result.unfinished and gaps[0] < gaps[1]:
                # The method failed there: the coarser mesh has the better bounds.
                reason = self._unfinished_text(level, finer)
                break
            level = finer
            self._keep(level, number)
        status = Status.CONVERGED if self._reached(level) else Status.STOPPED
        return self._solution(level, number, status, reason)

    def _first_level(self) -> tuple[Level, int]:
        """Return the level to begin with, and how many there have been."""
        kept = None
        if self.checkpoint is not None:
            with self.watch("checkpoint"):
                kept = self.checkpoint.begin(self.problem, self.comm)
        if kept is not None:
            run = kept.run
            self.history, self.statistics = [dict(row) for row in run.history], run.linear
            self.earlier = run.total_seconds
            for name, seconds in run.seconds.items():
                self.watch.add(name, seconds)
            return restored_level(kept, self.problem, self.watch), run.levels
        with self.watch("setup"):
            mesh = create_mesh(self.problem.domain, self.comm)
            check_dimensions(self.problem, mesh.topology.dim)
        level = self._solve_on(mesh, number=0, coarse=None, parent=None)
        self._keep(level, 1)
        return level, 1

    def _keep(self, level: Level, number: int) -> None:
        # A mesh on which the solver was cut short is none to go on from: it is solved on again.
        if self.checkpoint is not None and self.stopped_by is None:
            with self.watch("checkpoint"):
                seconds, total = self.watch.seconds, self.earlier + self.watch.total
                run = RunState(number, self.history, seconds, total, self.statistics)
                self.checkpoint.keep(level, run)

    # --- one mesh ---------------------------------------------------------------------------

    def _solve_on(
        self, mesh: Mesh, number: int, coarse: Level | None, parent: IntArray | None
    ) -> Any:
        problem = self.problem
        given = mesh_data(problem, mesh, self.watch, first=number == 0)
        cells, weight, data, continuum = given.cells, given.weight, given.data, given.continuum
        size = int(cells.total(np.ones(cells.number)))
        finite = not np.isinf(problem.strength)
        if coarse is not None and self._must_stop():
            # A weight can take longer than all steps of the solver.
            return None
        goal = LevelGoal(
            self.options.relative_gap, self.options.lower_bound, not self._may_refine(mesh, size)
        )

        def monitor(stage: str, step: Step) -> bool:
            return self._monitor(number, size, stage, step, coarse)

        with self.watch("solve"):
            result = solve_level(
                mesh,
                data,
                goal,
                self.method,
                self.statistics,
                monitor,
                None if coarse is None or parent is None else (coarse.result, parent),
                lambda: self.stopped_by is not None,
                continuum,
            )
        if result is None:
            return None
        change = None
        if coarse is not None and parent is not None:
            potential = result.potential
            change = load_change(
                coarse.result.data, data, parent, potential.vertices, potential.edges
            )
        bounds = result.bounds
        logger.info(
            "level %d: %d cells, %.8g <= cost <= %.8g, relative gap %.2e",
            number,
            size,
            bounds.lower,
            bounds.upper,
            bounds.relative_gap,
        )
        if result.unfinished and self.stopped_by is None:
            logger.warning(
                "level %d: %s did not end in %s: the bounds hold, but may be far from "
                "the best on this mesh",
                number,
                self.method.title,
                " and ".join(result.unfinished),
            )
        hidden = 0.0
        if continuum is None and bounds.upper == 0.0:
            found = hidden_change(problem, result)
            noise = 10.0 * MOMENT_TOLERANCE * float(np.linalg.norm(cells.upper - cells.lower))
            hidden = found if found > noise else 0.0
        fruitless, uneven = 0, 0.0
        if coarse is not None and parent is not None and finite and lies_on_lines(problem):
            uneven = unevenness(cells, parent, weight.masses, result.fields.gap_indicator)
            fallen = bounds.relative_gap / max(coarse.result.bounds.relative_gap, 1e-300)
            if any(uneven > most and fallen > left for most, left in _NOT_HELPED):
                fruitless = coarse.fruitless + 1
        unresolved = None
        if self.options.refine == "adaptive" and continuum is None:
            with self.watch("adapt"):
                change, unresolved = load_left(problem, cells, result.potential.vertices)
        return Level(
            mesh, cells, weight, result, change, continuum, hidden, fruitless, uneven, unresolved
        )

    def _refined(self, level: Level) -> tuple[Mesh, IntArray]:
        """Return the next mesh and the parents of its cells."""
        if self.options.refine != "adaptive":
            return refine_uniformly(level.mesh)
        indicator = np.maximum(level.result.fields.gap_indicator, 0.0)
        if level.unresolved is not None:
            indicator = indicator + level.unresolved
        marked = self.marker(level.cells, indicator)
        if not self.comm.allreduce(bool(marked.any()), op=MPI.LOR):
            marked = np.ones(level.cells.number, dtype=bool)
        return refine_marked(level.mesh, marked)

    def _monitor(
        self, number: int, size: int, stage: str, step: Step, coarse: Level | None
    ) -> bool:
        seconds = self.earlier + time.perf_counter() - self.started
        best = coarse.result.bounds if coarse is not None else Bounds(np.nan, np.nan)
        self.history.append(
            {
                "level": number,
                "cells": size,
                "space": stage,
                "iteration": step.iteration,
                "discrete_cost": step.cost,
                "discrete_gap": step.gap,
                "smoothing": step.smoothing,
                "step_length": step.step_length,
                "penalty": step.penalty,
                "primal_residual": step.primal_residual,
                "dual_residual": step.dual_residual,
                "linear_iterations": step.linear_iterations,
                "lower": best.lower,
                "upper": best.upper,
                "relative_gap": best.relative_gap if coarse is not None else np.nan,
                "seconds": seconds,
            }
        )
        if self.progress is not None:
            gap = best.relative_gap if coarse is not None else np.nan
            self.progress(
                ProgressEvent(
                    number, size, len(self.history), stage, best.lower, best.upper, gap, seconds
                )
            )
        return self._must_stop()

    def _must_stop(self) -> bool:
        """Whether a signal or the clock ends the run: the same answer on all ranks."""
        if self.stopped_by is None and self.stop is not None:
            number = self.stop.requested(self.comm)
            if number:
                self.stopped_by = signal.Signals(number).name
        if self.stopped_by is None and self.options.max_seconds is not None:
            seconds = self.comm.allreduce(time.perf_counter() - self.started, op=MPI.MAX)
            if seconds > self.options.max_seconds:
                self.stopped_by = "max_seconds"
        return self.stopped_by is not None

    # --- when to end ------------------------------------------------------------------------

    def _reached(self, level: Level) -> bool:
        gap = level.result.bounds.relative_gap
        return gap <= self.options.relative_gap and level.hidden_cost == 0.0

    def _is_spoiled(self, finer: Level, level: Level) -> bool:
        """Whether a finer level was cut short before its bounds became better than the last."""
        gaps = finer.result.bounds.relative_gap, level.result.bounds.relative_gap
        return self.stopped_by is not None and not gaps[0] < gaps[1]

    def _may_refine(self, mesh: Mesh, size: int) -> bool:
        # Adaptive meshes grow as little as that, at least.
        children = 2**mesh.topology.dim if self.options.refine == "uniform" else _LEAST_GROWTH
        return self.options.refine != "none" and children * size <= self.options.max_cells

    def _reason_to_end(self, level: Level) -> str | None:
        size = int(level.cells.total(np.ones(level.cells.number)))
        may_refine = self._may_refine(level.mesh, size)
        stop = self._must_stop()
        if self._reached(level):
            # Adaptive meshes go on until the load's error is as small as the gap.
            left = level.load_change if level.unresolved is not None else None
            gap, goal = level.result.bounds.relative_gap, self.options.relative_gap
            text = f"the relative gap {gap:.2e} is certified, as asked ({goal:.2e})"
            if left is None or left <= goal * abs(level.result.bounds.upper):
                return text
            if may_refine and not stop:
                return None
            return f"{text}; the error of the cell data is larger, see data_error"
        if stop:
            return self._stop_text(level)
        if may_refine and level.fruitless < _FRUITLESS:
            return None
        begin = self._gap_text(level)
        if level.result.failure is not None:
            return begin + level.result.failure
        if level.result.unfinished:
            return self._unfinished_text(level)
        if level.fruitless or level.unevenness > _NOT_HELPED[-1][0]:
            return begin + (
                "refinement hardly helps, as the weight lies on lines or points, which are one "
                "cell wide on every mesh; give points a width (gaussian-mixture with stds of some "
                "cells) or choose a weight that has one"
            )
        if self.options.refine == "none":
            return begin + 'refinement is off; use refine = "uniform" or a finer mesh'
        if np.isinf(level.result.bounds.upper):
            begin += "the weight varies too much inside some cells for an upper bound; "
        about, factor = ("", 2**level.mesh.topology.dim)
        if self.options.refine == "adaptive":
            about, factor = "some ", _LEAST_GROWTH
        return begin + (
            f"the next mesh would have {about}{round(factor * size)} cells; raise "
            f"max_cells (now {self.options.max_cells})"
            + ("" if level.hidden_cost else " or the relative gap asked for")
        )

    def _unfinished_text(self, level: Level, finer: Level | None = None) -> str:
        where = "" if finer is None else "on the next mesh "
        other = next(name for kind, name in _NAMES.items() if not isinstance(self.method, kind))
        return self._gap_text(level) + (
            f"{where}{self.method.title} did not end within its limit of "
            f"{self.method.max_iterations} steps in "
            f"{' and '.join((finer or level).result.unfinished)}; "
            f'try method = "{other}", '
            "another penalty strength or another first mesh"
        )

    def _gap_text(self, level: Level) -> str:
        if level.hidden_cost > 0.0:
            return (
                "source and target differ only inside cells, where the bounds do not see it (a "
                f"cost of about {level.hidden_cost:.2g}): "
            )
        gap, goal = level.result.bounds.relative_gap, self.options.relative_gap
        if self._reached(level):
            return f"the relative gap {gap:.2e} is certified, as asked ({goal:.2e}): "
        return f"the relative gap is {gap:.2e}, not {goal:.2e}: "

    def _stop_text(self, level: Level) -> str:
        begin = self._gap_text(level)
        if self.stopped_by == "max_seconds":
            return begin + (
                f"max_seconds = {self.options.max_seconds:g} have passed; allow more time or a "
                "larger gap"
            )
        return begin + f"stopped by {self.stopped_by}; the best bounds so far are kept"

    # --- the result -------------------------------------------------------------------------

    def _solution(self, level: Level, levels: int, status: Status, reason: str) -> Solution:
        with self.watch("certify"):
            error, parts = data_error(self.problem, level)
        seconds = {name: self.watch.seconds.get(name, 0.0) for name in _STAGES}
        seconds["total"] = self.earlier + self.watch.total
        steps = {kind: len(self.history) * isinstance(self.method, kind) for kind in _NAMES}
        solver = {
            "method": self.options.method,
            "outer_iterations": levels,
            "newton_iterations": steps[Newton],
            "augmented_lagrangian_iterations": steps[AugmentedLagrangian],
            "linear_iterations": self.statistics.iterations,
            "direct_solves": self.statistics.direct_solves,
            "unfinished": list(level.result.unfinished),
        }
        return Solution(
            problem=self.problem,
            status=status,
            reason=reason,
            history=tuple(self.history),
            levels=levels,
            solver=solver,
            seconds=seconds,
            peak_memory_bytes=peak_memory_bytes(self.comm),
            **level_fields(level, error, parts),
        )
