"""Multilayer perceptrons in NumPy: what most critics are, without the library that trained them.

A critic maps points to numbers. Everything that works with critics needs three things of one, the
protocol `Critic`: its dimension, its values and its gradients at points. Where a critic is a
`Network` whose activations are piecewise affine (ReLU, GroupSort, …), it is piecewise affine
itself, and `congested.critics.pieces` finds its pieces, so that its integrals are exact.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from congested.errors import InputError

if TYPE_CHECKING:  # the command line names activations before it imports MPI
    from congested.geometry import BoolArray, FloatArray

#: Points that are evaluated at a time: a layer of 128 then stays in the cache (twice as fast).
POINTS_PER_CALL = 1 << 12


class Critic(Protocol):
    """A function of points whose gradient exists almost everywhere."""

    @property
    def dimension(self) -> int:
        """Number d of coordinates of a point."""

    def value(self, points: FloatArray) -> FloatArray:
        """Return the values (m,) at points (m, d)."""

    def gradient(self, points: FloatArray) -> FloatArray:
        """Return the gradients (m, d) at points (m, d)."""


class Activation(enum.StrEnum):
    """What stands between the affine layers of a network."""

    RELU = "relu"
    LEAKY_RELU = "leaky-relu"
    GROUP_SORT = "group-sort"
    ABSOLUTE = "absolute"
    TANH = "tanh"
    SOFTPLUS = "softplus"
    SILU = "silu"
    ELU = "elu"

    @property
    def piecewise_affine(self) -> bool:
        """Whether a network with it is piecewise affine."""
        smooth = (Activation.TANH, Activation.SOFTPLUS, Activation.SILU, Activation.ELU)
        return self not in smooth


def known_activation(name: Activation | str) -> Activation:
    """Return an activation by its name, or raise InputError."""
    try:
        return Activation(name)
    except ValueError:
        allowed = ", ".join(Activation)
        raise InputError(f'found "{name}"; allowed: {allowed}', key="activation") from None


#: Slope of the leaky ReLU for negative numbers if nobody says otherwise: PyTorch's.
LEAKY_SLOPE = 0.01


def _sigmoid(values: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))


@dataclass(frozen=True, eq=False)
class Network:
    """A multilayer perceptron f(x) = A_k φ(A_{k−1} φ(… A_1 x)) with affine maps A_i.

    Attributes
    ----------
    weights
        Matrices (n_i, n_{i−1}); the last has one row.
    biases
        Vectors (n_i,).
    activation
        φ. `GROUP_SORT` sorts each group of neighbours, the largest first.
    slope
        Slope of `LEAKY_RELU` for negative numbers.
    group_size
        Neighbours in a group of `GROUP_SORT`: 2 is also called MaxMin, None sorts the whole layer.

    Raises
    ------
    InputError
        If the shapes do not go together, a number is not finite, or there is no such activation.
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]
    activation: Activation = Activation.RELU
    slope: float = LEAKY_SLOPE
    group_size: int | None = None

    def __post_init__(self) -> None:
        """Check and convert the values."""
        weights = tuple(np.array(weight, dtype=np.float64) for weight in self.weights)
        biases = tuple(np.array(bias, dtype=np.float64) for bias in self.biases)
        if not weights or len(weights) != len(biases):
            found = f"found {len(weights)} matrices and {len(biases)} vectors"
            raise InputError(f"{found}; allowed: one of each per layer", key="weights")
        columns = weights[0].shape[-1] if weights[0].ndim == 2 else -1
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            if weight.ndim != 2 or weight.shape[1] != columns or bias.shape != weight.shape[:1]:
                raise InputError(
                    f"found a matrix {weight.shape} and a vector {bias.shape} as layer {number}; "
                    f"allowed: a matrix (n, {columns}) and a vector (n,)",
                    key="weights",
                )
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                found = f"found a number that is not finite in layer {number}"
                raise InputError(f"{found}; allowed: finite numbers", key="weights")
            columns = len(weight)
        if columns != 1:
            found = f"found {columns} outputs of the last layer"
            raise InputError(f"{found}; allowed: 1, as a critic has one value", key="weights")
        activation = known_activation(self.activation)
        if not _is_number(self.slope):
            raise InputError(f"found {self.slope!r}; allowed: a finite number", key="slope")
        if self.group_size is not None:
            _check_group_size(self.group_size, activation, [len(weight) for weight in weights[:-1]])
        for name, value in (("weights", weights), ("biases", biases), ("activation", activation)):
            object.__setattr__(self, name, value)

    @property
    def dimension(self) -> int:
        """Number of coordinates of a point."""
        return self.weights[0].shape[1]

    @property
    def piecewise_affine(self) -> bool:
        """Whether the network is piecewise affine."""
        return self.activation.piecewise_affine

    def scaled(self, factor: float) -> Network:
        """Return the network times a number."""
        weights = (*self.weights[:-1], factor * self.weights[-1])
        biases = (*self.biases[:-1], factor * self.biases[-1])
        return dataclasses.replace(self, weights=weights, biases=biases)

    def preactivation(self, layer: int, points: FloatArray) -> FloatArray:
        """Return what layer number `layer` (from 0) gives at points (m, d): (m, n)."""
        values = points
        for number in range(layer + 1):
            if number:
                values = self._activate(values)
            values = values @ self.weights[number].T
            values += self.biases[number]
        return values

    def value(self, points: FloatArray) -> FloatArray:
        """Return the values (m,) at points (m, d)."""
        points = checked_points(points, self.dimension)
        last = len(self.weights) - 1
        with np.errstate(over="ignore", invalid="ignore"):
            values = in_chunks(lambda some: self.preactivation(last, some)[:, 0], points)
        return finite_array(values, (len(points),), "value")

    def gradient(self, points: FloatArray) -> FloatArray:
        """Return the gradients (m, d) at points (m, d).

        On a kink it is the gradient on one of its sides.
        """
        points = checked_points(points, self.dimension)
        with np.errstate(over="ignore", invalid="ignore"):
            gradients = in_chunks(self._gradient, points)
        return finite_array(gradients, points.shape, "gradient")

    def _gradient(self, points: FloatArray) -> FloatArray:
        before = []
        values = points
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if number:
                before.append(values)
                values = self._activate(values)
            values = values @ weight.T
            values += bias
        slopes = np.broadcast_to(self.weights[-1][0], (len(points), self.weights[-1].shape[1]))
        for values, weight in zip(before[::-1], self.weights[-2::-1], strict=True):
            slopes = self._backward(values, slopes) @ weight
        return np.array(slopes)

    def _activate(self, values: FloatArray) -> FloatArray:
        """Return φ of values (m, n)."""
        match self.activation:
            case Activation.RELU:
                return np.maximum(values, 0.0)
            case Activation.LEAKY_RELU:
                return np.where(values > 0.0, values, self.slope * values)
            case Activation.GROUP_SORT:
                groups = self._groups(values)
                return -np.sort(-groups, axis=2).reshape(values.shape)
            case Activation.ABSOLUTE:
                return np.abs(values)
            case Activation.TANH:
                return np.tanh(values)
            case Activation.SOFTPLUS:
                return np.logaddexp(values, 0.0)
            case Activation.SILU:
                return values * _sigmoid(values)
            case Activation.ELU:
                return np.where(values > 0.0, values, np.expm1(np.minimum(values, 0.0)))

    def _backward(self, values: FloatArray, slopes: FloatArray) -> FloatArray:
        """Return the derivatives by the values (m, n) from those by φ of them."""
        match self.activation:
            case Activation.RELU:
                return np.where(values > 0.0, slopes, 0.0)
            case Activation.LEAKY_RELU:
                return np.where(values > 0.0, slopes, self.slope * slopes)
            case Activation.GROUP_SORT:
                order = np.argsort(-self._groups(values), axis=2, kind="stable")
                result = np.empty(order.shape)
                np.put_along_axis(result, order, self._groups(slopes), axis=2)
                return result.reshape(values.shape)
            case Activation.ABSOLUTE:
                return np.where(values > 0.0, slopes, -slopes)
            case Activation.TANH:
                return slopes * (1.0 - np.tanh(values) ** 2)
            case Activation.SOFTPLUS:
                return slopes * _sigmoid(values)
            case Activation.SILU:
                logistic = _sigmoid(values)
                return slopes * logistic * (1.0 + values * (1.0 - logistic))
            case Activation.ELU:
                return slopes * np.where(values > 0.0, 1.0, np.exp(np.minimum(values, 0.0)))

    def _groups(self, values: FloatArray) -> FloatArray:
        """Return values (m, n) as groups (m, n / size, size)."""
        return values.reshape(len(values), -1, self.group_size or values.shape[1])

    def __str__(self) -> str:
        """Return the shape in words: 2-128-128-1 relu."""
        sizes = "-".join(str(size) for size in (self.dimension, *map(len, self.biases)))
        name = str(self.activation)
        if self.activation is Activation.GROUP_SORT:
            name += f"({self.group_size or 'whole layer'})"
        return f"{sizes} {name}"


