r"""From discrete iterates to fields that can be certified.

- The Crouzeix–Raviart flux w gives the Raviart–Thomas flux W = w − (f/d)(x − x_T) (Marini 1985);
  what the linear solver left of its jumps and of its divergence is corrected, so that the momentum
  m = −W is conservative to rounding whatever the solver's tolerance.
- A conforming potential is multiplied by the number that makes its dual value largest.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
from mpi4py import MPI
from petsc4py import PETSc

from congested.cell_data import CellData
from congested.discretization import PotentialSpace, cell_offset
from congested.errors import NotConverged
from congested.geometry import Cells, FloatArray
from congested.integrand import momentum_norm
from congested.parts import Parts

# Part of the total mass by which the divergence of a certified flux may be wrong in a cell.
LARGEST_RESIDUAL = 1e-12
# What needs no correction any more: a few units in the last place of the largest masses.
ROUNDING = 4e-15
# Of a first correction: what it leaves is mostly rounding, or close to it.
_TOLERANCE = 1e-9
_PREFIX, _COARSEST = "congested_correction_", "pc_hypre_boomeramg_relax_type_coarse"
# At λ = ∞ a gradient longer than one by a rounding error costs infinity: stay this far below.
_STRICTLY = 1.0 - 1e-12


def marini_momentum(cells: Cells, flux: FloatArray, load: FloatArray) -> FloatArray:
    """Return the outward facet integrals (n, d+1) of m = −w + (f/d)(x − x_T).

    Parameters
    ----------
    cells
        The cells.
    flux
        w of a Crouzeix–Raviart solution (n, d).
    load
        f (n,).
    """
    # The outward normal times the facet's area is −d|T| times the gradient of the opposite
    # barycentric coordinate, and ∫_F (x − x_T)·n is d|T|/(d+1) on each facet.
    normals = -cells.dimension * cells.volume[:, None, None] * cells.barycentric_gradients
    constant = np.einsum("nid,nd->ni", normals, flux)
    return -constant + (load * cells.volume / (cells.dimension + 1))[:, None]


def equilibrate(
    space: PotentialSpace, data: CellData, flux: FloatArray, repetitions: int = 3
) -> FloatArray:
    """Remove jumps, boundary flux and divergence errors from outward facet integrals (collective).

    Parameters
    ----------
    space
        The Crouzeix–Raviart space, whose degrees of freedom are the facets.
    data
        Cell data; the divergence aimed at is μ_T − ν_T.
    flux
        Outward integrals (n, d+1) of the momentum, nearly conservative.
    repetitions
        Largest number of correction solves; each gains the solver's tolerance.

    Returns
    -------
    numpy.ndarray
        Outward integrals (n, d+1): opposite on the two sides of a facet, zero on the boundary
        and in inactive cells, with divergence residuals at the level of rounding.

    Raises
    ------
    NotConverged
        If the divergence is wrong by more than `LARGEST_RESIDUAL` of the mass: no bound then.
    """
    facets = _Facets(space, data)
    flux = facets.single_valued(flux)
    wanted = data.source - data.target
    comm = data.cells.comm
    scale = max(data.cells.total(np.abs(wanted)), np.finfo(float).tiny)
    # The difference of two nearly equal measures has the rounding errors of each.
    rounding = 1e-15 * data.cells.total(data.source + data.target)
    corrector: _Corrector | None = None
    try:
        for _ in range(repetitions):
            residual = np.where(data.active, wanted - flux.sum(axis=1), 0.0)
            size = comm.allreduce(float(np.abs(residual).max(initial=0.0)), op=MPI.MAX)
            if size <= ROUNDING * scale:
                break
            corrector = corrector or _Corrector(space, data, facets)
            # What is left of a correction needs few digits.
            tolerance = max(_TOLERANCE, 0.1 * ROUNDING * scale / size)
            flux = facets.single_valued(flux + corrector.correction(residual, tolerance))
    finally:
        if corrector is not None:
            corrector.destroy()
    residual = np.where(data.active, wanted - flux.sum(axis=1), 0.0)
    size = comm.allreduce(float(np.abs(residual).max(initial=0.0)), op=MPI.MAX)
    # Written so that a residual that is not a number fails too.
    if not size <= max(LARGEST_RESIDUAL * scale, rounding):
        raise NotConverged(
            f"the flux could not be made conservative: a cell's mass is wrong by {size:.2e}; try a "
            "smaller -ksp_rtol or a direct solver (--petsc -pc_type cholesky)"
        )
    return flux


class _Facets:
    """The facets of the active cells: on each, which side is whose and how to share a jump."""

    def __init__(self, space: PotentialSpace, data: CellData) -> None:
        self._space = space
        self._dofmap = space.dofmap
        self._active = data.active
        cells = data.cells
        numbers = cell_offset(space.mesh) + np.arange(cells.number, dtype=np.float64)
        ones = np.where(data.active, 1.0, 0.0)[:, None] * np.ones(cells.dimension + 1)
        self.sides = self._space.sum_over_cells(ones)[self._dofmap]
        total = self._space.sum_over_cells(ones * numbers[:, None])[self._dofmap]
        # Global number of the active cell on the other side, −1 if there is none.
        two_sided = (self.sides > 1.5) & data.active[:, None]
        self.neighbour = np.where(two_sided, total - numbers[:, None], -1.0).astype(np.int64)
        # Conductance: harmonic mean of the capacities, so that corrections avoid cells where
        # flux is dear; the jump is mostly taken by the side with the larger capacity.
        finite = np.where(np.isinf(data.capacity), 1.0, data.capacity)
        own = np.where(data.active, finite, 0.0)[:, None] * np.ones(cells.dimension + 1)
        both = self._space.sum_over_cells(own)[self._dofmap]
        share = np.divide(own, both, out=np.ones_like(own), where=both > 0.0)
        self._share = np.where(two_sided, share, 1.0)
        self.conductance = np.where(two_sided, own * (1.0 - share), 0.0)

    def single_valued(self, flux: FloatArray) -> FloatArray:
        """Make the flux opposite on both sides of a facet and zero where there is one side."""
        flux = np.where(self._active[:, None], flux, 0.0)
        jump = self._space.sum_over_cells(flux)[self._dofmap]
        return np.where(self.neighbour >= 0, flux - self._share * jump, 0.0)

    def difference(self, values: FloatArray) -> FloatArray:
        """Return a cell's value minus that of its neighbour behind each facet (n, d+1)."""
        own = np.where(self._active, values, 0.0)[:, None] * np.ones(self._share.shape[1])
        other = self._space.sum_over_cells(own)[self._dofmap] - own
        return np.where(self.neighbour >= 0, own - other, 0.0)


