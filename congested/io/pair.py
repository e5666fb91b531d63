"""Writing a ray-monotone pair, in one step."""

from __future__ import annotations

from pathlib import Path

from congested.errors import InputError
from congested.io.files import write_text
from congested.measures.ray_file import pair_text
from congested.measures.ray_monotone import RayMonotonePair


def write_pair(pair: RayMonotonePair, path: str | Path) -> None:
    """Write a pair to a .json file that ``pair_from_file`` and problem files read (one rank).

    Parameters
    ----------
    pair
        The pair, in any dimension.
    path
        The file; an older one is replaced when the new one is complete.

    Raises
    ------
    InputError
        If the name does not end in .json, or the file cannot be written there.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise InputError(f"found the name {path.name}; allowed: one that ends in .json")
    try:
        write_text(path, pair_text(pair))
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror or error}", file=str(path)) from error
