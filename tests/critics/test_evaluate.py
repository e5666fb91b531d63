"""A critic held against a solution: by hand, by other rules, and by what must hold for each."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congested.critics import evaluate as module
from congested.critics.evaluate import Evaluation, evaluate
from congested.critics.network import FunctionCritic, Multiple, Network
from congested.critics.reference import Reference
from congested.errors import InputError
from congested.geometry import FloatArray, barycentric_gradients, split_simplices
from tests.critics.references import network_of, own_potential, reference

SMALL = ("plane", "p2", "continuum", "closed", "cube", "cube, p2")


def affine(slope: FloatArray, constant: float = 0.3) -> Network:
    return Network((slope[None],), (np.array([constant]),))


def midpoints(found: Reference, cuts: int) -> tuple[FloatArray, FloatArray]:
    """Return the middles (n, k, d) of the parts of cells that are cut so often, and the shares."""
    simplices = found.simplices
    for _ in range(cuts):
        simplices = split_simplices(simplices)
    number = len(found.simplices)
    middles = simplices.mean(axis=1).reshape(number, -1, found.dimension)
    shares = np.einsum(
        "nkd,nid->nki",
        middles - found.simplices[:, None, 0],
        barycentric_gradients(found.simplices),
    )
    shares[..., 0] += 1.0
    return middles, shares


# --- the solution's own potential ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["plane", "continuum", "closed", "cube"])
def test_own_potential_has_the_lower_bound(name: str) -> None:
    found = reference(name)
    one = evaluate(found, own_potential(found))
    lower, upper = found.bounds.lower, found.bounds.upper
    assert one.dual_value == pytest.approx(lower, rel=1e-12)
    assert one.error < 1e-12 * upper
    assert one.suboptimality[0] == pytest.approx(0.0, abs=1e-12 * upper)
    assert one.suboptimality[1] == pytest.approx(upper - lower, abs=1e-12 * upper)
    # A potential is its own best multiple, as the solver scales it.
    assert one.factor == pytest.approx(1.0, abs=1e-4)
    assert one.factor_dual_value == pytest.approx(lower, rel=1e-8)
    assert one.factor_dual_value >= one.dual_value - 1e-12
    assert one.sign == 1
    assert one.constant == pytest.approx(0.0, abs=1e-12)
    assert not one.exact
    # Angles are those between a gradient and itself: one, or none where it vanishes.
    assert one.gradient_l2.source == pytest.approx(0.0, abs=1e-12)
    assert one.cosine.momentum == pytest.approx(1.0, abs=1e-12)
    for measure in ("source", "weight", "momentum"):
        ours, theirs = (getattr(part, measure) for part in _norms(one))
        assert ours == pytest.approx(theirs, rel=1e-12)


def _norms(one: Evaluation) -> tuple[object, object]:
    return one.gradient_norm, one.solution_gradient_norm


@pytest.mark.parametrize("name", ["p2", "cube, p2"])
def test_own_potential_of_second_order_is_a_little_better_than_its_bound(name: str) -> None:
    # The bound takes the penalty by the vertex rule, which is too large.
    found = reference(name)
    one = evaluate(found, own_potential(found))
    gap = found.bounds.upper - found.bounds.lower
    assert found.bounds.lower < one.dual_value + one.error
    assert one.dual_value - found.bounds.lower < 0.5 * gap
    assert one.suboptimality[0] == 0.0
    assert one.gradient_l2.weight == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["plane", "p2", "cube"])
def test_momentum_and_its_distance_by_the_midpoint_rule(name: str) -> None:
    found = reference(name)
    critic = own_potential(found, 1.05)
    one = evaluate(found, critic)
    middles, shares = midpoints(found, 3 if found.dimension == 2 else 2)
    gradient = critic.gradient(middles.reshape(-1, found.dimension)).reshape(middles.shape)
    norm = np.linalg.norm(gradient, axis=2, keepdims=True)
    capacity = found.capacity[:, None, None]
    own = -capacity * np.maximum(norm - 1.0, 0.0) * gradient / norm
    other = np.einsum("nki,nid->nkd", shares, found.momentum)
    distance = np.linalg.norm(own - other, axis=2).mean(axis=1)
    whole = np.linalg.norm(found.momentum.mean(axis=1), axis=1)
    expected = (distance @ found.volume) / (whole @ found.volume)
    # Parts of an eighth (a quarter) of the cell's size.
    assert one.momentum_relative_l1 == pytest.approx(expected, rel=2e-3)
    assert one.fields is not None
    np.testing.assert_allclose(one.fields.momentum_difference, distance, rtol=0.05, atol=2e-3)
    np.testing.assert_allclose(
        one.fields.momentum, own.mean(axis=1), rtol=0.0, atol=3e-3 * np.abs(own).max()
    )


# --- affine functions ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["network", "function"])
@pytest.mark.parametrize("slope", [0.6, 1.7])
@pytest.mark.parametrize("name", SMALL)
def test_affine_functions_by_hand(name: str, slope: float, kind: str) -> None:
    found = reference(name)
    direction = found.simplices.mean(axis=1).T @ (found.volume * (found.source - found.target))
    gradient = slope * direction / np.linalg.norm(direction)
    critic = affine(gradient)
    if kind == "function":
        critic = FunctionCritic(
            found.dimension, critic.value, lambda x: np.broadcast_to(gradient, x.shape)
        )
    one = evaluate(found, critic)
    exact = {"rel": 1e-12, "abs": 1e-13}
    strength, mass = found.strength, found.total(found.volume * found.weight)
    assert one.sign == 1
    assert one.critic_loss == pytest.approx(gradient @ direction, **exact)
    assert one.penalty == pytest.approx(strength * max(slope - 1.0, 0.0) ** 2 * mass, **exact)
    assert one.penalty_two_sided == pytest.approx(strength * (slope - 1.0) ** 2 * mass, **exact)
    assert one.largest_gradient_norm == pytest.approx(slope, rel=1e-14)
    # The maximum of c L − λ(c s − 1)²₊ σ(Ω).
    best = (1.0 + one.critic_loss / slope / (2.0 * strength * mass)) / slope
    assert one.factor == pytest.approx(best, rel=1e-11)
    value = best * one.critic_loss - strength * (best * slope - 1.0) ** 2 * mass
    assert one.factor_dual_value == pytest.approx(value, rel=1e-11)
    # Means, with the gradient of the solution at the middles of parts of the cells.
    _, shares = midpoints(found, 0 if found.gradient.shape[1] == 1 else 3)
    own = found.gradient
    if own.shape[1] > 1:
        own = np.einsum("nki,nid->nkd", shares, own)
    norms = np.linalg.norm(own, axis=2)
    cosine = own @ gradient / slope / np.where(norms > 0.0, norms, 1.0)
    square = ((own - gradient) ** 2).sum(axis=2)
    moved = np.linalg.norm(found.momentum.mean(axis=1), axis=1)
    near = {"rel": 1e-12 if own.shape[1] == 1 else 5e-3}
    for measure, density in (
        ("source", found.source),
        ("weight", found.weight),
        ("momentum", moved),
    ):
        part = density * found.volume / (density @ found.volume)
        assert getattr(one.gradient_norm, measure) == pytest.approx(slope, rel=1e-13)
        for quantity, values in (
            (one.cosine, cosine),
            (one.gradient_l2, square),
            (one.solution_gradient_norm, norms),
        ):
            assert getattr(quantity, measure) == pytest.approx(part @ values.mean(axis=1), **near)
    assert one.gradient_norm.error < 1e-13
    # The momentum is constant in each cell, and conserves nothing.
    assert one.fields is not None
    momentum = -(found.capacity * max(slope - 1.0, 0.0))[:, None] * gradient / slope
    np.testing.assert_allclose(one.fields.momentum, momentum, atol=1e-12)
    assert one.momentum_divergence_error == pytest.approx(_imbalance(found, momentum), rel=1e-11)
    assert one.exact == (kind == "network")


def _imbalance(found: Reference, momentum: FloatArray) -> float:
    """Return half of Σ_i |∫ m·∇φ_i + ∫ φ_i d(μ − ν)|, vertex by vertex."""
    assert found.arrays is not None
    gradients = barycentric_gradients(found.simplices)
    result = np.zeros(len(found.arrays.vertices))
    for cell, corners in enumerate(found.arrays.cells):
        load = (found.source[cell] - found.target[cell]) / len(corners)
        for place, vertex in enumerate(corners):
            result[vertex] += found.volume[cell] * (momentum[cell] @ gradients[cell, place] + load)
    return 0.5 * float(np.abs(result).sum())


def test_the_momentum_of_the_solution_conserves_mass() -> None:
    # What is measured of a critic's momentum is zero for the mean flux of the solution.
    found = reference("plane")
    without = _imbalance(found, np.zeros((len(found.volume), 2)))
    assert _imbalance(found, found.momentum.mean(axis=1)) < 0.05 * without
    flat = evaluate(found, affine(np.zeros(2)))
    assert flat.momentum_divergence_error == pytest.approx(without, rel=1e-12)
    assert flat.momentum_relative_l1 > 0.99


# --- exactly, and by quadrature -----------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "group-sort", "absolute"])
@pytest.mark.parametrize("name", ["plane", "closed", "cube"])
def test_pieces_and_quadrature_agree_within_the_errors(name: str, activation: str) -> None:
    found = reference(name)
    network = network_of(4, found.dimension, activation)
    exact, other = (evaluate(found, network, exact=flag) for flag in (True, False))
    assert (exact.exact, other.exact) == (True, False)
    assert exact.sign == other.sign
    assert exact.error < 1e-6 * (exact.penalty + exact.critic_loss) < other.error
    assert other.error < 0.05 * abs(exact.penalty + exact.critic_loss)
    assert abs(exact.dual_value - other.dual_value) <= other.error
    # Intervals of the truth contain each other.
    for one, two in ((exact, other), (other, exact)):
        assert one.suboptimality[0] <= two.suboptimality[1]
    assert other.suboptimality[0] <= exact.suboptimality[0] + 1e-12
    for quantity in ("gradient_norm", "solution_gradient_norm", "cosine", "gradient_l2"):
        ours, theirs = getattr(exact, quantity), getattr(other, quantity)
        for measure in ("source", "weight", "momentum"):
            difference = abs(getattr(ours, measure) - getattr(theirs, measure))
            # Cells are cut for the sake of the dual value alone; the errors are estimates.
            assert difference <= 1.5 * (ours.error + theirs.error) + 1e-12, (quantity, measure)
    stated = exact.momentum_relative_l1_error + other.momentum_relative_l1_error
    assert abs(exact.momentum_relative_l1 - other.momentum_relative_l1) <= stated
    assert other.largest_gradient_norm <= exact.largest_gradient_norm * (1.0 + 1e-12)


def test_too_many_pieces_are_left_to_quadrature(monkeypatch: pytest.MonkeyPatch) -> None:
    found, network = reference("plane"), network_of(1)
    pieces = evaluate(found, network).pieces
    assert pieces > len(found.simplices)
    monkeypatch.setattr(module, "_MOST_PIECES", len(found.simplices) / 2)
    assert not evaluate(found, network).exact


def test_smooth_networks_are_integrated_by_quadrature() -> None:
    found, network = reference("plane"), network_of(2, activation="tanh")
    one = evaluate(found, network)
    assert not one.exact
    middles, _ = midpoints(found, 4)
    values = network.value(middles.reshape(-1, 2)).reshape(middles.shape[:2]).mean(axis=1)
    loss = found.volume * (found.source - found.target) @ values
    assert abs(one.critic_loss - one.sign * loss) < 1e-3 * abs(loss) + one.error


# --- what holds for every critic ----------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    name=st.sampled_from(SMALL),
    activation=st.sampled_from(["relu", "leaky-relu", "absolute", "group-sort"]),
    factor=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_no_critic_is_above_the_upper_bound(
    seed: int, name: str, activation: str, factor: float
) -> None:
    found = reference(name)
    network = network_of(seed, found.dimension, activation, width=4).scaled(factor)
    one = evaluate(found, network)
    upper = found.bounds.upper
    assert one.exact
    assert one.fields is not None
    assert one.critic_loss >= 0.0
    assert one.dual_value <= upper + one.error
    assert one.factor_dual_value <= upper + 1e-12
    assert 0.0 <= one.suboptimality[0] <= one.suboptimality[1]
    # η(f) ≥ 0 up to rounding, and together they are what f lacks.
    indicator = one.fields.indicator
    scale = upper + one.penalty + one.critic_loss
    assert indicator.min() > -1e-13 * scale
    assert indicator.sum() == pytest.approx(upper - one.dual_value, abs=1e-11 * scale)
    # No multiple is better than the best one.
    assert one.factor_dual_value >= max(0.0, one.dual_value) - 1e-12
    # |∇f| ≥ 0, cosines in [−1, 1], a mean below the maximum.
    for measure in ("source", "weight", "momentum"):
        assert -1.0 <= getattr(one.cosine, measure) <= 1.0 + 1e-12
        assert 0.0 <= getattr(one.gradient_norm, measure) <= one.largest_gradient_norm + 1e-12


@pytest.mark.parametrize("name", ["plane", "cube"])
def test_the_best_multiple_is_the_best(name: str) -> None:
    found = reference(name)
    network = network_of(3, found.dimension)
    one = evaluate(found, network)
    factor = one.sign * one.factor
    at_best = evaluate(found, Multiple(network, factor), sign=1, exact=False)
    assert one.factor_dual_value > max(0.0, one.dual_value) + 1e-3
    scaled = evaluate(found, network.scaled(factor), sign=1)
    assert scaled.dual_value == pytest.approx(one.factor_dual_value, rel=1e-11)
    assert abs(at_best.dual_value - one.factor_dual_value) <= at_best.error
    rough = evaluate(found, network, exact=False)
    assert rough.factor == pytest.approx(one.factor, rel=0.02)
    assert abs(rough.factor_dual_value - one.factor_dual_value) < rough.factor_error
    # Rounding, bounded for the worst case, is still far below what rules differ by.
    assert one.factor_error < 1e-6 < rough.factor_error < 0.1 * one.factor_dual_value
    for other in (0.5, 0.9, 0.99, 0.999, 1.001, 1.01, 1.1, 2.0):
        value = evaluate(found, network.scaled(other * factor), sign=1).dual_value
        assert value < one.factor_dual_value


@pytest.mark.parametrize("unit", [1e-9, 1e12])
def test_units_of_the_critic_do_not_matter(unit: float) -> None:
    found, network = reference("plane"), network_of(8)
    one, other = evaluate(found, network), evaluate(found, network.scaled(unit))
    assert other.factor == pytest.approx(one.factor / unit, rel=1e-10)
    assert other.factor_dual_value == pytest.approx(one.factor_dual_value, rel=1e-10)
    assert other.cosine.source == pytest.approx(one.cosine.source, rel=1e-10)


def test_constants_have_no_value_and_no_best_multiple() -> None:
    found = reference("plane")
    one = evaluate(found, affine(np.zeros(2), 1e3))
    assert one.dual_value == pytest.approx(0.0, abs=1e-10)
    assert (one.factor, one.factor_dual_value) == (0.0, 0.0)
    assert one.cosine.source == 0.0
    # Added to a critic they change nothing but the constant.
    network = network_of(3)
    moved = dataclasses.replace(network, biases=(*network.biases[:2], network.biases[2] + 50.0))
    first, second = evaluate(found, network), evaluate(found, moved)
    assert second.dual_value == pytest.approx(first.dual_value, rel=1e-10)
    assert second.constant == pytest.approx(first.constant - 50.0 * first.sign, rel=1e-12)


# --- signs --------------------------------------------------------------------------------------


def test_the_sign_is_found() -> None:
    found, network = reference("plane"), network_of(6)
    one, other = evaluate(found, network), evaluate(found, network.scaled(-1.0))
    assert {one.sign, other.sign} == {1, -1}
    assert one.critic_loss > 0.0
    for name in ("dual_value", "penalty", "factor", "momentum_relative_l1", "constant"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-12)
    # Told otherwise, it is as told, and no multiple of it is worth anything.
    told = evaluate(found, network, sign=-one.sign)
    assert told.sign == -one.sign
    assert told.critic_loss == pytest.approx(-one.critic_loss, rel=1e-12)
    assert told.penalty == pytest.approx(one.penalty, rel=1e-12)
    assert (told.factor, told.factor_dual_value) == (0.0, 0.0)


def test_a_wrong_guess_of_the_sign_is_corrected() -> None:
    found = reference("plane")
    potential = own_potential(found)
    vertices = {tuple(vertex) for vertex in found.simplices.reshape(-1, 2).tolist()}
    calls = []

    def value(points: FloatArray) -> FloatArray:
        at_vertex = np.array([tuple(point) in vertices for point in points.tolist()])
        calls.append(at_vertex.all())
        # High on the source at the vertices, where it is looked at first, and low elsewhere.
        return np.where(at_vertex, 9.0, -1.0) * potential.value(points)

    one = evaluate(found, FunctionCritic(2, value, lambda x: -potential.gradient(x)))
    assert calls[0]
    assert one.sign == -1
    assert one.dual_value == pytest.approx(found.bounds.lower, rel=1e-12)


# --- W1, closed cells, equal measures -----------------------------------------------------------


@pytest.mark.parametrize("name", ["w1", "w1, p2"])
def test_w1_asks_for_slopes_up_to_one(name: str) -> None:
    found = reference(name)
    lower, upper = found.bounds.lower, found.bounds.upper
    one = evaluate(found, own_potential(found))
    assert one.penalty == 0.0
    assert one.dual_value == pytest.approx(lower, rel=1e-11)
    # Slopes count as one that exceed it by 1e-9.
    assert one.suboptimality == pytest.approx((0.0, upper - lower), abs=2e-9 * upper)
    assert one.factor * one.largest_gradient_norm == pytest.approx(1.0, rel=1e-12)
    assert lower <= one.factor_dual_value + 1e-11
    assert one.factor_dual_value <= upper
    assert math.isinf(one.penalty_two_sided)
    assert math.isnan(one.momentum_relative_l1)
    assert math.isnan(one.momentum_divergence_error)
    assert math.isnan(one.cosine.weight)  # σ is ignored, and none was computed

    steep = evaluate(found, own_potential(found, 1.01))
    assert steep.penalty == math.inf
    assert steep.dual_value == -math.inf
    assert steep.suboptimality == (math.inf, math.inf)
    assert steep.factor == pytest.approx(one.factor / 1.01, rel=1e-12)
    assert steep.factor_dual_value == pytest.approx(one.factor_dual_value, rel=1e-11)
    assert steep.cosine.source == pytest.approx(1.0, abs=1e-12)


def test_slope_one_everywhere_satisfies_both_constraints_of_w1() -> None:
    found = reference("w1")
    for length, penalties in ((1.0, (0.0, 0.0)), (0.9, (0.0, math.inf)), (1.1, (math.inf,) * 2)):
        one = evaluate(found, affine(length * np.array([-0.8, -0.6])))
        assert (one.penalty, one.penalty_two_sided) == penalties
    network = network_of(3)
    one = evaluate(found, network)
    assert one.exact
    assert one.factor_dual_value == pytest.approx(one.critic_loss / one.largest_gradient_norm)
    assert 0.0 < one.factor_dual_value < found.bounds.upper


def test_slopes_in_closed_cells_cost_nothing() -> None:
    found = reference("closed")
    closed = found.weight == 0.0
    assert closed.any()

    def value(points: FloatArray) -> FloatArray:
        return 30.0 * np.maximum(points[:, 0] - 0.7, 0.0)

    def gradient(points: FloatArray) -> FloatArray:
        return np.where(points[:, :1] > 0.7, 30.0, 0.0) * np.array([1.0, 0.0])

    one = evaluate(found, FunctionCritic(2, value, gradient), sign=1)
    assert one.fields is not None
    assert one.penalty == 0.0
    assert one.largest_gradient_norm == pytest.approx(30.0)
    np.testing.assert_array_equal(one.fields.momentum, 0.0)
    np.testing.assert_allclose(one.fields.gradient_norm[closed].max(), 30.0)
    assert one.gradient_norm.weight == pytest.approx(0.0, abs=1e-12)


def test_equal_measures() -> None:
    found = reference("same")
    assert found.bounds.upper == 0.0
    one = evaluate(found, affine(np.array([3.0, 0.0])))
    assert one.critic_loss == pytest.approx(0.0, abs=1e-14)
    assert one.dual_value == pytest.approx(-40.0 * found.weight @ found.volume, rel=1e-10)
    assert (one.factor, one.factor_dual_value) == (0.0, 0.0)
    assert math.isnan(one.momentum_relative_l1)
    assert math.isnan(one.cosine.momentum)


# --- mistakes and memory ------------------------------------------------------------------------


def test_each_mistake_is_named() -> None:
    found = reference("plane")
    with pytest.raises(InputError, match="critic: found a critic of 3 coordinates; allowed: 2"):
        evaluate(found, network_of(0, 3))
    with pytest.raises(InputError, match="sign: found 2; allowed: 1 or -1"):
        evaluate(found, network_of(0), sign=2)
    bad = FunctionCritic(2, lambda x: np.full(len(x), np.nan), lambda x: x)
    with pytest.raises(InputError, match="value: found nan; allowed: finite numbers"):
        evaluate(found, bad)
    # Gradients are looked at, too.
    bad = FunctionCritic(2, lambda x: x[:, 0], lambda x: np.full(x.shape, np.inf))
    with pytest.raises(InputError, match="gradient: found inf"):
        evaluate(found, bad)


def test_memory_does_not_grow_with_the_layers() -> None:
    random = np.random.default_rng(0)
    sizes = ((128, 2), (128, 128), (1, 128))
    network = Network(
        tuple(random.normal(size=size) for size in sizes), tuple(np.zeros(n) for n, _ in sizes)
    )
    points = random.normal(size=(100_000, 2))
    tracemalloc.start()
    try:
        network.value(points)
        network.gradient(points)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A layer at all points would have 102 MB, a few at 4096 points have 4 MB each.
    assert peak < 4e7
