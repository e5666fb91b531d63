"""Writing pairs."""

from __future__ import annotations

import numpy as np
import pytest

import congested as ct
from congested.io.pair import write_pair
from congested.measures.ray_file import pair_from_file
from congested.measures.ray_monotone import RayMonotonePair


def test_written_pair_is_read_again_and_replaced(tmp_path):
    path = tmp_path / "pair.json"
    for seed in range(2):
        pair = RayMonotonePair.random(4, 3, seed=seed)
        write_pair(pair, path)
        np.testing.assert_array_equal(pair_from_file(path).centers, pair.centers)
    assert [file.name for file in tmp_path.iterdir()] == ["pair.json"]


def test_places_where_no_pair_can_be_written_are_named(tmp_path):
    pair = RayMonotonePair.random(2, 1)
    with pytest.raises(ct.InputError, match=r"pair.txt; allowed: one that ends in .json"):
        write_pair(pair, tmp_path / "pair.txt")
    with pytest.raises(ct.InputError, match=r"nowhere.*cannot write: No such file"):
        write_pair(pair, tmp_path / "nowhere" / "pair.json")
