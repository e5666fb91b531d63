"""Peers of scripts/benchmark.py: the same discrete problem by a solver for cone programs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import scipy.sparse

import congested as ct
from congested.geometry import cells_of_mesh

# 1/κ is limited to this much of its smallest value: Gaussian tails reach 1e-21, which interior
# points do not digest. The cost changes by less than 1e-9.
_LARGEST_COMPLIANCE = 1e9


def clarabel_cost(solution: ct.Solution) -> dict[str, Any]:
    """Minimise the cost of the RT0 fluxes of a mesh with Clarabel.

    The cost of a cell is that of the mean of its flux, so the minimum lies a little below the upper
    bound. One unknown per inner facet and one per cell, |m_T|; quadratic objective, second-order
    cones.

    Parameters
    ----------
    solution
        A solution on one rank, whose mesh and cell data are used.

    Returns
    -------
    dict
        ``clarabel_cost`` and ``clarabel_seconds``, or ``clarabel`` with the reason why not.
    """
    try:
        import clarabel  # type: ignore[import-not-found]
    except ImportError:
        return {"clarabel": "not installed"}
    cells, fields = cells_of_mesh(solution.mesh), solution.fields
    start = time.process_time()
    n, corners, dimension = cells.simplices.shape
    facets, sign, number = inner_facets(solution)
    inner = facets >= 0
    rows = np.repeat(np.arange(n), corners).reshape(n, corners)
    # Mean of the flux: Σ_i flux_i (x_T − v_i) / (d |T|), v_i the vertex opposite facet i.
    lever = cells.midpoint[:, None] - cells.simplices
    lever = sign[..., None] * lever / (dimension * cells.volume)[:, None, None]
    mean = [
        scipy.sparse.csc_matrix(
            (lever[..., axis][inner], (rows[inner], facets[inner])), shape=(n, number)
        )
        for axis in range(dimension)
    ]
    divergence = scipy.sparse.csc_matrix(
        (sign[inner], (rows[inner], facets[inner])), shape=(n, number)
    )
    compliance = 1.0 / (2.0 * solution.problem.strength * np.maximum(fields.weight, 1e-300))
    compliance = np.minimum(compliance, _LARGEST_COMPLIANCE * compliance.min())
    weight = scipy.sparse.diags(cells.volume * compliance)
    quadratic = sum(part.T @ weight @ part for part in mean)
    zero = scipy.sparse.csc_matrix((n, n))
    objective = scipy.sparse.block_diag([quadratic, zero], format="csc")
    linear = np.concatenate([np.zeros(number), cells.volume])
    # Rows of a cell's cone: |m_T|, then the components of m_T.
    place = np.arange(n) * (dimension + 1)
    height = n * (dimension + 1)
    below = scipy.sparse.csc_matrix(
        (-np.ones(n), (place, number + np.arange(n))), shape=(height, number + n)
    )
    for axis, part in enumerate(mean):
        coo = part.tocoo()
        below = below + scipy.sparse.csc_matrix(
            (-coo.data, (place[coo.row] + 1 + axis, coo.col)), shape=(height, number + n)
        )
    equal = scipy.sparse.hstack([divergence, zero], format="csc")
    # The last balance follows from the others.
    constraint = scipy.sparse.vstack([equal[:-1], below], format="csc")
    wanted = ((fields.source - fields.target) * cells.volume)[:-1]
    right = np.concatenate([wanted, np.zeros(height)])
    cones = [clarabel.ZeroConeT(n - 1)] + [clarabel.SecondOrderConeT(dimension + 1)] * n
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    found = clarabel.DefaultSolver(
        scipy.sparse.triu(objective, format="csc"), linear, constraint, right, cones, settings
    ).solve()
    return {
        "clarabel_status": str(found.status),
        "clarabel_cost": float(found.obj_val),
        "clarabel_seconds": time.process_time() - start,
    }


def inner_facets(solution: ct.Solution) -> tuple[np.ndarray, np.ndarray, int]:
    """Return facet (n, d+1), −1 on the boundary, the sign of each side, and their number."""
    mesh = solution.mesh
    dimension = mesh.topology.dim
    mesh.topology.create_connectivity(dimension, dimension - 1)
    mesh.topology.create_connectivity(dimension - 1, dimension)
    of_cell = mesh.topology.connectivity(dimension, dimension - 1).array.reshape(-1, dimension + 1)
    sides = mesh.topology.connectivity(dimension - 1, dimension)
    two = np.diff(sides.offsets) == 2
    number = np.full(len(two), -1)
    number[two] = np.arange(two.sum())
    first = sides.array[sides.offsets[:-1]]
    cell = np.arange(len(of_cell))[:, None]
    return number[of_cell], np.where(first[of_cell] == cell, 1.0, -1.0), int(two.sum())
