r"""Compiled kernels that integrate the mass of a ray-monotone source over cells.

Seen from the tip of a funnel, the mass within the distance s in a cone of directions v is the
integral over them of G = ρ₀/d · R^d · min(1, s/R)^{d/p}, where 1/R is the largest of the functions
α_j + g_j·v (see `ray_monotone.py`). So the mass of a cell is the sum over its facets of ± ∫ G over
the directions of the facet, with s the distance ρ of the facet on the ray.

Everything is reduced to lines. On a line at distance k from the tip, with unit normal n and tangent
e, put t = k sinh y: then v = n / cosh y + e tanh y and ρ = k cosh y. In 2D the directions of an
edge are dv = dy / cosh y. In 3D a face at distance h is swept by lines parallel to one edge, at
k = h cosh z, and dv = dz / cosh z · dy / cosh² y. In these coordinates the integrand is smooth
however close the tip is, except for kinks where R changes its formula or ρ = R. Along a line these
are roots of quadratic equations in e^y and the integral is cut there; across the lines bisection
finds them.
"""

from __future__ import annotations

import math

import numpy as np

from congested.compiled import compiler
from congested.geometry import FloatArray

compiled = compiler(__file__)

# Gauss-Kronrod rules: nodes, Kronrod weights, Gauss weights; the last node is the centre. 7 and 15
# points from QUADPACK (Piessens et al. 1983) for edges, 3 and 7 points twice for faces.
_EDGE_RULE = np.array([
    [0.991455371120812639206854697526329, 0.022935322010529224963732008058970, 0.0],
    [0.949107912342758524526189684047851, 0.063092092629978553290700663189204,
     0.129484966168869693270611432679082],
    [0.864864423359769072789712788640926, 0.104790010322250183839876322541518, 0.0],
    [0.741531185599394439863864773280788, 0.140653259715525918745189590510238,
     0.279705391489276667901467771423780],
    [0.586087235467691130294144691258130, 0.169004726639267902826583426598550, 0.0],
    [0.405845151377397166906606412076961, 0.190350578064785409913256402421014,
     0.381830050505118944950369775488975],
    [0.207784955007898467600689403773245, 0.204432940075298892414161999234649, 0.0],
    [0.0, 0.209482141084727828012999174891714, 0.417959183673469387755102040816327],
])  # fmt: skip
_FACE_RULE = np.array([
    [0.960491268708020283423507092629080, 0.104656226026467265193823857192073, 0.0],
    [0.774596669241483377035853079956480, 0.268488089868333440728569280666710, 5.0 / 9.0],
    [0.434243749346802558002071502844628, 0.401397414775962222905051818618432, 0.0],
    [0.0, 0.450916538658474142345110087045571, 8.0 / 9.0],
])  # fmt: skip

# Bisections of an interval, and breaks of a line; what is beyond is left to the error estimate.
_DEEPEST, _MOST_BREAKS = 100, 400


@compiled
def _rate(
    y: float,
    line: FloatArray,
    distance: float,
    dimension: int,
    radius_power: int,
    exponent: float,
) -> float:
    """Return R^radius_power min(1, ρ/R)^exponent / cosh(y)^(dimension − 1).

    `line` (3, J) holds α_j, n·g_j and e·g_j.
    """
    growth = math.exp(y)
    sech = 2.0 / (growth + 1.0 / growth)
    tanh = 0.5 * (growth - 1.0 / growth) * sech
    inverse = 0.0
    for j in range(line.shape[1]):
        inverse = max(inverse, line[0, j] + line[1, j] * sech + line[2, j] * tanh)
    rate = sech
    if dimension == 3:
        rate *= sech
    radius = 1.0 / inverse
    for _ in range(radius_power):
        rate *= radius
    if exponent > 0.0:
        ratio = distance * inverse / sech
        if ratio < 1.0:
            rate *= ratio**exponent
    return rate


@compiled
def _integrate(
    start: float,
    end: float,
    tolerance: float,
    line: FloatArray,
    distance: float,
    dimension: int,
    radius_power: int,
    exponent: float,
    rule: FloatArray,
    stack: FloatArray,
) -> tuple[float, bool]:
    """Integrate the rate by bisection; the flag is false if the tolerance was not reached."""
    total, good, size, last = 0.0, True, 1, rule.shape[0] - 1
    stack[0, 0], stack[0, 1], stack[0, 2] = start, end, tolerance
    numbers = (line, distance, dimension, radius_power, exponent)
    while size > 0:
        size -= 1
        left, right, allowed = stack[size, 0], stack[size, 1], stack[size, 2]
        centre, half = 0.5 * (left + right), 0.5 * (right - left)
        middle = _rate(centre, *numbers)
        kronrod, gauss = rule[last, 1] * middle, rule[last, 2] * middle
        for i in range(last):
            step = half * rule[i, 0]
            both = _rate(centre - step, *numbers) + _rate(centre + step, *numbers)
            kronrod += rule[i, 1] * both
            gauss += rule[i, 2] * both
        error = half * abs(kronrod - gauss)
        if error <= allowed or error <= 1e-14 * half * kronrod:
            total += half * kronrod
        elif size + 2 > stack.shape[0] or half <= 1e-15 * (1.0 + abs(centre)):
            total += half * kronrod
            good = False
        else:
            stack[size, 0], stack[size, 1], stack[size, 2] = left, centre, 0.5 * allowed
            stack[size + 1, 0], stack[size + 1, 1] = centre, right
            stack[size + 1, 2] = 0.5 * allowed
            size += 2
    return total, good


