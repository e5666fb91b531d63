"""Points: one cell each, files of every kind, mistakes with the file's name."""

from __future__ import annotations

import meshio
import numpy as np
import pytest

from congested.errors import InputError
from congested.geometry import barycentric_gradients
from congested.measures.points import Points, locate_uniquely, points_from_file

POINTS = np.array([[0.25, 0.5], [0.5, 0.125], [0.75, 1.0]])


def smallest_coordinate(points, simplices):
    """Smallest barycentric coordinate of each point in its own simplex."""
    gradients = barycentric_gradients(simplices)[:, 1:]
    rest = np.einsum("nij,nj->ni", gradients, points - simplices[:, 0])
    return np.minimum(rest.min(axis=1), 1 - rest.sum(axis=1))


@pytest.mark.parametrize("dimension", [2, 3])
def test_generic_points_lie_in_their_cells(box_cells, dimension):
    points = np.random.default_rng(0).random((2000, dimension))
    cells = box_cells([0] * dimension, [1] * dimension, 5)
    holder = locate_uniquely(points, cells)
    assert smallest_coordinate(points, cells.simplices[holder]).min() > -1e-8
    masses = Points(points).cell_masses(cells)
    np.testing.assert_allclose(
        masses, np.bincount(holder, minlength=cells.number) / 2000, atol=1e-15
    )


@pytest.mark.parametrize("dimension", [2, 3])
def test_points_on_vertices_edges_and_the_boundary_go_to_one_cell_each(box_cells, dimension):
    number = 6
    cells = box_cells([-1] * dimension, [1] * dimension, number)
    axis = np.linspace(-1, 1, 2 * number + 1)
    points = np.stack(np.meshgrid(*[axis] * dimension, indexing="ij"), -1).reshape(-1, dimension)
    holder = locate_uniquely(points, cells)
    assert (holder >= 0).all()
    assert smallest_coordinate(points, cells.simplices[holder]).min() > -1e-7
    masses = Points(points).cell_masses(cells)
    assert masses.sum() == pytest.approx(1.0, abs=1e-14)
    # All masses are whole multiples of a point's.
    counts = masses * len(points)
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)


def test_weights_are_those_given(box_cells):
    cells = box_cells([0, 0], [1, 1], 1)
    measure = Points([[0.9, 0.1], [0.1, 0.9], [0.8, 0.1]], [0.5, 0.2, 0.3])
    masses = measure.cell_masses(cells)
    assert sorted(masses) == pytest.approx([0.2, 0.8], abs=1e-15)


def test_points_a_hair_outside_are_taken(box_cells):
    cells = box_cells([0, 0], [1, 1], 4)
    points = [[1 + 9e-10, 0.3], [-5e-10, -5e-10], [0.5, 1 + 1e-12]]
    assert Points(points).cell_masses(cells).sum() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("excess", [1e-8, 0.1, 1e6])
def test_points_outside_are_counted_and_the_first_is_shown(box_cells, excess):
    cells = box_cells([0, 0], [1, 1], 4)
    points = [[0.5, 0.5], [1 + excess, 0.25], [0.5, 1.0], [0.5, -excess]]
    with pytest.raises(
        InputError, match=r"points: found 2 of 4 points outside .* number 1 at"
    ) as e:
        Points(points).cell_masses(cells)
    assert str([1 + excess, 0.25]) in str(e.value)


def test_samples_are_the_points_with_their_probabilities():
    measure = Points(POINTS, [0.5, 0.25, 0.25])
    uniforms = np.array([[0.0], [0.49], [0.5], [0.74], [0.75], [0.999999], [1.0]])
    np.testing.assert_array_equal(measure.sample(uniforms), POINTS[[0, 0, 1, 1, 2, 2, 2]])
    assert measure.sample_dimension == 1
    np.testing.assert_array_equal(measure.bounds(), [[0.25, 0.125], [0.75, 1.0]])


def test_points_without_weight_are_never_drawn():
    measure = Points(POINTS, [0.0, 1.0, 0.0])
    np.testing.assert_array_equal(measure.sample(np.array([[0.0], [1 - 1e-16]])), POINTS[[1, 1]])


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((0, 2)), "found no point"),
        (np.zeros((3, 4)), "4 coordinates"),
        ([[0.0, np.nan]], "not finite"),
        ([[0.0, 1.0], [2.0]], "points with 2 or 3 coordinates"),
        ([0.0, 1.0], r"shape \(2,\)"),
    ],
)
def test_arrays_that_are_no_points_are_named(points, message):
    with pytest.raises(InputError, match=f"points: .*{message}"):
        Points(points)


