"""Exact plans between points: known partners, a linear program, and POT behind it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.spatial.distance import cdist

from congested.cell_search import CellBins
from congested.errors import NotConverged
from congested.measures.points import Points
from congested.weights import plan
from congested.weights.compute import cell_weight
from congested.weights.kinds import Interpolates
from congested.weights.plan import optimal_plan
from tests.weights.test_compute import box_cells, point_set

ORDERS = (1, 2)


def optimal_kind(order: int = 2) -> Interpolates:
    return Interpolates(coupling="optimal", order=order)


# --- points ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dimension", [2, 3])
def test_two_points_make_a_segment(dimension: int, order: int) -> None:
    cells = box_cells(dimension, 4)
    start, end = point_set(np.full((1, dimension), 0.1)), point_set(np.full((1, dimension), 0.7))
    weight = cell_weight(optimal_kind(order), start, end, cells)
    only_one = cell_weight(Interpolates(), start, end, cells)
    np.testing.assert_allclose(weight.masses, only_one.masses, rtol=0, atol=1e-15)
    assert (weight.method, weight.samples, weight.replicates) == ("plan", 1, None)
    assert weight.mass == pytest.approx(1.0, abs=1e-14)
    assert weight.relative_error == 0.0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dimension", [2, 3])
def test_permuted_points_find_their_partners(dimension: int, order: int) -> None:
    """A shift of all points by the same vector is optimal for both orders."""
    generator = np.random.default_rng(4)
    points = 0.6 * generator.random((40, dimension))
    shift = np.array([0.3, 0.2, 0.1])[:dimension]
    permutation = generator.permutation(40)
    cells = box_cells(dimension, 6)
    moved = point_set((points + shift)[permutation])
    weight = cell_weight(optimal_kind(2), point_set(points), moved, cells)
    expected = CellBins(cells).deposit_segments(points, points + shift, np.full(40, 1 / 40))
    np.testing.assert_allclose(weight.masses, expected, atol=1e-14)
    assert weight.samples == 40
    found = optimal_plan(point_set(points), moved, order)
    cost = found.masses @ np.linalg.norm(points[found.rows] - moved.points[found.columns], axis=1)
    assert cost == pytest.approx(np.linalg.norm(shift), rel=1e-12)


def test_points_on_a_line_are_rearranged_monotonically() -> None:
    """On a line mass keeps its order: the plan is the north-west corner of the sorted weights."""
    generator = np.random.default_rng(5)
    x, y = np.sort(generator.random(7)), np.sort(generator.random(11))
    a, b = generator.dirichlet(np.ones(7)), generator.dirichlet(np.ones(11))
    pairs = []
    i = j = 0
    left = [a[0], b[0]]
    while True:
        mass = min(left)
        pairs.append((x[i], y[j], mass))
        left = [left[0] - mass, left[1] - mass]
        if left[0] <= left[1]:
            i += 1
            if i == 7:
                break
            left[0] = a[i]
        else:
            j += 1
            if j == 11:
                break
            left[1] = b[j]
    starts, ends, masses = (np.array(column) for column in zip(*pairs, strict=True))
    direction, origin = np.array([0.8, 0.5]), np.array([0.1, 0.2])
    cells = box_cells(2, 9)
    expected = CellBins(cells).deposit_segments(
        origin + starts[:, None] * direction, origin + ends[:, None] * direction, masses
    )
    shuffled, reordered = generator.permutation(7), generator.permutation(11)
    weight = cell_weight(
        optimal_kind(2),
        Points(origin + x[shuffled, None] * direction, a[shuffled]),
        Points(origin + y[reordered, None] * direction, b[reordered]),
        cells,
    )
    np.testing.assert_allclose(weight.masses, expected, atol=1e-13)
    assert weight.samples == len(pairs) == 17
    assert weight.mass == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("scale", [1e4, 1e-9])
@pytest.mark.parametrize("order", ORDERS)
def test_plan_is_as_cheap_as_a_linear_program_finds(order: int, scale: float) -> None:
    """Whatever the unit of length: the simplex method knows absolute tolerances."""
    generator = np.random.default_rng(10)
    x, y = scale * generator.random((9, 2)), scale * generator.random((6, 2))
    a, b = generator.dirichlet(np.ones(9)), generator.dirichlet(np.ones(6))
    a[3] += a[2]
    a[2] = 0.0
    found = optimal_plan(Points(x, a), Points(y, b), order)
    distance = cdist(x, y) / scale
    sums = [np.kron(np.eye(9), np.ones(6)), np.kron(np.ones(9), np.eye(6))]
    best = linprog(
        (distance**order).ravel(), A_eq=np.concatenate(sums), b_eq=np.concatenate([a, b])
    )
    pairs = distance[found.rows, found.columns]
    assert found.masses @ pairs**order == pytest.approx(best.fun, rel=1e-9)
    other = optimal_plan(Points(x, a), Points(y, b), 3 - order)
    wrong = distance[other.rows, other.columns]
    assert other.masses @ wrong**order > (1 + 1e-3) * best.fun
    np.testing.assert_allclose(np.bincount(found.rows, found.masses, 9), a, atol=1e-15)
    np.testing.assert_allclose(np.bincount(found.columns, found.masses, 6), b, atol=1e-15)
    assert len(found.masses) <= 9 + 6 - 1
    assert 2 not in found.rows
    back = found.reversed
    assert (np.diff(back.rows) >= 0).all()
    assert {*zip(back.rows, back.columns, strict=True)} == {
        *zip(found.columns, found.rows, strict=True)
    }
    assert back.source is found.target


def test_points_that_stay_where_they_are() -> None:
    points = np.random.default_rng(7).random((30, 2))
    cells = box_cells(2, 3)
    weight = cell_weight(optimal_kind(1), point_set(points), point_set(points[::-1]), cells)
    expected = point_set(points).cell_masses(cells)
    np.testing.assert_allclose(weight.masses, expected, atol=1e-15)
    same = point_set(np.array([[0.3, 0.4]]))
    assert cell_weight(optimal_kind(2), same, same, cells).masses.max() == 1.0


# --- POT ---------------------------------------------------------------------------------------


def test_import_of_pot_loads_no_learning_package_and_leaves_the_environment() -> None:
    code = (
        "import os, sys\n"
        "from congested.measures.points import Points\n"
        "from congested.weights import optimal, plan\n"
        "assert 'ot' not in sys.modules\n"
        "before = dict(os.environ)\n"
        "points = Points([[0.0, 0.0], [1.0, 0.0]])\n"
        "plan.optimal_plan(points, points, 2)\n"
        "assert dict(os.environ) == before, 'environment'\n"
        "loaded = {'torch', 'jax', 'cupy', 'tensorflow'} & set(sys.modules)\n"
        "print('ot' in sys.modules, sorted(loaded))\n"
    )
    environment = {**os.environ, "POT_BACKEND_DISABLE_TENSORFLOW": "mine"}
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout == "True []\n"


def test_packages_that_are_there_already_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", sys)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.delenv("POT_BACKEND_DISABLE_JAX", raising=False)
    monkeypatch.delenv("POT_BACKEND_DISABLE_CUPY", raising=False)
    with plan._without_backends():
        assert "POT_BACKEND_DISABLE_JAX" not in os.environ
        assert os.environ["POT_BACKEND_DISABLE_CUPY"] == "1"
    assert "POT_BACKEND_DISABLE_CUPY" not in os.environ


def test_plan_that_is_not_found_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(9)
    clouds = [point_set(generator.random((50, 2))) for _ in range(2)]
    monkeypatch.setattr(plan, "_MOST_PIVOTS", 3)
    with pytest.raises(NotConverged, match=r"optimal plan of 50 and 50 points was not found: num"):
        cell_weight(optimal_kind(), *clouds, box_cells(2, 2))


def test_plan_with_wrong_marginals_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def simplex(a: np.ndarray, b: np.ndarray, cost: np.ndarray, **_: object) -> object:
        return np.outer(a, b) * (1 + 1e-6 * cost), {"warning": None}

    monkeypatch.setattr(plan, "_network_simplex", lambda: simplex)
    clouds = [point_set([[0.1, 0.1], [0.9, 0.1]]), point_set([[0.5, 0.9]])]
    with pytest.raises(NotConverged, match="marginals of the optimal plan differ"):
        cell_weight(optimal_kind(), *clouds, box_cells(2, 2))
