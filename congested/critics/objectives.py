"""What the methods maximise, each as one function of the numbers that a batch gives.

The arguments are tensors of PyTorch (NumPy's arrays have the same operations, except `clamp`):

- u(x), u(y): the critic (n,) at points of the source and of the target,
- |∇u|, factors (n,): slopes at points of the weight, and the factors that make their mean ∫ · dσ,
- distances (n, n): |y_j − x_i| in row j and column i.

Every function returns the value to be maximised; u is high on the source.
"""

from __future__ import annotations

import enum
from typing import Any

# A tensor of PyTorch, which may not be installed.
Tensor = Any


class Method(enum.StrEnum):
    """How a critic is trained; the methods of Korotin et al. (arXiv 2206.07767) and where from.

    - ``gp``: WGAN-GP, two-sided penalty (Gulrajani et al. 2017);
    - ``lp``: WGAN-LP, one-sided penalty (Petzka et al. 2018): the problem that is solved here;
    - ``clipping``: WGAN, entries clipped to an interval (Arjovsky et al. 2017);
    - ``spectral``: matrices divided by their spectral norm (Miyato et al. 2018);
    - ``sorting``: orthonormal matrices and GroupSort (Anil et al. 2019);
    - ``lsot``: two potentials with a quadratic penalty on pairs (Seguy et al. 2018);
    - ``qp``: the c-transform in the batch (Mallasto et al. 2019);
    - ``cowgan``: the smallest of the dual value and both c-transforms (Kwon et al. 2021).
    """

    GP = "gp"
    LP = "lp"
    CLIPPING = "clipping"
    SPECTRAL = "spectral"
    SORTING = "sorting"
    LSOT = "lsot"
    QP = "qp"
    COWGAN = "cowgan"

    @property
    def uses_slopes(self) -> bool:
        """Whether |∇u| at points of the weight is needed."""
        return self in (Method.GP, Method.LP)

    @property
    def uses_distances(self) -> bool:
        """Whether the distances between the points of a batch are needed."""
        return self in (Method.LSOT, Method.QP, Method.COWGAN)

    @property
    def lipschitz(self) -> bool:
        """Whether the critic's slope cannot exceed one, if that of its activation does not."""
        return self in (Method.SPECTRAL, Method.SORTING)

    @property
    def scale_free(self) -> bool:
        """Whether the scale of the critic means nothing, so that its best multiple counts."""
        return self is Method.CLIPPING


def critic_loss(source: Tensor, target: Tensor) -> Tensor:
    """Return E_μ u − E_ν u."""
    return source.mean() - target.mean()


def gradient_penalty(slopes: Tensor, factors: Tensor) -> Tensor:
    """Return E_σ (|∇u| − 1)²."""
    return (factors * (slopes - 1.0) ** 2).mean()


def one_sided_penalty(slopes: Tensor, factors: Tensor) -> Tensor:
    """Return E_σ (|∇u| − 1)₊²."""
    return (factors * (slopes - 1.0).clamp(min=0.0) ** 2).mean()


def pair_penalty(source: Tensor, target: Tensor, distances: Tensor) -> Tensor:
    """Return E (u(x) + v(y) − |x − y|)₊² over pairs of one point each.

    Parameters
    ----------
    source, target
        u(x) and v(y), the second potential (n,).
    distances
        All distances; the pairs are those of the same number.
    """
    return ((source + target - distances.diagonal()).clamp(min=0.0) ** 2).mean()


def transformed_loss(source: Tensor, distances: Tensor) -> Tensor:
    """Return E u(x) + E uᶜ(y), uᶜ(y) = min_x |x − y| − u(x) over the batch."""
    return source.mean() + (distances - source[None, :]).amin(1).mean()


def back_transformed_loss(target: Tensor, distances: Tensor) -> Tensor:
    """Return E (min_y |x − y| + u(y)) − E u(y) over the batch."""
    return (distances + target[:, None]).amin(0).mean() - target.mean()


def smallest_loss(source: Tensor, target: Tensor, distances: Tensor) -> Tensor:
    """Return the smallest of the critic loss and the two losses with a c-transform."""
    first = critic_loss(source, target)
    second = transformed_loss(source, distances)
    third = back_transformed_loss(target, distances)
    return min(first, second, third, key=float)
