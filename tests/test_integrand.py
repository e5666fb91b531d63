"""The integrand: conjugacy, proximal map, limits, and the smoothed cost that Newton sees."""

from __future__ import annotations

import math

import numpy as np
import pytest
import ufl
from basix.ufl import element
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar

from congested import integrand

EPSILON = np.finfo(float).eps

quick = settings(deadline=None, max_examples=100, derandomize=True)
lengths = st.floats(0.0, 1e3, allow_subnormal=False)
capacities = st.floats(-3.0, 3.0).map(lambda exponent: 10.0**exponent)
steps = st.floats(1e-3, 1e3)
smoothings = st.floats(-2.0, 1.0).map(lambda exponent: 10.0**exponent)
dimensions = st.sampled_from([2, 3])


@st.composite
def vectors(draw: st.DrawFn, count: int = 1, largest: float = 100.0) -> list[np.ndarray]:
    shape = draw(dimensions)
    elements = st.floats(-largest, largest, allow_subnormal=False)
    return [draw(arrays(np.float64, shape, elements=elements)) for _ in range(count)]


# --- H and φ --------------------------------------------------------------------------------


@quick
@given(vectors(2), capacities)
def test_fenchel_young(pair: list[np.ndarray], capacity: float) -> None:
    flux, gradient = pair
    cost = integrand.transport_cost(np.linalg.norm(flux), capacity)
    penalty = integrand.gradient_penalty(np.linalg.norm(gradient), capacity)
    work = float(flux @ gradient)
    assert cost + penalty - work >= -10 * EPSILON * (cost + penalty + abs(work))


@quick
@given(vectors(1), capacities)
def test_fenchel_young_holds_with_equality_at_the_derivative(
    pair: list[np.ndarray], capacity: float
) -> None:
    flux = pair[0]
    length = np.linalg.norm(flux)
    if length == 0.0:
        flux, length = np.full_like(flux, 1e-3), np.linalg.norm(np.full_like(flux, 1e-3))
    gradient = flux / length * integrand.gradient_norm(length, capacity)
    cost = integrand.transport_cost(length, capacity)
    penalty = integrand.gradient_penalty(np.linalg.norm(gradient), capacity)
    # φ loses digits in |ξ| − 1 = |w|/κ: an error of κ(|w|/κ)ε = |w|ε, no more than that of H.
    assert cost + penalty == pytest.approx(flux @ gradient, rel=20 * EPSILON)


@quick
@given(lengths, capacities)
def test_cost_and_penalty_are_conjugate_both_ways(length: float, capacity: float) -> None:
    # The supremum of a concave function of one variable; a relative error x of the maximiser
    # changes the value by x² only.
    def supremum(of: object, largest: float) -> float:
        found = minimize_scalar(
            lambda t: -of(t), bounds=(0.0, largest), method="bounded", options={"xatol": 1e-9}
        )
        return -found.fun

    cost = integrand.transport_cost(length, capacity)
    highest = 2.0 * (1.0 + length / capacity)
    biconjugate = supremum(lambda t: length * t - integrand.gradient_penalty(t, capacity), highest)
    assert biconjugate == pytest.approx(cost, rel=1e-8, abs=1e-8 * capacity)

    gradient = 1e-2 * length
    penalty = integrand.gradient_penalty(gradient, capacity)
    conjugate = supremum(
        lambda t: gradient * t - integrand.transport_cost(t, capacity),
        2.0 * capacity * gradient + 1.0,
    )
    assert conjugate == pytest.approx(penalty, rel=1e-8, abs=1e-8 * max(1.0, capacity))


@quick
@given(lengths, capacities)
def test_momentum_and_gradient_invert_each_other(length: float, capacity: float) -> None:
    gradient = integrand.gradient_norm(length, capacity)
    back = integrand.momentum_norm(gradient, capacity)
    assert back == pytest.approx(length, abs=2 * EPSILON * (capacity + length))
    # A gradient shorter than one carries no momentum, and none belongs to the length one.
    there = integrand.gradient_norm(integrand.momentum_norm(length, capacity), capacity)
    assert there == pytest.approx(max(length, 1.0), rel=4 * EPSILON)