@compiled
def _roots(constant: float, across: float, along: float) -> tuple[float, float]:
    """Solve constant cosh y + across + along sinh y = 0; infinite where there is no root."""
    # With E = exp(y): (constant + along) E² + 2 across E + (constant − along) = 0.
    leading, trailing = constant + along, constant - along
    discriminant = across * across - leading * trailing
    first = second = np.inf
    if discriminant >= 0.0:
        stable = -(across + math.copysign(math.sqrt(discriminant), across))
        root = stable / leading if leading != 0.0 else np.inf
        if 0.0 < root < np.inf:
            first = math.log(root)
        root = trailing / stable if stable != 0.0 else np.inf
        if 0.0 < root < np.inf:
            second = math.log(root)
    return first, second


@compiled
def _find_breaks(
    start: float, end: float, line: FloatArray, distance: float, crosses: bool, breaks: FloatArray
) -> int:
    """Write the ends and the kinks between them, in order; return how many there are."""
    breaks[0] = start
    size = 1
    formulas = line.shape[1]
    # The formula in force just after the start (there itself two may be equal).
    probe = start + 1e-9 * (end - start)
    sech, tanh = 1.0 / math.cosh(probe), math.tanh(probe)
    active, largest = 0, -np.inf
    for j in range(formulas):
        value = line[0, j] + line[1, j] * sech + line[2, j] * tanh
        if value > largest:
            active, largest = j, value
    position = start
    while size + 4 < breaks.shape[0]:
        # Where the next formula overtakes the one in force.
        following, overtaken = end, -1
        for j in range(formulas):
            constant = line[0, j] - line[0, active]
            across, along = line[1, j] - line[1, active], line[2, j] - line[2, active]
            for root in _roots(constant, across, along):
                slope = constant * math.sinh(root) + along * math.cosh(root)
                if position < root < following and slope > 0.0:
                    following, overtaken = root, j
        if crosses:
            first, second = _roots(
                line[0, active], line[1, active] - 1.0 / distance, line[2, active]
            )
            for root in (min(first, second), max(first, second)):
                if position < root < following:
                    breaks[size] = root
                    size += 1
        breaks[size] = following
        size += 1
        if overtaken < 0:
            return size
        position, active = following, overtaken
    breaks[size] = end
    return size + 1


@compiled
def _line_integral(
    start: float,
    end: float,
    tolerance: float,
    line: FloatArray,
    distance: float,
    dimension: int,
    radius_power: int,
    exponent: float,
    crosses: bool,
    rule: FloatArray,
    breaks: FloatArray,
    stack: FloatArray,
) -> tuple[float, bool]:
    """Integrate the rate from start to end, cut at the kinks."""
    size = _find_breaks(start, end, line, distance, crosses and exponent > 0.0, breaks)
    total, good = 0.0, True
    for i in range(size - 1):
        part, fine = _integrate(
            breaks[i], breaks[i + 1], tolerance, line, distance,
            dimension, radius_power, exponent, rule, stack,
        )  # fmt: skip
        total += part
        good = good and fine
    return total, good


