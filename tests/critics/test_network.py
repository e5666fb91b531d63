"""Networks in NumPy: against PyTorch, against finite differences, and with wrong shapes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from congested.critics.network import Activation, FunctionCritic, Multiple, Network
from congested.errors import InputError

RANDOM = np.random.default_rng(11)
SMOOTH = {"tanh", "softplus", "silu", "elu"}


def random_network(sizes: tuple[int, ...], activation: str = "relu", **settings: Any) -> Network:
    random = np.random.default_rng(sum(sizes) + len(activation))
    weights = [random.normal(size=(n, m)) / m**0.5 for m, n in itertools.pairwise(sizes)]
    biases = [0.3 * random.normal(size=n) for n in sizes[1:]]
    return Network(tuple(weights), tuple(biases), Activation(activation), **settings)


def torch_functions() -> dict[str, Callable[[Any], Any]]:
    """Return PyTorch's own activations, by our names."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    functional = torch.nn.functional
    return {
        "relu": torch.relu,
        "leaky-relu": lambda x: functional.leaky_relu(x, 0.2),
        "group-sort": lambda x: torch.sort(x, dim=1, descending=True).values,
        "absolute": torch.abs,
        "tanh": torch.tanh,
        "softplus": functional.softplus,
        "silu": functional.silu,
        "elu": functional.elu,
    }


@pytest.mark.parametrize("activation", list(Activation))
def test_values_and_gradients_are_those_of_pytorch(activation: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    function = torch_functions()[activation]
    settings = {"slope": 0.2} if activation == "leaky-relu" else {}
    network = random_network((3, 12, 8, 1), activation, **settings)
    # Far out, too, where exponentials overflow.
    points = RANDOM.normal(size=(300, 3)) * np.array([1.0, 10.0, 1000.0]).repeat(100)[:, None]
    there = torch.tensor(points, requires_grad=True)
    values = there
    for number, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        if number:
            values = function(values)
        values = values @ torch.tensor(weight).T + torch.tensor(bias)
    (gradients,) = torch.autograd.grad(values.sum(), there)
    expected = values.detach().numpy()[:, 0]
    # PyTorch takes softplus(x) = x from x = 20 on, which is 2e-9.
    near = {"rtol": 1e-12, "atol": 1e-8 if activation == "softplus" else 1e-13}
    np.testing.assert_allclose(network.value(points), expected, **near)
    np.testing.assert_allclose(network.gradient(points), gradients.numpy(), **near)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, None])
