"""Uniform boxes and balls: exact masses wherever the ball lies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import qmc

from congested.errors import InputError
from congested.geometry import barycentric_gradients, simplex_volumes, split_simplices
from congested.measures.radial import ball_simplex_volumes, ball_volume
from congested.measures.uniform import UniformBall, UniformBox

REFERENCE = {
    2: np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
    3: np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
}


def refined_volume(simplex, center, radius, depth):
    """Volume in the ball from below and above: pieces inside, and those not surely outside."""
    pieces, inside = simplex[None], 0.0
    for level in range(depth + 1):
        offset = pieces - center
        within = (np.linalg.norm(offset, axis=2) <= radius).all(axis=1)
        inside += simplex_volumes(pieces[within]).sum()
        middle = offset.mean(axis=1)
        size = np.linalg.norm(offset - middle[:, None], axis=2).max(axis=1)
        outside = np.linalg.norm(middle, axis=1) - size > radius
        pieces = pieces[~within & ~outside]
        if level < depth:
            pieces = split_simplices(pieces)
    return inside, inside + simplex_volumes(pieces).sum()


@pytest.mark.parametrize("dimension", [2, 3])
def test_box_masses_are_exact_and_add_up(box_cells, dimension):
    measure = UniformBox([0.13, 0.2, 0.3][:dimension], [0.7, 0.51, 0.9][:dimension])
    cells = box_cells([0] * dimension, [1] * dimension, 5)
    masses = measure.cell_masses(cells)
    assert masses.sum() == pytest.approx(1.0, abs=1e-13)
    # The box [0.2, 0.4]^d of the mesh meets the uniform box in a box.
    chosen = ((cells.midpoint > 0.2) & (cells.midpoint < 0.4)).all(axis=1)
    low, high = np.maximum(measure.lower, 0.2), np.minimum(measure.upper, 0.4)
    exact = np.prod(high - low) / np.prod(measure.upper - measure.lower)
    assert chosen.sum() == math.factorial(dimension)
    assert masses[chosen].sum() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("radius", [1e-6, 0.1, 0.25, 0.4])
@pytest.mark.parametrize("position", ["generic", "vertex", "facet", "edge"])
def test_ball_masses_sum_to_one_wherever_the_centre_is(box_cells, dimension, radius, position):
    center = {
        "generic": [0.513, 0.471, 0.538],
        "vertex": [0.5, 0.5, 0.5],
        "facet": [0.5, 0.47, 0.53],
        "edge": [0.5, 0.5, 0.53],
    }[position][:dimension]
    measure = UniformBall(center, radius)
    for number in (1, 4):
        masses = measure.cell_masses(box_cells([0] * dimension, [1] * dimension, number))
        assert masses.min() >= 0
        assert masses.sum() == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("dimension", [2, 3])
def test_ball_volumes_add_up_under_refinement(dimension):
    simplices = np.random.default_rng(0).normal(size=(500, dimension + 1, dimension))
    for radius in (0.2, 1.0, 3.0):
        coarse = ball_simplex_volumes(simplices, np.zeros(dimension), radius)
        fine = ball_simplex_volumes(split_simplices(simplices), np.zeros(dimension), radius)
        gap = fine.reshape(500, -1).sum(axis=1) - coarse
        assert np.abs(gap).max() <= 1e-13 * max(1.0, radius**dimension)
        assert (coarse <= simplex_volumes(simplices) + 1e-13).all()


@pytest.mark.parametrize(("dimension", "depth"), [(2, 14), (3, 6)])
def test_ball_volume_lies_between_inner_and_outer_pieces(dimension, depth):
    for seed in range(4):
        simplex = np.random.default_rng(seed).normal(size=(dimension + 1, dimension))
        lower, upper = refined_volume(simplex, np.zeros(dimension), 0.8, depth)
        exact = ball_simplex_volumes(simplex[None], np.zeros(dimension), 0.8)[0]
        assert lower - 1e-14 <= exact <= upper + 1e-14
        assert upper - lower < 0.1


def test_volumes_with_a_known_formula():
    # A quarter of the disc; an eighth of the ball; caps cut off by a large cell's facet.
    assert ball_simplex_volumes(REFERENCE[2][None], np.zeros(2), 0.5)[0] == pytest.approx(
        math.pi / 16, rel=1e-15
    )
    assert ball_simplex_volumes(REFERENCE[3][None], np.zeros(3), 0.5)[0] == pytest.approx(
        math.pi / 48, rel=1e-15
    )
    height = 0.3
    huge2 = np.array([[[-9.0, height], [9.0, height], [0.0, 9.0]]])
    segment = math.acos(height) - height * math.sqrt(1 - height**2)
    assert ball_simplex_volumes(huge2, np.zeros(2), 1.0)[0] == pytest.approx(segment, rel=1e-13)
    huge3 = np.array([
        [[-50.0, -50.0, height], [50.0, -50.0, height], [0.0, 50.0, height], [0.0, 0.0, 50.0]]
    ])  # fmt: skip
    cap = math.pi * (1 - height) ** 2 * (2 + height) / 3
    assert ball_simplex_volumes(huge3, np.zeros(3), 1.0)[0] == pytest.approx(cap, rel=1e-13)


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_ball_that_touches_a_facet_leaves_no_mass_beyond_it(dimension):
    # The facet x₁ = 0 of the simplex on the other side is tangent to the ball.
    beyond = REFERENCE[dimension] * ([-1.0] + [1.0] * (dimension - 1))
    center = np.array([0.25, 0.25, 0.25])[:dimension]
    assert ball_simplex_volumes(beyond[None], center, 0.25)[0] == 0.0
    inner = ball_simplex_volumes(REFERENCE[dimension][None] * 9, center, 0.25)[0]
    assert inner == pytest.approx(ball_volume(dimension, 0.25), rel=1e-14)


@pytest.mark.parametrize("measure", [
    UniformBox([0.1, 0.2], [0.6, 0.9]), UniformBall([0.4, 0.5], 0.3),
    UniformBox([0.1, 0.2, 0.0], [0.6, 0.9, 0.5]), UniformBall([0.4, 0.5, 0.6], 0.3),
])  # fmt: skip
def test_samples_fill_the_cells_as_the_masses_say(box_cells, measure):
    dimension = measure.dimension
    cells = box_cells([0] * dimension, [1] * dimension, 2)
    masses = measure.cell_masses(cells)
    samples = measure.sample(qmc.Sobol(measure.sample_dimension, seed=0).random(2**13))
    lower, upper = measure.bounds()
    assert (samples >= lower).all() and (samples <= upper).all()
    assert (measure.density(samples) > 0).all()
    gradients = barycentric_gradients(cells.simplices)
    offset = samples[:, None] - cells.simplices[:, 0]
    rest = np.einsum("mnj,nij->mni", offset, gradients[:, 1:])
    inside = (rest >= 0).all(axis=2) & (rest.sum(axis=2) <= 1)
    np.testing.assert_allclose(inside.mean(axis=0), masses, atol=5e-3)


def test_mistakes_are_named():
    with pytest.raises(InputError, match=r"upper: found .* larger than lower"):
        UniformBox([0.0, 0.0], [1.0, 0.0])
    with pytest.raises(InputError, match="upper: found an array of shape"):
        UniformBox([0.0, 0.0], [1.0, 1.0, 1.0])
    with pytest.raises(InputError, match="lower: found 1 coordinates"):
        UniformBox([0.0], [1.0])
    with pytest.raises(InputError, match="radius: found 0"):
        UniformBall([0.0, 0.0], 0.0)
    with pytest.raises(InputError, match="radius: found 'big'"):
        UniformBall([0.0, 0.0], "big")
    with pytest.raises(InputError, match=r"center: .*not finite"):
        UniformBall([0.0, np.inf], 1.0)
