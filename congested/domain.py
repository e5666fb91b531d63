"""The domain: a box or a mesh file becomes a distributed simplicial mesh, and meshes are refined.

Every mesh that leaves this module has straight triangles or tetrahedra, no ghost cells, and is the
same set of cells on any number of ranks. Refinement is written out here, rather than taken from
DOLFINx, because the solver needs the parent of every cell for certain and on the parent's rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import basix.ufl
import dolfinx.graph
import dolfinx.mesh
import meshio
import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from congested.errors import InputError
from congested.mesh_check import check_mesh, highest_dimension
from congested.mesh_file import read_with_meshio

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Box:
    """A rectangle or cuboid with sides along the axes.

    Attributes
    ----------
    lower, upper
        Two opposite corners, lower < upper in each of the 2 or 3 coordinates.
    cells
        Squares (cubes) along the longest side of the mesh; along the others as many as make them
        nearly square. Each square is cut into 4 triangles by its diagonals, each cube into 6
        tetrahedra around one.

    Raises
    ------
    InputError
        With key ``domain.lower``, ``domain.upper`` or ``domain.cells``.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    cells: int = 32

    def __post_init__(self) -> None:
        """Check the corners and the number of cells."""
        for name in ("lower", "upper"):
            object.__setattr__(self, name, _corner(getattr(self, name), f"domain.{name}"))
        if len(self.lower) != len(self.upper):
            found = f"{len(self.upper)} numbers where domain.lower has {len(self.lower)}"
            raise InputError(f"found {found}; allowed is the same number", key="domain.upper")
        if not all(low < high for low, high in zip(self.lower, self.upper, strict=True)):
            found = f"found {list(self.upper)} with domain.lower = {list(self.lower)}"
            allowed = "allowed is an upper corner greater in every coordinate"
            raise InputError(f"{found}; {allowed}", key="domain.upper")
        if not all(math.isfinite(side) for side in self.sides):
            raise InputError("the sides of the box overflow", key="domain.upper")
        whole = isinstance(self.cells, int | np.integer) and not isinstance(self.cells, bool)
        if not whole or self.cells < 1:
            raise InputError(
                f"found {self.cells!r}; allowed is a whole number from 1", key="domain.cells"
            )

    @property
    def dimension(self) -> int:
        """Space dimension, 2 or 3."""
        return len(self.lower)

    @property
    def sides(self) -> tuple[float, ...]:
        """Lengths of the sides."""
        return tuple(high - low for low, high in zip(self.lower, self.upper, strict=True))

    @property
    def divisions(self) -> tuple[int, ...]:
        """Number of squares (cubes) along each side."""
        longest = max(self.sides)
        return tuple(max(1, round(self.cells * (side / longest))) for side in self.sides)


@dataclass(frozen=True)
class MeshFile:
    """A mesh of triangles in the plane or of tetrahedra, in a file.

    Attributes
    ----------
    file
        Path of a gmsh ``.msh`` file (2.2 or 4.1) or of any other kind that meshio reads.
    """

    file: Path

    def __post_init__(self) -> None:
        """Accept a string for the path."""
        object.__setattr__(self, "file", Path(self.file))


Domain = Box | MeshFile


def _corner(value: Any, key: str) -> tuple[float, ...]:
    try:
        corner = tuple(float(number) for number in value)
    except (TypeError, ValueError) as error:
        raise InputError(f"found {value!r}; allowed are 2 or 3 numbers", key=key) from error
    if len(corner) not in (2, 3) or not all(math.isfinite(number) for number in corner):
        raise InputError(f"found {list(corner)}; allowed are 2 or 3 finite numbers", key=key)
    return corner


def create_mesh(domain: Domain, comm: MPI.Comm = MPI.COMM_WORLD) -> dolfinx.mesh.Mesh:
    """Mesh a domain, distributed over the ranks without ghost cells (collective).

    Parameters
    ----------
    domain
        A box, or a mesh file, which is read on rank 0.
    comm
        Communicator of the mesh.

    Returns
    -------
    dolfinx.mesh.Mesh
        Straight triangles in the plane or tetrahedra; the same cells on any number of ranks.

    Raises
    ------
    InputError
        On every rank, if the file cannot be read or `congested.mesh_check.check_mesh` finds a
        defect in the mesh.
    """
    if isinstance(domain, Box):
        return _create_box(domain, comm)
    points, cells = _read_on_first_rank(domain.file, comm)
    return _distribute(comm, points, cells, partitioner=None)


