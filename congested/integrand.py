r"""The integrand of congested transport: H, its conjugate φ, their derivatives and proximal map.

All formulas take the *capacity* κ = 2λσ, where λ is the strength of the penalty and σ the weight:

- cost of a momentum m:              H(m) = |m| + |m|²/(2κ)      (= |m| + |m|²/(4λσ)),
- penalty of a potential gradient ξ: φ(ξ) = κ/2 (|ξ| − 1)₊²      (= λσ(|ξ| − 1)₊²).

H and φ are convex conjugates of each other; κ = ∞ is Beckmann's problem (W₁), κ = 0 closes a cell.
Functions of norms accept NumPy arrays and UFL expressions alike, so that a formula stands once.

Source: Milne & Nachman, arXiv 2109.00528; sign and factor conventions as in the README.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ufl
from ufl.core.expr import Expr

from congested.geometry import FloatArray, inverses


def _positive_part(value: Any) -> Any:
    return ufl.max_value(value, 0.0) if isinstance(value, Expr) else np.maximum(value, 0.0)


def _quotient(numerator: Any, denominator: Any) -> Any:
    """Divide; for arrays 0/0 is 0 and x/0 is ∞: a closed cell costs nothing only if unused."""
    if isinstance(numerator, Expr) or isinstance(denominator, Expr):
        return numerator / denominator
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    )
    with np.errstate(divide="ignore", over="ignore"):
        return np.divide(
            numerator, denominator, out=np.zeros(numerator.shape), where=numerator != 0.0
        )


def capacity(weight: Any, strength: float) -> Any:
    """Return κ = 2λσ for a weight σ (density) and the penalty's strength λ; ∞ where λ is ∞."""
    if np.isinf(strength):
        return np.full_like(weight, np.inf, dtype=np.float64)
    return 2.0 * strength * weight


def transport_cost(momentum_norm: Any, capacity: Any) -> Any:
    """Return H(m) = |m| + |m|²/(2κ) from |m|."""
    return momentum_norm + _quotient(0.5 * momentum_norm**2, capacity)


def gradient_penalty(gradient_norm: Any, capacity: Any) -> Any:
    """Return φ(ξ) = κ/2 (|ξ| − 1)₊² from |ξ|, the conjugate of H; 0·∞ counts as 0."""
    excess = _positive_part(gradient_norm - 1.0)
    if isinstance(excess, Expr):
        return 0.5 * capacity * excess**2
    with np.errstate(invalid="ignore"):
        return np.where(excess > 0.0, 0.5 * capacity * excess**2, 0.0)


def two_sided_penalty(gradient_norm: Any, capacity: Any) -> Any:
    """Return κ/2 (|ξ| − 1)², the penalty of the first WGAN-GP; φ is its convex envelope in ξ."""
    return 0.5 * capacity * (gradient_norm - 1.0) ** 2


def momentum_norm(gradient_norm: Any, capacity: Any) -> Any:
    """Return |m| = κ(|ξ| − 1)₊, the length of the derivative of φ; m itself is −|m| ξ/|ξ|.

    As in `gradient_penalty`, 0·∞ counts as 0.
    """
    excess = _positive_part(gradient_norm - 1.0)
    if isinstance(excess, Expr) or isinstance(capacity, Expr):
        return capacity * excess
    with np.errstate(invalid="ignore"):
        return np.where(excess > 0.0, capacity * excess, 0.0)


def gradient_norm(momentum_norm: Any, capacity: Any) -> Any:
    """Return |ξ| = 1 + |m|/κ, valid where mass moves (|m| > 0): the congestion factor."""
    return 1.0 + _quotient(momentum_norm, capacity)


def proximal_length(length: Any, step: Any, capacity: Any) -> Any:
    """Return |prox_{τH}(q)| = (|q| − τ)₊ / (1 + τ/κ); the direction of q is kept.

    The proximal map minimises H(w) + |w − q|²/(2τ) over w.
    """
    return _positive_part(length - step) / (1.0 + _quotient(step, capacity))


# --- The smoothed cost that Newton's method sees ------------------------------------------------
#
# H_β(w) = √(|w|² + β²) − β + |w|²/(2κ), with 0 ≤ H − H_β ≤ β. Arrays w have shape (..., d) and
# `compliance` is 1/κ (0 for W₁), which is bounded in every cell that is not closed.


def smoothed_cost(flux: FloatArray, compliance: FloatArray, smoothing: float) -> FloatArray:
    """Return H_β(w) (...) for vectors w (..., d)."""
    squared = np.sum(flux**2, axis=-1)
    # |w|²/(√(|w|² + β²) + β) is √(|w|² + β²) − β without cancellation.
    length = np.sqrt(squared + smoothing**2) + smoothing
    return np.divide(squared, length, out=np.zeros_like(squared), where=length > 0.0) + (
        0.5 * compliance * squared
    )


def smoothed_gradient(flux: FloatArray, compliance: FloatArray, smoothing: float) -> FloatArray:
    """Return DH_β(w) = w/√(|w|² + β²) + w/κ (..., d)."""
    length = np.sqrt(np.sum(flux**2, axis=-1) + smoothing**2)
    return flux * (1.0 / length + compliance)[..., None]


def primal_dual_stiffness(
    flux: FloatArray, direction: FloatArray, compliance: FloatArray, smoothing: float
) -> FloatArray:
    r"""Return K = M⁻¹ (..., d, d), M the primal–dual linearisation of DH_β at w.

    With s = √(|w|² + β²), Newton's own matrix is (1/s)(I − w⊗w/s²) + I/κ. Here one factor w/s is
    replaced by the independent unit-ball variable p ≈ ∇u − w/κ, symmetrised (Chan, Golub & Mulet,
    SIAM J. Sci. Comput. 1999): the same matrix at the solution, far larger region of convergence.

    Parameters
    ----------
    flux
        w (..., d).
    direction
        p (..., d); shortened here to |p| ≤ 1, which keeps M positive definite.
    compliance
        1/κ (...).
    smoothing
        β > 0.
    """
    length = np.sqrt(np.sum(flux**2, axis=-1) + smoothing**2)
    shrink = 1.0 / np.maximum(np.linalg.norm(direction, axis=-1), 1.0)
    product = (shrink / (2.0 * length**2))[..., None, None] * (
        direction[..., :, None] * flux[..., None, :]
    )
    matrix = -(product + np.swapaxes(product, -1, -2))
    index = np.arange(flux.shape[-1])
    # The one with digits to spare keeps M invertible where β < 1e-8 |w| and 1/κ = 0.
    matrix[..., index, index] += ((1.0 + 1e-14) / length + compliance)[..., None]
    return inverses(matrix)
