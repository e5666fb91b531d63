"""Linear solves: null spaces, PETSc options that are used or refused, failure and fallback."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI
from petsc4py import PETSc

from congested.discretization import (
    CROUZEIX_RAVIART,
    LAGRANGE_1,
    LAGRANGE_2,
    PotentialSpace,
    StiffnessSystem,
)
from congested.domain import Box, create_mesh
from congested.errors import InputError, NotConverged
from congested.geometry import cells_of_mesh
from congested.solvers.linear import LinearSolver, PetscOptions

MUMPS: PetscOptions = {
    "ksp_type": "preonly",
    "pc_type": "cholesky",
    "pc_factor_mat_solver_type": "mumps",
}


def make_system(kind: str, *, dimension: int = 2, contrast: float = 1e3) -> StiffnessSystem:
    """Two parts that the closed middle of the domain separates, random coefficients and load."""
    mesh = create_mesh(Box((0.0,) * dimension, (1.0,) * dimension, cells=5), MPI.COMM_SELF)
    cells = cells_of_mesh(mesh)
    active = np.abs(cells.midpoint[:, 0] - 0.5) > 0.1
    space = PotentialSpace(mesh, cells, kind, active)
    generator = np.random.default_rng(0)
    shape = space.point_volume.shape
    size = contrast ** generator.uniform(-1.0, 0.0, size=shape)
    stiffness = np.where(active[:, None], size, 0.0)[..., None, None] * np.eye(dimension)
    load = np.where(active, generator.normal(size=cells.number), 0.0)
    left = cells.midpoint[:, 0] < 0.5
    for side in (active & left, active & ~left):
        load[side] -= load[side] @ cells.volume[side] / cells.volume[side].sum()
    system = StiffnessSystem(space)
    system.assemble(stiffness, np.zeros((*shape, dimension)), load)
    return system


def dense(system: StiffnessSystem) -> tuple[np.ndarray, np.ndarray]:
    indptr, indices, values = system.matrix.getValuesCSR()
    number = len(indptr) - 1
    matrix = np.zeros((number, number))
    matrix[np.repeat(np.arange(number), np.diff(indptr)), indices] = values
    return matrix, system.right_hand_side.x.array.copy()


@pytest.mark.parametrize("kind", [CROUZEIX_RAVIART, LAGRANGE_1, LAGRANGE_2])
@pytest.mark.parametrize("options", [{"ksp_rtol": 1e-12}, {"pc_type": "lu"}, MUMPS])
def test_solution_of_a_singular_system(kind: str, options: PetscOptions) -> None:
    system = make_system(kind)
    matrix, vector = dense(system)
    solver = LinearSolver(system, options)
    values = solver.solve().copy()
    assert np.linalg.norm(matrix @ values - vector) <= 1e-10 * np.linalg.norm(vector)
    # Only the gradient is unique; it is that of the solution with the smallest norm.
    space = system.potential_space
    expected = np.linalg.pinv(matrix, rcond=1e-12) @ vector
    gradient = space.gradient(values)[space.active]
    reference = space.gradient(expected)[space.active]
    np.testing.assert_allclose(gradient, reference, atol=1e-8 * np.abs(reference).max())
    assert (values[~space.free] == 0.0).all()
    assert solver.statistics.solves == 1
    assert solver.statistics.direct_solves == int("pc_type" in options)
    solver.destroy()


def test_factorisation_of_an_exactly_singular_matrix() -> None:
    # Integer-like coefficients: without the pinned dofs PETSc's own LU meets a zero pivot.
    system = make_system(LAGRANGE_1, contrast=1.0)
    matrix, vector = dense(system)
    solver = LinearSolver(system, {"pc_type": "lu", "pc_factor_mat_solver_type": "petsc"})
    values = solver.solve()
    assert np.linalg.norm(matrix @ values - vector) <= 1e-12 * np.linalg.norm(vector)
    solver.destroy()


@pytest.mark.parametrize("options", [{"ksp_rtol": 1e-12}, MUMPS])
def test_the_constant_of_each_part_is_fixed(options: PetscOptions) -> None:
    # A factorisation of the singular matrix itself would return a huge constant, if anything.
    system = make_system(LAGRANGE_1)
    solver = LinearSolver(system, options)
    values = solver.solve()
    kernel = system.potential_space.kernel
    assert len(kernel) == 2
    for function in kernel:
        assert abs(function.x.array @ values) <= 1e-10 * np.linalg.norm(values)
    solver.destroy()


def test_warm_start_saves_steps() -> None:
    system = make_system(CROUZEIX_RAVIART)
    solver = LinearSolver(system)
    solver.solve(1e-8)
    first = solver.statistics.iterations
    solver.solve(1e-8)
    assert solver.statistics.iterations - first <= 1 < first
    solver.destroy()


@pytest.mark.parametrize(
    "options",
    [
        {"ksp_type": "minres", "pc_type": "jacobi", "ksp_rtol": 1e-12},
        {"pc_type": "gamg", "ksp_rtol": 1e-12},
        {"pc_hypre_boomeramg_strong_threshold": 0.5, "ksp_rtol": "1e-12"},
        {"ksp_error_if_not_converged": None, "ksp_rtol": 1e-12},
        {**MUMPS, "mat_mumps_icntl_14": 40},
        {"pc_type": "cholesky"},
    ],
)
def test_options_reach_petsc(options: PetscOptions) -> None:
    system = make_system(CROUZEIX_RAVIART)
    matrix, vector = dense(system)
    solver = LinearSolver(system, options)
    values = solver.solve(1e-3)
    # The tolerance of the options, where given, wins over that of the call.
    assert np.linalg.norm(matrix @ values - vector) <= 1e-9 * np.linalg.norm(vector)
    ksp = solver._ksp
    assert ksp is not None
    if "ksp_type" in options:
        assert ksp.getType() == options["ksp_type"]
    if "pc_type" in options:
        assert ksp.getPC().getType() == options["pc_type"]
    solver.destroy()


@pytest.mark.parametrize(
    ("options", "unused"),
    [
        ({"ksp_rtoll": 1e-3}, "-ksp_rtoll"),
        ({"ksp_rtol": 1e-8, "pc_gamg_threshold": 0.1}, "-pc_gamg_threshold"),
        ({"pc_factor_mat_solver_type": "mumps"}, "-pc_factor_mat_solver_type"),
        ({"snes_rtol": 1e-3, "verbose": None}, "-snes_rtol, -verbose"),
    ],
)
def test_unused_option_is_refused(options: PetscOptions, unused: str) -> None:
    solver = LinearSolver(make_system(LAGRANGE_1), options)
    with pytest.raises(InputError) as caught:
        solver.solve()
    assert caught.value.key == "solver.petsc"
    assert f"did not use {unused};" in str(caught.value)
    solver.destroy()


@pytest.mark.parametrize("options", [{"pc_type": "nonsense"}, {"ksp_type": "nonsense"}])
def test_option_that_petsc_refuses(options: PetscOptions) -> None:
    solver = LinearSolver(make_system(LAGRANGE_1), options)
    with pytest.raises(InputError, match=r"solver\.petsc: PETSc refuses .*nonsense"):
        solver.solve()
    solver.destroy()


def test_no_option_stays_behind() -> None:
    for options in ({}, {"ksp_rtoll": 1e-3}, {"pc_type": "nonsense"}):
        solver = LinearSolver(make_system(LAGRANGE_1), options)
        if options:
            with pytest.raises(InputError):
                solver.solve()
        else:
            solver.solve()
        solver.destroy()
    assert not [name for name in PETSc.Options().getAll() if "congested" in name]


def test_failure_names_the_reason_and_the_remedy() -> None:
    solver = LinearSolver(make_system(LAGRANGE_1), {"pc_type": "jacobi", "ksp_max_it": 2})
    with pytest.raises(NotConverged) as caught:
        solver.solve()
    text = str(caught.value)
    assert "DIVERGED_MAX_IT after 2 steps" in text
    assert "-pc_factor_mat_solver_type mumps" in text
    solver.destroy()


def test_default_solver_falls_back_on_a_factorisation() -> None:
    # Too few steps for CG, and an option that the direct solver has no use for.
    options = {"ksp_max_it": 1, "pc_hypre_boomeramg_strong_threshold": 0.5}
    system = make_system(LAGRANGE_1, contrast=1e8)
    matrix, vector = dense(system)
    solver = LinearSolver(system, options)
    values = solver.solve()
    assert np.linalg.norm(matrix @ values - vector) <= 1e-10 * np.linalg.norm(vector)
    assert (solver.statistics.solves, solver.statistics.direct_solves) == (2, 1)
    solver.destroy()


@pytest.mark.parametrize(("dimension", "direct"), [(2, 1), (3, 0)])
def test_slow_iteration_is_replaced_in_the_plane_only(dimension: int, direct: int) -> None:
    system = make_system(LAGRANGE_1, dimension=dimension)
    solver = LinearSolver(system, {"ksp_rtol": 1e-12}, patience=0)
    first = system.potential_space.gradient(solver.solve().copy())
    system.solution.x.array[:] = 0.0
    second = system.potential_space.gradient(solver.solve())
    assert solver.statistics.direct_solves == direct
    active = system.potential_space.active
    np.testing.assert_allclose(second[active], first[active], atol=1e-8 * np.abs(first).max())
    solver.destroy()
