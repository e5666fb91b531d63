"""What a tally of particles says: relative errors with error bars, rates, distances, balances."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ot
from scipy.stats import binom

from congested.flow.field import FlowField
from congested.flow.particles import Particles, draw_particles
from congested.flow.simulate import SUMS, Plan, Tally, arrivals, arrivals_difference
from congested.geometry import FloatArray
from congested.measures.sampling import Estimate, estimate_mean

# Repetitions and sizes of the samples between which distances are computed.
_REPETITIONS, _PAIRS = 8, 500


@dataclass(frozen=True)
class Statistics:
    """How well particles show that a momentum is the time average of a flow.

    Attributes
    ----------
    particles
        Their number N.
    momentum_l1
        ∫|m|.
    momentum_error
        Σ_T |∫₀¹ Σ mass v dt in T − ∫_T m| / ∫|m|, with its standard error. Chance alone makes it
        fall like N^(−1/2).
    pushforward_error
        Σ_T |arrived in T − ν_T|, likewise.
    momentum_chance, pushforward_chance
        What chance alone makes of both. Of the momentum: half the difference of two halves of the
        particles, which is distributed like their error if that has the mean 0 (about so where few
        pass a cell). Of the arrivals: the expectation for particles drawn from the target; NaN
        where masses change.
    counts, momentum_errors, pushforward_errors
        These errors of the first particles, for some numbers of them.
    exponent
        Slope of log(momentum error) over log(particles) through these.
    length, cost
        Means of ∫ ds and of ∫ (1 + |m|/(2λσ)) ds over the paths, weighted by the mass at each point
        of them: estimates of ∫|m| and ∫ (1 + |m|/(2λσ)) |m|.
    effective
        (Σ mass)² / Σ mass² at the end: how many particles of one mass would be as good.
    mass
        By name: at the start, at the end, unfinished, created and lost on the way.
    crossings, most_crossings
        Facets that a path crosses, in the mean and at most.
    """

    particles: int
    momentum_l1: float
    momentum_error: Estimate
    pushforward_error: Estimate
    momentum_chance: float
    pushforward_chance: float
    counts: tuple[int, ...]
    momentum_errors: tuple[float, ...]
    pushforward_errors: tuple[float, ...]
    exponent: float
    length: Estimate
    cost: Estimate
    effective: float
    mass: dict[str, float]
    crossings: float
    most_crossings: int

    def result(self) -> dict[str, Any]:
        """Return the numbers as ``flow.json`` has them."""
        return {
            "particles": self.particles,
            "momentum_relative_l1": self.momentum_error.value,
            "momentum_relative_l1_error": self.momentum_error.standard_error,
            "momentum_relative_l1_chance": self.momentum_chance,
            "pushforward_relative_l1": self.pushforward_error.value,
            "pushforward_relative_l1_chance": self.pushforward_chance,
            "pushforward_relative_l1_error": self.pushforward_error.standard_error,
            "convergence": {
                "particles": list(self.counts),
                "momentum_relative_l1": list(self.momentum_errors),
                "pushforward_relative_l1": list(self.pushforward_errors),
                "exponent": self.exponent,
            },
            "momentum_l1": self.momentum_l1,
            "mean_path_length": _plain(self.length),
            "mean_path_cost": _plain(self.cost),
            "effective_particles": self.effective,
            "mass": self.mass,
            "crossings": {"mean": self.crossings, "most": self.most_crossings},
        }


def _plain(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "standard_error": estimate.standard_error}


def statistics(field: FlowField, plan: Plan, tally: Tally) -> Statistics:
    """Return what a tally says (on rank 0).

    Parameters
    ----------
    field
        The flow.
    plan, tally
        The particles.
    """
    sums = {name: float(value) for name, value in zip(SUMS, tally.sums, strict=True)}
    # Masses are those of the whole plan's shares, of which some batches may be missing.
    share = tally.particles / plan.particles
    total = field.momentum_l1
    # A critic without momentum has no relative error.
    scale = total if total > 0.0 else math.nan
    history = tally.history / np.array([scale, 1.0, scale, 1.0])
    chosen = sorted({max(1, tally.batches >> k) for k in range(5)})
    counts = tuple(plan.until(batches) for batches in chosen)
    momentum_errors = tuple(history[batches - 1, 2] for batches in chosen)
    exponent = math.nan
    if len(chosen) > 2 and total > 0.0:
        exponent = float(np.polyfit(np.log(counts), np.log(momentum_errors), 1)[0])

    def mean(name: str) -> Estimate:
        """Return a sum over particles, whose terms are independent, over the share."""
        value, number = sums[name], tally.particles
        spread = max(sums[f"{name}_squares"] - value**2 / number, 0.0)
        error = math.sqrt(spread * number / (number - 1)) if number > 1 else math.inf
        return Estimate(value / share, error / share)

    created, lost = tally.exchanged.sum(axis=0)
    balanced = not field.growth.any()
    return Statistics(
        particles=tally.particles,
        momentum_l1=total,
        momentum_error=_with_spread(history[-1, 2], history[:, 0]),
        pushforward_error=_with_spread(history[-1, 3], history[:, 1]),
        momentum_chance=_momentum_chance(plan, tally) / scale,
        pushforward_chance=arrivals_chance(field, tally.particles) if balanced else math.nan,
        counts=counts,
        momentum_errors=momentum_errors,
        pushforward_errors=tuple(history[batches - 1, 3] for batches in chosen),
        exponent=exponent,
        length=mean("length"),
        cost=mean("cost"),
        effective=sums["end"] ** 2 / sums["end_squares"] if sums["end_squares"] > 0.0 else 0.0,
        mass={
            "start": sums["start"] / share,
            "end": sums["end"] / share,
            "unfinished": sums["unfinished"] / share,
            "created": float(created) / share,
            "lost": float(lost) / share,
        },
        crossings=sums["crossings"] / tally.particles,
        most_crossings=tally.most_crossings,
    )


def _with_spread(value: float, of_batches: FloatArray) -> Estimate:
    """Return an error of all particles with its standard error.

    An error that is a sum of the noise in many cells scatters by the same share of itself for any
    number of particles: for all as for the particles of one batch.
    """
    if len(of_batches) < 2 or of_batches.mean() == 0.0:
        return Estimate(float(value), math.inf if len(of_batches) < 2 else 0.0)
    share = float(np.std(of_batches, ddof=1) / of_batches.mean())
    return Estimate(float(value), float(value) * share)


def _momentum_chance(plan: Plan, tally: Tally) -> float:
    """Return Σ_T of half the difference of two halves of the particles."""
    if tally.batches < 2:
        return math.nan
    sizes = np.array([plan.size(batch) for batch in range(tally.batches)])
    # The halves may differ in size.
    surplus = (sizes[0::2].sum() - sizes[1::2].sum()) / sizes.sum()
    lengths = np.linalg.norm(tally.contrast - surplus * tally.displacement, axis=1)
    # Halves of different sizes are less apart than equal ones.
    share = tally.particles / plan.particles * math.sqrt(1.0 - surplus**2)
    return float(lengths.sum()) / share


def arrivals_chance(field: FlowField, particles: int) -> float:
    """Return E Σ_T |arrived in T − ν_T| for independent particles from the target.

    For binomial X, E|X − Np| = 2 k (1 − p) P(X = k) with k = ⌊Np⌋ + 1 (de Moivre).
    """
    masses = field.volume * field.target
    total = float(masses.sum())
    share = masses / total
    above = np.floor(particles * share) + 1.0
    deviation = 2.0 * above * (1.0 - share) * binom.pmf(above, particles, share)
    return total * float(deviation.sum()) / particles


def arrivals_error(field: FlowField, ends: Particles) -> float:
    """Return Σ_T |arrived in T − ν_T| of particles that stand for all."""
    return arrivals_difference(
        field, arrivals(field, ends), ends.mass.sum() / float(field.volume @ field.source)
    )


@dataclass(frozen=True)
class Distances:
    """W₁ between samples: of arrivals and target, and of two samples of the target.

    Attributes
    ----------
    samples
        Points in each sample.
    pushforward, target
        Means over some repetitions, with standard errors; equal but for these if the particles
        arrive as the target wants.
    """

    samples: int
    pushforward: Estimate
    target: Estimate

    def result(self) -> dict[str, Any]:
        """Return the numbers as ``flow.json`` has them."""
        return {
            "samples": self.samples,
            **_plain(self.pushforward),
            "two_samples_of_target": _plain(self.target),
        }


def arrival_distances(field: FlowField, ends: Particles, seed: int = 0) -> Distances | None:
    """Return W₁ between arrivals and samples of the target, by exact transport of samples (POT).

    Parameters
    ----------
    field
        The flow.
    ends
        Particles that have arrived, in random order.
    seed
        Of the samples of the target.

    Returns
    -------
    Distances or None
        None if there are fewer than two samples, or some of them have no mass.
    """
    size = min(_PAIRS, ends.number // _REPETITIONS)
    if size < 2:
        return None
    generator = np.random.default_rng([seed, 1 << 32])
    points, repeated = ends.points(field), range(_REPETITIONS)

    def of_target() -> FloatArray:
        return target_points(field, size, generator)

    pushed = []
    for k in repeated:
        part = slice(k * size, (k + 1) * size)
        mass, target = ends.mass[part], of_target()
        if not 0.0 < mass.sum() < math.inf:  # a critic whose sinks swallow all
            return None
        pushed.append(_distance(points[part], target, mass))
    own = [_distance(of_target(), of_target()) for _ in repeated]
    return Distances(size, estimate_mean(np.array(pushed)), estimate_mean(np.array(own)))


def target_points(field: FlowField, number: int, generator: np.random.Generator) -> FloatArray:
    """Draw points (number, d) from the target."""
    swapped = replace(field, source=field.target, target=field.source)
    return draw_particles(swapped, number, generator).points(field)


def _distance(first: FloatArray, second: FloatArray, mass: FloatArray | None = None) -> float:
    """Return W₁ of two samples, the first with masses."""
    weights = np.ones(len(first)) if mass is None else mass
    weights = weights / weights.sum()
    even = np.full(len(second), 1.0 / len(second))
    return float(ot.emd2(weights, even, ot.dist(first, second, metric="euclidean")))


def straight_rays(starts: FloatArray, ends: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Pair points as W₁ does: the straight rays along which least is carried in all.

    Parameters
    ----------
    starts, ends
        As many points (n, d) of each.

    Returns
    -------
    starts, ends
        The starts, and the end (n, d) of each.
    """
    even = np.full(len(starts), 1.0 / max(len(starts), 1))
    plan = ot.emd(even, even, ot.dist(starts, ends, metric="euclidean"))
    return starts, ends[np.asarray(plan).argmax(axis=1)]
