r"""The weight by the ray formula, deterministic, for many pairs of measures in the plane.

    σ(x) = ∫ ∫₀^∞ ∫₀^∞ μ(x + aθ) ν(x − bθ) da db dθ   over the circle of directions θ

The integrals along the rays are elementary for boxes, discs and Gaussians; directions are left, and
the cell. Atoms and ray-monotone sources face a measure of that kind. The error is not assumed but
measured: in some cells, drawn with probabilities that follow mass and area, the integral is
repeated with more directions and a tenth of the tolerance.

In space directions and cells take so many points that segments (`segments`) were seen to be better.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from mpi4py import MPI

from congested.geometry import Cells, FloatArray
from congested.measures.base import Measure
from congested.weights.base import CellWeight
from congested.weights.checks import chances, checked_weight, measured_errors
from congested.weights.ray_cells import integrate
from congested.weights.ray_density import ATOMS, FUNNELS, PAIRS, RayTables, densities
from congested.weights.ray_parts import evaluations_of, tables_of

# Errors asked for unless the user says, relative to the mass; ray-monotone sources are dear.
DEFAULT_TOLERANCE, FUNNEL_TOLERANCE = 3e-4, 2e-3
# Gauss points per stretch of directions to begin with, and at most.
_FIRST_ORDER = {PAIRS: 10, ATOMS: 10, FUNNELS: 5}
# Difference of the two rules in a cell to begin with, over the error asked for. The better rule is
# ten times better and more. The density of funnels is rough on the scale of its own error, where
# points of clusters are exchanged: cells must not be cut for that.
_FIRST_SHARE = {PAIRS: 10.0, ATOMS: 10.0, FUNNELS: 4.0}
_LAST_ORDER = 128
# The reference is that of this error at least: with coarser ones both rules miss the same.
_LEAST_REFERENCE = 1e-3
# Quarters of the order with which the error is measured: between breaks the rules converge fast.
_FINER_ORDER = 7
_MOST_ATTEMPTS = 5
# Where more seconds are foreseen other rules are preferred.
MOST_SECONDS = 60.0
# A ray integral, with what goes with it, for about one point per cell.
_SECONDS_PER_RAY = 1.5e-8


def foreseen_seconds(source: Measure, target: Measure, cells: Cells) -> float:
    """Return roughly how long the rule takes, infinite if it does not serve the pair (collective).

    It serves a pair if both measures have parts, or one has and the other has atoms or funnels.
    """
    number = cells.comm.allreduce(cells.number, op=MPI.MAX)
    return _SECONDS_PER_RAY * number * evaluations_of(source, target)


def rays_weight(
    source: Measure, target: Measure, cells: Cells, tolerance: float | None
) -> CellWeight:
    """Compute the weight by the ray formula (collective).

    Parameters
    ----------
    source, target
        A pair that the rule serves.
    cells
        The cells.
    tolerance
        Error allowed in total over all cells, relative to the mass; None: 3e-4, for ray-monotone
        sources 2e-3. The error of directions and that of cells are reduced in turn until the
        error that is measured is as small, at most a few times.
    """
    size, area = _size(cells), cells.total(cells.volume)
    first = tables_of(source, target, size, 2)
    assert first is not None
    goal = tolerance
    if goal is None:
        goal = FUNNEL_TOLERANCE if first.kind == FUNNELS else DEFAULT_TOLERANCE
    order, share = _FIRST_ORDER[first.kind], _FIRST_SHARE[first.kind] * goal
    known = _FIRST_SHARE[first.kind] * _LEAST_REFERENCE
    best: tuple[float, FloatArray, FloatArray, int] | None = None
    for _ in range(_MOST_ATTEMPTS):
        tables = tables_of(source, target, size, order)
        finer = tables_of(source, target, size, _FINER_ORDER * order // 4)
        assert tables is not None
        assert finer is not None
        masses = _integrate(tables, cells.simplices, share, area)
        chance = chances(cells, masses, area)

        def better(
            simplices: FloatArray, tables: RayTables = finer, share: float = 0.1 * min(share, known)
        ) -> FloatArray:
            return _integrate(tables, simplices, share, area)

        errors = measured_errors(better, cells, masses, chance)
        error = cells.total(errors) / cells.total(masses)
        if best is None or error < best[0]:
            best = error, masses, errors, order
        if error <= goal:
            break
        from_cells = measured_errors(partial(better, tables=tables), cells, masses, chance)
        if cells.total(from_cells) > 0.5 * cells.total(errors):
            share *= 0.2
        elif 2 * order <= _LAST_ORDER:
            order *= 2
        else:
            break
    assert best is not None
    _, masses, errors, order = best
    return checked_weight(
        cells,
        "rays",
        masses,
        errors,
        goal=goal,
        effort=f"{order} points per stretch of directions",
        details={"order": order},
    )


def _size(cells: Cells) -> float:
    return float(np.linalg.norm(cells.upper - cells.lower))


def _integrate(
    tables: RayTables, simplices: FloatArray, tolerance: float, area: float
) -> FloatArray:
    """Integrate over cells (n, d+1, d); the density at a shared vertex is computed once."""
    number, corners, dimension = simplices.shape
    triangles = np.ascontiguousarray(simplices)
    # Neighbours have the same numbers for a shared vertex: they come from one array of vertices.
    flat = triangles.reshape(-1, dimension)
    rows = flat.view([("", flat.dtype)] * dimension).ravel()
    _, chosen, inverse = np.unique(rows, return_index=True, return_inverse=True)
    values = densities(tables, flat[chosen])[inverse].reshape(number, corners)
    return integrate(tables, triangles, values, tolerance, area)
