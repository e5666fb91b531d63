"""Solve one weighted Laplacian with PETSc: CG with algebraic multigrid, or a direct solver."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from petsc4py import PETSc

from congested.discretization import PotentialSpace, StiffnessSystem
from congested.errors import InputError, NotConverged
from congested.geometry import FloatArray

PetscOptions = Mapping[str, str | int | float | bool | None]

_DEFAULTS: dict[str, str | int | float | bool | None] = {
    "ksp_type": "cg",
    "ksp_rtol": 1e-8,
    "ksp_max_it": 1000,
    "pc_type": "hypre",
}
# Lean coarsening: 30 % less time per solve on 65k cells than BoomerAMG's own choice. The coarsest
# system is singular like the others: hypre's elimination there fails on the smallest meshes.
_HYPRE: dict[str, str | int | float | bool | None] = {
    **_DEFAULTS,
    "pc_hypre_boomeramg_coarsen_type": "PMIS",
    "pc_hypre_boomeramg_interp_type": "ext+i",
    "pc_hypre_boomeramg_relax_type_coarse": "symmetric-SOR/Jacobi",
}
_DIRECT: dict[str, str | int | float | bool | None] = {
    "ksp_type": "preonly",
    "pc_type": "cholesky",
    "pc_factor_mat_solver_type": "mumps",
}
# GAMG's own smoother (Chebyshev with Jacobi) is indefinite on these systems, whose coefficients
# jump by many orders of magnitude.
_GAMG: dict[str, str | int | float | bool | None] = {**_DEFAULTS, "mg_levels_pc_type": "sor"}
_DIRECT_TYPES = ("lu", "cholesky")

_numbers = itertools.count()


@dataclass
class LinearStatistics:
    """Counts of the linear solves of a run."""

    iterations: int = 0
    solves: int = 0
    direct_solves: int = 0


@dataclass
class LinearSolver:
    """A Krylov solver bound to one `StiffnessSystem`.

    Attributes
    ----------
    system
        The assembled system; assemble first, then `solve`.
    options
        PETSc options without prefix that override the defaults (CG, hypre BoomerAMG, relative
        tolerance 1e-8), for example ``{"pc_type": "gamg"}``.
    statistics
        Updated by each solve.
    patience
        Beyond this many CG steps a factorisation is cheaper in 2D (measured at 4e5 unknowns).
    """

    system: StiffnessSystem
    options: PetscOptions = field(default_factory=dict)
    statistics: LinearStatistics = field(default_factory=LinearStatistics)
    patience: int = 100

    def __post_init__(self) -> None:
        self._merged = {**_defaults(self.options), **self.options}
        self._ksp: PETSc.KSP | None = None
        self._pinned: int | None = None
        self._direct = self._merged["pc_type"] in _DIRECT_TYPES
        # After a switch to a direct solver, options meant for CG and multigrid go unused.
        self._switched = False
        space = self._space
        self._kernel = [function.x.petsc_vec for function in space.kernel]
        # One dof per component, for direct solvers: raising its diagonal entry leaves the
        # solution with value zero there, since the right-hand side sums to zero.
        self._pins = [_first_owned(space, index) for index in range(len(self._kernel))]
        self._null_space = PETSc.NullSpace().create(vectors=self._kernel, comm=space.mesh.comm)
        self.system.matrix.setNullSpace(self._null_space)

    @property
    def _space(self) -> PotentialSpace:
        return self.system.potential_space

    def _create(self) -> PETSc.KSP:
        space = self._space
        prefix = f"congested_{next(_numbers)}_"
        database = PETSc.Options()
        for name, value in self._merged.items():
            database[prefix + name] = value
        ksp = PETSc.KSP().create(space.mesh.comm)
        ksp.setOptionsPrefix(prefix)
        ksp.setOperators(self.system.matrix)
        try:
            ksp.setFromOptions()
            if not self._direct:
                ksp.setInitialGuessNonzero(True)
            ksp.setUp()
            if not self._switched:
                _reject_unused(prefix, self.options)
        except PETSc.Error as error:
            ksp.destroy()
            raise InputError(
                f"PETSc refuses {_as_text(self.options) or 'its defaults'}: {_last_line(error)}",
                key="solver.petsc",
            ) from error
        except InputError:
            ksp.destroy()
            raise
        finally:
            for name in self._merged:
                database.delValue(prefix + name)
        return ksp

    def solve(self, relative_tolerance: float | None = None) -> FloatArray:
        """Solve the assembled system, starting from `system.solution` (collective).

        Returns
        -------
        numpy.ndarray
            The solution's values on this rank, owned and ghost.

        Raises
        ------
        NotConverged
            If PETSc gives up; the text names PETSc's reason and the remedy.
        """
        if self._direct and self._pinned != self.system.assemblies:
            # Once per matrix: a second right-hand side uses the factors of the first.
            self._pin()
            self._pinned = self.system.assemblies
        if self._ksp is None:
            self._ksp = self._create()
        ksp = self._ksp
        if relative_tolerance is not None and "ksp_rtol" not in self.options:
            ksp.setTolerances(rtol=relative_tolerance)
        vector, solution = self.system.right_hand_side.x, self.system.solution.x
        self._null_space.remove(vector.petsc_vec)
        guess = solution.array.copy()
        try:
            ksp.solve(vector.petsc_vec, solution.petsc_vec)
        except PETSc.Error as error:
            raise NotConverged(f"the linear solver failed: {_last_line(error)}") from error
        reason, iterations = ksp.getConvergedReason(), ksp.getIterationNumber()
        self.statistics.solves += 1
        self.statistics.direct_solves += int(self._direct)
        self.statistics.iterations += iterations
        may_switch = not self._direct and not {"pc_type", "ksp_type"} & set(self.options)
        if reason < 0 and may_switch:
            solution.array[:] = guess
            self._switch_to_direct()
            return self.solve()
        if reason < 0:
            raise NotConverged(
                f"the linear solver stopped: {_reason_name(reason)} after {iterations} steps; "
                "try other PETSc options, for example -pc_type cholesky "
                "-pc_factor_mat_solver_type mumps -ksp_type preonly"
            )
        if may_switch and iterations > self.patience and self._space.cells.dimension == 2:
            self._switch_to_direct()
        solution.scatter_forward()
        return solution.array

    def _pin(self) -> None:
        diagonal = self.system.matrix.getDiagonal()
        values = diagonal.array
        for pin in self._pins:
            if pin is not None:
                values[pin] *= 2.0
        self.system.matrix.setDiagonal(diagonal)
        diagonal.destroy()

    def _switch_to_direct(self) -> None:
        self._merged = {**_DIRECT, **self.options}
        self._direct = self._switched = True
        if self._ksp is not None:
            self._ksp.destroy()
            self._ksp = None

    def destroy(self) -> None:
        """Free the PETSc objects."""
        if self._ksp is not None:
            self._ksp.destroy()
            self._ksp = None
        self._null_space.destroy()
        self.system.destroy()


def _defaults(options: PetscOptions) -> PetscOptions:
    """Return the defaults that go with the preconditioner asked for."""
    preconditioner = options.get("pc_type")
    if preconditioner in _DIRECT_TYPES:
        return _DIRECT
    if preconditioner == "gamg":
        return _GAMG
    return _HYPRE if preconditioner in (None, "hypre") else _DEFAULTS


def _first_owned(space: PotentialSpace, component: int) -> int | None:
    """Return the local number of the component's dof with the lowest global number, if owned."""
    index_map = space.space.dofmap.index_map
    owned = space.kernel[component].x.array[: index_map.size_local] != 0.0
    start = index_map.local_range[0]
    candidates = np.flatnonzero(owned)
    first = int(start + candidates[0]) if candidates.size else np.iinfo(np.int64).max
    lowest = min(space.mesh.comm.allgather(first))
    return int(candidates[0]) if candidates.size and first == lowest else None


