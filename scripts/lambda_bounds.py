r"""Bounds of L, P, ∫|m| and W₁ for every λ from a few solves on one mesh.

With s = 1/(4λ) the optimal value is

    g(s) = min_m A(m) + s B(m),    A = ∫|m|,  B = ∫|m|²/σ,

a minimum of affine functions and so concave, with g(0) ≥ W₁. For s > 0 its slope is B of the
optimal flux, so that P = s g'(s), L = g + s g'(s), and ∫|m| = g − s g'(s) is where the tangent at s
meets s = 0. A flux found for one λ gives an upper bound A + s B of g at every s, a potential the
dual value of its best multiple as a lower one. Chords between an upper bound at s and lower bounds
elsewhere enclose the slope, and with it L, P and ∫|m|. Nothing else is used, neither that an
optimum was found nor how.

A critic f with D(f) ≥ D − δ has √P_f within √δ of √P, as what it lacks is at least
λ∫σ(e_f − e)², e = (|∇·| − 1)₊; hence |L_f − 2P_f − ∫|m|| ≤ 2√(P_f δ) (`reading_error`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

import congested as ct
from congested.certificate import gradient_at_vertices
from congested.geometry import Cells, FloatArray


@dataclass(frozen=True)
class Interval:
    """What a number is known to lie between."""

    lower: float
    upper: float

    @property
    def middle(self) -> float:
        """The midpoint."""
        return 0.5 * (self.lower + self.upper)

    def meet(self, other: Interval) -> Interval:
        """Return what both say."""
        return Interval(max(self.lower, other.lower), min(self.upper, other.upper))


@dataclass(frozen=True, eq=False)
class Trial:
    """A flux and a potential that were found for one λ, as they serve every other.

    Attributes
    ----------
    strength
        λ they were found for.
    length, congestion
        A (from above) and B of the flux; B is infinite if it crosses cells without weight.
    critic_loss
        ∫ u d(μ − ν) of the potential.
    slopes, masses
        |∇u| (k,) and the mass of σ (k,) that has it. The penalty is their sum, or below it (P2).
    largest_slope
        The largest |∇u| of all cells, with weight or without.
    """

    strength: float
    length: float
    congestion: float
    critic_loss: float
    slopes: FloatArray
    masses: FloatArray
    largest_slope: float

    @cached_property
    def _sums(self) -> tuple[FloatArray, FloatArray]:
        """Slopes, largest first, and the sums of mass, mass·slope, mass·slope² up to each."""
        order = np.argsort(-self.slopes)
        slopes, masses = self.slopes[order], self.masses[order]
        powers = np.stack([masses, masses * slopes, masses * slopes**2])
        return slopes, np.concatenate([np.zeros((3, 1)), np.cumsum(powers, axis=1)], axis=1)

    def upper(self, s: float) -> float:
        """Return the cost of the flux, an upper bound of g(s)."""
        return self.length + s * self.congestion if s > 0.0 else self.length

    def lower(self, s: float) -> float:
        """Return the dual value of the best multiple of the potential, a lower bound of g(s)."""
        if s == 0.0:
            return self.critic_loss / max(self.largest_slope, 1.0)
        slopes, (mass, first, second) = self._sums
        strength = 0.25 / s

        def steep(factor: float) -> int:
            return int(np.searchsorted(-slopes, -1.0 / factor))

        low, high = 0.0, 1.0
        while True:
            count = steep(high)
            if self.critic_loss <= 2.0 * strength * (high * second[count] - first[count]):
                break
            high *= 2.0
        for _ in range(60):
            factor = 0.5 * (low + high)
            count = steep(factor)
            rising = self.critic_loss > 2.0 * strength * (factor * second[count] - first[count])
            low, high = (factor, high) if rising else (low, factor)
        count = steep(low) if low > 0.0 else 0
        excess = low**2 * second[count] - 2.0 * low * first[count] + mass[count]
        return low * self.critic_loss - strength * max(excess, 0.0)


def trial_of(solution: ct.Solution, cells: Cells, weight: FloatArray) -> Trial:
    """Return the flux and the potential of a solution as a trial.

    Parameters
    ----------
    solution, cells
        The solution, and its mesh.
    weight
        Density (n,) of σ, which a solution for λ = ∞ does not have.
    """
    fields, strength = solution.fields, solution.problem.strength
    # λ = ∞ has no congestion: that of λ = ¼ is B itself, where there is weight.
    finite = 0.25
    integrals = ct.cell_integrals(
        cells.simplices,
        fields.potential,
        fields.flux,
        fields.source,
        fields.target,
        weight,
        finite,
        fields.potential_edges,
    )
    gradient = gradient_at_vertices(cells.simplices, fields.potential, fields.potential_edges)
    slopes = np.linalg.norm(gradient, axis=2)
    masses = np.broadcast_to((weight * cells.volume)[:, None], slopes.shape)
    length = float(integrals.momentum_l1.sum())
    cost = float(integrals.transport_cost.sum())
    return Trial(
        strength=strength,
        length=length,
        congestion=cost - length if math.isfinite(cost) else math.inf,
        critic_loss=float(integrals.critic_loss.sum()),
        slopes=slopes.ravel(),
        masses=masses.ravel() / slopes.shape[1],
        largest_slope=float(slopes.max()),
    )


@dataclass(frozen=True)
class Enclosure:
    """What is known at one λ: every number lies in its interval, for the data of the cells."""

    strength: float
    dual_value: Interval
    critic_loss: Interval
    penalty: Interval
    momentum_l1: Interval
    bias: Interval


@dataclass(frozen=True, eq=False)
class Envelope:
    """Bounds of g at every s, from trials and bounds of W₁.

    Attributes
    ----------
    trials
        All on one mesh, with the same data of the cells.
    wasserstein
        W₁ for the data of the cells.
    """

    trials: tuple[Trial, ...]
    wasserstein: Interval

    def value(self, s: float) -> Interval:
        """Return bounds of g(s)."""
        if s == 0.0:
            return self.wasserstein
        lower = max(trial.lower(s) for trial in self.trials)
        upper = min(trial.upper(s) for trial in self.trials if math.isfinite(trial.congestion))
        # Penalties do not pay for W₁.
        return Interval(max(lower, self.wasserstein.lower), upper)

    @cached_property
    def grid(self) -> tuple[FloatArray, FloatArray]:
        """Places s at which chords may end, and the lower bounds there."""
        ends = [0.25 / trial.strength for trial in self.trials if math.isfinite(trial.strength)]
        places = np.append(0.0, np.geomspace(min(ends) / 30.0, max(ends) * 30.0, _PLACES))
        return places, np.array([self.value(float(s)).lower for s in places])

    def enclose(self, strength: float) -> Enclosure:
        """Enclose everything at one λ by chords from its upper bound to lower bounds elsewhere."""
        s = 0.25 / strength
        value = self.value(s)
        places, lows = self.grid
        if not places[1] < s < places[-1]:
            raise ValueError(f"λ = {strength:g} is too far from those that were solved for")
        near, far = places < s * (1.0 - 1e-9), places > s * (1.0 + 1e-9)
        before, after = places[near], places[far]
        # g'(s) is at most the slope of the chord from before, and at least that to behind.
        steepest = (value.upper - lows[near]) / (s - before)
        flattest = (lows[far] - value.upper) / (after - s)
        penalty = Interval(max(0.0, s * float(flattest.max())), s * float(steepest.min()))
        # g − s g' and g + s g' with the same g in both terms: the sharper bounds.
        momentum = Interval(
            float(((s * lows[near] - before * value.upper) / (s - before)).max()),
            float(((after * value.upper - s * lows[far]) / (after - s)).min()),
        )
        share = 1.0 - s / (after - s)
        loss = Interval(
            float((np.where(share > 0.0, value.lower, value.upper) * share
                   + s * lows[far] / (after - s)).max()),
            float((value.upper + s * steepest).min()),
        )  # fmt: skip
        penalty = penalty.meet(
            Interval(0.5 * (loss.lower - momentum.upper), 0.5 * (loss.upper - momentum.lower))
        )
        momentum = momentum.meet(
            Interval(value.lower - penalty.upper, value.upper - penalty.lower)
        ).meet(Interval(self.wasserstein.lower, math.inf))
        loss = loss.meet(Interval(value.lower + penalty.lower, value.upper + penalty.upper))
        bias = Interval(
            max(0.0, momentum.lower - self.wasserstein.upper),
            momentum.upper - self.wasserstein.lower,
        )
        return Enclosure(strength, value, loss, penalty, momentum, bias)


# Places between the smallest and the largest s, at which chords may end.
_PLACES = 240


def envelope_of(trials: Sequence[Trial], wasserstein: Interval) -> Envelope:
    """Return the bounds that trials give; those that W₁ gets from all trials are added."""
    upper = min(trial.length for trial in trials)
    lower = max(trial.lower(0.0) for trial in trials)
    return Envelope(tuple(trials), wasserstein.meet(Interval(lower, upper)))


def reading_error(penalty: float, suboptimality: float) -> Interval:
    """Return the interval of L_f − 2P_f − ∫|m| of a critic.

    Let t = √P − √P_f, of which |t| ≤ √δ is proved, and t ≥ −√P_f since P ≥ 0. The reading is off by
    −δ + 2t√P_f + t², largest at t = √δ.

    Parameters
    ----------
    penalty
        P_f, one-sided.
    suboptimality
        δ: an upper bound of D − D(f).
    """
    own, lack = math.sqrt(penalty), math.sqrt(max(suboptimality, 0.0))
    least = max(-lack, -own)
    return Interval(-lack * lack + 2.0 * least * own + least * least, 2.0 * lack * own)
