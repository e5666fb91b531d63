"""Particles go along polygons at constant speed, exactly."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from congested.flow.frames import frames_at_constant_speed
from congested.flow.particles import Paths, draw_particles, trace
from congested.geometry import FloatArray
from tests.flow.fields import radial_field


def polygons(*lines: list[list[float]]) -> Paths:
    """Return paths whose factors are 1, 2, 3, … from piece to piece."""
    counts = [len(line) for line in lines]
    points = np.concatenate([np.array(line, dtype=float) for line in lines])
    factors = np.concatenate([np.arange(1.0, count + 1.0) for count in counts])
    zeros = np.zeros(len(points))
    return Paths(np.concatenate([[0], np.cumsum(counts)]), points, zeros, zeros, factors)


def along(points: FloatArray, part: float) -> FloatArray:
    """Return the point after a part of a polygon's length."""
    ways = np.linalg.norm(np.diff(points, axis=0), axis=1)
    passed = np.concatenate([[0.0], np.cumsum(ways)])
    return np.array([np.interp(part * passed[-1], passed, column) for column in points.T])


def test_corners_are_passed_at_constant_speed() -> None:
    # Lengths 3 and 4 and 1: a frame at each unit of length.
    paths = polygons([[0, 0], [3, 0], [3, 4], [2, 4]])
    frames = frames_at_constant_speed(paths, np.array([0.5]), 8)
    expected = [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1], [3, 2], [3, 3], [3, 4], [2, 4]]
    np.testing.assert_allclose(frames.positions[0], expected, atol=1e-14)
    np.testing.assert_array_equal(frames.times, np.arange(9) / 8)
    np.testing.assert_array_equal(frames.congestion[0], [1, 1, 1, 1, 2, 2, 2, 2, 3])
    np.testing.assert_array_equal(frames.mass, [0.5])
    assert frames.number == 1


def test_paths_of_all_kinds_at_once() -> None:
    paths = polygons(
        [[0.5, 0.5, 1.0], [0.5, 0.5, 1.0]],  # stays
        [[0.1, 0.2, 0.3]],  # a single point
        [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 2, 0], [1, 2, 0]],  # pieces without length
        [[0, 0, 1], [0, 0, 3]],
    )
    frames = frames_at_constant_speed(paths, np.ones(4), 3)
    assert (frames.positions[0] == [0.5, 0.5, 1.0]).all()
    assert (frames.positions[1] == [0.1, 0.2, 0.3]).all()
    np.testing.assert_allclose(
        frames.positions[2], [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 2, 0]], atol=1e-15
    )
    np.testing.assert_array_equal(frames.congestion[2], [1, 2, 4, 4])
    np.testing.assert_allclose(frames.positions[3, :, 2], 1 + np.arange(4) * 2 / 3, rtol=1e-15)


@pytest.mark.parametrize("dimension", [2, 3])
def test_traced_paths(dimension: int) -> None:
    field = radial_field(dimension, 6, (0.05, 0.12))
    particles = draw_particles(field, 40, np.random.default_rng(1))
    moved, paths = trace(field, particles)
    frames = frames_at_constant_speed(paths, moved.mass, 10)
    assert frames.positions.shape == (40, 11, dimension)
    np.testing.assert_allclose(frames.positions[:, 0], particles.points(field), atol=1e-15)
    np.testing.assert_allclose(frames.positions[:, -1], moved.points(field), atol=1e-15)
    for path in range(paths.number):
        points = paths.points[paths.offsets[path] : paths.offsets[path + 1]]
        expected = [along(points, time) for time in frames.times]
        np.testing.assert_allclose(frames.positions[path], expected, atol=1e-12)
    # Only factors that the path has.
    factors = [set(paths.congestion[a:b]) for a, b in pairwise(paths.offsets)]
    assert all(set(row) <= found for row, found in zip(frames.congestion, factors, strict=True))


def test_nothing_to_show_and_mistakes() -> None:
    nothing = Paths(np.zeros(1, int), np.zeros((0, 2)), np.zeros(0), np.zeros(0), np.zeros(0))
    assert frames_at_constant_speed(nothing, np.zeros(0), 4).positions.shape == (0, 5, 2)
    one = polygons([[0, 0], [1, 0]])
    with pytest.raises(ValueError, match="0 steps"):
        frames_at_constant_speed(one, np.ones(1), 0)
    with pytest.raises(ValueError, match="2 masses for 1 paths"):
        frames_at_constant_speed(one, np.ones(2), 1)
