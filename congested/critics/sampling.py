"""Samples of a problem: points of the source, of the target and of the weight, in any dimension.

A critic is trained, and its dual value estimated, from samples alone. A `Sampler` draws points; a
`WeightSampler` draws points with factors, so that ∫ h dσ is the mean of factor · h(point) also
where σ is no probability measure: what falls outside the domain has the factor zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from congested.errors import InputError
from congested.geometry import BoolArray, FloatArray

#: Draws so many points (number, d) with a random generator.
Sampler: TypeAlias = Callable[[int, np.random.Generator], FloatArray]
#: Draws so many points (number, d), and their factors (number,) ≥ 0.
WeightSampler: TypeAlias = Callable[[int, np.random.Generator], tuple[FloatArray, FloatArray]]
#: Whether points (m, d) lie in the domain (m,).
Contains: TypeAlias = Callable[[FloatArray], BoolArray]
#: Starts and ends (number, d) of segments, and what draws them.
Pairs: TypeAlias = tuple[FloatArray, FloatArray]
PairSampler: TypeAlias = Callable[[int, np.random.Generator], Pairs]


@dataclass(frozen=True)
class Samplers:
    """What a critic can know of a problem.

    Attributes
    ----------
    dimension
        Number d of coordinates, any.
    source, target
        Draw from μ and ν.
    weight
        Draws from σ.
    """

    dimension: int
    source: Sampler
    target: Sampler
    weight: WeightSampler


def from_samplers(source: Sampler, target: Sampler) -> Samplers:
    """Make the samplers of two measures, with the weight of WGAN-GP, in the whole space.

    Parameters
    ----------
    source, target
        Draw from μ and ν, in any dimension.

    Raises
    ------
    InputError
        If they do not draw finite points of the same dimension.
    """
    shapes = []
    for key, draw in (("source", source), ("target", target)):
        points = np.asarray(draw(2, np.random.default_rng(0)))
        if points.ndim != 2 or len(points) != 2 or not np.isfinite(points).all():
            found = f"found an array {points.shape} for 2 points"
            raise InputError(f"{found}; allowed: finite numbers (2, d)", key=key)
        shapes.append(points.shape[1])
    if shapes[0] != shapes[1]:
        found = f"found dimension {shapes[1]}"
        raise InputError(f"{found}; allowed: {shapes[0]} as that of the source", key="target")
    return Samplers(shapes[0], source, target, interpolates(source, target))


def interpolates(
    source: Sampler, target: Sampler, contains: Contains | None = None
) -> WeightSampler:
    """Return the sampler of σ of WGAN-GP: (1 − t) X + t Y, X ~ μ, Y ~ ν, t ~ U[0, 1], independent.

    Parameters
    ----------
    source, target
        Draw from μ and ν.
    contains
        Points outside get the factor zero; None: there is no outside.
    """

    def pairs(number: int, random: np.random.Generator) -> Pairs:
        return source(number, random), target(number, random)

    return on_segments(pairs, contains)


def on_segments(pairs: PairSampler, contains: Contains | None) -> WeightSampler:
    """Return the sampler of the points of segments: (1 − t) X + t Y, t ~ U[0, 1].

    Parameters
    ----------
    pairs
        Draws starts X and ends Y (number, d).
    contains
        Points outside get the factor zero; None: there is no outside.
    """

    def draw(number: int, random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        starts, ends = pairs(number, random)
        share = random.random((number, 1))
        points = (1.0 - share) * starts + share * ends
        return points, factors(points, contains)

    return draw


def factors(points: FloatArray, contains: Contains | None, mass: float = 1.0) -> FloatArray:
    """Return `mass` for points (m, d) inside and zero for those outside: (m,)."""
    if contains is None:
        return np.full(len(points), mass)
    return np.where(contains(points), mass, 0.0)


def array_sampler(points: npt.ArrayLike) -> Sampler:
    """Return the sampler of the rows of an array, each with the same probability.

    The measure is then that of the rows. To learn of the measure that the rows were drawn from,
    train on some of them and estimate with the others (`split`).

    Parameters
    ----------
    points
        Points (k, d).

    Raises
    ------
    InputError
        If it is no array of finite numbers with two axes.
    """
    rows = np.asarray(points, dtype=np.float64)
    if rows.ndim != 2 or not len(rows) or not np.isfinite(rows).all():
        found = f"found an array {rows.shape}"
        raise InputError(f"{found}; allowed: finite numbers (k, d), k >= 1", key="points")

    def draw(number: int, random: np.random.Generator) -> FloatArray:
        return np.asarray(rows[random.integers(len(rows), size=number)])

    return draw


def split(points: npt.ArrayLike, share: float, seed: int) -> tuple[FloatArray, FloatArray]:
    """Split the rows of an array at random: some to train on, the others to estimate with.

    Parameters
    ----------
    points
        Points (k, d), k ≥ 2.
    share
        Part of the rows, between 0 and 1, that the second array gets, at least one row.
    seed
        Seed ≥ 0.

    Raises
    ------
    InputError
        If one of the two would be empty.
    """
    rows = np.asarray(points, dtype=np.float64)
    if not 0.0 < share < 1.0:
        raise InputError(f"found {share:g}; allowed: between 0 and 1", key="share")
    if len(rows) < 2:
        raise InputError(f"found {len(rows)} rows; allowed: two at least", key="points")
    order = np.random.default_rng(seed).permutation(len(rows))
    held = min(len(rows) - 1, max(1, round(share * len(rows))))
    return rows[order[held:]], rows[order[:held]]
