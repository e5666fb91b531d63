"""The weight does not depend on how many ranks share the mesh. Run with any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from dolfinx.mesh import GhostMode, create_unit_cube, create_unit_square
from mpi4py import MPI

from congested.errors import NotConverged
from congested.geometry import Cells, cells_of_mesh
from congested.measures.gaussian_mixture import GaussianMixture
from congested.measures.image import Image
from congested.measures.points import Points
from congested.measures.ray_monotone import RayMonotonePair, RayMonotoneSource
from congested.measures.uniform import UniformBall, UniformBox
from congested.weights import plan, raster
from congested.weights.compute import cell_weight
from congested.weights.kinds import DensityWeight, Interpolates


def unit_cells(dimension: int, comm: MPI.Comm) -> Cells:
    create = {2: create_unit_square, 3: create_unit_cube}[dimension]
    number = {2: 12, 3: 5}[dimension]
    return cells_of_mesh(create(comm, *[number] * dimension, ghost_mode=GhostMode.none))


def gathered(cells: Cells, masses: np.ndarray) -> np.ndarray:
    """Midpoints and masses of all cells of all ranks, in lexicographic order of the midpoints."""
    rows = np.column_stack([cells.midpoint, masses])
    rows = np.concatenate(cells.comm.allgather(rows))
    return rows[np.lexsort(np.round(rows[:, :-1], 9).T[::-1])]


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("kind", ["all-pairs", "sampled", "closed-form", "density"])
def test_same_weight_on_any_number_of_ranks(dimension: int, kind: str) -> None:
    generator = np.random.default_rng(0)
    lattice = generator.integers(0, 13, size=(2, 9, dimension)) / 12
    atoms = [Points(points, np.full(9, 1 / 9)) for points in lattice]
    gaussians = [
        GaussianMixture.from_stds(np.full((1, dimension), mean), np.array([0.1]))
        for mean in (0.3, 0.6)
    ]
    weight, source, target = {
        "all-pairs": (Interpolates(), *atoms),
        "sampled": (Interpolates(samples=1024), gaussians[0], atoms[1]),
        "closed-form": (Interpolates(), *gaussians),
        "density": (DensityWeight(lambda x: x[:, 0] ** 2), *atoms),
    }[kind]
    serial_cells, cells = (unit_cells(dimension, comm) for comm in (MPI.COMM_SELF, MPI.COMM_WORLD))
    serial = cell_weight(weight, source, target, serial_cells)
    distributed = cell_weight(weight, source, target, cells)
    assert serial.method == distributed.method == kind
    expected = gathered(serial_cells, serial.masses)
    found = gathered(cells, distributed.masses)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    for name in ("mass", "lost", "relative_error"):
        first, second = getattr(serial, name), getattr(distributed, name)
        assert first == pytest.approx(second, rel=1e-9, abs=1e-12)
    assert len(set(cells.comm.allgather(distributed.mass))) == 1


@pytest.mark.parametrize("kind", ["shapes", "atoms", "funnels", "image", "overlapping"])
def test_same_weight_of_densities_on_any_number_of_ranks(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rays and rasters: also which cells are checked, and what error is found there."""
    monkeypatch.setattr(raster, "_PIXELS", 32)
    monkeypatch.setattr(raster, "_DIRECTIONS", 32)
    disc, box = UniformBall((0.3, 0.4), 0.17), UniformBox((0.45, 0.35), (0.9, 0.7))
    gaussian = GaussianMixture.from_stds([[0.3, 0.7]], [0.06])
    # Atoms inside cells, on facets and on vertices, which ranks share.
    atoms = Points(np.array([[0.21, 0.37], [0.25, 0.3], [0.5, 0.5], [0.75, 0.25]]))
    funnels = RayMonotonePair(1.0, 3.0, np.array([[0.4, 0.3]]), np.zeros(1))
    image = Image(np.arange(12.0).reshape(4, 3) % 5, (0.05, 0.1), (0.45, 0.4))
    method, source, target, tolerance = {
        "shapes": ("rays", disc, gaussian, 1e-3),
        "atoms": ("rays", atoms, box, 1e-3),
        "funnels": ("rays", RayMonotoneSource(funnels), UniformBox((-1, -1), (1, 1)), 5e-2),
        "image": ("raster", image, gaussian, 2e-2),
        "overlapping": ("raster", disc, UniformBox((0.2, 0.3), (0.9, 0.7)), 2e-2),
    }[kind]
    weight = Interpolates(rule=method, tolerance=tolerance)
    serial_cells, cells = (unit_cells(2, comm) for comm in (MPI.COMM_SELF, MPI.COMM_WORLD))
    serial = cell_weight(weight, source, target, serial_cells)
    distributed = cell_weight(weight, source, target, cells)
    assert serial.method == distributed.method == method
    assert distributed.details == serial.details
    for one, other in ((serial.masses, distributed.masses), (serial.errors, distributed.errors)):
        found = gathered(cells, other)
        np.testing.assert_allclose(found, gathered(serial_cells, one), rtol=0, atol=1e-12)
    for name in ("mass", "lost", "relative_error"):
        first, second = getattr(serial, name), getattr(distributed, name)
        assert first == pytest.approx(second, rel=1e-9, abs=1e-12)
    assert serial.mass > 0.1
    assert len(set(cells.comm.allgather(distributed.relative_error))) == 1


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", ["plan", "sampled-plan", "closed-form", "sampled"])
def test_same_optimal_weight_on_any_number_of_ranks(dimension: int, order: int, kind: str) -> None:
    generator = np.random.default_rng(0)
    atoms = [Points(generator.random((number, dimension))) for number in (40, 30)]
    gaussians = [
        GaussianMixture.from_stds(np.full((1, dimension), mean), np.array([0.1]))
        for mean in (0.3, 0.6)
    ]
    pair = RayMonotonePair(1.0, 3.0, np.full((1, dimension), 0.4), np.zeros(1))
    box = UniformBox(np.full(dimension, -1.0), np.full(dimension, 1.0))
    source, target, samples = {
        "plan": (*atoms, None),
        "sampled-plan": (gaussians[0], atoms[0], 8 * 32),
        "closed-form": (*gaussians, None),
        "sampled": (RayMonotoneSource(pair), box, 1024),
    }[kind]
    if (kind, order) in (("closed-form", 1), ("sampled", 2)):
        kind, samples = "sampled-plan", 8 * 32
    tolerance = 1e-6 if kind == "closed-form" else None
    weight = Interpolates("optimal", order=order, samples=samples, tolerance=tolerance)
    serial_cells, cells = (unit_cells(dimension, comm) for comm in (MPI.COMM_SELF, MPI.COMM_WORLD))
    serial = cell_weight(weight, source, target, serial_cells)
    distributed = cell_weight(weight, source, target, cells)
    assert serial.method == distributed.method == kind
    found = gathered(cells, distributed.masses)
    np.testing.assert_allclose(found, gathered(serial_cells, serial.masses), rtol=0, atol=1e-12)
    assert distributed.samples == serial.samples
    for name in ("mass", "lost", "relative_error"):
        first, second = getattr(serial, name), getattr(distributed, name)
        assert first == pytest.approx(second, rel=1e-9, abs=1e-12)


def test_all_ranks_learn_that_a_plan_was_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replicate's plan is computed on one rank alone: here one of them fails."""
    comm = MPI.COMM_WORLD
    if comm.rank == comm.size - 1:
        monkeypatch.setattr(plan, "_MOST_PIVOTS", 1)
    measure = UniformBox(np.zeros(2), np.ones(2))
    weight = Interpolates(coupling="optimal", samples=8 * 16)
    with pytest.raises(NotConverged, match="optimal plan of 16 and 16 points was not found"):
        cell_weight(weight, measure, measure, unit_cells(2, comm))
