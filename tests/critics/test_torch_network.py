"""Networks of PyTorch and those of NumPy are the same functions, also through a file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from congested.critics.load import load_critic
from congested.critics.network import Activation, Network
from congested.critics.objectives import Method
from congested.critics.torch_network import (
    effective_network,
    network_of_state,
    seeded_critic,
    write_critic,
)
from congested.errors import CongestedError, InputError

POINTS = np.random.default_rng(0).standard_normal((50, 3))


def tensor(points: np.ndarray) -> torch.Tensor:
    return torch.tensor(points, dtype=torch.float32)


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("group_size", [None, 2, 4])
def test_values_and_slopes_are_the_same(activation: Activation, group_size: int | None) -> None:
    critic = seeded_critic(
        3, dimension=3, width=8, depth=2, activation=activation, slope=0.2, group_size=group_size
    )
    network = effective_network(critic)
    values = critic(tensor(POINTS)).detach().numpy()
    assert network.value(POINTS) == pytest.approx(values, abs=2e-6)
    slopes = critic.slopes(tensor(POINTS)).detach().numpy()
    assert np.linalg.norm(network.gradient(POINTS), axis=1) == pytest.approx(slopes, abs=2e-6)


@pytest.mark.parametrize("method", [Method.SPECTRAL, Method.SORTING])
def test_matrices_with_a_parametrisation_leave_as_they_act(method: Method) -> None:
    critic = seeded_critic(
        3, dimension=3, width=8, depth=2, activation=Activation.RELU, method=method
    )
    for _ in range(200):  # the estimate of a spectral norm gets better each time
        critic(tensor(POINTS))
    network = effective_network(critic)
    assert critic.training
    for weight in network.weights:
        assert np.linalg.norm(weight, 2) == pytest.approx(1.0, abs=1e-14)
    values = critic(tensor(POINTS)).detach().numpy()
    assert network.value(POINTS) == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_orthonormal_matrices_are_the_nearest(scale: float) -> None:
    critic = seeded_critic(
        3, dimension=3, width=8, depth=2, activation=Activation.RELU, method=Method.SORTING
    )
    for layer in critic.linears:
        start = layer.weight.detach().double().numpy()
        narrow = min(start.shape)
        gram = start @ start.T if len(start) == narrow else start.T @ start
        assert gram == pytest.approx(np.eye(narrow), abs=1e-6)
        with torch.no_grad():
            layer.weight.copy_(scale * torch.randn(layer.weight.shape, generator=_random()))
    matrices = [layer.weight.detach().double().numpy() for layer in critic.linears]
    critic.orthonormalise()
    for matrix, layer in zip(matrices, critic.linears, strict=True):
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        assert layer.weight.detach().numpy() == pytest.approx(left @ right, abs=1e-4)


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def test_start_depends_on_the_seed_alone() -> None:
    def start(seed: int) -> Network:
        options = {"dimension": 2, "width": 4, "depth": 1, "activation": Activation.RELU}
        return effective_network(seeded_critic(seed, **options))

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = start(1), start(1), start(2)
    assert torch.rand(1) == expected
    assert (first.weights[0] == again.weights[0]).all()
    assert (first.weights[0] != other.weights[0]).any()


def test_file_is_a_plain_network_for_everyone(tmp_path: Path) -> None:
    critic = seeded_critic(
        0, dimension=3, width=6, depth=2, activation=Activation.GROUP_SORT, group_size=2
    )
    network = effective_network(critic)
    path = tmp_path / "critic.pt"
    write_critic(path, network, {"title": "Ünïted", "training": {"steps": 3}, "best": 0.5})
    content = torch.load(path, weights_only=True)
    assert (content["title"], content["training"], content["best"]) == ("Ünïted", {"steps": 3}, 0.5)
    assert (content["activation"], content["group_size"]) == ("group-sort", 2)
    assert [*content["state_dict"]] == [
        f"net.{i}.{n}" for i in (0, 2, 4) for n in ("weight", "bias")
    ]
    again = network_of_state(content)
    assert (again.value(POINTS) == network.value(POINTS)).all()
    assert [*tmp_path.iterdir()] == [path]
    loaded = load_critic(path)
    assert (loaded.value(POINTS) == network.value(POINTS)).all()


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    network = Network((np.ones((1, 2)),), (np.zeros(1),))
    path = tmp_path / "critic.pt"
    write_critic(path, network, {"step": 1})
    with pytest.raises(Exception, match="local object"):
        write_critic(path, network, {"step": lambda: 2})
    assert torch.load(path, weights_only=True)["step"] == 1
    assert [*tmp_path.iterdir()] == [path]


def test_numbers_that_are_not_finite_do_not_leave() -> None:
    for method in Method:
        critic = seeded_critic(
            0, dimension=2, width=4, depth=1, activation=Activation.RELU, method=method
        )
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.fill_(torch.nan)
        with pytest.raises(InputError, match="not finite"):
            effective_network(critic)


def test_without_pytorch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "congested.critics.torch_network"
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(CongestedError, match=r'pip install "congested\[critics\]"'):
        importlib.import_module(name)
