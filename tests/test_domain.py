"""Boxes and mesh files become meshes; refinement is exact, regular and independent of numbering.

Every test holds on any number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dolfinx.mesh
import meshio
import numpy as np
import numpy.typing as npt
import pytest
from mpi4py import MPI

from congested.domain import Box, Domain, MeshFile, _distribute, create_mesh, refine_uniformly
from congested.errors import InputError
from congested.geometry import (
    Cells,
    barycentric_gradients,
    cells_of_mesh,
    simplex_volumes,
    split_simplices,
)
from tests.scripts import load_script

COMM = MPI.COMM_WORLD
ROOT = Path(__file__).resolve().parent.parent
MESHES = {"l_shape": 338, "disc_with_hole": 511, "ball": 503, "channel_with_obstacle": 1650}

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def total(values: Any) -> float:
    """Sum over the cells of all ranks."""
    return float(COMM.allreduce(float(np.sum(values))))


def smallest(values: FloatArray) -> float:
    """Return the minimum over all ranks."""
    return float(COMM.allreduce(float(values.min(initial=np.inf)), op=MPI.MIN))


def quality(simplices: FloatArray) -> FloatArray:
    """Return the mean ratio: 1 for equilateral simplices, 0 for flat ones."""
    dimension = simplices.shape[2]
    first, second = np.triu_indices(dimension + 1, 1)
    squared = ((simplices[:, first] - simplices[:, second]) ** 2).sum(axis=(1, 2))
    volume = simplex_volumes(simplices)
    if dimension == 2:
        return 4 * math.sqrt(3) * volume / squared
    return 12 * (3 * volume) ** (2 / 3) / squared


def all_cells(cells: Cells) -> FloatArray:
    """Return every rank's cells, vertices and then cells sorted: equal for equal meshes."""
    simplices = np.concatenate(COMM.allgather(cells.simplices))
    vertices = np.array([sorted(map(tuple, simplex)) for simplex in simplices])
    flat = vertices.reshape(len(simplices), -1)
    return flat[np.lexsort(flat.T)]


def tetrahedra(corners: FloatArray) -> dolfinx.mesh.Mesh:
    """Make a mesh (n, 4, 3) of separate tetrahedra, all given by rank 0."""
    mine = corners if COMM.rank == 0 else corners[:0]
    cells = np.arange(4 * len(mine)).reshape(-1, 4)
    return _distribute(COMM, mine.reshape(-1, 3), cells, partitioner=None)


def on_first_rank(folder: Path, write: Callable[[Path], None], name: str) -> Path:
    """Let rank 0 write a file, and return its path on every rank."""
    file = Path(COMM.bcast(str(folder / name)))
    if COMM.rank == 0:
        write(file)
    COMM.barrier()
    return file


# -- Boxes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "divisions", "number"),
    [
        (Box((0, 0), (1, 1), 4), (4, 4), 64),
        (Box((-1, 0), (1, 1), 8), (8, 4), 128),
        (Box((0, 0), (1, 0.01), 8), (8, 1), 32),
        (Box((0, 0, 0), (1, 2, 0.7), 6), (3, 6, 2), 216),
    ],
)
def test_box(box: Box, divisions: tuple[int, ...], number: int) -> None:
    assert box.divisions == divisions
    mesh = create_mesh(box, COMM)
    cells = cells_of_mesh(mesh)
    assert total(cells.number) == number
    assert mesh.geometry.dim == mesh.topology.dim == box.dimension == len(box.lower)
    assert mesh.topology.index_map(box.dimension).num_ghosts == 0
    assert total(cells.volume) == pytest.approx(math.prod(box.sides), rel=1e-13)
    np.testing.assert_array_equal(cells.lower, box.lower)
    np.testing.assert_array_equal(cells.upper, box.upper)
    np.testing.assert_allclose(cells.volume, math.prod(box.sides) / number, rtol=1e-12)