@compiled
def edge_integral(
    first: FloatArray,
    second: FloatArray,
    offsets: FloatArray,
    slopes: FloatArray,
    radius_power: int,
    exponent: float,
    crosses: bool,
    tolerance: float,
) -> tuple[float, bool]:
    """Integrate R^radius_power min(1, ρ/R)^exponent over the directions of an edge in 2D.

    Parameters
    ----------
    first, second
        Ends (2,) relative to the tip; the integral is negative if the angle from the first to
        the second is.
    offsets, slopes
        The functions α_j + g_j·v of the funnel, (J,) and (J, 2).
    radius_power, exponent
        The powers.
    crosses
        Whether the edge may cross the border of the funnel, where ρ = R.
    tolerance
        Absolute error allowed.

    Returns
    -------
    tuple
        The integral and whether the tolerance was reached.
    """
    sign = 1.0
    cross = first[0] * second[1] - first[1] * second[0]
    if cross < 0.0:  # the same arithmetic for both cells that share the edge
        sign, cross = -1.0, -cross
        first, second = second, first
    x, y = second[0] - first[0], second[1] - first[1]
    length = math.hypot(x, y)
    if cross < 1e-290 or cross < 1e-290 * length:
        return 0.0, True
    x, y = x / length, y / length
    distance = cross / length
    line = np.empty((3, offsets.shape[0]))
    for j in range(offsets.shape[0]):
        line[0, j] = offsets[j]
        line[1, j] = slopes[j, 0] * y - slopes[j, 1] * x
        line[2, j] = slopes[j, 0] * x + slopes[j, 1] * y
    start = math.asinh((first[0] * x + first[1] * y) / distance)
    end = math.asinh((second[0] * x + second[1] * y) / distance)
    if end <= start:
        return 0.0, True
    total, good = _line_integral(
        start, end, tolerance, line, distance, 2, radius_power, exponent, crosses,
        _EDGE_RULE, np.empty(_MOST_BREAKS), np.empty((_DEEPEST, 3)),
    )  # fmt: skip
    return sign * total, good


@compiled
def _sort(first: FloatArray, second: FloatArray) -> None:
    """Exchange two points (3,) if their coordinates are not in lexicographic order."""
    for k in range(3):
        if first[k] != second[k]:
            if first[k] > second[k]:
                for i in range(3):
                    first[i], second[i] = second[i], first[i]
            return


@compiled
def face_integral(
    face: FloatArray,
    inside: FloatArray,
    offsets: FloatArray,
    slopes: FloatArray,
    radius_power: int,
    exponent: float,
    crosses: bool,
    tolerance: float,
) -> tuple[float, bool]:
    """Integrate R^radius_power min(1, ρ/R)^exponent over the directions of a triangle in 3D.

    Parameters
    ----------
    face
        Vertices (3, 3) relative to the tip.
    inside
        A point (3,) off the triangle's plane: the integral is positive if the tip lies on the
        same side of the plane.
    offsets, slopes, radius_power, exponent, crosses, tolerance
        As for :func:`edge_integral`.
    """
    corners = face.copy()
    # The same arithmetic for both cells that share the face.
    _sort(corners[0], corners[1])
    _sort(corners[1], corners[2])
    _sort(corners[0], corners[1])
    tangent, other = corners[1] - corners[0], corners[2] - corners[0]
    tangent /= math.sqrt(_dot(tangent, tangent))
    normal = _cross(tangent, other)
    size = math.sqrt(_dot(normal, normal))
    height = _dot(normal, corners[0]) / size
    if size == 0.0 or abs(height) < 1e-290:
        return 0.0, True
    sign = 1.0 if (_dot(normal, corners[0]) - _dot(normal, inside)) * height > 0.0 else -1.0
    normal *= math.copysign(1.0, height) / size
    height = abs(height)
    side = _cross(normal, tangent)
    # The line at `low` is the edge, the one at `high` the opposite vertex.
    low, high = _dot(corners[0], side), _dot(corners[2], side)
    left, right = _dot(corners[0], tangent), _dot(corners[1], tangent)
    apex = _dot(corners[2], tangent)
    formulas = offsets.shape[0]
    line = np.empty((3, formulas))
    ahead, aside = np.empty(formulas), np.empty(formulas)
    for j in range(formulas):
        line[0, j] = offsets[j]
        line[2, j] = _dot(slopes[j], tangent)
        ahead[j], aside[j] = _dot(slopes[j], normal), _dot(slopes[j], side)
    start, end = math.asinh(low / height), math.asinh(high / height)
    start, end = min(start, end), max(start, end)
    if start == end:
        return 0.0, True
    # Errors along the lines must not be seen across them.
    along_tolerance = 0.05 * tolerance / min(end - start, math.pi)
    breaks, inner, stack = np.empty(_MOST_BREAKS), np.empty((_DEEPEST, 3)), np.empty((_DEEPEST, 3))
    stack[0, 0], stack[0, 1], stack[0, 2] = start, end, tolerance
    depth, total, good = 1, 0.0, True
    last = _FACE_RULE.shape[0] - 1
    while depth > 0:
        depth -= 1
        begin, stop, allowed = stack[depth, 0], stack[depth, 1], stack[depth, 2]
        centre, half = 0.5 * (begin + stop), 0.5 * (stop - begin)
        kronrod = gauss = 0.0
        for q in range(2 * last + 1):
            row = q if q <= last else 2 * last - q
            z = centre + (half if q > last else -half) * _FACE_RULE[row, 0]
            growth = math.exp(z)
            sech = 2.0 / (growth + 1.0 / growth)
            tanh = 0.5 * (growth - 1.0 / growth) * sech
            distance = height / sech
            share = min(1.0, max(0.0, (distance * tanh - low) / (high - low)))
            y_left = math.asinh((left + share * (apex - left)) / distance)
            y_right = math.asinh((right + share * (apex - right)) / distance)
            if y_right <= y_left:
                continue
            for j in range(formulas):
                line[1, j] = ahead[j] * sech + aside[j] * tanh
            part, fine = _line_integral(
                y_left, y_right, along_tolerance, line, distance, 3, radius_power, exponent,
                crosses, _FACE_RULE, breaks, inner,
            )  # fmt: skip
            kronrod += _FACE_RULE[row, 1] * sech * part
            gauss += _FACE_RULE[row, 2] * sech * part
            good = good and fine
        error = half * abs(kronrod - gauss)
        if error <= allowed or error <= 1e-13 * half * kronrod:
            total += half * kronrod
        elif depth + 2 > stack.shape[0] or half <= 1e-15 * (1.0 + abs(centre)):
            total += half * kronrod
            good = False
        else:
            stack[depth, 0], stack[depth, 1], stack[depth, 2] = begin, centre, 0.5 * allowed
            stack[depth + 1, 0], stack[depth + 1, 1] = centre, stop
            stack[depth + 1, 2] = 0.5 * allowed
            depth += 2
    return sign * total, good


