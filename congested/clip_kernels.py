"""Compiled kernels that cut simplices: by half-spaces, by the pixels of a grid, by other simplices.

A simplex is an array of d + 1 vertices (d = 2 or 3) with m numbers each that are affine functions
on it: its coordinates or, in the two kernels that integrate, the barycentric coordinates λ of the
cell that is cut. Then any affine function has at a vertex of a piece the scalar product of λ and
its values at the cell's vertices, and a piece's share of the cell is a determinant.

All kernels stand in one file: Numba's cache on disk looks for changes only in a kernel's own file.
"""

from __future__ import annotations

import numpy as np

from congested.compiled import compiler
from congested.geometry import BoolArray, FloatArray, IntArray

compiled = compiler(__file__)


# A cut leaves up to 3 pieces of a tetrahedron; no cell is cut more than four times in a row.
_MOST_PIECES = 3**4
# A barycentric coordinate below this part of the terms that it is the sum of is zero.
_FLAT = 2e-15


@compiled
def _cut_edge(
    piece: FloatArray, heights: FloatArray, start: int, end: int, point: FloatArray
) -> None:
    """Set `point` (m,) to where the edge between two vertices has the height zero."""
    share = 0.0 if start == end else heights[start] / (heights[start] - heights[end])
    for k in range(point.shape[0]):
        point[k] = piece[start, k] + share * (piece[end, k] - piece[start, k])


@compiled
def _prism_part(prism: FloatArray, edge: int, out: FloatArray) -> None:
    """Set `out` to the simplex (d+1, m) of a prism (2, d, m) that has one of its edges."""
    for i in range(out.shape[0]):
        end = 0 if i <= edge else 1
        for k in range(out.shape[1]):
            out[i, k] = prism[end, i - end, k]


@compiled
def cut_simplex(
    piece: FloatArray, heights: FloatArray, prism: FloatArray, out: FloatArray, count: int
) -> int:
    """Write simplices that fill the part of a simplex (d+1, m) with heights ≤ 0 to out[count:].

    Return the index behind the last one. No piece is written that zero heights show to be flat.
    """
    corners = piece.shape[0]
    inside, deepest = 0, 0.0
    # First and second vertex inside, last vertex outside.
    one, two, last = -1, -1, -1
    for i in range(corners):
        if heights[i] > 0.0:
            last = i
            continue
        inside += 1
        deepest = min(deepest, heights[i])
        if one < 0:
            one = i
        elif two < 0:
            two = i
    if deepest == 0.0:
        return count
    if inside == corners:
        out[count] = piece
        return count + 1
    if inside == 1:
        for i in range(corners):
            _cut_edge(piece, heights, one, i, out[count, i])
        return count + 1
    # What is left is a prism (in the plane a quadrilateral) with d edges prism[0, i], prism[1, i].
    edge = 0
    if inside == corners - 1:
        for i in range(corners):
            if i != last:
                _cut_edge(piece, heights, i, i, prism[0, edge])
                _cut_edge(piece, heights, i, last, prism[1, edge])
                edge += 1
        edge = 0
        for i in range(corners):
            if i == last:
                continue
            if heights[i] < 0.0:  # else this edge is a point
                _prism_part(prism, edge, out[count])
                count += 1
            edge += 1
        return count
    _cut_edge(piece, heights, one, one, prism[0, 0])
    _cut_edge(piece, heights, two, two, prism[1, 0])
    for i in range(corners):
        if heights[i] > 0.0:
            edge += 1
            _cut_edge(piece, heights, one, i, prism[0, edge])
            _cut_edge(piece, heights, two, i, prism[1, edge])
    for edge in range(2 if heights[two] == 0.0 else 0, 1 if heights[one] == 0.0 else 3):
        _prism_part(prism, edge, out[count])
        count += 1
    return count