@dataclass(frozen=True, eq=False)
class FunctionCritic:
    """A critic made of two functions, NumPy's or JAX's.

    Attributes
    ----------
    dimension
        Number d of coordinates of a point.
    value_function, gradient_function
        Map points (m, d) to values (m,) or (m, 1), and to gradients (m, d); with JAX
        ``jax.vmap(f)`` and ``jax.vmap(jax.grad(f))``.
    """

    dimension: int
    value_function: Callable[[FloatArray], object]
    gradient_function: Callable[[FloatArray], object]

    def value(self, points: FloatArray) -> FloatArray:
        """Return the values (m,) at points (m, d).

        Raises
        ------
        InputError
            If the function does not return one finite number per point.
        """
        points = checked_points(points, self.dimension)

        def evaluate(some: FloatArray) -> FloatArray:
            values = np.asarray(self.value_function(some), dtype=np.float64)
            if values.shape == (len(some), 1):
                values = values[:, 0]
            return finite_array(values, (len(some),), "value")

        return in_chunks(evaluate, points)

    def gradient(self, points: FloatArray) -> FloatArray:
        """Return the gradients (m, d) at points (m, d).

        Raises
        ------
        InputError
            If the function does not return d finite numbers per point.
        """
        points = checked_points(points, self.dimension)

        def evaluate(some: FloatArray) -> FloatArray:
            values = np.asarray(self.gradient_function(some), dtype=np.float64)
            return finite_array(values, some.shape, "gradient")

        return in_chunks(evaluate, points)


