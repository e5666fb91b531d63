"""How far the data of the cells may move the cost: estimates that a cell-data result states.

The bounds hold for piecewise constant data with the exact cell masses. Two things separate that
problem from the one with the original data and are estimated to first order at fixed potential,
where the cost's derivative is that of the dual functional; a third is what was left out:

- the load: inside a cell the measures are not constant. Replacing the data of a coarse mesh by
  those of its refinement changes ∫ u dμ by Σ_T ∇u_T · ∫_T (x − x_T) dμ, likewise for ν. The sizes
  of both for the last refinement are stated. Where the change falls by half or more from mesh to
  mesh that covers what further refinements add; it is no bound: an atom that lies in the middle of
  its cell shows no change;
- the weight, where it was sampled: the cost changes by −λ(|∇u| − 1)₊² per unit of weight, so its
  standard error is the spread of the penalty over independent replicates of the weight;
- the mass that was moved to cells around, or taken out of closed cells and spread over all others:
  it counts with the distance (twice the cell's diameter; the diagonal of the domain) at the mean
  price |∇u| that mass pays.
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

    Inside each measure the cells' contributions cancel as they do in the cost.

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


def moved_mass_error(data: CellData, potential: FloatArray) -> float:
    """Return the cost of undoing what was done to mass that could not move (collective).

    Parameters
    ----------
    data
        Cell data, whose record tells how much mass was moved to cells around and how much was
        taken away and spread over all others.
    potential
        Potential at the vertices (n, d+1); its longest mean gradient is the price per length.
    """
    lengths = np.linalg.norm(gradient_at_vertices(data.cells.simplices, potential)[:, 0], axis=1)
    used = np.where(data.active & (data.source + data.target > 0.0), lengths, 0.0)
    mass = data.cells.total(data.source + data.target)
    price = max(1.0, data.cells.total((data.source + data.target) * used) / max(mass, 1e-300))
    rescaled = data.record["mass_rescaled"]
    # Each mass is counted twice in an L¹ difference: where it was taken and where it went.
    spread = 0.5 * (rescaled["source"] + rescaled["target"])
    diagonal = float(np.linalg.norm(data.cells.upper - data.cells.lower))
    return price * (data.record["mass_moved"]["cost"] + spread * diagonal)