def test_values_by_hand() -> None:
    # λ = 10, σ = 0.2: κ = 4, so that H(2) = 2 + 4/8 and φ(1.5) = λσ 0.25 = 0.5.
    capacity = integrand.capacity(np.array([0.2]), 10.0)
    np.testing.assert_allclose(capacity, 4.0)
    np.testing.assert_allclose(integrand.transport_cost(2.0, capacity), 2.5)
    np.testing.assert_allclose(integrand.gradient_penalty(1.5, capacity), 0.5)
    np.testing.assert_allclose(integrand.momentum_norm(1.5, capacity), 2.0)
    np.testing.assert_allclose(integrand.gradient_norm(2.0, capacity), 1.5)
    assert integrand.gradient_penalty(0.7, capacity) == 0.0
    assert integrand.momentum_norm(0.7, capacity) == 0.0


# --- proximal map ---------------------------------------------------------------------------


@quick
@given(lengths, steps, capacities)
def test_proximal_length_against_scalar_minimisation(
    length: float, step: float, capacity: float
) -> None:
    def objective(t: float) -> float:
        return float(integrand.transport_cost(t, capacity)) + (t - length) ** 2 / (2.0 * step)

    proximal = float(integrand.proximal_length(length, step, capacity))
    found = minimize_scalar(objective, bounds=(0.0, length + 1.0), method="bounded")
    assert objective(proximal) <= found.fun + 1e-12 * abs(found.fun)
    # The optimality condition itself: (q − p)/τ is in the subdifferential of H at p.
    if proximal > 0.0:
        slope = (length - proximal) / step
        error = 10 * EPSILON * (1.0 + length / step + length / capacity)
        assert slope == pytest.approx(1.0 + proximal / capacity, abs=error)
    else:
        assert length <= step


@quick
@given(vectors(2, 10.0), steps, capacities)
def test_proximal_vector_beats_any_other(
    pair: list[np.ndarray], step: float, capacity: float
) -> None:
    point, other = pair

    def objective(flux: np.ndarray) -> float:
        distance = np.sum((flux - point) ** 2) / (2.0 * step)
        return float(integrand.transport_cost(np.linalg.norm(flux), capacity) + distance)

    length = np.linalg.norm(point)
    direction = point / length if length > 0.0 else point
    best = integrand.proximal_length(length, step, capacity) * direction
    assert objective(best) <= objective(other) * (1.0 + 20 * EPSILON)


# --- limits ---------------------------------------------------------------------------------


def test_infinite_capacity_is_beckmann() -> None:
    norms = np.array([0.0, 0.5, 1.0, 1.5])
    infinite = integrand.capacity(np.array([0.0, 1.0, 2.0, 3.0]), math.inf)
    assert np.isposinf(infinite).all()
    np.testing.assert_array_equal(integrand.transport_cost(norms, infinite), norms)
    np.testing.assert_array_equal(integrand.gradient_penalty(norms, infinite), [0, 0, 0, np.inf])
    np.testing.assert_array_equal(integrand.momentum_norm(norms, infinite), [0, 0, 0, np.inf])
    np.testing.assert_array_equal(integrand.gradient_norm(norms, infinite), 1.0)
    expected = [0.0, 0.0, 0.25, 0.75]
    np.testing.assert_array_equal(integrand.proximal_length(norms, 0.75, infinite), expected)


def test_closed_cell_carries_nothing() -> None:
    norms = np.array([0.0, 0.5, 2.0])
    closed = integrand.capacity(np.zeros(3), 10.0)
    np.testing.assert_array_equal(integrand.transport_cost(norms, closed), [0.0, np.inf, np.inf])
    np.testing.assert_array_equal(integrand.gradient_norm(norms, closed), [1.0, np.inf, np.inf])
    for nothing in (
        integrand.gradient_penalty(norms, closed),
        integrand.momentum_norm(norms, closed),
        integrand.proximal_length(norms, 0.1, closed),
    ):
        np.testing.assert_array_equal(nothing, 0.0)


