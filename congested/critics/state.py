"""From the arrays of a saved network to its layers, whatever wrapped them.

Names tell what wrapped a matrix while it was trained; the matrix itself is worked out here, in
double precision:

=============================================  ==================================================
names beside ``X.bias``                        matrix
=============================================  ==================================================
``X.weight``                                   as it is, also in a weight clipper (``X.module``)
``X.weight_orig``, ``weight_u``,               spectral normalisation: over u · W v, as the module
``weight_v``; or ``….original``,               itself when it does not train
``….0._u``, ``….0._v``
``X.weight_bar``, ``weight_u``, ``weight_v``   the same in a module that iterates in each call: over
                                               the largest singular value, the limit
``X.weight_g``, ``weight_v``; or               weight normalisation: rows (or columns, or the whole)
``….original0``, ``….original1``               of length g
``….original``, ``….0.base``                   orthogonal: base · Q(original)
=============================================  ==================================================

with …. = ``X.parametrizations.weight``. No array tells which of three maps Q of an orthogonal layer
is. Unless it is said, it is PyTorch's default: the matrix exponential for square matrices, and for
others, if the diagonal holds the signs ±1 that it needs, a product of Householder's reflections;
else the matrix exponential. ``….original`` alone can be an orthogonal layer, or anything that
somebody made up: then it has to be said.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.linalg import expm

from congested.critics.network import LEAKY_SLOPE, Activation, Network, known_activation
from congested.errors import InputError
from congested.geometry import FloatArray

_PARAMETRIZED = "parametrizations.weight"
# What follows the name of a layer; the longest first.
_PARTS = (
    *(f"{_PARAMETRIZED}.{name}" for name in ("original0", "original1", "original")),
    *(f"{_PARAMETRIZED}.0.{name}" for name in ("base", "_u", "_v")),
    *(f"weight_{name}" for name in ("bar", "orig", "g", "u", "v")),
    "weight",
    "bias",
)
_NAME = re.compile(rf"^(?:(?P<layer>.*)\.)?(?P<part>{'|'.join(map(re.escape, _PARTS))})$")
_ALLOWED = (
    "affine layers only; convolutions, normalisation layers and the like: pass the module itself "
    "(ct.critic_from_module) or save it as TorchScript"
)


class OrthogonalMap(enum.StrEnum):
    """How an orthogonal layer makes its matrix of another one; PyTorch's names."""

    MATRIX_EXP = "matrix_exp"
    CAYLEY = "cayley"
    HOUSEHOLDER = "householder"


def network_from_state(
    state: Mapping[str, Any],
    *,
    activation: Activation | str | None = None,
    slope: float | None = None,
    group_size: int | None = None,
    orthogonal_map: OrthogonalMap | str | None = None,
) -> Network:
    """Make a network of the arrays of a saved multilayer perceptron.

    Parameters
    ----------
    state
        Arrays by name, in the order of the layers, as PyTorch names them.
    activation
        What stands between the layers, which no array tells. None: ReLU, or, where the matrices
        are orthogonal, sorting of the whole layer, since orthogonal networks sort.
    slope, group_size
        As in `Network`; only with the activation that has one.
    orthogonal_map
        Map of the orthogonal layers, if it is not PyTorch's default.

    Returns
    -------
    Network
        The network.

    Raises
    ------
    InputError
        If there is something else than affine layers, or they do not make a network.
    """
    layers: dict[str, dict[str, FloatArray]] = {}
    for name, value in state.items():
        match, array = _NAME.match(name), np.asarray(value)
        if match is None or (match["part"] == "weight" and array.ndim != 2):
            raise InputError(
                f'found "{name}" of shape {array.shape}; allowed: {_ALLOWED}', key="state"
            )
        if array.dtype.kind not in "fiu":
            found = f'found "{name}" of type {array.dtype}'
            raise InputError(f"{found}; allowed: real numbers", key="state")
        layer = layers.setdefault(match["layer"] or "", {})
        layer[match["part"]] = np.asarray(array, dtype=np.float64)
    if not layers:
        raise InputError("found no arrays; allowed: the arrays of a network", key="state")
    maps = None if orthogonal_map is None else _known_map(orthogonal_map)
    weights, biases, orthogonal = [], [], False
    for name, parts in layers.items():
        with np.errstate(divide="ignore", invalid="ignore"):  # `Network` refuses what comes of it
            weight, is_orthogonal = _matrix(name, parts, maps)
        orthogonal = orthogonal or is_orthogonal
        weights.append(weight)
        biases.append(parts.get("bias", np.zeros(len(weight))))
    if maps is not None and not orthogonal:
        found = f"found {maps} for layers that are not orthogonal"
        raise InputError(f"{found}; allowed: nothing here", key="orthogonal_map")
    if activation is None:
        activation = Activation.GROUP_SORT if orthogonal else Activation.RELU
    activation = known_activation(activation)
    if slope is not None and activation is not Activation.LEAKY_RELU:
        found = f"found {slope} for {activation}"
        raise InputError(f"{found}; allowed: nothing, but for leaky-relu", key="slope")
    slope = LEAKY_SLOPE if slope is None else slope
    return Network(tuple(weights), tuple(biases), activation, slope, group_size)


