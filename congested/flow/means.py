"""A flow from any momentum that is known by its means over the cells: that of a critic, say.

Its divergence need not be μ − ν. Where it is not, mass is made or lost on the way.
"""

from __future__ import annotations

import numpy as np

from congested.errors import InputError
from congested.flow.field import FlowField, field_with_flux, one_flux_per_facet
from congested.geometry import (
    FloatArray,
    barycentric_gradients,
    facet_neighbours,
    simplex_volumes,
)
from congested.io.arrays import ResultArrays

# Boxes along the longest side of the domain through which an imbalance is seen.
_PARTS = (32, 16, 8, 4)


def flow_field_of_means(arrays: ResultArrays, strength: float, means: FloatArray) -> FlowField:
    """Return the flow field of a momentum in place of the solution's.

    The flux through a facet is that of the mean of both sides; through walls, and into cells that
    have no weight, nothing flows.

    Parameters
    ----------
    arrays
        The solution, whose mesh, source, target and weight are taken.
    strength
        λ.
    means
        Means of the momentum over the cells (C, d).

    Raises
    ------
    InputError
        If the means are not finite, or not one vector per cell.
    """
    cells, dimension = arrays.cells.shape[0], arrays.dimension
    means = np.asarray(means, dtype=np.float64)
    if means.shape != (cells, dimension):
        allowed = f"one vector per cell, {(cells, dimension)}"
        raise InputError(f"found shape {means.shape}; allowed: {allowed}", key="means")
    if not np.isfinite(means).all():
        raise InputError("found numbers that are not finite; allowed: finite ones", key="means")
    simplices = arrays.vertices[arrays.cells]
    volume = simplex_volumes(simplices)
    # d |T| ∇λ_i is the area of facet i times its inward normal.
    areas = -dimension * volume[:, None, None] * barycentric_gradients(simplices)
    neighbours = facet_neighbours(arrays.cells)
    flux, _ = one_flux_per_facet(neighbours, np.einsum("nid,nd->ni", areas, means))
    empty = arrays.weight <= 0.0
    flux[empty] = 0.0
    flux[(neighbours >= 0) & empty[neighbours]] = 0.0
    growth = flux.sum(axis=1) / volume - (arrays.source - arrays.target)
    return field_with_flux(arrays, strength, neighbours, flux, growth)


def imbalance(field: FlowField) -> tuple[float, float]:
    """Return how much mass a momentum makes, and how much it loses, summed cell by cell."""
    masses = field.volume * field.growth
    return float(np.maximum(masses, 0.0).sum()), float(np.maximum(-masses, 0.0).sum())


def imbalance_at_scales(field: FlowField) -> dict[str, list[float]]:
    """Return how much mass a momentum loses, seen through coarser and coarser boxes.

    What is made and lost within one box cancels: kinks of a critic, which make and lose mass side
    by side, vanish at larger scales, and what it fails to carry from source to target does not.

    Returns
    -------
    dict
        ``scale``: 0 for the cells, then sides of boxes; ``lost``, ``created``: masses.
    """
    masses = field.volume * field.growth
    midpoints = field.vertices[field.cells].mean(axis=1)
    lower, upper = field.vertices.min(axis=0), field.vertices.max(axis=0)
    longest = float((upper - lower).max())
    created, lost = imbalance(field)
    table: dict[str, list[float]] = {"scale": [0.0], "created": [created], "lost": [lost]}
    for parts in _PARTS:
        side = longest / parts
        boxes = np.minimum(((midpoints - lower) / side).astype(np.int64), parts - 1)
        number = np.ravel_multi_index(tuple(boxes.T), (parts,) * field.dimension)
        sums = np.bincount(number, masses)
        table["scale"].append(side)
        table["created"].append(float(np.maximum(sums, 0.0).sum()))
        table["lost"].append(float(np.maximum(-sums, 0.0).sum()))
    return table
