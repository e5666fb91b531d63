"""The result directory: written so that `result.json` stands for a complete set of files.

`result.json` is removed first and written last. A directory that has one is complete; a
directory without one holds parts of a run that was stopped while writing.
"""

from __future__ import annotations

import csv
import enum
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from congested.errors import InputError
from congested.io.arrays import ResultArrays, save_arrays
from congested.io.fields import check_formats, remove_field_files, write_fields, write_vtu
from congested.io.files import finish_directory, on_root, partial_name, write_text
from congested.io.flow import remove_flow_files

if TYPE_CHECKING:
    from dolfinx.mesh import Mesh

    from congested.certificate import CellFields

#: Draws a picture of (arrays, result) into a file.
Draw = Callable[[ResultArrays, Mapping[str, Any], Path], None]

SCHEMA = 1

RESULT = "result.json"
ARRAYS = "solution.npz"
HISTORY = "history.csv"
OVERVIEW = "overview.png"
PROBLEM = "problem.toml"
COMPARISON = "compare.json"


def plain(value: object, key: str = "result") -> Any:
    """Turn a value into one that strict JSON can hold.

    NaN becomes null, infinities become the strings "inf" and "-inf", NumPy scalars and arrays,
    paths, enums and tuples become the plain thing that they stand for.

    Raises
    ------
    TypeError
        If some part of the value has no JSON form; the text names the part.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value, key)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist(), key)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(part, f"{key}.{name}") for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(part, f"{key}[{index}]") for index, part in enumerate(value)]
    raise TypeError(f"{key}: a {type(value).__name__} has no JSON form")


def json_text(content: Mapping[str, Any]) -> str:
    """Return the text of a JSON file."""
    return json.dumps(plain(content), indent=2, allow_nan=False) + "\n"


def _history_text(history: Sequence[Mapping[str, object]]) -> str:
    """Return the rows as CSV; a column for every key that any row has, in order of appearance."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _clear(directory: Path) -> None:
    """Make the directory and remove what an earlier run left there, result.json first.

    `problem.toml` stays: it may be the very file that the user started from.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in (RESULT, ARRAYS, HISTORY, OVERVIEW):
        (directory / name).unlink(missing_ok=True)
    remove_field_files(directory)
    remove_comparison(directory)
    remove_flow_files(directory)
    for name in (RESULT, ARRAYS, HISTORY, OVERVIEW, PROBLEM):
        partial_name(directory / name).unlink(missing_ok=True)


def remove_comparison(directory: Path) -> None:
    """Remove a comparison with critics and the pictures that it names, nothing else (one rank)."""
    file = directory / COMPARISON
    try:
        critics = json.loads(file.read_text(encoding="utf-8"))["critics"].values()
        pictures = [Path(critic["picture"]).name for critic in critics if critic.get("picture")]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pictures = []  # there is none, or one that somebody else wrote
    file.unlink(missing_ok=True)
    partial_name(file).unlink(missing_ok=True)
    for picture in pictures:
        if picture.startswith("compare_") and picture.endswith(".png"):
            (directory / picture).unlink(missing_ok=True)


def write_result(
    directory: Path | str,
    *,
    result: Mapping[str, Any],
    arrays: ResultArrays | None,
    mesh: Mesh | None,
    fields: CellFields | None,
    comm: MPI.Comm | None = None,
    history: Sequence[Mapping[str, object]] = (),
    problem_text: str | None = None,
    formats: Sequence[str] = ("vtu",),
    draw: Draw | None = None,
) -> Path:
    """Write a result directory (collective).

    Parameters
    ----------
    directory
        Made if it does not exist; every rank must see it. Files of an earlier run are removed.
    result
        Content of result.json (used on rank 0). Its ``seconds.write`` is set and its
        ``seconds.total`` increased by the time that writing took.
    arrays
        What `gather_arrays` returned; None on ranks other than 0, and everywhere when there is no
        solution (infeasible).
    mesh, fields
        Mesh and this rank's cell values for the field files; None on every rank when there is no
        solution.
    comm
        Communicator of the ranks that call this; the mesh's by default.
    history
        Rows of history.csv (used on rank 0); no file if empty.
    problem_text
        The problem file as the user wrote it (used on rank 0), or None.
    formats
        Field files: any of "vtu", "xdmf" and "vtx", see `write_vtu` and `write_fields`.
    draw
        Draws overview.png from (arrays, result, path): `congested.plot.plot_overview`, or None
        for no picture. Passed in because drawing stands above files in the layering.

    Returns
    -------
    pathlib.Path
        The directory.

    Raises
    ------
    InputError
        On every rank, if the directory cannot be made or written to, or a format is not possible.
    CongestedError
        On every rank, if the system refused a file (no space left). If only the picture failed,
        everything else, result.json too, has been written before this is raised.
    """
    started = time.perf_counter()
    directory = Path(directory)
    if comm is None:
        comm = MPI.COMM_WORLD if mesh is None else mesh.comm
    check_formats(formats)
    on_root(comm, lambda: _clear(directory))

    def write_small_files() -> None:
        if problem_text is not None:
            write_text(directory / PROBLEM, problem_text)
        if history:
            write_text(directory / HISTORY, _history_text(history))
        if arrays is not None:
            save_arrays(arrays, directory / ARRAYS)
            if "vtu" in formats:
                write_vtu(arrays, directory)

    on_root(comm, write_small_files)
    if mesh is not None and fields is not None:
        write_fields(mesh, fields, directory, formats)

    def write_last() -> None:
        final = plain(result)
        elapsed = time.perf_counter() - started
        seconds = final.setdefault("seconds", {})
        seconds["write"] = elapsed
        seconds["total"] = (seconds.get("total") or 0.0) + elapsed
        write_text(directory / RESULT, json_text(final))

    pictures = {}
    if draw is not None and arrays is not None:
        pictures[directory / OVERVIEW] = partial(draw, arrays, result)
    finish_directory(comm, pictures, write_last)
    return directory


def read_result(directory: Path | str) -> dict[str, Any]:
    """Read result.json of a result directory.

    Returns
    -------
    dict
        Its content; NaN was written as None, infinities as "inf" and "-inf".

    Raises
    ------
    InputError
        If there is none, if it is damaged, or if it was written under another schema.
    """
    path = Path(directory) / RESULT
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            "no result here; allowed: a directory that `congested solve` has finished writing",
            file=str(path),
        ) from None
    except (ValueError, OSError) as error:
        raise InputError(f"not a readable result: {error}", file=str(path)) from error
    if not isinstance(result, dict):
        found = type(result).__name__
        raise InputError(f"found a {found}; allowed: a table", file=str(path))
    if result.get("schema") != SCHEMA:
        raise InputError(
            f"found {result.get('schema')!r}; allowed: {SCHEMA}", key="schema", file=str(path)
        )
    return result
