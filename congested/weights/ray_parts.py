"""Measures of the plane as numbers for the compiled loops of the ray formula."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np

from congested.geometry import FloatArray, IntArray
from congested.measures.base import Measure
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.measures.radial import ball_volume
from congested.measures.ray_funnels import Funnels
from congested.measures.ray_monotone import RayMonotonePair, RayMonotoneSource
from congested.measures.uniform import UniformBall, UniformBox
from congested.weights.ray_density import ATOMS, FUNNELS, PAIRS, FunnelTables, RayTables
from congested.weights.ray_moments import (
    BOX,
    CENTER,
    DISC,
    GAUSSIAN,
    KIND,
    NUMBERS,
    RADIUS,
    ROW_LENGTH,
)

# Beyond so many standard deviations a Gaussian has 1e-12 of its mass.
_REACH = 7.5
# Shells of a funnel, each half of the next; at 2^−12 of the ray's length from the tip the last one
# has an eighth of the mass even for p = 8, but hardly a cell that could see its structure.
_SHELLS = 12
# Longest sector of directions, as a part of the circle.
_SECTOR = 1.0 / 16.0
# Gauss points of a cluster seen from far, across and along the rays, and for all inner shells.
_FAR_POINTS, _INNER_POINTS = (2, 2), (2, 3)
# Gauss points for the mass of a sector.
_EXACT = 16
# Directions in which breaks of a funnel's length are looked for before they are bisected.
_SCAN = 4096


def has_parts(measure: Measure) -> bool:
    """Whether rays through the measure have closed-form integrals."""
    return isinstance(measure, GaussianMixture | UniformBox | UniformBall)


def parts_of(measure: Measure) -> FloatArray:
    """Return the parts (P, 9) of a measure that has such."""
    if isinstance(measure, GaussianMixture):
        means, whitening, log_factors = measure.exponents()
        rows = np.zeros((len(means), ROW_LENGTH))
        rows[:, KIND] = GAUSSIAN
        rows[:, CENTER : CENTER + 2] = means
        # The longest axis of the covariance is one over the smallest singular value.
        rows[:, RADIUS] = _REACH / np.linalg.norm(whitening, ord=-2, axis=(1, 2))
        rows[:, NUMBERS : NUMBERS + 3] = whitening[:, [0, 1, 1], [0, 0, 1]]
        rows[:, NUMBERS + 3] = log_factors
        return rows
    rows = np.zeros((1, ROW_LENGTH))
    if isinstance(measure, UniformBox):
        sides = measure.upper - measure.lower
        rows[0, KIND] = BOX
        rows[0, CENTER : CENTER + 2] = 0.5 * (measure.lower + measure.upper)
        rows[0, RADIUS] = 0.5 * np.linalg.norm(sides)
        rows[0, NUMBERS : NUMBERS + 4] = np.concatenate([measure.lower, measure.upper])
        rows[0, NUMBERS + 4] = 1.0 / np.prod(sides)
        return rows
    assert isinstance(measure, UniformBall)
    rows[0, KIND] = DISC
    rows[0, CENTER : CENTER + 2] = measure.center
    rows[0, RADIUS] = measure.radius
    rows[0, NUMBERS] = 1.0 / ball_volume(2, measure.radius)
    return rows


@lru_cache(maxsize=64)
def _gauss(number: int) -> tuple[FloatArray, FloatArray]:
    """Return nodes and weights of the Gauss rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(number)
    return 0.5 * (nodes + 1.0), 0.5 * weights


def _directions(sector: FloatArray, number: int) -> tuple[FloatArray, FloatArray]:
    """Return unit vectors (m, 2) and weights (m,) of a Gauss rule for an interval of angles."""
    nodes, weights = _gauss(number)
    width = sector[1] - sector[0]
    angles = sector[0] + width * nodes
    return np.stack([np.cos(angles), np.sin(angles)], axis=1), width * weights


def _sectors(funnels: Funnels, n: int) -> list[FloatArray]:
    """Cut the circle where the length of a funnel's rays has kinks, and then into short pieces."""

    def active(angles: FloatArray) -> IntArray:
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return (directions @ funnels.slopes[n].T + funnels.offsets[n]).argmax(axis=1)

    low = 2.0 * math.pi * np.arange(_SCAN) / _SCAN
    high = low + 2.0 * math.pi / _SCAN
    below, above = active(low), active(high)
    kinks = np.flatnonzero(below != above)
    low, high, below = low[kinks], high[kinks], below[kinks]
    for _ in range(50):
        middle = 0.5 * (low + high)
        same = active(middle) == below
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    breaks = low if len(low) else np.zeros(1)
    sectors = []
    for start, end in itertools.pairwise(np.append(breaks, breaks[0] + 2.0 * math.pi)):
        pieces = max(1, math.ceil((end - start) / (2.0 * math.pi * _SECTOR) - 1e-9))
        steps = np.linspace(start, end, pieces + 1)
        sectors += [steps[k : k + 2] for k in range(pieces)]
    return sectors


