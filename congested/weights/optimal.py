"""The weight of optimally coupled ends: the time average of the displacement interpolation.

σ is the law of (1 − t) X + t Y, t uniform in [0, 1] and (X, Y) from a plan that minimises
E|X − Y|^order. For order 2 the plan between densities is unique. For order 1 it is not in general:
mass may change places along the lines on which it moves. Then the plan is the one that
`plan.optimal_plan` gives for points, or for samples, and the ray-monotone map for a ray-monotone
pair.

Four rules, the first that can do it:

- ``"plan"``: two point sets; all segments of the exact plan.
- ``"closed-form"``: two Gaussians, order 2.
- ``"sampled"``: a ray-monotone pair, order 1; whole segments of its map.
- ``"sampled-plan"``: everything else. Each of 8 independent replicates draws n quasi-random points
  of both measures (a smaller point set is taken whole) and computes their plan. More points of both
  measures follow it: those that are nearest to the point x_i of the plan go where it goes, and the
  like from target to source. That takes away a third to a half of the error for little time, and
  leaves no holes in the weight.

The plan of samples is biased, by O(n^{−1/d}), which the standard error does not see. Measured with
n = 1,024 on 16,384 cells, summed over the cells and relative to the mass: two Gaussians with order
2 have the standard error 2.0 %, the error 1.7 % and in the mean of many such weights 0.4 % are
left. The published ray-monotone pair with order 1, treated as any other pair, has the standard
error 15 %, as much error, and 8 % are left; a part of that is that another plan is optimal, too. A
Gaussian and 100 points, on 512 cells: standard error and error 0.4 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from congested.cell_search import CellBins
from congested.errors import InputError
from congested.geometry import Cells, FloatArray, IntArray
from congested.measures.base import Measure
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.measures.ray_monotone import RayMonotonePair, RayMonotoneSource
from congested.measures.sampling import scrambled_sobol
from congested.measures.uniform import UniformBox
from congested.weights.base import REPLICATES, CellWeight, summed
from congested.weights.gaussian import closed_form_weight, is_single_gaussian
from congested.weights.kinds import Interpolates, refused_rule
from congested.weights.plan import LARGEST_PLAN, Plan, optimal_plan, share_out_plans
from congested.weights.segments import (
    CHUNK,
    default_samples,
    in_hilbert_order,
    mean_of_replicates,
    segments_weight,
    warn_of_error,
)

# Points of a plan of samples unless the user says. Twice as many leave two thirds of the error, in
# five times the time.
PLAN_POINTS = 1024
# Where a tolerance is asked for, plans begin with so many points.
_FEWEST_POINTS = 256
_MOST_POINTS = math.isqrt(LARGEST_PLAN)


def optimal_weight(
    weight: Interpolates, source: Measure, target: Measure, cells: Cells, bins: CellBins
) -> CellWeight:
    """Compute the cell masses of a weight with optimally coupled ends (collective).

    Parameters
    ----------
    weight
        The weight, ``coupling = "optimal"``.
    source, target
        The measures μ and ν.
    cells, bins
        The cells and the search structure over them.

    Raises
    ------
    InputError
        If the rule asked for cannot compute it, or a plan would be too large.
    NotConverged
        If no plan is found.
    """
    closed_form = _has_closed_form(weight, source, target)
    serving = ("closed-form", "segments") if closed_form else ("segments",)
    if weight.rule not in ("auto", *serving):
        names = f"{type(source).__name__} and {type(target).__name__}"
        words = f"{names} coupled optimally with order {weight.order}"
        raise refused_rule(weight.rule, serving, words)
    if closed_form and weight.rule != "segments":
        assert isinstance(source, GaussianMixture)
        assert isinstance(target, GaussianMixture)
        return closed_form_weight(source, target, cells, weight.tolerance, coupled=True)
    if isinstance(source, Points) and isinstance(target, Points):
        pairs = len(source.points) * len(target.points)
        if pairs <= LARGEST_PLAN:
            return _plan_weight(source, target, weight.order, cells, bins)
        if weight.samples is None and weight.tolerance is None:
            raise InputError(
                f"found none for {len(source.points)} and {len(target.points)} points; allowed: a "
                f"number, for plans of samples (exact plans up to {LARGEST_PLAN} pairs of points)",
                key="weight.samples",
            )
    pair = ray_monotone_pair(source, target)
    if pair is not None and weight.order == 1:
        return segments_weight(
            RayEnds(pair),
            cells,
            bins,
            samples=weight.samples,
            seed=weight.seed,
            tolerance=weight.tolerance,
        )
    return _sampled_plan_weight(weight, source, target, cells, bins)


def _has_closed_form(weight: Interpolates, source: Measure, target: Measure) -> bool:
    return weight.order == 2 and all(
        isinstance(measure, GaussianMixture) and is_single_gaussian(measure)
        for measure in (source, target)
    )


def _plan_weight(
    source: Points, target: Points, order: int, cells: Cells, bins: CellBins
) -> CellWeight:
    """Return the weight of two point sets (collective)."""
    (plan,) = share_out_plans(cells.comm, lambda _: optimal_plan(source, target, order), 1)
    starts, ends = source.points[plan.rows], target.points[plan.columns]
    masses = bins.deposit_segments(starts, ends, plan.masses)
    return summed(cells, "plan", masses, whole=1.0, samples=len(plan.masses))


# --- ray-monotone pairs ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RayEnds:
    """Ends T(y) and y of the segments of a ray-monotone pair, y uniform on its box.

    T is optimal for order 1: it moves mass along the rays of a potential of slope one.

    Attributes
    ----------
    pair
        The pair.
    """

    pair: RayMonotonePair

    @property
    def sample_dimension(self) -> int:
        """One uniform number per coordinate of y."""
        return self.pair.dimension

    def sample(self, uniforms: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Map numbers (m, d) in [0, 1) to starts and ends (m, d)."""
        ends = self.pair.half_width * (2.0 * uniforms - 1.0)
        return self.pair.transport(ends), ends


