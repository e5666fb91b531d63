"""Critics from files and modules: what is read, what is refused, and that nothing is run."""

from __future__ import annotations

import importlib
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from congested.critics.load import (
    ModuleCritic,
    critic_from_functions,
    critic_from_module,
    load_critic,
)
from congested.critics.network import FunctionCritic, Network
from congested.errors import InputError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
save_tensors = importlib.import_module("safetensors.torch").save_file
nn = torch.nn
POINTS = np.random.default_rng(7).normal(size=(60, 2))


def mlp(activation: Callable[[], Any] = nn.ReLU, widths: tuple[int, ...] = (2, 6, 6, 1)) -> Any:
    torch.manual_seed(1)
    layers: list[Any] = []
    for place in range(len(widths) - 1):
        layers += [nn.Linear(widths[place], widths[place + 1]), activation()]
    return nn.Sequential(*layers[:-1]).double()


def check(critic: Any, module: Any) -> None:
    """Check values and gradients against the module's own."""
    there = torch.tensor(POINTS, requires_grad=True)
    values = module(there)
    (gradients,) = torch.autograd.grad(values.sum(), there)
    np.testing.assert_allclose(critic.value(POINTS), values.detach().numpy().reshape(-1), atol=1e-7)
    np.testing.assert_allclose(critic.gradient(POINTS), gradients.numpy(), atol=1e-7)


# --- files that are read ------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt", ".bin"])
def test_state_dicts(tmp_path: Path, ending: str) -> None:
    module = mlp()
    torch.save(module.state_dict(), tmp_path / f"critic{ending}")
    critic = load_critic(tmp_path / f"critic{ending}")
    assert isinstance(critic, Network)
    check(critic, module)


def test_old_files_of_pytorch(tmp_path: Path) -> None:
    module = mlp()
    file = tmp_path / "old.pt"
    torch.save(module.state_dict(), file, _use_new_zipfile_serialization=False)
    check(load_critic(str(file)), module)


@pytest.mark.parametrize(
    "keys", [("state_dict",), ("critic",), ("model", "state_dict"), ("discriminator",)]
)
def test_checkpoints_with_other_things(tmp_path: Path, keys: tuple[str, ...]) -> None:
    module = mlp(lambda: nn.LeakyReLU(0.3))
    saved: Any = module.state_dict()
    for key in reversed(keys):
        saved = {"epoch": 3, "loss": [0.5, 0.4], key: saved}
    torch.save(saved | {"activation": "leaky-relu", "slope": 0.3}, tmp_path / "run.ckpt")
    check(load_critic(tmp_path / "run.ckpt"), module)
    # What is said counts more than what the file says.
    said = load_critic(tmp_path / "run.ckpt", slope=0.5)
    assert isinstance(said, Network)
    assert said.slope == 0.5


@pytest.mark.parametrize("depth", [2, 7])
def test_safetensors_in_the_order_of_the_layers(tmp_path: Path, depth: int) -> None:
    # Layers 0, 2, …, 12: the file sorts them 0, 10, 12, 2, …
    module = mlp(widths=(2, *(6,) * (depth - 1), 1))
    save_tensors(module.state_dict(), str(tmp_path / "critic.safetensors"))
    check(load_critic(tmp_path / "critic.safetensors"), module)


def test_safetensors_of_layers_with_names(tmp_path: Path) -> None:
    file = tmp_path / "critic.safetensors"
    state = {"first.weight": np.ones((4, 2)), "last.weight": np.ones((1, 4))}
    safetensors.numpy.save_file(state, str(file))
    assert load_critic(file).dimension == 2
    square = {"middle.weight": np.ones((4, 4)), "inner.weight": np.eye(4)}
    safetensors.numpy.save_file(state | square, str(file))
    with pytest.raises(InputError, match=r"layers of one shape.*whose order this file does not"):
        load_critic(file)


def test_npz(tmp_path: Path) -> None:
    module = mlp(nn.Tanh)
    np.savez(tmp_path / "critic.npz", **{k: v.numpy() for k, v in module.state_dict().items()})
    check(load_critic(tmp_path / "critic.npz", activation="tanh"), module)


@pytest.mark.parametrize("traced", [True, False])
def test_torchscript(tmp_path: Path, traced: bool) -> None:
    module = mlp(nn.GELU).float()
    script = torch.jit.trace(module, torch.zeros(3, 2)) if traced else torch.jit.script(module)
    script.save(str(tmp_path / "critic.pt"))
    critic = load_critic(tmp_path / "critic.pt")
    assert isinstance(critic, ModuleCritic)
    check(critic, module.double())
    with pytest.raises(InputError, match="activation: found relu for a TorchScript module"):
        load_critic(tmp_path / "critic.pt", activation="relu")