def write(path, points):
    """Write points in the format of the file's ending."""
    if path.suffix == ".npy":
        np.save(path, points)
    elif path.suffix in (".csv", ".txt"):
        np.savetxt(path, points, delimiter="," if path.suffix == ".csv" else " ")
    else:
        padded = np.zeros((len(points), 3))
        padded[:, : points.shape[1]] = points
        meshio.Mesh(padded, {"vertex": np.arange(len(points))[:, None]}).write(path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".txt", ".vtu"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_every_format_gives_the_points_back(tmp_path, suffix, dimension):
    points = np.random.default_rng(1).random((5, dimension))
    path = write(tmp_path / f"points{suffix}", points)
    np.testing.assert_array_equal(points_from_file(path).points, points)
    np.testing.assert_array_equal(points_from_file(path, dimension=dimension).points, points)


def test_ply_gives_the_points_back(tmp_path):
    path = tmp_path / "points.ply"
    triangle = meshio.Mesh(np.c_[POINTS, np.zeros(3)], {"triangle": np.array([[0, 1, 2]])})
    triangle.write(path)
    np.testing.assert_array_equal(points_from_file(path).points, POINTS)
    assert points_from_file(path, dimension=3).dimension == 3


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n0.25,0.5\n0.5,0.125\n0.75,1.0\n",
        "0.25, 0.5\n0.5, 0.125\n\n0.75, 1.0",
        "# a comment\n0.25 0.5\n0.5 0.125\n0.75 1.0\n",
        "x y\n0.25\t0.5\n0.5\t0.125\n0.75\t1.0\n",
    ],
)
def test_text_with_names_comments_and_blanks_is_read(tmp_path, text):
    path = tmp_path / "points.csv"
    path.write_text(text)
    np.testing.assert_array_equal(points_from_file(path).points, POINTS)


def test_a_single_point_in_text_is_read(tmp_path):
    path = tmp_path / "point.txt"
    path.write_text("0.25 0.5\n")
    np.testing.assert_array_equal(points_from_file(path).points, [[0.25, 0.5]])


def test_weights_come_from_files_and_arrays(tmp_path):
    path = write(tmp_path / "points.npy", POINTS)
    for name, text in (("row.csv", "0.5,0.25,0.25"), ("column.txt", "0.5\n0.25\n0.25\n")):
        (tmp_path / name).write_text(text)
        np.testing.assert_array_equal(
            points_from_file(path, tmp_path / name).weights, [0.5, 0.25, 0.25]
        )
    np.save(tmp_path / "weights.npy", np.array([0.5, 0.25, 0.25]))
    np.testing.assert_array_equal(
        points_from_file(path, tmp_path / "weights.npy").weights, [0.5, 0.25, 0.25]
    )
    np.testing.assert_array_equal(points_from_file(path, [0.5, 0.5, 0.0]).weights, [0.5, 0.5, 0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.zeros(4), r"shape \(4,\); allowed: \(N, 2\) or \(N, 3\)"),
        ("a.npy", np.zeros((4, 5)), "5 columns; allowed: 2"),
        ("a.npy", np.zeros((0, 2)), "no point"),
        ("a.npy", np.array([["a", "b"]]), "values of type <U1; allowed: numbers"),
        ("a.npy", np.array([[None, 1]], dtype=object), "no NumPy array"),
        ("a.npy", b"not an array", "no NumPy array"),
        ("a.npy", np.array([[0.0, 1.0], [np.inf, 1.0]]), r"\[inf, 1.0\] in row 1"),
        ("a.csv", b"0.5,0.5\n0.5,nan\n", r"nan\] in row 1"),
        ("a.csv", b"0.5,0.5\n0.5\n", "cannot be read"),
        ("a.csv", b"0.5,0.5\n0.5,here\n", "cannot be read"),
        ("a.csv", b"0.5,0.5,0.0\n", "3 columns; allowed: 2"),
        ("a.csv", b"", "no point"),
        ("a.csv", b"x,y\n", "no point"),
        ("a.csv", b"\xff\xfe\x00", "no text"),
        ("a.vtu", b"<VTKFile>", "meshio cannot read"),
        ("a.ply", b"plyable", "meshio cannot read"),
        ("a.xyz", b"0 0\n", "file type .xyz; allowed: .npy, .csv, .txt, .vtu, .ply"),
        ("a.npy", None, "no such file"),
    ],
)
def test_each_mistake_names_the_file(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError, match=message) as error:
        points_from_file(path, dimension=2)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.5\n0.5\n", "allowed: 3 numbers, one for each point of"),
        ("0.5\n0.6\n0.5\n", "found the sum 1.6"),
        ("1.5\n-1.0\n0.5\n", "found -1 at position 1"),
        ("0.5\nnan\n0.5\n", "in row 1"),
    ],
)
def test_each_mistake_in_weights_names_their_file(tmp_path, text, message):
    path, weights = write(tmp_path / "points.npy", POINTS), tmp_path / "weights.txt"
    weights.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        points_from_file(path, weights)
    assert str(error.value).startswith(str(weights))


def test_planar_mesh_points_in_3d_and_solid_ones_in_2d(tmp_path):
    solid = write(tmp_path / "solid.vtu", np.random.default_rng(0).random((4, 3)))
    with pytest.raises(InputError, match="3 columns; allowed: 2"):
        points_from_file(solid, dimension=2)
    flat = write(tmp_path / "flat.vtu", POINTS)
    assert points_from_file(flat, dimension=3).dimension == 3
    # Three columns of text are never planar points.
    text = write(tmp_path / "flat.csv", np.c_[POINTS, np.zeros(3)])
    assert points_from_file(text).dimension == 3
