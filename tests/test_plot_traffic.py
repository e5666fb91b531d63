"""Where a flow carries more or less than straight rays, and that chance is not taken for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

import congested as ct
from congested.comparison import reference_of
from congested.critics.reference import Reference
from congested.flow.field import flow_field
from congested.flow.particles import Paths, draw_particles, trace
from congested.flow.statistics import straight_rays
from congested.geometry import FloatArray
from congested.plot_flow import Group, critic_panel, difference_panel, path_traffic, ray_traffic
from congested.plot_raster import make_raster
from tests.critics.references import gaussian
from tests.test_plot_plane import bundle

LANES = Path(__file__).parents[1] / "scripts" / "problems" / "opposite_lanes.toml"


def polygons(points: FloatArray) -> Paths:
    """Return paths (n) through as many points each (n, k, 2)."""
    number, each = points.shape[:2]
    still = np.zeros(number * each)
    return Paths(np.arange(number + 1) * each, points.reshape(-1, 2), still, still, still + 1.0)


def groups_of(found: Reference, seed: int) -> list[Group]:
    """Return paths in a solution, with the straight rays of W₁ between the same points."""
    assert found.arrays is not None
    field = flow_field(found.arrays, found.strength)
    random = np.random.default_rng(seed)

    def group() -> Group:
        starts = draw_particles(field, 100, random)
        ends, paths = trace(field, starts)
        return paths, straight_rays(starts.points(field), ends.points(field))

    return [group() for _ in range(16)]


def two_gaussians(strength: float) -> Reference:
    sides = gaussian(0.1, 0.35, 0.4), gaussian(0.1, 0.65, 0.6)
    problem = ct.Problem(ct.Box((0.0, 0.0), (1.0, 1.0), 32), *sides, strength=strength)
    return reference_of(ct.solve(problem, comm=MPI.COMM_SELF, refine="none", relative_gap=2e-3))


def test_lengths_of_ways() -> None:
    arrays = bundle(32)
    raster = make_raster(arrays.vertices, arrays.cells, arrays.cell_volume, 64)
    random = np.random.default_rng(0)
    points = 0.1 + 0.8 * random.random((50, 4, 2))
    pixel = (raster.x[1] - raster.x[0]) ** 2
    mean = np.linalg.norm(np.diff(points, axis=1), axis=2).sum(axis=1).mean()
    traffic = path_traffic(raster, polygons(points))
    assert traffic.sum() * pixel == pytest.approx(mean, rel=1e-12)
    # Paths that go straight, in however many pieces, are rays.
    part = np.array([0.0, 0.1, 0.7, 1.0])[:, None]
    starts, ends = points[:, :1], points[:, 1:2]
    pieces = polygons((1.0 - part) * starts + part * ends)
    straight = ray_traffic(raster, (starts[:, 0], ends[:, 0]))
    length = np.linalg.norm(ends - starts, axis=2).mean()
    assert straight.sum() * pixel == pytest.approx(length, rel=1e-12)
    difference = path_traffic(raster, pieces) - straight
    blocks = difference.reshape(16, 4, 16, 4).sum(axis=(1, 3))
    assert np.abs(blocks).sum() * pixel < 0.03 * length
    # Along one row of pixels.
    row = ray_traffic(raster, (np.array([[0.25, raster.y[20]]]), np.array([[0.75, raster.y[20]]])))
    assert np.flatnonzero(row.sum(axis=1)).tolist() == [20]
    np.testing.assert_allclose(row[20, 17:47] * math.sqrt(pixel), 1.0)
    none = np.zeros((0, 2))
    assert (ray_traffic(raster, (none, none)) == 0.0).all()
    assert (path_traffic(raster, polygons(np.zeros((0, 2, 2)))) == 0.0).all()
    assert (path_traffic(raster, polygons(points[:, [0, 0]])) == 0.0).all()


@pytest.mark.parametrize("strength", [10.0, math.inf])
def test_a_flow_along_nearly_straight_rays_shows_nearly_nothing(strength: float) -> None:
    found = two_gaussians(strength)
    assert found.arrays is not None
    for seed in range(3):
        panel = difference_panel(found.arrays, groups_of(found, seed))
        # At λ = 10 some do move inwards, but a hundredth of the traffic.
        limit = 0.03 if math.isinf(strength) else 0.1
        assert np.abs(panel.values).max() < limit * panel.limits[1]
        assert panel.limits[1] > 0.12 * np.linalg.norm(found.arrays.momentum, axis=1).max()


def symmetric_groups(seed: int) -> Iterator[Group]:
    """Yield straight paths, and their mirror images: alike but for chance."""
    random = np.random.default_rng(seed)
    for _ in range(16):
        starts, ends = (random.normal((x, 0.5), 0.08, (60, 2)) for x in (0.3, 0.7))
        mirrored = [side * [1.0, -1.0] + [0.0, 1.0] for side in (starts, ends)]
        yield polygons(np.stack([starts, ends], axis=1)), (mirrored[0], mirrored[1])


def test_chance_is_not_shown() -> None:
    arrays = bundle(24)
    panels = [difference_panel(arrays, list(symmetric_groups(seed))) for seed in range(40)]
    # In one picture out of twenty there may be a little, nowhere much.
    assert sum(bool(panel.values.any()) for panel in panels) <= 4
    assert max(np.abs(panel.values).max() / panel.limits[1] for panel in panels) < 0.1


def test_detours_are_seen() -> None:
    # Half of the ways go round the middle, above it.
    arrays = bundle(32)

    def group(seed: int) -> Group:
        random = np.random.default_rng(seed)
        starts, ends = (random.normal((x, 0.5), 0.04, (80, 2)) for x in (0.2, 0.8))
        middle = 0.5 * (starts + ends)
        middle[:40, 1] += 0.25
        return polygons(np.stack([starts, middle, ends], axis=1)), straight_rays(starts, ends)

    panel = difference_panel(arrays, [group(seed) for seed in range(16)])
    middle = arrays.vertices[arrays.cells].mean(axis=1)
    across = np.abs(middle[:, 0] - 0.5) < 0.03

    def mean(low: float, high: float) -> float:
        shown = across & (middle[:, 1] > low) & (middle[:, 1] < high)
        return float(panel.values[shown].mean())

    assert mean(0.7, 0.8) > 0.3 * panel.limits[1]
    assert mean(0.47, 0.53) < -0.4 * panel.limits[1]
    assert mean(0.0, 0.25) == mean(0.95, 1.0) == 0.0
    # Fewer groups are less sure of it.
    few = difference_panel(arrays, [group(seed) for seed in range(3)])
    assert np.abs(few.values).sum() < 0.3 * np.abs(panel.values).sum()


def test_lanes_use_their_middle() -> None:
    problem = ct.Problem.from_file(LANES)
    assert isinstance(problem.domain, ct.Box)
    problem = replace(problem, domain=replace(problem.domain, cells=24))
    found = reference_of(ct.solve(problem, comm=MPI.COMM_SELF, refine="none", relative_gap=3e-2))
    assert found.arrays is not None
    panel = difference_panel(found.arrays, groups_of(found, 0))
    x, y = found.arrays.vertices[found.arrays.cells].mean(axis=1).T
    across = np.abs(x - 0.5) < 0.1
    for low, high, sign in ((0.05, 0.1, -1), (0.12, 0.18, 1), (0.2, 0.24, -1), (0.4, 0.6, 0)):
        for lane in (y, 1.0 - y):
            values = panel.values[across & (lane > low) & (lane < high)] / panel.limits[1]
            assert (np.sign(values.mean()) == sign) and abs(values.mean()) >= 0.15 * abs(sign)


def test_a_critic_against_the_solution() -> None:
    arrays = bundle(16)
    left = arrays.vertices[arrays.cells].mean(axis=1)[:, :1] < 0.5
    solved = np.where(left, 2.0, 1.0) * arrays.momentum
    panel = critic_panel(arrays, solved)
    speed, wanted = (np.linalg.norm(one, axis=1) for one in (arrays.momentum, solved))
    np.testing.assert_array_equal(panel.values, speed - wanted)
    assert panel.title == "traffic: critic less solution"
    low, high = panel.limits
    assert low == -high and 0.3 * speed.max() < high <= speed.max()
    # A small difference looks small, and none at all is white.
    same = critic_panel(arrays, arrays.momentum)
    assert (same.values == 0.0).all() and same.limits[1] > 0.1 * speed.max()
    nothing = np.zeros(solved.shape)
    assert critic_panel(replace(arrays, momentum=nothing), nothing).limits == (-1.0, 1.0)
