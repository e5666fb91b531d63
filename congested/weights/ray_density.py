r"""Compiled density of the weight at a point of the plane, for the pairs of the ray formula.

It is the sum over pairs of parts (`ray_moments`), or, if one measure is made of atoms or is a
ray-monotone source, a sum over points. A ray-monotone source is singular at its tips and smooth
elsewhere, on the scale of the distance from the tip. So its points fill clusters, sectors of
directions times shells around the tip: many points in a cluster that is near x, few in one that is
far, and very few for all shells deep inside. Points at distances below ρ from x are
faded out by a smooth cut-off; what they leave out is integrated in polar coordinates about x,
where the 1/|x − X| of the sum cancels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from congested.compiled import compiler
from congested.geometry import FloatArray, IntArray
from congested.weights import ray_moments
from congested.weights.ray_moments import atom_density, pairs_density, ray_integral

compiled = compiler(__file__, ray_moments.__file__)

# What a table holds: parts of both measures, atoms and parts, or funnels and parts.
PAIRS, ATOMS, FUNNELS = 0, 1, 2
# A cluster is seen as few points from this many of its radii on; all that is nearer to a tip than
# this part of x's distance from it is seen as very few.
_FAR, _DEEP = 1.6, 0.25
# Radius ρ of the local integral over the distance to the nearest tip; the cut-off begins at this
# part of ρ.
_LOCAL_RADIUS, _PLATEAU = 0.6, 0.3


class FunnelTables(NamedTuple):
    """Numbers of a ray-monotone source; N tips, S sectors in all, K shells, C = S K clusters.

    Attributes
    ----------
    tips, biases, offsets, slopes
        As in `measures.ray_monotone.Funnels`; tips (N, 2).
    half_width, power
        Of the pair.
    reach
        Longest ray of each funnel (N,).
    first_sector
        First sector of each funnel, and S (N + 1,).
    clusters
        Centre and radius (C, 3); shell k of a sector is its k-th cluster and holds what is
        between 2^(−k−1) and 2^(−k) of the ray's length away from the tip, the last shell the rest.
    ranges
        Start and end of a cluster's points, seen from far and from near (C, 4).
    inner
        Start and end of the points that stand for all shells from k on (N, K, 2).
    points, masses
        The points (P, 2) and their masses (P,).
    directions
        Number of directions of the local integral.
    """

    tips: FloatArray
    biases: FloatArray
    offsets: FloatArray
    slopes: FloatArray
    half_width: float
    power: float
    reach: FloatArray
    first_sector: IntArray
    clusters: FloatArray
    ranges: IntArray
    inner: IntArray
    points: FloatArray
    masses: FloatArray
    directions: int


class RayTables(NamedTuple):
    """Numbers of a pair of measures, as the compiled loops read them.

    Attributes
    ----------
    kind
        `PAIRS`, `ATOMS` or `FUNNELS`.
    size
        Diagonal of the domain.
    nodes, weights
        Gauss rule on [−1, 1].
    first, second
        Parts (P, 9), (Q, 9) of the source and of the target; none if there are atoms or funnels.
    facing
        Parts (F, 9) of the measure that atoms or funnels are paired with.
    atoms, atom_masses
        Atoms (A, 2) and their masses (A,).
    funnels
        The ray-monotone source; without tips if there is none.
    """

    kind: int
    size: float
    nodes: FloatArray
    weights: FloatArray
    first: FloatArray
    second: FloatArray
    facing: FloatArray
    atoms: FloatArray
    atom_masses: FloatArray
    funnels: FunnelTables


@compiled
def _cut_off(share: float) -> float:
    """Return 1 up to the plateau, 0 from 1 on, with three continuous derivatives between."""
    if share >= 1.0:
        return 0.0
    if share <= _PLATEAU:
        return 1.0
    s = (share - _PLATEAU) / (1.0 - _PLATEAU)
    return (1.0 - s) ** 4 * (1.0 + s * (4.0 + s * (10.0 + s * 20.0)))


# The loops below take arrays, not the tables: reaching an array through a tuple of tuples costs
# more than what is done with its numbers.


@compiled
def _source_density(
    tips: FloatArray,
    biases: FloatArray,
    offsets: FloatArray,
    slopes: FloatArray,
    power: float,
    x: float,
    y: float,
) -> float:
    """Return the density of the ray-monotone source inside the box over that at its faces."""
    best, chosen, length = np.inf, 0, 0.0
    for n in range(tips.shape[0]):
        p, q = x - tips[n, 0], y - tips[n, 1]
        distance = math.sqrt(p * p + q * q)
        if distance + biases[n] < best:
            best, chosen, length = distance + biases[n], n, distance
    if length == 0.0:
        return 0.0
    p, q = x - tips[chosen, 0], y - tips[chosen, 1]
    # s/R = max_j α_j s + g_j·(x − a).
    share = 0.0
    for j in range(offsets.shape[1]):
        value = offsets[chosen, j] * length + slopes[chosen, j, 0] * p + slopes[chosen, j, 1] * q
        share = max(share, value)
    return min(share, 1.0) ** (-2.0 * (1.0 - 1.0 / power))


@compiled
def _local_density(
    facing: FloatArray,
    tips: FloatArray,
    biases: FloatArray,
    offsets: FloatArray,
    slopes: FloatArray,
    half_width: float,
    power: float,
    directions: int,
    nodes: FloatArray,
    weights: FloatArray,
    x: float,
    y: float,
    radius: float,
) -> float:
    """Return the contribution to σ of the ray-monotone source nearer than `radius`."""
    step = 2.0 * math.pi / directions
    total = 0.0
    for n in range(directions):
        u, v = math.cos((n + 0.5) * step), math.sin((n + 0.5) * step)
        behind = 0.0
        for part in range(facing.shape[0]):
            behind += ray_integral(facing, part, x, y, -u, -v)
        if behind == 0.0:
            continue
        # The source ends with the box.
        reach = radius
        if u != 0.0:
            reach = min(reach, (math.copysign(half_width, u) - x) / u)
        if v != 0.0:
            reach = min(reach, (math.copysign(half_width, v) - y) / v)
        if reach <= 0.0:
            continue
        along = 0.0
        for q in range(nodes.shape[0]):
            a = 0.5 * reach * (nodes[q] + 1.0)
            density = _source_density(tips, biases, offsets, slopes, power, x + a * u, y + a * v)
            along += weights[q] * _cut_off(a / radius) * density
        total += step * 0.5 * reach * behind * along
    return total * (2.0 * half_width) ** -2 / power


@compiled
def _points_density(
    facing: FloatArray,
    points: FloatArray,
    masses: FloatArray,
    start: int,
    end: int,
    x: float,
    y: float,
    radius: float,
) -> float:
    """Return the contribution of some points, faded out nearer than `radius`."""
    total = 0.0
    for k in range(start, end):
        mass = masses[k]
        square = (x - points[k, 0]) ** 2 + (y - points[k, 1]) ** 2
        if square < radius * radius:
            mass *= 1.0 - _cut_off(math.sqrt(square) / radius)
            if mass == 0.0:
                continue
        total += mass * atom_density(facing, x, y, points[k, 0], points[k, 1])
    return total


@compiled
def _funnels_density(tables: RayTables, x: float, y: float) -> float:
    facing, funnels = tables.facing, tables.funnels
    tips, points, masses, clusters = funnels.tips, funnels.points, funnels.masses, funnels.clusters
    ranges, inner, reach = funnels.ranges, funnels.inner, funnels.reach
    nearest = np.inf
    for n in range(tips.shape[0]):
        p, q = x - tips[n, 0], y - tips[n, 1]
        nearest = min(nearest, math.sqrt(p * p + q * q))
    radius = _LOCAL_RADIUS * nearest
    if radius == 0.0:
        return np.inf
    total = _local_density(
        facing, tips, funnels.biases, funnels.offsets, funnels.slopes, funnels.half_width,
        funnels.power, funnels.directions, tables.nodes, tables.weights, x, y, radius,
    )  # fmt: skip
    shells = inner.shape[1]
    for n in range(tips.shape[0]):
        p, q = x - tips[n, 0], y - tips[n, 1]
        distance = math.sqrt(p * p + q * q)
        # Shells that are deep inside, seen from x, are one.
        outer = shells
        for k in range(shells):
            if reach[n] * 0.5**k <= _DEEP * distance:
                outer = k
                start, end = inner[n, k, 0], inner[n, k, 1]
                total += _points_density(facing, points, masses, start, end, x, y, radius)
                break
        for sector in range(funnels.first_sector[n], funnels.first_sector[n + 1]):
            for k in range(outer):
                c = sector * shells + k
                p, q, size = x - clusters[c, 0], y - clusters[c, 1], clusters[c, 2]
                near = 2 if math.sqrt(p * p + q * q) < max(_FAR * size, size + radius) else 0
                start, end = ranges[c, near], ranges[c, near + 1]
                total += _points_density(facing, points, masses, start, end, x, y, radius)
    return total


@compiled
def weight_density(tables: RayTables, x: float, y: float) -> float:
    """Return the density of the weight at a point; infinite at an atom and at a tip."""
    if tables.kind == PAIRS:
        return pairs_density(tables.first, tables.second, x, y, tables.nodes, tables.weights)
    if tables.kind == ATOMS:
        masses = tables.atom_masses
        return _points_density(tables.facing, tables.atoms, masses, 0, len(masses), x, y, 0.0)
    return _funnels_density(tables, x, y)


@compiled
def far_density(tables: RayTables, near: IntArray, number: int, x: float, y: float) -> float:
    """Return the density without the first `number` of the atoms listed in `near`, in order."""
    if number == 0:
        return weight_density(tables, x, y)
    total, start = 0.0, 0
    for k in range(number + 1):
        end = near[k] if k < number else len(tables.atom_masses)
        total += _points_density(
            tables.facing, tables.atoms, tables.atom_masses, start, end, x, y, 0.0
        )
        start = end + 1
    return total


@compiled
def densities(tables: RayTables, points: FloatArray) -> FloatArray:
    """Return the density of the weight at points (m, 2)."""
    values = np.empty(points.shape[0])
    for i in range(points.shape[0]):
        values[i] = weight_density(tables, points[i, 0], points[i, 1])
    return values
