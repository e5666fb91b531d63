"""Fields from mesh files: every format with data, which array, and every mistake."""

from __future__ import annotations

from pathlib import Path

import meshio
import numpy as np
import pytest

from congested.errors import InputError
from congested.geometry import cells_from_arrays
from congested.measures.mesh_field import mesh_field_from_file

SQUARE = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
TRIANGLES = np.array([[0, 1, 2], [0, 2, 3]])
SIDES = np.array([[0, 1], [1, 2]])


def square(**data: dict[str, object]) -> meshio.Mesh:
    """Return a mesh of two triangles with data."""
    return meshio.Mesh(SQUARE, [("triangle", TRIANGLES)], **data)


@pytest.mark.parametrize("ending", ["vtu", "vtk", "xdmf", "msh"])
def test_cell_data_of_every_format(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    data = {"mass": [np.array([1.0, 3.0])]}
    if ending == "msh":
        data["gmsh:physical"] = data["gmsh:geometrical"] = [np.array([1, 2])]
        meshio.write(file, square(cell_data=data), file_format="gmsh22")
    else:
        meshio.write(file, square(cell_data=data))
    for name in (None, "mass"):
        field = mesh_field_from_file(file, name)
        np.testing.assert_array_equal(field.cell_values, [1.0, 3.0])
        assert field.point_values is None
        assert field.dimension == 2
        assert field.integral == pytest.approx(2.0, rel=1e-15)
    if ending == "msh":
        tags = mesh_field_from_file(file, "gmsh:physical")
        np.testing.assert_array_equal(tags.cell_values, [1.0, 2.0])


@pytest.mark.parametrize("ending", ["vtu", "vtk", "xdmf"])
def test_point_data_of_every_format(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    values = np.array([1.0, 2.0, 3.0, 7.0])
    flow = np.zeros((4, 3))
    meshio.write(file, square(point_data={"height": values, "flow": flow}))
    field = mesh_field_from_file(file)
    np.testing.assert_array_equal(field.point_values, values)
    assert field.cell_values is None
    cells = cells_from_arrays(SQUARE[:, :2], TRIANGLES)
    np.testing.assert_allclose(field.cell_masses(cells), [6 / 17, 11 / 17], rtol=1e-15)


def test_blocks_of_cells_and_unused_points_keep_their_values(tmp_path):
    # Triangles in two blocks with sides between them; the first point belongs to no triangle.
    points = np.concatenate([[[9.0, 9.0, 0.0]], SQUARE])
    blocks = [
        ("triangle", 1 + TRIANGLES[:1]),
        ("line", np.array([[0, 1], [1, 2]])),
        ("triangle", 1 + TRIANGLES[1:]),
    ]
    mesh = meshio.Mesh(
        points,
        blocks,
        cell_data={"mass": [np.array([5]), np.array([8, 9]), np.array([7])]},
        point_data={"height": np.array([90.0, 1, 2, 3, 4])},
    )
    meshio.write(tmp_path / "a.vtu", mesh)
    by_cell = mesh_field_from_file(tmp_path / "a.vtu", "mass")
    np.testing.assert_array_equal(by_cell.cell_values, [5, 7])
    by_point = mesh_field_from_file(tmp_path / "a.vtu", "height")
    np.testing.assert_array_equal(by_point.point_values, [1, 2, 3, 4])
    np.testing.assert_array_equal(by_point.points, SQUARE[:, :2])


def test_a_column_of_one_number_is_a_scalar(tmp_path):
    # How DOLFINx writes scalars to XDMF.
    mesh = square(point_data={"height": np.array([[1.0], [2.0], [3.0], [7.0]])})
    meshio.write(tmp_path / "a.xdmf", mesh)
    np.testing.assert_array_equal(
        mesh_field_from_file(tmp_path / "a.xdmf").point_values, [1, 2, 3, 7]
    )


def test_tetrahedra(tmp_path):
    points = np.concatenate([np.zeros((1, 3)), np.eye(3)])
    mesh = meshio.Mesh(points, [("tetra", [[0, 1, 2, 3]])], point_data={"height": [0, 0, 0, 4]})
    meshio.write(tmp_path / "a.vtu", mesh)
    field = mesh_field_from_file(tmp_path / "a.vtu")
    assert field.integral == pytest.approx(1 / 6, rel=1e-15)


def error_of(file: Path, array: str | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        mesh_field_from_file(file, array)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    return caught.value


def test_the_arrays_of_the_file_are_named(tmp_path):
    file = tmp_path / "a.vtu"
    meshio.write(
        file,
        square(
            cell_data={"mass": [[1.0, 2.0]], "both": [[1.0, 2.0]], "flow": [np.zeros((2, 3))]},
            point_data={"height": [1.0, 2, 3, 4], "both": [1.0, 2, 3, 4]},
        ),
    )
    error = error_of(file)
    assert (error.key, error.file) == ("array", str(file))
    assert error.message == (
        'found nothing, and 3 arrays in the file; allowed: one of "both", "height", "mass"'
    )
    error = error_of(file, "hight")
    assert (error.key, error.file) == ("array", str(file))
    assert error.message == (
        'found "hight" (did you mean "height"?); allowed: "both", "height", "mass"'
    )
    assert error_of(file, "flow").message == 'found "flow"; allowed: "both", "height", "mass"'
    assert error_of(file, "both").message.startswith('found "both" both as cell data and as point')


def test_a_mesh_without_data(tmp_path):
    meshio.write(tmp_path / "a.vtu", square())
    error = error_of(tmp_path / "a.vtu")
    assert error.message.startswith("found no array of one number per cell or point; allowed: ")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, -3.0], 'array "mass": found -3 at position 1; allowed: numbers >= 0'),
        ([1.0, np.nan], 'array "mass": found a number that is not finite'),
        ([0.0, 0.0], 'array "mass": found only zeros; allowed: at least one number > 0'),
    ],
)
def test_values_that_are_no_density(tmp_path, values, message):
    meshio.write(tmp_path / "a.vtu", square(cell_data={"mass": [values]}))
    assert error_of(tmp_path / "a.vtu").message.startswith(message)


