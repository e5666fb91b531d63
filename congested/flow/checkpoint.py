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

#: Name of the file in the directory of a flow.
CHECKPOINT = "flow.checkpoint.npz"


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


def load_tally(path: Path, field: FlowField, plan: Plan) -> Tally:
    """Read the tally of `save_tally` (one rank).

    Raises
    ------
    InputError
        If there is none, or if it is one of another flow, number of particles or seed.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found: dict[str, Any] = {name: stored[name] for name in stored.files}
        planned = found.pop("plan").tolist()
        flow = str(found.pop("flow"))
        tally = tally_from_arrays(found)
    except FileNotFoundError:
        allowed = "allowed: the directory of a flow that was stopped"
        raise InputError(
            f"found no {path.name}, so that nothing is left to do; {allowed}",
            key="--resume",
            file=str(path.parent),
        ) from None
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, TypeError, OSError) as error:
        found_text = f"found what is no checkpoint of a flow ({error})"
        raise InputError(
            f"{found_text}; allowed: that of a stopped flow", file=str(path)
        ) from error
    if planned != [plan.particles, plan.seed]:
        words = f"found {planned[0]} particles with seed {planned[1]}"
        asked = f"{plan.particles} with seed {plan.seed}, as asked for"
        raise InputError(f"{words}; allowed: {asked}", key="--resume", file=str(path))
    if flow != fingerprint(field):
        raise InputError(
            "found the particles of another flow; allowed: those of this solution",
            key="--resume",
            file=str(path),
        )
    return tally
