"""The study of the two penalties: tents by hand, and that they are worth the one-sided optimum."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from congested.geometry import barycentric_gradients, simplex_volumes, split_simplices
from tests.scripts import load_script


@pytest.fixture(scope="module")
def tents() -> ModuleType:
    return load_script("tents")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return the quick study, and its folder."""
    folder = tmp_path_factory.mktemp("two_sided")
    return load_script("study_two_sided").main(["--quick", "-o", str(folder)]), folder


def triangles(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random triangles, and random vectors in the unit disc."""
    random = np.random.default_rng(3)
    simplices = random.random((number, 3, 2))
    angle, length = random.uniform(0.0, 2.0 * np.pi, number), random.uniform(0.0, 1.0, number)
    return simplices, length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


# ---------------------------------------------------------------------------------- tents, by hand


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_all_three_parts_of_a_tent_have_slope_one(tents: ModuleType, sign: float) -> None:
    simplices, gradient = triangles(200)
    found = tents.tents_on(simplices, gradient, np.full(200, sign))
    assert (found.height > 0.0).all()
    peak = np.einsum("ni,nid->nd", found.peak, simplices)
    for edge in range(3):
        # The part over this edge: two vertices of the triangle, and the peak in place of the third.
        part = simplices.copy()
        part[:, edge] = peak
        tent = sign * found.height[:, None] * barycentric_gradients(part)[:, edge]
        np.testing.assert_allclose(np.linalg.norm(gradient + tent, axis=1), 1.0, atol=1e-6)


def test_there_is_no_tent_where_the_slope_is_one_already(tents: ModuleType) -> None:
    simplices, gradient = triangles(50)
    steep = gradient / np.linalg.norm(gradient, axis=1)[:, None] * 1.2
    assert (tents.tents_on(simplices, steep, np.ones(50)).height == 0.0).all()


@pytest.mark.parametrize("cuts", [1, 2])
def test_means_of_small_tents_are_those_of_the_triangles_they_stand_on(
    tents: ModuleType, cuts: int
) -> None:
    simplices, gradient = triangles(60)
    small, many = simplices, gradient
    for _ in range(cuts):
        small, many = split_simplices(small), np.repeat(many, 4, axis=0)
    heights = tents.tents_on(small, many, np.ones(len(small))).height
    # The integral of a tent is a third of its height times the area.
    volume = (heights * simplex_volumes(small) / 3.0).reshape(60, -1).sum(axis=1)
    whole = tents.tents_on(simplices, gradient, np.ones(60))
    np.testing.assert_allclose(
        whole.mean(2**cuts) * simplex_volumes(simplices), volume, rtol=1e-6, atol=1e-12
    )


def test_averages_of_gradients_that_oscillate_are_short(tents: ModuleType) -> None:
    points = np.random.default_rng(1).random((4000, 2))
    gradient = np.zeros((4000, 2))
    gradient[:, 0], gradient[:, 1] = 0.6, np.where(np.arange(4000) % 2 == 0, 0.8, -0.8)
    assert tents.block_gradient(points, gradient, np.ones(4000), 4) == pytest.approx(0.6, abs=0.01)
    straight = np.abs(gradient)
    assert tents.block_gradient(points, straight, np.ones(4000), 4) == pytest.approx(1.0)


# --------------------------------------------------------------------------------------- the study


def test_tents_lift_the_two_sided_value_to_the_one_sided_optimum(study: tuple[Any, Path]) -> None:
    found, _ = study
    for row in found.meshes:
        tents = row.tents[1:]
        assert [one.parts for one in tents] == [1, 2, 4, 8, 16]
        for one in tents:
            # With each tent on its better side the value is that of P1 or more, and below every
            # upper bound of the one-sided optimum.
            assert row.lower - 1e-12 <= one.dual_value <= row.upper
        # What the tents change is halved with their size.
        for first, second in itertools.pairwise(tents[1:]):
            change = [abs(one.dual_value - row.lower) for one in (first, second)]
            assert change[1] == pytest.approx(0.5 * change[0], rel=0.1, abs=1e-12)
            assert second.distance == pytest.approx(0.5 * first.distance)
    last = found.meshes[-1]
    # Without tents 2 % of the optimum are missing.
    assert last.tents[0].dual_value < 0.98 * last.lower


def test_a_p1_function_comes_near_by_oscillating(study: tuple[Any, Path]) -> None:
    found, _ = study
    last = found.meshes[-1]
    # From 2 % below to 0.1 %.
    assert 0.999 * last.lower < last.maximum < last.upper
    solution, maximum = found.critics[:2]
    assert solution.still.flat > maximum.still.flat
    assert maximum.still.averaged < 0.95 < maximum.still.quantiles[0]


def test_two_sided_values_are_the_smaller_ones_and_no_value_is_above_the_bound(
    study: tuple[Any, Path],
) -> None:
    found, _ = study
    for one in found.critics:
        assert one.two_sided <= one.one_sided + 1e-12
        assert one.one_sided <= found.meshes[-1].upper
    # A third of the weight lies where no mass moves.
    assert 0.3 < found.critics[0].still.mass < 0.45


def test_gp_keeps_its_slope_where_no_mass_moves_and_lp_does_not(study: tuple[Any, Path]) -> None:
    pytest.importorskip("torch")
    found, _ = study
    gp, lp = (one for one in found.critics if one.method)
    assert (gp.method, lp.method) == ("gp", "lp")
    assert gp.still.flat < 0.02 < 0.3 < lp.still.flat
    # Both are steep enough where mass moves.
    assert gp.moving.flat < 0.05
    assert lp.moving.flat < 0.05


def test_table_and_picture_are_files_that_can_be_read(study: tuple[Any, Path]) -> None:
    found, folder = study
    content = json.loads((folder / "two_sided.json").read_text(), parse_constant=pytest.fail)
    assert [row["cells"] for row in content["meshes"]] == [144, 576]
    with (folder / "two_sided.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [one.name for one in found.critics]
    assert float(rows[0]["two_sided"]) == found.critics[0].two_sided
    with Image.open(folder / "two_sided.png") as picture:
        picture.load()
        assert picture.width > picture.height
