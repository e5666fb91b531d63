"""Potential spaces and their stiffness systems, with what the solvers need of DOLFINx and no more.

A potential lives in Crouzeix–Raviart (its flux becomes the Raviart–Thomas flux of the upper bound)
or in P1 or P2 (its value is the lower bound). On each cell its gradient is used at one point (CR,
P1: constant) or at the vertices (P2: affine; the vertex rule overestimates a convex penalty, so
the bound stays a bound). Every Newton step is one symmetric weighted Laplacian on such a space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import numpy.typing as npt
import scipy.sparse
import ufl
from dolfinx import fem, la
from dolfinx.mesh import Mesh
from mpi4py import MPI

from congested.compatibility import expression, owned_range, tabulate_gradients
from congested.compiled import compiler
from congested.geometry import BoolArray, Cells, FloatArray
from congested.parts import Parts

compiled = compiler(__file__)

CROUZEIX_RAVIART = "crouzeix-raviart"
LAGRANGE_1 = "p1"
LAGRANGE_2 = "p2"

_ELEMENTS = {CROUZEIX_RAVIART: ("CR", 1), LAGRANGE_1: ("Lagrange", 1), LAGRANGE_2: ("Lagrange", 2)}


@compiled
def _joined(dofmap: npt.NDArray[np.int32], number: int) -> tuple[npt.NDArray[np.int64], int]:
    """Return the part (number,) of each dof, dofs of a cell being in one part, and how many."""
    # Each dof points to one of its part, the last one to itself.
    parent = np.arange(number)
    for i in range(dofmap.shape[0]):
        first = -1
        for j in range(dofmap.shape[1]):
            dof = int(dofmap[i, j])
            while parent[dof] != dof:
                parent[dof] = parent[parent[dof]]
                dof = parent[dof]
            if j == 0:
                first = dof
            elif dof < first:
                parent[first] = dof
                first = dof
            else:
                parent[dof] = first
    label = np.empty(number, dtype=np.int64)
    parts = 0
    for dof in range(number):
        # The one it points to has a smaller number.
        if parent[dof] == dof:
            label[dof] = parts
            parts += 1
        else:
            label[dof] = label[parent[dof]]
    return label, parts


def connected_components(space: fem.FunctionSpace, active: BoolArray) -> npt.NDArray[np.int64]:
    """Find the parts of the mesh that share degrees of freedom of `space` (collective).

    Parameters
    ----------
    space
        CR gives parts connected through facets, P1 and P2 parts connected through vertices.
    active
        Which owned cells count (n,).

    Returns
    -------
    numpy.ndarray
        Component of each owned cell (n,): 0, 1, … the same on all ranks, −1 if not active.
    """
    comm = space.mesh.comm
    dofmap = space.dofmap.list[: len(active)][active]
    index_map = space.dofmap.index_map
    n_dofs = index_map.size_local + index_map.num_ghosts
    n_active = len(dofmap)
    # Dofs that cells of this rank join ...
    label, n_local = _joined(np.ascontiguousarray(dofmap), n_dofs)
    # ... whose parts are joined across ranks through the owner's label of the shared dofs.
    used = np.zeros(n_dofs, dtype=bool)
    used[dofmap.ravel()] = True
    offset = int(comm.exscan(n_local) or 0)
    labels = la.vector(index_map, 1, dtype=np.float64)
    labels.array[:] = offset + label
    own = labels.array.copy()
    labels.scatter_forward()
    # The owner's label of a dof it does not use is a component of its own, so that two other ranks
    # that share the dof are joined through it.
    touching = used.copy()
    touching[: index_map.size_local] = False
    pairs = np.stack([own[touching], labels.array[touching]], axis=1).astype(np.int64)
    pairs = np.unique(pairs, axis=0)
    all_pairs = np.concatenate(comm.allgather(pairs))
    total = comm.allreduce(n_local, op=MPI.SUM)
    joined = scipy.sparse.coo_matrix(
        (np.ones(len(all_pairs), dtype=np.int8), (all_pairs[:, 0], all_pairs[:, 1])),
        shape=(total, total),
    )
    _, merged = scipy.sparse.csgraph.connected_components(joined, directed=False)
    # Labels of dofs that no active cell uses are dropped; the rest are numbered without holes.
    cell_label = merged[offset + label[dofmap[:, 0]]] if n_active else np.zeros(0, dtype=np.int64)
    present = np.unique(np.concatenate(comm.allgather(np.unique(cell_label)))).astype(np.int64)
    result = np.full(len(active), -1, dtype=np.int64)
    result[active] = np.searchsorted(present, cell_label)
    return result


@dataclass(frozen=True)
class PotentialSpace:
    """A finite element space for the potential and its weighted Laplacian.

    Attributes
    ----------
    mesh, cells
        Mesh and its owned cells as arrays.
    kind
        "crouzeix-raviart", "p1" or "p2".
    active
        Owned cells that can carry flux (n,); the others are left out of the system.
    """

    mesh: Mesh
    cells: Cells
    kind: str
    active: BoolArray

    @cached_property
    def space(self) -> fem.FunctionSpace:
        """The DOLFINx function space."""
        return fem.functionspace(self.mesh, _ELEMENTS[self.kind])

    @cached_property
    def dofmap(self) -> npt.NDArray[np.int32]:
        """Degrees of freedom of the owned cells (n, dofs per cell)."""
        return self.space.dofmap.list[: self.cells.number]

    @property
    def points_per_cell(self) -> int:
        """Number q of points per cell at which the gradient is used."""
        return self.cells.dimension + 1 if self.kind == LAGRANGE_2 else 1

    @property
    def global_dofs(self) -> int:
        """Number of degrees of freedom on all ranks."""
        return int(self.space.dofmap.index_map.size_global)

    @cached_property
    def point_volume(self) -> FloatArray:
        """Quadrature weights (n, q) of the gradient points; zero in inactive cells."""
        volume = np.where(self.active, self.cells.volume, 0.0) / self.points_per_cell
        return np.repeat(volume[:, None], self.points_per_cell, axis=1)

    @cached_property
    def _reference_gradients(self) -> FloatArray:
        dimension = self.cells.dimension
        points: FloatArray
        if self.points_per_cell == 1:
            points = np.full((1, dimension), 1.0 / (dimension + 1))
        else:
            points = np.vstack([np.zeros(dimension), np.eye(dimension)])
        return tabulate_gradients(self.space)(points)

    def gradient(self, dof_values: FloatArray) -> FloatArray:
        """Return the gradients (n, q, d) at the points of each owned cell."""
        reference = self._reference_gradients
        local = dof_values[self.dofmap] @ reference.reshape(len(reference), -1)
        local = local.reshape(self.cells.number, self.points_per_cell, self.cells.dimension)
        # The gradients of the barycentric coordinates 1 … d are the columns of J⁻ᵀ.
        return local @ self.cells.barycentric_gradients[:, 1:]

    @cached_property
    def components(self) -> npt.NDArray[np.int64]:
        """Component of each owned cell (n,), −1 where inactive."""
        return connected_components(self.space, self.active)

    @cached_property
    def parts(self) -> Parts:
        """The parts among the owned degrees of freedom: constants on each are the null space."""
        comm = self.mesh.comm
        count = comm.allreduce(int(self.components.max(initial=-1)) + 1, op=MPI.MAX)
        index_map = self.space.dofmap.index_map
        number, touched = (la.vector(index_map, 1, dtype=np.float64) for _ in range(2))
        dofs = self.dofmap[self.active]
        number.array[dofs] = self.components[self.active][:, None] + 1.0
        touched.array[dofs] = 1.0
        # A dof between ranks may be touched on some of them only, which agree on its part.
        for vector in (number, touched):
            vector.scatter_reverse(la.InsertMode.add)
        owned = slice(index_map.size_local)
        mean = number.array[owned] / np.maximum(touched.array[owned], 1.0)
        return Parts(comm, np.rint(mean).astype(np.int64) - 1, count)

    def sum_over_cells(self, values: FloatArray) -> FloatArray:
        """Add values (n, dofs per cell) over the cells at each dof; result per local dof.

        Collective: cells of other ranks count too.
        """
        vector = la.vector(self.space.dofmap.index_map, 1, dtype=np.float64)
        np.add.at(vector.array, self.dofmap, values)
        vector.scatter_reverse(la.InsertMode.add)
        vector.scatter_forward()
        return np.asarray(vector.array).copy()

    @cached_property
    def free(self) -> BoolArray:
        """Degrees of freedom (owned and ghost) that an active cell of any rank touches."""
        touched = la.vector(self.space.dofmap.index_map, 1, dtype=np.float64)
        touched.array[self.dofmap[self.active].ravel()] = 1.0
        touched.scatter_reverse(la.InsertMode.add)
        touched.scatter_forward()
        return touched.array > 0.0


class StiffnessSystem:
    """Assembles ∫ K∇u·∇v = ∫ f v + ∫ r·∇v for cellwise K, r and f on a `PotentialSpace`."""

    def __init__(self, potential_space: PotentialSpace) -> None:
        self.potential_space = potential_space
        mesh, space = potential_space.mesh, potential_space.space
        dimension = mesh.topology.dim
        vertices = potential_space.points_per_cell > 1
        degree = 1 if vertices else 0
        metadata: dict[str, Any] = {"quadrature_degree": degree}
        if vertices:
            metadata["quadrature_rule"] = "vertex"
        dx = ufl.dx(domain=mesh, metadata=metadata)
        self._stiffness = fem.Function(
            fem.functionspace(mesh, ("DG", degree, (dimension, dimension)))
        )
        self._residual = fem.Function(fem.functionspace(mesh, ("DG", degree, (dimension,))))
        self._load = fem.Function(fem.functionspace(mesh, ("DG", 0)))
        u, v = ufl.TrialFunction(space), ufl.TestFunction(space)
        self._matrix_form = fem.form(
            ufl.inner(ufl.dot(self._stiffness, ufl.grad(u)), ufl.grad(v)) * dx
        )
        self._vector_form = fem.form(
            ufl.inner(self._load, v) * ufl.dx(domain=mesh)
            + ufl.inner(self._residual, ufl.grad(v)) * dx
        )
        self.matrix = fem_petsc.create_matrix(self._matrix_form)
        self.right_hand_side = fem.Function(space)
        self.solution = fem.Function(space)

    def assemble(self, stiffness: FloatArray, residual: FloatArray, load: FloatArray) -> None:
        """Assemble matrix and right-hand side (collective).

        Parameters
        ----------
        stiffness
            K (n, q, d, d), zero in inactive cells.
        residual
            r (n, q, d).
        load
            f (n,).
        """
        self.assemble_matrix(stiffness)
        self.assemble_right_hand_side(residual, load)

    def assemble_matrix(self, stiffness: FloatArray) -> None:
        """Assemble the matrix from K (n, q, d, d), zero in inactive cells (collective)."""
        self._stiffness.x.array[:] = stiffness.ravel()
        self.matrix.zeroEntries()
        fem_petsc.assemble_matrix(self.matrix, self._matrix_form, self._fixed)
        self.matrix.assemble()

    @cached_property
    def _fixed(self) -> Any:
        """Zero at what is not free: a one on the diagonal decouples it, and no row is empty."""
        space = self.potential_space
        dofs = np.flatnonzero(~space.free).astype(np.int32)
        return [fem.dirichletbc(np.array(0.0), dofs, space.space)]

    def assemble_right_hand_side(self, residual: FloatArray, load: FloatArray) -> None:
        """Assemble the right-hand side from r (n, q, d) and f (n,) (collective)."""
        self._residual.x.array[:] = residual.ravel()
        self._load.x.array[:] = load
        space = self.potential_space
        vector = self.right_hand_side.x
        vector.array[:] = 0.0
        fem.assemble_vector(vector.array, self._vector_form)
        vector.scatter_reverse(la.InsertMode.add)
        vector.array[~space.free] = 0.0
        vector.scatter_forward()

    def destroy(self) -> None:
        """Free the PETSc matrix."""
        self.matrix.destroy()


def cell_offset(mesh: Mesh) -> int:
    """Return the global index of this rank's first owned cell."""
    return owned_range(mesh.topology.index_map(mesh.topology.dim))[0]


