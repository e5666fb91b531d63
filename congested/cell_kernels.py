"""Compiled loops of the cell search: filling bins, locating points, following segments.

Points have three coordinates here, the third one zero in 2D; a cell is given by the planes of its
facets. :mod:`congested.cell_search` prepares the arrays and explains the method.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from congested.compiled import compiler
from congested.geometry import FloatArray, IntArray

compiled = compiler(__file__)

Int32Array = npt.NDArray[np.int32]

# Stretches of a segment shorter than this part of it are not looked for after it left the cells.
_SHORTEST = 1e-13
# Steps that a walk may take without getting ahead, more than cells meet at a vertex.
_IDLE_STEPS = 200


@compiled
def _along(
    planes: FloatArray, cell: int, corner: int, x: FloatArray, v: FloatArray
) -> tuple[float, float]:
    """Distance of x from a facet of the cell (positive inside) and its rate along v."""
    n0, n1, n2 = planes[cell, corner, 0], planes[cell, corner, 1], planes[cell, corner, 2]
    distance = n0 * x[0] + n1 * x[1] + n2 * x[2] + planes[cell, corner, 3]
    return distance, n0 * v[0] + n1 * v[1] + n2 * v[2]


@compiled
def _bin_index(position: float, lower: float, bin_size: float, count: int) -> int:
    return min(count - 1, max(0, int((position - lower) / bin_size)))


@compiled
def fill_bins(
    boxes: FloatArray,
    planes: FloatArray,
    margin: float,
    lower: FloatArray,
    bin_size: FloatArray,
    shape: IntArray,
    counter: IntArray,
    members: Int32Array,
    fill: bool,
) -> None:
    """Count the cells of bin b in counter[b + 1], or write them from members[counter[b]] on."""
    corners = planes.shape[1]
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    half = 0.5 * bin_size
    for cell in range(boxes.shape[0]):
        for k in range(3):
            low[k] = _bin_index(boxes[cell, 0, k] - margin, lower[k], bin_size[k], shape[k])
            high[k] = _bin_index(boxes[cell, 1, k] + margin, lower[k], bin_size[k], shape[k])
        for i in range(low[0], high[0] + 1):
            x = lower[0] + (i + 0.5) * bin_size[0]
            for j in range(low[1], high[1] + 1):
                y = lower[1] + (j + 0.5) * bin_size[1]
                for k in range(low[2], high[2] + 1):
                    z = lower[2] + (k + 0.5) * bin_size[2]
                    # Leave out bins that lie altogether behind one of the cell's facets.
                    meets = True
                    for corner in range(corners):
                        plane = planes[cell, corner]
                        farthest = plane[0] * x + plane[1] * y + plane[2] * z + plane[3]
                        farthest += abs(plane[0]) * half[0] + abs(plane[1]) * half[1]
                        farthest += abs(plane[2]) * half[2]
                        if farthest < -margin:
                            meets = False
                            break
                    if meets:
                        b = (i * shape[1] + j) * shape[2] + k
                        if fill:
                            members[counter[b]] = cell
                            counter[b] += 1
                        else:
                            counter[b + 1] += 1


@compiled
def near_cells(
    boxes: FloatArray,
    cell_boxes: FloatArray,
    margin: float,
    lower: FloatArray,
    bin_size: FloatArray,
    shape: IntArray,
    first: IntArray,
    members: Int32Array,
    counter: IntArray,
    found: IntArray,
    fill: bool,
) -> None:
    """Count the cells whose boxes meet box b in counter[b + 1], or write them to counter[b] on."""
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    # A cell stands in several bins; it counts once for each box.
    seen = np.full(cell_boxes.shape[0], -1, np.int64)
    for box in range(boxes.shape[0]):
        count = 0
        for k in range(3):
            low[k] = _bin_index(boxes[box, 0, k], lower[k], bin_size[k], shape[k])
            high[k] = _bin_index(boxes[box, 1, k], lower[k], bin_size[k], shape[k])
        for i in range(low[0], high[0] + 1):
            for j in range(low[1], high[1] + 1):
                for k in range(low[2], high[2] + 1):
                    b = (i * shape[1] + j) * shape[2] + k
                    for entry in range(first[b], first[b + 1]):
                        cell = members[entry]
                        if seen[cell] == box:
                            continue
                        seen[cell] = box
                        meets = True
                        for axis in range(3):
                            below = boxes[box, 1, axis] < cell_boxes[cell, 0, axis] - margin
                            above = boxes[box, 0, axis] > cell_boxes[cell, 1, axis] + margin
                            meets = meets and not (below or above)
                        if meets:
                            if fill:
                                found[counter[box] + count] = cell
                            count += 1
        if not fill:
            counter[box + 1] = count


@compiled
def locate(
    points: FloatArray,
    planes: FloatArray,
    inverse_heights: FloatArray,
    lower: FloatArray,
    bin_size: FloatArray,
    shape: IntArray,
    first: IntArray,
    members: Int32Array,
    tolerance: float,
) -> tuple[IntArray, FloatArray]:
    """Return the owned cell in which each point lies deepest (-1: none), and how deep."""
    corners = planes.shape[1]
    found = np.full(points.shape[0], -1, np.int64)
    depth = np.full(points.shape[0], -np.inf)
    for p in range(points.shape[0]):
        b = 0
        outside = False
        for k in range(3):
            position = points[p, k]
            if position < lower[k] or position > lower[k] + bin_size[k] * shape[k]:
                outside = True
                break
            b = b * shape[k] + _bin_index(position, lower[k], bin_size[k], shape[k])
        if outside:
            continue
        best = -1
        for entry in range(first[b], first[b + 1]):
            cell = members[entry]
            smallest = np.inf
            for corner in range(corners):
                plane = planes[cell, corner]
                distance = plane[3]
                for k in range(3):
                    distance += plane[k] * points[p, k]
                smallest = min(smallest, distance * inverse_heights[cell, corner])
            if smallest > depth[p]:
                depth[p] = smallest
                best = cell
        if depth[p] >= -tolerance:
            found[p] = best
    return found, depth


@compiled
def sort_keys(
    starts: FloatArray, ends: FloatArray, lower: FloatArray, extent: FloatArray
) -> IntArray:
    """Place of each segment on a Morton curve through start and end, 32 steps per coordinate."""
    keys = np.zeros(starts.shape[0], np.int64)
    steps = np.empty(6, np.int64)
    for s in range(starts.shape[0]):
        for k in range(3):
            steps[k] = _bin_index(starts[s, k], lower[k], extent[k] / 32, 32)
            steps[3 + k] = _bin_index(ends[s, k], lower[k], extent[k] / 32, 32)
        for bit in range(4, -1, -1):
            for k in range(6):
                keys[s] = 2 * keys[s] + ((steps[k] >> bit) & 1)
    return keys


@compiled
def deposit(
    starts: FloatArray,
    ends: FloatArray,
    weights: FloatArray,
    planes: FloatArray,
    neighbours: Int32Array,
    lower: FloatArray,
    bin_size: FloatArray,
    shape: IntArray,
    first: IntArray,
    members: Int32Array,
    masses: FloatArray,
) -> None:
    """Add each cell's share of the weights of the segments to `masses`."""
    x, v = np.empty(3), np.empty(3)
    for s in range(starts.shape[0]):
        # The segment is x + t v; only t in [t, t_out] is inside the grid of bins.
        t, t_out = 0.0, 1.0
        for k in range(3):
            x[k] = starts[s, k]
            v[k] = ends[s, k] - starts[s, k]
            upper = lower[k] + bin_size[k] * shape[k]
            if v[k] == 0.0:
                if x[k] < lower[k] or x[k] > upper:
                    t_out = -1.0
            else:
                t_low, t_high = (lower[k] - x[k]) / v[k], (upper - x[k]) / v[k]
                t = max(t, min(t_low, t_high))
                t_out = min(t_out, max(t_low, t_high))
        # Find a cell through the bins, walk from neighbour to neighbour until the segment ends or
        # leaves the rank's cells; in the latter case look for a place where it comes back.
        while t < t_out:
            cell, t = _next_cell(x, v, t, t_out, planes, lower, bin_size, shape, first, members)
            if cell < 0:
                break
            t = _walk(cell, x, v, t, weights[s], planes, neighbours, masses)


