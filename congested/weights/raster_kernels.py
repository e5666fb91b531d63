r"""Compiled integrals of pixel images along all rays of one direction: sums over sheared columns.

In units of pixels a ray that is steeper in x than in y is Y = q + τX with |τ| ≤ 1. Its integral
through column i is exactly (M_i(q + τ(i + 1)) − M_i(q + τi))/τ, where M_i is the integral of the
pixels of the column up to a height, a piecewise linear function. The sums over columns, for all q
of a fine grid, are a table from which the integral of a ray from any point, forwards and
backwards, is read by linear interpolation.
"""

from __future__ import annotations

import math

import numpy as np

from congested.compiled import compiler
from congested.geometry import FloatArray

compiled = compiler(__file__)

# Part of an integral that is put down to rounding.
_ROUNDING = 1e-13


@compiled
def _padded_sums(columns: FloatArray, padding: int) -> FloatArray:
    """Return each column's integrals up to the lower side of each pixel, (n, m + 1 + 2 padding).

    The image is continued by nothing, below and above.
    """
    n, m = columns.shape
    sums = np.zeros((n, m + 1 + 2 * padding))
    for i in range(n):
        for j in range(m):
            sums[i, padding + j + 1] = sums[i, padding + j] + columns[i, j]
        for j in range(padding):
            sums[i, padding + m + 1 + j] = sums[i, padding + m]
    return sums


@compiled
def ray_table(columns: FloatArray, slope: float, per_pixel: int) -> tuple[FloatArray, float]:
    """Sum up the columns of an image along rays.

    Parameters
    ----------
    columns
        Values of the pixels (n, m), a column per row of the array.
    slope
        τ, at most one in size and not zero.
    per_pixel
        Rays per pixel.

    Returns
    -------
    tuple
        Sums (n + 1, rays) over the columns before each column, in units of pixels along X, and
        the q of the first ray.
    """
    n, m = columns.shape
    padding = n + 4
    sums = _padded_sums(columns, padding)
    lowest = math.floor(min(0.0, -slope * n)) - 1.0
    high = math.ceil(m + max(0.0, -slope * n)) + 1
    pixels = int(high - lowest)
    table = np.zeros((n + 1, pixels * per_pixel))
    for i in range(n):
        for first in range(per_pixel):
            # Rays one pixel apart cut the column's pixels alike: the inner loop has no branches.
            start = lowest + first / per_pixel + slope * i
            j, k = math.floor(start), math.floor(start + slope)
            a, b = start - j, start + slope - k
            inverse = 1.0 / slope
            left = sums[i, j + padding : j + padding + pixels + 1]
            right = sums[i, k + padding : k + padding + pixels + 1]
            total, longer = table[i, first::per_pixel], table[i + 1, first::per_pixel]
            for p in range(pixels):
                # In this form equal sums give nothing, and not a rounding error.
                before = left[p] + a * (left[p + 1] - left[p])
                after = right[p] + b * (right[p + 1] - right[p])
                longer[p] = total[p] + (after - before) * inverse
    return table, lowest


@compiled
def read_table(
    table: FloatArray,
    lowest: float,
    slope: float,
    per_pixel: int,
    x: float,
    y: float,
) -> tuple[float, float]:
    """Return the integrals behind and ahead of the point (x, y), in units of pixels along X."""
    columns, rays = table.shape[0] - 1, table.shape[1]
    position = (y - slope * x - lowest) * per_pixel
    if position <= 0.0 or position >= rays - 1:
        return 0.0, 0.0
    k = int(position)
    b = position - k
    x = min(max(x, 0.0), columns * 1.0)
    i = min(int(x), columns - 1)
    a = x - i
    low = (1.0 - b) * table[i, k] + b * table[i, k + 1]
    high = (1.0 - b) * table[i + 1, k] + b * table[i + 1, k + 1]
    behind = (1.0 - a) * low + a * high
    whole = (1.0 - b) * table[columns, k] + b * table[columns, k + 1]
    ahead = whole - behind
    # What is left of differences where there is nothing.
    if ahead < _ROUNDING * whole:
        ahead = 0.0
    return behind, ahead


@compiled
def add_direction(
    first: FloatArray,
    first_box: FloatArray,
    second: FloatArray,
    second_box: FloatArray,
    angle: float,
    weight: float,
    per_pixel: int,
    points: FloatArray,
    values: FloatArray,
) -> None:
    """Add what rays in one direction, and against it, contribute to the weight's density.

    Parameters
    ----------
    first, second
        Densities of the pixels of the two images (n, m): x along the rows of the array.
    first_box, second_box
        Lower corner and size of a pixel (4,) of each.
    angle, weight
        The direction, not along an axis, and its weight in the rule over half of the circle.
    per_pixel
        Rays per pixel.
    points
        Points (k, 2).
    values
        Densities (k,), to which is added.
    """
    behind, ahead = np.zeros((2, points.shape[0])), np.zeros((2, points.shape[0]))
    u, v = math.cos(angle), math.sin(angle)
    for image in range(2):
        pixels = second if image else first
        box = second_box if image else first_box
        rate_x, rate_y = u / box[2], v / box[3]
        steep = abs(rate_y) > abs(rate_x)
        if steep:
            columns = np.ascontiguousarray(pixels.T)
            slope, rate = rate_x / rate_y, rate_y
        else:
            columns = pixels
            slope, rate = rate_y / rate_x, rate_x
        table, lowest = ray_table(columns, slope, per_pixel)
        for k in range(points.shape[0]):
            x = (points[k, 0] - box[0]) / box[2]
            y = (points[k, 1] - box[1]) / box[3]
            if steep:
                x, y = y, x
            before, after = read_table(table, lowest, slope, per_pixel, x, y)
            # From pixels along the columns to length along the ray, and to its sense.
            before, after = before / abs(rate), after / abs(rate)
            if rate < 0.0:
                before, after = after, before
            behind[image, k], ahead[image, k] = before, after
    for k in range(points.shape[0]):
        values[k] += weight * (ahead[0, k] * behind[1, k] + behind[0, k] * ahead[1, k])
