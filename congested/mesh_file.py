"""Read mesh files: whatever meshio or its parsers stumble over becomes one error that names it."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path

import meshio

from congested.errors import InputError

logger = logging.getLogger(__name__)


def read_with_meshio(file: Path, key: str) -> meshio.Mesh:
    """Read a mesh file with all its data (not collective).

    Parameters
    ----------
    file
        Path of a file that meshio reads.
    key
        Key of the problem file that names it, for the messages.

    Raises
    ------
    InputError
        If there is no such file, or meshio cannot read it.
    """
    if not file.is_file():
        raise InputError(f"there is no file {file}", key=key)
    if not set(file.suffixes) & set(meshio.extension_to_filetypes):
        allowed = " ".join(sorted(set(meshio.extension_to_filetypes)))
        found = f"mesh file {file}: unknown kind of file '{file.suffix}'"
        raise InputError(f"{found}; allowed are {allowed}", key=key)
    said = io.StringIO()
    try:
        # meshio prints, and ends the process where it cannot read; its readers raise whatever
        # they stumble over.
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            contents = meshio.read(file)
    except (Exception, SystemExit) as error:
        reason = said.getvalue() if isinstance(error, SystemExit) else repr(error)
        text = f"mesh file {file}: meshio cannot read it"
        raise InputError(f"{text} ({' '.join(reason.split())})", key=key) from error
    if said.getvalue().strip():
        logger.warning("meshio on %s: %s", file, " ".join(said.getvalue().split()))
    return contents