@compiled
def _next_cell(
    x: FloatArray,
    v: FloatArray,
    t: float,
    t_out: float,
    planes: FloatArray,
    lower: FloatArray,
    bin_size: FloatArray,
    shape: IntArray,
    first: IntArray,
    members: Int32Array,
) -> tuple[int, float]:
    """Return the first cell that x + t v meets from t on, and the t where it is entered."""
    corners = planes.shape[1]
    index, step = np.empty(3, np.int64), np.empty(3, np.int64)
    crossing = np.empty(3)
    for k in range(3):
        index[k] = _bin_index(x[k] + t * v[k], lower[k], bin_size[k], shape[k])
        step[k] = 1 if v[k] > 0.0 else -1
        crossing[k] = np.inf
        if v[k] != 0.0:
            border = lower[k] + (index[k] + (1 if v[k] > 0.0 else 0)) * bin_size[k]
            crossing[k] = (border - x[k]) / v[k]
    t0 = t
    while True:
        axis = 0
        if crossing[1] < crossing[axis]:
            axis = 1
        if crossing[2] < crossing[axis]:
            axis = 2
        # Rounding may put the first crossing a little before t: an empty stretch.
        t1 = max(t0, min(crossing[axis], t_out))
        b = (index[0] * shape[1] + index[1]) * shape[2] + index[2]
        found, found_at = -1, np.inf
        for entry in range(first[b], first[b + 1]):
            cell = members[entry]
            enter, leave = t0, t1
            for corner in range(corners):
                distance, slope = _along(planes, cell, corner, x, v)
                at_0, at_1 = distance + slope * t0, distance + slope * t1
                if at_0 <= 0.0 and at_1 <= 0.0:
                    leave = -1.0
                    break
                if at_0 < 0.0:
                    enter = max(enter, -distance / slope)
                elif at_1 < 0.0:
                    leave = min(leave, -distance / slope)
            if leave - enter > _SHORTEST and enter < found_at:
                found, found_at = cell, enter
        if found >= 0 or t1 >= t_out:
            return found, found_at
        t0 = t1
        index[axis] += step[axis]
        if index[axis] < 0 or index[axis] >= shape[axis]:
            return -1, np.inf
        border = lower[axis] + (index[axis] + (1 if step[axis] > 0 else 0)) * bin_size[axis]
        crossing[axis] = (border - x[axis]) / v[axis]


@compiled
def _walk(
    cell: int,
    x: FloatArray,
    v: FloatArray,
    t: float,
    weight: float,
    planes: FloatArray,
    neighbours: Int32Array,
    masses: FloatArray,
) -> float:
    """Follow x + t v from a cell on; return 1 at its end, else the t where it leaves the cells."""
    corners = planes.shape[1]
    idle = 0
    while True:
        t_exit, through = np.inf, -1
        for corner in range(corners):
            distance, slope = _along(planes, cell, corner, x, v)
            if slope < 0.0:
                crossing = -distance / slope
                if crossing < t_exit:
                    t_exit, through = crossing, corner
        if t_exit >= 1.0:
            masses[cell] += weight * (1.0 - t)
            return 1.0
        if t_exit > t:
            masses[cell] += weight * (t_exit - t)
            t = t_exit
            idle = 0
        else:
            # Rounding at a vertex; should the walk turn round it in circles, start anew behind.
            idle += 1
            if idle > _IDLE_STEPS:
                return t + _SHORTEST
        cell = neighbours[cell, through]
        if cell < 0:
            return t