def test_torchscript_whose_first_parameter_is_no_matrix(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([2.0, 3.0]))

        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return (self.scale * points).square().sum(dim=1)

    torch.jit.script(Scaled()).save(str(tmp_path / "critic.pt"))
    with pytest.raises(InputError, match=r"critic.pt: dimension: .*; allowed: an integer"):
        load_critic(tmp_path / "critic.pt")
    check(load_critic(tmp_path / "critic.pt", dimension=2), Scaled())


# --- files that are refused ---------------------------------------------------------------------


class Wicked:
    """A pickle that makes a directory when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize("way", ["pickle", "torch", "torch, old", "inside a state dict"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, way: str, ending: str) -> None:
    file, trace = tmp_path / f"wicked{ending}", tmp_path / "it was run"
    content: Any = Wicked(trace)
    if way == "inside a state dict":
        content = mlp().state_dict() | {"extra": content}
    if way == "pickle":
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=way != "torch, old")
    with pytest.raises(InputError) as caught:
        load_critic(file)
    assert not trace.exists()
    assert str(file) in str(caught.value)
    assert "would run code" in str(caught.value)
    # That the file does what it should, were it read without care.
    if way == "pickle":
        pickle.loads(file.read_bytes())
        assert trace.exists()


def test_code_in_an_npz_is_refused_and_not_run(tmp_path: Path) -> None:
    file, trace = tmp_path / "wicked.npz", tmp_path / "it was run"
    np.savez(file, weight=np.array([Wicked(trace)], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="found no readable arrays"):
        load_critic(file)
    assert not trace.exists()


def test_whole_modules_are_code_too(tmp_path: Path) -> None:
    torch.save(mlp(), tmp_path / "critic.pt")
    with pytest.raises(InputError, match=r"critic.pt: found a pickle.*state_dict\(\)"):
        load_critic(tmp_path / "critic.pt")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("critic.onnx", b"x", 'found the ending ".onnx"; allowed: .pt, .*; ONNX has no gradients'),
        ("critic.h5", b"x", 'found the ending ".h5"; allowed: .pt, .pth'),
        ("critic", b"x", 'found the ending ""'),
        ("critic.pt", b"hello", "found no file of PyTorch; allowed: a state dict"),
        ("critic.pt", b"", "found no file of PyTorch"),
        ("critic.pt", b"\x80\x02}q\x00.", "found no readable file of PyTorch"),
        ("critic.pt", b"PK\x03\x04 damaged", "found no readable file of PyTorch"),
        ("critic.safetensors", b"damaged", "found no readable safetensors"),
        ("critic.npz", b"damaged", "found no readable arrays"),
        ("critic.npz", b"PK\x03\x04 damaged", "found no readable arrays"),
    ],
)
def test_files_of_something_else(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=text) as caught:
        load_critic(tmp_path / name)
    assert caught.value.file == str(tmp_path / name)


def test_missing_files_and_directories(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "missing.pt", "no such file"), (tmp_path, "a directory")):
        with pytest.raises(InputError, match=f"found {found}; allowed: the file of a critic"):
            load_critic(path)


@pytest.mark.parametrize(
    ("saved", "text"),
    [
        ([1.0, 2.0], "state: found a list; allowed: a state dict"),
        ({}, "state: found a dictionary of nothing"),
        ({"epoch": 1, "loss": 2.0}, "state: found a dictionary of epoch, loss"),
        ({"model": {"epoch": 1}}, "state: found a dictionary of epoch"),
        (torch.ones(3), "state: found a Tensor"),
        (nn.Sequential(nn.Conv2d(1, 2, 3)).state_dict(), r'"0.weight" of shape \(2, 1, 3, 3\)'),
        ({"weight": torch.full((1, 2), torch.nan)}, "not finite in layer 0"),
        ({"activation": "gelu", "model": mlp().state_dict()}, 'activation: found "gelu"'),
        ({"slope": "x", "activation": "leaky-relu", "model": mlp().state_dict()}, "slope: found"),
        ({"group_size": [2], "model": mlp().state_dict()}, "group_size: found"),
    ],
)
def test_saved_things_that_are_no_networks(tmp_path: Path, saved: Any, text: str) -> None:
    torch.save(saved, tmp_path / "critic.pt")
    with pytest.raises(InputError, match=text) as caught:
        load_critic(tmp_path / "critic.pt")
    assert caught.value.file == str(tmp_path / "critic.pt")


# --- modules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "name"),
    [(nn.ReLU, "relu"), (lambda: nn.LeakyReLU(0.3), "leaky-relu"), (nn.Tanh, "tanh")],
)
def test_sequences_of_layers_are_networks(activation: Any, name: str) -> None:
    module = mlp(activation)
    critic = critic_from_module(module)
    assert isinstance(critic, Network)
    assert critic.activation == name
    check(critic, module)


def old_norm(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(getattr(nn.utils, name)(nn.Linear(2, 1)))


@pytest.mark.parametrize("wrapper", ["spectral_norm", "weight_norm", "orthogonal", "old", "older"])
def test_wrapped_layers_are_networks_and_the_module_is_left_alone(wrapper: str) -> None:
    torch.manual_seed(0)
    if wrapper in ("old", "older"):
        module = old_norm({"old": "weight_norm", "older": "spectral_norm"}[wrapper])
    else:
        wrap = getattr(nn.utils.parametrizations, wrapper)
        module = nn.Sequential(wrap(nn.Linear(2, 4)), nn.ReLU(), nn.Linear(4, 1))
    module(torch.ones(3, 2)).sum().backward()  # it trains, and holds a matrix of its own
    before = {name: array.clone() for name, array in module.state_dict().items()}
    critic = critic_from_module(module)
    assert isinstance(critic, Network)
    for name, array in module.state_dict().items():
        assert torch.equal(array, before[name]), name
    assert module.training
    assert next(module.parameters()).dtype == torch.float32
    check(critic, module.eval().double())


class Doubled(nn.Linear):
    """A layer that is more than its matrix."""

    def forward(self, points: Any) -> Any:
        return 2.0 * super().forward(points)


def hooked() -> Any:
    module = mlp()
    module[0].register_forward_hook(lambda layer, inputs, output: 3.0 * output)
    return module


def residual() -> Any:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, points: Any) -> Any:
            return self.last(points + torch.relu(self.first(points)))[:, 0]

    return Residual()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), Doubled(3, 1)),
        lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.LayerNorm(3), nn.Linear(3, 1)),
        lambda: nn.Sequential(
            nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)
        ),
        lambda: nn.Sequential(nn.Linear(2, 1), nn.ReLU()),
        hooked,
        residual,
    ],
)
def test_other_modules_are_evaluated(make: Callable[[], Any]) -> None:
    module = make().double()
    critic = critic_from_module(module)
    assert isinstance(critic, ModuleCritic)
    check(critic, module)
    many = np.tile(POINTS, (200, 1))  # several chunks
    np.testing.assert_allclose(critic.value(many)[-60:], critic.value(POINTS), rtol=1e-12)
    np.testing.assert_allclose(critic.gradient(many)[-60:], critic.gradient(POINTS), rtol=1e-12)
    assert critic.value(POINTS[:0]).shape == (0,)


def test_modules_without_matrix_need_a_dimension() -> None:
    class Norm(nn.Module):
        def forward(self, points: Any) -> Any:
            return points.norm(dim=1)

    with pytest.raises(InputError, match="dimension: found no dimension"):
        critic_from_module(Norm())
    check(critic_from_module(Norm(), 2), Norm())


class Faulty(nn.Module):
    """A module with one of many mistakes."""

    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake = mistake

    def forward(self, points: Any) -> Any:
        match self.mistake:
            case "shape":
                return points
            case "nan":
                return points[:, 0] / 0.0 * 0.0
            case "fails":
                return points @ torch.ones(5, 1, dtype=torch.float64)
            case "detached":
                return points.detach()[:, 0]
            case "tuple":
                return points[:, 0], points
        return torch.ones(len(points)) + 0.0 * self.flat


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        ("shape", r"found values of shape \(60, 2\) for 60 points; allowed: one value per point"),
        ("nan", "found nan; allowed: finite numbers"),
        ("fails", r"found a module that fails on points \(m, 2\): "),
        ("detached", "found values that PyTorch cannot differentiate"),
        ("tuple", r"found values of shape \(\) for 60 points"),
    ],
)
def test_modules_that_do_not_fit(mistake: str, text: str) -> None:
    critic = critic_from_module(Faulty(mistake), 2)
    with pytest.raises(InputError, match=f"critic: {text}"):
        critic.gradient(POINTS)
    with pytest.raises(InputError, match=r"points: found .*; allowed: \(m, 2\)"):
        critic.value(np.zeros((4, 3)))


def test_a_module_that_ignores_its_points_has_no_slope() -> None:
    faulty = Faulty("none")
    faulty.flat = nn.Parameter(torch.zeros(1))
    critic = critic_from_module(faulty, 2)
    np.testing.assert_array_equal(critic.value(POINTS), np.ones(60))
    np.testing.assert_array_equal(critic.gradient(POINTS), np.zeros((60, 2)))


def test_functions() -> None:
    critic = critic_from_functions(lambda x: (x**2).sum(axis=1), lambda x: 2.0 * x, 2)
    assert isinstance(critic, FunctionCritic)
    np.testing.assert_allclose(critic.gradient(POINTS), 2.0 * POINTS)
