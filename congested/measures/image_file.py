"""Images from files: pictures (.png), arrays (.npy) and VTK's regular grids (.vti)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from congested.errors import InputError
from congested.geometry import FloatArray
from congested.measures.base import as_box
from congested.measures.files import chosen_array, file_type, read_npy
from congested.measures.image import Image, check_not_negative

IMAGE_FILES = (".png", ".npy", ".vti")
INDEXINGS = ("picture", "coordinates")

# Rec. 601 luminance in thousandths; in whole numbers white is exactly 1, so that inverted it is 0.
_LUMINANCE = np.array([299, 587, 114])


def image_from_file(
    path: str | Path,
    lower: npt.ArrayLike | None = None,
    upper: npt.ArrayLike | None = None,
    *,
    indexing: str | None = None,
    invert: bool = False,
    array: str | None = None,
) -> Image:
    """Read an image.

    Parameters
    ----------
    path
        ``.png``: grey of 1 to 16 bits, or colour (of 16 bits a channel 8 are read), of which the
        luminance counts: 0.299 R + 0.587 G + 0.114 B of the numbers as they stand in the file. The
        density is luminance times opacity: nothing is where the picture is transparent.
        ``.npy``: numbers ≥ 0 along 2 or 3 axes. ``.vti``: one array of cell data or, where there
        are none, of point data; the voxels are then centred on the points. A grid of one layer in
        z counts as 2D.
    lower, upper
        Corners (d,) of the box that the image fills. None: those of the grid of a ``.vti`` file;
        the other kinds of files know none.
    indexing
        ``"picture"``: the rows of a 2D array are those of a picture, the first on top.
        ``"coordinates"``: ``array[i, j]`` or ``array[i, j, k]`` belongs to x_i, y_j, z_k. None:
        ``"picture"`` for .png and .npy in 2D, ``"coordinates"``, the only choice, for the others.
    invert
        Whether dark means much, as for ink on paper: white minus the value in a .png (times
        opacity: transparent is nothing all the same), the largest value minus it elsewhere.
    array
        Name of the array in a ``.vti`` file; None if there is exactly one.

    Raises
    ------
    InputError
        If the file cannot be read or holds something else, or a value does not go with it; the
        text names the file, what was found and what is allowed.
    """
    path = Path(path)
    suffix = file_type(path, IMAGE_FILES)
    if array is not None and suffix != ".vti":
        raise InputError(
            f'found "{array}"; allowed: nothing, as only .vti files name their arrays',
            key="array",
            file=str(path),
        )
    opacity: FloatArray | float = 1.0
    if suffix == ".png":
        values, opacity = _read_png(path)
    elif suffix == ".npy":
        values = _read_npy(path)
    else:
        values, grid_lower, grid_upper = _read_vti(path, array)
        lower = grid_lower if lower is None else lower
        upper = grid_upper if upper is None else upper
    rows_first = _is_picture(indexing, values.ndim, suffix, path)
    if invert:
        values = (1.0 if suffix == ".png" else values.max()) - values
    values = values * opacity
    for name, corner in (("lower", lower), ("upper", upper)):
        if corner is None:
            raise InputError(
                f"found nothing; allowed: {values.ndim} numbers, as {suffix} files have no place",
                key=name,
                file=str(path),
            )
    try:
        lower, upper = as_box(lower, upper)  # type: ignore[arg-type]
        if len(lower) != values.ndim:
            raise InputError(
                f"found numbers along {values.ndim} axes for the box from {lower.tolist()} to "
                f"{upper.tolist()}; allowed: an axis for each coordinate"
            )
        check_not_negative(values)  # with the index that it has in the file
        return Image(values[::-1].T if rows_first else values, lower, upper)
    except InputError as error:
        key = error.key if error.key in ("lower", "upper") else None
        raise InputError(error.message, key=key, file=str(path)) from error


def _is_picture(indexing: str | None, dimension: int, suffix: str, path: Path) -> bool:
    """Return whether the first axis are rows from the top."""
    if indexing not in (None, *INDEXINGS):
        words = " or ".join(f'"{word}"' for word in INDEXINGS)
        raise InputError(f'found "{indexing}"; allowed: {words}', key="indexing", file=str(path))
    can_be = dimension == 2 and suffix != ".vti"
    if indexing == "picture" and not can_be:
        reason = "as a .vti file has coordinates" if suffix == ".vti" else f"in {dimension}D"
        raise InputError(
            f'found "picture"; allowed: "coordinates", {reason}', key="indexing", file=str(path)
        )
    return can_be and indexing != "coordinates"


def _read_png(path: Path) -> tuple[FloatArray, FloatArray]:
    """Return luminance and opacity (rows, columns) between 0 and 1."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(path, formats=("PNG",)) as picture:
            transparent = picture.info.get("transparency")
            if picture.mode.startswith("I"):  # grey of 16 bits, for which Pillow has no RGBA
                grey = np.asarray(picture, dtype=np.int64)
                seen = np.ones(grey.shape) if transparent is None else 1.0 * (grey != transparent)
                return grey / 65535.0, seen
            colours = np.asarray(picture.convert("RGBA"), dtype=np.int64)
    except Exception as error:  # damaged files end in errors of all the decoders below Pillow
        raise InputError(
            f"found a file that is no picture ({error}); allowed: a valid .png file",
            file=str(path),
        ) from error
    return colours[..., :3] @ _LUMINANCE / 255_000.0, colours[..., 3] / 255.0


