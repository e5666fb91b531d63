"""Images from files: which way is up, what counts, and every mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvista
from PIL import Image as Pillow

from congested.errors import InputError
from congested.measures.image_file import image_from_file

# Rows from the top of a picture, three wide and two high; and the same by coordinates.
ROWS = np.array([[10, 20, 30], [0, 50, 70]])
BY_COORDINATES = np.array([[0, 10], [50, 20], [70, 30]])
BOX = ([0.0, 0.0], [3.0, 2.0])


def write_png(file: Path, rows: np.ndarray, **options: object) -> Path:
    """Write a picture; the kind of numbers and of axes decides its mode."""
    Pillow.fromarray(rows).save(file, **options)
    return file


def write_vti(file: Path, dimensions: tuple[int, ...], **arrays: np.ndarray) -> Path:
    """Write a grid with spacings 1, 2, 4 from (5, 6, 7) on; names begin with cell_ or point_."""
    grid = pyvista.ImageData(dimensions=dimensions, spacing=(1, 2, 4), origin=(5, 6, 7))
    for name, values in arrays.items():
        kind, _, short = name.partition("_")
        data = {"cell": grid.cell_data, "point": grid.point_data}[kind]
        data[short] = values
    grid.save(file)
    return file


# --- pictures --------------------------------------------------------------------------------


def test_the_first_row_of_a_picture_is_on_top(tmp_path):
    image = image_from_file(write_png(tmp_path / "a.png", ROWS.astype(np.uint8)), *BOX)
    np.testing.assert_allclose(image.values, BY_COORDINATES / 255.0, rtol=1e-15)
    # The upper left pixel holds 10 of 180, the lower right one 70.
    corners = image.density(np.array([[0.5, 1.5], [2.5, 0.5], [0.5, 0.5]]))
    np.testing.assert_allclose(corners, np.array([10, 70, 0]) / 180.0, rtol=1e-15)
    np.testing.assert_array_equal(image.lower, BOX[0])
    np.testing.assert_array_equal(image.upper, BOX[1])


def test_grey_of_sixteen_bits_keeps_its_digits(tmp_path):
    rows = (257 * ROWS + 3).astype(np.uint16)
    image = image_from_file(write_png(tmp_path / "a.png", rows), *BOX)
    np.testing.assert_allclose(image.values, (257 * BY_COORDINATES + 3) / 65535.0, rtol=1e-15)
    clear = write_png(tmp_path / "b.png", rows, transparency=int(rows[0, 0]))
    values = image_from_file(clear, *BOX).values
    assert values[0, 1] == 0.0
    np.testing.assert_array_equal(values[1:], image.values[1:])


def test_black_and_white(tmp_path):
    image = image_from_file(write_png(tmp_path / "a.png", ROWS > 25), *BOX)
    np.testing.assert_array_equal(image.values, BY_COORDINATES > 25)


def test_colours_count_by_their_luminance(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    image = image_from_file(write_png(tmp_path / "a.png", colours), *BOX)
    np.testing.assert_allclose(image.values, [[0.114, 0.299], [1.0, 0.587]], rtol=1e-15)
    palette = Pillow.fromarray(colours).quantize(8)
    palette.save(tmp_path / "b.png")
    np.testing.assert_array_equal(image_from_file(tmp_path / "b.png", *BOX).values, image.values)


@pytest.mark.parametrize("invert", [False, True])
def test_what_is_transparent_is_nothing(tmp_path, invert):
    # Grey and opacity: opaque black, half-clear white, clear black, clear white, in a row.
    row = np.array([[[0, 255], [255, 128], [0, 0], [255, 0]]], np.uint8)
    file = tmp_path / "a.png"
    bands = [Pillow.fromarray(np.ascontiguousarray(row[..., k])) for k in range(2)]
    Pillow.merge("LA", bands).save(file)
    expected = [1.0, 0.0, 0.0, 0.0] if invert else [0.0, 128 / 255, 0.0, 0.0]
    image = image_from_file(file, [0, 0], [4, 1], invert=invert)
    np.testing.assert_array_equal(image.values[:, 0], expected)


def test_ink_on_paper_is_inverted(tmp_path):
    rows = np.where(ROWS == 0, 255, ROWS).astype(np.uint8)
    image = image_from_file(write_png(tmp_path / "a.png", rows), *BOX, invert=True)
    expected = np.where(BY_COORDINATES == 0, 0, 255 - BY_COORDINATES) / 255.0
    np.testing.assert_allclose(image.values, expected, rtol=1e-15)
    assert image.values[0, 0] == 0.0  # white paper is exactly nothing


def test_a_picture_by_coordinates(tmp_path):
    file = write_png(tmp_path / "a.png", ROWS.astype(np.uint8))
    image = image_from_file(file, [0, 0], [2, 3], indexing="coordinates")
    np.testing.assert_allclose(image.values, ROWS / 255.0, rtol=1e-15)


# --- arrays ----------------------------------------------------------------------------------


def test_arrays_in_the_plane_are_pictures_unless_told(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    for indexing in (None, "picture"):
        image = image_from_file(tmp_path / "a.npy", *BOX, indexing=indexing)
        np.testing.assert_array_equal(image.values, BY_COORDINATES)
    image = image_from_file(tmp_path / "a.npy", *BOX, indexing="coordinates")
    np.testing.assert_array_equal(image.values, ROWS)
    inverted = image_from_file(tmp_path / "a.npy", *BOX, invert=True)
    np.testing.assert_array_equal(inverted.values, 70 - BY_COORDINATES)


def test_arrays_in_space_go_by_coordinates(tmp_path):
    values = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    for indexing in (None, "coordinates"):
        image = image_from_file(tmp_path / "a.npy", [0] * 3, [1] * 3, indexing=indexing)
        np.testing.assert_array_equal(image.values, values)


def test_arrays_of_booleans_are_shapes(tmp_path):
    np.save(tmp_path / "a.npy", ROWS > 25)
    np.testing.assert_array_equal(
        image_from_file(tmp_path / "a.npy", *BOX).values, BY_COORDINATES > 25
    )


# --- VTK -------------------------------------------------------------------------------------


def test_voxels_of_a_grid_fill_its_box(tmp_path):
    values = np.arange(24.0)  # x runs fastest
    file = write_vti(tmp_path / "a.vti", (3, 4, 5), cell_mass=values)
    image = image_from_file(file)
    assert image.values.shape == (2, 3, 4)
    for i, j, k in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 2, 3)):
        assert image.values[i, j, k] == i + 2 * j + 6 * k
    np.testing.assert_array_equal(image.lower, [5, 6, 7])
    np.testing.assert_array_equal(image.upper, [7, 12, 23])
    moved = image_from_file(file, [0, 0, 0], [1, 1, 1], indexing="coordinates", array="mass")
    np.testing.assert_array_equal(moved.values, image.values)
    np.testing.assert_array_equal([*moved.lower, *moved.upper], [0, 0, 0, 1, 1, 1])
    inverted = image_from_file(file, invert=True)
    np.testing.assert_array_equal(inverted.values, 23 - image.values)


def test_point_data_are_the_centres_of_voxels(tmp_path):
    image = image_from_file(write_vti(tmp_path / "a.vti", (2, 3, 4), point_mass=np.arange(24.0)))
    assert image.values[1, 2, 3] == 23
    assert image.values[1, 0, 0] == 1
    np.testing.assert_array_equal(image.lower, [4.5, 5, 5])
    np.testing.assert_array_equal(image.upper, [6.5, 11, 21])


@pytest.mark.parametrize(
    ("dimensions", "kind", "upper"),
    [((4, 3, 1), "cell", [8, 10]), ((4, 3, 2), "cell", [8, 10]), ((3, 2, 1), "point", [7.5, 9])],
)
def test_one_layer_in_z_is_an_image_of_the_plane(tmp_path, dimensions, kind, upper):
    file = write_vti(tmp_path / "a.vti", dimensions, **{f"{kind}_mass": np.arange(6.0)})
    image = image_from_file(file)
    np.testing.assert_array_equal(image.values, [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(image.upper, upper)


def test_arrays_of_a_grid_are_chosen_by_name(tmp_path):
    file = write_vti(
        tmp_path / "a.vti",
        (3, 3, 1),
        cell_one=np.arange(4.0),
        cell_two=np.arange(4.0, 8.0),
        cell_flow=np.zeros((4, 3)),
        point_three=np.arange(9.0),
    )
    assert image_from_file(file, array="two").values[1, 0] == 5.0
    assert image_from_file(file, array="three").values.shape == (3, 3)
    with pytest.raises(InputError) as caught:
        image_from_file(file, array="tow")
    assert caught.value.key == "array"
    assert caught.value.file == str(file)
    assert caught.value.message == (
        'found "tow" (did you mean "two"?); allowed: "one", "three", "two"'
    )
    with pytest.raises(InputError, match=r'array: found nothing, and 2 arrays .*: one of "one", '):
        image_from_file(file)


def test_cell_data_come_before_point_data(tmp_path):
    file = write_vti(tmp_path / "a.vti", (3, 3, 1), cell_one=np.ones(4), point_two=np.arange(9.0))
    assert image_from_file(file).values.shape == (2, 2)


# --- mistakes --------------------------------------------------------------------------------

Maker = Callable[[Path], object]
MISTAKES: dict[str, tuple[str, Maker, dict[str, object], str | None, str]] = {
    "no file": (
        "a.png",
        lambda file: None,
        {},
        None,
        "found no such file; allowed: an existing file",
    ),
    "other type": (
        "a.jpg",
        lambda file: file.write_bytes(b""),
        {},
        None,
        "found the file type .jpg; allowed: .png, .npy, .vti",
    ),
    "no picture": (
        "a.png",
        lambda file: file.write_text("hello"),
        {},
        None,
        "found a file that is no picture (",
    ),
    "half a picture": (
        "a.png",
        lambda file: file.write_bytes(
            write_png(file, np.eye(99, dtype=np.uint8)).read_bytes()[:90]
        ),
        {},
        None,
        "found a file that is no picture (",
    ),
    "black": (
        "a.png",
        lambda file: write_png(file, np.zeros((2, 2), np.uint8)),
        {},
        None,
        "found only zeros; allowed: at least one number > 0",
    ),
    "white paper": (
        "a.png",
        lambda file: write_png(file, np.full((2, 2, 3), 255, np.uint8)),
        {"invert": True},
        None,
        "found only zeros",
    ),
    "no box": (
        "a.png",
        lambda file: write_png(file, ROWS.astype(np.uint8)),
        {"lower": None, "upper": None},
        "lower",
        "found nothing; allowed: 2 numbers, as .png files have no place",
    ),
    "no upper corner": (
        "a.npy",
        lambda file: np.save(file, np.ones((2, 2, 2))),
        {"lower": [0, 0, 0], "upper": None},
        "upper",
        "found nothing; allowed: 3 numbers, as .npy files have no place",
    ),
    "box of another dimension": (
        "a.png",
        lambda file: write_png(file, ROWS.astype(np.uint8)),
        {"lower": [0, 0, 0], "upper": [1, 1, 1]},
        None,
        "found numbers along 2 axes for the box from [0.0, 0.0, 0.0] to [1.0, 1.0, 1.0]; allowed: ",
    ),
    "box without an inside": (
        "a.png",
        lambda file: write_png(file, ROWS.astype(np.uint8)),
        {"lower": [0, 1]},
        "upper",
        "found [1.0, 1.0]; allowed: larger than lower = [0.0, 1.0]",
    ),
    "indexing": (
        "a.png",
        lambda file: write_png(file, ROWS.astype(np.uint8)),
        {"indexing": "matrix"},
        "indexing",
        'found "matrix"; allowed: "picture" or "coordinates"',
    ),
    "picture in space": (
        "a.npy",
        lambda file: np.save(file, np.ones((2, 2, 2))),
        {"lower": [0, 0, 0], "upper": [1, 1, 1], "indexing": "picture"},
        "indexing",
        'found "picture"; allowed: "coordinates", in 3D',
    ),
    "picture of a grid": (
        "a.vti",
        lambda file: write_vti(file, (3, 3, 1), cell_a=np.ones(4)),
        {"indexing": "picture"},
        "indexing",
        'found "picture"; allowed: "coordinates", as a .vti file has coordinates',
    ),
    "name of an array in a picture": (
        "a.png",
        lambda file: write_png(file, ROWS.astype(np.uint8)),
        {"array": "red"},
        "array",
        'found "red"; allowed: nothing, as only .vti files name their arrays',
    ),
    "pickled": (
        "a.npy",
        lambda file: np.save(file, np.array([{}], dtype=object)),
        {},
        None,
        "found no NumPy array (",
    ),
    "text": (
        "a.npy",
        lambda file: np.save(file, np.array([["a"]])),
        {},
        None,
        "found values of type <U1; allowed: numbers",
    ),
    "one axis": (
        "a.npy",
        lambda file: np.save(file, np.ones(4)),
        {},
        None,
        "found an array of shape (4,); allowed: numbers along 2 or 3 axes",
    ),
    "empty": (
        "a.npy",
        lambda file: np.save(file, np.ones((0, 2))),
        {"invert": True},
        None,
        "found an array of shape (0, 2)",
    ),
    "negative": (
        "a.npy",
        lambda file: np.save(file, [[1.0, -1.0]]),
        {"indexing": "coordinates"},
        None,
        "found -1 at [0, 1]; allowed: numbers >= 0",
    ),
    "negative in a picture": (  # named as the file has it, not as (x, y)
        "a.npy",
        lambda file: np.save(file, [[1.0, 1.0, 1.0], [1.0, 1.0, -1.0]]),
        {"indexing": "picture"},
        None,
        "found -1 at [1, 2]; allowed: numbers >= 0",
    ),
    "NaN": (
        "a.npy",
        lambda file: np.save(file, [[1.0, np.nan]]),
        {"invert": True},
        None,
        "found a number that is not finite",
    ),
    "no VTK": (
        "a.vti",
        lambda file: file.write_text("hello"),
        {},
        None,
        "found a file that is no VTK ImageData; allowed: a valid .vti file",
    ),
    "VTK of another kind": (
        "a.vti",
        lambda file: file.write_bytes(b'<VTKFile type="RectilinearGrid" version="1.0"></VTKFile>'),
        {},
        None,
        "found a file that is no VTK ImageData",
    ),
    "half a grid": (
        "a.vti",
        lambda file: file.write_bytes(
            write_vti(file, (3, 3, 1), cell_a=np.ones(4)).read_bytes()[:400]
        ),
        {},
        None,
        "found a file that VTK cannot read (",
    ),
    "grid without scalars": (
        "a.vti",
        lambda file: write_vti(file, (3, 3, 1), cell_flow=np.ones((4, 2))),
        {},
        None,
        "found no array of one number per cell or point; allowed: a file with one",
    ),
    "grid without scalars, but a name": (
        "a.vti",
        lambda file: write_vti(file, (3, 3, 1), cell_flow=np.ones((4, 2))),
        {"array": "flow"},
        "array",
        'found "flow"; allowed: a file with an array of one number per cell or point',
    ),
    "grid flat in x": (
        "a.vti",
        lambda file: write_vti(file, (1, 3, 3), cell_a=np.ones(4)),
        {},
        None,
        "found a flat grid between [5.0, 6.0, 7.0] and [5.0, 10.0, 15.0]; allowed: one layer of",
    ),
}


@pytest.mark.parametrize(
    ("name", "make", "options", "key", "message"), MISTAKES.values(), ids=MISTAKES.keys()
)
def test_mistakes_are_named(tmp_path, name, make, options, key, message):
    file = tmp_path / name
    make(file)
    box = {} if name.endswith(".vti") else {"lower": [0, 0], "upper": [1, 1]}
    with pytest.raises(InputError) as caught:
        image_from_file(file, **(box | options))
    assert caught.value.key == key
    assert caught.value.message.startswith(message)
    assert caught.value.file == str(file)
    assert "\n" not in str(caught.value)


def test_a_turned_grid_is_refused(tmp_path):
    grid = pyvista.ImageData(dimensions=(3, 3, 1))
    grid.cell_data["a"] = np.ones(4)
    grid.direction_matrix = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    grid.save(tmp_path / "a.vti")
    with pytest.raises(InputError, match="found a grid whose axes are turned"):
        image_from_file(tmp_path / "a.vti")