def _known_map(name: OrthogonalMap | str) -> OrthogonalMap:
    try:
        return OrthogonalMap(name)
    except ValueError:
        allowed = ", ".join(OrthogonalMap)
        raise InputError(f'found "{name}"; allowed: {allowed}', key="orthogonal_map") from None


def _matrix(
    name: str, parts: Mapping[str, FloatArray], maps: OrthogonalMap | None
) -> tuple[FloatArray, bool]:
    """Return the matrix (n, m) of a layer, and whether it was kept orthogonal."""
    if "weight" in parts:
        return parts["weight"], False
    for rows, lengths in (
        ("weight_v", "weight_g"),
        (f"{_PARAMETRIZED}.original1", f"{_PARAMETRIZED}.original0"),
    ):
        if rows in parts and lengths in parts:
            return _of_lengths(_two_dimensional(name, parts[rows]), parts[lengths]), False
    if "weight_bar" in parts:
        matrix = _two_dimensional(name, parts["weight_bar"])
        return np.asarray(matrix / np.linalg.norm(matrix, ord=2)), False
    for original, left, right in (
        ("weight_orig", "weight_u", "weight_v"),
        (f"{_PARAMETRIZED}.original", f"{_PARAMETRIZED}.0._u", f"{_PARAMETRIZED}.0._v"),
    ):
        if original in parts and left in parts:
            matrix = _two_dimensional(name, parts[original])
            if right not in parts:  # PyTorch before 1.0
                return np.asarray(matrix / np.linalg.norm(matrix.T @ parts[left])), False
            return np.asarray(matrix / (parts[left] @ matrix @ parts[right])), False
    original, base = f"{_PARAMETRIZED}.original", f"{_PARAMETRIZED}.0.base"
    if original in parts and (base in parts or maps is not None):
        return _orthogonal(_two_dimensional(name, parts[original]), parts.get(base), maps), True
    found = ", ".join(parts)
    if original in parts:
        raise InputError(
            f'found {found} for the layer "{name}", which do not tell how its matrix is made; '
            f"allowed: {', '.join(OrthogonalMap)}, if it is orthogonal",
            key="orthogonal_map",
        )
    raise InputError(
        f'found {found} for the layer "{name}", and no matrix; allowed: a matrix', key="state"
    )


def _two_dimensional(name: str, array: FloatArray) -> FloatArray:
    if array.ndim != 2:
        found = f'found an array of shape {array.shape} in the layer "{name}"'
        raise InputError(f"{found}; allowed: {_ALLOWED}", key="state")
    return array


def _of_lengths(matrix: FloatArray, lengths: FloatArray) -> FloatArray:
    """Return a matrix whose rows (n, 1), columns (1, m) or whole () have some lengths."""
    axes = tuple(axis for axis in (0, 1) if lengths.ndim < 2 or lengths.shape[axis] == 1)
    return np.asarray(matrix * lengths / np.sqrt((matrix**2).sum(axis=axes, keepdims=True)))


def _orthogonal(
    matrix: FloatArray, base: FloatArray | None, maps: OrthogonalMap | None
) -> FloatArray:
    """Return base · Q, or its transpose for wide matrices; the base stands for what Q starts from.

    Householder: Q = H_1 … H_k diag(x_11, …), with reflections by the columns below the diagonal.
    Else the first columns of exp(A) or of (1 − A/2)⁻¹(1 + A/2), A antisymmetric with the lower
    triangle of the stored matrix.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    number, columns = tall.shape
    if maps is None:
        signs = np.abs(np.diagonal(tall)) == 1.0
        default = number != columns and bool(signs.all())
        maps = OrthogonalMap.HOUSEHOLDER if default else OrthogonalMap.MATRIX_EXP
    if maps is OrthogonalMap.HOUSEHOLDER:
        result: FloatArray = np.eye(number, columns)
        for column in range(columns)[::-1]:
            axis = np.concatenate([np.zeros(column), [1.0], tall[column + 1 :, column]])
            result -= np.outer(2.0 / (axis @ axis) * axis, axis @ result)
        result *= np.trunc(np.diagonal(tall))
    else:
        lower = np.zeros((number, number))
        lower[:, :columns] = np.tril(tall)
        skew = lower - lower.T
        if maps is OrthogonalMap.CAYLEY:
            one = np.eye(number)
            result = np.asarray(np.linalg.solve(one - 0.5 * skew, one + 0.5 * skew)[:, :columns])
        else:
            result = expm(skew)[:, :columns]
    if base is not None:
        if base.shape != (number, number):
            found = f"found a base of shape {base.shape} for a matrix of shape {matrix.shape}"
            raise InputError(f"{found}; allowed: ({number}, {number})", key="state")
        result = base @ result
    return np.asarray(result if tall is matrix else result.T)
