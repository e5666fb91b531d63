"""Every defect of a mesh is named, counted and located, and sound meshes pass."""

from __future__ import annotations

import itertools
import math

import meshio
import numpy as np
import numpy.typing as npt
import pytest

from congested.errors import InputError
from congested.mesh_check import _row_keys, check_mesh

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def grid(dimension: int, number: int = 3) -> tuple[FloatArray, IntArray]:
    """Return the Kuhn triangulation of a unit cube of number^d cubes, all cells positive."""
    axes = [np.arange(number + 1)] * dimension
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, dimension)
    stride = (number + 1) ** np.arange(dimension)[::-1]
    cells = []
    for corner in itertools.product(range(number), repeat=dimension):
        for path in itertools.permutations(range(dimension)):
            steps = np.array([np.eye(dimension, dtype=int)[axis] for axis in path])
            walk = np.vstack([corner, corner + np.cumsum(steps, axis=0)]) @ stride
            odd = np.linalg.det(steps) < 0
            cells.append(np.concatenate([walk[[1, 0]], walk[2:]]) if odd else walk)
    return points / number, np.array(cells, dtype=np.int64)


def volume(points: FloatArray, cells: IntArray) -> float:
    """Return the sum of the signed volumes."""
    corners = points[cells]
    edges = corners[:, 1:] - corners[:, :1]
    return float(np.linalg.det(edges).sum()) / math.factorial(points.shape[1])


def message(*arguments: object, **keywords: object) -> str:
    """Return the text of the InputError that check_mesh raises, without its prefix."""
    with pytest.raises(InputError) as caught:
        check_mesh(*arguments, **keywords)  # type: ignore[arg-type]
    assert caught.value.key == "domain.file"
    assert caught.value.message.startswith("mesh: ")
    return caught.value.message.removeprefix("mesh: ")


@pytest.mark.parametrize("dimension", [2, 3])
def test_sound_mesh_passes_unchanged(dimension: int) -> None:
    points, cells = grid(dimension)
    assert volume(points, cells) == pytest.approx(1)
    got_points, got_cells = check_mesh(points, cells)
    np.testing.assert_array_equal(got_points, points)
    np.testing.assert_array_equal(got_cells, cells)


@pytest.mark.parametrize("dimension", [2, 3])
def test_all_cells_negative_is_an_orientation_not_a_defect(dimension: int) -> None:
    points, cells = grid(dimension)
    negative = cells[:, [1, 0, *range(2, dimension + 1)]]
    assert volume(points, negative) == pytest.approx(-1)
    np.testing.assert_array_equal(check_mesh(points, negative)[1], negative)


@pytest.mark.parametrize("dimension", [2, 3])
def test_thoroughly_mixed_orientations_pass(dimension: int) -> None:
    points, cells = grid(dimension)
    cells[::2, :2] = cells[::2, 1::-1]
    np.testing.assert_array_equal(check_mesh(points, cells)[1], cells)


def test_each_region_has_its_own_orientation() -> None:
    points, cells = grid(2, 6)
    right = points[cells].mean(axis=1)[:, 0] > 5 / 6
    assert 0 < right.sum() < 0.25 * len(cells)
    cells[right, :2] = cells[right, 1::-1]
    np.testing.assert_array_equal(
        check_mesh(points, cells, regions=np.where(right, 7, 3))[1], cells
    )
    assert message(points, cells).startswith("12 inverted cells")


def test_what_a_density_allows_and_a_domain_does_not() -> None:
    # Cells the other way round; a second part; the points along its edge written twice.
    points, cells = grid(2, 6)
    twice = np.vstack([points, points + np.array([1.0, 0.0])])
    both = np.vstack([cells, cells + len(points)])
    assert "duplicate points" in message(twice, both)
    both[:6, :2] = both[:6, 1::-1]
    assert message(twice, both).startswith("6 inverted cells")
    got_points, got_cells = check_mesh(twice, both, whole=False)
    np.testing.assert_array_equal(got_points, twice)
    np.testing.assert_array_equal(got_cells, both)
    with pytest.raises(InputError, match="1 degenerate cell"):
        check_mesh(points, np.vstack([cells, [[0, 1, 1]]]), whole=False)


def test_lower_dimensional_cells_and_unused_points_are_dropped() -> None:
    points, cells = grid(2)
    padded = np.vstack([[[np.nan, 9.0]], points, [[5.0, 5.0]]])
    blocks = [
        meshio.CellBlock("vertex", np.array([[0]])),
        meshio.CellBlock("line", np.array([[1, 2], [2, 3]])),
        meshio.CellBlock("triangle", cells[:5] + 1),
        meshio.CellBlock("triangle", cells[5:] + 1),
    ]
    got_points, got_cells = check_mesh(padded, blocks)
    np.testing.assert_array_equal(got_points, points)
    np.testing.assert_array_equal(got_cells, cells)


def test_triangles_that_tag_the_boundary_of_tetrahedra_are_dropped() -> None:
    points, cells = grid(3, 1)
    tags = {"triangle": cells[:, :3], "tetra": cells, "quad": np.array([[0, 1, 3, 2]])}
    np.testing.assert_array_equal(check_mesh(points, tags)[1], cells)


