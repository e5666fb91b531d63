"""Compiled loops of the flow: particles walk through cells on exact streamlines.

In a cell T the RT0 momentum is m(x) = a + b x, so that streamlines are straight. With
g_i = F_i / (d |T|), F_i the flux out through the facet opposite vertex i, and b = Σ g_i, the
barycentric coordinates of a point that moves along m obey

    dλ_i/ds = b λ_i − g_i,    λ_i(s) = λ_i(0) + φ(s) (b λ_i(0) − g_i),    φ(s) = (e^{bs} − 1)/b.

Only facets with g_i > 0 can be reached, at φ = λ_i / (g_i − b λ_i): a particle never leaves through
a wall. Mass at time t moves with m/ρ, ρ(t) = (1 − t) μ + t ν, hence ds = dt/ρ(t), and with
c = ν − μ also ρ(t) = ρ(0) e^{cs}: entry, exit and time have closed forms, and no step is an
approximation. Where ρ = 0 a cell is crossed in no time.

A momentum whose divergence is μ − ν + r, not μ − ν, creates mass at the rate r/ρ: masses grow like
e^{rs}.
"""

from __future__ import annotations

import math

import numpy as np

from congested.compiled import compiler
from congested.geometry import FloatArray, IntArray

compiled = compiler(__file__)


@compiled
def exp_integral(rate: float, duration: float) -> float:
    """Return ∫₀^s e^{bσ} dσ = (e^{bs} − 1)/b."""
    if rate == 0.0:
        return duration
    return math.expm1(rate * duration) / rate


@compiled
def exp_integral_inverse(rate: float, integral: float) -> float:
    """Return the s with (e^{bs} − 1)/b = φ; infinite where there is none."""
    if rate == 0.0:
        return integral
    product = rate * integral
    if product <= -1.0:
        return math.inf
    return math.log1p(product) / rate


@compiled
def _next_facet(rates: FloatArray, expansion: float, barycentric: FloatArray) -> tuple[int, float]:
    """Return the facet through which a particle will leave its cell, and φ there; or −1."""
    facet, nearest = -1, math.inf
    for i in range(barycentric.shape[0]):
        speed = rates[i] - expansion * barycentric[i]
        if rates[i] > 0.0 and speed > 0.0:
            reached = barycentric[i] / speed
            if reached < nearest:
                facet, nearest = i, reached
    return facet, nearest


@compiled
def _duration_until(density: float, change: float, passed: float) -> float:
    """Return ∫ dt/ρ over a time in which the density changes at a constant rate."""
    if passed <= 0.0:
        return 0.0
    if density <= 0.0:
        return math.inf
    return exp_integral_inverse(change, passed / density)


@compiled
def _advance(
    phi: float, expansion: float, rates: FloatArray, barycentric: FloatArray, moved: FloatArray
) -> None:
    """Write where φ leads a particle."""
    total = 0.0
    for i in range(barycentric.shape[0]):
        moved[i] = max(barycentric[i] + phi * (expansion * barycentric[i] - rates[i]), 0.0)
        total += moved[i]
    for i in range(barycentric.shape[0]):
        moved[i] /= total


@compiled
def _enter(cells: IntArray, cell: int, other: int, left: FloatArray, entered: FloatArray) -> None:
    """Write the barycentric coordinates in the cell behind a facet."""
    corners = cells.shape[1]
    for i in range(corners):
        entered[i] = 0.0
        for j in range(corners):
            if cells[cell, j] == cells[other, i]:
                entered[i] = left[j]


@compiled
def _place(
    vertices: FloatArray, corners: IntArray, barycentric: FloatArray, point: FloatArray
) -> None:
    """Write the point with given barycentric coordinates."""
    for k in range(vertices.shape[1]):
        point[k] = 0.0
        for i in range(corners.shape[0]):
            point[k] += barycentric[i] * vertices[corners[i], k]