def _read_npy(path: Path) -> FloatArray:
    array = read_npy(path, "biuf")
    if array.ndim not in (2, 3) or array.size == 0:
        raise InputError(
            f"found an array of shape {array.shape}; allowed: numbers along 2 or 3 axes",
            file=str(path),
        )
    return array.astype(np.float64)


def _read_vti(path: Path, name: str | None) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return values (n_x, n_y) or (n_x, n_y, n_z) and the corners of the grid."""
    grid = _open_vti(path)
    cells, points = (_scalars(data) for data in (grid.cell_data, grid.point_data))
    offered = cells or points
    if name is not None:
        offered = points | cells
    chosen = chosen_array(sorted(offered), name, path)
    spacing, limits = np.asarray(grid.spacing), np.asarray(grid.bounds).reshape(3, 2)
    lower, upper = limits.T
    if chosen in cells:
        shape = np.maximum(np.asarray(grid.dimensions) - 1, 1)
    else:
        shape = np.asarray(grid.dimensions)
        lower, upper = lower - 0.5 * spacing, upper + 0.5 * spacing
    values = np.asarray(offered[chosen], dtype=np.float64).reshape(shape, order="F")
    if shape[2] == 1:
        values, lower, upper = values[:, :, 0], lower[:2], upper[:2]
    if (lower >= upper).any():
        raise InputError(
            f"found a flat grid between {lower.tolist()} and {upper.tolist()}; allowed: one layer "
            "of cells only in the direction of z",
            file=str(path),
        )
    return values, lower, upper


def _open_vti(path: Path) -> Any:
    import pyvista  # slow to import, and seldom needed

    allowed = "allowed: a valid .vti file"
    # VTK logs every step of its failure on a foreign file; this is seen beforehand.
    head = path.read_bytes()[:4096].decode("latin-1")
    if not re.search(r"<VTKFile[^>]*\btype\s*=\s*[\"']ImageData[\"']", head):
        raise InputError(f"found a file that is no VTK ImageData; {allowed}", file=str(path))
    try:
        with pyvista.vtk_verbosity("off"), pyvista.VtkErrorCatcher(raise_errors=True):
            grid = pyvista.read(path)
    except Exception as error:
        raise InputError(
            f"found a file that VTK cannot read ({' '.join(str(error).split()):.120}); {allowed}",
            file=str(path),
        ) from error
    turned = not np.array_equal(np.asarray(grid.direction_matrix), np.eye(3))
    if turned:
        raise InputError(
            "found a grid whose axes are turned (Direction); allowed: axes along x, y and z",
            file=str(path),
        )
    return grid


def _scalars(data: Any) -> dict[str, Any]:
    """Return the arrays with one number per cell or point."""
    return {
        name: values
        for name, values in data.items()
        if values.ndim == 1 and values.dtype.kind in "biuf" and not name.startswith("vtk")
    }
