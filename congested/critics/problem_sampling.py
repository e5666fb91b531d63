"""Samples of the measures and of the weight of a problem, as the solver understands them.

Source and target are restricted to the domain: points outside are dropped and drawn again. The
weight is that of the measures as they are, and what it has outside the domain is lost, so that the
penalty of a critic is the same integral that the solver bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from mpi4py import MPI

from congested.cell_search import CellBins
from congested.critics.sampling import (
    Contains,
    Pairs,
    PairSampler,
    Sampler,
    Samplers,
    WeightSampler,
    factors,
    interpolates,
    on_segments,
)
from congested.domain import Box, Domain, create_mesh
from congested.errors import InputError
from congested.geometry import FloatArray, cells_of_mesh
from congested.measures.base import LARGEST_OUTSIDE, Measure, too_much_outside
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.problem import Problem, check_dimensions
from congested.weights.gaussian import is_single_gaussian, optimal_matrix, single_gaussian
from congested.weights.kinds import (
    ENDS,
    ConstantWeight,
    DensityWeight,
    Interpolates,
    MeasureWeight,
    MixtureWeight,
    Weight,
)
from congested.weights.optimal import RayEnds, ray_monotone_pair
from congested.weights.plan import LARGEST_PLAN, optimal_plan

# Points drawn to find out how much of a measure lies outside the domain: its share is known to
# ±0.2 % (two standard deviations) where it is 1 %.
_TRIAL = 1 << 13
_SLACK = 3e-3


@dataclass(frozen=True)
class _Region:
    """The domain, as samplers need it: who is inside, its volume, and its uniform law."""

    dimension: int
    volume: float
    contains: Contains
    uniform: Sampler


def problem_samplers(problem: Problem) -> Samplers:
    """Return the samplers of a problem.

    Parameters
    ----------
    problem
        The problem; the domain, if it is a mesh file, is read (on each rank).

    Raises
    ------
    InputError
        If a measure does not fit the domain, or the weight cannot be sampled.
    """
    region = _region(problem.domain)
    check_dimensions(problem, region.dimension)
    whole = {"source": _measure(problem.source), "target": _measure(problem.target)}
    inside = {name: _restricted(draw, region.contains, name) for name, draw in whole.items()}
    weight = _weight(problem.weight, problem, whole, region, "weight")
    return Samplers(region.dimension, inside["source"], inside["target"], weight)


# --- domain -----------------------------------------------------------------------------------


def _region(domain: Domain) -> _Region:
    return _box_region(domain) if isinstance(domain, Box) else _mesh_region(domain)


def _box_region(box: Box) -> _Region:
    lower, upper = np.array(box.lower), np.array(box.upper)
    slack = 1e-10 * (upper - lower)
    return _Region(
        box.dimension,
        float(np.prod(upper - lower)),
        lambda points: ((points >= lower - slack) & (points <= upper + slack)).all(axis=1),
        lambda number, random: random.uniform(lower, upper, (number, len(lower))),
    )


def _mesh_region(domain: Domain) -> _Region:
    cells = cells_of_mesh(create_mesh(domain, MPI.COMM_SELF))
    bins = CellBins(cells)
    share = cells.volume / cells.volume.sum()

    def uniform(number: int, random: np.random.Generator) -> FloatArray:
        chosen = random.choice(cells.number, size=number, p=share)
        corners = random.dirichlet(np.ones(cells.dimension + 1), size=number)
        return np.asarray(np.einsum("mi,mij->mj", corners, cells.simplices[chosen]))

    return _Region(
        cells.dimension,
        float(cells.volume.sum()),
        lambda points: np.asarray(bins.locate(points)[0] >= 0),
        uniform,
    )


# --- measures ---------------------------------------------------------------------------------


def _draw_measure(measure: Measure, number: int, random: np.random.Generator) -> FloatArray:
    return measure.sample(random.random((number, measure.sample_dimension)))


def _measure(measure: Measure) -> Sampler:
    return partial(_draw_measure, measure)


def _restricted(draw: Sampler, contains: Contains, name: str) -> Sampler:
    """Return a sampler that drops points outside the domain and draws again."""
    trial = contains(draw(_TRIAL, np.random.default_rng(0)))
    outside = 1.0 - float(np.mean(trial))
    if outside > LARGEST_OUTSIDE + _SLACK:
        raise too_much_outside(outside, name)

    def inside(number: int, random: np.random.Generator) -> FloatArray:
        points = draw(number, random)
        good = points[contains(points)]
        while len(good) < number:
            more = draw(number, random)
            good = np.concatenate([good, more[contains(more)]])
        return np.asarray(good[:number])

    return inside


# --- weight -----------------------------------------------------------------------------------


def _weight(
    weight: Weight, problem: Problem, whole: dict[str, Sampler], region: _Region, key: str
) -> WeightSampler:
    """Return the sampler of a weight, or of the part of a mixture at `key`."""
    match weight:
        case Interpolates() if weight.coupling in ENDS:
            return _given(whole[weight.coupling], region.contains, 1.0)
        case Interpolates() if weight.coupling == "optimal":
            pairs = _optimal_pairs(weight, problem.source, problem.target, key)
            return on_segments(pairs, region.contains)
        case Interpolates():
            return interpolates(whole["source"], whole["target"], region.contains)
        case ConstantWeight():
            mass = 1.0 if weight.density is None else weight.density * region.volume
            return _given(region.uniform, None, mass)
        case DensityWeight():
            return _density(weight, region)
        case MeasureWeight():
            return _given(_measure(weight.measure), region.contains, weight.mass)
        case MixtureWeight():
            parts = [
                _weight(part, problem, whole, region, f"{key}.parts[{number}]")
                for number, part in enumerate(weight.parts)
            ]
            assert weight.shares is not None
            return _mixture(parts, np.array(weight.shares))


def _given(draw: Sampler, contains: Contains | None, mass: float) -> WeightSampler:
    def weighted(number: int, random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        points = draw(number, random)
        return points, factors(points, contains, mass)

    return weighted


def _density(weight: DensityWeight, region: _Region) -> WeightSampler:
    def weighted(number: int, random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        points = region.uniform(number, random)
        return points, region.volume * np.asarray(weight.function(points), dtype=np.float64)

    return weighted


def _mixture(parts: list[WeightSampler], shares: FloatArray) -> WeightSampler:
    def weighted(number: int, random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        counts = random.multinomial(number, shares)
        drawn = [part(int(count), random) for part, count in zip(parts, counts, strict=True)]
        points, masses = (np.concatenate(some) for some in zip(*drawn, strict=True))
        # In any order: whoever takes some of them takes some of each part.
        order = random.permutation(number)
        return points[order], masses[order]

    return weighted


def _optimal_pairs(weight: Interpolates, source: Measure, target: Measure, key: str) -> PairSampler:
    """Return what draws starts and ends (number, d) from an optimal plan, where one is known."""
    if isinstance(source, Points) and isinstance(target, Points):
        if len(source.points) * len(target.points) <= LARGEST_PLAN:
            plan = optimal_plan(source, target, weight.order)
            share = plan.masses / plan.masses.sum()

            def of_plan(number: int, random: np.random.Generator) -> Pairs:
                chosen = random.choice(len(share), size=number, p=share)
                return source.points[plan.rows[chosen]], target.points[plan.columns[chosen]]

            return of_plan
    gaussians = [
        single_gaussian(measure)
        for measure in (source, target)
        if isinstance(measure, GaussianMixture) and is_single_gaussian(measure)
    ]
    if weight.order == 2 and len(gaussians) == 2:
        (mean, covariance), (end, end_covariance) = gaussians
        matrix = optimal_matrix(covariance, end_covariance)

        def of_map(number: int, random: np.random.Generator) -> Pairs:
            starts = _draw_measure(source, number, random)
            return starts, end + (starts - mean) @ matrix

        return of_map
    rays = ray_monotone_pair(source, target)
    if weight.order == 1 and rays is not None:
        ends = RayEnds(rays)
        return lambda number, random: ends.sample(random.random((number, ends.sample_dimension)))
    names = f"{type(source).__name__} and {type(target).__name__}"
    raise InputError(
        f'found "optimal" with order {weight.order} for {names}, a plan that cannot be sampled; '
        "allowed for training: two point sets, two Gaussians with order 2, ray-monotone pairs with "
        'order 1, and coupling = "independent"',
        key=f"{key}.coupling",
    )
