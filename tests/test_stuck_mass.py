"""Atoms beside, or on, facets and vertices: the mass must find the road that passes by."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

import congested as ct

SERIAL = MPI.COMM_SELF


def solve_points(
    source: list[list[float]], target: list[list[float]], cells: int, **options: object
) -> ct.Solution:
    problem = ct.Problem(
        ct.Box((0.0, 0.0), (1.0, 1.0), cells=cells),
        ct.Points(np.array(source)),
        ct.Points(np.array(target)),
    )
    return ct.solve(problem, refine="none", comm=SERIAL, **options)


@pytest.mark.parametrize("cells", [7, 8, 9])
def test_atoms_on_the_diagonals_of_the_mesh_can_move(cells: int) -> None:
    # (0.1, 0.1) and (0.9, 0.9) lie on facets of the crossed mesh, (0.2, 0.3) does not.
    solution = solve_points([[0.1, 0.1], [0.2, 0.3]], [[0.9, 0.9], [0.8, 0.6]], cells)
    fields, bounds = solution.fields, solution.bounds
    volume = 1.0 / (4 * cells**2)
    assert np.sum(fields.source) * volume == pytest.approx(1.0, abs=1e-12)
    assert np.sum(fields.target) * volume == pytest.approx(1.0, abs=1e-12)
    # W₁ is the better of two pairings of straight lines; congestion adds to it.
    distance = np.hypot([0.8, 0.6, 0.7, 0.7], [0.8, 0.3, 0.5, 0.6])
    wasserstein1 = 0.5 * min(distance[0] + distance[1], distance[2] + distance[3])
    assert bounds.upper + bounds.data_error > wasserstein1
    assert bounds.upper < 1.5 * wasserstein1


def test_cost_does_not_blow_up_as_an_atom_nears_a_facet() -> None:
    # Segments that left from the atom itself gave an upper bound of 5000 at a distance of 1e-9.
    on_facet = solve_points([[0.5, 0.31]], [[0.9, 0.32]], 8).bounds
    for distance in (1e-2, 1e-4, 1e-6, 1e-9):
        bounds = solve_points([[0.5 - distance, 0.31]], [[0.9, 0.32]], 8).bounds
        # Cell data know an atom up to its cell, of size 1/8.
        assert abs(bounds.cost - on_facet.cost) < 0.125
        assert bounds.upper < 0.7


def test_atoms_in_line_with_the_mesh_can_move() -> None:
    # All points on vertices of the mesh, the roads between them along its facets.
    source, target = [[0.25, 0.25], [0.25, 0.75]], [[0.75, 0.25], [0.75, 0.75]]
    for cells in (16, 32):
        bounds = solve_points(source, target, cells).bounds
        assert bounds.lower < 0.6
        assert 0.45 < bounds.upper < 0.9


def test_nothing_is_moved_where_nothing_is_stuck() -> None:
    gaussian = ct.GaussianMixture.from_stds
    problem = ct.Problem(
        ct.Box((0.0, 0.0), (1.0, 1.0), cells=16),
        gaussian(np.array([[0.3, 0.35]]), np.array([0.08])),
        gaussian(np.array([[0.7, 0.6]]), np.array([0.06])),
        strength=0.1,
    )
    solution = ct.solve(problem, refine="none", comm=SERIAL)
    assert solution.data["mass_moved"] == {"source": 0.0, "target": 0.0, "cost": 0.0}


def test_far_tails_do_not_spoil_the_record() -> None:
    # Masses of 1e-31 lie where the weight around is 1e-170 and less: its square is no number.
    gaussian = ct.GaussianMixture.from_stds
    problem = ct.Problem(
        ct.Box((0.0, 0.0), (1.0, 1.0), cells=8),
        gaussian(np.array([[0.3, 0.35]]), np.array([0.01])),
        gaussian(np.array([[0.7, 0.6]]), np.array([0.01])),
    )
    solution = ct.solve(problem, refine="none", comm=SERIAL)
    moved = solution.data["mass_moved"]
    assert 0.0 < max(moved["source"], moved["target"]) < 1e-15
    assert max(solution.data["mass_rescaled"].values()) < 1e-9
    assert np.isfinite(solution.bounds.data_error)