def _create_box(box: Box, comm: MPI.Comm) -> dolfinx.mesh.Mesh:
    divisions = list(box.divisions)
    none = dolfinx.mesh.GhostMode.none
    if box.dimension == 2:
        return dolfinx.mesh.create_rectangle(
            comm,
            np.array([box.lower, box.upper]),
            divisions,
            dolfinx.mesh.CellType.triangle,
            ghost_mode=none,
            diagonal=dolfinx.mesh.DiagonalType.crossed,
        )
    return dolfinx.mesh.create_box(
        comm,
        [np.array(box.lower), np.array(box.upper)],
        divisions,
        dolfinx.mesh.CellType.tetrahedron,
        ghost_mode=none,
    )


def _read_on_first_rank(file: Path, comm: MPI.Comm) -> tuple[FloatArray, IntArray]:
    """Read and check on rank 0; the other ranks get empty arrays, or the same error."""
    points: FloatArray = np.empty((0, 0))
    cells: IntArray = np.empty((0, 0), dtype=np.int64)
    failure: Exception | None = None
    if comm.rank == 0:
        try:
            points, cells = read_mesh_file(file)
        except Exception as error:
            # Kept until the other ranks, which wait in the broadcast, know of it.
            failure = error
    expected = isinstance(failure, InputError)
    expected, text, dimension = comm.bcast(
        (expected, str(getattr(failure, "message", failure or "")), points.shape[1])
    )
    if failure is not None:
        raise failure
    if expected:
        raise InputError(text, key="domain.file")
    if text:
        raise RuntimeError(f"reading {file} failed on rank 0: {text}")
    if comm.rank > 0:
        points, cells = np.empty((0, dimension)), np.empty((0, dimension + 1), dtype=np.int64)
    return points, cells


def read_mesh_file(file: Path) -> tuple[FloatArray, IntArray]:
    """Read a mesh file and check the mesh (not collective).

    Parameters
    ----------
    file
        Path of a file that meshio reads.

    Returns
    -------
    points : numpy.ndarray
        Coordinates (V, d) of the points in use.
    cells : numpy.ndarray
        Vertices (C, d+1) of the triangles or tetrahedra.

    Raises
    ------
    InputError
        With key ``domain.file``.
    """
    contents = read_with_meshio(file, "domain.file")
    return check_mesh(contents.points, contents.cells, str(file), _regions(contents))


def _regions(contents: meshio.Mesh) -> IntArray | None:
    """Return gmsh's geometrical entity of each cell of the highest dimension, if it is known."""
    entities = contents.cell_data.get("gmsh:geometrical")
    if entities is None:
        return None
    dimension = highest_dimension(contents.cells)
    pairs = zip(contents.cells, entities, strict=True)
    kept = [np.asarray(entity) for block, entity in pairs if block.dim == dimension]
    return np.concatenate(kept).astype(np.int64) if kept else None


def _distribute(
    comm: MPI.Comm,
    points: FloatArray,
    cells: IntArray,
    partitioner: Callable[..., Any] | None,
) -> dolfinx.mesh.Mesh:
    """Make a mesh of each rank's cells and points (C, d+1), (V, d); no ghosts (collective)."""
    dimension = cells.shape[1] - 1
    element = basix.ufl.element(
        "Lagrange",
        {2: "triangle", 3: "tetrahedron"}[dimension],
        1,
        shape=(dimension,),
        dtype=np.float64,
    )
    # version difference: 0.10 exchanged the places of x and e, so they go by name. Without a
    # partitioner DOLFINx takes its default one, in every version without ghost cells.
    return dolfinx.mesh.create_mesh(
        comm=comm, cells=cells, x=points, e=element, partitioner=partitioner
    )


def mesh_from_arrays(
    comm: MPI.Comm, points: FloatArray, cells: IntArray, *, stay: bool
) -> dolfinx.mesh.Mesh:
    """Make a mesh of points and cells as an earlier mesh had them (collective).

    DOLFINx numbers what it is given in its own way, but always in the same: points and cells in
    the order in which they were given the first time, on the same ranks, become the same mesh.

    Parameters
    ----------
    comm
        Communicator of the mesh.
    points, cells
        What this rank gives: points (V, d) and cells (C, d+1) with global numbers of points.
    stay
        Whether cells stay on the rank that gives them; else DOLFINx shares them out.

    Returns
    -------
    dolfinx.mesh.Mesh
        The mesh, without ghost cells.
    """
    return _distribute(comm, points, cells, _stay(comm, len(cells)) if stay else None)


def _stay(comm: MPI.Comm, number_of_cells: int) -> Callable[..., Any] | None:
    """Return a partitioner that leaves each cell on the rank that gives it."""
    if comm.size == 1:
        return None
    destination = np.full((number_of_cells, 1), comm.rank, dtype=np.int32)

    def partitioner(*_: Any) -> Any:
        graph = dolfinx.graph.adjacencylist(destination)
        return getattr(graph, "_cpp_object", graph)  # version difference: wrapped since 0.10

    return partitioner