def momentum_function(mesh: Mesh, cells: Cells, flux: FloatArray) -> fem.Function:
    """Return the RT0 function "momentum" with outward facet integrals `flux` (n, d+1).

    In each cell it is m(x) = Σ_i flux_i (x − v_i) / (d |T|), v_i the vertex opposite facet i.
    """
    dimension = cells.dimension
    slope = fem.Function(fem.functionspace(mesh, ("DG", 0)))
    constant = fem.Function(fem.functionspace(mesh, ("DG", 0, (dimension,))))
    scale = 1.0 / (dimension * cells.volume)
    slope.x.array[:] = scale * flux.sum(axis=1)
    constant.x.array[:] = (-scale[:, None] * np.einsum("ni,nid->nd", flux, cells.simplices)).ravel()
    space = fem.functionspace(mesh, ("RT", 1))
    momentum = fem.Function(space, name="momentum")
    position = ufl.SpatialCoordinate(mesh)
    momentum.interpolate(expression(slope * position + constant, space))
    momentum.x.scatter_forward()
    return momentum


def p1_function(mesh: Mesh, vertex_values: FloatArray) -> fem.Function:
    """Return the P1 function "potential" with the given values at the cells' vertices (n, d+1)."""
    function = fem.Function(fem.functionspace(mesh, ("Lagrange", 1)), name="potential")
    dofmap = function.function_space.dofmap.list[: len(vertex_values)]
    function.x.array[dofmap] = vertex_values
    function.x.scatter_forward()
    return function


def cell_function(mesh: Mesh, name: str, values: FloatArray) -> fem.Function:
    """Return the function of a name that has the given value (n,) in each cell."""
    function = fem.Function(fem.functionspace(mesh, ("DG", 0)), name=name)
    function.x.array[: len(values)] = values
    function.x.scatter_forward()
    return function
