"""A mesh that has been solved on, and its part of a result: fields, bounds, error of the data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from dolfinx.mesh import Mesh

from congested.cell_data import CellData, make_cell_data
from congested.continuum_data import ContinuumData, make_continuum_data
from congested.data_error import (
    discarded_mass_error,
    inner_change,
    inner_moments,
    moved_mass_error,
    spread_error,
    unresolved_load,
    weight_errors,
)
from congested.discretization import cell_function, momentum_function, p1_function
from congested.errors import InputError, NotConverged
from congested.geometry import Cells, FloatArray, cells_of_mesh, split_simplices
from congested.measures.base import restricted_masses
from congested.mesh_masses import Timed, mesh_masses, warn_of_cut_measures, warn_of_lost_weight
from congested.problem import CONTINUUM, Problem
from congested.solution import Values
from congested.solvers.level import LevelResult
from congested.weights.base import CellWeight


@dataclass(frozen=True)
class Level:
    """A mesh that has been solved on.

    Attributes
    ----------
    mesh, cells, weight, result
        The mesh, its cells, the weight on them and what the solver found.
    load_change
        What the refinement of the data added since the mesh before; None on the first mesh.
    continuum
        Data of the bounds for the original densities, if these were asked for.
    hidden_cost
        Estimated cost of moving the source to the target inside cells, where every cell has as
        much of both: bounds of cell data do not see it.
    fruitless
        Last refinements that have not helped, because the weight lies on lines or points.
    unevenness
        How unevenly children of a cell share such a weight; 0 for others and on the first mesh.
    unresolved
        What the next refinement of the load would add in each cell (n,), if meshes are adaptive.
    """

    mesh: Mesh
    cells: Cells
    weight: CellWeight
    result: LevelResult
    load_change: float | None
    continuum: ContinuumData | None
    hidden_cost: float
    fruitless: int
    unevenness: float
    unresolved: FloatArray | None = None


@dataclass(frozen=True)
class MeshData:
    """A problem on a mesh, before it is solved: the cells, the weight on them, and the data."""

    cells: Cells
    weight: CellWeight
    data: CellData
    continuum: ContinuumData | None


def mesh_data(problem: Problem, mesh: Mesh, timed: Timed, *, first: bool) -> MeshData:
    """Compute the data of a problem on a mesh (collective).

    Parameters
    ----------
    problem, mesh
        The problem and the mesh.
    timed
        Makes a context from ``"setup"``, ``"weight"`` and ``"certify"``, to time them.
    first
        Whether it is the first mesh: then the log tells what the domain does not hold.

    Raises
    ------
    InputError
        If the problem does not fit the mesh.
    InfeasibleProblem
        If some part of the domain cannot balance its mass.
    NotConverged
        If a mesh that is not the first has no data for bounds for the original densities.
    """
    rank = mesh.comm.rank
    with timed("setup"):
        cells = cells_of_mesh(mesh)
    finite = not np.isinf(problem.strength)
    masses = mesh_masses(problem, cells, timed, with_weight=finite)
    if first:
        warn_of_cut_measures(masses, rank)
    if first and finite:
        warn_of_lost_weight(problem, masses, rank)
    weight = masses.weight
    with timed("setup"):
        data = make_cell_data(mesh, cells, masses.source, masses.target, weight, problem.strength)
    continuum = None
    if problem.solver.scope == CONTINUUM:
        with timed("certify"):
            try:
                continuum = make_continuum_data(problem, data, weight)
            except InputError as error:
                if first:
                    raise
                # The mesh before has bounds; they are kept.
                raise NotConverged(str(error)) from error
    return MeshData(cells, weight, data, continuum)


def load_change_of_first_mesh(problem: Problem, level: Level) -> float:
    """Compare with the data of a mesh that is refined once, for which nothing is solved.

    Parameters
    ----------
    problem, level
        The problem and a mesh that has none before it (collective).
    """
    source, target = _masses_of_children(problem, level.cells)
    return spread_error(level.cells, level.result.potential.vertices, source - target)


def load_left(problem: Problem, cells: Cells, potential: FloatArray) -> tuple[float, FloatArray]:
    """Return what refining the load would add to the cost, in all and in each cell (collective).

    Parameters
    ----------
    problem
        The problem.
    cells
        The cells.
    potential
        Potential at their vertices (n, d+1).

    Returns
    -------
    tuple
        Twice what the next refinement would add, for all that could follow; and its size in each
        cell (n,).
    """
    source, target = (
        unresolved_load(cells, potential, children)
        for children in _masses_of_children(problem, cells)
    )
    return 2.0 * (abs(cells.total(source)) + abs(cells.total(target))), np.abs(source - target)


def _masses_of_children(problem: Problem, cells: Cells) -> list[FloatArray]:
    """Return the masses of source and target in the children of all cells (collective)."""
    fine = Cells(cells.comm, split_simplices(cells.simplices), cells.lower, cells.upper)
    measures = ((problem.source, "source"), (problem.target, "target"))
    return [restricted_masses(measure, fine, name).masses for measure, name in measures]


def hidden_change(problem: Problem, result: LevelResult) -> float:
    """Return what the places of the masses inside their cells may add to the cost (collective).

    Parameters
    ----------
    problem, result
        The problem, and what the solver found.
    """
    data, fields = result.data, result.fields
    outside = data.record["mass_outside"]
    source = inner_moments(problem.source, data.cells, outside["source"])
    target = inner_moments(problem.target, data.cells, outside["target"])
    return inner_change(data, (source, target), fields.gradient, fields.momentum)


def data_error(problem: Problem, level: Level) -> tuple[float, dict[str, float]]:
    """Return how far the data of the bounds may move the cost, and the parts of it (collective).

    Parameters
    ----------
    problem, level
        The problem, and a mesh that has been solved on.
    """
    data, potential = level.result.data, level.result.potential.vertices
    if level.continuum is not None:
        totals = level.result.totals
        error = discarded_mass_error(data, potential)
        tolerances = totals["critic_loss"] - totals["penalty"] - level.result.bounds.lower
        return error, {
            "discarded_mass": error,
            "subtracted_for_tolerances": tolerances,
            "weight_bound_loss": level.continuum.weight_loss,
        }
    change = level.load_change
    if change is None:
        change = load_change_of_first_mesh(problem, level)
    change = max(change, hidden_change(problem, level.result))
    weight = weight_errors(data, level.weight, potential)
    moved = moved_mass_error(data, potential)
    return change + weight.total + moved, {
        "load": change,
        "weight_standard_error": weight.standard_error,
        "weight_bias": weight.bias,
        "weight_rule_error": weight.rule,
        "moved_mass": moved,
    }


def level_fields(level: Level, error: float, parts: dict[str, float]) -> dict[str, Any]:
    """Return the arguments of a `Solution` that belong to its mesh (collective).

    Parameters
    ----------
    level
        The mesh.
    error, parts
        What `data_error` returned.
    """
    result, mesh, totals = level.result, level.mesh, level.result.totals
    bounds = dataclasses.replace(result.bounds, data_error=error)
    return {
        "mesh": mesh,
        "bounds": bounds,
        "values": Values(
            bounds.cost, totals["critic_loss"], totals["penalty"], totals["momentum_l1"]
        ),
        "potential": p1_function(mesh, result.potential.vertices),
        "momentum": momentum_function(mesh, level.cells, result.flux),
        "weight": cell_function(mesh, "weight", result.fields.weight),
        "fields": result.fields,
        "dofs": result.dofs,
        "conservation": {"max_divergence_residual": totals["max_divergence_residual"]},
        "data": {
            **result.data.record,
            "cost_error": parts,
            "lower_bound_from": result.lower_bound_from,
        },
    }
