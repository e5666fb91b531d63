"""The one result of every method: bounds, values, fields, and what the run did."""

from __future__ import annotations

import enum
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dolfinx
from dolfinx import fem
from dolfinx.mesh import Mesh
from petsc4py import PETSc

from congested.certificate import Bounds, CellFields
from congested.geometry import cells_of_mesh
from congested.io.arrays import gather_arrays
from congested.io.checkpoint import discard_checkpoint
from congested.io.files import on_root
from congested.io.result import SCHEMA, write_result
from congested.plot import plot_overview
from congested.problem import Problem
from congested.version import __version__


class Status(enum.Enum):
    """How a run ended; the text of `Solution.reason` says what to do next."""

    CONVERGED = "converged"
    STOPPED = "stopped"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True)
class ProgressEvent:
    """State of a running solve; ``relative_gap`` is NaN until a level has been certified.

    Attributes
    ----------
    level
        Refinement level, from 0.
    cells
        Cells of the level's mesh on all ranks.
    iteration
        Newton steps so far.
    stage
        What is being done, in a word or two.
    lower, upper, relative_gap
        Best certified bounds so far (NaN if none).
    seconds
        Wall seconds since the start.
    """

    level: int
    cells: int
    iteration: int
    stage: str
    lower: float
    upper: float
    relative_gap: float
    seconds: float


@dataclass(frozen=True)
class Values:
    """Values of the optimum, as far as the bounds tell.

    Attributes
    ----------
    cost
        Midpoint of the bounds.
    critic_loss
        L = ∫ u d(μ − ν) of the conforming potential.
    penalty
        P = λ∫(|∇u| − 1)₊² dσ of the conforming potential; L − P is the lower bound.
    momentum_l1
        ∫|m| of the flux (an upper bound of it, as in the certificate); at the optimum L − 2P.
    """

    cost: float
    critic_loss: float
    penalty: float
    momentum_l1: float


@dataclass(frozen=True, eq=False)
class Solution:
    """Solution of a problem with certified bounds.

    Attributes
    ----------
    problem
        The problem.
    mesh
        The finest mesh solved on.
    status, reason
        How the run ended, and a text that names the remedy where there is one.
    bounds, values
        Certified bounds; values of the optimum.
    potential
        P1 function "potential" u, up to a constant (vertex values, if the bound came from P2).
    momentum
        RT0 function "momentum" m, with ∫_T div m = μ_T − ν_T to rounding.
    weight
        DG0 function "weight": density of σ.
    fields
        All fields on this rank's cells, in the layout of ``solution.npz``.
    history
        One row per Newton iteration.
    levels
        Number of meshes solved on.
    dofs, conservation, solver, seconds, peak_memory_bytes, data
        As in ``result.json``.
    """

    problem: Problem
    mesh: Mesh
    status: Status
    reason: str
    bounds: Bounds
    values: Values
    potential: fem.Function
    momentum: fem.Function
    weight: fem.Function
    fields: CellFields
    history: tuple[dict[str, Any], ...]
    levels: int
    dofs: dict[str, int]
    conservation: dict[str, float]
    solver: dict[str, Any]
    seconds: dict[str, float]
    peak_memory_bytes: int
    data: dict[str, Any] = field(default_factory=dict)

    def result(self) -> dict[str, Any]:
        """Return the content of ``result.json``."""
        bounds, topology = self.bounds, self.mesh.topology
        return {
            "schema": SCHEMA,
            "title": self.problem.title,
            "status": self.status.value,
            "reason": self.reason,
            "bounds": {
                "lower": bounds.lower,
                "upper": bounds.upper,
                "gap": bounds.gap,
                "relative_gap": bounds.relative_gap,
                "scope": bounds.scope,
                "data_error": bounds.data_error,
            },
            "values": {
                "cost": self.values.cost,
                "critic_loss": self.values.critic_loss,
                "penalty": self.values.penalty,
                "momentum_l1": self.values.momentum_l1,
            },
            "mesh": {
                "dimension": topology.dim,
                "cells": int(topology.index_map(topology.dim).size_global),
                "vertices": int(self.mesh.geometry.index_map().size_global),
                "levels": self.levels,
            },
            "dofs": self.dofs,
            "conservation": self.conservation,
            "solver": self.solver,
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "environment": environment(self.mesh.comm.size),
            "data": self.data,
            "problem": self.problem.description,
        }

    def write(self, directory: str | Path, *, problem_text: str | None = None) -> Path:
        """Write the result directory (collective); see the README for its files.

        Parameters
        ----------
        directory
            Made if it does not exist; results of an earlier run in it are replaced. A checkpoint
            in it is removed in the end if the goal was reached.
        problem_text
            Text of the problem file, kept beside the result as ``problem.toml``.

        Returns
        -------
        pathlib.Path
            The directory.

        Raises
        ------
        InputError
            If the directory cannot be written.
        """
        cells = cells_of_mesh(self.mesh)
        output = self.problem.output
        written = write_result(
            directory,
            result=self.result(),
            arrays=gather_arrays(self.mesh, self.fields, cells.volume),
            mesh=self.mesh,
            fields=self.fields,
            history=self.history,
            problem_text=problem_text,
            formats=output.formats,
            draw=plot_overview if output.overview else None,
        )
        if self.status is Status.CONVERGED:
            on_root(self.mesh.comm, lambda: discard_checkpoint(written))
        return written


def environment(mpi_size: int) -> dict[str, Any]:
    """Return the versions that a result depends on."""
    return {
        "congested": __version__,
        "dolfinx": dolfinx.__version__,
        "petsc": ".".join(str(part) for part in PETSc.Sys.getVersion()),
        "python": platform.python_version(),
        "mpi_size": mpi_size,
    }
