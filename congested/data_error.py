"""How far the data of the cells may move the cost: estimates that a cell-data result states.

The bounds hold for piecewise constant data with the exact cell masses. Two things separate that
problem from the one with the original data and are estimated to first order at fixed potential,
where the cost's derivative is that of the dual functional; a third is what was left out:

- the load: inside a cell the measures are not constant. With the potential of the finest mesh, the
  change of ∫ u dμ and of ∫ u dν from the data of the mesh before bounds what the last refinement
  of the data added to the cost; it is stated for what further ones add, which holds where it falls
  by half or more from mesh to mesh. Where there was one mesh only, the cost of spreading each
  cell's masses as its children have them is stated: generous, a second mesh makes it sharp. The
  moments of the measures about the midpoints of the cells, where they are known, see what no
  refinement has shown yet, such as a source and a target in one cell;
- the weight: the cost changes by −λ(|∇u| − 1)₊² per unit of weight, so where it was sampled its
  standard error is the spread of the penalty over independent replicates of the weight, and where
  a rule's error was measured in some cells it is the penalty of that error. To second order noise
  in the weight raises the cost in the mean, as 1/σ is convex: with the flux held fixed by the
  penalty times the variance of σ_T over σ_T²;
- the mass that was moved to cells around, or taken out of closed cells and spread over all others:
  it counts with the distance (twice the cell's diameter; the diagonal of the domain) at the mean
  price |∇u| that mass pays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from congested.cell_data import CellData
from congested.certificate import gradient_at_vertices, potential_means
from congested.geometry import Cells, FloatArray, IntArray, split_simplices
from congested.integrand import capacity as capacity_of
from congested.integrand import gradient_penalty
from congested.measures.base import Measure, OffersVertexMasses
from congested.weights.base import CellWeight, standard_errors

# Mass that the rounding and the quadrature of cell masses may take away or add.
_QUADRATURE = 1e-9
# Error allowed in the moments of a measure, in units of its mass times the cells' diameter.
MOMENT_TOLERANCE = 1e-9


def load_change(
    coarse: CellData,
    fine: CellData,
    parent: IntArray,
    potential: FloatArray,
    potential_edges: FloatArray | None = None,
) -> float:
    """Return |∫ u d(μ_fine − μ_coarse)| + |∫ u d(ν_fine − ν_coarse)| (collective).

    The cost is the largest dual value, so with the maximiser u of the fine data this bounds from
    above what the fine data add; the maximiser of the coarse data would bound it from below.

    Parameters
    ----------
    coarse, fine
        Data of a mesh and of its refinement.
    parent
        Coarse cell of each fine cell (k,).
    potential, potential_edges
        Potential at the vertices (k, d+1) of the fine cells and, for P2, on their edges.
    """
    mean = potential_means(potential, potential_edges)
    share = fine.cells.volume / coarse.cells.volume[parent]
    local = np.array(
        [
            mean @ (fine.source - share * coarse.source[parent]),
            mean @ (fine.target - share * coarse.target[parent]),
        ]
    )
    total = np.empty_like(local)
    fine.cells.comm.Allreduce(local, total, op=MPI.SUM)
    return float(np.abs(total).sum())


def unresolved_load(cells: Cells, potential: FloatArray, children: FloatArray) -> FloatArray:
    """Return what the next refinement of the load would change, at fixed potential.

    Parameters
    ----------
    cells
        The cells.
    potential
        Potential at their vertices (n, d+1).
    children
        Masses (2^d n,) of a measure in the 2^d children of each cell (`split_simplices`).

    Returns
    -------
    numpy.ndarray
        ∫ u d(μ − μ_T) of each cell T (n,), with μ resolved by the children: signed, so that what
        the sides of a cell have too much and too little of is set off against one another.
    """
    corners = cells.dimension + 1
    # Barycentric coordinates of the children's midpoints, where their mean of u is.
    middles = split_simplices(np.eye(corners)[None, :, 1:]).mean(axis=1)
    middles = np.concatenate([1.0 - middles.sum(axis=1, keepdims=True), middles], axis=1)
    parts = children.reshape(cells.number, 2**cells.dimension)
    return np.einsum("nk,nk->n", parts - parts.mean(axis=1, keepdims=True), potential @ middles.T)


def spread_error(cells: Cells, potential: FloatArray, children: FloatArray) -> float:
    """Return the cost of moving each cell's μ − ν to where its children have it (collective).

    Parameters
    ----------
    cells
        The cells.
    potential
        Potential at their vertices (n, d+1), whose slope (at least 1) is the price.
    children
        μ − ν (2^d n,) of the 2^d children of each cell.
    """
    slope = np.linalg.norm(gradient_at_vertices(cells.simplices, potential)[:, 0], axis=1)
    price = 0.5 * cells.diameter * np.maximum(slope, 1.0)
    parts = children.reshape(cells.number, 2**cells.dimension)
    moved = 0.5 * np.abs(parts - parts.mean(axis=1, keepdims=True)).sum(axis=1)
    return cells.total(price * moved)


def inner_moments(measure: Measure, cells: Cells, outside: float) -> FloatArray | None:
    """Return ∫_T (x − x_T) dμ (n, d) about the midpoints x_T of the cells (collective).

    Parameters
    ----------
    measure
        The measure μ.
    cells
        The cells.
    outside
        Part of the measure outside the domain; the rest counts as all of it.

    Returns
    -------
    numpy.ndarray or None
        The moments, or None if the measure does not offer vertex masses.
    """
    if not isinstance(measure, OffersVertexMasses):
        return None
    masses = measure.vertex_masses(cells, MOMENT_TOLERANCE)
    offsets = cells.simplices - cells.midpoint[:, None]
    return np.asarray(np.einsum("ni,nid->nd", masses, offsets) / (1.0 - outside))


def inner_change(
    data: CellData,
    moments: tuple[FloatArray | None, FloatArray | None],
    gradient: FloatArray,
    momentum: FloatArray,
) -> float:
    """Return what the places of the masses inside their cells may add to the cost (collective).

    To first order it is ∫ ∇u·(x − x_T) dμ and likewise for ν. Where moving the one measure to the
    other inside a cell takes more than the momentum there is, it is no small change: ∇u does not
    know of it, and it counts in full.

    Parameters
    ----------
    data
        Cell data.
    moments
        Of source and target, see `inner_moments`; without both of them 0 is returned.
    gradient, momentum
        Means (n, d) of ∇u and m in the cells.
    """
    source, target = moments
    if source is None or target is None:
        return 0.0
    active, total = data.active, data.cells.total
    slopes = [np.where(active, np.sum(gradient * each, axis=1), 0.0) for each in (source, target)]
    alone = np.linalg.norm(source - target, axis=1)
    alone[data.cells.volume * np.linalg.norm(momentum, axis=1) >= alone] = 0.0
    price = np.maximum(1.0, np.linalg.norm(gradient, axis=1))
    local = total(np.where(active, price * alone, 0.0))
    return abs(total(slopes[0])) + abs(total(slopes[1])) + local


def unevenness(cells: Cells, parent: IntArray, weight: FloatArray, indicator: FloatArray) -> float:
    """Return how unevenly the children of a cell have the weight, where the gap is (collective).

    Parameters
    ----------
    cells
        Cells of a refined mesh.
    parent
        Coarse cell of each (n,); all children of one are on its rank.
    weight
        Masses of the weight (n,).
    indicator
        Parts of the gap (n,), by which the parents are averaged.

    Returns
    -------
    float
        Part of a parent's weight that would have to change the child to lie evenly: it falls like
        the cells' diameter where the weight is continuous, and for a weight on a line stays
        between a quarter and a half in the plane, and is more in space.
    """
    number = int(parent.max(initial=-1)) + 1

    def of_parents(values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(parent, values, number)[parent], dtype=np.float64)

    whole = of_parents(weight)
    change = 0.5 * of_parents(np.abs(weight - whole * cells.volume / of_parents(cells.volume)))
    part = np.divide(change, whole, out=np.zeros_like(change), where=whole > 0.0)
    gap = np.maximum(indicator, 0.0)
    return cells.total(gap * part) / max(cells.total(gap), np.finfo(float).tiny)


@dataclass(frozen=True)
class WeightErrors:
    """What the errors of the weight do to the cost; a part is 0 where there is no such error.

    Attributes
    ----------
    standard_error
        Standard error of the cost where the weight was sampled.
    bias
        How much noise raises the cost in the mean, an estimate from above.
    rule
        Error of the cost where the weight's rule is deterministic, an estimate from above.
    """

    standard_error: float = 0.0
    bias: float = 0.0
    rule: float = 0.0

    @property
    def total(self) -> float:
        """Error of the cost, two standard errors included."""
        return 2.0 * self.standard_error + self.bias + self.rule


def weight_errors(data: CellData, weight: CellWeight, potential: FloatArray) -> WeightErrors:
    """Estimate what the errors of the weight do to the cost (collective).

    Parameters
    ----------
    data
        Cell data with that weight.
    weight
        The weight.
    potential
        Potential at the vertices (n, d+1).
    """
    if np.isinf(data.strength):
        return WeightErrors()
    comm = data.cells.comm
    lengths = np.linalg.norm(gradient_at_vertices(data.cells.simplices, potential)[:, 0], axis=1)
    # Derivative of the penalty by the mass of the weight.
    per_mass = np.where(
        data.active, gradient_penalty(lengths, capacity_of(np.ones(1), data.strength)), 0.0
    )
    sampling = bias = rule = 0.0
    if weight.replicates is not None:
        penalties = np.asarray(comm.allreduce(weight.replicates @ per_mass))
        sampling = float(standard_errors(penalties))
        variance = standard_errors(weight.replicates) ** 2
        known = weight.masses > 0.0
        bias = data.cells.total(
            np.divide(per_mass * variance, weight.masses, out=np.zeros_like(variance), where=known)
        )
    if weight.errors is not None:
        rule = data.cells.total(weight.errors * per_mass)
    if weight.unlocated_error > 0.0:
        # Wherever it is: at worst where the penalty is largest.
        most = comm.allreduce(float(per_mass.max(initial=0.0)), op=MPI.MAX)
        rule += float(weight.unlocated_error * most)
    return WeightErrors(sampling, bias, rule)


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
    return _price(data, potential) * (data.record["mass_moved"]["cost"] + _discarded(data))


def discarded_mass_error(data: CellData, potential: FloatArray) -> float:
    """Return the part of `moved_mass_error` that mass taken out of closed cells has (collective).

    Bounds for the original densities are for what is left of them, rescaled; 0 where no more was
    taken than quadrature errs.
    """
    rescaled = data.record["mass_rescaled"]
    if max(rescaled["source"], rescaled["target"]) <= _QUADRATURE:
        return 0.0
    return _discarded(data) * _price(data, potential)


def _discarded(data: CellData) -> float:
    """Return the mass that was taken away times the way it would have to go."""
    rescaled = data.record["mass_rescaled"]
    # Each mass is counted twice in an L¹ difference: where it was taken and where it went.
    spread = 0.5 * (rescaled["source"] + rescaled["target"])
    return float(spread * np.linalg.norm(data.cells.upper - data.cells.lower))


def _price(data: CellData, potential: FloatArray) -> float:
    """Return the mean length of ∇u where mass is, at least 1 (collective)."""
    lengths = np.linalg.norm(gradient_at_vertices(data.cells.simplices, potential)[:, 0], axis=1)
    used = np.where(data.active & (data.source + data.target > 0.0), lengths, 0.0)
    mass = data.cells.total(data.source + data.target)
    return max(1.0, data.cells.total((data.source + data.target) * used) / max(mass, 1e-300))
