"""What the tests on any number of ranks share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mpi4py import MPI


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """Give every rank the same empty directory."""
    world = MPI.COMM_WORLD
    path = world.bcast(tempfile.mkdtemp() if world.rank == 0 else None, root=0)
    yield Path(path)
    world.Barrier()
    if world.rank == 0:
        shutil.rmtree(path)
