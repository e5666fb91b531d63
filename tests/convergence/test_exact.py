"""The exact solutions are solutions: sympy proves it, quadrature and UFL agree with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy
import ufl
from dolfinx import fem
from mpi4py import MPI
from scipy.integrate import quad
from sympy import Rational

from congested.compatibility import expression
from congested.domain import create_mesh
from tests.convergence.exact import (
    NUMPY,
    UFL,
    ConcentricGaussians,
    Coordinates,
    Drift,
    ExactSolution,
    FreeBoundary,
    Manufactured,
    Strip,
    dot,
    sympy_backend,
)

MANUFACTURED = {
    "drift-2d": Drift(2, Rational(1, 25), Rational(1, 4)),
    "drift-3d": Drift(3, Rational(1, 25), Rational(1, 4)),
    "free-boundary": FreeBoundary(Rational(1, 200), Rational(3, 5)),
}
SOLUTIONS: dict[str, ExactSolution] = {
    "concentric-2d": ConcentricGaussians(2, 0.08, 0.16, 1.0, 10.0),
    "concentric-3d": ConcentricGaussians(3, 0.1, 0.2, 0.9, 0.1),
    "strip-2d": Strip(2, 0.3, 0.5),
    "strip-3d": Strip(3, 0.3, 0.25),
    "drift-2d": Drift(2),
    "drift-3d": Drift(3),
    "free-boundary": FreeBoundary(),
}


def coordinates(exact: Manufactured | Strip) -> tuple[sympy.Symbol, ...]:
    return sympy.symbols(f"x:{exact.dimension}", real=True)


def is_zero(value: sympy.Expr) -> bool:
    return sympy.simplify(value) == 0


@pytest.mark.parametrize("exact", MANUFACTURED.values(), ids=MANUFACTURED)
def test_derivatives_of_potential_and_weight(exact: Manufactured) -> None:
    x, moving = coordinates(exact), sympy_backend(moving=True)
    potential, weight = exact.potential(x, moving), exact.weight(x, moving)
    gradient, hessian = exact.gradient(x, moving), exact.hessian(x, moving)
    for axis, slope in enumerate(exact.weight_gradient(x, moving)):
        assert is_zero(sympy.diff(potential, x[axis]) - gradient[axis])
        assert is_zero(sympy.diff(weight, x[axis]) - slope)
        for other in range(exact.dimension):
            assert is_zero(sympy.diff(gradient[axis], x[other]) - hessian[axis][other])


@pytest.mark.parametrize("exact", MANUFACTURED.values(), ids=MANUFACTURED)
def test_manufactured_data_balance_the_momentum(exact: Manufactured) -> None:
    x, moving = coordinates(exact), sympy_backend(moving=True)
    momentum, gradient = exact.momentum(x, moving), exact.gradient(x, moving)
    divergence = sum(sympy.diff(entry, along) for entry, along in zip(momentum, x, strict=True))
    assert is_zero(divergence - (exact.source(x, moving) - exact.target(x, moving)))
    # m = −2λσ(|∇u| − 1)∇u/|∇u|: it points down ∇u, and its length is right.
    length = sympy.sqrt(dot(gradient, gradient))
    factor = -2 * exact.strength * exact.weight(x, moving) * (length - 1) / length
    assert all(is_zero(m - factor * g) for m, g in zip(momentum, gradient, strict=True))
    resting = sympy_backend(moving=False)
    assert exact.momentum(x, resting) == [0] * exact.dimension
    assert exact.load(x, resting) == 0


@pytest.mark.parametrize("exact", MANUFACTURED.values(), ids=MANUFACTURED)
def test_no_momentum_leaves_the_box(exact: Manufactured) -> None:
    x, moving = coordinates(exact), sympy_backend(moving=True)
    for axis, component in enumerate(exact.momentum(x, moving)):
        assert is_zero(component.subs(x[axis], 0))
        assert is_zero(component.subs(x[axis], 1))


@pytest.mark.parametrize("name", ["drift-2d", "drift-3d", "free-boundary"])
def test_densities_and_weight_are_admissible(name: str) -> None:
    exact = SOLUTIONS[name]
    assert isinstance(exact, Manufactured)
    x = np.random.default_rng(0).random((exact.dimension, 20_000))
    assert exact.source(x, NUMPY).min() > 0.05
    assert exact.target(x, NUMPY).min() > 0.05
    assert exact.weight(x, NUMPY).min() > 0.0
    lengths = np.linalg.norm(exact.gradient(x, NUMPY), axis=0)
    moving = lengths > 1.0
    # Mass drifts everywhere, or has a free boundary with a good part of the square on each side.
    assert moving.all() if isinstance(exact, Drift) else 0.2 < moving.mean() < 0.8


@pytest.mark.parametrize("name", ["drift-2d", "drift-3d", "free-boundary"])
def test_critic_loss_is_that_of_the_potential(name: str) -> None:
    exact = SOLUTIONS[name]
    assert isinstance(exact, Manufactured)

    def loss_density(x: Coordinates) -> np.ndarray:
        return exact.potential(x, NUMPY) * exact.load(x, NUMPY)

    # L = ∫ u d(μ − ν) on the one hand, ∫|m| + 2P on the other: this is strong duality.
    assert exact.integral(loss_density) == pytest.approx(exact.values.critic_loss, rel=1e-7)


@pytest.mark.parametrize("dimension", [2, 3])
def test_strip_balances_and_congestion_fits(dimension: int) -> None:
    exact = Strip(dimension, Rational(3, 10), Rational(1, 4), Rational(9, 10))
    x, backend = coordinates(exact), sympy_backend(moving=True)
    momentum, gradient = exact.momentum(x, backend), exact.gradient(x, backend)
    load = exact.source(x, backend) - exact.target(x, backend)
    assert is_zero(sympy.diff(momentum[0], x[0]) - load)
    assert momentum[1:] == gradient[1:] == [0] * (dimension - 1)
    assert momentum[0].subs(x[0], 0) == momentum[0].subs(x[0], 1) == 0
    capacity = 2 * exact.strength * exact.weight(x, backend)
    assert is_zero(-gradient[0] - 1 - momentum[0] / capacity)
    volume = exact.volume
    assert volume * sympy.integrate(exact.source(x, backend), (x[0], 0, 1)) == 1
    moved = volume * sympy.integrate(momentum[0], (x[0], 0, 1))
    assert exact.values.momentum_l1 == pytest.approx(float(moved), rel=1e-14)


@pytest.mark.parametrize("dimension", [2, 3])
def test_radial_momentum_balances_the_gaussians(dimension: int) -> None:
    exact = ConcentricGaussians(dimension, Rational(1, 10), Rational(1, 5), 1.0, 10)
    radius, backend = sympy.symbols("r", positive=True), sympy_backend(moving=True)
    sphere = exact.sphere(radius, backend)
    divergence = sympy.diff(sphere * exact.radial_momentum(radius, backend), radius) / sphere

    def density(std: Rational) -> sympy.Expr:
        bell = sympy.exp(-(radius**2) / (2 * std**2))
        return bell / (sympy.sqrt(2 * sympy.pi) * std) ** dimension

    assert is_zero(divergence - density(exact.source_std) + density(exact.target_std))


@pytest.mark.parametrize("dimension", [2, 3])
def test_radial_weight_is_the_law_of_the_interpolates(dimension: int) -> None:
    exact = SOLUTIONS[f"concentric-{dimension}d"]
    assert isinstance(exact, ConcentricGaussians)
    assert exact.over_radius(lambda r: exact.radial_weight(r, NUMPY, 64)) == pytest.approx(1.0)
    for radius in (1e-6, 0.1, 0.3, 0.6, 0.9):

        def at_time(time: float, radius: float = radius) -> float:
            variance = ((1.0 - time) * exact.source_std) ** 2 + (time * exact.target_std) ** 2
            height = (2.0 * math.pi * variance) ** (-dimension / 2)
            return height * math.exp(-(radius**2) / (2.0 * variance))

        truth = quad(at_time, 0.0, 1.0, epsabs=0.0, epsrel=1e-12)[0]
        assert exact.radial_weight(radius, NUMPY, 64) == pytest.approx(truth, rel=1e-9)
        assert exact.radial_weight(radius, NUMPY) == pytest.approx(truth, rel=2e-3)


@pytest.mark.parametrize("dimension", [2, 3])
def test_moved_mass_of_gaussians_is_the_difference_of_mean_radii(dimension: int) -> None:
    exact = SOLUTIONS[f"concentric-{dimension}d"]
    assert isinstance(exact, ConcentricGaussians)
    mean_radius = math.sqrt(2.0) * math.gamma((dimension + 1) / 2) / math.gamma(dimension / 2)
    moved = (exact.target_std - exact.source_std) * mean_radius
    assert exact.values.momentum_l1 == pytest.approx(moved, rel=1e-9)


@pytest.mark.parametrize("name", SOLUTIONS)
def test_ufl_and_numpy_evaluate_the_same_fields(name: str) -> None:
    exact = SOLUTIONS[name]
    mesh = create_mesh(exact.problem(3).domain, MPI.COMM_SELF)
    # One value per cell, at its midpoint: radial fields are not defined at the centre.
    space = fem.functionspace(mesh, ("DG", 0, (exact.dimension,)))
    position = ufl.SpatialCoordinate(mesh)
    x = [position[axis] for axis in range(exact.dimension)]
    for field in (exact.momentum, exact.gradient):
        symbolic, numeric = fem.Function(space), fem.Function(space)
        symbolic.interpolate(expression(ufl.as_vector(field(x, UFL)), space))
        numeric.interpolate(
            lambda points, field=field: np.array(field(points[: exact.dimension], NUMPY))
        )
        assert np.linalg.norm(numeric.x.array) > 0.0
        np.testing.assert_allclose(symbolic.x.array, numeric.x.array, rtol=1e-9, atol=1e-14)
