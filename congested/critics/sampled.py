"""The dual value of a critic from samples alone, with its confidence interval, in any dimension.

The dual value D(u) = E_μ u − E_ν u − λ E_σ (|∇u| − 1)₊² of any critic is a lower bound of the
congested cost. Samples that the critic was not trained on estimate it without bias, and so bound
the cost from below up to the sampling error: in dimensions where no mesh exists that is what a
trained critic is worth. The interval is that of the central limit theorem, with the variance that
the samples have: steep pieces so rare that no sample has hit them are in neither, and the dual
value may then be lower than it says. It is no certificate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from congested import recovery
from congested.critics.network import Critic
from congested.critics.sampling import Sampler, Samplers
from congested.errors import InputError
from congested.geometry import FloatArray
from congested.measures.sampling import Estimate, estimate_mean

# Points drawn at a time.
_CHUNK = 1 << 15
# At λ = ∞ a slope may exceed one by this much, for rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SampledDual:
    """What samples say of a critic u.

    Attributes
    ----------
    critic_loss
        L = E_μ u − E_ν u.
    penalty
        P = λ E_σ (|∇u| − 1)₊², the one-sided penalty.
    penalty_two_sided
        λ E_σ (|∇u| − 1)².
    dual_value
        D = L − P ≤ congested cost. Its interval is that of the central limit theorem, which rare
        steep pieces that no sample has hit can fool.
    mean_slope, largest_slope
        Mean under σ, and largest in the samples, of |∇u|.
    strength, samples
        λ, and how many points of each law were drawn.
    """

    critic_loss: Estimate
    penalty: Estimate
    penalty_two_sided: Estimate
    dual_value: Estimate
    mean_slope: float
    largest_slope: float
    strength: float
    samples: int


def sampled_dual(
    critic: Critic,
    samplers: Samplers,
    strength: float,
    *,
    samples: int = 1 << 17,
    seed: int | Sequence[int] = 0,
) -> SampledDual:
    """Estimate the dual value of a critic.

    Parameters
    ----------
    critic
        The critic u, high on the source.
    samplers
        Draw from μ, ν and σ. Where σ is the law of interpolates, its points come from pairs of
        their own, so that the three means are independent.
    strength
        λ; at ``math.inf`` the penalty is infinite unless no slope that was seen exceeds one, and no
        interval says anything of those that were not seen.
    samples
        Points drawn from each law, ≥ 2.
    seed
        Seed ≥ 0, or several: the samples depend on it alone. Take one that the training has not
        used: the training draws from sequences of two or three seeds, ``[seed, …]``.

    Raises
    ------
    InputError
        If the dimensions differ, or a number is not allowed.
    """
    if critic.dimension != samplers.dimension:
        found = f"found a critic of {critic.dimension} coordinates"
        raise InputError(f"{found}; allowed: {samplers.dimension}", key="critic")
    if not strength > 0.0:
        raise InputError(f"found {strength:g}; allowed: a number > 0", key="strength")
    if samples < 2:
        raise InputError(f"found {samples}; allowed: an integer >= 2", key="samples")
    streams = np.random.default_rng(seed).spawn(3)
    source = estimate_mean(_values(critic, samplers.source, samples, streams[0]))
    target = estimate_mean(_values(critic, samplers.target, samples, streams[1]))
    slope, factor = _slopes(critic, samplers, samples, streams[2])
    excess = slope - 1.0
    largest = float(np.max(slope, where=factor > 0.0, initial=0.0))
    loss = Estimate(
        source.value - target.value, math.hypot(source.standard_error, target.standard_error)
    )
    if math.isinf(strength):
        one_sided = Estimate(math.inf if largest > 1.0 + _ROUNDING else 0.0, 0.0)
        far = bool((np.abs(excess[factor > 0.0]) > _ROUNDING).any())
        two_sided = Estimate(math.inf if far else 0.0, 0.0)
    else:
        one_sided = estimate_mean(strength * factor * np.maximum(excess, 0.0) ** 2)
        two_sided = estimate_mean(strength * factor * excess**2)
    return SampledDual(
        critic_loss=loss,
        penalty=one_sided,
        penalty_two_sided=two_sided,
        dual_value=Estimate(
            loss.value - one_sided.value,
            math.hypot(loss.standard_error, one_sided.standard_error),
        ),
        mean_slope=float(np.mean(factor * slope) / max(np.mean(factor), np.finfo(float).tiny)),
        largest_slope=largest,
        strength=float(strength),
        samples=samples,
    )


def best_factor(
    critic: Critic, samplers: Samplers, strength: float, *, samples: int, seed: int | Sequence[int]
) -> float:
    """Return the number c ≥ 0 for which c·u has the largest dual value on samples.

    c L − λ E_σ (c|∇u| − 1)₊² is concave in c. A critic whose scale means nothing (clipped weights)
    is worth what its best multiple is.

    Parameters
    ----------
    critic, samplers, strength, samples, seed
        As for `sampled_dual`, with a finite λ.
    """
    streams = np.random.default_rng(seed).spawn(3)
    loss = float(
        np.mean(_values(critic, samplers.source, samples, streams[0]))
        - np.mean(_values(critic, samplers.target, samples, streams[1]))
    )
    slope, factor = _slopes(critic, samplers, samples, streams[2])
    if loss <= 0.0 or not (slope * factor).any():
        return 0.0

    largest = float(np.max(slope, where=factor > 0.0, initial=0.0))
    stiffness = 2.0 * strength * factor / len(factor)
    # Slopes of the size of one, whatever the critic's units.
    lengths: FloatArray = np.asarray(slope / largest)
    best = recovery.best_factor(MPI.COMM_SELF, lengths, stiffness, loss / largest)
    return best / largest


def _values(critic: Critic, draw: Sampler, number: int, random: np.random.Generator) -> FloatArray:
    """Return the values (number,) of a critic at samples."""
    return np.concatenate([critic.value(draw(count, random)) for count in _counts(number)])


def _slopes(
    critic: Critic, samplers: Samplers, number: int, random: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return |∇u| at samples of the weight, and their factors: (number,), (number,)."""
    slopes, factors = [], []
    for count in _counts(number):
        points, factor = samplers.weight(count, random)
        slopes.append(np.linalg.norm(critic.gradient(points), axis=1))
        factors.append(factor)
    return np.concatenate(slopes), np.concatenate(factors)


def _counts(number: int) -> list[int]:
    return [min(_CHUNK, number - start) for start in range(0, number, _CHUNK)]
