"""The error of a deterministic rule, measured in some of the cells with a better rule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from congested.geometry import Cells, FloatArray
from congested.weights.base import CellWeight, summed

# Cells that are checked, about.
_CHECKED_CELLS = 256

logger = logging.getLogger(__name__)


def chances(cells: Cells, masses: FloatArray, volume: float) -> FloatArray:
    """Return the chance (n,) of each cell to be checked: half by mass, half by volume (collective).

    Parameters
    ----------
    cells
        The cells.
    masses
        Mass of the weight in each cell (n,).
    volume
        Volume of the domain.
    """
    total = max(cells.total(masses), np.finfo(float).tiny)
    return np.minimum(1.0, 0.5 * _CHECKED_CELLS * (masses / total + cells.volume / volume))


def measured_errors(
    better: Callable[[FloatArray], FloatArray],
    cells: Cells,
    masses: FloatArray,
    chance: FloatArray,
) -> FloatArray:
    """Return |error| over the chance to be checked in the cells that are, zero in the others.

    Their sum, and every sum weighted by cell, is an unbiased estimate of the sum over all cells.
    Which cells are checked depends on their midpoints alone, not on how the mesh is distributed.

    Parameters
    ----------
    better
        Maps simplices (k, d+1, d) to masses (k,) that are taken for the truth.
    cells
        The cells.
    masses
        Masses (n,) whose error is wanted.
    chance
        Chances (n,) of the cells to be checked.
    """
    checked = np.flatnonzero(_uniform_of(cells.midpoint) < chance)
    errors = np.zeros(cells.number)
    errors[checked] = np.abs(masses[checked] - better(cells.simplices[checked])) / chance[checked]
    return errors


def checked_weight(
    cells: Cells,
    method: str,
    masses: FloatArray,
    errors: FloatArray,
    *,
    goal: float,
    effort: str,
    details: Mapping[str, Any],
    hidden: float = 0.0,
) -> CellWeight:
    """Return a weight whose error was measured; warn where it is not what was asked (collective).

    Parameters
    ----------
    cells, method, masses, errors, details
        As in `CellWeight`.
    goal
        Error asked for, relative to the mass.
    effort
        What was done, in words.
    hidden
        Error, relative to the mass, that the better rule has as well.
    """
    mass = cells.total(masses)
    error = max(cells.total(errors), hidden * mass)
    if error > goal * mass and cells.comm.rank == 0:
        logger.warning(
            "the weight's error is about %.2g, not %.2g, with %s", error / mass, goal, effort
        )
    return summed(
        cells,
        method,
        masses,
        errors=errors,
        error=error,
        unlocated_error=hidden * mass,
        whole=1.0,
        details={**details, "tolerance": goal},
    )


def _uniform_of(points: FloatArray) -> FloatArray:
    """Return a number in [0, 1) for each point (n, d) that depends on nothing else."""
    state: npt.NDArray[np.uint64] = np.full(len(points), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for column in np.round(points, 12).T:
        # The multipliers are those of splitmix64; adding zero turns -0.0 into 0.0.
        state ^= np.ascontiguousarray(column + 0.0).view(np.uint64)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
