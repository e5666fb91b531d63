"""Exact solutions of congested transport, each formula written once for NumPy, UFL and sympy.

The methods of a solution take coordinates and a `Backend`, the functions of one library under
names that are the same for all three. So the formulas that sympy proves to fit are the formulas
that give the data of the problem (NumPy) and the errors of its solution (UFL).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.special
import sympy
import ufl
from scipy.integrate import quad

from congested.domain import Box
from congested.measures.density import DensityMeasure
from congested.measures.gaussian_mixture import GaussianMixture
from congested.problem import Problem
from congested.weights.kinds import DensityWeight

# One entry per axis: arrays, UFL expressions or sympy symbols.
Coordinates = Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class Backend:
    """The functions that the formulas need, of one library."""

    pi: Any
    sqrt: Callable[[Any], Any]
    exp: Callable[[Any], Any]
    sin: Callable[[Any], Any]
    cos: Callable[[Any], Any]
    erf: Callable[[Any], Any]
    positive_part: Callable[[Any], Any]
    is_positive: Callable[[Any], Any]  # 1 or 0


NUMPY = Backend(
    np.pi,
    np.sqrt,
    np.exp,
    np.sin,
    np.cos,
    scipy.special.erf,
    lambda value: np.maximum(value, 0.0),
    lambda value: np.where(value > 0.0, 1.0, 0.0),
)
UFL = Backend(
    np.pi,
    ufl.sqrt,
    ufl.exp,
    ufl.sin,
    ufl.cos,
    ufl.erf,
    lambda value: ufl.max_value(value, 0.0),
    lambda value: ufl.conditional(ufl.gt(value, 0.0), 1.0, 0.0),
)


def sympy_backend(moving: bool) -> Backend:
    """Return sympy's functions where every positive part is positive (mass moves), or zero."""
    share = sympy.Integer(int(moving))
    return Backend(
        sympy.pi,
        sympy.sqrt,
        sympy.exp,
        sympy.sin,
        sympy.cos,
        sympy.erf,
        lambda value: share * value,
        lambda value: share,
    )


def dot(first: Coordinates, second: Coordinates) -> Any:
    """Return the scalar product of two vectors given by components."""
    return sum(a * b for a, b in zip(first, second, strict=True))


