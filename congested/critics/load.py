"""Critics from files and from other libraries. Nothing that a file says is run as Python."""

from __future__ import annotations

import copy
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from congested.critics.network import (
    Activation,
    Critic,
    FunctionCritic,
    Network,
    checked_points,
    finite_array,
    in_chunks,
    known_activation,
)
from congested.critics.state import network_from_state
from congested.errors import CongestedError, InputError
from congested.geometry import FloatArray

if TYPE_CHECKING:
    import torch

_ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz")
# Names under which training scripts keep the arrays of the network beside other things.
_NESTED = (
    "state_dict",
    "model_state_dict",
    "critic",
    "critic_state_dict",
    "model",
    "discriminator",
)
_NO_DIMENSION = "found no dimension, and no matrix as first parameter"
_DESCRIPTION = ("activation", "slope", "group_size")


def load_critic(
    path: str | Path,
    *,
    activation: Activation | str | None = None,
    slope: float | None = None,
    group_size: int | None = None,
    orthogonal_map: str | None = None,
    dimension: int | None = None,
) -> Critic:
    """Read a critic from a file.

    Parameters
    ----------
    path
        A PyTorch state dict of a multilayer perceptron (.pt, .pth, .ckpt, .bin), also inside a
        dictionary; a TorchScript module; a .safetensors or .npz file with the arrays of a state
        dict. Sizes and wrappers (weight clipping, spectral and weight normalisation, orthogonal
        layers) are seen from the arrays.
    activation
        What stands between the layers of a state dict: "relu", "leaky-relu", "group-sort",
        "absolute", "tanh", "softplus", "silu" or "elu". None: what the file says, else ReLU, and
        sorting of whole layers where they are orthogonal.
    slope
        Of the leaky ReLU for negative numbers; default 0.01.
    group_size
        Of "group-sort": 2 is MaxMin, None the whole layer.
    orthogonal_map
        "matrix_exp", "cayley" or "householder" for orthogonal layers that do not have PyTorch's
        default, which no array tells.
    dimension
        Number of coordinates, for TorchScript whose first parameter is no matrix.

    Returns
    -------
    Critic
        A `Network` for state dicts, a `ModuleCritic` for TorchScript.

    Raises
    ------
    InputError
        If the file is not there, holds something else, or wants to run code when it is read.
    CongestedError
        If a library that reads it is missing.
    """
    path = Path(path)
    given: dict[str, Any] = {
        "activation": activation,
        "slope": slope,
        "group_size": group_size,
        "orthogonal_map": orthogonal_map,
    }
    try:
        if not path.is_file():
            found = "found a directory" if path.is_dir() else "found no such file"
            raise InputError(f"{found}; allowed: the file of a critic")
        if path.suffix.lower() not in _ENDINGS:
            found = f'found the ending "{path.suffix}"'
            onnx = "; ONNX has no gradients: convert to a state dict or TorchScript"
            hint = onnx if path.suffix.lower() == ".onnx" else ""
            raise InputError(f"{found}; allowed: {', '.join(_ENDINGS)}{hint}")
        if path.suffix.lower() == ".safetensors":
            return network_from_state(_in_order(_read_safetensors(path)), **given)
        if path.suffix.lower() == ".npz":
            return network_from_state(_read_npz(path), **given)
        if _is_torchscript(path):
            return _read_torchscript(path, given, dimension)
        return _from_saved(_read_torch(path), given)
    except InputError as error:
        raise InputError(error.message, key=error.key, file=error.file or str(path)) from error


def critic_from_module(module: torch.nn.Module, dimension: int | None = None) -> Critic:
    """Make a critic of any PyTorch module that maps points (m, d) to values (m,) or (m, 1).

    Parameters
    ----------
    module
        The module; it is copied, and evaluated in double precision, on the device where it is.
    dimension
        Number d of coordinates; needed unless the first parameter is the matrix of a linear layer.

    Returns
    -------
    Critic
        A `Network` if the module is a sequence of linear layers with one activation between them,
        which makes its integrals exact, else a `ModuleCritic`.

    Raises
    ------
    InputError
        If the dimension is needed.
    """
    copied = _double_copy(module)
    network = _as_network(copied)
    if network is not None:
        return network
    if dimension is None:
        dimension = _own_dimension(module)
    if dimension is None:
        raise InputError(f"{_NO_DIMENSION}; allowed: an integer", key="dimension")
    return ModuleCritic(dimension, copied)


