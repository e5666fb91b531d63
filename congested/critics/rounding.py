"""What rounding can do to a network on a domain: bounds that hold at every point of it.

With |x| ≤ r the entries of each layer are bounded by |W| a + |b|, a the bounds of the layer before,
and a layer evaluated in floating-point numbers is wrong by at most |W| e + γ (|W| a + |b|), e the
error of the layer before and γ = (n + 2) ε for sums of n terms (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, section 3.1). Activations that are piecewise affine hand these on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from congested.critics.network import Activation, Network
from congested.geometry import FloatArray

_EPSILON = float(np.finfo(np.float64).eps)
# Entries come from matrices at the vertices of cells, and from there by interpolation.
_EVALUATIONS = 4.0


@dataclass(frozen=True, eq=False)
class Rounding:
    """Bounds of what rounding does to a piecewise affine network on a box.

    Attributes
    ----------
    entries
        For each hidden layer, how small an entry (n,) may be to count as zero.
    effects
        For each hidden layer, bounds (n,) of the derivatives by its entries.
    value
        Error of a value.
    gradient
        Error of the length of a gradient.
    shift
        What the value changes if all entries that count as zero are.
    slope
        No gradient is longer.
    """

    entries: tuple[FloatArray, ...]
    effects: tuple[FloatArray, ...]
    value: float
    gradient: float
    shift: float
    slope: float


def rounding_of(network: Network, radius: FloatArray) -> Rounding:
    """Bound what rounding does to a network.

    Parameters
    ----------
    network
        A piecewise affine network.
    radius
        Largest |x_i| (d,) of the points.
    """
    gain = 1.0
    if network.activation is Activation.LEAKY_RELU:
        gain = max(1.0, abs(network.slope))
    size: FloatArray = np.asarray(radius, dtype=np.float64)
    error: FloatArray = np.zeros(len(radius))
    entries = []
    with np.errstate(over="ignore", invalid="ignore"):
        for weight, bias in zip(network.weights, network.biases, strict=True):
            matrix = np.abs(weight)
            size = matrix @ size + np.abs(bias)
            error = matrix @ error + (weight.shape[1] + 2) * _EPSILON * size
            entries.append(_EVALUATIONS * error)
            size, error = gain * _grouped(network, size), gain * _grouped(network, error)
        value = float(entries.pop()[0])
        effect = np.abs(network.weights[-1][0])
        shift, terms = 0.0, network.weights[-1].shape[1]
        norm = float(np.linalg.norm(effect))
        effects = []
        for weight, zero in zip(network.weights[-2::-1], entries[::-1], strict=True):
            effect = gain * _grouped(network, effect)
            effects.append(effect)
            shift += float(effect @ zero)
            effect = np.abs(weight).T @ effect
            terms += weight.shape[1] + 2
            norm *= (
                gain * float(np.linalg.norm(weight, 2)) if np.isfinite(weight).all() else math.inf
            )
        bound = float(np.linalg.norm(effect))
    return Rounding(
        tuple(entries),
        tuple(effects[::-1]),
        _known(value),
        _known(terms * _EPSILON * bound),
        _known(shift),
        _known(min(bound, norm * (1.0 + 1e-12))),
    )


def _grouped(network: Network, values: FloatArray) -> FloatArray:
    """Return values (n,), or where groups are sorted the largest of each group in its places."""
    size = network.group_size or len(values)
    if network.activation is not Activation.GROUP_SORT or len(values) % size:
        return values
    return np.repeat(values.reshape(-1, size).max(axis=1), size)


def _known(value: float) -> float:
    """Return a bound; infinity where there is none."""
    return math.inf if math.isnan(value) else value
