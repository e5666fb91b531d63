"""The weight's mass in every cell, together with what is known of its error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from congested.geometry import Cells, FloatArray

# Independent replicates of a sampled weight, for its standard error.
REPLICATES = 8


@dataclass(frozen=True, eq=False)
class CellWeight:
    """Cell masses of the weight, and how well they are known.

    Attributes
    ----------
    masses
        σ_T (n,) of the owned cells. They sum to `mass`, not to one, if part of the weight lies
        outside the domain.
    replicates
        Independent estimates (R, n) whose mean is `masses`, if the weight was sampled, to carry
        its error on to what is computed from it; else None.
    errors
        If a deterministic rule was checked on some cells: numbers (n,) ≥ 0 such that Σ_T errors_T
        s_T is an unbiased estimate of Σ_T |error of σ_T| s_T for any s (zero in cells that were
        not checked, the error over the cell's chance to be checked in the others); else None.
    relative_error
        Sum over all cells of the standard errors of σ_T, over the mass, if the weight was sampled;
        else the error that the deterministic rule may have made in total, over the mass: 0 for
        exact rules.
    method
        ``"all-pairs"``, ``"closed-form"``, ``"rays"``, ``"raster"``, ``"sampled"``, ``"plan"``,
        ``"sampled-plan"``, ``"constant"``, ``"density"``, ``"measure"``, ``"mixture"`` or
        ``"unused"``.
    mass
        σ(Ω), over all ranks.
    lost
        Mass of the weight outside the domain: what it has in all of space less `mass`; 0 for
        weights that were given on the domain, and where it is less than a rule's error.
    samples
        Number of segments that were shared out; 0 where there were none.
    unlocated_error
        Error, as a mass, that a deterministic rule may have made anywhere: what is known of closed
        forms and quadratures with a tolerance. 0 for exact rules, and where `errors` or
        `replicates` say more.
    details
        What else a rule has to tell, for the result file.
    """

    masses: FloatArray
    replicates: FloatArray | None
    relative_error: float
    method: str
    mass: float
    lost: float
    samples: int
    errors: FloatArray | None = None
    unlocated_error: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def standard_errors(self) -> FloatArray | None:
        """Standard error (n,) of each cell's mass, if the weight was sampled; else None."""
        return None if self.replicates is None else standard_errors(self.replicates)


def standard_errors(replicates: FloatArray) -> FloatArray:
    """Return the standard errors (n,) of the mean of independent estimates (R, n)."""
    spread = replicates.std(axis=0, ddof=1)
    return np.asarray(spread / math.sqrt(len(replicates)), dtype=np.float64)


def unused_weight(cells: Cells) -> CellWeight:
    """Return the weight of a problem that does not use one (W₁): zero everywhere."""
    return CellWeight(np.zeros(cells.number), None, 0.0, "unused", 0.0, 0.0, 0)


def summed(
    cells: Cells,
    method: str,
    masses: FloatArray,
    *,
    replicates: FloatArray | None = None,
    errors: FloatArray | None = None,
    error: float = 0.0,
    unlocated_error: float | None = None,
    whole: float | None = None,
    samples: int = 0,
    details: Mapping[str, Any] | None = None,
) -> CellWeight:
    """Add up the mass and relate the error to it (collective).

    Parameters
    ----------
    cells
        The cells.
    method, masses, replicates, errors, samples, details
        As in `CellWeight`.
    error
        Absolute error in total over all cells of all ranks.
    unlocated_error
        As in `CellWeight`; None: `error`, unless there are `replicates` or `errors`.
    whole
        Mass that the weight has in all of space; None where it was given on the domain.
    """
    mass = cells.total(masses)
    lost = 0.0 if whole is None else max(0.0, whole - mass)
    if replicates is None and lost <= error:  # segments know what lies outside, quadratures do not
        lost = 0.0
    relative_error = error / mass if mass > 0.0 else math.inf
    if unlocated_error is None:
        unlocated_error = error if replicates is None and errors is None else 0.0
    return CellWeight(
        masses,
        replicates,
        relative_error,
        method,
        mass,
        lost,
        samples,
        errors,
        unlocated_error,
        details or {},
    )


def combined(cells: Cells, parts: Sequence[CellWeight], shares: Sequence[float]) -> CellWeight:
    """Return Σ_k share_k σ_k with the errors of all parts (collective).

    Independent sampled parts are averaged replicate by replicate, so that the spread of the
    replicates is that of the sum.
    """

    def total(values: Sequence[FloatArray]) -> FloatArray:
        return np.sum([s * v for s, v in zip(shares, values, strict=True)], axis=0)

    replicates = errors = None
    if any(part.replicates is not None for part in parts):
        replicates = total(
            [
                np.broadcast_to(part.masses, (REPLICATES, cells.number))
                if part.replicates is None
                else part.replicates
                for part in parts
            ]
        )
    if any(part.errors is not None for part in parts):
        errors = total(
            [np.zeros(cells.number) if part.errors is None else part.errors for part in parts]
        )
    return summed(
        cells,
        "mixture",
        total([part.masses for part in parts]),
        replicates=replicates,
        errors=errors,
        error=sum(
            share * part.relative_error * part.mass
            for part, share in zip(parts, shares, strict=True)
            if part.mass > 0.0
        ),
        unlocated_error=sum(
            share * part.unlocated_error for part, share in zip(parts, shares, strict=True)
        ),
        whole=sum(
            share * (part.mass + part.lost) for part, share in zip(parts, shares, strict=True)
        ),
        samples=sum(part.samples for part in parts),
        details={
            "parts": [
                {
                    "share": share,
                    "method": part.method,
                    "mass": part.mass,
                    "lost": part.lost,
                    **part.details,
                }
                for part, share in zip(parts, shares, strict=True)
            ]
        },
    )