@compiled
def cut_each(simplices: FloatArray, heights: FloatArray) -> tuple[FloatArray, IntArray]:
    """Return pieces (k, d+1, d) of simplices (n, d+1, d) where heights (n, d+1) ≤ 0, and owners."""
    number, corners, dimension = simplices.shape
    pieces = np.empty((dimension * number, corners, dimension))
    owner = np.empty(dimension * number, np.int64)
    prism = np.empty((2, dimension, dimension))
    count = 0
    for n in range(number):
        after = cut_simplex(simplices[n], heights[n], prism, pieces, count)
        owner[count:after] = n
        count = after
    return pieces[:count].copy(), owner[:count].copy()


# --- pieces of a cell, in its barycentric coordinates ----------------------------------------


@compiled
def _share(piece: FloatArray) -> float:
    """Return the share of the cell that a piece has."""
    a, b = piece[1, 0] - piece[0, 0], piece[1, 1] - piece[0, 1]
    p, q = piece[2, 0] - piece[0, 0], piece[2, 1] - piece[0, 1]
    if piece.shape[0] == 3:
        return abs(a * q - b * p)
    c, r = piece[1, 2] - piece[0, 2], piece[2, 2] - piece[0, 2]
    u, v, w = piece[3, 0] - piece[0, 0], piece[3, 1] - piece[0, 1], piece[3, 2] - piece[0, 2]
    return abs(a * (q * w - r * v) - b * (p * w - r * u) + c * (p * v - q * u))


@compiled
def _value(values: FloatArray, vertex: FloatArray) -> float:
    """Return an affine function with given values (d+1,) at the cell's vertices."""
    total = values[0] * vertex[0]
    for k in range(1, values.shape[0]):
        total += values[k] * vertex[k]
    return total


@compiled
def _extent(pieces: FloatArray, number: int, values: FloatArray) -> tuple[float, float]:
    """Return the range of an affine function on the pieces."""
    low, high = np.inf, -np.inf
    for n in range(number):
        for i in range(pieces.shape[1]):
            value = _value(values, pieces[n, i])
            low, high = min(low, value), max(high, value)
    return low, high


@compiled
def _cut_all(
    pieces: FloatArray,
    number: int,
    values: FloatArray,
    offset: float,
    sign: float,
    prism: FloatArray,
    out: FloatArray,
) -> int:
    """Write what fills the pieces where sign·(function − offset) ≤ 0, return how many there are."""
    heights = prism[2, 0]
    count = 0
    for n in range(number):
        for i in range(pieces.shape[1]):
            heights[i] = sign * (_value(values, pieces[n, i]) - offset)
        count = cut_simplex(pieces[n], heights, prism, out, count)
    return count


# --- a grid of pixels -------------------------------------------------------------------------


@compiled
def _below(piece: FloatArray, heights: FloatArray, share: float, moments: FloatArray) -> None:
    """Set `moments` (d+1,) to the integrals of λ_k over the part with heights ≤ 0, over |cell|."""
    corners = piece.shape[0]
    moments[:] = 0.0
    inside, one, two, three, four = 0, -1, -1, -1, -1
    for i in range(corners):
        if heights[i] <= 0.0:
            inside += 1
            one, two = i, one
        else:
            three, four = i, three
    if inside == 0:
        return
    if inside == 2 and corners == 4:
        # A prism with the edges one-two, p-r and q-s, of three tetrahedra.
        a = heights[one] / (heights[one] - heights[three])
        b = heights[one] / (heights[one] - heights[four])
        c = heights[two] / (heights[two] - heights[three])
        d = heights[two] / (heights[two] - heights[four])
        first, second, third = c * d, a * d * (1.0 - c), a * b * (1.0 - d)
        for k in range(4):
            v, w = piece[one, k], piece[two, k]
            p, q = v + a * (piece[three, k] - v), v + b * (piece[four, k] - v)
            r, s = w + c * (piece[three, k] - w), w + d * (piece[four, k] - w)
            total = first * (v + w + r + s) + second * (v + p + r + s) + third * (v + p + q + s)
            moments[k] = 0.25 * share * total
        return
    if inside < corners:
        # A corner is cut off, and is what lies below or what does not.
        corner = one if inside == 1 else three
        part = share / corners
        for i in range(corners):
            if i != corner:
                part *= heights[corner] / (heights[corner] - heights[i])
        for k in range(corners):
            total = corners * piece[corner, k]
            for i in range(corners):
                if i != corner:
                    ratio = heights[corner] / (heights[corner] - heights[i])
                    total += ratio * (piece[i, k] - piece[corner, k])
            moments[k] = part * total
        if inside == 1:
            return
    for k in range(corners):
        total = 0.0
        for i in range(corners):
            total += piece[i, k]
        moments[k] = share * total / corners - moments[k]