# Nodes of a cell to be refined: its d + 1 vertices, then the midpoints of its edges in the order
# in which DOLFINx (Basix) numbers the edges.
_EDGES = {2: ((1, 2), (0, 2), (0, 1)), 3: ((2, 3), (1, 3), (1, 2), (0, 3), (0, 2), (0, 1))}

# Children by their nodes, oriented as the parent. A triangle: three corner cells and one in the
# middle; where the angle at vertex 0, 1 or 2 is not acute, that vertex is joined to the midpoint of
# the opposite edge instead.
_CHILDREN_2D = (
    ((0, 5, 3), (5, 1, 3), (4, 3, 2), (0, 3, 4)),
    ((0, 5, 4), (1, 3, 4), (4, 3, 2), (1, 4, 5)),
    ((0, 5, 4), (5, 1, 3), (2, 4, 5), (2, 5, 3)),
    ((0, 5, 4), (5, 1, 3), (4, 3, 2), (3, 4, 5)),
)
# A tetrahedron: the four corner cells, after which an octahedron is left, ...
_CORNERS_3D = ((0, 9, 8, 7), (9, 1, 6, 5), (8, 6, 2, 4), (7, 5, 4, 3))
# ... cut along one of its three diagonals, from the midpoint of an edge to that of the opposite
# edge, with the other four midpoints around it.
_DIAGONALS_3D = ((8, 5), (7, 6), (9, 4))
_AROUND_3D = ((9, 6, 4, 7), (9, 8, 4, 5), (8, 7, 5, 6))


def refine_uniformly(mesh: dolfinx.mesh.Mesh) -> tuple[dolfinx.mesh.Mesh, IntArray]:
    """Cut every cell into 2^d of equal volume (collective).

    Each edge is halved. The midpoints of a triangle's edges are joined; at an angle of 90° or more
    its vertex is joined to the midpoint opposite instead of the two beside it (Delaunay's choice),
    so that the crossed triangles of a box become those of a box with twice the divisions: with
    the other choice their P1 lower bounds were seen to leave a third more gap.

    What is left of a tetrahedron without its four corners is an octahedron, which is cut along its
    shortest diagonal; of equal ones that between the edges of more equal lengths is taken, then
    the order of the vertices by coordinates decides. So the result depends on the shape of the
    cells alone, not on their numbering or on the number of ranks. The tetrahedra of a box stay
    similar to themselves, and the quality of others (mean ratio) was never seen below 0.77 of
    their ancestor's (Zhang, Houston J. Math. 21, 1995, proves a bound for tetrahedra without
    obtuse dihedral angles). The boundary stays the polygon that it is: a coarse ball does not
    become round.

    Parameters
    ----------
    mesh
        Straight triangles or tetrahedra without ghost cells.

    Returns
    -------
    fine : dolfinx.mesh.Mesh
        The refined mesh, without ghost cells; children are on the rank of their parent.
    parent : numpy.ndarray
        Local index in `mesh` (n,) of the parent of each local cell of `fine`.

    Raises
    ------
    ValueError
        If the mesh has ghost cells or is not made of straight triangles or tetrahedra.
    """
    dimension = mesh.topology.dim
    dofmap = mesh.geometry.dofmap
    straight = dimension in _EDGES and dofmap.shape[1] == dimension + 1
    if not straight or mesh.geometry.dim != dimension:
        raise ValueError("refinement needs a mesh of straight triangles or tetrahedra")
    if mesh.comm.allreduce(mesh.topology.index_map(dimension).num_ghosts) > 0:
        raise ValueError("refinement needs a mesh without ghost cells (GhostMode.none)")
    mesh.topology.create_entities(1)
    mesh.topology.create_connectivity(dimension, 1)
    pairs = np.array(_EDGES[dimension])
    edges = mesh.topology.connectivity(dimension, 1).array.reshape(-1, len(pairs))

    coordinates: FloatArray = mesh.geometry.x[:, :dimension].astype(np.float64)
    corners = coordinates[dofmap]
    midpoints = 0.5 * (corners[:, pairs[:, 0]] + corners[:, pairs[:, 1]])
    vertex_map, edge_map = mesh.geometry.index_map(), mesh.topology.index_map(1)
    # All cells at an edge write the same midpoint: the sum of two numbers knows no order.
    halves = np.empty((edge_map.size_local + edge_map.num_ghosts, dimension))
    halves[edges] = midpoints
    points = np.concatenate([coordinates[: vertex_map.size_local], halves[: edge_map.size_local]])

    vertex_number, edge_number = _global_numbers(vertex_map, edge_map, mesh.comm)
    nodes = np.concatenate([vertex_number[dofmap], edge_number[edges]], axis=1)
    cells = _children(nodes, corners)
    fine = _distribute(mesh.comm, points, cells, _stay(mesh.comm, len(cells)))
    before = mesh.comm.exscan(len(cells)) or 0
    return fine, (fine.topology.original_cell_index - before) // 2**dimension


