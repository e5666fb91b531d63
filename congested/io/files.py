"""Files written completely or not at all, and errors of one rank that reach all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from mpi4py import MPI

from congested.errors import CongestedError, InputError

Value = TypeVar("Value")


def _explained(error: Exception) -> Exception:
    """Return the error as users should see it: mistakes in the path are theirs, the rest is not."""
    if isinstance(error, OSError):
        text = f"cannot write: {error.strerror or error}"
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
            return InputError(text, file=str(error.filename or "") or None)
        return CongestedError(f"{error.filename}: {text}" if error.filename else text)
    return error


def on_root(comm: MPI.Comm, action: Callable[[], Value]) -> Value | None:
    """Run an action on rank 0 and let every rank fail if it failed (collective).

    Parameters
    ----------
    comm
        Communicator whose ranks all call this.
    action
        Runs on rank 0 only; it must not communicate.

    Returns
    -------
    object or None
        What the action returned on rank 0, None on the other ranks.

    Raises
    ------
    InputError
        On every rank, if the action could not write where it was told to.
    CongestedError
        On every rank, if the system refused otherwise (no space left, say).
    """
    value: Value | None = None
    failure: Exception | None = None
    if comm.rank == 0:
        try:
            value = action()
        except Exception as error:
            failure = error
    # The other ranks learn type and text; the exception itself may hold things (open files,
    # arrays) that cannot be sent.
    shown = None if failure is None else _explained(failure)
    outcome = comm.bcast(
        None if shown is None else (isinstance(shown, InputError), _text(shown)), root=0
    )
    if outcome is None:
        return value
    if shown is not None:
        if shown is failure:
            raise shown
        raise shown from failure
    is_input, text = outcome
    raise InputError(text) if is_input else CongestedError(text)


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, CongestedError) else f"{type(error).__name__}: {error}"


def partial_name(path: Path) -> Path:
    """Return the temporary name, in the same directory, under which a path is prepared."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; when it is complete it takes the place of the real one.

    The data go to a hidden file in the same directory, which then replaces the old one in one
    step (POSIX rename), so that a reader sees the old content or the new and never a part.
    """
    # Not tempfile: its files are readable by their owner alone, results are for the group.
    partial = partial_name(path)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        # A failed write does not know its file.
        error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when it is complete and on the disk."""
    with atomic_path(path) as partial, partial.open("wb") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, in one step (one rank)."""
    with atomic_file(path) as file:
        file.write(text.encode())


def finish_directory(
    comm: MPI.Comm,
    pictures: Mapping[Path, Callable[[Path], None]],
    write_last: Callable[[], None],
) -> None:
    """Draw pictures, then write the file that stands for all others (collective).

    Pictures are the least important files: if one fails, all others are written all the same.

    Parameters
    ----------
    comm
        Communicator whose ranks all call this.
    pictures
        Where pictures go, and what draws each on rank 0.
    write_last
        Writes the last file on rank 0.

    Raises
    ------
    CongestedError
        On every rank, if a picture failed, after the last file has been written.
    """

    def finish() -> dict[Path, Exception]:
        failures = {}
        for picture, draw in pictures.items():
            try:
                draw(picture)
            except Exception as error:  # raised below, when more important things are done
                failures[picture] = error
        write_last()
        return failures

    failures = on_root(comm, finish)

    def report() -> None:
        for picture, failure in (failures or {}).items():
            names = ", ".join(failed.name for failed in failures or {})
            raise CongestedError(
                f"everything but {names} is written to {picture.parent}; the picture "
                f"failed: {failure}"
            ) from failure

    on_root(comm, report)
