"""The pictures: one PNG that shows what went where and how surely, or the weight alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from congested.errors import InputError
from congested.io.arrays import ResultArrays, load_arrays
from congested.io.files import atomic_path
from congested.io.result import ARRAYS, OVERVIEW, read_result
from congested.io.weight import WeightArrays


def plot_overview(arrays: ResultArrays, result: Mapping[str, Any], file: Path) -> None:
    """Draw source, target, weight, flux, gradient and gap indicator into a PNG file (one rank).

    In 2D six panels by matplotlib; in 3D slices, streamlines and iso-surfaces by PyVista, without
    a display. The file appears under its name when it is complete.

    Parameters
    ----------
    arrays
        The solution.
    result
        Content of result.json: title, bounds, values and the penalty's strength are shown.
    file
        PNG file to write.
    """
    with atomic_path(file) as partial:
        if arrays.dimension == 2:
            from congested.plot_plane import plot_plane

            plot_plane(arrays, result, partial)
        else:
            # Loading VTK takes longer than drawing in 2D.
            from congested.plot_volume import plot_volume

            plot_volume(arrays, result, partial)


def plot_weight(arrays: WeightArrays, result: Mapping[str, Any], file: Path) -> None:
    """Draw a weight, beside source and target, into a PNG file (one rank).

    In 2D three panels by matplotlib; in 3D slices and iso-surfaces by PyVista, without a display.
    The file appears under its name when it is complete.

    Parameters
    ----------
    arrays
        The weight.
    result
        Content of weight.json: title, mass, error and method are shown.
    file
        PNG file to write.
    """
    with atomic_path(file) as partial:
        if arrays.dimension == 2:
            from congested.plot_plane import plot_weight_plane

            plot_weight_plane(arrays, result, partial)
        else:
            from congested.plot_volume import plot_weight_volume

            plot_weight_volume(arrays, result, partial)


def plot_directory(directory: Path | str) -> Path:
    """Draw overview.png of a result directory again, from its solution.npz and result.json.

    Returns
    -------
    pathlib.Path
        The picture.

    Raises
    ------
    InputError
        If the directory holds no readable result, or one without a solution (infeasible).
    """
    directory = Path(directory)
    result = read_result(directory)
    if result.get("status") == "infeasible":
        raise InputError(
            "the problem was infeasible: there is no solution to draw", file=str(directory)
        )
    picture = directory / OVERVIEW
    plot_overview(load_arrays(directory / ARRAYS), result, picture)
    return picture
