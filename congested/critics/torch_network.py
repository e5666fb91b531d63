"""Networks that PyTorch trains, and the files in which critics are kept.

A `TorchCritic` may hold its matrices through a parametrisation (divided by the spectral norm);
`effective_network` evaluates it, so that what leaves this module is always a plain multilayer
perceptron: a `Network`, or a file that holds one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from congested.critics.network import LEAKY_SLOPE, Activation, Network
from congested.critics.objectives import Method
from congested.critics.state import network_from_state
from congested.errors import CongestedError
from congested.io.files import atomic_file

try:
    import torch
except ImportError as error:
    raise CongestedError(
        'PyTorch is not installed, and training needs it: pip install "congested[critics]"'
    ) from error
from torch.nn.utils import parametrizations

# A tensor of PyTorch, which a check of types need not know.
Tensor = Any

# Orthonormal matrices: where to stop (single precision allows some 1e-7 per row), from where on
# they are scaled first, and a number of turns that is never met.
_ORTHONORMAL, _FAR, _MOST_TURNS = 1e-5, 0.9, 50

_PLAIN: Mapping[Activation, Any] = {
    Activation.RELU: torch.nn.ReLU,
    Activation.TANH: torch.nn.Tanh,
    Activation.SOFTPLUS: torch.nn.Softplus,
    Activation.SILU: torch.nn.SiLU,
    Activation.ELU: torch.nn.ELU,
}


class GroupSort(torch.nn.Module):
    """Sorts each group of neighbours, the largest first.

    Attributes
    ----------
    size
        Neighbours in a group; None: the whole layer is one.
    """

    def __init__(self, size: int | None) -> None:
        super().__init__()
        self.size = size

    def forward(self, values: Tensor) -> Tensor:
        """Sort values (m, n)."""
        groups = values.unflatten(1, (-1, self.size or values.shape[1]))
        if self.size == 2:
            # Several times faster than a sort, derivatives included.
            first, second = groups.unbind(2)
            larger, smaller = torch.maximum(first, second), torch.minimum(first, second)
            return torch.stack([larger, smaller], 2).flatten(1)
        return groups.sort(dim=2, descending=True).values.flatten(1)


class Absolute(torch.nn.Module):
    """The absolute value."""

    def forward(self, values: Tensor) -> Tensor:
        """Return |values|."""
        return values.abs()


def _activation(activation: Activation, slope: float, group_size: int | None) -> Any:
    match activation:
        case Activation.LEAKY_RELU:
            return torch.nn.LeakyReLU(slope)
        case Activation.GROUP_SORT:
            return GroupSort(group_size)
        case Activation.ABSOLUTE:
            return Absolute()
        case _:
            return _PLAIN[activation]()


class TorchCritic(torch.nn.Module):
    """A multilayer perceptron with one output.

    Parameters
    ----------
    dimension, width, depth
        Coordinates of a point, entries of a hidden layer, number of hidden layers ≥ 1.
    activation, slope, group_size
        As of a `Network`.
    method
        With ``spectral`` the matrices are divided by an estimate of their spectral norm; with
        ``sorting`` they start orthonormal, and `orthonormalise` keeps them so.
    """

    def __init__(
        self,
        dimension: int,
        width: int,
        depth: int,
        *,
        activation: Activation,
        slope: float = LEAKY_SLOPE,
        group_size: int | None = None,
        method: Method = Method.LP,
    ) -> None:
        super().__init__()
        self.activation, self.slope, self.group_size = activation, slope, group_size
        self.method = method
        sizes = [dimension, *[width] * depth, 1]
        layers: list[Any] = []
        for number, (columns, rows) in enumerate(itertools.pairwise(sizes)):
            if number:
                layers.append(_activation(activation, slope, group_size))
            layer = torch.nn.Linear(columns, rows)
            if method is Method.SPECTRAL:
                layer = parametrizations.spectral_norm(layer)
            elif method is Method.SORTING:
                torch.nn.init.orthogonal_(layer.weight)
            layers.append(layer)
        self.net = torch.nn.Sequential(*layers)

    @property
    def linears(self) -> list[Any]:
        """The affine layers, in their order."""
        return [layer for layer in self.net if isinstance(layer, torch.nn.Linear)]

    def forward(self, points: Tensor) -> Tensor:
        """Return the values (m,) at points (m, d)."""
        return self.net(points)[:, 0]

    def slopes(self, points: Tensor) -> Tensor:
        """Return |∇u| (m,) at points (m, d), differentiable by the parameters."""
        points = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self(points).sum(), points, create_graph=True)
        return gradient.norm(dim=1)

    def clip(self, bound: float) -> None:
        """Clip every entry of matrices and vectors to [−bound, bound]."""
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.clamp_(-bound, bound)

    def orthonormalise(self) -> None:
        """Replace every matrix by the nearest one whose rows, or columns, are orthonormal."""
        with torch.no_grad():
            for layer in self.linears:
                layer.weight.copy_(_orthonormal(layer.weight))

    def keep_tangential(self) -> None:
        """Take from the gradient of every matrix what would lead away from orthonormal ones.

        Without this Adam, which scales every entry by its size, walks in circles at an optimum,
        where the rest of the gradient vanishes and this part does not.
        """
        with torch.no_grad():
            for layer in self.linears:
                layer.weight.grad.copy_(_tangential(layer.weight.grad, layer.weight))


def _tangential(gradient: Tensor, matrix: Tensor) -> Tensor:
    if matrix.shape[0] > matrix.shape[1]:
        return _tangential(gradient.T, matrix.T).T
    product = gradient @ matrix.T
    return gradient - 0.5 * (product + product.T) @ matrix


def _orthonormal(matrix: Tensor) -> Tensor:
    """Return the orthonormal factor of the polar decomposition of a matrix (n, m).

    The iteration W ← (3 W − W Wᵀ W) / 2 (Björck & Bowie, SIAM J. Numer. Anal. 1971) converges
    quadratically; after a step of an optimiser it takes one or two turns.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return _orthonormal(matrix.T).T
    unit = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    for turn in range(_MOST_TURNS):
        gram = matrix @ matrix.T
        if turn == 0 and torch.linalg.norm(gram - unit) > _FAR:
            # It converges where singular values are below √3: they are at most one then.
            scale = torch.linalg.norm(gram)
            matrix, gram = matrix / scale.sqrt(), gram / scale
        if torch.linalg.norm(gram - unit) < _ORTHONORMAL:
            break
        matrix = 1.5 * matrix - 0.5 * (gram @ matrix)
    return matrix


