"""The second-order cone {(t, w) : |w| ≤ t}: its algebra, and the scaling of Nesterov and Todd.

Arrays have shape (..., 1 + d); entry 0 is t. Sources: Nesterov & Todd, SIAM J. Optim. 8 (1998);
Andersen, Roos & Terlaky, Math. Program. 95 (2003).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from congested.geometry import FloatArray


def joined(first: FloatArray, rest: FloatArray) -> FloatArray:
    """Return (t, w) (..., 1 + d) from t (...) and w (..., d)."""
    return np.concatenate([first[..., None], rest], axis=-1)


def determinant(x: FloatArray) -> FloatArray:
    """Return t² − |w|² (...), positive inside the cone."""
    length = np.linalg.norm(x[..., 1:], axis=-1)
    # As a product: near the boundary the difference of the squares would lose all digits.
    return np.asarray((x[..., 0] - length) * (x[..., 0] + length), dtype=np.float64)


def product(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the Jordan product x∘y = (x·y, x₀ y₁ + y₀ x₁)."""
    first = np.sum(x * y, axis=-1)
    return joined(first, x[..., :1] * y[..., 1:] + y[..., :1] * x[..., 1:])


def quotient(y: FloatArray, x: FloatArray) -> FloatArray:
    """Return z with x∘z = y."""
    first = x[..., 0] * y[..., 0] - np.sum(x[..., 1:] * y[..., 1:], axis=-1)
    first = first / determinant(x)
    return joined(first, (y[..., 1:] - x[..., 1:] * first[..., None]) / x[..., :1])


def _mirrored(x: FloatArray) -> FloatArray:
    """Return Jx = (t, −w)."""
    return joined(x[..., 0], -x[..., 1:])


def largest_step(x: FloatArray, change: FloatArray) -> float:
    """Return the largest α with x + α·change in the cone for all α up to it; x lies inside."""
    # det(x + α·change) = a α² + 2 b α + c; its smallest positive root is where x leaves.
    a = determinant(change)
    b = x[..., 0] * change[..., 0] - np.sum(x[..., 1:] * change[..., 1:], axis=-1)
    c = determinant(x)
    discriminant = b**2 - a * c
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        q = -(b + np.copysign(np.sqrt(np.maximum(discriminant, 0.0)), b))
        roots = np.stack([q / a, c / q])
        # Through the apex both roots meet, and rounding may lose them; there t vanishes.
        apex = np.where(change[..., 0] < 0.0, -x[..., 0] / change[..., 0], np.inf)
    real = (discriminant >= 0.0) & np.isfinite(roots) & (roots > 0.0)
    return float(min(np.where(real, roots, np.inf).min(initial=np.inf), apex.min(initial=np.inf)))


@dataclass(frozen=True)
class Scaling:
    """The symmetric W with W y = W⁻¹ x for two points inside the cone.

    Attributes
    ----------
    primal, dual
        x and y (..., 1 + d).
    """

    primal: FloatArray
    dual: FloatArray

    @cached_property
    def size(self) -> FloatArray:
        """Return η with W = η (2 v⊗v − J)."""
        return np.asarray((determinant(self.primal) / determinant(self.dual)) ** 0.25)

    @cached_property
    def axis(self) -> FloatArray:
        """Return the scaling point w with det w = 1 and W² = η² (2 w⊗w − J)."""
        x = self.primal / np.sqrt(determinant(self.primal))[..., None]
        y = self.dual / np.sqrt(determinant(self.dual))[..., None]
        middle = np.sqrt(2.0 * (1.0 + np.sum(x * y, axis=-1)))
        return (x + _mirrored(y)) / middle[..., None]

    @cached_property
    def _root(self) -> FloatArray:
        root = self.axis.copy()
        root[..., 0] += 1.0
        return root / np.sqrt(2.0 * root[..., :1])

    def apply(self, vector: FloatArray) -> FloatArray:
        """Return W vector."""
        root = self._root
        along = 2.0 * np.sum(root * vector, axis=-1)[..., None] * root
        return self.size[..., None] * (along - _mirrored(vector))

    def apply_inverse(self, vector: FloatArray) -> FloatArray:
        """Return W⁻¹ vector."""
        root = _mirrored(self._root)
        along = 2.0 * np.sum(root * vector, axis=-1)[..., None] * root
        return (along - _mirrored(vector)) / self.size[..., None]
