"""How far the data of the cells may move the cost: estimates that a cell-data result states.

The bounds hold for piecewise constant data with the exact cell masses. Two things separate that
problem from the one with the original data and are estimated to first order at fixed potential,
where the cost's derivative is that of the dual functional; a third is what was left out:

- the load: inside a cell the measures are not constant. Replacing the data of a coarse mesh by
  those of its refinement changes ∫ u dμ by Σ_T ∇u_T · ∫_T (x − x_T) dμ, likewise for ν. The sum of
  both sizes for the last refinement is stated: it bounds what further refinements add where the
  change falls by half or more from mesh to mesh (measures with atoms) and is generous elsewhere;
- the weight, where it was sampled: the cost changes by −λ(|∇u| − 1)₊² per unit of weight, so its
  standard error is the spread of the penalty over independent replicates of the weight;
- the mass that was taken out of closed cells and spread over the others: it counts with the
  diagonal of the domain as its distance, more than it can have travelled in a convex domain.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from congested.cell_data import CellData
from congested.certificate import gradient_at_vertices
from congested.geometry import Cells, FloatArray, IntArray
from congested.integrand import capacity as capacity_of
from congested.integrand import gradient_penalty
from congested.weight import CellWeight


def load_error(
    coarse: Cells,
    gradient: FloatArray,
    parent: IntArray,
    midpoint: FloatArray,
    source: FloatArray,
    target: FloatArray,
) -> float:
    """Return |Σ ∇u·(first moments of μ)| + |Σ ∇u·(first moments of ν)| over cells (collective).

    Parameters
    ----------
    coarse
        Coarse cells.
    gradient
        Gradient of a P1 potential on them (n, d).
    parent
        Coarse cell of each fine cell (k,).
    midpoint
        Midpoints of the fine cells (k, d).
    source, target
        Masses of the fine cells (k,).
    """
    work = np.einsum("kd,kd->k", gradient[parent], midpoint - coarse.midpoint[parent])
    local = np.array([work @ source, work @ target])
    total = np.empty_like(local)
    coarse.comm.Allreduce(local, total, op=MPI.SUM)
    return float(np.abs(total).sum())


def weight_error(data: CellData, weight: CellWeight, potential: FloatArray) -> float:
    """Return the standard error of the cost that a sampled weight causes (collective).

    Parameters
    ----------
    data
        Cell data with that weight.
    weight
        The weight; without replicates the error is 0.
    potential
        Potential at the vertices (n, d+1).
    """
    if weight.replicates is None or np.isinf(data.strength):
        return 0.0
    lengths = np.linalg.norm(gradient_at_vertices(data.cells.simplices, potential)[:, 0], axis=1)
    per_mass = np.where(
        data.active, gradient_penalty(lengths, capacity_of(np.ones(1), data.strength)), 0.0
    )
    local = np.ascontiguousarray(weight.replicates @ per_mass)
    penalties = np.empty_like(local)
    data.cells.comm.Allreduce(local, penalties, op=MPI.SUM)
    return float(np.std(penalties, ddof=1) / np.sqrt(len(penalties)))


def closed_mass_error(data: CellData) -> float:
    """Return the cost of bringing back the mass that was taken from closed cells."""
    rescaled = data.record["mass_rescaled"]
    # Each mass is counted twice in an L¹ difference: where it was taken and where it went.
    moved = 0.5 * (rescaled["source"] + rescaled["target"])
    return float(moved * np.linalg.norm(data.cells.upper - data.cells.lower))