def ray_monotone_pair(source: Measure, target: Measure) -> RayMonotonePair | None:
    """Return the pair that two measures make, in whichever order; None if they make none."""
    for first, second in ((source, target), (target, source)):
        if isinstance(first, RayMonotoneSource) and isinstance(second, UniformBox):
            half = first.pair.half_width
            if (second.lower == -half).all() and (second.upper == half).all():
                return first.pair
    return None


# --- plans of samples -----------------------------------------------------------------------------


def _sampled_plan_weight(
    weight: Interpolates, source: Measure, target: Measure, cells: Cells, bins: CellBins
) -> CellWeight:
    """Average the weights of plans between samples (collective).

    With a tolerance and no number of samples the number of points is doubled until the standard
    error is small enough.
    """
    points = most = PLAN_POINTS
    if weight.samples is not None:
        points = most = 1 << max(0, math.ceil(math.log2(weight.samples / REPLICATES)))
        if points > _MOST_POINTS:
            raise InputError(
                f"found {weight.samples}; allowed with optimal coupling: up to "
                f"{REPLICATES * _MOST_POINTS}",
                key="weight.samples",
            )
    elif weight.tolerance is not None:
        points, most = _FEWEST_POINTS, _MOST_POINTS
    source, target = in_hilbert_order(source), in_hilbert_order(target)
    while True:
        replicates = [
            _Replicate(source, target, points, (weight.seed, replicate))
            for replicate in range(REPLICATES)
        ]
        found = _mean_of_plans(replicates, weight.order, cells, bins)
        if points >= most or found.relative_error <= (weight.tolerance or 0.0):
            break
        points *= 2
    more = "" if points >= _MOST_POINTS else "more weight.samples or "
    warn_of_error(
        cells,
        found,
        weight.tolerance,
        f"{REPLICATES} plans of {points} points",
        f"{more}a larger weight.tolerance",
    )
    return found


def _mean_of_plans(
    replicates: Sequence[_Replicate], order: int, cells: Cells, bins: CellBins
) -> CellWeight:
    """Compute the plan of every replicate and average their weights (collective)."""
    number = round(cells.total(np.ones(cells.number)))
    segments = default_samples(number, cells.dimension) // len(replicates)
    plans = share_out_plans(cells.comm, lambda turn: replicates[turn].plan(order), len(replicates))
    shared = [
        replicate.masses(plan, segments, bins)
        for replicate, plan in zip(replicates, plans, strict=True)
    ]
    return mean_of_replicates(
        cells,
        "sampled-plan",
        np.stack([masses for masses, _ in shared]),
        sum(count for _, count in shared),
        {"order": order, "points_per_plan": replicates[0].number},
    )