def _was_read(option: str) -> bool:
    """Ask PETSc whether any object has read an option; petsc4py does not offer this call.

    The name is without its dash, as PETSc keeps it.
    """
    used = ctypes.c_int(0)
    ctypes.CDLL(PETSc.__file__).PetscOptionsUsed(None, option.encode(), ctypes.byref(used))
    return used.value != 0


def _reject_unused(prefix: str, options: PetscOptions) -> None:
    """Refuse options that no PETSc object read: a typing error must not pass in silence."""
    unused = [name for name in options if not _was_read(prefix + name)]
    if unused:
        raise InputError(
            f"PETSc did not use {', '.join('-' + name for name in unused)}; allowed are the "
            "options of its KSP and PC objects, such as -ksp_rtol 1e-10 or -pc_type gamg",
            key="solver.petsc",
        )


def _reason_name(reason: int) -> str:
    names = {
        getattr(PETSc.KSP.ConvergedReason, name): name
        for name in dir(PETSc.KSP.ConvergedReason)
        if name.isupper()
    }
    return names.get(reason, str(reason))


def _last_line(error: Exception) -> str:
    """Return PETSc's own sentence; above it stands the stack of its C functions."""
    return " ".join(str(error).strip().splitlines()[-1].split("] ")[-1].split())


def _as_text(options: PetscOptions) -> str:
    words = (f"-{name} {'' if value is None else value}" for name, value in options.items())
    return " ".join(word.strip() for word in words)
