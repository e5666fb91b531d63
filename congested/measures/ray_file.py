"""The numbers of a ray-monotone pair as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from congested.errors import InputError
from congested.measures.ray_monotone import RayMonotonePair

_PAIR_KEYS = ("half_width", "power", "centers", "biases")


def pair_from_file(path: str | Path) -> RayMonotonePair:
    """Read a pair from a JSON file with the keys half_width, power, centers and biases.

    Raises
    ------
    InputError
        If the file cannot be read, or a key is missing, unknown or holds something else.
    """
    path = Path(path)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("found no such file; allowed: a .json file", file=str(path)) from error
    except ValueError as error:
        raise InputError(f"found no JSON ({error}); allowed: JSON", file=str(path)) from error
    allowed = ", ".join(_PAIR_KEYS)
    if not isinstance(table, dict):
        raise InputError(f"found no table; allowed: a table of {allowed}", file=str(path))
    for key in sorted(set(table) ^ set(_PAIR_KEYS)):
        found = "an unknown key" if key in table else "no such key"
        raise InputError(f"found {found}; allowed: {allowed}", key=key, file=str(path))
    try:
        return RayMonotonePair(**table)
    except InputError as error:
        raise InputError(error.message, key=error.key, file=str(path)) from error


def pair_text(pair: RayMonotonePair) -> str:
    """Return the JSON text that `pair_from_file` reads as the same pair, digit by digit."""
    table = {
        "half_width": pair.half_width,
        "power": pair.power,
        "centers": pair.centers.tolist(),
        "biases": pair.biases.tolist(),
    }
    return json.dumps(table, indent=1) + "\n"
