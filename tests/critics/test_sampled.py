"""Dual values from samples: known cases, honest intervals, every dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammaln

from congested.critics.network import FunctionCritic, Multiple, Network
from congested.critics.sampled import best_factor, sampled_dual
from congested.critics.sampling import Sampler, Samplers, array_sampler, from_samplers, split
from congested.errors import InputError
from congested.measures.sampling import Estimate


def gaussian(mean: np.ndarray, std: float) -> Sampler:
    return lambda number, random: mean + std * random.standard_normal((number, len(mean)))


def affine(slope: np.ndarray, constant: float = 0.3) -> Network:
    return Network((slope[None],), (np.array([constant]),))


def quadratic(dimension: int, factor: float) -> FunctionCritic:
    return FunctionCritic(
        dimension, lambda x: 0.5 * factor * (x**2).sum(axis=1), lambda x: factor * x
    )


# --- known cases ------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [1, 2, 16])
def test_affine_critic_between_gaussians(dimension: int) -> None:
    """Its slope is the same everywhere: no penalty but λ (|a| − 1)₊², and L = a·(m − n)."""
    slope = np.full(dimension, 1.2 / math.sqrt(dimension))
    mean = np.linspace(-1.0, 0.5, dimension)
    samplers = from_samplers(gaussian(mean, 0.3), gaussian(-mean, 0.7))
    dual = sampled_dual(affine(slope), samplers, 10.0, samples=40_000, seed=1)
    loss = float(slope @ (2.0 * mean))
    error = 1.2 * math.hypot(0.3, 0.7) / math.sqrt(40_000)
    assert dual.critic_loss.standard_error == pytest.approx(error, rel=0.02)
    assert abs(dual.critic_loss.value - loss) < 4.0 * error
    assert dual.penalty.value == pytest.approx(10.0 * 0.2**2)
    assert dual.penalty.standard_error < 1e-12
    assert dual.penalty_two_sided.value == pytest.approx(dual.penalty.value)
    assert dual.dual_value.value == dual.critic_loss.value - dual.penalty.value
    assert dual.largest_slope == pytest.approx(1.2)
    assert dual.mean_slope == pytest.approx(1.2)
    assert (dual.samples, dual.strength) == (40_000, 10.0)


def test_flat_critic_pays_the_two_sided_penalty_alone() -> None:
    samplers = from_samplers(gaussian(np.zeros(3), 1.0), gaussian(np.ones(3), 1.0))
    dual = sampled_dual(affine(np.array([0.5, 0.0, 0.0])), samplers, 4.0, samples=100)
    assert dual.penalty.value == 0.0
    assert dual.penalty_two_sided.value == pytest.approx(4.0 * 0.25)


def radial_penalty(dimension: int, first: float, second: float, factor: float) -> float:
    """E (c|x| − 1)² for x from the weight of N(0, s₁² I) and N(0, s₂² I), s₁ = `first`."""

    def std(t: float) -> float:
        return math.hypot((1.0 - t) * first, t * second)

    norm = math.sqrt(2.0) * math.exp(gammaln(0.5 * (dimension + 1)) - gammaln(0.5 * dimension))
    mean = norm * quad(std, 0.0, 1.0)[0]
    square = dimension * (first**2 + second**2) / 3.0
    return factor**2 * square - 2.0 * factor * mean + 1.0


def test_interval_holds_what_is_known_as_often_as_it_says() -> None:
    """A quadratic critic between two centred Gaussians, in dimension 5: all of it by quadrature."""
    first, second, factor, strength, dimension = 0.4, 1.0, 0.8, 3.0, 5
    centre = np.zeros(dimension)
    samplers = from_samplers(gaussian(centre, first), gaussian(centre, second))
    loss = 0.5 * factor * dimension * (first**2 - second**2)
    two_sided = strength * radial_penalty(dimension, first, second, factor)
    held = np.zeros(3, dtype=int)
    runs = 300
    for seed in range(runs):
        dual = sampled_dual(
            quadratic(dimension, factor), samplers, strength, samples=500, seed=seed
        )
        for position, (estimate, exact, confidence) in enumerate(
            (
                (dual.critic_loss, loss, 0.9),
                (dual.penalty_two_sided, two_sided, 0.9),
                (dual.critic_loss, loss, 0.5),
            )
        ):
            low, high = estimate.interval(confidence)
            held[position] += low <= exact <= high
    # Within three standard deviations of a binomial number.
    assert held / runs == pytest.approx([0.9, 0.9, 0.5], abs=3.0 * 0.5 / math.sqrt(runs))
    assert held[0] / runs == pytest.approx(0.9, abs=3.0 * 0.3 / math.sqrt(runs))


def test_lower_bound_is_the_one_sided_interval() -> None:
    estimate = Estimate(2.0, 0.1)
    assert estimate.lower(0.95) == pytest.approx(2.0 - 0.1 * 1.6449, abs=1e-5)
    assert estimate.lower(0.95) == pytest.approx(estimate.interval(0.9)[0])


def test_samples_depend_on_the_seed_alone_and_come_in_chunks() -> None:
    calls: list[int] = []

    def source(number: int, random: np.random.Generator) -> np.ndarray:
        calls.append(number)
        return random.standard_normal((number, 2))

    samplers = from_samplers(source, gaussian(np.ones(2), 1.0))
    first, again, other = (
        sampled_dual(affine(np.ones(2)), samplers, 1.0, samples=70_000, seed=seed)
        for seed in ((3, 1), (3, 1), (3, 2))
    )
    assert first == again
    assert first.critic_loss != other.critic_loss
    assert max(calls) == 1 << 15


def test_infinite_strength_allows_no_slope_above_one() -> None:
    samplers = from_samplers(gaussian(np.zeros(2), 1.0), gaussian(np.ones(2), 1.0))
    good = sampled_dual(affine(np.array([-1.0, 0.0])), samplers, math.inf, samples=1000)
    assert good.penalty.value == good.penalty_two_sided.value == 0.0
    assert good.dual_value == good.critic_loss
    bad = sampled_dual(affine(np.array([-1.1, 0.0])), samplers, math.inf, samples=1000)
    assert bad.dual_value.value == -math.inf


def test_points_outside_have_no_penalty() -> None:
    """A weight with a factor: half of the points count, twice."""

    def weight(number: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        points = random.random((number, 2))
        return points, np.where(points[:, 0] < 0.5, 2.0, 0.0)

    draw = gaussian(np.zeros(2), 1.0)
    samplers = Samplers(2, draw, draw, weight)
    critic = FunctionCritic(
        2, lambda x: x[:, 0], lambda x: np.where(x[:, :1] < 0.5, [[3.0, 0.0]], [[100.0, 0.0]])
    )
    dual = sampled_dual(critic, samplers, 1.0, samples=20_000)
    assert dual.penalty.value == pytest.approx(4.0, abs=0.1)
    assert dual.largest_slope == 3.0
    assert dual.mean_slope == pytest.approx(3.0)


# --- best multiple ----------------------------------------------------------------------------


def test_best_multiple_of_an_affine_critic() -> None:
    """D(c) = c L − λ (c|a| − 1)₊² is largest at c|a| = 1 + L/(2λ|a|)."""
    slope, strength = np.array([0.003, 0.004]), 5.0
    samplers = from_samplers(gaussian(np.ones(2), 0.1), gaussian(np.zeros(2), 0.1))
    factor = best_factor(affine(slope), samplers, strength, samples=4000, seed=1)
    loss = sampled_dual(affine(slope), samplers, strength, samples=4000, seed=1).critic_loss.value
    assert factor * 0.005 == pytest.approx(1.0 + loss / (2.0 * strength * 0.005))
    backwards = Multiple(affine(slope), -1.0)
    assert best_factor(backwards, samplers, strength, samples=4000, seed=1) == 0.0


# --- samplers ---------------------------------------------------------------------------------


def test_rows_of_an_array_are_split_and_drawn() -> None:
    rows = np.arange(20.0).reshape(10, 2)
    training, held = split(rows, 0.3, seed=4)
    assert (training.shape, held.shape) == ((7, 2), (3, 2))
    assert sorted(np.concatenate([training, held])[:, 0]) == list(rows[:, 0])
    drawn = array_sampler(held)(200, np.random.default_rng(0))
    assert set(drawn[:, 0]) == set(held[:, 0])


def test_interpolates_lie_between_their_ends() -> None:
    corner = np.zeros(4)
    samplers = from_samplers(gaussian(corner, 0.0), gaussian(corner + 1.0, 0.0))
    points, factors = samplers.weight(5000, np.random.default_rng(0))
    assert np.ptp(points, axis=1).max() < 1e-15  # on the diagonal
    assert np.quantile(points[:, 0], [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.03)
    assert (factors == 1.0).all()


# --- mistakes ---------------------------------------------------------------------------------


def test_mistakes_are_named() -> None:
    good = gaussian(np.zeros(2), 1.0)
    samplers = from_samplers(good, good)
    critic = affine(np.ones(2))
    for key, action in {
        "target": lambda: from_samplers(good, gaussian(np.zeros(3), 1.0)),
        "source": lambda: from_samplers(lambda number, random: np.full((number, 2), np.nan), good),
        "critic": lambda: sampled_dual(affine(np.ones(3)), samplers, 1.0),
        "strength": lambda: sampled_dual(critic, samplers, math.nan),
        "samples": lambda: sampled_dual(critic, samplers, 1.0, samples=1),
        "confidence": lambda: Estimate(0.0, 1.0).interval(1.0),
        "points": lambda: array_sampler([1.0, 2.0]),
        "share": lambda: split(np.zeros((3, 2)), 1.0, 0),
    }.items():
        with pytest.raises(InputError) as caught:
            action()
        assert caught.value.key == key
        assert "allowed" in str(caught.value)