def test_triangles_of_a_box_are_crossed() -> None:
    cells = cells_of_mesh(create_mesh(Box((0, 0), (1, 1), 1), COMM))
    middles = np.concatenate(COMM.allgather(cells.midpoint))
    expected = [[1 / 6, 1 / 2], [1 / 2, 1 / 6], [1 / 2, 5 / 6], [5 / 6, 1 / 2]]
    np.testing.assert_allclose(middles[np.lexsort(middles.T[::-1])], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "key", "text"),
    [
        (((0, 0), (1, 0)), "upper", "found [1.0, 0.0] with domain.lower = [0.0, 0.0]; allowed is"),
        (((0, 1), (1, 0)), "upper", "found [1.0, 0.0] with domain.lower = [0.0, 1.0]; allowed is"),
        (((0, 0), (1, 1, 1)), "upper", "found 3 numbers where domain.lower has 2"),
        (((0,), (1,)), "lower", "found [0.0]; allowed are 2 or 3 finite numbers"),
        (((0, 0, 0, 0), (1, 1, 1, 1)), "lower", "found [0.0, 0.0, 0.0, 0.0]; allowed are 2 or 3"),
        (((0, math.nan), (1, 1)), "lower", "found [0.0, nan]; allowed are 2 or 3 finite"),
        (((0, 0), (1, math.inf)), "upper", "found [1.0, inf]; allowed are 2 or 3 finite"),
        ((("a", 0), (1, 1)), "lower", "found ('a', 0); allowed are 2 or 3 numbers"),
        ((0.0, (1, 1)), "lower", "found 0.0; allowed are 2 or 3 numbers"),
        (((-1e308, 0), (1e308, 1)), "upper", "the sides of the box overflow"),
        (((0, 0), (1, 1), 0), "cells", "found 0; allowed is a whole number from 1"),
        (((0, 0), (1, 1), 2.5), "cells", "found 2.5; allowed is a whole number from 1"),
        (((0, 0), (1, 1), True), "cells", "found True; allowed is a whole number from 1"),
    ],
)
def test_wrong_box(arguments: tuple[Any, ...], key: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        Box(*arguments)
    assert caught.value.key == f"domain.{key}"
    assert caught.value.message.startswith(text)


# -- Mesh files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("l_shape", (0.75, 0.75)),
        ("disc_with_hole", (0.998 * 0.91 * math.pi, 1.002 * 0.91 * math.pi)),
        ("ball", (0.95 * 4 / 3 * math.pi, 4 / 3 * math.pi)),
        ("channel_with_obstacle", (1 - 0.02 * math.pi, 1 - 0.93 * 0.02 * math.pi)),
    ],
)
def test_meshes_of_the_repository(name: str, measure: tuple[float, float]) -> None:
    mesh = create_mesh(MeshFile(ROOT / "meshes" / f"{name}.msh"), COMM)
    cells = cells_of_mesh(mesh)
    assert total(cells.number) == MESHES[name]
    assert f"| `{name}.msh` | {MESHES[name]} " in (ROOT / "meshes/README.md").read_text("utf-8")
    assert mesh.topology.index_map(mesh.topology.dim).num_ghosts == 0
    assert measure[0] - 1e-12 <= total(cells.volume) <= measure[1] + 1e-12
    assert smallest(quality(cells.simplices)) > (0.7 if cells.dimension == 2 else 0.3)


FORMATS: list[tuple[str, dict[str, Any]]] = [
    (".msh", {"file_format": "gmsh22", "binary": False}),
    (".msh", {"file_format": "gmsh22", "binary": True}),
    (".vtu", {}),
    (".vtk", {}),
    (".xdmf", {"data_format": "XML"}),
    (".mesh", {}),
]


@pytest.mark.parametrize(
    ("name", "suffix", "options"),
    [(name, *form) for name in ("l_shape", "ball") for form in FORMATS]
    # PLY has no tetrahedra.
    + [("l_shape", ".ply", {})],
)
def test_formats(tmp_path: Path, name: str, suffix: str, options: dict[str, Any]) -> None:
    original = ROOT / "meshes" / f"{name}.msh"

    def write(file: Path) -> None:
        mesh = meshio.read(original)
        blocks = [(block.type, block.data.astype(np.int32)) for block in mesh.cells]
        meshio.write(file, meshio.Mesh(mesh.points, blocks), **options)

    file = on_first_rank(tmp_path, write, f"copy{suffix}")
    got = cells_of_mesh(create_mesh(MeshFile(file), COMM))
    assert got.dimension == (2 if name == "l_shape" else 3)
    expected = all_cells(cells_of_mesh(create_mesh(MeshFile(original), COMM)))
    np.testing.assert_allclose(all_cells(got), expected, atol=1e-6 if suffix == ".ply" else 1e-15)