def _global_numbers(vertex_map: Any, edge_map: Any, comm: MPI.Comm) -> tuple[IntArray, IntArray]:
    """Return common global numbers of the local vertices and of the local edges.

    Each rank's own vertices come first, then its own edges, then those of the next rank: the order
    of the points that the ranks hand to DOLFINx.
    """
    first_edges = np.array(comm.allgather(edge_map.local_range[0]), dtype=np.int64)
    last_vertices = np.array(comm.allgather(vertex_map.local_range[1]), dtype=np.int64)

    def shifted(index_map: Any, shift: IntArray) -> IntArray:
        own = np.arange(*index_map.local_range, dtype=np.int64) + shift[comm.rank]
        return np.concatenate([own, index_map.ghosts + shift[index_map.owners]])

    return shifted(vertex_map, first_edges), shifted(edge_map, last_vertices)


def _children(nodes: IntArray, corners: FloatArray) -> IntArray:
    """Return the children (2^d n, d+1) of cells with nodes (n, 6 or 10), sorted by parent."""
    dimension = corners.shape[2]
    if dimension == 2:
        table = np.array(_CHILDREN_2D)[_widest_angle(corners)].reshape(-1, 12)
        return np.take_along_axis(nodes, table, axis=1).reshape(-1, 3)
    tables = []
    for (one, other), around in zip(_DIAGONALS_3D, _AROUND_3D, strict=True):
        inner = [(one, other, around[k], around[(k + 1) % 4]) for k in range(4)]
        tables.append((*_CORNERS_3D, *inner))
    table = np.array(tables)[_diagonals(corners)].reshape(-1, 32)
    return np.take_along_axis(nodes, table, axis=1).reshape(-1, 4)


def _widest_angle(corners: FloatArray) -> IntArray:
    """Return the vertex (n,) of each triangle (n, 3, 2) with an angle of 90° or more, else 3."""
    edges = np.roll(corners, -1, axis=1) - corners
    cosine = -np.einsum("nid,nid->ni", edges, np.roll(edges, 1, axis=1))
    squared = (edges**2).sum(axis=2).max(axis=1, keepdims=True)
    # Rounding must not decide on right angles.
    wide = cosine <= 1e-9 * squared
    return np.where(wide.any(axis=1), wide.argmax(axis=1), 3)


def _diagonals(corners: FloatArray) -> IntArray:
    """Choose the diagonal (index in _DIAGONALS_3D) of each tetrahedron (n, 4, 3).

    With edges a, b opposite each other the diagonal between their midpoints satisfies
    4 |diagonal|² = (sum of the other four |edge|²) − |a|² − |b|²: it is the shortest where
    |a|² + |b|² is the greatest. In a tetrahedron of a box two diagonals are equal, and only that
    with the greater |a| |b| leads to tetrahedra of the same shape again.
    """
    opposite = np.array([((0, 2), (1, 3)), ((0, 3), (1, 2)), ((0, 1), (2, 3))])
    differences = corners[:, opposite[..., 0]] - corners[:, opposite[..., 1]]
    squared = (differences**2).sum(axis=3)
    total, product = squared.sum(axis=2), squared.prod(axis=2)
    # Rounding must not decide between diagonals that are equal on paper.
    best = total >= total.max(axis=1, keepdims=True) * (1 - 1e-9)
    product = np.where(best, product, -1.0)
    best = product >= product.max(axis=1, keepdims=True) * (1 - 1e-9)
    chosen = best.argmax(axis=1)
    tied = np.flatnonzero(best.sum(axis=1) > 1)
    if len(tied):
        # Vertices a < b < c < d by coordinates: prefer the pair ac–bd, then ad–bc, then ab–cd.
        # The table gives that preference for the pair whose edge joins the first to the k-th.
        rank = _ranks(corners[tied])
        partner = np.zeros((len(tied), 3), dtype=np.int64)
        for pair in range(3):
            for edge in range(2):
                ends = rank[:, opposite[pair, edge]]
                with_first = ends.min(axis=1) == 0
                partner[with_first, pair] = ends[with_first].max(axis=1)
        preference = np.array([0, 1, 3, 2])[partner]
        chosen[tied] = np.where(best[tied], preference, 0).argmax(axis=1)
    return chosen


def _ranks(corners: FloatArray) -> IntArray:
    """Return the place (n, 4) of each vertex in the lexicographic order of the coordinates."""
    rank = np.zeros(corners.shape[:2], dtype=np.int64)
    for one in range(4):
        for other in range(4):
            after = np.zeros(len(corners), dtype=bool)
            for axis in reversed(range(3)):
                here, there = corners[:, one, axis], corners[:, other, axis]
                after = (here > there) | ((here == there) & after)
            rank[:, one] += after
    return rank
