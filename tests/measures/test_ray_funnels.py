"""The rays of points, against the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest

from congested.measures.ray_funnels import active_funnels
from congested.measures.ray_monotone import RayMonotonePair


@pytest.mark.parametrize(("dimension", "number"), [(2, 1), (2, 40), (3, 4), (17, 30), (128, 256)])
def test_rays_are_those_of_the_formulas(dimension, number):
    pair = RayMonotonePair.random(dimension, number, seed=5)
    funnels = pair.funnels
    assert len(funnels.centers) == number
    points = pair.sample_target(np.random.default_rng(0).random((200, dimension)))
    rays = funnels.rays(points)
    values = np.linalg.norm(points[:, None] - pair.centers, axis=2) + pair.biases
    np.testing.assert_array_equal(rays.funnel, values.argmin(axis=1))
    offset = points - pair.centers[rays.funnel]
    np.testing.assert_allclose(rays.distance, np.linalg.norm(offset, axis=1), rtol=1e-14)
    np.testing.assert_allclose(rays.direction * rays.distance[:, None], offset, atol=1e-14)
    for n in np.unique(rays.funnel)[:10]:
        here = rays.funnel == n
        expected = funnels.inverse_radius(n, rays.direction[here])
        np.testing.assert_allclose(rays.inverse_radius[here], expected, rtol=1e-12)


def test_ends_of_rays_lie_on_the_box_or_tie_in_high_dimensions():
    pair = RayMonotonePair.random(32, 16, seed=1)
    rays = pair.funnels.rays(pair.sample_target(np.random.default_rng(2).random((500, 32))))
    assert (rays.distance * rays.inverse_radius <= 1.0 + 1e-12).all()
    ends = pair.centers[rays.funnel] + rays.direction / rays.inverse_radius[:, None]
    at_box = np.abs(np.abs(ends).max(axis=1) - pair.half_width) < 1e-9
    values = np.linalg.norm(ends[:, None] - pair.centers, axis=2) + pair.biases
    values.sort(axis=1)
    tied = values[:, 1] - values[:, 0] < 1e-9
    assert (at_box | tied).all()
    assert at_box.any() and tied.any()


@pytest.mark.parametrize("distance", [1e-3, 1e-12, 1e-160, 5e-324])
def test_a_point_next_to_a_tip_keeps_its_ray(distance):
    funnels = active_funnels(np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]), np.zeros(2), 1.0)
    rays = funnels.rays(np.array([[0.0, -distance, 0.0]]))
    assert (rays.funnel[0], rays.distance[0]) == (0, distance)
    np.testing.assert_array_equal(rays.direction, [[0.0, -1.0, 0.0]])
    assert rays.inverse_radius[0] == 1.0


def test_a_tip_has_a_ray_and_a_shared_point_the_first_funnel():
    funnels = active_funnels(np.array([[-0.5, 0.0], [0.5, 0.0]]), np.zeros(2), 1.0)
    rays = funnels.rays(np.array([[0.5, 0.0], [0.0, 0.3]]))
    np.testing.assert_array_equal(rays.funnel, [1, 0])
    assert rays.distance[0] == 0.0
    np.testing.assert_array_equal(rays.direction[0], [1.0, 0.0])
    assert rays.inverse_radius[0] == 2.0