def test_plane_at_any_height_is_two_dimensional() -> None:
    points, cells = grid(2)
    raised = np.column_stack([points, np.full(len(points), 0.1)])
    np.testing.assert_array_equal(check_mesh(raised, cells)[0], points)


def test_surface_in_space_is_refused() -> None:
    points, cells = grid(2)
    bent = np.column_stack([points, points[:, 0] ** 2])
    text = message(bent, cells)
    assert text.startswith("wrong cell types: a surface in space, triangles with z from 0 to 1;")


@pytest.mark.parametrize(
    ("widths", "found", "reason"),
    [
        ({"quad": 4}, "1 'quad'", "not simplices; cut"),
        ({"hexahedron": 8, "quad": 4}, "1 'hexahedron'", "not simplices; cut"),
        ({"quad": 4, "triangle": 3}, "1 'quad', 1 'triangle'", "mixed cell types; save"),
        ({"tetra": 4, "wedge": 6}, "1 'tetra', 1 'wedge'", "mixed cell types; save"),
        ({"triangle6": 6, "line3": 3}, "1 'triangle6'", "cells of higher order; save"),
        ({"tetra10": 10, "tetra": 4}, "1 'tetra10', 1 'tetra'", "cells of higher order; save"),
    ],
)
def test_wrong_cell_types(widths: dict[str, int], found: str, reason: str) -> None:
    text = message(grid(2)[0], {name: np.arange(width)[None] for name, width in widths.items()})
    assert text.startswith(f"wrong cell types: {found}: {reason}")
    assert text.endswith(
        "Allowed are straight-sided triangles ('triangle') and tetrahedra ('tetra')"
    )


@pytest.mark.parametrize("cells", [{}, {"triangle": np.empty((0, 3), dtype=np.int64)}])
def test_no_cells(cells: dict[str, npt.ArrayLike]) -> None:
    assert message(grid(2)[0], cells).startswith("no cells; allowed are straight-sided triangles")


def test_only_lines() -> None:
    text = message(grid(2)[0], {"line": [[0, 1], [1, 2]], "vertex": [[0]]})
    assert text == "wrong cell types: no cell of dimension 2 or 3, only 2 'line'"


def test_arrays_of_wrong_shape() -> None:
    points, cells = grid(2)
    assert message(points, cells[:, :2]).startswith("cells have shape (18, 2)")
    assert message(points[:, :1], cells).startswith("points have shape (16, 1)")
    assert message(points, grid(3, 1)[1]).startswith("wrong coordinates: tetrahedra need points")


