"""The problem with cell data: masses of both measures and the weight, and which cells take part.

Cells that the weight does not reach can carry no flux. They are left out of the system rather than
given a floor, which would make the bounds those of another problem. What little mass lies in them,
or in parts of the domain that nothing connects, is taken away and the rest rescaled, and how much
is recorded; if it is not little, the problem is infeasible and the error says where.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from dolfinx.mesh import Mesh
from mpi4py import MPI

from congested.discretization import CROUZEIX_RAVIART, LAGRANGE_1, PotentialSpace
from congested.errors import InfeasibleProblem
from congested.geometry import BoolArray, Cells, FloatArray
from congested.integrand import capacity
from congested.measures.base import RestrictedMasses
from congested.weights.base import CellWeight

# A cell is closed where the weight's density is below this part of its mean: Gaussian tails reach
# 1e-21, where rounding errors of the flux would cost more than the whole transport.
CLOSED_BELOW = 1e-13
# Mass is stuck where leaving its cell would need a gradient this many times longer than usual.
STUCK_EXCESS = 10.0
# Such mass is let go where the weight around is denser than in its own cell by this factor.
BETTER_AROUND = 10.0
# Measures that differ by less than this part of their mass, in total over all cells, are equal: of
# a smaller difference, rounding makes a good part.
EQUAL_WITHIN = 1e-12
# Mass that may be taken away from closed cells if the weight is exact, and if it was sampled (then
# a cell can be closed by chance). With a rule whose error was measured it is that error.
NEGLIGIBLE_MASS = 1e-6
NEGLIGIBLE_MASS_SAMPLED = 1e-2


@dataclass(frozen=True)
class CellData:
    """Data of the discrete problem on the owned cells.

    Attributes
    ----------
    cells
        The owned cells.
    source, target, weight
        Masses (n,) of μ, ν and σ; source and target balance in every active part.
    strength
        λ.
    active
        Cells that can carry flux (n,).
    record
        What was left out: numbers for the result file.
    """

    cells: Cells
    source: FloatArray
    target: FloatArray
    weight: FloatArray
    strength: float
    active: BoolArray
    record: dict[str, Any]

    @cached_property
    def capacity(self) -> FloatArray:
        """κ = 2λσ (n,)."""
        return capacity(self.weight / self.cells.volume, self.strength)

    @cached_property
    def load(self) -> FloatArray:
        """Load f = (μ_T − ν_T)/|T| (n,)."""
        return (self.source - self.target) / self.cells.volume


def make_cell_data(
    mesh: Mesh,
    cells: Cells,
    source: RestrictedMasses,
    target: RestrictedMasses,
    weight: CellWeight,
    strength: float,
) -> CellData:
    """Combine masses and weight, close cells, balance every part (collective).

    Raises
    ------
    InfeasibleProblem
        If cells without weight hold more than a negligible mass, or a connected part of the
        active cells does not balance its mass. Every rank raises it.
    """
    comm = cells.comm
    freed = _free_stuck_mass(mesh, cells, source.masses, target.masses, weight, strength)
    source_masses, target_masses, moved_cost = freed
    limit = NEGLIGIBLE_MASS_SAMPLED if weight.replicates is not None else NEGLIGIBLE_MASS
    if weight.errors is not None:
        limit = max(limit, weight.relative_error)
    active: BoolArray = np.ones(cells.number, dtype=bool)
    if not np.isinf(strength):
        mean = weight.mass / cells.total(cells.volume)
        active = weight.masses > CLOSED_BELOW * mean * cells.volume
    closed = {
        name: np.where(active, 0.0, masses)
        for name, masses in (("source", source_masses), ("target", target_masses))
    }
    stranded = {name: cells.total(masses) for name, masses in closed.items()}
    worst_name = max(stranded, key=lambda name: stranded[name])
    if stranded[worst_name] > limit:
        raise InfeasibleProblem(
            f"{stranded[worst_name]:.3g} of the {worst_name} lies in cells where the weight "
            f"vanishes, most of it near {_format(_location(cells, closed[worst_name]))}, and "
            f"cannot move; up to {limit:g} would be left out. Use a weight that covers both "
            'measures: a mixture with a small share of kind = "uniform" does'
        )
    open_cells = int(cells.total(active.astype(np.float64)))
    space = PotentialSpace(mesh, cells, CROUZEIX_RAVIART, active)
    part = space.components
    parts = comm.allreduce(int(part.max(initial=-1)) + 1, op=MPI.MAX)
    sources = _sums(comm, part, source_masses, parts)
    targets = _sums(comm, part, target_masses, parts)
    # A part that neither sends nor receives carries no flux at the optimum; a part whose whole
    # mass is negligible is closed like a cell.
    idle = np.maximum(sources, targets) <= limit / max(parts, 1)
    unbalanced = np.where(idle, 0.0, np.abs(sources - targets))
    worst = int(np.argmax(unbalanced)) if parts else 0
    if parts and max(unbalanced[worst], 0.5 * unbalanced.sum()) > limit:
        where = _location(cells, np.where(part == worst, source_masses + target_masses, 0.0))
        raise InfeasibleProblem(
            f"the part of the domain around {_format(where)} holds {sources[worst]:.6g} of the "
            f"source but {targets[worst]:.6g} of the target, and the weight that could connect it "
            "with the rest vanishes; allowed: equal masses in each connected part. Use "
            'a weight that connects them: a mixture with a small share of kind = "uniform" does'
        )
    if parts == 0:
        raise InfeasibleProblem("the weight vanishes in every cell; allowed: a positive mass")
    # What little a part holds of one measure without (nearly) as much of the other cannot be scaled
    # into balance: it is taken away.
    idle |= np.minimum(sources, targets) < 0.5 * np.maximum(sources, targets)
    # Scale both measures in each part to their mean, and all parts together to total mass one.
    common = np.where(idle, 0.0, 0.5 * (sources + targets))
    common /= common.sum()
    scale_source = _quotient(common, sources)
    scale_target = _quotient(common, targets)
    active = active & (part >= 0)
    active[active] = ~idle[part[active]]
    masses = [
        np.where(active, values * scale[np.maximum(part, 0)], 0.0)
        for values, scale in ((source_masses, scale_source), (target_masses, scale_target))
    ]
    if cells.total(np.abs(masses[0] - masses[1])) <= EQUAL_WITHIN:
        # Nothing has to move; what rounding left apart would be a problem of its own.
        masses = [0.5 * (masses[0] + masses[1])] * 2
    moved = [
        cells.total(np.abs(new - old))
        for new, old in zip(masses, (source_masses, target_masses), strict=True)
    ]
    record = {
        "mass_outside": {"source": source.outside, "target": target.outside},
        "closed_cells": int(cells.total(np.ones(cells.number)))
        - int(cells.total(active.astype(np.float64))),
        "cells_without_weight": int(cells.total(np.ones(cells.number))) - open_cells,
        "parts": int(np.count_nonzero(~idle)),
        "mass_rescaled": {"source": moved[0], "target": moved[1]},
        "mass_moved": {
            "source": 0.5 * cells.total(np.abs(source_masses - source.masses)),
            "target": 0.5 * cells.total(np.abs(target_masses - target.masses)),
            "cost": moved_cost,
        },
        "weight": {
            "method": weight.method,
            "mass": weight.mass,
            "lost": weight.lost,
            "relative_error": weight.relative_error,
            "samples": weight.samples,
            "details": dict(weight.details),
        },
    }
    weights = np.where(active, weight.masses, 0.0)
    return CellData(cells, masses[0], masses[1], weights, strength, active, record)


def _free_stuck_mass(
    mesh: Mesh,
    cells: Cells,
    source: FloatArray,
    target: FloatArray,
    weight: CellWeight,
    strength: float,
) -> tuple[FloatArray, FloatArray, float]:
    """Let mass that its cell's weight cannot carry away start from the cells around (collective).

    An atom beside a facet, with its segments on the other side, lies in a cell that the weight
    barely touches: with the weight's cell mean, leaving that cell would cost more than the whole
    transport, in the limit everything, although the atom is a hair's breadth from a good road. The
    same happens by chance where the weight is sampled. Such mass goes to the cells that share a
    vertex with its cell, in proportion to their weight: no further than the cells' diameter.

    Returns
    -------
    source, target : numpy.ndarray
        New masses (n,).
    cost : float
        Bound of the transport cost of the move at unit price: mass times twice the diameter.
    """
    if np.isinf(strength):
        return source, target, 0.0
    net = np.abs(source - target)
    # |m| ≈ net mass over the facets' area; its excess |∇u| − 1 is |m|/κ.
    flux = net * cells.diameter / (cells.dimension * cells.volume)
    own_capacity = capacity(weight.masses / cells.volume, strength)
    typical = cells.total(cells.volume) ** (1.0 / cells.dimension) / (2.0 * strength)
    stuck = flux > STUCK_EXCESS * (1.0 + typical) * own_capacity
    # Equal masses of both measures in a cell need no flux, but a cell without weight is closed.
    stuck |= (own_capacity == 0.0) & (source + target > 0.0)
    if not cells.comm.allreduce(bool(stuck.any()), op=MPI.LOR):
        return source, target, 0.0
    vertices = PotentialSpace(mesh, cells, LAGRANGE_1, np.ones(cells.number, dtype=bool))
    corners = cells.dimension + 1

    def around_vertices(values: FloatArray) -> FloatArray:
        return vertices.sum_over_cells(np.repeat(values[:, None], corners, axis=1))

    around = around_vertices(weight.masses)
    local = around[vertices.dofmap]
    densest = (local / around_vertices(cells.volume)[vertices.dofmap]).max(axis=1, initial=0.0)
    reachable = stuck & (densest > BETTER_AROUND * weight.masses / cells.volume)
    # A stuck cell prefers its vertices with much weight around, and so the best road near it. The
    # largest one counts as one: the square of a Gaussian's tail may be no number.
    best = np.where(reachable, local.max(axis=1, initial=0.0), 1.0)
    squares = (local / best[:, None]) ** 2
    share = np.divide(
        squares,
        squares.sum(axis=1, keepdims=True),
        out=np.zeros_like(local),
        where=reachable[:, None],
    )
    moved = []
    for masses in (source, target):
        at_vertices = vertices.sum_over_cells(share * masses[:, None])
        per_weight = np.divide(at_vertices, around, out=np.zeros_like(around), where=around > 0.0)
        received = weight.masses * per_weight[vertices.dofmap].sum(axis=1)
        moved.append(np.where(reachable, 0.0, masses) + received)
    cost = 2.0 * cells.total(np.where(reachable, (source + target) * cells.diameter, 0.0))
    return moved[0], moved[1], cost


def _sums(comm: MPI.Comm, part: np.ndarray, values: FloatArray, parts: int) -> FloatArray:
    local = np.zeros(parts)
    np.add.at(local, part[part >= 0], values[part >= 0])
    total = np.empty_like(local)
    comm.Allreduce(local, total, op=MPI.SUM)
    return total


def _quotient(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    positive = denominator > 0.0
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=positive)


def _location(cells: Cells, values: FloatArray) -> FloatArray:
    """Return the midpoint of the cell with the largest value of all ranks."""
    best = int(np.argmax(values)) if cells.number else -1
    value = float(values[best]) if best >= 0 else -np.inf
    midpoint = cells.midpoint[best] if best >= 0 else np.zeros(cells.dimension)
    return max(cells.comm.allgather((value, tuple(midpoint))))[1]


def _format(point: Any) -> str:
    return "(" + ", ".join(f"{float(coordinate):.4g}" for coordinate in point) + ")"