@compiled
def _pixel(planes: FloatArray, count: int, position: float) -> int:
    """Return i with planes[i] ≤ position < planes[i+1]; -1 below all, `count` from the last on."""
    if position < planes[0]:
        return -1
    if position >= planes[count]:
        return count
    i = min(count - 1, int((position - planes[0]) / (planes[count] - planes[0]) * count))
    while position < planes[i]:
        i -= 1
    while position >= planes[i + 1]:
        i += 1
    return i


@compiled
def _add_row(
    pieces: FloatArray,
    number: int,
    values: FloatArray,
    origin: float,
    planes: FloatArray,
    density: FloatArray,
    work: FloatArray,
    moments: FloatArray,
) -> tuple[float, float]:
    """Add ∫ λ_k · density over a row of pixels to `moments`; return the pieces' extent in it."""
    corners, count = pieces.shape[1], density.shape[0]
    x, heights, before, after = work[0], work[1], work[2], work[3]
    least, most = np.inf, -np.inf
    for n in range(number):
        low, high = np.inf, -np.inf
        for i in range(corners):
            x[i] = _value(values, pieces[n, i])
            low, high = min(low, x[i]), max(high, x[i])
        least, most = min(least, origin + low), max(most, origin + high)
        first = _pixel(planes, count, origin + low)
        last = min(_pixel(planes, count, origin + high), count - 1)
        if first > last:
            continue
        share = _share(pieces[n])
        before[:] = 0.0
        # The first step only takes away what lies before the first pixel.
        for j in range(max(first, 0) - 1 if first < 0 else first, last + 1):
            for i in range(corners):
                heights[i] = x[i] - (planes[j + 1] - origin)
            _below(pieces[n], heights, share, after)
            for k in range(corners):
                if j >= 0:  # rounding must not make a mass negative
                    moments[k] += density[j] * max(0.0, after[k] - before[k])
                before[k] = after[k]
    return least, most


@compiled
def _include(
    density: FloatArray,
    planes: FloatArray,
    low: float,
    high: float,
    rounding: float,
    bounds: FloatArray,
) -> None:
    """Widen `bounds` (2,) to the densities of a row's pixels that [low, high] reaches into."""
    count = density.shape[0]
    first = max(_pixel(planes, count, low + rounding), 0)
    last = min(_pixel(planes, count, high - rounding), count - 1)
    for k in range(first, last + 1):
        bounds[0], bounds[1] = min(bounds[0], density[k]), max(bounds[1], density[k])


