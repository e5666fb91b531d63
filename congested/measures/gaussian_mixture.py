"""Mixtures of Gaussians, with cell masses of guaranteed accuracy.

Each component is integrated over each piece of a cell with the cheapest rule of a ladder whose
error bound allows it. The bounds are rigorous, no estimates. A rule with positive weights and
degree p errs at most by 2 |T| times the distance of the density from the polynomials of degree p.
In whitened coordinates, on a piece of radius r and at distance m or more from the mean, that
distance is at most

- (2π)^{−d/2} 1.0866 r^{p+1} exp(−m²/4) / √(p+1)!, the remainder of the Taylor polynomial, where
  Cramér's inequality |He_n(t)| exp(−t²/4) ≤ 1.0866 √n! bounds the directional derivatives, and
- (2π)^{−d/2} 2 (r/2)^{p+1} E|Z|^{p+1} / (p+1)!, Z standard normal: the density is a superposition
  of plane waves with normal wave vectors Z, each approximated by Chebyshev interpolation.

The smaller one times 2 |T| is compared with tolerance · ∫_T ψ, where ψ is the density of the
standard Cauchy distribution; hence the sum over all cells of all ranks is below the tolerance.
Pieces for which no rule is good enough are cut, so no peak falls between quadrature points.

The vertex masses ∫_T λ_i dμ come from the same ladder. λ_i times a polynomial of degree p − 1 has
degree p, and the λ_i are positive with sum one, so the errors of all vertices of a cell together
have the bound above with the distance from the polynomials of degree p − 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, ndtri

from congested.errors import InputError
from congested.geometry import (
    Cells,
    FloatArray,
    IntArray,
    barycentric_coordinates,
    simplex_volumes,
)
from congested.measures.base import (
    as_array,
    check_dimension,
    check_uniforms,
    normalised_weights,
    run_collectively,
)
from congested.measures.gaussian_kernels import mixture_density, mixture_rule
from congested.measures.gaussian_ranges import affine_errors, density_ranges
from congested.quadrature import integrate_adaptively, simplex_rule

# Degrees of the ladder of rules; all have positive weights.
_DEGREES = {2: (2, 4, 5, 6, 8, 10, 12, 14), 3: (2, 4, 5, 6, 9, 10, 12, 14)}
_CRAMER = 1.0866
# Cells are cut in portions, to limit the memory for their pieces.
_SIMPLICES_AT_ONCE = 1 << 11
# One coordinate of a normal variable exceeds this with probability 3e-14.
_BOUND = 7.5


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Σ_j weight_j N(mean_j, covariance_j).

    Attributes
    ----------
    means
        Means (k, d), d = 2 or 3.
    covariances
        Symmetric positive definite matrices (k, d, d).
    weights
        Weights (k,) ≥ 0 with sum 1 (normalised if within 1e-6); equal ones if None.

    Raises
    ------
    InputError
        If shapes do not fit, a covariance is not symmetric positive definite, or the weights
        are no probabilities.
    """

    means: FloatArray
    covariances: FloatArray
    weights: FloatArray | None = None

    def __post_init__(self) -> None:
        """Check and convert the values."""
        means = as_array(self.means, "means", "a list of points", (None, None))
        number, dimension = means.shape
        check_dimension(dimension, "means")
        if number == 0:
            raise InputError("found no component; allowed: at least one", key="means")
        covariances = as_array(
            self.covariances,
            "covariances",
            f"{number} matrices of {dimension} × {dimension} numbers",
            (number, dimension, dimension),
        )
        for position, matrix in enumerate(covariances):
            scale = np.abs(matrix).max()
            if np.abs(matrix - matrix.T).max() > 1e-12 * scale:
                raise InputError(
                    f"found a matrix that is not symmetric at position {position}; "
                    "allowed: symmetric positive definite",
                    key="covariances",
                )
            if np.linalg.eigvalsh(matrix)[0] <= 1e-15 * scale:
                raise InputError(
                    f"found a matrix that is not positive definite at position {position}; "
                    "allowed: symmetric positive definite",
                    key="covariances",
                )
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "covariances", covariances)
        object.__setattr__(self, "weights", normalised_weights(self.weights, number))

    @classmethod
    def from_stds(
        cls,
        means: npt.ArrayLike,
        stds: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
    ) -> GaussianMixture:
        """Make a mixture of isotropic Gaussians.

        Parameters
        ----------
        means
            Means (k, d).
        stds
            Standard deviation > 0 of every component, or of each (k,).
        weights
            Weights (k,) ≥ 0 with sum 1; equal ones if None.

        Raises
        ------
        InputError
            As for the class; also if a standard deviation is not positive.
        """
        means = as_array(means, "means", "a list of points", (None, None))
        number, dimension = means.shape
        allowed = f"a number > 0, or {number} of them"
        each = as_array(stds, "stds", allowed, () if np.ndim(stds) == 0 else (number,))
        if each.size and each.min() <= 0:
            raise InputError(f"found {each.min():g}; allowed: {allowed}", key="stds")
        each = np.broadcast_to(each, (number,))
        covariances = each[:, None, None] ** 2 * np.eye(dimension)
        return cls(means, covariances, weights)  # type: ignore[arg-type]

    @property
    def dimension(self) -> int:
        """Space dimension d."""
        return self.means.shape[1]

    @property
    def sample_dimension(self) -> int:
        """One uniform number for the component, d for the normal variable."""
        return self.dimension + 1

    @cached_property
    def _components(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Means, whitening matrices, their norms and log factors of the components in use."""
        weights = self.weights
        assert weights is not None
        used = weights > 0
        factors = np.linalg.cholesky(self.covariances[used])
        whitening = np.linalg.inv(factors)
        log_determinant = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        log_factors = (
            np.log(weights[used]) - log_determinant - 0.5 * self.dimension * math.log(2 * math.pi)
        )
        norms = np.linalg.norm(whitening, ord=2, axis=(1, 2))
        return self.means[used], whitening, norms, log_factors

    def exponents(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the components as exp(log_factor − |whitening (x − mean)|²/2).

        Returns
        -------
        tuple
            Means (k, d), whitening matrices (k, d, d), log factors (k,) of those with a weight.
        """
        means, whitening, _, log_factors = self._components
        return means, whitening, log_factors

    def density(self, points: FloatArray) -> FloatArray:
        """Return the density (m,) at points (m, d)."""
        points = np.ascontiguousarray(points, dtype=np.float64)
        means, whitening, _, log_factors = self._components
        return mixture_density(points, means, whitening, log_factors)

    def cell_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return the integral of the density over each owned cell (collective).

        Parameters
        ----------
        cells
            The cells.
        tolerance
            Absolute error allowed in total over all cells of all ranks.
        """
        return run_collectively(cells.comm, lambda: self.simplex_masses(cells.simplices, tolerance))

    def simplex_masses(self, simplices: FloatArray, tolerance: float = 1e-10) -> FloatArray:
        """Return the masses (n,) of disjoint simplices (n, d+1, d) (not collective).

        The absolute error is at most `tolerance` in total over any set of disjoint simplices.
        """
        return self._integrals(simplices, tolerance, vertices=False)[:, 0]

    def vertex_masses(self, cells: Cells, tolerance: float = 1e-10) -> FloatArray:
        """Return ∫_T λ_i dμ (n, d+1) of each owned cell (collective).

        Parameters
        ----------
        cells
            The cells.
        tolerance
            Absolute error allowed in total over all vertices of all cells of all ranks.
        """
        return run_collectively(
            cells.comm, lambda: self._integrals(cells.simplices, tolerance, vertices=True)
        )

    def density_range(self, cells: Cells) -> tuple[FloatArray, FloatArray]:
        """Return rigorous bounds (n,), (n,) of the density on each owned cell."""
        return density_ranges(cells.simplices, *self.exponents())

    def affine_error(self, cells: Cells) -> FloatArray:
        """Return rigorous bounds (n,) of the distance of the density from an affine function.

        That is the root mean square over the cell of the difference, for the best affine function.
        """
        return affine_errors(cells.simplices, *self.exponents())

    def _integrals(self, simplices: FloatArray, tolerance: float, vertices: bool) -> FloatArray:
        """Return masses (n, 1) or vertex masses (n, d+1) of disjoint simplices (n, d+1, d)."""
        dimension = self.dimension
        rules = [simplex_rule(dimension, degree) for degree in _DEGREES[dimension]]
        points = np.concatenate([rule[0] for rule in rules]).T.copy()
        weights = np.concatenate([rule[1] for rule in rules])
        first = np.cumsum([0] + [len(rule[1]) for rule in rules])
        # One more than the degree of the polynomials that may be multiplied by λ_i, or by one.
        powers = np.array(_DEGREES[dimension]) + (0 if vertices else 1)
        log_bounds = _log_bounds(dimension, powers, tolerance)
        ladder = (points, weights, first, powers, log_bounds)
        means, whitening, norms, log_factors = self._components
        moments = dimension + 1 if vertices else 1
        result = np.empty((len(simplices), moments))
        for start in range(0, len(simplices), _SIMPLICES_AT_ONCE):
            chunk = simplices[start : start + _SIMPLICES_AT_ONCE]

            def rule(
                pieces: FloatArray, owner: IntArray, chunk: FloatArray = chunk
            ) -> tuple[FloatArray, FloatArray]:
                integral, must_cut = mixture_rule(
                    np.ascontiguousarray(pieces),
                    *ladder,
                    means,
                    whitening,
                    norms,
                    log_factors,
                    moments,
                )
                integral *= simplex_volumes(pieces)[:, None]
                if vertices:
                    parent = barycentric_coordinates(chunk[owner], pieces)
                    integral = np.einsum("nc,nci->ni", integral, parent)
                return integral, np.where(must_cut, np.inf, 0.0)

            result[start : start + _SIMPLICES_AT_ONCE] = integrate_adaptively(
                rule, chunk, 0.0, max_depth=100
            )
        return result

    def sample(self, uniforms: FloatArray) -> FloatArray:
        """Map numbers (m, d+1) in [0, 1) to samples (m, d).

        The first number chooses the component, the others go through the inverse of the normal
        distribution function.
        """
        uniforms = check_uniforms(uniforms, self.sample_dimension)
        assert self.weights is not None
        steps = np.cumsum(self.weights)
        component = np.searchsorted(steps / steps[-1], uniforms[:, 0], side="right")
        component = np.minimum(component, len(steps) - 1)
        # Zero and one would be sent to infinity.
        normal = ndtri(np.clip(uniforms[:, 1:], 1e-300, 1.0 - 2.0**-53))
        factors = np.linalg.cholesky(self.covariances)[component]
        return self.means[component] + np.einsum("mij,mj->mi", factors, normal)

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the corners of a box that holds all but about 1e-12 of the mass."""
        assert self.weights is not None
        used = self.weights > 0
        reach = _BOUND * np.sqrt(np.diagonal(self.covariances, axis1=1, axis2=2))[used]
        means = self.means[used]
        return (means - reach).min(axis=0), (means + reach).max(axis=0)


def _log_bounds(dimension: int, powers: IntArray, tolerance: float) -> FloatArray:
    """Return the logarithms (2, degrees) of the error bounds over the allowed error.

    The factors that depend on the piece are left out. Row 0 is Taylor's bound, row 1 Chebyshev's;
    `powers` are the degrees plus one.
    """
    half = 0.5 * dimension
    log_cauchy = gammaln(half + 0.5) - (half + 0.5) * math.log(math.pi)
    log_common = -half * math.log(2.0 * math.pi) - math.log(tolerance) - log_cauchy
    log_moments = 0.5 * powers * math.log(2.0) + gammaln(half + 0.5 * powers) - gammaln(half)
    taylor = math.log(2.0 * _CRAMER) - 0.5 * gammaln(powers + 1)
    chebyshev = math.log(4.0) - powers * math.log(2.0) + log_moments - gammaln(powers + 1)
    return np.stack([taylor, chebyshev]) + log_common