def critic_from_functions(
    value: Callable[[FloatArray], Any],
    gradient: Callable[[FloatArray], Any],
    dimension: int,
) -> Critic:
    """Make a critic of two functions of points, NumPy's or JAX's (``vmap`` of f and ``grad(f)``).

    Parameters
    ----------
    value
        Maps points (m, d) to values (m,) or (m, 1).
    gradient
        Maps points (m, d) to gradients (m, d).
    dimension
        Number d of coordinates.

    Returns
    -------
    FunctionCritic
        The critic.
    """
    return FunctionCritic(dimension, value, gradient)


@dataclass(frozen=True, eq=False)
class ModuleCritic:
    """A PyTorch module as a critic; its gradients come from automatic differentiation.

    Attributes
    ----------
    dimension
        Number d of coordinates of a point.
    module
        Maps points (m, d) to values (m,) or (m, 1), in double precision.
    """

    dimension: int
    module: torch.nn.Module

    def value(self, points: FloatArray) -> FloatArray:
        """Return the values (m,) at points (m, d)."""
        return self._evaluate(points, differentiate=False)

    def gradient(self, points: FloatArray) -> FloatArray:
        """Return the gradients (m, d) at points (m, d)."""
        return self._evaluate(points, differentiate=True)

    def _evaluate(self, points: FloatArray, *, differentiate: bool) -> FloatArray:
        points = checked_points(points, self.dimension)
        shape = points.shape if differentiate else points.shape[:1]
        result = in_chunks(partial(self._evaluate_some, differentiate=differentiate), points)
        return finite_array(result, shape, "critic")

    def _evaluate_some(self, points: FloatArray, *, differentiate: bool) -> FloatArray:
        import torch

        parameter = next(iter(self.module.parameters()), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        some = torch.tensor(points, device=device).requires_grad_(differentiate)
        with torch.set_grad_enabled(differentiate):
            try:
                values = self.module(some)
            except RuntimeError as error:
                message = f"found a module that fails on points (m, {self.dimension}): {error}"
                raise InputError(message, key="critic") from error
        if not isinstance(values, torch.Tensor) or values.numel() != len(some):
            found_shape = tuple(getattr(values, "shape", ()))
            found = f"found values of shape {found_shape} for {len(some)} points"
            raise InputError(f"{found}; allowed: one value per point", key="critic")
        values = _derivative(values, some) if differentiate else values.reshape(len(some))
        result: FloatArray = values.detach().cpu().numpy().astype(np.float64)
        return result


def _derivative(values: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    import torch

    if not values.requires_grad:
        found = "found values that PyTorch cannot differentiate"
        raise InputError(f"{found}; allowed: a module without no_grad", key="critic")
    (result,) = torch.autograd.grad(values.sum(), points, allow_unused=True)
    return torch.zeros_like(points) if result is None else result


# --- reading -------------------------------------------------------------------------------------


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise CongestedError(
            'reading this critic needs PyTorch: pip install "congested[critics]"'
        ) from error
    return torch


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_torch(path: Path) -> Any:
    torch = _torch()
    allowed = "allowed: a state dict, as torch.save(module.state_dict(), …) writes it"
    with path.open("rb") as file:
        start = file.read(2)
    if not (start == b"PK" or start.startswith(b"\x80")):
        raise InputError(f"found no file of PyTorch; {allowed}, or TorchScript")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            "found a pickle that holds more than arrays, and would run code when it is read; "
            f"{allowed}"
        ) from error
    except Exception as error:  # a damaged file fails in many ways
        raise InputError(
            f"found no readable file of PyTorch ({_first_line(error)}); {allowed}, or TorchScript"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:160]


def _read_torchscript(path: Path, given: Mapping[str, Any], dimension: int | None) -> Critic:
    torch = _torch()
    for name, value in given.items():
        if value is not None:
            found = f"found {value} for a TorchScript module, which has its own"
            raise InputError(f"{found}; allowed: nothing here", key=name)
    try:
        module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"found no readable TorchScript: {_first_line(error)}") from error
    own = _own_dimension(module) or dimension
    if own is None:
        raise InputError(f"{_NO_DIMENSION}; allowed: an integer", key="dimension")
    return ModuleCritic(own, module.double().train(False))


_DIGITS = re.compile(r"(\d+)")


