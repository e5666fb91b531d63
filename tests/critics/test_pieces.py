"""Pieces on which a network is affine: they fill the cells, and it is affine on each."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congested.critics.network import Activation, Network
from congested.critics.pieces import affine_pieces, whole
from congested.errors import InputError
from congested.geometry import FloatArray, IntArray, simplex_volumes

KINDS: dict[str, dict[str, Any]] = {
    "relu": {"activation": Activation.RELU},
    "leaky": {"activation": Activation.LEAKY_RELU, "slope": 0.3},
    "absolute": {"activation": Activation.ABSOLUTE},
    "maxmin": {"activation": Activation.GROUP_SORT, "group_size": 2},
    "groups": {"activation": Activation.GROUP_SORT, "group_size": 4},
    "sort": {"activation": Activation.GROUP_SORT},
}


def network_of(seed: int, dimension: int, widths: tuple[int, ...], kind: str) -> Network:
    random = np.random.default_rng(seed)
    sizes = (dimension, *widths, 1)
    weights = [random.normal(size=(n, m)) for m, n in itertools.pairwise(sizes)]
    return Network(tuple(weights), tuple(random.normal(size=n) for n in sizes[1:]), **KINDS[kind])


def cells(dimension: int, number: int = 1) -> FloatArray:
    """Return a square or cube of so many squares or cubes a side, each cut along its diagonal."""
    simplices = []
    for order in itertools.permutations(range(dimension)):
        corners = [np.zeros(dimension)]
        for axis in order:
            corners.append(corners[-1] + np.eye(dimension)[axis])
        simplices.append(np.array(corners))
    places = itertools.product(range(number), repeat=dimension)
    moved = [simplex + np.array(place) for place in places for simplex in simplices]
    return 2.0 * np.array(moved) / number - 1.0


def all_pieces(network: Network, simplices: FloatArray) -> tuple[FloatArray, IntArray, FloatArray]:
    """Return vertices (k, d+1, d), owners (k,) and shares of volume (k,) of all pieces."""
    found = list(affine_pieces(network, simplices))
    shares = np.concatenate([one.shares for one in found])
    owner = np.concatenate([one.owner for one in found])
    parts = np.abs(np.linalg.det(shares[:, 1:, 1:] - shares[:, :1, 1:]))
    return np.matmul(shares, simplices[owner]), owner, parts


def check(network: Network, simplices: FloatArray) -> int:
    """Check that the pieces fill the cells and that the network is affine on each."""
    vertices, owner, parts = all_pieces(network, simplices)
    sums = np.bincount(owner, parts, len(simplices))
    np.testing.assert_allclose(sums, 1.0, rtol=1e-11)
    # Inside a cell, however it was cut.
    scale = 1.0 + np.abs(simplices).max()
    assert (vertices.max(axis=1) <= simplices[owner].max(axis=1) + 1e-12 * scale).all()
    assert (vertices.min(axis=1) >= simplices[owner].min(axis=1) - 1e-12 * scale).all()
    dimension = simplices.shape[2]
    values = network.value(vertices.reshape(-1, dimension)).reshape(vertices.shape[:2])
    size = np.abs(values).max() + 1.0
    # A kink that crosses a piece would show in some of many points.
    points = np.random.default_rng(0).dirichlet(np.ones(dimension + 1), size=5)
    for point in (*points, np.full(dimension + 1, 1.0 / (dimension + 1))):
        inside = network.value(point @ vertices)
        np.testing.assert_allclose(inside, values @ point, rtol=0.0, atol=3e-12 * size)
    # The gradient at the middle is that of the piece.
    middle = network.gradient(vertices.mean(axis=1))
    edges = vertices[:, 1:] - vertices[:, :1]
    rises = np.einsum("kid,kd->ki", edges, middle)
    np.testing.assert_allclose(rises, values[:, 1:] - values[:, :1], rtol=0.0, atol=1e-10 * size)
    return len(owner)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dimension", "widths"), [(2, (12, 8)), (3, (8, 4)), (2, (8, 8, 4))])
def test_pieces_fill_the_cells_and_the_network_is_affine_on_each(
    kind: str, dimension: int, widths: tuple[int, ...]
) -> None:
    simplices = cells(dimension, 2)
    network = network_of(5, dimension, widths, kind)
    assert check(network, simplices) > 2 * len(simplices)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(list(KINDS)),
    dimension=st.sampled_from([2, 3]),
    shift=st.sampled_from([0.0, 1e3]),
)
def test_any_network_and_any_cells(seed: int, kind: str, dimension: int, shift: float) -> None:
    random = np.random.default_rng(seed)
    simplices = random.normal(size=(3, dimension + 1, dimension))
    simplices = simplices[simplex_volumes(simplices) > 1e-2]
    network = network_of(seed, dimension, (4, 4), kind)
    # Far from the origin as near it: what the network sees is the same up to rounding.
    biases = (network.biases[0] - shift * network.weights[0].sum(axis=1), *network.biases[1:])
    moved = Network(network.weights, biases, **KINDS[kind])
    _vertices, owner, parts = all_pieces(moved, simplices + shift)
    np.testing.assert_allclose(
        np.bincount(owner, parts, len(simplices)), np.ones(len(simplices)), rtol=1e-9
    )
    if shift == 0.0 and len(simplices):
        check(network, simplices)


def test_the_pieces_of_one_kink_are_known() -> None:
    # The unit triangle cut at x = 1/4: areas 9/32 to the right of it and 7/32 to the left.
    triangle = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    network = Network((np.array([[1.0, 0.0]]), np.array([[1.0]])), (np.array([-0.25]), np.zeros(1)))
    vertices, _, parts = all_pieces(network, triangle)
    assert len(vertices) == 3
    right = vertices.mean(axis=1)[:, 0] > 0.25
    assert parts[right].sum() == pytest.approx(9 / 16, rel=1e-14)
    exact = (parts * 0.5 * network.value(vertices.reshape(-1, 2)).reshape(-1, 3).mean(axis=1)).sum()
    # ∫ (x − 1/4)₊ (1 − x) dx from 1/4 to 1 is (3/4)³/6.
    assert exact == pytest.approx(0.75**3 / 6.0, rel=1e-14)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("kind", ["relu", "absolute", "maxmin"])
def test_kinks_along_edges_of_the_mesh_cut_nothing(kind: str, dimension: int) -> None:
    simplices = cells(dimension, 2)
    # Zero on x = 0 and on the diagonal planes x = y, which are facets of the mesh.
    rows = np.zeros((2, dimension))
    rows[0, 0] = 3.0
    rows[1, :2] = [1.0, -1.0]
    if kind == "maxmin":
        rows = np.array([rows[1], np.zeros(dimension)])
    network = Network((rows, np.ones((1, 2))), (np.zeros(2), np.zeros(1)), **KINDS[kind])
    assert check(network, simplices) == len(simplices)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kink_through_vertices_leaves_no_flat_piece(kind: str) -> None:
    simplices = cells(3, 1)
    # Planes through vertices and edges of the cells, which also are the middles of others.
    rows = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [1.0, -1.0, 1e-15]])
    network = Network((rows, np.ones((1, 4))), (np.zeros(4), np.zeros(1)), **KINDS[kind])
    check(network, simplices)
    _, _, parts = all_pieces(network, simplices)
    assert parts.min() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_dead_neurons_cut_nothing(kind: str) -> None:
    simplices = cells(2, 2)
    size = 8
    # Zero everywhere, constant, and negative everywhere.
    weights, biases = np.zeros((size, 2)), np.zeros(size)
    biases[2:4] = 5.0, -5.0
    weights[4:, 0], biases[4:] = 0.1, -5.0 - 2.0 * np.arange(4)
    network = Network((weights, np.ones((1, size))), (biases, np.zeros(1)), **KINDS[kind])
    assert check(network, simplices) == len(simplices)


def test_equal_neurons_share_their_kink() -> None:
    simplices = cells(2, 1)
    row, count = np.array([0.3, 1.0]), []
    for copies in (1, 6):
        weights = np.tile(row, (copies, 1))
        network = Network(
            (weights, np.ones((1, copies))), (np.full(copies, 0.1), np.zeros(1)), Activation.RELU
        )
        count.append(check(network, simplices))
    # The later ones differ from the first by rounding alone.
    assert count[0] == count[1] > len(simplices)


def test_one_layer_alone_has_whole_cells() -> None:
    simplices = cells(3, 1)
    network = network_of(1, 3, (), "relu")
    (pieces,) = affine_pieces(network, simplices)
    np.testing.assert_array_equal(pieces.shares, whole(6, 4).shares)
    np.testing.assert_array_equal(pieces.owner, np.arange(6))


def test_many_pieces_come_some_at_a_time() -> None:
    simplices = cells(3, 1)
    network = network_of(2, 3, (12, 6), "relu")
    sizes = [len(one.owner) for one in affine_pieces(network, simplices)]
    assert sum(sizes) > 10_000
    assert max(sizes) < sum(sizes) / 2
    # One may stop early.
    first = next(iter(affine_pieces(network, simplices)))
    assert len(first.owner) == sizes[0]
    _, owner, parts = all_pieces(network, simplices)
    np.testing.assert_allclose(np.bincount(owner, parts), 1.0, rtol=1e-11)


def test_no_cells_have_no_pieces() -> None:
    network = network_of(2, 2, (4,), "relu")
    assert sum(len(one.owner) for one in affine_pieces(network, np.zeros((0, 3, 2)))) == 0


def test_smooth_networks_have_no_pieces() -> None:
    weights = (np.ones((3, 2)), np.ones((1, 3)))
    network = Network(weights, (np.ones(3), np.ones(1)), Activation.TANH)
    with pytest.raises(InputError, match="activation: found tanh; allowed: a piecewise affine"):
        list(affine_pieces(network, cells(2)))