def test_gmsh_binary_41(tmp_path: Path) -> None:
    gmsh = pytest.importorskip("gmsh")
    if COMM.size > 1:
        pytest.skip("gmsh runs in serial")
    gmsh.initialize(interruptible=False)
    try:
        gmsh.option.setNumber("General.Terminal", 0)
        gmsh.open(str(ROOT / "meshes/ball.msh"))
        gmsh.option.setNumber("Mesh.Binary", 1)
        gmsh.write(str(tmp_path / "ball.msh"))
    finally:
        gmsh.finalize()
    assert b"4.1 1 8" in (tmp_path / "ball.msh").read_bytes()[:40]
    got = all_cells(cells_of_mesh(create_mesh(MeshFile(tmp_path / "ball.msh"), COMM)))
    expected = cells_of_mesh(create_mesh(MeshFile(ROOT / "meshes/ball.msh"), COMM))
    np.testing.assert_array_equal(got, all_cells(expected))


def test_surfaces_of_a_gmsh_file_may_be_oriented_differently(tmp_path: Path) -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0], [2, 1, 0]], float)
    one, other = np.array([[0, 1, 2], [0, 2, 3]]), np.array([[1, 2, 4], [2, 5, 4]])

    def write(file: Path) -> None:
        tags = {name: [np.array([5, 5]), np.array([6, 6])] for name in GMSH_TAGS}
        blocks = [("triangle", one), ("triangle", other)]
        meshio.write(file, meshio.Mesh(points, blocks, cell_data=tags), file_format="gmsh22")

    file = on_first_rank(tmp_path, write, "two.msh")
    assert total(cells_of_mesh(create_mesh(MeshFile(file), COMM)).volume) == pytest.approx(2)


GMSH_TAGS = ("gmsh:physical", "gmsh:geometrical")


def write_quad(file: Path) -> None:
    """Write one quadrilateral."""
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    meshio.write(file, meshio.Mesh(points, [("quad", np.array([[0, 1, 2, 3]]))]))


@pytest.mark.parametrize(
    ("name", "write", "text"),
    [
        ("nowhere.msh", lambda file: None, "there is no file "),
        ("a.mesh2", lambda file: file.write_text("x"), "unknown kind of file '.mesh2'; allowed"),
        ("a.msh", lambda file: file.write_text("hello"), "meshio cannot read it (Error: Couldn't"),
        ("a.vtu", lambda file: file.write_text("hello"), "meshio cannot read it ("),
        ("a.ply", lambda file: file.write_text("hello"), "meshio cannot read it (Expected ply"),
        ("quad.vtu", write_quad, "wrong cell types: 1 'quad': not simplices"),
    ],
)
def test_every_rank_raises_the_same_error(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    write: Callable[[Path], None],
    text: str,
) -> None:
    file = on_first_rank(tmp_path, write, name)
    with pytest.raises(InputError) as caught:
        create_mesh(MeshFile(file), COMM)
    assert caught.value.key == "domain.file"
    assert text in caught.value.message
    assert str(file) in caught.value.message
    assert len(set(COMM.allgather(str(caught.value)))) == 1
    assert capfd.readouterr() == ("", "")


def test_an_unexpected_error_does_not_leave_the_other_ranks_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(file: Path) -> None:
        raise ZeroDivisionError("for the test")

    monkeypatch.setattr("congested.domain.read_mesh_file", broken)
    kind = ZeroDivisionError if COMM.rank == 0 else RuntimeError
    with pytest.raises(kind, match="for the test"):
        create_mesh(MeshFile(Path("any.msh")), COMM)


# -- Refinement ----------------------------------------------------------------------------------