@compiled
def image_overlaps(
    simplices: FloatArray,
    volumes: FloatArray,
    planes: FloatArray,
    density: FloatArray,
    rounding: float,
) -> tuple[FloatArray, FloatArray]:
    """Integrate a density (pixels along each of 3 axes) that is constant on pixels over cells.

    Cells are vertices (n, d+1, d) and volumes (n,); in the plane the first axis has one pixel and
    does not count. `planes` (d, longest + 1) are the sides of the pixels. A cell is cut into the
    slabs of its first axis, in space these into rows of the second; the pixels of a row follow
    from closed formulas. Each slab is cut from the whole: of what one cut leaves for the next, the
    number of pieces would grow and grow.

    Return the integrals of density times λ_k (n, d+1), and bounds (n, 2) of the density, 0 outside
    the grid, on each cell; for them it must reach further than `rounding` into a pixel.
    """
    number, corners, dimension = simplices.shape
    moments, bounds = np.zeros((number, corners)), np.zeros((number, 2))
    whole = np.eye(corners).reshape(1, corners, corners)
    slab = np.empty((2, _MOST_PIECES, corners, corners))
    row = np.empty((2, _MOST_PIECES, corners, corners))
    prism, work = np.empty((3, dimension, corners)), np.empty((4, corners))
    values, count = np.empty((dimension, corners)), np.empty(dimension, np.int64)
    for k in range(dimension):
        count[k] = density.shape[3 - dimension + k]
    for cell in range(number):
        apart, covered = False, True
        # Coordinates relative to a vertex keep the digits of small cells.
        origin = simplices[cell, 0]
        for k in range(dimension):
            values[k] = simplices[cell, :, k] - origin[k]
            low, high = simplices[cell, :, k].min(), simplices[cell, :, k].max()
            apart = apart or low >= planes[k, count[k]] or high <= planes[k, 0]
            covered = covered and low >= planes[k, 0] - rounding
            covered = covered and high <= planes[k, count[k]] + rounding
        if apart:
            continue
        bounds[cell, 0] = np.inf
        first, last = 0, 0
        if dimension == 3:
            low, high = simplices[cell, :, 0].min(), simplices[cell, :, 0].max()
            first = max(_pixel(planes[0], count[0], low), 0)
            last = min(_pixel(planes[0], count[0], high), count[0] - 1)
        for i in range(first, last + 1):
            meets_slab, n, pieces = True, 1, whole
            if dimension == 3:
                one, other = planes[0, i], planes[0, i + 1]
                meets_slab = high > one + rounding and low < other - rounding
                one, other = one - origin[0], other - origin[0]
                n = _cut_all(whole, 1, values[0], one, -1.0, prism, slab[0])
                n = _cut_all(slab[0], n, values[0], other, 1.0, prism, slab[1])
                pieces = slab[1]
            axis = dimension - 2
            least, most = _extent(pieces, n, values[axis])
            least, most = origin[axis] + least, origin[axis] + most
            start = max(_pixel(planes[axis], count[axis], least), 0)
            stop = min(_pixel(planes[axis], count[axis], most), count[axis] - 1)
            for j in range(start, stop + 1):
                one, other = planes[axis, j], planes[axis, j + 1]
                meets = meets_slab and most > one + rounding and least < other - rounding
                one, other = one - origin[axis], other - origin[axis]
                m = _cut_all(pieces, n, values[axis], one, -1.0, prism, row[0])
                m = _cut_all(row[0], m, values[axis], other, 1.0, prism, row[1])
                line, along = density[i, j], planes[axis + 1]
                left, right = _add_row(
                    row[1], m, values[-1], origin[-1], along, line, work, moments[cell]
                )
                if meets:
                    _include(line, along, left, right, rounding, bounds[cell])
        if not covered or bounds[cell, 0] == np.inf:
            bounds[cell, 0] = 0.0
        moments[cell] *= volumes[cell]
    return moments, bounds


# --- the simplices of another mesh ------------------------------------------------------------


@compiled
def _barycentric(
    points: FloatArray, vertices: FloatArray, gradients: FloatArray, result: FloatArray
) -> float:
    """Set the coordinates (d+1, m) of points (m, d) in a simplex; return the largest modulus."""
    reach = 1.0
    for j in range(vertices.shape[0]):
        # Relative to a vertex of the facet on which coordinate j vanishes.
        base = vertices[1] if j == 0 else vertices[0]
        for i in range(points.shape[0]):
            total, size = 0.0, 0.0
            for k in range(points.shape[1]):
                term = gradients[j, k] * (points[i, k] - base[k])
                total += term
                size += abs(term)
            # What is only rounding is a point on the facet: nothing is cut off or left over where
            # two meshes have facets in common.
            result[j, i] = 0.0 if abs(total) <= _FLAT * size else total
            reach = max(reach, abs(total))
    return reach


