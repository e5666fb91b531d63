"""Quadrature: exactness of rules, error control, and exact clipping."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from congested import quadrature
from congested.errors import InputError, NotConverged
from congested.geometry import simplex_volumes, split_simplices
from congested.quadrature import (
    clip_simplices,
    clip_to_box,
    integrate_adaptively,
    integrate_over_simplices,
    simplex_rule,
)

UNIT = {
    2: np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]),
    3: np.array([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]),
}


def random_simplices(dimension, number, seed=0):
    return np.random.default_rng(seed).normal(size=(number, dimension + 1, dimension))


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("degree", [0, 1, 3, 6, 10])
def test_rule_is_exact_for_barycentric_monomials(dimension, degree):
    points, weights = simplex_rule(dimension, degree)
    assert points.shape == (len(weights), dimension + 1)
    assert np.allclose(points.sum(axis=1), 1.0, rtol=0, atol=1e-14)
    for powers in itertools.product(range(degree + 1), repeat=dimension + 1):
        if sum(powers) != degree:
            continue
        # Mean of λ^α over a simplex: d! α! / (d + |α|)!
        exact = math.factorial(dimension) * math.prod(map(math.factorial, powers))
        exact /= math.factorial(dimension + degree)
        assert weights @ np.prod(points**powers, axis=1) == pytest.approx(exact, rel=1e-12)


def test_rule_is_not_exact_one_degree_higher():
    points, weights = simplex_rule(2, 2)
    exact = 2.0 * math.factorial(4) / math.factorial(6)
    assert abs(weights @ points[:, 0] ** 4 - exact) > 1e-4


@pytest.mark.parametrize("dimension", [2, 3])
def test_polynomials_are_integrated_exactly(dimension):
    simplices = random_simplices(dimension, 20)
    integrals = integrate_over_simplices(lambda x: 1.0 + x[:, 0], simplices)
    exact = simplex_volumes(simplices) * (1.0 + simplices[:, :, 0].mean(axis=1))
    np.testing.assert_allclose(integrals, exact, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
def test_error_stays_below_the_tolerance_for_a_singular_density(tolerance):
    # ∫ r^(-1/2) over the unit square, by the angle: 2 ∫_0^{π/4} (cos θ)^(-3/2) / (3/2) dθ
    square = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], dtype=float)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    angle = math.pi / 8 * (1 + nodes)
    exact = 2 * math.pi / 8 * weights @ (np.cos(angle) ** -1.5) / 1.5

    def density(x):
        return np.linalg.norm(x, axis=1) ** -0.5

    integrals = integrate_over_simplices(density, square, tolerance)
    assert abs(integrals.sum() - exact) <= tolerance
    assert integrals[0] == pytest.approx(integrals[1], abs=tolerance)


def test_only_the_simplices_that_need_it_are_cut():
    simplices = random_simplices(2, 400)
    calls = []

    def density(x):
        calls.append(len(x))
        return np.exp(-np.abs(x[:, 0]) * (np.abs(x[:, 0]) < 1e-3))

    integrate_over_simplices(density, simplices, 1e-5)
    assert calls[0] == 400 * (calls[0] // 400)
    assert calls[1] < 4 * calls[0]


def test_a_hidden_peak_needs_must_split():
    width, centre = 1e-4, np.array([0.31, 0.4])

    def density(x):
        square = ((x - centre) ** 2).sum(axis=1)
        return np.exp(-0.5 * square / width**2) / (2 * math.pi * width**2)

    def near_and_large(pieces):
        diameter = np.linalg.norm(pieces[:, 1:] - pieces[:, :1], axis=2).max(axis=1)
        distance = np.linalg.norm(pieces.mean(axis=1) - centre, axis=1)
        return (diameter > width) & (distance < diameter + 9 * width)

    blind = integrate_over_simplices(density, UNIT[2])
    seen = integrate_over_simplices(density, UNIT[2], must_split=near_and_large)
    assert blind[0] == 0.0
    assert seen[0] == pytest.approx(1.0, abs=1e-10)


def test_a_jump_off_the_mesh_raises_instead_of_running_for_ever():
    with pytest.raises(NotConverged, match="allow a larger tolerance"):
        integrate_over_simplices(lambda x: (x[:, 0] < 0.3).astype(float), UNIT[2], max_depth=6)


def test_a_kink_off_the_mesh_is_integrated_to_the_tolerance():
    # ∫ |x₁ − 0.3| over the unit triangle, from the two sides of the kink.
    exact = 1 / 6 - 0.3 / 2 + 2 * (0.3**2 / 2 - 0.3**3 / 6)
    for tolerance in (1e-3, 1e-6, 1e-8):
        integral = integrate_over_simplices(lambda x: np.abs(x[:, 0] - 0.3), UNIT[2], tolerance)
        assert abs(integral[0] - exact) <= tolerance


def test_a_jump_is_integrated_to_the_order_of_the_tolerance():
    # Both rules may overlook a corner beyond the jump, so the estimate can be a few times too low.
    integral = integrate_over_simplices(lambda x: (x[:, 0] < 0.3).astype(float), UNIT[2], 1e-4)
    assert integral[0] == pytest.approx(0.5 - 0.5 * 0.7**2, abs=5e-4)


def test_values_that_are_not_finite_are_named():
    with pytest.raises(InputError, match="not finite at"):
        integrate_over_simplices(lambda x: np.log(x[:, 0] - 2.0 + 0j).real * np.nan, UNIT[2])
    with pytest.raises(InputError, match="one number per point"):
        integrate_over_simplices(lambda x: x, UNIT[2])


def test_no_simplices_give_no_integrals():
    assert integrate_over_simplices(lambda x: x[:, 0], np.empty((0, 3, 2))).shape == (0,)


@pytest.mark.parametrize("dimension", [2, 3])
def test_clipping_divides_each_simplex_without_rest(dimension):
    simplices = random_simplices(dimension, 300)
    normal, offset = np.array([0.7, -0.2, 0.4])[:dimension], 0.15
    below, owner_below = clip_simplices(simplices, normal, offset)
    above, owner_above = clip_simplices(simplices, -normal, -offset)
    assert (below @ normal - offset).max() <= 1e-13
    assert (above @ normal - offset).min() >= -1e-13
    parts = np.bincount(owner_below, simplex_volumes(below), minlength=300)
    parts += np.bincount(owner_above, simplex_volumes(above), minlength=300)
    np.testing.assert_allclose(parts, simplex_volumes(simplices), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dimension", [2, 3])
def test_each_simplex_can_have_its_own_half_space(dimension):
    simplices = random_simplices(dimension, 40)
    generator = np.random.default_rng(1)
    normals, offsets = generator.normal(size=(40, dimension)), generator.normal(size=40)
    pieces, owner = clip_simplices(simplices, normals, offsets)
    volumes = np.bincount(owner, simplex_volumes(pieces), minlength=40)
    for k in range(40):
        alone, _ = clip_simplices(simplices[k : k + 1], normals[k], offsets[k])
        assert volumes[k] == pytest.approx(simplex_volumes(alone).sum(), rel=1e-14)
    assert 0 < np.count_nonzero(volumes == 0.0) < 20


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_simplex_with_vertices_on_the_plane_is_cut_into_no_more_than_it_needs(dimension):
    # The plane through all vertices but two halves the simplex; flat pieces are not made.
    normal = np.zeros(dimension)
    normal[:2] = 1.0, -1.0
    simplex = UNIT[dimension].copy()
    pieces, _ = clip_simplices(simplex, normal, 0.0)
    assert len(pieces) == 1
    half = 0.5 / math.factorial(dimension)
    assert simplex_volumes(pieces)[0] == pytest.approx(half, rel=1e-15)
    touching, owner = clip_simplices(simplex, -np.eye(dimension)[0], -1.0)
    assert len(touching) == len(owner) == 0


@pytest.mark.parametrize("dimension", [2, 3])
def test_clipped_corner_has_its_exact_volume(dimension):
    # The part of the unit simplex below x₁ = t keeps 1 − (1 − t)^d of the volume.
    for share in (0.0, 0.25, 0.9, 1.0):
        normal = np.eye(dimension)[0]
        pieces, _ = clip_simplices(UNIT[dimension], normal, share)
        exact = (1 - (1 - share) ** dimension) / math.factorial(dimension)
        assert simplex_volumes(pieces).sum() == pytest.approx(exact, abs=1e-15)


@pytest.mark.parametrize("dimension", [2, 3])
def test_clipping_to_a_box_is_additive_and_exact(dimension):
    # A simplex that contains the whole box, and its children.
    lower, upper = np.full(dimension, 0.2), np.array([0.5, 0.3, 0.4])[:dimension]
    simplices = 3.0 * UNIT[dimension]
    for _ in range(3):
        pieces, owner, whole = clip_to_box(simplices, lower, upper)
        total = simplex_volumes(pieces).sum() + simplex_volumes(simplices[whole]).sum()
        assert total == pytest.approx(np.prod(upper - lower), rel=1e-13)
        assert not set(owner) & set(whole)
        simplices = split_simplices(simplices)


def test_without_a_budget_simplices_are_done_in_portions_that_fit(monkeypatch):
    portions = []

    def rule(pieces, owner):
        # The simplices with numbers k and k + 5 are to be cut k times, k < 5.
        portions.append(len(pieces))
        size = simplex_volumes(pieces)
        error = np.where(size > 1.5 * 0.25 ** (owner % 5), np.inf, 0.0)
        return size[:, None] * (1.0 + owner[:, None]), error

    simplices = np.repeat(2.0**0.5 * UNIT[2], 10, axis=0)
    expected = 1.0 + np.arange(10.0)
    np.testing.assert_allclose(integrate_adaptively(rule, simplices, 0.0)[:, 0], expected)
    assert max(portions) == 2 * 4**4
    # Enough for one simplex, too little for the two that are cut four times.
    portions.clear()
    monkeypatch.setattr(quadrature, "_NUMBERS_OF_PIECES", 300 * 6)
    np.testing.assert_allclose(integrate_adaptively(rule, simplices, 0.0)[:, 0], expected)
    assert max(portions) == 4**4
    # Two simplices with a budget for both, and one alone that does not fit.
    with pytest.raises(NotConverged, match="stopped after 3 cuts with 128 pieces"):
        integrate_adaptively(rule, simplices, 1e-9)
    monkeypatch.setattr(quadrature, "_NUMBERS_OF_PIECES", 100 * 6)
    with pytest.raises(NotConverged, match="stopped after 3 cuts with 64 pieces"):
        integrate_adaptively(rule, simplices, 0.0)
