"""The weight alone: its cell masses on a mesh of a problem, without solving anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dolfinx.mesh import Mesh
from mpi4py import MPI

from congested.domain import create_mesh, refine_uniformly
from congested.errors import InputError
from congested.geometry import Cells, FloatArray, cells_of_mesh
from congested.io.result import SCHEMA
from congested.io.weight import gather_weight, write_weight
from congested.measures.base import RestrictedMasses
from congested.mesh_masses import mesh_masses, warn_of_lost_weight
from congested.parallel import Stopwatch
from congested.plot import plot_weight
from congested.problem import Problem, check_dimensions
from congested.solution import environment
from congested.weights.base import CellWeight


@dataclass(frozen=True, eq=False)
class WeightResult:
    """The weight of a problem on a mesh.

    Attributes
    ----------
    problem
        The problem.
    mesh
        The mesh: that of the problem's domain, refined `refinements` times.
    cells
        This rank's cells.
    cell_weight
        Masses σ_T (n,) of these cells, and what is known of their error.
    source, target
        Masses of μ and ν in these cells.
    density_range
        Least and greatest density σ_T/|T| of all cells on all ranks.
    refinements
        How often the mesh was refined uniformly.
    seconds
        Wall seconds that the weight took.
    """

    problem: Problem
    mesh: Mesh
    cells: Cells
    cell_weight: CellWeight
    source: RestrictedMasses
    target: RestrictedMasses
    density_range: tuple[float, float]
    refinements: int
    seconds: float

    @property
    def density(self) -> FloatArray:
        """Density σ_T/|T| (n,) of this rank's cells."""
        return self.cell_weight.masses / self.cells.volume

    def result(self) -> dict[str, Any]:
        """Return the content of ``weight.json``."""
        weight, topology = self.cell_weight, self.mesh.topology
        return {
            "schema": SCHEMA,
            "title": self.problem.title,
            "mass": weight.mass,
            "min": self.density_range[0],
            "max": self.density_range[1],
            "relative_error": weight.relative_error,
            "method": weight.method,
            "seconds": self.seconds,
            "lost": weight.lost,
            "samples": weight.samples,
            "details": dict(weight.details),
            "mesh": {
                "dimension": topology.dim,
                "cells": int(topology.index_map(topology.dim).size_global),
                "vertices": int(self.mesh.geometry.index_map().size_global),
                "refinements": self.refinements,
            },
            "environment": environment(self.mesh.comm.size),
            "problem": self.problem.description,
        }

    def write(self, directory: str | Path) -> Path:
        """Write weight.npz, weight.vtu, weight.png and weight.json (collective); see the README.

        Parameters
        ----------
        directory
            Made if it does not exist; an earlier weight in it is replaced, other files stay.

        Returns
        -------
        pathlib.Path
            The directory.

        Raises
        ------
        InputError
            If the directory cannot be written.
        """
        masses = {
            "weight": self.cell_weight.masses,
            "source": self.source.masses,
            "target": self.target.masses,
            "weight_standard_error": self.cell_weight.standard_errors,
        }
        return write_weight(
            directory,
            result=self.result(),
            arrays=gather_weight(self.mesh, self.cells.volume, masses),
            comm=self.mesh.comm,
            draw=plot_weight if self.problem.output.overview else None,
        )


def compute_weight(
    problem: Problem, *, refine: int = 0, comm: MPI.Comm | None = None
) -> WeightResult:
    """Compute the weight of a problem on its first mesh (collective).

    Parameters
    ----------
    problem
        The problem; its solver's options do not matter but for `max_cells`.
    refine
        How often the mesh is refined uniformly first.
    comm
        Communicator; all ranks of it must call. Default: the world.

    Returns
    -------
    WeightResult
        The weight. Where more than a thousandth of it lies outside the domain, the log says so.

    Raises
    ------
    InputError
        If the problem is wrong, or the mesh would have more than `max_cells` cells.
    """
    comm = comm or MPI.COMM_WORLD
    if refine < 0:
        raise InputError(f"found {refine}; allowed: >= 0", key="refine")
    watch = Stopwatch()
    mesh = create_mesh(problem.domain, comm)
    dimension = mesh.topology.dim
    check_dimensions(problem, dimension)
    number = int(mesh.topology.index_map(dimension).size_global) * 2 ** (dimension * refine)
    if number > problem.solver.max_cells:
        found, key = (refine, "refine") if refine else ("a mesh", "cells")
        raise InputError(
            f"found {found}, which makes {number} cells; allowed: at most solver.max_cells = "
            f"{problem.solver.max_cells}",
            key=key,
        )
    for _ in range(refine):
        mesh, _ = refine_uniformly(mesh)
    cells = cells_of_mesh(mesh)
    masses = mesh_masses(problem, cells, watch)
    warn_of_lost_weight(problem, masses, comm.rank)
    density = masses.weight.masses / cells.volume
    return WeightResult(
        problem=problem,
        mesh=mesh,
        cells=cells,
        cell_weight=masses.weight,
        source=masses.source,
        target=masses.target,
        density_range=(
            comm.allreduce(float(density.min(initial=np.inf)), op=MPI.MIN),
            comm.allreduce(float(density.max(initial=0.0)), op=MPI.MAX),
        ),
        refinements=refine,
        seconds=comm.allreduce(watch.seconds["weight"], op=MPI.MAX),
    )
