"""Where particles are on their paths from moment to moment, as pictures that move need it.

On the clock of Dacorogna and Moser, ρ_t = (1 − t) μ + t ν, particles jump in no time through places
where ρ_t vanishes; `congested.flow.particles.move` knows it exactly. Here every particle goes at a
constant speed of its own from the beginning to the end: paths, ends and the time-averaged momentum
are the same, and the eye can follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from congested.compiled import compiler
from congested.flow.particles import Paths
from congested.geometry import FloatArray, IntArray

compiled = compiler(__file__)


@dataclass(frozen=True, eq=False)
class Frames:
    """n particles at f times.

    Attributes
    ----------
    times
        The times (f,), from 0 to 1.
    positions
        Where the particles are then (n, f, d).
    mass
        Their masses (n,).
    congestion
        The factor 1 + |m|/(2λσ) on the piece of path where they are then (n, f).
    """

    times: FloatArray
    positions: FloatArray
    mass: FloatArray
    congestion: FloatArray

    @property
    def number(self) -> int:
        """Number n of particles."""
        return len(self.mass)


def frames_at_constant_speed(paths: Paths, mass: FloatArray, number: int) -> Frames:
    """Return where particles are when each goes along its path at a constant speed.

    Parameters
    ----------
    paths
        The paths of n particles. A path without length is a particle that stays.
    mass
        The masses (n,) of the particles.
    number
        Steps: the frames are at the number + 1 times 0, 1/number, …, 1.

    Returns
    -------
    Frames
        First and last positions are the paths' own first and last points.

    Raises
    ------
    ValueError
        If there is no step, or a mass too many or too few.
    """
    if number < 1:
        raise ValueError(f"found {number} steps; allowed: 1 or more")
    if len(mass) != paths.number:
        raise ValueError(f"found {len(mass)} masses for {paths.number} paths")
    shape = paths.number, number + 1
    positions = np.empty((*shape, paths.points.shape[1]))
    congestion = np.empty(shape)
    _go_along(paths.offsets, paths.points, paths.congestion, positions, congestion)
    times = np.arange(number + 1) / number
    return Frames(times, positions, np.asarray(mass, dtype=np.float64), congestion)


@compiled
def _way(points: FloatArray, point: int) -> float:
    """Return the length of the piece of path behind a point."""
    square = 0.0
    for k in range(points.shape[1]):
        square += (points[point + 1, k] - points[point, k]) ** 2
    return math.sqrt(square)


@compiled
def _go_along(
    offsets: IntArray,
    points: FloatArray,
    factors: FloatArray,
    positions: FloatArray,
    congestion: FloatArray,
) -> None:
    """Write places (n, f, d) and factors (n, f) at equal parts of the lengths of paths."""
    steps = positions.shape[1] - 1
    for p in range(positions.shape[0]):
        here, last = offsets[p], offsets[p + 1] - 1
        total = 0.0
        for q in range(here, last):
            total += _way(points, q)
        passed = 0.0
        way = _way(points, here) if here < last else 0.0
        for frame in range(steps + 1):
            wanted = total * frame / steps
            while here < last - 1 and passed + way < wanted:
                passed += way
                here += 1
                way = _way(points, here)
            part = min((wanted - passed) / way, 1.0) if way > 0.0 else 0.0
            behind = min(here + 1, last)
            for k in range(points.shape[1]):
                positions[p, frame, k] = (1.0 - part) * points[here, k] + part * points[behind, k]
            congestion[p, frame] = factors[here]
        for k in range(points.shape[1]):  # whatever rounding says
            positions[p, steps, k] = points[last, k]
