"""The ray formula: its density against quadrature, its integrals near atoms and tips."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from congested.geometry import Cells, cells_from_arrays
from congested.measures.base import Measure
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.points import Points
from congested.measures.uniform import UniformBall, UniformBox
from congested.weights.compute import cell_weight
from congested.weights.kinds import Interpolates
from congested.weights.ray_density import densities
from congested.weights.ray_parts import evaluations_of, tables_of
from congested.weights.rays import foreseen_seconds
from tests.weights.pairs import FUNNELS, PAIR_OF_FUNNELS, box_cells

DISC, OTHER = UniformBall((0.3, 0.4), 0.15), UniformBall((0.7, 0.6), 0.2)
BOX = UniformBox((0.5, 0.1), (0.9, 0.3))
SKEW = GaussianMixture(
    np.array([[0.3, 0.4]]), np.array([[[0.01, 0.004], [0.004, 0.005]]]), np.array([1.0])
)


def ray_density(
    source: Measure, target: Measure, points: np.ndarray, order: int = 12
) -> np.ndarray:
    tables = tables_of(source, target, 1.5, order)
    assert tables is not None
    return densities(tables, np.asarray(points, dtype=np.float64))


def chord(disc: UniformBall, point: np.ndarray, direction: np.ndarray) -> float:
    """Length of a disc on the ray from a point."""
    offset = disc.center - point
    along = float(offset @ direction)
    half = disc.radius**2 - float(offset @ offset) + along**2
    if half <= 0.0:
        return 0.0
    return max(0.0, along + math.sqrt(half) - max(0.0, along - math.sqrt(half)))


@pytest.mark.parametrize("point", [[0.45, 0.5], [0.3, 0.45], [0.72, 0.6], [0.52, 0.43]])
def test_two_discs_by_quadrature_over_directions(point: list[float]) -> None:
    """σ = ∫ chord · chord dθ over the product of the areas; the breaks are where tangents are."""
    x = np.array(point)
    breaks = [0.0, 2.0 * math.pi]
    for disc, turn in ((DISC, 0.0), (OTHER, math.pi)):
        offset = disc.center - x
        distance = float(np.linalg.norm(offset))
        if distance > disc.radius:
            angle = math.atan2(offset[1], offset[0]) + turn
            width = math.asin(disc.radius / distance)
            breaks += [(angle + sign * width) % (2.0 * math.pi) for sign in (-1.0, 1.0)]

    def integrand(angle: float) -> float:
        direction = np.array([math.cos(angle), math.sin(angle)])
        return chord(DISC, x, direction) * chord(OTHER, x, -direction)

    exact = sum(
        quad(integrand, low, high, epsabs=1e-13, epsrel=1e-10, limit=200)[0]
        for low, high in pairwise(sorted(breaks))
    )
    exact /= math.pi**2 * DISC.radius**2 * OTHER.radius**2
    assert exact > 0.3
    assert ray_density(DISC, OTHER, [x])[0] == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize(
    ("source", "target"), [(DISC, BOX), (SKEW, BOX), (BOX, UniformBox((0.1, 0.5), (0.6, 0.8)))]
)
def test_density_by_quadrature_in_t(source: Measure, target: Measure) -> None:
    """Given Y and t the law of (1 − t) X + t Y has the density (1 − t)^(−2) μ((x − tY)/(1 − t))."""
    points = np.array([[0.5, 0.35], [0.55, 0.22], [0.45, 0.42]])
    found = ray_density(source, target, points)
    assert isinstance(target, UniformBox)
    side = (np.arange(160) + 0.5) / 160
    share = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    y = target.lower + share * (target.upper - target.lower)
    nodes, weights = np.polynomial.legendre.leggauss(160)
    for point, value in zip(points, found, strict=True):
        total = 0.0
        for t, weight in zip(0.5 * (nodes + 1.0), 0.5 * weights, strict=True):
            density = source.density((point - t * y) / (1.0 - t))  # type: ignore[attr-defined]
            total += weight * density.mean() / (1.0 - t) ** 2
        assert value > 0.1
        assert value == pytest.approx(total, rel=5e-3)


def test_more_directions_change_nothing() -> None:
    """Between the breaks the integrands are smooth: the rule converges exponentially."""
    points = np.random.default_rng(0).random((200, 2))
    for source, target in ((DISC, OTHER), (BOX, DISC), (SKEW, BOX), (Points([[0.1, 0.2]]), SKEW)):
        fine = ray_density(source, target, points, 64)
        error = np.abs(ray_density(source, target, points, 12) - fine).max()
        assert error < 2e-6 * fine.max()
        assert fine.max() > 1.0


def test_an_atom_and_a_box_in_polar_coordinates() -> None:
    """In the cone from the atom through the box the density is the chord over r and the area."""
    atom = Points([[0.1, 0.2]])
    x = np.array([0.4, 0.2])
    # The ray through x runs along y = 0.2 and through the box from x = 0.5 to 0.9.
    assert ray_density(atom, BOX, [x])[0] == pytest.approx(0.4 / 0.3 / (0.4 * 0.2), rel=1e-12)
    inside = np.array([0.7, 0.2])
    assert ray_density(atom, BOX, [inside])[0] == pytest.approx(0.2 / 0.6 / 0.08, rel=1e-12)
    assert ray_density(atom, BOX, [[0.4, 0.5]])[0] == 0.0
    assert math.isinf(ray_density(atom, BOX, [[0.1, 0.2]])[0])


@pytest.mark.parametrize(
    "place", [(0.5, 0.5), (0.5, 0.53), (0.53, 0.53), (0.52, 0.541), (0.25, 0.25)]
)
def test_atoms_on_vertices_and_edges_and_inside(place: tuple[float, float]) -> None:
    """Near the atom the weight is σ ~ g(θ)/r: the mass of a small square around it is known."""
    target = UniformBall((0.7, 0.6), 0.12)
    cells = box_cells((0.0, 0.0), (1.0, 1.0), 20)
    weight = cell_weight(Interpolates(tolerance=1e-5), Points([place]), target, cells)
    assert weight.method == "rays"
    assert weight.mass == pytest.approx(1.0, abs=2e-5)
    # The mass within the distance r of the atom is ∫ min(1, r/|Y − atom|) dν, for small r.
    midpoint, radius = np.array(place), 0.1
    near = np.linalg.norm(cells.midpoint - midpoint, axis=1) < 0.3
    segments = cell_weight(Interpolates(rule="segments", samples=1 << 18), Points([place]), target,
                           cells)  # fmt: skip
    assert np.abs(weight.masses - segments.masses)[near].sum() < 2.0 * segments.relative_error

    def within(r: float) -> float:
        # ∫ 1/|Y − atom| dν by polar coordinates of the disc.
        def ring(s: float) -> float:
            return (
                s
                * quad(
                    lambda angle: (
                        1.0
                        / math.hypot(
                            0.7 + s * math.cos(angle) - place[0],
                            0.6 + s * math.sin(angle) - place[1],
                        )
                    ),
                    0.0,
                    2.0 * math.pi,
                )[0]
            )

        return r * quad(ring, 0.0, 0.12)[0] / (math.pi * 0.12**2)

    if np.linalg.norm(np.array([0.7, 0.6]) - midpoint) > 0.12 + radius:
        hexagon = cells_from_arrays(
            midpoint + radius * np.array([[0, 0], *[[math.cos(k), math.sin(k)] for k in ANGLES]]),
            np.array([[0, k + 1, (k + 1) % len(ANGLES) + 1] for k in range(len(ANGLES))]),
        )
        around = cell_weight(Interpolates(tolerance=1e-5), Points([place]), target, hexagon)
        # Between the polygon's inner and outer radius.
        inner = radius * math.cos(math.pi / len(ANGLES))
        assert within(inner) <= around.mass * (1 + 1e-6) <= within(radius) * (1 + 2e-6)


ANGLES = 2.0 * math.pi * np.arange(60) / 60


def test_funnels_have_their_mass_at_every_distance() -> None:
    source, target = PAIR_OF_FUNNELS
    tables = tables_of(source, target, 1.5, 6)
    assert tables is not None
    funnels = tables.funnels
    far = np.concatenate([np.arange(start, end) for start, end in funnels.ranges[:, :2]])
    near = np.concatenate([np.arange(start, end) for start, end in funnels.ranges[:, 2:]])
    for points in (far, near):
        assert funnels.masses[points].sum() == pytest.approx(1.0, abs=1e-6)
    # Within 2^(−k) of the ray's length there are 2^(−kd/p) of the mass.
    for k in range(funnels.inner.shape[1]):
        inner = sum(funnels.masses[start:end].sum() for start, end in funnels.inner[:, k])
        assert inner == pytest.approx(0.5 ** (k * 2.0 / FUNNELS.power), abs=1e-6)


def test_refinement_towards_the_tips_finds_the_same_mass() -> None:
    source, target = PAIR_OF_FUNNELS
    tip = FUNNELS.centers[0]
    around = tip + 0.1 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    whole = cells_from_arrays(around, np.array([[0, 1, 2], [0, 2, 3]]))
    fine = box_cells(tuple(around[0]), tuple(around[2]), 10)
    kind = Interpolates(rule="rays", tolerance=2e-2)
    one, other = (cell_weight(kind, source, target, cells) for cells in (whole, fine))
    # The six cells around the tip have more than their neighbours.
    assert np.sort(other.masses)[-6:].sum() > 0.06 * other.mass
    assert one.mass == pytest.approx(other.mass, rel=1e-2)


def test_cells_larger_than_features_do_not_miss_them() -> None:
    """Small discs far apart: no vertex and no midpoint of the two triangles is near the strip."""
    unit = cells_from_arrays(
        np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), np.array([[0, 1, 2], [0, 2, 3]])
    )
    discs = UniformBall((0.2, 0.13), 0.03), UniformBall((0.8, 0.13), 0.02)
    weight = cell_weight(Interpolates(rule="rays", tolerance=1e-2), *discs, unit)
    # Across the diagonal lie t from 0 to where (0.2 + 0.6 t) is 0.13: nothing but the first rim.
    assert weight.masses[0] > 0.99
    assert weight.mass == pytest.approx(1.0, abs=1e-2)


def test_seconds_are_foreseen() -> None:
    cells: Cells = box_cells((0.0, 0.0), (1.0, 1.0), 4)
    assert 0.0 < foreseen_seconds(DISC, OTHER, cells) < 0.01
    many = Points(np.random.default_rng(1).random((5000, 2)))
    assert foreseen_seconds(many, OTHER, cells) == pytest.approx(
        cells.number * evaluations_of(many, OTHER) * 1.5e-8
    )
    assert evaluations_of(many, OTHER) == 10_000
    assert math.isinf(foreseen_seconds(many, many, cells))
