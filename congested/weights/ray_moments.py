r"""Compiled integrals along rays in the plane, and over the directions of the rays.

With A(x, θ) = ∫₀^∞ ρ(x + aθ) da, the integral of a density along a ray, the weight of two densities
μ, ν in the plane is

    σ(x) = ∫ A[μ](x, θ) A[ν](x, −θ) dθ   over the circle,

and an atom of mass one at the distance r in the direction θ contributes A[ν](x, −θ)/r.

A part is a row of numbers: kind, centre and radius of a disc around it, then those of its density.
The loops take numbers where they can, not arrays: a slice costs five times as much as a ray.
"""

from __future__ import annotations

import math

import numpy as np

from congested.compiled import compiler
from congested.geometry import FloatArray

compiled = compiler(__file__)

# Kinds of parts, and where their numbers stand in a row.
GAUSSIAN, BOX, DISC = 0, 1, 2
KIND, CENTER, RADIUS, NUMBERS = 0, 1, 3, 4
# Gaussian: lower triangular whitening matrix (3) and log factor; box: lower and upper corner (4)
# and density; disc: its density (centre and radius are those of the disc around it).
ROW_LENGTH = NUMBERS + 5

_HALF_PI, _TURN = 0.5 * math.pi, 2.0 * math.pi
# Squared standard deviations beyond which a Gaussian counts as nothing.
_NOTHING = 160.0
# Where a Gaussian far away is narrow: parts of its radius, which is 7.5 standard deviations.
_NARROW = (0.13, 0.4)
# Breaks of a circle that are kept: corners of two boxes, ends of two windows, a few more.
_MOST_BREAKS = 32
# Intervals of directions shorter than this are left out.
_SHORTEST = 1e-14


@compiled
def ray_integral(parts: FloatArray, i: int, x: float, y: float, u: float, v: float) -> float:
    """Return A of part i along the ray (x, y) + a (u, v), a > 0."""
    kind = parts[i, KIND]
    if kind == GAUSSIAN:
        return _gaussian_integral(parts, i, x, y, u, v)
    if kind == DISC:
        p, q = parts[i, CENTER] - x, parts[i, CENTER + 1] - y
        along = p * u + q * v
        half = parts[i, RADIUS] ** 2 - (p * p + q * q) + along * along
        if half <= 0.0:
            return 0.0
        half = math.sqrt(half)
        return parts[i, NUMBERS] * max(0.0, along + half - max(along - half, 0.0))
    near, far = 0.0, np.inf
    for k in range(2):
        here, rate = (x, u) if k == 0 else (y, v)
        low, high = parts[i, NUMBERS + k] - here, parts[i, NUMBERS + 2 + k] - here
        if rate == 0.0:
            if low > 0.0 or high < 0.0:
                return 0.0
        else:
            inverse = 1.0 / rate
            first, second = low * inverse, high * inverse
            near = max(near, min(first, second))
            far = min(far, max(first, second))
    return parts[i, NUMBERS + 4] * max(0.0, far - near)


@compiled
def _gaussian_integral(parts: FloatArray, i: int, x: float, y: float, u: float, v: float) -> float:
    p, q = x - parts[i, CENTER], y - parts[i, CENTER + 1]
    a, b, c = parts[i, NUMBERS], parts[i, NUMBERS + 1], parts[i, NUMBERS + 2]
    # In whitened coordinates the ray starts at (p, q) and has the speed (u, v).
    p, q = a * p, b * p + c * q
    u, v = a * u, b * u + c * v
    speed = math.sqrt(u * u + v * v)
    along = (p * u + q * v) / speed
    across = max(p * p + q * q - along * along, 0.0)
    # Where the Gaussian is far from the ray, or behind its start, nothing is left.
    if across + (along * along if along > 0.0 else 0.0) > _NOTHING:
        return 0.0
    scale = math.exp(parts[i, NUMBERS + 3] - 0.5 * across) / speed
    return scale * math.sqrt(_HALF_PI) * math.erfc(along * math.sqrt(0.5))


