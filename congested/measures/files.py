"""What all readers of files share: is it there, is it of a known kind, which array of it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from congested.errors import InputError

# Coordinates in files are rounded: points that lie outside the domain by less than this part of its
# size are moved inside.
NEAR = 1e-9


def file_type(path: Path, allowed: Sequence[str]) -> str:
    """Return the ending of an existing file in small letters.

    Raises
    ------
    InputError
        If the ending is not among those allowed or there is no such file.
    """
    suffix = path.suffix.lower()
    if suffix not in allowed:
        raise InputError(
            f"found the file type {suffix or 'without ending'}; allowed: {', '.join(allowed)}",
            file=str(path),
        )
    if not path.is_file():
        raise InputError("found no such file; allowed: an existing file", file=str(path))
    return suffix


def read_npy(path: Path, kinds: str = "fiu") -> npt.NDArray[Any]:
    """Read an array of numbers from a .npy file.

    Parameters
    ----------
    path
        The file.
    kinds
        NumPy's letters of the kinds of numbers allowed.

    Raises
    ------
    InputError
        If the file holds something else.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"found no NumPy array ({error}); allowed: an array of numbers", file=str(path)
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
        kind = getattr(array, "dtype", type(array).__name__)
        raise InputError(f"found values of type {kind}; allowed: numbers", file=str(path))
    return array


def chosen_array(names: Sequence[str], wanted: str | None, path: Path) -> str:
    """Return the name that is wanted, or the only one there is.

    Parameters
    ----------
    names
        Names of the arrays of a file that can be used.
    wanted
        The name asked for; None if there is exactly one.
    path
        The file, for the messages.

    Raises
    ------
    InputError
        With key ``array``, if there is no such array, none at all, or several to choose from.
    """
    listed = ", ".join(f'"{name}"' for name in names)
    if wanted is not None:
        if wanted in names:
            return wanted
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)
        hint = f' (did you mean "{near[0]}"?)' if near else ""
        allowed = listed or "a file with an array of one number per cell or point"
        raise InputError(f'found "{wanted}"{hint}; allowed: {allowed}', key="array", file=str(path))
    if not names:
        raise InputError(
            "found no array of one number per cell or point; allowed: a file with one",
            file=str(path),
        )
    if len(names) > 1:
        raise InputError(
            f"found nothing, and {len(names)} arrays in the file; allowed: one of {listed}",
            key="array",
            file=str(path),
        )
    return names[0]
