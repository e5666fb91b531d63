"""The Hilbert curve: every point once, and from each to a neighbour."""

from __future__ import annotations

import numpy as np
import pytest

from congested import space_curve
from congested.space_curve import hilbert_order


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_curve_goes_from_neighbour_to_neighbour(dimension):
    axes = np.meshgrid(*[np.arange(8.0)] * dimension, indexing="ij")
    points = np.stack(axes, axis=-1).reshape(-1, dimension)
    shuffled = np.random.default_rng(0).permutation(points)
    order = hilbert_order(shuffled)
    assert sorted(order) == list(range(8**dimension))
    steps = np.abs(np.diff(shuffled[order], axis=0))
    np.testing.assert_array_equal(steps.sum(axis=1), 1.0)


def test_the_order_does_not_depend_on_chunks(monkeypatch):
    points = np.random.default_rng(1).normal(size=(1000, 3))
    whole = hilbert_order(points)
    monkeypatch.setattr(space_curve, "_CHUNK", 77)
    np.testing.assert_array_equal(hilbert_order(points), whole)


def test_a_flat_cloud_has_an_order():
    points = np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    np.testing.assert_array_equal(np.sort(hilbert_order(points)), [0, 1, 2])