class _Corrector:
    """Solves for the smallest facet flux (in the conductance norm) with a given divergence."""

    def __init__(self, space: PotentialSpace, data: CellData, facets: _Facets) -> None:
        self._facets = facets
        cells = data.cells
        conductance = facets.conductance
        # Isolated rows (inactive cells) get a one on the diagonal.
        diagonal = np.where(data.active, conductance.sum(axis=1), 1.0)
        offset = cell_offset(space.mesh)
        own = np.arange(cells.number)
        inner = facets.neighbour >= 0
        cell, _ = np.nonzero(inner)
        comm = space.mesh.comm
        total = space.mesh.topology.index_map(cells.dimension).size_global
        rows = scipy.sparse.csr_matrix(
            (
                np.concatenate([np.where(diagonal > 0.0, diagonal, 1.0), -conductance[inner]]),
                (
                    np.concatenate([own, cell]),
                    np.concatenate([offset + own, facets.neighbour[inner]]),
                ),
            ),
            shape=(cells.number, total),
        )
        matrix = PETSc.Mat().createAIJ(
            ((cells.number, None), (cells.number, None)),
            csr=(rows.indptr.astype(PETSc.IntType), rows.indices.astype(PETSc.IntType), rows.data),
            comm=comm,
        )
        matrix.assemble()
        self._matrix = matrix
        self._parts = Parts(comm, space.components, space.parts.count)
        # Multigrid coarsens a regular matrix where there are many parts.
        self._pinned = matrix.copy() if self._parts.many else None
        if self._pinned is not None:
            self._parts.pin(self._pinned)
        self._ksp = PETSc.KSP().create(comm)
        self._ksp.setOperators(matrix, self._pinned)
        self._ksp.setType("cg")
        self._ksp.getPC().setType("hypre")
        # The coarsest system is singular, and hypre's elimination fails on the smallest meshes.
        self._ksp.setOptionsPrefix(_PREFIX)
        options = PETSc.Options()
        options[_PREFIX + _COARSEST] = "symmetric-SOR/Jacobi"
        self._ksp.setFromOptions()
        options.delValue(_PREFIX + _COARSEST)
        self._null_space = self._parts.null_space()
        matrix.setNullSpace(self._null_space)

    def correction(self, residual: FloatArray, tolerance: float) -> FloatArray:
        """Return outward facet integrals (n, d+1) with divergence `residual`, nearly."""
        self._ksp.setTolerances(rtol=tolerance, max_it=200)
        right, solution = self._matrix.createVecs()
        right.array[:] = residual
        self._parts.remove_means(right.array)
        self._ksp.solve(right, solution)
        flux = self._facets.conductance * self._facets.difference(solution.array)
        right.destroy()
        solution.destroy()
        return flux

    def destroy(self) -> None:
        self._ksp.destroy()
        self._null_space.destroy()
        if self._pinned is not None:
            self._pinned.destroy()
        self._matrix.destroy()