DOMAINS: dict[str, Domain] = {
    "square": Box((0, 0), (1, 0.5), 4),
    "one square": Box((0, 0), (1, 1), 1),
    "cube": Box((0, 0, 0), (1, 1, 0.5), 2),
    "l_shape": MeshFile(ROOT / "meshes/l_shape.msh"),
    "ball": MeshFile(ROOT / "meshes/ball.msh"),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_children_fill_their_parent(name: str) -> None:
    coarse = create_mesh(DOMAINS[name], COMM)
    fine, parent = refine_uniformly(coarse)
    old, new = cells_of_mesh(coarse), cells_of_mesh(fine)
    children = 2**old.dimension
    assert parent.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(parent, minlength=old.number), children)
    np.testing.assert_allclose(new.volume, old.volume[parent] / children, rtol=1e-10)
    # All vertices lie in the parent: their barycentric coordinates there are 0, 1/2 or 1.
    offset = new.simplices - old.simplices[parent][:, :1]
    gradients = barycentric_gradients(old.simplices)[parent]
    coordinates = np.einsum("nvd,nid->nvi", offset, gradients)
    coordinates[:, :, 0] += 1
    np.testing.assert_allclose(2 * coordinates, np.rint(2 * coordinates), atol=1e-10)
    assert coordinates.min(initial=0) > -1e-10


@pytest.mark.parametrize("name", DOMAINS)
def test_refined_mesh_is_conforming(name: str) -> None:
    coarse = create_mesh(DOMAINS[name], COMM)
    fine, _ = refine_uniformly(coarse)
    dimension = coarse.topology.dim
    counts = []
    for mesh in (coarse, fine):
        for entity in range(dimension):
            mesh.topology.create_entities(entity)
        mesh.topology.create_connectivity(dimension - 1, dimension)
        exterior = total(len(dolfinx.mesh.exterior_facet_indices(mesh.topology)))
        counts.append(
            [mesh.topology.index_map(k).size_global for k in range(dimension + 1)] + [exterior]
        )
    old, new = counts
    assert new[0] == old[0] + old[1]
    assert new[dimension] == 2**dimension * old[dimension]
    assert new[-1] == 2 ** (dimension - 1) * old[-1]
    assert fine.topology.index_map(dimension).num_ghosts == 0
    assert fine.geometry.index_map().size_global == new[0]


def test_acute_triangles_are_split_at_their_midpoints() -> None:
    # A stretched hexagon: six acute triangles around the origin.
    angles = np.pi / 3 * np.arange(6)
    points = np.vstack([np.zeros(2), np.stack([np.cos(angles), 1.1 * np.sin(angles)], axis=1)])
    fan = np.array([[0, k, k % 6 + 1] for k in range(1, 7)])
    mesh = _distribute(COMM, *((points, fan) if COMM.rank == 0 else (points[:0], fan[:0])), None)
    coarse = cells_of_mesh(mesh)
    fine, _ = refine_uniformly(mesh)
    independent = Cells(COMM, split_simplices(coarse.simplices), coarse.lower, coarse.upper)
    np.testing.assert_allclose(
        all_cells(cells_of_mesh(fine)), all_cells(independent), rtol=0, atol=1e-15
    )


def test_crossed_triangles_of_a_box_become_those_of_a_finer_box() -> None:
    fine, _ = refine_uniformly(create_mesh(Box((0, 0), (2, 1), 8), COMM))
    expected = cells_of_mesh(create_mesh(Box((0, 0), (2, 1), 16), COMM))
    np.testing.assert_array_equal(all_cells(cells_of_mesh(fine)), all_cells(expected))


def test_tetrahedra_of_a_box_stay_those_of_a_box() -> None:
    mesh = create_mesh(Box((0, 0, 0), (1, 1, 1), 1), COMM)
    for level in range(1, 4):
        mesh, _ = refine_uniformly(mesh)
        expected = cells_of_mesh(create_mesh(Box((0, 0, 0), (1, 1, 1), 2**level), COMM))
        np.testing.assert_array_equal(all_cells(cells_of_mesh(mesh)), all_cells(expected))


@pytest.mark.parametrize(
    ("name", "levels"), [("square", 4), ("l_shape", 4), ("cube", 3), ("ball", 2)]
)
def test_quality_stays_bounded(name: str, levels: int) -> None:
    mesh = create_mesh(DOMAINS[name], COMM)
    first = smallest(quality(cells_of_mesh(mesh).simplices))
    for _ in range(levels):
        mesh, _ = refine_uniformly(mesh)
    assert smallest(quality(cells_of_mesh(mesh).simplices)) > 0.999 * first


