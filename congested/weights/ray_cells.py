r"""Compiled integration of the weight's density over triangles.

The rule of degree 2 that uses vertices, which neighbours share, and midpoint is compared with the
midpoint rule, and a cell is bisected across its longest edge where they differ. Atoms near a cell
are integrated one by one, in polar coordinates.
"""

from __future__ import annotations

import math

import numpy as np

from congested.compiled import compiler
from congested.geometry import FloatArray, IntArray
from congested.weights import ray_density, ray_moments
from congested.weights.ray_density import ATOMS, FUNNELS, RayTables, far_density
from congested.weights.ray_moments import CENTER, RADIUS, atom_in_triangle

compiled = compiler(__file__, ray_density.__file__, ray_moments.__file__)

# Bisections of a cell; 60 make a triangle 10⁹ times smaller.
_DEEPEST = 60
# A piece that may hold a narrow feature between its points is cut down to this part of the domain.
_FEATURE = 1e-3
# At the rim of the support pieces without density at their vertices are cut down to this part of
# the support's width.
_RIM = 0.2
# Atoms nearer to a cell's midpoint than so many of its longest edges are treated one by one.
_NEAR, _MOST_NEAR = 2.5, 512
# With funnels, whose density varies on the scale of the distance from the tips and is dear, the
# vertices alone are enough where the square of the relative spread is this part of the error
# allowed. (Where there are ridges, vertices on both slopes may agree by chance.)
_SMOOTH = 1.0
# Part of the error allowed in a cell that each of its pieces may make, however small its share.
_PIECE_SHARE = 0.02


@compiled
def _hides_a_feature(tables: RayTables, x: float, y: float, diameter: float, empty: bool) -> bool:
    """Whether something much narrower than a piece may lie in it, unseen by the rule.

    Where the density vanishes at all vertices, something as wide as the piece may hide in it.
    """
    smallest = _FEATURE * tables.size
    if diameter <= smallest:
        return False
    factor = 1.0 / _RIM if empty else 1.0
    tips = tables.funnels.tips
    for n in range(tips.shape[0]):
        p, q = x - tips[n, 0], y - tips[n, 1]
        if p * p + q * q < diameter * diameter:
            return True
    first, second, atoms, facing = tables.first, tables.second, tables.atoms, tables.facing
    for i in range(first.shape[0]):
        a, b, radius = first[i, CENTER], first[i, CENTER + 1], first[i, RADIUS]
        for j in range(second.shape[0]):
            if _meets_tube(a, b, radius, second, j, x, y, diameter, smallest, factor):
                return True
    for i in range(atoms.shape[0]):
        for j in range(facing.shape[0]):
            a, b = atoms[i, 0], atoms[i, 1]
            if _meets_tube(a, b, 0.0, facing, j, x, y, diameter, smallest, factor):
                return True
    return False


@compiled
def _meets_tube(
    a: float,
    b: float,
    start_radius: float,
    parts: FloatArray,
    j: int,
    x: float,
    y: float,
    diameter: float,
    smallest: float,
    factor: float,
) -> bool:
    """Whether a piece is wider than the hull of two discs at the place where it meets it."""
    u, v = parts[j, CENTER] - a, parts[j, CENTER + 1] - b
    p, q = x - a, y - b
    length = u * u + v * v
    t = 0.0
    if length > 0.0:
        t = min(1.0, max(0.0, (p * u + q * v) / length))
    radius = (1.0 - t) * start_radius + t * parts[j, RADIUS]
    if factor * diameter <= radius or diameter <= smallest:
        return False
    p, q = p - t * u, q - t * v
    return math.sqrt(p * p + q * q) < radius + diameter


@compiled
def integrate(
    tables: RayTables,
    triangles: FloatArray,
    values: FloatArray,
    tolerance: float,
    area: float,
) -> FloatArray:
    """Integrate the weight's density over triangles.

    Parameters
    ----------
    tables
        The pair.
    triangles
        Vertices (n, 3, 2).
    values
        Density at the vertices (n, 3).
    tolerance
        The difference of the two rules may be this part of a piece's mass, or of the mass that a
        weight spread evenly over `area` would have there.
    area
        Area of the domain.
    """
    masses = np.zeros(triangles.shape[0])
    near = np.empty(_MOST_NEAR, np.int64)
    at_vertices = np.empty(3)
    # Room for the pieces that wait: one per bisection, and the one at hand.
    pieces, at_corners = np.empty((_DEEPEST + 2, 3, 2)), np.empty((_DEEPEST + 2, 3))
    areas, depths = np.empty(_DEEPEST + 2), np.empty(_DEEPEST + 2, np.int64)
    for cell in range(triangles.shape[0]):
        count = _near_atoms(tables, triangles, cell, near)
        for k in range(3):
            at_vertices[k] = values[cell, k]
            if count > 0:
                x, y = triangles[cell, k, 0], triangles[cell, k, 1]
                at_vertices[k] = far_density(tables, near, count, x, y)
        masses[cell] = _by_bisection(
            tables, triangles, cell, at_vertices, tolerance, area, near, count,
            pieces, at_corners, areas, depths,
        )  # fmt: skip
        for k in range(count):
            x, y = tables.atoms[near[k], 0], tables.atoms[near[k], 1]
            masses[cell] += tables.atom_masses[near[k]] * atom_in_triangle(
                tables.facing, x, y, triangles, cell, tables.nodes, tables.weights
            )
    return masses


