"""What rounding can do to a network is in its error: nothing certified is ever wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congested.critics.evaluate import evaluate
from congested.critics.network import Network
from congested.critics.rounding import rounding_of
from congested.errors import InputError
from tests.critics.references import network_of, reference


def test_bounds_of_a_small_network_by_hand() -> None:
    # |x| <= 2: the first layer is at most 3 · 2 + 1 = 7, the second 2 · 7; sums of one term.
    network = Network((np.array([[3.0]]), np.array([[-2.0]])), (np.array([1.0]), np.zeros(1)))
    found = rounding_of(network, np.array([2.0]))
    unit = np.finfo(float).eps
    assert found.entries[0] == pytest.approx(4.0 * 3.0 * unit * 7.0)
    assert found.effects[0] == pytest.approx(2.0)
    assert found.value == pytest.approx(4.0 * (2.0 * 21.0 * unit + 3.0 * unit * 14.0))
    assert found.shift == pytest.approx(2.0 * found.entries[0][0])
    assert found.slope == pytest.approx(6.0, rel=1e-9)


@pytest.mark.parametrize("activation", ["relu", "absolute", "leaky-relu", "group-sort"])
def test_single_precision_stays_within_the_bound_scaled(activation: str) -> None:
    random = np.random.default_rng(5)
    shapes = ((8, 2), (8, 8), (1, 8))
    weights = tuple(random.normal(size=shape) for shape in shapes)
    biases = tuple(random.normal(size=shape[0]) for shape in shapes)
    network = Network(weights, biases, activation)
    points = random.uniform(-1.0, 1.0, (2000, 2)).astype(np.float32)
    values: np.ndarray = points
    single = [
        (weight.astype(np.float32), bias.astype(np.float32))
        for weight, bias in zip(weights, biases, strict=True)
    ]
    exact = Network(*zip(*single, strict=True), activation)  # of the rounded numbers
    for number, (weight, bias) in enumerate(single):
        if number:
            values = network._activate(values).astype(np.float32)
        values = values @ weight.T + bias
    difference = np.abs(values[:, 0] - exact.value(points.astype(float))).max()
    ratio = float(np.finfo(np.float32).eps / np.finfo(np.float64).eps)
    bound = ratio * rounding_of(exact, np.ones(2)).value
    assert 1e-4 * bound < difference < bound


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    name=st.sampled_from(["plane", "cube"]),
    activation=st.sampled_from(["relu", "absolute", "group-sort"]),
)
def test_scales_that_differ_widely_cost_certainty_and_not_truth(
    seed: int, name: str, activation: str
) -> None:
    found = reference(name)
    random = np.random.default_rng(seed)
    network = network_of(seed, found.dimension, activation, width=4)
    scales = 10.0 ** random.uniform(-12.0, 12.0, 4)
    shifts = 10.0 ** random.uniform(0.0, 16.0, 4) * random.integers(-1, 2, 4)
    first, second, last = network.weights
    weights = (scales[:, None] * first, second / scales, last)
    # What one layer adds the next takes away, where an entry is positive.
    biases = (scales * network.biases[0] + shifts, network.biases[1] - second @ (shifts / scales))
    odd = Network(weights, (*biases, network.biases[2]), activation, group_size=network.group_size)
    one = evaluate(found, odd)
    assert one.dual_value - one.error <= found.bounds.upper
    assert one.factor_dual_value - one.factor_error <= found.bounds.upper
    assert 0.0 <= one.suboptimality[0] <= one.suboptimality[1]


@pytest.mark.parametrize("bias", [0.0, 1e10, 1e13, 1e15])
def test_a_dead_neuron_of_any_size_hides_no_kink(bias: float) -> None:
    # A staircase whose steps lie between the middles of the cells, steep and therefore costly.
    found = reference("plane")
    middles = np.unique(np.round(found.simplices[:, :, 0].mean(axis=1), 12))
    steps = 0.5 * (middles[1:] + middles[:-1])
    width = 0.05 * np.diff(middles).min()
    slope = 20.0 / (len(steps) * width)
    starts = np.concatenate([steps - 0.5 * width, steps + 0.5 * width])
    first = np.zeros((len(starts) + 1, 2))
    first[:-1, 0] = 1.0
    sizes = np.repeat([-slope, slope], len(steps))
    stairs = Network((first, np.append(sizes, 0.0)[None]), (np.append(-starts, bias), np.zeros(1)))
    one = evaluate(found, stairs, sign=1)
    assert one.exact
    assert one.largest_gradient_norm == pytest.approx(slope, rel=1e-9)
    # By hand: the steps take this part of the mass of the weight, which is nearly constant there.
    assert one.dual_value < -10.0
    assert one.dual_value == pytest.approx(
        evaluate(
            found, Network((first[:-1], sizes[None]), (-starts, np.zeros(1))), sign=1
        ).dual_value,
        rel=1e-6,
    )


def test_cancellation_inside_a_network_is_in_the_error() -> None:
    # Eight units in the last place of the large bias are one: the plane becomes a staircase.
    found = reference("plane")
    down = -np.array([[0.4, 0.25]]) / np.hypot(0.4, 0.25)
    weights = (down, np.ones((1, 1)), np.ones((1, 1)))
    stairs = Network(weights, (np.array([1.175]), np.array([8e15]), np.array([-8e15])))
    one = evaluate(found, stairs, sign=1)
    assert one.error > 0.5
    assert one.dual_value - one.error <= found.bounds.upper
    assert one.suboptimality[0] == 0.0 <= one.suboptimality[1]


def test_numbers_that_overflow_are_refused() -> None:
    found = reference("plane")
    up = np.array([[0.8, 0.6]])
    huge = Network((1e200 * up, np.array([[1e200]])), (np.ones(1), np.zeros(1)))
    with pytest.raises(InputError, match="allowed: finite numbers"):
        evaluate(found, huge)
