"""The algebra of the second-order cone and its scaling, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from congested.geometry import FloatArray
from congested.solvers.second_order_cone import (
    Scaling,
    determinant,
    joined,
    largest_step,
    product,
    quotient,
)

dimensions = pytest.mark.parametrize("dimension", [2, 3])


def inside(dimension: int, seed: int, distance: float = 0.3) -> FloatArray:
    """Points (7, 5, 1 + d) whose |w|/t is between 0 and 1 − distance."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(7, 5, dimension))
    share = (1.0 - distance) * generator.uniform(size=(7, 5))
    first = np.linalg.norm(vectors, axis=-1) / np.maximum(share, 1e-3)
    return joined(first, vectors)


@dimensions
def test_quotient_undoes_the_product(dimension: int) -> None:
    x, y = inside(dimension, 0), inside(dimension, 1)
    np.testing.assert_allclose(quotient(product(x, y), x), y, rtol=1e-11)
    unit = joined(np.ones((7, 5)), np.zeros((7, 5, dimension)))
    np.testing.assert_allclose(product(unit, x), x, rtol=1e-15)


def test_determinant_close_to_the_boundary() -> None:
    # t − |w| is 2⁻⁴⁰ exactly; squares would leave twelve bits of it.
    point = np.array([1.0 + 2.0**-40, 1.0, 0.0])
    assert determinant(point) == pytest.approx(2.0**-40 * (2.0 + 2.0**-40), rel=1e-15)


@dimensions
@pytest.mark.parametrize("distance", [0.3, 1e-6])
def test_scaling_sends_both_points_to_one(dimension: int, distance: float) -> None:
    x, y = inside(dimension, 2, distance), inside(dimension, 3, distance)
    scaling = Scaling(x, y)
    # Close to the boundary the points themselves have lost the digits of their distance.
    tolerance = 1e-12 / distance
    np.testing.assert_allclose(scaling.apply(y), scaling.apply_inverse(x), rtol=tolerance)
    vector = inside(dimension, 4)
    again = scaling.apply_inverse(scaling.apply(vector))
    np.testing.assert_allclose(again, vector, rtol=tolerance)
    np.testing.assert_allclose(determinant(scaling.axis), 1.0, rtol=tolerance)


@dimensions
def test_largest_step_ends_on_the_boundary(dimension: int) -> None:
    generator = np.random.default_rng(5)
    for x in inside(dimension, 6).reshape(-1, 1 + dimension):
        change = generator.normal(size=1 + dimension)
        step = largest_step(x[None], change[None])
        if np.isinf(step):
            assert determinant(change) >= 0.0
            assert change[0] >= 0.0
            continue
        scale = x[0] ** 2
        assert determinant(x + 0.999999 * step * change) > 0.0
        assert abs(determinant(x + step * change)) < 1e-12 * scale * (1.0 + step**2)


def test_largest_step_in_special_directions() -> None:
    x = np.array([[2.0, 1.0, 0.0]])
    # Parallel to the boundary, inwards and outwards; along it; nowhere.
    assert largest_step(x, np.array([[1.0, 1.0, 0.0]])) == np.inf
    assert largest_step(x, np.array([[-1.0, 1.0, 0.0]])) == pytest.approx(0.5)
    assert largest_step(x, np.array([[1.0, -1.0, 0.0]])) == np.inf
    assert largest_step(x, np.zeros((1, 3))) == np.inf
    assert largest_step(np.empty((0, 3)), np.empty((0, 3))) == np.inf


def test_largest_step_through_the_apex() -> None:
    # Both roots meet there, and rounding decides whether there are any.
    for x in inside(2, 7).reshape(-1, 3):
        for factor in (0.1, 0.7, 1.0, 1.5):
            step = largest_step(x[None], -factor * x[None])
            assert step == pytest.approx(1.0 / factor, rel=1e-6)
