"""What is kept of a simulation that may be stopped: its tally, and what it is a tally of."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from congested.errors import InputError
from congested.flow.field import FlowField
from congested.flow.simulate import Plan, Tally, tally_from_arrays
from congested.io.arrays import save_npz

#: Format of the file.
SCHEMA = 1


def fingerprint(field: FlowField) -> str:
    """Return a text that tells two flows apart."""
    digest = hashlib.sha256(repr(field.strength).encode())
    for name in ("vertices", "cells", "flux", "source", "target", "growth", "weight"):
        digest.update(np.ascontiguousarray(getattr(field, name)).tobytes())
    return digest.hexdigest()


def save_tally(
    path: Path, field: FlowField, tally: Tally, options: Mapping[str, int | str]
) -> None:
    """Write a tally, in one step (one rank).

    Parameters
    ----------
    path
        The file.
    field, tally
        The flow, and the particles so far.
    options
        How it was asked for; among these are ``particles`` and ``seed``.

    Raises
    ------
    OSError
        If the file cannot be written; an older one is then still there.
    """
    texts = {"options": json.dumps(dict(options)), "flow": fingerprint(field)}
    more = {name: np.array(value) for name, value in (texts | {"schema": SCHEMA}).items()}
    save_npz(path, tally.arrays() | more)


def _read(path: Path) -> dict[str, Any]:
    """Return the arrays of a checkpoint by name, and its texts."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found: dict[str, Any] = {name: stored[name] for name in stored.files}
        schema = int(found.pop("schema"))
        if schema != SCHEMA:
            raise ValueError(f"its format is {schema}, not {SCHEMA}")
        found["options"] = dict(json.loads(str(found["options"])))
        found["flow"] = str(found["flow"])
        return found
    except FileNotFoundError:
        text = f"found no {path.name}: a flow that is complete leaves none"
        raise InputError(
            f"{text}; allowed: the directory of a flow that was stopped",
            key="resume",
            file=str(path.parent),
        ) from None
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, TypeError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    found = f"found what is no checkpoint of a flow ({error})"
    return InputError(f"{found}; allowed: that of a stopped flow", file=str(path))


def stored_options(path: Path) -> dict[str, Any]:
    """Return the options of a checkpoint (one rank).

    Raises
    ------
    InputError
        If there is no checkpoint, or one of another version.
    """
    return dict(_read(path)["options"])


def load_tally(path: Path, field: FlowField, plan: Plan) -> Tally:
    """Read the tally of `save_tally` (one rank).

    Raises
    ------
    InputError
        If there is none, or if it is one of another flow, number of particles or seed.
    """
    found = _read(path)
    options, flow = found.pop("options"), found.pop("flow")
    try:
        stored = options["particles"], options["seed"]
        tally = tally_from_arrays(found)
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    if stored != (plan.particles, plan.seed):
        words = f"found {stored[0]} particles with seed {stored[1]}"
        asked = f"{plan.particles} with seed {plan.seed}, as asked for"
        raise InputError(f"{words}; allowed: {asked}", key="resume", file=str(path))
    if flow != fingerprint(field):
        raise InputError(
            "found the particles of another flow; allowed: those of this solution",
            key="resume",
            file=str(path),
        )
    return tally