def test_quality_of_arbitrary_tetrahedra_stays_bounded() -> None:
    corners = np.random.default_rng(1).normal(size=(40, 4, 3))
    mesh = tetrahedra(corners)
    ancestor: IntArray = np.arange(cells_of_mesh(mesh).number)
    first = quality(cells_of_mesh(mesh).simplices)
    for _ in range(3):
        mesh, parent = refine_uniformly(mesh)
        ancestor = ancestor[parent]
        ratio = quality(cells_of_mesh(mesh).simplices) / first[ancestor]
        assert smallest(ratio) > 0.77


def test_path_tetrahedra_stay_similar_however_they_are_turned() -> None:
    path = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]], float)
    turns = np.linalg.qr(np.random.default_rng(3).normal(size=(20, 3, 3)))[0]
    mesh = tetrahedra(path @ turns)
    for _ in range(2):
        mesh, _ = refine_uniformly(mesh)
    expected = quality(path[None])[0]
    np.testing.assert_allclose(quality(cells_of_mesh(mesh).simplices), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ["regular", "corner", "path", "random"])
def test_refinement_does_not_depend_on_the_numbering(kind: str) -> None:
    generator = np.random.default_rng(2)
    corners = {
        "regular": np.array([[[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]], float),
        "corner": np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]], float),
        "path": np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]], float),
        "random": generator.normal(size=(20, 4, 3)),
    }[kind]
    shuffled = [simplex[generator.permutation(4)] for simplex in np.repeat(corners, 6, axis=0)]
    expected = all_cells(cells_of_mesh(refine_uniformly(tetrahedra(corners))[0]))
    for k in range(6):
        other = refine_uniformly(tetrahedra(np.array(shuffled[k::6])))[0]
        np.testing.assert_array_equal(all_cells(cells_of_mesh(other)), expected)


def test_children_are_oriented_as_their_parent() -> None:
    for domain in DOMAINS.values():
        coarse = create_mesh(domain, COMM)
        fine, parent = refine_uniformly(coarse)
        old, new = (
            np.linalg.det(cells.simplices[:, 1:] - cells.simplices[:, :1])
            for cells in (cells_of_mesh(coarse), cells_of_mesh(fine))
        )
        np.testing.assert_array_equal(np.sign(new), np.sign(old)[parent])


def test_wrong_meshes_are_not_refined() -> None:
    quadrilaterals = dolfinx.mesh.create_unit_square(
        COMM,
        4,
        4,
        dolfinx.mesh.CellType.quadrilateral,
        ghost_mode=dolfinx.mesh.GhostMode.none,
    )
    with pytest.raises(ValueError, match="straight triangles or tetrahedra"):
        refine_uniformly(quadrilaterals)
    if COMM.size > 1:
        ghosted = dolfinx.mesh.create_unit_square(
            COMM, 4, 4, ghost_mode=dolfinx.mesh.GhostMode.shared_facet
        )
        with pytest.raises(ValueError, match="without ghost cells"):
            refine_uniformly(ghosted)


# -- The script ----------------------------------------------------------------------------------


def test_meshes_come_from_their_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gmsh")
    if COMM.size > 1:
        pytest.skip("gmsh runs in serial")
    script = load_script("make_meshes")
    assert script.main(["--output", str(tmp_path), *MESHES]) == 0
    assert capsys.readouterr().out.count(" cells\n") == len(MESHES)
    for name, number in MESHES.items():
        made = cells_of_mesh(create_mesh(MeshFile(tmp_path / f"{name}.msh"), COMM))
        kept = cells_of_mesh(create_mesh(MeshFile(ROOT / "meshes" / f"{name}.msh"), COMM))
        # Another gmsh may mesh differently; the domain stays the same.
        assert made.number == pytest.approx(number, rel=0.25)
        assert total(made.volume) == pytest.approx(total(kept.volume), rel=0.01)
    with pytest.raises(SystemExit, match="2"):
        script.main(["torus"])
