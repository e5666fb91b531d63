"""Pairs as JSON files, and their mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from congested.errors import InputError
from congested.measures.ray_file import pair_from_file, pair_text
from congested.measures.ray_monotone import RayMonotonePair


@pytest.mark.parametrize("dimension", [2, 3, 40])
def test_text_reads_as_the_same_pair(tmp_path, dimension):
    pair = RayMonotonePair.random(dimension, 5, half_width=1.5, power=3, seed=2)
    path = tmp_path / "pair.json"
    path.write_text(pair_text(pair))
    read = pair_from_file(path)
    assert (read.half_width, read.power) == (1.5, 3.0)
    np.testing.assert_array_equal(read.centers, pair.centers)
    np.testing.assert_array_equal(read.biases, pair.biases)


GOOD = {"half_width": 1.0, "power": 8, "centers": [[0.0, 0.0], [0.5, 0.5]], "biases": [0.0, 0.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"half_width": 0}, "half_width: found 0"),
        ({"half_width": "1"}, "half_width: found '1'"),
        ({"power": 0.5}, "power: found 0.5; allowed: a number >= 1"),
        ({"power": None}, "power: found None"),
        ({"centers": [[0.0, 0.0], [1.0, 0.5]]}, r"centers: found \[1.0, 0.5\]; .*strictly inside"),
        ({"centers": [[0.0], [0.5]]}, "centers: found 1 coordinates"),
        ({"centers": []}, "centers: "),
        ({"biases": [0.0]}, "biases: .*2 numbers"),
        ({"biases": [0.0, float("nan")]}, "biases: .*not finite"),
        ({"bias": 1.0}, "bias: found an unknown key; allowed: half_width, power"),
    ],
)
def test_each_mistake_of_a_file_is_named(tmp_path, change, message):
    path = tmp_path / "pair.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(InputError, match=message) as error:
        pair_from_file(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "no table"),
        ('{"power": 8, "centers": [[0, 0]], "biases": [0]}', "half_width: found no such key"),
        (None, "no such file"),
    ],
)
def test_files_that_hold_no_pair_are_named(tmp_path, text, message):
    path = tmp_path / "pair.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        pair_from_file(path)