def best_scale(
    space: PotentialSpace, capacity: FloatArray, gradient: FloatArray, critic_loss: float
) -> float:
    """Return the c ≥ 0 that makes D(c u) = c L − ∫ φ(c ∇u) largest (collective).

    Parameters
    ----------
    space
        The potential's space, whose gradient points and weights are used.
    capacity
        κ (n,).
    gradient
        ∇u at the gradient points (n, q, d).
    critic_loss
        L = ∫ u d(μ − ν).
    """
    if critic_loss <= 0.0:
        return 0.0
    comm = space.mesh.comm
    lengths = np.linalg.norm(gradient, axis=-1)[space.active]
    # A rank may have no cells.
    if comm.allreduce(bool(np.isinf(capacity).any()), op=MPI.LOR):
        return _STRICTLY / comm.allreduce(float(lengths.max(initial=0.0)), op=MPI.MAX)
    stiffness = space.point_volume[space.active] * capacity[space.active, None]
    return best_factor(comm, lengths, stiffness, critic_loss)


def best_factor(
    comm: MPI.Comm, lengths: FloatArray, stiffness: FloatArray, critic_loss: float
) -> float:
    """Return the c ≥ 0 that makes c L − Σ_k s_k/2 (c l_k − 1)₊² largest (collective).

    Parameters
    ----------
    comm
        Communicator of the ranks that share the sum.
    lengths, stiffness
        Lengths l_k of gradients, and s_k: the capacity κ times the volume of the place; of one
        shape, this rank's.
    critic_loss
        L.
    """
    if critic_loss <= 0.0:
        return 0.0
    scale = 1.0
    # D is concave and piecewise quadratic in c: Newton's method ends after few steps.
    for _ in range(50):
        flux = stiffness * lengths * momentum_norm(scale * lengths, 1.0)
        curvature = stiffness * lengths**2 * (scale * lengths > 1.0)
        slope, bend = comm.allreduce(np.array([flux.sum(), curvature.sum()]), op=MPI.SUM)
        if bend <= 0.0:
            scale *= 2.0
            continue
        step = (critic_loss - slope) / bend
        scale = max(scale + step, 0.5 * scale)
        if abs(step) <= 1e-12 * scale:
            break
    return float(scale)