@dataclass(frozen=True)
class _Replicate:
    """Samples of both measures with a plan of their own.

    Attributes
    ----------
    source, target
        The measures.
    number
        Points of the plan on each side, a power of two. A smaller point set is taken whole.
    key
        Key of the scramblings.
    """

    source: Measure
    target: Measure
    number: int
    key: tuple[int, ...]

    def plan(self, order: int) -> Plan:
        """Return the plan between the first `number` samples of both measures."""
        source, target = (
            measure if self._is_whole(measure) else Points(self._sample(measure, side, self.number))
            for side, measure in enumerate((self.source, self.target))
        )
        assert isinstance(source, Points)
        assert isinstance(target, Points)
        return optimal_plan(source, target, order)

    def masses(self, plan: Plan, segments: int, bins: CellBins) -> tuple[FloatArray, int]:
        """Return the masses (n,) of the owned cells, and how many segments made them.

        Parameters
        ----------
        plan
            What `plan` returned.
        segments
            Number of points that follow the plan, together with its own.
        bins
            The owned cells.
        """
        masses, count = np.zeros(bins.number), 0
        # A set that was taken whole has no further points.
        moving = [
            (side, measure, own)
            for side, (measure, own) in enumerate(
                ((self.source, plan), (self.target, plan.reversed))
            )
            if not self._is_whole(measure)
        ]
        each = max(self.number, 1 << max(0, math.ceil(math.log2(segments / max(len(moving), 1)))))
        for side, measure, own in moving:
            points = self._sample(measure, side, each)
            _, nearest = cKDTree(own.source.points).query(points)
            # A point of the plan follows itself, also where another one is in the same place.
            nearest[: self.number] = np.arange(self.number)
            shares = _shares(own, np.bincount(nearest)) / len(moving)
            for start in range(0, each, CHUNK):
                chunk = slice(start, start + CHUNK)
                origin, pair = _followed(own, nearest[chunk])
                starts, ends = points[chunk][origin], own.target.points[own.columns[pair]]
                bins.deposit_segments(starts, ends, shares[pair], masses)
                count += len(pair)
        return masses, count

    def _is_whole(self, measure: Measure) -> bool:
        return isinstance(measure, Points) and len(measure.points) <= self.number

    def _sample(self, measure: Measure, side: int, number: int) -> FloatArray:
        """Return the first points (number, d) of a sequence: more of them keep the first."""
        sobol = scrambled_sobol(measure.sample_dimension, (*self.key, side))
        return measure.sample(sobol.random(number))


def _followed(plan: Plan, leaders: IntArray) -> tuple[IntArray, IntArray]:
    """Return the segments of points that follow the source points (m,) of a plan.

    Returns
    -------
    tuple
        Indices (k,) of `leaders` and of the plan's pairs.
    """
    counts = np.bincount(plan.rows, minlength=len(plan.source.points))
    first = np.cumsum(counts) - counts
    repeats = counts[leaders]
    origin = np.repeat(np.arange(len(leaders)), repeats)
    offset = np.arange(len(origin)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return origin, first[leaders[origin]] + offset


def _shares(plan: Plan, followers: IntArray) -> FloatArray:
    """Return the mass (k,) that each follower brings to each pair of a plan.

    A follower divides its mass as the point that it follows does. Then the segments to each target
    point are scaled so that together they have its weight. Hence the law of the ends is that of
    the plan, and the law of the starts stays as near to the followers' own as that allows.

    Parameters
    ----------
    plan
        The plan.
    followers
        How many points follow each source point, itself included.
    """
    rows, columns = plan.rows, plan.columns
    divided = plan.masses / np.bincount(rows, plan.masses)[rows]
    received = np.bincount(columns, divided * followers[rows])
    return divided * np.bincount(columns, plan.masses)[columns] / received[columns]