@compiled
def _dot(first: FloatArray, second: FloatArray) -> float:
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


@compiled
def _cross(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.array([
        first[1] * second[2] - first[2] * second[1],
        first[2] * second[0] - first[0] * second[2],
        first[0] * second[1] - first[1] * second[0],
    ])  # fmt: skip


@compiled
def source_masses(
    simplices: FloatArray,
    centers: FloatArray,
    biases: FloatArray,
    offsets: FloatArray,
    slopes: FloatArray,
    half_width: float,
    power: float,
    tolerance: float,
) -> tuple[FloatArray, int]:
    """Return the masses of simplices and the number of those that miss the tolerance.

    Parameters
    ----------
    simplices
        Vertices (n, d+1, d).
    centers, biases, offsets, slopes
        Tips (N, d) and biases (N,) of the funnels that are not empty, and the functions
        α_j + g_j·v (N, J), (N, J, d) of each.
    half_width, power
        The pair's other numbers.
    tolerance
        Absolute error allowed per simplex.
    """
    number, corners, dimension = simplices.shape
    funnels = centers.shape[0]
    masses, failures, exponent = np.zeros(number), 0, dimension / power
    factor = (2.0 * half_width) ** -dimension / dimension
    values, centre = np.empty(funnels), np.empty(dimension)
    relative, face = np.empty((corners, dimension)), np.empty((3, 3))
    for i in range(number):
        beyond, within = False, True
        for k in range(dimension):
            low = high = simplices[i, 0, k]
            centre[k] = 0.0
            for corner in range(corners):
                position = simplices[i, corner, k]
                low, high = min(low, position), max(high, position)
                centre[k] += position / corners
            beyond = beyond or low >= half_width or high <= -half_width
            within = within and low >= -half_width and high <= half_width
        if beyond:
            continue
        radius = 0.0
        for corner in range(corners):
            square = 0.0
            for k in range(dimension):
                square += (simplices[i, corner, k] - centre[k]) ** 2
            radius = max(radius, math.sqrt(square))
        best = np.inf
        for m in range(funnels):
            square = 0.0
            for k in range(dimension):
                square += (centre[k] - centers[m, k]) ** 2
            values[m] = math.sqrt(square) + biases[m]
            best = min(best, values[m])
        # The differences of these values change by at most twice the distance: the simplex
        # meets only funnels whose value is this close to the smallest.
        reach = best + 2.0 * radius * (1.0 + 1e-12)
        candidates = 0
        for m in range(funnels):
            if values[m] <= reach:
                candidates += 1
        crosses = candidates > 1 or not within
        allowed = tolerance / (corners * candidates * factor)
        total, good = 0.0, True
        for m in range(funnels):
            if values[m] > reach:
                continue
            for corner in range(corners):
                for k in range(dimension):
                    relative[corner, k] = simplices[i, corner, k] - centers[m, k]
            for corner in range(corners):
                if dimension == 2:
                    part, fine = edge_integral(
                        relative[corner], relative[(corner + 1) % 3], offsets[m], slopes[m],
                        2, exponent, crosses, allowed,
                    )  # fmt: skip
                else:
                    row = 0
                    for k in range(corners):
                        if k != corner:
                            face[row] = relative[k]
                            row += 1
                    part, fine = face_integral(
                        face, relative[corner], offsets[m], slopes[m],
                        3, exponent, crosses, allowed,
                    )  # fmt: skip
                total += part
                good = good and fine
        masses[i] = factor * abs(total) if dimension == 2 else factor * max(0.0, total)
        if not good:
            failures += 1
    return masses, failures
