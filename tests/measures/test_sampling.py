"""Means with their errors, and scrambled sequences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from congested.measures.sampling import estimate_mean, scrambled_sobol


def test_mean_has_the_textbook_error():
    found = estimate_mean(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found.value == 2.5
    assert found.standard_error == pytest.approx(math.sqrt(5.0 / 3.0 / 4.0))


def test_one_sample_shows_no_error():
    found = estimate_mean(np.array([2.0]))
    assert (found.value, found.standard_error) == (2.0, math.inf)


def test_a_key_has_its_own_scrambling():
    first, again, other = (scrambled_sobol(3, key).random(8) for key in ((0, 1), (0, 1), (0, 2)))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