@compiled
def walk(
    vertices: FloatArray,
    cells: IntArray,
    neighbours: IntArray,
    rates: FloatArray,
    source: FloatArray,
    target: FloatArray,
    growth: FloatArray,
    compliance: FloatArray,
    end: float,
    most: int,
    cell: IntArray,
    barycentric: FloatArray,
    time: FloatArray,
    mass: FloatArray,
    length: FloatArray,
    cost: FloatArray,
    work: FloatArray,
    crossings: IntArray,
    displacement: FloatArray,
    exchanged: FloatArray,
    instants: FloatArray,
    positions: FloatArray,
    factors: FloatArray,
    offsets: IntArray,
    points: FloatArray,
    marks: FloatArray,
) -> None:
    """Move n particles until a time, in place.

    Parameters
    ----------
    vertices, cells, neighbours
        Coordinates (V, d), vertex numbers (C, d+1), and the cell behind the facet opposite each
        vertex (C, d+1), negative at walls.
    rates
        g (C, d+1).
    source, target, growth
        Densities μ, ν and rate r (C,).
    compliance
        1/κ = 1/(2λσ) (C,), 0 where nothing flows.
    end
        Time at which to stop, at most 1.
    most
        Facets that a particle may cross; one that needs more stays where it is then, with a time
        below `end`.
    cell, barycentric, time, mass
        Particles (n,), (n, d+1), (n,), (n,): from here, to there.
    length, cost
        ∫ ds and ∫ (1 + |m|/κ) ds along their ways (n,), added to what is there.
    work
        The same integrals (n, 2) of mass · ds, added.
    crossings
        Facets that they crossed (n,), added.
    displacement
        ∫ mass · dx in each cell (C, d); added.
    exchanged
        Mass that was created and lost in each cell (C, 2); added.
    instants, positions, factors
        Times (f,) ascending, where the particles are then (n, f, d), and the factor 1 + |m|/κ
        there (n, f), written; f may be 0.
    offsets, points, marks
        Where the path of each particle begins (n,) among the points (k, d) at which a path enters
        cells and ends; marks (k, 3) are time, cost so far, and the factor 1 + |m|/κ from there on.
        Nothing is written if there are no offsets.
    """
    corners = cells.shape[1]
    dimension = corners - 1
    b = np.empty(corners)
    moved = np.empty(corners)
    velocity = np.empty(dimension)
    place = np.empty(dimension)
    recorded = offsets.shape[0] > 0
    for p in range(cell.shape[0]):
        here, now = cell[p], time[p]
        for i in range(corners):
            b[i] = barycentric[p, i]
        frame = 0
        while frame < instants.shape[0] and instants[frame] < now:
            frame += 1
        count = 0
        while True:
            expansion = 0.0
            for i in range(corners):
                expansion += rates[here, i]
            change = target[here] - source[here]
            density = (1.0 - now) * source[here] + now * target[here]
            facet, phi = _next_facet(rates[here], expansion, b)
            left = False
            span = math.inf
            until = end
            if facet >= 0:
                span = exp_integral_inverse(expansion, phi)
                # An empty cell takes no time, however long its duration in s.
                passed = 0.0 if density <= 0.0 else density * exp_integral(change, span)
                left = now + passed <= end
                if left:
                    until = now + passed
            if not left:
                span = _duration_until(density, change, end - now)
                phi = exp_integral(expansion, span)

            # Momentum at the entry, m = Σ (dλ_i/ds) x_i.
            speed = 0.0
            for k in range(dimension):
                velocity[k] = 0.0
                for i in range(1, corners):
                    rise = expansion * b[i] - rates[here, i]
                    edge = vertices[cells[here, i], k] - vertices[cells[here, 0], k]
                    velocity[k] += rise * edge
                speed += velocity[k] ** 2
            speed = math.sqrt(speed)
            if speed == 0.0 or phi == math.inf:
                phi = 0.0

            if recorded:
                _place(vertices, cells[here], b, points[offsets[p] + count])
                marks[offsets[p] + count, 0] = now
                marks[offsets[p] + count, 1] = cost[p]
                marks[offsets[p] + count, 2] = 1.0 + compliance[here] * speed
            while frame < instants.shape[0] and instants[frame] <= until:
                part = _duration_until(density, change, instants[frame] - now)
                reached = min(exp_integral(expansion, part), phi)
                _advance(reached, expansion, rates[here], b, moved)
                _place(vertices, cells[here], moved, place)
                for k in range(dimension):
                    positions[p, frame, k] = place[k]
                gained = expansion * reached * speed
                factors[p, frame] = 1.0 + compliance[here] * (speed + gained)
                frame += 1

            way = phi * speed
            length[p] += way
            # |m| grows by b per unit of length.
            cost[p] += way + compliance[here] * way * (speed + 0.5 * expansion * way)
            before = mass[p]
            # Mass that would become infinite, where there is none at all, stays what it is.
            rate = growth[here] if span < math.inf or growth[here] < 0.0 else 0.0
            carried, squared = before * phi, before * phi * (1.0 + 0.5 * expansion * phi)
            if rate != 0.0:
                if phi > 0.0:
                    carried = before * exp_integral(rate + expansion, span)
                    squared = before * exp_integral(rate + 2.0 * expansion, span)
                mass[p] = before * math.exp(rate * span)
                exchanged[here, 0] += max(mass[p] - before, 0.0)
                exchanged[here, 1] += max(before - mass[p], 0.0)
            work[p, 0] += carried * speed
            work[p, 1] += carried * speed + compliance[here] * squared * speed**2
            if speed > 0.0:
                for k in range(dimension):
                    displacement[here, k] += carried * velocity[k]

            _advance(phi, expansion, rates[here], b, moved)
            now = until
            if not left:
                for i in range(corners):
                    b[i] = moved[i]
                break
            moved[facet] = 0.0
            other = neighbours[here, facet]
            if other < 0 or count >= most:
                for i in range(corners):
                    b[i] = moved[i]
                break
            _enter(cells, here, other, moved, b)
            here = other
            count += 1
        if recorded:
            last = offsets[p] + count + 1
            _place(vertices, cells[here], b, points[last])
            marks[last, 0] = now
            marks[last, 1] = cost[p]
            marks[last, 2] = marks[last - 1, 2]
        _place(vertices, cells[here], b, place)
        while frame < instants.shape[0]:  # of a particle that did not get so far
            for k in range(dimension):
                positions[p, frame, k] = place[k]
            factors[p, frame] = 1.0
            frame += 1
        cell[p], time[p] = here, now
        crossings[p] += count
        for i in range(corners):
            barycentric[p, i] = b[i]