@dataclass(frozen=True, eq=False)
class Multiple:
    """A critic times a factor.

    Attributes
    ----------
    critic
        The critic.
    factor
        The number.
    """

    critic: Critic
    factor: float

    @property
    def dimension(self) -> int:
        """Number of coordinates of a point."""
        return self.critic.dimension

    def value(self, points: FloatArray) -> FloatArray:
        """Return the values (m,) at points (m, d)."""
        return self.factor * self.critic.value(points)

    def gradient(self, points: FloatArray) -> FloatArray:
        """Return the gradients (m, d) at points (m, d)."""
        return self.factor * self.critic.gradient(points)


def in_chunks(function: Callable[[FloatArray], FloatArray], points: FloatArray) -> FloatArray:
    """Apply a function to some points at a time."""
    if len(points) <= POINTS_PER_CALL:
        return function(points)
    return np.concatenate(
        [
            function(points[start : start + POINTS_PER_CALL])
            for start in range(0, len(points), POINTS_PER_CALL)
        ]
    )


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _check_group_size(size: object, activation: Activation, widths: list[int]) -> None:
    if activation is not Activation.GROUP_SORT:
        found = f"found {size!r} for {activation}"
        raise InputError(f"{found}; allowed: nothing, but for group-sort", key="group_size")
    if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1:
        raise InputError(f"found {size!r}; allowed: a whole number from 1 on", key="group_size")
    for width in widths:
        if width % size:
            found = f"found {size} for a layer of {width}"
            raise InputError(f"{found}; allowed: what divides it", key="group_size")


def checked_points(points: FloatArray, dimension: int) -> FloatArray:
    """Return points (m, d) as numbers in double precision, or raise InputError."""
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != dimension:
        found = f"found an array of shape {points.shape}"
        raise InputError(f"{found}; allowed: (m, {dimension})", key="points")
    return points


def finite_array(values: FloatArray, shape: tuple[int, ...], key: str) -> FloatArray:
    """Return the values, or raise InputError unless they have a shape and are finite."""
    if values.shape != shape:
        found = f"found an array of shape {values.shape}"
        raise InputError(f"{found}; allowed: {shape}", key=key)
    good: BoolArray = np.isfinite(values)
    if not good.all():
        found = f"found {values[~good][0]}"
        raise InputError(f"{found}; allowed: finite numbers", key=key)
    return values
