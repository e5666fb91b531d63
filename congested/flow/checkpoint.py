"""What is kept of a simulation that may be stopped: its tally, and what it is a tally of."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from congested.errors import InputError
from congested.flow.field import FlowField
from congested.flow.simulate import Plan, Tally, tally_from_arrays
from congested.io.arrays import save_npz


def fingerprint(field: FlowField) -> str:
    """Return a text that tells two flows apart."""
    digest = hashlib.sha256(repr(field.strength).encode())
    for name in ("vertices", "cells", "flux", "source", "target", "growth", "weight"):
        digest.update(np.ascontiguousarray(getattr(field, name)).tobytes())
    return digest.hexdigest()


def save_tally(path: Path, field: FlowField, plan: Plan, tally: Tally) -> None:
    """Write a tally, in one step (one rank).

    Raises
    ------
    OSError
        If the file cannot be written; an older one is then still there.
    """
    names = {"plan": np.array([plan.particles, plan.seed]), "flow": np.array(fingerprint(field))}
    save_npz(path, tally.arrays() | names)


def _read(path: Path) -> dict[str, Any]:
    """Return the arrays of a checkpoint by name."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        found = f"found no {path.name}, so that nothing is left to do"
        raise InputError(
            f"{found}; allowed: the directory of a flow that was stopped",
            key="--resume",
            file=str(path.parent),
        ) from None
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    found = f"found what is no checkpoint of a flow ({error})"
    return InputError(f"{found}; allowed: that of a stopped flow", file=str(path))


def planned(path: Path) -> tuple[int, int]:
    """Return number of particles and seed of a checkpoint (one rank).

    Raises
    ------
    InputError
        If there is no checkpoint.
    """
    try:
        particles, seed = _read(path)["plan"].tolist()
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    return int(particles), int(seed)


def load_tally(path: Path, field: FlowField, plan: Plan) -> Tally:
    """Read the tally of `save_tally` (one rank).

    Raises
    ------
    InputError
        If there is none, or if it is one of another flow, number of particles or seed.
    """
    found = _read(path)
    try:
        stored_plan, flow = found.pop("plan").tolist(), str(found.pop("flow"))
        tally = tally_from_arrays(found)
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    if stored_plan != [plan.particles, plan.seed]:
        words = f"found {stored_plan[0]} particles with seed {stored_plan[1]}"
        asked = f"{plan.particles} with seed {plan.seed}, as asked for"
        raise InputError(f"{words}; allowed: {asked}", key="--resume", file=str(path))
    if flow != fingerprint(field):
        raise InputError(
            "found the particles of another flow; allowed: those of this solution",
            key="--resume",
            file=str(path),
        )
    return tally