@compiled
def _add_pieces(
    pieces: FloatArray, number: int, values: FloatArray, volume: float, moments: FloatArray
) -> tuple[float, float]:
    """Add ∫ λ_k · density over pieces to `moments`; return the range of the density on them."""
    corners = pieces.shape[1]
    low, high = np.inf, -np.inf
    for n in range(number):
        # ∫ f g over a simplex is |P| (Σ f Σ g + Σ f g) / ((d+1)(d+2)), with sums over vertices.
        factor = volume * _share(pieces[n]) / (corners * (corners + 1))
        total = 0.0
        for i in range(corners):
            value = _value(values, pieces[n, i])
            low, high = min(low, value), max(high, value)
            total += value
        for k in range(corners):
            moment = 0.0
            for i in range(corners):
                moment += pieces[n, i, k] * (total + _value(values, pieces[n, i]))
            moments[k] += factor * max(0.0, moment)  # rounding must not make a mass negative
    return low, high


@compiled
def simplex_overlaps(
    owner: IntArray,
    other: IntArray,
    simplices: FloatArray,
    volumes: FloatArray,
    vertices: FloatArray,
    gradients: FloatArray,
    density: FloatArray,
    outer: BoolArray,
    rounding: float,
    moments: FloatArray,
    bounds: FloatArray,
    leaves: BoolArray,
) -> None:
    """Integrate a density that is affine on the simplices of one mesh over the cells of another.

    Cells are vertices (n, d+1, d) and volumes (n,), simplices vertices (C, d+1, d) with gradients
    of their barycentric coordinates, `density` (C, d+1) at their vertices, and `outer` (C, d+1)
    where nothing lies behind the facet opposite a vertex. Pairs of a cell and a simplex that may
    overlap come as `owner` (p,) and `other` (p,), each pair once.

    The integrals of density times λ_k are added to `moments` (n, d+1). Where a cell reaches further
    than `rounding` into a simplex, `bounds` (n, 2) of the density are widened, and `leaves` (n,) is
    set if the cell reaches across a facet with nothing behind it.
    """
    corners = vertices.shape[1]
    pieces = np.empty((2, _MOST_PIECES, corners, corners))
    prism = np.empty((3, corners - 1, corners))
    inside, values, tolerance = np.empty((corners, corners)), np.empty(corners), np.empty(corners)
    for pair in range(owner.shape[0]):
        cell, simplex = owner[pair], other[pair]
        reach = _barycentric(simplices[cell], vertices[simplex], gradients[simplex], inside)
        apart = False
        for j in range(corners):
            apart = apart or inside[j].max() <= 0.0
            tolerance[j] = rounding * np.abs(gradients[simplex, j]).sum()
        if apart:
            continue
        pieces[0, 0] = np.eye(corners)
        n, now = 1, 0
        touches, crosses = False, False
        # Facets with nothing behind them come last: then it is seen whether the cell reaches
        # across the facet itself, not only across its plane.
        for turn in range(2 * corners):
            j = turn % corners
            if n == 0 or outer[simplex, j] != (turn >= corners):
                continue
            low, high = _extent(pieces[now], n, inside[j])
            touches = touches or high <= tolerance[j]
            crosses = crosses or (outer[simplex, j] and low < -tolerance[j])
            if low < 0.0:
                n = _cut_all(pieces[now], n, inside[j], 0.0, -1.0, prism, pieces[1 - now])
                now = 1 - now
        if n == 0:
            continue
        for k in range(corners):
            values[k] = _value(density[simplex], inside[:, k])
        low, high = _add_pieces(pieces[now], n, values, volumes[cell], moments[cell])
        if touches:
            continue
        leaves[cell] = leaves[cell] or crosses
        least, most = density[simplex].min(), density[simplex].max()
        margin = _FLAT * reach * most
        bounds[cell, 0] = min(bounds[cell, 0], max(low - margin, least))
        bounds[cell, 1] = max(bounds[cell, 1], min(high + margin, most))