def seeded_critic(seed: int, **options: Any) -> TorchCritic:
    """Make a critic, on the CPU, whose start depends on the seed alone.

    Parameters
    ----------
    seed
        Seed ≥ 0. The state of PyTorch's own generator stays as it was.
    options
        As for `TorchCritic`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TorchCritic(**options)


def effective_network(critic: TorchCritic) -> Network:
    """Return a critic as a plain network in NumPy.

    Raises
    ------
    InputError
        If a number is not finite.
    """
    was_training = critic.training
    critic.train(False)  # in training an evaluation would improve the estimate of a spectral norm
    with torch.no_grad():
        weights = [layer.weight.cpu().double().numpy() for layer in critic.linears]
        biases = [layer.bias.cpu().double().numpy() for layer in critic.linears]
    critic.train(was_training)
    if critic.method.lipschitz and all(np.isfinite(weight).all() for weight in weights):
        # Exact where the parametrisation has the norm one up to rounding, or an estimate.
        weights = [weight / max(np.linalg.norm(weight, 2), 1e-300) for weight in weights]
    sorts = critic.activation is Activation.GROUP_SORT
    return Network(
        tuple(weights),
        tuple(biases),
        critic.activation,
        critic.slope,
        critic.group_size if sorts else None,
    )


def state_of_network(network: Network) -> dict[str, Any]:
    """Return a network as what a file of PyTorch can hold; see `write_critic`."""
    state = {}
    for number, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        state[f"net.{2 * number}.weight"] = torch.tensor(weight)
        state[f"net.{2 * number}.bias"] = torch.tensor(bias)
    content: dict[str, Any] = {"state_dict": state, "activation": str(network.activation)}
    if network.activation is Activation.GROUP_SORT:
        content["group_size"] = network.group_size
    if network.activation is Activation.LEAKY_RELU:
        content["slope"] = network.slope
    return content


def network_of_state(content: Mapping[str, Any]) -> Network:
    """Return the network that `state_of_network` described."""
    return network_from_state(
        content["state_dict"],
        activation=content["activation"],
        slope=content.get("slope"),
        group_size=content.get("group_size"),
    )


def write_critic(path: str | Path, network: Network, metadata: Mapping[str, Any]) -> None:
    """Write a network as a file of PyTorch, in one step.

    ``torch.load(path, weights_only=True)`` reads it: a dictionary with ``state_dict``
    (``net.0.weight``, ``net.0.bias``, ``net.2.weight``, …: a `torch.nn.Sequential` with the
    activation between the affine layers), ``activation``, ``group_size``, ``slope`` and what else
    there is to know.

    Parameters
    ----------
    path
        The file.
    network
        What it shall hold; in double precision.
    metadata
        Further entries, of types that need no trust: numbers, texts, lists, dictionaries.
    """
    content = {**metadata, **state_of_network(network)}
    with atomic_file(Path(path)) as file:
        torch.save(content, file)
