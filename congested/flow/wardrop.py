r"""Is a flow an equilibrium of traffic? Used paths cost what the potential falls, others no less.

A path pays ξ = 1 + |m|/(2λσ) per length, the congestion factor. At the optimum |∇u| = ξ along m and
|∇u| ≤ ξ everywhere, so that (Wardrop 1952; Carlier, Jimenez & Santambrogio 2008, for this model)

- a used path from x to y costs u(x) − u(y): its *excess* over that is 0,
- no path is cheaper: u(x) − u(y) ≤ d(x, y), the distance in the metric ξ; what is above it is a
  *violation*,
- so a used path is shortest: its *detour*, cost less d(x, y), is 0.

Of a solution with a gap the mean excess is the gap plus ∫|m|²/(4λσ) − λ∫(|∇u| − 1)₊² dσ. For W₁
that is ≥ 0, but for finite λ it has either sign: a potential may be too steep as well as too flat.

|∇u| ≤ ξ is enforced where there is weight. Where σ is next to nothing, steeper gradients cost next
to nothing, and pairs whose way leads there may violate the inequality in an excellent solution.
Hence violations are judged over pairs of μ × ν, without the worst 1 %; those of all sampled pairs,
which may lie in empty corners, stand beside them.

Distances (`congested.flow.graph`) are a little too large, which hides violations. Their estimated
overestimate is taken off before violations and detours are stated. Cells have ξ of their midpoints:
right to second order, while the smallest ξ of each cell, a guaranteed lower bound, would make all
ways cheaper by first order of the mesh size, and violations of what is a property of the mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from congested.certificate import (
    gradient_at_vertices,
    potential_at,
    potential_means,
)
from congested.errors import InputError
from congested.flow.field import FlowField
from congested.flow.graph import (
    affordable_per_edge,
    coarser,
    distances,
    graph_distances,
    mesh_graph,
    overestimate,
)
from congested.flow.particles import Particles
from congested.geometry import FloatArray, IntArray
from congested.integrand import capacity

SCHEMA = 1

# Mass of the paths, and share of the pairs, over which the largest values are taken.
_JUDGED = 0.99


@dataclass(frozen=True)
class Wardrop:
    """How far a flow is from an equilibrium; "relative" means over `mean_cost`.

    Attributes
    ----------
    paths
        Number of used paths that were looked at.
    lost
        Share of their mass that did not arrive; these count with the way that they have gone.
    mean_cost, mean_cost_error
        Mean cost of the paths, and its standard error.
    expected_cost
        What it converges to: ∫ |m| + |m|²/(2λσ) = 2∫H − ∫|m|, if no mass is made or lost.
    transport_cost, momentum_l1
        ∫H and ∫|m|, to quadrature (no upper bounds, as they are in ``result.json``).
    max_relative_excess
        Largest |excess| of the paths that carry 99 % of the mass.
    max_relative_excess_all
        The same of all paths.
    mean_relative_excess, mean_relative_excess_error
        Mean excess and its standard error.
    expected_relative_excess
        What it converges to: ∫ |m| + |m|²/(2λσ) + ∇u·m, over `expected_cost`.
    max_relative_violation, pairs, sources
        Largest |u(x) − u(y)| − d(x, y) of 99 % of the sampled pairs of μ × ν, how many these are,
        and from how many starts x they come. Negative if no pair violates the inequality. Pairs
        share these starts, and so are not independent: a violation that is seen only from other
        starts is missed however many ends there are.
    max_relative_violation_all, pairs_all
        The same over all sampled pairs: the same starts with ends, each other, and all open
        vertices.
    max_relative_violation_gradient_metric
        The same with max(1, |∇u|) in place of ξ: ≤ 0 but for rounding, whatever the potential is;
        a check of the check.
    mean_relative_detour, max_relative_detour, min_relative_detour, detours
        Cost of used paths less d(start, end), and of how many.
    distance_error
        Mean over the pairs of what was taken off distances as overestimate, relative: violations
        and detours are uncertain by about as much.
    per_edge
        Points on each edge of the graph.
    """

    paths: int
    lost: float
    mean_cost: float
    mean_cost_error: float
    expected_cost: float
    transport_cost: float
    momentum_l1: float
    max_relative_excess: float
    max_relative_excess_all: float
    mean_relative_excess: float
    mean_relative_excess_error: float
    expected_relative_excess: float
    max_relative_violation: float
    pairs: int
    sources: int
    max_relative_violation_all: float
    pairs_all: int
    max_relative_violation_gradient_metric: float
    mean_relative_detour: float
    max_relative_detour: float
    min_relative_detour: float
    detours: int
    distance_error: float
    per_edge: int

    def result(self) -> dict[str, Any]:
        """Return the content of ``wardrop.json``."""
        return {"schema": SCHEMA} | asdict(self)


def check_equilibrium(
    field: FlowField,
    potential: FloatArray,
    starts: Particles,
    ends: Particles,
    *,
    potential_edges: FloatArray | None = None,
    sources: int = 16,
    targets: int = 1000,
    per_edge: int | None = None,
) -> Wardrop:
    """Hold used paths and cheapest paths against a potential.

    Parameters
    ----------
    field
        The flow.
    potential, potential_edges
        The potential at the vertices (C, d+1) and, for P2, at the edges (C, e) of each cell, as
        `congested.io.arrays.potential_of_cells` gives them.
    starts, ends
        Particles before and after `congested.flow.particles.move`.
    sources, targets
        Number of starts from which distances are computed, and of ends to which they are.
    per_edge
        Points on each edge of the graph of distances; default: what is affordable.

    Raises
    ------
    InputError
        If there are no particles, or not the same number of starts and ends, or if the potential
        has another number of cells.
    """
    if not starts.number or starts.number != ends.number:
        found = f"found {starts.number} starts and {ends.number} ends"
        raise InputError(f"{found}; allowed: the same number, at least 1", key="starts")
    if potential.shape != field.cells.shape:
        found = f"found shape {potential.shape}"
        raise InputError(f"{found}; allowed: that of cells {field.cells.shape}", key="potential")

    def at(particles: Particles, some: IntArray | slice = slice(None)) -> FloatArray:
        cell = particles.cell[some]
        edges = None if potential_edges is None else potential_edges[cell]
        return potential_at(potential[cell], edges, particles.barycentric[some])

    share = starts.mass / starts.mass.sum()
    cost = ends.cost - starts.cost
    excess = cost - (at(starts) - at(ends))
    mean_cost, cost_error = _mean(cost, share)
    mean_excess, excess_error = _mean(excess, share)
    cost_integral, momentum_integral = field.integrals
    expected = 2.0 * cost_integral - momentum_integral
    # −∫∇u·m = ∫ u div m.
    fall = float(field.flux.sum(axis=1) @ potential_means(potential, potential_edges))

    first, last = _drawn(share, sources), _drawn(share, targets)
    number, own = len(first), np.arange(len(first))
    inner = np.concatenate([starts.cell[first], ends.cell[first], ends.cell[last]])
    points = [(starts, first), (ends, first), (ends, last)]
    places = np.concatenate([whose.points(field)[some] for whose, some in points])
    heights = np.concatenate([at(whose, some) for whose, some in points])
    vertices = len(field.vertices)
    at_vertices = np.empty(vertices)
    at_vertices[field.cells] = potential
    # Columns: vertices, starts, their ends, other ends.
    falls = np.abs(heights[:number, None] - np.concatenate([at_vertices, heights]))
    columns = _Columns(field, places, inner, number)

    if per_edge is None:
        per_edge = affordable_per_edge(len(field.cells), field.dimension)
    distance = columns.lengths(field.congestion, per_edge)
    there = np.isfinite(distance)
    error = np.zeros_like(distance)
    if per_edge > 0:
        coarse = columns.lengths(field.congestion, coarser(per_edge))
        error[there] = overestimate(coarse[there], distance[there], per_edge)
    distance -= error
    slopes = gradient_at_vertices(field.vertices[field.cells], potential, potential_edges)
    steepest = np.maximum(np.linalg.norm(slopes, axis=2).max(axis=1), 1.0)
    # Only paths of the graph: no rule but that for the gradients, and so no error but rounding.
    by_gradient = falls - columns.lengths(steepest, 0, graph_distances)
    violation = falls - distance
    # A start is no pair with itself.
    there[own, vertices + own] = False
    others = np.s_[:, vertices + 2 * number :]
    judged = violation[others][there[others]]
    pairs = len(judged)
    detour = cost[first] - distance[own, vertices + number + own]
    detour = detour[np.isfinite(detour)]

    def relative(value: float) -> float:
        if mean_cost > 0.0:
            return float(value) / mean_cost
        return 0.0 if value == 0.0 else float(np.copysign(np.inf, value))

    def largest(values: FloatArray) -> float:
        return relative(values.max()) if values.size else 0.0

    return Wardrop(
        paths=starts.number,
        lost=float(share[~ends.arrived()].sum()),
        mean_cost=mean_cost,
        mean_cost_error=cost_error,
        expected_cost=expected,
        transport_cost=cost_integral,
        momentum_l1=momentum_integral,
        max_relative_excess=relative(_largest_of_most(np.abs(excess), share)),
        max_relative_excess_all=largest(np.abs(excess)),
        mean_relative_excess=relative(mean_excess),
        mean_relative_excess_error=relative(excess_error),
        expected_relative_excess=(expected - fall) / expected if expected > 0.0 else 0.0,
        max_relative_violation=relative(_largest_of_most(judged, np.ones(pairs))),
        pairs=pairs,
        sources=int(there[others].any(axis=1).sum()),
        max_relative_violation_all=largest(violation[there]),
        pairs_all=int(there.sum()),
        max_relative_violation_gradient_metric=largest(by_gradient[there]),
        mean_relative_detour=relative(detour.mean()) if detour.size else 0.0,
        max_relative_detour=largest(detour),
        min_relative_detour=-largest(-detour),
        detours=len(detour),
        distance_error=relative(error[others][there[others]].mean()) if pairs else 0.0,
        per_edge=per_edge,
    )


@dataclass(frozen=True, eq=False)
class _Columns:
    """Points inside cells, the first of which are sources, and vertices, to which ways lead."""

    field: FlowField
    places: FloatArray
    cells_of_places: IntArray
    sources: int

    def lengths(
        self, metric: FloatArray, per_edge: int, find: Callable[..., FloatArray] = distances
    ) -> FloatArray:
        """Return distances from the sources to the vertices and then the points."""
        field = self.field
        graph = mesh_graph(
            field.vertices,
            field.cells,
            per_edge,
            points=self.places,
            cells_of_points=self.cells_of_places,
            is_open=np.asarray(capacity(field.weight, field.strength)) > 0.0,
        )
        found = find(graph, metric, graph.inner[: self.sources])
        return np.concatenate([found[:, : len(field.vertices)], found[:, graph.inner]], axis=1)


def _mean(values: FloatArray, share: FloatArray) -> tuple[float, float]:
    """Return a weighted mean and its standard error."""
    mean = float(share @ values)
    return mean, float(np.sqrt(share**2 @ (values - mean) ** 2))


def _drawn(share: FloatArray, number: int) -> IntArray:
    """Return some indices, by their shares, at equal distances in the sum of these."""
    sums = np.cumsum(share)
    wanted = (np.arange(number) + 0.5) / number * sums[-1]
    return np.unique(np.searchsorted(sums, wanted, side="right"))


def _largest_of_most(values: FloatArray, share: FloatArray) -> float:
    """Return the largest value (0 of none) without those that have the last 1 % of the share."""
    if not values.size:
        return 0.0
    order = np.argsort(values)
    sums = np.cumsum(share[order])
    return float(values[order[np.searchsorted(sums, _JUDGED * sums[-1] * (1.0 - 1e-12))]])