def test_group_sort_sorts_groups_of_neighbours(size: int | None) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    network = random_network((2, 12, 12, 1), "group-sort", group_size=size)
    points = RANDOM.normal(size=(50, 2))
    there = torch.tensor(points, requires_grad=True)
    values = there
    for number, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        if number:
            groups = values.reshape(50, -1, size or 12)
            values = torch.sort(groups, dim=2, descending=True).values.reshape(50, 12)
        values = values @ torch.tensor(weight).T + torch.tensor(bias)
    (gradients,) = torch.autograd.grad(values.sum(), there)
    np.testing.assert_allclose(network.value(points), values.detach().numpy()[:, 0], rtol=1e-12)
    np.testing.assert_allclose(network.gradient(points), gradients.numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("dimension", [2, 3])
def test_gradients_are_those_of_finite_differences(activation: str, dimension: int) -> None:
    network = random_network((dimension, 10, 10, 1), activation)
    points = RANDOM.normal(size=(200, dimension))
    gradient, step = network.gradient(points), 1e-5
    for axis in range(dimension):
        move = step * np.eye(dimension)[axis]
        difference = (network.value(points + move) - network.value(points - move)) / (2 * step)
        error = np.abs(difference - gradient[:, axis])
        # A kink is within one step of a point now and then.
        assert np.quantile(error, 0.95) < 1e-8
        if activation in SMOOTH - {"elu"}:
            assert error.max() < 1e-8


def test_one_layer_is_an_affine_function() -> None:
    network = Network((np.array([[2.0, -1.0]]),), (np.array([0.5]),))
    points = np.array([[0.0, 0.0], [1.0, 3.0]])
    np.testing.assert_array_equal(network.value(points), [0.5, -0.5])
    np.testing.assert_array_equal(network.gradient(points), [[2.0, -1.0], [2.0, -1.0]])
    assert str(network) == "2-1 relu"
    network.gradient(points)[:] = 0.0  # it is an array of its own
    np.testing.assert_array_equal(network.weights[0], [[2.0, -1.0]])


def test_multiples_scale_values_and_gradients() -> None:
    network = random_network((2, 6, 1), "silu")
    points = RANDOM.normal(size=(9, 2))
    for scaled in (network.scaled(-3.0), Multiple(network, -3.0)):
        np.testing.assert_allclose(scaled.value(points), -3.0 * network.value(points))
        np.testing.assert_allclose(scaled.gradient(points), -3.0 * network.gradient(points))
        assert scaled.dimension == 2


def test_many_points_give_what_each_gives() -> None:
    network = random_network((2, 5, 1))
    points = RANDOM.normal(size=(10_000, 2))  # several chunks
    some = [0, 4095, 4096, 8191, 9999]
    np.testing.assert_allclose(network.value(points)[some], network.value(points[some]))
    np.testing.assert_allclose(network.gradient(points)[some], network.gradient(points[some]))
    assert network.value(points[:0]).shape == (0,)
    assert network.gradient(points[:0]).shape == (0, 2)


def test_what_is_piecewise_affine() -> None:
    assert {str(one) for one in Activation if not one.piecewise_affine} == SMOOTH
    assert str(random_network((3, 4, 4, 1), "group-sort")) == "3-4-4-1 group-sort(whole layer)"
    assert str(random_network((3, 4, 1), "group-sort", group_size=2)) == "3-4-1 group-sort(2)"


WEIGHT, BIAS, LAST = np.ones((4, 2)), np.zeros(4), np.ones((1, 4))


@pytest.mark.parametrize(
    ("weights", "biases", "settings", "text"),
    [
        ((), (), {}, "weights: found 0 matrices"),
        ((WEIGHT, LAST), (BIAS,), {}, "weights: found 2 matrices and 1 vectors"),
        ((WEIGHT, LAST), (BIAS, BIAS), {}, r"a vector \(4,\) as layer 1; .* \(n, 4\)"),
        ((LAST, WEIGHT), (np.zeros(1), BIAS), {}, r"found a matrix \(4, 2\).* as layer 1"),
        ((np.ones(2),), (np.zeros(1),), {}, r"found a matrix \(2,\)"),
        ((WEIGHT,), (BIAS,), {}, "found 4 outputs of the last layer; allowed: 1"),
        ((WEIGHT, np.nan * LAST), (BIAS, [0.0]), {}, "not finite in layer 1"),
        ((WEIGHT, LAST), (np.inf + BIAS, [0.0]), {}, "not finite in layer 0"),
        ((WEIGHT, LAST), (BIAS, [0.0]), {"activation": "gelu"}, 'found "gelu"; allowed: relu, '),
        ((WEIGHT, LAST), (BIAS, [0.0]), {"slope": np.nan}, "slope: found nan; allowed: a finite"),
        ((WEIGHT, LAST), (BIAS, [0.0]), {"group_size": 2}, "group_size: found 2 for relu"),
        *(
            (
                (WEIGHT, LAST),
                (BIAS, [0.0]),
                {"activation": "group-sort", "group_size": size},
                f"group_size: found {size!r}",
            )
            for size in (3, 0, -2, 2.5, "2", True)
        ),
    ],
)
def test_each_mistake_is_named(weights: Any, biases: Any, settings: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Network(weights, biases, **settings)


@pytest.mark.parametrize("shape", [(2,), (5, 3), (1, 5, 2)])
def test_points_of_another_dimension_are_refused(shape: tuple[int, ...]) -> None:
    function = FunctionCritic(2, lambda points: points[:, 0], np.ones_like)
    for critic in (random_network((2, 3, 1)), function):
        for call in (critic.value, critic.gradient):
            with pytest.raises(InputError, match=r"points: found .*; allowed: \(m, 2\)"):
                call(np.zeros(shape))


def test_functions_are_checked() -> None:
    points = np.array([[1.0, 2.0], [3.0, 4.0]])
    column = FunctionCritic(2, lambda x: x[:, :1], lambda x: [[1, 0]] * len(x))
    np.testing.assert_array_equal(column.value(points), [1.0, 3.0])
    np.testing.assert_array_equal(column.gradient(points), [[1.0, 0.0], [1.0, 0.0]])
    for wrong, text in (
        (lambda x: x, r"found an array of shape \(2, 2\); allowed: \(2,\)"),
        (lambda x: x[:, 0] / 0.0, "found inf; allowed: finite numbers"),
    ):
        critic = FunctionCritic(2, wrong, lambda x: x[0])
        with np.errstate(divide="ignore"):
            with pytest.raises(InputError, match=f"value: {text}"):
                critic.value(points)
            with pytest.raises(InputError, match="gradient: found an array of shape"):
                critic.gradient(points)