@compiled
def atom_density(parts: FloatArray, x: float, y: float, atom_x: float, atom_y: float) -> float:
    """Return the contribution to σ of an atom of mass one and all parts on the other side."""
    u, v = x - atom_x, y - atom_y
    square = u * u + v * v
    if square == 0.0:
        return np.inf
    inverse = 1.0 / math.sqrt(square)
    total = 0.0
    for i in range(parts.shape[0]):
        total += ray_integral(parts, i, x, y, u * inverse, v * inverse)
    return inverse * total


@compiled
def _window(parts: FloatArray, i: int, x: float, y: float) -> tuple[float, float]:
    """Return direction and half width of the disc around a part; half the circle from inside."""
    p, q = parts[i, CENTER] - x, parts[i, CENTER + 1] - y
    distance = math.sqrt(p * p + q * q)
    if distance <= parts[i, RADIUS]:
        return 0.0, math.pi
    return math.atan2(q, p), math.asin(parts[i, RADIUS] / distance)


@compiled
def _turned(angle: float) -> float:
    """Return the angle in [−π, π)."""
    return angle - _TURN * math.floor(angle / _TURN + 0.5)


@compiled
def _add_breaks(
    parts: FloatArray, i: int, x: float, y: float, turn: float, breaks: FloatArray, count: int
) -> int:
    """Add the directions in which A of a part is not smooth, turned by an angle."""
    direction, width = _window(parts, i, x, y)
    if parts[i, KIND] == BOX:
        for column in range(2):
            for row in range(2):
                p = parts[i, NUMBERS + 2 * column] - x
                q = parts[i, NUMBERS + 1 + 2 * row] - y
                breaks[count] = math.atan2(q, p) + turn
                count += 1
    elif parts[i, KIND] == GAUSSIAN:
        p, q = parts[i, CENTER] - x, parts[i, CENTER + 1] - y
        distance = max(math.sqrt(p * p + q * q), 1e-300)
        direction = math.atan2(q, p) + turn
        breaks[count] = direction
        count += 1
        for share in _NARROW:
            width = math.asin(min(1.0, share * parts[i, RADIUS] / distance))
            breaks[count], breaks[count + 1] = direction - width, direction + width
            count += 2
    elif width < math.pi:
        breaks[count], breaks[count + 1] = direction + turn - width, direction + turn + width
        count += 2
    return count


@compiled
def _sort(values: FloatArray, number: int) -> None:
    """Sort the first few numbers, nearly always less than ten, by insertion."""
    for k in range(1, number):
        value, place = values[k], k
        while place > 0 and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value


@compiled
def _pair_density(
    first: FloatArray,
    i: int,
    second: FloatArray,
    j: int,
    x: float,
    y: float,
    nodes: FloatArray,
    weights: FloatArray,
) -> float:
    """Return σ of two parts: Gauss rules between the breaks of the integrand."""
    # The window of directions in which both parts lie, as centre and half width.
    middle, half = _window(first, i, x, y)
    angle, width = _window(second, j, x, y)
    angle += math.pi
    if half == math.pi:
        middle, half = angle, width
    elif width < math.pi:
        apart = _turned(angle - middle)
        low, high = max(-half, apart - width), min(half, apart + width)
        if low >= high:
            return 0.0
        middle, half = middle + 0.5 * (low + high), 0.5 * (high - low)
    edges = np.empty(_MOST_BREAKS)
    count = _add_breaks(first, i, x, y, 0.0, edges, 0)
    count = _add_breaks(second, j, x, y, math.pi, edges, count)
    kept = 0
    for k in range(count):
        apart = _turned(edges[k] - middle)
        if -half < apart < half:
            edges[kept] = apart
            kept += 1
    edges[kept], edges[kept + 1] = -half, half
    kept += 2
    _sort(edges, kept)
    total = 0.0
    for k in range(kept - 1):
        centre, width = 0.5 * (edges[k] + edges[k + 1]), 0.5 * (edges[k + 1] - edges[k])
        if width <= _SHORTEST:
            continue
        for q in range(nodes.shape[0]):
            # sin makes square roots at the ends (tangents of a disc) smooth.
            angle = middle + centre + width * math.sin(_HALF_PI * nodes[q])
            u, v = math.cos(angle), math.sin(angle)
            ahead = ray_integral(first, i, x, y, u, v)
            if ahead > 0.0:
                slope = width * _HALF_PI * math.cos(_HALF_PI * nodes[q])
                total += weights[q] * slope * ahead * ray_integral(second, j, x, y, -u, -v)
    return total