@compiled
def _near_atoms(tables: RayTables, triangles: FloatArray, cell: int, near: IntArray) -> int:
    """List the atoms that are too near a cell for a rule that takes the density for smooth."""
    if tables.kind != ATOMS:
        return 0
    x, y = 0.0, 0.0
    for corner in range(3):
        x += triangles[cell, corner, 0] / 3.0
        y += triangles[cell, corner, 1] / 3.0
    _, _, longest = _longest_edge(triangles, cell)
    square = (_NEAR * longest) ** 2
    atoms = tables.atoms
    count = 0
    for k in range(atoms.shape[0]):
        p, q = x - atoms[k, 0], y - atoms[k, 1]
        if p * p + q * q < square and count < len(near):
            near[count] = k
            count += 1
    return count


@compiled
def _by_bisection(
    tables: RayTables,
    triangles: FloatArray,
    cell: int,
    values: FloatArray,
    tolerance: float,
    area: float,
    near: IntArray,
    count: int,
    pieces: FloatArray,
    at_corners: FloatArray,
    areas: FloatArray,
    depths: IntArray,
) -> float:
    """Integrate the density of all but the near atoms over a triangle."""
    for corner in range(3):
        at_corners[0, corner] = values[corner]
        pieces[0, corner, 0] = triangles[cell, corner, 0]
        pieces[0, corner, 1] = triangles[cell, corner, 1]
    areas[0], depths[0] = _area(triangles, cell), 0
    waiting = 1
    mass, whole = 0.0, 0.0
    while waiting > 0:
        waiting -= 1
        top = waiting
        x, y = 0.0, 0.0
        smallest, largest, mean = np.inf, -np.inf, 0.0
        for corner in range(3):
            x += pieces[top, corner, 0] / 3.0
            y += pieces[top, corner, 1] / 3.0
            smallest = min(smallest, at_corners[top, corner])
            largest = max(largest, at_corners[top, corner])
            mean += at_corners[top, corner] / 3.0
        one, other, longest = _longest_edge(pieces, top)
        hides = _hides_a_feature(tables, x, y, longest, largest == 0.0)
        piece = areas[top]
        if tables.kind == FUNNELS and not hides and 0.0 < largest < np.inf:
            allowed = tolerance * max(0.5 * piece * (mean + 1.0 / area), _PIECE_SHARE * whole)
            if piece * (largest - smallest) ** 2 <= _SMOOTH * allowed * mean:
                mass += piece * mean
                continue
        at_middle = far_density(tables, near, count, x, y)
        # Weights 1/12 at the vertices and 3/4 in the middle: exact for quadratics.
        fine = piece * (0.25 * mean + 0.75 * at_middle)
        if whole == 0.0 and np.isfinite(fine):
            whole = fine
        if depths[top] >= _DEEPEST:
            # A singular point at a vertex: next to nothing is left.
            mass += piece * at_middle if np.isfinite(at_middle) else 0.0
            continue
        if not hides and np.isfinite(fine):
            allowed = tolerance * max(0.5 * (fine + piece / area), _PIECE_SHARE * whole)
            if abs(fine - piece * at_middle) <= allowed:
                mass += fine
                continue
        x = 0.5 * (pieces[top, one, 0] + pieces[top, other, 0])
        y = 0.5 * (pieces[top, one, 1] + pieces[top, other, 1])
        value = far_density(tables, near, count, x, y)
        for corner in range(3):
            at_corners[top + 1, corner] = at_corners[top, corner]
            pieces[top + 1, corner, 0] = pieces[top, corner, 0]
            pieces[top + 1, corner, 1] = pieces[top, corner, 1]
        at_corners[top, one], at_corners[top + 1, other] = value, value
        pieces[top, one, 0], pieces[top, one, 1] = x, y
        pieces[top + 1, other, 0], pieces[top + 1, other, 1] = x, y
        areas[top] = 0.5 * piece
        areas[top + 1] = 0.5 * piece
        depths[top] += 1
        depths[top + 1] = depths[top]
        waiting = top + 2
    return mass


@compiled
def _area(triangles: FloatArray, cell: int) -> float:
    x, y = triangles[cell, 0, 0], triangles[cell, 0, 1]
    a, b = triangles[cell, 1, 0] - x, triangles[cell, 1, 1] - y
    c, d = triangles[cell, 2, 0] - x, triangles[cell, 2, 1] - y
    return 0.5 * abs(a * d - b * c)


@compiled
def _longest_edge(triangles: FloatArray, cell: int) -> tuple[int, int, float]:
    one, other, longest = 0, 1, -1.0
    for i in range(3):
        for j in range(i):
            p = triangles[cell, i, 0] - triangles[cell, j, 0]
            q = triangles[cell, i, 1] - triangles[cell, j, 1]
            if p * p + q * q > longest:
                one, other, longest = i, j, p * p + q * q
    return one, other, math.sqrt(longest)
