"""From the arrays of a saved network to its layers, whatever wrapped them.

Names tell what wrapped a matrix while it was trained; the matrix itself is worked out here, in
double precision:

=============================================  ==================================================
names beside ``X.bias``                        matrix
=============================================  ==================================================
``X.weight``                                   as it is, also in a weight clipper (``X.module``)
``X.weight_bar`` or ``weight_orig``,           spectral normalisation: over the largest singular
``weight_u``, ``weight_v``; or ``….original``  value, to which the power iteration of training
with ``….0._u``, ``….0._v``                    converges
``X.weight_g``, ``weight_v``; or               weight normalisation: rows of length g
``….original0``, ``….original1``
``….original`` with or without ``….0.base``    orthogonal: base · exp(A), A antisymmetric
=============================================  ==================================================

with …. = ``X.parametrizations.weight``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.linalg import expm

from congested.critics.network import LEAKY_SLOPE, Activation, Network
from congested.errors import InputError
from congested.geometry import FloatArray

_PARAMETRIZED = "parametrizations.weight"
# What follows the name of a layer; the longest first.
_PARTS = (
    *(f"{_PARAMETRIZED}.{name}" for name in ("original0", "original1", "original")),
    *(f"{_PARAMETRIZED}.0.{name}" for name in ("base", "_u", "_v", "fibr_aux")),
    *(f"weight_{name}" for name in ("bar", "orig", "g", "u", "v")),
    "weight",
    "bias",
)
_NAME = re.compile(rf"^(?:(?P<layer>.*)\.)?(?P<part>{'|'.join(map(re.escape, _PARTS))})$")
_ALLOWED = (
    "affine layers only; convolutions, normalisation layers and the like: pass the module itself "
    "(ct.critic_from_module) or save it as TorchScript"
)


def network_from_state(
    state: Mapping[str, Any],
    *,
    activation: Activation | str | None = None,
    slope: float | None = None,
    group_size: int | None = None,
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
        As in `Network`.

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
        match = _NAME.match(name)
        array = np.asarray(value, dtype=np.float64)
        if match is None or (match["part"] == "weight" and array.ndim != 2):
            raise InputError(
                f'found "{name}" of shape {array.shape}; allowed: {_ALLOWED}', key="state"
            )
        layers.setdefault(match["layer"] or "", {})[match["part"]] = array
    if not layers:
        raise InputError("found no arrays; allowed: the arrays of a network", key="state")
    weights, biases, orthogonal = [], [], False
    for name, parts in layers.items():
        weight, is_orthogonal = _matrix(name, parts)
        orthogonal = orthogonal or is_orthogonal
        weights.append(weight)
        biases.append(parts.get("bias", np.zeros(len(weight))))
    if activation is None:
        activation = Activation.GROUP_SORT if orthogonal else Activation.RELU
    return Network(
        tuple(weights),
        tuple(biases),
        known_activation(activation),
        LEAKY_SLOPE if slope is None else slope,
        group_size,
    )


def known_activation(name: Activation | str) -> Activation:
    """Return an activation by its name, or raise InputError."""
    try:
        return Activation(name)
    except ValueError:
        allowed = ", ".join(Activation)
        raise InputError(f'found "{name}"; allowed: {allowed}', key="activation") from None


def _matrix(name: str, parts: Mapping[str, FloatArray]) -> tuple[FloatArray, bool]:
    """Return the matrix (n, m) of a layer, and whether it was kept orthogonal."""
    if "weight" in parts:
        return parts["weight"], False
    for rows, lengths in (
        ("weight_v", "weight_g"),
        (f"{_PARAMETRIZED}.original1", f"{_PARAMETRIZED}.original0"),
    ):
        if rows in parts and lengths in parts:
            matrix = _two_dimensional(name, parts[rows])
            return (
                parts[lengths].reshape(-1, 1)
                * matrix
                / np.linalg.norm(matrix, axis=1, keepdims=True)
            ), False
    for original in ("weight_bar", "weight_orig"):
        if original in parts:
            return _spectrally_normalised(_two_dimensional(name, parts[original])), False
    original = f"{_PARAMETRIZED}.original"
    if original in parts:
        matrix = _two_dimensional(name, parts[original])
        if f"{_PARAMETRIZED}.0._u" in parts:
            return _spectrally_normalised(matrix), False
        return _orthogonal(matrix, parts.get(f"{_PARAMETRIZED}.0.base")), True
    found = ", ".join(parts)
    raise InputError(
        f'found {found} for the layer "{name}", and no matrix; allowed: a matrix', key="state"
    )


def _two_dimensional(name: str, array: FloatArray) -> FloatArray:
    if array.ndim != 2:
        found = f'found an array of shape {array.shape} in the layer "{name}"'
        raise InputError(f"{found}; allowed: {_ALLOWED}", key="state")
    return array


def _spectrally_normalised(matrix: FloatArray) -> FloatArray:
    return np.asarray(matrix / np.linalg.norm(matrix, ord=2))


def _orthogonal(matrix: FloatArray, base: FloatArray | None) -> FloatArray:
    """Return the first columns of base · exp(A), or the transpose for wide matrices.

    A is the antisymmetric matrix with the lower triangle of the stored one.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    number, columns = tall.shape
    lower = np.zeros((number, number))
    lower[:, :columns] = np.tril(tall)
    result = expm(lower - lower.T)[:, :columns]
    if base is not None:
        result = base @ result
    return np.asarray(result if tall is matrix else result.T)