class _FunnelPoints:
    """Collects points of a ray-monotone source, of one sector and between two shells at a time."""

    def __init__(self, pair: RayMonotonePair) -> None:
        self._funnels, self._exponent = pair.funnels, 2.0 / pair.power
        self._density = 0.5 * (2.0 * pair.half_width) ** -2
        self.points: list[FloatArray] = []
        self.masses: list[FloatArray] = []
        self._number = 0

    def add(
        self, n: int, sector: FloatArray, shares: tuple[float, float], numbers: tuple[int, int]
    ) -> tuple[int, int]:
        """Add points and return where they stand.

        With u = (s/R)^(2/p) the mass is (ρ₀ R²/2) du dv: Gauss rules in u and over directions.

        Parameters
        ----------
        n, sector
            Funnel and interval of angles.
        shares
            Interval of s/R.
        numbers
            Points across and along the rays.
        """
        directions, direction_weights = _directions(sector, numbers[0])
        length = 1.0 / self._funnels.inverse_radius(n, directions)
        # Few directions may miss some of the mass; where it is matters less than how much it is.
        fine, fine_weights = _directions(sector, _EXACT)
        whole = fine_weights @ self._funnels.inverse_radius(n, fine) ** -2
        across = direction_weights * length**2
        across *= self._density * whole / across.sum()
        low, high = shares[0] ** self._exponent, shares[1] ** self._exponent
        nodes, weights = _gauss(numbers[1])
        distance = length[:, None] * (low + (high - low) * nodes) ** (1.0 / self._exponent)
        offset = distance[..., None] * directions[:, None]
        self.points.append((self._funnels.centers[n] + offset).reshape(-1, 2))
        self.masses.append(((high - low) * across[:, None] * weights).ravel())
        start = self._number
        self._number += len(self.masses[-1])
        return start, self._number


def _funnel_tables(pair: RayMonotonePair, order: int) -> FunnelTables:
    """Make the clusters of points of a ray-monotone source.

    Parameters
    ----------
    pair
        The pair.
    order
        Gauss points of a cluster seen from near, across and along the rays.
    """
    funnels = pair.funnels
    collected = _FunnelPoints(pair)
    edges = np.append(0.5 ** np.arange(_SHELLS), 0.0)
    clusters, ranges, reaches, first_sector = [], [], [], [0]
    inner = np.zeros((len(funnels.centers), _SHELLS, 2), dtype=np.int64)
    for n in range(len(funnels.centers)):
        sectors = _sectors(funnels, n)
        first_sector.append(first_sector[-1] + len(sectors))
        for sector, (high, low) in itertools.product(sectors, itertools.pairwise(edges)):
            far = collected.add(n, sector, (low, high), _FAR_POINTS)
            near = collected.add(n, sector, (low, high), (order, order))
            middle = collected.points[-1].mean(axis=0)
            size = np.linalg.norm(collected.points[-1] - middle, axis=1).max()
            clusters.append(np.append(middle, size))
            ranges.append(far + near)
        for k in range(_SHELLS):
            places = [
                collected.add(n, sector, (0.0, edges[k]), _INNER_POINTS) for sector in sectors
            ]
            inner[n, k] = places[0][0], places[-1][1]
        lengths = [1.0 / funnels.inverse_radius(n, _directions(s, order)[0]) for s in sectors]
        reaches.append(np.concatenate(lengths).max())
    return FunnelTables(
        funnels.centers.copy(), funnels.biases, funnels.offsets, funnels.slopes, pair.half_width,
        pair.power, np.array(reaches), np.array(first_sector), np.array(clusters),
        np.array(ranges), inner, np.concatenate(collected.points),
        np.concatenate(collected.masses), 3 * order,
    )  # fmt: skip


def _no_funnels() -> FunnelTables:
    none, points = np.zeros(0), np.zeros((0, 2))
    return FunnelTables(
        points, none, np.zeros((0, 0)), np.zeros((0, 0, 2)), 1.0, 1.0, none, np.zeros(1, np.int64),
        np.zeros((0, 3)), np.zeros((0, 4), np.int64), np.zeros((0, 0, 2), np.int64), points, none,
        1,
    )  # fmt: skip


def tables_of(source: Measure, target: Measure, size: float, order: int) -> RayTables | None:
    """Return the numbers of a pair, None if the ray formula does not serve it.

    Parameters
    ----------
    source, target
        The pair; which is which does not matter, since σ is the same.
    size
        Diagonal of the domain.
    order
        Gauss points per stretch of directions and per cluster seen from near.
    """
    if not has_parts(target):
        source, target = target, source
    if not has_parts(target) or source.dimension != 2:
        return None
    nothing: FloatArray = np.zeros((0, ROW_LENGTH))
    atoms: FloatArray = np.zeros((0, 2))
    atom_masses: FloatArray = np.zeros(0)
    funnels = _no_funnels()
    first, second, facing = nothing, nothing, parts_of(target)
    if has_parts(source):
        kind, first, second, facing = PAIRS, parts_of(source), facing, nothing
    elif isinstance(source, Points):
        assert source.weights is not None
        used = source.weights > 0.0
        kind, atoms, atom_masses = ATOMS, source.points[used].copy(), source.weights[used].copy()
    elif isinstance(source, RayMonotoneSource):
        kind, funnels = FUNNELS, _funnel_tables(source.pair, order)
    else:
        return None
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return RayTables(kind, size, nodes, weights, first, second, facing, atoms, atom_masses, funnels)


def evaluations_of(source: Measure, target: Measure) -> float:
    """Return roughly how many ray integrals the density takes at a point, infinite if not served.

    With some 10 ns each the rule's seconds can be foreseen.
    """
    tables = tables_of(source, target, 1.0, 2)
    if tables is None:
        return math.inf
    if tables.kind == PAIRS:
        return 60.0 * len(tables.first) * len(tables.second)
    if tables.kind == ATOMS:
        return 2.0 * len(tables.atoms) * len(tables.facing)
    return 600.0 * len(tables.funnels.tips) * len(tables.facing)
