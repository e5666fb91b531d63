"""Atomic files and errors that every rank sees."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from mpi4py import MPI

from congested.errors import CongestedError, InputError
from congested.io.files import atomic_file, on_root


def test_file_appears_complete_and_readable_by_the_group(tmp_path: Path) -> None:
    path = tmp_path / "result"
    previous = os.umask(0o027)
    try:
        with atomic_file(path) as file:
            file.write(b"abc")
            assert not path.exists()
    finally:
        os.umask(previous)
    assert path.read_bytes() == b"abc"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["result"]


def test_failure_keeps_the_old_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left") as caught, atomic_file(path) as file:
        file.write(b"new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result"]


def test_on_root_returns_the_value() -> None:
    assert on_root(MPI.COMM_SELF, lambda: 7) == 7


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        (PermissionError(13, "Permission denied", "d/f"), InputError, "d/f: .*Permission denied"),
        (FileExistsError(17, "File exists", "d"), InputError, "d: .*File exists"),
        (OSError(28, "No space left on device", "d/f"), CongestedError, "d/f: .*No space left"),
        (InputError("found 1; allowed: 2", key="k"), InputError, "^k: found 1; allowed: 2$"),
        (ZeroDivisionError("a mistake of ours"), ZeroDivisionError, "a mistake of ours"),
    ],
)
def test_on_root_explains_failures(failure: Exception, kind: type[Exception], text: str) -> None:
    def fail() -> None:
        raise failure

    with pytest.raises(kind, match=text) as caught:
        on_root(MPI.COMM_SELF, fail)
    # A full disk is no mistake in the input.
    assert type(caught.value) is kind