def _in_order(state: Mapping[str, Any]) -> dict[str, Any]:
    """Put arrays, whose file has sorted them by name, into the order of the layers' numbers.

    Raises
    ------
    InputError
        If layers of one shape differ by more than a number: nobody knows which comes first.
    """
    alike: dict[tuple[Any, ...], str] = {}
    for name, array in state.items():
        if np.ndim(array) < 2:
            continue
        layer, _, part = name.rpartition(".")
        first = alike.setdefault((part, np.shape(array)), name)
        if _DIGITS.sub("", layer) != _DIGITS.sub("", first.rpartition(".")[0]):
            raise InputError(
                f'found layers of one shape, "{first}" and "{name}", whose order this file does '
                "not tell; allowed: names that differ by a number, or another format",
                key="state",
            )

    def number(name: str) -> list[tuple[int, int, str]]:
        parts = _DIGITS.split(name)
        return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]

    return {name: state[name] for name in sorted(state, key=number)}


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise CongestedError(
            'reading .safetensors needs safetensors: pip install "congested[critics]"'
        ) from error
    try:
        with safe_open(str(path), framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, TypeError) as error:
        found = f"found no readable safetensors ({_first_line(error)})"
        raise InputError(f"{found}; allowed: the arrays of a state dict") from error


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        found = f"found no readable arrays ({_first_line(error)})"
        raise InputError(f"{found}; allowed: the arrays of a state dict") from error


def _from_saved(saved: Any, given: Mapping[str, Any]) -> Network:
    """Make a network of what torch.load returned: arrays by name, or a dictionary with these."""
    described: dict[str, Any] = {}
    state = saved
    while isinstance(state, Mapping) and not _is_state(state):
        described |= {name: state[name] for name in _DESCRIPTION if state.get(name) is not None}
        inner = next((name for name in _NESTED if isinstance(state.get(name), Mapping)), None)
        if inner is None:
            break
        state = state[inner]
    if not isinstance(state, Mapping) or not _is_state(state):
        found = f"a {type(state).__name__}"
        if isinstance(state, Mapping):
            found = f"a dictionary of {', '.join(map(str, list(state)[:8])) or 'nothing'}"
        raise InputError(f"found {found}; allowed: a state dict: arrays by name", key="state")
    arrays = {name: tensor.detach().to("cpu").double().numpy() for name, tensor in state.items()}
    # What a file says of other activations does no harm; what a user says is taken at its word.
    activation = given["activation"] or described.get("activation")
    for name, owner in (("slope", "leaky-relu"), ("group_size", "group-sort")):
        if activation is not None and str(activation) != owner:
            described.pop(name, None)
    described |= {name: value for name, value in given.items() if value is not None}
    return network_from_state(arrays, **described)


def _is_state(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(
        isinstance(name, str) and hasattr(array, "detach") for name, array in value.items()
    )


# --- modules -------------------------------------------------------------------------------------


def _own_dimension(module: Any) -> int | None:
    """Return the columns of the first parameter, None if it is no matrix."""
    first = next(iter(module.parameters()), None)
    return int(first.shape[1]) if first is not None and first.ndim == 2 else None


def _double_copy(module: Any) -> Any:
    torch = _torch()
    # Old wrappers leave a matrix that depends on parameters, which PyTorch refuses to copy.
    memo = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, memo).double().train(False)


def _as_network(module: Any) -> Network | None:
    """Return a sequence of linear layers with one activation as a `Network`, None for others."""
    torch = _torch()
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    if not isinstance(module, torch.nn.Sequential):
        return None
    names: dict[Any, tuple[str, Callable[[Any], dict[str, Any]]]] = {
        torch.nn.ReLU: ("relu", lambda _: {}),
        torch.nn.LeakyReLU: ("leaky-relu", lambda one: {"slope": one.negative_slope}),
        torch.nn.Tanh: ("tanh", lambda _: {}),
        torch.nn.SiLU: ("silu", lambda _: {}),
    }
    linear = torch.nn.Linear
    original = torch.nn.utils.parametrize.type_before_parametrizations
    wrappers = (WeightNorm, SpectralNorm)
    weights, biases, found = [], [], []
    for place, part in enumerate(module):
        # A subclass may do anything, and so may what is hooked to a layer.
        hooks = (*part._forward_pre_hooks.values(), *part._forward_hooks.values())
        if any(type(hook) not in wrappers for hook in hooks):
            return None
        if place % 2 == 0 and original(part) is linear:
            for hook in hooks:  # it sets the weight
                hook(part, None)
            weights.append(part.weight.detach().cpu().numpy())
            bias = np.zeros(len(weights[-1])) if part.bias is None else part.bias.detach().cpu()
            biases.append(np.asarray(bias, dtype=np.float64))
        elif place % 2 == 1 and type(part) in names:
            name, settings = names[type(part)]
            found.append((name, settings(part)))
        else:
            return None
    if not weights or len(found) != len(weights) - 1 or any(one != found[0] for one in found):
        return None
    name, settings_found = found[0] if found else ("relu", {})
    return Network(tuple(weights), tuple(biases), known_activation(name), **settings_found)
