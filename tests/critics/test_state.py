"""From the arrays of a saved network to its layers: each wrapper against PyTorch's own."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from congested.critics.network import Activation
from congested.critics.state import network_from_state
from congested.errors import InputError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
norms = torch.nn.utils.parametrizations
Module, Linear = torch.nn.Module, torch.nn.Linear


def old(function: Callable[..., Module], **settings: Any) -> Callable[[Module], Module]:
    """Return a wrapper of PyTorch that is on its way out, and says so."""

    def wrap(layer: Module) -> Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return function(layer, **settings)

    return wrap


def free(layer: Module) -> Module:
    return norms.orthogonal(layer, use_trivialization=False)


WRAPPERS: dict[str, Callable[[Module], Module]] = {
    "none": lambda layer: layer,
    "spectral": norms.spectral_norm,
    "spectral, old": old(torch.nn.utils.spectral_norm),
    "weight": norms.weight_norm,
    "weight, old": old(torch.nn.utils.weight_norm),
    "weight, columns": lambda layer: norms.weight_norm(layer, dim=1),
    "weight, whole": old(torch.nn.utils.weight_norm, dim=None),
    "orthogonal": norms.orthogonal,
}


class Clipper(torch.nn.Module):
    """As weight clippers and others keep their layer."""

    def __init__(self, layer: Module, name: str = "module") -> None:
        super().__init__()
        setattr(self, name, layer)
        self.name = name

    def forward(self, values: Any) -> Any:
        return getattr(self, self.name)(values)


def trained(wrap: Callable[[Module], Module], sizes: tuple[int, ...] = (2, 8, 8, 1)) -> Module:
    """Return a network after some steps that move every parameter and every buffer."""
    torch.manual_seed(3)
    layers: list[Module] = []
    for columns, rows in itertools.pairwise(sizes):
        layers += [wrap(Linear(columns, rows)), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        points = torch.randn(32, sizes[0])
        (module(points) - points[:, :1] * points[:, 1:2]).pow(2).mean().backward()
        optimizer.step()
    return module.eval()


def check(module: Module, network: Any) -> None:
    points = np.random.default_rng(1).normal(size=(64, network.dimension))
    with torch.no_grad():
        expected = module(torch.tensor(points, dtype=torch.float32)).numpy()[:, 0]
    # Single precision is PyTorch's here.
    np.testing.assert_allclose(network.value(points), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", WRAPPERS)
def test_each_wrapper_is_worked_out_as_pytorch_does(name: str) -> None:
    module = trained(WRAPPERS[name])
    network = network_from_state(module.state_dict(), activation="relu")
    check(module, network)
    assert str(network) == "2-8-8-1 relu"


@pytest.mark.parametrize("name", ["module", "model"])
def test_layers_may_lie_deeper(name: str) -> None:
    module = trained(lambda layer: Clipper(layer, name))
    assert f"0.{name}.weight" in module.state_dict()
    check(module, network_from_state(module.state_dict()))


@pytest.mark.parametrize("sizes", [(2, 8, 8, 1), (3, 5, 2, 1)])
@pytest.mark.parametrize("name", ["matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize("base", [True, False])
def test_each_map_of_orthogonal_layers(name: str, base: bool, sizes: tuple[int, ...]) -> None:
    def wrap(layer: Module) -> Module:
        return norms.orthogonal(layer, orthogonal_map=name, use_trivialization=base)

    module = trained(wrap, sizes)
    network = network_from_state(module.state_dict(), activation="relu", orthogonal_map=name)
    check(module, network)
    for weight in network.weights:
        tall = weight if len(weight) >= weight.shape[1] else weight.T
        np.testing.assert_allclose(tall.T @ tall, np.eye(tall.shape[1]), atol=3e-6)


def test_what_no_array_tells_is_pytorchs_default_and_sorts() -> None:
    module = trained(norms.orthogonal)
    network = network_from_state(module.state_dict())
    assert network.activation is Activation.GROUP_SORT
    assert network.group_size is None
    # Its default is another map for square matrices than for others: 2-8 and 8-8 here.
    for weight, layer in zip(network.weights, module[::2], strict=True):
        np.testing.assert_allclose(weight, layer.weight.detach().numpy(), atol=1e-6)
    assert network_from_state(module.state_dict(), activation="tanh").activation == "tanh"


def test_matrices_without_signs_on_the_diagonal_are_no_reflections() -> None:
    # As the published SORT-OUT critic has them: zeros there, and the matrix exponential.
    state = trained(lambda x: norms.orthogonal(x, orthogonal_map="matrix_exp")).state_dict()
    for name, matrix in state.items():
        if name.endswith("original"):
            matrix.fill_diagonal_(0.0)
    assumed, said = (network_from_state(state, orthogonal_map=x) for x in (None, "matrix_exp"))
    for one, other in zip(assumed.weights, said.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_parametrisation_without_a_base_can_be_anything() -> None:
    class Clip(torch.nn.Module):
        def forward(self, matrix: Any) -> Any:
            return matrix.clamp(-0.1, 0.1)

    layer = Linear(2, 1)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Clip())
    for state in (layer.state_dict(), trained(free).state_dict()):
        text = "orthogonal_map: found .* do not tell how .*; allowed: matrix_exp, cayley"
        with pytest.raises(InputError, match=text):
            network_from_state(state)


def test_spectral_norms_of_modules_that_iterate_in_each_call_are_the_limit() -> None:
    random = np.random.default_rng(0)
    matrices = [random.normal(size=(6, 2)), random.normal(size=(1, 6))]
    state: dict[str, Any] = {}
    for number, matrix in enumerate(matrices):
        name = f"net.{2 * number}.module"
        state[f"{name}.bias"] = np.zeros(len(matrix))
        state[f"{name}.weight_bar"] = matrix
        state[f"{name}.weight_u"], state[f"{name}.weight_v"] = matrix[:, 0], matrix[0]
    network = network_from_state(state)
    for weight, matrix in zip(network.weights, matrices, strict=True):
        assert np.linalg.svd(weight)[1][0] == pytest.approx(1.0, rel=1e-14)
        np.testing.assert_allclose(weight * np.linalg.norm(matrix, 2), matrix, rtol=1e-13)


def test_old_spectral_norms_without_v() -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(1, 3))
    state = {"weight_orig": matrix, "weight_u": np.ones(1), "bias": np.zeros(1)}
    (weight,) = network_from_state(state).weights
    np.testing.assert_allclose(weight, matrix / np.linalg.norm(matrix), rtol=1e-14)


def test_layers_without_bias_and_without_a_name() -> None:
    network = network_from_state({"weight": np.array([[1.0, 2.0, 3.0]])})
    assert network.dimension == 3
    assert network.value(np.array([[1.0, 1.0, 1.0]])) == pytest.approx([6.0])


GOOD = {"0.weight": np.ones((4, 2)), "0.bias": np.zeros(4), "2.weight": np.ones((1, 4))}


@pytest.mark.parametrize(
    ("change", "settings", "text"),
    [
        ({"0.weight": np.ones((4, 2, 3, 3))}, {}, r'"0.weight" of shape \(4, 2, 3, 3\); .*module'),
        ({"1.weight": np.ones(4)}, {}, r'"1.weight" of shape \(4,\)'),
        ({"1.running_mean": np.ones(4)}, {}, '"1.running_mean" of shape'),
        ({"0.weight": np.full((4, 2), np.nan)}, {}, "not finite in layer 0"),
        ({"0.weight": np.ones((4, 2), complex)}, {}, "of type complex128; allowed: real numbers"),
        ({"0.weight": np.full((4, 2), "a")}, {}, "of type <U1; allowed: real numbers"),
        ({"1.bias": np.zeros(4)}, {}, 'found bias for the layer "1", and no matrix'),
        ({"2.weight": np.ones((1, 5))}, {}, r"a matrix \(1, 5\).* as layer 1; .*\(n, 4\)"),
        ({"2.weight": np.ones((2, 4))}, {}, "found 2 outputs of the last layer; allowed: 1"),
        ({}, {"activation": "gelu"}, 'activation: found "gelu"; allowed: relu, leaky-relu'),
        ({}, {"slope": 0.1}, "slope: found 0.1 for relu; allowed: nothing, but for leaky-relu"),
        ({}, {"group_size": 2}, "group_size: found 2 for relu"),
        ({}, {"group_size": 3, "activation": "group-sort"}, "group_size: found 3 for a layer of 4"),
        ({}, {"orthogonal_map": "cayley"}, "orthogonal_map: found cayley for layers that are not"),
        ({}, {"orthogonal_map": "qr"}, 'orthogonal_map: found "qr"; allowed: matrix_exp, cayley'),
    ],
)
def test_each_mistake_is_named(change: Any, settings: Any, text: str) -> None:
    assert network_from_state(GOOD).dimension == 2
    state = GOOD | change
    # A later layer of the same name keeps its place.
    state = dict(sorted(state.items()))
    with pytest.raises(InputError, match=text):
        network_from_state(state, **settings)


def test_no_arrays_are_a_mistake() -> None:
    with pytest.raises(InputError, match="state: found no arrays"):
        network_from_state({})


def test_bases_of_another_size_are_a_mistake() -> None:
    state = trained(norms.orthogonal).state_dict()
    name = "0.parametrizations.weight.0.base"
    state[name] = state[name][:4, :4]
    with pytest.raises(InputError, match=re.escape("found a base of shape (4, 4) for a matrix")):
        network_from_state(state)


def test_rows_of_length_zero_are_a_mistake() -> None:
    state = trained(norms.weight_norm).state_dict()
    state["2.parametrizations.weight.original1"][3] = 0.0
    with pytest.raises(InputError, match="not finite in layer 1"):
        network_from_state(state)