@compiled
def pairs_density(
    first: FloatArray,
    second: FloatArray,
    x: float,
    y: float,
    nodes: FloatArray,
    weights: FloatArray,
) -> float:
    """Return the weight's density at a point, summed over the parts of source and target.

    Parameters
    ----------
    first, second
        Parts of the source and of the target (P, 9), (Q, 9).
    x, y
        The point.
    nodes, weights
        Gauss rule on [−1, 1].
    """
    total = 0.0
    for i in range(first.shape[0]):
        for j in range(second.shape[0]):
            total += _pair_density(first, i, second, j, x, y, nodes, weights)
    return total


@compiled
def _chord(
    triangles: FloatArray, cell: int, x: float, y: float, u: float, v: float
) -> tuple[float, float]:
    """Return where the ray (x, y) + r (u, v), r ≥ 0, enters and leaves a triangle."""
    near, far = 0.0, np.inf
    for corner in range(3):
        two, three = (corner + 1) % 3, (corner + 2) % 3
        a, b = triangles[cell, corner, 0], triangles[cell, corner, 1]
        p, q = triangles[cell, two, 0] - a, triangles[cell, two, 1] - b
        # Positive on the side of the third vertex.
        side = p * (triangles[cell, three, 1] - b) - q * (triangles[cell, three, 0] - a)
        height = p * (y - b) - q * (x - a)
        rate = p * v - q * u
        if side < 0.0:
            height, rate = -height, -rate
        if rate > 0.0:
            near = max(near, -height / rate)
        elif rate < 0.0:
            far = min(far, -height / rate)
        elif height < 0.0:
            return 0.0, 0.0
    return near, far


@compiled
def atom_in_triangle(
    parts: FloatArray,
    x: float,
    y: float,
    triangles: FloatArray,
    cell: int,
    nodes: FloatArray,
    weights: FloatArray,
) -> float:
    """Integrate `atom_density` of an atom at (x, y) over a triangle near it or around it.

    In polar coordinates about the atom the density's 1/r cancels, and between the directions of
    the vertices and of the breaks of A the integrand is smooth.

    Parameters
    ----------
    parts
        Parts on the other side (P, 9).
    x, y
        The atom.
    triangles, cell
        Vertices (n, 3, 2) and which of them.
    nodes, weights
        Gauss rule on [−1, 1].
    """
    total = 0.0
    edges = np.empty(_MOST_BREAKS)
    for i in range(parts.shape[0]):
        count = 0
        for corner in range(3):
            p, q = triangles[cell, corner, 0] - x, triangles[cell, corner, 1] - y
            if p != 0.0 or q != 0.0:
                edges[count] = math.atan2(q, p)
                count += 1
        count = _add_breaks(parts, i, x, y, 0.0, edges, count)
        for k in range(count):
            edges[k] = _turned(edges[k])
        _sort(edges, count)
        edges[count] = edges[0] + _TURN
        for k in range(count):
            centre, width = 0.5 * (edges[k] + edges[k + 1]), 0.5 * (edges[k + 1] - edges[k])
            near, far = _chord(triangles, cell, x, y, math.cos(centre), math.sin(centre))
            if width <= _SHORTEST or far <= near:
                continue
            for node in range(nodes.shape[0]):
                angle = centre + width * math.sin(_HALF_PI * nodes[node])
                u, v = math.cos(angle), math.sin(angle)
                near, far = _chord(triangles, cell, x, y, u, v)
                if far <= near:
                    continue
                along = 0.0
                for other in range(nodes.shape[0]):
                    r = near + 0.5 * (far - near) * (nodes[other] + 1.0)
                    along += weights[other] * ray_integral(parts, i, x + r * u, y + r * v, u, v)
                slope = width * _HALF_PI * math.cos(_HALF_PI * nodes[node])
                total += weights[node] * slope * 0.5 * (far - near) * along
    return total