def at_points(formula: Callable[[Coordinates, Backend], Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Turn a formula into a NumPy function of points (k, d)."""
    return lambda points: np.broadcast_to(formula(points.T, NUMPY), len(points))


@dataclass(frozen=True)
class Values:
    """Cost D, critic loss L, penalty P and ∫|m| of an optimum."""

    cost: float
    critic_loss: float
    penalty: float
    momentum_l1: float

    @classmethod
    def of(cls, momentum_l1: float, penalty: float) -> Values:
        """Derive D and L: at the optimum ∫|m|²/(4λσ) = P, so D = ∫|m| + P and L = D + P."""
        cost = momentum_l1 + penalty
        return cls(cost, cost + penalty, penalty, momentum_l1)


class ExactSolution(ABC):
    """A problem whose solution is known."""

    dimension: int
    strength: Any
    # Change of the cost that is known to come from the domain's being finite.
    cut_off: float = 0.0

    @abstractmethod
    def momentum(self, x: Coordinates, backend: Backend) -> list[Any]:
        """Return the components of m."""

    @abstractmethod
    def gradient(self, x: Coordinates, backend: Backend) -> list[Any]:
        """Return the components of ∇u, right where mass moves."""

    @property
    @abstractmethod
    def values(self) -> Values:
        """The numbers of the optimum."""

    @property
    def distance(self) -> float | None:
        """W₁ where it is known: ∫|m| if mass moves along the same lines for every λ."""
        return None

    @abstractmethod
    def problem(self, cells: int) -> Problem:
        """Return the problem on a mesh with so many cells along the longest side."""


def line_integral(function: Callable[[float], float], lower: float, upper: float) -> float:
    """Integrate over an interval to nearly rounding."""
    return quad(function, lower, upper, epsabs=1e-14, epsrel=1e-12, limit=200)[0]


@dataclass(frozen=True)
class ConcentricGaussians(ExactSolution):
    """Normal distributions with standard deviations s₁ < s₂ about 0, and their interpolates' σ.

    By symmetry m is radial, and ∫ div m over a ball, M_μ − M_ν, fixes it. With independent
    coupling σ = ∫₀¹ N(0, s_t² I) dt, s_t² = (1 − t)² s₁² + t² s₂². The solution is that of the
    whole space; the problem's box cuts off the tails.
    """

    dimension: int
    source_std: Any
    target_std: Any
    half_width: float
    strength: Any

    def mass_within(self, radius: Any, std: float, backend: Backend) -> Any:
        """Return the mass of N(0, std² I) in a ball."""
        bell = backend.exp(-((radius / std) ** 2) / 2)
        if self.dimension == 2:
            return 1 - bell
        shell = backend.sqrt(2 / backend.pi) * radius / std * bell
        return backend.erf(radius / (backend.sqrt(2) * std)) - shell

    def sphere(self, radius: Any, backend: Backend = NUMPY) -> Any:
        """Return the area of a sphere."""
        return 2 * backend.pi * radius if self.dimension == 2 else 4 * backend.pi * radius**2

    def radial_momentum(self, radius: Any, backend: Backend) -> Any:
        source = self.mass_within(radius, self.source_std, backend)
        target = self.mass_within(radius, self.target_std, backend)
        return (source - target) / self.sphere(radius, backend)

    def radial_weight(self, radius: Any, backend: Backend, nodes: int = 16) -> Any:
        """σ by Gauss's rule in t."""
        points, shares = np.polynomial.legendre.leggauss(nodes)
        times = 0.5 * (points + 1.0)
        variances = ((1.0 - times) * self.source_std) ** 2 + (times * self.target_std) ** 2
        heights = 0.5 * shares * (2.0 * np.pi * variances) ** (-0.5 * self.dimension)
        return sum(
            float(height) * backend.exp(-(radius**2) / (2.0 * float(variance)))
            for height, variance in zip(heights, variances, strict=True)
        )

    def momentum(self, x: Coordinates, backend: Backend) -> list[Any]:
        radius = backend.sqrt(dot(x, x))
        outwards = self.radial_momentum(radius, backend)
        return [outwards * entry / radius for entry in x]

    def gradient(self, x: Coordinates, backend: Backend) -> list[Any]:
        radius = backend.sqrt(dot(x, x))
        capacity = 2.0 * self.strength * self.radial_weight(radius, backend)
        slope = -(1.0 + self.radial_momentum(radius, backend) / capacity)
        return [slope * entry / radius for entry in x]

    def over_radius(self, integrand: Callable[[float], float], start: float = 1e-9) -> float:
        """Integrate a radial function outside a ball."""
        whole = 12.0 * self.target_std
        return line_integral(lambda radius: self.sphere(radius) * integrand(radius), start, whole)

    def penalty_density(self, radius: float) -> float:
        weight = self.radial_weight(radius, NUMPY, nodes=64)
        return self.radial_momentum(radius, NUMPY) ** 2 / (4.0 * self.strength * weight)

    @cached_property
    def values(self) -> Values:
        moved = self.over_radius(lambda radius: self.radial_momentum(radius, NUMPY))
        return Values.of(moved, self.over_radius(self.penalty_density))

    @property
    def distance(self) -> float:
        return self.values.momentum_l1

    @cached_property
    def cut_off(self) -> float:  # type: ignore[override]
        """Cost outside the largest ball in the box."""
        return self.over_radius(
            lambda radius: self.radial_momentum(radius, NUMPY) + self.penalty_density(radius),
            self.half_width,
        )

    def problem(self, cells: int) -> Problem:
        corner = (self.half_width,) * self.dimension
        origin = np.zeros((1, self.dimension))
        return Problem(
            Box(tuple(-entry for entry in corner), corner, cells),
            GaussianMixture.from_stds(origin, [self.source_std]),
            GaussianMixture.from_stds(origin, [self.target_std]),
            strength=self.strength,
        )


class UnitBoxSolution(ExactSolution):
    """A solution on (0, 1) × (0, h)^{d−1} with a given weight, source and target densities."""

    thickness: Any = 1.0

    @abstractmethod
    def weight(self, x: Coordinates, backend: Backend) -> Any:
        """Return σ."""

    @abstractmethod
    def source(self, x: Coordinates, backend: Backend) -> Any:
        """Return the density of μ."""

    @abstractmethod
    def target(self, x: Coordinates, backend: Backend) -> Any:
        """Return the density of ν."""

    def problem(self, cells: int) -> Problem:
        lower = (0.0,) * self.dimension
        upper = (1.0,) + (self.thickness,) * (self.dimension - 1)
        return Problem(
            Box(lower, upper, cells),
            DensityMeasure(at_points(self.source), np.array(lower), np.array(upper)),
            DensityMeasure(at_points(self.target), np.array(lower), np.array(upper)),
            DensityWeight(at_points(self.weight)),
            strength=self.strength,
        )


@dataclass(frozen=True)
class Strip(UnitBoxSolution):
    """Data that depend on x₁ only: m = (F_μ − F_ν) e₁, F the distribution functions.

    μ and ν have the densities (1 ± a sin 2πx₁)/|Ω|, so m = 2a/(π|Ω|) sin²(πx₁) e₁. It vanishes
    quadratically at the ends; linearly would cost all that is made of ∫|m| a factor log h.
    """

    dimension: int
    strength: Any
    thickness: Any = 1.0
    amplitude: Any = 0.9

    @property
    def volume(self) -> float:
        return self.thickness ** (self.dimension - 1)

    @property
    def distance(self) -> float:
        return self.values.momentum_l1

    def weight(self, x: Coordinates, backend: Backend) -> Any:
        return (1 + 2 * x[0]) / (2 * self.volume)

    def source(self, x: Coordinates, backend: Backend) -> Any:
        return (1 + self.amplitude * backend.sin(2 * backend.pi * x[0])) / self.volume

    def target(self, x: Coordinates, backend: Backend) -> Any:
        return (1 - self.amplitude * backend.sin(2 * backend.pi * x[0])) / self.volume

    def momentum(self, x: Coordinates, backend: Backend) -> list[Any]:
        height = 2 * self.amplitude / (backend.pi * self.volume)
        zero = 0 * x[0]
        return [height * backend.sin(backend.pi * x[0]) ** 2] + [zero] * (self.dimension - 1)

    def gradient(self, x: Coordinates, backend: Backend) -> list[Any]:
        momentum = self.momentum(x, backend)
        capacity = 2 * self.strength * self.weight(x, backend)
        return [-(1 + momentum[0] / capacity), *momentum[1:]]

    @cached_property
    def values(self) -> Values:
        def penalty(x: float) -> float:
            weight = 4.0 * self.strength * self.weight([x], NUMPY)
            return self.volume * self.momentum([x], NUMPY)[0] ** 2 / weight

        return Values.of(self.amplitude / np.pi, line_integral(penalty, 0.0, 1.0))


class Manufactured(UnitBoxSolution):
    """Potential u and weight σ are chosen; μ − ν = div m with m = −2λσ(|∇u| − 1)₊∇u/|∇u|.

    μ and ν are the uniform measure plus and minus half of div m.
    """

    @abstractmethod
    def potential(self, x: Coordinates, backend: Backend) -> Any:
        """Return u."""

    @abstractmethod
    def hessian(self, x: Coordinates, backend: Backend) -> list[list[Any]]:
        """Return the second derivatives of u."""

    @abstractmethod
    def weight_gradient(self, x: Coordinates, backend: Backend) -> list[Any]:
        """Return ∇σ."""

    def momentum(self, x: Coordinates, backend: Backend) -> list[Any]:
        gradient = self.gradient(x, backend)
        excess = backend.positive_part(backend.sqrt(dot(gradient, gradient)) - 1)
        factor = -2 * self.strength * self.weight(x, backend) * excess / (1 + excess)
        return [factor * entry for entry in gradient]

    def load(self, x: Coordinates, backend: Backend) -> Any:
        """Return div m, differentiated by hand."""
        gradient, hessian = self.gradient(x, backend), self.hessian(x, backend)
        above = backend.sqrt(dot(gradient, gradient)) - 1
        excess = backend.positive_part(above)
        bend = dot(gradient, [dot(row, gradient) for row in hessian])
        laplacian = sum(hessian[axis][axis] for axis in range(self.dimension))
        weight = self.weight(x, backend)
        spread = dot(self.weight_gradient(x, backend), gradient) + weight * laplacian
        steepening = weight * bend * backend.is_positive(above) / (1 + excess) ** 3
        return -2 * self.strength * (spread * excess / (1 + excess) + steepening)

    def source(self, x: Coordinates, backend: Backend) -> Any:
        return 1 + self.load(x, backend) / 2

    def target(self, x: Coordinates, backend: Backend) -> Any:
        return 1 - self.load(x, backend) / 2

    def integral(self, function: Callable[[Coordinates], Any]) -> float:
        """Integrate over the unit box by Gauss's rule on intervals along each axis."""
        number = 128 if self.dimension == 2 else 16
        nodes, shares = np.polynomial.legendre.leggauss(4)
        points = ((np.arange(number)[:, None] + 0.5 * (nodes + 1.0)) / number).ravel()
        values = function(np.meshgrid(*[points] * self.dimension, indexing="ij"))
        for _ in range(self.dimension):
            values = values @ np.tile(0.5 * shares / number, number)
        return float(values)

    @cached_property
    def values(self) -> Values:
        def moved(x: Coordinates) -> Any:
            momentum = self.momentum(x, NUMPY)
            return np.sqrt(dot(momentum, momentum))

        def penalty(x: Coordinates) -> Any:
            gradient = self.gradient(x, NUMPY)
            excess = NUMPY.positive_part(np.sqrt(dot(gradient, gradient)) - 1.0)
            return self.strength * self.weight(x, NUMPY) * excess**2

        return Values.of(self.integral(moved), self.integral(penalty))


def product(factors: Sequence[Any], changed: dict[int, Any]) -> Any:
    """Return the product of the factors, some of them exchanged."""
    result = 1
    for axis, factor in enumerate(factors):
        result = result * changed.get(axis, factor)
    return result


@dataclass(frozen=True)
class Drift(Manufactured):
    """Mass drifts along the box everywhere: u = −2x₁ − ε sin πx₁ Π cos πx_i (i > 1).

    |∇u| > 1 as long as ε < 1/π. m·n vanishes on the faces across the drift with the weight
    σ = 30x₁²(1 − x₁)² Π (½ + x_i), on the others with ∂u/∂n. All data are smooth.
    """

    dimension: int
    strength: Any = 0.04
    bump: Any = 0.25

    def waves(self, x: Coordinates, backend: Backend) -> tuple[list[Any], list[Any]]:
        """Return the factors of the bump and their derivatives."""
        sines = [backend.sin(backend.pi * entry) for entry in x]
        cosines = [backend.cos(backend.pi * entry) for entry in x]
        slopes = [backend.pi * cosines[0]] + [-backend.pi * sine for sine in sines[1:]]
        return [sines[0], *cosines[1:]], slopes

    def potential(self, x: Coordinates, backend: Backend) -> Any:
        waves, _ = self.waves(x, backend)
        return -2 * x[0] - self.bump * product(waves, {})

    def gradient(self, x: Coordinates, backend: Backend) -> list[Any]:
        waves, slopes = self.waves(x, backend)
        bumps = [product(waves, {axis: slope}) for axis, slope in enumerate(slopes)]
        return [-2 * (axis == 0) - self.bump * bump for axis, bump in enumerate(bumps)]

    def hessian(self, x: Coordinates, backend: Backend) -> list[list[Any]]:
        waves, slopes = self.waves(x, backend)
        axes = range(self.dimension)

        def entry(row: int, column: int) -> Any:
            if row == column:
                return self.bump * backend.pi**2 * product(waves, {})
            return -self.bump * product(waves, {row: slopes[row], column: slopes[column]})

        return [[entry(row, column) for column in axes] for row in axes]

    def factors(self, x: Coordinates) -> list[Any]:
        """Return the factors of the weight."""
        return [30 * (x[0] * (1 - x[0])) ** 2, *((1 + 2 * entry) / 2 for entry in x[1:])]

    def weight(self, x: Coordinates, backend: Backend) -> Any:
        return product(self.factors(x), {})

    def weight_gradient(self, x: Coordinates, backend: Backend) -> list[Any]:
        slopes = [60 * x[0] * (1 - x[0]) * (1 - 2 * x[0])] + [1] * (self.dimension - 1)
        return [product(self.factors(x), {axis: slope}) for axis, slope in enumerate(slopes)]


@dataclass(frozen=True)
class FreeBoundary(Manufactured):
    """Mass rests where |∇u| < 1: u = a cos πx₁ cos πx₂, σ = (|∇u|² − 1)² in the plane.

    ∂u/∂n = 0 on the boundary. m vanishes to third order at the free boundary |∇u| = 1, so that
    the data are smooth there; around the corners and the centre no mass moves.
    """

    strength: Any = 0.005
    height: Any = 0.6
    dimension: int = 2

    def potential(self, x: Coordinates, backend: Backend) -> Any:
        return self.height * backend.cos(backend.pi * x[0]) * backend.cos(backend.pi * x[1])

    def gradient(self, x: Coordinates, backend: Backend) -> list[Any]:
        factor = -self.height * backend.pi
        cosines = [backend.cos(backend.pi * entry) for entry in x]
        sines = [backend.sin(backend.pi * entry) for entry in x]
        return [factor * sines[0] * cosines[1], factor * cosines[0] * sines[1]]

    def hessian(self, x: Coordinates, backend: Backend) -> list[list[Any]]:
        factor = self.height * backend.pi**2
        same = -factor * backend.cos(backend.pi * x[0]) * backend.cos(backend.pi * x[1])
        mixed = factor * backend.sin(backend.pi * x[0]) * backend.sin(backend.pi * x[1])
        return [[same, mixed], [mixed, same]]

    def weight(self, x: Coordinates, backend: Backend) -> Any:
        gradient = self.gradient(x, backend)
        return (dot(gradient, gradient) - 1) ** 2

    def weight_gradient(self, x: Coordinates, backend: Backend) -> list[Any]:
        gradient, hessian = self.gradient(x, backend), self.hessian(x, backend)
        factor = 4 * (dot(gradient, gradient) - 1)
        return [factor * dot(row, gradient) for row in hessian]