def test_missing_points() -> None:
    points, cells = grid(2)
    cells[4, 1] = 99
    cells[6, 0] = -1
    assert message(points, cells) == (
        "missing points: 2 cells use points that do not exist; first cell 4, point 99 of 16"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_coordinates(value: float) -> None:
    points, cells = grid(2)
    points[6, 1] = value
    assert message(points, cells) == (
        "non-finite coordinates: 1 point has NaN or infinite coordinates; "
        f"first point 6 at (0.333333, {value})"
    )


def test_degenerate_triangle() -> None:
    points, cells = grid(2)
    points = np.vstack([points, [[-0.1, 0.0], [-0.2, 0.0]]])
    text = message(points, np.vstack([cells, [[0, 16, 17]]]))
    assert text == "1 degenerate cell without area; first cell 18 at (-0.1, 0)"


def test_degenerate_tetrahedra() -> None:
    points, cells = grid(3, 2)
    # The middle replaced by a corner of the first cube: the cube's six cells lose their inside.
    cells[cells == 13] = 0
    text = message(points, cells)
    assert text.startswith("6 degenerate cells without volume; first cell 0 at (0.25, 0.125, 0)")


@pytest.mark.parametrize("dimension", [2, 3])
def test_swapped_vertices_are_inverted(dimension: int) -> None:
    points, cells = grid(dimension)
    cells[7, :2] = cells[7, 1::-1]
    place = ", ".join(f"{value:.6g}" for value in points[cells[7]].mean(axis=0))
    assert message(points, cells) == (
        f"1 inverted cell, oriented against the other {len(cells) - 1}: a point has crossed its "
        f"neighbours, or the vertices are in the wrong order; first cell 7 at ({place})"
    )


def test_two_cells_of_opposite_orientation_are_too_few_to_be_a_habit() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    text = message(points, np.array([[0, 1, 2], [0, 3, 2]]))
    assert text.startswith("1 inverted cell, oriented against the other 1")
    assert "first cell 1 at" in text


@pytest.mark.parametrize("dimension", [2, 3])
def test_point_across_its_neighbours_is_inverted(dimension: int) -> None:
    points, cells = grid(dimension, 4)
    inside = np.flatnonzero((points == 0.25).all(axis=1))[0]
    points[inside, 0] = 0.9
    assert "inverted cell" in message(points, cells)


@pytest.mark.parametrize("dimension", [2, 3])
def test_folded_cells_overlap_though_orientations_are_mixed(dimension: int) -> None:
    points, cells = grid(dimension, 4)
    cells[::2, :2] = cells[::2, 1::-1]
    check_mesh(points, cells)
    inside = np.flatnonzero((points == 0.25).all(axis=1))[0]
    points[inside, 0] = 0.9
    text = message(points, cells)
    assert "of overlapping cells on one side of a common facet: one of them is inverted" in text


@pytest.mark.parametrize("dimension", [2, 3])
def test_duplicate_cells(dimension: int) -> None:
    points, cells = grid(dimension)
    again = np.roll(cells[[11, 4]], 1, axis=1)
    text = message(points, np.vstack([cells, again]))
    assert text.startswith(f"2 duplicate cells; first cell {len(cells)} at ")
    assert text.endswith("repeats cell 11")


def two_copies(dimension: int, shift: float) -> tuple[FloatArray, IntArray]:
    """Return two unit cubes, the second shifted along the first axis, without common points."""
    points, cells = grid(dimension)
    moved = points + np.eye(dimension)[0] * shift
    return np.vstack([points, moved]), np.vstack([cells, cells + len(points)])


@pytest.mark.parametrize("dimension", [2, 3])
def test_duplicate_points(dimension: int) -> None:
    text = message(*two_copies(dimension, 1 + 1e-13))
    first = 3 * 4 ** (dimension - 1)
    assert text == (
        f"{2 * 4 ** (dimension - 1)} duplicate points: parts were probably not merged; "
        f"first point {first} at ({', '.join(['1'] + ['0'] * (dimension - 1))}), "
        f"where point {4**dimension} lies too"
    )


@pytest.mark.parametrize("dimension", [2, 3])
def test_several_parts(dimension: int) -> None:
    text = message(*two_copies(dimension, 1.5))
    number = 9 * 2 if dimension == 2 else 27 * 6
    name = "edge" if dimension == 2 else "face"
    assert text.startswith(
        f"2 parts that share no {name}, with {number}, {number} cells; "
        f"the second begins with cell {number} at (1."
    )


def test_parts_that_meet_in_a_point_are_several() -> None:
    points, cells = grid(2, 2)
    middle = points[cells].mean(axis=1)
    diagonal = (middle[:, 0] < 0.5) == (middle[:, 1] < 0.5)
    assert message(points, cells[diagonal]).startswith(
        "2 parts that share no edge, with 2, 2 cells"
    )


def test_more_than_ten_parts_are_not_all_listed() -> None:
    points, cells = grid(2, 1)
    shifts = 2.0 * np.arange(12)
    many = np.vstack([points + np.array([shift, 0]) for shift in shifts])
    text = message(many, np.vstack([cells[:1] + 4 * k for k in range(12)]))
    assert text.startswith(
        "12 parts that share no edge, with 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, … cells"
    )


def test_non_manifold_edge() -> None:
    points, cells = grid(2)
    # A third triangle at the inner edge from point 5 to point 6.
    text = message(np.vstack([points, [[0.4, 1.5]]]), np.vstack([cells, [[6, 5, 16]]]))
    assert text.startswith(
        "1 non-manifold edge, shared by more than two cells; first at (0.333333, 0.5)"
    )
    assert "shared by 3 cells" in text


def test_non_manifold_face() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1], [0.1, 0.1, 2.0]])
    cells = np.array([[0, 1, 2, 3], [0, 2, 1, 4], [0, 1, 2, 5]])
    text = message(points, cells)
    assert text.startswith(
        "1 non-manifold face, shared by more than two cells; first at (0.333333, "
    )
    assert text.endswith("shared by 3 cells (0, 1, 2)")


def test_hanging_point_in_the_plane() -> None:
    points = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5], [2, 0.5]])
    # The diagonal is one edge of the first triangle, and two of the others.
    cells = np.array([[0, 2, 3], [0, 1, 4], [1, 2, 4], [1, 5, 2]])
    text = message(points, cells)
    assert text == (
        "1 hanging point inside the facet of a cell that does not have it as a vertex; "
        "first point 4 at (0.5, 0.5)"
    )


def test_hanging_point_in_space() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1], [0.3, 0.3, 0]])
    lower = [[0, 1, 5, 4], [1, 2, 5, 4], [2, 0, 5, 4]]
    cells = np.array([[0, 2, 1, 3], *lower])
    check_mesh(points, np.array(lower))
    assert message(points, cells).startswith("1 hanging point inside the facet of a cell")


def test_file_is_named() -> None:
    with pytest.raises(InputError, match=r"^domain.file: mesh file bad.msh: no cells"):
        check_mesh(grid(2)[0], {}, file="bad.msh")


def test_row_keys_stay_distinct_when_the_product_overflows() -> None:
    bound = 2**40
    rows = np.array([[0, 1, 2], [2**24, 1, 2], [0, 1, 2], [0, 2, 2], [2**39, 2**39, 2**39]])
    keys = _row_keys(rows, bound)
    assert keys[0] == keys[2]
    assert len(np.unique(keys)) == 4