# --- NumPy and UFL --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "formula",
    [
        integrand.transport_cost,
        integrand.gradient_penalty,
        integrand.momentum_norm,
        integrand.gradient_norm,
        lambda length, capacity: integrand.proximal_length(length, 0.4, capacity),
        lambda length, capacity: length * integrand.capacity(capacity, 3.0),
    ],
)
def test_numpy_and_ufl_agree(formula: object) -> None:
    # Length and capacity are the two coordinates: UFL evaluates the expression at a point.
    mesh = ufl.Mesh(element("Lagrange", "triangle", 1, shape=(2,)))
    length, capacity = ufl.SpatialCoordinate(mesh)
    expression = formula(length, capacity)
    assert isinstance(expression, ufl.core.expr.Expr)
    points = np.array([(x, y) for x in (0.0, 0.3, 0.99, 1.0, 1.7, 40.0) for y in (1e-3, 0.5, 8.0)])
    from_ufl = [expression(tuple(point)) for point in points]
    np.testing.assert_allclose(from_ufl, formula(points[:, 0], points[:, 1]), rtol=4 * EPSILON)


# --- the smoothed cost ----------------------------------------------------------------------


def complex_step(function: object, at: np.ndarray) -> np.ndarray:
    """Derivatives of an analytic function of a vector, exact to rounding; last axis added."""
    columns = []
    for axis in range(len(at)):
        shifted = at.astype(complex)
        shifted[axis] += 1e-30j
        columns.append(np.imag(function(shifted)) / 1e-30)
    return np.stack(columns, axis=-1)


@quick
@given(vectors(1), capacities, smoothings)
def test_smoothed_gradient_is_the_derivative(
    pair: list[np.ndarray], capacity: float, smoothing: float
) -> None:
    flux, compliance = pair[0], np.array(1.0 / capacity)
    gradient = integrand.smoothed_gradient(flux, compliance, smoothing)
    expected = complex_step(lambda w: integrand.smoothed_cost(w, compliance, smoothing), flux)
    np.testing.assert_allclose(gradient, expected, rtol=1e-13, atol=1e-13)


@quick
@given(vectors(1, 1e3), capacities, st.floats(0.0, 100.0, allow_subnormal=False))
def test_smoothing_takes_at_most_its_parameter(
    pair: list[np.ndarray], capacity: float, smoothing: float
) -> None:
    cost = integrand.transport_cost(np.linalg.norm(pair[0]), capacity)
    smooth = integrand.smoothed_cost(pair[0], np.array(1.0 / capacity), smoothing)
    rounding = 10 * EPSILON * (cost + smoothing)
    assert -rounding <= cost - smooth <= smoothing + rounding


@quick
@given(
    vectors(2),
    st.one_of(st.just(0.0), capacities.map(lambda capacity: 1.0 / capacity)),
    st.floats(1e-2, 10.0),
)
def test_stiffness_is_symmetric_positive_definite(
    pair: list[np.ndarray], compliance: float, smoothing: float
) -> None:
    # |w|/β up to 2e4: M keeps half of its digits, so that its inverse must come out definite.
    flux, direction = pair
    matrix = integrand.primal_dual_stiffness(flux, direction, np.array(compliance), smoothing)
    assert np.abs(matrix - matrix.T).max() <= 1e-6 * np.abs(matrix).max()
    assert np.linalg.eigvalsh(0.5 * (matrix + matrix.T)).min() > 0.0


@quick
@given(vectors(1, 10.0), capacities, st.floats(0.1, 10.0))
def test_stiffness_is_the_inverse_hessian_at_the_solution(
    pair: list[np.ndarray], capacity: float, smoothing: float
) -> None:
    flux, compliance = pair[0], np.array(1.0 / capacity)
    direction = flux / np.sqrt(flux @ flux + smoothing**2)
    matrix = integrand.primal_dual_stiffness(flux, direction, compliance, smoothing)
    hessian = complex_step(lambda w: integrand.smoothed_gradient(w, compliance, smoothing), flux)
    # Condition of the Hessian: at most (s/β)² = 3e4 here.
    np.testing.assert_allclose(matrix @ hessian, np.eye(len(flux)), atol=1e-10)


def test_long_directions_are_shortened_to_the_unit_ball() -> None:
    flux, direction = np.array([3.0, -1.0, 2.0]), np.array([0.0, 30.0, 40.0])
    compliance = np.array(0.1)
    long = integrand.primal_dual_stiffness(flux, direction, compliance, 0.5)
    short = integrand.primal_dual_stiffness(flux, direction / 50.0, compliance, 0.5)
    np.testing.assert_allclose(long, short, rtol=1e-12)
    other = integrand.primal_dual_stiffness(flux, direction / 100.0, compliance, 0.5)
    assert np.abs(long - other).max() > 1e-3