def test_files_that_hold_no_mesh(tmp_path):
    error = error_of(tmp_path / "a.vtu")
    assert (error.key, error.message) == ("file", f"there is no file {tmp_path / 'a.vtu'}")
    (tmp_path / "a.vtu").write_text("hello")
    assert "meshio cannot read it (" in error_of(tmp_path / "a.vtu").message
    (tmp_path / "a.dat2").write_text("hello")
    assert "unknown kind of file '.dat2'; allowed are " in error_of(tmp_path / "a.dat2").message


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (meshio.Mesh(SQUARE, [("line", SIDES)]), "wrong cell types: no cell of dimension 2 or 3"),
        (meshio.Mesh(SQUARE, [("quad", [[0, 1, 2, 3]])]), "wrong cell types: 1 'quad'"),
        (meshio.Mesh(SQUARE, [("triangle", [[0, 1, 1]])]), "1 degenerate cell without area"),
        (
            meshio.Mesh(SQUARE, [("triangle", [[0, 1, 2], [0, 1, 3]])]),
            "1 pair of overlapping cells",
        ),
        (
            meshio.Mesh(SQUARE + np.outer([0, 1, 0, 0], [0, 0, 1]), square().cells),
            "wrong cell types: a surface in space",
        ),
    ],
)
def test_defects_of_the_mesh_are_those_of_domains(tmp_path, mesh, message):
    meshio.write(tmp_path / "a.vtu", mesh)
    error = error_of(tmp_path / "a.vtu")
    assert error.key == "file"
    assert error.message.startswith(f"mesh file {tmp_path / 'a.vtu'}: {message}")
